"""Statements about holds, which block a student from enrolling or dropping."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold, in force from ``starts_at`` until ``ends_at``; None leaves that side open."""

    id: int
    student_id: int
    reason: str
    blocks_enroll: bool
    blocks_drop: bool
    starts_at: datetime | None
    ends_at: datetime | None
    created_at: datetime


LIST_HOLDS: Final = """
SELECT id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at
FROM holds
WHERE student_id = $1::bigint
    AND id > $2::bigint
ORDER BY id
LIMIT $3::bigint
"""


async def list_holds(connection: Connection, student_id: int, after_id: int, limit: int) -> list[Hold]:
    """Return a page of a student's holds, ordered by id, including those that have ended."""
    return [Hold(*row) for row in await connection.fetch(LIST_HOLDS, student_id, after_id, limit)]


LOAD_HOLDS: Final = """
SELECT id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at
FROM holds
WHERE student_id = ANY($1::bigint[])
    AND (ends_at IS NULL OR ends_at > $2::timestamptz)
ORDER BY student_id, id
"""


async def load_holds(connection: Connection, student_ids: list[int], now: datetime) -> list[Hold]:
    """Load the holds of students that have not ended."""
    return [Hold(*row) for row in await connection.fetch(LOAD_HOLDS, student_ids, now)]


FIND_HOLDS: Final = """
SELECT id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at
FROM holds
WHERE id = ANY($1::bigint[])
"""


async def find_holds(connection: Connection, ids: list[int]) -> list[Hold]:
    """Return holds by id, in no particular order."""
    return [Hold(*row) for row in await connection.fetch(FIND_HOLDS, ids)]


RESERVE_HOLD_IDS: Final = """
SELECT nextval('holds_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_hold_ids(connection: Connection, count: int) -> list[int]:
    """Reserve new ids; unused ids are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_HOLD_IDS, count)]


SAVE_HOLDS: Final = """
INSERT INTO holds (id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::boolean[]), unnest($5::boolean[]),
    unnest($6::timestamptz[]), unnest($7::timestamptz[]), unnest($8::timestamptz[])
FROM feed
ON CONFLICT (id) DO UPDATE SET ends_at = excluded.ends_at
"""


async def save_holds(connection: Connection, holds: Sequence[Hold]) -> None:
    """Insert holds, or update the ``ends_at`` of existing ones."""
    await connection.execute(SAVE_HOLDS, *columns(holds))
