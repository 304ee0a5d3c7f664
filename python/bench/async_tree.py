"""async_tree: a tree of coroutines, 6 levels deep, 6 branches at each node.

Every node awaits its six children, by gather or in a TaskGroup; the 46,656 leaves do one of:

    none          nothing: the cost of the tree itself
    io            sleep 50 ms
    memoization   10 % sleep 50 ms, the others find their result in a cache
    cpu_io_mixed  half of them compute 500!, the others sleep 50 ms

Which leaf does what is drawn by a seeded generator, the same in each run. Each variant is run with plain tasks and with
`asyncio.eager_task_factory`. A TaskGroup does without a done callback for a task that is done when it is made; the
variants `tg_callback` show what that saves.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any

LEVELS = 6
BRANCHES = 6
IO_SECONDS = 0.05
CACHED = 0.9
COMPUTING = 0.5

Leaf = Callable[[], Awaitable[None]]
Node = Callable[[Leaf, int], Awaitable[None]]


async def gather_node(leaf: Leaf, level: int) -> None:
    if level == 0:
        await leaf()
        return
    await asyncio.gather(*[gather_node(leaf, level - 1) for _ in range(BRANCHES)])


async def task_group_node(leaf: Leaf, level: int) -> None:
    if level == 0:
        await leaf()
        return
    async with asyncio.TaskGroup() as group:
        for _ in range(BRANCHES):
            group.create_task(task_group_node(leaf, level - 1))


class CallbackGroup(asyncio.TaskGroup):
    """Waits for the done callback of every task, as TaskGroup did before Python 3.12."""

    def create_task(self, coro: Any, **_: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self._loop.create_task(coro)  # type: ignore[attr-defined]
        self._tasks.add(task)  # type: ignore[attr-defined]
        task.add_done_callback(self._on_task_done)  # type: ignore[attr-defined]
        return task


async def callback_group_node(leaf: Leaf, level: int) -> None:
    if level == 0:
        await leaf()
        return
    async with CallbackGroup() as group:
        for _ in range(BRANCHES):
            group.create_task(callback_group_node(leaf, level - 1))


def none_leaf() -> Leaf:
    async def leaf() -> None:
        pass

    return leaf


def io_leaf() -> Leaf:
    async def leaf() -> None:
        await asyncio.sleep(IO_SECONDS)

    return leaf


def memoization_leaf() -> Leaf:
    draw = random.Random(6).random
    cache: dict[int, bool] = {}

    async def leaf() -> None:
        if draw() < CACHED:
            cache.setdefault(1, True)
            return
        await asyncio.sleep(IO_SECONDS)

    return leaf


def cpu_io_mixed_leaf() -> Leaf:
    draw = random.Random(6).random

    async def leaf() -> None:
        if draw() < COMPUTING:
            math.factorial(500)
        else:
            await asyncio.sleep(IO_SECONDS)

    return leaf


NODES: dict[str, Node] = {"gather": gather_node, "tg": task_group_node}
EAGER_NODES: dict[str, Node] = NODES | {"tg_callback": callback_group_node}
LEAVES: dict[str, Callable[[], Leaf]] = {
    "none": none_leaf,
    "io": io_leaf,
    "memoization": memoization_leaf,
    "cpu_io_mixed": cpu_io_mixed_leaf,
}


async def bench_tree(node: Node, new_leaf: Callable[[], Leaf], loops: int) -> float:
    elapsed = 0.0
    for _ in range(loops):
        leaf = new_leaf()
        started = perf_counter()
        await node(leaf, LEVELS)
        elapsed += perf_counter() - started
    return elapsed


def main() -> None:
    from _suite import Suite

    suite = Suite(__doc__)
    for eager in (False, True):
        for leaf_name, new_leaf in LEAVES.items():
            for node_name, node in (EAGER_NODES if eager else NODES).items():
                way = "" if node_name == "gather" else f"_{node_name}"
                name = f"async_tree{'_eager' if eager else ''}_{leaf_name}{way}"
                suite.add(name, partial(bench_tree, node, new_leaf), eager=eager)


if __name__ == "__main__":
    main()
