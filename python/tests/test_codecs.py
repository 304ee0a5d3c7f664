"""Codecs, of Python's types and of one's own, and what else is converted by its class."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import zoneinfo
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if "_erlang" not in sys.builtin_module_names:
    pytest.skip("inside the BEAM only", allow_module_level=True)

from _conversion import registered

import erlang
from _erlang import roundtrip, term_text
from erlang import Atom, Buffer

BYTES = 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def zones() -> st.SearchStrategy[datetime.tzinfo]:
    offsets = st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23))
    return st.one_of(
        st.just(datetime.UTC),
        st.builds(datetime.timezone, offsets),
        st.builds(datetime.timezone, offsets, TEXT),
        st.sampled_from(["Europe/Paris", "UTC", "America/New_York"]).map(zoneinfo.ZoneInfo),
    )


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


class Perm(enum.Flag):
    R = 4
    W = 2


CODECS = st.one_of(
    st.dates(),
    st.times(timezones=st.one_of(st.none(), zones())),
    st.datetimes(timezones=st.one_of(st.none(), zones())),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.complex_numbers(),
    st.fractions(),
    st.sampled_from([Color.RED, Color.BLUE, Perm.R, Perm.R | Perm.W, Perm(0)]),
    st.sampled_from([pathlib.Path("/a/b"), pathlib.PurePosixPath("x"), pathlib.PureWindowsPath("c:\\x")]),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.one_of(CODECS, st.lists(CODECS, max_size=3)))
def test_built_in_codecs_are_reversible(value: Any) -> None:
    for flags in (0, BYTES):
        back = roundtrip(value, flags)
        assert repr(back) == repr(value)


def test_fold_and_zone_survive() -> None:
    paris = zoneinfo.ZoneInfo("Europe/Paris")
    value = datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=paris)
    back = roundtrip(value)
    assert (back, back.fold, back.tzinfo, back.utcoffset()) == (value, 1, paris, datetime.timedelta(hours=1))
    with pytest.raises(zoneinfo.ZoneInfoNotFoundError):
        roundtrip((Atom("py_datetime"), ((2026, 1, 1), (0, 0, 0)), 0, (Atom("zone"), 0, "No/Where")))


def test_decimal_contexts_do_not_round() -> None:
    with decimal.localcontext(decimal.Context(prec=3)):
        value = decimal.Decimal("1.23456789012345678901234567890e-400")
        assert roundtrip(value).as_tuple() == value.as_tuple()


def test_path_that_is_no_text() -> None:
    value = pathlib.Path("/tmp/\udcff")
    assert roundtrip(value) == value
    assert term_text(value) == "{py_path,<<47,116,109,112,47,255>>}"


def test_enum_of_a_function_comes_back_while_it_lives() -> None:
    class Local(enum.Enum):
        A = 1

    assert roundtrip(Local.A) is Local.A


class FreshKeys:
    pass


def test_keys_of_dicts_made_while_converting() -> None:
    @registered(FreshKeys)
    def encode(value: FreshKeys) -> Any:
        return {"".join(["k", str(id(value) % 1000)]): 1}

    with encode:
        values = [FreshKeys() for _ in range(1000)]
        assert roundtrip(values) == [{f"k{id(v) % 1000}": 1} for v in values]


class Base:
    pass


class Derived(Base):
    pass


def test_encoders_follow_the_mro_and_may_decline() -> None:
    with registered(Base)(lambda v: "base"):
        assert roundtrip([Base(), Derived()]) == ["base", "base"]
        with registered(Derived)(lambda v: NotImplemented):
            value = Derived()
            assert roundtrip(value) is value
        assert roundtrip(Derived()) == "base"
    value = Derived()
    assert roundtrip(value) is value


def test_encoders_of_subclasses_of_plain_types() -> None:
    class Secret(str):
        __slots__ = ()

    with registered(Secret)(lambda v: "***"):
        assert roundtrip([Secret("x"), "x"]) == ["***", "x"]
    assert roundtrip(Secret("x")) == "x"
    for cls in (int, str, dict, type(None), Atom, Buffer):
        with pytest.raises(TypeError, match="fixed"):
            erlang.register_encoder(cls, repr)


def test_a_subclass_of_a_codec_type_is_not_cut_down() -> None:
    class Stamp(datetime.datetime):
        nanosecond = 7

    value = Stamp(2026, 1, 1)
    assert roundtrip(value) is value


@dataclasses.dataclass(slots=True)
class Slotted:
    ok: int
    never_an_atom_of_any_kind: Any = None


def test_dataclass_fields_are_atoms_that_exist() -> None:
    back = roundtrip(Slotted(1, [Slotted(2)]))
    assert back == {"ok": 1, "never_an_atom_of_any_kind": [{"ok": 2, "never_an_atom_of_any_kind": None}]}
    assert [type(k) for k in back] == [Atom, str] or {type(k) for k in back} == {Atom, str}
    assert roundtrip(Slotted) is Slotted


class Rows(collections.abc.Mapping[str, int]):
    """A Mapping whose items() repeats a key when told so."""

    def __init__(self, keys: list[str]) -> None:
        self.names = keys

    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_mappings() -> None:
    assert roundtrip(Rows(["a", "b"])) == {"a": 1, "b": 1}
    with pytest.raises(ValueError, match="twice"):
        roundtrip(Rows(["a", "a"]))
