"""Statements about exports: their states, and the rows that they contain."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from sql import Connection, columns
from sql.courses import Course
from sql.enrollments import Pair, Status

ExportState: TypeAlias = Literal["queued", "writing", "done", "failed", "expired"]


class Export(NamedTuple):
    """An export; ``position`` is the newest event that it contains, ``after`` the one after which a delta begins."""

    id: int
    format: str
    state: ExportState
    after: int | None
    position: int | None
    path: str | None
    size: int | None
    rows_done: int
    problem: str | None
    actor: str | None
    created_at: datetime
    updated_at: datetime


class ExportedEnrollment(NamedTuple):
    """An enrollment with the keys of its student."""

    student_id: int
    course_id: int
    status: Status
    passed: bool | None
    grade: str | None
    joined_at: datetime
    updated_at: datetime
    external_id: str | None
    sourced_id: str


class ExportedTeaching(NamedTuple):
    """An instructor of a course, with the keys of the instructor."""

    course_id: int
    instructor_id: int
    teaches: bool
    is_primary: bool
    updated_at: datetime
    external_id: str | None
    sourced_id: str


class ChangedRow(NamedTuple):
    """What an event changed; ``instructor_id`` is that of an event about an instructor."""

    position: int
    type: str
    student_id: int | None
    course_id: int | None
    term_id: int | None
    instructor_id: int | None


ADD_EXPORT: Final = """
INSERT INTO exports (format, state, after, actor, created_at, updated_at)
VALUES ($1::text, 'queued', $2::bigint, $3::text, now(), now())
RETURNING id, format, state, after, position, path, size, rows_done, problem, actor, created_at, updated_at
"""


async def add_export(connection: Connection, format: str, after: int | None, actor: str | None) -> list[Export]:
    """Add an export to the queue and return it."""
    return [Export._make(row) for row in await connection.fetch(ADD_EXPORT, format, after, actor)]


GET_EXPORT: Final = """
SELECT id, format, state, after, position, path, size, rows_done, problem, actor, created_at, updated_at
FROM exports
WHERE id = $1::bigint
"""


async def get_export(connection: Connection, export_id: int) -> Export | None:
    """Return an export, or None if it does not exist."""
    row = await connection.fetchrow(GET_EXPORT, export_id)
    return Export._make(row) if row else None


HAS_EXPORTS_TO_RUN: Final = """
SELECT EXISTS (
    SELECT
    FROM exports
    WHERE state IN ('queued', 'writing')
        AND (leased_until IS NULL OR leased_until < now())
)
"""


async def has_exports_to_run(connection: Connection) -> bool:
    """Return whether there are exports on which no process works."""
    found: bool = await connection.fetchval(HAS_EXPORTS_TO_RUN)
    return found


CLAIM_EXPORT: Final = """
UPDATE exports
SET
    state = 'writing',
    runner = $1::text,
    leased_until = now() + $2::interval,
    updated_at = now()
WHERE id = ANY(
        ARRAY(
            SELECT id
            FROM exports
            WHERE state IN ('queued', 'writing')
            ORDER BY id
            LIMIT 1
        )
    )
    AND (leased_until IS NULL OR leased_until < now())
RETURNING id, format, state, after, position, path, size, rows_done, problem, actor, created_at, updated_at
"""


async def claim_export(connection: Connection, runner: str, lease: timedelta) -> list[Export]:
    """Claim the first export of the queue for a process and return it; none while another process works on it."""
    return [Export._make(row) for row in await connection.fetch(CLAIM_EXPORT, runner, lease)]


RENEW_EXPORT: Final = """
UPDATE exports
SET
    leased_until = now() + $3::interval,
    rows_done = $4::bigint,
    updated_at = now()
WHERE id = $1::bigint
    AND runner = $2::text
    AND state = 'writing'
RETURNING id
"""


async def renew_export(
    connection: Connection, export_id: int, runner: str, lease: timedelta, rows_done: int
) -> list[int]:
    """Renew the claim of a process and return the id; none if another process has it."""
    return [row[0] for row in await connection.fetch(RENEW_EXPORT, export_id, runner, lease, rows_done)]


FINISH_EXPORT: Final = """
UPDATE exports
SET
    state = $3::text,
    position = $4::bigint,
    path = $5::text,
    size = $6::bigint,
    rows_done = $7::bigint,
    problem = $8::text,
    runner = NULL,
    leased_until = NULL,
    updated_at = now()
WHERE id = $1::bigint
    AND runner = $2::text
    AND state = 'writing'
RETURNING id
"""


async def finish_export(
    connection: Connection,
    export_id: int,
    runner: str,
    state: ExportState,
    *,
    position: int | None,
    path: str | None,
    size: int | None,
    rows_done: int,
    problem: str | None,
) -> list[int]:
    """End the work of a process on an export and return the id; none if another process has it."""
    rows = await connection.fetch(FINISH_EXPORT, export_id, runner, state, position, path, size, rows_done, problem)
    return [row[0] for row in rows]


EXPIRE_EXPORTS: Final = """
UPDATE exports
SET
    state = 'expired',
    updated_at = now()
WHERE state IN ('queued', 'writing', 'done')
RETURNING id
"""


async def expire_exports(connection: Connection) -> list[int]:
    """Take all files back, since a student in them was erased, and return the ids of the exports."""
    return [row[0] for row in await connection.fetch(EXPIRE_EXPORTS)]


FIND_OLD_EXPORTS: Final = """
SELECT id, format, state, after, position, path, size, rows_done, problem, actor, created_at, updated_at
FROM exports
WHERE state IN ('done', 'failed', 'expired')
    AND (updated_at < now() - $1::interval OR (state = 'expired' AND path IS NOT NULL))
ORDER BY id
LIMIT $2::bigint
"""


async def find_old_exports(connection: Connection, age: timedelta, limit: int) -> list[Export]:
    """Return exports at an end that have not changed for some time, and those whose files were taken back."""
    return [Export._make(row) for row in await connection.fetch(FIND_OLD_EXPORTS, age, limit)]


DELETE_EXPORT: Final = """
DELETE FROM exports
WHERE id = $1::bigint
"""


async def delete_export(connection: Connection, export_id: int) -> None:
    """Delete an export, whose file was deleted."""
    await connection.execute(DELETE_EXPORT, export_id)


GET_NEWEST_POSITION: Final = """
SELECT coalesce(max(position), 0)
FROM events
"""


async def get_newest_position(connection: Connection) -> int:
    """Return the position of the newest event, or 0."""
    found: int = await connection.fetchval(GET_NEWEST_POSITION)
    return found


LIST_COURSES_TO_EXPORT: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status, seats_taken,
    waitlisted, version, created_at, updated_at, reservations
FROM courses
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_courses_to_export(connection: Connection, after_id: int, limit: int) -> list[Course]:
    """Return a page of courses, ordered by id."""
    return [Course._make(row) for row in await connection.fetch(LIST_COURSES_TO_EXPORT, after_id, limit)]


LIST_TEACHINGS_TO_EXPORT: Final = """
SELECT
    taught.course_id, taught.instructor_id, taught.teaches, taught.is_primary, taught.updated_at, instructors.external_id,
    instructors.sourced_id
FROM (
    SELECT course_id, instructor_id, teaches, is_primary, updated_at
    FROM course_instructors
    WHERE (course_id, instructor_id) > ($1::bigint, $2::bigint)
    ORDER BY course_id, instructor_id
    LIMIT $3::bigint
) AS taught
INNER JOIN instructors ON instructors.id = taught.instructor_id
ORDER BY taught.course_id, taught.instructor_id
"""


async def list_teachings_to_export(
    connection: Connection, after_course_id: int, after_instructor_id: int, limit: int
) -> list[ExportedTeaching]:
    """Return a page of the instructors of courses, the removed ones too."""
    rows = await connection.fetch(LIST_TEACHINGS_TO_EXPORT, after_course_id, after_instructor_id, limit)
    return [ExportedTeaching._make(row) for row in rows]


LIST_ENROLLMENTS_TO_EXPORT: Final = """
SELECT
    enrolled.student_id, enrolled.course_id, enrolled.status, enrolled.passed, enrolled.grade, enrolled.joined_at,
    enrolled.updated_at, students.external_id, students.sourced_id
FROM (
    SELECT student_id, course_id, status, passed, grade, joined_at, updated_at
    FROM student_courses
    WHERE (student_id, course_id) > ($1::bigint, $2::bigint)
    ORDER BY student_id, course_id
    LIMIT $3::bigint
) AS enrolled
INNER JOIN students ON students.id = enrolled.student_id
ORDER BY enrolled.student_id, enrolled.course_id
"""


async def list_enrollments_to_export(
    connection: Connection, after_student_id: int, after_course_id: int, limit: int
) -> list[ExportedEnrollment]:
    """Return a page of enrollments in any status, ordered by student and course."""
    rows = await connection.fetch(LIST_ENROLLMENTS_TO_EXPORT, after_student_id, after_course_id, limit)
    return [ExportedEnrollment._make(row) for row in rows]


LOAD_ENROLLMENTS_TO_EXPORT: Final = """
SELECT
    enrolled.student_id, enrolled.course_id, enrolled.status, enrolled.passed, enrolled.grade, enrolled.joined_at,
    enrolled.updated_at, students.external_id, students.sourced_id
FROM unnest($1::bigint[], $2::bigint[]) AS requested (student_id, course_id)
INNER JOIN student_courses AS enrolled
    ON enrolled.student_id = requested.student_id AND enrolled.course_id = requested.course_id
INNER JOIN students ON students.id = enrolled.student_id
"""


async def load_enrollments_to_export(connection: Connection, pairs: Sequence[Pair]) -> list[ExportedEnrollment]:
    """Load enrollments in any status, in no particular order."""
    rows = await connection.fetch(LOAD_ENROLLMENTS_TO_EXPORT, *columns(pairs))
    return [ExportedEnrollment._make(row) for row in rows]


LOAD_TEACHINGS_TO_EXPORT: Final = """
SELECT
    course_instructors.course_id, course_instructors.instructor_id, course_instructors.teaches,
    course_instructors.is_primary, course_instructors.updated_at, instructors.external_id, instructors.sourced_id
FROM course_instructors
INNER JOIN instructors ON instructors.id = course_instructors.instructor_id
WHERE course_instructors.course_id = ANY($1::bigint[])
"""


async def load_teachings_to_export(connection: Connection, course_ids: list[int]) -> list[ExportedTeaching]:
    """Load the instructors of courses, the removed ones too, in no particular order."""
    return [ExportedTeaching._make(row) for row in await connection.fetch(LOAD_TEACHINGS_TO_EXPORT, course_ids)]


LIST_CHANGED_ROWS: Final = """
SELECT
    position,
    type,
    student_id,
    course_id,
    term_id,
    CASE
        WHEN type LIKE 'instructor.%' THEN (coalesce(after, before) ->> 'instructor_id')::bigint
    END AS instructor_id
FROM events
WHERE position > $1::bigint
ORDER BY position
LIMIT $2::bigint
"""


async def list_changed_rows(connection: Connection, after_position: int, limit: int) -> list[ChangedRow]:
    """Return what a page of events changed, in order."""
    return [ChangedRow._make(row) for row in await connection.fetch(LIST_CHANGED_ROWS, after_position, limit)]
