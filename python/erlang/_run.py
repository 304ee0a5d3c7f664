"""run() and install(): ways to have asyncio use the ErlangEventLoop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from erlang._loop import new_event_loop


def run[T](main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """asyncio.run() on a new `ErlangEventLoop`: the coroutine's result, or its exception.

    >>> import asyncio, erlang
    >>> erlang.run(asyncio.sleep(0, "done"))
    'done'
    """
    return asyncio.run(main, debug=debug, loop_factory=new_event_loop)


def install() -> None:
    """Make asyncio's default loop an `ErlangEventLoop`, by its event loop policy.

    Python 3.14 warns that policies are deprecated and 3.16 has none (RuntimeError): prefer
    `asyncio.run(main(), loop_factory=erlang.new_event_loop)` or `erlang.run(main())`.
    """
    if sys.version_info >= (3, 16):
        raise RuntimeError(
            "this Python has no event loop policies: use asyncio.run(..., loop_factory=erlang.new_event_loop)"
        )
    policy = type("EventLoopPolicy", (asyncio.DefaultEventLoopPolicy,), {"_loop_factory": staticmethod(new_event_loop)})
    asyncio.set_event_loop_policy(policy())
