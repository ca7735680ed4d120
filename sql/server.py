"""Statements about the server: the settings that decide whether a confirmed change can be lost, and the schema."""

from dataclasses import dataclass
from typing import Final

from sql import Connection


@dataclass(frozen=True, slots=True)
class Server:
    """A server and its settings, as they apply to sessions of the service's role and database.

    ``citus`` is true if the database has the extension Citus. ``pid`` is the process that serves the session.
    """

    version: int
    encoding: str
    standby: bool
    synchronous_commit: str
    fsync: str
    full_page_writes: str
    citus: bool
    pid: int


GET_SERVER: Final = """
SELECT
    current_setting('server_version_num')::bigint / 10000 AS version,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() AS standby,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS citus,
    pg_backend_pid()::bigint AS pid
"""


async def get_server(connection: Connection) -> Server:
    """Return the server of this session and its settings."""
    row = await connection.fetchrow(GET_SERVER)
    assert row is not None
    return Server(*row)


FIND_APPLIED_MIGRATIONS: Final = """
SELECT migration_id::text AS name
FROM _yoyo_migration
ORDER BY migration_id
"""


async def find_applied_migrations(connection: Connection) -> list[str]:
    """Return the names of the applied migrations, in order."""
    return [row["name"] for row in await connection.fetch(FIND_APPLIED_MIGRATIONS)]


CONFIGURE: Final = """
SELECT
FROM unnest($1::text[], $2::text[]) AS settings (name, value)
WHERE set_config(name, value, false) IS NULL
"""


async def configure(connection: Connection, names: list[str], values: list[str]) -> None:
    """Set settings of this session. A pooler may not pass on those that a client names when it connects.

    The statement returns no row: a row without columns would corrupt memory (docs/traps.md).
    """
    await connection.execute(CONFIGURE, names, values)


SET_SEARCH_PATH: Final = """
SELECT
WHERE set_config(
    'search_path',
    (
        SELECT string_agg(quote_ident(schema), ', ' ORDER BY number)
        FROM unnest($1::text[]) WITH ORDINALITY AS path (schema, number)
    ),
    false
) IS NULL
"""


async def set_search_path(connection: Connection, schemas: list[str]) -> None:
    """Make these schemas, in this order, the ones that statements of this session refer to; it returns no row, as above."""
    await connection.execute(SET_SEARCH_PATH, schemas)


GET_PID: Final = """
SELECT pg_backend_pid()::bigint AS pid
"""


async def get_pid(connection: Connection) -> int:
    """Return the process of the server that serves the session."""
    pid: int = await connection.fetchval(GET_PID)
    return pid


IS_READ_ONLY: Final = """
SELECT current_setting('transaction_read_only')::boolean OR pg_is_in_recovery() AS read_only
"""


async def is_read_only(connection: Connection) -> bool:
    """Return whether the server refuses changes: it is a standby, or transactions are read-only by default."""
    read_only: bool = await connection.fetchval(IS_READ_ONLY)
    return read_only


TRY_TO_WRITE: Final = """
SELECT lo_from_bytea(0, $1::bytea)::bigint AS id
"""


async def try_to_write(connection: Connection, data: bytes) -> int:
    """Write a large object, in a transaction that the caller rolls back, and return its id.

    It needs no privilege and no table of a schema. The data must be random, because PostgreSQL compresses them.
    """
    id: int = await connection.fetchval(TRY_TO_WRITE, data)
    return id
