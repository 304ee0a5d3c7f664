"""Python inside the BEAM: what Python code can do with Erlang, and the asyncio loop that runs there."""

from __future__ import annotations

from _erlang import Interrupted

__all__ = ["Interrupted"]
