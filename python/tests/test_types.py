"""The border of types from Python's side: random objects there and back, and what each kind becomes on the way."""

from __future__ import annotations

import array
import collections
import copy
import fractions
import gc
import json
import pickle
import sys
import threading
import uuid
import weakref
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if "_erlang" not in sys.builtin_module_names:
    pytest.skip("inside the BEAM only", allow_module_level=True)

from _conversion import Probe

from _erlang import roundtrip, term_text
from erlang import Atom, BitString, Buffer, ImproperList

BYTES = 1
NO_REFS = 2


def same(a: Any, b: Any) -> bool:
    """Equal with equal types all the way down, and NaN equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(k in b and same(v, b[k]) for k, v in a.items())
    if isinstance(a, ImproperList):
        return same(a.items, b.items) and same(a.tail, b.tail)
    return bool(a == b) or (a != a and b != b)


ATOMS = st.sampled_from(["ok", "error", "é", "日本", "", "with space"]).map(Atom)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
RAW = st.binary(max_size=40).filter(lambda b: not is_text(b))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), TEXT, RAW, ATOMS,
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
KEYS = st.one_of(st.integers(), TEXT, RAW, st.tuples(st.integers(), TEXT))


def is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tails = SCALARS.filter(lambda t: not isinstance(t, list))
    return st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple).filter(lambda t: not (t and t[0] in ("bytes", "buffer"))),
        st.dictionaries(KEYS, inner),
        st.builds(ImproperList, st.lists(inner, min_size=1), tails),
    )


EXACT = st.recursive(SCALARS, containers, max_leaves=40)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EXACT)
def test_what_the_law_calls_exact_comes_back_the_same(value: Any) -> None:
    assert same(roundtrip(value), value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_come_back_as_bytes_on_request(value: bytes) -> None:
    back = roundtrip([value], BYTES)
    assert back == [value]
    assert type(back[0]) is bytes
    assert roundtrip((Atom("bytes"), value)) == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 7))
def test_bitstrings(data: bytes, cut: int) -> None:
    bits = max(0, len(data) * 8 - cut)
    value = BitString(data[: (bits + 7) // 8], bits)
    back = roundtrip(value, BYTES)
    assert back == (value if bits % 8 else value.data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.booleans(), st.integers(-1, 1))
def test_powers_of_two_and_their_neighbours(power: int, negative: bool, off: int) -> None:
    value = (-1 if negative else 1) * (2**power) + off
    assert roundtrip(value) == value


@pytest.mark.parametrize(
    ("value", "term"),
    [
        (True, "true"),
        (None, "none"),
        (float("inf"), "infinity"),
        ({1}, "#{1=>[]}"),
        (frozenset(), "#{}"),
        (collections.OrderedDict(a=1), '#{<<"a">>=>1}'),
        (bytearray(b"ab"), '<<"ab">>'),
        (memoryview(b"abcd")[1:3], '<<"bc">>'),
        (Atom("true"), "true"),
        (collections.namedtuple("P", "x y")(1, 2), "{1,2}"),
        (ImproperList([1], 2), "[1|2]"),
    ],
)
def test_form(value: Any, term: str) -> None:
    assert term_text(value) == term


def test_atom_is_a_str_and_one_object() -> None:
    a = Atom("some_atom")
    assert a is Atom("some_atom")
    assert a is Atom(a)
    assert a == "some_atom"
    assert hash(a) == hash("some_atom")
    assert {"some_atom": 1}[a] == 1
    assert {a: 1}["some_atom"] == 1
    assert json.dumps({a: [a]}) == '{"some_atom": ["some_atom"]}'
    assert repr(a) == "Atom('some_atom')"
    assert type(str(a)) is str
    assert (copy.copy(a), copy.deepcopy(a)) == (a, a)
    assert pickle.loads(pickle.dumps(a)) is a
    assert roundtrip(a) is a
    with pytest.raises(TypeError):
        type("Sub", (Atom,), {})
    with pytest.raises(ValueError, match="255"):
        Atom("x" * 256)
    assert Atom("\u65e5" * 255) == "\u65e5" * 255
    with pytest.raises(TypeError):
        Atom(b"x")  # type: ignore[arg-type]


def test_atoms_from_threads_are_one_object() -> None:
    made: list[list[Atom]] = []

    def make() -> None:
        made.append([roundtrip(Atom(f"threaded_{n}")) for n in range(200)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert all(a is b for other in made for a, b in zip(made[0], other, strict=True))


def test_bitstring_and_improper_list_objects() -> None:
    bits = BitString(b"\xff", 3)
    assert (bits.data, bits.bits, len(bits)) == (b"\xe0", 3, 3)
    assert bits == BitString(b"\xe0", 3)
    assert bits != BitString(b"\xe0", 4)
    assert len({bits, BitString(b"\xff", 3)}) == 1
    assert pickle.loads(pickle.dumps(bits)) == bits
    for data, count in ((b"", 1), (b"ab", 8), (b"a", -1), (b"a", 2**62)):
        with pytest.raises(ValueError, match="bits"):
            BitString(data, count)
    assert BitString(b"x", 1).data == b"\0"
    assert b"\xff"[0] == 255
    for wrong in ([2], ImproperList([2], 3)):
        with pytest.raises(ValueError, match="proper list"):
            ImproperList([1], wrong)
    tail = ImproperList([1, [2]], "x")
    assert tail == ImproperList((1, [2]), "x")
    assert tail != ImproperList((1, [2]), "y")
    assert pickle.loads(pickle.dumps(tail)) == tail
    assert hash(ImproperList([1], 2)) == hash(ImproperList([1], 2))
    with pytest.raises(TypeError, match="unhashable"):
        hash(tail)
    cycle: list[Any] = []
    value = ImproperList([cycle], 1)
    cycle.append(value)
    died = weakref.ref(gc_probe := Probe())
    cycle.append(gc_probe)
    del cycle, value, gc_probe
    gc.collect()
    assert died() is None


@pytest.mark.parametrize("size", [0, 1, 1000, 40_000, 1_000_000])
def test_buffer(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    buffer = Buffer(data)
    assert len(buffer) == size
    assert bytes(buffer) == data == buffer.tobytes()
    assert buffer == data
    assert buffer == Buffer(data)
    assert (buffer != data) is False
    assert memoryview(buffer).readonly
    assert roundtrip(buffer, BYTES) == data
    back = roundtrip((Atom("buffer"), buffer))
    assert type(back) is Buffer
    assert back == data
    with pytest.raises(TypeError):
        hash(buffer)
    with pytest.raises(TypeError):
        memoryview(buffer)[0:0] = b""


def test_buffer_shares_the_memory_of_an_array() -> None:
    numpy = pytest.importorskip("numpy")
    source = numpy.arange(100_000, dtype="u1")
    back = roundtrip((Atom("buffer"), Buffer(source)))
    address = numpy.frombuffer(back, dtype="u1").__array_interface__["data"][0]
    assert address == source.__array_interface__["data"][0]
    del source
    gc.collect()
    assert bytes(back[0:3]) == b"\0\1\2"
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        Buffer(numpy.zeros((10, 10))[:, ::2])


def test_buffer_holds_a_bytearray_still() -> None:
    data = bytearray(b"abc")
    buffer = Buffer(data)
    with pytest.raises(BufferError):
        data.append(1)
    del buffer
    gc.collect()
    data.append(1)


def test_anything_else_is_the_object_itself() -> None:
    for value in (object(), len, sys, (n for n in ()), array.array("i"), range(3), memoryview(b"abcd")[::2], type):
        assert roundtrip(value) is value
        assert roundtrip([{"k": (value,)}])[0]["k"][0] is value
        with pytest.raises(TypeError, match="no Erlang form"):
            roundtrip(value, NO_REFS)


def test_a_dict_view_of_erlang_keys_that_meet() -> None:
    for value in ({"a": 1, b"a": 2}, {None: 1, Atom("none"): 2}, {True: 1, Atom("true"): 2}, {(1, "a"), (1, b"a")}):
        with pytest.raises(ValueError, match="one key in Erlang"):
            roundtrip(value)


@pytest.mark.parametrize("size", [2, 31, 32, 33, 34, 127, 128, 129, 130, 1000, 5000])
def test_maps_of_all_sizes_with_and_without_equal_keys(size: int) -> None:
    """32 keys is where Erlang's maps change their form, 128 where the emulator needs care."""
    for make in (lambda i: i, str, lambda i: (i, str(i)), lambda i: Atom("ok") if i == 0 else i / 7):
        value = {make(i): [i] for i in range(size)}
        assert roundtrip(value) == value
    nested = {i: {j: j for j in range(size)} for i in range(min(size, 200))}
    assert roundtrip(nested) == nested
    for at in {0, (size - 1) // 2, size - 2}:
        value = {str(i): i for i in range(size - 1)} | {str(at).encode(): None}
        with pytest.raises(ValueError, match=f"'{at}'.*b'{at}'"):
            roundtrip(value)


def test_keys_of_many_maps() -> None:
    rows = [{"id": n, "näme": str(n), "a" * 40: None, "b" * 100: n, Atom("ok"): {"id": -n}} for n in range(500)]
    assert roundtrip(rows) == rows
    # keys that only live for one row: their addresses come again
    assert roundtrip([{f"{n}": n, "x" * (n % 7): 1} for n in range(2000)]) == [
        {f"{n}": n, "x" * (n % 7): 1} for n in range(2000)
    ]


def test_stdlib_values() -> None:
    assert roundtrip(fractions.Fraction(3, 7)) == fractions.Fraction(3, 7)
    assert roundtrip(uuid.NAMESPACE_DNS) == uuid.NAMESPACE_DNS
    assert roundtrip(sys.version_info) == tuple(sys.version_info)


def test_interpreters_that_python_made_have_no_refs() -> None:
    """Nobody would drop what Erlang held of them; values cross all the same."""
    interpreters = pytest.importorskip("_interpreters")
    interp = interpreters.create()
    try:
        failed = interpreters.run_string(
            interp,
            f"import sys; sys.path[:] = {sys.path!r}\n"
            "import _erlang\n"
            "assert _erlang.roundtrip([1, 'a', {b'\\xff': None}]) == [1, 'a', {b'\\xff': None}]\n"
            "assert _erlang.roundtrip(b'\\xff' * 100000) == b'\\xff' * 100000\n"
            "assert _erlang.Atom('ok') is _erlang.roundtrip(_erlang.Atom('ok'))\n"
            "try:\n"
            "    _erlang.roundtrip(object())\n"
            "except RuntimeError as error:\n"
            "    assert 'not started from Erlang' in str(error)\n"
            "else:\n"
            "    raise AssertionError\n",
        )
    finally:
        interpreters.destroy(interp)
    assert failed is None, failed.formatted
