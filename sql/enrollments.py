"""Statements about ``student_courses``: the state of one student in one course."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal, NamedTuple, TypeAlias

from sql import TIMES, Connection, JsonPage, New, columns
from sql.courses import Seats
from sql.feed import Event

Status: TypeAlias = Literal["enrolled", "waitlisted", "completed", "dropped", "withdrawn"]


class Enrollment(NamedTuple):
    """One row of ``student_courses``.

    ``joined_position`` is the position of the event that gave the seat or put the student on the waitlist. ``passed``
    and ``grade`` are None until the course is completed. ``override_id`` names the override that seated the student.
    ``swap_drops`` is a JSON array of the courses that are dropped when the student gets this one.

    A waitlisted student whose ``recheck_at`` is None is unjudged. Otherwise the student is blocked for the reasons in
    ``blocked_reasons``, a JSON array, until ``recheck_at`` or until something relevant to the student or the course
    changes. The reasons stay when the student becomes unjudged again. ``reserved_group`` is the group whose reserved seat
    the student has, or None for any other seat.
    """

    student_id: int
    course_id: int
    status: Status
    joined_position: int
    joined_at: datetime
    updated_at: datetime
    passed: bool | None = None
    grade: str | None = None
    override_id: int | None = None
    swap_drops: str | None = None
    blocked_reasons: str | None = None
    recheck_at: datetime | None = None
    reserved_group: str | None = None


@dataclass(frozen=True, slots=True)
class CoursesAsked:
    """A request for a page of a student's courses with one of the statuses, which spaces separate."""

    student_id: int
    statuses: str
    after_course_id: int
    page_limit: int


@dataclass(frozen=True, slots=True)
class StudentsAsked:
    """A request for a page of the students of a course who have one status."""

    course_id: int
    status: Status
    after_student_id: int
    page_limit: int


LOAD_ENROLLMENTS: Final = """
SELECT
    student_courses.student_id, student_courses.course_id, status, joined_position, joined_at, updated_at,
    passed, grade, override_id, swap_drops, blocked_reasons, recheck_at, reserved_group
FROM unnest($1::bigint[], $2::bigint[]) AS requested (student_id, course_id)
INNER JOIN student_courses
    ON student_courses.student_id = requested.student_id
    AND student_courses.course_id = requested.course_id
"""


class Pair(NamedTuple):
    """A student and a course."""

    student_id: int
    course_id: int


async def load_enrollments(connection: Connection, pairs: Sequence[Pair]) -> list[Enrollment]:
    """Load the enrollments of pairs of student and course; pairs without one are left out."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_ENROLLMENTS, *columns(pairs))]


class Transcript(NamedTuple):
    """A student's courses by status, as course ids, and the student's own credit limit.

    A list is None if it is empty, ``max_credits`` is None if the student has no limit of their own. Completed courses
    are in ``passed`` or ``failed``, dropped and withdrawn courses in ``inactive``. ``has_holds`` is true if a hold of
    the student has not ended, ``has_overrides`` if an override can still be used, ``has_passed_codes`` if the code of
    a completed course has changed since. ``groups`` are those of the student, separated by commas.
    """

    student_id: int
    max_credits: float | None
    enrolled: list[int] | None
    waitlisted: list[int] | None
    passed: list[int] | None
    failed: list[int] | None
    inactive: list[int] | None
    has_holds: bool
    has_overrides: bool
    has_passed_codes: bool
    groups: str


LOAD_TRANSCRIPTS: Final = """
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
            AND (holds.ends_at IS NULL OR holds.ends_at > $2::timestamptz)
    ) AS has_holds,
    EXISTS (
        SELECT FROM overrides
        WHERE overrides.student_id = students.id
            AND overrides.used_at IS NULL
            AND (overrides.expires_at IS NULL OR overrides.expires_at > $2::timestamptz)
    ) AS has_overrides,
    (mine.passed IS NOT NULL OR mine.failed IS NOT NULL) AND EXISTS (
        SELECT FROM student_courses
        WHERE student_courses.student_id = students.id
            AND student_courses.passed_code IS NOT NULL
    ) AS has_passed_codes,
    array_to_string(students.groups, ',') AS groups
FROM students
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
WHERE students.id = ANY($1::bigint[])
"""


async def load_transcripts(connection: Connection, student_ids: list[int], now: datetime) -> list[Transcript]:
    """Load transcripts, in no particular order; an array for each status costs far less than a row for each course."""
    return [Transcript._make(row) for row in await connection.fetch(LOAD_TRANSCRIPTS, student_ids, now)]


LOAD_ROSTER: Final = """
SELECT
    student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id,
    swap_drops, blocked_reasons, recheck_at, reserved_group
FROM student_courses
WHERE course_id = ANY($1::bigint[])
    AND status IN ('enrolled', 'waitlisted')
ORDER BY course_id, joined_position
"""


async def load_roster(connection: Connection, course_ids: list[int]) -> list[Enrollment]:
    """Load the active enrollments of courses, ordered by joined position."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_ROSTER, course_ids)]


LOAD_STUDENTS_IN_USE: Final = """
SELECT id
FROM unnest($1::bigint[]) AS requested (id)
WHERE EXISTS (SELECT FROM student_courses WHERE student_courses.student_id = requested.id)
    OR EXISTS (SELECT FROM merged_students WHERE merged_students.merged_into = requested.id)
"""


async def load_students_in_use(connection: Connection, student_ids: list[int]) -> list[int]:
    """Return which of these students have enrollment history or duplicates."""
    return [row[0] for row in await connection.fetch(LOAD_STUDENTS_IN_USE, student_ids)]


LOAD_COURSES_IN_USE: Final = """
SELECT id
FROM unnest($1::bigint[]) AS requested (id)
WHERE EXISTS (SELECT FROM student_courses WHERE student_courses.course_id = requested.id)
"""


async def load_courses_in_use(connection: Connection, course_ids: list[int]) -> list[int]:
    """Return which of these courses have enrollment history."""
    return [row[0] for row in await connection.fetch(LOAD_COURSES_IN_USE, course_ids)]


INSERT_ENROLLMENTS: Final = """
WITH turn AS MATERIALIZED (
    SELECT
    FROM feed
    FOR UPDATE
),
entered AS (
    INSERT INTO student_courses (
        student_id, course_id, status, joined_position, passed, grade, override_id, swap_drops, blocked_reasons, recheck_at,
        reserved_group, joined_at, updated_at
    )
    SELECT
        unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::boolean[]),
        unnest($6::text[]), unnest($7::bigint[]), unnest($8::json[]), unnest($9::json[]), unnest($10::timestamptz[]),
        unnest($11::text[]), $12::timestamptz, $12
    FROM turn
),
counted AS (
    UPDATE courses
    SET
        seats_taken = counters.seats_taken,
        waitlisted = counters.waitlisted
    FROM turn
    CROSS JOIN unnest($13::bigint[], $14::bigint[], $15::bigint[]) AS counters (course_id, seats_taken, waitlisted)
    WHERE courses.id = counters.course_id
)
INSERT INTO events (
    position, type, actor, on_behalf_of, request_id, reason, student_id, course_id, term_id, before, after, occurred_at
)
SELECT
    unnest($16::bigint[]), unnest($17::text[]), unnest($18::text[]), unnest($19::text[]), unnest($20::text[]),
    unnest($21::text[]), unnest($22::bigint[]), unnest($23::bigint[]), unnest($24::bigint[]), unnest($25::json[]),
    unnest($26::json[]), $12
FROM turn
"""


async def insert_enrollments(
    connection: Connection, new: New[Enrollment], now: datetime, *, seats: Sequence[Seats], events: New[Event]
) -> None:
    """Insert new enrollments, set the seat counters of courses, and append events, in one round trip.

    ``now`` is the time of all new rows; the positions of the events must follow the newest position. Citus does not
    route a statement with several modifications: there, ``add_enrollments``, ``set_seats`` and ``append_events`` do it.
    """
    await connection.execute(
        INSERT_ENROLLMENTS,
        *columns(new, of=Enrollment, without=TIMES),
        now,
        *columns(seats, of=Seats),
        *columns(events, of=Event, without=TIMES),
    )


ADD_ENROLLMENTS: Final = """
INSERT INTO student_courses (
    student_id, course_id, status, joined_position, passed, grade, override_id, swap_drops, blocked_reasons, recheck_at,
    reserved_group, joined_at, updated_at
)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::boolean[]),
    unnest($6::text[]), unnest($7::bigint[]), unnest($8::json[]), unnest($9::json[]), unnest($10::timestamptz[]),
    unnest($11::text[]), $12::timestamptz, $12
FROM feed
"""


async def add_enrollments(connection: Connection, new: New[Enrollment], now: datetime) -> None:
    """Insert new enrollments; ``now`` is the time of all of them."""
    await connection.execute(ADD_ENROLLMENTS, *columns(new, of=Enrollment, without=TIMES), now)


UPDATE_ENROLLMENTS: Final = """
UPDATE student_courses
SET
    status = new.status,
    joined_position = new.joined_position,
    joined_at = new.joined_at,
    updated_at = new.updated_at,
    passed = new.passed,
    grade = new.grade,
    override_id = new.override_id,
    swap_drops = new.swap_drops,
    blocked_reasons = new.blocked_reasons,
    recheck_at = new.recheck_at,
    reserved_group = new.reserved_group
FROM
    unnest(
        $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::boolean[],
        $8::text[], $9::bigint[], $10::json[], $11::json[], $12::timestamptz[], $13::text[]
    )
    AS new (
        student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id, swap_drops,
        blocked_reasons, recheck_at, reserved_group
    )
WHERE student_courses.student_id = new.student_id
    AND student_courses.course_id = new.course_id
"""


async def update_enrollments(connection: Connection, changed: Sequence[Enrollment]) -> None:
    """Update all columns of existing enrollments."""
    await connection.execute(UPDATE_ENROLLMENTS, *columns(changed, of=Enrollment))


LIST_COURSES_OF_STUDENTS_NOT_WAITING: Final = """
SELECT
    requested.number,
    page.items,
    CASE
        WHEN page.size = requested.page_limit AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.student_id = requested.student_id
                AND strpos(requested.statuses, student_courses.status) > 0
                AND student_courses.course_id > page.last_id
        ) THEN page.last_id
    END AS next_after
FROM
    unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
    AS requested (student_id, statuses, after_course_id, page_limit, number)
CROSS JOIN LATERAL (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items, count(*) AS size, max(item.course_id) AS last_id
    FROM (
        SELECT
            mine.course_id,
            mine.status,
            NULL AS position,
            NULL AS blocked_by,
            NULL AS swap_drops,
            NULL AS swap_adds,
            to_char(mine.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
            mine.passed,
            mine.grade,
            (
                SELECT course
                FROM (
                    SELECT courses.id, courses.external_id, courses.code, courses.title, courses.credits, courses.term_id
                ) AS course
            ) AS course
        FROM (
            SELECT course_id, status, joined_at, passed, grade
            FROM student_courses
            WHERE student_courses.student_id = requested.student_id
                AND strpos(requested.statuses, student_courses.status) > 0
                AND student_courses.course_id > requested.after_course_id
            ORDER BY student_courses.course_id
            LIMIT requested.page_limit
        ) AS mine
        INNER JOIN courses ON courses.id = mine.course_id
        ORDER BY mine.course_id
    ) AS item
) AS page
WHERE NOT EXISTS (
    SELECT FROM student_courses
    WHERE student_courses.student_id = requested.student_id
        AND student_courses.status = 'waitlisted'
)
"""


async def list_courses_of_students_not_waiting(
    connection: Connection, requested: Sequence[CoursesAsked]
) -> list[JsonPage]:
    """Return the pages of ``list_courses_of_students``, but none for a student who has a waitlist place.

    Most students have none, and without positions the statement takes an eighth less time.
    """
    rows = await connection.fetch(LIST_COURSES_OF_STUDENTS_NOT_WAITING, *columns(requested))
    return [JsonPage._make(row) for row in rows]


LIST_COURSES_OF_STUDENTS: Final = """
WITH waitlisted AS MATERIALIZED (
    SELECT
        places.student_id,
        places.course_id,
        sum(more.students) OVER (PARTITION BY places.course_id ORDER BY places.joined_position) AS position,
        own.blocked_by,
        own.swap_drops
    FROM (
        SELECT
            student_courses.student_id,
            student_courses.course_id,
            student_courses.joined_position,
            lag(student_courses.joined_position, 1, 0::bigint) OVER (PARTITION BY course_id ORDER BY joined_position) AS position_before
        FROM student_courses
        WHERE student_courses.student_id = ANY($1::bigint[])
            AND student_courses.status = 'waitlisted'
    ) AS places
    CROSS JOIN LATERAL (
        SELECT count(*) AS students
        FROM student_courses
        WHERE student_courses.course_id = places.course_id
            AND student_courses.status = 'waitlisted'
            AND student_courses.joined_position > places.position_before
            AND student_courses.joined_position <= places.joined_position
    ) AS more
    CROSS JOIN LATERAL (
        SELECT CASE WHEN recheck_at IS NOT NULL THEN blocked_reasons END AS blocked_by, swap_drops
        FROM student_courses
        WHERE student_courses.course_id = places.course_id
            AND student_courses.status = 'waitlisted'
            AND student_courses.joined_position = places.joined_position
    ) AS own
)
SELECT
    requested.number,
    page.items,
    CASE
        WHEN page.size = requested.page_limit AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.student_id = requested.student_id
                AND strpos(requested.statuses, student_courses.status) > 0
                AND student_courses.course_id > page.last_id
        ) THEN page.last_id
    END AS next_after
FROM
    unnest($1, $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
    AS requested (student_id, statuses, after_course_id, page_limit, number)
CROSS JOIN LATERAL (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items, count(*) AS size, max(item.course_id) AS last_id
    FROM (
        SELECT
            mine.course_id,
            mine.status,
            CASE
                WHEN mine.status = 'waitlisted' THEN (
                    SELECT waitlisted.position
                    FROM waitlisted
                    WHERE waitlisted.student_id = requested.student_id
                        AND waitlisted.course_id = mine.course_id
                )
            END AS position,
            CASE
                WHEN mine.status = 'waitlisted' THEN (
                    SELECT waitlisted.blocked_by
                    FROM waitlisted
                    WHERE waitlisted.student_id = requested.student_id
                        AND waitlisted.course_id = mine.course_id
                )
            END AS blocked_by,
            CASE
                WHEN mine.status = 'waitlisted' THEN (
                    SELECT waitlisted.swap_drops
                    FROM waitlisted
                    WHERE waitlisted.student_id = requested.student_id
                        AND waitlisted.course_id = mine.course_id
                )
            END AS swap_drops,
            CASE
                -- Almost nobody has a swap that waits. The count is made once, and not for each course.
                WHEN (SELECT count(swap_drops) FROM waitlisted) > 0 THEN (
                    SELECT array_agg(waitlisted.course_id ORDER BY waitlisted.course_id)
                    FROM waitlisted
                    CROSS JOIN json_array_elements_text(waitlisted.swap_drops) AS dropped (course_id)
                    WHERE waitlisted.student_id = requested.student_id
                        AND dropped.course_id::bigint = mine.course_id
                )
            END AS swap_adds,
            to_char(mine.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
            mine.passed,
            mine.grade,
            (
                SELECT course
                FROM (
                    SELECT courses.id, courses.external_id, courses.code, courses.title, courses.credits, courses.term_id
                ) AS course
            ) AS course
        FROM (
            SELECT course_id, status, joined_position, joined_at, passed, grade
            FROM student_courses
            WHERE student_courses.student_id = requested.student_id
                AND strpos(requested.statuses, student_courses.status) > 0
                AND student_courses.course_id > requested.after_course_id
            ORDER BY student_courses.course_id
            LIMIT requested.page_limit
        ) AS mine
        INNER JOIN courses ON courses.id = mine.course_id
        ORDER BY mine.course_id
    ) AS item
) AS page
"""


async def list_courses_of_students(connection: Connection, requested: Sequence[CoursesAsked]) -> list[JsonPage]:
    """Return pages of students' courses as JSON, each ordered by course id; the session's time zone must be UTC.

    Each waitlist is counted once, no matter how many of its students are requested.
    """
    return [JsonPage._make(row) for row in await connection.fetch(LIST_COURSES_OF_STUDENTS, *columns(requested))]


LIST_STUDENTS_OF_COURSES: Final = """
SELECT
    requested.number,
    page.items,
    CASE
        WHEN page.size = requested.page_limit AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.course_id = requested.course_id
                AND student_courses.status = requested.status
                AND student_courses.student_id > page.last_id
        ) THEN page.last_id
    END AS next_after
FROM
    unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
    AS requested (course_id, status, after_student_id, page_limit, number)
CROSS JOIN LATERAL (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items, count(*) AS size, max(item.student_id) AS last_id
    FROM (
        SELECT
            roster.student_id,
            roster.status,
            NULL AS position,
            NULL AS blocked_by,
            NULL AS swap_drops,
            to_char(roster.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
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
            WHERE student_courses.course_id = requested.course_id
                AND student_courses.status = requested.status
                AND student_courses.student_id > requested.after_student_id
            ORDER BY student_courses.student_id
            LIMIT requested.page_limit
        ) AS roster
        INNER JOIN students ON students.id = roster.student_id
        ORDER BY roster.student_id
    ) AS item
) AS page
"""


async def list_students_of_courses(connection: Connection, requested: Sequence[StudentsAsked]) -> list[JsonPage]:
    """Return pages of courses' students as JSON, each ordered by student id; the session's time zone must be UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_STUDENTS_OF_COURSES, *columns(requested))]


@dataclass(frozen=True, slots=True)
class TermCredits:
    """The credits of a student in a term: of seats, and of waitlist places. ``max_credits`` is the limit of the term."""

    term_id: int
    code: str
    name: str
    starts_on: date
    ends_on: date
    credits: float
    waitlisted_credits: float
    max_credits: float | None


LIST_CREDITS_OF_STUDENT: Final = """
SELECT
    terms.id AS term_id,
    terms.code,
    terms.name,
    terms.starts_on,
    terms.ends_on,
    round(sum(held.credits)::numeric, 2)::double precision AS credits,
    round(sum(held.waitlisted_credits)::numeric, 2)::double precision AS waitlisted_credits,
    terms.max_credits
FROM (
    SELECT
        courses.term_id,
        coalesce(sum(courses.credits) FILTER (WHERE student_courses.status <> 'waitlisted'), 0) AS credits,
        coalesce(sum(courses.credits) FILTER (WHERE student_courses.status = 'waitlisted'), 0) AS waitlisted_credits
    FROM student_courses
    INNER JOIN courses ON courses.id = student_courses.course_id
    WHERE student_courses.student_id = $1::bigint
        AND student_courses.status IN ('enrolled', 'waitlisted', 'completed')
    GROUP BY courses.term_id
) AS held
INNER JOIN terms AS own ON own.id = held.term_id
INNER JOIN terms ON terms.id = ANY(ARRAY[own.id, own.parent_id])
GROUP BY terms.id
ORDER BY terms.starts_on, terms.id
LIMIT $2::bigint
"""


async def list_credits_of_student(connection: Connection, student_id: int, limit: int) -> list[TermCredits]:
    """Return the credits of a student by term, the earliest term first; those in its parts count for a whole term too."""
    return [TermCredits(*row) for row in await connection.fetch(LIST_CREDITS_OF_STUDENT, student_id, limit)]


class EnrollmentsPage(NamedTuple):
    """A JSON array as the API shows it, or None, and the ids after which the next page begins, or None."""

    items: str | None
    next_student_id: int | None
    next_course_id: int | None


LIST_ENROLLMENTS: Final = """
WITH scanned AS NOT MATERIALIZED (
    SELECT student_id, course_id, status, joined_at, updated_at, passed, grade
    FROM student_courses
    WHERE (student_id, course_id) > ($1::bigint, $2::bigint)
        AND student_id <= coalesce($5::bigint, 9223372036854775807)
    ORDER BY student_id, course_id
    LIMIT $3::bigint
)
SELECT
    page.items,
    CASE WHEN page.size > $4::bigint THEN page.last_student_id ELSE (SELECT student_id FROM scanned OFFSET $3 - 1) END
        AS next_student_id,
    CASE WHEN page.size > $4 THEN page.last_course_id ELSE (SELECT course_id FROM scanned OFFSET $3 - 1) END
        AS next_course_id
FROM (
    SELECT
        '[' || string_agg(row_to_json(entry.item)::text, ',') FILTER (WHERE entry.number <= $4) || ']' AS items,
        count(*) AS size,
        max(entry.student_id) FILTER (WHERE entry.number = $4) AS last_student_id,
        max(entry.course_id) FILTER (WHERE entry.number = $4) AS last_course_id
    FROM (
        SELECT
            found.student_id,
            found.course_id,
            row_number() OVER (ORDER BY found.student_id, found.course_id) AS number,
            (
                SELECT item
                FROM (
                    SELECT
                        found.student_id,
                        found.student_external_id,
                        found.course_id,
                        found.course_external_id,
                        found.term_id,
                        found.status,
                        to_char(found.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
                        to_char(found.updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at,
                        found.passed,
                        found.grade
                ) AS item
            ) AS item
        FROM (
            SELECT
                scanned.student_id, student.external_id AS student_external_id, scanned.course_id,
                course.external_id AS course_external_id, course.term_id, scanned.status, scanned.joined_at,
                scanned.updated_at, scanned.passed, scanned.grade
            FROM scanned
            CROSS JOIN LATERAL (
                SELECT external_id
                FROM students
                WHERE students.id = scanned.student_id
                OFFSET 0
            ) AS student
            CROSS JOIN LATERAL (
                SELECT external_id, term_id
                FROM courses
                WHERE courses.id = scanned.course_id
                OFFSET 0
            ) AS course
            WHERE ($6::bigint IS NULL OR scanned.course_id = $6)
                AND ($7::bigint IS NULL OR course.term_id = $7)
                AND ($8::text[] IS NULL OR scanned.status = ANY($8))
                AND ($9::timestamptz IS NULL OR scanned.updated_at >= $9)
            ORDER BY scanned.student_id, scanned.course_id
            LIMIT $4::bigint + 1
        ) AS found
    ) AS entry
) AS page
"""


async def list_enrollments(
    connection: Connection,
    after_student_id: int,
    after_course_id: int,
    scan_limit: int,
    limit: int,
    *,
    student_id: int | None,
    course_id: int | None,
    term_id: int | None,
    statuses: list[str] | None,
    updated_since: datetime | None,
) -> list[EnrollmentsPage]:
    """Return a page of the enrollments that match every given filter as JSON, ordered by student and course.

    At most ``scan_limit`` enrollments are examined. The session's time zone must be UTC.
    """
    rows = await connection.fetch(
        LIST_ENROLLMENTS,
        after_student_id,
        after_course_id,
        scan_limit,
        limit,
        student_id,
        course_id,
        term_id,
        statuses,
        updated_since,
    )
    return [EnrollmentsPage._make(row) for row in rows]


LIST_ENROLLMENTS_OF_COURSES: Final = """
WITH scanned AS NOT MATERIALIZED (
    SELECT
        mine.student_id, course.id AS course_id, course.external_id, course.term_id, mine.status, mine.joined_at,
        mine.updated_at, mine.passed, mine.grade
    FROM (
        (
            SELECT id, external_id, term_id
            FROM courses
            WHERE id = $5::bigint
                AND ($6::bigint IS NULL OR term_id = $6)
            ORDER BY id
        )
        UNION ALL
        (
            SELECT id, external_id, term_id
            FROM courses
            WHERE term_id = $6
                AND $5 IS NULL
                AND id >= $1::bigint
            ORDER BY id
        )
    ) AS course
    CROSS JOIN LATERAL (
        SELECT student_id, status, joined_at, updated_at, passed, grade
        FROM student_courses
        WHERE student_courses.course_id = course.id
            AND (course.id > $1 OR student_courses.student_id > $2::bigint)
        ORDER BY student_id
    ) AS mine
    ORDER BY course.id, mine.student_id
    LIMIT $3::bigint
)
SELECT
    page.items,
    CASE WHEN page.size > $4::bigint THEN page.last_student_id ELSE (SELECT student_id FROM scanned OFFSET $3 - 1) END
        AS next_student_id,
    CASE WHEN page.size > $4 THEN page.last_course_id ELSE (SELECT course_id FROM scanned OFFSET $3 - 1) END
        AS next_course_id
FROM (
    SELECT
        '[' || string_agg(row_to_json(entry.item)::text, ',') FILTER (WHERE entry.number <= $4) || ']' AS items,
        count(*) AS size,
        max(entry.student_id) FILTER (WHERE entry.number = $4) AS last_student_id,
        max(entry.course_id) FILTER (WHERE entry.number = $4) AS last_course_id
    FROM (
        SELECT
            found.student_id,
            found.course_id,
            row_number() OVER (ORDER BY found.course_id, found.student_id) AS number,
            (
                SELECT item
                FROM (
                    SELECT
                        found.student_id,
                        found.student_external_id,
                        found.course_id,
                        found.course_external_id,
                        found.term_id,
                        found.status,
                        to_char(found.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
                        to_char(found.updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at,
                        found.passed,
                        found.grade
                ) AS item
            ) AS item
        FROM (
            SELECT
                scanned.student_id, student.external_id AS student_external_id, scanned.course_id,
                scanned.external_id AS course_external_id, scanned.term_id, scanned.status, scanned.joined_at,
                scanned.updated_at, scanned.passed, scanned.grade
            FROM scanned
            CROSS JOIN LATERAL (
                SELECT external_id
                FROM students
                WHERE students.id = scanned.student_id
                OFFSET 0
            ) AS student
            WHERE ($7::text[] IS NULL OR scanned.status = ANY($7))
                AND ($8::timestamptz IS NULL OR scanned.updated_at >= $8)
            ORDER BY scanned.course_id, scanned.student_id
            LIMIT $4::bigint + 1
        ) AS found
    ) AS entry
) AS page
"""


async def list_enrollments_of_courses(
    connection: Connection,
    after_course_id: int,
    after_student_id: int,
    scan_limit: int,
    limit: int,
    *,
    course_id: int | None,
    term_id: int | None,
    statuses: list[str] | None,
    updated_since: datetime | None,
) -> list[EnrollmentsPage]:
    """Return a page as ``list_enrollments`` does, of one course or of the courses of a term, ordered by course and student."""
    rows = await connection.fetch(
        LIST_ENROLLMENTS_OF_COURSES,
        after_course_id,
        after_student_id,
        scan_limit,
        limit,
        course_id,
        term_id,
        statuses,
        updated_since,
    )
    return [EnrollmentsPage._make(row) for row in rows]
