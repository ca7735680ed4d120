"""Statements about sets of equivalent codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from sql import Connection, columns
from sql.enrollments import Pair


class Equivalence(NamedTuple):
    """A set of codes that mean the same course; no two sets have a code in common, without regard to case."""

    id: int
    codes: list[str]
    created_at: datetime


def _sorted(row: asyncpg.Record) -> Equivalence:
    """Return a row with sorted codes."""
    return Equivalence(row[0], sorted(row[1]), row[2])


GET_EQUIVALENCE: Final = """
SELECT
    id,
    ARRAY(
        SELECT code
        FROM equivalent_codes
        WHERE equivalence_id = equivalences.id
    ) AS codes,
    created_at
FROM equivalences
WHERE id = $1::bigint
"""


async def get_equivalence(connection: Connection, equivalence_id: int) -> Equivalence | None:
    """Return one set, or None if it does not exist."""
    row = await connection.fetchrow(GET_EQUIVALENCE, equivalence_id)
    return _sorted(row) if row else None


LIST_EQUIVALENCES: Final = """
SELECT
    id,
    ARRAY(
        SELECT code
        FROM equivalent_codes
        WHERE equivalence_id = equivalences.id
    ) AS codes,
    created_at
FROM equivalences
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_equivalences(connection: Connection, after_id: int, limit: int) -> list[Equivalence]:
    """Return a page of sets, ordered by id."""
    return [_sorted(row) for row in await connection.fetch(LIST_EQUIVALENCES, after_id, limit)]


FIND_EQUIVALENCES_BY_CODE: Final = """
SELECT
    id,
    ARRAY(
        SELECT code
        FROM equivalent_codes
        WHERE equivalence_id = equivalences.id
    ) AS codes,
    created_at
FROM equivalences
WHERE id = (SELECT equivalence_id FROM equivalent_codes WHERE lower(code) = lower($1::text))
"""


async def find_equivalences_by_code(connection: Connection, code: str) -> list[Equivalence]:
    """Return the set with a code, without regard to case, or nothing."""
    return [_sorted(row) for row in await connection.fetch(FIND_EQUIVALENCES_BY_CODE, code)]


LOAD_EQUIVALENCES: Final = """
SELECT equivalences.id, array_agg(equivalent_codes.code) AS codes, equivalences.created_at
FROM equivalences
INNER JOIN equivalent_codes ON equivalent_codes.equivalence_id = equivalences.id
GROUP BY equivalences.id
"""


async def load_equivalences(connection: Connection) -> list[Equivalence]:
    """Load all sets, in no particular order: the rules need all of them at hand, and they are few."""
    return [_sorted(row) for row in await connection.fetch(LOAD_EQUIVALENCES)]


RESERVE_EQUIVALENCE_IDS: Final = """
SELECT nextval('equivalences_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_equivalence_ids(connection: Connection, count: int) -> list[int]:
    """Reserve new ids; unused ids are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_EQUIVALENCE_IDS, count)]


ADD_EQUIVALENCES: Final = """
INSERT INTO equivalences (id, created_at)
SELECT unnest($1::bigint[]), $2::timestamptz
FROM feed
"""


async def add_equivalences(connection: Connection, ids: list[int], created_at: datetime) -> None:
    """Insert sets, whose codes are inserted by ``add_equivalent_codes``."""
    await connection.execute(ADD_EQUIVALENCES, ids, created_at)


@dataclass(frozen=True, slots=True)
class EquivalentCode:
    """One code of a set."""

    equivalence_id: int
    code: str


ADD_EQUIVALENT_CODES: Final = """
INSERT INTO equivalent_codes (equivalence_id, code)
SELECT unnest($1::bigint[]), unnest($2::text[])
FROM feed
"""


async def add_equivalent_codes(connection: Connection, codes: Sequence[EquivalentCode]) -> None:
    """Insert codes; raise ``asyncpg.UniqueViolationError`` if a code is in a set already."""
    await connection.execute(ADD_EQUIVALENT_CODES, *columns(codes))


DELETE_EQUIVALENCES: Final = """
DELETE FROM equivalences
WHERE id = ANY($1::bigint[])
"""


async def delete_equivalences(connection: Connection, ids: list[int]) -> None:
    """Delete sets with their codes."""
    await connection.execute(DELETE_EQUIVALENCES, ids)


UNJUDGE_EQUIVALENT: Final = """
UPDATE student_courses
SET recheck_at = NULL
WHERE status = 'waitlisted'
    AND recheck_at IS NOT NULL
    AND course_id = ANY(
        ARRAY(
            SELECT requirements.course_id
            FROM requirements
            WHERE lower(requirements.code) = ANY(
                    ARRAY(SELECT lower(changed.code) FROM unnest($1::text[]) AS changed (code))
                )
                AND requirements.kind = ANY($2::text[])
        )
        || ARRAY(
            SELECT courses.id
            FROM courses
            WHERE $3::boolean
                AND lower(courses.code) = ANY(
                    ARRAY(SELECT lower(changed.code) FROM unnest($1::text[]) AS changed (code))
                )
                AND courses.waitlisted > 0
        )
    )
    AND EXISTS (
        SELECT FROM student_courses AS held
        INNER JOIN courses AS held_courses ON held_courses.id = held.course_id
        WHERE held.student_id = student_courses.student_id
            AND held.course_id <> student_courses.course_id
            AND held.status IN ('enrolled', 'waitlisted', 'completed')
            AND (
                lower(held_courses.code) = ANY(
                    ARRAY(SELECT lower(changed.code) FROM unnest($1::text[]) AS changed (code))
                )
                OR lower(held.passed_code) = ANY(
                    ARRAY(SELECT lower(changed.code) FROM unnest($1::text[]) AS changed (code))
                )
            )
        OFFSET 0
    )
RETURNING student_id, course_id
"""


async def unjudge_equivalent(connection: Connection, codes: list[str], kinds: list[str], of_codes: bool) -> list[Pair]:
    """Mark blocked students as unjudged who have a course of these codes beside the one for which they are waitlisted.

    Only the waitlists of two kinds of courses: those with a requirement of these kinds that names one of the codes, and,
    with ``of_codes``, those that have one of the codes themselves. Return the students. ``OFFSET 0`` makes PostgreSQL look
    up the courses of each of these students, rather than join all enrollments.
    """
    return [Pair._make(row) for row in await connection.fetch(UNJUDGE_EQUIVALENT, codes, kinds, of_codes)]
