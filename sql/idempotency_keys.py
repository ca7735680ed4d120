"""Statements about idempotency keys: the answers of changes, so that a repeated request gets the same answer."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sql import Connection, columns


class IdempotencyKey(NamedTuple):
    """The answer to the request that a caller sent with a key.

    ``headers`` is a JSON object, ``student_ids`` the ids of the students whose data the answer may hold, with commas.
    """

    caller: str
    key: str
    fingerprint: bytes
    student_ids: str
    status: int
    headers: str
    body: bytes
    created_at: datetime


class CallersKey(NamedTuple):
    """A caller and one of the caller's keys."""

    caller: str
    key: str


# The limit keeps the planner from scanning the whole table, which it takes for empty after a night without keys.
LOAD_IDEMPOTENCY_KEYS: Final = """
SELECT
    stored.caller, stored.key, stored.fingerprint, stored.student_ids, stored.status, stored.headers, stored.body,
    stored.created_at
FROM unnest($1::text[], $2::text[]) AS requested (caller, key)
CROSS JOIN LATERAL (
    SELECT caller, key, fingerprint, student_ids, status, headers, body, created_at
    FROM idempotency_keys
    WHERE caller = requested.caller
        AND key = requested.key
    LIMIT 1
) AS stored
"""


async def load_idempotency_keys(connection: Connection, keys: Sequence[CallersKey]) -> list[IdempotencyKey]:
    """Load the stored answers of keys; keys without one are left out."""
    return [IdempotencyKey._make(row) for row in await connection.fetch(LOAD_IDEMPOTENCY_KEYS, *columns(keys))]


ADD_IDEMPOTENCY_KEYS: Final = """
INSERT INTO idempotency_keys (caller, key, fingerprint, student_ids, status, headers, body, created_at)
SELECT
    unnest($1::text[]), unnest($2::text[]), unnest($3::bytea[]), unnest($4::text[]), unnest($5::bigint[]),
    unnest($6::json[]), unnest($7::bytea[]), unnest($8::timestamptz[])
FROM feed
"""


async def add_idempotency_keys(connection: Connection, keys: Sequence[IdempotencyKey]) -> None:
    """Insert keys with their answers."""
    await connection.execute(ADD_IDEMPOTENCY_KEYS, *columns(keys))


DELETE_IDEMPOTENCY_KEYS: Final = """
DELETE FROM idempotency_keys
WHERE ctid = ANY (
    ARRAY(
        SELECT ctid
        FROM idempotency_keys
        WHERE created_at < now() - $1::interval
        ORDER BY created_at
        LIMIT $2::bigint
        FOR UPDATE SKIP LOCKED
    )
)
RETURNING key
"""


async def delete_idempotency_keys(connection: Connection, age: timedelta, limit: int) -> list[str]:
    """Delete the oldest keys above an age, at most ``limit``, and return them.

    Keys that another process is deleting are skipped.
    """
    return [row[0] for row in await connection.fetch(DELETE_IDEMPOTENCY_KEYS, age, limit)]


ERASE_IDEMPOTENCY_KEYS: Final = """
DELETE FROM idempotency_keys
WHERE string_to_array(student_ids, ',') && $1::bigint[]::text[]
RETURNING key
"""


async def erase_idempotency_keys(connection: Connection, student_ids: list[int]) -> list[str]:
    """Delete the keys whose answers may hold data of students, and return them."""
    return [row[0] for row in await connection.fetch(ERASE_IDEMPOTENCY_KEYS, student_ids)]
