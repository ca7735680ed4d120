"""Webhooks over HTTP: subscriptions to the feed, whose events the service sends to a URL."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, TypeAlias, cast

from aiohttp import web
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, with_config
from pydantic_core import to_json
from typing_extensions import TypedDict

from service.api.answers import CourseId, CreatedAt, Id, StudentId, TermId, UpdatedAt, Version
from service.api.event_types import Event
from service.api.events import TYPES
from service.api.feed import Cursor, CursorExpired, cursor_after
from service.api.fields import IdInBody, IdInPath, Input, Whole
from service.api.keys import DATABASE
from service.errors import (
    DomainError,
    PreconditionFailed,
    UnknownPosition,
    WebhookLimitReached,
    WebhookNotFound,
    WebhookUrlRefused,
)
from service.web.endpoint import Call, Reply, endpoint
from service.web.etags import ETags
from service.web.openapi import Outgoing
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.schema import COMPONENT, MEANING, named
from service.web.validation import wrong
from service.webhooks import ATTEMPTS_KEPT
from service.webhooks.sender import Failure, Sender
from service.webhooks.signing import new_secret, secrets_of
from service.webhooks.targets import MAX_URL_CHARACTERS, URL_PATTERN, UrlRefused, check_url
from sql import Connection, feed
from sql import webhooks as sql

DAY_SECONDS: Final = 24 * 60 * 60

NEWEST: Final = 2**63 - 1
"""Above the id of every attempt."""

SENDER = web.AppKey("sender", Sender)

NOTE_CHANGE: web.AppKey[Callable[[str | None], Awaitable[None]]] = web.AppKey("note change", Callable)  # type: ignore[arg-type]
"""Let the process that delivers the webhooks of an institution notice a change."""

WEBHOOK_LIMIT = web.AppKey("webhook limit", int)


def _known_type(name: str) -> str:
    if name not in TYPES:
        raise wrong("not_event_types", f"{{field}} must be one of {', '.join(TYPES)}.")
    return name


EventTypeName: TypeAlias = Annotated[
    str,
    AfterValidator(_known_type),
    WithJsonSchema({"type": "string", "enum": list(TYPES), COMPONENT: "EventType", MEANING: "The type of an event."}),
]
Types: TypeAlias = Annotated[
    list[EventTypeName] | None,
    Field(min_length=1, max_length=len(TYPES), description="Only events of these types; null is all types."),
]
Url: TypeAlias = Annotated[
    str,
    StringConstraints(max_length=MAX_URL_CHARACTERS),
    Field(
        description="Where events are sent: `https`, at a public address. Hosts in `WEBHOOK_HOSTS` may be private, and reached over `http`.",
        json_schema_extra={"pattern": URL_PATTERN},
    ),
]
OfStudent: TypeAlias = Annotated[IdInBody | None, Field(description="Only events of this student; null is all.")]
OfCourse: TypeAlias = Annotated[IdInBody | None, Field(description="Only events of this course; null is all.")]
OfTerm: TypeAlias = Annotated[
    IdInBody | None,
    Field(description="Only events of this term, of the courses in it, and of students in these courses; null is all."),
]
FromPosition: TypeAlias = Annotated[
    IdInBody | None,
    Field(
        description="The position of the first event to send; null is the next event. 1 is the beginning of the feed."
    ),
]
State: TypeAlias = Annotated[
    Literal["active", "failing", "stopped"],
    named(
        "WebhookState",
        "`failing`: the last attempt has failed, and another one follows. `stopped`: no event is sent until it is resumed.",
    ),
]
StoppedBecause: TypeAlias = Annotated[
    Literal["failures", "gone", "cursor_expired"],
    named(
        "WebhookStop",
        "Why a webhook was stopped. `failures`: all attempts to send an event have failed. `gone`: the receiver has answered "
        "410. `cursor_expired`: its position belongs to another history of the feed, such as that before a restore.",
    ),
]
AttemptError: TypeAlias = Annotated[
    Failure,
    named(
        "WebhookFailure",
        "What prevented an answer. `address_refused`: the URL or its address is not allowed. `name_not_found`: its host has no "
        "address. `not_connected`: no connection was made. `certificate_refused`: TLS failed. `timed_out`: it took too long. "
        "`broken_answer`: the connection was lost, or the answer is not HTTP.",
    ),
]


class NewWebhook(Input):
    """A webhook to create. Events must match all filters."""

    url: Url
    types: Types = None
    student_id: OfStudent = None
    course_id: OfCourse = None
    term_id: OfTerm = None
    from_position: FromPosition = None


@with_config(ConfigDict(extra="forbid", strict=True))
class WebhookChanges(TypedDict, total=False):
    """A JSON merge patch (RFC 7396): an absent field keeps its value, and null removes a filter."""

    url: Url
    types: Types
    student_id: OfStudent
    course_id: OfCourse
    term_id: OfTerm


class SecretRotation(Input):
    """How to rotate the secret of a webhook."""

    overlap_seconds: Annotated[
        int, Field(ge=0, le=30 * DAY_SECONDS, description="For how long the secret before signs too."), Whole
    ] = DAY_SECONDS


class Replay(Input):
    """From where to send events again."""

    from_position: FromPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook, without its secret."""

    id: Id
    url: Annotated[str, Field(description="Where events are sent.")]
    types: Annotated[list[EventTypeName] | None, Field(description="Only events of these types; null is all types.")]
    student_id: Annotated[StudentId | None, Field(description="Only events of this student; null is all.")]
    course_id: Annotated[CourseId | None, Field(description="Only events of this course; null is all.")]
    term_id: Annotated[TermId | None, Field(description="Only events of this term; null is all.")]
    state: State
    position: Annotated[
        int,
        Field(
            description="The position of the last event that the receiver has confirmed, or that the filters leave out."
        ),
    ]
    failures: Annotated[int, Field(description="How many attempts in a row have failed.")]
    next_attempt_at: Annotated[
        datetime | None, Field(description="When the next attempt is made; null if none is waited for.")
    ]
    stopped_because: Annotated[StoppedBecause | None, Field(description="Why it was stopped; null if it is not.")]
    stopped_at: Annotated[datetime | None, Field(description="When it was stopped; null if it is not.")]
    previous_until: Annotated[
        datetime | None,
        Field(description="Until when the secret before the last rotation signs too; null without one."),
    ]
    version: Version
    created_at: CreatedAt
    updated_at: UpdatedAt


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedWebhook(Webhook):
    """A webhook with its secret."""

    secret: Annotated[
        str, Field(description="With it, the receiver verifies signatures. It is shown in this answer only.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookAttempt:
    """An attempt to send an event."""

    id: Id
    position: Annotated[int | None, Field(description="The position of the event; null for a test.")]
    attempted_at: Annotated[datetime, Field(description="When the attempt began.")]
    status: Annotated[int | None, Field(description="The status of the answer; null without an answer.")]
    error: Annotated[AttemptError | None, Field(description="What prevented an answer; null if there is one.")]
    milliseconds: Annotated[int, Field(description="How long the attempt took.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestDelivery:
    """The result of a test delivery."""

    delivered: Annotated[bool, Field(description="Whether the receiver has answered with a status from 200 to 299.")]
    status: Annotated[int | None, Field(description="The status of the answer; null without an answer.")]
    error: Annotated[AttemptError | None, Field(description="What prevented an answer; null if there is one.")]
    milliseconds: Annotated[int, Field(description="How long the attempt took.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestMessage:
    """The message of a test delivery, which is no event."""

    type: Annotated[Literal["webhook.test"], named("TestMessageType", "The type of the message of a test delivery.")]
    webhook_id: Annotated[int, Field(description="The id of the webhook.")]
    occurred_at: Annotated[datetime, Field(description="When the test was made.")]


HEADERS: Final = {
    "webhook-id": "The id of the message, the same in each attempt and in each replay.",
    "webhook-timestamp": "When the attempt began, in seconds since 1970.",
    "webhook-signature": (
        "`v1,` and the HMAC-SHA256 of `webhook-id`, `webhook-timestamp` and the body, joined by dots, in Base64. During a "
        "rotation, two signatures with a space between them."
    ),
}
"""The headers of a message (Standard Webhooks 1.0.0)."""

MESSAGES: Final = (
    Outgoing(
        name="receive_event",
        tag="webhooks",
        summary="An event of the feed",
        description=(
            "The service sends each event that matches the filters of a webhook, in the order of the positions: the next one after "
            "the receiver has answered with a status from 200 to 299. It may send an event more than once."
        ),
        body=Event,
        headers=HEADERS,
        answers={
            "2XX": "The receiver has stored the event: the next one follows.",
            "410": "The receiver ends its subscription: the webhook is stopped.",
            "default": "The event is sent again, after a pause that grows, or that `Retry-After` asks for. Redirects are not followed.",
        },
    ),
    Outgoing(
        name="receive_test",
        tag="webhooks",
        summary="A test message",
        description="The message of a test delivery, which a caller asks for. It is no event and has no position.",
        body=TestMessage,
        headers=HEADERS,
        answers={"2XX": "The receiver has understood the message.", "default": "It is shown to the caller."},
    ),
)
"""The messages that the service sends, as the API document describes them."""


def _state_of(row: sql.Webhook) -> State:
    if row.stopped_because is not None:
        return "stopped"
    return "failing" if row.failures else "active"


def _shown(row: sql.Webhook) -> Webhook:
    """Show a row as callers see it."""
    return Webhook(
        id=row.id,
        url=row.url,
        types=row.types,
        student_id=row.student_id,
        course_id=row.course_id,
        term_id=row.term_id,
        state=_state_of(row),
        position=row.position,
        failures=row.failures,
        next_attempt_at=row.next_attempt_at,
        stopped_because=cast("StoppedBecause | None", row.stopped_because),
        stopped_at=row.stopped_at,
        previous_until=row.previous_until,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _issued(row: sql.Webhook) -> IssuedWebhook:
    return IssuedWebhook(**asdict(_shown(row)), secret=row.secret)


def _allowed(url: str, hosts: Collection[str]) -> str:
    """Return a URL that events may be sent to.

    Raises:
        WebhookUrlRefused: they may not be sent there.
    """
    try:
        check_url(url, hosts)
    except UrlRefused as error:
        raise WebhookUrlRefused(str(error)) from None
    return url


@asynccontextmanager
async def _changing(call: Call) -> AsyncIterator[Connection]:
    """Yield a connection in a transaction that changes webhooks, and let the process that delivers them notice."""
    note_change = call[NOTE_CHANGE]
    await note_change(call.caller.institution)
    async with call[DATABASE].writing() as connection:
        yield connection
    # The note before is enough, and this one is faster.
    with suppress(DomainError):
        await note_change(call.caller.institution)


async def _found(connection: Connection, webhook_id: int) -> sql.Webhook:
    row = await sql.get_webhook(connection, webhook_id)
    if row is None:
        raise WebhookNotFound(webhook_id)
    return row


def _check_version(row: sql.Webhook, if_match: ETags) -> None:
    if if_match is not None and not if_match & {"*", str(row.version)}:
        raise PreconditionFailed.of_if_match(f"Webhook {row.id} has the version {row.version}.", if_match)


async def _cursor_before(connection: Connection, position: int | None) -> Cursor:
    """Return the cursor after which the event at a position follows, or, for None, the next event.

    Raises:
        UnknownPosition: neither an event has the position, nor will the next one have it.
    """
    newest = await feed.get_epoch(connection)
    if position is None or position == newest.position + 1:
        return cursor_after(newest.epoch, newest)
    if position == 1:
        return Cursor(newest.epoch, 0, "")
    marks = await feed.list_marks(connection, [position - 1])
    if not marks:
        raise UnknownPosition(position, newest.position)
    return cursor_after(newest.epoch, marks[0])


@endpoint(
    "POST",
    "/webhooks",
    scope="admin",
    status=201,
    keyed=False,
    problems=[WebhookUrlRefused, WebhookLimitReached, UnknownPosition],
)
async def create_webhook(call: Call, body: NewWebhook) -> Reply[IssuedWebhook]:
    """Create a webhook.

    The service sends the events that match all filters to the URL, from a position of the feed or from now on. The secret,
    with which the receiver verifies the signatures, is shown in this answer only.
    """
    url, limit = _allowed(body.url, call[SENDER].hosts), call[WEBHOOK_LIMIT]
    async with _changing(call) as connection:
        if await sql.count_webhooks(connection) >= limit:
            raise WebhookLimitReached(limit)
        cursor = await _cursor_before(connection, body.from_position)
        row = await sql.create_webhook(
            connection,
            url=url,
            types=_in_order(body.types),
            student_id=body.student_id,
            course_id=body.course_id,
            term_id=body.term_id,
            secret=new_secret(),
            epoch=cursor.epoch,
            position=cursor.position,
            proof=cursor.proof,
        )
    return Reply(_issued(row), 201, {"Location": f"/webhooks/{row.id}"})


def _in_order(types: list[str] | None) -> list[str] | None:
    return None if types is None else [name for name in TYPES if name in types]


@endpoint("GET", "/webhooks", scope="admin")
async def list_webhooks(call: Call, query: Paging) -> Page[Webhook]:
    """List the webhooks by id, with their states.

    A position is up to a second old.
    """
    after = decode_cursor(query.cursor, "webhooks")
    async with call[DATABASE].reading() as connection:
        rows = await sql.list_webhooks(connection, after, query.limit + 1)
    return page_of([_shown(row) for row in rows], query.limit, "webhooks", lambda webhook: webhook.id)


@endpoint("GET", "/webhooks/{webhook_id}", scope="admin", problems=[WebhookNotFound])
async def read_webhook(call: Call, webhook_id: IdInPath) -> Webhook:
    """Read a webhook.

    Its version, which is also the ETag, counts the changes that callers make, not the deliveries.
    """
    async with call[DATABASE].reading() as connection:
        return _shown(await _found(connection, webhook_id))


@endpoint(
    "PATCH",
    "/webhooks/{webhook_id}",
    scope="admin",
    problems=[WebhookNotFound, WebhookUrlRefused, PreconditionFailed],
)
async def edit_webhook(call: Call, webhook_id: IdInPath, body: WebhookChanges, if_match: ETags) -> Webhook:
    """Change where a webhook sends events, and which.

    The body is a JSON merge patch: an absent field keeps its value, and null removes a filter. The change holds for the events
    after the position. Those that the receiver has confirmed within the last second may be sent again.
    """
    if "url" in body:
        _allowed(body["url"], call[SENDER].hosts)
    async with _changing(call) as connection:
        row = await _found(connection, webhook_id)
        _check_version(row, if_match)
        edited = await sql.edit_webhook(
            connection,
            webhook_id,
            url=body.get("url", row.url),
            types=_in_order(body.get("types", row.types)),
            student_id=body.get("student_id", row.student_id),
            course_id=body.get("course_id", row.course_id),
            term_id=body.get("term_id", row.term_id),
        )
    assert edited is not None
    return _shown(edited)


@endpoint("DELETE", "/webhooks/{webhook_id}", scope="admin", status=204, problems=[WebhookNotFound, PreconditionFailed])
async def delete_webhook(call: Call, webhook_id: IdInPath, if_match: ETags) -> None:
    """Delete a webhook with its attempts.

    Deliveries end within a few seconds.
    """
    async with _changing(call) as connection:
        _check_version(await _found(connection, webhook_id), if_match)
        await sql.delete_webhook(connection, webhook_id)


@endpoint("POST", "/webhooks/{webhook_id}/rotate", scope="admin", keyed=False, problems=[WebhookNotFound], final=True)
async def rotate_webhook(call: Call, webhook_id: IdInPath, body: SecretRotation) -> IssuedWebhook:
    """Give a webhook a new secret.

    Each delivery has a signature by both secrets for a day, or as long as the call says, so that the receiver can change over.
    """
    async with _changing(call) as connection:
        row = await sql.rotate_webhook(connection, webhook_id, new_secret(), timedelta(seconds=body.overlap_seconds))
        if row is None:
            raise WebhookNotFound(webhook_id)
    return _issued(row)


@endpoint(
    "POST", "/webhooks/{webhook_id}/resume", scope="admin", keyed=False, problems=[WebhookNotFound, CursorExpired]
)
async def resume_webhook(call: Call, webhook_id: IdInPath) -> Webhook:
    """Resume a webhook that was stopped, or make the next attempt of a failing one at once.

    It goes on after its position. If that belongs to another history of the feed, replay the webhook instead.
    """
    async with _changing(call) as connection:
        row = await _found(connection, webhook_id)
        cursor = Cursor(row.epoch, row.position, row.proof)
        newest = await feed.get_epoch(connection)
        marks = await feed.list_marks(connection, [row.position])
        known = cursor_after(newest.epoch, marks[0]) if marks else Cursor(newest.epoch, 0, "")
        if cursor != known:
            raise CursorExpired(
                f"The position of webhook {webhook_id} belongs to another history of the feed: read all lists again, then "
                "replay the webhook from a position, or from the next event."
            )
        resumed = await sql.restart_webhook(connection, webhook_id, row.epoch, row.position, row.proof)
    assert resumed is not None
    return _shown(resumed)


@endpoint(
    "POST",
    "/webhooks/{webhook_id}/replay",
    scope="admin",
    keyed=False,
    problems=[WebhookNotFound, UnknownPosition],
)
async def replay_webhook(call: Call, webhook_id: IdInPath, body: Replay) -> Webhook:
    """Let a webhook go on from another position: send events again, or leave some out.

    A stopped webhook is resumed. An event has the same `webhook-id` as before, by which a receiver recognizes it.
    """
    async with _changing(call) as connection:
        cursor = await _cursor_before(connection, body.from_position)
        row = await sql.restart_webhook(connection, webhook_id, cursor.epoch, cursor.position, cursor.proof)
        if row is None:
            raise WebhookNotFound(webhook_id)
    return _shown(row)


@endpoint("POST", "/webhooks/{webhook_id}/test", scope="admin", keyed=False, problems=[WebhookNotFound])
async def test_webhook(call: Call, webhook_id: IdInPath) -> TestDelivery:
    """Send a test message to the URL of a webhook, and return the result.

    The message is signed as every other one. It has the type `webhook.test` and no position, and it changes nothing. A stopped
    webhook can be tested too.
    """
    async with call[DATABASE].reading() as connection:
        row = await _found(connection, webhook_id)
        now = await feed.get_now(connection)
    message = to_json(TestMessage(type="webhook.test", webhook_id=webhook_id, occurred_at=now))
    attempt = await call[SENDER].send(row.url, secrets_of(row), f"test_{secrets.token_hex(16)}", message)
    milliseconds = round(attempt.seconds * 1000)
    made = sql.NewAttempt(webhook_id, None, now, attempt.status, attempt.error, milliseconds)
    async with call[DATABASE].reading(for_changes=True) as connection:
        await sql.add_webhook_attempts(connection, [made])
        await sql.delete_webhook_attempts(connection, webhook_id, ATTEMPTS_KEPT)
    return TestDelivery(
        delivered=attempt.delivered, status=attempt.status, error=attempt.error, milliseconds=milliseconds
    )


@endpoint("GET", "/webhooks/{webhook_id}/attempts", scope="admin", problems=[WebhookNotFound])
async def list_webhook_attempts(call: Call, webhook_id: IdInPath, query: Paging) -> Page[WebhookAttempt]:
    """List the last attempts to send events to a webhook, the newest first.

    The last 100 are kept, and listed within a second. They hold neither events nor answers.
    """
    of = f"attempts of webhook {webhook_id}"
    before = decode_cursor(query.cursor, of) or NEWEST
    async with call[DATABASE].reading() as connection:
        await _found(connection, webhook_id)
        rows = await sql.list_webhook_attempts(connection, webhook_id, before, query.limit + 1)
    shown = [
        WebhookAttempt(
            id=row.id,
            position=row.position,
            attempted_at=row.attempted_at,
            status=row.status,
            error=cast("Failure | None", row.error),
            milliseconds=row.milliseconds,
        )
        for row in rows
    ]
    return page_of(shown, query.limit, of, lambda attempt: attempt.id)
