"""Python's words for Erlang's kinds of terms. They are made in C; docs/types.md says what becomes what."""

from __future__ import annotations

from _erlang import Atom, BitString, Buffer, Fun, ImproperList, Pid, Port, Reference

__all__ = ["Atom", "BitString", "Buffer", "Fun", "ImproperList", "Pid", "Port", "Reference"]
