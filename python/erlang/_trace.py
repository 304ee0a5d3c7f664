"""Spans of Python code, in W3C trace context, for the listener that Erlang attached (py_telemetry)."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any, Self, overload

import _erlang


def traceparent() -> str | None:
    """The trace this code is part of: that of the innermost Span, else the one its request brought along."""
    span: str | None = _erlang.span.get()
    return span if span is not None else _erlang.trace_of_request()


class Span:
    """A named piece of work: `with Span("load", rows=3): ...`.

    Inside, calls into Erlang carry its traceparent. When it ends, Erlang's listener gets
    [erlang_python, span, stop] or, where it ended by an exception, [erlang_python, span, exception], with its duration
    and attributes.
    """

    def __init__(self, name: str, **attributes: Any) -> None:
        self.name = name
        self.attributes = attributes
        self.parent: str | None = None
        self.traceparent = ""
        self._token: Token[str | None] | None = None
        self._started_ns = 0

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("a Span cannot be entered twice")
        self.parent = traceparent()
        self.traceparent = _child(self.parent)
        _erlang.span_started()
        self._token = _erlang.span.set(self.traceparent)
        self._started_ns = time.monotonic_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        duration = time.monotonic_ns() - self._started_ns
        assert self._token is not None
        _erlang.span.reset(self._token)
        self._token = None
        if _erlang.timing():
            text = None if error is None else f"{type(error).__name__}: {error}"
            details = {
                "traceparent": self.traceparent,
                "parent": self.parent,
                "attributes": self.attributes,
                "error": text,
            }
            _erlang.call("$span", self.name, duration, details)


def _child(parent: str | None) -> str:
    """A traceparent of the same trace with a new span id, or of a new trace (https://www.w3.org/TR/trace-context/)."""
    span_id = os.urandom(8).hex()
    parts = parent.split("-") if parent is not None else []
    if len(parts) == 4 and len(parts[1]) == 32:
        return f"00-{parts[1]}-{span_id}-{parts[3]}"
    return f"00-{os.urandom(16).hex()}-{span_id}-01"


@overload
def trace[F: Callable[..., Any]](function: F, /) -> F: ...
@overload
def trace[F: Callable[..., Any]](*, name: str | None = None) -> Callable[[F], F]: ...
def trace[F: Callable[..., Any]](function: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:
    """Decorator: each call of the function, plain or async, is a Span."""

    def decorate(function: F) -> F:
        title = name or function.__qualname__

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def traced_async(*args: Any, **kwargs: Any) -> Any:
                with Span(title):
                    return await function(*args, **kwargs)

            return traced_async  # type: ignore[return-value]

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with Span(title):
                return function(*args, **kwargs)

        return traced  # type: ignore[return-value]

    return decorate if function is None else decorate(function)
