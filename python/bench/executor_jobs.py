"""Executor jobs asked for by tracked (foreground) and by background tasks, and how the tracker tells these apart.

    executor_job_bare          loop.run_in_executor, no tracker
    executor_job_foreground    TaskTracker.add_executor_job from a tracked task
    executor_job_background    the same from a background task
    ..._set, ..._attribute     the kind told by membership in the tracker's sets, or by a mark on the task
    ..._cpu                    the CPU time of the whole process, instead of the time on the clock
    tell_...                   only the telling, with 1,000 tasks of each kind alive (CPU time)
    statement_...              1,000 statements that do nothing but suspend once: what the window around them costs
    completion_callback        what a driver's thread pays in execute_concurrent for a finished statement (CPU time)

A job does nothing; 100 are under way at once, as in an application that reads many small files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from time import perf_counter, process_time, thread_time
from typing import Any

from _suite import Suite, erlang_sources

erlang_sources()
from _erlang_modules import erlang_module  # noqa: E402

TaskTracker: Any = erlang_module("_tasks").TaskTracker
executor: Any = erlang_module("_executor")

Clock = Callable[[], float]
BATCH = 100
STATEMENTS = 1000


class MarkingTracker(TaskTracker):  # type: ignore[misc]
    """The other way to tell: every background task carries a mark."""

    def _create(self, bucket: set[Any], coro: Coroutine[Any, Any, Any], *rest: Any) -> Any:
        task = super()._create(bucket, coro, *rest)
        task.background_of = self if bucket is self._background else None
        return task

    def _bucket_of_current(self) -> set[Any]:
        task = asyncio.current_task(self._loop)
        background: set[Any] = self._background
        tracked: set[Any] = self._tracked
        return background if getattr(task, "background_of", None) is self else tracked


async def jobs(new_tracker: Callable[[], Any] | None, background: bool, clock: Clock, loops: int) -> float:
    loop = asyncio.get_running_loop()
    tracker = None if new_tracker is None else new_tracker()

    async def batches() -> float:
        started = clock()
        for _ in range(loops):
            if tracker is None:
                await asyncio.gather(*[loop.run_in_executor(None, _nothing) for _ in range(BATCH)])
            else:
                await asyncio.gather(*[tracker.add_executor_job(_nothing) for _ in range(BATCH)])
        return clock() - started

    if tracker is None:
        return await batches()
    create = tracker.create_background_task if background else tracker.create_task
    elapsed: float = await create(batches())
    return elapsed


async def tell(new_tracker: Callable[[], Any], background: bool, loops: int) -> float:
    tracker = new_tracker()
    over = asyncio.Event()
    for _ in range(1000):
        tracker.create_task(over.wait())
        tracker.create_background_task(over.wait())

    async def measure() -> float:
        bucket_of_current = tracker._bucket_of_current
        started = thread_time()
        for _ in range(loops):
            bucket_of_current()
        return thread_time() - started

    create = tracker.create_background_task if background else tracker.create_task
    elapsed: float = await create(measure())
    over.set()
    await tracker.block_till_done(wait_background=True)
    return elapsed


async def statements_by_semaphore(loops: int) -> float:
    semaphore = asyncio.Semaphore(BATCH)

    async def one() -> None:
        async with semaphore:
            await asyncio.sleep(0)

    started = perf_counter()
    for _ in range(loops):
        await asyncio.gather(*[one() for _ in range(STATEMENTS)])
    return perf_counter() - started


async def statements_by_window(loops: int) -> float:
    started = perf_counter()
    for _ in range(loops):
        await executor.execute_concurrent_async(asyncio.sleep, [(0,)] * STATEMENTS, BATCH)
    return perf_counter() - started


def completion_callback(loops: int) -> float:
    completions = executor._Completions()
    future: Future[None] = Future()
    callback = partial(completions.put, 1, None)
    elapsed = 0.0
    for _ in range(loops):
        started = thread_time()
        for _ in range(BATCH):
            callback(future)
        elapsed += thread_time() - started
        completions.take(BATCH, None)
    return elapsed


def _nothing() -> None:
    pass


def main() -> None:
    suite = Suite(__doc__)
    for suffix, clock in (("", perf_counter), ("_cpu", process_time)):
        suite.add(f"executor_job_bare{suffix}", partial(jobs, None, False, clock), inner_loops=BATCH)
    for how, tracker in (("set", TaskTracker), ("attribute", MarkingTracker)):
        for kind, background in (("foreground", False), ("background", True)):
            for suffix, clock in (("", perf_counter), ("_cpu", process_time)):
                name = f"executor_job_{kind}_{how}{suffix}"
                suite.add(name, partial(jobs, tracker, background, clock), inner_loops=BATCH)
            suite.add(f"tell_{kind}_{how}", partial(tell, tracker, background))
    suite.add("statement_gather_semaphore", statements_by_semaphore, inner_loops=STATEMENTS)
    suite.add("statement_execute_concurrent_async", statements_by_window, inner_loops=STATEMENTS)
    suite.add_sync("completion_callback", completion_callback, inner_loops=BATCH)


if __name__ == "__main__":
    main()
