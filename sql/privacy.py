"""Statements about the data of one person: what is held, and the erasure of texts."""

from datetime import datetime
from typing import Final, NamedTuple

from sql import Connection
from sql.enrollments import Status
from sql.feed import ListedEvent
from sql.holds import Hold
from sql.merged_students import MergedStudent
from sql.overrides import Override


class HeldEnrollment(NamedTuple):
    """Everything that is stored about a student in a course; ``swap_drops`` and ``blocked_by`` are JSON arrays."""

    course_id: int
    course_code: str
    status: Status
    joined_at: datetime
    updated_at: datetime
    passed: bool | None
    grade: str | None
    passed_code: str | None
    override_id: int | None
    swap_drops: str | None
    blocked_by: str | None
    reserved_group: str | None
    requirement_lost: bool


LIST_HELD_ENROLLMENTS: Final = """
SELECT
    student_courses.course_id,
    courses.code AS course_code,
    student_courses.status,
    student_courses.joined_at,
    student_courses.updated_at,
    student_courses.passed,
    student_courses.grade,
    student_courses.passed_code,
    student_courses.override_id,
    student_courses.swap_drops,
    student_courses.blocked_reasons AS blocked_by,
    student_courses.reserved_group,
    student_courses.requirement_lost
FROM student_courses
INNER JOIN courses ON courses.id = student_courses.course_id
WHERE student_courses.student_id = $1::bigint
    AND student_courses.course_id > $2::bigint
ORDER BY student_courses.course_id
LIMIT $3::bigint
"""


async def list_held_enrollments(
    connection: Connection, student_id: int, after_course_id: int, limit: int
) -> list[HeldEnrollment]:
    """Return a page of a student's enrollments in any status, ordered by course."""
    rows = await connection.fetch(LIST_HELD_ENROLLMENTS, student_id, after_course_id, limit)
    return [HeldEnrollment._make(row) for row in rows]


LIST_EVENTS_OF_STUDENT: Final = """
SELECT
    position, type, occurred_at, actor, on_behalf_of, request_id, reason, student_id,
    (SELECT external_id FROM students WHERE students.id = events.student_id) AS student_external_id,
    course_id,
    (SELECT external_id FROM courses WHERE courses.id = events.course_id) AS course_external_id,
    (SELECT courses.term_id FROM courses WHERE courses.id = events.course_id) AS course_term_id,
    term_id, before, after
FROM events
WHERE position = ANY(
        ARRAY(
            SELECT own.position
            FROM (
                SELECT position
                FROM events
                WHERE student_id = ANY(
                        ARRAY(
                            SELECT $1::bigint
                            UNION ALL
                            SELECT student_id
                            FROM merged_students
                            WHERE merged_into = $1
                        )
                    )
                    AND position > $2::bigint
                OFFSET 0
            ) AS own
            ORDER BY own.position
            LIMIT $3::bigint
        )
    )
ORDER BY position
"""


async def list_events_of_student(
    connection: Connection, student_id: int, after_position: int, limit: int
) -> list[ListedEvent]:
    """Return a page of the events about a student and the student's duplicates, in order.

    The positions come from the index of the student's events, which OFFSET 0 enforces: it is in the order of courses,
    and the index in the order of the feed would be read to its end.
    """
    rows = await connection.fetch(LIST_EVENTS_OF_STUDENT, student_id, after_position, limit)
    return [ListedEvent._make(row) for row in rows]


ERASE_HOLDS: Final = """
UPDATE holds
SET reason = 'erased'
WHERE student_id = ANY($1::bigint[])
    AND reason <> 'erased'
RETURNING id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at
"""


async def erase_holds(connection: Connection, student_ids: list[int]) -> list[Hold]:
    """Replace the reasons of students' holds, and return the holds that had another reason."""
    return [Hold(*row) for row in await connection.fetch(ERASE_HOLDS, student_ids)]


ERASE_OVERRIDES: Final = """
UPDATE overrides
SET
    author = 'erased',
    reason = 'erased'
WHERE student_id = ANY($1::bigint[])
    AND (author <> 'erased' OR reason <> 'erased')
RETURNING id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at
"""


async def erase_overrides(connection: Connection, student_ids: list[int]) -> list[Override]:
    """Replace the authors and reasons of students' overrides, and return the overrides that had others."""
    return [Override(*row) for row in await connection.fetch(ERASE_OVERRIDES, student_ids)]


REDACT_EVENTS: Final = """
SELECT position
FROM redact_events($1::bigint[], $2::text[]) AS redacted (position)
"""


async def redact_events(connection: Connection, student_ids: list[int], names: list[str]) -> list[int]:
    """Replace the texts in the events about students, and return the positions of the events that had others.

    ``names`` are the texts that name the students: an actor with such a name gets a pseudonym.
    """
    return [row[0] for row in await connection.fetch(REDACT_EVENTS, student_ids, names)]


LIST_DUPLICATES: Final = """
SELECT student_id, merged_into, external_id, names, merged_at
FROM merged_students
WHERE merged_into = $1::bigint
    AND student_id > $2::bigint
ORDER BY student_id
LIMIT $3::bigint
"""


async def list_duplicates(
    connection: Connection, student_id: int, after_student_id: int, limit: int
) -> list[MergedStudent]:
    """Return a page of the duplicates that were merged into a student, ordered by id."""
    rows = await connection.fetch(LIST_DUPLICATES, student_id, after_student_id, limit)
    return [MergedStudent._make(row) for row in rows]
