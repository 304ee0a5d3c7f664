"""Which loop a benchmark runs on: the one place that knows their names."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable

LOOPS = ("asyncio", "uvloop", "erlang-native", "erlang-beam")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class Unavailable(Exception):
    """This loop, or this benchmark on this loop, cannot run here; the text says why."""


def loop_factory(name: str) -> LoopFactory:
    """What makes the loop called `name`; `Unavailable` where it cannot be had."""
    match name:
        case "asyncio":
            return asyncio.SelectorEventLoop
        case "uvloop":
            try:
                uvloop = importlib.import_module("uvloop")
            except ImportError as error:
                raise Unavailable(f"uvloop is not installed for {sys.executable}") from error
            return uvloop.new_event_loop  # type: ignore[no-any-return]
        case "erlang-native" | "erlang-beam":
            if "_erlang" not in sys.builtin_module_names:
                raise Unavailable(f"{name} exists only inside the BEAM: run this with priv/erlpy, not {sys.executable}")
            new_event_loop = importlib.import_module("erlang").new_event_loop
            if name == "erlang-native":
                return new_event_loop  # type: ignore[no-any-return]
            return lambda: new_event_loop(backend="beam")
    raise Unavailable(f"no loop is called {name}: {', '.join(LOOPS)}")


def check_eager_tasks(factory: LoopFactory) -> None:
    """`Unavailable` where the loop does not take asyncio's eager task factory (uvloop 0.23 on 3.13)."""

    async def nothing() -> None:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        coro = nothing()
        try:
            await asyncio.create_task(coro)
        finally:
            coro.close()
            loop.set_task_factory(None)

    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(main())
        except TypeError as error:
            raise Unavailable(f"the loop does not take asyncio.eager_task_factory: {error}") from error
