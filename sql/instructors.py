"""Statements about instructors."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Instructor:
    """An instructor. ``sourced_id`` never changes, and no student has it. ``version`` counts the changes."""

    id: int
    external_id: str | None
    sourced_id: str
    given_name: str | None
    family_name: str | None
    email: str | None
    version: int
    created_at: datetime
    updated_at: datetime


GET_INSTRUCTOR: Final = """
SELECT id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
FROM instructors
WHERE id = $1::bigint
"""


async def get_instructor(connection: Connection, instructor_id: int) -> Instructor | None:
    """Return one instructor, or None if the instructor does not exist."""
    row = await connection.fetchrow(GET_INSTRUCTOR, instructor_id)
    return Instructor(*row) if row else None


LIST_INSTRUCTORS: Final = """
SELECT id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
FROM instructors
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_instructors(connection: Connection, after_id: int, limit: int) -> list[Instructor]:
    """Return a page of instructors, ordered by id."""
    return [Instructor(*row) for row in await connection.fetch(LIST_INSTRUCTORS, after_id, limit)]


FIND_INSTRUCTORS_BY_EMAIL: Final = """
SELECT id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
FROM instructors
WHERE lower(email COLLATE "C") = lower($1::text COLLATE "C")
"""


async def find_instructors_by_email(connection: Connection, email: str) -> list[Instructor]:
    """Return the instructor with an e-mail address, ignoring case."""
    return [Instructor(*row) for row in await connection.fetch(FIND_INSTRUCTORS_BY_EMAIL, email)]


FIND_INSTRUCTORS_BY_EXTERNAL_ID: Final = """
SELECT id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
FROM instructors
WHERE external_id = $1::text
"""


async def find_instructors_by_external_id(connection: Connection, external_id: str) -> list[Instructor]:
    """Return the instructor with an external id."""
    return [Instructor(*row) for row in await connection.fetch(FIND_INSTRUCTORS_BY_EXTERNAL_ID, external_id)]


LOAD_INSTRUCTORS: Final = """
SELECT id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
FROM instructors
WHERE id = ANY($1::bigint[])
"""


async def load_instructors(connection: Connection, ids: list[int]) -> list[Instructor]:
    """Load instructors by id, in no particular order."""
    return [Instructor(*row) for row in await connection.fetch(LOAD_INSTRUCTORS, ids)]


MATCH_INSTRUCTORS: Final = """
SELECT id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
FROM instructors
WHERE external_id = ANY($1::text[])
    OR lower(email COLLATE "C") = ANY($2::text[])
"""


async def match_instructors(connection: Connection, external_ids: list[str], emails: list[str]) -> list[Instructor]:
    """Load the instructors who have one of these external ids or one of these e-mail addresses, given in lower case."""
    return [Instructor(*row) for row in await connection.fetch(MATCH_INSTRUCTORS, external_ids, emails)]


MATCH_INSTRUCTORS_BY_SOURCED_ID: Final = """
SELECT id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
FROM instructors
WHERE sourced_id = ANY($1::text[])
"""


async def match_instructors_by_sourced_id(connection: Connection, sourced_ids: list[str]) -> list[Instructor]:
    """Load the instructors who have one of these sourced ids."""
    return [Instructor(*row) for row in await connection.fetch(MATCH_INSTRUCTORS_BY_SOURCED_ID, sourced_ids)]


RESERVE_INSTRUCTOR_IDS: Final = """
SELECT nextval('instructors_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_instructor_ids(connection: Connection, count: int) -> list[int]:
    """Reserve new ids; unused ids are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_INSTRUCTOR_IDS, count)]


SAVE_INSTRUCTORS: Final = """
INSERT INTO instructors (
    id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::bigint[]), unnest($8::timestamptz[]), unnest($9::timestamptz[])
FROM feed
ON CONFLICT (id) DO UPDATE SET
    external_id = excluded.external_id,
    given_name = excluded.given_name,
    family_name = excluded.family_name,
    email = excluded.email,
    version = excluded.version,
    updated_at = excluded.updated_at
"""


async def save_instructors(connection: Connection, instructors: Sequence[Instructor]) -> None:
    """Insert or update instructors.

    Raise ``asyncpg.UniqueViolationError`` if another instructor has the same external id, sourced id or e-mail address.
    """
    await connection.execute(SAVE_INSTRUCTORS, *columns(instructors))


DELETE_INSTRUCTORS: Final = """
DELETE FROM instructors
WHERE id = ANY($1::bigint[])
"""


async def delete_instructors(connection: Connection, ids: list[int]) -> None:
    """Delete instructors; raise ``asyncpg.ForeignKeyViolationError`` if an instructor teaches or taught a course."""
    await connection.execute(DELETE_INSTRUCTORS, ids)
