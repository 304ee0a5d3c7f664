"""The Python half of the streams demonstration: a small language model that writes one token after the other."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pydoc_data import topics

_HELD_BACK = 0.001


class Model:
    """Which word follows which two, learned from Python's own language reference."""

    def __init__(self) -> None:
        words = " ".join(topics.topics.values()).split()
        self._next: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            self._next[first, second].append(third)
        self._begin = [pair for pair in self._next if pair[0][0].isupper()]
        self.begun = self.ended = self.closed = 0
        self.held_back = 0.0
        self.checksum = 0

    def size(self) -> int:
        """How many pairs of words it knows."""
        return len(self._next)

    async def tokens(self, seed: int, count: int) -> AsyncIterator[str]:
        """So many tokens. Whoever reads them sets the pace: at a `yield` this waits until it is asked for more."""
        chance = random.Random(seed)
        pair = chance.choice(self._begin)
        checksum, done = 0, False
        self.begun += 1
        try:
            for n in range(count):
                if n % 100 == 0:
                    await asyncio.sleep(0)  # where a real one waits for its GPU
                token = chance.choice(self._next.get(pair) or ["The"])
                pair = (pair[1], token)
                checksum = zlib.crc32(token.encode(), checksum)
                asked = time.perf_counter()
                yield token
                waited = time.perf_counter() - asked
                if waited > _HELD_BACK:
                    self.held_back += waited
            done = True
        finally:
            if done:
                self.ended += 1
                self.checksum = checksum
            else:
                self.closed += 1

    def account(self) -> tuple[int, int, int, float, int]:
        """Generators begun, run to their end, closed before it; seconds held back; CRC-32 of the last whole text."""
        return self.begun, self.ended, self.closed, self.held_back, self.checksum
