"""Statements about the codes under which courses were completed that have other codes since."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sql import Connection, columns


class FormerCode(NamedTuple):
    """The code that a course had until now."""

    course_id: int
    code: str


class PassedCode(NamedTuple):
    """The code under which a student has completed a course."""

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
    """Keep the codes that courses had until now with everyone who has completed them under these."""
    return [PassedCode._make(row) for row in await connection.fetch(KEEP_PASSED_CODES, *columns(former))]


LOAD_PASSED_CODES: Final = """
SELECT student_id, course_id, passed_code AS code
FROM student_courses
WHERE student_id = ANY($1::bigint[])
    AND passed_code IS NOT NULL
"""


async def load_passed_codes(connection: Connection, student_ids: list[int]) -> list[PassedCode]:
    """Load the codes under which students have completed courses that have other codes since."""
    return [PassedCode._make(row) for row in await connection.fetch(LOAD_PASSED_CODES, student_ids)]
