"""Source lines for tracebacks that go to Erlang. Called from C for each frame."""

from __future__ import annotations

import linecache
from typing import Any


def source_line(file: str, line: int, module_globals: dict[str, Any]) -> str:
    """The stripped text of a line, "" when the source is not to be had."""
    linecache.checkcache(file)
    return linecache.getline(file, line, module_globals).strip()
