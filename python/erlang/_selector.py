"""PollerSelector: the selectors face of a loop's C poller.

The loop itself does not go through it: fds are added, removed and waited for in C. It is what `loop._selector` shows,
for code that looks there, and what asyncio closes. The data of a key is asyncio's pair of handles, (reader, writer).
"""

from __future__ import annotations

import selectors
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    from _erlang import LoopBase


def _fileno(fileobj: FileDescriptorLike) -> int:
    if isinstance(fileobj, int):
        fd = fileobj
    else:
        try:
            fd = int(fileobj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def _key(fd: int, pair: tuple[Any, Any]) -> selectors.SelectorKey:
    reader, writer = pair
    events = (selectors.EVENT_READ if reader is not None else 0) | (selectors.EVENT_WRITE if writer is not None else 0)
    return selectors.SelectorKey(fd, fd, events, pair)


class _Map(Mapping["FileDescriptorLike", selectors.SelectorKey]):
    """What get_map() shows: the fds that are waited for now."""

    def __init__(self, loop: LoopBase) -> None:
        self._loop = loop

    def __getitem__(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        fd = _fileno(fileobj)
        try:
            return _key(fd, self._loop._fd_map()[fd])
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def __len__(self) -> int:
        return len(self._loop._fd_map())

    def __iter__(self) -> Iterator[FileDescriptorLike]:
        return iter(self._loop._fd_map())


class PollerSelector(selectors.BaseSelector):
    """The selector of an `ErlangEventLoop`."""

    def __init__(self, loop: LoopBase) -> None:
        self._loop: LoopBase | None = loop
        self._map = _Map(loop)

    def _open_loop(self) -> LoopBase:
        if self._loop is None:
            raise RuntimeError("Selector is closed")
        return self._loop

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = _fileno(fileobj)
        if fd in self._map:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        return self._set(fd, events, data)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = _fileno(fileobj)
        if fd not in self._map:
            raise KeyError(f"{fileobj!r} is not registered")
        return self._set(fd, events, data)

    def _set(self, fd: int, events: int, data: Any) -> selectors.SelectorKey:
        if not events or events & ~(selectors.EVENT_READ | selectors.EVENT_WRITE):
            raise ValueError(f"Invalid events: {events!r}")
        try:
            reader, writer = data
        except (TypeError, ValueError):
            raise TypeError("the data of a PollerSelector is a pair of asyncio handles, (reader, writer)") from None
        pair = (reader if events & selectors.EVENT_READ else None, writer if events & selectors.EVENT_WRITE else None)
        self._open_loop()._fd_set(fd, *pair)
        return _key(fd, pair)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        key = self._map[fileobj]
        self._open_loop()._fd_set(key.fd, None, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        raise RuntimeError("an ErlangEventLoop waits in C: run the loop instead")

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        self._open_loop()
        return self._map

    def close(self) -> None:
        if self._loop is not None:
            self._loop._close_poller()
            self._loop = None
