"""Standard streams of an interpreter in the BEAM: text goes to the process that asked, whole lines at a time."""

from __future__ import annotations

import io
import os
from contextvars import ContextVar
from typing import Any, cast

import _erlang


class Output(io.TextIOBase):
    """sys.stdout or sys.stderr. Writing blocks until the Erlang device has taken the text.

    A line that is not ended yet is kept per request, so that lines of different requests do not mix; it is written when
    the request ends, or by flush().
    """

    def __init__(self, name: str, fd: int) -> None:
        self._name = name
        self._fd = fd
        self._partial: ContextVar[list[str] | None] = ContextVar(f"erlang.{name}", default=None)
        self.buffer = _Bytes(self)

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation(f"{self.name} is an Erlang device and has no file descriptor")

    def isatty(self) -> bool:
        if self._name != "stdout":
            return False
        try:
            return bool(_erlang.call("$isatty"))
        except Exception:
            return False

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        partial = self._partial.get()
        end = text.rfind("\n") + 1
        if end == 0:
            if text:
                if partial is None:
                    partial = []
                    self._partial.set(partial)
                partial.append(text)
                _erlang.output_pending(True)
            return len(text)
        if partial:
            self._send("".join(partial) + text[:end])
            partial.clear()
        else:
            self._send(text[:end])
        if end < len(text):
            self.write(text[end:])
        return len(text)

    def flush(self) -> None:
        partial = self._partial.get()
        if partial:
            text = "".join(partial)
            partial.clear()
            self._send(text)

    def _send(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            _erlang.call("$output", self._name, data.decode())
        except Exception:  # the application is not up (yet, or any more)
            os.write(self._fd, data)


class _Bytes(io.RawIOBase):
    """The binary layer that some programs ask for."""

    def __init__(self, text: Output) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def write(self, data: Any, /) -> int:
        view = bytes(data)
        self._text.write(view.decode("utf-8", "backslashreplace"))
        return len(view)

    def flush(self) -> None:
        self._text.flush()


class Input(io.TextIOBase):
    """sys.stdin: lines of the group leader of the process that asked."""

    name = "<stdin>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation("<stdin> is an Erlang device and has no file descriptor")

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        try:
            return cast(str, _erlang.call("$input"))
        except Exception:  # the application is not up, or the device went away
            return ""

    def read(self, size: int | None = -1, /) -> str:
        return "".join(iter(self.readline, ""))


def flush_request() -> None:
    """Ends what a request left without a newline. Called when it ends."""
    import sys

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output):
            stream.flush()


def install() -> None:
    """Makes the three streams those of the BEAM."""
    import sys

    sys.stdout = Output("stdout", 1)
    sys.stderr = Output("stderr", 2)
    sys.stdin = Input()
