"""Statements about overrides. Each lifts one rule for one student and one course, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Override:
    """An override, usable until ``expires_at`` (None means without limit) or until it is used."""

    id: int
    student_id: int
    course_id: int
    rule: str
    author: str
    reason: str
    expires_at: datetime | None
    used_at: datetime | None
    created_at: datetime


LIST_OVERRIDES: Final = """
SELECT id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at
FROM overrides
WHERE student_id = $1::bigint
    AND id > $2::bigint
ORDER BY id
LIMIT $3::bigint
"""


async def list_overrides(connection: Connection, student_id: int, after_id: int, limit: int) -> list[Override]:
    """Return a page of a student's overrides, ordered by id, including used and expired ones."""
    return [Override(*row) for row in await connection.fetch(LIST_OVERRIDES, student_id, after_id, limit)]


LOAD_OVERRIDES: Final = """
SELECT id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at
FROM overrides
WHERE student_id = ANY($1::bigint[])
    AND used_at IS NULL
    AND (expires_at IS NULL OR expires_at > $2::timestamptz)
ORDER BY student_id, id
"""


async def load_overrides(connection: Connection, student_ids: list[int], now: datetime) -> list[Override]:
    """Load the usable overrides of students."""
    return [Override(*row) for row in await connection.fetch(LOAD_OVERRIDES, student_ids, now)]


class OverrideHolder(NamedTuple):
    """A student who has a usable override for a course."""

    student_id: int
    course_id: int


LOAD_OVERRIDE_HOLDERS: Final = """
SELECT student_id, course_id
FROM overrides
WHERE course_id = ANY($1::bigint[])
    AND used_at IS NULL
    AND (expires_at IS NULL OR expires_at > $2::timestamptz)
"""


async def load_override_holders(connection: Connection, course_ids: list[int], now: datetime) -> list[OverrideHolder]:
    """Load the holders of usable overrides for courses, one row for each override."""
    rows = await connection.fetch(LOAD_OVERRIDE_HOLDERS, course_ids, now)
    return [OverrideHolder._make(row) for row in rows]


FIND_OVERRIDES: Final = """
SELECT id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at
FROM overrides
WHERE id = ANY($1::bigint[])
"""


async def find_overrides(connection: Connection, ids: list[int]) -> list[Override]:
    """Return overrides by id, in no particular order."""
    return [Override(*row) for row in await connection.fetch(FIND_OVERRIDES, ids)]


RESERVE_OVERRIDE_IDS: Final = """
SELECT nextval('overrides_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_override_ids(connection: Connection, count: int) -> list[int]:
    """Reserve new ids; unused ids are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_OVERRIDE_IDS, count)]


SAVE_OVERRIDES: Final = """
INSERT INTO overrides (id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::timestamptz[]), unnest($8::timestamptz[]), unnest($9::timestamptz[])
FROM feed
ON CONFLICT (id) DO UPDATE SET
    expires_at = excluded.expires_at,
    used_at = excluded.used_at
"""


async def save_overrides(connection: Connection, overrides: Sequence[Override]) -> None:
    """Insert overrides, or update the ``expires_at`` and ``used_at`` of existing ones."""
    await connection.execute(SAVE_OVERRIDES, *columns(overrides))
