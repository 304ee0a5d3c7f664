"""What Python alone can see of callbacks, messages, monitors, channels and shared state; the rest is Common Test's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import signal
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

erlang = pytest.importorskip("erlang", reason="only inside the BEAM")
_erlang = pytest.importorskip("_erlang", reason="only inside the BEAM")

LOOPS: list[Any] = [asyncio.new_event_loop, erlang.new_event_loop]


@pytest.fixture
def key() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    erlang.state_delete(name)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no_such_function"):
        _ = erlang.no_such_function
    with pytest.raises(ImportError):
        exec("from erlang import no_such_function")
    with pytest.raises(erlang.ErlangError) as caught:
        erlang.call("no_such_function", 1)
    assert caught.value.class_ == "error"
    assert caught.value.reason == ("not_registered", "no_such_function")
    assert not isinstance(erlang.Interrupted(), Exception)


def test_error_object() -> None:
    error = erlang.ErlangError("exit", ("shutdown", 1))
    assert str(error) == "exception exit: ('shutdown', 1)"
    assert (error.class_, error.reason, error.stacktrace) == ("exit", ("shutdown", 1), [])
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.class_, copy.reason, str(copy)) == (error.class_, error.reason, str(error))


def test_error_from_erlang_can_be_pickled() -> None:
    with pytest.raises(erlang.ErlangError) as caught:
        erlang.call("no_such_function")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.stacktrace) == (str(caught.value), caught.value.stacktrace)


def test_apply() -> None:  # a program of erlpy may call everything
    assert erlang.apply("lists", "reverse", [[1, 2, 3]]) == [3, 2, 1]
    assert erlang.apply("erlang", "node") == "nonode@nohost"
    with pytest.raises(erlang.ErlangError, match="bad argument") as caught:
        erlang.apply("erlang", "binary_to_integer", ["x"])
    module, function, arity, _, _ = caught.value.stacktrace[0]
    assert (module, function, arity) == ("erlang", "binary_to_integer", 1)
    with pytest.raises(TimeoutError):
        erlang.apply("timer", "sleep", [10_000], timeout=0.01)
    with pytest.raises(erlang.ErlangError, match="not_allowed"):
        erlang.apply("no module of this name", "x")
    with pytest.raises(TypeError):
        erlang.apply("lists", "reverse", 1)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1"])
def test_bad_timeouts(timeout: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        erlang.call("f", timeout=timeout)


def test_no_keywords() -> None:
    with pytest.raises(TypeError, match="keyword"):
        erlang.call("f", other=1)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_async_error(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> str:
        try:
            await erlang.async_call("no_such_function")
        except erlang.ErlangError as error:
            return str(error)
        return ""

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert "not_registered" in runner.run(main())


def test_self_needs_a_request() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError):
        pool.submit(erlang.self).result()


def test_whereis() -> None:
    assert isinstance(erlang.whereis("kernel_sup"), erlang.Pid)
    assert erlang.whereis("nobody" + uuid.uuid4().hex) is None
    with pytest.raises(TypeError):
        erlang.whereis(1)


def test_send_errors() -> None:
    with pytest.raises(LookupError):
        erlang.send("nobody" + uuid.uuid4().hex, 1)
    with pytest.raises(TypeError):
        erlang.send(3, 1)
    with pytest.raises(TypeError):
        erlang.send(("a", "b", "c"), 1)


def test_monitor_of_the_living() -> None:
    watch = erlang.monitor("kernel_sup")
    with pytest.raises(TimeoutError):
        watch.wait(0.01)
    assert not watch.done()
    watch.demonitor()
    with pytest.raises(RuntimeError):
        watch.wait()


def test_monitor_of_nobody() -> None:
    assert erlang.monitor("kernel_sup_of_another_world").wait(10) == "noproc"


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_monitor_awaited_with_a_timeout(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> Any:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await erlang.monitor("kernel_sup")
        return await erlang.monitor("kernel_sup_of_another_world")

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == "noproc"


def test_state(key: str) -> None:
    assert erlang.state_get(key) is None
    assert erlang.state_get(key, 7) == 7
    erlang.state_set(key, {"a": [1, (2.5, b"\xff")]})
    assert erlang.state_get(key) == {"a": [1, (2.5, b"\xff")]}
    assert key in erlang.state_keys()
    erlang.state_delete(key)
    assert key not in erlang.state_keys()


def test_counters_of_many_threads(key: str) -> None:
    def work() -> None:
        for _ in range(200):
            erlang.state_incr(key)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert erlang.state_decr(key, 600) == 1000


def test_channel_arguments() -> None:
    for wrong in ({"capacity": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError):
            erlang.Channel(**wrong)
    with pytest.raises(TypeError):
        erlang.Channel(handle="x")


def test_channel_crosses_and_is_the_same(key: str) -> None:
    channel = erlang.Channel(capacity=3)
    erlang.state_set(key, channel)
    again = erlang.state_get(key)
    assert again == channel
    assert hash(again) == hash(channel)
    assert again != erlang.Channel()
    assert isinstance(again, erlang.Channel)


def test_full_channel() -> None:
    channel = erlang.Channel(capacity=2)
    channel.send(1)
    channel.send(2)
    with pytest.raises(TimeoutError):
        channel.send(3, timeout=0.01)
    with pytest.raises(TimeoutError):
        channel.send(3, timeout=0)
    with pytest.raises(TimeoutError):
        channel.recv(timeout=0.01)
    assert len(channel) == 0
    assert channel  # open, though nothing waits


def test_closing_wakes_a_suspended_sender() -> None:
    channel = erlang.Channel(capacity=1)
    channel.send(1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(channel.send, 2)
        while not sending.running():
            pass
        channel.close()
        with pytest.raises(EOFError):
            sending.result()


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_suspended_coroutine_can_be_cancelled(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        channel = erlang.Channel(capacity=1)
        await channel.async_send(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await channel.async_send(2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(channel)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_subclass_of_a_channel_is_collected() -> None:
    class Named(erlang.Channel):
        pass

    channel = Named(capacity=1)
    channel.loop = channel
    gone = weakref.ref(channel)
    del channel
    gc.collect()
    assert gone() is None


def test_pending_call() -> None:
    pending = _erlang.start(("nothing of the kind",), ())
    with pytest.raises(erlang.ErlangError):
        pending.wait(60)
    with pytest.raises(RuntimeError):
        pending.result()
    assert pending.done()
    assert not pending.cancel()
    with pytest.raises(TypeError):
        _erlang.start("f", [])


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
def test_signal_ends_a_wait() -> None:
    class Alarm(Exception):
        pass

    def handler(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGUSR1, handler)

    def wait() -> None:
        timer.start()
        erlang.Channel().recv()

    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(Alarm):
            wait()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
