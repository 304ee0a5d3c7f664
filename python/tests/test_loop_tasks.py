"""create_task() and create_future() as asyncio users see them, on our loop and (fixture `loop`) on asyncio's own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from typing import Any

import pytest

from erlang._loop import ErlangEventLoop

FACTORIES = [None, asyncio.eager_task_factory, asyncio.create_eager_task_factory(asyncio.Task)]

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")


@pytest.fixture(params=[ErlangEventLoop, asyncio.SelectorEventLoop], ids=["erlang", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    loop = request.param()
    yield loop
    loop.close()


async def value_of_variable() -> str:
    return variable.get()


@pytest.fixture(params=FACTORIES, ids=["plain", "eager", "own eager"])
def with_factory(request: pytest.FixtureRequest, loop: Any) -> Any:
    loop.set_task_factory(request.param)
    return loop


def test_name_and_context_of_a_task(with_factory: Any) -> None:
    async def main() -> None:
        context = contextvars.copy_context()
        context.run(variable.set, "set")
        create = with_factory.create_task
        tasks = [
            create(value_of_variable()),
            create(value_of_variable(), name="named"),
            create(value_of_variable(), context=context),
            create(value_of_variable(), name="both", context=context),
            create(value_of_variable(), context=None),
        ]
        assert [type(task) for task in tasks] == [asyncio.Task] * 5
        assert tasks[1].get_name() == "named"
        assert tasks[3].get_name() == "both"
        assert await asyncio.gather(*tasks) == ["default", "default", "set", "set", "default"]

    with_factory.run_until_complete(main())


@pytest.mark.parametrize("factory", [None, asyncio.eager_task_factory])
def test_tasks_without_a_name_get_one(factory: Any) -> None:
    """Also with a factory, where asyncio of some releases calls them None."""
    loop = ErlangEventLoop()
    loop.set_task_factory(factory)

    async def main() -> set[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(value_of_variable()) for _ in range(3)]
        return {task.get_name() for task in tasks}

    names = loop.run_until_complete(main())
    loop.close()
    assert len(names) == 3
    assert all(name.startswith("Task-") for name in names)


def test_an_eager_task_runs_at_once(loop: Any) -> None:
    seen: list[Any] = []

    async def job() -> str:
        seen.append(asyncio.current_task())
        return "done"

    async def main() -> None:
        loop.set_task_factory(asyncio.eager_task_factory)
        task = loop.create_task(job(), name="eager")
        assert seen == [task]
        assert task.done()
        assert task.result() == "done"

    loop.run_until_complete(main())


def test_wrong_arguments(with_factory: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError):
            with_factory.create_task(1)
        coro = value_of_variable()
        with pytest.raises(TypeError):
            with_factory.create_task(coro, color="red")
        with pytest.raises(TypeError):
            with_factory.create_task()
        coro.close()

    with_factory.run_until_complete(main())


def test_a_closed_loop_makes_no_tasks(with_factory: Any) -> None:
    with_factory.close()
    coro = value_of_variable()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        with_factory.create_task(coro)
    coro.close()
