"""Statements about student_courses: the state of one student in one course."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final, Literal, NamedTuple, TypeAlias

from sql import TIMES, Connection, JsonPage, New, columns
from sql.courses import Seats
from sql.feed import Event

Status: TypeAlias = Literal["enrolled", "waitlisted", "completed", "dropped", "withdrawn"]


class Enrollment(NamedTuple):
    """One row of ``student_courses``; ``place`` is the position of the event that put the student there.

    ``passed`` and ``grade`` are None until completed; ``override_id`` is of the override that seated the student.
    ``swap_drops`` is a JSON array of the courses that leave when the student gets this one, ``skipped`` one of the
    refusals for which the last promotion passed the student by.
    """

    student_id: int
    course_id: int
    status: Status
    place: int
    joined_at: datetime
    updated_at: datetime
    passed: bool | None = None
    grade: str | None = None
    override_id: int | None = None
    swap_drops: str | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class CoursesAsked:
    """A page of a student's courses that is asked for; a status of None stands for those enrolled and waitlisted."""

    student_id: int
    status: Status | None
    after_course_id: int
    page_limit: int


@dataclass(frozen=True, slots=True)
class StudentsAsked:
    """A page of a course's students in one status that is asked for."""

    course_id: int
    status: Status
    after_student_id: int
    page_limit: int


LOAD_ENROLLMENTS: Final = """
SELECT
    student_courses.student_id, student_courses.course_id, status, place, joined_at, updated_at, passed, grade,
    override_id, swap_drops, skipped
FROM unnest($1::bigint[], $2::bigint[]) AS asked (student_id, course_id)
INNER JOIN student_courses
    ON student_courses.student_id = asked.student_id
    AND student_courses.course_id = asked.course_id
"""


class Pair(NamedTuple):
    """A student and a course."""

    student_id: int
    course_id: int


async def load_enrollments(connection: Connection, pairs: Sequence[Pair]) -> list[Enrollment]:
    """Read the states of students in courses, where there are any."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_ENROLLMENTS, *columns(pairs))]


class Transcript(NamedTuple):
    """What a student may and has, in ids of courses; None stands for no course, and for no limit of the student's own.

    Completed courses are either ``passed`` or ``failed``, ``gone`` are those dropped and withdrawn. ``has_holds`` and
    ``has_overrides`` tell whether any has not ended.
    """

    student_id: int
    max_credits: float | None
    enrolled: list[int] | None
    waitlisted: list[int] | None
    passed: list[int] | None
    failed: list[int] | None
    gone: list[int] | None
    has_holds: bool
    has_overrides: bool


LOAD_TRANSCRIPTS: Final = """
SELECT
    students.id AS student_id,
    students.max_credits,
    mine.enrolled,
    mine.waitlisted,
    mine.passed,
    mine.failed,
    mine.gone,
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
    ) AS has_overrides
FROM students
CROSS JOIN LATERAL (
    SELECT
        array_agg(course_id) FILTER (WHERE status = 'enrolled') AS enrolled,
        array_agg(course_id) FILTER (WHERE status = 'waitlisted') AS waitlisted,
        array_agg(course_id) FILTER (WHERE status = 'completed' AND passed) AS passed,
        array_agg(course_id) FILTER (WHERE status = 'completed' AND NOT passed) AS failed,
        array_agg(course_id) FILTER (WHERE status IN ('dropped', 'withdrawn')) AS gone
    FROM student_courses
    WHERE student_courses.student_id = students.id
) AS mine
WHERE students.id = ANY($1::bigint[])
"""


async def load_transcripts(connection: Connection, student_ids: list[int], now: datetime) -> list[Transcript]:
    """Read what there is of students, in no order: an array a status costs far less than a row a course."""
    return [Transcript._make(row) for row in await connection.fetch(LOAD_TRANSCRIPTS, student_ids, now)]


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody who is in one course, waits for it or has completed it waits for another, or for the same."""

    seated_in: int
    waits_for: int


LOAD_WAITS_OF_COURSES: Final = """
SELECT DISTINCT seated.course_id AS seated_in, waiting.course_id AS waits_for
FROM student_courses AS seated
INNER JOIN student_courses AS waiting
    ON waiting.student_id = seated.student_id
    AND waiting.status = 'waitlisted'
WHERE seated.course_id = ANY($1::bigint[])
    AND seated.status IN ('enrolled', 'waitlisted', 'completed')
"""


async def load_waits_of_courses(connection: Connection, course_ids: list[int]) -> list[Wait]:
    """Tell what those who are in these courses, wait for them or have completed them wait for."""
    return [Wait(*row) for row in await connection.fetch(LOAD_WAITS_OF_COURSES, course_ids)]


LOAD_WAITS_OF_TERMS: Final = """
SELECT DISTINCT courses.term_id AS seated_in, waiting.course_id AS waits_for
FROM courses
INNER JOIN student_courses AS standing
    ON standing.course_id = courses.id
    AND standing.status IN ('enrolled', 'waitlisted', 'completed')
INNER JOIN student_courses AS waiting
    ON waiting.student_id = standing.student_id
    AND waiting.status = 'waitlisted'
WHERE courses.term_id = ANY($1::bigint[])
"""


async def load_waits_of_terms(connection: Connection, term_ids: list[int]) -> list[Wait]:
    """Tell what those who are in courses of these terms, wait for them or have completed them wait for."""
    return [Wait(*row) for row in await connection.fetch(LOAD_WAITS_OF_TERMS, term_ids)]


LOAD_LINES: Final = """
SELECT
    line.student_id, line.course_id, line.status, line.place, line.joined_at, line.updated_at, line.passed, line.grade,
    line.override_id, line.swap_drops, line.skipped
FROM unnest($1::bigint[], $2::bigint[]) AS asked (course_id, after_place)
CROSS JOIN LATERAL (
    SELECT
        student_id, course_id, status, place, joined_at, updated_at, passed, grade, override_id, swap_drops, skipped
    FROM student_courses
    WHERE student_courses.course_id = asked.course_id
        AND status = 'waitlisted'
        AND place > asked.after_place
    ORDER BY place
    LIMIT $3::bigint
) AS line
"""


async def load_lines(
    connection: Connection, course_ids: list[int], after_places: list[int], limit: int
) -> list[Enrollment]:
    """Read the next of those who wait for each of some courses; the places give the order."""
    rows = await connection.fetch(LOAD_LINES, course_ids, after_places, limit)
    return sorted([Enrollment._make(row) for row in rows], key=attrgetter("place"))


LOAD_ROSTER: Final = """
SELECT
    student_id, course_id, status, place, joined_at, updated_at, passed, grade, override_id, swap_drops, skipped
FROM student_courses
WHERE course_id = ANY($1::bigint[])
    AND status IN ('enrolled', 'waitlisted')
ORDER BY course_id, place
"""


async def load_roster(connection: Connection, course_ids: list[int]) -> list[Enrollment]:
    """Read everyone who is in these courses or waits for them, by place."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_ROSTER, course_ids)]


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


RECORD_MOVES: Final = """
WITH entered AS (
    INSERT INTO student_courses (
        student_id, course_id, status, place, passed, grade, override_id, swap_drops, skipped, joined_at, updated_at
    )
    SELECT
        unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::boolean[]),
        unnest($6::text[]), unnest($7::bigint[]), unnest($8::json[]), unnest($9::json[]), $10::timestamptz, $10
),
moved AS (
    UPDATE student_courses
    SET
        status = new.status,
        place = new.place,
        joined_at = new.joined_at,
        updated_at = new.updated_at,
        passed = new.passed,
        grade = new.grade,
        override_id = new.override_id,
        swap_drops = new.swap_drops,
        skipped = new.skipped
    FROM
        unnest(
            $11::bigint[], $12::bigint[], $13::text[], $14::bigint[], $15::timestamptz[], $16::timestamptz[],
            $17::boolean[], $18::text[], $19::bigint[], $20::json[], $21::json[]
        )
        AS new (
            student_id, course_id, status, place, joined_at, updated_at, passed, grade, override_id, swap_drops, skipped
        )
    WHERE student_courses.student_id = new.student_id
        AND student_courses.course_id = new.course_id
),
counted AS (
    UPDATE courses
    SET
        seats_taken = counters.seats_taken,
        waitlisted = counters.waitlisted
    FROM unnest($22::bigint[], $23::bigint[], $24::bigint[]) AS counters (course_id, seats_taken, waitlisted)
    WHERE courses.id = counters.course_id
)
INSERT INTO events (
    position, type, actor, request_id, reason, student_id, course_id, term_id, before, after, occurred_at
)
SELECT
    unnest($25::bigint[]), unnest($26::text[]), unnest($27::text[]), unnest($28::text[]), unnest($29::text[]),
    unnest($30::bigint[]), unnest($31::bigint[]), unnest($32::bigint[]), unnest($33::json[]), unnest($34::json[]), $10
"""


async def record_moves(
    connection: Connection,
    entered: New[Enrollment],
    now: datetime,
    *,
    moved: Sequence[Enrollment],
    seats: Sequence[Seats],
    events: New[Event],
) -> None:
    """Insert states of (student, course) pairs that are new, set those that there were, set seat counters and nothing
    else of their courses, and append events, whose positions follow the newest one; what is new is of now.
    """
    await connection.execute(
        RECORD_MOVES,
        *columns(entered, of=Enrollment, without=TIMES),
        now,
        *columns(moved, of=Enrollment),
        *columns(seats, of=Seats),
        *columns(events, without=TIMES),
    )


LIST_COURSES_OF_STUDENTS: Final = """
SELECT
    asked.number,
    page.items,
    CASE
        WHEN page.size = asked.page_limit AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.student_id = asked.student_id
                AND (
                    student_courses.status = asked.status
                    OR (asked.status IS NULL AND student_courses.status IN ('enrolled', 'waitlisted'))
                )
                AND student_courses.course_id > page.last_id
        ) THEN page.last_id
    END AS next_after
FROM
    unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
    AS asked (student_id, status, after_course_id, page_limit, number)
CROSS JOIN LATERAL (
    SELECT json_agg(item)::text AS items, count(*) AS size, max(item.course_id) AS last_id
    FROM (
        SELECT
            mine.course_id,
            mine.status,
            CASE
                WHEN mine.status = 'waitlisted' THEN (
                    SELECT count(*)
                    FROM student_courses AS line
                    WHERE line.course_id = mine.course_id
                        AND line.status = 'waitlisted'
                        AND line.place <= mine.place
                )
            END AS position,
            to_char(mine.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
            mine.passed,
            mine.grade,
            (
                SELECT course
                FROM (
                    SELECT courses.id, courses.code, courses.title, courses.credits, courses.term_id
                ) AS course
            ) AS course
        FROM (
            SELECT course_id, status, place, joined_at, passed, grade
            FROM student_courses
            WHERE student_courses.student_id = asked.student_id
                AND (
                    student_courses.status = asked.status
                    OR (asked.status IS NULL AND student_courses.status IN ('enrolled', 'waitlisted'))
                )
                AND student_courses.course_id > asked.after_course_id
            ORDER BY student_courses.course_id
            LIMIT asked.page_limit
        ) AS mine
        INNER JOIN courses ON courses.id = mine.course_id
        ORDER BY mine.course_id
    ) AS item
) AS page
"""


async def list_courses_of_students(connection: Connection, asked: Sequence[CoursesAsked]) -> list[JsonPage]:
    """Write pages of students' courses, each by course id; the session's time zone is UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_COURSES_OF_STUDENTS, *columns(asked))]


LIST_STUDENTS_OF_COURSES: Final = """
SELECT
    asked.number,
    page.items,
    CASE
        WHEN page.size = asked.page_limit AND EXISTS (
            SELECT FROM student_courses
            WHERE student_courses.course_id = asked.course_id
                AND student_courses.status = asked.status
                AND student_courses.student_id > page.last_id
        ) THEN page.last_id
    END AS next_after
FROM
    unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
    AS asked (course_id, status, after_student_id, page_limit, number)
CROSS JOIN LATERAL (
    SELECT json_agg(item)::text AS items, count(*) AS size, max(item.student_id) AS last_id
    FROM (
        SELECT
            roster.student_id,
            roster.status,
            NULL AS position,
            to_char(roster.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
            (
                SELECT student
                FROM (
                    SELECT students.id, students.given_name, students.family_name, students.email
                ) AS student
            ) AS student
        FROM (
            SELECT student_id, status, joined_at
            FROM student_courses
            WHERE student_courses.course_id = asked.course_id
                AND student_courses.status = asked.status
                AND student_courses.student_id > asked.after_student_id
            ORDER BY student_courses.student_id
            LIMIT asked.page_limit
        ) AS roster
        INNER JOIN students ON students.id = roster.student_id
        ORDER BY roster.student_id
    ) AS item
) AS page
"""


async def list_students_of_courses(connection: Connection, asked: Sequence[StudentsAsked]) -> list[JsonPage]:
    """Write pages of courses' students in one status, each by student id; the session's time zone is UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_STUDENTS_OF_COURSES, *columns(asked))]


LIST_LINE: Final = """
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
    SELECT json_agg(waiter.item)::text AS items, count(*) AS size, max(waiter.place) AS last_place
    FROM (
        SELECT
            line.place,
            (
                SELECT item
                FROM (
                    SELECT
                        line.student_id,
                        line.status,
                        line.position,
                        to_char(line.joined_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS joined_at,
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
        ) AS line
        INNER JOIN students ON students.id = line.student_id
        ORDER BY line.place
    ) AS waiter
) AS page
"""


async def list_line(connection: Connection, course_id: int, after_place: int, limit: int) -> list[JsonPage]:
    """Write a page of those who wait for a course, in order; the session's time zone is UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_LINE, course_id, after_place, limit)]
