"""Statements about the instructors of courses."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sql import Connection, columns


class CourseInstructor(NamedTuple):
    """An instructor of a course; without ``teaches``, one who was removed from the course."""

    course_id: int
    instructor_id: int
    teaches: bool
    is_primary: bool
    updated_at: datetime


LOAD_COURSE_INSTRUCTORS: Final = """
SELECT course_id, instructor_id, teaches, is_primary, updated_at
FROM course_instructors
WHERE course_id = ANY($1::bigint[])
"""


async def load_course_instructors(connection: Connection, course_ids: list[int]) -> list[CourseInstructor]:
    """Load the instructors of courses, the removed ones too, in no particular order."""
    return [CourseInstructor._make(row) for row in await connection.fetch(LOAD_COURSE_INSTRUCTORS, course_ids)]


LOAD_INSTRUCTORS_IN_USE: Final = """
SELECT id
FROM unnest($1::bigint[]) AS requested (id)
WHERE EXISTS (
    SELECT
    FROM course_instructors
    WHERE course_instructors.instructor_id = requested.id
        AND course_instructors.course_id <> ALL($2::bigint[])
)
"""


async def load_instructors_in_use(
    connection: Connection, instructor_ids: list[int], except_course_ids: list[int]
) -> list[int]:
    """Return which of these instructors teach or taught courses other than the given ones."""
    return [row[0] for row in await connection.fetch(LOAD_INSTRUCTORS_IN_USE, instructor_ids, except_course_ids)]


SAVE_COURSE_INSTRUCTORS: Final = """
INSERT INTO course_instructors (course_id, instructor_id, teaches, is_primary, updated_at)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::boolean[]), unnest($4::boolean[]), unnest($5::timestamptz[])
FROM feed
ON CONFLICT (course_id, instructor_id) DO UPDATE SET
    teaches = excluded.teaches,
    is_primary = excluded.is_primary,
    updated_at = excluded.updated_at
"""


async def save_course_instructors(connection: Connection, rows: Sequence[CourseInstructor]) -> None:
    """Insert or update instructors of courses."""
    await connection.execute(SAVE_COURSE_INSTRUCTORS, *columns(rows))


class Taught(NamedTuple):
    """A course that an instructor teaches."""

    course_id: int
    is_primary: bool


LIST_COURSES_OF_INSTRUCTOR: Final = """
SELECT course_id, is_primary
FROM course_instructors
WHERE instructor_id = $1::bigint
    AND course_id > $2::bigint
    AND teaches
ORDER BY course_id
LIMIT $3::bigint
"""


async def list_courses_of_instructor(
    connection: Connection, instructor_id: int, after_course_id: int, limit: int
) -> list[Taught]:
    """Return a page of the courses that an instructor teaches, ordered by course."""
    rows = await connection.fetch(LIST_COURSES_OF_INSTRUCTOR, instructor_id, after_course_id, limit)
    return [Taught._make(row) for row in rows]


LIST_COURSES_OF_INSTRUCTOR_IN_TERM: Final = """
SELECT course_instructors.course_id, course_instructors.is_primary
FROM course_instructors
INNER JOIN courses ON courses.id = course_instructors.course_id
WHERE course_instructors.instructor_id = $1::bigint
    AND course_instructors.course_id > $3::bigint
    AND course_instructors.teaches
    AND courses.term_id = $2::bigint
ORDER BY course_instructors.course_id
LIMIT $4::bigint
"""


async def list_courses_of_instructor_in_term(
    connection: Connection, instructor_id: int, term_id: int, after_course_id: int, limit: int
) -> list[Taught]:
    """Return a page of the courses that an instructor teaches in a term, ordered by course."""
    rows = await connection.fetch(LIST_COURSES_OF_INSTRUCTOR_IN_TERM, instructor_id, term_id, after_course_id, limit)
    return [Taught._make(row) for row in rows]
