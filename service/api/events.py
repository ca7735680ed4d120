"""Events: the change feed as pages and as a stream, and the history of one enrollment."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final, get_args, get_type_hints

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from service.api.event_types import AnyEvent, Event
from service.api.feed import (
    POLLED_EVENTS,
    CursorExpired,
    Extract,
    Filter,
    Poller,
    cursor_after,
    decode,
    encode,
    read_extract,
    write_event,
)
from service.api.fields import IdInPath, IdInQuery
from service.api.keys import DATABASE
from service.errors import DomainError, EnrollmentNotFound, StudentNotFound
from service.web.endpoint import Call, Written, endpoint
from service.web.negotiation import prefers_events
from service.web.paging import Digits, Paging, WrittenPage, decode_cursor, written_page
from service.web.problems import InternalError, problem_text
from service.web.validation import wrong
from sql import feed
from sql.feed import list_history
from sql.students import get_student

logger = logging.getLogger(__name__)

LONG_POLL_SECONDS: Final = 30
"""Maximum wait for an event, below the idle timeouts of common proxies."""

KEEP_ALIVE_SECONDS: Final = 15
"""How often a stream without events sends a comment: proxies close a connection that is silent for a minute."""

STREAM_PAGE: Final = 500
"""The events that a stream reads together until it has caught up, as many as a page has at most."""

BYTES_PER_WRITE: Final = 65536
"""A stream waits until its caller has received so much before it hands over more."""

POLLER = web.AppKey("poller", Poller)


def _types_of(event: type) -> tuple[str, ...]:
    """Return the values that the member ``type`` of an event may have."""
    types: tuple[str, ...] = get_args(get_type_hints(event)["type"])
    return types


TYPES: Final = tuple(name for event in get_args(AnyEvent) for name in _types_of(event))
"""The types of all events."""


def _types(text: object) -> tuple[str, ...]:
    """Split types at their commas, and put them in one order."""
    chosen = text.split(",") if isinstance(text, str) else []
    if not chosen or not set(chosen) <= set(TYPES):
        raise wrong("not_event_types", f"{{field}} must be one or more of {', '.join(TYPES)}, separated by commas.")
    return tuple(name for name in TYPES if name in chosen)


_TYPE_PATTERN: Final = f"({'|'.join(name.replace('.', '[.]') for name in TYPES)})"
TypesInQuery = Annotated[
    tuple[str, ...],
    PlainValidator(_types),
    WithJsonSchema({"type": "string", "pattern": f"^{_TYPE_PATTERN}(,{_TYPE_PATTERN})*$"}),
]


@dataclass(frozen=True, slots=True)
class Events:
    """Events after a cursor, and the cursor after all events that were examined, which is never null."""

    items: Annotated[list[Event], Field(description="Events in order.")]
    next: Annotated[str, Field(description="Send it as `after` to read the events that follow.")]


@dataclass(frozen=True, slots=True)
class Head:
    """The cursor after the newest event."""

    next: Annotated[str, Field(description="Send it as `after` to read the events from now on.")]


class EventsQuery(BaseModel):
    """The cursor to continue from, the events to return, and how long to wait for one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Annotated[
        str | None,
        Field(max_length=200, description="A cursor; without a cursor, the feed is read from its beginning."),
    ] = None
    limit: Annotated[int, Field(ge=1, le=500, description="Maximum number of events of a page."), Digits] = 100
    wait: Annotated[
        int, Field(ge=0, le=LONG_POLL_SECONDS, description="Seconds to wait if there is no event yet."), Digits
    ] = 0
    types: Annotated[TypesInQuery | None, Field(description="Only events of these types, separated by commas.")] = None
    student_id: Annotated[IdInQuery | None, Field(description="Only events of this student.")] = None
    course_id: Annotated[IdInQuery | None, Field(description="Only events of this course.")] = None
    term_id: Annotated[
        IdInQuery | None,
        Field(description="Only events of this term, of the courses in it, and of students in these courses."),
    ] = None


@endpoint("GET", "/events", scope="events", problems=[CursorExpired])
async def follow_events(call: Call, query: EventsQuery) -> Written[Events] | web.StreamResponse:
    """Follow all changes, or those that match filters.

    A reader that continues from `next` each time sees every committed change exactly once, in order. Positions have no
    gaps, so that a reader can verify this. To start from the current state, take the cursor of `/events/head`, read the
    lists, and then follow from that cursor. With `wait`, the answer is sent as soon as there is an event.

    With filters, the answer has the events that match all of them. A call examines a bounded number of events: if
    none of them matches, the page is empty and its `next` is after them. Every cursor is a place in the whole feed, so
    that it can be used with other filters.

    With `Accept: text/event-stream`, the answer is a stream of Server-Sent Events, which ignores `limit` and `wait`. The
    data of a message are an event, its id is the cursor after the event. `Last-Event-ID` takes precedence over `after`.
    """
    poller = call[POLLER]
    chosen = Filter(query.types, query.student_id, query.course_id, query.term_id)
    accept = call.request.headers.get(hdrs.ACCEPT)
    if accept is not None and prefers_events(accept):
        return await _stream(call, poller, query.after, chosen)
    cursor = None if query.after is None else decode(query.after)
    if cursor is None or not query.wait or not poller.is_newest(cursor):
        async with call[DATABASE].reading() as connection:
            extract, is_newest = await read_extract(connection, cursor, query.limit, chosen)
        if extract.entries or not query.wait or not is_newest:
            return extract.page
        cursor = extract.next
    return (await poller.wait(cursor, query.limit, query.wait, chosen)).page


async def _stream(call: Call, poller: Poller, after: str | None, chosen: Filter) -> web.StreamResponse:
    """Send the events after a cursor as messages, until the caller disconnects or the service stops."""
    name = "Last-Event-ID"
    if last_event_id := call.request.headers.get(name):
        after = last_event_id
    else:
        name = "after"
    cursor = None if after is None else decode(after, name)
    with poller.streaming():
        async with call[DATABASE].reading() as connection:
            extract, is_newest = await read_extract(connection, cursor, STREAM_PAGE, chosen)
        response = await call.start_stream("text/event-stream")
        if call.request.method == "HEAD":
            return response
        try:
            # A caller who has disconnected gets nothing more.
            with suppress(ConnectionError):
                await _send_events(call, response, poller, chosen, extract, is_newest=is_newest)
        except DomainError as error:
            await _send_problem(call, response, error)
        except Exception:
            logger.exception("unexpected error in a stream", extra={"request_id": call.request_id})
            await _send_problem(call, response, InternalError.logged())
    return response


async def _send_events(
    call: Call, response: web.StreamResponse, poller: Poller, chosen: Filter, extract: Extract, *, is_newest: bool
) -> None:
    """Send an extract and what follows it, until the caller disconnects or the service stops.

    A stream that has caught up waits at the poller, which reads for all streams. One that falls far behind, since its
    caller is slow, reads for itself: it holds one extract at a time, and continues once the caller has received it.
    """
    clock = asyncio.get_running_loop().time
    known = None
    checked = clock()
    await response.write(b": events follow\n\n")
    while True:
        if extract.entries:
            messages = memoryview(extract.messages)
            for start in range(0, len(messages), BYTES_PER_WRITE):
                await response.write(messages[start : start + BYTES_PER_WRITE])
            known = extract.entries[-1].cursor
        elif is_newest:
            # A message without data only moves the id: after a reconnect, no filter examines the same events again.
            place = "" if extract.next == known else f"id: {encode(extract.next)}\n"
            await response.write(f": no events\n{place}\n".encode())
            known = extract.next
        if poller.stopping or call.disconnected():
            return
        if clock() - checked >= KEEP_ALIVE_SECONDS:
            await call.check_caller()
            checked = clock()
        if is_newest and not poller.is_far(extract.next):
            extract = await poller.wait(extract.next, POLLED_EVENTS, KEEP_ALIVE_SECONDS, chosen)
        else:
            async with call[DATABASE].reading() as connection:
                extract, is_newest = await read_extract(connection, extract.next, STREAM_PAGE, chosen)


async def _send_problem(call: Call, response: web.StreamResponse, error: DomainError) -> None:
    """Send the message that ends a stream which can't go on."""
    problem = problem_text(error, instance=call.request.rel_url.raw_path, request_id=call.request_id)
    with suppress(ConnectionError):
        await response.write(b"event: problem\ndata: " + problem + b"\n")


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

    These are the same events as in the feed.
    """
    of = f"history of {student_id} in {course_id}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await list_history(connection, student_id, course_id, after, query.limit + 1)
        if not rows and not after:
            if await get_student(connection, student_id) is None:
                raise StudentNotFound(student_id)
            raise EnrollmentNotFound(student_id, course_id)
    shown = rows[: query.limit]
    next_after = shown[-1].position if len(rows) > query.limit else None
    return written_page(f"[{','.join([write_event(row) for row in shown])}]", next_after, of)
