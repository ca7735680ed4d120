"""Limit how many requests begin in one turn of the event loop, so that requests under way make progress."""

import asyncio
from collections import deque

READS_PER_TURN = 128
"""The size of a batched read. With 32, a mix of 256 callers had smaller batches and took 5 to 10 % more CPU."""

CHANGES_PER_TURN = 8
"""A transaction takes about 30 turns, enough for a full batch to form. With 4, callers wait here, not in the queue."""


class Turnstile:
    """A limit on the number of requests that begin in each turn of the event loop, in order of arrival.

    Without a turnstile, the event loop begins every request that has arrived in the same turn. Thousands of requests
    that arrive together would delay the next round trip of the transaction in flight, and every read.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._remaining = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    def enter(self) -> asyncio.Future[None] | None:
        """Return None if a request may begin now, otherwise a future to await first."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        if self._remaining:
            self._remaining -= 1
            return None
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        return turn

    def _turn(self) -> None:
        self._remaining = self._per_turn
        while self._waiting and self._remaining:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._remaining -= 1
        self._turning = self._remaining < self._per_turn
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
