"""The first and last Python of an interpreter hosted by the BEAM. Called by the runtime."""

from __future__ import annotations

import sys

import _erlang

SWITCH_INTERVAL_S = 0.0005
THREADS_S = 2.0


def boot(main: bool) -> None:
    """Prepares an interpreter, the main one or not; not that of a program of erlpy, which has its own streams."""
    import threading  # the thread that imports it first is its main thread

    assert not main or threading.current_thread() is threading.main_thread()
    # Python knows our workers as dummies, which are daemons, and so would be every thread that is started on one.
    setattr(threading._DummyThread, "daemon", False)  # noqa: B010 (a property that mypy knows as such)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # CPython's own goes through the threads of all interpreters, whose GILs it does not hold.
    sys._current_frames = _erlang.current_frames
    sys.argv = [""]
    from erlang import _io, _logging

    _io.install()
    _logging.install()


def _end_threads() -> None:
    """What Python does first at its end, for THREADS_S at most: executors finish, threads that are no daemons too."""
    import threading

    def wait() -> None:
        calls = getattr(threading, "_threading_atexits", [])
        for call in reversed(calls):
            call()
        calls.clear()  # the end of an interpreter would run them again
        here = (threading.current_thread(), threading.main_thread())
        for thread in threading.enumerate():
            if not (thread.daemon or thread in here or isinstance(thread, threading._DummyThread)):
                thread.join()

    waiter = threading.Thread(target=wait, name="erlang-end", daemon=True)
    waiter.start()
    waiter.join(THREADS_S)


def flush(last: bool) -> None:
    """Runs the atexit callbacks once and flushes the output, as the application stops. `last`: threads are waited for,
    because the VM ends, or this interpreter."""
    import atexit
    import contextlib

    if last:
        _end_threads()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def prepare(paths: list[str | bytes], modules: list[str | bytes]) -> None:
    """A context's start: puts `paths` in front of sys.path, in that order, and imports `modules`."""
    import importlib
    import os

    for path in map(os.fsdecode, reversed(paths)):
        if path not in sys.path:
            sys.path.insert(0, path)
    for module in map(os.fsdecode, modules):
        importlib.import_module(module)
