"""How many requests begin in one turn of the event loop, so that others make progress between them."""

import asyncio
from collections import deque

READS_PER_TURN = 128
"""As many as one statement reads. With 32, a mix with 256 callers had smaller batches and took 5 to 10 % more CPU."""

CHANGES_PER_TURN = 8
"""A transaction takes some 30 turns, so a full batch gathers meanwhile. With 16, and 13,000 callers, refusals took twice
the time of the event loop; with 4, callers waited here and not in the queue, and nobody was refused in time."""


class Turnstile:
    """Lets a fixed number of requests begin in each turn of the event loop, in the order of their arrival.

    The event loop handles everything that has arrived before it looks for answers of the database. Without a limit,
    thousands of requests that arrive together, even those that are only refused, delay each round trip of the
    transaction in flight by the time that all of them take.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._room = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turning = False

    def enter(self) -> asyncio.Future[None] | None:
        """Return None if a request may begin now, and otherwise a future to wait for before it begins."""
        loop = asyncio.get_running_loop()
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn)
        if self._room:
            self._room -= 1
            return None
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        return turn

    def _turn(self) -> None:
        self._room = self._per_turn
        while self._waiting and self._room:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._room -= 1
        self._turning = self._room < self._per_turn
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)
