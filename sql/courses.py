"""Statements about courses."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

from sql import Connection, JsonPage, columns

CourseStatus: TypeAlias = Literal["open", "cancelled"]


class Course(NamedTuple):
    """A course: one offering, in at most one term.

    ``section`` distinguishes the offerings of a code in a term; None means that the course has none.
    ``capacity`` is the number of seats and ``waitlist_capacity`` the number of waitlist places; None means unlimited.
    ``credits`` is a multiple of 0.5; ``meetings`` is a JSON array. ``version`` counts changes of the editable fields,
    not of the seat counters.
    """

    id: int
    external_id: str | None
    term_id: int | None
    code: str
    section: str | None
    title: str
    credits: float
    capacity: int | None
    waitlist_capacity: int | None
    meetings: str
    status: CourseStatus
    seats_taken: int
    waitlisted: int
    version: int
    created_at: datetime
    updated_at: datetime


class Seats(NamedTuple):
    """The seat counters of a course."""

    course_id: int
    seats_taken: int
    waitlisted: int


GET_COURSE: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status,
    seats_taken, waitlisted, version, created_at, updated_at
FROM courses
WHERE id = $1::bigint
"""


async def get_course(connection: Connection, course_id: int) -> Course | None:
    """Return one course, or None if it does not exist."""
    row = await connection.fetchrow(GET_COURSE, course_id)
    return Course._make(row) if row else None


LIST_COURSES: Final = """
SELECT
    1::bigint AS number,
    page.items,
    CASE
        WHEN page.size = $2::bigint AND page.last_id < (
            SELECT max(id)
            FROM courses
        ) THEN page.last_id
    END AS next_after
FROM (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items, count(*) AS size, max(item.id) AS last_id
    FROM (
        SELECT
            id,
            external_id,
            code,
            section,
            title,
            credits,
            term_id,
            capacity,
            waitlist_capacity,
            meetings,
            status,
            seats_taken,
            CASE
                WHEN status = 'cancelled' THEN 0
                WHEN capacity IS NOT NULL THEN greatest(0, capacity - seats_taken)
            END AS seats_free,
            waitlisted,
            version,
            to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
        FROM courses
        WHERE id > $1::bigint
        ORDER BY id
        LIMIT $2::bigint
    ) AS item
) AS page
"""


async def list_courses(connection: Connection, after_id: int, limit: int) -> list[JsonPage]:
    """Return a page of courses as JSON, ordered by id; the session's time zone must be UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_COURSES, after_id, limit)]


LIST_COURSES_BY_CODE: Final = """
SELECT
    1::bigint AS number,
    page.items,
    CASE
        WHEN page.size = $3::bigint AND page.last_id < (
            SELECT max(id)
            FROM courses
            WHERE lower(code) = lower($1::text)
        ) THEN page.last_id
    END AS next_after
FROM (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items, count(*) AS size, max(item.id) AS last_id
    FROM (
        SELECT
            id,
            external_id,
            code,
            section,
            title,
            credits,
            term_id,
            capacity,
            waitlist_capacity,
            meetings,
            status,
            seats_taken,
            CASE
                WHEN status = 'cancelled' THEN 0
                WHEN capacity IS NOT NULL THEN greatest(0, capacity - seats_taken)
            END AS seats_free,
            waitlisted,
            version,
            to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
        FROM courses
        WHERE lower(code) = lower($1::text)
            AND id > $2::bigint
        ORDER BY id
        LIMIT $3::bigint
    ) AS item
) AS page
"""


async def list_courses_by_code(connection: Connection, code: str, after_id: int, limit: int) -> list[JsonPage]:
    """Return a page of the courses with a code as JSON, ordered by id; the session's time zone must be UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_COURSES_BY_CODE, code, after_id, limit)]


FIND_COURSES_BY_EXTERNAL_ID: Final = """
SELECT 1::bigint AS number, page.items, NULL::bigint AS next_after
FROM (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items
    FROM (
        SELECT
            id,
            external_id,
            code,
            section,
            title,
            credits,
            term_id,
            capacity,
            waitlist_capacity,
            meetings,
            status,
            seats_taken,
            CASE
                WHEN status = 'cancelled' THEN 0
                WHEN capacity IS NOT NULL THEN greatest(0, capacity - seats_taken)
            END AS seats_free,
            waitlisted,
            version,
            to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
        FROM courses
        WHERE external_id = $1::text
    ) AS item
) AS page
"""


async def find_courses_by_external_id(connection: Connection, external_id: str) -> list[JsonPage]:
    """Return the course with an external id as a JSON page; the session's time zone must be UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(FIND_COURSES_BY_EXTERNAL_ID, external_id)]


LOAD_COURSES: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status,
    seats_taken, waitlisted, version, created_at, updated_at
FROM courses
WHERE id = ANY($1::bigint[])
"""


async def load_courses(connection: Connection, ids: list[int]) -> list[Course]:
    """Load courses by id, in no particular order."""
    return [Course._make(row) for row in await connection.fetch(LOAD_COURSES, ids)]


LOAD_SEATS: Final = """
SELECT id AS course_id, seats_taken, waitlisted
FROM courses
WHERE id = ANY($1::bigint[])
"""


async def load_seats(connection: Connection, ids: list[int]) -> list[Seats]:
    """Load the seat counters of courses, in no particular order."""
    return [Seats._make(row) for row in await connection.fetch(LOAD_SEATS, ids)]


SET_SEATS: Final = """
UPDATE courses
SET
    seats_taken = counters.seats_taken,
    waitlisted = counters.waitlisted
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS counters (course_id, seats_taken, waitlisted)
WHERE courses.id = counters.course_id
"""


async def set_seats(connection: Connection, seats: Sequence[Seats]) -> None:
    """Set the seat counters of courses."""
    await connection.execute(SET_SEATS, *columns(seats))


class Definition(NamedTuple):
    """The fields of a held course that the rules for requesting other courses read."""

    id: int
    code: str
    credits: float
    term_id: int | None
    meetings: str


LOAD_DEFINITIONS: Final = """
SELECT id, code, credits, term_id, meetings
FROM courses
WHERE id = ANY($1::bigint[])
"""


async def load_definitions(connection: Connection, ids: list[int]) -> list[Definition]:
    """Load the definitions of courses by id, in no particular order."""
    return [Definition._make(row) for row in await connection.fetch(LOAD_DEFINITIONS, ids)]


class Offering(NamedTuple):
    """What is unique among the courses of terms; the section of a course without one is empty."""

    term_id: int
    code: str
    section: str


MATCH_COURSES: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status,
    seats_taken, waitlisted, version, created_at, updated_at
FROM courses
WHERE external_id = ANY($1::text[])
UNION ALL
SELECT
    courses.id, courses.external_id, courses.term_id, courses.code, courses.section, courses.title, courses.credits,
    courses.capacity, courses.waitlist_capacity, courses.meetings, courses.status, courses.seats_taken,
    courses.waitlisted, courses.version, courses.created_at, courses.updated_at
FROM unnest($2::bigint[], $3::text[], $4::text[]) AS requested (term_id, code, section)
INNER JOIN courses
    ON lower(courses.code) = lower(requested.code)
    AND courses.term_id = requested.term_id
    AND lower(coalesce(courses.section, '')) = lower(requested.section)
    AND courses.status <> 'cancelled'
"""


async def match_courses(connection: Connection, external_ids: list[str], offerings: Sequence[Offering]) -> list[Course]:
    """Load the courses that have one of the external ids, or are one of the offerings and not cancelled.

    Codes and sections are compared without regard to case. A course may be returned twice.
    """
    rows = await connection.fetch(MATCH_COURSES, external_ids, *columns(offerings, Offering))
    return [Course._make(row) for row in rows]


RESERVE_COURSE_IDS: Final = """
SELECT nextval('courses_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_course_ids(connection: Connection, count: int) -> list[int]:
    """Reserve new ids; unused ids are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_COURSE_IDS, count)]


LIST_COURSES_OF_TERM: Final = """
SELECT
    1::bigint AS number,
    page.items,
    CASE
        WHEN page.size = $3::bigint AND page.last_id < (
            SELECT max(id)
            FROM courses
            WHERE term_id = $1::bigint
        ) THEN page.last_id
    END AS next_after
FROM (
    SELECT '[' || string_agg(row_to_json(item)::text, ',') || ']' AS items, count(*) AS size, max(item.id) AS last_id
    FROM (
        SELECT
            id,
            external_id,
            code,
            section,
            title,
            credits,
            term_id,
            capacity,
            waitlist_capacity,
            meetings,
            status,
            seats_taken,
            CASE
                WHEN status = 'cancelled' THEN 0
                WHEN capacity IS NOT NULL THEN greatest(0, capacity - seats_taken)
            END AS seats_free,
            waitlisted,
            version,
            to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
            to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
        FROM courses
        WHERE term_id = $1::bigint
            AND id > $2::bigint
        ORDER BY id
        LIMIT $3::bigint
    ) AS item
) AS page
"""


async def list_courses_of_term(connection: Connection, term_id: int, after_id: int, limit: int) -> list[JsonPage]:
    """Return a page of the courses of a term as JSON, ordered by id; the session's time zone must be UTC."""
    return [JsonPage._make(row) for row in await connection.fetch(LIST_COURSES_OF_TERM, term_id, after_id, limit)]


SAVE_COURSES: Final = """
INSERT INTO courses (
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status,
    seats_taken, waitlisted, version, created_at, updated_at
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::double precision[]), unnest($8::bigint[]), unnest($9::bigint[]),
    unnest($10::json[]), unnest($11::text[]), unnest($12::bigint[]), unnest($13::bigint[]), unnest($14::bigint[]),
    unnest($15::timestamptz[]), unnest($16::timestamptz[])
FROM feed
ON CONFLICT (id) DO UPDATE SET
    external_id = excluded.external_id,
    term_id = excluded.term_id,
    code = excluded.code,
    section = excluded.section,
    title = excluded.title,
    credits = excluded.credits,
    capacity = excluded.capacity,
    waitlist_capacity = excluded.waitlist_capacity,
    meetings = excluded.meetings,
    status = excluded.status,
    seats_taken = excluded.seats_taken,
    waitlisted = excluded.waitlisted,
    version = excluded.version,
    updated_at = excluded.updated_at
"""


async def save_courses(connection: Connection, courses: Sequence[Course]) -> None:
    """Insert or update courses.

    Raise ``asyncpg.UniqueViolationError`` if another course has the same external id, or the same code and section in
    its term.
    """
    await connection.execute(SAVE_COURSES, *columns(courses))


DELETE_COURSES: Final = """
DELETE FROM courses
WHERE id = ANY($1::bigint[])
"""


async def delete_courses(connection: Connection, ids: list[int]) -> None:
    """Delete courses; raise ``asyncpg.ForeignKeyViolationError`` if a course has enrollment history."""
    await connection.execute(DELETE_COURSES, ids)
