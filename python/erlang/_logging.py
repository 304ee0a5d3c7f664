"""`logging`, warnings and unraisable exceptions of Python in OTP's logger."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

import _erlang

# The lowest Python level of each of OTP's.
_LEVELS = {
    "all": 0,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO + 5,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "alert": logging.CRITICAL + 10,
    "emergency": logging.CRITICAL + 20,
    "none": logging.CRITICAL + 1000,
}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class ErlangHandler(logging.Handler):
    """Sends records to OTP's logger with level, file, line, function, logger name and `extra`.

    A record below the handler's level is dropped before it crosses.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            extra = {key: repr(value) for key, value in vars(record).items() if key not in _STANDARD}
            meta: dict[str, Any] = {
                "logger": record.name,
                "file": record.pathname,
                "line": record.lineno,
                "function": record.funcName or "",
                "thread": record.threadName or "",
                "time": int(record.created * 1_000_000),
            }
            if extra:
                meta["extra"] = extra
            _erlang.call("$log", _otp_level(record.levelno), self.format(record), meta)
        except Exception:
            self.handleError(record)


def _otp_level(level: int) -> str:
    if level >= logging.CRITICAL:
        return "critical"
    if level >= logging.ERROR:
        return "error"
    if level >= logging.WARNING:
        return "warning"
    if level > logging.INFO:
        return "notice"
    return "info" if level >= logging.INFO else "debug"


_handler = ErlangHandler()


def configure(level: str) -> None:
    """The level below which nothing crosses; the root logger follows it."""
    threshold = _LEVELS[level]
    _handler.setLevel(threshold)
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)
    root.setLevel(threshold)


def install() -> None:
    """At start: warnings and worse, `warnings`, and exceptions that nobody can catch."""
    configure("warning")
    logging.captureWarnings(True)
    sys.unraisablehook = _erlang._unraisablehook
    threading.excepthook = _thread_exception


def _report(name: str, text: str, exc: BaseException | None, tb: TracebackType | None) -> None:
    lines = traceback.format_exception(type(exc), exc, tb) if exc is not None else []
    logging.getLogger(name).error("%s\n%s", text, "".join(lines).rstrip())


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    where = args.err_msg or "Exception ignored in"
    _report("erlang.unraisable", f"{where}: {args.object!r}", args.exc_value, args.exc_traceback)


def _thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread is not None else "?"
    _report("erlang.thread", f"Exception in thread {name}", args.exc_value, args.exc_traceback)
