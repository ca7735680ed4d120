"""Applies ``migrations/`` to a database, by one runner at a time."""

import hashlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
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
# It tells of every step and statement; what was applied is told below, once.
logging.getLogger("yoyo").setLevel(logging.WARNING)

MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "migrations"
CONNECTION: Final = {
    "application_name": "enrollment-service migrate",
    "connect_timeout": 5,
    # Without it, text from a database in SQL_ASCII arrives as bytes.
    "client_encoding": "UTF8",
    # A server that vanished without a word is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
LOCK_SECONDS: Final = 5
"""How long ALTER TABLE may wait for a reader: whoever comes after it, waits behind it."""
POLL_SECONDS: Final = 0.1


class DatabaseUnavailable(Exception):
    """The database can't be reached, or is not ready to be written to; another try may succeed."""


class MigrationFailed(Exception):
    """A migration was refused by the database, which stands as it stood before that migration."""


def migrate(
    database_url: str,
    *,
    schema: str = "public",
    timeout: float = 600.0,
    migrations: Path = MIGRATIONS,
    stop: threading.Event | None = None,
) -> list[str]:
    """Apply what is not applied yet and return the names of it, in order; many processes may ask at once.

    A missing schema is created. ``timeout`` is how many seconds to wait for another process that is migrating;
    ``stop``, once set, ends the wait, and the work before the next migration.

    Raises:
        DatabaseUnavailable: no connection, a standby, a lock not had in time, or another process still migrating.
        UnfitDatabase: the server may lose what it has confirmed; see ``check_fitness``.
        MigrationFailed: a migration was refused.
    """
    stop = stop or threading.Event()
    with _runner(database_url, schema, timeout, stop) as backend:
        applied = []
        for migration in backend.to_apply(read_migrations(str(migrations))):
            if stop.is_set():
                raise DatabaseUnavailable("The migration was stopped before it was complete.")
            backend.apply_one(migration)
            applied.append(str(migration.id))
            logger.info("applied migration %s", migration.id)
        return applied


def rollback(
    database_url: str,
    *,
    schema: str = "public",
    timeout: float = 600.0,
    count: int | None = None,
    migrations: Path = MIGRATIONS,
) -> list[str]:
    """Undo the newest ``count`` migrations, all of them by default, and return their names, newest first.

    Raises: as ``migrate``.
    """
    with _runner(database_url, schema, timeout, threading.Event()) as backend:
        undone = []
        for migration in list(backend.to_rollback(read_migrations(str(migrations))))[:count]:
            backend.rollback_one(migration)
            undone.append(str(migration.id))
            logger.info("rolled back migration %s", migration.id)
        return undone


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """Yoyo's backend, with a migration and the mark that it is applied in one transaction.

    As it comes, yoyo commits a migration and marks it afterwards: whoever is killed in between leaves a database on
    which every later start fails, because the migration would be applied twice.
    """

    # "IF NOT EXISTS" instead of an error in the server's log at every start.
    create_lock_table_sql = PostgresqlPsycopgBackend.create_lock_table_sql.replace(
        "CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1
    )

    def __init__(self, uri: DatabaseURI, migration_table: str) -> None:
        self.target_schema = str(uri.args["schema"])
        super().__init__(uri, migration_table)

    def connect(self, dburi: DatabaseURI) -> psycopg.Connection[Any]:
        arguments = {name: value for name, value in dburi.args.items() if name != "schema"}
        return psycopg.connect(dbname=dburi.database, **arguments, autocommit=True)

    def init_connection(self, connection: psycopg.Connection[Any]) -> None:
        # A limit that an operator gives to requests would end a long index build.
        connection.execute(
            "SELECT set_config('search_path', quote_ident(%s), false), set_config('statement_timeout', '0', false), "
            "set_config('idle_in_transaction_session_timeout', '0', false)",
            [self.target_schema],
        )
        # The statement of a killed runner would go on to its end, and hold the turn; not every system can tell.
        with suppress(psycopg.Error):
            connection.execute("SET client_connection_check_interval = '1s'")

    def init_database(self) -> None:
        if self.target_schema != "public":
            self.connection.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.target_schema))
            )
        self.connection.execute("SET client_min_messages = warning")
        self.connection.execute(self.format_sql(self.create_lock_table_sql))
        self.has_transactional_ddl = True

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
        with _telling(migration):
            migration.load()
            if not migration.use_transactions:
                super().apply_one(migration, force=force, mark=mark)
                return
            self.ensure_internal_schema_updated()
            with self.transaction():
                self.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                migration.process_steps(self, "apply", force=force)
                self.log_migration(migration, "apply")
                self.mark_one(migration, log=False)

    def rollback_one(self, migration: Migration, force: bool = False) -> None:
        with _telling(migration):
            migration.load()
            if not migration.use_transactions:
                super().rollback_one(migration, force=force)
                return
            self.ensure_internal_schema_updated()
            with self.transaction():
                self.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                migration.process_steps(self, "rollback", force=force)
                self.log_migration(migration, "rollback")
                self.unmark_one(migration, log=False)

    def get_log_data(self, migration: Migration | None = None, operation: str = "apply") -> dict[str, Any]:
        # Yoyo's own fails where the account has no name, as in some containers, and asks DNS for the host's.
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": f"uid {os.getuid()}",
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


@contextmanager
def _runner(database_url: str, schema: str, timeout: float, stop: threading.Event) -> Iterator[_Backend]:
    """Yield a backend while no other process has one for this schema."""
    with _telling_of_connections():
        arguments = {**CONNECTION, **conninfo_to_dict(database_url), "schema": schema}
        uri = DatabaseURI("postgresql+psycopg", None, None, None, None, arguments.pop("dbname", None), arguments)
        with _Backend(uri, default_migration_table) as backend:
            _refuse_unfit(backend.connection)
            _take_turn(backend.connection, schema, timeout, stop)
            backend.init_database()
            # The row outlives a killed process; whose it was is dead, since the turn is ours.
            backend.break_lock()
            with backend.lock():
                yield backend


def _refuse_unfit(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(GET_SERVER).fetchone()
    assert row is not None
    server = Server(*row)
    if server.standby:
        raise DatabaseUnavailable(STANDBY)
    check_fitness(server)


def _take_turn(connection: psycopg.Connection[Any], schema: str, timeout: float, stop: threading.Event) -> None:
    """Wait for an advisory lock, which the server frees when this connection ends, however it ends."""
    key = int.from_bytes(hashlib.blake2b(f"enrollment-service {schema}".encode(), digest_size=8).digest(), signed=True)
    deadline = time.monotonic() + timeout
    # Asked again and again: a wait within the server would hold up the CREATE INDEX CONCURRENTLY of who has the lock.
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"Another process has been migrating this database for {timeout:.0f} seconds.")
        if stop.wait(POLL_SECONDS):
            raise DatabaseUnavailable("The wait for another process that is migrating was stopped.")


@contextmanager
def _telling(migration: Migration) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise MigrationFailed(f"Migration {migration.id} was refused and undone: {error}") from error


@contextmanager
def _telling_of_connections() -> Iterator[None]:
    try:
        yield
    except psycopg.ProgrammingError as error:
        raise UnfitDatabase(f"The database refused: {error}") from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"The database can't be reached or is not ready: {error}") from error
