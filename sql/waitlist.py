"""Statements about waitlists: unjudged and blocked students, promotion, and waitlist positions."""

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Final, NamedTuple

from sql import Connection, JsonPage, columns
from sql.enrollments import Enrollment, Pair

LOAD_UNJUDGED: Final = """
SELECT
    next.student_id, next.course_id, next.status, next.joined_position, next.joined_at, next.updated_at, next.passed,
    next.grade, next.override_id, next.swap_drops, next.blocked_reasons, next.recheck_at, next.reserved_group
FROM unnest($1::bigint[], $2::bigint[]) AS requested (course_id, after_position)
CROSS JOIN LATERAL (
    (
        SELECT
            student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id,
            swap_drops, blocked_reasons, recheck_at, reserved_group
        FROM student_courses
        WHERE student_courses.course_id = requested.course_id
            AND status = 'waitlisted'
            AND recheck_at IS NULL
            AND joined_position > requested.after_position
        ORDER BY joined_position
        LIMIT $4::bigint
    )
    UNION ALL
    (
        SELECT
            student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id,
            swap_drops, blocked_reasons, recheck_at, reserved_group
        FROM student_courses
        WHERE student_courses.course_id = requested.course_id
            AND status = 'waitlisted'
            AND recheck_at <= $3::timestamptz
            AND recheck_at < '9999-12-31 00:00:00+00'
            AND joined_position > requested.after_position
    )
    ORDER BY joined_position
    LIMIT $4::bigint
) AS next
"""


async def load_unjudged(
    connection: Connection, course_ids: list[int], after_positions: list[int], now: datetime, limit: int
) -> list[Enrollment]:
    """Load the next waitlisted students of each course who are unjudged or due to be judged, in waitlist order."""
    rows = await connection.fetch(LOAD_UNJUDGED, course_ids, after_positions, now, limit)
    return sorted([Enrollment._make(row) for row in rows], key=attrgetter("joined_position"))


LOAD_PLACES: Final = """
SELECT
    student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id,
    swap_drops, blocked_reasons, recheck_at, reserved_group
FROM student_courses
WHERE student_id = ANY($1::bigint[])
    AND status = 'waitlisted'
"""


async def load_places(connection: Connection, student_ids: list[int]) -> list[Enrollment]:
    """Load the waitlisted enrollments of students."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_PLACES, student_ids)]


LOAD_SWAPS_OF_MEMBERS: Final = """
SELECT
    student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id,
    swap_drops, blocked_reasons, recheck_at, reserved_group
FROM student_courses
WHERE student_id = ANY(
        ARRAY(
            SELECT members.student_id
            FROM student_courses AS members
            WHERE members.course_id = ANY($1::bigint[])
                AND members.status IN ('enrolled', 'waitlisted')
        )
    )
    AND status = 'waitlisted'
    AND swap_drops IS NOT NULL
"""


async def load_swaps_of_members(connection: Connection, course_ids: list[int]) -> list[Enrollment]:
    """Load the waitlisted enrollments with pending drops of the students who are active in courses."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_SWAPS_OF_MEMBERS, course_ids)]


UNJUDGE_COURSES: Final = """
UPDATE student_courses
SET recheck_at = NULL
WHERE course_id = ANY(
        $1::bigint[] || ARRAY(
            SELECT id
            FROM courses
            WHERE term_id = ANY(
                    $2::bigint[] || ARRAY(SELECT parts.id FROM terms AS parts WHERE parts.parent_id = ANY($2::bigint[]))
                )
                AND courses.waitlisted > 0
        )
    )
    AND status = 'waitlisted'
    AND recheck_at IS NOT NULL
RETURNING student_id, course_id
"""


async def unjudge_courses(connection: Connection, course_ids: list[int], term_ids: list[int]) -> list[Pair]:
    """Mark the blocked students of these courses, and of all courses of these terms and their parts, as unjudged.

    Return the marked students.
    """
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
    """Mark blocked students as unjudged who are active in, or have completed, one of these courses; return them.

    The courses of these terms count as well. All waitlisted enrollments of such a student are marked.
    """
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
    """Mark all blocked waitlisted enrollments of students as unjudged; return them."""
    return [Pair._make(row) for row in await connection.fetch(UNJUDGE_STUDENTS, student_ids)]


UNJUDGE_RESERVED: Final = """
UPDATE student_courses
SET recheck_at = NULL
FROM (
    SELECT places.student_id, places.course_id
    FROM student_courses AS places
    INNER JOIN students ON students.id = places.student_id
    WHERE places.course_id = $1::bigint
        AND places.status = 'waitlisted'
        AND places.recheck_at IS NOT NULL
        AND NOT EXISTS (
            SELECT
            FROM json_array_elements(places.blocked_reasons) AS reasons (reason)
            WHERE reasons.reason ->> 'code' NOT IN ('seats_reserved', 'corequisite_missing')
        )
        AND EXISTS (
            SELECT
            FROM json_array_elements(places.blocked_reasons) AS reasons (reason)
            WHERE reasons.reason ->> 'code' = 'seats_reserved'
        )
        AND ($2::text[] IS NULL OR students.groups && $2)
    ORDER BY places.joined_position
    LIMIT 1
) AS next
WHERE student_courses.student_id = next.student_id
    AND student_courses.course_id = next.course_id
RETURNING student_courses.student_id, student_courses.course_id
"""


async def unjudge_reserved(connection: Connection, course_id: int, groups: list[str] | None) -> list[Pair]:
    """Mark the first student of a waitlist as unjudged whom only reservations block; return the student.

    The student may lack a corequisite too, since both seats may be granted together.

    With ``groups``, it is the first who is in one of them.
    """
    return [Pair._make(row) for row in await connection.fetch(UNJUDGE_RESERVED, course_id, groups)]


class PartnerPlace(NamedTuple):
    """A waitlist place of a student who may get seats in several courses together."""

    course_id: int
    joined_position: int
    student_id: int


LOAD_PARTNER_PLACES: Final = """
SELECT course_id, joined_position, student_id
FROM (
    SELECT
        places.course_id,
        places.joined_position,
        places.student_id,
        count(*) OVER (PARTITION BY places.student_id) AS open_places
    FROM student_courses AS places
    INNER JOIN courses ON courses.id = places.course_id
    WHERE places.student_id = ANY(
            ARRAY(
                SELECT blocked.student_id
                FROM student_courses AS blocked
                WHERE blocked.course_id = ANY($1::bigint[])
                    AND blocked.status = 'waitlisted'
                    AND blocked.recheck_at IS NOT NULL
                    AND NOT EXISTS (
                        SELECT
                        FROM json_array_elements(blocked.blocked_reasons) AS reasons (reason)
                        WHERE reasons.reason ->> 'code' <> 'corequisite_missing'
                    )
            )
        )
        AND places.status = 'waitlisted'
        AND places.recheck_at IS NOT NULL
        AND NOT EXISTS (
            SELECT
            FROM json_array_elements(places.blocked_reasons) AS reasons (reason)
            WHERE reasons.reason ->> 'code' <> 'corequisite_missing'
        )
        AND courses.status = 'open'
        AND (
            courses.capacity IS NULL
            OR courses.seats_taken < courses.capacity
            OR EXISTS (
                SELECT
                FROM overrides
                WHERE overrides.student_id = places.student_id
                    AND overrides.course_id = places.course_id
                    AND overrides.used_at IS NULL
            )
        )
) AS found
WHERE open_places > 1
    AND (course_id, joined_position) > ($2::bigint, $3::bigint)
ORDER BY course_id, joined_position
LIMIT $4::bigint
"""


async def load_partner_places(
    connection: Connection, course_ids: list[int], after_course_id: int, after_position: int, limit: int
) -> list[PartnerPlace]:
    """Load a page of the places of students whom only a corequisite blocks in one of these courses, by course and order.

    Only students with several places of this kind, each in a course with a free seat, unless an override of the student
    may give a seat there.
    """
    rows = await connection.fetch(LOAD_PARTNER_PLACES, course_ids, after_course_id, after_position, limit)
    return [PartnerPlace._make(row) for row in rows]


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
    """Mark blocked students whose ``recheck_at`` has passed as unjudged, the earliest first; return them."""
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
    """Return whether the ``recheck_at`` of a blocked student has passed."""
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
    AND terms.ends_on < (now() AT TIME ZONE $1::text)::date
ORDER BY courses.id, student_courses.joined_position
LIMIT $2::bigint
"""


async def load_ended(connection: Connection, time_zone: str, limit: int) -> list[Pair]:
    """Load the waitlisted pairs in terms whose last day is over in a time zone."""
    return [Pair._make(row) for row in await connection.fetch(LOAD_ENDED, time_zone, limit)]


LOAD_WAITLISTED_COURSES: Final = """
SELECT id
FROM courses
WHERE term_id = ANY($1::bigint[])
    AND waitlisted > 0
    AND status = 'open'
ORDER BY id
"""


async def load_waitlisted_courses(connection: Connection, term_ids: list[int]) -> list[int]:
    """Load the ids of the open courses in terms that have waitlisted students."""
    return [row[0] for row in await connection.fetch(LOAD_WAITLISTED_COURSES, term_ids)]


LOAD_PROMOTABLE: Final = """
SELECT courses.id
FROM courses
LEFT JOIN terms ON terms.id = courses.term_id
WHERE courses.waitlisted > 0
    AND courses.status = 'open'
    AND (terms.id IS NULL OR terms.ends_on >= (now() AT TIME ZONE $1::text)::date)
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
LIMIT $2::bigint
"""


async def load_promotable(connection: Connection, time_zone: str, limit: int) -> list[int]:
    """Load the ids of the courses with an unjudged student who can be judged now.

    The course has a free seat and is open for promotion, or usable overrides of the student lift what is missing.
    """
    return [row[0] for row in await connection.fetch(LOAD_PROMOTABLE, time_zone, limit)]


LIST_WAITLIST: Final = """
SELECT
    1::bigint AS number,
    page.items,
    CASE
        WHEN page.size = $3::bigint AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.course_id = $1::bigint
                AND student_courses.status = 'waitlisted'
                AND student_courses.joined_position > page.last_position
        ) THEN page.last_position
    END AS next_after
FROM (
    SELECT
        '[' || string_agg(row_to_json(entry.item)::text, ',') || ']' AS items,
        count(*) AS size,
        max(entry.joined_position) AS last_position
    FROM (
        SELECT
            waitlist.joined_position,
            (
                SELECT item
                FROM (
                    SELECT
                        waitlist.student_id,
                        waitlist.status,
                        waitlist.position,
                        waitlist.blocked_by,
                        waitlist.swap_drops,
                        to_char(waitlist.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
                        (
                            SELECT student
                            FROM (
                                SELECT
                                    students.id, students.external_id, students.given_name, students.family_name,
                                    students.preferred_name, students.email
                            ) AS student
                        ) AS student
                ) AS item
            ) AS item
        FROM (
            SELECT
                student_id,
                status,
                joined_position,
                joined_at,
                CASE WHEN recheck_at IS NOT NULL THEN blocked_reasons END AS blocked_by,
                swap_drops,
                row_number() OVER (ORDER BY joined_position) + (
                    SELECT count(*)
                    FROM student_courses AS ahead
                    WHERE ahead.course_id = $1::bigint
                        AND ahead.status = 'waitlisted'
                        AND ahead.joined_position <= $2::bigint
                ) AS position
            FROM student_courses
            WHERE course_id = $1::bigint
                AND status = 'waitlisted'
                AND joined_position > $2::bigint
            ORDER BY joined_position
            LIMIT $3::bigint
        ) AS waitlist
        INNER JOIN students ON students.id = waitlist.student_id
        ORDER BY waitlist.joined_position
    ) AS entry
) AS page
"""


async def list_waitlist(connection: Connection, course_id: int, after_position: int, limit: int) -> list[JsonPage]:
    """Return a page of the waitlist of a course as JSON, in waitlist order; the session's time zone must be UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_WAITLIST, course_id, after_position, limit)]


LIST_BLOCKED: Final = """
SELECT
    student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id,
    swap_drops, blocked_reasons, recheck_at, reserved_group
FROM student_courses
WHERE status = 'waitlisted'
    AND recheck_at IS NOT NULL
    AND (course_id, joined_position) > ($1::bigint, $2::bigint)
ORDER BY course_id, joined_position
LIMIT $3::bigint
"""


async def list_blocked(
    connection: Connection, after_course_id: int, after_position: int, limit: int
) -> list[Enrollment]:
    """Load a page of all blocked students, ordered by course and joined position."""
    rows = await connection.fetch(LIST_BLOCKED, after_course_id, after_position, limit)
    return [Enrollment._make(row) for row in rows]


class Place(NamedTuple):
    """A waitlisted student's place, which ``joined_position`` orders."""

    student_id: int
    course_id: int
    joined_position: int


class Position(NamedTuple):
    """A waitlist place with its waitlist position, counted from 1."""

    student_id: int
    course_id: int
    joined_position: int
    position: int


COUNT_POSITIONS: Final = """
SELECT
    places.student_id,
    places.course_id,
    places.joined_position,
    (sum(more.students) OVER (PARTITION BY places.course_id ORDER BY places.joined_position))::bigint AS position
FROM (
    SELECT
        student_id,
        course_id,
        joined_position,
        lag(joined_position, 1, 0::bigint) OVER (PARTITION BY course_id ORDER BY joined_position) AS position_before
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS requested (student_id, course_id, joined_position)
) AS places
CROSS JOIN LATERAL (
    SELECT count(*) AS students
    FROM student_courses
    WHERE student_courses.course_id = places.course_id
        AND student_courses.status = 'waitlisted'
        AND student_courses.joined_position > places.position_before
        AND student_courses.joined_position <= places.joined_position
) AS more
"""


async def count_positions(connection: Connection, places: Sequence[Place]) -> list[Position]:
    """Return the waitlist positions of places.

    Each waitlist is counted once, no matter how many of its places are requested.
    """
    return [Position._make(row) for row in await connection.fetch(COUNT_POSITIONS, *columns(places))]


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
    AND (terms.ends_on IS NULL OR terms.ends_on >= (now() AT TIME ZONE $2::text)::date)
    AND (terms.enroll_from IS NULL OR terms.enroll_from <= now() - make_interval(secs => $1::double precision))
    AND (terms.enroll_until IS NULL OR terms.enroll_until > now())
ORDER BY courses.id, student_courses.joined_position
"""


async def find_unjudged(connection: Connection, open_seconds: float, time_zone: str) -> list[Unjudged]:
    """Return unjudged students of courses that have a free seat and have been open for promotion that long."""
    return [Unjudged._make(row) for row in await connection.fetch(FIND_UNJUDGED, open_seconds, time_zone)]
