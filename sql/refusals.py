"""Statements about refusals: the courses of refused enrolls, swaps and drops, with the reasons."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from sql import Connection, columns

Action: TypeAlias = Literal["enroll", "swap_add", "swap_drop", "drop"]


class NewRefusal(NamedTuple):
    """One course of a refused request; ``reasons`` is a JSON array, empty if only other courses had reasons."""

    student_id: int
    course_id: int
    action: Action
    reasons: str
    actor: str | None
    on_behalf_of: str | None
    request_id: str
    occurred_at: datetime


class Refusal(NamedTuple):
    """A refusal that was written; a later one has a greater id."""

    id: int
    student_id: int
    course_id: int
    action: Action
    reasons: str
    actor: str | None
    on_behalf_of: str | None
    request_id: str
    occurred_at: datetime


COMMIT_WITHOUT_WAITING: Final = """
SELECT set_config('synchronous_commit', 'off', true)
"""


async def commit_without_waiting(connection: Connection) -> str:
    """Let the current transaction commit before it is on disk: if the server crashes at once, it is lost as a whole."""
    setting: str = await connection.fetchval(COMMIT_WITHOUT_WAITING)
    return setting


ADD_REFUSALS: Final = """
INSERT INTO refusals (student_id, course_id, action, reasons, actor, on_behalf_of, request_id, occurred_at)
SELECT
    refused.student_id, refused.course_id, refused.action, refused.reasons, refused.actor, refused.on_behalf_of,
    refused.request_id, refused.occurred_at
FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::json[], $5::text[], $6::text[], $7::text[], $8::timestamptz[]
)
WITH ORDINALITY AS refused (
    student_id, course_id, action, reasons, actor, on_behalf_of, request_id, occurred_at, number
)
INNER JOIN students ON students.id = refused.student_id
WHERE students.email NOT LIKE '%@erased.invalid'
ORDER BY refused.number
"""


async def add_refusals(connection: Connection, refusals: Sequence[NewRefusal]) -> None:
    """Insert refusals, except those of students who have been deleted or erased."""
    await connection.execute(ADD_REFUSALS, *columns(refusals))


LIST_REFUSALS_OF_STUDENT: Final = """
SELECT id, student_id, course_id, action, reasons, actor, on_behalf_of, request_id, occurred_at
FROM refusals
WHERE student_id = $1::bigint
    AND id < $2::bigint
ORDER BY student_id DESC, id DESC
LIMIT $3::bigint
"""


async def list_refusals_of_student(
    connection: Connection, student_id: int, before_id: int, limit: int
) -> list[Refusal]:
    """Return a page of a student's refusals, the newest first."""
    rows = await connection.fetch(LIST_REFUSALS_OF_STUDENT, student_id, before_id, limit)
    return [Refusal._make(row) for row in rows]


LIST_REFUSALS_OF_COURSE: Final = """
SELECT id, student_id, course_id, action, reasons, actor, on_behalf_of, request_id, occurred_at
FROM refusals
WHERE course_id = $1::bigint
    AND id < $2::bigint
ORDER BY course_id DESC, id DESC
LIMIT $3::bigint
"""


async def list_refusals_of_course(connection: Connection, course_id: int, before_id: int, limit: int) -> list[Refusal]:
    """Return a page of a course's refusals, the newest first."""
    rows = await connection.fetch(LIST_REFUSALS_OF_COURSE, course_id, before_id, limit)
    return [Refusal._make(row) for row in rows]


DELETE_REFUSALS: Final = """
DELETE FROM refusals
WHERE id = ANY (
    ARRAY(
        SELECT id
        FROM refusals
        ORDER BY id
        LIMIT $2::bigint
    )
)
    AND occurred_at < now() - $1::interval
RETURNING id
"""


async def delete_refusals(connection: Connection, age: timedelta, limit: int) -> list[int]:
    """Delete those of the ``limit`` oldest refusals that are above an age, and return their ids."""
    return [row[0] for row in await connection.fetch(DELETE_REFUSALS, age, limit)]


ERASE_REFUSALS: Final = """
DELETE FROM refusals
WHERE student_id = ANY($1::bigint[])
RETURNING id
"""


async def erase_refusals(connection: Connection, student_ids: list[int]) -> list[int]:
    """Delete the refusals of students, and return their ids."""
    return [row[0] for row in await connection.fetch(ERASE_REFUSALS, student_ids)]
