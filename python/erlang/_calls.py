"""Calling Erlang and sending to its processes, and the error that Erlang raises here: see docs/callbacks.md."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import _erlang
from _erlang import Atom, Fun, Pid, call, self, send, whereis

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["ErlangError", "Monitor", "apply", "async_call", "call", "demonitor", "monitor", "self", "send", "whereis"]

Frame = tuple[str, str, int, str | None, int | None]

_APPLY = Atom("apply")
_INTERNAL = Atom("internal")
_MONITOR = Atom("monitor")
_DOWN = Atom("down")


class ErlangError(Exception):
    """What an Erlang function raised: `class_` is "error", "exit" or "throw", `reason` the term.

    `stacktrace` has a tuple (module, function, arity, file, line) for each frame, innermost first; file and line may be
    None. Where the exception crosses back to Erlang, the term and the stack are in the error's map under `erlang`.
    """

    class_: str
    reason: Any
    stacktrace: list[Frame]

    def __init__(self, class_: str, reason: Any, shown: tuple[str, list[Frame]] | None = None) -> None:
        super().__init__(class_, reason)
        self.class_ = str(class_)
        self.reason = reason
        self._text = f"exception {class_}: {reason}" if shown is None else shown[0]
        self.stacktrace = [] if shown is None else shown[1]

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[type[ErlangError], tuple[Any, ...]]:
        return type(self), (self.class_, self.reason, (self._text, self.stacktrace))


ErlangError.__module__ = "erlang"


def registered(name: str) -> Callable[..., Any]:
    """The registered function of that name, as a callable; AttributeError where there is none."""
    if not _erlang.is_registered(name):
        raise AttributeError(f"module 'erlang' has no attribute {name!r}, and no Erlang function has that name")
    return partial(call, name)


def apply(module: str, function: str, args: Sequence[Any] = (), *, timeout: float | None = None) -> Any:
    """Calls module:function(*args) of Erlang, where the operator allows it (`callback_apply`).

    >>> erlang.apply("lists", "reverse", [[1, 2, 3]])
    [3, 2, 1]
    """
    return call((_APPLY, module, function), *args, timeout=timeout)


def internal(operation: str, *args: Any) -> Any:
    """What the servers of this application do themselves."""
    return call((_INTERNAL, operation), *args)


def _settle(future: Future[Any], pending: _erlang.Pending) -> None:
    if future.done():
        return
    try:
        future.set_result(pending.result())
    except Exception as error:
        future.set_exception(error)


async def wait_pending(pending: _erlang.Pending) -> Any:
    """The result of a pending call, on the running loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    future = loop.create_future()
    if not pending.notify(loop, partial(_settle, future, pending)):
        return pending.result()
    return await future


async def async_call(name: str | Fun, *args: Any, timeout: float | None = None) -> Any:
    """As call(), for coroutines, on any asyncio loop. Cancelling it kills the function's process."""
    pending = _erlang.start(name, args)
    try:
        if timeout is None:
            return await wait_pending(pending)
        import asyncio

        async with asyncio.timeout(timeout):
            return await wait_pending(pending)
    finally:
        pending.cancel()


class Monitor:
    """A process that is watched: await it, or wait(), for the reason of its end.

    A reason of "noproc" says that there was none, "noconnection" that its node went away. It lasts until demonitor(),
    or until it is dropped.
    """

    def __init__(self, process: Pid | str | tuple[str, str]) -> None:
        target = process if isinstance(process, Pid) else _process_name(process)
        watcher = call((_MONITOR, target))
        self._pending: _erlang.Pending | None = _erlang.start((_DOWN, watcher), ())
        self._reason: tuple[Any] | None = None

    def done(self) -> bool:
        """Whether the process has ended."""
        return self._reason is not None or (self._pending is not None and self._pending.done())

    def wait(self, timeout: float | None = None) -> Any:
        """Blocks until the process ends and gives the reason; TimeoutError after `timeout` seconds."""
        if self._reason is None:
            self._reason = (self._open().wait(timeout),)
        return self._reason[0]

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._reason is None:
            self._reason = ((yield from wait_pending(self._open()).__await__()),)
        return self._reason[0]

    def demonitor(self) -> None:
        """Ends it. Idempotent."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()

    def _open(self) -> _erlang.Pending:
        if self._pending is None:
            raise RuntimeError("the monitor was ended")
        return self._pending


def _process_name(process: str | tuple[str, str]) -> Atom | tuple[Atom, Atom]:
    if isinstance(process, str):
        return Atom(process)
    name, node = process
    return Atom(name), Atom(node)


def monitor(process: Pid | str | tuple[str, str]) -> Monitor:
    """Watches a process: an erlang.Pid, a name, or (name, node).

    >>> reason = erlang.monitor(pid).wait(timeout=5)
    """
    return Monitor(process)


def demonitor(watch: Monitor) -> None:
    """Ends a monitor."""
    watch.demonitor()
