"""A pyperf runner whose benchmarks are coroutines on the loop that --loop names.

A benchmark is `async def bench(loops: int) -> float`: it does its thing `loops` times and returns the seconds that
took, so that making and closing the loop is not in the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyperf
from _loops import LOOPS, LoopFactory, Unavailable, check_eager_tasks, loop_factory

AsyncBench = Callable[[int], Awaitable[float]]


class Suite:
    """The benchmarks of one file. Every process of a pyperf run makes the same ones, in the same order."""

    def __init__(self, description: str) -> None:
        self._runner = pyperf.Runner(add_cmdline_args=_pass_on, metadata={})
        parser = self._runner.argparser
        parser.description = description
        parser.add_argument("--loop", choices=LOOPS, default="asyncio")
        parser.add_argument("--only", default="*", help="names of benchmarks, with * and ?")
        self.args = self._runner.parse_args()
        self._runner.metadata["loop"] = self.args.loop
        try:
            self.factory: LoopFactory = loop_factory(self.args.loop)
        except Unavailable as error:
            sys.exit(f"bench: {error}")

    def add(self, name: str, bench: AsyncBench, *, inner_loops: int = 1, eager: bool = False) -> None:
        """Run `bench` if it is asked for; a value is its seconds by `loops * inner_loops`."""
        if not fnmatch.fnmatch(name, self.args.only):
            return
        if eager:
            try:
                check_eager_tasks(self.factory)
            except Unavailable as error:
                self.skip(name, str(error))
                return
        self._runner.bench_time_func(name, self._time, bench, eager, inner_loops=inner_loops)

    def add_sync(self, name: str, bench: Callable[[int], float], *, inner_loops: int = 1) -> None:
        """A benchmark that needs no loop, or makes its own."""
        if fnmatch.fnmatch(name, self.args.only):
            self._runner.bench_time_func(name, bench, inner_loops=inner_loops)

    def skip(self, name: str, reason: str) -> None:
        """Say what is not measured, and why."""
        if not self.args.worker:
            print(f"{name}: skipped on {self.args.loop}: {reason}", file=sys.stderr)

    def _time(self, loops: int, bench: AsyncBench, eager: bool) -> float:
        async def main() -> float:
            if eager:
                asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            return await bench(loops)

        with asyncio.Runner(loop_factory=self.factory) as runner:
            return runner.run(main())


def _pass_on(command: list[str], args: argparse.Namespace) -> None:
    command.extend(("--loop", args.loop, "--only", args.only))


def erlang_sources() -> None:
    """Make `erlang._tasks` and its like importable under plain Python too."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
