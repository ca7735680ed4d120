"""Statements about the server: the settings that decide whether a confirmed change can be lost, and the schema."""

from dataclasses import dataclass
from typing import Final

from sql import Connection


@dataclass(frozen=True, slots=True)
class Server:
    """A server and its settings, as they apply to sessions of the service's role and database.

    ``citus`` is true if the database has the extension Citus.
    """

    version: int
    encoding: str
    standby: bool
    synchronous_commit: str
    fsync: str
    full_page_writes: str
    citus: bool


GET_SERVER: Final = """
SELECT
    current_setting('server_version_num')::bigint / 10000 AS version,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() AS standby,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS citus
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


SET_SEARCH_PATH: Final = """
SELECT
FROM set_config(
    'search_path',
    (
        SELECT string_agg(quote_ident(schema), ', ' ORDER BY number)
        FROM unnest($1::text[]) WITH ORDINALITY AS path (schema, number)
    ),
    false
)
"""


async def set_search_path(connection: Connection, schemas: list[str]) -> None:
    """Make these schemas, in this order, the ones that statements of this session refer to."""
    await connection.execute(SET_SEARCH_PATH, schemas)
