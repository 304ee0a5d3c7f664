"""The engine of execute_concurrent on a loop: a window of workers that take statements from one feed.

Every method is called on the loop's thread. A worker is a task that runs one statement after the other, so a statement
costs no task of its own, no semaphore and no done callback: it appends its result to `_done`, and the first one to do
so in a turn of the loop has the list handed over, as a whole, in the next.

    fed ──► _feed ──► worker 1..concurrency: await func(*args) ──► _done ──► take(batch)
      ▲                      │ feed low
      └───── hungry() ◄──────┘
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from types import CoroutineType
from typing import Any

Arguments = Sequence[Any] | Mapping[str, Any]
Outcome = tuple[int, bool, Any]

# Statements that end without suspending must not keep the loop: so many, or so many seconds of them, in one turn.
_BURST = 64
_TURN = 0.001


def call_with(func: Callable[..., Any], index: int, arguments: Arguments) -> Any:
    """`func` called with one item of the parameters."""
    if isinstance(arguments, tuple | list):
        return func(*arguments)
    if isinstance(arguments, Mapping):
        return func(**arguments)
    kind = type(arguments).__name__
    raise UsageError(f"parameters[{index}] is a {kind}: give a tuple, a list or a mapping of arguments")


class UsageError(TypeError):
    """The caller's mistake, never a statement's result."""


class Window:
    """At most `concurrency` statements in flight on `loop`.

    `take(batch)` gets lists of (index, success, value or exception); `hungry()` is called once whenever the feed runs
    low, and answered by `feed()` at any time; `ended()` is called when the last worker is gone. `halt_on_error` says
    what a failed statement means for the others: "go_on", "drain" (begin no more) or "cancel" (cancel them as well).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        func: Callable[..., Any],
        concurrency: int,
        halt_on_error: str,
        *,
        take: Callable[[list[Outcome]], object],
        hungry: Callable[[], object],
        ended: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._func = func
        self._concurrency = concurrency
        self._halt_on_error = halt_on_error
        self._take = take
        self._hungry = hungry
        self._ended = ended
        self._feed: deque[tuple[int, Arguments]] = deque()
        self._fed = 0
        self._done: list[Outcome] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._turn_ends = 0.0
        self._asked = False
        self._complete = False
        self._stopped = False
        self.is_over = False
        self.error: BaseException | None = None

    def feed(self, chunk: Iterable[Arguments], last: bool) -> None:
        """Take more statements; `last` when no more will come."""
        self._asked = False
        self._complete = self._complete or last
        if not self._stopped and self.error is None:
            statements = list(enumerate(chunk, self._fed))
            self._fed += len(statements)
            self._feed.extend(statements)
        for _ in range(min(self._concurrency - len(self._workers), len(self._feed))):
            # Never eager: an eager worker would begin before it is counted.
            worker = asyncio.Task(self._work(), loop=self._loop)
            self._workers.add(worker)
            worker.add_done_callback(self._worker_done)
        self._end_if_over()

    def stop(self) -> None:
        """Begin no more statements and cancel those in flight."""
        self._stopped = self._complete = True
        self._feed.clear()
        current = asyncio.current_task(self._loop)
        for worker in self._workers:
            if worker is not current:
                worker.cancel()
        self._end_if_over()

    async def wait_stopped(self) -> None:
        """Stop, and wait until the statements in flight have run their `finally`."""
        self.stop()
        while self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        feed, done, func = self._feed, self._done, self._func
        while True:
            while done and (len(done) >= _BURST or monotonic() > self._turn_ends):  # noqa: ASYNC110
                await asyncio.sleep(0)
            try:
                index, arguments = feed.popleft()
            except IndexError:
                if self._asked or self._complete:
                    return
                self._ask()
                continue
            try:
                value = func(*arguments) if arguments.__class__ is tuple else call_with(func, index, arguments)
                if value.__class__ is CoroutineType or hasattr(value, "__await__"):
                    value = await value
                elif hasattr(value, "add_done_callback") or hasattr(value, "add_callbacks"):
                    raise UsageError(
                        f"func returned a {type(value).__name__}, which the loop cannot await: call "
                        "execute_concurrent from a thread, for example with asyncio.to_thread"
                    )
            except asyncio.CancelledError as error:
                if self._stopped or _is_cancelled():
                    raise
                # Not us: the statement awaited something that was cancelled.
                self._failed(index, error)
            except UsageError:
                raise
            except Exception as error:
                self._failed(index, error)
            else:
                done.append((index, True, value))
            if len(done) == 1:
                self._turn_ends = monotonic() + _TURN
                self._loop.call_soon(self._flush)

    def _failed(self, index: int, error: BaseException) -> None:
        self._done.append((index, False, error))
        if self._halt_on_error == "go_on" or self.error is not None:
            return
        self.error = error
        self._complete = True
        self._feed.clear()
        if self._halt_on_error == "cancel":
            self.stop()

    def _ask(self) -> None:
        self._asked = True
        try:
            self._hungry()
        except Exception as error:
            # The parameters' own iterator.
            self._fail(error)

    def _flush(self) -> None:
        batch = self._done[:]
        self._done.clear()
        self._take(batch)
        if len(self._feed) < self._concurrency and not (self._asked or self._complete):
            self._ask()

    def _worker_done(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled():
            if not self._stopped:
                self._fail(asyncio.CancelledError())
        elif (error := worker.exception()) is not None:
            self._fail(error)
        self._end_if_over()

    def _fail(self, error: BaseException) -> None:
        # The run itself, not a statement: it ends here.
        self.error = error
        self.stop()

    def _end_if_over(self) -> None:
        if self._complete and not (self._workers or self._feed or self.is_over):
            self.is_over = True
            if self._done:
                self._flush()
            self._ended()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
