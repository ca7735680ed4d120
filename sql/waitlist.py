"""Statements about waitlists: who is unjudged, who is blocked, and what the clock or a change makes of them."""

from datetime import datetime
from operator import attrgetter
from typing import Final, NamedTuple

from sql import Connection, JsonPage
from sql.enrollments import Enrollment, Pair

LOAD_UNJUDGED: Final = """
SELECT
    next.student_id, next.course_id, next.status, next.joined_position, next.joined_at, next.updated_at, next.passed,
    next.grade, next.override_id, next.swap_drops, next.skipped, next.recheck_at
FROM unnest($1::bigint[], $2::bigint[]) AS asked (course_id, after_position)
CROSS JOIN LATERAL (
    (
        SELECT
            student_id, course_id, status, place AS joined_position, joined_at, updated_at, passed, grade, override_id,
            swap_drops, skipped, recheck_at
        FROM student_courses
        WHERE student_courses.course_id = asked.course_id
            AND status = 'waitlisted'
            AND recheck_at IS NULL
            AND place > asked.after_position
        ORDER BY place
        LIMIT $4::bigint
    )
    UNION ALL
    (
        SELECT
            student_id, course_id, status, place AS joined_position, joined_at, updated_at, passed, grade, override_id,
            swap_drops, skipped, recheck_at
        FROM student_courses
        WHERE student_courses.course_id = asked.course_id
            AND status = 'waitlisted'
            AND recheck_at <= $3::timestamptz
            AND recheck_at < '9999-12-31 00:00:00+00'
            AND place > asked.after_position
    )
    ORDER BY joined_position
    LIMIT $4::bigint
) AS next
"""


async def load_unjudged(
    connection: Connection, course_ids: list[int], after_positions: list[int], now: datetime, limit: int
) -> list[Enrollment]:
    """Load the next waitlisted students of each course who are unjudged, or due to be judged again, in order."""
    rows = await connection.fetch(LOAD_UNJUDGED, course_ids, after_positions, now, limit)
    return sorted([Enrollment._make(row) for row in rows], key=attrgetter("joined_position"))


LOAD_BLOCKED: Final = """
SELECT
    student_id, course_id, status, place AS joined_position, joined_at, updated_at, passed, grade, override_id,
    swap_drops, skipped, recheck_at
FROM student_courses
WHERE student_id = ANY($1::bigint[])
    AND status = 'waitlisted'
    AND recheck_at IS NOT NULL
"""


async def load_blocked(connection: Connection, student_ids: list[int]) -> list[Enrollment]:
    """Load the waitlist places of students that are blocked."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_BLOCKED, student_ids)]


UNJUDGE_COURSES: Final = """
UPDATE student_courses
SET recheck_at = NULL
WHERE course_id = ANY(
        $1::bigint[] || ARRAY(SELECT id FROM courses WHERE term_id = ANY($2::bigint[]) AND courses.waitlisted > 0)
    )
    AND status = 'waitlisted'
    AND recheck_at IS NOT NULL
RETURNING student_id, course_id
"""


async def unjudge_courses(connection: Connection, course_ids: list[int], term_ids: list[int]) -> list[Pair]:
    """Mark the blocked students of courses, and of all courses of terms, unjudged; return them."""
    return [Pair._make(row) for row in await connection.fetch(UNJUDGE_COURSES, course_ids, term_ids)]


UNJUDGE_MEMBERS: Final = """
UPDATE student_courses
SET recheck_at = NULL
WHERE status = 'waitlisted'
    AND recheck_at IS NOT NULL
    AND student_id = ANY(
        ARRAY(
            SELECT members.student_id
            FROM student_courses AS members
            WHERE members.course_id = ANY(
                    $1::bigint[] || ARRAY(SELECT id FROM courses WHERE term_id = ANY($2::bigint[]))
                )
                AND members.status IN ('enrolled', 'waitlisted', 'completed')
        )
    )
RETURNING student_id, course_id
"""


async def unjudge_members(connection: Connection, course_ids: list[int], term_ids: list[int]) -> list[Pair]:
    """Mark every blocked waitlist place unjudged of the students who are in courses, or in any course of terms."""
    return [Pair._make(row) for row in await connection.fetch(UNJUDGE_MEMBERS, course_ids, term_ids)]


UNJUDGE_STUDENTS: Final = """
UPDATE student_courses
SET recheck_at = NULL
WHERE student_id = ANY($1::bigint[])
    AND status = 'waitlisted'
    AND recheck_at IS NOT NULL
RETURNING student_id, course_id
"""


async def unjudge_students(connection: Connection, student_ids: list[int]) -> list[Pair]:
    """Mark every blocked waitlist place of students unjudged; return them."""
    return [Pair._make(row) for row in await connection.fetch(UNJUDGE_STUDENTS, student_ids)]


UNJUDGE_DUE: Final = """
UPDATE student_courses
SET recheck_at = NULL
FROM (
    SELECT student_id, course_id
    FROM student_courses
    WHERE status = 'waitlisted'
        AND recheck_at <= $1::timestamptz
        AND recheck_at < '9999-12-31 00:00:00+00'
    ORDER BY recheck_at
    LIMIT $2::bigint
) AS due
WHERE student_courses.student_id = due.student_id
    AND student_courses.course_id = due.course_id
RETURNING student_courses.student_id, student_courses.course_id
"""


async def unjudge_due(connection: Connection, now: datetime, limit: int) -> list[Pair]:
    """Mark the blocked students unjudged whose ``recheck_at`` has come, those first who are due the longest."""
    return [Pair._make(row) for row in await connection.fetch(UNJUDGE_DUE, now, limit)]


IS_ANY_DUE: Final = """
SELECT EXISTS (
    SELECT
    FROM student_courses
    WHERE status = 'waitlisted'
        AND recheck_at <= now()
        AND recheck_at < '9999-12-31 00:00:00+00'
)
"""


async def is_any_due(connection: Connection) -> bool:
    """Return whether the ``recheck_at`` of any blocked student has come."""
    due: bool = await connection.fetchval(IS_ANY_DUE)
    return due


LOAD_ENDED: Final = """
SELECT student_courses.student_id, student_courses.course_id
FROM courses
INNER JOIN terms ON terms.id = courses.term_id
INNER JOIN student_courses
    ON student_courses.course_id = courses.id
    AND student_courses.status = 'waitlisted'
WHERE courses.waitlisted > 0
    AND terms.ends_on < (now() AT TIME ZONE 'UTC')::date
ORDER BY courses.id, student_courses.place
LIMIT $1::bigint
"""


async def load_ended(connection: Connection, limit: int) -> list[Pair]:
    """Load waitlist places in terms that are over."""
    return [Pair._make(row) for row in await connection.fetch(LOAD_ENDED, limit)]


LOAD_WAITLISTED_COURSES: Final = """
SELECT id
FROM courses
WHERE term_id = ANY($1::bigint[])
    AND waitlisted > 0
    AND status = 'open'
ORDER BY id
"""


async def load_waitlisted_courses(connection: Connection, term_ids: list[int]) -> list[int]:
    """Load the ids of the courses of terms that have waitlisted students."""
    return [row[0] for row in await connection.fetch(LOAD_WAITLISTED_COURSES, term_ids)]


LOAD_PROMOTABLE: Final = """
SELECT courses.id
FROM courses
LEFT JOIN terms ON terms.id = courses.term_id
WHERE courses.waitlisted > 0
    AND courses.status = 'open'
    AND (terms.id IS NULL OR terms.ends_on >= (now() AT TIME ZONE 'UTC')::date)
    AND (
        (
            (courses.capacity IS NULL OR courses.seats_taken < courses.capacity)
            AND (terms.enroll_from IS NULL OR terms.enroll_from <= now())
            AND (terms.enroll_until IS NULL OR terms.enroll_until > now())
            AND EXISTS (
                SELECT
                FROM student_courses
                WHERE student_courses.course_id = courses.id
                    AND student_courses.status = 'waitlisted'
                    AND student_courses.recheck_at IS NULL
            )
        )
        OR EXISTS (
            SELECT
            FROM overrides
            INNER JOIN student_courses
                ON student_courses.student_id = overrides.student_id
                AND student_courses.course_id = overrides.course_id
                AND student_courses.status = 'waitlisted'
                AND student_courses.recheck_at IS NULL
            WHERE overrides.course_id = courses.id
                AND overrides.used_at IS NULL
                AND (overrides.expires_at IS NULL OR overrides.expires_at > now())
            GROUP BY overrides.student_id
            HAVING (
                    courses.capacity IS NULL
                    OR courses.seats_taken < courses.capacity
                    OR bool_or(overrides.rule = 'course_full')
                )
                AND (
                    terms.enroll_from IS NULL
                    OR terms.enroll_from <= now()
                    OR bool_or(overrides.rule = 'enrollment_not_open')
                )
                AND (
                    terms.enroll_until IS NULL
                    OR terms.enroll_until > now()
                    OR bool_or(overrides.rule = 'enrollment_closed')
                )
        )
    )
ORDER BY courses.id
LIMIT $1::bigint
"""


async def load_promotable(connection: Connection, limit: int) -> list[int]:
    """Load the ids of courses with an unjudged student who is to be judged now.

    The course has a free seat and is open for promotion, or usable overrides of the student make up for that.
    """
    return [row[0] for row in await connection.fetch(LOAD_PROMOTABLE, limit)]


LIST_WAITLIST: Final = """
SELECT
    1::bigint AS number,
    page.items,
    CASE
        WHEN page.size = $3::bigint AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.course_id = $1::bigint
                AND student_courses.status = 'waitlisted'
                AND student_courses.place > page.last_place
        ) THEN page.last_place
    END AS next_after
FROM (
    SELECT '[' || string_agg(row_to_json(entry.item)::text, ',') || ']' AS items, count(*) AS size, max(entry.place) AS last_place
    FROM (
        SELECT
            waitlist.place,
            (
                SELECT item
                FROM (
                    SELECT
                        waitlist.student_id,
                        waitlist.status,
                        waitlist.position,
                        waitlist.blocked_by,
                        to_char(waitlist.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
                        (
                            SELECT student
                            FROM (
                                SELECT students.id, students.given_name, students.family_name, students.email
                            ) AS student
                        ) AS student
                ) AS item
            ) AS item
        FROM (
            SELECT
                student_id,
                status,
                place,
                joined_at,
                CASE WHEN recheck_at IS NOT NULL THEN skipped END AS blocked_by,
                row_number() OVER (ORDER BY place) + (
                    SELECT count(*)
                    FROM student_courses AS ahead
                    WHERE ahead.course_id = $1::bigint
                        AND ahead.status = 'waitlisted'
                        AND ahead.place <= $2::bigint
                ) AS position
            FROM student_courses
            WHERE course_id = $1::bigint
                AND status = 'waitlisted'
                AND place > $2::bigint
            ORDER BY place
            LIMIT $3::bigint
        ) AS waitlist
        INNER JOIN students ON students.id = waitlist.student_id
        ORDER BY waitlist.place
    ) AS entry
) AS page
"""


async def list_waitlist(connection: Connection, course_id: int, after_place: int, limit: int) -> list[JsonPage]:
    """Write a page of those who wait for a course, in order; the session's time zone is UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_WAITLIST, course_id, after_place, limit)]


LIST_BLOCKED: Final = """
SELECT
    student_id, course_id, status, place AS joined_position, joined_at, updated_at, passed, grade, override_id,
    swap_drops, skipped, recheck_at
FROM student_courses
WHERE status = 'waitlisted'
    AND recheck_at IS NOT NULL
    AND (course_id, place) > ($1::bigint, $2::bigint)
ORDER BY course_id, place
LIMIT $3::bigint
"""


async def list_blocked(
    connection: Connection, after_course_id: int, after_position: int, limit: int
) -> list[Enrollment]:
    """Load a page of all blocked students, by course and joined position."""
    rows = await connection.fetch(LIST_BLOCKED, after_course_id, after_position, limit)
    return [Enrollment._make(row) for row in rows]


class Unjudged(NamedTuple):
    """An unjudged student who is waitlisted for a course with a free seat."""

    course_id: int
    student_id: int


FIND_UNJUDGED: Final = """
SELECT courses.id AS course_id, student_courses.student_id
FROM courses
LEFT JOIN terms ON terms.id = courses.term_id
INNER JOIN student_courses
    ON student_courses.course_id = courses.id
    AND student_courses.status = 'waitlisted'
    AND student_courses.recheck_at IS NULL
WHERE courses.waitlisted > 0
    AND courses.status = 'open'
    AND (courses.capacity IS NULL OR courses.seats_taken < courses.capacity)
    AND (terms.ends_on IS NULL OR terms.ends_on >= (now() AT TIME ZONE 'UTC')::date)
    AND (terms.enroll_from IS NULL OR terms.enroll_from <= now() - make_interval(secs => $1::double precision))
    AND (terms.enroll_until IS NULL OR terms.enroll_until > now())
ORDER BY courses.id, student_courses.place
"""


async def find_unjudged(connection: Connection, open_seconds: float) -> list[Unjudged]:
    """Find unjudged students beside a free seat, in courses open for promotion at least that long."""
    return [Unjudged._make(row) for row in await connection.fetch(FIND_UNJUDGED, open_seconds)]
