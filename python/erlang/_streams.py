"""Async iterators as streams to Erlang: coroutines that the loop of a context runs. See c_src/stream.c."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from _erlang import Stream


async def pump(source: AsyncIterable[Any], stream: Stream) -> None:
    """Sends each item, waits where the owner has given no credit, and closes the iterator in the end."""
    items = aiter(source)
    loop = asyncio.get_running_loop()
    try:
        await _credit(stream, loop)
        async for item in items:
            if not stream.send(item):
                await asyncio.sleep(0)
                await _credit(stream, loop)
    finally:
        await _close(items)


async def _credit(stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
    future = loop.create_future()
    if stream.wait(future):
        await future


async def collect(source: AsyncIterable[Any]) -> list[Any]:
    """All items as a list."""
    items = aiter(source)
    try:
        return [item async for item in items]
    finally:
        await _close(items)


async def _close(items: AsyncIterator[Any]) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()
