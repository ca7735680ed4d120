"""Statements about the registry of institutions. Their tables are in the schema of the registry."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sql import Connection


@dataclass(frozen=True, slots=True)
class Institution:
    """An institution: a schema with students, courses, a feed and a writer of its own.

    ``migration`` is the newest migration of its schema; None while the schema is being created. ``revision`` grows with
    each change of the registry.
    """

    id: int
    name: str
    schema_name: str
    display_name: str
    time_zone: str
    state: str
    migration: str | None
    revision: int
    created_at: datetime
    changed_at: datetime


NEXT_REVISION: Final = """
UPDATE registry
SET revision = revision + 1
RETURNING revision
"""


async def next_revision(connection: Connection) -> int:
    """Return the revision of the change that this transaction makes; other changes wait until it ends."""
    revision: int = await connection.fetchval(NEXT_REVISION)
    return revision


CREATE_INSTITUTION: Final = """
INSERT INTO institutions (
    name, schema_name, display_name, time_zone, state, revision, created_at, changed_at, swept_at
)
VALUES ($1::text, $2::text, $3::text, $4::text, 'creating', $5::bigint, clock_timestamp(), clock_timestamp(), clock_timestamp())
ON CONFLICT (name) DO UPDATE
SET
    schema_name = excluded.schema_name,
    display_name = excluded.display_name,
    time_zone = excluded.time_zone,
    state = excluded.state,
    migration = NULL,
    revision = excluded.revision,
    created_at = excluded.created_at,
    changed_at = excluded.changed_at
WHERE institutions.state IN ('creating', 'dropped')
RETURNING id, name, schema_name, display_name, time_zone, state, migration, revision, created_at, changed_at
"""


async def create_institution(
    connection: Connection, name: str, *, schema_name: str, display_name: str, time_zone: str, revision: int
) -> Institution | None:
    """Insert an institution whose schema is to be created. None if there is one with this name.

    An institution whose creation was interrupted, or that was dropped, is replaced.

    Raises:
        UniqueViolationError: another institution has this schema.
    """
    row = await connection.fetchrow(CREATE_INSTITUTION, name, schema_name, display_name, time_zone, revision)
    return None if row is None else Institution(*row)


GET_INSTITUTION: Final = """
SELECT id, name, schema_name, display_name, time_zone, state, migration, revision, created_at, changed_at
FROM institutions
WHERE name = $1::text
"""


async def get_institution(connection: Connection, name: str) -> Institution | None:
    """Return the institution with a name, or None."""
    row = await connection.fetchrow(GET_INSTITUTION, name)
    return None if row is None else Institution(*row)


SAVE_INSTITUTION: Final = """
UPDATE institutions
SET
    display_name = $2::text,
    time_zone = $3::text,
    state = $4::text,
    migration = $5::text,
    revision = $6::bigint,
    changed_at = statement_timestamp()
WHERE name = $1::text
RETURNING id, name, schema_name, display_name, time_zone, state, migration, revision, created_at, changed_at
"""


async def save_institution(
    connection: Connection,
    name: str,
    *,
    display_name: str,
    time_zone: str,
    state: str,
    migration: str | None,
    revision: int,
) -> Institution:
    """Change an institution, which must exist."""
    row = await connection.fetchrow(SAVE_INSTITUTION, name, display_name, time_zone, state, migration, revision)
    assert row is not None
    return Institution(*row)


LIST_INSTITUTIONS: Final = """
SELECT id, name, schema_name, display_name, time_zone, state, migration, revision, created_at, changed_at
FROM institutions
WHERE id > $1::bigint
    AND state <> 'dropped'
ORDER BY id
LIMIT $2::bigint
"""


async def list_institutions(connection: Connection, after_id: int, limit: int) -> list[Institution]:
    """Return a page of institutions by id, without those that were dropped."""
    return [Institution(*row) for row in await connection.fetch(LIST_INSTITUTIONS, after_id, limit)]


LIST_CHANGED_INSTITUTIONS: Final = """
SELECT id, name, schema_name, display_name, time_zone, state, migration, revision, created_at, changed_at
FROM institutions
WHERE revision > $1::bigint
ORDER BY revision
LIMIT $2::bigint
"""


async def list_changed_institutions(connection: Connection, after_revision: int, limit: int) -> list[Institution]:
    """Return the institutions that have changed after a revision, those that were dropped included, in order."""
    return [Institution(*row) for row in await connection.fetch(LIST_CHANGED_INSTITUTIONS, after_revision, limit)]


GET_SWEEP_AGE: Final = """
SELECT extract(epoch FROM clock_timestamp() - swept_at)::double precision AS seconds
FROM institutions
WHERE state = 'active'
ORDER BY swept_at
LIMIT 1
"""


async def get_sweep_age(connection: Connection) -> float | None:
    """Return the seconds since the sweep of the active institution that was swept longest ago; None without any."""
    seconds: float | None = await connection.fetchval(GET_SWEEP_AGE)
    return seconds


CLAIM_SWEEPS: Final = """
UPDATE institutions
SET swept_at = statement_timestamp()
WHERE id = ANY(
        ARRAY(
            SELECT id
            FROM institutions
            WHERE state = 'active'
                AND swept_at < statement_timestamp() - $1::interval
            ORDER BY swept_at
            LIMIT $2::bigint
            FOR UPDATE SKIP LOCKED
        )
    )
RETURNING name
"""


async def claim_sweeps(connection: Connection, interval: timedelta, limit: int) -> list[str]:
    """Return the names of active institutions that no process has swept for an interval; each is returned once."""
    return [row["name"] for row in await connection.fetch(CLAIM_SWEEPS, interval, limit)]
