"""Python inside the BEAM: what Python code can do with Erlang, and the asyncio loop that runs there."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from _erlang import Interrupted
from erlang._calls import (
    ErlangError,
    Monitor,
    apply,
    async_call,
    call,
    demonitor,
    monitor,
    registered,
    self,
    send,
    whereis,
)
from erlang._channel import Channel
from erlang._codec import register_decoder, register_encoder
from erlang._state import state_decr, state_delete, state_get, state_incr, state_keys, state_set
from erlang._types import Atom, BitString, Buffer, Fun, ImproperList, Pid, Port, Reference, set_conversion_limits

if TYPE_CHECKING:
    from erlang._executor import ExecutionResult, execute_concurrent, execute_concurrent_async
    from erlang._loop import ErlangEventLoop, new_event_loop
    from erlang._run import install, run
    from erlang._tasks import ShutdownReport, TaskTracker
    from erlang._trace import Span, trace, traceparent

__all__ = [
    "Atom",
    "BitString",
    "Buffer",
    "Channel",
    "ErlangError",
    "ErlangEventLoop",
    "ExecutionResult",
    "Fun",
    "ImproperList",
    "Interrupted",
    "Monitor",
    "Pid",
    "Port",
    "Reference",
    "ShutdownReport",
    "Span",
    "TaskTracker",
    "apply",
    "async_call",
    "call",
    "demonitor",
    "execute_concurrent",
    "execute_concurrent_async",
    "install",
    "monitor",
    "new_event_loop",
    "register_decoder",
    "register_encoder",
    "run",
    "self",
    "send",
    "set_conversion_limits",
    "state_decr",
    "state_delete",
    "state_get",
    "state_incr",
    "state_keys",
    "state_set",
    "trace",
    "traceparent",
    "whereis",
]

# What needs asyncio is imported when it is first asked for: a context that only computes does without.
_LAZY = {
    "ErlangEventLoop": "erlang._loop",
    "ExecutionResult": "erlang._executor",
    "ShutdownReport": "erlang._tasks",
    "Span": "erlang._trace",
    "trace": "erlang._trace",
    "traceparent": "erlang._trace",
    "TaskTracker": "erlang._tasks",
    "execute_concurrent": "erlang._executor",
    "execute_concurrent_async": "erlang._executor",
    "install": "erlang._run",
    "new_event_loop": "erlang._loop",
    "run": "erlang._run",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:  # a function that Erlang registered, or nothing
        return registered(name)
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
