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
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, MigrationList, default_migration_table, read_sql_migration

from service import clock, grants
from service.errors import OperatorError
from service.faults import text_of
from service.fitness import STANDBY, NotMigrated, UnfitDatabase, check_fitness
from service.settings import ServiceRole
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
RETRY_SECONDS: Final = 0.01
"""Pause between attempts to lock all tables at once: statements of the service take milliseconds."""
KEPT: Final = ("api_keys", "feed", "yoyo_lock")
"""Tables that a reset keeps, beside those whose names begin with an underscore: yoyo's list of migrations and its log."""
TABLES_OF_SCHEMA: Final = """
SELECT tablename
FROM pg_tables
WHERE schemaname = %s
    AND tablename <> ALL(%s)
    AND left(tablename, 1) <> '_'
ORDER BY tablename
"""
COLUMNS_OF_SCHEMA: Final = """
SELECT relname, attname
FROM pg_attribute
INNER JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = to_regnamespace(%s)
    AND relkind = 'r'
    AND attnum > 0
    AND NOT attisdropped
"""
MAY_CREATE_ROLES: Final = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"


class DatabaseUnavailable(OperatorError):
    """The database can't be reached, or is not ready for writes; a retry may succeed."""


class MigrationFailed(OperatorError):
    """The database refused a migration, which was rolled back."""


def shipped() -> list[str]:
    """Return the names of this version's migrations, in order."""
    return sorted(path.stem for path in MIGRATIONS.glob("*.sql") if not path.stem.endswith(".rollback"))


def _read(folder: Path) -> MigrationList:
    """Return the migrations of a folder. They are parsed once: parsing takes as long as applying them to an institution."""
    return _parsed(folder, tuple(sorted((each.name, each.stat().st_mtime_ns) for each in folder.glob("*.sql"))))


@lru_cache(maxsize=4)
def _parsed(folder: Path, _versions: tuple[tuple[str, int], ...]) -> MigrationList:
    return read_migrations(str(folder))


def migrate(
    database_url: str,
    *,
    schema: str = "public",
    timeout: float = 600.0,
    migrations: Path = MIGRATIONS,
    role: ServiceRole | None = None,
    privileges: grants.Privileges = grants.INSTITUTION,
    stop: threading.Event | None = None,
) -> list[str]:
    """Apply the missing migrations and return their names, in order; many processes may call this at once.

    A missing schema is created. ``timeout`` is the longest wait in seconds for another process that is migrating.
    Setting ``stop`` ends that wait; during the work, it takes effect before the next migration. ``role`` is the role of
    the service: unless the migrations run as that role, it is granted ``privileges``, and nothing else.

    If nothing is missing, nothing is written, so that a role without any rights to the schema's definition can call it.

    Raises:
        DatabaseUnavailable: there is no connection, the server is a standby, a lock was not available in time, or
            another process is still migrating.
        UnfitDatabase: the server could lose confirmed changes, or an unreleased version made the schema.
        MigrationFailed: the database refused a migration, or the role of ``database_url`` may not migrate.
    """
    stop = stop or threading.Event()
    shipped = _read(migrations)
    names = {str(migration.id) for migration in shipped}
    with _connection_errors():
        with _open(database_url, schema) as connection:
            _refuse_unfit(connection)
            applied = _applied(connection, schema)
            refuse_unknown(applied, names)
            grantee = _grantee(connection, role)
            if names <= applied and (
                grantee is None or grants.held(connection, schema, grantee) == grants.required(privileges)
            ):
                return []
        missing = min(names - applied, default=None)
        with _privilege_errors(missing), _connect(database_url, schema) as backend:
            _take_turn(backend.connection, schema, timeout, stop)
            backend.create_schema(distributed=migrations != REGISTRY_MIGRATIONS)
            new = []
            for migration in backend.to_apply(shipped):
                if stop.is_set():
                    raise DatabaseUnavailable("The migration was stopped before it was complete.")
                backend.apply_one(migration)
                new.append(str(migration.id))
                logger.info("applied migration %s", migration.id)
            if grantee is not None:
                grants.apply(backend.connection, schema, grantee, privileges)
                logger.info("granted the role of the service what it needs", extra={"role": grantee, "schema": schema})
            return new


def migrate_to(
    database_url: str,
    name: str,
    *,
    schema: str = "public",
    timeout: float = 600.0,
    migrations: Path = MIGRATIONS,
    discard_data: bool = False,
) -> tuple[list[str], list[str]]:
    """Make a migration the newest one: apply those up to it that are missing, and roll back those after it.

    Return the names of the applied ones and of those that were rolled back, newest first. The rollbacks share one
    transaction. Unless ``discard_data`` is set, they are refused if a table or a column that they drop has values. No
    privileges are granted; those on a dropped table end with it.

    Raises:
        DatabaseUnavailable, UnfitDatabase: as ``migrate``; or this version does not know an applied migration.
        MigrationFailed: there is no such migration, data would be lost, or the database refused a statement.
    """
    shipped = _read(migrations)
    names = {str(migration.id) for migration in shipped}
    if name not in names:
        raise MigrationFailed(f"This version has no migration {name}; its newest one is {max(names)}.")
    with _connection_errors(), _privilege_errors(name), _connect(database_url, schema) as backend:
        _refuse_unfit(backend.connection)
        _take_turn(backend.connection, schema, timeout, threading.Event())
        if unknown := _applied(backend.connection, schema) - names:
            raise UnfitDatabase(
                f"This version does not know the applied migration {max(unknown)}: run the command with the version that "
                "applied it."
            )
        backend.create_schema(distributed=migrations != REGISTRY_MIGRATIONS)
        undone = [migration for migration in backend.to_rollback(shipped) if migration.id > name]
        if undone:
            _roll_back(backend, schema, undone, discard_data=discard_data)
        new = [migration for migration in backend.to_apply(shipped) if migration.id <= name]
        for migration in new:
            backend.apply_one(migration)
        return [str(each.id) for each in new], [str(each.id) for each in undone]


def _roll_back(backend: "_Backend", schema: str, migrations: list[Migration], *, discard_data: bool) -> None:
    """Roll back migrations in one transaction, in this order."""
    connection: psycopg.Connection[Any] = backend.connection
    # Each statement is sent alone: Citus sends the whole text of a change of a table to the node that holds it.
    scripts = [read_sql_migration(str(Path(each.path).with_suffix(".rollback.sql")))[2] for each in migrations]
    with _migration_errors(migrations[-1]), connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        before = _columns(connection, schema)
        with connection.transaction(force_rollback=True):
            for statement in chain.from_iterable(scripts):
                connection.execute(statement)
            kept = _columns(connection, schema)
        if before - kept and not discard_data:
            _refuse_loss(connection, schema, migrations[-1], before - kept, {table for table, _ in kept})
        for migration, script in zip(migrations, scripts, strict=True):
            for statement in script:
                connection.execute(statement)
            backend.log_migration(migration, "rollback")
            backend.unmark_one(migration, log=False)
    for migration in migrations:
        logger.info("rolled back migration %s", migration.id)


def _columns(connection: psycopg.Connection[Any], schema: str) -> set[tuple[str, str]]:
    return set(connection.execute(COLUMNS_OF_SCHEMA, [schema]).fetchall())


GET_DEFAULT: Final = """
SELECT column_default
FROM information_schema.columns
WHERE table_schema = %s
    AND table_name = %s
    AND column_name = %s
"""


def _refuse_loss(
    connection: psycopg.Connection[Any], schema: str, last: Migration, columns: set[tuple[str, str]], kept: set[str]
) -> None:
    """Raise an error if one of these columns has values other than its default.

    Until the end of the transaction, nobody else can write any. ``kept`` are the tables that lose only columns.
    """
    held = set()
    for table, column in sorted(columns):
        names = sql.Identifier(schema, table), sql.Identifier(column)
        connection.execute(sql.SQL("LOCK TABLE {}").format(names[0]))
        default = connection.execute(GET_DEFAULT, (schema, table, column)).fetchone()
        expression = sql.SQL(default[0] if default is not None and default[0] is not None else "NULL")
        # As texts, since the values of some types can't be compared.
        found = sql.SQL(
            "SELECT EXISTS (SELECT FROM {0} WHERE {1} IS NOT NULL AND {1}::text IS DISTINCT FROM ({2})::text)"
        ).format(*names, expression)
        if connection.execute(found).fetchone() == (True,):
            held.add(f"the column {column} of {table}" if table in kept else f"the table {table}")
    if held:
        raise MigrationFailed(
            f"Rolling back {last.id} and what follows it would delete data in the schema {schema}: {', '.join(sorted(held))}. "
            "Nothing was changed. Make a backup, and repeat the command with --discard-data to delete them."
        )


def apply_grants(
    database_url: str,
    role: str,
    *,
    schema: str = "public",
    privileges: grants.Privileges = grants.INSTITUTION,
    timeout: float = 600.0,
) -> None:
    """Grant a role ``privileges``, and take everything else in the schema from it.

    Raises: as ``migrate``.
    """
    with _connection_errors(), _privilege_errors(None), _open(database_url, schema) as connection:
        # Two processes that change the privileges of the same table would disturb each other.
        _take_turn(connection, schema, timeout, threading.Event())
        grants.apply(connection, schema, role, privileges)


def _applied(connection: psycopg.Connection[Any], schema: str) -> set[str]:
    """Return the names of the migrations that were applied and not rolled back; none without a schema."""
    table = sql.Identifier(schema, default_migration_table)
    try:
        rows = connection.execute(sql.SQL("SELECT migration_id FROM {}").format(table)).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return set()
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationFailed(
            f"The role {connection.info.user} may not read the schema {schema}: set MIGRATION_DATABASE_URL to a URL of the "
            f"owner, or run `python -m service grants {connection.info.user} --apply` as the owner."
        ) from error
    return {name for (name,) in rows}


def _grantee(connection: psycopg.Connection[Any], role: ServiceRole | None) -> str | None:
    """Return the role to which privileges are granted, or None if there is no such role or the owner is the same role.

    A missing role is created if its password is known and the owner may create roles.
    """
    if role is None or connection.execute("SELECT current_user").fetchone() == (role.name,):
        return None
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role.name]).fetchone() is not None:
        return role.name
    if role.password is not None and connection.execute(MAY_CREATE_ROLES).fetchone() == (True,):
        # Hashed here, so that no log of statements shows the password.
        hashed = connection.pgconn.encrypt_password(role.password.encode(), role.name.encode(), b"scram-sha-256")
        with suppress(psycopg.errors.DuplicateObject):  # Another process has just created it.
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role.name), hashed.decode())
            )
        logger.info("created the role of the service", extra={"role": role.name})
        return role.name
    # A connection pooler may translate the names of roles.
    logger.warning("the database has no role of this name: grants were not applied", extra={"role": role.name})
    return None


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


def empty_schema(database_url: str, schema: str) -> None:
    """Delete every row of an institution except its API keys, let ids start at 1 again, and begin a new epoch of its feed.

    Raises:
        DatabaseUnavailable: there is no connection, or the tables were in use for too long.
        UnfitDatabase: the database refuses, such as to a role that does not own the tables.
        NotMigrated: the database has no schema of the service.
    """
    with _connection_errors(), _open(database_url, schema) as connection:
        tables = [
            sql.Identifier(schema, name)
            for (name,) in connection.execute(TABLES_OF_SCHEMA, [schema, list(KEPT)]).fetchall()
        ]
        if not tables:
            raise NotMigrated
        names = sql.SQL(", ").join(tables)
        feed = sql.Identifier(schema, "feed")
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                with connection.transaction():
                    # A wait for a lock while others are held could end in a deadlock with a statement of a running service.
                    connection.execute(sql.SQL("LOCK TABLE {}, {} NOWAIT").format(feed, names))
                    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(names))
                    # The value is made here, since Citus refuses a random function in an update.
                    connection.execute(sql.SQL("UPDATE {} SET epoch = %s").format(feed), [uuid.uuid4()])
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                return


def create_test_clock(database_url: str) -> None:
    """Create the functions of the test clock, unless they exist.

    Raises:
        DatabaseUnavailable, UnfitDatabase: as ``drop_schema``.
    """
    with _connection_errors(), _open(database_url, clock.SCHEMA) as connection:
        _take_turn(connection, clock.SCHEMA, LOCK_SECONDS, threading.Event())
        if connection.execute("SELECT to_regnamespace(%s)", [clock.SCHEMA]).fetchone() == (None,):
            with connection.transaction():
                connection.execute(clock.CREATE)


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
        _prepare(connection, self.target_schema)

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


def _open(database_url: str, schema: str) -> psycopg.Connection[Any]:
    arguments: dict[str, Any] = {**CONNECTION, **conninfo_to_dict(database_url)}
    connection = psycopg.connect(**arguments, autocommit=True)
    _prepare(connection, schema)
    return connection


def _prepare(connection: psycopg.Connection[Any], schema: str) -> None:
    # A statement_timeout that an operator sets for requests would end a long index build.
    connection.execute(
        "SELECT set_config('search_path', quote_ident(%s), false), set_config('statement_timeout', '0', false)",
        [schema],
    )
    # Otherwise the statement of a killed process runs to its end and holds the lock. Some systems lack the setting.
    with suppress(psycopg.Error):
        connection.execute("SET client_connection_check_interval = '1s'")


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
def _privilege_errors(missing: str | None) -> Iterator[None]:
    """Map the refusal of a privilege; ``missing`` is the first migration that is missing, None if only grants are."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        lacks = "Not all privileges of the service's role" if missing is None else f"The migration {missing}"
        raise MigrationFailed(
            f"{lacks} can be applied with this role ({error.diag.message_primary}). Set MIGRATION_DATABASE_URL to a URL "
            "of the owner of the tables, or run the command as the owner: `python -m service migrate`."
        ) from error


@contextmanager
def _migration_errors(migration: Migration) -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege):
        raise
    except psycopg.Error as error:
        raise MigrationFailed(f"Migration {migration.id} failed and was rolled back: {text_of(error)}") from error


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
        raise UnfitDatabase(f"The database refused a statement: {text_of(error)}") from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"The database can't be reached or is not ready: {text_of(error)}") from error
