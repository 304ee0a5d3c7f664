"""The Python half of the HTTP demonstration: an aiohttp server and an aiohttp client, each on its context's loop."""

from __future__ import annotations

import asyncio
import hashlib
import platform
import ssl

import aiohttp
from aiohttp import ClientSession, TCPConnector, web

import erlang


def versions() -> str:
    """What runs."""
    return f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}"


class Server:
    """A server that answers POST /digest/{n} with the number, the size and the SHA-256 of the body."""

    def __init__(self) -> None:
        self.served = 0
        self._runner: web.AppRunner | None = None

    async def start(self, certificate: str | None) -> int:
        """Listens on a free port, by TLS with the PEM file's key and certificate, and gives the port."""
        assert isinstance(asyncio.get_running_loop(), erlang.ErlangEventLoop)
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        app = web.Application()
        app.router.add_post("/digest/{n}", self._digest)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        return int(self._runner.addresses[0][1])

    async def _digest(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.served += 1
        digest = hashlib.sha256(body).hexdigest()
        return web.json_response({"n": int(request.match_info["n"]), "size": len(body), "sha256": digest})

    def count(self) -> int:
        """How many requests it has answered."""
        return self.served

    async def stop(self) -> None:
        """Closes the socket and every connection."""
        assert self._runner is not None
        await self._runner.cleanup()


class Client:
    """A client that keeps its connections, as many as there are requests at once."""

    def __init__(self, port: int, root: str | None) -> None:
        context = None
        if root is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(root)
        self._url = f"{'https' if root else 'http'}://localhost:{port}/digest/"
        self._tls: ssl.SSLContext | bool = context or True
        self._session: ClientSession | None = None

    async def open(self) -> None:
        """Makes the session, which belongs to the loop it is made on."""
        assert isinstance(asyncio.get_running_loop(), erlang.ErlangEventLoop)
        self._session = ClientSession(connector=TCPConnector(limit=0, ssl=self._tls))

    async def digest(self, n: int, body: bytes) -> dict[str, object]:
        """What the server says of the body."""
        assert self._session is not None
        async with self._session.post(f"{self._url}{n}", data=body) as response:
            response.raise_for_status()
            answer: dict[str, object] = await response.json()
            return answer

    async def close(self) -> None:
        """Closes the session and its connections."""
        assert self._session is not None
        await self._session.close()
