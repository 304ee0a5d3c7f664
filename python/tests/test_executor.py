"""The promises of execute_concurrent: order, window, errors, both ways in, on every loop at hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from _erlang_modules import erlang_module, loop_factories

executor = erlang_module("_executor")
execute_concurrent = executor.execute_concurrent
execute_concurrent_async = executor.execute_concurrent_async
Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=loop_factories())
def loop_factory(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def run(loop_factory: Any) -> Callable[[Main], None]:
    def run_main(main: Main) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(asyncio.wait_for(main(), 60))

    return run_main


@contextmanager
def loop_in_thread(loop_factory: Any) -> Iterator[asyncio.AbstractEventLoop]:
    started: Future[asyncio.AbstractEventLoop] = Future()
    stop = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.call_soon(started.set_result, loop)
        stopper = loop.run_in_executor(None, stop.wait)
        stopper.add_done_callback(lambda _: over.set())
        await over.wait()

    def work() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield started.result(60)
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


class Gauge:
    """Counts what is in flight; a statement of it suspends as often as its argument says."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.begun = 0
        self.cancelled = 0

    async def statement(self, number: int, turns: int = 1) -> int:
        self.begun += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        return number * 2


async def fail_on(number: int, bad: int) -> int:
    await asyncio.sleep(0)
    if number == bad:
        raise LookupError(number)
    return number


def values(results: list[Any]) -> list[Any]:
    assert all(result.success for result in results)
    return [result.result_or_exc for result in results]


def test_results_are_in_order_whatever_the_order_of_completion(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        gauge = Gauge()
        results = await execute_concurrent_async(gauge.statement, [(n, n % 7) for n in range(500)], concurrency=20)
        assert values(results) == [2 * n for n in range(500)]
        assert gauge.most == 20

    run(main)


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1000])
def test_any_number_of_statements(run: Callable[[Main], None], count: int) -> None:
    async def main() -> None:
        gauge = Gauge()
        assert len(await execute_concurrent_async(gauge.statement, [(n,) for n in range(count)])) == count
        assert gauge.most == min(count, 100)
        found = [
            r
            async for r in execute_concurrent_async(
                gauge.statement, ([n] for n in range(count)), results_generator=True
            )
        ]
        assert values(found) == [2 * n for n in range(count)]

    run(main)


def test_items_are_positional_or_keyword_arguments(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        gauge = Gauge()
        results = await execute_concurrent_async(gauge.statement, [(1,), [2], {"number": 3, "turns": 0}])
        assert values(results) == [2, 4, 6]
        with pytest.raises(TypeError, match=r"parameters\[1\] is a str"):
            await execute_concurrent_async(gauge.statement, [(1,), "ab"], raise_on_first_error=False)

    run(main)
    with pytest.raises(TypeError, match=r"parameters\[0\] is a int"):
        execute_concurrent(abs, [1], raise_on_first_error=False)


def test_a_failing_statement_cancels_those_in_flight_and_begins_no_more(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        gauge = Gauge()

        async def statement(number: int) -> int:
            if number == 3:
                await asyncio.sleep(0)
                raise LookupError("three")
            return await gauge.statement(number, 10**9)

        with pytest.raises(LookupError, match="three"):
            await execute_concurrent_async(statement, [(n,) for n in range(100)], concurrency=10)
        assert gauge.begun == gauge.cancelled == 9
        assert gauge.now == 0

    run(main)


def test_errors_are_collected(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        results = await execute_concurrent_async(fail_on, [(n, 5) for n in range(10)], 3, False)
        assert [r.success for r in results] == [n != 5 for n in range(10)]
        assert isinstance(results[5].result_or_exc, LookupError)

    run(main)


def test_generator_raises_at_the_place_of_the_error(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def consume() -> None:
            async for result in execute_concurrent_async(fail_on, [(n, 5) for n in range(50)], results_generator=True):
                seen.append(result.result_or_exc)

        with pytest.raises(LookupError):
            await consume()
        assert seen == [0, 1, 2, 3, 4]

    run(main)


def test_cancelling_the_call_cancels_the_statements_and_waits_for_them(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        gauge = Gauge()
        call = asyncio.create_task(execute_concurrent_async(gauge.statement, [(n, 10**9) for n in range(9)], 4))
        while gauge.now < 4:  # noqa: ASYNC110
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert gauge.cancelled == gauge.begun == 4

    run(main)


def test_a_statement_that_awaits_something_cancelled_is_an_error_of_its_own(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()

        async def statement(number: int) -> int:
            if number == 1:
                await gone
            return number

        results = await execute_concurrent_async(statement, [(n,) for n in range(3)], raise_on_first_error=False)
        assert [r.success for r in results] == [True, False, True]
        assert isinstance(results[1].result_or_exc, asyncio.CancelledError)

    run(main)


def test_an_error_of_the_parameters_ends_the_run(run: Callable[[Main], None]) -> None:
    def parameters() -> Iterator[tuple[int, int]]:
        for n in range(250):
            yield n, 0
        raise LookupError("no more rows")

    async def main() -> None:
        gauge = Gauge()
        with pytest.raises(LookupError, match="no more rows"):
            await execute_concurrent_async(gauge.statement, parameters(), raise_on_first_error=False)
        with pytest.raises(LookupError, match="no more rows"):
            async for _ in execute_concurrent_async(gauge.statement, parameters(), results_generator=True):
                pass
        assert gauge.now == 0

    run(main)


def test_statements_that_never_suspend_leave_the_loop_its_turn(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = 0
        most = 0

        async def statement() -> None:
            nonlocal begun
            begun += 1

        def turn(before: int) -> None:
            nonlocal most
            most = max(most, begun - before)
            if begun < 10_000:
                loop.call_soon(turn, begun)

        loop.call_soon(turn, 0)
        await execute_concurrent_async(statement, [()] * 10_000)
        assert begun == 10_000
        assert most <= 64

    run(main)


def test_works_with_the_eager_task_factory(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(
            lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, eager_start=True)
        )
        gauge = Gauge()
        for concurrency in (1, 100):
            gauge.most = 0
            results = await execute_concurrent_async(gauge.statement, [(n, n % 2) for n in range(1000)], concurrency)
            assert values(results) == [2 * n for n in range(1000)]
            assert gauge.most <= concurrency

    run(main)


def test_async_generator_holds_back_and_stops_with_its_consumer(run: Callable[[Main], None]) -> None:
    drawn = 0

    def endless() -> Iterator[tuple[int]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield (drawn,)

    async def main() -> None:
        gauge = Gauge()
        results = execute_concurrent_async(gauge.statement, endless(), 10, results_generator=True)
        assert (await anext(results)).result_or_exc == 2
        for _ in range(1000):
            await asyncio.sleep(0)
        assert gauge.begun <= 7 * 10
        await results.aclose()
        assert gauge.now == 0
        after = drawn
        await asyncio.sleep(0)
        assert drawn == after

    run(main)


def test_from_a_thread_onto_a_loop(loop_factory: Any) -> None:
    gauge = Gauge()
    with loop_in_thread(loop_factory) as loop:
        results = execute_concurrent(gauge.statement, ((n,) for n in range(1000)), 30, loop=loop)
        assert values(results) == [2 * n for n in range(1000)]
        assert gauge.most == 30
        generator = execute_concurrent(gauge.statement, ((n,) for n in range(1000)), results_generator=True, loop=loop)
        assert values(list(generator)) == [2 * n for n in range(1000)]
        collected = execute_concurrent(fail_on, [(n, 2) for n in range(4)], raise_on_first_error=False, loop=loop)
        assert [r.success for r in collected] == [True, True, False, True]
        with pytest.raises(LookupError):
            execute_concurrent(fail_on, [(n, 5) for n in range(1000)], loop=loop)
        with pytest.raises(LookupError):
            list(execute_concurrent(fail_on, [(n, 5) for n in range(1000)], results_generator=True, loop=loop))
        generator = execute_concurrent(
            gauge.statement, ((n,) for n in iter(int, 1)), 5, results_generator=True, loop=loop
        )
        assert next(generator).success
        generator.close()
        assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "alive"), loop).result(60) == "alive"


@pytest.mark.parametrize("lazy", [False, True])
def test_timeout_cancels_what_runs_on_the_loop(loop_factory: Any, lazy: bool) -> None:
    gauge = Gauge()
    endless = [(0, 10**9)] * 3

    async def ended() -> None:
        while gauge.now:  # noqa: ASYNC110
            await asyncio.sleep(0)

    timeout = 0.02
    with loop_in_thread(loop_factory) as loop:
        while gauge.begun < 3:  # on a busy machine the time may be over before
            gauge.begun = gauge.cancelled = 0
            with pytest.raises(TimeoutError):
                list(execute_concurrent(gauge.statement, endless, results_generator=lazy, loop=loop, timeout=timeout))
            asyncio.run_coroutine_threadsafe(ended(), loop).result(60)
            assert gauge.begun == gauge.cancelled
            timeout *= 2


def test_a_loop_that_does_not_run_is_an_error() -> None:
    loop = asyncio.SelectorEventLoop()
    for results_generator in (False, True):
        with pytest.raises(RuntimeError, match="does not run"):
            list(execute_concurrent(abs, [(0,)], results_generator=results_generator, loop=loop))
    loop.close()
    for results_generator in (False, True):
        with pytest.raises(RuntimeError, match="does not run"):
            list(execute_concurrent(abs, [(0,)], results_generator=results_generator, loop=loop))


def test_refused_where_it_would_block_the_loop(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="execute_concurrent_async"):
            execute_concurrent(abs, [(1,)])

    run(main)


def test_wrong_uses_are_named(run: Callable[[Main], None]) -> None:
    with pytest.raises(TypeError, match="loop="):
        execute_concurrent(asyncio.sleep, [(0,)])
    with pytest.raises(TypeError, match="loop="):
        execute_concurrent(lambda: asyncio.sleep(0), [()])
    with pytest.raises(ValueError, match="concurrency is 0"):
        execute_concurrent(abs, [(1,)], 0)
    with pytest.raises(TypeError, match="cannot be called"):
        execute_concurrent("abs", [(1,)])

    async def main() -> None:
        def old_style() -> Future[int]:
            return Future()

        with pytest.raises(TypeError, match="cannot await"):
            await execute_concurrent_async(old_style, [()], raise_on_first_error=False)

    run(main)


class Driver:
    """A database driver in the style of callbacks: statements are answered by another thread, in any order."""

    def __init__(self, bad: int = -1) -> None:
        self._pool = ThreadPoolExecutor(4)
        self._lock = threading.Lock()
        self._bad = bad
        self.now = 0
        self.most = 0
        self.threads: set[int] = set()

    def execute_async(self, number: int) -> Response:
        self.threads.add(threading.get_ident())
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        response = Response()
        self._pool.submit(self._answer, response, number)
        return response

    def _answer(self, response: Response, number: int) -> None:
        with self._lock:
            self.now -= 1
        if number == self._bad:
            response.finish(False, LookupError(number))
        else:
            response.finish(True, number * 2)

    def close(self) -> None:
        self._pool.shutdown()


class Response:
    """Both callbacks are registered at once; a late registration is called back at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: tuple[Callable[[Any], None], Callable[[Any], None]] | None = None
        self._answer: tuple[bool, Any] | None = None

    def add_callbacks(self, callback: Callable[[Any], None], errback: Callable[[Any], None]) -> None:
        with self._lock:
            assert self._callbacks is None
            self._callbacks = (callback, errback)
            answer = self._answer
        if answer is not None:
            self._call(*answer)

    def finish(self, success: bool, value: Any) -> None:
        with self._lock:
            self._answer = (success, value)
            if self._callbacks is None:
                return
        self._call(success, value)

    def _call(self, success: bool, value: Any) -> None:
        assert self._callbacks is not None
        self._callbacks[0 if success else 1](value)


@pytest.mark.parametrize("lazy", [False, True])
def test_callback_style_functions(lazy: bool) -> None:
    driver = Driver()
    results = list(execute_concurrent(driver.execute_async, ((n,) for n in range(3000)), 40, results_generator=lazy))
    assert values(results) == [2 * n for n in range(3000)]
    assert driver.most <= 40
    assert driver.threads == {threading.get_ident()}
    driver.close()


@pytest.mark.parametrize("lazy", [False, True])
def test_callback_style_errors(lazy: bool) -> None:
    driver = Driver(bad=150)
    results = execute_concurrent(driver.execute_async, [(n,) for n in range(300)], 40, False, lazy)
    assert [n for n, r in enumerate(results) if not r.success] == [150]
    seen: list[int] = []

    def consume() -> None:
        for result in execute_concurrent(driver.execute_async, [(n,) for n in range(300)], results_generator=lazy):
            seen.append(result.result_or_exc)

    with pytest.raises(LookupError):
        consume()
    assert seen == ([2 * n for n in range(150)] if lazy else [])
    driver.close()


def test_concurrent_futures() -> None:
    with ThreadPoolExecutor(4) as pool:
        results = execute_concurrent(pool.submit, [(divmod, 7, n % 3) for n in range(300)], 8, False)
    assert [r.success for r in results] == [n % 3 != 0 for n in range(300)]
    assert results[2].result_or_exc == (3, 1)
    assert isinstance(results[0].result_or_exc, ZeroDivisionError)


def test_first_error_cancels_futures_in_flight() -> None:
    futures: list[Future[int]] = []

    def submit(number: int) -> Future[int]:
        future: Future[int] = Future()
        futures.append(future)
        if number == 9:
            for done in futures:
                done.set_exception(LookupError(number)) if done is futures[0] else None
            futures[1].cancel()
            futures[2].set_result(2)
        return future

    with pytest.raises(LookupError):
        execute_concurrent(submit, [(n,) for n in range(100)], 10, timeout=60)
    assert len(futures) == 10
    assert [f.cancelled() for f in futures] == [False, True, False] + [True] * 7


def test_cancelled_future_is_its_statements_error() -> None:
    def submit() -> Future[int]:
        future: Future[int] = Future()
        future.cancel()
        return future

    (result,) = execute_concurrent(submit, [()], raise_on_first_error=False)
    assert not result.success


def test_plain_functions_and_their_errors() -> None:
    assert values(execute_concurrent(pow, [(2, n) for n in range(300)])) == [2**n for n in range(300)]
    results = execute_concurrent(divmod, [(1, 1), (1, 0)], raise_on_first_error=False)
    assert [r.success for r in results] == [True, False]
    with pytest.raises(ZeroDivisionError):
        execute_concurrent(divmod, [(1, 1), (1, 0)])
    endless = execute_concurrent(abs, ((n,) for n in iter(lambda: 1, 0)), results_generator=True)
    assert [next(endless).result_or_exc for _ in range(1000)] == [1] * 1000


def test_timeout_of_futures_that_nobody_completes() -> None:
    futures: list[Future[int]] = []

    def submit() -> Future[int]:
        futures.append(Future())
        return futures[-1]

    with pytest.raises(TimeoutError):
        execute_concurrent(submit, [()] * 5, 3, timeout=0.01)
    assert [f.cancelled() for f in futures] == [True] * 3


def test_a_callback_called_twice_counts_once() -> None:
    class Twice:
        def add_callbacks(self, callback: Callable[[Any], None], errback: Callable[[Any], None]) -> None:
            callback(1)
            errback(ValueError())

    assert values(execute_concurrent(Twice, [()] * 50, 5)) == [1] * 50


def test_many_threads_complete_at_once() -> None:
    """Each statement is answered by one of eight threads; none is lost and none wakes a submitter that is gone."""
    inboxes: list[list[Future[int]]] = [[] for _ in range(8)]
    ready = [threading.Semaphore(0) for _ in range(8)]

    def work(number: int) -> None:
        while ready[number].acquire():
            if not inboxes[number]:
                return
            inboxes[number].pop().set_result(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()

    def submit(number: int) -> Future[int]:
        future: Future[int] = Future()
        inboxes[number % 8].append(future)
        ready[number % 8].release()
        return future

    for concurrency in (1, 3, 64):
        assert values(execute_concurrent(submit, [(n,) for n in range(2000)], concurrency)) == [
            n % 8 for n in range(2000)
        ]
    for semaphore in ready:
        semaphore.release()
    for thread in threads:
        thread.join()
