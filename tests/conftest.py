"""A real PostgreSQL for every test: one server for each run, one migrated template, and an empty copy of it for each test.

With ``TEST_DATABASE_URL`` naming a database with the extension Citus, each test gets a distributed schema in it instead.
"""

import asyncio
import gc
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import asyncpg
import hypothesis
import psycopg
import pytest
import pytest_asyncio
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestClient

from service import clock, grants
from service.arrays import register_arrays
from service.embedded import embedded_server
from service.migrate import REGISTRY_MIGRATIONS, migrate
from service.settings import ServiceRole, Settings
from sql import Connection

PREFIX = "enrollment_test"
REGISTRY = "registry"
"""The schema of the registry, which is in every test database."""
ABANDONED_SECONDS = 3600
"""Databases of a run that ended without cleaning up are dropped after this time; no run takes that long."""
FAST = {
    # Copying a template is twice as fast if the copy is not logged.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "200",
    # The log may lie in memory, so its size counts.
    "max_wal_size": "256MB",
}

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 << 30

REUSED_BYTES = 1 << 20
"""A database whose tables are larger is not emptied but dropped."""
LEFT_BEHIND = f"""
    SELECT
        bool_or(is_fixed AND changes > 0)
            OR sum(size) FILTER (WHERE NOT is_fixed) > {REUSED_BYTES}
            OR EXISTS (
                SELECT
                FROM pg_database
                LEFT JOIN pg_db_role_setting ON setdatabase = pg_database.oid
                WHERE datname = current_database() AND (setdatabase IS NOT NULL OR datconnlimit <> -1)
            ),
        array_agg(oid::regclass::text) FILTER (WHERE NOT is_fixed AND size > 0)
    FROM (
        SELECT
            oid,
            relnamespace NOT IN ('public'::regnamespace, '{REGISTRY}'::regnamespace) OR relname LIKE '%yoyo%' AS is_fixed,
            pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid) AS changes,
            pg_relation_size(oid) AS size
        FROM pg_class
        WHERE relkind = 'r' AND NOT relisshared
    ) AS tables
"""
"""Whether a copy of the template was changed by more than a few rows of the service, such as by DDL, which changes the
catalog; and the tables that have, or had, rows. The server counts the changes of a copy from zero."""
RESTORE = f"""
    INSERT INTO feed DEFAULT VALUES;
    INSERT INTO {REGISTRY}.registry DEFAULT VALUES;
    SELECT setval(format('%I.%I', schemaname, sequencename), start_value, false)
    FROM pg_sequences WHERE last_value IS NOT NULL
"""
"""Insert the rows that migrations inserted, and let ids begin at 1 again."""


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL to test on, with the names of the databases of this run, or of its schemas on Citus."""

    url: str
    run: str
    strategy: str
    citus: bool = False

    @property
    def template(self) -> str:
        return f"{self.run}_template"

    @property
    def role(self) -> str:
        """The role of the service: it may do what ``service.grants`` lists, and nothing else."""
        return f"{self.run}_service"

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    def as_service(self, url: str) -> str:
        """Return the URL of a database for the role of the service."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{self.role}:{self.run}@{parts.netloc.rpartition('@')[2]}"))

    def url_in(self, schema: str) -> str:
        """Return the URL of a schema on Citus."""
        return f"{self.url}?{urlencode({'options': f'-csearch_path={schema}'})}"

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def own_database(self) -> None:
        """Skip the test on Citus."""
        if self.citus:
            pytest.skip("needs a database of its own: on Citus each test has a schema of one database")


@dataclass(slots=True)
class Copy:
    """A copy of the template, with the connection that empties it.

    It stays open during the tests: a new one knows nothing of the catalog, so that it takes ten times as long.
    """

    name: str
    connection: psycopg.Connection[Any] | None = None

    def connect(self, server: Server) -> psycopg.Connection[Any]:
        if self.connection is None or self.connection.closed:
            self.connection = psycopg.connect(server.url_of(self.name), autocommit=True)
        return self.connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def drop(self, server: Server, admin: psycopg.Connection[Any]) -> None:
        self.close()
        _drop(admin, server, self.name)


SERVER = pytest.StashKey[Server]()
STACK = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs",
        action="store_true",
        help="write the responses of the service and the tables from its code into the documents",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STACK] = ExitStack()
    # A property must not fail because the machine is busy.
    patient = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.register_profile("patient", patient)
    hypothesis.settings.load_profile("patient")
    # The background jobs of a shell ignore Ctrl-C, and the services under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Only the tests decide the settings of the service.
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on the event loop of the service."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, which would otherwise run alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_schemathesis.py")


def pytest_collection_finish() -> None:
    """Keep garbage collections from searching what was imported and collected, which took a tenth of the time of a test."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("not_on_citus")
    if marker is not None and _server(item.config).citus:
        pytest.skip(f"not on Citus: {marker.args[0]}")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[STACK].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the server of the run to each process of pytest-xdist."""
    node.workerinput["server"] = asdict(_server(node.config))


def _server(config: pytest.Config) -> Server:
    if SERVER not in config.stash:
        workerinput = getattr(config, "workerinput", None)
        if workerinput is None:
            config.stash[SERVER] = config.stash[STACK].enter_context(_started_server())
        else:
            config.stash[SERVER] = Server(**workerinput["server"])
    return config.stash[SERVER]


@contextmanager
def _started_server() -> Iterator[Server]:
    run = f"{PREFIX}_{int(time.time())}_{secrets.token_hex(3)}"
    with ExitStack() as stack:
        url = os.environ.get("TEST_DATABASE_URL")
        if url:
            # A connection that begins TLS as its test ends would outlive the loop of the test.
            os.environ.setdefault("PGSSLMODE", "disable")
            server = Server(url, run, strategy="WAL_LOG", citus=_has_citus(url))
        else:
            folder = Path(tempfile.mkdtemp(prefix="enrollment-test-", dir=fast_folder()))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            # As root, the server runs under another account, which must be able to enter the folder.
            folder.chmod(0o711)
            server = Server(stack.enter_context(embedded_server(folder, options=FAST)), run, strategy="FILE_COPY")
        stack.callback(_drop_run, server)
        with server.connect() as admin:
            _drop_abandoned(admin, server)
            admin.execute(f"CREATE ROLE {server.role} LOGIN PASSWORD '{run}'")
            if server.citus:
                yield server
                return
            admin.execute(f"CREATE DATABASE {server.template} TEMPLATE template0 ENCODING 'UTF8'")
        url = server.url_of(server.template)
        migrate(url, timeout=10.0, role=ServiceRole(server.role))
        migrate(
            url,
            schema=REGISTRY,
            migrations=REGISTRY_MIGRATIONS,
            timeout=10.0,
            role=ServiceRole(server.role),
            privileges=grants.REGISTRY,
        )
        yield server


def fast_folder() -> Path | None:
    """Return a folder in memory if there is enough: a copy is about 300 files, several times slower on a disk."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
        return MEMORY
    return None


def _has_citus(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT FROM pg_extension WHERE extname = 'citus'").fetchone() is not None


def _drop_abandoned(admin: psycopg.Connection[Any], server: Server) -> None:
    for name in _names(admin, server, f"{PREFIX}_"):
        started = int(name.removeprefix(f"{PREFIX}_").partition("_")[0])
        if started < time.time() - ABANDONED_SECONDS:
            _drop(admin, server, name)
    roles = admin.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [f"{PREFIX}_"]).fetchall()
    for (name,) in roles:
        if int(name.removeprefix(f"{PREFIX}_").partition("_")[0]) < time.time() - ABANDONED_SECONDS:
            admin.execute(f"DROP ROLE IF EXISTS {name}")


def _names(admin: psycopg.Connection[Any], server: Server, prefix: str) -> list[str]:
    find = "SELECT nspname FROM pg_namespace" if server.citus else "SELECT datname FROM pg_database"
    # The schema of the test clock begins like those of a run.
    return [name for (name,) in admin.execute(find).fetchall() if name.startswith(prefix) and name != clock.SCHEMA]


def _drop(admin: psycopg.Connection[Any], server: Server, name: str) -> None:
    if server.citus:
        _end_sessions(admin)
        admin.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
    else:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _end_sessions(admin: psycopg.Connection[Any]) -> None:
    """End all other sessions, as WITH (FORCE) does for a database: a test may have left one that holds a lock."""
    admin.execute(
        """
        SELECT pg_terminate_backend(pid)
        FROM pg_stat_activity
        WHERE datname = current_database()
            AND pid <> pg_backend_pid()
            AND backend_type = 'client backend'
            AND application_name NOT LIKE 'citus%'
        """
    )


def _drop_run(server: Server) -> None:
    if server.strategy == "FILE_COPY":
        return
    with server.connect() as admin:
        for name in _names(admin, server, server.run):
            _drop(admin, server, name)
        admin.execute(f"DROP ROLE IF EXISTS {server.role}")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    return _server(request.config)


@pytest.fixture(scope="session")
def admin(server: Server) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that can create and drop databases."""
    server.own_database()
    with server.connect() as connection:
        yield connection


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Yield a folder that every account can enter: pytest's own is private, and root's server uses another account."""
    parent = Path(tempfile.mkdtemp(prefix="enrollment-test-", dir=fast_folder()))
    parent.chmod(0o711)
    yield parent / "data"
    shutil.rmtree(parent)


@pytest.fixture(scope="session")
def left_behind() -> Iterator[list[Copy]]:
    """Yield the database of the last test that passed, which the next test may use again."""
    databases: list[Copy] = []
    yield databases
    for database in databases:
        database.close()


@pytest.fixture
def database_url(
    server: Server, left_behind: list[Copy], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Yield the URL of a migrated, empty database for this test alone."""
    if not server.citus:
        admin = request.getfixturevalue("admin")
        # Emptied only now, when every fixture of the last test has ended.
        database = left_behind.pop() if left_behind else None
        if database is None or not make_empty(server, admin, database):
            database = Copy(copy(server, admin, server.template))
        failed = request.session.testsfailed
        yield server.url_of(database.name)
        if request.session.testsfailed == failed:
            left_behind.append(database)
        else:
            database.drop(server, admin)
        return
    for schema in citus_schema(server, request.session):
        monkeypatch.setenv("DATABASE_SCHEMA", schema)
        yield server.url_in(schema)


@pytest.fixture
def empty_database_url(server: Server, admin: psycopg.Connection[Any]) -> Iterator[str]:
    """Yield the URL of a database for this test alone, without any migration."""
    yield from clone(server, admin, "template0")


def clone(server: Server, admin: psycopg.Connection[Any], template: str) -> Iterator[str]:
    """Yield the URL of a copy of a database, and drop the copy afterwards."""
    name = copy(server, admin, template)
    try:
        yield server.url_of(name)
    finally:
        sessions_ended(admin, name)
        _drop(admin, server, name)


def copy(server: Server, admin: psycopg.Connection[Any], template: str) -> str:
    """Copy a database and return the name of the copy."""
    name = f"{server.run}_{secrets.token_hex(6)}"
    admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8' STRATEGY {server.strategy}")
    return name


def sessions_ended(admin: psycopg.Connection[Any], name: str, but: int | None = None) -> bool:
    """Return whether no session, but perhaps one, uses a database, after a few milliseconds, in which most end.

    DROP DATABASE looks for sessions only every 100 ms.
    """
    for _ in range(20):
        find = "SELECT FROM pg_stat_activity WHERE datname = %s AND pid IS DISTINCT FROM %s"
        if admin.execute(find, [name, but]).fetchone() is None:
            return True
        time.sleep(0.002)
    return False


def make_empty(server: Server, admin: psycopg.Connection[Any], database: Copy) -> bool:
    """Make a copy of the template as empty as a new one, at a tenth of the cost; drop it and return False if that is not safe."""
    # A test may have made the database unreachable, or have ended the session of the connection.
    with suppress(psycopg.Error):
        connection = database.connect(server)
        if sessions_ended(admin, database.name, but=connection.info.backend_pid):
            with connection.transaction():
                is_altered, filled = connection.execute(LEFT_BEHIND).fetchone() or (True, [])
                if not is_altered:
                    deletions = [f"DELETE FROM {table}" for table in filled]
                    # A replica checks no foreign key. For few rows, TRUNCATE takes twenty times as long.
                    statements = ["SET LOCAL session_replication_role = replica", *deletions, RESTORE]
                    connection.execute("; ".join(statements).encode())
                    return True
    database.drop(server, admin)
    return False


CITUS_SCHEMA = pytest.StashKey[str]()
CITUS_DEFINITION = """
    SELECT md5(string_agg(part, E'\\n' ORDER BY part))
    FROM (
        SELECT concat_ws(' ', attrelid::regclass, attname, attnotnull, format_type(atttypid, atttypmod), attisdropped) AS part
        FROM pg_attribute INNER JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = current_schema()::regnamespace
        UNION ALL
        SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid), convalidated)
        FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
        UNION ALL
        SELECT concat_ws(' ', proname, proargtypes, md5(pg_get_functiondef(pg_proc.oid)))
        FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
        UNION ALL
        SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled)
        FROM pg_trigger INNER JOIN pg_class ON pg_class.oid = tgrelid WHERE relnamespace = current_schema()::regnamespace
        UNION ALL
        SELECT migration_id FROM _yoyo_migration
    ) AS parts
"""
"""A digest of what the migrations made of a schema."""


def citus_schema(server: Server, session: pytest.Session) -> Iterator[str]:
    """Yield the name of a migrated, empty schema, made from the schema of the last test if that test passed."""
    stash = session.stash
    with server.connect() as connection:
        schema = stash.get(CITUS_SCHEMA, None) or f"{server.run}_{secrets.token_hex(6)}"
        connection.execute("SET citus.enable_schema_based_sharding = on")
        connection.execute("SELECT set_config('search_path', %s, false)", [schema])
        if CITUS_SCHEMA in stash:
            _end_sessions(connection)
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = %s AND left(tablename, 1) <> '_'", [schema]
            ).fetchall()
            connection.execute(f"TRUNCATE {', '.join(name for (name,) in tables)} RESTART IDENTITY")
            connection.execute("INSERT INTO feed DEFAULT VALUES")
            del stash[CITUS_SCHEMA]
        else:
            connection.execute(f"CREATE SCHEMA {schema}")
            migrate(server.url, schema=schema, timeout=10.0, role=ServiceRole(server.role))
        made = connection.execute(CITUS_DEFINITION).fetchone()
        failed = session.testsfailed
        yield schema
        if session.testsfailed == failed and connection.execute(CITUS_DEFINITION).fetchone() == made:
            stash[CITUS_SCHEMA] = schema
        else:
            _drop(connection, server, schema)


@pytest.fixture
def service_url(server: Server, database_url: str) -> str:
    """Return the URL of the test's database for the role of the service; on Citus, it is the owner."""
    return database_url if server.citus else server.as_service(database_url)


@pytest.fixture(scope="session")
def defaults() -> Settings:
    """Return the settings of a test but for its database. To read them anew for each test took a third of its start."""
    return Settings(migrate_on_start=False, port=0)


@pytest.fixture
def settings(service_url: str, database_url: str, defaults: Settings, tmp_path: Path) -> Settings:
    """Return settings with which the service has its least privileges, so that every test shows that they suffice."""
    owner_url = None if service_url == database_url else database_url
    schema = os.environ.get("DATABASE_SCHEMA", defaults.database_schema)
    urls = {"database_url": service_url, "migration_database_url": owner_url, "database_schema": schema}
    return defaults.model_copy(update={**urls, "spool_dir": tmp_path / "spool"})


@pytest.fixture(scope="module")
def shared_settings(server: Server, defaults: Settings, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Yield settings as ``settings``, for a migrated database that the tests of a module share."""
    if server.citus:
        for schema in citus_schema(server, request.session):
            yield defaults.model_copy(update={"database_url": server.url, "database_schema": schema})
        return
    for url in clone(server, request.getfixturevalue("admin"), server.template):
        urls = {"database_url": server.as_service(url), "migration_database_url": url}
        yield defaults.model_copy(update=urls)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_connection(shared_settings: Settings) -> AsyncIterator[Connection]:
    """Yield a connection to the database that the tests of a module share, as its owner."""
    async with connected(shared_settings.owner_url or "", search_path=shared_settings.database_schema) as connection:
        yield connection


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Yield a connection to the test's database, to see what the service wrote."""
    async with connected(database_url) as connection:
        yield connection


@asynccontextmanager
async def connected(url: str, **session: str) -> AsyncIterator[Connection]:
    """Yield a connection with these settings of its session."""
    connection = await asyncpg.connect(url, server_settings=session)
    # As the service does: asyncpg looks up the types of arrays otherwise, which takes longer than most tests' statements.
    register_arrays(connection)
    try:
        yield connection
    finally:
        await connection.close()


Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(settings: Settings, aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    """Return a client of a service that is ready."""
    # Imported here, so that an error in the service fails only the tests of the service.
    from service.app import BRING_UP, create_app

    client = await aiohttp_client(create_app(settings))
    async with asyncio.timeout(10):
        await client.app[BRING_UP]
    return client
