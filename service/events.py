"""Events: the change feed, and the history of one enrollment."""

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from service.database import Database
from service.errors import Detail, DomainError, NotEnrolled, StudentNotFound
from service.keys import DATABASE
from service.values import IdInPath
from service.web.endpoint import DRAINING, Call, endpoint
from service.web.paging import Digits, Page, Paging, decode_cursor, page_of
from service.web.problems import invalid
from sql import feed
from sql.feed import list_history
from sql.students import get_student

WAIT = 30
"""The longest wait for an event, in seconds: below the idle limits of common proxies."""


class CursorExpired(DomainError):
    """The cursor is of another epoch: the database was restored, promoted or copied since.

    Take a new cursor from `/events/head`, read all lists again, and follow from that cursor.
    """

    code, status, title = "cursor_expired", 410, "Cursor expired"

    def __init__(self) -> None:
        sentence = (
            "This cursor is of another epoch of the feed: take a new one from /events/head, then read all lists again."
        )
        super().__init__(sentence, [Detail(self.code, sentence, parameter="after")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of one thing. Positions are contiguous, in the order of the changes."""

    position: int
    type: str
    occurred_at: datetime
    actor: Annotated[str | None, Field(description="As the header X-Actor told; not authenticated.")]
    request_id: str
    reason: str | None
    student_id: int | None
    course_id: int | None
    term_id: int | None
    before: Annotated[dict[str, Any] | None, Field(description="Null where there was nothing before.")]
    after: Annotated[dict[str, Any] | None, Field(description="Null where there is nothing any more.")]


@dataclass(frozen=True, slots=True)
class Events:
    """What follows a cursor, and the cursor to go on from, which is never null."""

    items: list[Event]
    next: str


@dataclass(frozen=True, slots=True)
class Head:
    """The cursor after the newest event."""

    next: str


class EventsQuery(BaseModel):
    """Where to go on, and for how long to wait."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Annotated[
        str | None, Field(max_length=200, description="A cursor; without one the feed is read from its beginning.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=500, description="How many events at most."), Digits] = 100
    wait: Annotated[
        int, Field(ge=0, le=WAIT, description="Seconds to wait for an event where there is none yet."), Digits
    ] = 0


def event_of(row: feed.Event) -> Event:
    """Show a row as callers see it."""
    return Event(
        position=row.position,
        type=row.type,
        occurred_at=row.occurred_at,
        actor=row.actor,
        request_id=row.request_id,
        reason=row.reason,
        student_id=row.student_id,
        course_id=row.course_id,
        term_id=row.term_id,
        before=None if row.before is None else json.loads(row.before),
        after=None if row.after is None else json.loads(row.after),
    )


class Poller:
    """Tells those who wait that there are new events: one question a tick for all of them, and none without them."""

    def __init__(self, database: Database, *, interval: float) -> None:
        self._database = database
        self._interval = interval
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, after: int, seconds: float, stop: asyncio.Event) -> None:
        """Return once there is an event after a position, at the latest after some seconds or when told to stop."""
        loop = asyncio.get_running_loop()
        news: asyncio.Future[None] = loop.create_future()
        self._waiting[news] = after
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        stopped = asyncio.create_task(_until(stop))
        try:
            await asyncio.wait([news, stopped], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            news.cancel()
            self._waiting.pop(news, None)

    async def _poll(self) -> None:
        while self._waiting:
            try:
                async with self._database.reading() as connection:
                    position = (await feed.get_epoch(connection)).position
            except DomainError:
                position = 0
            for news, after in self._waiting.items():
                if after < position and not news.done():
                    news.set_result(None)
            await asyncio.sleep(self._interval)

    def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


POLLER = web.AppKey("poller", Poller)


@endpoint("GET", "/events", problems=[CursorExpired])
async def follow_events(call: Call, query: EventsQuery) -> Events:
    """Follow the changes of everything.

    A reader who goes on from `next` each time sees every committed change exactly once, in order, and the contiguous
    positions show that none is missing. To begin with what there is: take the cursor of `/events/head` first, then read
    the lists, then follow. With `wait` the answer comes as soon as there is an event.
    """
    async with call[DATABASE].reading() as connection:
        epoch = await feed.get_epoch(connection)
        position = decode(query.after, epoch)
        rows = await feed.list_events(connection, position, query.limit)
    if not rows and query.wait:
        await call[POLLER].wait(position, query.wait, call[DRAINING])
        async with call[DATABASE].reading() as connection:
            rows = await feed.list_events(connection, position, query.limit)
    return Events([event_of(row) for row in rows], encode(epoch.epoch, rows[-1].position if rows else position))


@endpoint("GET", "/events/head")
async def read_head(call: Call) -> Head:
    """Read the cursor after the newest event."""
    async with call[DATABASE].reading() as connection:
        epoch = await feed.get_epoch(connection)
    return Head(encode(epoch.epoch, epoch.position))


@endpoint("GET", "/students/{student_id}/courses/{course_id}/history", problems=[StudentNotFound, NotEnrolled])
async def read_history(call: Call, student_id: IdInPath, course_id: IdInPath, query: Paging) -> Page[Event]:
    """Read the events of one student in one course, in order."""
    of = f"history of {student_id} in {course_id}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await list_history(connection, student_id, course_id, after, query.limit + 1)
        if not rows and not after:
            if await get_student(connection, student_id) is None:
                raise StudentNotFound(student_id)
            raise NotEnrolled(student_id, course_id)
    return page_of([event_of(row) for row in rows], query.limit, of, lambda event: event.position)


def encode(epoch: UUID, position: int) -> str:
    """Make a cursor."""
    return base64.urlsafe_b64encode(f"{epoch.hex}{position}".encode()).decode().rstrip("=")


def decode(cursor: str | None, epoch: feed.Epoch) -> int:
    """Return the position after which to go on; raises ``CursorExpired`` for one of another epoch."""
    if cursor is None:
        return 0
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        made_in, position = UUID(text[:32]), text[32:]
    except (binascii.Error, ValueError):
        made_in, position = None, ""
    if made_in is None or not position.isdigit() or len(position) > 18:
        sentence = "This is no cursor of the feed: take `next` of an answer, or of /events/head, as it is."
        raise invalid([Detail("invalid_cursor", sentence, parameter="after")])
    if made_in != epoch.epoch or int(position) > epoch.position:
        raise CursorExpired
    return int(position)
