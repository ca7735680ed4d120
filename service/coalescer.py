"""Natural batching: while one statement or transaction runs, the next batch gathers. No timer, no waiting."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.errors import Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

CHUNK = 16
"""Callers whose answers are resolved in one turn of the event loop."""


@dataclass(slots=True)
class Waiting(Generic[Item, Answer]):
    """One item in the queue, and who is to have its answer."""

    item: Item
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
    database, and what resolved callers do next takes longer than any of these. So answers are resolved in chunks, one a
    turn of the event loop: that is what the event loop does while the database works.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Any]]],
        *,
        cap: int,
        queue: int,
        timeout: float,
        size: Callable[[Item], int] = lambda _: 1,
        in_flight: int = 1,
    ) -> None:
        """``cap`` bounds a batch in sizes, ``queue`` the queue in items, ``timeout`` the wait in it in seconds.

        With more than one batch ``in_flight`` items are not answered in order.
        """
        self._run = run
        self._cap = cap
        self._queue = queue
        self._timeout = timeout
        self._size = size
        self._waiting: deque[Waiting[Item, Answer]] = deque()
        self._in_flight = in_flight
        self._running = 0
        self._answered: deque[tuple[Waiting[Item, Answer], Answer | Exception]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def submit(self, item: Item, gone: Callable[[], bool] | None = None) -> Answer:
        """Return the answer to an item; one whose caller is ``gone`` before its batch forms is not run.

        Raises:
            Unavailable: the queue is full, or the item has waited too long in it; it was not run.
        """
        if len(self._waiting) >= self._queue:
            raise Unavailable("Too many requests wait.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(Waiting(item, answer, loop.time() + self._timeout, gone))
        if self._running < self._in_flight:
            self._running += 1
            self._tasks.add(task := loop.create_task(self._work()))
            task.add_done_callback(self._tasks.discard)
        elif self._expiry is None:
            self._expiry = loop.call_later(self._timeout, self._expire)
        return await answer

    async def _work(self) -> None:
        try:
            while batch := self._next_batch():
                await self._answer(batch)
        finally:
            self._running -= 1

    async def _answer(self, batch: list[Waiting[Item, Answer]]) -> None:
        try:
            answers = await self._run([waiting.item for waiting in batch])
        except Exception as error:  # handed on to the callers
            answers = [error] * len(batch)
        except BaseException:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        resolving = bool(self._answered)
        self._answered.extend(zip(batch, answers, strict=True))
        if not resolving:
            self._resolve()

    def _resolve(self) -> None:
        for _ in range(min(CHUNK, len(self._answered))):
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
                _settle(first, Unavailable("The caller has left."))
                self._waiting.popleft()
                continue
            room -= self._size(first.item)
            if room < 0 and batch:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _expire(self) -> None:
        """Turn away who has waited too long, and look again when the next one may have."""
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0].until <= loop.time():
            _settle(self._waiting.popleft(), Unavailable("Too many requests wait."))
        self._expiry = loop.call_at(self._waiting[0].until, self._expire) if self._waiting else None


def _settle(waiting: Waiting[Item, Answer], answer: Answer | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
