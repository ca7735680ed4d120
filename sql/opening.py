"""The first statement of every batch: the newest event, transcripts and seat counters, in one round trip."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sql import Connection


class Opening(NamedTuple):
    """A requested student, with the fields of ``Transcript``; ``student_id`` is None if the student does not exist.

    The first row also has the newest event, with the fields of ``Head``, and the seat counters of the requested courses
    as arrays of the same length, or None if none of the courses exists.
    """

    student_id: int | None
    max_credits: float | None
    enrolled: list[int] | None
    waitlisted: list[int] | None
    passed: list[int] | None
    failed: list[int] | None
    inactive: list[int] | None
    has_holds: bool
    has_overrides: bool
    has_passed_codes: bool
    groups: str | None
    now: datetime | None
    position: int | None
    epoch: UUID | None
    occurred_at: datetime | None
    request_id: str | None
    course_ids: list[int] | None
    seats_taken: list[int] | None
    course_waitlisted: list[int] | None


LOAD_OPENING: Final = """
WITH head AS MATERIALIZED (
    SELECT
        clock_timestamp() AS now,
        coalesce(newest.position, 0) AS position,
        feed.epoch,
        newest.occurred_at,
        newest.request_id
    FROM feed
    LEFT JOIN LATERAL (
        SELECT position, occurred_at, request_id
        FROM events
        ORDER BY position DESC
        LIMIT 1
    ) AS newest ON true
)
SELECT
    students.id AS student_id,
    students.max_credits,
    mine.enrolled,
    mine.waitlisted,
    mine.passed,
    mine.failed,
    mine.inactive,
    EXISTS (
        SELECT FROM holds
        WHERE holds.student_id = students.id
            AND (holds.ends_at IS NULL OR holds.ends_at > head.now)
    ) AS has_holds,
    EXISTS (
        SELECT FROM overrides
        WHERE overrides.student_id = students.id
            AND overrides.used_at IS NULL
            AND (overrides.expires_at IS NULL OR overrides.expires_at > head.now)
    ) AS has_overrides,
    (mine.passed IS NOT NULL OR mine.failed IS NOT NULL) AND EXISTS (
        SELECT FROM student_courses
        WHERE student_courses.student_id = students.id
            AND student_courses.passed_code IS NOT NULL
    ) AS has_passed_codes,
    array_to_string(students.groups, ',') AS groups,
    CASE WHEN requested.number = 1 THEN head.now END AS now,
    CASE WHEN requested.number = 1 THEN head.position END AS position,
    CASE WHEN requested.number = 1 THEN head.epoch END AS epoch,
    CASE WHEN requested.number = 1 THEN head.occurred_at END AS occurred_at,
    CASE WHEN requested.number = 1 THEN head.request_id END AS request_id,
    seats.course_ids,
    seats.seats_taken,
    seats.course_waitlisted
FROM unnest($1::bigint[]) WITH ORDINALITY AS requested (student_id, number)
CROSS JOIN head
LEFT JOIN students ON students.id = requested.student_id
CROSS JOIN LATERAL (
    SELECT
        array_agg(course_id) FILTER (WHERE status = 'enrolled') AS enrolled,
        array_agg(course_id) FILTER (WHERE status = 'waitlisted') AS waitlisted,
        array_agg(course_id) FILTER (WHERE status = 'completed' AND passed) AS passed,
        array_agg(course_id) FILTER (WHERE status = 'completed' AND NOT passed) AS failed,
        array_agg(course_id) FILTER (WHERE status IN ('dropped', 'withdrawn')) AS inactive
    FROM student_courses
    WHERE student_courses.student_id = students.id
) AS mine
LEFT JOIN (
    SELECT
        array_agg(id) AS course_ids,
        array_agg(seats_taken) AS seats_taken,
        array_agg(waitlisted) AS course_waitlisted
    FROM courses
    WHERE id = ANY($2::bigint[])
) AS seats ON requested.number = 1
ORDER BY requested.number
"""


async def load_opening(connection: Connection, student_ids: list[int], course_ids: list[int]) -> list[Opening]:
    """Load a row for each requested student, in the given order; at least one id is required, existing or not."""
    return [Opening._make(row) for row in await connection.fetch(LOAD_OPENING, student_ids, course_ids)]
