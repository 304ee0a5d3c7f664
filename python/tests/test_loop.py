"""The loop as asyncio users see it. Tests that take `factory` run on our loop and on asyncio's own."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erlang._loop import ErlangEventLoop, new_event_loop
from erlang._run import run

Factory = Callable[[], Any]


@pytest.fixture(params=[ErlangEventLoop, asyncio.SelectorEventLoop], ids=["erlang", "asyncio"])
def factory(request: pytest.FixtureRequest) -> Factory:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def loop(factory: Factory) -> Iterator[Any]:
    loop = factory()
    yield loop
    loop.close()


@pytest.fixture
def ours() -> Iterator[ErlangEventLoop]:
    loop = new_event_loop()
    yield loop
    loop.close()


def step(loop: Any) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_callbacks_run_in_the_order_they_were_queued(loop: Any) -> None:
    seen: list[int] = []
    loop.call_soon(seen.append, 1)
    loop.call_soon_threadsafe(seen.append, 2)
    loop.call_soon(seen.append, 3)
    step(loop)
    assert seen == [1, 2, 3]


def test_a_callback_queued_by_a_callback_waits_for_the_next_step(loop: Any) -> None:
    seen: list[str] = []
    loop.call_soon(lambda: loop.call_soon(seen.append, "inner"))
    loop.call_soon(seen.append, "outer")
    step(loop)
    assert seen == ["outer"]
    step(loop)
    assert seen == ["outer", "inner"]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 20])
def test_arguments_of_any_number(loop: Any, count: int) -> None:
    seen: list[Any] = []
    handle = loop.call_soon(lambda *args: seen.append(args), *range(count))
    assert handle._args == tuple(range(count))
    step(loop)
    assert seen == [tuple(range(count))]


def test_callbacks_may_come_by_keyword(loop: Any) -> None:
    seen: list[int] = []
    loop.call_soon(callback=lambda: seen.append(1))
    loop.call_later(delay=0, callback=lambda: seen.append(2))
    with pytest.raises(TypeError):
        loop.call_soon()
    with pytest.raises(TypeError):
        loop.call_soon(print, wrong=1)
    loop.call_later(0, loop.stop)
    loop.run_forever()
    assert sorted(seen) == [1, 2]


def test_a_callback_runs_in_its_context(loop: Any) -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)
    seen: list[int] = []
    context = contextvars.copy_context()
    context.run(var.set, 5)
    loop.call_soon(lambda: seen.append(var.get()), context=context)
    var.set(7)
    loop.call_soon(lambda: seen.append(var.get()))
    var.set(9)
    step(loop)
    assert seen == [5, 7]


def test_timers_fire_in_order_and_never_early(loop: Any) -> None:
    fired: list[tuple[float, float]] = []
    now = loop.time()
    for delay in (0.004, 0.0013, 0.002, 0.0007):
        loop.call_at(now + delay, lambda when: fired.append((when, loop.time())), now + delay)
    loop.call_at(now + 0.005, loop.stop)
    loop.run_forever()
    assert [when for when, _ in fired] == sorted(when for when, _ in fired)
    assert len(fired) == 4
    assert all(at >= when - loop._clock_resolution for when, at in fired)


def test_timers_of_one_moment_keep_their_order(ours: ErlangEventLoop) -> None:
    seen: list[int] = []
    when = ours.time()
    for i in range(200):
        ours.call_at(when, seen.append, i)
    ours.call_at(when, ours.stop)
    ours.run_forever()
    assert seen == list(range(200))


def test_a_timer_cannot_be_at_nan(ours: ErlangEventLoop) -> None:
    with pytest.raises(ValueError):
        ours.call_later(float("nan"), print)
    with pytest.raises(TypeError):
        ours.call_later("1", print)  # type: ignore[arg-type]
    ours.call_later(float("inf"), print).cancel()


def test_cancelled_timers_are_dropped_when_they_are_many(loop: Any) -> None:
    class Payload:
        pass

    payload = Payload()
    ref = weakref.ref(payload)
    handles = [loop.call_later(3600, print, payload) for _ in range(1000)]
    for handle in handles:
        handle.cancel()
    del payload, handles, handle
    step(loop)
    assert len(loop._scheduled) == 0
    gc.collect()
    assert ref() is None


def test_many_threads_queue_at_once(factory: Factory) -> None:
    loop = factory()
    threads, each = 8, 2000
    seen: list[tuple[int, int]] = []

    def worker(number: int) -> None:
        for i in range(each):
            loop.call_soon_threadsafe(seen.append, (number, i))

    def done() -> None:
        for thread in workers:
            thread.join()
        loop.call_soon_threadsafe(loop.stop)

    workers = [threading.Thread(target=worker, args=(n,)) for n in range(threads)]
    waiter = threading.Thread(target=done)
    for thread in [*workers, waiter]:
        loop.call_soon(thread.start)
    loop.run_forever()
    waiter.join()
    loop.close()
    assert len(seen) == threads * each
    for number in range(threads):
        assert [i for n, i in seen if n == number] == list(range(each))


def test_a_sleeping_loop_is_woken_each_time(factory: Factory) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        total = 0
        for _ in range(300):
            total += await loop.run_in_executor(None, int, 1)
        return total

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == 300


def test_a_loop_on_each_of_many_threads(factory: Factory) -> None:
    async def main(n: int) -> int:
        await asyncio.sleep(0.001)
        return n

    results: list[int] = []

    def worker(n: int) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            results.append(runner.run(main(n)))

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(20))


def test_an_exception_of_a_callback_goes_to_the_handler(loop: Any) -> None:
    seen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: seen.append(context))

    def fail() -> None:
        raise ZeroDivisionError("x")

    handle = loop.call_soon(fail)
    step(loop)
    assert len(seen) == 1
    assert isinstance(seen[0]["exception"], ZeroDivisionError)
    assert seen[0]["handle"] is handle
    assert "fail" in seen[0]["message"]


def test_system_exit_leaves_the_loop_and_loses_no_callback(loop: Any) -> None:
    seen: list[int] = []

    def leave() -> None:
        raise SystemExit(3)

    loop.call_soon(leave)
    loop.call_soon(seen.append, 1)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert seen == []
    assert not loop.is_running()
    step(loop)
    assert seen == [1]


def test_readers_and_writers(loop: Any) -> None:
    a, b = socket.socketpair()
    a.setblocking(False)
    seen: list[str] = []
    loop.add_reader(a, lambda: (seen.append("read"), a.recv(10), loop.remove_reader(a)))
    loop.add_writer(a.fileno(), lambda: (seen.append("write"), loop.remove_writer(a)))
    loop.call_later(0.2, loop.stop)
    b.send(b"x")
    while len(seen) < 2:
        loop._run_once()
    assert sorted(seen) == ["read", "write"]
    assert loop.remove_reader(a) is False
    assert loop.remove_writer(a) is False
    a.close()
    b.close()


def test_a_replaced_reader_is_cancelled(loop: Any) -> None:
    a, b = socket.socketpair()
    seen: list[str] = []
    first = loop._add_reader(a.fileno(), seen.append, "first")
    loop._add_reader(a.fileno(), lambda: (seen.append("second"), a.recv(1), loop.stop()))
    assert first.cancelled()
    b.send(b"x")
    loop.run_forever()
    assert seen == ["second"]
    assert loop.remove_reader(a) is True
    a.close()
    b.close()


def test_a_bad_fd_is_an_error(loop: Any) -> None:
    a, b = socket.socketpair()
    fd = a.fileno()
    a.close()
    with pytest.raises(OSError):
        loop.add_reader(fd, print)
    with pytest.raises(ValueError):
        loop.add_reader(a, print)
    with pytest.raises(ValueError):
        loop.add_reader(object(), print)
    with pytest.raises(OSError):
        loop.add_reader(2**30, print)
    assert fd not in loop._selector.get_map()
    b.close()


def test_an_fd_number_that_came_again_is_watched(ours: ErlangEventLoop) -> None:
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    fd = a.detach()
    ours.add_reader(fd, print)
    os.dup2(c.fileno(), fd)  # closes a without remove_reader, as careless code does
    got: list[bytes] = []
    ours.add_writer(fd, lambda: None)
    ours.add_reader(fd, lambda: (got.append(os.read(fd, 1)), ours.stop()))
    d.send(b"z")
    ours.run_forever()
    assert got == [b"z"]
    ours.remove_reader(fd)
    ours.remove_writer(fd)
    os.close(fd)
    for sock in (b, c, d):
        sock.close()


def test_the_selector_shows_what_is_watched(loop: Any) -> None:
    a, b = socket.socketpair()
    loop.add_reader(a, print)
    loop.add_writer(a, print)
    key = loop._selector.get_key(a.fileno())
    assert key.events == 3
    reader, writer = key.data
    assert isinstance(reader, asyncio.Handle)
    assert isinstance(writer, asyncio.Handle)
    loop.remove_reader(a)
    assert loop._selector.get_key(a.fileno()).events == 2
    loop.remove_writer(a)
    assert a.fileno() not in loop._selector.get_map()
    a.close()
    b.close()


def test_fds_are_served_while_callbacks_chain(loop: Any) -> None:
    a, b = socket.socketpair()
    rounds = 0

    def again() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1000:
            b.send(b"x")
        loop.call_soon(again)

    loop.add_reader(a, loop.stop)
    loop.call_soon(again)
    loop.run_forever()
    assert rounds >= 1000
    loop.remove_reader(a)
    a.close()
    b.close()


def test_close_drops_what_waits(factory: Factory) -> None:
    loop = factory()

    class Payload:
        pass

    payload = Payload()
    ref = weakref.ref(payload)
    a, b = socket.socketpair()
    loop.call_soon(print, payload)
    loop.call_later(100, print, payload)
    loop.add_reader(a, print, payload)
    loop.close()
    loop.close()
    del payload
    gc.collect()
    assert ref() is None
    for call in (loop.call_soon, loop.call_soon_threadsafe):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call(print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_later(1, print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_forever()
    assert loop.remove_reader(a) is False
    a.close()
    b.close()


def test_a_closed_loop_leaves_no_fd(factory: Factory) -> None:
    def fds() -> int:
        return len(os.listdir("/proc/self/fd"))

    factory().close()
    before = fds()
    for _ in range(5):
        loop = factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert fds() == before


def test_an_unclosed_loop_warns_and_is_collected(factory: Factory) -> None:
    loop = factory()
    ref = weakref.ref(loop)
    loop.call_later(100, loop.stop)
    holder = [loop]
    del loop

    def drop() -> None:
        holder.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        drop()
    assert ref() is None


def test_debug_mode_is_asyncios(loop: Any, caplog: pytest.LogCaptureFixture) -> None:
    loop.set_debug(True)
    handle = loop.call_soon(print)
    timer = loop.call_later(1, print)
    for each in (handle, timer):
        assert each._source_traceback[-1].name == "test_debug_mode_is_asyncios"
    timer.cancel()
    with pytest.raises(TypeError):
        loop.call_soon(asyncio.sleep)
    handle.cancel()
    loop.slow_callback_duration = 0
    loop.call_soon(int)
    step(loop)
    assert "Executing <Handle int()" in caplog.text

    errors: list[BaseException] = []

    def other_thread() -> None:
        try:
            loop.call_soon(print)
        except RuntimeError as error:
            errors.append(error)

    def inside() -> None:
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()

    loop.call_soon(inside)
    step(loop)
    assert "Non-thread-safe operation" in str(errors[0])


def test_transports_read_at_most_64_kib() -> None:
    async def main() -> int:
        largest = 0

        class Reader(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                nonlocal largest
                largest = max(largest, len(data))

            def connection_lost(self, exc: Exception | None) -> None:
                done.set_result(None)

        loop = asyncio.get_running_loop()
        done = loop.create_future()
        a, b = socket.socketpair()
        await loop.connect_accepted_socket(Reader, a)
        _, writer = await asyncio.open_connection(sock=b)
        writer.write(bytes(1 << 20))
        writer.close()
        await done
        return largest

    assert 0 < run(main()) <= 64 * 1024


def test_subprocess_status_and_output(factory: Factory) -> None:
    async def main() -> tuple[bytes, int | None]:
        code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(7)"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate(b"abc")
        return out, process.returncode

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == (b"ABC", 7)


def test_signals_on_the_main_thread(loop: Any) -> None:
    if threading.current_thread() is not threading.main_thread():
        with pytest.raises(RuntimeError):
            loop.add_signal_handler(signal.SIGUSR2, loop.stop)
        return
    seen: list[int] = []
    loop.add_signal_handler(signal.SIGUSR2, lambda: (seen.append(1), loop.stop()))
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR2)
    loop.run_forever()
    assert seen == [1]
    assert loop.remove_signal_handler(signal.SIGUSR2)


def test_a_forked_child_has_no_running_loop(factory: Factory) -> None:
    async def main() -> int:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                os._exit(0)
            os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main()) == 0


def test_task_factories_are_used(loop: Any) -> None:
    made: list[Any] = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)

    async def main() -> str:
        return await asyncio.create_task(asyncio.sleep(0, "x"), name="named")

    assert loop.run_until_complete(main()) == "x"
    assert len(made) == 2
    with pytest.raises(TypeError):
        loop.set_task_factory(1)


def test_tasks_have_names_and_contexts(loop: Any) -> None:
    async def name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    context = contextvars.copy_context()

    async def main() -> list[str]:
        tasks = [loop.create_task(name(), name="a"), loop.create_task(name(), name="b", context=context)]
        return list(await asyncio.gather(*tasks))

    assert loop.run_until_complete(main()) == ["a", "b"]


def test_eager_tasks_finish_without_a_step(loop: Any) -> None:
    loop.set_task_factory(asyncio.eager_task_factory)
    steps: list[int] = []

    async def leaf() -> int:
        return 1

    async def main() -> int:
        loop.call_soon(steps.append, 1)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(leaf()) for _ in range(10)]
            assert all(task.done() for task in tasks)
            assert not steps
        return sum(task.result() for task in tasks)

    assert loop.run_until_complete(main()) == 10


def test_run_returns_what_main_returns() -> None:
    async def main() -> str:
        assert type(asyncio.get_running_loop()) is ErlangEventLoop
        return "done"

    assert run(main()) == "done"


def test_stop_before_run_makes_one_step(loop: Any) -> None:
    seen: list[int] = []
    loop.call_soon(seen.append, 1)
    loop.stop()
    loop.run_forever()
    assert seen == [1]


def test_async_generators_are_closed(loop: Any) -> None:
    closed: list[int] = []

    async def generator() -> Any:
        try:
            yield 1
        finally:
            closed.append(1)

    async def main() -> None:
        async for _ in generator():
            break
        gc.collect()
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [1]


def test_a_loop_on_a_selector_of_its_own() -> None:
    import selectors

    loop = ErlangEventLoop(selectors.SelectSelector())

    async def main() -> int:
        await asyncio.sleep(0.001)
        return await loop.run_in_executor(None, int, 5)

    assert loop.run_until_complete(main()) == 5
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
