"""A service that the tests of a module share, for modules of many short tests.

Starting a service and planning its statements takes most of the time of such a test. A module shares one by
``pytestmark, service, client, connection, settings = shared.SERVICE``. Before each test it is reset, as a running service
is by ``python -m service reset``: its tables are empty, ids begin at 1, and its feed has a new epoch.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from service.api.keys import AUTHENTICATOR, REGISTRAR
from service.app import BRING_UP, create_app
from service.migrate import empty_schema
from service.settings import Settings
from sql import Connection
from tests.conftest import Client, Server

TESTS: Final = str(Path(__file__).parent)

DELETIONS: Final = """
SELECT string_agg('DELETE FROM ' || relname, '; ')
FROM pg_class
WHERE relnamespace = current_schema::regnamespace
    AND relkind = 'r'
    AND relname <> 'feed'
    AND relname NOT LIKE '%yoyo%'
    AND pg_relation_size(oid) > 0
"""
SCHEMA: Final = """
SELECT count(*) || ' ' || max(xmin::text::bigint)
FROM (
    SELECT xmin FROM pg_attribute
    UNION ALL
    SELECT xmin FROM pg_constraint
    UNION ALL
    SELECT xmin FROM pg_trigger
    UNION ALL
    SELECT xmin FROM pg_proc
) AS objects
"""
"""The number of objects of the schema, and the transaction that changed one last."""


class Shared:
    """The service of a module and its database."""

    def __init__(self, settings: Settings, connection: Connection, *, citus: bool) -> None:
        self._settings = settings
        self._connection = connection
        self._citus = citus
        self._schema: str | None = None
        self._client: Client | None = None

    async def reset(self) -> Client:
        """Reset the service and return a client of it."""
        if self._client is not None:
            async with asyncio.timeout(10):
                # The last test may have left promotions or refusals, which would be written during the next one.
                while not self._client.app[REGISTRAR].is_idle():
                    await self._client.app[REGISTRAR].submit_all(())
            if await self._connection.fetchval("SELECT EXISTS (SELECT FROM api_keys)"):
                # The service would know the keys, or that there are some, for a while.
                self._client.app[AUTHENTICATOR].forget(None)
        await self._empty()
        if self._client is None:
            self._client = TestClient(TestServer(create_app(self._settings)))
            await self._client.start_server()
            async with asyncio.timeout(10):
                await self._client.app[BRING_UP]
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _empty(self) -> None:
        if self._citus:
            await self._connection.execute("DELETE FROM api_keys")
            await asyncio.to_thread(empty_schema, self._settings.owner_url or "", self._settings.database_schema)
            return
        schema = await self._connection.fetchval(SCHEMA)
        assert self._schema in {None, schema}, "a test changed the schema: its module can't share a service"
        self._schema = schema
        # For few rows, TRUNCATE takes twenty times as long. A replica checks no foreign key.
        await self._connection.execute(
            f"""
            BEGIN;
            SET LOCAL session_replication_role = replica;
            {await self._connection.fetchval(DELETIONS) or "SELECT"};
            SELECT setval(oid::regclass, 1, false)
            FROM pg_class
            WHERE relkind = 'S' AND relnamespace = current_schema::regnamespace;
            UPDATE feed SET epoch = gen_random_uuid();
            COMMIT
            """
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(server: Server, shared_settings: Settings, shared_connection: Connection) -> AsyncIterator[Shared]:
    shared = Shared(shared_settings, shared_connection, citus=server.citus)
    yield shared
    await shared.close()


@pytest_asyncio.fixture(loop_scope="module")
async def _client(service: Shared, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """Yield a client of the service of the module; a test that fails leaves none behind."""
    failed = request.session.testsfailed
    yield await service.reset()
    if request.session.testsfailed > failed:
        await service.close()
    assert left_tasks() == [], "a test that shares a service must await or cancel its tasks"


def left_tasks() -> list["asyncio.Task[Any]"]:
    """Return the tasks that a test has begun and that have not ended."""
    tasks = {task: getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks()}
    return [task for task, code in tasks.items() if code is not None and code.co_filename.startswith(TESTS)]


@pytest.fixture
def _connection(client: Client, shared_connection: Connection) -> Connection:
    """Return a connection to the database of the module, as its owner, once that is reset."""
    return shared_connection


@pytest.fixture
def _settings(client: Client, shared_settings: Settings) -> Settings:
    """Return the settings of the service of the module, once that is reset."""
    return shared_settings


@pytest.fixture
def _database_url(server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of the database of the module, as its owner, once that is reset."""
    if server.citus:
        monkeypatch.setenv("DATABASE_SCHEMA", settings.database_schema)
        return server.url_in(settings.database_schema)
    return settings.owner_url or ""


@pytest_asyncio.fixture(loop_scope="module")
async def _aiohttp_client() -> AsyncIterator[Callable[[web.Application], Awaitable[Client]]]:
    """Yield what starts another service for a test, in the loop of the module."""
    async with AsyncExitStack() as stack:
        yield lambda app: stack.enter_async_context(TestClient(TestServer(app)))


in_one_loop: Final = pytest.mark.asyncio(loop_scope="module")
SERVICE: Final = (in_one_loop, _service, _client, _connection, _settings)
DATABASE_URL: Final = _database_url
AIOHTTP_CLIENT: Final = _aiohttp_client
"""For tests that need these too, in place of the fixtures ``database_url`` and ``aiohttp_client``."""
