"""The loop of a context: made, run and shut down on the context's loop thread, called from c_src/async_thread.c."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import logging
import operator
import types
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

from _erlang import Driver
from erlang._loop import ErlangEventLoop
from erlang._tasks import TaskTracker

_GRACE = 1.0

_log = logging.getLogger(__name__)


class ContextLoop(ErlangEventLoop):
    """An `ErlangEventLoop` that a context owns: stop() does not end it, leave() does."""

    _leaving = False
    _left = False
    _tracker: TaskTracker | None = None
    _leave_task: asyncio.Task[None] | None = None

    def task_tracker(self) -> TaskTracker:
        """The TaskTracker that the loop drains when it is stopped from Erlang."""
        if self._tracker is None:
            self._tracker = TaskTracker(loop=self)
        return self._tracker


def new_loop(backend: str) -> ContextLoop:
    """The loop, as the current one of this thread."""
    loop = ContextLoop(backend=backend)
    asyncio.set_event_loop(loop)
    return loop


def run(loop: ContextLoop) -> None:
    """Runs until leave() is through, whatever the code on the loop does."""
    while not loop._left:
        try:
            loop.run_forever()
        except BaseException:
            _log.exception("an exception left the loop of a context; it goes on")


def leave(loop: ContextLoop, seconds: float) -> None:
    """Begins the shutdown, once: requests and tracked work may end for so many seconds, the rest is cancelled."""
    if not loop._leaving:
        loop._leaving = True
        loop._leave_task = loop.create_task(_leave(loop, seconds))


async def _leave(loop: ContextLoop, seconds: float) -> None:
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while requests := _tasks(loop, requests=True):
                    await asyncio.wait(requests)
                if loop._tracker is not None:
                    await loop._tracker.shutdown(None, grace=_GRACE)
        if rest := _tasks(loop, requests=False):
            for task in rest:
                if not task.cancelling():
                    task.cancel("the loop is stopped")
            await asyncio.wait(rest, timeout=_GRACE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor(_GRACE)
    finally:
        loop._left = True
        loop.stop()


def _tasks(loop: ContextLoop, *, requests: bool) -> set[asyncio.Task[Any]]:
    """The tasks of the loop but this one; with `requests` only those that Erlang waits for."""
    current = asyncio.current_task(loop)
    tasks = {task for task in asyncio.all_tasks(loop) if task is not current}
    return {task for task in tasks if isinstance(task.get_coro(), Driver)} if requests else tasks


def close(loop: ContextLoop) -> None:
    """Closes the loop, which no longer runs."""
    asyncio.set_event_loop(None)
    loop.close()


async def wrap[T](awaitable: Awaitable[T]) -> T:
    """A coroutine for an awaitable that is none."""
    return await awaitable


def is_async(target: Any, function: str, namespace: dict[str, Any]) -> bool:
    """Whether the function (of a module by name, or of an object) is a coroutine function. `namespace`: of __main__."""
    if target == "__main__":
        target = types.SimpleNamespace(**namespace)
    elif isinstance(target, str):
        target = importlib.import_module(target)
    found = target if function == "call" and not hasattr(target, "call") else operator.attrgetter(function)(target)
    while isinstance(found, functools.partial):
        found = found.func
    if not inspect.isroutine(found):
        found = vars(type(found)).get("__call__")
    return inspect.iscoroutinefunction(found)


def holder(loop: ContextLoop, request: ContextVar[object]) -> object:
    """The Origin of what the loop's current task runs, or None. Asked from another thread, when a step does not end."""
    task = asyncio.current_task(loop)
    return None if task is None else task.get_context().get(request)
