"""execute_concurrent beside a gather with a semaphore: 100,000 small statements, at most 100 at once.

    python statements.py --loop asyncio -o results.json

Against PostgreSQL (asyncpg, a pool of 10 connections) and against an echo server on the same loop (10 pipelined
connections). Each figure `<target>_<way>` is seconds per statement; `..._late_p99` and `..._late_max` say how late a
timer of the same loop fired meanwhile. For a driver with callbacks, whose answers come on a thread of its own, the
figures are `driver_<way>`. One process makes all samples, since a sample takes seconds; the output is pyperf's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import importlib
import socket
import statistics
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from time import perf_counter
from typing import Any, cast

import pyperf
from _loops import LOOPS, Unavailable, loop_factory
from _postgres import postgres
from _suite import erlang_sources

erlang_sources()
from _erlang_modules import erlang_module  # noqa: E402

executor = erlang_module("_executor")

WINDOW = 100
CONNECTIONS = 10
MESSAGE = 16
PROBE = 0.005

Statement = Callable[[int], Awaitable[Any]]
Way = Callable[[Statement, int], Awaitable[list[Any]]]


async def gather_semaphore(statement: Statement, count: int) -> list[Any]:
    semaphore = asyncio.Semaphore(WINDOW)

    async def one(number: int) -> Any:
        async with semaphore:
            return await statement(number)

    return await asyncio.gather(*[one(number) for number in range(count)])


async def on_the_loop(statement: Statement, count: int) -> list[Any]:
    results = await executor.execute_concurrent_async(statement, ((n,) for n in range(count)), WINDOW)
    return [value for _, value in results]


async def generator(statement: Statement, count: int) -> list[Any]:
    parameters = ((n,) for n in range(count))
    run = executor.execute_concurrent_async(statement, parameters, WINDOW, results_generator=True)
    return [value async for _, value in run]


async def from_a_thread(statement: Statement, count: int) -> list[Any]:
    parameters = [(n,) for n in range(count)]
    run = partial(executor.execute_concurrent, statement, parameters, WINDOW, loop=asyncio.get_running_loop())
    return [value for _, value in await asyncio.to_thread(run)]


WAYS: dict[str, Way] = {
    "gather_semaphore": gather_semaphore,
    "execute_concurrent_async": on_the_loop,
    "execute_concurrent_async_generator": generator,
    "execute_concurrent": from_a_thread,
}


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self.write(data)


class EchoClient(asyncio.Protocol):
    """One pipelined connection: answers come in the order of the questions."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked: deque[asyncio.Future[int]] = deque()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % MESSAGE
        for start in range(0, whole, MESSAGE):
            self._asked.popleft().set_result(int.from_bytes(data[start : start + MESSAGE]))
        self._rest = data[whole:]

    async def ask(self, number: int) -> int:
        answer: asyncio.Future[int] = self._loop.create_future()
        self._asked.append(answer)
        self.transport.write(number.to_bytes(MESSAGE))
        return await answer


@asynccontextmanager
async def echo_server() -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


@asynccontextmanager
async def echo_target() -> AsyncIterator[Statement]:
    loop = asyncio.get_running_loop()
    async with echo_server() as (host, port):
        clients = [(await loop.create_connection(EchoClient, host, port))[1] for _ in range(CONNECTIONS)]
        yield lambda number: clients[number % CONNECTIONS].ask(number)
        for client in clients:
            client.transport.close()


@asynccontextmanager
async def postgres_target(dsn: str) -> AsyncIterator[Statement]:
    asyncpg = importlib.import_module("asyncpg")

    async def no_reset(connection: Any) -> None:
        pass

    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=no_reset) as pool:
        yield partial(pool.fetchval, "SELECT $1::int")


class Driver:
    """A client with callbacks: any thread asks, its own thread reads the answers and completes the futures."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._asked: deque[Future[int]] = deque()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def ask(self, number: int) -> Future[int]:
        answer: Future[int] = Future()
        self._asked.append(answer)
        self._socket.sendall(number.to_bytes(MESSAGE))
        return answer

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        rest = b""
        while data := self._socket.recv(65536):
            data = rest + data
            whole = len(data) - len(data) % MESSAGE
            for start in range(0, whole, MESSAGE):
                self._asked.popleft().set_result(int.from_bytes(data[start : start + MESSAGE]))
            rest = data[whole:]


def driver_semaphore(driver: Driver, count: int) -> list[int]:
    semaphore = threading.Semaphore(WINDOW)
    futures = []
    for number in range(count):
        semaphore.acquire()
        future = driver.ask(number)
        future.add_done_callback(lambda _: semaphore.release())
        futures.append(future)
    return [future.result() for future in futures]


def driver_execute_concurrent(driver: Driver, count: int) -> list[int]:
    return [value for _, value in executor.execute_concurrent(driver.ask, [(n,) for n in range(count)], WINDOW)]


DRIVER_WAYS = {"semaphore": driver_semaphore, "execute_concurrent": driver_execute_concurrent}


class Probe:
    """How late a timer of this loop fires."""

    async def __aenter__(self) -> Probe:
        self._late: list[float] = []
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        # Once more, or a loop that was held all the time would show nothing.
        await asyncio.sleep(2 * PROBE)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _watch(self) -> None:
        while True:
            due = perf_counter() + PROBE
            await asyncio.sleep(PROBE)
            self._late.append(max(perf_counter() - due, 1e-6))

    def figures(self) -> dict[str, float]:
        late = sorted(self._late)
        return {"late_p99": late[len(late) * 99 // 100], "late_max": late[-1]}


Samples = dict[str, list[float]]


async def measure(target: str, statement: Statement, args: argparse.Namespace, samples: Samples) -> None:
    for way_name, way in WAYS.items():
        name = f"{target}_{way_name}"
        if not fnmatch.fnmatch(name, args.only):
            continue
        await way(statement, args.statements // 10)
        for _ in range(args.samples):
            async with Probe() as probe:
                started = perf_counter()
                results = await way(statement, args.statements)
                elapsed = perf_counter() - started
            if results != list(range(args.statements)):
                raise RuntimeError(f"{name}: wrong results")
            samples.setdefault(name, []).append(elapsed / args.statements)
            for figure, value in probe.figures().items():
                samples.setdefault(f"{name}_{figure}", []).append(value)
        report(name, samples)


async def measure_driver(args: argparse.Namespace, samples: Samples) -> None:
    async with echo_server() as address:
        driver = await asyncio.to_thread(Driver, address)
        for way_name, way in DRIVER_WAYS.items():
            name = f"driver_{way_name}"
            if not fnmatch.fnmatch(name, args.only):
                continue
            await asyncio.to_thread(way, driver, args.statements // 10)
            for _ in range(args.samples):
                async with Probe() as probe:
                    started = perf_counter()
                    results = await asyncio.to_thread(way, driver, args.statements)
                    elapsed = perf_counter() - started
                if results != list(range(args.statements)):
                    raise RuntimeError(f"{name}: wrong results")
                samples.setdefault(name, []).append(elapsed / args.statements)
                for figure, value in probe.figures().items():
                    samples.setdefault(f"{name}_{figure}", []).append(value)
            report(name, samples)
        await asyncio.to_thread(driver.close)


def report(name: str, samples: Samples) -> None:
    rate = 1 / statistics.median(samples[name])
    late = [statistics.median(samples[f"{name}_{figure}"]) * 1e3 for figure in ("late_p99", "late_max")]
    print(
        f"{name}: {rate:,.0f} statements/s; the loop late by {late[0]:.2f} ms (p99), {late[1]:.2f} ms (most)",
        flush=True,
    )


@contextmanager
def postgres_or_not() -> Iterator[str | None]:
    with ExitStack() as stack:
        dsn = None
        try:
            importlib.import_module("asyncpg")
            dsn = stack.enter_context(postgres())
        except (Unavailable, ImportError) as error:
            print(f"postgres: skipped: {error}", file=sys.stderr)
        yield dsn


def save(samples: Samples, args: argparse.Namespace) -> None:
    started = {"loop": args.loop, "statements": args.statements, "window": WINDOW, "unit": "second"}
    benchmarks = []
    for name, values in samples.items():
        run = pyperf.Run(values, metadata={"name": name, **started}, collect_metadata=True)
        benchmarks.append(pyperf.Benchmark([run]))
    pyperf.BenchmarkSuite(benchmarks).dump(args.output, replace=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    parser.add_argument("--only", default="*")
    parser.add_argument("--statements", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("-o", "--output", help="write pyperf JSON here")
    args = parser.parse_args()
    samples: Samples = {}

    async def run(dsn: str | None) -> None:
        async with echo_target() as statement:
            await measure("echo", statement, args, samples)
        await measure_driver(args, samples)
        if dsn is not None:
            async with postgres_target(dsn) as statement:
                await measure("postgres", statement, args, samples)

    try:
        factory = loop_factory(args.loop)
    except Unavailable as error:
        sys.exit(f"bench: {error}")
    with postgres_or_not() as dsn, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(dsn))
    if args.output and samples:
        save(samples, args)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
