"""Statements about enrolled students who no longer meet a requirement of the course."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sql import Connection, JsonPage, columns
from sql.enrollments import Pair


class LostRequirement(NamedTuple):
    """Whether a student has lost a requirement of a course."""

    student_id: int
    course_id: int
    lost: bool


LOAD_LOST_REQUIREMENTS: Final = """
SELECT student_id, course_id
FROM student_courses
WHERE student_id = ANY($1::bigint[])
    AND requirement_lost
"""


async def load_lost_requirements(connection: Connection, student_ids: list[int]) -> list[Pair]:
    """Load the enrollments of students that have lost a requirement."""
    return [Pair._make(row) for row in await connection.fetch(LOAD_LOST_REQUIREMENTS, student_ids)]


LOAD_LOST_OF_COURSES: Final = """
SELECT student_id, course_id
FROM student_courses
WHERE course_id = ANY($1::bigint[])
    AND requirement_lost
"""


async def load_lost_of_courses(connection: Connection, course_ids: list[int]) -> list[Pair]:
    """Load the enrollments in courses that have lost a requirement."""
    return [Pair._make(row) for row in await connection.fetch(LOAD_LOST_OF_COURSES, course_ids)]


SET_LOST_REQUIREMENTS: Final = """
UPDATE student_courses
SET requirement_lost = new.lost
FROM unnest($1::bigint[], $2::bigint[], $3::boolean[]) AS new (student_id, course_id, lost)
WHERE student_courses.student_id = new.student_id
    AND student_courses.course_id = new.course_id
"""


async def set_lost_requirements(connection: Connection, rows: Sequence[LostRequirement]) -> None:
    """Set which enrollments have lost a requirement."""
    await connection.execute(SET_LOST_REQUIREMENTS, *columns(rows))


class DependentSeat(NamedTuple):
    """An enrollment in a course with a requirement that may be in progress, or one that has lost a requirement."""

    student_id: int
    course_id: int
    status: str
    joined_position: int
    requirement_lost: bool


FIND_DEPENDENT_SEATS: Final = """
SELECT student_id, course_id, status, joined_position, requirement_lost
FROM student_courses
WHERE (student_id, course_id) > ($1::bigint, $2::bigint)
    AND (
        requirement_lost
        OR (
            status = 'enrolled'
            AND course_id = ANY(ARRAY(SELECT requirements.course_id FROM requirements WHERE requirements.in_progress))
        )
    )
ORDER BY student_id, course_id
LIMIT $3::bigint
"""


async def find_dependent_seats(
    connection: Connection, after_student_id: int, after_course_id: int, limit: int
) -> list[DependentSeat]:
    """Return a page of the seats that may lose a requirement, and of those that have lost one, by student and course."""
    rows = await connection.fetch(FIND_DEPENDENT_SEATS, after_student_id, after_course_id, limit)
    return [DependentSeat._make(row) for row in rows]


FIND_EDIT_OF_REQUIREMENTS: Final = """
SELECT EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id IN (SELECT mine.course_id FROM student_courses AS mine WHERE mine.student_id = $1::bigint)
        AND position > $3::bigint
        AND (type = 'course.requirements_set' OR after -> 'code' IS NOT NULL OR after -> 'term_id' IS NOT NULL)
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id IS NULL
        AND course_id IS NULL
        AND position > $3
        AND (
            type IN ('equivalence.created', 'equivalence.deleted', 'grade_scale.set')
            OR after -> 'starts_on' IS NOT NULL
            OR after -> 'ends_on' IS NOT NULL
        )
)
OR EXISTS (
    SELECT
    FROM events
    WHERE student_id = $1
        AND position > $3
        AND (type = 'student.merged' OR (type = 'enrollment.completion_removed' AND course_id = $2::bigint))
)
"""


async def find_edit_of_requirements(
    connection: Connection, student_id: int, course_id: int, after_position: int
) -> bool:
    """Return whether an edit after a position affects which requirements of a course a student meets.

    A merge of the student's records, and a completion of the course that was taken back, count as such edits.
    """
    edited: bool = await connection.fetchval(FIND_EDIT_OF_REQUIREMENTS, student_id, course_id, after_position)
    return edited


LIST_LOST_OF_COURSE: Final = """
SELECT
    1::bigint AS number,
    page.items,
    CASE
        WHEN page.size = $3::bigint AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.course_id = $1::bigint
                AND student_courses.requirement_lost
                AND student_courses.student_id > page.last_id
        ) THEN page.last_id
    END AS next_after
FROM (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items, count(*) AS size, max(item.student_id) AS last_id
    FROM (
        SELECT
            lost.student_id,
            lost.status,
            NULL AS position,
            NULL AS blocked_by,
            NULL AS swap_drops,
            to_char(lost.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
            (
                SELECT student
                FROM (
                    SELECT
                        students.id, students.external_id, students.given_name, students.family_name,
                        students.preferred_name, students.email
                ) AS student
            ) AS student
        FROM (
            SELECT student_id, status, joined_at
            FROM student_courses
            WHERE course_id = $1
                AND requirement_lost
                AND student_id > $2::bigint
            ORDER BY student_id
            LIMIT $3
        ) AS lost
        INNER JOIN students ON students.id = lost.student_id
        ORDER BY lost.student_id
    ) AS item
) AS page
"""


async def list_lost_of_course(connection: Connection, course_id: int, after_id: int, limit: int) -> list[JsonPage]:
    """Return a page of the enrolled students of a course who have lost a requirement, as JSON, ordered by id.

    The session's time zone must be UTC.
    """
    return [JsonPage._make(row) for row in await connection.fetch(LIST_LOST_OF_COURSE, course_id, after_id, limit)]
