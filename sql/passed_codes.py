"""Statements about completed courses whose code has changed since the completion."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sql import Connection, columns
from sql.enrollments import Pair


class FormerCode(NamedTuple):
    """The code that a course had before it was changed."""

    course_id: int
    code: str


class PassedCode(NamedTuple):
    """The code under which a student completed a course."""

    student_id: int
    course_id: int
    code: str


KEEP_PASSED_CODES: Final = """
UPDATE student_courses
SET passed_code = former.code
FROM unnest($1::bigint[], $2::text[]) AS former (course_id, code)
WHERE student_courses.course_id = former.course_id
    AND student_courses.status = 'completed'
    AND student_courses.passed_code IS NULL
RETURNING student_courses.student_id, student_courses.course_id, student_courses.passed_code AS code
"""


async def keep_passed_codes(connection: Connection, former: Sequence[FormerCode]) -> list[PassedCode]:
    """Store the former codes of courses with the enrollments that were completed under them; return those."""
    return [PassedCode._make(row) for row in await connection.fetch(KEEP_PASSED_CODES, *columns(former))]


LOAD_PASSED_CODES: Final = """
SELECT student_id, course_id, passed_code AS code
FROM student_courses
WHERE student_id = ANY($1::bigint[])
    AND passed_code IS NOT NULL
"""


async def load_passed_codes(connection: Connection, student_ids: list[int]) -> list[PassedCode]:
    """Load the codes under which students completed courses whose code has changed since."""
    return [PassedCode._make(row) for row in await connection.fetch(LOAD_PASSED_CODES, student_ids)]


CLEAR_PASSED_CODES: Final = """
UPDATE student_courses
SET passed_code = NULL
FROM unnest($1::bigint[], $2::bigint[]) AS removed (student_id, course_id)
WHERE student_courses.student_id = removed.student_id
    AND student_courses.course_id = removed.course_id
"""


async def clear_passed_codes(connection: Connection, removed: Sequence[Pair]) -> None:
    """Remove the codes under which students had completed courses, since they have not completed them any more."""
    await connection.execute(CLEAR_PASSED_CODES, *columns(removed))


SET_PASSED_CODES: Final = """
UPDATE student_courses
SET passed_code = new.code
FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS new (student_id, course_id, code)
WHERE student_courses.student_id = new.student_id
    AND student_courses.course_id = new.course_id
"""


async def set_passed_codes(connection: Connection, rows: Sequence[PassedCode]) -> None:
    """Set the codes under which students have completed courses."""
    await connection.execute(SET_PASSED_CODES, *columns(rows))
