"""Statements about webhooks: subscriptions to the feed, how far their receivers are, and the last attempts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Webhook:
    """A subscription. ``epoch``, ``position`` and ``proof`` are the cursor after the last event that needs no delivery.

    ``previous_secret`` signs too until ``previous_until``. ``version`` counts the changes that callers make,
    ``restarts`` those of the cursor.
    """

    id: int
    url: str = field(repr=False)
    types: list[str] | None
    student_id: int | None
    course_id: int | None
    term_id: int | None
    secret: str = field(repr=False)
    previous_secret: str | None = field(repr=False)
    previous_until: datetime | None
    epoch: UUID
    position: int
    proof: str
    failures: int
    next_attempt_at: datetime | None
    stopped_because: str | None
    stopped_at: datetime | None
    restarts: int
    version: int
    created_at: datetime
    updated_at: datetime


LIST_WEBHOOKS: Final = """
SELECT
    id, url, types, student_id, course_id, term_id, secret, previous_secret, previous_until, epoch, position, proof, failures,
    next_attempt_at, stopped_because, stopped_at, restarts, version, created_at, updated_at
FROM webhooks
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_webhooks(connection: Connection, after_id: int, limit: int) -> list[Webhook]:
    """Read a page of webhooks by id."""
    return [Webhook(*row) for row in await connection.fetch(LIST_WEBHOOKS, after_id, limit)]


COUNT_WEBHOOKS: Final = """
SELECT count(*) AS count
FROM webhooks
"""


async def count_webhooks(connection: Connection) -> int:
    """Return the number of webhooks."""
    count: int = await connection.fetchval(COUNT_WEBHOOKS)
    return count


GET_WEBHOOK: Final = """
SELECT
    id, url, types, student_id, course_id, term_id, secret, previous_secret, previous_until, epoch, position, proof, failures,
    next_attempt_at, stopped_because, stopped_at, restarts, version, created_at, updated_at
FROM webhooks
WHERE id = $1::bigint
"""


async def get_webhook(connection: Connection, id: int) -> Webhook | None:
    """Return a webhook, or None if there is none with this id."""
    row = await connection.fetchrow(GET_WEBHOOK, id)
    return None if row is None else Webhook(*row)


CREATE_WEBHOOK: Final = """
INSERT INTO webhooks (
    url, types, student_id, course_id, term_id, secret, epoch, position, proof, created_at, updated_at
)
VALUES (
    $1::text, $2::text[], $3::bigint, $4::bigint, $5::bigint, $6::text, $7::uuid, $8::bigint, $9::text, now(), now()
)
RETURNING
    id, url, types, student_id, course_id, term_id, secret, previous_secret, previous_until, epoch, position, proof, failures,
    next_attempt_at, stopped_because, stopped_at, restarts, version, created_at, updated_at
"""


async def create_webhook(
    connection: Connection,
    *,
    url: str,
    types: list[str] | None,
    student_id: int | None,
    course_id: int | None,
    term_id: int | None,
    secret: str,
    epoch: UUID,
    position: int,
    proof: str,
) -> Webhook:
    """Insert a webhook that delivers what follows a cursor."""
    row = await connection.fetchrow(
        CREATE_WEBHOOK, url, types, student_id, course_id, term_id, secret, epoch, position, proof
    )
    assert row is not None
    return Webhook(*row)


EDIT_WEBHOOK: Final = """
UPDATE webhooks
SET
    url = $2::text,
    types = $3::text[],
    student_id = $4::bigint,
    course_id = $5::bigint,
    term_id = $6::bigint,
    version = version + 1,
    updated_at = now()
WHERE id = $1::bigint
RETURNING
    id, url, types, student_id, course_id, term_id, secret, previous_secret, previous_until, epoch, position, proof, failures,
    next_attempt_at, stopped_because, stopped_at, restarts, version, created_at, updated_at
"""


async def edit_webhook(
    connection: Connection,
    id: int,
    *,
    url: str,
    types: list[str] | None,
    student_id: int | None,
    course_id: int | None,
    term_id: int | None,
) -> Webhook | None:
    """Change where a webhook delivers, and which events. None without such a webhook."""
    row = await connection.fetchrow(EDIT_WEBHOOK, id, url, types, student_id, course_id, term_id)
    return None if row is None else Webhook(*row)


ROTATE_WEBHOOK: Final = """
UPDATE webhooks
SET
    secret = $2::text,
    previous_secret = secret,
    previous_until = statement_timestamp() + $3::interval,
    version = version + 1,
    updated_at = now()
WHERE id = $1::bigint
RETURNING
    id, url, types, student_id, course_id, term_id, secret, previous_secret, previous_until, epoch, position, proof, failures,
    next_attempt_at, stopped_because, stopped_at, restarts, version, created_at, updated_at
"""


async def rotate_webhook(connection: Connection, id: int, secret: str, overlap: timedelta) -> Webhook | None:
    """Give a webhook a new secret; the one before signs too for ``overlap``. None without such a webhook."""
    row = await connection.fetchrow(ROTATE_WEBHOOK, id, secret, overlap)
    return None if row is None else Webhook(*row)


RESTART_WEBHOOK: Final = """
UPDATE webhooks
SET
    epoch = $2::uuid,
    position = $3::bigint,
    proof = $4::text,
    failures = 0,
    next_attempt_at = NULL,
    stopped_because = NULL,
    stopped_at = NULL,
    restarts = restarts + 1,
    version = version + 1,
    updated_at = now()
WHERE id = $1::bigint
RETURNING
    id, url, types, student_id, course_id, term_id, secret, previous_secret, previous_until, epoch, position, proof, failures,
    next_attempt_at, stopped_because, stopped_at, restarts, version, created_at, updated_at
"""


async def restart_webhook(connection: Connection, id: int, epoch: UUID, position: int, proof: str) -> Webhook | None:
    """Let a webhook deliver what follows a cursor, at once and without its failures. None without such a webhook."""
    row = await connection.fetchrow(RESTART_WEBHOOK, id, epoch, position, proof)
    return None if row is None else Webhook(*row)


DELETE_WEBHOOK: Final = """
DELETE FROM webhooks
WHERE id = $1::bigint
"""


async def delete_webhook(connection: Connection, id: int) -> None:
    """Delete a webhook with its attempts."""
    await connection.execute(DELETE_WEBHOOK, id)


class Progress(NamedTuple):
    """How far the receiver of a webhook is, and whether it fails."""

    id: int
    restarts: int
    position: int
    proof: str
    failures: int
    next_attempt_at: datetime | None
    stopped_because: str | None
    stopped_at: datetime | None


SAVE_PROGRESS: Final = """
UPDATE webhooks
SET
    position = reached.position,
    proof = reached.proof,
    failures = reached.failures,
    next_attempt_at = reached.next_attempt_at,
    stopped_because = reached.stopped_because,
    stopped_at = reached.stopped_at
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::timestamptz[], $7::text[], $8::timestamptz[]
) AS reached (id, restarts, position, proof, failures, next_attempt_at, stopped_because, stopped_at)
WHERE webhooks.id = reached.id
    AND webhooks.restarts = reached.restarts
    AND webhooks.position <= reached.position
"""


async def save_progress(connection: Connection, reached: Sequence[Progress]) -> None:
    """Save how far receivers are, except of webhooks that a caller has restarted or another process has brought further."""
    await connection.execute(SAVE_PROGRESS, *columns(reached))


class NewAttempt(NamedTuple):
    """An attempt to deliver an event, or a test delivery, which has no position.

    ``status`` is that of the answer; without an answer, ``error`` names what went wrong.
    """

    webhook_id: int
    position: int | None
    attempted_at: datetime
    status: int | None
    error: str | None
    milliseconds: int


ADD_WEBHOOK_ATTEMPTS: Final = """
INSERT INTO webhook_attempts (webhook_id, position, attempted_at, status, error, milliseconds)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::timestamptz[]), unnest($4::bigint[]), unnest($5::text[]),
    unnest($6::bigint[])
FROM feed
"""


async def add_webhook_attempts(connection: Connection, attempts: Sequence[NewAttempt]) -> None:
    """Insert attempts in their order.

    Raises:
        ForeignKeyViolationError: a webhook was deleted; no attempt is inserted.
    """
    await connection.execute(ADD_WEBHOOK_ATTEMPTS, *columns(attempts))


DELETE_WEBHOOK_ATTEMPTS: Final = """
DELETE FROM webhook_attempts
WHERE webhook_id = $1::bigint
    AND id <= (
        SELECT id
        FROM webhook_attempts
        WHERE webhook_id = $1
        ORDER BY id DESC
        OFFSET $2::bigint
        LIMIT 1
    )
"""


async def delete_webhook_attempts(connection: Connection, webhook_id: int, kept: int) -> None:
    """Delete the attempts of a webhook except the last ones."""
    await connection.execute(DELETE_WEBHOOK_ATTEMPTS, webhook_id, kept)


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """An attempt to deliver an event, as ``NewAttempt``."""

    id: int
    position: int | None
    attempted_at: datetime
    status: int | None
    error: str | None
    milliseconds: int


LIST_WEBHOOK_ATTEMPTS: Final = """
SELECT id, position, attempted_at, status, error, milliseconds
FROM webhook_attempts
WHERE webhook_id = $1::bigint
    AND id < $2::bigint
ORDER BY id DESC
LIMIT $3::bigint
"""


async def list_webhook_attempts(
    connection: Connection, webhook_id: int, before_id: int, limit: int
) -> list[WebhookAttempt]:
    """Read a page of the attempts of a webhook, the newest first."""
    rows = await connection.fetch(LIST_WEBHOOK_ATTEMPTS, webhook_id, before_id, limit)
    return [WebhookAttempt(*row) for row in rows]
