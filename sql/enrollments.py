"""Statements about student_courses: the state of one student in one course."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from sql import Connection, columns

Status: TypeAlias = Literal["enrolled", "waitlisted", "completed", "dropped", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Enrollment:
    """One row of ``student_courses``; ``place`` is the position of the event that put the student there."""

    student_id: int
    course_id: int
    status: Status
    place: int
    joined_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class CourseOfStudent:
    """A student's course, with what a reader wants to know of the course."""

    course_id: int
    status: Status
    joined_at: datetime
    code: str
    title: str
    credits: float


@dataclass(frozen=True, slots=True)
class StudentOfCourse:
    """A course's student, with what a reader wants to know of the student."""

    student_id: int
    status: Status
    joined_at: datetime
    given_name: str
    family_name: str
    email: str


LOAD_ENROLLMENTS: Final = """
SELECT student_courses.student_id, student_courses.course_id, status, place, joined_at, updated_at
FROM student_courses
INNER JOIN unnest($1::bigint[], $2::bigint[]) AS asked (student_id, course_id)
    ON student_courses.student_id = asked.student_id
    AND student_courses.course_id = asked.course_id
"""


async def load_enrollments(connection: Connection, student_ids: list[int], course_ids: list[int]) -> list[Enrollment]:
    """Read the states of distinct (student, course) pairs, given as two lists of one length."""
    return [Enrollment(*row) for row in await connection.fetch(LOAD_ENROLLMENTS, student_ids, course_ids)]


LOAD_STUDENTS_IN_USE: Final = """
SELECT id
FROM unnest($1::bigint[]) AS asked (id)
WHERE EXISTS (SELECT FROM student_courses WHERE student_courses.student_id = asked.id)
"""


async def load_students_in_use(connection: Connection, student_ids: list[int]) -> list[int]:
    """Tell which of these students were ever enrolled or waiting."""
    return [row[0] for row in await connection.fetch(LOAD_STUDENTS_IN_USE, student_ids)]


LOAD_COURSES_IN_USE: Final = """
SELECT id
FROM unnest($1::bigint[]) AS asked (id)
WHERE EXISTS (SELECT FROM student_courses WHERE student_courses.course_id = asked.id)
"""


async def load_courses_in_use(connection: Connection, course_ids: list[int]) -> list[int]:
    """Tell which of these courses were ever enrolled in or waited for."""
    return [row[0] for row in await connection.fetch(LOAD_COURSES_IN_USE, course_ids)]


SAVE_ENROLLMENTS: Final = """
INSERT INTO student_courses (student_id, course_id, status, place, joined_at, updated_at)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::bigint[]),
    unnest($5::timestamptz[]), unnest($6::timestamptz[])
ON CONFLICT (student_id, course_id) DO UPDATE SET
    status = excluded.status,
    place = excluded.place,
    joined_at = excluded.joined_at,
    updated_at = excluded.updated_at
"""


async def save_enrollments(connection: Connection, enrollments: Sequence[Enrollment]) -> None:
    """Insert or update the states of (student, course) pairs."""
    await connection.execute(SAVE_ENROLLMENTS, *columns(enrollments))


LIST_COURSES_OF_STUDENT: Final = """
SELECT
    student_courses.course_id, student_courses.status, student_courses.joined_at,
    courses.code, courses.title, courses.credits
FROM student_courses
INNER JOIN courses ON courses.id = student_courses.course_id
WHERE student_courses.student_id = $1::bigint
    AND student_courses.status = ANY($2::text[])
    AND student_courses.course_id > $3::bigint
ORDER BY student_courses.course_id
LIMIT $4::bigint
"""


async def list_courses_of_student(
    connection: Connection, student_id: int, statuses: list[Status], after_course_id: int, limit: int
) -> list[CourseOfStudent]:
    """Read a page of a student's courses by course id."""
    rows = await connection.fetch(LIST_COURSES_OF_STUDENT, student_id, statuses, after_course_id, limit)
    return [CourseOfStudent(*row) for row in rows]


LIST_STUDENTS_OF_COURSE: Final = """
SELECT
    student_courses.student_id, student_courses.status, student_courses.joined_at,
    students.given_name, students.family_name, students.email
FROM student_courses
INNER JOIN students ON students.id = student_courses.student_id
WHERE student_courses.course_id = $1::bigint
    AND student_courses.status = $2::text
    AND student_courses.student_id > $3::bigint
ORDER BY student_courses.student_id
LIMIT $4::bigint
"""


async def list_students_of_course(
    connection: Connection, course_id: int, status: Status, after_student_id: int, limit: int
) -> list[StudentOfCourse]:
    """Read a page of a course's students in one status by student id."""
    rows = await connection.fetch(LIST_STUDENTS_OF_COURSE, course_id, status, after_student_id, limit)
    return [StudentOfCourse(*row) for row in rows]
