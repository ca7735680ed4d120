"""Statements about courses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Course:
    """A course: one offering. ``capacity`` counts seats, null is unlimited; ``credits`` come in halves.

    ``version`` counts the changes of the editable fields, not those of the seats.
    """

    id: int
    external_id: str | None
    code: str
    title: str
    credits: float
    capacity: int | None
    seats_taken: int
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Seats:
    """The seat counter of a course."""

    course_id: int
    seats_taken: int


GET_COURSE: Final = """
SELECT id, external_id, code, title, credits, capacity, seats_taken, version, created_at, updated_at
FROM courses
WHERE id = $1::bigint
"""


async def get_course(connection: Connection, course_id: int) -> Course | None:
    """Read one course."""
    row = await connection.fetchrow(GET_COURSE, course_id)
    return Course(*row) if row else None


LIST_COURSES: Final = """
SELECT id, external_id, code, title, credits, capacity, seats_taken, version, created_at, updated_at
FROM courses
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_courses(connection: Connection, after_id: int, limit: int) -> list[Course]:
    """Read a page of courses by id."""
    return [Course(*row) for row in await connection.fetch(LIST_COURSES, after_id, limit)]


LIST_COURSES_BY_CODE: Final = """
SELECT id, external_id, code, title, credits, capacity, seats_taken, version, created_at, updated_at
FROM courses
WHERE code = $1::text
    AND id > $2::bigint
ORDER BY id
LIMIT $3::bigint
"""


async def list_courses_by_code(connection: Connection, code: str, after_id: int, limit: int) -> list[Course]:
    """Read a page of the courses with a code by id."""
    return [Course(*row) for row in await connection.fetch(LIST_COURSES_BY_CODE, code, after_id, limit)]


FIND_COURSES_BY_EXTERNAL_ID: Final = """
SELECT id, external_id, code, title, credits, capacity, seats_taken, version, created_at, updated_at
FROM courses
WHERE external_id = $1::text
"""


async def find_courses_by_external_id(connection: Connection, external_id: str) -> list[Course]:
    """Read the one course with an external id."""
    return [Course(*row) for row in await connection.fetch(FIND_COURSES_BY_EXTERNAL_ID, external_id)]


LOAD_COURSES: Final = """
SELECT id, external_id, code, title, credits, capacity, seats_taken, version, created_at, updated_at
FROM courses
WHERE id = ANY($1::bigint[])
"""


async def load_courses(connection: Connection, ids: list[int]) -> list[Course]:
    """Read courses by id, in no order."""
    return [Course(*row) for row in await connection.fetch(LOAD_COURSES, ids)]


MATCH_COURSES: Final = """
SELECT id, external_id, code, title, credits, capacity, seats_taken, version, created_at, updated_at
FROM courses
WHERE external_id = ANY($1::text[])
"""


async def match_courses(connection: Connection, external_ids: list[str]) -> list[Course]:
    """Read the courses that hold any of these external ids."""
    return [Course(*row) for row in await connection.fetch(MATCH_COURSES, external_ids)]


RESERVE_COURSE_IDS: Final = """
SELECT nextval('courses_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_course_ids(connection: Connection, count: int) -> list[int]:
    """Take new ids; those not used are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_COURSE_IDS, count)]


SAVE_COURSES: Final = """
INSERT INTO courses (
    id, external_id, code, title, credits, capacity, seats_taken, version, created_at, updated_at
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),
    unnest($5::double precision[]), unnest($6::bigint[]), unnest($7::bigint[]), unnest($8::bigint[]),
    unnest($9::timestamptz[]), unnest($10::timestamptz[])
ON CONFLICT (id) DO UPDATE SET
    external_id = excluded.external_id,
    code = excluded.code,
    title = excluded.title,
    credits = excluded.credits,
    capacity = excluded.capacity,
    seats_taken = excluded.seats_taken,
    version = excluded.version,
    updated_at = excluded.updated_at
"""


async def save_courses(connection: Connection, courses: Sequence[Course]) -> None:
    """Insert or update courses.

    Raises ``asyncpg.UniqueViolationError`` where an external id is held by another.
    """
    await connection.execute(SAVE_COURSES, *columns(courses))


SAVE_SEATS: Final = """
UPDATE courses
SET seats_taken = counted.seats_taken
FROM unnest($1::bigint[], $2::bigint[]) AS counted (course_id, seats_taken)
WHERE courses.id = counted.course_id
"""


async def save_seats(connection: Connection, seats: Sequence[Seats]) -> None:
    """Update seat counters and nothing else of their courses."""
    await connection.execute(SAVE_SEATS, *columns(seats))


DELETE_COURSES: Final = """
DELETE FROM courses
WHERE id = ANY($1::bigint[])
"""


async def delete_courses(connection: Connection, ids: list[int]) -> None:
    """Delete courses; raises ``asyncpg.ForeignKeyViolationError`` for one that was ever enrolled in."""
    await connection.execute(DELETE_COURSES, ids)
