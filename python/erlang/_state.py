"""State that Erlang and Python share: one table of the node, `py:state_get/1` and its kin on the other side."""

from __future__ import annotations

from typing import Any

from erlang._calls import internal

__all__ = ["state_decr", "state_delete", "state_get", "state_incr", "state_keys", "state_set"]


def state_get(key: Any, default: Any = None) -> Any:
    """The value under `key`, or `default`."""
    return internal("state_get", key, default)


def state_set(key: Any, value: Any) -> None:
    """Puts a value under `key`; ErlangError with reason "state_full" beyond `state_max_keys`."""
    internal("state_set", key, value)


def state_delete(key: Any) -> None:
    """Removes `key`, if it is there."""
    internal("state_delete", key)


def state_keys() -> list[Any]:
    """All keys, in no order."""
    keys: list[Any] = internal("state_keys")
    return keys


def state_incr(key: Any, by: int = 1) -> int:
    """Adds to a counter that begins at 0 and gives its new value. Atomic, for Erlang too."""
    value: int = internal("state_incr", key, by)
    return value


def state_decr(key: Any, by: int = 1) -> int:
    """The opposite of state_incr()."""
    return state_incr(key, -by)
