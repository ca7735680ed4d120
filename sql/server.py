"""The server: what decides whether a confirmed change can be lost."""

from dataclasses import dataclass
from typing import Final

from sql import Connection


@dataclass(frozen=True, slots=True)
class Server:
    """A server and its settings, as a session of the service's own role and database has them."""

    version: int
    encoding: str
    standby: bool
    synchronous_commit: str
    fsync: str
    full_page_writes: str


GET_SERVER: Final = """
SELECT
    current_setting('server_version_num')::bigint / 10000 AS version,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() AS standby,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes
"""


async def get_server(connection: Connection) -> Server:
    """Read what the server of this session is."""
    row = await connection.fetchrow(GET_SERVER)
    assert row is not None
    return Server(*row)


FIND_APPLIED_MIGRATIONS: Final = """
SELECT migration_id::text AS name
FROM _yoyo_migration
ORDER BY migration_id
"""


async def find_applied_migrations(connection: Connection) -> list[str]:
    """Find the names of the migrations that the schema has, in order."""
    return [row["name"] for row in await connection.fetch(FIND_APPLIED_MIGRATIONS)]
