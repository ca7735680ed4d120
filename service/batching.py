"""Natural batching: the next batch forms while a statement or transaction runs, without a timer or a delay."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from service import tracing
from service.database import Database
from service.errors import Unavailable
from service.metrics import BATCH_SECONDS, BATCH_SIZE, QUEUE_SECONDS, Purpose
from service.settings import Settings
from sql import Connection

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")

NEGLIGIBLE_RATIO = 1 / 8
"""The callers of other coalescers are negligible up to this ratio of them to a coalescer's own callers."""

LATEST_WEIGHT = 1 / 4
"""Weight of the latest batch in the mean duration: the mean follows a change within about four batches."""


READS_IN_FLIGHT = 2
"""While one statement runs, the answers of another are serialised; with more, batches were smaller and no faster."""

READ_CHUNKS = 8
"""With one chunk, the throughput of 64 callers was a fifth lower; with many more, that of 256 callers a tenth lower."""


@dataclass(slots=True)
class Callers:
    """The number of callers that wait for an answer from any coalescer of an event loop."""

    count: int = 0


ACTIVE_SECONDS = 0.5
"""An institution takes part in the sharing of a process for so long after its last request."""

SHARED_CAP = 8
"""Most pairs of a batch while several institutions are active: deciding them keeps the event loop for a quarter of a
millisecond."""

SHARED_CHUNK = 2
"""Callers resolved in one turn of the event loop while several institutions are active."""

HTTP_SECONDS = 0.0002
"""Time of the event loop for the HTTP of a small request."""


class Sharing:
    """How the institutions of a process share its time: which of them have sent requests lately."""

    def __init__(self, share: float) -> None:
        """``share`` is the largest part of the time that one institution takes while others are active."""
        self._pause = 1 / share - 1
        self._latest: str | None = None
        self._latest_at = self._other_at = -ACTIVE_SECONDS

    def note(self, institution: str, now: float) -> None:
        """Note a request of an institution."""
        if institution != self._latest:
            self._latest, self._other_at = institution, self._latest_at
        self._latest_at = now

    def has_others(self, institution: str, now: float) -> bool:
        """Return whether other institutions are active."""
        return now - (self._other_at if institution == self._latest else self._latest_at) < ACTIVE_SECONDS

    def pause_after(self, seconds: float) -> float:
        """Return how long an institution leaves the process to others after a batch of some seconds."""
        return seconds * self._pause


@dataclass(slots=True)
class Waiting(Generic[Item, Answer]):
    """An item in the queue, with the future that its caller awaits."""

    item: Item
    size: int
    answer: asyncio.Future[Answer]
    until: float
    """When the item is refused if it is still in the queue, by the loop's clock."""
    disconnected: Callable[[], bool] | None
    span: "SpanContext | None"
    """The span of its request, if traces are on."""


class Coalescer(Generic[Item, Answer]):
    """Answers items in batches, in order of arrival.

    An item runs at once if no batch is in flight. Otherwise it waits in the queue, and the next batch takes the whole
    queue, up to a cap. ``run`` returns the answers in the order of the items. An exception in place of an answer is
    raised to that caller only; an exception that ``run`` raises is raised to all callers of the batch.

    The next batch begins before the callers of the last one are resolved. A batch takes several round trips to the
    database, and resolved callers keep the event loop busy for longer than any of those round trips. So while few
    others wait, callers are resolved in chunks, one per turn of the event loop, and the loop works while the database
    does. While many others wait, the loop has enough work, and all callers are resolved at once: batches that end
    sooner are smaller and cost more. (With fixed chunks of 16, 64 and 256 callers who enroll lost 13 to 15 %; with
    chunks of 1 or 2, a mix of reads and changes lost 12 to 23 %.)

    An item is refused on arrival if ``expected_wait`` exceeds ``patience``, and later if it has waited that long.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Any]]],
        *,
        purpose: Purpose = "reads",
        cap: int,
        queue: int,
        patience: float,
        size: Callable[[Item], int] = lambda _: 1,
        in_flight: int = 1,
        chunks: int = 1,
        everybody: Callers | None = None,
        sharing: tuple[Sharing, str] | None = None,
    ) -> None:
        """Bound a batch by ``cap`` (total size), the queue by ``queue`` (items), the wait by ``patience`` (seconds).

        With more than one batch ``in_flight``, items are not answered in order. ``chunks`` is the number of chunks in
        which the callers are resolved while few other callers of ``everybody`` wait. ``sharing`` is how the institution
        with this name shares the process with others, if there may be others. ``purpose`` is for the metrics.
        """
        self._purpose = purpose
        self._run = run
        self._cap = cap
        self._queue = queue
        self._patience = patience
        self._size = size
        self._queued = 0
        """The total size of the items in the queue."""
        self._waiting: deque[Waiting[Item, Answer]] = deque()
        self._in_flight = in_flight
        self._begun: list[float] = []
        """When each batch in flight began, by the loop's clock, oldest first."""
        self._silent_since: float | None = None
        """Start of the first batch that found the database unavailable; None once a batch succeeds."""
        self._batch_seconds = 0.0
        """Weighted mean duration of the latest batches, including those that failed."""
        self._chunks = chunks
        self._chunk = 1
        self._everybody = everybody or Callers()
        self._sharing = sharing
        self._callers = 0
        self._answered: deque[tuple[Waiting[Item, Answer], Answer | Exception]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def submit(self, item: Item, disconnected: Callable[[], bool] | None = None) -> Answer:
        """Return the answer to an item, which is not run if its caller has ``disconnected`` before its batch forms.

        Raises:
            Unavailable: the item waited too long, or was expected to; it was not run.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._admit(now)
        answer: asyncio.Future[Answer] = loop.create_future()
        size = self._size(item)
        traces = tracing.active
        span = None if traces is None else traces.current()
        self._waiting.append(Waiting(item, size, answer, now + self._patience, disconnected, span))
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
            # An exception refers to this frame, and the future to the exception: the cycle would keep the request.
            del answer
            self._callers -= 1
            self._everybody.count -= 1

    def admit(self) -> None:
        """Raise ``Unavailable`` if an item that arrives now is expected to wait too long."""
        self._admit(asyncio.get_running_loop().time())

    def _admit(self, now: float) -> None:
        wait = self.expected_wait(now)
        if wait > self._patience or len(self._waiting) >= self._queue:
            raise Unavailable.overloaded(wait)

    def is_idle(self) -> bool:
        """Return whether no item waits or runs."""
        return not self._callers and not self._begun

    @property
    def waiting(self) -> int:
        """The number of items in the queue."""
        return len(self._waiting)

    def expected_wait(self, now: float) -> float:
        """Return the seconds until the batch of an item that arrives ``now`` is expected to begin.

        The batch begins at once if another one may be in flight. Otherwise the item waits for the batch in flight and
        for the full batches before it in the queue. Each is expected to take the mean duration of the latest batches;
        the batch in flight is expected to take at least its age again. So while the database does not answer, the wait
        grows with the age of the oldest batch. However slow the latest batches were, the first item after them begins
        at once and shows whether the database has recovered.
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
                BATCH_SIZE.observe(len(batch), self._purpose)
                QUEUE_SECONDS.observe(max(began - batch[0].until + self._patience, 0.0), self._purpose)
                served = await self._answer(batch)
                BATCH_SECONDS.observe(clock() - began, self._purpose)
                await self._give_way(clock() - began)
                took = clock() - began
                if served:
                    self._silent_since = None
                elif self._silent_since is None:
                    self._silent_since = began
                self._batch_seconds += (took - self._batch_seconds) * LATEST_WEIGHT
                self._begun.remove(began)
                self._begun.append(began := began + took)
        finally:
            self._begun.remove(began)

    def _has_others(self) -> bool:
        if self._sharing is None:
            return False
        sharing, institution = self._sharing
        return sharing.has_others(institution, asyncio.get_running_loop().time())

    async def _give_way(self, seconds: float) -> None:
        """Leave the process to other institutions after a batch that took some seconds, if there are any."""
        if self._waiting and self._has_others():
            assert self._sharing is not None
            await asyncio.sleep(self._sharing[0].pause_after(seconds))

    async def _answer(self, batch: list[Waiting[Item, Answer]]) -> bool:
        """Answer a batch; return whether the database was available."""
        served = True
        try:
            items = [waiting.item for waiting in batch]
            if tracing.active is None:
                answers = await self._run(items)
            else:
                with tracing.active.batch("batch", [waiting.span for waiting in batch]):
                    answers = await self._run(items)
        except Exception as error:  # handed on to the callers
            answers = [error] * len(batch)
            served = not isinstance(error, Unavailable)
        except BaseException:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        resolving = bool(self._answered)
        self._answered.extend(zip(batch, answers, strict=True))
        # Cancelled callers are not counted, so the count may be 0.
        self._chunk = max(-(-self._callers // self._chunks), 1)
        if not resolving:
            self._resolve()
        return served

    def _resolve(self) -> None:
        if others := self._has_others():
            count = SHARED_CHUNK
        elif self._everybody.count - self._callers <= self._callers * NEGLIGIBLE_RATIO:
            count = self._chunk
        else:
            count = len(self._answered)
        for _ in range(min(count, len(self._answered))):
            _settle(*self._answered.popleft())
        if not self._answered:
            return
        loop = asyncio.get_running_loop()
        if others and self._sharing is not None:
            # In turns in a row, these callers' next requests would keep out those of other institutions.
            seconds = count * HTTP_SECONDS
            loop.call_later(seconds + self._sharing[0].pause_after(seconds), self._resolve)
        else:
            loop.call_soon(self._resolve)

    def _next_batch(self) -> list[Waiting[Item, Answer]]:
        """Remove the next batch from the queue and return it: at least one item unless the queue is empty."""
        batch: list[Waiting[Item, Answer]] = []
        room = min(self._cap, SHARED_CAP) if self._has_others() else self._cap
        while self._waiting:
            first = self._waiting[0]
            if first.answer.done() or (first.disconnected is not None and first.disconnected()):
                _settle(self._pop(), Unavailable("The client disconnected before the change was started."))
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
        """Refuse the items that have waited too long, and schedule the next call."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting and self._waiting[0].until <= now:
            _settle(self._pop(), Unavailable.overloaded(self.expected_wait(now)))
        self._expiry = loop.call_at(self._waiting[0].until, self._expire) if self._waiting else None


def reader(
    database: Database,
    settings: Settings,
    everybody: Callers,
    load: Callable[[Connection, list[Key]], Awaitable[Mapping[Key, Found]]],
) -> Coalescer[Key, Found | None]:
    """Return a coalescer whose ``submit`` returns what ``load`` finds for a key, or None."""

    async def run(keys: Sequence[Key]) -> list[Found | None]:
        async with database.reading() as connection:
            found = await load(connection, list(dict.fromkeys(keys)))
        return [found.get(key) for key in keys]

    return Coalescer(
        run,
        purpose="reads",
        cap=settings.batch_reads if settings.batching else 1,
        queue=settings.queue_limit,
        patience=settings.admission_seconds,
        in_flight=READS_IN_FLIGHT if settings.batching else settings.pool_size,
        chunks=READ_CHUNKS,
        everybody=everybody,
    )


def _settle(waiting: Waiting[Item, Answer], answer: Answer | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
