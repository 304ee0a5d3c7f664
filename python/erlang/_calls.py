"""Calling Erlang: registered functions, funs, and the error they raise here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import _erlang
from _erlang import apply, call

__all__ = ["ErlangError", "apply", "call"]

Frame = tuple[str, str, int, str | None, int | None]


class ErlangError(Exception):
    """What an Erlang function raised: `class_` is "error", "exit" or "throw", `reason` the term.

    `stacktrace` has a tuple (module, function, arity, file, line) for each frame, innermost first; file and line may be
    None. Where the exception crosses back to Erlang, the term and the stack are in the error's map under `erlang`.
    """

    class_: str
    reason: Any
    stacktrace: list[Frame]

    def __init__(self, class_: str, reason: Any, shown: tuple[str, list[Frame]] | None = None) -> None:
        super().__init__(class_, reason)
        self.class_ = str(class_)
        self.reason = reason
        self._text = f"exception {class_}: {reason}" if shown is None else shown[0]
        self.stacktrace = [] if shown is None else shown[1]

    def __str__(self) -> str:
        return self._text


ErlangError.__module__ = "erlang"


def registered(name: str) -> Callable[..., Any]:
    """The registered function of that name, as a callable; AttributeError where there is none."""
    if not _erlang.is_registered(name):
        raise AttributeError(f"module 'erlang' has no attribute {name!r}, and no Erlang function has that name")
    return partial(call, name)
