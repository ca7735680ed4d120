"""Limit how many requests begin in one turn of the event loop, so that requests under way make progress."""

import asyncio
from collections import OrderedDict, deque

READS_PER_TURN = 128
"""The size of a batched read. With 32, a mix of 256 callers had smaller batches and took 5 to 10 % more CPU."""

CHANGES_PER_TURN = 8
"""A transaction takes about 30 turns, enough for a full batch to form. With 4, callers wait here, not in the queue."""


class Turnstile:
    """A limit on the number of requests that begin in each turn of the event loop.

    Without a turnstile, the event loop begins every request that has arrived in the same turn. Thousands of requests
    that arrive together would delay the next round trip of the transaction in flight, and every read.

    The requests of one institution begin in order of arrival; the institutions take turns, so that one with thousands
    of waiting requests does not hold up the others.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._remaining = per_turn
        self._waiting: OrderedDict[str | None, deque[asyncio.Future[None]]] = OrderedDict()
        """By institution; the first one is next."""
        self._turning = False

    def enter(self, institution: str | None = None) -> asyncio.Future[None] | None:
        """Return None if a request of an institution may begin now, otherwise a future to await first."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        if self._remaining:
            self._remaining -= 1
            return None
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(institution, deque()).append(turn)
        return turn

    def _turn(self) -> None:
        self._remaining = self._per_turn
        while self._waiting and self._remaining:
            institution, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            if not queue:
                del self._waiting[institution]
            else:
                self._waiting.move_to_end(institution)
            if not turn.done():
                turn.set_result(None)
                self._remaining -= 1
        self._turning = self._remaining < self._per_turn
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
