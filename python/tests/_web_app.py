"""The Starlette application of test_web.py: `uvicorn _web_app:app`. It also runs where there is no Erlang."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


def beam_loop() -> asyncio.AbstractEventLoop:
    """A loop for `uvicorn --loop` whose fds and timers are the emulator's."""
    import erlang

    return erlang.new_event_loop(backend="beam")


class Careful(BaseHTTPMiddleware):
    """What many applications have: an error of any kind becomes an answer."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        except Exception as error:
            return PlainTextResponse(f"{type(error).__name__}: {error}", status_code=500)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    print("lifespan begins", flush=True)
    background = asyncio.create_task(asyncio.Event().wait())
    try:
        yield
    finally:
        background.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await background
        print("lifespan ends", flush=True)


async def loop(request: Request) -> Response:
    return PlainTextResponse(type(asyncio.get_running_loop()).__qualname__)


async def upper(request: Request) -> Response:
    return Response((await request.body()).upper())


async def numbers(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for n in range(request.path_params["n"]):
            yield f"{n}\n"
            await asyncio.sleep(0)

    return StreamingResponse(lines())


async def endless(request: Request) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.001)
        finally:
            print("stream closed", flush=True)

    return StreamingResponse(lines())


def thread(request: Request) -> Response:
    return PlainTextResponse(str(threading.current_thread() is not threading.main_thread()))


def reverse_in_thread(request: Request) -> Response:
    import erlang

    return JSONResponse(erlang.apply("lists", "reverse", [[1, 2, 3]]))


async def fail_in_erlang(request: Request) -> Response:
    import erlang

    return JSONResponse(await asyncio.to_thread(erlang.apply, "lists", "nth", [7, [1, 2, 3]]))


app = Starlette(
    routes=[
        Route("/loop", loop),
        Route("/upper", upper, methods=["POST"]),
        Route("/numbers/{n:int}", numbers),
        Route("/endless", endless),
        Route("/thread", thread),
        Route("/reverse", reverse_in_thread),
        Route("/fail", fail_in_erlang),
    ],
    middleware=[Middleware(Careful)],
    lifespan=lifespan,
)
