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


class KeptStudent(NamedTuple):
    """A student, and the student into whom this one was merged, or the same student."""

    id: int
    kept_as: int


LOAD_KEPT_STUDENTS: Final = """
SELECT id, id AS kept_as
FROM students
WHERE id = ANY($1::bigint[])
    AND (email LIKE '%@erased.invalid') IS NOT TRUE
UNION ALL
SELECT merged_students.student_id, merged_students.merged_into
FROM merged_students
INNER JOIN students ON students.id = merged_students.merged_into
WHERE merged_students.student_id = ANY($1)
    AND (students.email LIKE '%@erased.invalid') IS NOT TRUE
"""


async def load_kept_students(connection: Connection, ids: list[int]) -> list[KeptStudent]:
    """Return which of these students have neither been deleted nor erased, and who they are now."""
    return [KeptStudent._make(row) for row in await connection.fetch(LOAD_KEPT_STUDENTS, ids)]


ADD_REFUSALS: Final = """
INSERT INTO refusals (student_id, course_id, action, reasons, actor, on_behalf_of, request_id, occurred_at)
SELECT
    unnest($1::bigint[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::json[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::text[]), unnest($8::timestamptz[])
FROM feed
"""


async def add_refusals(connection: Connection, refusals: Sequence[NewRefusal]) -> None:
    """Insert refusals of existing students, in order."""
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


class RefusalCount(NamedTuple):
    """How often a rule refused a course in the interval that begins ``at``.

    ``examined_since`` is the instant of the oldest examined refusal, or None if all were examined.
    """

    at: datetime
    code: str
    refusals: int
    examined_since: datetime | None


COUNT_REFUSALS: Final = """
WITH newest AS MATERIALIZED (
    SELECT course_id, reasons, occurred_at
    FROM refusals
    ORDER BY id DESC
    LIMIT $1::bigint
)
SELECT
    date_bin($3::interval, newest.occurred_at, timestamptz 'epoch') AS at,
    reason.value ->> 'code' AS code,
    count(*) AS refusals,
    (SELECT CASE WHEN count(*) = $1 THEN min(occurred_at) END FROM newest) AS examined_since
FROM newest
CROSS JOIN json_array_elements(newest.reasons) AS reason (value)
WHERE newest.occurred_at >= $2::timestamptz
    AND ($4::bigint IS NULL OR newest.course_id IN (SELECT id FROM courses WHERE term_id = $4))
GROUP BY at, code
ORDER BY at, code
"""


async def count_refusals(
    connection: Connection, examined: int, since: datetime, interval: timedelta, term_id: int | None
) -> list[RefusalCount]:
    """Return how often each rule refused a course among the newest refusals, in intervals that begin at their multiples."""
    rows = await connection.fetch(COUNT_REFUSALS, examined, since, interval, term_id)
    return [RefusalCount._make(row) for row in rows]


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
