"""Statements about students whose records were merged into others."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sql import Connection, columns
from sql.enrollments import Enrollment
from sql.holds import Hold
from sql.overrides import Override


class MergedStudent(NamedTuple):
    """A duplicate, and the student into whom it was merged.

    ``names`` is a JSON array of the texts that named the duplicate. An erasure of the other student removes them and the
    external id.
    """

    student_id: int
    merged_into: int
    external_id: str | None
    names: str | None
    merged_at: datetime


LOAD_MERGED_STUDENTS: Final = """
SELECT student_id, merged_into, external_id, names, merged_at
FROM merged_students
WHERE student_id = ANY($1::bigint[])
    OR external_id = ANY($2::text[])
"""


async def load_merged_students(
    connection: Connection, student_ids: list[int], external_ids: list[str]
) -> list[MergedStudent]:
    """Load the duplicates that have these ids or external ids."""
    rows = await connection.fetch(LOAD_MERGED_STUDENTS, student_ids, external_ids)
    return [MergedStudent._make(row) for row in rows]


LOAD_DUPLICATES: Final = """
SELECT student_id, merged_into, external_id, names, merged_at
FROM merged_students
WHERE merged_into = ANY($1::bigint[])
"""


async def load_duplicates(connection: Connection, student_ids: list[int]) -> list[MergedStudent]:
    """Load the duplicates that were merged into these students."""
    return [MergedStudent._make(row) for row in await connection.fetch(LOAD_DUPLICATES, student_ids)]


SAVE_MERGED_STUDENTS: Final = """
INSERT INTO merged_students (student_id, merged_into, external_id, names, merged_at)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::json[]), unnest($5::timestamptz[])
FROM feed
ON CONFLICT (student_id) DO UPDATE SET merged_into = excluded.merged_into
"""


async def save_merged_students(connection: Connection, merged: Sequence[MergedStudent]) -> None:
    """Insert duplicates, or update the ``merged_into`` of existing ones."""
    await connection.execute(SAVE_MERGED_STUDENTS, *columns(merged))


ERASE_MERGED_STUDENTS: Final = """
UPDATE merged_students
SET
    external_id = NULL,
    names = NULL
WHERE merged_into = ANY($1::bigint[])
RETURNING student_id
"""


async def erase_merged_students(connection: Connection, student_ids: list[int]) -> list[int]:
    """Erase what named the duplicates of students, and return their ids."""
    return [row[0] for row in await connection.fetch(ERASE_MERGED_STUDENTS, student_ids)]


LOAD_ENROLLMENTS_OF_STUDENTS: Final = """
SELECT
    student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id, swap_drops,
    blocked_reasons, recheck_at, reserved_group
FROM student_courses
WHERE student_id = ANY($1::bigint[])
"""


async def load_enrollments_of_students(connection: Connection, student_ids: list[int]) -> list[Enrollment]:
    """Load all enrollments of students, in any status."""
    return [Enrollment._make(row) for row in await connection.fetch(LOAD_ENROLLMENTS_OF_STUDENTS, student_ids)]


LOAD_HOLDS_OF_STUDENTS: Final = """
SELECT id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at
FROM holds
WHERE student_id = ANY($1::bigint[])
"""


async def load_holds_of_students(connection: Connection, student_ids: list[int]) -> list[Hold]:
    """Load all holds of students, those that have ended too."""
    return [Hold(*row) for row in await connection.fetch(LOAD_HOLDS_OF_STUDENTS, student_ids)]


LOAD_OVERRIDES_OF_STUDENTS: Final = """
SELECT id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at
FROM overrides
WHERE student_id = ANY($1::bigint[])
"""


async def load_overrides_of_students(connection: Connection, student_ids: list[int]) -> list[Override]:
    """Load all overrides of students, used and expired ones too."""
    return [Override(*row) for row in await connection.fetch(LOAD_OVERRIDES_OF_STUDENTS, student_ids)]


class Moved(NamedTuple):
    """A duplicate and the student to whom its rows go."""

    student_id: int
    merged_into: int


MOVE_HOLDS: Final = """
UPDATE holds
SET student_id = moved.merged_into
FROM unnest($1::bigint[], $2::bigint[]) AS moved (student_id, merged_into)
WHERE holds.student_id = moved.student_id
"""


async def move_holds(connection: Connection, moved: Sequence[Moved]) -> None:
    """Give the holds of duplicates to other students."""
    await connection.execute(MOVE_HOLDS, *columns(moved))


MOVE_OVERRIDES: Final = """
UPDATE overrides
SET student_id = moved.merged_into
FROM unnest($1::bigint[], $2::bigint[]) AS moved (student_id, merged_into)
WHERE overrides.student_id = moved.student_id
"""


async def move_overrides(connection: Connection, moved: Sequence[Moved]) -> None:
    """Give the overrides of duplicates to other students."""
    await connection.execute(MOVE_OVERRIDES, *columns(moved))


MOVE_REFUSALS: Final = """
UPDATE refusals
SET student_id = moved.merged_into
FROM unnest($1::bigint[], $2::bigint[]) AS moved (student_id, merged_into)
WHERE refusals.student_id = moved.student_id
"""


async def move_refusals(connection: Connection, moved: Sequence[Moved]) -> None:
    """Give the refusals of duplicates to other students."""
    await connection.execute(MOVE_REFUSALS, *columns(moved))


DELETE_MERGED_ENROLLMENTS: Final = """
SELECT course_id
FROM delete_merged_enrollments($1::bigint[]) AS deleted (course_id)
"""


async def delete_merged_enrollments(connection: Connection, student_ids: list[int]) -> list[int]:
    """Delete the enrollments of duplicates that were merged, and return their courses."""
    return [row[0] for row in await connection.fetch(DELETE_MERGED_ENROLLMENTS, student_ids)]
