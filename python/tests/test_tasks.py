"""The promises of TaskTracker, on stock asyncio and, where installed, on uvloop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from _erlang_modules import erlang_module, loop_factories

TaskTracker = erlang_module("_tasks").TaskTracker
Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=loop_factories())
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    def run_main(main: Main) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), 60))

    return run_main


def test_block_till_done_waits_for_tracked_tasks_and_their_children(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        seen: list[str] = []

        async def child() -> None:
            await asyncio.sleep(0.001)
            seen.append("child")

        async def parent() -> None:
            await asyncio.sleep(0)
            tracker.create_task(child())
            seen.append("parent")

        tracker.create_task(parent())
        await tracker.block_till_done()
        assert seen == ["parent", "child"]
        assert not tracker.tracked

    run(main)


def test_block_till_done_leaves_background_tasks_alone(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        go = asyncio.Event()

        async def wait() -> None:
            await go.wait()

        task = tracker.create_background_task(wait())
        await tracker.block_till_done()
        assert tracker.background == {task}
        go.set()
        await tracker.block_till_done(wait_background=True)
        assert task.done()
        assert not tracker.background

    run(main)


def test_two_tracked_tasks_in_block_till_done_do_not_wait_for_each_other(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        tasks = [tracker.create_task(tracker.block_till_done()) for _ in range(3)]
        await asyncio.gather(*tasks)

    run(main)


def test_cancelling_block_till_done_cancels_no_task(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        go = asyncio.Event()
        work = tracker.create_task(go.wait())
        waiter = asyncio.create_task(tracker.block_till_done())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not work.done()
        go.set()
        assert await work is True

    run(main)


def test_executor_job_is_of_the_kind_of_its_task(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        kinds: dict[str, str] = {}
        release = threading.Event()

        async def ask(who: str) -> None:
            job = tracker.add_executor_job(release.wait)
            kinds[who] = "background" if job in tracker.background else "tracked" if job in tracker.tracked else "lost"
            await job

        tracker.create_task(ask("task"))
        tracker.create_background_task(ask("background"))
        tracker.create_task(ask("eager task"), eager_start=True)
        tracker.create_background_task(ask("eager background"), eager_start=True)
        stranger = asyncio.create_task(ask("stranger"))
        called: asyncio.Future[asyncio.Future[bool]] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: called.set_result(tracker.add_executor_job(release.wait)))
        assert await called in tracker.tracked
        await asyncio.sleep(0)
        assert kinds == {
            "task": "tracked",
            "background": "background",
            "eager task": "tracked",
            "eager background": "background",
            "stranger": "tracked",
        }
        release.set()
        await stranger
        await tracker.block_till_done(wait_background=True)

    run(main)


def test_eager_task_inside_the_first_step_of_another_keeps_its_own_kind(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        jobs: dict[str, asyncio.Future[int]] = {}

        async def inner() -> None:
            jobs["inner"] = tracker.add_executor_job(int)
            await jobs["inner"]

        async def outer() -> None:
            tracker.create_task(inner(), eager_start=True)
            jobs["outer"] = tracker.add_executor_job(int)
            assert jobs["inner"] in tracker.tracked
            assert jobs["outer"] in tracker.background
            await jobs["outer"]

        await tracker.create_background_task(outer(), eager_start=True)
        await tracker.block_till_done(wait_background=True)
        assert jobs["inner"].result() == jobs["outer"].result() == 0

    run(main)


def test_executor_job_returns_result_and_error(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        assert await tracker.add_executor_job(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await tracker.add_executor_job(divmod, 7, 0)
        await tracker.block_till_done()
        assert not tracker.tracked

    run(main)


def test_eager_task_that_ends_at_once_is_not_kept(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()

        async def quick() -> int:
            return 1

        task = tracker.create_task(quick(), eager_start=True)
        assert task.done()
        assert not tracker.tracked
        assert await task == 1

    run(main)


def test_shutdown_drains_tracked_work_while_background_work_still_runs(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        questions: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()
        ended: list[str] = []

        async def serve() -> None:
            try:
                while True:
                    (await questions.get()).set_result(42)
            finally:
                ended.append("background")

        async def ask() -> None:
            await asyncio.sleep(0.001)
            answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            await questions.put(answer)
            assert await answer == 42
            ended.append("tracked")

        background = tracker.create_background_task(serve())
        tracked = tracker.create_task(ask())
        report = await tracker.shutdown(None)
        assert ended == ["tracked", "background"]
        assert tracked.exception() is None
        assert report.cancelled == [background]
        assert report.stuck == []

    run(main)


def test_shutdown_cancels_tracked_work_beyond_the_deadline(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        cleaned: list[str] = []

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append("finally")

        task = tracker.create_task(endless())
        await asyncio.sleep(0)
        report = await tracker.shutdown(0)
        assert task.cancelled()
        assert cleaned == ["finally"]
        assert report.cancelled == [task]

    run(main)


def test_shutdown_names_what_does_not_end(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        go = asyncio.Event()

        async def stubborn() -> None:
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue

        task = tracker.create_background_task(stubborn())
        await asyncio.sleep(0)
        report = await tracker.shutdown(0, grace=0.01)
        assert report.stuck == [task]
        go.set()
        await task

    run(main)


def test_nothing_is_taken_after_shutdown(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        await tracker.shutdown()
        assert tracker.closed
        for create in (tracker.create_task, tracker.create_background_task):
            with pytest.raises(RuntimeError, match="shut down"):
                create(asyncio.sleep(0))
        with pytest.raises(RuntimeError, match="shut down"):
            tracker.add_executor_job(int)
        assert await tracker.shutdown() == ([], [])

    run(main)


def test_as_context_manager_waits_for_tracked_work(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        done: list[int] = []

        async def work() -> None:
            await asyncio.sleep(0.001)
            done.append(1)

        async with TaskTracker() as tracker:
            tracker.create_task(work())
            endless = tracker.create_background_task(asyncio.Event().wait())
        assert done == [1]
        assert endless.cancelled()
        assert "closed tracked=0 background=0" in repr(tracker)

    run(main)


def test_as_context_manager_cancels_all_when_the_body_fails(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        tracker = TaskTracker()
        task = tracker.create_task(asyncio.Event().wait())

        async def body() -> None:
            async with tracker:
                raise ValueError("body")

        with pytest.raises(ValueError, match="body"):
            await body()
        assert task.cancelled()

    run(main)
