"""Events: the change feed, and the history of one enrollment."""

import asyncio
import base64
import binascii
import logging
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from service.api.event_types import Event
from service.api.fields import IdInPath
from service.api.keys import DATABASE
from service.database import Database
from service.errors import Detail, DomainError, EnrollmentNotFound, FieldError, StudentNotFound, Unavailable
from service.registrar.rules import timestamp
from service.web.endpoint import Call, Written, endpoint
from service.web.paging import Digits, Paging, WrittenPage, decode_cursor, written_page
from service.web.problems import invalid
from sql import Connection, feed
from sql.feed import list_history
from sql.students import get_student

logger = logging.getLogger(__name__)

LONG_POLL_SECONDS = 30
"""Maximum wait for an event, below the idle timeouts of common proxies."""

READERS_PER_TURN = 4
TURN_SECONDS = 0.0005
"""Readers answered before a pause, and the length of the pause, in which other requests make progress.

With 4 readers and 0.5 ms, 1,000 readers were answered in 340 ms, and the p99 of other requests doubled. With 2 readers and
1 ms it took 660 ms; without pauses it took 230 ms, and the p99 of other requests was six times as long."""


class CursorExpired(FieldError):
    """The cursor belongs to another history of the feed: the database was restored, promoted or copied.

    Take a new cursor from `/events/head`, read all lists again, and follow the feed from that cursor.
    """

    code, status, title = "cursor_expired", 410, "Cursor expired"

    def __init__(self) -> None:
        sentence = (
            "The cursor belongs to another history of the feed: take a new cursor from /events/head, "
            "then read all lists again."
        )
        super().__init__(sentence, parameter="after")


@dataclass(frozen=True, slots=True)
class Events:
    """The events after a cursor, and the cursor after the last of them, which is never null."""

    items: Annotated[list[Event], Field(description="Events in order; empty if nothing has changed.")]
    next: Annotated[str, Field(description="Send it as `after` to read the events that follow.")]


@dataclass(frozen=True, slots=True)
class Head:
    """The cursor after the newest event."""

    next: Annotated[str, Field(description="Send it as `after` to read the events from now on.")]


class EventsQuery(BaseModel):
    """The cursor to continue from, and how long to wait for an event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Annotated[
        str | None,
        Field(max_length=200, description="A cursor; without a cursor, the feed is read from its beginning."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=500, description="Maximum number of events."), Digits] = 100
    wait: Annotated[
        int, Field(ge=0, le=LONG_POLL_SECONDS, description="Seconds to wait if there is no event yet."), Digits
    ] = 0


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


def cursor_after(epoch: UUID, event: feed.ListedEvent | feed.Epoch) -> Cursor:
    """Return the cursor after an event. An ``Epoch`` gives the cursor after the newest event, if there is any."""
    if event.occurred_at is None:
        return Cursor(epoch, 0, "")
    text = f"{event.occurred_at.isoformat()} {event.request_id}"
    return Cursor(epoch, event.position, blake2b(text.encode(), digest_size=8).hexdigest())


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


@dataclass(frozen=True, slots=True)
class News:
    """The events after a cursor, serialised once for all readers with the same number of events."""

    cursor: Cursor
    rows: list[feed.ListedEvent]
    written: dict[int, Written[Events]] = field(default_factory=dict)

    def first(self, limit: int) -> Written[Events]:
        """Return at most ``limit`` events, and the cursor after them."""
        count = min(limit, len(self.rows))
        if count not in self.written:
            after = cursor_after(self.cursor.epoch, self.rows[count - 1]) if count else self.cursor
            items = ",".join([write_event(row) for row in self.rows[:count]])
            self.written[count] = Written(f'{{"items":[{items}],"next":"{encode(after)}"}}'.encode())
        return self.written[count]


@dataclass(eq=False, slots=True)
class Reader:
    """A request that waits for an event after its cursor."""

    cursor: Cursor
    limit: int
    answer: asyncio.Future[Written[Events]]
    since: float
    """When it began to wait, by the loop's clock."""


class Poller:
    """A task that answers waiting readers, with one query per tick for all of them and none without readers.

    The poller reads new events once for all readers at the same cursor, serialises an answer once for all readers with
    the same number of events, and answers a few readers per turn, so that it does not delay other requests.
    """

    def __init__(self, database: Database, stop: asyncio.Event, *, interval: float) -> None:
        self._database = database
        self._stop = stop
        self._interval = interval
        self._waiting: dict[Cursor, dict[Reader, None]] = {}
        self._due: deque[tuple[Reader, News | DomainError]] = deque()
        self._newest: Cursor | None = None
        self._failed = False
        self._task: asyncio.Task[None] | None = None

    def is_newest(self, cursor: Cursor) -> bool:
        """Return whether no event followed a cursor at the last tick, so that a reader can wait without a query."""
        return cursor == self._newest

    async def wait(self, cursor: Cursor, limit: int, seconds: float) -> Written[Events]:
        """Wait for events after a cursor and return them; return none after some seconds or when the service stops.

        Raises:
            CursorExpired: the event of the cursor is not, or no longer, in this database.
            Unavailable: the database did not answer at the last tick.
        """
        loop = asyncio.get_running_loop()
        reader = Reader(cursor, limit, loop.create_future(), loop.time())
        self._waiting.setdefault(cursor, {})[reader] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        timer = loop.call_later(seconds, self._end, reader)
        try:
            return await reader.answer
        finally:
            timer.cancel()
            self._forget(reader)

    async def _poll(self) -> None:
        try:
            while self._waiting:
                try:
                    self._newest = await self._look()
                    self._failed = False
                except Exception as error:
                    self._newest = None
                    if not self._failed and not isinstance(error, DomainError):
                        logger.exception("the feed can't be read for long-polling readers")
                    self._failed = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._stop.wait()
                if self._stop.is_set():
                    for reader in [reader for readers in self._waiting.values() for reader in readers]:
                        self._end(reader)
        finally:
            self._newest = None

    async def _look(self) -> Cursor:
        """Answer the readers with new events after their cursors, and return the newest cursor."""
        async with self._database.reading() as connection:
            epoch = await feed.get_epoch(connection)
            newest = cursor_after(epoch.epoch, epoch)
            for cursor in [cursor for cursor in self._waiting if cursor != newest]:
                # Readers may have disconnected during the queries for other cursors.
                readers = list(self._waiting.get(cursor, ()))
                limit = max((reader.limit for reader in readers), default=0)
                try:
                    cursor.check_epoch(epoch.epoch)
                    news = News(cursor, await list_events_after(connection, cursor, limit) if limit else [])
                except CursorExpired:
                    for reader in readers:
                        self._answer(reader, CursorExpired())
                    continue
                for reader in readers if news.rows else ():
                    self._answer(reader, news)
        return newest

    def _end(self, reader: Reader) -> None:
        """Answer a reader that has waited long enough: with no events, or with an error if the last tick failed."""
        if self._failed:
            self._answer(reader, Unavailable("The database did not answer while the request waited for an event."))
        else:
            self._answer(reader, News(reader.cursor, []))

    def _answer(self, reader: Reader, answer: News | DomainError) -> None:
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
                reader.answer.set_result(answer.first(reader.limit))

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
        """Return whether no reader waits."""
        return not self._waiting and not self._due

    def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()


POLLER = web.AppKey("poller", Poller)


@endpoint("GET", "/events", scope="events", problems=[CursorExpired])
async def follow_events(call: Call, query: EventsQuery) -> Written[Events]:
    """Follow all changes.

    A reader that continues from `next` each time sees every committed change exactly once, in order. Positions have no
    gaps, so that a reader can verify this. To start from the current state, take the cursor of `/events/head`, read the
    lists, and then follow from that cursor. With `wait`, the answer is sent as soon as there is an event.
    """
    poller = call[POLLER]
    cursor = None if query.after is None else decode(query.after)
    if cursor is None or not query.wait or not poller.is_newest(cursor):
        async with call[DATABASE].reading() as connection:
            epoch = (await feed.get_epoch(connection)).epoch
            cursor = cursor or Cursor(epoch, 0, "")
            cursor.check_epoch(epoch)
            rows = await list_events_after(connection, cursor, query.limit)
        if rows or not query.wait:
            return News(cursor, rows).first(query.limit)
    return await poller.wait(cursor, query.limit, query.wait)


@endpoint("GET", "/events/head", scope="events")
async def read_head(call: Call) -> Head:
    """Read the cursor after the newest event.

    Take the cursor before you read the lists, and follow the feed from it.
    """
    async with call[DATABASE].reading() as connection:
        newest = await feed.get_epoch(connection)
    return Head(encode(cursor_after(newest.epoch, newest)))


@endpoint(
    "GET",
    "/students/{student_id}/courses/{course_id}/history",
    scope="read",
    problems=[StudentNotFound, EnrollmentNotFound],
)
async def read_history(call: Call, student_id: IdInPath, course_id: IdInPath, query: Paging) -> WrittenPage[Event]:
    """Read the events of one student in one course, in order.

    These are the same events as in the feed, with those of duplicates that were merged into the student.
    """
    of = f"history of {student_id} in {course_id}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await list_history(connection, student_id, course_id, after, query.limit + 1)
        if not rows and await get_student(connection, student_id) is None:
            raise StudentNotFound(student_id)
        if not rows and not after:
            raise EnrollmentNotFound(student_id, course_id)
    shown = rows[: query.limit]
    next_after = shown[-1].position if len(rows) > query.limit else None
    return written_page(f"[{','.join([write_event(row) for row in shown])}]", next_after, of)


def encode(cursor: Cursor) -> str:
    """Return the text of a cursor."""
    text = f"{cursor.epoch.hex}{cursor.position}" + (f"-{cursor.proof}" if cursor.proof else "")
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


CURSOR = re.compile("([0-9a-f]{32})([0-9]{1,18})(?:-([0-9a-f]{16}))?")


def decode(text: str) -> Cursor:
    """Return the cursor of a text that a caller sent; raise ``Invalid`` if it is malformed."""
    try:
        padded = text + "=" * (-len(text) % 4)
        match = CURSOR.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, ValueError):
        match = None
    if match is None:
        sentence = (
            "after must be the unchanged `next` value of /events or /events/head; omit it to start from the beginning."
        )
        raise invalid([Detail("invalid_cursor", sentence, parameter="after")])
    return Cursor(UUID(match[1]), int(match[2]), match[3] or "")
