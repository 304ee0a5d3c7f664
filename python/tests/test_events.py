"""Events from Erlang as Python sees them: registering before and after, programs by ports, the end of a loop."""

from __future__ import annotations

import asyncio
import contextvars
import os
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Coroutine
from typing import Any

import pytest

import erlang
from erlang._events import EventType, event_process, events_of

BACKENDS = ["native", "beam"]


def run(main: Coroutine[Any, Any, Any], backend: str = "native") -> Any:
    with asyncio.Runner(loop_factory=lambda: erlang.new_event_loop(backend=backend)) as runner:
        return runner.run(main)


async def settled() -> None:
    """What was posted before has been handled: the event process answers in order."""
    await event_process()


def post(number: int, *results: Any) -> None:
    """Has the event process of the running loop post results under the number."""
    events = events_of(asyncio.get_running_loop())
    events.port.send((erlang.Atom("py_results"), [(number, result) for result in results]))


OK = erlang.Atom("ok")
ERROR = erlang.Atom("error")


@pytest.mark.parametrize("backend", BACKENDS)
def test_future_before_its_result(backend: str) -> None:
    async def main() -> Any:
        future = asyncio.get_running_loop()._register_async_future(7)
        post(7, (OK, "seven"))
        return await future

    assert run(main(), backend) == "seven"


def test_future_after_its_result() -> None:
    async def main() -> Any:
        post(7, (OK, "seven"))
        await settled()
        return await asyncio.get_running_loop()._register_call_future(7)

    assert run(main()) == "seven"


def test_error_result() -> None:
    async def main() -> Any:
        future = asyncio.get_running_loop()._register_async_future(7)
        post(7, (ERROR, {"why": 1}))
        with pytest.raises(erlang.ErlangError) as caught:
            await future
        return caught.value.reason

    assert run(main()) == {"why": 1}


def test_number_cannot_be_registered_twice() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop._register_async_future(7)
        with pytest.raises(ValueError, match="7"):
            loop._register_async_future(7)

    run(main())


def test_unregistered_number_gets_nothing() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        forgotten = loop._register_async_future(7)
        assert loop._unregister_event(7)
        assert not loop._unregister_event(7)
        post(7, (OK, "late"))
        await settled()
        assert not forgotten.done()
        future = loop._register_async_future(7)
        post(7, (OK, "new"))
        return await future

    assert run(main()) == "new"


def test_handler_runs_in_the_context_of_its_registration() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    async def main() -> list[Any]:
        seen: list[Any] = []
        var.set("registered")
        asyncio.get_running_loop()._register_event(7, lambda kind, data: seen.append((kind, data, var.get())))
        var.set("later")
        post(7, (OK, 1), (OK, 2))
        await settled()
        return seen

    kind = EventType.ASYNC_RESULT
    assert run(main()) == [(kind, 1, "registered"), (kind, 2, "registered")]


def test_cancelled_future_takes_its_result_silently() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        problems: list[Any] = []
        loop.set_exception_handler(lambda loop, context: problems.append(context))
        loop._register_async_future(7).cancel()
        post(7, (OK, 1))
        await settled()
        assert problems == []

    run(main())


def test_loop_that_closes_cancels_what_waits() -> None:
    futures = []

    async def main() -> None:
        futures.append(asyncio.get_running_loop()._register_async_future(7))

    run(main())
    assert futures[0].cancelled()


@pytest.mark.parametrize("backend", BACKENDS)
def test_program_by_a_port(backend: str) -> None:
    async def main() -> tuple[bytes, int | None]:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop._register_subprocess(
            lambda: SubprocessStreamProtocol(2**16, loop), "/bin/sh", "-c", "read a b; echo $b $a; pwd; exit 4", cwd="/"
        )
        process = Process(transport, protocol, loop)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.pid != os.getpid()
        process.stdin.write(b"one two\n")
        output = await process.stdout.read()
        return output, await process.wait()

    assert run(main(), backend) == (b"two one\n/\n", 4)


def test_program_can_be_killed() -> None:
    async def main() -> int | None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop._register_subprocess(
            lambda: SubprocessStreamProtocol(2**16, loop), "/bin/sleep", "1000"
        )
        transport.kill()
        return await Process(transport, protocol, loop).wait()

    assert run(main()) == -9


def test_program_that_is_not_there() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(FileNotFoundError):
            await loop._register_subprocess(asyncio.SubprocessProtocol, "/no/such/program")

    run(main())


def test_stdin_can_be_closed_alone() -> None:
    async def main() -> tuple[bytes, int | None]:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop._register_subprocess(
            lambda: SubprocessStreamProtocol(2**16, loop), "/bin/sh", "-c", "cat; echo end"
        )
        process = Process(transport, protocol, loop)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdin.can_write_eof()
        process.stdin.write(b"all\n")
        process.stdin.write_eof()
        return await process.stdout.read(), await process.wait()

    assert run(main()) == (b"all\nend\n", 0)


def test_needs_a_loop_of_ours() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="ErlangEventLoop"):
            await event_process()

    asyncio.run(main(), loop_factory=asyncio.SelectorEventLoop)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="backend"):
        erlang.new_event_loop(backend="other")
