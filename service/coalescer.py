"""Natural batching: while one statement or transaction runs, the next batch gathers. No timer, no waiting."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.errors import Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

FEW_OTHERS = 1 / 8
"""Up to this share of a coalescer's own callers, the callers of the others are few."""

WEIGHT = 1 / 4
"""Weight of the newest batch in the mean duration: four batches are enough to notice that they have become longer."""


@dataclass(slots=True)
class Callers:
    """How many callers of all coalescers of an event loop wait for their answers."""

    count: int = 0


@dataclass(slots=True)
class Waiting(Generic[Item, Answer]):
    """One item in the queue, and who is to have its answer."""

    item: Item
    size: int
    answer: asyncio.Future[Answer]
    until: float
    """When it has waited too long, by the loop's clock."""
    gone: Callable[[], bool] | None


class Coalescer(Generic[Item, Answer]):
    """Answers items in batches, in the order of their arrival.

    An item runs at once when nothing is in flight. What arrives meanwhile queues, and the next batch takes all of it,
    up to a cap. ``run`` answers the items of a batch in their order; an exception in the place of an answer is raised
    to that caller alone, one that ``run`` raises to all callers of the batch.

    The next batch begins before the answers of the last one are resolved: a batch takes several round trips to the
    database, and what resolved callers do next takes longer than any of these. So while few others wait, answers are
    resolved in chunks, one a turn of the event loop: that is what the event loop does while the database works. While
    others give it work enough, all are resolved at once: batches that end sooner are smaller, and cost more. (A fixed
    chunk was tried: 64 and 256 callers who enroll lost 13 to 15 % with 16 a turn, and a mix of reads and changes lost
    12 to 23 % with 1 or 2 a turn.)

    An item that is expected to wait longer than ``patience`` is refused when it arrives, and an item that has waited
    that long is refused then. ``expected_wait`` says how the wait is estimated.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Any]]],
        *,
        cap: int,
        queue: int,
        patience: float,
        size: Callable[[Item], int] = lambda _: 1,
        in_flight: int = 1,
        chunks: int = 1,
        everybody: Callers | None = None,
    ) -> None:
        """``cap`` bounds a batch in sizes, ``queue`` the queue in items, ``patience`` the wait in it in seconds.

        With more than one batch ``in_flight`` items are not answered in order. The callers are resolved in so many
        ``chunks`` while few others of ``everybody`` wait.
        """
        self._run = run
        self._cap = cap
        self._queue = queue
        self._patience = patience
        self._size = size
        self._queued = 0
        """The sizes of the items in the queue."""
        self._waiting: deque[Waiting[Item, Answer]] = deque()
        self._in_flight = in_flight
        self._begun: list[float] = []
        """When each batch in flight began, by the loop's clock, the oldest first."""
        self._silent_since: float | None = None
        """When the first of the batches began that have found the database unavailable since the last one it answered."""
        self._batch_seconds = 0.0
        """Weighted mean duration of the last batches, those that failed included."""
        self._chunks = chunks
        self._chunk = 1
        self._everybody = everybody or Callers()
        self._callers = 0
        self._answered: deque[tuple[Waiting[Item, Answer], Answer | Exception]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def submit(self, item: Item, gone: Callable[[], bool] | None = None) -> Answer:
        """Return the answer to an item; one whose caller is ``gone`` before its batch forms is not run.

        Raises:
            Unavailable: the item would wait too long, or has; it was not run.
        """
        self.admit()
        loop = asyncio.get_running_loop()
        now = loop.time()
        answer: asyncio.Future[Answer] = loop.create_future()
        size = self._size(item)
        self._waiting.append(Waiting(item, size, answer, now + self._patience, gone))
        self._queued += size
        if len(self._begun) < self._in_flight:
            self._begun.append(now)
            self._tasks.add(task := loop.create_task(self._work(now)))
            task.add_done_callback(self._tasks.discard)
        elif self._expiry is None:
            self._expiry = loop.call_at(now + self._patience, self._expire)
        self._callers += 1
        self._everybody.count += 1
        try:
            return await answer
        finally:
            # An exception holds this frame, and the future the exception: a cycle that would keep the whole request.
            del answer
            self._callers -= 1
            self._everybody.count -= 1

    def admit(self) -> None:
        """Raise ``Unavailable`` if an item that arrives now is expected to wait too long."""
        wait = self.expected_wait(asyncio.get_running_loop().time())
        if wait > self._patience or len(self._waiting) >= self._queue:
            raise _overloaded(wait)

    def expected_wait(self, now: float) -> float:
        """Return the seconds until the batch of an item that arrives ``now`` is expected to begin.

        Where fewer batches are in flight than may be, it begins at once. Otherwise it waits for the batch in flight and
        for the full batches ahead of it in the queue. Each of these takes the mean duration of the last batches; the
        one in flight takes that or, where it is older already, as long again. So while nothing is answered, the wait
        grows with the age of the oldest batch. However slow the last batches were, the next item after them begins at
        once, and shows whether the database has recovered.
        """
        if len(self._begun) < self._in_flight:
            return 0.0
        ahead = self._queued // self._cap / self._in_flight
        since = self._begun[0] if self._silent_since is None else self._silent_since
        return max(now - since, self._batch_seconds) + ahead * self._batch_seconds

    async def _work(self, began: float) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while batch := self._next_batch():
                served = await self._answer(batch)
                took = clock() - began
                if served:
                    self._silent_since = None
                elif self._silent_since is None:
                    self._silent_since = began
                self._batch_seconds += (took - self._batch_seconds) * WEIGHT
                self._begun.remove(began)
                self._begun.append(began := began + took)
        finally:
            self._begun.remove(began)

    async def _answer(self, batch: list[Waiting[Item, Answer]]) -> bool:
        """Answer a batch; return whether the database was available."""
        served = True
        try:
            answers = await self._run([waiting.item for waiting in batch])
        except Exception as error:  # handed on to the callers
            answers = [error] * len(batch)
            served = not isinstance(error, Unavailable)
        except BaseException:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        resolving = bool(self._answered)
        self._answered.extend(zip(batch, answers, strict=True))
        # Callers who were cancelled meanwhile don't count any more: there may be none.
        self._chunk = max(-(-self._callers // self._chunks), 1)
        if not resolving:
            self._resolve()
        return served

    def _resolve(self) -> None:
        few_others = self._everybody.count - self._callers <= self._callers * FEW_OTHERS
        for _ in range(min(self._chunk, len(self._answered)) if few_others else len(self._answered)):
            _settle(*self._answered.popleft())
        if self._answered:
            asyncio.get_running_loop().call_soon(self._resolve)

    def _next_batch(self) -> list[Waiting[Item, Answer]]:
        """Take from the queue what goes together, one item at least."""
        batch: list[Waiting[Item, Answer]] = []
        room = self._cap
        while self._waiting:
            first = self._waiting[0]
            if first.answer.done() or (first.gone is not None and first.gone()):
                _settle(self._pop(), Unavailable("The caller has left."))
                continue
            room -= first.size
            if room < 0 and batch:
                break
            batch.append(self._pop())
        return batch

    def _pop(self) -> Waiting[Item, Answer]:
        first = self._waiting.popleft()
        self._queued -= first.size
        return first

    def _expire(self) -> None:
        """Refuse the items that have waited too long, and look again when the next one may have."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and self._waiting[0].until <= now:
            _settle(self._pop(), _overloaded(self.expected_wait(now)))
        self._expiry = loop.call_at(self._waiting[0].until, self._expire) if self._waiting else None


def _overloaded(wait: float) -> Unavailable:
    return Unavailable("More requests wait than can be answered in time. Try again later.", math.ceil(wait))


def _settle(waiting: Waiting[Item, Answer], answer: Answer | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
