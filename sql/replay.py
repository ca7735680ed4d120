"""Statements that read all events and rows in pages, so that ``check`` can replay the events against the tables.

Each page begins after the key of the last row of the previous page; its cost depends only on the rows that it returns.
"""

from datetime import datetime
from typing import Final, NamedTuple

from sql import Connection
from sql.course_instructors import CourseInstructor
from sql.courses import Course
from sql.holds import Hold
from sql.merged_students import MergedStudent
from sql.overrides import Override
from sql.requirements import Requirement


class Recorded(NamedTuple):
    """The fields of an event that describe a change; ``before`` and ``after`` are JSON texts."""

    position: int
    type: str
    occurred_at: datetime
    student_id: int | None
    course_id: int | None
    term_id: int | None
    before: str | None
    after: str | None


class EnrollmentState(NamedTuple):
    """The columns of ``student_courses`` that the events determine."""

    student_id: int
    course_id: int
    status: str
    joined_position: int
    joined_at: datetime
    passed: bool | None
    grade: str | None
    override_id: int | None
    swap_drops: str | None
    passed_code: str | None
    requirement_lost: bool


FIND_EVENTS_OF_TERMS: Final = """
SELECT position, type, occurred_at, student_id, course_id, term_id, before, after
FROM events
WHERE student_id IS NULL
    AND course_id IS NULL
    AND position > $1::bigint
ORDER BY student_id, course_id, position
LIMIT $2::bigint
"""


async def find_events_of_terms(connection: Connection, after_position: int, limit: int) -> list[Recorded]:
    """Return a page of the events that name neither a student nor a course, ordered by position."""
    return [Recorded._make(row) for row in await connection.fetch(FIND_EVENTS_OF_TERMS, after_position, limit)]


FIND_EVENTS_OF_COURSES: Final = """
SELECT position, type, occurred_at, student_id, course_id, term_id, before, after
FROM events
WHERE student_id IS NULL
    AND (course_id, position) > ($1::bigint, $2::bigint)
ORDER BY student_id, course_id, position
LIMIT $3::bigint
"""


async def find_events_of_courses(
    connection: Connection, after_course_id: int, after_position: int, limit: int
) -> list[Recorded]:
    """Return a page of the events that name a course and no student, ordered by course and position."""
    rows = await connection.fetch(FIND_EVENTS_OF_COURSES, after_course_id, after_position, limit)
    return [Recorded._make(row) for row in rows]


FIND_EVENTS_OF_STUDENTS: Final = """
SELECT position, type, occurred_at, student_id, course_id, term_id, before, after
FROM events
WHERE course_id IS NULL
    AND student_id >= $1::bigint
    AND (student_id > $1::bigint OR position > $2::bigint)
ORDER BY student_id, course_id, position
LIMIT $3::bigint
"""


async def find_events_of_students(
    connection: Connection, after_student_id: int, after_position: int, limit: int
) -> list[Recorded]:
    """Return a page of the events that name a student and no course, ordered by student and position."""
    rows = await connection.fetch(FIND_EVENTS_OF_STUDENTS, after_student_id, after_position, limit)
    return [Recorded._make(row) for row in rows]


FIND_EVENTS_OF_ENROLLMENTS: Final = """
SELECT position, type, occurred_at, student_id, course_id, term_id, before, after
FROM events
WHERE course_id IS NOT NULL
    AND (student_id, course_id, position) > ($1::bigint, $2::bigint, $3::bigint)
ORDER BY student_id, course_id, position
LIMIT $4::bigint
"""


async def find_events_of_enrollments(
    connection: Connection, after_student_id: int, after_course_id: int, after_position: int, limit: int
) -> list[Recorded]:
    """Return a page of the events that name a student and a course, ordered by student, course and position."""
    rows = await connection.fetch(FIND_EVENTS_OF_ENROLLMENTS, after_student_id, after_course_id, after_position, limit)
    return [Recorded._make(row) for row in rows]


FIND_EVENTS_OF_SEATS: Final = """
SELECT position, type, occurred_at, student_id, course_id, term_id, before, after
FROM events
WHERE position > $1::bigint
    AND course_id IS NOT NULL
ORDER BY position
LIMIT $2::bigint
"""


async def find_events_of_seats(connection: Connection, after_position: int, limit: int) -> list[Recorded]:
    """Return a page of the events that name a course, ordered by position."""
    return [Recorded._make(row) for row in await connection.fetch(FIND_EVENTS_OF_SEATS, after_position, limit)]


FIND_COURSES: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status,
    seats_taken, waitlisted, version, created_at, updated_at, reservations
FROM courses
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def find_courses(connection: Connection, after_id: int, limit: int) -> list[Course]:
    """Return a page of courses, ordered by id."""
    return [Course._make(row) for row in await connection.fetch(FIND_COURSES, after_id, limit)]


FIND_REQUIREMENTS: Final = """
SELECT course_id, kind, group_number, code, min_grade, in_progress
FROM requirements
WHERE (course_id, group_number, code) > ($1::bigint, $2::bigint, $3::text)
ORDER BY course_id, group_number, code
LIMIT $4::bigint
"""


async def find_requirements(
    connection: Connection, after_course_id: int, after_group_number: int, after_code: str, limit: int
) -> list[Requirement]:
    """Return a page of requirements, ordered by course, group and code."""
    rows = await connection.fetch(FIND_REQUIREMENTS, after_course_id, after_group_number, after_code, limit)
    return [Requirement(*row) for row in rows]


FIND_COURSE_INSTRUCTORS: Final = """
SELECT course_id, instructor_id, teaches, is_primary, updated_at
FROM course_instructors
WHERE (course_id, instructor_id) > ($1::bigint, $2::bigint)
ORDER BY course_id, instructor_id
LIMIT $3::bigint
"""


async def find_course_instructors(
    connection: Connection, after_course_id: int, after_instructor_id: int, limit: int
) -> list[CourseInstructor]:
    """Return a page of the instructors of courses, ordered by course and instructor."""
    rows = await connection.fetch(FIND_COURSE_INSTRUCTORS, after_course_id, after_instructor_id, limit)
    return [CourseInstructor._make(row) for row in rows]


FIND_ALL_HOLDS: Final = """
SELECT id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at
FROM holds
WHERE (student_id, id) > ($1::bigint, $2::bigint)
ORDER BY student_id, id
LIMIT $3::bigint
"""


async def find_all_holds(connection: Connection, after_student_id: int, after_id: int, limit: int) -> list[Hold]:
    """Return a page of holds, ordered by student and id."""
    return [Hold(*row) for row in await connection.fetch(FIND_ALL_HOLDS, after_student_id, after_id, limit)]


FIND_ALL_OVERRIDES: Final = """
SELECT id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at
FROM overrides
WHERE (student_id, id) > ($1::bigint, $2::bigint)
ORDER BY student_id, id
LIMIT $3::bigint
"""


async def find_all_overrides(
    connection: Connection, after_student_id: int, after_id: int, limit: int
) -> list[Override]:
    """Return a page of overrides, ordered by student and id."""
    return [Override(*row) for row in await connection.fetch(FIND_ALL_OVERRIDES, after_student_id, after_id, limit)]


FIND_ENROLLMENTS: Final = """
SELECT
    student_id, course_id, status, joined_position, joined_at, passed, grade, override_id, swap_drops, passed_code,
    requirement_lost
FROM student_courses
WHERE (student_id, course_id) > ($1::bigint, $2::bigint)
ORDER BY student_id, course_id
LIMIT $3::bigint
"""


async def find_enrollments(
    connection: Connection, after_student_id: int, after_course_id: int, limit: int
) -> list[EnrollmentState]:
    """Return a page of enrollments, ordered by student and course."""
    rows = await connection.fetch(FIND_ENROLLMENTS, after_student_id, after_course_id, limit)
    return [EnrollmentState._make(row) for row in rows]


class Recoded(NamedTuple):
    """An event that changed the code of a course; ``code`` is the former one."""

    position: int
    course_id: int
    code: str


FIND_RECODED: Final = """
SELECT position, course_id, before ->> 'code' AS code
FROM events
WHERE student_id IS NULL
    AND type = 'course.updated'
    AND before -> 'code' IS NOT NULL
    AND position > $1::bigint
ORDER BY position
LIMIT $2::bigint
"""


async def find_recoded(connection: Connection, after_position: int, limit: int) -> list[Recoded]:
    """Return a page of the events that changed the code of a course, ordered by position."""
    return [Recoded._make(row) for row in await connection.fetch(FIND_RECODED, after_position, limit)]


class Merge(NamedTuple):
    """The last event of a duplicate: the student into whom it was merged."""

    position: int
    student_id: int
    merged_into: int


FIND_MERGES: Final = """
SELECT position, student_id, (after ->> 'merged_into')::bigint AS merged_into
FROM events
WHERE type = 'student.merged_into'
    AND position > $1::bigint
ORDER BY position
LIMIT $2::bigint
"""


async def find_merges(connection: Connection, after_position: int, limit: int) -> list[Merge]:
    """Return a page of the events of merged duplicates, ordered by position."""
    return [Merge._make(row) for row in await connection.fetch(FIND_MERGES, after_position, limit)]


FIND_MERGED_STUDENTS: Final = """
SELECT student_id, merged_into, external_id, names, merged_at
FROM merged_students
WHERE student_id > $1::bigint
ORDER BY student_id
LIMIT $2::bigint
"""


async def find_merged_students(connection: Connection, after_student_id: int, limit: int) -> list[MergedStudent]:
    """Return a page of the merged duplicates, ordered by id."""
    return [MergedStudent._make(row) for row in await connection.fetch(FIND_MERGED_STUDENTS, after_student_id, limit)]
