"""Limit how many requests begin in one turn of the event loop, so that requests under way make progress."""

import asyncio
from collections import OrderedDict, deque
from typing import Final

from service.errors import Unavailable

READS_PER_TURN: Final = 128
"""The size of a batched read. With 32, a mix of 256 callers had smaller batches and took 5 to 10 % more CPU."""

CHANGES_PER_TURN: Final = 8
"""A transaction takes about 30 turns, enough for a full batch to form. With 4, callers wait here, not in the queue."""

REFUSALS_PER_TURN: Final = 2
"""A refusal costs a third of a small change. Callers who repeat at once, whom refusing cannot slow down, must not turn the
service into one that only refuses."""


class Turnstile:
    """A limit on the number of requests that begin in each turn of the event loop.

    Without a turnstile, the event loop begins every request that has arrived in the same turn. Thousands of requests
    that arrive together would delay the next round trip of the transaction in flight, and every read.

    The requests of one institution begin in order of arrival; the institutions take turns, so that one with thousands
    of waiting requests does not hold up the others.

    While the first request of an institution has waited for longer than ``patience``, new ones are refused on arrival,
    except that a turn refuses only a few: the others wait, which costs nothing, for at most ``longest``.
    """

    def __init__(self, per_turn: int, patience: float, longest: float) -> None:
        """``per_turn`` requests begin in each turn; ``patience`` and ``longest`` are in seconds."""
        self._per_turn = per_turn
        self._remaining = per_turn
        self._refusals = REFUSALS_PER_TURN
        self._patience = patience
        self._longest = longest
        self._waiting: OrderedDict[str | None, deque[tuple[float, asyncio.Future[None]]]] = OrderedDict()
        """By institution, when each request arrived by the loop's clock; the first institution is next."""
        self._turning = False

    def enter(self, institution: str | None = None) -> asyncio.Future[None] | None:
        """Return None if a request of an institution may begin now, otherwise a future to await first.

        Raises, also when awaited:
            Unavailable: the request would wait too long.
        """
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        if self._remaining:
            self._remaining -= 1
            return None
        loop = asyncio.get_running_loop()
        now = loop.time()
        queue = self._waiting.setdefault(institution, deque())
        if queue and self._refusals and (waited := now - queue[0][0]) > self._patience:
            self._refusals -= 1
            raise Unavailable.overloaded(waited)
        turn: asyncio.Future[None] = loop.create_future()
        queue.append((now, turn))
        return turn

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._remaining = self._per_turn
        self._refusals = REFUSALS_PER_TURN
        while self._waiting and self._remaining:
            institution, queue = next(iter(self._waiting.items()))
            arrived, turn = queue.popleft()
            if not queue:
                del self._waiting[institution]
            else:
                self._waiting.move_to_end(institution)
            if turn.done():
                continue
            self._remaining -= 1
            if now - arrived > self._longest:
                turn.set_exception(Unavailable.overloaded(now - arrived))
            else:
                turn.set_result(None)
        self._turning = self._remaining < self._per_turn
        if self._turning:
            loop.call_soon(self._turn)
