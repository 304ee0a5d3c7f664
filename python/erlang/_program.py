"""What a program of erlpy finds changed. C runs this as a script before the program, without importing the package."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing is imported that a program without us would not have
    from collections.abc import Callable
    from typing import Any


def quietly(fork: Callable[[], Any]) -> Any:
    """fork() without its warning about threads, for when all other threads are the emulator's.

    CPython counts the threads of the OS process. Those of the emulator hold no lock of Python and are not in the child.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"This process \(pid=\d+\) is multi-threaded", DeprecationWarning)
        return fork()


def prepare(wrap_fork: Callable[[Callable[[], Any], Callable[[Callable[[], Any]], Any]], Callable[[], Any]]) -> None:
    """`wrap_fork(fork, quietly)` is a function that calls one of the two, as built-in functions are called."""
    posix = sys.modules["posix"]
    for name in ("fork", "forkpty"):
        wrapped = wrap_fork(getattr(posix, name), quietly)
        setattr(posix, name, wrapped)
        setattr(os, name, wrapped)
