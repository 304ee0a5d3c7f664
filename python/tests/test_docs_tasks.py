"""The examples of docs/tasks.md run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from _erlang_modules import erlang_module

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in (
        ("_tasks", ["TaskTracker"]),
        ("_executor", ["execute_concurrent", "execute_concurrent_async"]),
    ):
        for name in names:
            value = getattr(erlang_module(module), name)
            monkeypatch.setattr(sys.modules["erlang"], name, value, raising=False)
    exec(compile(EXAMPLES[number], f"{PAGE}[{number}]", "exec"), {"__name__": "__example__"})


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3
