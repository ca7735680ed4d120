"""Statements about students."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Student:
    """A student.

    ``sourced_id`` never changes, and no instructor has it. ``max_credits`` is the student's own credit limit for one
    term; None means that the limit of the term applies. ``groups`` are sorted and separated by commas, which no group
    contains. ``version`` counts changes of the editable fields.
    """

    id: int
    external_id: str | None
    sourced_id: str
    given_name: str | None
    family_name: str | None
    preferred_name: str | None
    email: str | None
    max_credits: float | None
    groups: str
    version: int
    created_at: datetime
    updated_at: datetime


GET_STUDENT: Final = """
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    array_to_string(groups, ',') AS groups, version, created_at, updated_at
FROM students
WHERE id = $1::bigint
"""


async def get_student(connection: Connection, student_id: int) -> Student | None:
    """Return one student, or None if the student does not exist."""
    row = await connection.fetchrow(GET_STUDENT, student_id)
    return Student(*row) if row else None


LIST_STUDENTS: Final = """
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    array_to_string(groups, ',') AS groups, version, created_at, updated_at
FROM students
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_students(connection: Connection, after_id: int, limit: int) -> list[Student]:
    """Return a page of students, ordered by id."""
    return [Student(*row) for row in await connection.fetch(LIST_STUDENTS, after_id, limit)]


FIND_STUDENTS: Final = """
WITH requested AS MATERIALIZED (
    SELECT left(
        lower(
            regexp_replace(normalize($6::text, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
        ),
        60
    ) AS prefix
)
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    array_to_string(groups, ',') AS groups, version, created_at, updated_at
FROM students
WHERE id = ANY(
    CASE
        WHEN $3::text IS NOT NULL THEN ARRAY(SELECT id FROM students WHERE external_id = $3)
        WHEN $4::text IS NOT NULL THEN ARRAY(SELECT id FROM students WHERE lower(email COLLATE "C") = lower($4 COLLATE "C"))
        WHEN $5::bigint[] IS NOT NULL THEN $5
        ELSE ARRAY(SELECT id FROM students WHERE groups @> ARRAY[$7::text] AND groups <> '{}' AND id > $1::bigint)
    END
)
    AND ($4 IS NULL OR lower(email COLLATE "C") = lower($4 COLLATE "C"))
    AND ($5 IS NULL OR id = ANY($5))
    AND ($7 IS NULL OR groups @> ARRAY[$7])
    AND (
        $6 IS NULL
        OR starts_with(
            left(
                lower(
                    regexp_replace(
                        normalize(coalesce(family_name || ' ', '') || coalesce(given_name, ''), NFKD),
                        '[\\u0300-\\u036F''\\u2019]', '', 'g'
                    )
                ),
                60
            ),
            (SELECT prefix FROM requested)
        )
        OR starts_with(
            left(
                lower(
                    regexp_replace(
                        normalize(coalesce(given_name || ' ', '') || coalesce(family_name, ''), NFKD),
                        '[\\u0300-\\u036F''\\u2019]', '', 'g'
                    )
                ),
                60
            ),
            (SELECT prefix FROM requested)
        )
        OR starts_with(
            left(
                lower(
                    regexp_replace(
                        normalize(preferred_name || coalesce(' ' || family_name, ''), NFKD),
                        '[\\u0300-\\u036F''\\u2019]', '', 'g'
                    )
                ),
                60
            ),
            (SELECT prefix FROM requested)
        )
    )
    AND id > $1
ORDER BY id
LIMIT $2::bigint
"""


async def find_students(
    connection: Connection,
    after_id: int,
    limit: int,
    *,
    external_id: str | None,
    email: str | None,
    ids: list[int] | None,
    text: str | None,
    group: str | None,
) -> list[Student]:
    """Return a page of the students who match every given filter, ordered by id; one besides ``text`` is given.

    ``text`` is the beginning of a name, as for ``search_students``.
    """
    rows = await connection.fetch(FIND_STUDENTS, after_id, limit, external_id, email, ids, text, group)
    return [Student(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class FoundStudent(Student):
    """A student with the key by which a search found and ordered it."""

    sort_key: str


SEARCH_STUDENTS: Final = """
WITH requested AS MATERIALIZED (
    SELECT folded.prefix, greatest(folded.prefix, $2::text COLLATE "C") AS first_key
    FROM (
        SELECT left(
            lower(
                regexp_replace(normalize($1::text, NFKD), '[\\u0300-\\u036F''\\u2019]', '', 'g')
            ),
            60
        ) COLLATE "C" AS prefix
    ) AS folded
)
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    groups, version, created_at, updated_at, sort_key
FROM (
    (
        SELECT
            id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
            groups, version, created_at, updated_at, sort_key
        FROM (
            SELECT
                id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
                array_to_string(groups, ',') AS groups, version, created_at, updated_at,
                left(
                    lower(
                        regexp_replace(
                            normalize(coalesce(family_name || ' ', '') || coalesce(given_name, ''), NFKD),
                            '[\\u0300-\\u036F''\\u2019]', '', 'g'
                        )
                    ),
                    60
                ) COLLATE "C" AS sort_key
            FROM students
        ) AS by_family_name
        WHERE (sort_key, id) > ((SELECT first_key FROM requested), $3::bigint)
            AND sort_key < (SELECT prefix || chr(1114111) FROM requested)
        ORDER BY sort_key, id
        LIMIT $4::bigint
    )
    UNION ALL
    (
        SELECT
            id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
            groups, version, created_at, updated_at, sort_key
        FROM (
            SELECT
                id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
                array_to_string(groups, ',') AS groups, version, created_at, updated_at,
                left(
                    lower(
                        regexp_replace(
                            normalize(coalesce(given_name || ' ', '') || coalesce(family_name, ''), NFKD),
                            '[\\u0300-\\u036F''\\u2019]', '', 'g'
                        )
                    ),
                    60
                ) COLLATE "C" AS sort_key,
                left(
                    lower(
                        regexp_replace(
                            normalize(coalesce(family_name || ' ', '') || coalesce(given_name, ''), NFKD),
                            '[\\u0300-\\u036F''\\u2019]', '', 'g'
                        )
                    ),
                    60
                ) COLLATE "C" AS family_key
            FROM students
        ) AS by_given_name
        WHERE $1 <> ''
            AND (sort_key, id) > ((SELECT first_key FROM requested), $3)
            AND sort_key < (SELECT prefix || chr(1114111) FROM requested)
            AND NOT starts_with(family_key, (SELECT prefix FROM requested))
        ORDER BY sort_key, id
        LIMIT $4
    )
    UNION ALL
    (
        SELECT
            id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
            groups, version, created_at, updated_at, sort_key
        FROM (
            SELECT
                id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
                array_to_string(groups, ',') AS groups, version, created_at, updated_at,
                left(
                    lower(
                        regexp_replace(
                            normalize(preferred_name || coalesce(' ' || family_name, ''), NFKD),
                            '[\\u0300-\\u036F''\\u2019]', '', 'g'
                        )
                    ),
                    60
                ) COLLATE "C" AS sort_key,
                left(
                    lower(
                        regexp_replace(
                            normalize(coalesce(family_name || ' ', '') || coalesce(given_name, ''), NFKD),
                            '[\\u0300-\\u036F''\\u2019]', '', 'g'
                        )
                    ),
                    60
                ) COLLATE "C" AS family_key,
                left(
                    lower(
                        regexp_replace(
                            normalize(coalesce(given_name || ' ', '') || coalesce(family_name, ''), NFKD),
                            '[\\u0300-\\u036F''\\u2019]', '', 'g'
                        )
                    ),
                    60
                ) COLLATE "C" AS given_key
            FROM students
            WHERE preferred_name IS NOT NULL
        ) AS by_preferred_name
        WHERE $1 <> ''
            AND (sort_key, id) > ((SELECT first_key FROM requested), $3)
            AND sort_key < (SELECT prefix || chr(1114111) FROM requested)
            AND NOT starts_with(family_key, (SELECT prefix FROM requested))
            AND NOT starts_with(given_key, (SELECT prefix FROM requested))
        ORDER BY sort_key, id
        LIMIT $4
    )
) AS found
ORDER BY sort_key, id
LIMIT $4
"""


async def search_students(
    connection: Connection, text: str, after_key: str, after_id: int, limit: int
) -> list[FoundStudent]:
    """Return a page of the students whose name begins with a text, whichever of their names comes first; the preferred
    name counts like the given name before the family name.

    Case, accents and apostrophes are ignored. The order is that of the names as they matched; an empty text lists all
    students by family name.
    """
    rows = await connection.fetch(SEARCH_STUDENTS, text, after_key, after_id, limit)
    return [FoundStudent(*row) for row in rows]


FIND_STUDENTS_BY_EXTERNAL_ID: Final = """
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    array_to_string(groups, ',') AS groups, version, created_at, updated_at
FROM students
WHERE external_id = $1::text
"""


async def find_students_by_external_id(connection: Connection, external_id: str) -> list[Student]:
    """Return the student with an external id."""
    return [Student(*row) for row in await connection.fetch(FIND_STUDENTS_BY_EXTERNAL_ID, external_id)]


LOAD_STUDENTS: Final = """
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    array_to_string(groups, ',') AS groups, version, created_at, updated_at
FROM students
WHERE id = ANY($1::bigint[])
"""


async def load_students(connection: Connection, ids: list[int]) -> list[Student]:
    """Load students by id, in no particular order."""
    return [Student(*row) for row in await connection.fetch(LOAD_STUDENTS, ids)]


MATCH_STUDENTS: Final = """
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    array_to_string(groups, ',') AS groups, version, created_at, updated_at
FROM students
WHERE external_id = ANY($1::text[])
    OR lower(email COLLATE "C") = ANY($2::text[])
"""


async def match_students(connection: Connection, external_ids: list[str], emails: list[str]) -> list[Student]:
    """Load the students who have one of these external ids or one of these e-mail addresses, given in lower case."""
    return [Student(*row) for row in await connection.fetch(MATCH_STUDENTS, external_ids, emails)]


MATCH_STUDENTS_BY_SOURCED_ID: Final = """
SELECT
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits,
    array_to_string(groups, ',') AS groups, version, created_at, updated_at
FROM students
WHERE sourced_id = ANY($1::text[])
"""


async def match_students_by_sourced_id(connection: Connection, sourced_ids: list[str]) -> list[Student]:
    """Load the students who have one of these sourced ids."""
    return [Student(*row) for row in await connection.fetch(MATCH_STUDENTS_BY_SOURCED_ID, sourced_ids)]


RESERVE_STUDENT_IDS: Final = """
SELECT nextval('students_id_seq')
FROM generate_series(1, $1::bigint)
"""


async def reserve_student_ids(connection: Connection, count: int) -> list[int]:
    """Reserve new ids; unused ids are lost."""
    return [row[0] for row in await connection.fetch(RESERVE_STUDENT_IDS, count)]


SAVE_STUDENTS: Final = """
INSERT INTO students (
    id, external_id, sourced_id, given_name, family_name, preferred_name, email, max_credits, groups,
    version, created_at, updated_at
)
SELECT
    new.id, new.external_id, new.sourced_id, new.given_name, new.family_name, new.preferred_name, new.email,
    new.max_credits, string_to_array(new.groups, ','), new.version, new.created_at, new.updated_at
FROM (
    SELECT
        unnest($1::bigint[]) AS id,
        unnest($2::text[]) AS external_id,
        unnest($3::text[]) AS sourced_id,
        unnest($4::text[]) AS given_name,
        unnest($5::text[]) AS family_name,
        unnest($6::text[]) AS preferred_name,
        unnest($7::text[]) AS email,
        unnest($8::double precision[]) AS max_credits,
        unnest($9::text[]) AS groups,
        unnest($10::bigint[]) AS version,
        unnest($11::timestamptz[]) AS created_at,
        unnest($12::timestamptz[]) AS updated_at
    FROM feed
) AS new
ON CONFLICT (id) DO UPDATE SET
    external_id = excluded.external_id,
    sourced_id = excluded.sourced_id,
    given_name = excluded.given_name,
    family_name = excluded.family_name,
    preferred_name = excluded.preferred_name,
    email = excluded.email,
    max_credits = excluded.max_credits,
    groups = excluded.groups,
    version = excluded.version,
    updated_at = excluded.updated_at
"""


async def save_students(connection: Connection, students: Sequence[Student]) -> None:
    """Insert or update students.

    Raise ``asyncpg.UniqueViolationError`` if another student has the same external id, sourced id or e-mail address.
    """
    await connection.execute(SAVE_STUDENTS, *columns(students))


DELETE_STUDENTS: Final = """
DELETE FROM students
WHERE id = ANY($1::bigint[])
"""


async def delete_students(connection: Connection, ids: list[int]) -> None:
    """Delete students; raise ``asyncpg.ForeignKeyViolationError`` if a student has enrollment history."""
    await connection.execute(DELETE_STUDENTS, ids)
