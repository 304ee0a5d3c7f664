"""What py_soak_loop.erl has Python do: connections, timers and cancels on a loop, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import erlang

AT_ONCE = 50
LINE = b"a line\n"


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Client(asyncio.Protocol):
    """Has a future for the answer and one for the end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[bytes] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.answered.cancel()
        self.lost.set_result(None)


class Soak:
    """A loop, a server for TCP and one for TLS on it."""

    def __init__(self, backend: str, key: str, root: str) -> None:
        # a loop without backends has the native one
        factory = erlang.ErlangEventLoop if backend == "native" else partial(erlang.ErlangEventLoop, backend=backend)
        self.runner = asyncio.Runner(loop_factory=factory)
        self.loop: Any = self.runner.get_loop()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.load_verify_locations(root)
        with_key = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with_key.load_cert_chain(key)
        self.servers = [self.runner.run(self._serve(context)) for context in (None, with_key)]
        self.ports = [server.sockets[0].getsockname()[1] for server in self.servers]

    async def _serve(self, context: ssl.SSLContext | None) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context)

    def run(self, connections: int, secure: int, timers: int, cancels: int) -> None:
        """So many of each, all at the same time."""
        self.runner.run(self._run(connections, secure, timers, cancels))

    async def _run(self, connections: int, secure: int, timers: int, cancels: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(many(connections, self.connect))
            group.create_task(many(secure, self.connect_secure))
            group.create_task(fire(timers))
            group.create_task(cancel(cancels))

    async def connect(self, n: int) -> None:
        """One connection: in turn they end by close, abort, cancel, and by the end of a pair of sockets."""
        kind, port = n % 5, self.ports[0]
        if kind == 0:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(LINE)
            assert await reader.readline() == LINE
            writer.close()
            await writer.wait_closed()
        elif kind == 1:
            transport, client = await self.loop.create_connection(Client, "127.0.0.1", port)
            transport.write(LINE)
            assert await client.answered == LINE
            transport.close()
            await client.lost
        elif kind == 2:
            transport, client = await self.loop.create_connection(Client, "127.0.0.1", port)
            transport.write(LINE * 20000)
            await client.answered
            transport.abort()
            await client.lost
        elif kind == 3:
            await cancelled_later(self._ask_forever(port))
        else:
            left, right = socket.socketpair()
            with left, right:
                left.setblocking(False)
                right.setblocking(False)
                receiving = asyncio.create_task(self.loop.sock_recv(right, 100))
                await asyncio.sleep(0)
                await self.loop.sock_sendall(left, LINE)
                assert await receiving == LINE

    async def _ask_forever(self, port: int) -> None:
        transport, client = await self.loop.create_connection(Client, "127.0.0.1", port)
        try:
            while True:
                client.answered = self.loop.create_future()
                transport.write(LINE)
                await client.answered
        finally:
            transport.close()

    async def connect_secure(self, n: int) -> None:
        """One connection over TLS; every third is aborted."""
        reader, writer = await asyncio.open_connection("localhost", self.ports[1], ssl=self.tls)
        writer.write(LINE)
        assert await reader.readline() == LINE
        if n % 3 == 0:
            writer.transport.abort()
        else:
            writer.close()
            await writer.wait_closed()

    def figures(self) -> dict[str, int]:
        """What there is now, after the loop had a moment to close what is closing."""
        self.runner.run(asyncio.sleep(0.1))
        while gc.collect():
            pass
        return {
            "fds": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
            "tasks": len(asyncio.all_tasks(self.loop)),
            "handles": len(self.loop._ready) + len(self.loop._scheduled),
            "transports": len(self.loop._transports),
            "objects": len(gc.get_objects()),
            "blocks": sys.getallocatedblocks(),
        }

    def close(self) -> None:
        """Ends the servers and the loop."""
        for server in self.servers:
            server.close()
        self.runner.close()


async def many(count: int, function: Callable[[int], Awaitable[None]]) -> None:
    """function(0), function(1), … some at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for n in numbers:
            await function(n)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def fire(count: int) -> None:
    """Timers within 50 ms, of which every other one is cancelled: at once, or when some have fired."""
    loop = asyncio.get_running_loop()
    fired = 0

    def tick() -> None:
        nonlocal fired
        fired += 1

    for begin in range(0, count, 1000):
        before, expected = fired, 0
        handles = []
        for n in range(begin, min(begin + 1000, count)):
            handle = loop.call_later(random.uniform(0, 0.05) if n % 2 else 3600, tick)
            if n % 4 == 0:
                handle.cancel()
            elif n % 2 == 0:
                handles.append(handle)
            else:
                expected += 1
        await asyncio.sleep(0.025)
        for handle in handles:
            handle.cancel()
        while fired - before < expected:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert fired - before == expected


async def cancelled_later(coroutine: Any) -> None:
    """Begins it, lets it come some way, and cancels it."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(random.choice((0, 0, 0.001, 0.003)))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    raise AssertionError("it was not cancelled")


async def cancel(count: int) -> None:
    """Tasks that wait for all kinds of things and are cancelled, or run into a deadline."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[None] = asyncio.Queue()
    lock = asyncio.Lock()
    await lock.acquire()

    async def in_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            group.create_task(queue.get())

    async def too_late() -> None:
        try:
            async with asyncio.timeout(0.002):
                await asyncio.sleep(3600)
        except TimeoutError:
            await loop.create_future()

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(3600)
            yield 2
        finally:
            await asyncio.sleep(0)

    async def iterate() -> None:
        async for _ in generate():
            pass

    kinds: list[Callable[[], Any]] = [
        lambda: asyncio.sleep(3600),
        lambda: asyncio.wait_for(asyncio.sleep(3600), 3600),
        lambda: asyncio.shield(loop.create_future()),
        lambda: asyncio.gather(asyncio.sleep(3600), queue.get()),
        queue.get,
        lock.acquire,
        in_group,
        too_late,
        iterate,
    ]

    async def one(n: int) -> None:
        async def waits() -> None:
            await kinds[n % len(kinds)]()

        await cancelled_later(waits())
        if n % 20 == 0:
            assert await asyncio.to_thread(abs, -n) == n
            future = loop.create_future()
            loop.run_in_executor(None, loop.call_soon_threadsafe, future.set_result, n)
            assert await future == n

    await many(count, one)


# ---- what Erlang calls on its context's loop ----


async def nap(n: int) -> int:
    """A call that ends by itself."""
    await asyncio.sleep(n % 7 / 1000)
    return n


async def sleeper() -> None:
    """A call that does not."""
    await asyncio.sleep(3600)


async def ask(n: int) -> int:
    """A call that calls Erlang."""
    return int(await erlang.async_call("soak_double", n))


async def count(n: int) -> AsyncIterator[int]:
    """A stream."""
    for i in range(n):
        await asyncio.sleep(0)
        yield i
