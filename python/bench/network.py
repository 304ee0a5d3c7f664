"""Echo servers under load: 10 connections from 10 client processes, request and response in turn; and HTTP.

`echo_<how>_<transport>` is the time per request over all clients, `..._cpu` what the server's process spends on one,
`..._thread_cpu` what its loop's thread does (without other threads of the VM, where the loop lives in one).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from _load import CLIENTS, shared_load

KIB = 1024
Serving = Callable[[], AbstractAsyncContextManager[str]]


class Echo(asyncio.Protocol):
    transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    transport: asyncio.WriteTransport

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(256 * KIB))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        # A copy: the transport may keep what it cannot send at once.
        self.transport.write(bytes(self.buffer[:nbytes]))


class DatagramEcho(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.transport.sendto(data, addr)


async def stream_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * KIB):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def serve(how: str, transport: str) -> AsyncIterator[str]:
    """An echo server; gives its address in the client's form."""
    loop = asyncio.get_running_loop()
    context = server_context() if transport == "tls" else None
    path = None if transport != "unix" else str(scratch() / f"echo-{os.getpid()}")
    if how == "streams":
        if path is not None:
            server = await asyncio.start_unix_server(stream_echo, path)
        else:
            server = await asyncio.start_server(stream_echo, "127.0.0.1", 0, ssl=context)
    else:
        protocol = Echo if how == "protocol" else BufferedEcho
        if path is not None:
            server = await loop.create_unix_server(protocol, path)
        else:
            server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context)
    try:
        yield path if path is not None else f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if path is not None:
            # asyncio 3.13 has removed it by now.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


@asynccontextmanager
async def serve_datagrams() -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(DatagramEcho, local_addr=("127.0.0.1", 0))
    try:
        yield f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()


@asynccontextmanager
async def serve_sock() -> AsyncIterator[str]:
    """loop.sock_recv and loop.sock_sendall on plain sockets."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)

    async def talk(sock: socket.socket) -> None:
        with sock:
            while data := await loop.sock_recv(sock, 64 * KIB):
                await loop.sock_sendall(sock, data)

    async def accept() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                sock, _ = await loop.sock_accept(listener)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                group.create_task(talk(sock))

    accepting = asyncio.create_task(accept())
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        accepting.cancel()
        await asyncio.wait([accepting])
        listener.close()


@asynccontextmanager
async def serve_aiohttp(size: int) -> AsyncIterator[str]:
    web = importlib.import_module("aiohttp.web")
    body = b"x" * size

    async def handler(request: Any) -> Any:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def under_load(serving: Serving, kind: str, size: int, figure: str, loops: int) -> float:
    async with serving() as address:
        spent = await shared_load().spend(kind, address, loops, size)
    return cast(float, getattr(spent, figure))


async def aiohttp_client(loops: int) -> float:
    """Client and server of aiohttp on one loop, one request at a time."""
    aiohttp = importlib.import_module("aiohttp")
    loop = asyncio.get_running_loop()
    async with serve_aiohttp(KIB) as address, aiohttp.ClientSession() as session:
        started = loop.time()
        for _ in range(loops):
            async with session.get(f"http://{address}/") as response:
                if len(await response.read()) != KIB:
                    raise RuntimeError("the answer is cut")
        return loop.time() - started


@cache
def scratch() -> Path:
    """A directory of this process for sockets and certificates."""
    keep = tempfile.TemporaryDirectory(prefix="bench-")
    _kept.append(keep)
    return Path(keep.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def server_context() -> ssl.SSLContext:
    """TLS with a P-256 key made for this run."""
    key, cert = scratch() / "key.pem", scratch() / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def main() -> None:
    from _suite import Suite

    suite = Suite(__doc__)
    # Started before any loop runs, so that their start is in no figure.
    if suite.args.worker:
        shared_load()

    def add(name: str, serving: Serving, kind: str, size: int = KIB) -> None:
        suite.add(name, partial(under_load, serving, kind, size, "wall"), inner_loops=CLIENTS)

    def add_cpu(name: str, serving: Serving, kind: str) -> None:
        suite.add(f"{name}_cpu", partial(under_load, serving, kind, KIB, "process"), inner_loops=CLIENTS)
        suite.add(f"{name}_thread_cpu", partial(under_load, serving, kind, KIB, "thread"), inner_loops=CLIENTS)

    for how in ("protocol", "buffered", "streams"):
        for transport in ("tcp", "unix", "tls"):
            add(f"echo_{how}_{transport}", partial(serve, how, transport), transport)
        add_cpu(f"echo_{how}_tcp", partial(serve, how, "tcp"), "tcp")
    add("echo_protocol_tcp_64k", partial(serve, "protocol", "tcp"), "tcp", 64 * KIB)
    add("echo_streams_tcp_64k", partial(serve, "streams", "tcp"), "tcp", 64 * KIB)
    add("echo_udp", serve_datagrams, "udp")
    add("echo_sock", serve_sock, "tcp")
    if importlib.util.find_spec("aiohttp") is None:
        suite.skip("http_aiohttp", "aiohttp is not installed")
    else:
        add("http_aiohttp", partial(serve_aiohttp, KIB), "http")
        add_cpu("http_aiohttp", partial(serve_aiohttp, KIB), "http")
        suite.add("http_aiohttp_client", aiohttp_client)


if __name__ == "__main__":
    main()
