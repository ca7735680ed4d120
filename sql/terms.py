"""Statements about terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, NamedTuple

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Term:
    """A term and its deadlines; None means no deadline. ``max_credits`` is the credit limit for each student.

    ``parent_id`` is the term of which it is a part, or None for a whole term. A part has no parts.
    """

    id: int
    code: str
    name: str
    parent_id: int | None
    starts_on: date
    ends_on: date
    enroll_from: datetime | None
    enroll_until: datetime | None
    drop_until: datetime | None
    withdraw_until: datetime | None
    max_credits: float | None
    version: int
    created_at: datetime
    updated_at: datetime


GET_TERM: Final = """
SELECT
    id, code, name, parent_id, starts_on, ends_on, enroll_from, enroll_until, drop_until, withdraw_until, max_credits,
    version, created_at, updated_at
FROM terms
WHERE id = $1::bigint
"""


async def get_term(connection: Connection, term_id: int) -> Term | None:
    """Return one term, or None if it does not exist."""
    row = await connection.fetchrow(GET_TERM, term_id)
    return Term(*row) if row else None


LIST_TERMS: Final = """
SELECT
    id, code, name, parent_id, starts_on, ends_on, enroll_from, enroll_until, drop_until, withdraw_until, max_credits,
    version, created_at, updated_at
FROM terms
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_terms(connection: Connection, after_id: int, limit: int) -> list[Term]:
    """Return a page of terms, ordered by id."""
    return [Term(*row) for row in await connection.fetch(LIST_TERMS, after_id, limit)]


LOAD_TERMS: Final = """
SELECT
    id, code, name, parent_id, starts_on, ends_on, enroll_from, enroll_until, drop_until, withdraw_until, max_credits,
    version, created_at, updated_at
FROM terms
WHERE id = ANY($1::bigint[] || ARRAY(SELECT parts.parent_id FROM terms AS parts WHERE parts.id = ANY($1::bigint[])))
"""


async def load_terms(connection: Connection, ids: list[int]) -> list[Term]:
    """Load terms by id, and those of which they are parts, in no particular order."""
    return [Term(*row) for row in await connection.fetch(LOAD_TERMS, ids)]


MATCH_TERMS: Final = """
SELECT
    id, code, name, parent_id, starts_on, ends_on, enroll_from, enroll_until, drop_until, withdraw_until, max_credits,
    version, created_at, updated_at
FROM terms
WHERE lower(code) = ANY(ARRAY(SELECT lower(requested.code) FROM unnest($1::text[]) AS requested (code)))
    OR id = ANY($2::bigint[])
    OR parent_id = ANY($3::bigint[])
"""


async def match_terms(
    connection: Connection, codes: list[str], parent_ids: list[int], whole_ids: list[int]
) -> list[Term]:
    """Load the terms that have one of these codes, ignoring case, these parents, and the parts of these whole terms."""
    return [Term(*row) for row in await connection.fetch(MATCH_TERMS, codes, parent_ids, whole_ids)]


class Fill(NamedTuple):
    """The courses of a term that are equally full: open ones with ``tenth`` tenths of their seats taken, rounded down.

    ``tenth`` is 10 for full courses, and None for those without a limit of seats.
    """

    is_open: bool
    tenth: int | None
    courses: int
    waitlisted_courses: int
    seats: int
    seats_taken: int
    seats_free: int
    waitlisted: int


SUM_UP_COURSES: Final = """
SELECT
    status = 'open' AS is_open,
    CASE
        WHEN capacity > 0 THEN least(seats_taken::bigint * 10 / capacity, 10)
        WHEN capacity = 0 THEN 10
    END AS tenth,
    count(*) AS courses,
    count(*) FILTER (WHERE waitlisted > 0) AS waitlisted_courses,
    coalesce(sum(capacity), 0)::bigint AS seats,
    sum(seats_taken)::bigint AS seats_taken,
    coalesce(sum(greatest(capacity - seats_taken, 0)), 0)::bigint AS seats_free,
    sum(waitlisted)::bigint AS waitlisted
FROM courses
WHERE term_id = $1::bigint
GROUP BY is_open, tenth
"""


async def sum_up_courses(connection: Connection, term_id: int) -> list[Fill]:
    """Return how many courses of a term are how full, in no particular order."""
    return [Fill._make(row) for row in await connection.fetch(SUM_UP_COURSES, term_id)]


LIST_WAITLISTED_COURSES: Final = """
SELECT id
FROM courses
WHERE term_id = $1::bigint
    AND waitlisted > 0
    AND (NOT $2::boolean OR capacity IS NULL OR capacity > seats_taken)
ORDER BY waitlisted DESC, id
LIMIT $3::bigint
"""


async def list_waitlisted_courses(
    connection: Connection, term_id: int, only_with_free_seats: bool, limit: int
) -> list[int]:
    """Return the ids of the courses of a term with the longest waitlists, the longest first."""
    return [row[0] for row in await connection.fetch(LIST_WAITLISTED_COURSES, term_id, only_with_free_seats, limit)]


LOAD_TERMS_IN_USE: Final = """
SELECT id
FROM unnest($1::bigint[]) AS requested (id)
WHERE EXISTS (SELECT FROM courses WHERE courses.term_id = requested.id AND courses.id <> ALL($2::bigint[]))
    OR EXISTS (SELECT FROM terms WHERE terms.parent_id = requested.id AND terms.id <> ALL($3::bigint[]))
"""


async def load_terms_in_use(
    connection: Connection, term_ids: list[int], except_course_ids: list[int], except_part_ids: list[int]
) -> list[int]:
    """Return which of these terms have courses or parts other than the given ones."""
    rows = await connection.fetch(LOAD_TERMS_IN_USE, term_ids, except_course_ids, except_part_ids)
    return [row[0] for row in rows]


RESERVE_TERM_IDS: Final = """
SELECT nextval('terms_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_term_ids(connection: Connection, count: int) -> list[int]:
    """Reserve new ids; unused ids are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_TERM_IDS, count)]


SAVE_TERMS: Final = """
INSERT INTO terms (
    id, code, name, parent_id, starts_on, ends_on, enroll_from, enroll_until, drop_until, withdraw_until, max_credits,
    version, created_at, updated_at
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::date[]),
    unnest($6::date[]), unnest($7::timestamptz[]), unnest($8::timestamptz[]), unnest($9::timestamptz[]),
    unnest($10::timestamptz[]), unnest($11::double precision[]), unnest($12::bigint[]), unnest($13::timestamptz[]),
    unnest($14::timestamptz[])
FROM feed
ON CONFLICT (id) DO UPDATE SET
    code = excluded.code,
    name = excluded.name,
    parent_id = excluded.parent_id,
    starts_on = excluded.starts_on,
    ends_on = excluded.ends_on,
    enroll_from = excluded.enroll_from,
    enroll_until = excluded.enroll_until,
    drop_until = excluded.drop_until,
    withdraw_until = excluded.withdraw_until,
    max_credits = excluded.max_credits,
    version = excluded.version,
    updated_at = excluded.updated_at
"""


async def save_terms(connection: Connection, terms: Sequence[Term]) -> None:
    """Insert or update terms; raise ``asyncpg.UniqueViolationError`` if another term has the same code."""
    await connection.execute(SAVE_TERMS, *columns(terms))


DELETE_TERMS: Final = """
DELETE FROM terms
WHERE id = ANY($1::bigint[])
"""


async def delete_terms(connection: Connection, ids: list[int]) -> None:
    """Delete terms; raise ``asyncpg.ForeignKeyViolationError`` if a term has courses or parts."""
    await connection.execute(DELETE_TERMS, ids)
