"""Statements about imports: their states, their staged rows, and what the files of a source have listed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from sql import Connection, columns

ImportState: TypeAlias = Literal["queued", "staging", "planned", "confirmed", "done", "failed", "cancelled"]
PlannedAction: TypeAlias = Literal["add", "change", "drop", "unchanged", "refused"]


class Import(NamedTuple):
    """An import; ``options`` and ``plan`` are JSON objects."""

    id: int
    source: str
    state: ImportState
    format: str | None
    name: str
    path: str | None
    options: str
    plan: str | None
    problem: str | None
    rows_total: int
    rows_done: int
    actor: str | None
    created_at: datetime
    confirmed_at: datetime | None
    updated_at: datetime


class ImportRow(NamedTuple):
    """A staged row, as ``migrations/0061_create_import_rows.sql`` describes it; ``fields`` is a JSON object."""

    import_id: int
    kind: str
    number: int
    key: str
    first_key: str | None
    second_key: str | None
    removed: bool
    fields: str
    file: str
    line: int
    file_column: str
    action: PlannedAction | None
    code: str | None
    detail: str | None
    row_id: int | None
    other_id: int | None


class PlannedRow(NamedTuple):
    """What a plan, or its application, says about a staged row."""

    import_id: int
    kind: str
    number: int
    action: PlannedAction
    code: str | None
    detail: str | None
    row_id: int | None
    other_id: int | None
    done: bool


class SourceRow(NamedTuple):
    """A row that a source lists."""

    source: str
    kind: str
    key: str
    row_id: int
    other_id: int


class ListedRow(NamedTuple):
    """A row that a source lists; ``is_missing`` if a file of the source does not list it any more, and it can be dropped."""

    key: str
    row_id: int
    other_id: int
    is_missing: bool


class Counted(NamedTuple):
    """How many staged rows of a kind have an action."""

    kind: str
    action: PlannedAction
    total: int


class CountedCode(NamedTuple):
    """How many rows are refused for a reason."""

    code: str | None
    total: int


class FoundKey(NamedTuple):
    """A key and the id of its row; None if there is none."""

    key: str
    id: int | None


ADD_IMPORT: Final = """
INSERT INTO imports (source, state, name, path, options, actor, created_at, updated_at)
VALUES ($1::text, 'queued', $2::text, $3::text, $4::json, $5::text, now(), now())
RETURNING
    id, source, state, format, name, path, options, plan, problem, rows_total, rows_done, actor, created_at, confirmed_at,
    updated_at
"""


async def add_import(
    connection: Connection, *, source: str, name: str, path: str, options: str, actor: str | None
) -> list[Import]:
    """Add an import to the queue and return it."""
    return [Import._make(row) for row in await connection.fetch(ADD_IMPORT, source, name, path, options, actor)]


GET_IMPORT: Final = """
SELECT
    id, source, state, format, name, path, options, plan, problem, rows_total, rows_done, actor, created_at, confirmed_at,
    updated_at
FROM imports
WHERE id = $1::bigint
"""


async def get_import(connection: Connection, import_id: int) -> Import | None:
    """Return an import, or None if it does not exist."""
    row = await connection.fetchrow(GET_IMPORT, import_id)
    return Import._make(row) if row else None


LIST_IMPORTS: Final = """
SELECT
    id, source, state, format, name, path, options, plan, problem, rows_total, rows_done, actor, created_at, confirmed_at,
    updated_at
FROM imports
WHERE id < $1::bigint
ORDER BY id DESC
LIMIT $2::bigint
"""


async def list_imports(connection: Connection, before_id: int, limit: int) -> list[Import]:
    """Return a page of imports, the newest first."""
    return [Import._make(row) for row in await connection.fetch(LIST_IMPORTS, before_id, limit)]


HAS_IMPORTS_TO_RUN: Final = """
SELECT EXISTS (
    SELECT
    FROM imports
    WHERE state IN ('queued', 'staging', 'confirmed')
        AND (leased_until IS NULL OR leased_until < now())
)
"""


async def has_imports_to_run(connection: Connection) -> bool:
    """Return whether there are imports on which no process works, and some should."""
    found: bool = await connection.fetchval(HAS_IMPORTS_TO_RUN)
    return found


CLAIM_IMPORT: Final = """
UPDATE imports
SET
    runner = $1::text,
    leased_until = now() + $2::interval
WHERE id = ANY(
        ARRAY(
            SELECT id
            FROM imports
            WHERE state IN ('queued', 'staging', 'confirmed')
                AND id <> ALL($3::bigint[])
            ORDER BY id
            LIMIT 1
        )
    )
    AND NOT EXISTS (
        SELECT
        FROM imports AS others
        WHERE others.state IN ('queued', 'staging', 'confirmed')
            AND others.leased_until > now()
    )
RETURNING
    id, source, state, format, name, path, options, plan, problem, rows_total, rows_done, actor, created_at, confirmed_at,
    updated_at
"""


async def claim_import(connection: Connection, runner: str, lease: timedelta, except_ids: list[int]) -> list[Import]:
    """Claim the first import of the queue for a process and return it; none while a process works on any import.

    The claim lasts until ``lease`` has passed since its last renewal. The caller has the write lock.
    """
    return [Import._make(row) for row in await connection.fetch(CLAIM_IMPORT, runner, lease, except_ids)]


RELEASE_IMPORT: Final = """
UPDATE imports
SET
    runner = NULL,
    leased_until = NULL
WHERE id = $1::bigint
    AND runner = $2::text
"""


async def release_import(connection: Connection, import_id: int, runner: str) -> None:
    """Give an import back to the queue."""
    await connection.execute(RELEASE_IMPORT, import_id, runner)


SAVE_IMPORT_PROGRESS: Final = """
UPDATE imports
SET
    state = $3::text,
    leased_until = now() + $4::interval,
    rows_done = $5::bigint,
    updated_at = now()
WHERE id = $1::bigint
    AND runner = $2::text
    AND state IN ('queued', 'staging', 'confirmed')
RETURNING id
"""


async def save_import_progress(
    connection: Connection, import_id: int, runner: str, *, state: ImportState, lease: timedelta, rows_done: int
) -> list[int]:
    """Renew the claim of a process, and return the id; none if the import was cancelled, or another process has it."""
    return [row[0] for row in await connection.fetch(SAVE_IMPORT_PROGRESS, import_id, runner, state, lease, rows_done)]


FINISH_IMPORT: Final = """
UPDATE imports
SET
    state = $3::text,
    format = coalesce($4::text, format),
    plan = coalesce($5::json, plan),
    problem = $6::text,
    rows_total = $7::bigint,
    rows_done = $8::bigint,
    path = NULL,
    runner = NULL,
    leased_until = NULL,
    updated_at = now()
WHERE id = $1::bigint
    AND runner = $2::text
    AND state IN ('staging', 'confirmed')
RETURNING id
"""


async def finish_import(
    connection: Connection,
    import_id: int,
    runner: str,
    state: ImportState,
    *,
    format: str | None,
    plan: str | None,
    problem: str | None,
    rows_total: int,
    rows_done: int,
) -> list[int]:
    """End the work of a process on an import, and return the id; none if it was cancelled, or another process has it."""
    rows = await connection.fetch(FINISH_IMPORT, import_id, runner, state, format, plan, problem, rows_total, rows_done)
    return [row[0] for row in rows]


CONFIRM_IMPORT: Final = """
UPDATE imports
SET
    state = 'confirmed',
    problem = NULL,
    confirmed_at = now(),
    rows_done = 0,
    updated_at = now()
WHERE id = $1::bigint
    AND state = 'planned'
    AND problem IS NULL
    AND NOT EXISTS (
        SELECT
        FROM imports AS others
        WHERE others.source = imports.source
            AND others.id <> imports.id
            AND others.confirmed_at > imports.updated_at
    )
RETURNING id
"""


async def confirm_import(connection: Connection, import_id: int) -> list[int]:
    """Confirm a plan and return its id; none if it can't be confirmed, or another import of the source overtook it."""
    return [row[0] for row in await connection.fetch(CONFIRM_IMPORT, import_id)]


CANCEL_IMPORT: Final = """
UPDATE imports
SET
    state = 'cancelled',
    path = NULL,
    updated_at = now()
WHERE id = $1::bigint
    AND state IN ('queued', 'staging', 'planned', 'confirmed')
RETURNING id
"""


async def cancel_import(connection: Connection, import_id: int) -> list[int]:
    """Cancel an import that is not at an end and return its id; what was applied before stays."""
    return [row[0] for row in await connection.fetch(CANCEL_IMPORT, import_id)]


ADD_IMPORT_ROWS: Final = """
INSERT INTO import_rows (
    import_id, kind, number, key, first_key, second_key, removed, fields, file, line, file_column, action, code, detail, row_id,
    other_id
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::boolean[]), unnest($8::json[]), unnest($9::text[]), unnest($10::bigint[]),
    unnest($11::text[]), unnest($12::text[]), unnest($13::text[]), unnest($14::text[]), unnest($15::bigint[]),
    unnest($16::bigint[])
FROM feed
"""


async def add_import_rows(connection: Connection, rows: Sequence[ImportRow]) -> None:
    """Stage rows."""
    await connection.execute(ADD_IMPORT_ROWS, *columns(rows))


DELETE_IMPORT_ROWS: Final = """
DELETE FROM import_rows
WHERE ctid = ANY(
        ARRAY(
            SELECT ctid
            FROM import_rows
            WHERE import_id = $1::bigint
                AND kind = $2::text
            ORDER BY number
            LIMIT $3::bigint
        )
    )
    AND import_id = $1
RETURNING number
"""


async def delete_import_rows(connection: Connection, import_id: int, kind: str, limit: int) -> list[int]:
    """Delete some staged rows of an import and return their numbers."""
    return [row[0] for row in await connection.fetch(DELETE_IMPORT_ROWS, import_id, kind, limit)]


LIST_IMPORT_ROWS: Final = """
SELECT
    import_id, kind, number, key, first_key, second_key, removed, fields, file, line, file_column, action, code, detail,
    row_id, other_id
FROM import_rows
WHERE import_id = $1::bigint
    AND kind = $2::text
    AND number > $3::bigint
ORDER BY number
LIMIT $4::bigint
"""


async def list_import_rows(
    connection: Connection, import_id: int, kind: str, after: int, limit: int
) -> list[ImportRow]:
    """Return a page of the staged rows of a kind, in the order of the files."""
    return [ImportRow._make(row) for row in await connection.fetch(LIST_IMPORT_ROWS, import_id, kind, after, limit)]


LIST_ROWS_TO_APPLY: Final = """
SELECT
    import_id, kind, number, key, first_key, second_key, removed, fields, file, line, file_column, action, code, detail,
    row_id, other_id
FROM import_rows
WHERE import_id = $1::bigint
    AND kind = $2::text
    AND action = $3::text
    AND NOT done
    AND number > $4::bigint
ORDER BY number
LIMIT $5::bigint
"""


async def list_rows_to_apply(
    connection: Connection, import_id: int, *, kind: str, action: PlannedAction, after: int, limit: int
) -> list[ImportRow]:
    """Return a page of the staged rows of a kind that have an action and were not applied yet."""
    rows = await connection.fetch(LIST_ROWS_TO_APPLY, import_id, kind, action, after, limit)
    return [ImportRow._make(row) for row in rows]


LIST_ROWS_BY_ACTION: Final = """
SELECT
    import_id, kind, number, key, first_key, second_key, removed, fields, file, line, file_column, action, code, detail,
    row_id, other_id
FROM import_rows
WHERE import_id = $1::bigint
    AND action = $2::text
    AND (kind, number) > ($3::text, $4::bigint)
ORDER BY kind, number
LIMIT $5::bigint
"""


async def list_rows_by_action(
    connection: Connection, import_id: int, *, action: PlannedAction, after_kind: str, after: int, limit: int
) -> list[ImportRow]:
    """Return a page of the staged rows that have an action, by kind and number: refused ones, or samples."""
    rows = await connection.fetch(LIST_ROWS_BY_ACTION, import_id, action, after_kind, after, limit)
    return [ImportRow._make(row) for row in rows]


SAVE_PLANNED_ROWS: Final = """
UPDATE import_rows
SET
    action = planned.action,
    code = planned.code,
    detail = planned.detail,
    row_id = planned.row_id,
    other_id = planned.other_id,
    done = planned.done
FROM unnest(
    $1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::boolean[]
) AS planned (import_id, kind, number, action, code, detail, row_id, other_id, done)
WHERE import_rows.import_id = planned.import_id
    AND import_rows.kind = planned.kind
    AND import_rows.number = planned.number
"""


async def save_planned_rows(connection: Connection, rows: Sequence[PlannedRow]) -> None:
    """Save what a plan, or its application, says about staged rows."""
    await connection.execute(SAVE_PLANNED_ROWS, *columns(rows))


FIND_REPEATED_ROWS: Final = """
SELECT number
FROM unnest($3::text[], $4::bigint[]) AS requested (key, number)
WHERE EXISTS (
    SELECT
    FROM import_rows
    WHERE import_id = $1::bigint
        AND kind = $2::text
        AND import_rows.key = requested.key
        AND import_rows.number < requested.number
        AND import_rows.action IS DISTINCT FROM 'refused'
)
"""


async def find_repeated_rows(
    connection: Connection, import_id: int, kind: str, keys: list[str], numbers: list[int]
) -> list[int]:
    """Return the numbers of those rows whose key an earlier row of the import has."""
    return [row[0] for row in await connection.fetch(FIND_REPEATED_ROWS, import_id, kind, keys, numbers)]


FIND_STAGED_KEYS: Final = """
SELECT requested.key
FROM unnest($3::text[]) AS requested (key)
WHERE EXISTS (
    SELECT
    FROM import_rows
    WHERE import_id = $1::bigint
        AND kind = $2::text
        AND import_rows.key = requested.key
        AND import_rows.action IS DISTINCT FROM 'refused'
        AND NOT import_rows.removed
)
"""


async def find_staged_keys(connection: Connection, import_id: int, kind: str, keys: list[str]) -> list[str]:
    """Return those keys that rows of the import have, which the plan does not refuse."""
    return [row[0] for row in await connection.fetch(FIND_STAGED_KEYS, import_id, kind, keys)]


COUNT_IMPORT_ROWS: Final = """
SELECT kind, action, count(*) AS total
FROM import_rows
WHERE import_id = $1::bigint
    AND action IS NOT NULL
GROUP BY kind, action
"""


async def count_import_rows(connection: Connection, import_id: int) -> list[Counted]:
    """Count the staged rows of an import by kind and action."""
    return [Counted._make(row) for row in await connection.fetch(COUNT_IMPORT_ROWS, import_id)]


COUNT_REFUSED_ROWS: Final = """
SELECT code, count(*) AS total
FROM import_rows
WHERE import_id = $1::bigint
    AND action = 'refused'
GROUP BY code
"""


async def count_refused_rows(connection: Connection, import_id: int) -> list[CountedCode]:
    """Count the refused rows of an import by code."""
    return [CountedCode._make(row) for row in await connection.fetch(COUNT_REFUSED_ROWS, import_id)]


FIND_STUDENTS_BY_KEY: Final = """
SELECT
    requested.key,
    coalesce(
        (
            SELECT students.id
            FROM source_rows
            LEFT JOIN merged_students ON merged_students.student_id = source_rows.row_id
            INNER JOIN students ON students.id = coalesce(merged_students.merged_into, source_rows.row_id)
            WHERE source_rows.source = $1::text
                AND source_rows.kind = 'student'
                AND source_rows.key = requested.key
        ),
        (SELECT id FROM students WHERE sourced_id = requested.key),
        (SELECT id FROM students WHERE external_id = requested.key),
        (SELECT (array_agg(merged_into))[1] FROM merged_students WHERE external_id = requested.key)
    ) AS id
FROM unnest($2::text[]) AS requested (key)
"""


async def find_students_by_key(connection: Connection, source: str, keys: list[str]) -> list[FoundKey]:
    """Return the student for each key of a source: as its files listed it, or by sourced id or external id."""
    return [FoundKey._make(row) for row in await connection.fetch(FIND_STUDENTS_BY_KEY, source, keys)]


FIND_INSTRUCTORS_BY_KEY: Final = """
SELECT
    requested.key,
    coalesce(
        (
            SELECT instructors.id
            FROM source_rows
            INNER JOIN instructors ON instructors.id = source_rows.row_id
            WHERE source_rows.source = $1::text
                AND source_rows.kind = 'instructor'
                AND source_rows.key = requested.key
        ),
        (SELECT id FROM instructors WHERE sourced_id = requested.key),
        (SELECT id FROM instructors WHERE external_id = requested.key)
    ) AS id
FROM unnest($2::text[]) AS requested (key)
"""


async def find_instructors_by_key(connection: Connection, source: str, keys: list[str]) -> list[FoundKey]:
    """Return the instructor for each key of a source, as ``find_students_by_key``."""
    return [FoundKey._make(row) for row in await connection.fetch(FIND_INSTRUCTORS_BY_KEY, source, keys)]


FIND_COURSES_BY_KEY: Final = """
SELECT
    requested.key,
    coalesce(
        (
            SELECT courses.id
            FROM source_rows
            INNER JOIN courses ON courses.id = source_rows.row_id
            WHERE source_rows.source = $1::text
                AND source_rows.kind = 'course'
                AND source_rows.key = requested.key
        ),
        (SELECT id FROM courses WHERE external_id = requested.key)
    ) AS id
FROM unnest($2::text[]) AS requested (key)
"""


async def find_courses_by_key(connection: Connection, source: str, keys: list[str]) -> list[FoundKey]:
    """Return the course for each key of a source: as its files listed it, or by external id."""
    return [FoundKey._make(row) for row in await connection.fetch(FIND_COURSES_BY_KEY, source, keys)]


FIND_TERMS_BY_KEY: Final = """
SELECT
    requested.key,
    coalesce(
        (
            SELECT terms.id
            FROM source_rows
            INNER JOIN terms ON terms.id = source_rows.row_id
            WHERE source_rows.source = $1::text
                AND source_rows.kind = 'term'
                AND source_rows.key = requested.key
        ),
        (SELECT id FROM terms WHERE lower(code) = lower(requested.key))
    ) AS id
FROM unnest($2::text[]) AS requested (key)
"""


async def find_terms_by_key(connection: Connection, source: str, keys: list[str]) -> list[FoundKey]:
    """Return the term for each key of a source: as its files listed it, or by code."""
    return [FoundKey._make(row) for row in await connection.fetch(FIND_TERMS_BY_KEY, source, keys)]


LIST_LISTED_ENROLLMENTS: Final = """
SELECT
    listed.key,
    listed.row_id,
    listed.other_id,
    EXISTS (
        SELECT
        FROM student_courses
        WHERE student_id = listed.row_id
            AND course_id = listed.other_id
            AND status IN ('enrolled', 'waitlisted')
    )
    AND NOT EXISTS (
        SELECT
        FROM import_rows
        WHERE import_id = $1::bigint
            AND kind = 'enrollment'
            AND import_rows.key = listed.key
    )
    AND NOT EXISTS (
        SELECT
        FROM import_rows
        WHERE import_id = $1
            AND kind = 'enrollment'
            AND row_id = listed.row_id
            AND other_id = listed.other_id
    )
    AND NOT EXISTS (
        SELECT
        FROM source_rows AS others
        WHERE others.row_id = listed.row_id
            AND others.other_id = listed.other_id
            AND others.kind = 'enrollment'
            AND others.source <> $2
    ) AS is_missing
FROM (
    SELECT key, row_id, other_id
    FROM source_rows
    WHERE source = $2::text
        AND kind = 'enrollment'
        AND key > $3::text
    ORDER BY key
    LIMIT $4::bigint
) AS listed
ORDER BY listed.key
"""


async def list_listed_enrollments(
    connection: Connection, import_id: int, source: str, after_key: str, limit: int
) -> list[ListedRow]:
    """Return a page of the enrollments that a source lists, and which of them an import does not.

    An enrollment that another source lists too, or that is no longer active, is not missing.
    """
    rows = await connection.fetch(LIST_LISTED_ENROLLMENTS, import_id, source, after_key, limit)
    return [ListedRow._make(row) for row in rows]


LIST_LISTED_TEACHINGS: Final = """
SELECT
    listed.key,
    listed.row_id,
    listed.other_id,
    EXISTS (
        SELECT
        FROM course_instructors
        WHERE instructor_id = listed.row_id
            AND course_id = listed.other_id
            AND teaches
    )
    AND NOT EXISTS (
        SELECT
        FROM import_rows
        WHERE import_id = $1::bigint
            AND kind = 'teaching'
            AND import_rows.key = listed.key
    )
    AND NOT EXISTS (
        SELECT
        FROM import_rows
        WHERE import_id = $1
            AND kind = 'teaching'
            AND row_id = listed.row_id
            AND other_id = listed.other_id
    )
    AND NOT EXISTS (
        SELECT
        FROM source_rows AS others
        WHERE others.row_id = listed.row_id
            AND others.other_id = listed.other_id
            AND others.kind = 'teaching'
            AND others.source <> $2
    ) AS is_missing
FROM (
    SELECT key, row_id, other_id
    FROM source_rows
    WHERE source = $2::text
        AND kind = 'teaching'
        AND key > $3::text
    ORDER BY key
    LIMIT $4::bigint
) AS listed
ORDER BY listed.key
"""


async def list_listed_teachings(
    connection: Connection, import_id: int, source: str, after_key: str, limit: int
) -> list[ListedRow]:
    """Return a page of the instructors of courses that a source lists, and which of them an import does not."""
    rows = await connection.fetch(LIST_LISTED_TEACHINGS, import_id, source, after_key, limit)
    return [ListedRow._make(row) for row in rows]


COUNT_SOURCE_ROWS: Final = """
SELECT count(*)
FROM source_rows
WHERE source = $1::text
    AND kind = $2::text
"""


async def count_source_rows(connection: Connection, source: str, kind: str) -> int:
    """Return how many rows of a kind a source lists."""
    found: int = await connection.fetchval(COUNT_SOURCE_ROWS, source, kind)
    return found


SAVE_SOURCE_ROWS: Final = """
INSERT INTO source_rows (source, kind, key, row_id, other_id)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::bigint[])
FROM feed
ON CONFLICT (source, kind, key) DO UPDATE SET
    row_id = excluded.row_id,
    other_id = excluded.other_id
WHERE (source_rows.row_id, source_rows.other_id) <> (excluded.row_id, excluded.other_id)
"""


async def save_source_rows(connection: Connection, rows: Sequence[SourceRow]) -> None:
    """Note that a source lists rows."""
    await connection.execute(SAVE_SOURCE_ROWS, *columns(rows))


DELETE_SOURCE_ROWS: Final = """
DELETE FROM source_rows
WHERE source = $1::text
    AND kind = $2::text
    AND key = ANY($3::text[])
"""


async def delete_source_rows(connection: Connection, source: str, kind: str, keys: list[str]) -> None:
    """Note that a source lists rows no longer."""
    await connection.execute(DELETE_SOURCE_ROWS, source, kind, keys)


FIND_OLD_IMPORTS: Final = """
SELECT id
FROM imports
WHERE updated_at < now() - $1::interval
ORDER BY id
LIMIT $2::bigint
"""


async def find_old_imports(connection: Connection, age: timedelta, limit: int) -> list[int]:
    """Return the ids of imports that have not changed for some time: at an end, never confirmed, or without their files."""
    return [row[0] for row in await connection.fetch(FIND_OLD_IMPORTS, age, limit)]


DELETE_IMPORT: Final = """
DELETE FROM imports
WHERE id = $1::bigint
"""


async def delete_import(connection: Connection, import_id: int) -> None:
    """Delete an import, whose staged rows were deleted."""
    await connection.execute(DELETE_IMPORT, import_id)


ERASE_IMPORT_ROWS: Final = """
DELETE FROM import_rows
WHERE (
        row_id = ANY($1::bigint[])
        AND kind IN ('student', 'enrollment')
    )
    OR (
        import_id = ANY(ARRAY(SELECT id FROM imports))
        AND (
            (kind = 'student' AND (key = ANY($2::text[]) OR fields ->> 'email' = ANY($2)))
            OR (kind = 'enrollment' AND first_key = ANY($2))
        )
    )
RETURNING number
"""


async def erase_import_rows(connection: Connection, student_ids: list[int], names: list[str]) -> list[int]:
    """Delete the staged rows about students, by their ids and by the texts that name them, and return their numbers."""
    return [row[0] for row in await connection.fetch(ERASE_IMPORT_ROWS, student_ids, names)]


ERASE_SOURCE_ROWS: Final = """
DELETE FROM source_rows
WHERE row_id = ANY($1::bigint[])
    AND kind IN ('student', 'enrollment')
RETURNING row_id
"""


async def erase_source_rows(connection: Connection, student_ids: list[int]) -> list[int]:
    """Delete what sources list about students, and return the ids of the students."""
    return [row[0] for row in await connection.fetch(ERASE_SOURCE_ROWS, student_ids)]


GET_MARK: Final = """
SELECT left(encode(sha256(convert_to(type || ' ' || extract(epoch FROM occurred_at), 'UTF8')), 'hex'), 16)
FROM events
WHERE position = 1
"""


async def get_mark(connection: Connection) -> str | None:
    """Return a digest of the first event: it names the institution in its exports, and a restore keeps it."""
    found: str | None = await connection.fetchval(GET_MARK)
    return found
