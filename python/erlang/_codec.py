"""What becomes of objects that are not the plain built-in types: encoders by type, decoders by tag.

C converts the plain types, and asks `find_encoder` for any other type, once (it keeps the answer until a registration
changes something). An encoder turns an object into something simpler, which is converted in its place. A decoder gets
the elements of a tuple `{Tag, ...}` after its tag.

Order: registered encoders along the class's MRO; the built-in codecs for exactly their type, so that a subclass which
knows more (a Timestamp with nanoseconds) is not cut down; enums, paths, numpy scalars, dataclasses, mappings. The
modules of those types are never imported here: without the module there can be no object of it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import _erlang
from _erlang import Atom

if TYPE_CHECKING:
    import datetime
    import enum
    import uuid
    from decimal import Decimal
    from fractions import Fraction
    from pathlib import PurePath

type Encoder = Callable[[Any], Any]
type Decoder = Callable[..., Any]

_PLAIN = (int, float, str, bytes, bytearray, memoryview, tuple, list, dict, set, frozenset)
_EXACT = {*_PLAIN, bool, type(None), Atom, _erlang.BitString, _erlang.Buffer, _erlang.Fun, _erlang.ImproperList}
_EXACT |= {_erlang.Pid, _erlang.Port, _erlang.Reference}

_encoders: dict[type, Encoder] = {}


def register_encoder[T](cls: type[T], function: Callable[[T], Any] | None) -> None:
    """Has objects of `cls` and of its subclasses cross to Erlang as what `function(obj)` returns.

    The result is converted in turn; returning NotImplemented leaves the object to the other rules. None removes the
    registration. An exception of `function` is the error of the call. TypeError for the plain types, whose form is
    fixed. Holds for this interpreter.

        register_encoder(Point, lambda p: (Atom("point"), p.x, p.y))
    """
    if not isinstance(cls, type):
        raise TypeError(f"a class, not {cls!r}")
    if cls in _EXACT:
        raise TypeError(f"the Erlang form of {cls.__name__} is fixed")
    if function is None:
        _encoders.pop(cls, None)
    elif callable(function):
        _encoders[cls] = function
    else:
        raise TypeError(f"a function, not {function!r}")
    _erlang._codec_changed()


def register_decoder(tag: str, function: Decoder | None) -> None:
    """Has tuples `{tag, A, B, ...}` (tag an atom) become what `function(a, b, ...)` returns.

    None removes the registration, a built-in tag then has its own decoder again. An exception of `function` is the
    error of the call. ValueError for `bytes`, `buffer` and `py_ref`. Holds for this interpreter.

        register_decoder("point", Point)
    """
    if function is not None and not callable(function):
        raise TypeError(f"a function, not {function!r}")
    atom = Atom(tag)
    _erlang._set_decoder(atom, function if function is not None else _DECODERS.get(tag))


def find_encoder(cls: type) -> Encoder | None:
    """The encoder for objects of exactly this class; None leaves them to C, which knows the plain types and refs."""
    for base in cls.__mro__:
        if (found := _encoders.get(base)) is not None:
            return found
    name = (cls.__module__, cls.__qualname__)
    if (found := _BUILT_IN.get(name)) is not None and getattr(sys.modules.get(name[0]), name[1], None) is cls:
        return found
    if issubclass(cls, _PLAIN):
        return None
    if (found := _by_kind(cls)) is not None:
        return found
    if hasattr(cls, "__dataclass_fields__"):
        return _dataclass_encoder(cls)
    return _encode_mapping if issubclass(cls, Mapping) else None


def _by_kind(cls: type) -> Encoder | None:
    if (module := sys.modules.get("enum")) is not None and issubclass(cls, module.Enum):
        return _encode_flag if issubclass(cls, module.Flag) else _encode_enum
    if (module := sys.modules.get("pathlib")) is not None and issubclass(cls, module.PurePath):
        return _encode_path
    if (module := sys.modules.get("numpy")) is not None and issubclass(cls, module.generic):
        return _numpy_encoder(module, cls)
    return None


def _dataclass_encoder(cls: type) -> Encoder:
    from dataclasses import fields

    names = [field.name for field in fields(cls)]

    def encode(obj: object) -> dict[str, Any]:
        return {_erlang._atom_or_str(name): getattr(obj, name) for name in names}

    return encode


def _encode_mapping(obj: Mapping[Any, Any]) -> Any:
    items = list(obj.items())
    found = dict(items)
    if len(found) != len(items):
        raise ValueError(f"items() of {type(obj).__qualname__} gave a key twice")
    return found


def to_term(obj: object) -> Any:
    """An object by value, for py:to_term/1: what has a form of its own has that; arrays give `tolist()`, iterables a
    list, other objects a dict of their attributes. What is inside crosses by the ordinary rules. TypeError for what
    has no value: modules, classes, functions.
    """
    cls = type(obj)
    if cls in _EXACT or issubclass(cls, _PLAIN) or find_encoder(cls) is not None:
        return obj
    if callable(listed := getattr(obj, "tolist", None)) and not isinstance(obj, type):
        return listed()
    if hasattr(cls, "__iter__"):
        return list(obj)  # type: ignore[call-overload]
    attributes = getattr(obj, "__dict__", None)
    if isinstance(attributes, dict) and not (isinstance(obj, (type, type(sys))) or callable(obj)):
        return {_erlang._atom_or_str(str(name)): value for name, value in attributes.items()}
    raise TypeError(f"an object of type {cls.__qualname__} has no Erlang form but a reference")


# ---- numpy scalars: the number they are, when Python has it ----


def _numpy_encoder(numpy: Any, cls: type) -> Encoder:
    if issubclass(cls, numpy.bool_):
        return bool
    if issubclass(cls, numpy.integer) and hasattr(cls, "__index__"):
        return operator.index
    if issubclass(cls, numpy.floating):
        return _encode_exact_float
    if issubclass(cls, numpy.complexfloating):
        return _encode_exact_complex
    return _leave


def _leave(obj: object) -> Any:
    return NotImplemented


def _encode_exact_float(obj: Any) -> Any:
    number = float(obj)
    return number if number == obj or obj != obj else NotImplemented


def _encode_exact_complex(obj: Any) -> Any:
    number = complex(obj)
    return _encode_complex(number) if number == obj or obj != obj else NotImplemented


# ---- the built-in codecs ----

_DATE, _TIME, _DATETIME = Atom("py_date"), Atom("py_time"), Atom("py_datetime")
_TIMEDELTA, _DECIMAL, _UUID = Atom("py_timedelta"), Atom("py_decimal"), Atom("py_uuid")
_COMPLEX, _FRACTION, _ENUM, _PATH = Atom("py_complex"), Atom("py_fraction"), Atom("py_enum"), Atom("py_path")
_POSIX, _WINDOWS, _ZONE = Atom("posix"), Atom("windows"), Atom("zone")


def _text(value: Any) -> str:
    """Text from Erlang: bytes when the call asked for bytes."""
    if isinstance(value, str):
        return value
    return bytes(value).decode()


def _encode_date(value: datetime.date) -> Any:
    return _DATE, (value.year, value.month, value.day)


def _decode_date(date: tuple[int, int, int]) -> Any:
    import datetime

    return datetime.date(*date)


def _encode_zone(zone: datetime.tzinfo | None, offset: datetime.timedelta | None) -> Any:
    """None; an offset in seconds; (offset, name); or (zone, offset, key) for a time zone of the database."""
    if zone is None:
        return None
    seconds: Any = offset
    if offset is not None and offset.microseconds == 0:
        seconds = offset.days * 86400 + offset.seconds
    if (key := getattr(zone, "key", None)) is not None:
        return _ZONE, seconds, key
    if offset is None:
        raise ValueError(f"the time zone {zone!r} has no offset without a date")
    fixed: Any = sys.modules["datetime"].timezone
    if isinstance(zone, fixed) and (name := zone.tzname(None)) != fixed(offset).tzname(None):
        return seconds, name
    return seconds


def _decode_zone(zone: Any) -> Any:
    import datetime

    if zone is None:
        return None
    if not isinstance(zone, tuple):
        return datetime.timezone(_offset(zone))
    if zone[0] == "zone":
        from zoneinfo import ZoneInfo

        return ZoneInfo(_text(zone[2]))
    return datetime.timezone(_offset(zone[0]), _text(zone[1]))


def _offset(seconds: Any) -> Any:
    import datetime

    return seconds if isinstance(seconds, datetime.timedelta) else datetime.timedelta(seconds=seconds)


def _clock(value: datetime.datetime | datetime.time) -> tuple[int, int, int]:
    return value.hour, value.minute, value.second


def _encode_datetime(value: datetime.datetime) -> Any:
    when = (value.year, value.month, value.day), _clock(value)
    zone = _encode_zone(value.tzinfo, value.utcoffset())
    tagged = (_DATETIME, when, value.microsecond, zone)
    return (*tagged, value.fold) if value.fold else tagged


def _decode_datetime(when: Any, microsecond: int, zone: Any, fold: int = 0) -> Any:
    import datetime

    (year, month, day), (hour, minute, second) = when
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, _decode_zone(zone), fold=fold)


def _encode_time(value: datetime.time) -> Any:
    zone = _encode_zone(value.tzinfo, value.utcoffset())
    tagged = (_TIME, _clock(value), value.microsecond, zone)
    return (*tagged, value.fold) if value.fold else tagged


def _decode_time(clock: tuple[int, int, int], microsecond: int, zone: Any, fold: int = 0) -> Any:
    import datetime

    return datetime.time(*clock, microsecond, _decode_zone(zone), fold=fold)


def _encode_timedelta(value: datetime.timedelta) -> Any:
    return _TIMEDELTA, value.days, value.seconds, value.microseconds


def _decode_timedelta(days: int, seconds: int, microseconds: int) -> Any:
    import datetime

    return datetime.timedelta(days, seconds, microseconds)


def _encode_decimal(value: Decimal) -> Any:
    return _DECIMAL, str(value)


def _decode_decimal(text: Any) -> Any:
    from decimal import Decimal

    return Decimal(_text(text))


def _encode_uuid(value: uuid.UUID) -> Any:
    return _UUID, str(value)


def _decode_uuid(text: Any) -> Any:
    from uuid import UUID

    return UUID(_text(text))


def _encode_complex(value: complex) -> Any:
    return _COMPLEX, value.real, value.imag


_FLOAT_NAMES = {"nan": float("nan"), "infinity": float("inf"), "neg_infinity": float("-inf")}


def _decode_complex(real: Any, imag: Any) -> complex:
    return complex(_FLOAT_NAMES.get(real, real), _FLOAT_NAMES.get(imag, imag))


def _encode_fraction(value: Fraction) -> Any:
    return _FRACTION, value.numerator, value.denominator


def _decode_fraction(numerator: int, denominator: int) -> Any:
    from fractions import Fraction

    return Fraction(numerator, denominator)


_enum_classes: dict[str, Any] = {}


def _enum_name(cls: type) -> str:
    """ "module:Class", remembered so that the way back also finds classes that are no attribute of their module."""
    import weakref

    name = f"{cls.__module__}:{cls.__qualname__}"
    known = _enum_classes.get(name)
    if known is None or known() is not cls:
        _enum_classes[name] = weakref.ref(cls)
    return name


def _encode_enum(value: enum.Enum) -> Any:
    return _ENUM, _enum_name(type(value)), value.name


def _encode_flag(value: enum.Flag) -> Any:
    return _ENUM, _enum_name(type(value)), value.value


def _decode_enum(cls_name: Any, member: Any) -> Any:
    """Finds classes that are loaded; data imports nothing."""
    from enum import Enum, Flag

    name = _text(cls_name)
    known = _enum_classes.get(name)
    cls = known() if known is not None else None
    if cls is None:
        module, _, path = name.partition(":")
        cls = sys.modules.get(module)
        for part in path.split("."):
            cls = getattr(cls, part, None)
    if not (isinstance(cls, type) and issubclass(cls, Enum)):
        raise ValueError(f"there is no loaded enum {name!r}")
    if issubclass(cls, Flag) and isinstance(member, int):
        return cls(member)
    return cls[_text(member)]


def _encode_path(value: PurePath) -> Any:
    from os import fsencode
    from pathlib import Path, PureWindowsPath

    text = str(value)
    if isinstance(value, Path):
        return _PATH, fsencode(text)
    return _PATH, fsencode(text), _WINDOWS if isinstance(value, PureWindowsPath) else _POSIX


def _decode_path(raw: Any, flavour: Any = None) -> Any:
    from os import fsdecode
    from pathlib import Path, PurePosixPath, PureWindowsPath

    classes: dict[Any, Any] = {None: Path, "posix": PurePosixPath, "windows": PureWindowsPath}
    return classes[flavour](fsdecode(raw if isinstance(raw, str) else bytes(raw)))


_BUILT_IN: dict[tuple[str, str], Encoder] = {
    ("datetime", "date"): _encode_date,
    ("datetime", "time"): _encode_time,
    ("datetime", "datetime"): _encode_datetime,
    ("datetime", "timedelta"): _encode_timedelta,
    ("decimal", "Decimal"): _encode_decimal,
    ("uuid", "UUID"): _encode_uuid,
    ("builtins", "complex"): _encode_complex,
    ("fractions", "Fraction"): _encode_fraction,
}

_DECODERS: dict[str, Decoder] = {
    "py_date": _decode_date,
    "py_time": _decode_time,
    "py_datetime": _decode_datetime,
    "py_timedelta": _decode_timedelta,
    "py_decimal": _decode_decimal,
    "py_uuid": _decode_uuid,
    "py_complex": _decode_complex,
    "py_fraction": _decode_fraction,
    "py_enum": _decode_enum,
    "py_path": _decode_path,
}

for _tag, _function in _DECODERS.items():
    _erlang._set_decoder(Atom(_tag), _function)
