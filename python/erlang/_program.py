"""What a program of erlpy finds changed. Run by C as a plain script before the program (without importing the package)."""

from __future__ import annotations

import os
import sys
import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing is imported that a program without us would not have
    from collections.abc import Callable
    from typing import Any


def without_warning(fork: Callable[[], Any]) -> Callable[[], Any]:
    """`fork` without its warning about threads when the only ones besides the caller are the emulator's.

    CPython counts the threads of the OS process. The emulator's hold no Python lock and do not exist in the child.
    """

    def wrapper() -> Any:
        if _thread._count() > 0:
            return fork()
        import warnings

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"This process \(pid=\d+\) is multi-threaded", DeprecationWarning)
            return fork()

    wrapper.__name__ = wrapper.__qualname__ = fork.__name__
    wrapper.__doc__ = fork.__doc__
    wrapper.__module__ = fork.__module__
    return wrapper


def prepare() -> None:
    posix = sys.modules["posix"]
    for name in ("fork", "forkpty"):
        if hasattr(os, name):
            wrapped = without_warning(getattr(posix, name))
            setattr(posix, name, wrapped)
            setattr(os, name, wrapped)


prepare()
