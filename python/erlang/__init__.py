"""Python inside the BEAM: what Python code can do with Erlang, and the asyncio loop that runs there."""

from __future__ import annotations

from _erlang import Interrupted

from erlang._codec import register_decoder, register_encoder
from erlang._types import Atom, BitString, Buffer, Fun, ImproperList, Pid, Port, Reference

__all__ = [
    "Atom",
    "BitString",
    "Buffer",
    "Fun",
    "ImproperList",
    "Interrupted",
    "Pid",
    "Port",
    "Reference",
    "register_decoder",
    "register_encoder",
]
