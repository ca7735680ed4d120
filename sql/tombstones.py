"""Statements about tombstones: the rows that stay of what was deleted, so that other systems learn of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sql import Connection, columns


class Tombstone(NamedTuple):
    """A deleted student, instructor, course or term; ``sourced_id`` is that of a person."""

    resource: str
    id: int
    sourced_id: str | None
    deleted_at: datetime


ADD_TOMBSTONES: Final = """
INSERT INTO tombstones (resource, id, sourced_id, deleted_at)
SELECT unnest($1::text[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::timestamptz[])
FROM feed
"""


async def add_tombstones(connection: Connection, tombstones: Sequence[Tombstone]) -> None:
    """Insert tombstones."""
    await connection.execute(ADD_TOMBSTONES, *columns(tombstones))


LOAD_TOMBSTONES: Final = """
SELECT resource, id, sourced_id, deleted_at
FROM tombstones
WHERE resource = $1::text
    AND id = ANY($2::bigint[])
ORDER BY id
"""


async def load_tombstones(connection: Connection, resource: str, ids: list[int]) -> list[Tombstone]:
    """Load the tombstones of one type of resource."""
    return [Tombstone._make(row) for row in await connection.fetch(LOAD_TOMBSTONES, resource, ids)]


ERASE_TOMBSTONES: Final = """
DELETE FROM tombstones
WHERE resource = 'student'
    AND id = ANY($1::bigint[])
RETURNING id
"""


async def erase_tombstones(connection: Connection, student_ids: list[int]) -> list[int]:
    """Delete the tombstones of students, and return their ids."""
    return [row[0] for row in await connection.fetch(ERASE_TOMBSTONES, student_ids)]


DELETE_TOMBSTONES: Final = """
DELETE FROM tombstones
WHERE (resource, id) IN (
    SELECT resource, id
    FROM tombstones
    WHERE deleted_at < now() - $1::interval
    ORDER BY deleted_at
    LIMIT $2::bigint
)
RETURNING id
"""


async def delete_tombstones(connection: Connection, age: timedelta, limit: int) -> list[int]:
    """Delete at most ``limit`` of the tombstones that are above an age, the oldest first, and return their ids."""
    return [row[0] for row in await connection.fetch(DELETE_TOMBSTONES, age, limit)]
