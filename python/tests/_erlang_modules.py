"""Imports the pure-Python parts of `erlang` also where its C module is not: under plain Python."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "erlang"


def erlang_module(name: str) -> Any:
    """`erlang.<name>`; outside the BEAM the package is entered without running its `__init__`."""
    if "_erlang" not in sys.builtin_module_names and "erlang" not in sys.modules:
        package = ModuleType("erlang")
        package.__path__ = [str(SOURCE)]
        sys.modules["erlang"] = package
    return importlib.import_module(f"erlang.{name}")


def loop_factories() -> list[Any]:
    """The loops a test runs on: stock asyncio, uvloop where installed, ours inside the BEAM."""
    factories = [pytest.param(asyncio.SelectorEventLoop, id="asyncio")]
    if importlib.util.find_spec("uvloop") is not None:
        factories.append(pytest.param(importlib.import_module("uvloop").new_event_loop, id="uvloop"))
    if "_erlang" in sys.builtin_module_names:
        factories.append(pytest.param(importlib.import_module("erlang").new_event_loop, id="erlang"))
    return factories
