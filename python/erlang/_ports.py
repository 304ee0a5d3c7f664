"""asyncio's subprocess transport over a port of Erlang's. Everything runs on the loop's thread."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Iterable
from typing import Any

from erlang._events import Events, EventType, _Channel, _os_error

_WRITE = int(EventType.WRITE)
_EXIT = int(EventType.SUBPROCESS_EXIT)
_STDOUT = int(EventType.SUBPROCESS_STDOUT)
_STDERR = int(EventType.SUBPROCESS_STDERR)
_CLOSED = int(EventType.SOCKET_CLOSED)


class ProgramTransport(_Channel, asyncio.SubprocessTransport):
    """An asyncio subprocess transport over a port. Its standard input cannot be closed alone; output cannot be paused,
    but waits here while its pipe transport is."""

    def __init__(self, events: Events, number: int, protocol: Any, pid: int | None) -> None:
        super().__init__(events, number, protocol, {})
        self._pid = pid
        self._returncode: int | None = None
        self._opened: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[int | None]] = []
        self._pipes: dict[int, asyncio.BaseTransport] = {0: _InputPipe(self), 1: _OutputPipe(self)}
        self._backlog: deque[tuple[int, Any]] = deque()
        self._paused = False

    def _event(self, kind: int, data: Any) -> None:
        if self._opened is not None and not self._opened.done():
            if kind == _WRITE:
                self._pid = data[1]
                self._deliver(self._protocol.connection_made, self)  # here, as output may come with the next event
                self._opened.set_result(None)
            else:
                self._refuse(_os_error(data))
        elif kind == _WRITE:
            self._written(data)
        elif self._paused or self._backlog:
            self._backlog.append((kind, data))
        else:
            self._take(kind, data)

    def _refuse(self, error: Exception) -> None:
        """There will be no program, and its protocol never hears of it."""
        assert self._opened is not None
        self._forget()
        self._opened.set_exception(error)

    def _give_up(self) -> None:
        """Nobody waits for the program any more."""
        assert self._opened is not None
        if self._opened.cancelled():
            self._forget()
            self._tell("py_abort")
        else:  # it is there
            self.abort()

    def _take(self, kind: int, data: Any) -> None:
        if kind == _STDOUT:
            self._deliver(self._protocol.pipe_data_received, 1, data)
        elif kind == _STDERR:
            self._deliver(self._protocol.pipe_data_received, 2, data)
        elif kind == _EXIT:
            self._returncode = data
            self._deliver(self._protocol.pipe_connection_lost, 1, None)
            self._deliver(self._protocol.process_exited)
            self._tell("py_abort")
            self._lose(None)
        elif kind == _CLOSED:
            self._lose(None)
        else:
            self._fail(_os_error(data), "port error")

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        while self._backlog and not self._paused:
            self._take(*self._backlog.popleft())

    def _lose(self, error: Exception | None) -> None:
        if self._opened is not None and not self._opened.done():
            self._refuse(error or ConnectionAbortedError("the loop is closed"))
            return
        super()._lose(error)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(self._returncode)
        self._waiters.clear()

    async def _wait(self) -> int | None:
        """Of asyncio.subprocess.Process: the exit status, None when the port was closed without one."""
        if not self._lost:
            waiter: asyncio.Future[int | None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return self._returncode

    def get_pid(self) -> int | None:  # type: ignore[override]
        return self._pid

    def get_returncode(self) -> int | None:
        return self._returncode

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        return self._pipes.get(fd)

    def send_signal(self, signal: int) -> None:
        if self._pid is None or self._returncode is not None:
            raise ProcessLookupError
        os.kill(self._pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._closing:
            self._send(bytes(data), len(data))


class _InputPipe(asyncio.WriteTransport):
    def __init__(self, program: ProgramTransport) -> None:
        super().__init__()
        self._program = program

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._program.write(data)

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

    abort = close


class _OutputPipe(asyncio.ReadTransport):
    def __init__(self, program: ProgramTransport) -> None:
        super().__init__()
        self._program = program

    def is_reading(self) -> bool:
        return not self._program._paused

    def pause_reading(self) -> None:
        self._program._pause(True)

    def resume_reading(self) -> None:
        self._program._pause(False)

    def is_closing(self) -> bool:
        return self._program.is_closing()

    def close(self) -> None:
        """Nothing: the program's output ends with its port."""
