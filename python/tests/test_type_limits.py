"""How deep and how large a value may be, and that conversions leak nothing when they fail."""

from __future__ import annotations

import collections
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

if "_erlang" not in sys.builtin_module_names:
    pytest.skip("inside the BEAM only", allow_module_level=True)

from _conversion import Probe, registered

import _erlang
import erlang
from _erlang import roundtrip, term_text
from erlang import ImproperList


def deep(wrap: Callable[[Any], Any], depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS: list[Callable[[Any], Any]] = [
    lambda v: [v], lambda v: (v,), lambda v: {1: v}, lambda v: ImproperList([v], 1),
    lambda v: collections.OrderedDict(x=v), lambda v: frozenset([v]),
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_depth(wrap: Callable[[Any], Any]) -> None:
    roundtrip(deep(wrap, 900)) if wrap is not WRAPS[5] else term_text(deep(wrap, 900))
    with pytest.raises(RecursionError, match="1000 levels"):
        roundtrip(deep(wrap, 1001))
    with pytest.raises(RecursionError):
        roundtrip(deep(wrap, 50_000))


@pytest.mark.parametrize("kilobytes", [256, 512, 1024])
@pytest.mark.parametrize("limit", [1000, 10_000])
def test_depth_from_a_small_thread(kilobytes: int, limit: int) -> None:
    caught: list[int] = []
    # made and dropped here: to drop nested objects takes CPython much stack, too
    values = [deep(wrap, depth) for depth in (30, limit - 1, 50_000) for wrap in WRAPS[:-1]]

    def run() -> None:
        for value in values:
            try:
                roundtrip(value)
                caught.append(0)
            except RecursionError:
                caught.append(1)

    erlang.set_conversion_limits(depth=limit)
    threading.stack_size(kilobytes * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(0)
        thread.join()
        erlang.set_conversion_limits()
    wraps = len(WRAPS) - 1
    assert (caught[:wraps], caught[-wraps:], len(caught)) == ([0] * wraps, [1] * wraps, 3 * wraps)


def test_cycles_say_so() -> None:
    direct: list[Any] = []
    direct.append(direct)
    through: dict[int, Any] = {}
    through[1] = [({2: through},)]
    for value in (direct, through):
        with pytest.raises(ValueError, match="contains itself"):
            roundtrip(value)


def test_size_limit() -> None:
    try:
        _erlang._set_limits(100, 1000)
        for value in ([0] * 1001, (0,) * 1001, {n: n for n in range(600)}, [[0] * 100] * 11, set(range(1001))):
            with pytest.raises(ValueError, match="1000 items"):
                roundtrip(value)
        with pytest.raises(RecursionError, match="100 levels"):
            roundtrip(deep(lambda v: [v], 101))
    finally:
        _erlang._set_limits(1000, 0)
    for depth, items in ((0, 0), (10**6, 0), (10, -1)):
        with pytest.raises(ValueError, match="depth"):
            _erlang._set_limits(depth, items)


def test_errors_on_the_way_leak_nothing() -> None:
    class Fails:
        pass

    probe = Probe()
    alive = weakref.ref(probe)
    with registered(Fails)(lambda v: 1 / 0):
        for value in (
            [probe, Fails()],
            {1: probe, 2: Fails()},
            {probe: Fails()},
            (probe, {3: [Fails()]}),
            {Fails(), probe},
        ):
            with pytest.raises(ZeroDivisionError):
                roundtrip(value)
        del value
    before = sys.getrefcount(probe)
    with pytest.raises(UnicodeEncodeError):
        roundtrip([probe, {1: probe, 2: "\ud800"}])
    gc.collect()
    assert sys.getrefcount(probe) <= before + 2  # a ref may still wait for its destructor
    del probe
    end = time.monotonic() + 60
    while alive() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.001)
    assert alive() is None


def test_reference_counts_stay() -> None:
    values: list[Any] = [[1, "a", b"\xff", 2.5], {"k": (None, True)}, {1, 2}, ImproperList([1], "x"), 2**100]
    for value in values:
        roundtrip(value)
        before = sys.getrefcount(value)
        for _ in range(100):
            roundtrip(value)
        assert sys.getrefcount(value) == before
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(2000):
        roundtrip(values)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 200
