"""What Erlang tells a loop: results for futures, and Erlang's sockets and programs that asyncio protocols speak over.

Each loop that uses this has one `Events`, and by it one event process in Erlang (py_event_loop_proc), which owns the
sockets and ports. Everything here runs on the loop's thread. docs/events.md tells what it is for.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import functools
import importlib
import itertools
import operator
import os
from asyncio import protocols, transports
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from _erlang import Atom, EventPort, Pid
from erlang._calls import ErlangError

if TYPE_CHECKING:
    from erlang._loop import ErlangEventLoop
    from erlang._ports import ProgramTransport

    class _FlowControl(asyncio.BaseTransport):
        _loop: ErlangEventLoop

        def __init__(self, extra: dict[str, Any], loop: ErlangEventLoop) -> None: ...
        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...
        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
else:
    _FlowControl = transports._FlowControlMixin


class EventType(IntEnum):
    """The numbers of the events, which are part of the interface with Erlang."""

    CONTROL = 0
    READ = 1
    WRITE = 2
    TIMER = 3
    CALL_RESULT = 10
    CALL_ERROR = 11
    ASYNC_RESULT = 12
    ASYNC_ERROR = 13
    SUBPROCESS_EXIT = 20
    SUBPROCESS_STDOUT = 21
    SUBPROCESS_STDERR = 22
    SOCKET_DATA = 30
    SOCKET_CLOSED = 31
    SOCKET_ERROR = 32


# Plain ints: comparing with a member of an IntEnum costs three times as much.
_WRITE = int(EventType.WRITE)
_ERRORS = (int(EventType.CALL_ERROR), int(EventType.ASYNC_ERROR))
_DATA = int(EventType.SOCKET_DATA)
_CLOSED = int(EventType.SOCKET_CLOSED)

_OK = Atom("ok")
_ERROR = Atom("error")
_FIRST_LOCAL_ID = 1 << 62

Handler = Callable[[int, Any], object]


def events_of(loop: ErlangEventLoop) -> Events:
    """The loop's `Events`, made where there is none."""
    if loop._erlang_events is None:
        loop._erlang_events = Events(loop)
    return loop._erlang_events


async def event_process() -> Pid:
    """The event process of the running loop."""
    events = events_of(_running_loop())
    number = events.new_id()
    future = events.future(number)
    events.port.send((Atom("py_whoami"), number))
    pid = await future
    assert isinstance(pid, Pid)
    return pid


def _running_loop() -> ErlangEventLoop:
    from erlang._loop import ErlangEventLoop

    loop = asyncio.get_running_loop()
    if not isinstance(loop, ErlangEventLoop):
        raise RuntimeError("this needs an ErlangEventLoop")
    return loop


class Events:
    """What a loop has registered for events from Erlang, by number.

    An event may come before its number is registered: it waits. One that comes after `unregister` is dropped.
    """

    def __init__(self, loop: ErlangEventLoop) -> None:
        self.loop = loop
        self.port = EventPort(loop, self)
        self._ids = itertools.count(_FIRST_LOCAL_ID)
        self._early: dict[int, list[tuple[int, Any]]] = {}
        self._gone: set[int] = set()
        self._channels: dict[int, _Channel] = {}
        self.port.handlers[0] = self._control

    def new_id(self) -> int:
        """A number of this loop's own; those from py_callback_id are below."""
        return next(self._ids)

    def future(self, number: int) -> asyncio.Future[Any]:
        """A future for the one result that comes under the number."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self._register(number, future)
        return future

    def register(self, number: int, handler: Handler) -> None:
        """Has `handler(type, data)` called for each event under the number, in the context of this call."""
        self._register(number, functools.partial(contextvars.copy_context().run, handler))  # type: ignore[call-arg]

    def _register(self, number: int, handler: asyncio.Future[Any] | Callable[[int, Any], Any]) -> None:
        if number in self.port.handlers:
            raise ValueError(f"there is a handler for {number}")
        self._gone.discard(number)
        early = self._early.pop(number, None)
        if early is None:
            self.port.handlers[number] = handler
        elif isinstance(handler, asyncio.Future):
            kind, data = early[0]
            self.failed(handler, data) if kind in _ERRORS else handler.set_result(data)
        else:
            self.port.handlers[number] = handler
            for kind, data in early:
                handler(kind, data)

    def unregister(self, number: int) -> bool:
        """Forgets the number; its result, when it comes, goes nowhere. False when nothing was registered."""
        if self._early.pop(number, None) is not None:
            return False
        found = self.port.handlers.pop(number, None) is not None
        if found and number < _FIRST_LOCAL_ID:
            self._gone.add(number)
        return found

    # Called from c_src/poller_nif.c.

    def early(self, kind: int, number: int, data: Any) -> None:
        """An event whose number is not registered: not yet, or no more."""
        if number in self._gone:
            self._gone.discard(number)
        elif number < _FIRST_LOCAL_ID:
            self._early.setdefault(number, []).append((kind, data))

    def failed(self, future: asyncio.Future[Any], reason: Any) -> None:
        """An error is the result."""
        future.set_exception(ErlangError("error", reason))

    def down(self) -> None:
        """The event process is dead: everyone who waits is told, and the next use begins anew."""
        self._end(lambda: ErlangError("exit", Atom("noproc")), ConnectionResetError("the event process is dead"))

    def close(self) -> None:
        """The loop closes."""
        self._end(lambda: asyncio.CancelledError(), None)

    def _end(self, why: Callable[[], BaseException], lost: Exception | None) -> None:
        if self.loop._erlang_events is self:
            self.loop._erlang_events = None
        handlers = list(self.port.handlers.values())
        self.port.handlers.clear()
        self.port.close()
        for handler in handlers:
            if isinstance(handler, asyncio.Future) and not handler.done():
                error = why()
                if isinstance(error, asyncio.CancelledError):
                    handler.cancel()
                else:
                    handler.set_exception(error)
        for channel in list(self._channels.values()):
            channel._lose(lost)
        if lost is not None and self.loop._on_beam:
            self.loop._use_beam_again()

    # Sockets and programs.

    def _control(self, kind: int, data: tuple[Any, ...]) -> None:
        _, number, what, addresses, module, function, args = data
        answer: Any = _OK
        try:
            protocol = _factory(module, function)(*args)
            self.attach(number, what, addresses, protocol)
        except Exception as error:
            answer = (_ERROR, f"{type(error).__name__}: {error}")
        self.port.send((Atom("py_attached"), number, answer))

    def attach(self, number: int, kind: str, addresses: tuple[Any, Any], protocol: Any) -> asyncio.BaseTransport:
        """The transport of a socket or port that the event process owns, connected to its protocol."""
        from erlang._ports import PortTransport

        channel: _Channel
        if kind == "tcp":
            channel = SocketTransport(self, number, protocol, addresses)
        elif kind == "udp":
            channel = DatagramTransport(self, number, protocol, addresses)
        else:
            pid = addresses[0][1] if isinstance(addresses[0], tuple) else None
            channel = PortTransport(self, number, protocol, pid)
        channel._connect()
        return channel

    async def open_program(
        self,
        protocol_factory: Callable[[], asyncio.SubprocessProtocol],
        program: str | os.PathLike[str],
        args: Iterable[str | bytes],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stderr_to_stdout: bool = False,
    ) -> tuple[ProgramTransport, asyncio.SubprocessProtocol]:
        """Starts a program by a port of Erlang's. OSError when it cannot be started."""
        from erlang._ports import ProgramTransport

        number = self.new_id()
        protocol = protocol_factory()
        transport = ProgramTransport(self, number, protocol, merged=stderr_to_stdout)
        transport._register()
        options: dict[Any, Any] = {Atom("stderr_to_stdout"): stderr_to_stdout}
        if cwd is not None:
            options[Atom("cd")] = os.fspath(cwd)
        if env is not None:
            options[Atom("env")] = dict(env)
        self.port.send((Atom("py_open"), number, os.fspath(program), list(args), options))
        try:
            await transport._opened
        except asyncio.CancelledError:
            transport._give_up()
            raise
        return transport, protocol


def _factory(module: Any, function: str) -> Callable[..., Any]:
    target = importlib.import_module(module) if isinstance(module, str) else module
    found: Callable[..., Any] = operator.attrgetter(function)(target)
    return found


def _os_error(reason: Any) -> OSError:
    code = getattr(errno, str(reason).upper(), None)
    return OSError(str(reason)) if code is None else OSError(code, os.strerror(code))


class _Channel(_FlowControl):
    """What the transports have in common: the way to the writer process, the write buffer's limits, the end."""

    def __init__(self, events: Events, number: int, protocol: Any, extra: dict[str, Any]) -> None:
        super().__init__(extra, events.loop)
        self._events = events
        self._id = number
        self._protocol = protocol
        self._unwritten = 0
        self._closing = False
        self._lost = False

    def _register(self) -> None:
        self._events._channels[self._id] = self
        self._events.register(self._id, self._event)

    def _connect(self) -> None:
        self._protocol.connection_made(self)
        self._register()
        self._tell("py_read")

    def _tell(self, what: str) -> None:
        self._events.port.send((Atom(what), self._id))

    def _event(self, kind: int, data: Any) -> None:
        raise NotImplementedError

    def _written(self, size: int) -> None:
        self._unwritten -= size
        self._maybe_resume_protocol()

    def _send(self, data: Any, size: int) -> None:
        self._unwritten += size
        self._events.port.send((Atom("py_write"), self._id, data))
        self._maybe_pause_protocol()

    def _deliver(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error, f"protocol.{method.__name__}() failed")
            return None

    def _fail(self, error: BaseException, message: str) -> None:
        if not isinstance(error, OSError):
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        self._tell("py_abort")
        self._lose(error if isinstance(error, Exception) else None)

    def _forget(self) -> None:
        self._lost = self._closing = True
        self._events._channels.pop(self._id, None)
        self._events.unregister(self._id)

    def _lose(self, error: Exception | None) -> None:
        """connection_lost(), once, in the next step of the loop."""
        if not self._lost:
            self._forget()
            if not self._loop.is_closed():
                self._loop.call_soon(self._protocol.connection_lost, error)

    def get_write_buffer_size(self) -> int:
        return self._unwritten

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Closes when what was written is sent."""
        if not self._closing:
            self._closing = True
            self._tell("py_end")

    def abort(self) -> None:
        """Closes at once."""
        if not self._lost:
            self._tell("py_abort")
            self._lose(None)


class _ReadingChannel(_Channel):
    """One that can be paused: what Erlang has sent by then waits here, and no more is asked for."""

    def __init__(self, events: Events, number: int, protocol: Any, extra: dict[str, Any]) -> None:
        super().__init__(events, number, protocol, extra)
        self._backlog: deque[tuple[int, Any]] = deque()
        self._paused = False

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self._loop.call_soon(self._take_backlog)

    def _take_backlog(self) -> None:
        while self._backlog and not self._paused and not self._closing:
            self._take(*self._backlog.popleft())

    def _event(self, kind: int, data: Any) -> None:
        if kind == _WRITE:
            self._written(data)
        elif self._closing:
            if kind == _CLOSED and data == "ended":
                self._lose(None)
        elif self._paused or self._backlog:
            self._backlog.append((kind, data))
        else:
            self._take(kind, data)

    def _take(self, kind: int, data: Any) -> None:
        raise NotImplementedError


class SocketTransport(_ReadingChannel, asyncio.Transport):
    """An asyncio transport over a gen_tcp socket."""

    def __init__(self, events: Events, number: int, protocol: Any, addresses: tuple[Any, Any]) -> None:
        super().__init__(events, number, protocol, {"sockname": addresses[0], "peername": addresses[1]})
        self._eof = False

    def _take(self, kind: int, data: Any) -> None:
        if kind == _DATA and isinstance(data, bytes):
            if isinstance(self._protocol, asyncio.BufferedProtocol):
                self._deliver(protocols._feed_data_to_buffered_proto, self._protocol, data)  # type: ignore[attr-defined]
            else:
                self._deliver(self._protocol.data_received, data)
        elif kind == _DATA:  # passive: what came before has been taken
            self._tell("py_read")
        elif kind == _CLOSED:
            if not self._deliver(self._protocol.eof_received):
                self.close()
        else:
            self._fail(_os_error(data), "socket error")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if data and not self._closing:
            self._send(bytes(data), len(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._eof and not self._closing:
            self._eof = True
            self._tell("py_shut")

    def can_write_eof(self) -> bool:
        return True


class DatagramTransport(_ReadingChannel, asyncio.DatagramTransport):
    """An asyncio datagram transport over a gen_udp socket."""

    def __init__(self, events: Events, number: int, protocol: Any, addresses: tuple[Any, Any]) -> None:
        super().__init__(events, number, protocol, {"sockname": addresses[0], "peername": addresses[1]})

    def _take(self, kind: int, data: Any) -> None:
        if kind == _DATA and isinstance(data, tuple):
            host, port, payload = data
            self._deliver(self._protocol.datagram_received, payload, (host.decode(), port))
        elif kind == _DATA:
            self._tell("py_read")
        elif kind == _CLOSED:
            self.abort()
        else:
            self._deliver(self._protocol.error_received, _os_error(data))

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if not self._closing:
            payload = bytes(data)
            self._send(payload if addr is None else (addr[0], addr[1], payload), len(payload))
