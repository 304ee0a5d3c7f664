"""Python's words for Erlang's kinds of terms. They are made in C; docs/types.md says what becomes what."""

from __future__ import annotations

import _erlang
from _erlang import Atom, BitString, Buffer, Fun, ImproperList, Pid, Port, Reference

__all__ = ["Atom", "BitString", "Buffer", "Fun", "ImproperList", "Pid", "Port", "Reference", "set_conversion_limits"]


def set_conversion_limits(*, depth: int = 1000, items: int = 0) -> None:
    """Bounds what one conversion, either way, may cost in this interpreter.

    depth: levels of containers, 1 to 10,000; beyond it RecursionError. items: elements, keys and values in all, 0 for
    no bound; beyond it ValueError. ValueError for other numbers.

        erlang.set_conversion_limits(depth=100, items=1_000_000)
    """
    _erlang._set_limits(depth, items)
