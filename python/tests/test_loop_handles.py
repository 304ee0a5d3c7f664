"""Handle and TimerHandle of the C loop against asyncio's own."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erlang._loop import ErlangEventLoop


@pytest.fixture(params=[ErlangEventLoop, asyncio.SelectorEventLoop], ids=["erlang", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Iterator[Any]:
    factory: Callable[[], Any] = request.param
    loop = factory()
    yield loop
    loop.close()


def callback(*args: Any) -> None:
    pass


def step(loop: Any) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_handles_are_asyncios_to_isinstance(loop: Any) -> None:
    handle, timer = loop.call_soon(callback), loop.call_later(1, callback)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert type(handle).__name__ == "Handle"
    assert type(timer).__name__ == "TimerHandle"


def test_repr_is_asyncios(loop: Any) -> None:
    handle, timer = loop.call_soon(callback, 1, "x"), loop.call_at(12.5, callback)
    assert repr(handle) == repr(asyncio.Handle(callback, (1, "x"), loop))
    assert repr(timer) == repr(asyncio.TimerHandle(12.5, callback, (), loop))
    handle.cancel()
    timer.cancel()
    assert repr(handle) == "<Handle cancelled>"
    assert repr(timer) == "<TimerHandle cancelled when=12.5>"


def test_a_handle_made_before_debug_mode_keeps_its_repr(loop: Any) -> None:
    handle = loop.call_soon(callback)
    loop.set_debug(True)
    handle.cancel()
    loop.set_debug(False)
    assert "callback" in repr(handle)


def test_fields_before_and_after_cancel(loop: Any) -> None:
    handle = loop.call_soon(callback, 1, 2)
    assert (handle._callback, handle._args, handle._cancelled) == (callback, (1, 2), False)
    assert handle._loop is loop
    assert handle._source_traceback is None
    assert handle.get_context() is handle._context
    handle.cancel()
    handle.cancel()
    assert (handle._callback, handle._args, handle._cancelled) == (None, None, True)
    assert handle.cancelled()


def test_when_and_comparisons(loop: Any) -> None:
    early, late = loop.call_at(1.0, callback), loop.call_at(2.0, callback)
    twin = loop.call_at(1.0, callback)
    assert early.when() == 1.0
    assert early < late
    assert late > early
    assert early <= twin
    assert early >= twin
    assert early == twin
    assert early != late
    assert hash(early) == hash(twin)
    assert early.__lt__(3) is NotImplemented
    assert (early == 3) is False


def test_our_timers_compare_with_asyncios() -> None:
    loop = ErlangEventLoop()
    ours = loop.call_at(1.0, callback)
    loop.set_debug(True)
    stock = loop.call_at(1.0, callback)
    loop.set_debug(False)
    assert type(ours) is not type(stock)
    assert ours == stock
    assert stock == ours
    assert ours <= stock
    loop.close()


def test_a_held_handle_is_never_used_for_another_call() -> None:
    loop = ErlangEventLoop()
    ran: list[int] = []
    held = [loop.call_soon(ran.append, i) for i in range(50)]
    step(loop)
    assert len(ran) == 50
    fresh = [loop.call_soon(ran.append, 100 + i) for i in range(50)]
    assert not {id(h) for h in held} & {id(h) for h in fresh}
    for handle in held:
        handle.cancel()
    step(loop)
    assert ran[50:] == list(range(100, 150))
    loop.close()


def test_a_dropped_handle_is_used_again() -> None:
    loop = ErlangEventLoop()
    step(loop)
    first = id(loop.call_soon(callback))
    step(loop)
    step(loop)
    assert first in {id(loop.call_soon(callback)) for _ in range(4)}
    loop.close()


def test_weak_references_die_with_the_handle(loop: Any) -> None:
    handle = loop.call_soon(callback)
    gone: list[int] = []
    ref = weakref.ref(handle, lambda _: gone.append(1))
    assert ref() is handle
    del handle
    step(loop)
    gc.collect()
    assert ref() is None
    assert gone == [1]


def test_a_callback_may_cancel_its_own_handle(loop: Any) -> None:
    handles: list[Any] = []
    seen: list[Any] = []

    def suicidal(argument: object) -> None:
        handles.pop().cancel()
        gc.collect()
        seen.append(argument)

    handles.append(loop.call_soon(suicidal, object()))
    step(loop)
    assert len(seen) == 1


def test_a_cancelled_callback_does_not_run(loop: Any) -> None:
    ran: list[int] = []
    victim = loop.call_soon(ran.append, 2)
    loop._ready.popleft()
    loop.call_soon(victim.cancel)
    loop._ready.append(victim)
    step(loop)
    assert ran == []


def test_callback_and_arguments_are_released_once_run(loop: Any) -> None:
    class Payload:
        def method(self, other: object) -> None:
            pass

    payload = Payload()
    ref = weakref.ref(payload)
    loop.call_soon(payload.method, payload)
    loop.call_later(0, payload.method, payload)
    del payload
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    gc.collect()
    assert ref() is None


def test_cycles_through_handles_are_collected(loop: Any) -> None:
    class Node:
        pass

    node: Any = Node()
    node.handle = loop.call_later(1000, callback, node)
    node.handle.cancel()
    ref = weakref.ref(node)
    del node
    gc.collect()
    assert ref() is None


def test_references_balance() -> None:
    loop = ErlangEventLoop()
    argument = object()

    def fail(_: object) -> None:
        raise ValueError

    loop.set_exception_handler(lambda *_: None)
    before = sys.getrefcount(argument), sys.getrefcount(callback), sys.getrefcount(fail)
    for _ in range(1000):
        loop.call_soon(callback, argument)
        loop.call_soon(callback, argument, argument, argument, argument, argument)
        loop.call_soon(fail, argument)
        loop.call_later(0, callback, argument).cancel()
        loop.call_later(0, callback, argument)
        loop.call_soon_threadsafe(callback, argument)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    gc.collect()
    assert (sys.getrefcount(argument), sys.getrefcount(callback), sys.getrefcount(fail)) == before
    loop.close()


def test_a_context_that_is_entered_already_is_an_error_of_the_callback(
    loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    context = contextvars.copy_context()
    loop.call_soon(callback, context=context)
    loop.call_soon(loop.stop)
    context.run(loop.run_forever)
    assert "Exception in callback callback()" in caplog.text
    assert "cannot enter context" in caplog.text
