"""Apply ``migrations/`` to a database, one process at a time."""

import hashlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, default_migration_table

from service.fitness import STANDBY, UnfitDatabase, check_fitness
from sql.server import GET_SERVER, Server

logger = logging.getLogger(__name__)

MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "migrations"
REGISTRY_MIGRATIONS: Final = MIGRATIONS / "registry"
CONNECTION: Final = {
    "application_name": "enrollment-service migrate",
    "connect_timeout": 5,
    # Without it, text from a database in SQL_ASCII arrives as bytes.
    "client_encoding": "UTF8",
    # Detect within half a minute a server that disappears without closing the connection.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
LOCK_SECONDS: Final = 5
"""Longest wait of ALTER TABLE for a reader: every later statement on the table waits behind it."""
POLL_SECONDS: Final = 0.1


class DatabaseUnavailable(Exception):
    """The database can't be reached, or is not ready for writes; a retry may succeed."""


class MigrationFailed(Exception):
    """The database refused a migration, which was rolled back."""


def shipped() -> list[str]:
    """Return the names of this version's migrations, in order."""
    return sorted(path.stem for path in MIGRATIONS.glob("*.sql") if not path.stem.endswith(".rollback"))


def migrate(
    database_url: str,
    *,
    schema: str = "public",
    timeout: float = 600.0,
    migrations: Path = MIGRATIONS,
    stop: threading.Event | None = None,
) -> list[str]:
    """Apply the missing migrations and return their names, in order; many processes may call this at once.

    A missing schema is created. ``timeout`` is the longest wait in seconds for another process that is migrating.
    Setting ``stop`` ends that wait; during the work, it takes effect before the next migration.

    Raises:
        DatabaseUnavailable: there is no connection, the server is a standby, a lock was not available in time, or
            another process is still migrating.
        UnfitDatabase: the server could lose confirmed changes, or an unreleased version made the schema.
        MigrationFailed: the database refused a migration.
    """
    stop = stop or threading.Event()
    with _connection_errors(), _connect(database_url, schema) as backend:
        _refuse_unfit(backend.connection)
        _take_turn(backend.connection, schema, timeout, stop)
        backend.create_schema(distributed=migrations != REGISTRY_MIGRATIONS)
        shipped = read_migrations(str(migrations))
        missing = backend.to_apply(shipped)
        refuse_unknown(backend.applied(), {migration.id for migration in shipped})
        applied = []
        for migration in missing:
            if stop.is_set():
                raise DatabaseUnavailable("The migration was stopped before it was complete.")
            backend.apply_one(migration)
            applied.append(str(migration.id))
            logger.info("applied migration %s", migration.id)
        return applied


def refuse_unknown(applied: Collection[str], shipped: Collection[str]) -> None:
    """Raise an error if an unreleased version made the schema.

    Migrations of newer versions are allowed: they come after all shipped ones.

    Raises:
        UnfitDatabase: an applied migration is not shipped and comes before the newest shipped one.
    """
    unknown = sorted(name for name in applied if name not in shipped and name < max(shipped))
    if unknown:
        raise UnfitDatabase(
            f"An unreleased version made the schema of this database: this version has no migration {unknown[0]}. "
            "Set DATABASE_URL to an empty database or DATABASE_SCHEMA to a new schema; without DATABASE_URL, set "
            "DATA_DIR to a new folder."
        )


def drop_schema(database_url: str, schema: str) -> None:
    """Drop a schema with everything in it, if it exists.

    Raises:
        DatabaseUnavailable: there is no connection, or a statement holds a lock on one of its tables.
        UnfitDatabase: the database refuses, such as to a role that does not own the schema.
    """
    with _connection_errors(), _connect(database_url, schema) as backend:
        backend.connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        backend.connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


def move_schema(database_url: str, schema: str, host: str, port: int) -> None:
    """Move a distributed schema to another node of a Citus, by logical replication, while it is in use.

    Raises:
        DatabaseUnavailable: there is no connection, or a node did not answer.
        UnfitDatabase: the database refuses: it is no Citus, the schema is not distributed, or there is no such node.
    """
    with _connection_errors(), _connect(database_url, schema) as backend:
        backend.connection.execute("SELECT citus_schema_move(%s::regnamespace, %s, %s)", [schema, host, port])


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """Yoyo's backend, changed to apply a migration and mark it as applied in one transaction.

    Yoyo itself commits a migration and marks it afterwards. If a process is killed in between, every later start fails
    because it applies the migration again.
    """

    def __init__(self, uri: DatabaseURI, migration_table: str) -> None:
        self.target_schema = str(uri.args["schema"])
        super().__init__(uri, migration_table)

    def connect(self, dburi: DatabaseURI) -> psycopg.Connection[Any]:
        arguments = {name: value for name, value in dburi.args.items() if name != "schema"}
        return psycopg.connect(dbname=dburi.database, **arguments, autocommit=True)

    def init_connection(self, connection: psycopg.Connection[Any]) -> None:
        # A statement_timeout that an operator sets for requests would end a long index build.
        connection.execute(
            "SELECT set_config('search_path', quote_ident(%s), false), set_config('statement_timeout', '0', false)",
            [self.target_schema],
        )
        # Otherwise the statement of a killed process runs to its end and holds the lock. Some systems lack the setting.
        with suppress(psycopg.Error):
            connection.execute("SET client_connection_check_interval = '1s'")

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:
        """Replace yoyo's lock, a row that outlives a killed process, by the lock of ``_take_turn``."""
        yield

    def create_schema(self, *, distributed: bool) -> None:
        """Create the schema unless it exists; on Citus, a distributed one lies on one worker as a whole."""
        self.connection.execute(
            "SELECT set_config('citus.enable_schema_based_sharding', %s, false) FROM pg_extension WHERE extname = 'citus'",
            [str(distributed)],
        )
        # Even with IF NOT EXISTS, CREATE SCHEMA needs the privilege to create schemas, which a role may lack.
        if self.target_schema != "public":
            self.connection.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.target_schema))
            )

    def applied(self) -> set[str]:
        """Return the names of the migrations that were applied and not rolled back."""
        return {name for (name,) in self.execute(f"SELECT migration_id FROM {self.migration_table}").fetchall()}

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
        with _migration_errors(migration):
            migration.load()
            if not migration.use_transactions:
                super().apply_one(migration, force=force, mark=mark)
                return
            with self.transaction():
                self.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                migration.process_steps(self, "apply", force=force)
                self.log_migration(migration, "apply")
                self.mark_one(migration, log=False)

    def get_log_data(self, migration: Migration | None = None, operation: str = "apply") -> dict[str, Any]:
        # Yoyo's method fails if the account has no name, as in some containers, and asks DNS for the name of the host.
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": f"uid {os.getuid()}",
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


def _connect(database_url: str, schema: str) -> _Backend:
    arguments = {**CONNECTION, **conninfo_to_dict(database_url), "schema": schema}
    uri = DatabaseURI("postgresql+psycopg", None, None, None, None, arguments.pop("dbname", None), arguments)
    return _Backend(uri, default_migration_table)


def _refuse_unfit(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(GET_SERVER).fetchone()
    assert row is not None
    server = Server(*row)
    if server.standby:
        raise DatabaseUnavailable(STANDBY)
    check_fitness(server)


def _take_turn(connection: psycopg.Connection[Any], schema: str, timeout: float, stop: threading.Event) -> None:
    """Wait for an advisory lock, which the server releases when this connection ends, even by a crash."""
    key = int.from_bytes(hashlib.blake2b(f"enrollment-service {schema}".encode(), digest_size=8).digest(), signed=True)
    deadline = time.monotonic() + timeout
    # Poll: a process that waits within the server blocks CREATE INDEX CONCURRENTLY in the process that holds the lock.
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"Another process has been migrating this database for {timeout:.0f} seconds.")
        if stop.wait(POLL_SECONDS):
            raise DatabaseUnavailable("The wait for another process that is migrating was stopped.")


@contextmanager
def _migration_errors(migration: Migration) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise MigrationFailed(f"Migration {migration.id} failed and was rolled back: {error}") from error


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
        raise UnfitDatabase(f"The database refused a statement: {error}") from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"The database can't be reached or is not ready: {error}") from error
