"""execute_concurrent: many small statements with a bounded window, results in order.

Two ways in, told apart by where the caller stands:

* `await execute_concurrent_async(...)` is for a coroutine. `func` is called on that coroutine's loop and what it
  returns is awaited there.
* `execute_concurrent(...)` blocks its thread, so it is refused on the thread of a running loop. With `loop=` it has the
  statements run on that loop, by the same engine (`_window.py`). Without, it calls `func` in its own thread; `func`
  returns a value or a future that other threads complete, and their callback does nothing but append and, for a sleeper
  whose batch is full, wake. Building, sending and collecting the statements is then no work of theirs.

Nothing here relies on the GIL; what threads share is `_Completions` and `SimpleQueue`s.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Literal, NamedTuple, overload

from erlang._window import Arguments, Outcome, UsageError, Window, call_with

__all__ = ["ExecutionResult", "execute_concurrent", "execute_concurrent_async"]

# A generator's consumer that lags behind has at most so many windows of results waiting for it.
_AHEAD = 4
# A loop from which nothing comes for so many seconds must at least be running. (At the start it may not be so yet.)
_LOOK = 1.0
_NEVER = sys.maxsize
_NO_LOOP = "execute_concurrent: the loop does not run"
_LATE = "execute_concurrent: the statements did not end in time"


class ExecutionResult(NamedTuple):
    """What one statement gave: its value, or with `success` False its exception."""

    success: bool
    result_or_exc: Any


@overload
def execute_concurrent(
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int = 100,
    raise_on_first_error: bool = True,
    results_generator: Literal[False] = False,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    timeout: float | None = None,
) -> list[ExecutionResult]: ...


@overload
def execute_concurrent(
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int = 100,
    raise_on_first_error: bool = True,
    *,
    results_generator: Literal[True],
    loop: asyncio.AbstractEventLoop | None = None,
    timeout: float | None = None,
) -> Generator[ExecutionResult, None, None]: ...


def execute_concurrent(
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int = 100,
    raise_on_first_error: bool = True,
    results_generator: bool = False,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    timeout: float | None = None,
) -> list[ExecutionResult] | Generator[ExecutionResult, None, None]:
    """Call `func` with each item of `parameters`, at most `concurrency` at once; blocks, for threads without a loop.

    An item is a tuple or list of positional arguments or a mapping of keyword arguments. Results are `ExecutionResult`
    in the order of the items. With `raise_on_first_error` the first error begins no more statements, cancels those in
    flight and is raised; without, errors are among the results.

    Without `loop`, `func` is called in this thread and returns a value or a future: an object with
    `add_done_callback(fn)` (`concurrent.futures`) or with `add_callbacks(callback, errback)` (database drivers). With
    `loop`, a loop that runs in another thread, `func` is called there and may be a coroutine function.

    With `results_generator` the results come from a generator as soon as all before them are there; it raises an error
    at its place in the order, reads `parameters` as it goes, and holds back while its consumer does. Closing it stops
    the run.

    `timeout` is in seconds, for the whole run: `TimeoutError`. Other errors: `RuntimeError` on the thread of a running
    loop or when `loop` stops, `TypeError` for an item or a result that is none of the above, `ValueError` for a
    `concurrency` below 1.

        def fetch(url: str) -> Future[bytes]: ...

        pages = erlang.execute_concurrent(fetch, [(url,) for url in urls], concurrency=20)
        rows = erlang.execute_concurrent(pool.fetchrow, statements, loop=loop, raise_on_first_error=False)
    """
    _check(func, concurrency)
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("execute_concurrent would block the running loop: await execute_concurrent_async instead")
    deadline = None if timeout is None else monotonic() + timeout
    if loop is None:
        if inspect.iscoroutinefunction(func):
            raise UsageError("func is a coroutine function: give the loop that is to run it, loop=...")
        results = _submit(func, parameters, concurrency, raise_on_first_error, results_generator, deadline)
    elif results_generator:
        results = _from_loop(loop, func, parameters, concurrency, raise_on_first_error, deadline)
    else:
        parameters = parameters if isinstance(parameters, list | tuple) else list(parameters)
        return _collect_from_loop(
            loop, partial(_collect, func, parameters, concurrency, raise_on_first_error), deadline
        )
    return results if results_generator else list(results)


@overload
def execute_concurrent_async(
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int = 100,
    raise_on_first_error: bool = True,
    results_generator: Literal[False] = False,
) -> Coroutine[Any, Any, list[ExecutionResult]]: ...


@overload
def execute_concurrent_async(
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int = 100,
    raise_on_first_error: bool = True,
    *,
    results_generator: Literal[True],
) -> AsyncGenerator[ExecutionResult, None]: ...


def execute_concurrent_async(
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int = 100,
    raise_on_first_error: bool = True,
    results_generator: bool = False,
) -> Coroutine[Any, Any, list[ExecutionResult]] | AsyncGenerator[ExecutionResult, None]:
    """`execute_concurrent` for a coroutine: await it, or with `results_generator` go through it by `async for`.

    `func` is called on the running loop; what it returns is awaited if it can be, and is the result if not. Statements
    that never suspend leave the loop its turn after 64 of them or 1 ms. They are run by `concurrency` tasks that take
    one after the other, so `asyncio.current_task()` and context variables are shared by statements of one worker.
    Cancelling the call cancels the statements in flight and waits for them.

        rows = await erlang.execute_concurrent_async(pool.fetchrow, [(SQL, key) for key in keys], concurrency=50)
        async for success, row in erlang.execute_concurrent_async(pool.fetchrow, statements(), results_generator=True):
            ...
    """
    _check(func, concurrency)
    if results_generator:
        return _iterate(func, parameters, concurrency, raise_on_first_error)
    return _collect(func, parameters, concurrency, raise_on_first_error)


def _check(func: object, concurrency: int) -> None:
    if not callable(func):
        raise TypeError(f"func is a {type(func).__name__}, which cannot be called")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}, it must be at least 1")


async def _collect(
    func: Callable[..., Any], parameters: Iterable[Arguments], concurrency: int, raise_on_first_error: bool
) -> list[ExecutionResult]:
    loop = asyncio.get_running_loop()
    source = iter(parameters)
    results: list[Any] = []
    ended = loop.create_future()

    def take(batch: list[Outcome]) -> None:
        for index, success, value in batch:
            results[index] = ExecutionResult(success, value)

    def hungry() -> None:
        chunk = list(islice(source, concurrency))
        results.extend(chunk)
        window.feed(chunk, len(chunk) < concurrency)

    def set_ended() -> None:
        if not ended.done():
            ended.set_result(None)

    halt = "cancel" if raise_on_first_error else "go_on"
    window = Window(loop, func, concurrency, halt, take=take, hungry=hungry, ended=set_ended)
    try:
        hungry()
        await ended
    finally:
        await window.wait_stopped()
    if window.error is not None:
        raise window.error
    return results


async def _iterate(
    func: Callable[..., Any], parameters: Iterable[Arguments], concurrency: int, raise_on_first_error: bool
) -> AsyncGenerator[ExecutionResult, None]:
    loop = asyncio.get_running_loop()
    source = iter(parameters)
    ready: dict[int, ExecutionResult] = {}
    wanted = True
    waiter: asyncio.Future[None] | None = None
    position = 0

    def wake() -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(batch: list[Outcome]) -> None:
        _put_ready(ready, batch)
        wake()

    def hungry() -> None:
        nonlocal wanted
        wanted = True
        wake()

    def feed() -> None:
        nonlocal wanted
        if wanted and len(ready) <= _AHEAD * concurrency:
            wanted = False
            chunk = list(islice(source, 2 * concurrency))
            window.feed(chunk, len(chunk) < 2 * concurrency)

    halt = "drain" if raise_on_first_error else "go_on"
    window = Window(loop, func, concurrency, halt, take=take, hungry=hungry, ended=wake)
    try:
        while True:
            feed()
            while position in ready:
                yield _checked(ready.pop(position), raise_on_first_error)
                position += 1
                feed()
            if window.is_over:
                break
            waiter = loop.create_future()
            await waiter
    finally:
        await window.wait_stopped()
    if window.error is not None:
        raise window.error


def _collect_from_loop(
    loop: asyncio.AbstractEventLoop,
    run: Callable[[], Coroutine[Any, Any, list[ExecutionResult]]],
    deadline: float | None,
) -> list[ExecutionResult]:
    # Not run_coroutine_threadsafe: on a loop that never runs it would leave a coroutine that nobody awaits.
    inbox: SimpleQueue[asyncio.Task[list[ExecutionResult]]] = SimpleQueue()
    task: asyncio.Task[list[ExecutionResult]] | None = None
    given_up = False

    def start() -> None:
        nonlocal task
        if not given_up:
            task = loop.create_task(run())
            task.add_done_callback(inbox.put)

    def cancel() -> None:
        if task is not None:
            task.cancel()

    _call_on(loop, start)
    try:
        while True:
            try:
                return inbox.get(timeout=_slice(deadline)).result()
            except Empty:
                _check_loop(loop)
                _check_deadline(deadline)
    finally:
        given_up = True
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(cancel)


def _from_loop(
    loop: asyncio.AbstractEventLoop,
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int,
    raise_on_first_error: bool,
    deadline: float | None,
) -> Generator[ExecutionResult, None, None]:
    inbox: SimpleQueue[list[Outcome] | Literal["hungry", "ended"]] = SimpleQueue()
    source = iter(parameters)
    ready: dict[int, ExecutionResult] = {}
    wanted = True
    position = 0

    def feed() -> None:
        nonlocal wanted
        if wanted and len(ready) <= _AHEAD * concurrency:
            wanted = False
            chunk = list(islice(source, 2 * concurrency))
            _call_on(loop, window.feed, chunk, len(chunk) < 2 * concurrency)

    halt = "drain" if raise_on_first_error else "go_on"
    window = Window(
        loop,
        func,
        concurrency,
        halt,
        take=inbox.put,
        hungry=partial(inbox.put, "hungry"),
        ended=partial(inbox.put, "ended"),
    )
    try:
        while True:
            feed()
            while position in ready:
                yield _checked(ready.pop(position), raise_on_first_error)
                position += 1
                feed()
            try:
                message = inbox.get(timeout=_slice(deadline))
            except Empty:
                _check_loop(loop)
                _check_deadline(deadline)
                continue
            if message == "hungry":
                wanted = True
            elif message == "ended":
                break
            else:
                _put_ready(ready, message)
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(window.stop)
    if window.error is not None:
        raise window.error


class _Completions:
    """Where other threads put what is done, and the submitter waits.

    A completion appends and looks whether it is the one that makes the sleeper's batch full; only that one wakes, for a
    wake-up costs the waker more than all the rest (5 to 7 us). No lock of ours is held, so a callback may run from a
    finalizer in the midst of another.

    No wake-up is lost, with or without a GIL: `append` and the `rotate` of the submitter exclude one another. Either
    the append comes first, then the submitter counts it before it sleeps; or the rotate does, then the completion,
    which appends after it, sees the `_wanted` that was set before it. One wake-up too many only has the submitter look
    again.
    """

    __slots__ = ("_done", "_wakes", "_wanted")

    def __init__(self) -> None:
        self._done: deque[tuple[int, bool | None, Any]] = deque()
        self._wanted = _NEVER
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def put(self, index: int, success: bool | None, value: Any) -> None:
        """The completion callback; `success` is None for a future that is still to be asked."""
        done = self._done
        done.append((index, success, value))
        if len(done) >= self._wanted:
            self._wanted = _NEVER
            self._wakes.put(None)

    def take(self, wanted: int, deadline: float | None) -> list[tuple[int, bool | None, Any]]:
        """All that is done, once it is `wanted` or more."""
        done = self._done
        while len(done) < wanted:
            self._wanted = wanted
            done.rotate(0)
            if len(done) >= wanted:
                break
            try:
                self._wakes.get(timeout=None if deadline is None else max(0.0, deadline - monotonic()))
            except Empty:
                raise TimeoutError(_LATE) from None
        self._wanted = _NEVER
        return [done.popleft() for _ in range(len(done))]


def _submit(
    func: Callable[..., Any],
    parameters: Iterable[Arguments],
    concurrency: int,
    raise_on_first_error: bool,
    lazy: bool,
    deadline: float | None,
) -> Generator[ExecutionResult, None, None]:
    completions = _Completions()
    source = enumerate(parameters)
    in_flight: dict[int, Any] = {}
    ready: dict[int, ExecutionResult] = {}
    more = True
    position = 0

    def settle(index: int, success: bool, value: Any) -> None:
        nonlocal more
        ready[index] = ExecutionResult(success, value)
        if raise_on_first_error and not success:
            more = False
            if not lazy:
                raise value

    try:
        while more or in_flight or position in ready:
            while more and len(in_flight) < concurrency and (not lazy or len(ready) < _AHEAD * concurrency):
                try:
                    index, arguments = next(source)
                except StopIteration:
                    more = False
                    break
                try:
                    value = call_with(func, index, arguments)
                except UsageError:
                    raise
                except Exception as error:
                    settle(index, False, error)
                    continue
                if hasattr(value, "add_callbacks"):
                    in_flight[index] = value
                    put = completions.put
                    value.add_callbacks(callback=partial(put, index, True), errback=partial(put, index, False))
                elif hasattr(value, "add_done_callback") and not asyncio.isfuture(value):
                    in_flight[index] = value
                    value.add_done_callback(partial(completions.put, index, None))
                elif hasattr(value, "__await__"):
                    _close(value)
                    raise UsageError(
                        f"func returned a {type(value).__name__}: give the loop that is to await it, loop=..."
                    )
                else:
                    settle(index, True, value)
            while position in ready:
                yield _checked(ready.pop(position), raise_on_first_error)
                position += 1
            if in_flight:
                batch = completions.take(_wanted(len(in_flight), concurrency, more, lazy), deadline)
                for index, success, value in batch:
                    if in_flight.pop(index, None) is not None:
                        settle(index, *_outcome(success, value))
    finally:
        for future in in_flight.values():
            if hasattr(future, "cancel"):
                future.cancel()


def _wanted(in_flight: int, concurrency: int, more: bool, lazy: bool) -> int:
    if lazy:
        return 1
    return min(in_flight, max(1, concurrency // 4)) if more else in_flight


def _outcome(success: bool | None, value: Any) -> tuple[bool, Any]:
    if success is not None:
        return success, value
    try:
        return True, value.result()
    except (Exception, asyncio.CancelledError) as error:
        return False, error


def _put_ready(ready: dict[int, ExecutionResult], batch: list[Outcome]) -> None:
    for index, success, value in batch:
        ready[index] = ExecutionResult(success, value)


def _checked(result: ExecutionResult, raise_on_first_error: bool) -> ExecutionResult:
    if raise_on_first_error and not result.success:
        raise result.result_or_exc
    return result


def _close(awaitable: Any) -> None:
    if hasattr(awaitable, "close"):
        awaitable.close()


def _slice(deadline: float | None) -> float:
    return _LOOK if deadline is None else max(0.0, min(_LOOK, deadline - monotonic()))


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and monotonic() >= deadline:
        raise TimeoutError(_LATE)


def _call_on(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> None:
    if loop.is_closed():
        raise RuntimeError(_NO_LOOP)
    loop.call_soon_threadsafe(callback, *args)


def _check_loop(loop: asyncio.AbstractEventLoop) -> None:
    if loop.is_closed() or not loop.is_running():
        raise RuntimeError(_NO_LOOP)
