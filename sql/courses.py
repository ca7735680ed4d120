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
    ``credits`` has at most two decimals; ``meetings`` is a JSON array. ``version`` counts changes of the editable fields,
    not of the seat counters. ``reservations`` is a JSON array, or None if the course never had any.
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
    reservations: str | None = None


class Seats(NamedTuple):
    """The seat counters of a course."""

    course_id: int
    seats_taken: int
    waitlisted: int


GET_COURSE: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status, seats_taken,
    waitlisted, version, created_at, updated_at, reservations
FROM courses
WHERE id = $1::bigint
"""


async def get_course(connection: Connection, course_id: int) -> Course | None:
    """Return one course, or None if it does not exist."""
    row = await connection.fetchrow(GET_COURSE, course_id)
    return Course._make(row) if row else None


LIST_COURSES: Final = """
WITH scanned AS NOT MATERIALIZED (
    SELECT id
    FROM (
        (
            SELECT id
            FROM courses
            WHERE external_id = $4::text
                AND id > $1::bigint
            ORDER BY id
        )
        UNION ALL
        (
            SELECT id
            FROM courses
            WHERE id = ANY($5::bigint[])
                AND $4 IS NULL
                AND id > $1
            ORDER BY id
        )
        UNION ALL
        (
            SELECT id
            FROM courses
            WHERE lower(code) = lower($6::text)
                AND num_nonnulls($4, $5) = 0
                AND id > $1
            ORDER BY id
            LIMIT $2::bigint
        )
        UNION ALL
        (
            SELECT course_id AS id
            FROM course_instructors
            WHERE instructor_id = $11::bigint
                AND teaches
                AND num_nonnulls($4, $5, $6) = 0
                AND course_id > $1
            ORDER BY course_id
            LIMIT $2
        )
        UNION ALL
        (
            SELECT id
            FROM courses
            WHERE term_id = $7::bigint
                AND num_nonnulls($4, $5, $6, $11) = 0
                AND id > $1
            ORDER BY id
            LIMIT $2
        )
        UNION ALL
        (
            SELECT id
            FROM courses
            WHERE num_nonnulls($4, $5, $6, $7, $11) = 0
                AND id > $1
            ORDER BY id
            LIMIT $2
        )
    ) AS paths
    ORDER BY id
    LIMIT $2
),
requested AS MATERIALIZED (
    SELECT left(
        lower(
            regexp_replace(normalize($10::text, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
        ),
        60
    ) AS prefix
)
SELECT
    1::bigint AS number,
    page.items,
    CASE
        WHEN page.size > $3::bigint THEN page.last_id
        ELSE (
            SELECT id
            FROM scanned
            OFFSET $2 - 1
        )
    END AS next_after
FROM (
    SELECT
        '[' || string_agg(row_to_json(entry.item)::text, ',') FILTER (WHERE entry.number <= $3) || ']' AS items,
        count(*) AS size,
        max(entry.id) FILTER (WHERE entry.number <= $3) AS last_id
    FROM (
        SELECT
            found.id,
            row_number() OVER (ORDER BY found.id) AS number,
            (
                SELECT item
                FROM (
                    SELECT
                        found.id,
                        found.external_id,
                        found.code,
                        found.section,
                        found.title,
                        found.credits,
                        found.term_id,
                        found.capacity,
                        found.waitlist_capacity,
                        found.meetings,
                        found.status,
                        found.seats_taken,
                        CASE
                            WHEN found.status = 'cancelled' THEN 0
                            WHEN found.capacity IS NOT NULL THEN greatest(0, found.capacity - found.seats_taken)
                        END AS seats_free,
                        found.waitlisted,
                        found.version,
                        to_char(found.created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
                        to_char(found.updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
                ) AS item
            ) AS item
        FROM (
            SELECT
                scanned.id, course.external_id, course.code, course.section, course.title, course.credits, course.term_id,
                course.capacity, course.waitlist_capacity, course.meetings, course.status, course.seats_taken,
                course.waitlisted, course.version, course.created_at, course.updated_at
            FROM scanned
            CROSS JOIN LATERAL (
                SELECT
                    id, external_id, code, section, title, credits, term_id, capacity, waitlist_capacity, meetings, status, seats_taken,
                    waitlisted, version, created_at, updated_at
                FROM courses
                WHERE courses.id = scanned.id
                OFFSET 0
            ) AS course
            WHERE ($5 IS NULL OR course.id = ANY($5))
                AND ($6 IS NULL OR lower(course.code) = lower($6))
                AND ($7 IS NULL OR course.term_id = $7)
                AND (
                    $11 IS NULL
                    OR (
                        SELECT teaches
                        FROM course_instructors
                        WHERE course_id = course.id
                            AND instructor_id = $11
                    )
                )
                AND ($8::text IS NULL OR course.status = $8)
                AND (
                    $9::boolean IS NULL
                    OR $9 = (course.status = 'open' AND (course.capacity IS NULL OR course.seats_taken < course.capacity))
                )
                AND (
                    $10 IS NULL
                    OR starts_with(
                        left(
                            lower(
                                regexp_replace(normalize(course.code, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
                            ),
                            60
                        ),
                        (SELECT prefix FROM requested)
                    )
                    OR starts_with(
                        left(
                            lower(
                                regexp_replace(normalize(course.title, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
                            ),
                            60
                        ),
                        (SELECT prefix FROM requested)
                    )
                )
            ORDER BY scanned.id
            LIMIT $3::bigint + 1
        ) AS found
    ) AS entry
) AS page
"""


async def list_courses(
    connection: Connection,
    after_id: int,
    scan_limit: int,
    limit: int,
    *,
    external_id: str | None = None,
    ids: list[int] | None = None,
    code: str | None = None,
    term_id: int | None = None,
    status: CourseStatus | None = None,
    has_free_seats: bool | None = None,
    text: str | None = None,
    instructor_id: int | None = None,
) -> list[JsonPage]:
    """Return a page of the courses that match every given filter as JSON, ordered by id.

    At most ``scan_limit`` courses are examined, so that a page may have fewer courses than ``limit`` although others
    follow. The session's time zone must be UTC. ``text`` is the beginning of a code or title, as for ``sort_courses``.
    """
    rows = await connection.fetch(
        LIST_COURSES,
        after_id,
        scan_limit,
        limit,
        external_id,
        ids,
        code,
        term_id,
        status,
        has_free_seats,
        text,
        instructor_id,
    )
    return [JsonPage._make(row) for row in rows]


class SortedPage(NamedTuple):
    """A JSON array as the API shows it, or None, and the key and id after which the next page begins, or None."""

    items: str | None
    next_key: str | None
    next_id: int | None


SORT_COURSES: Final = """
WITH requested AS MATERIALIZED (
    SELECT folded.prefix, greatest(folded.prefix, $1::text COLLATE "C") AS first_key
    FROM (
        SELECT left(
            lower(
                regexp_replace(normalize($5::text, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
            ),
            60
        ) COLLATE "C" AS prefix
    ) AS folded
),
scanned AS NOT MATERIALIZED (
    SELECT sort_key, id
    FROM (
        (
            SELECT sort_key, id
            FROM (
                SELECT
                    id,
                    term_id,
                    left(
                        lower(
                            regexp_replace(normalize(code, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
                        ),
                        60
                    ) COLLATE "C" AS sort_key
                FROM courses
            ) AS of_term
            WHERE term_id = $6::bigint
                AND $5 = ''
                AND (sort_key, id) > ((SELECT first_key FROM requested), $2::bigint)
            ORDER BY sort_key, id
            LIMIT $3::bigint
        )
        UNION ALL
        (
            SELECT sort_key, id
            FROM (
                SELECT
                    id,
                    left(
                        lower(
                            regexp_replace(normalize(code, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
                        ),
                        60
                    ) COLLATE "C" AS sort_key
                FROM courses
            ) AS by_code
            WHERE ($5 <> '' OR $6 IS NULL)
                AND (sort_key, id) > ((SELECT first_key FROM requested), $2)
                AND sort_key < (SELECT prefix || chr(1114111) FROM requested)
            ORDER BY sort_key, id
            LIMIT $3
        )
        UNION ALL
        (
            SELECT sort_key, id
            FROM (
                SELECT
                    id,
                    left(
                        lower(
                            regexp_replace(normalize(title, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
                        ),
                        60
                    ) COLLATE "C" AS sort_key,
                    left(
                        lower(
                            regexp_replace(normalize(code, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
                        ),
                        60
                    ) COLLATE "C" AS code_key
                FROM courses
            ) AS by_title
            WHERE $5 <> ''
                AND (sort_key, id) > ((SELECT first_key FROM requested), $2)
                AND sort_key < (SELECT prefix || chr(1114111) FROM requested)
                AND NOT starts_with(code_key, (SELECT prefix FROM requested))
            ORDER BY sort_key, id
            LIMIT $3
        )
    ) AS paths
    ORDER BY sort_key, id
    LIMIT $3
)
SELECT
    page.items,
    CASE
        WHEN page.size > $4::bigint THEN page.last_key
        ELSE (
            SELECT sort_key
            FROM scanned
            OFFSET $3 - 1
        )
    END AS next_key,
    CASE
        WHEN page.size > $4 THEN page.last_id
        ELSE (
            SELECT id
            FROM scanned
            OFFSET $3 - 1
        )
    END AS next_id
FROM (
    SELECT
        '[' || string_agg(row_to_json(entry.item)::text, ',') FILTER (WHERE entry.number <= $4) || ']' AS items,
        count(*) AS size,
        max(entry.sort_key) FILTER (WHERE entry.number = $4) AS last_key,
        max(entry.id) FILTER (WHERE entry.number = $4) AS last_id
    FROM (
        SELECT
            found.sort_key,
            found.id,
            row_number() OVER (ORDER BY found.sort_key, found.id) AS number,
            (
                SELECT item
                FROM (
                    SELECT
                        found.id,
                        found.external_id,
                        found.code,
                        found.section,
                        found.title,
                        found.credits,
                        found.term_id,
                        found.capacity,
                        found.waitlist_capacity,
                        found.meetings,
                        found.status,
                        found.seats_taken,
                        CASE
                            WHEN found.status = 'cancelled' THEN 0
                            WHEN found.capacity IS NOT NULL THEN greatest(0, found.capacity - found.seats_taken)
                        END AS seats_free,
                        found.waitlisted,
                        found.version,
                        to_char(found.created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at,
                        to_char(found.updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS updated_at
                ) AS item
            ) AS item
        FROM (
            SELECT
                scanned.sort_key, scanned.id, course.external_id, course.code, course.section, course.title, course.credits,
                course.term_id, course.capacity, course.waitlist_capacity, course.meetings, course.status,
                course.seats_taken, course.waitlisted, course.version, course.created_at, course.updated_at
            FROM scanned
            CROSS JOIN LATERAL (
                SELECT
                    id, external_id, code, section, title, credits, term_id, capacity, waitlist_capacity, meetings, status, seats_taken,
                    waitlisted, version, created_at, updated_at
                FROM courses
                WHERE courses.id = scanned.id
                OFFSET 0
            ) AS course
            WHERE ($6 IS NULL OR course.term_id = $6)
                AND ($7::text IS NULL OR course.status = $7)
                AND (
                    $8::boolean IS NULL
                    OR $8 = (course.status = 'open' AND (course.capacity IS NULL OR course.seats_taken < course.capacity))
                )
            ORDER BY scanned.sort_key, scanned.id
            LIMIT $4::bigint + 1
        ) AS found
    ) AS entry
) AS page
"""


async def sort_courses(
    connection: Connection,
    after_key: str,
    after_id: int,
    scan_limit: int,
    limit: int,
    *,
    text: str,
    term_id: int | None = None,
    status: CourseStatus | None = None,
    has_free_seats: bool | None = None,
) -> list[SortedPage]:
    """Return a page of the courses whose code or title begins with a text as JSON, ordered by what matched.

    Case, accents and apostrophes are ignored. An empty text lists all courses by code. As with ``list_courses``, a page
    examines at most ``scan_limit`` courses, and the session's time zone must be UTC.
    """
    rows = await connection.fetch(
        SORT_COURSES, after_key, after_id, scan_limit, limit, text, term_id, status, has_free_seats
    )
    return [SortedPage._make(row) for row in rows]


FIND_COURSES_BY_EXTERNAL_ID: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status, seats_taken,
    waitlisted, version, created_at, updated_at, reservations
FROM courses
WHERE external_id = $1::text
"""


async def find_courses_by_external_id(connection: Connection, external_id: str) -> list[Course]:
    """Return the course with an external id."""
    return [Course._make(row) for row in await connection.fetch(FIND_COURSES_BY_EXTERNAL_ID, external_id)]


LOAD_COURSES: Final = """
SELECT
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status, seats_taken,
    waitlisted, version, created_at, updated_at, reservations
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


class ReservedSeats(NamedTuple):
    """How many students have a reserved seat of a course, as a JSON object by group; None stands for an empty one."""

    course_id: int
    reserved_taken: str | None


LOAD_RESERVED_SEATS: Final = """
SELECT id AS course_id, reserved_taken
FROM courses
WHERE id = ANY($1::bigint[])
"""


async def load_reserved_seats(connection: Connection, ids: list[int]) -> list[ReservedSeats]:
    """Load the counters of the reserved seats of courses, in no particular order."""
    return [ReservedSeats._make(row) for row in await connection.fetch(LOAD_RESERVED_SEATS, ids)]


SET_RESERVED_SEATS: Final = """
UPDATE courses
SET reserved_taken = counters.reserved_taken
FROM unnest($1::bigint[], $2::json[]) AS counters (course_id, reserved_taken)
WHERE courses.id = counters.course_id
"""


async def set_reserved_seats(connection: Connection, seats: Sequence[ReservedSeats]) -> None:
    """Set the counters of the reserved seats of courses."""
    await connection.execute(SET_RESERVED_SEATS, *columns(seats))


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
    seats_taken, waitlisted, version, created_at, updated_at, reservations
FROM courses
WHERE external_id = ANY($1::text[])
UNION ALL
SELECT
    courses.id, courses.external_id, courses.term_id, courses.code, courses.section, courses.title, courses.credits,
    courses.capacity, courses.waitlist_capacity, courses.meetings, courses.status, courses.seats_taken,
    courses.waitlisted, courses.version, courses.created_at, courses.updated_at, courses.reservations
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


SAVE_COURSES: Final = """
INSERT INTO courses (
    id, external_id, term_id, code, section, title, credits, capacity, waitlist_capacity, meetings, status,
    seats_taken, waitlisted, version, created_at, updated_at, reservations
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::double precision[]), unnest($8::bigint[]), unnest($9::bigint[]),
    unnest($10::json[]), unnest($11::text[]), unnest($12::bigint[]), unnest($13::bigint[]), unnest($14::bigint[]),
    unnest($15::timestamptz[]), unnest($16::timestamptz[]), unnest($17::json[])
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
    updated_at = excluded.updated_at,
    reservations = excluded.reservations
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
