"""Eager completion through a tree of tasks costs no turn of the loop."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from _erlang_modules import loop_factories

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

from _loops import Unavailable, check_eager_tasks
from async_tree import LEAVES, NODES


@pytest.fixture(params=loop_factories())
def loop_factory(request: pytest.FixtureRequest) -> Any:
    return request.param


async def turns_of(node: Any, leaf: Any, level: int) -> int:
    """How many turns of the loop a tree takes, counted by a callback that queues itself."""
    loop = asyncio.get_running_loop()
    turns = 0

    def tick() -> None:
        nonlocal turns, handle
        turns += 1
        handle = loop.call_soon(tick)

    handle = loop.call_soon(tick)
    await asyncio.sleep(0)
    before = turns
    assert before > 0
    await node(leaf, level)
    taken = turns - before
    handle.cancel()
    return taken


@pytest.mark.parametrize("node", NODES)
def test_eager_tree_that_never_suspends_takes_no_turn(loop_factory: Any, node: str) -> None:
    try:
        check_eager_tasks(loop_factory)
    except Unavailable as error:
        pytest.skip(str(error))

    if sys.version_info >= (3, 14) and loop_factory.__module__.startswith("uvloop"):
        pytest.skip("uvloop takes turns for eager tasks on Python 3.14")

    async def main() -> int:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return await turns_of(NODES[node], LEAVES["none"](), 6)

    # The TaskGroup of newer releases (3.14, later patches of 3.13) waits for its tasks' done callbacks, on any loop.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        expected = runner.run(main())
    assert expected == 0 or (node == "tg" and expected == 12)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == expected


@pytest.mark.parametrize("node", NODES)
def test_tree_of_plain_tasks_takes_a_turn_for_each_level(loop_factory: Any, node: str) -> None:
    async def main() -> int:
        return await turns_of(NODES[node], LEAVES["none"](), 3)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) >= 3
