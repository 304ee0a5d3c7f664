"""asyncio's subprocess transports over ports of Erlang's. Everything runs on the loop's thread.

`PortTransport` is over a port that Erlang opened and gave away, with what such a port can do. `ProgramTransport` is
over one with the helper of c_src/erlpy/port.h behind it, and has all that asyncio's own has.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Iterable
from typing import Any

from _erlang import Atom
from erlang._events import Events, EventType, _Channel, _os_error

_WRITE = int(EventType.WRITE)
_EXIT = int(EventType.SUBPROCESS_EXIT)
_OUTPUTS = {int(EventType.SUBPROCESS_STDOUT): 1, int(EventType.SUBPROCESS_STDERR): 2}
_CLOSED = int(EventType.SOCKET_CLOSED)
_ERROR = int(EventType.SOCKET_ERROR)

_PIECE = 64 * 1024
_IN_FLIGHT = 2 * _PIECE  # of standard input: on its way to the program; the rest waits here
_TAKEN = _PIECE  # output that was consumed is reported by so much; the helper stops at four times that


class PortTransport(_Channel, asyncio.SubprocessTransport):
    """Over a port as it is: standard input cannot be closed alone, standard error is not apart, and what comes while
    the output is paused waits here."""

    def __init__(self, events: Events, number: int, protocol: Any, pid: int | None) -> None:
        super().__init__(events, number, protocol, {})
        self._pid = pid
        self._returncode: int | None = None
        self._waiters: list[asyncio.Future[int | None]] = []
        self._input: _InputPipe | _HelpedInputPipe = _InputPipe(self)
        self._outputs: dict[int, _OutputPipe] = {1: _OutputPipe(self, 1)}
        self._open = {1}  # the pipes that connection_lost() waits for
        self._gone = False

    def _event(self, kind: int, data: Any) -> None:
        if kind == _WRITE:
            self._written(data)
        elif kind in _OUTPUTS:
            self._outputs[_OUTPUTS[kind]]._receive(data)
        elif kind == _EXIT:
            self._exited(data)
        elif kind == _CLOSED:
            self._port_closed()
        else:
            self._fail(_os_error(data), "port error")

    def _port_closed(self) -> None:
        """No more comes; what has come may still wait in a pipe that is paused."""
        self._gone = True
        for pipe in self._outputs.values():
            pipe._receive(None)
        self._try_finish()

    def _exited(self, status: int) -> None:
        self._outputs[1]._receive(None)  # a port tells of its exit when its output has ended
        self._set_returncode(status)

    def _set_returncode(self, status: int) -> None:
        self._returncode = status
        self._deliver(self._protocol.process_exited)
        self._wake_waiters()
        self._try_finish()

    def _pipe_lost(self, fd: int, error: Exception | None) -> None:
        self._open.discard(fd)
        if not self._lost:
            self._deliver(self._protocol.pipe_connection_lost, fd, error)
            self._try_finish()

    def _try_finish(self) -> None:
        if (self._returncode is not None or self._gone) and not self._open and not self._lost:
            self._tell("py_abort")
            self._lose(None)

    def _consumed(self, fd: int, size: int) -> None:
        """The protocol has had so much of that output."""

    def _lose(self, error: Exception | None) -> None:
        super()._lose(error)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(self._returncode)
        self._waiters.clear()

    async def _wait(self) -> int | None:
        """Of asyncio.subprocess.Process: the exit status, None when the port was closed without one."""
        if not self._lost and self._returncode is None:
            waiter: asyncio.Future[int | None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self._returncode

    def get_pid(self) -> int | None:  # type: ignore[override]
        return self._pid

    def get_returncode(self) -> int | None:
        return self._returncode

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        return self._input if fd == 0 else self._outputs.get(fd)

    def send_signal(self, signal: int) -> None:
        if self._pid is None or self._returncode is not None:
            raise ProcessLookupError
        os.kill(self._pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ProgramTransport(PortTransport):
    """Over a port with the helper: a program that Python started."""

    def __init__(self, events: Events, number: int, protocol: Any, *, merged: bool) -> None:
        super().__init__(events, number, protocol, None)
        self._opened: asyncio.Future[None] = events.loop.create_future()
        self._input = self._stdin = _HelpedInputPipe(self)
        self._open = {0, 1}
        if not merged:
            self._outputs[2] = _OutputPipe(self, 2)
            self._open.add(2)
        self._untold = {1: 0, 2: 0}

    def _event(self, kind: int, data: Any) -> None:
        if not self._opened.done():
            if kind == _WRITE:
                self._pid = data[1]
                self._deliver(self._protocol.connection_made, self)  # here, as output may come with the next event
                self._opened.set_result(None)
            elif isinstance(data, int):
                self._refuse(OSError(data, os.strerror(data)))
            else:
                self._refuse(_os_error(data))
        elif kind == _WRITE:
            self._stdin._taken(data)
        elif kind != _ERROR:  # the writer found the port closed, and that is told by itself
            super()._event(kind, None if data == "eof" else data)

    def _refuse(self, error: Exception) -> None:
        """There will be no program, and its protocol never hears of it."""
        self._forget()
        self._tell("py_abort")
        self._opened.set_exception(error)

    def _give_up(self) -> None:
        """Nobody waits for the program any more."""
        if self._opened.cancelled():
            self._forget()
            self._tell("py_abort")
        else:  # it is there
            self.abort()

    def _exited(self, status: int) -> None:
        self._set_returncode(status)
        self._stdin._close(None)

    def _port_closed(self) -> None:
        self._stdin._close(None)
        super()._port_closed()

    def _lose(self, error: Exception | None) -> None:
        if self._opened.done():
            super()._lose(error)
        else:
            self._refuse(error or ConnectionAbortedError("the loop is closed"))

    def _command(self, what: str, value: Any) -> None:
        self._events.port.send((Atom("py_tell"), self._id, (Atom(what), value)))

    def _consumed(self, fd: int, size: int) -> None:
        self._untold[fd] += size
        if self._untold[fd] >= _TAKEN:
            self._command("taken", (fd, self._untold[fd]))
            self._untold[fd] = 0

    def send_signal(self, signal: int) -> None:
        """By the helper, whose child it is: its process id is not somebody else's by then."""
        if self._lost or self._returncode is not None:
            raise ProcessLookupError
        self._command("signal", int(signal))

    def close(self) -> None:
        """Closes the pipes and kills the program, as asyncio does."""
        if not self._closing:
            self._closing = True
            self._stdin._close(None)
            for fd, pipe in self._outputs.items():
                if fd in self._open:
                    pipe.close()
            if self._returncode is None and not self._lost:
                self._command("signal", int(signal.SIGKILL))


class _InputPipe(asyncio.WriteTransport):
    """Standard input of a port."""

    def __init__(self, program: PortTransport) -> None:
        super().__init__()
        self._program = program

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._program._closing:
            self._program._send(bytes(data), len(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._program.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._program.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise NotImplementedError("a port's standard input cannot be closed alone")

    def is_closing(self) -> bool:
        return self._program.is_closing()

    def close(self) -> None:
        """Nothing: the program's standard input ends with its port."""

    def abort(self) -> None:
        self.close()


class _HelpedInputPipe(_InputPipe):
    """Standard input behind the helper, which tells how much the program has taken."""

    def __init__(self, program: ProgramTransport) -> None:
        super().__init__(program)
        self._unsent: deque[bytes] = deque()
        self._in_flight = 0
        self._ending = False
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._ending:
            view = memoryview(data).cast("B")
            self._unsent.extend(bytes(view[at : at + _PIECE]) for at in range(0, len(view), _PIECE))
            self._program._unwritten += len(view)
            self._push()
            self._program._maybe_pause_protocol()

    def _push(self) -> None:
        while self._unsent and self._in_flight < _IN_FLIGHT:
            piece = self._unsent.popleft()
            self._in_flight += len(piece)
            self._program._events.port.send((Atom("py_write"), self._program._id, piece))
        if self._ending and not self._unsent:
            self._program._tell("py_shut")

    def _taken(self, size: int) -> None:
        """So much went into the pipe; 0: the program has closed it."""
        if self._closed:
            return
        if size == 0:
            self._close(None if self._ending and not self._program._unwritten else BrokenPipeError())
            return
        self._in_flight -= size
        self._program._written(size)
        if self._unsent:
            self._push()
        if self._ending and not self._program._unwritten:
            self._close(None)

    def _close(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = self._ending = True
            self._unsent.clear()
            self._program._unwritten = 0
            self._program._maybe_resume_protocol()
            self._program._loop.call_soon(self._program._pipe_lost, 0, error)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._ending:
            self._ending = True
            if not self._unsent:
                self._program._tell("py_shut")
            if not self._program._unwritten:
                self._close(None)

    def is_closing(self) -> bool:
        return self._ending

    def close(self) -> None:
        """Closes when what was written is taken."""
        self.write_eof()

    def abort(self) -> None:
        """Closes at once."""
        if not self._closed:
            self._unsent.clear()
            self._program._tell("py_shut")
            self._close(None)


class _OutputPipe(asyncio.ReadTransport):
    """Standard output or error. None is its end."""

    def __init__(self, program: PortTransport, fd: int) -> None:
        super().__init__()
        self._program = program
        self._fd = fd
        self._backlog: deque[bytes | None] = deque()
        self._paused = False
        self._closed = False

    def _receive(self, data: bytes | None) -> None:
        if self._paused or self._backlog:
            self._backlog.append(data)
        else:
            self._take(data)

    def _take(self, data: bytes | None) -> None:
        program = self._program
        if self._closed:
            return
        if data is None:
            self._closed = True
            program._pipe_lost(self._fd, None)
        elif not program._lost:
            program._deliver(program._protocol.pipe_data_received, self._fd, data)
            if not program._lost:
                program._consumed(self._fd, len(data))

    def _take_backlog(self) -> None:
        while self._backlog and not self._paused:
            self._take(self._backlog.popleft())

    def is_reading(self) -> bool:
        return not self._paused and not self._closed

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._program._loop.call_soon(self._take_backlog)

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nobody reads it any more. Of a port alone: nothing, its output ends with it."""
        program = self._program
        if isinstance(program, ProgramTransport) and not self._closed:
            self._closed = True
            program._command("unread", self._fd)
            program._loop.call_soon(program._pipe_lost, self._fd, None)
