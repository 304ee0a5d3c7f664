"""Channels: bounded streams of terms between Erlang and Python, one queue each way: docs/channels.md."""

from __future__ import annotations

from typing import Any, Self

from _erlang import Atom, ChannelBase, Reference
from erlang._calls import wait_pending
from erlang._codec import register_decoder, register_encoder

__all__ = ["Channel"]


class Channel(ChannelBase):
    """A channel to and from Erlang; `py_channel` is its other end. It crosses the border as an argument or a result.

    `capacity`: terms that may wait in each direction. `max_bytes`: how many bytes of binaries they may hold. Who sends
    to a full channel waits until half of it was taken.

        for item in channel: ...            async for item in channel: ...
        channel.send(item)                  await channel.async_send(item)

    Iteration ends when Erlang closed its side and everything was received. Leaving a `with` block closes this side.
    Made by Erlang, it ends with the process that made it.
    """

    __slots__ = ()

    async def async_send(self, value: Any) -> None:
        """As send(), for coroutines, on any asyncio loop."""
        while not self._try_send(value):
            await self._ready(True)

    async def async_recv(self) -> Any:
        """As recv(), for coroutines, on any asyncio loop."""
        while (found := self._try_recv()) is None:
            await self._ready(False)
        return found[0]

    async def _ready(self, sender: bool) -> None:
        pending = self._wait(sender)
        if pending is not None:
            try:
                await wait_pending(pending)
            finally:
                pending.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.async_recv()
        except EOFError:
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


Channel.__module__ = "erlang"

_TAG = Atom("py_channel")


def _encode(channel: Channel) -> tuple[Atom, Reference]:
    return _TAG, channel._handle()


def _decode(handle: Reference) -> Channel:
    return Channel(handle=handle)


register_encoder(Channel, _encode)
register_decoder("py_channel", _decode)
