"""Reading the feed: its cursors and filters, and the poller that answers the readers who wait."""

import asyncio
import base64
import binascii
import json
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from pydantic_core import to_json

from service.database import Database
from service.errors import Detail, DomainError, FieldError, Unavailable
from service.registrar.rules import timestamp
from service.web.endpoint import Written
from service.web.problems import invalid
from sql import Connection, feed

logger = logging.getLogger(__name__)

READERS_PER_TURN = 3
TURN_SECONDS = 0.001
"""Readers answered before a pause, and the length of the pause, in which other requests make progress.

The loop counts whole milliseconds, and makes no pause of half of one. Beside 10,000 readers, the p99 of other requests was
3.1 ms with 3 readers, 4.7 ms with 4, and 7.4 ms without a pause; the last reader was answered after 3.7 s, 2.7 s and 1.5 s."""

EXTRACTS_PER_TURN: Final = 16
"""Readers for whom the poller chooses events before other requests have a turn: a tenth of a millisecond. A request takes
several turns; with 128 readers, the p99 of other requests beside 1,000 readers was 5 instead of 3 ms."""

SCANNED_EVENTS: Final = 10_000
"""The events that a read with a filter examines, in about 10 ms. If hardly any matches, the reader continues after them."""

POLLED_EVENTS: Final = 1_000
"""The events that the poller reads together for streams and for filters: 5,000 per second at five ticks, about as many as
the service writes."""


class CursorExpired(FieldError):
    """The cursor belongs to another history of the feed: the database was restored, promoted or copied.

    Take a new cursor from `/events/head`, read all lists again, and follow the feed from that cursor.
    """

    code, status, title = "cursor_expired", 410, "Cursor expired"

    def __init__(self, sentence: str | None = None) -> None:
        if sentence is None:
            super().__init__(
                "The cursor belongs to another history of the feed: take a new cursor from /events/head, "
                "then read all lists again.",
                parameter="after",
            )
        else:
            DomainError.__init__(self, sentence)


def write_event(row: feed.ListedEvent) -> str:
    """Return an event as the JSON of ``Event``; its states are already JSON."""
    return (
        f'{{"position":{row.position},"type":"{row.type}","occurred_at":"{timestamp(row.occurred_at)}",'
        f'"actor":{text(row.actor)},"on_behalf_of":{text(row.on_behalf_of)},"request_id":{text(row.request_id)},"reason":{text(row.reason)},'
        f'"student_id":{row.student_id or "null"},"student_external_id":{text(row.student_external_id)},'
        f'"course_id":{row.course_id or "null"},"course_external_id":{text(row.course_external_id)},'
        f'"term_id":{row.term_id or "null"},'
        f'"before":{row.before or "null"},"after":{row.after or "null"}}}'
    )


def text(value: str | None) -> str:
    """Return a string as JSON."""
    return "null" if value is None else to_json(value).decode()


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the feed: after an event of an epoch, or, with position 0, before the first event.

    ``proof`` is a digest of the event. It detects a restore, after which another event may have the same position.
    """

    epoch: UUID
    position: int
    proof: str

    def check_epoch(self, epoch: UUID) -> None:
        """Raise ``CursorExpired`` for a cursor of another epoch."""
        if self.epoch != epoch:
            raise CursorExpired


def cursor_after(epoch: UUID, event: feed.ListedEvent | feed.Mark | feed.Epoch) -> Cursor:
    """Return the cursor after an event. An ``Epoch`` gives the cursor after the newest event, if there is any."""
    if event.occurred_at is None:
        return Cursor(epoch, 0, "")
    text = f"{event.occurred_at.isoformat()} {event.request_id}"
    return Cursor(epoch, event.position, blake2b(text.encode(), digest_size=8).hexdigest())


def encode(cursor: Cursor) -> str:
    """Return the text of a cursor."""
    text = f"{cursor.epoch.hex}{cursor.position}" + (f"-{cursor.proof}" if cursor.proof else "")
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


CURSOR = re.compile("([0-9a-f]{32})([0-9]{1,18})(?:-([0-9a-f]{16}))?")


def decode(text: str, parameter: str = "after") -> Cursor:
    """Return the cursor of a text that a caller sent; raise ``Invalid`` if it is malformed."""
    try:
        padded = text + "=" * (-len(text) % 4)
        match = CURSOR.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, ValueError):
        match = None
    if match is None:
        sentence = (
            f"{parameter} must be the unchanged `next` value of /events or /events/head, or the id of a message; "
            "omit it to start from the beginning."
        )
        raise invalid([Detail("invalid_cursor", sentence, parameter=parameter)])
    return Cursor(UUID(match[1]), int(match[2]), match[3] or "")


@dataclass(frozen=True, slots=True)
class Filter:
    """The events that a reader wants: those that match each member that is not None."""

    types: tuple[str, ...] | None = None
    student_id: int | None = None
    course_id: int | None = None
    term_id: int | None = None

    def matches(self, row: feed.ListedEvent) -> bool:
        """Return whether a reader wants an event; the same as ``sql.feed.list_matching_events``."""
        return (
            (self.types is None or row.type in self.types)
            and (self.student_id is None or row.student_id == self.student_id)
            and (self.course_id is None or row.course_id == self.course_id)
            and (self.term_id is None or self.term_id in terms_of(row))
        )


EVERYTHING: Final = Filter()


def terms_of(row: feed.ListedEvent) -> set[int | None]:
    """Return the terms that an event is about: its own, the one its course is in, and those the course was put in."""
    terms = {row.term_id, row.course_term_id}
    if row.type.startswith("course."):
        terms |= {json.loads(state).get("term_id") for state in (row.before, row.after) if state is not None}
    return terms


class Entry:
    """An event with the texts that readers get of it, each written once for all of them."""

    def __init__(self, epoch: UUID, row: feed.ListedEvent) -> None:
        self.row = row
        self._epoch = epoch

    @cached_property
    def cursor(self) -> Cursor:
        """The cursor after the event."""
        return cursor_after(self._epoch, self.row)

    @cached_property
    def json(self) -> str:
        """The event as a page shows it."""
        return write_event(self.row)

    @cached_property
    def message(self) -> bytes:
        """The event as a message of a stream."""
        return f"id: {encode(self.cursor)}\ndata: {self.json}\n\n".encode()


class Extract:
    """Some consecutive events of those that a reader wants, and the cursor after all events that were examined."""

    def __init__(self, entries: Sequence[Entry], next: Cursor) -> None:
        self.entries = entries
        self.next = next

    @cached_property
    def page(self) -> Written[Any]:
        """The events as a page."""
        items = ",".join([entry.json for entry in self.entries])
        return Written(f'{{"items":[{items}],"next":"{encode(self.next)}"}}'.encode())

    @cached_property
    def messages(self) -> bytes:
        """The events as messages of a stream."""
        return b"".join([entry.message for entry in self.entries])


class News:
    """The events after a cursor, serialised once for all readers who want the same events."""

    def __init__(self, cursor: Cursor, rows: Sequence[feed.ListedEvent]) -> None:
        self.entries = [Entry(cursor.epoch, row) for row in rows]
        self.next = self.entries[-1].cursor if rows else cursor
        self._extracts: dict[tuple[Filter, int], Extract] = {}
        self._matching: dict[Filter, Sequence[Entry]] = {EVERYTHING: self.entries}

    def extract(self, limit: int, chosen: Filter = EVERYTHING) -> Extract:
        """Return at most ``limit`` events that match a filter, and the cursor after them."""
        matching = self._matching.get(chosen)
        if matching is None:
            candidates = self._of_students.get(chosen.student_id, []) if chosen.student_id else self.entries
            matching = self._matching[chosen] = [each for each in candidates if chosen.matches(each.row)]
        count = min(limit, len(matching))
        extract = self._extracts.get((chosen, count))
        if extract is None:
            next = self.next if count == len(matching) else matching[count - 1].cursor
            extract = self._extracts[chosen, count] = Extract(matching[:count], next)
        return extract

    @cached_property
    def _of_students(self) -> dict[int | None, list[Entry]]:
        """The events of each student: a thousand readers may want those of one student each."""
        found: dict[int | None, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.row.student_id, []).append(entry)
        return found


async def list_events_after(connection: Connection, cursor: Cursor, limit: int) -> list[feed.ListedEvent]:
    """Load the events after a cursor of the current epoch, in order.

    Raises:
        CursorExpired: the event of the cursor is not in this database.
    """
    if cursor.position == 0:
        return await feed.list_events(connection, 0, limit)
    rows = await feed.list_events(connection, cursor.position - 1, limit + 1)
    if not rows or cursor_after(cursor.epoch, rows[0]) != cursor:
        raise CursorExpired
    return rows[1:]


async def read_extract(
    connection: Connection, cursor: Cursor | None, limit: int, chosen: Filter = EVERYTHING
) -> tuple[Extract, bool]:
    """Load events after a cursor, or from the beginning, and return whether they reach the newest event.

    A filter examines ``SCANNED_EVENTS`` events; or, by their index, all events of one student.

    Raises:
        CursorExpired: the event of the cursor is not in this database.
    """
    newest = await feed.get_epoch(connection)
    cursor = cursor or Cursor(newest.epoch, 0, "")
    cursor.check_epoch(newest.epoch)
    if chosen == EVERYTHING:
        rows = await list_events_after(connection, cursor, limit)
        return News(cursor, rows).extract(limit), len(rows) < limit
    last = min(cursor.position + SCANNED_EVENTS, newest.position)
    student_id = chosen.student_id if last < newest.position else None
    if student_id is not None:
        last = newest.position
    marks = {mark.position: mark for mark in await feed.list_marks(connection, [cursor.position, last])}
    # An event is missing after a failover, even between these statements.
    if last < cursor.position or (last and last not in marks):
        raise CursorExpired
    if cursor.position and cursor_after(cursor.epoch, marks[cursor.position]) != cursor:
        raise CursorExpired
    types = None if chosen.types is None else list(chosen.types)
    course_id, term_id = chosen.course_id, chosen.term_id
    if student_id is not None:
        rows = await feed.list_matching_events_of_student(
            connection,
            cursor.position,
            last,
            limit,
            types=types,
            student_id=student_id,
            course_id=course_id,
            term_id=term_id,
        )
    else:
        rows = await feed.list_matching_events(
            connection,
            cursor.position,
            last,
            limit,
            types=types,
            student_id=chosen.student_id,
            course_id=course_id,
            term_id=term_id,
        )
    entries = [Entry(cursor.epoch, row) for row in rows]
    if len(rows) == limit:
        return Extract(entries, entries[-1].cursor), False
    end = cursor_after(cursor.epoch, marks[last]) if last else cursor
    return Extract(entries, end), last == newest.position


@dataclass(eq=False, slots=True)
class Reader:
    """A request that waits for an event after its cursor."""

    cursor: Cursor
    limit: int
    chosen: Filter
    answer: asyncio.Future[Extract]
    since: float
    """When it began to wait, by the loop's clock."""
    examined: int = field(init=False)
    """How many events the poller reads for it: a filter leaves few of them."""

    def __post_init__(self) -> None:
        """Set the number of events: a tick compares those of all readers."""
        self.examined = self.limit if self.chosen == EVERYTHING else max(self.limit, POLLED_EVENTS)


class Poller:
    """A task that answers waiting readers, with one query per tick for all of them and none without readers.

    The poller reads new events once for all readers at the same cursor, serialises each event once, and answers a few
    readers per turn, so that it does not delay other requests. A reader whose filter matches none of the new events
    waits on after them. Streams wait in the same way for what follows the events that they have sent.
    """

    def __init__(self, database: Database, stop: asyncio.Event, *, interval: float, max_streams: int) -> None:
        self._database = database
        self._stop = stop
        self.interval = interval
        self._max_streams = max_streams
        self._streams = 0
        self._waiting: dict[Cursor, dict[Reader, None]] = {}
        self._due: deque[tuple[Reader, Extract | DomainError]] = deque()
        self._newest: Cursor | None = None
        self._failed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def stopping(self) -> bool:
        """Whether the service stops."""
        return self._stop.is_set()

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return self._streams

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Count a stream while it is open.

        Raises:
            Unavailable: as many streams as may be are open.
        """
        if self._streams >= self._max_streams:
            raise Unavailable("Too many streams of the feed are open; read /events with `wait` instead.", 30)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def is_newest(self, cursor: Cursor) -> bool:
        """Return whether no event followed a cursor at the last tick, so that a reader can wait without a query.

        Ticks end while nobody waits; the next wait begins with one.
        """
        return cursor == self._newest

    def is_far(self, cursor: Cursor) -> bool:
        """Return whether more events followed a cursor at the last tick than the poller reads together."""
        return self._newest is not None and self._newest.position - cursor.position > POLLED_EVENTS

    async def wait(self, cursor: Cursor, limit: int, seconds: float, chosen: Filter = EVERYTHING) -> Extract:
        """Wait for events after a cursor and return them; return none after some seconds or when the service stops.

        Raises:
            CursorExpired: the event of the cursor is not, or no longer, in this database.
            Unavailable: the database did not answer at the last tick.
        """
        loop = asyncio.get_running_loop()
        reader = Reader(cursor, limit, chosen, loop.create_future(), loop.time())
        self._register(reader)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        timer = loop.call_later(seconds, self._end, reader)
        try:
            return await reader.answer
        finally:
            timer.cancel()
            self._forget(reader)

    async def _poll(self) -> None:
        while self._waiting:
            try:
                await self._look()
                self._failed = False
            except Exception as error:
                self._newest = None
                if not self._failed and not isinstance(error, DomainError):
                    logger.exception("the feed can't be read for waiting readers")
                self._failed = True
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval):
                    await self._stop.wait()
            if self._stop.is_set():
                for reader in [reader for readers in self._waiting.values() for reader in readers]:
                    self._end(reader)

    async def _look(self) -> None:
        """Answer the readers with new events after their cursors, and note the newest cursor."""
        async with self._database.reading() as connection:
            epoch = await feed.get_epoch(connection)
            # Noted first: the readers answered below come back with it, and wait without a query.
            newest = self._newest = cursor_after(epoch.epoch, epoch)
            due = deque([cursor for cursor in self._waiting if cursor != newest])
            while due:
                cursor = due.popleft()
                # Readers may have disconnected during the queries for other cursors.
                readers = list(self._waiting.get(cursor, ()))
                limit = max((reader.examined for reader in readers), default=0)
                try:
                    cursor.check_epoch(epoch.epoch)
                    news = News(cursor, await list_events_after(connection, cursor, limit) if limit else [])
                except CursorExpired:
                    for reader in readers:
                        self._answer(reader, CursorExpired())
                    continue
                if news.next.position > newest.position and len(news.entries) < limit:
                    # Events were committed since.
                    newest = self._newest = news.next
                if news.entries and await self._hand_over(news, readers) and news.next.position < newest.position:
                    due.append(news.next)

    async def _hand_over(self, news: News, readers: Sequence[Reader]) -> bool:
        """Answer the readers who want some of the news; return whether there are others, who wait on after the news."""
        is_waited_for = False
        for number, reader in enumerate(readers, start=1):
            if not number % EXTRACTS_PER_TURN:
                await asyncio.sleep(0)
            extract = news.extract(reader.limit, reader.chosen)
            if extract.entries:
                self._answer(reader, extract)
            elif not reader.answer.done():
                is_waited_for = True
                self._forget(reader)
                reader.cursor = news.next
                self._register(reader)
        return is_waited_for

    def _end(self, reader: Reader) -> None:
        """Answer a reader that has waited long enough: with no events, or with an error if the last tick failed."""
        if self._failed:
            self._answer(reader, Unavailable("The database did not answer while the request waited for an event."))
        else:
            self._answer(reader, Extract([], reader.cursor))

    def _answer(self, reader: Reader, answer: Extract | DomainError) -> None:
        self._forget(reader)
        if not self._due:
            asyncio.get_running_loop().call_soon(self._hand_out)
        self._due.append((reader, answer))

    def _hand_out(self) -> None:
        turn = [self._due.popleft() for _ in range(min(READERS_PER_TURN, len(self._due)))]
        if self._due:
            asyncio.get_running_loop().call_later(TURN_SECONDS, self._hand_out)
        for reader, answer in turn:
            if reader.answer.done():
                continue
            if isinstance(answer, DomainError):
                reader.answer.set_exception(answer)
            else:
                reader.answer.set_result(answer)

    def _register(self, reader: Reader) -> None:
        self._waiting.setdefault(reader.cursor, {})[reader] = None

    def _forget(self, reader: Reader) -> None:
        readers = self._waiting.get(reader.cursor, {})
        readers.pop(reader, None)
        if not readers:
            self._waiting.pop(reader.cursor, None)

    def waiting(self) -> tuple[int, float]:
        """Return the number of readers that wait, and the seconds for which the oldest one does."""
        begun = [reader.since for readers in self._waiting.values() for reader in readers]
        return len(begun), asyncio.get_running_loop().time() - min(begun) if begun else 0.0

    def is_idle(self) -> bool:
        """Return whether no reader waits and no stream is open."""
        return not self._waiting and not self._due and not self._streams

    def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
