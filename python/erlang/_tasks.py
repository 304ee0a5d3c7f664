"""TaskTracker: who is working on this loop, and how to stop it without losing anything.

Owns the two sets of tasks and executor jobs of one loop. Every method is called on that loop's thread.

A *tracked* task is work that must be finished before the loop may stop. A *background* task runs for as long as the
loop does and is cancelled when it stops. An executor job is of the kind of the task that asked for it.

The kind is told by set membership. A mark on the task object was measured beside it (bench/executor_jobs.py): it is not
faster, and a mark cannot be set before the first step of an eager task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_DEADLINE = 10.0
_GRACE = 1.0


class ShutdownReport(NamedTuple):
    """What `TaskTracker.shutdown` found: the tasks and jobs it had to cancel, and those that did not end even then."""

    cancelled: list[asyncio.Future[Any]]
    stuck: list[asyncio.Future[Any]]


class TaskTracker:
    """Keeps the tasks and executor jobs of a loop, so that they can be waited for and stopped.

    `loop` is the running loop when left out; `executor` is where `add_executor_job` runs, the loop's default when left
    out.

        async def main() -> None:
            async with erlang.TaskTracker() as tracker:
                tracker.create_background_task(poll_sensors())
                tracker.create_task(handle(request))
                lines = await tracker.add_executor_job(read_file, "access.log")

    Leaving the block is `shutdown()`: tracked work is waited for, background work is cancelled.
    """

    def __init__(self, *, loop: asyncio.AbstractEventLoop | None = None, executor: Executor | None = None) -> None:
        self._loop = asyncio.get_running_loop() if loop is None else loop
        self._executor = executor
        self._tracked: set[asyncio.Future[Any]] = set()
        self._background: set[asyncio.Future[Any]] = set()
        self._blocked: set[asyncio.Future[Any]] = set()
        self._starting: set[asyncio.Future[Any]] | None = None
        self._closed = False

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        eager_start: bool = False,
    ) -> asyncio.Task[T]:
        """Start `coro` as a tracked task. With `eager_start` its first step runs before this returns."""
        return self._create(self._tracked, coro, name, context, eager_start)

    def create_background_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        eager_start: bool = False,
    ) -> asyncio.Task[T]:
        """Start `coro` as a background task: `block_till_done` does not wait for it, `shutdown` cancels it."""
        return self._create(self._background, coro, name, context, eager_start)

    def add_executor_job(self, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run `func(*args)` on an executor thread; await the future that is returned for its result.

        Asked for by a background task of this tracker the job is background, by anyone else it is tracked. (A task made
        with `asyncio.create_task` is not this tracker's, so its jobs are tracked.)
        """
        if self._closed:
            raise RuntimeError("the TaskTracker is shut down")
        job = self._loop.run_in_executor(self._executor, func, *args)
        bucket = self._bucket_of_current()
        bucket.add(job)
        job.add_done_callback(bucket.discard)
        return job

    @property
    def tracked(self) -> frozenset[asyncio.Future[Any]]:
        """The tracked tasks and jobs that are not done."""
        return frozenset(self._tracked)

    @property
    def background(self) -> frozenset[asyncio.Future[Any]]:
        """The background tasks and jobs that are not done."""
        return frozenset(self._background)

    @property
    def closed(self) -> bool:
        """True from the end of the drain in `shutdown` on: nothing new is taken."""
        return self._closed

    async def block_till_done(self, *, wait_background: bool = False) -> None:
        """Wait until no tracked task or job is left, those begun meanwhile included.

        With `wait_background` background ones are waited for too. The caller's own task is not waited for, nor are
        others that stand in `block_till_done` themselves. Errors of the tasks are not raised here: they stay with
        whoever awaits the task, and asyncio logs them when nobody does. Cancelling this call cancels none of the tasks.
        """
        current = asyncio.current_task(self._loop)
        assert current is not None
        # Whoever comes here later does not wait for us, so two tasks of one tracker never wait for each other.
        self._blocked.add(current)
        try:
            # One turn of the loop: what other threads have just posted may still create tasks.
            await asyncio.sleep(0)
            while pending := self._pending(wait_background):
                await asyncio.wait(pending)
        finally:
            self._blocked.discard(current)

    async def shutdown(self, deadline: float | None = _DEADLINE, *, grace: float = _GRACE) -> ShutdownReport:
        """Drain the tracked tasks for up to `deadline` seconds (None: for as long as it takes), then cancel the rest.

        Background tasks run on while tracked ones are drained, since those may need them. Then the tracker takes
        nothing new, background tasks and tracked ones beyond the deadline are cancelled, and `grace` seconds are given
        for their `finally` blocks. An executor job that has begun cannot be interrupted: its future is cancelled, its
        thread goes on. Calling it again is allowed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self.block_till_done()
        self._closed = True
        current = asyncio.current_task(self._loop)
        cancelled = [task for task in (*self._tracked, *self._background) if task is not current]
        for task in cancelled:
            task.cancel("the TaskTracker is shut down")
        stuck: list[asyncio.Future[Any]] = []
        if cancelled:
            _, late = await asyncio.wait(cancelled, timeout=grace)
            stuck = list(late)
        return ShutdownReport(cancelled, stuck)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.shutdown(None if exc_type is None else 0)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<TaskTracker {state} tracked={len(self._tracked)} background={len(self._background)}>"

    def _create(
        self,
        bucket: set[asyncio.Future[Any]],
        coro: Coroutine[Any, Any, T],
        name: str | None,
        context: Context | None,
        eager_start: bool,
    ) -> asyncio.Task[T]:
        if self._closed:
            coro.close()
            raise RuntimeError("the TaskTracker is shut down")
        task: asyncio.Task[T]
        if eager_start and self._loop.is_running():
            outer, self._starting = self._starting, bucket
            try:
                task = asyncio.Task(coro, loop=self._loop, name=name, context=context, eager_start=True)
            finally:
                self._starting = outer
            if task.done():
                return task
        else:
            task = self._loop.create_task(coro, name=name, context=context)
        bucket.add(task)
        task.add_done_callback(bucket.discard)
        return task

    def _bucket_of_current(self) -> set[asyncio.Future[Any]]:
        task = asyncio.current_task(self._loop)
        if task in self._background:
            return self._background
        # In the first step of an eager task that task is in neither set yet.
        if self._starting is not None and task not in self._tracked:
            return self._starting
        return self._tracked

    def _pending(self, wait_background: bool) -> set[asyncio.Future[Any]]:
        pending = self._tracked | self._background if wait_background else self._tracked
        return pending - self._blocked
