"""What a loop's own parts cost: callbacks, timers, tasks, queues, locks, the executor, names, subprocesses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter

QUEUED = 10_000


async def call_soon_queued(loops: int) -> float:
    """10,000 callbacks queued at once, then run."""
    loop = asyncio.get_running_loop()
    started = perf_counter()
    for _ in range(loops):
        ended = loop.create_future()
        call_soon = loop.call_soon
        for _ in range(QUEUED - 1):
            call_soon(_nothing)
        call_soon(ended.set_result, None)
        await ended
    return perf_counter() - started


async def call_soon_chained(loops: int) -> float:
    """A callback that queues itself: one turn of the loop each."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    left = loops

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(again)
        else:
            ended.set_result(None)

    started = perf_counter()
    loop.call_soon(again)
    await ended
    return perf_counter() - started


async def call_soon_threadsafe(loops: int) -> float:
    """Callbacks from another thread, until the last has run."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    go = threading.Event()

    def post() -> None:
        go.wait()
        post_one = loop.call_soon_threadsafe
        for _ in range(loops - 1):
            post_one(_nothing)
        post_one(ended.set_result, None)

    thread = threading.Thread(target=post)
    thread.start()
    started = perf_counter()
    go.set()
    await ended
    elapsed = perf_counter() - started
    thread.join()
    return elapsed


async def call_later(delay: float, loops: int) -> float:
    """10,000 timers armed at once, until the last has fired, the delay itself taken off."""
    loop = asyncio.get_running_loop()
    elapsed = 0.0
    for _ in range(loops):
        ended = loop.create_future()
        left = QUEUED

        def fire(ended: asyncio.Future[None] = ended) -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set_result(None)

        started = perf_counter()
        for _ in range(QUEUED):
            loop.call_later(delay, fire)
        await ended
        elapsed += perf_counter() - started - delay
    return elapsed


async def call_later_cancelled(loops: int) -> float:
    """Timers of an hour armed and cancelled, as every timeout that is not reached does."""
    loop = asyncio.get_running_loop()
    started = perf_counter()
    for _ in range(loops):
        for _ in range(QUEUED):
            loop.call_later(3600, _nothing).cancel()
        await asyncio.sleep(0)
    return perf_counter() - started


async def sleep(delay: float, loops: int) -> float:
    started = perf_counter()
    for _ in range(loops):
        await asyncio.sleep(delay)
    return perf_counter() - started


async def sleep_0_100_tasks(loops: int) -> float:
    started = perf_counter()
    await asyncio.gather(*[sleep(0, loops) for _ in range(100)])
    return perf_counter() - started


async def create_task(eager: bool, loops: int) -> float:
    loop = asyncio.get_running_loop()
    started = perf_counter()
    if eager:
        for _ in range(loops):
            await asyncio.Task(_coroutine(), loop=loop, eager_start=True)
    else:
        for _ in range(loops):
            await asyncio.create_task(_coroutine())
    return perf_counter() - started


async def gather_1000(loops: int) -> float:
    started = perf_counter()
    for _ in range(loops):
        await asyncio.gather(*[_coroutine() for _ in range(1000)])
    return perf_counter() - started


async def task_group_1000(loops: int) -> float:
    started = perf_counter()
    for _ in range(loops):
        async with asyncio.TaskGroup() as group:
            for _ in range(1000):
                group.create_task(_coroutine())
    return perf_counter() - started


async def timeout(loops: int) -> float:
    """asyncio.timeout around something that suspends once."""
    started = perf_counter()
    for _ in range(loops):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
    return perf_counter() - started


async def queue(size: int, loops: int) -> float:
    """One task puts, one gets."""
    items: asyncio.Queue[int] = asyncio.Queue(size)

    async def put() -> None:
        for n in range(loops):
            await items.put(n)

    async def get() -> None:
        for _ in range(loops):
            await items.get()

    started = perf_counter()
    await asyncio.gather(put(), get())
    return perf_counter() - started


async def lock(tasks: int, loops: int) -> float:
    """`tasks` tasks go through one lock and suspend once inside it; alone, none ever waits."""
    mutex = asyncio.Lock()

    async def enter() -> None:
        for _ in range(loops):
            async with mutex:
                if tasks > 1:
                    await asyncio.sleep(0)

    started = perf_counter()
    await asyncio.gather(*[enter() for _ in range(tasks)])
    return perf_counter() - started


async def event(loops: int) -> float:
    """Two tasks wake one another through events."""
    ping, pong = asyncio.Event(), asyncio.Event()

    async def answer() -> None:
        for _ in range(loops):
            await ping.wait()
            ping.clear()
            pong.set()

    task = asyncio.create_task(answer())
    started = perf_counter()
    for _ in range(loops):
        ping.set()
        await pong.wait()
        pong.clear()
    elapsed = perf_counter() - started
    await task
    return elapsed


async def getaddrinfo(host: str, loops: int) -> float:
    loop = asyncio.get_running_loop()
    started = perf_counter()
    for _ in range(loops):
        await loop.getaddrinfo(host, 80)
    return perf_counter() - started


async def subprocess_exit(loops: int) -> float:
    """Start /bin/true and wait for it."""
    started = perf_counter()
    for _ in range(loops):
        process = await asyncio.create_subprocess_exec("/bin/true")
        if await process.wait() != 0:
            raise RuntimeError(f"/bin/true returned {process.returncode}")
    return perf_counter() - started


async def subprocess_pipes(loops: int) -> float:
    """64 KiB there and back through a running `cat`."""
    data = b"x" * 65536
    process = await asyncio.create_subprocess_exec(
        "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    started = perf_counter()
    for _ in range(loops):
        process.stdin.write(data)
        if await process.stdout.readexactly(len(data)) != data:
            raise RuntimeError("cat gave something else back")
    elapsed = perf_counter() - started
    process.stdin.close()
    await process.wait()
    return elapsed


def _nothing() -> None:
    pass


async def _coroutine() -> None:
    pass


def main() -> None:
    from _suite import Suite

    suite = Suite(__doc__)
    add: Callable[..., None] = suite.add
    add("call_soon_queued", call_soon_queued, inner_loops=QUEUED)
    add("call_soon_chained", call_soon_chained)
    add("call_soon_threadsafe", call_soon_threadsafe)
    add("call_later_0", partial(call_later, 0), inner_loops=QUEUED)
    add("call_later_10ms", partial(call_later, 0.01), inner_loops=QUEUED)
    add("call_later_cancelled", call_later_cancelled, inner_loops=QUEUED)
    add("sleep_0", partial(sleep, 0))
    add("sleep_0_100_tasks", sleep_0_100_tasks, inner_loops=100)
    add("sleep_1.3ms", partial(sleep, 0.0013))
    add("create_task", partial(create_task, False))
    add("create_task_eager", partial(create_task, True))
    add("gather_1000", gather_1000, inner_loops=1000)
    add("task_group_1000", task_group_1000, inner_loops=1000)
    add("timeout", timeout)
    add("queue_1", partial(queue, 1))
    add("queue_unbounded", partial(queue, 0))
    add("lock_alone", partial(lock, 1))
    add("lock_10_tasks", partial(lock, 10), inner_loops=10)
    add("event_ping_pong", event)
    add("getaddrinfo_numeric", partial(getaddrinfo, "127.0.0.1"))
    add("getaddrinfo_localhost", partial(getaddrinfo, "localhost"))
    add("subprocess_exit", subprocess_exit)
    add("subprocess_pipes_64k", subprocess_pipes)


if __name__ == "__main__":
    main()
