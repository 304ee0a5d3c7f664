"""What the tests of conversion share. Inside the BEAM only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import erlang


class Probe:
    pass


class registered:
    """An encoder for the length of a with statement."""

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def __call__(self, function: Callable[[Any], Any]) -> registered:
        self.function = function
        return self

    def __enter__(self) -> None:
        erlang.register_encoder(self.cls, self.function)

    def __exit__(self, *exc: object) -> None:
        erlang.register_encoder(self.cls, None)
