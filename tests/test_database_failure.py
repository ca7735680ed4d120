"""A database that is busy, fails, starts late or changes while the service runs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest
from pytest_aiohttp import AiohttpClient

from service.app import create_app
from service.check import INVARIANTS
from service.database import Database
from service.errors import Unavailable
from service.migrate import migrate
from service.settings import Settings
from sql import Connection
from tests.campus import (
    Answer,
    busy,
    call,
    drop,
    enroll,
    events,
    everything,
    new_course,
    new_student,
    problem,
    read,
    served,
    student_fields,
    until,
    waiting_writer,
)
from tests.conftest import Client, Server


async def status_of(client: Client, path: str) -> int:
    return (await call(client, "GET", path)).status


def unavailable(answer: Answer) -> str:
    """Assert that a response is a 503, and return its sentence."""
    sentence: str = problem(answer, 503, "unavailable")["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    return sentence


@asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def writes_all(client: Client, student: int, course: int) -> list[Answer]:
    """Send a change of every kind at once."""
    answers = await asyncio.gather(
        call(client, "POST", "/students", student_fields()),
        call(client, "PATCH", f"/courses/{course}", {"title": "X"}),
        call(client, "PUT", "/students/by-external-id/S1", student_fields()),
        call(client, "DELETE", f"/courses/{course}"),
        enroll(client, student, course),
        drop(client, student, course),
    )
    return list(answers)


async def test_a_pool_with_every_connection_in_use_refuses_callers_and_recovers(
    settings: Settings, aiohttp_client: AiohttpClient, database_url: str, connection: Connection
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"pool_size": 1, "acquire_timeout": 0.2}))

    async with busy(database_url):
        writing = asyncio.create_task(call(client, "POST", "/students", student_fields()))
        await waiting_writer(connection)
        assert "available in time" in unavailable(await call(client, "GET", "/students"))
        assert "does not respond" in unavailable(await call(client, "GET", "/health/ready"))
        assert await status_of(client, "/health/live") == 200

    assert (await writing).status == 201
    assert await status_of(client, "/students") == 200
    assert await status_of(client, "/health/ready") == 200


@pytest.mark.not_on_citus("the session that waits for the lock is on another node")
async def test_a_writer_that_does_not_get_the_lock_gives_up_and_writes_nothing(
    settings: Settings, aiohttp_client: AiohttpClient, database_url: str, connection: Connection
) -> None:
    limits = {"lock_timeout": 0.1, "write_timeout": 5.0}
    client = await served(aiohttp_client, settings.model_copy(update=limits))
    student, course = await new_student(client), await new_course(client)
    before = await everything(connection)

    async with busy(database_url):
        for answer in await writes_all(client, student, course):
            assert "held a lock" in unavailable(answer)
        assert await status_of(client, f"/students/{student}") == 200

    assert await everything(connection) == before
    assert (await enroll(client, student, course)).status == 201


async def test_a_change_that_would_wait_too_long_behind_others_of_its_process_is_refused(
    settings: Settings, aiohttp_client: AiohttpClient, database_url: str, connection: Connection
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"admission_seconds": 0.2}))

    async with busy(database_url):
        first = asyncio.create_task(call(client, "POST", "/students", student_fields()))
        await waiting_writer(connection)
        unavailable(await call(client, "POST", "/students", student_fields()))

    assert (await first).status == 201
    assert [event["type"] for event in await events(connection)] == ["student.created"]


async def test_while_a_change_waits_for_the_lock_others_are_refused_unread_and_reads_are_answered(
    settings: Settings, aiohttp_client: AiohttpClient, database_url: str, connection: Connection
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"admission_seconds": 0.2}))
    student, course = await new_student(client), await new_course(client)

    async with busy(database_url):
        first = asyncio.create_task(call(client, "POST", "/students", student_fields()))
        await waiting_writer(connection)
        unavailable(await call(client, "POST", "/students", student_fields()))
        for answer in await writes_all(client, student, course):
            unavailable(answer)
        unavailable(await call(client, "POST", "/students", {"given_name": 7}))
        for path in (f"/students/{student}", f"/courses/{course}", "/students", "/health/ready"):
            assert await status_of(client, path) == 200

    assert (await first).status == 201
    problem(await call(client, "POST", "/students", {"given_name": 7}), 422, "invalid")
    assert (await enroll(client, student, course)).status == 201


async def test_a_statement_that_takes_too_long_is_cancelled(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"statement_timeout": 0.1}))
    await connection.execute("BEGIN")
    await connection.execute("LOCK TABLE students")

    assert "did not finish a statement in time" in unavailable(await call(client, "GET", "/students"))
    assert "did not finish a statement in time" in unavailable(
        await call(client, "POST", "/students", student_fields())
    )

    await connection.execute("ROLLBACK")
    assert await new_student(client)


async def test_a_transaction_idle_for_too_long_reports_that_the_database_closed_the_connection(
    settings: Settings,
) -> None:
    async with database_of(settings.model_copy(update={"idle_in_transaction_timeout": 0.1})) as database:

        async def idle() -> None:
            async with database.writing() as connection:
                await until(lambda: closed(connection), "the server to close the connection")
                await connection.execute("SELECT 1")

        with pytest.raises(Unavailable, match="closed the connection between two statements"):
            await idle()
        assert await database.ping() is None


async def closed(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True


async def test_a_missing_server_is_reported_as_unreachable(settings: Settings, unused_tcp_port: int) -> None:
    missing = f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/x"
    async with database_of(settings.model_copy(update={"database_url": missing})) as database:
        with pytest.raises(Unavailable, match="can't be reached"):
            await database.ping()


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Stop processes of PostgreSQL, which keep their connections and do not answer."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="the processes of another server are not ours to stop")
async def test_while_the_database_is_frozen_every_caller_gets_503(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection
) -> None:
    limits = {"statement_timeout": 0.4, "command_timeout": 0.5, "acquire_timeout": 0.3, "admission_seconds": 0.2}
    client = await served(aiohttp_client, settings.model_copy(update={**limits, "pool_size": 4}))
    student, course = await new_student(client), await new_course(client)
    paths = [f"/students/{student}", "/students", f"/students/{student}/courses", f"/courses/{course}"]
    preview = f"/students/{student}/enroll?dry_run=true"
    await asyncio.gather(*(call(client, "GET", path) for path in paths * 2))
    before = await everything(connection)
    ours = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name <> ''"

    with frozen([row[0] for row in await connection.fetch(ours)]):
        previewing = call(client, "POST", preview, {"course_ids": [course]})
        reads = asyncio.gather(previewing, *(call(client, "GET", path) for path in paths))
        for answer in [*await writes_all(client, student, course), *await reads]:
            unavailable(answer)

    assert await everything(connection) == before

    async def served_again() -> bool:
        return (await enroll(client, student, course)).status == 201

    await until(served_again, "the service to recover")
    for path in paths:
        assert await status_of(client, path) == 200


@pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="the processes of another server are not ours to stop")
async def test_if_one_connection_does_not_answer_the_others_are_replaced(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection
) -> None:
    limits = {"statement_timeout": 0.4, "command_timeout": 0.5, "pool_size": 4}
    client = await served(aiohttp_client, settings.model_copy(update=limits))
    await asyncio.gather(*(call(client, "GET", "/students") for _ in range(8)))
    ours = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name <> ''"
    pids = [row[0] for row in await connection.fetch(ours)]
    assert len(pids) > 1

    with frozen(pids):
        assert "did not answer in time" in unavailable(await call(client, "GET", "/students"))
        assert await status_of(client, "/students") == 200


@pytest.mark.not_on_citus("the session that waits for the lock is on another node")
async def test_a_connection_lost_before_the_commit_writes_nothing_and_the_next_change_works(
    client: Client, connection: Connection, database_url: str
) -> None:
    student, course = await new_student(client), await new_course(client, capacity=1)
    before = await everything(connection)

    async with busy(database_url):
        enrolling = asyncio.create_task(enroll(client, student, course))
        await connection.execute("SELECT pg_terminate_backend($1::integer)", await waiting_writer(connection))
        problem(await enrolling, 503, "outcome_unknown")

    assert await everything(connection) == before
    assert (await enroll(client, student, course)).status == 201


@pytest.mark.not_on_citus("the session that waits for the lock is on another node")
async def test_a_connection_lost_during_the_writes_writes_nothing(
    client: Client, connection: Connection, database_url: str
) -> None:
    student, course = await new_student(client), await new_course(client, capacity=1)
    before = await everything(connection)
    blocker = await asyncpg.connect(database_url)
    await blocker.execute("BEGIN")
    await blocker.execute("LOCK TABLE student_courses IN SHARE MODE")

    enrolling = asyncio.create_task(enroll(client, student, course))
    await connection.execute("SELECT pg_terminate_backend($1::integer)", await waiting_writer(connection))
    problem(await enrolling, 503, "outcome_unknown")

    await blocker.close()
    assert await everything(connection) == before
    assert (await enroll(client, student, course)).status == 201


async def test_all_connections_lost_while_idle_are_replaced(client: Client, connection: Connection) -> None:
    await asyncio.gather(*(call(client, "GET", "/students") for _ in range(20)))
    ours = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'enrollment-service'"
    assert await connection.fetchval(f"SELECT count(pg_terminate_backend(pid)) {ours}") > 1
    statuses = []

    async def served_again() -> bool:
        statuses.append(await status_of(client, "/students"))
        return statuses[-1] == 200

    await until(served_again, "the pool to heal")
    assert set(statuses) <= {200, 503}
    assert await new_student(client)


async def writer_of(database: Database) -> int:
    """Open a write transaction without writing, and return the process id of its session."""
    async with database.writing() as connection:
        return connection.get_server_pid()


async def test_the_connection_for_changes_is_kept_for_them_and_counts_towards_the_pool_size(settings: Settings) -> None:
    async with database_of(settings.model_copy(update={"pool_size": 2, "acquire_timeout": 1.0})) as database:
        kept = await writer_of(database)
        async with database.reading():
            assert await writer_of(database) == kept
            with pytest.raises(Unavailable, match="available in time"):
                async with database.reading():
                    pass
        assert await writer_of(database) == kept


async def test_the_only_connection_of_a_pool_is_not_kept(settings: Settings) -> None:
    async with database_of(settings.model_copy(update={"pool_size": 1, "acquire_timeout": 1.0})) as database:
        written_by = await writer_of(database)
        async with database.reading() as connection:
            assert connection.get_server_pid() == written_by


async def test_a_kept_connection_that_is_lost_is_replaced_and_returns_its_slot_to_the_pool(
    settings: Settings, connection: Connection
) -> None:
    async with database_of(settings.model_copy(update={"pool_size": 2, "acquire_timeout": 1.0})) as database:
        for _ in range(3):
            lost = await writer_of(database)
            await connection.execute("SELECT pg_terminate_backend($1::integer)", lost)

            async def replaced(lost: int = lost) -> bool:
                with suppress(Unavailable):
                    return await writer_of(database) != lost
                return False

            await until(replaced, "another connection")
        async with database.reading():
            assert await writer_of(database)


async def test_if_a_connection_does_not_answer_the_kept_one_is_replaced(settings: Settings) -> None:
    async with database_of(settings.model_copy(update={"command_timeout": 0.3})) as database:
        kept = await writer_of(database)
        with pytest.raises(Unavailable, match="did not answer in time"):
            async with database.reading() as connection:
                await connection.execute("SELECT pg_sleep(3)")
        assert await writer_of(database) != kept


TERMINATE_AT_COMMIT = """
CREATE FUNCTION break_connection() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER break_connection AFTER INSERT ON events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION break_connection();
"""
CANCEL_AT_COMMIT = TERMINATE_AT_COMMIT.replace("PERFORM pg_terminate_backend(pg_backend_pid())", "PERFORM pg_sleep(60)")
FAIL_AT_COMMIT = TERMINATE_AT_COMMIT.replace(
    "PERFORM pg_terminate_backend(pg_backend_pid())", "RAISE EXCEPTION 'hidden'"
)


@pytest.mark.not_on_citus("distributed tables have no triggers")
@pytest.mark.parametrize("fault", [TERMINATE_AT_COMMIT, CANCEL_AT_COMMIT])
async def test_a_connection_lost_during_the_commit_is_reported_as_an_unknown_outcome(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection, fault: str
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"command_timeout": 0.3}))
    await connection.execute(fault)

    answer = await call(client, "POST", "/students", student_fields())

    problem(answer, 503, "outcome_unknown")
    assert int(answer.headers["Retry-After"]) > 0
    await connection.execute("DROP FUNCTION break_connection() CASCADE")
    assert await new_student(client)


@pytest.mark.not_on_citus("distributed tables have no triggers")
async def test_a_refused_commit_is_an_internal_error_and_writes_nothing(client: Client, connection: Connection) -> None:
    before = await everything(connection)
    await connection.execute(FAIL_AT_COMMIT)

    answer = await call(client, "POST", "/students", student_fields())

    problem(answer, 500, "internal_error")
    assert "hidden" not in str(answer.body)
    assert await everything(connection) == before
    await connection.execute("DROP FUNCTION break_connection() CASCADE")
    assert await new_student(client)


@pytest.fixture
def late_database(server: Server, database_url: str) -> Iterator[str]:
    """Yield the URL of a database that does not exist yet; a test may create it."""
    server.own_database()
    parts = urlsplit(database_url)
    name = f"{parts.path.removeprefix('/')}_late"
    try:
        yield urlunsplit(parts._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.parametrize("migrate_on_start", [True, False])
async def test_the_service_waits_for_a_database_that_is_not_up_yet(
    settings: Settings,
    aiohttp_client: AiohttpClient,
    connection: Connection,
    late_database: str,
    migrate_on_start: bool,
) -> None:
    urls = {"database_url": late_database, "migration_database_url": None}
    changes = {**urls, "migrate_on_start": migrate_on_start, "retry_ceiling": 0.1}
    client = await aiohttp_client(create_app(settings.model_copy(update=changes)))

    for _ in range(2):
        assert await status_of(client, "/health/live") == 200
        for path in ("/health/ready", "/students", "/courses/1"):
            unavailable(await call(client, "GET", path))
        unavailable(await call(client, "POST", "/students", student_fields()))
        await asyncio.sleep(0.2)
    name = urlsplit(late_database).path.removeprefix("/")
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")

    if not migrate_on_start:
        unavailable(await call(client, "GET", "/health/ready"))
        await asyncio.to_thread(migrate, late_database)

    async def ready() -> bool:
        return await status_of(client, "/health/ready") == 200

    await until(ready, "readiness")
    assert await new_student(client)
    await client.close()


async def test_a_database_that_is_not_migrated_is_not_ready(
    settings: Settings, aiohttp_client: AiohttpClient, empty_database_url: str
) -> None:
    changes = {"database_url": empty_database_url, "migrate_on_start": False, "retry_ceiling": 0.1}
    client = await aiohttp_client(create_app(settings.model_copy(update=changes)))

    for _ in range(3):
        unavailable(await call(client, "GET", "/health/ready"))
        await asyncio.sleep(0.05)


async def test_the_service_is_unavailable_while_its_database_is_missing(
    settings: Settings,
    aiohttp_client: AiohttpClient,
    connection: Connection,
    late_database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = urlsplit(late_database).path.removeprefix("/")
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    urls = {"database_url": late_database, "migration_database_url": None}
    late = settings.model_copy(update={**urls, "migrate_on_start": True})
    client = await served(aiohttp_client, late)
    student = await new_student(client)
    terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"

    async def renamed(old: str, new: str) -> bool:
        await connection.fetchval(terminate, old)
        try:
            await connection.execute(f"ALTER DATABASE {old} RENAME TO {new}")
        except asyncpg.ObjectInUseError:
            return False
        return True

    await until(lambda: renamed(name, f"{name}_away"), "the database to be free")
    try:
        await status_of(client, "/students")
        for _ in range(3):
            assert "does not exist" in unavailable(await call(client, "GET", f"/students/{student}"))
            assert "does not exist" in unavailable(await call(client, "POST", "/students", student_fields()))
            assert "does not exist" in unavailable(await call(client, "GET", "/health/ready"))
        assert await status_of(client, "/health/live") == 200
    finally:
        await until(lambda: renamed(f"{name}_away", name), "the database to be free")
    assert (await read(client, f"/students/{student}"))["id"] == student
    await client.close()
    lines = [line.message for line in caplog.records if line.name == "service.pool"]
    assert lines == ["the database is lost", "the database is back"]


async def test_a_schema_change_between_two_calls_causes_no_error(client: Client, connection: Connection) -> None:
    student, course = await new_student(client, external_id="S1"), await new_course(client)
    for change in (
        "ALTER TABLE students ADD COLUMN nickname text, ALTER COLUMN given_name TYPE varchar(200)",
        "ALTER TABLE courses ADD COLUMN room text, ALTER COLUMN title TYPE varchar(200)",
        "ALTER TABLE student_courses ADD COLUMN note text, ALTER COLUMN status TYPE varchar(20)",
        "ALTER TABLE students DROP COLUMN nickname, ALTER COLUMN given_name TYPE text",
    ):
        # Two rounds, so that the cached plans of several connections become stale.
        for _ in range(2):
            answers = await asyncio.gather(
                *(
                    call(client, "GET", path)
                    for path in (f"/students/{student}", f"/courses/{course}")
                    for _ in range(4)
                ),
                *(call(client, "GET", f"/students/{student}/courses") for _ in range(4)),
                call(client, "PUT", "/students/by-external-id/S1", student_fields()),
                call(client, "PATCH", f"/courses/{course}", {"title": change}),
                enroll(client, student, course),
                drop(client, await new_student(client), course),
            )
            assert {answer.status for answer in answers} <= {200, 201, 404}
            answer = await drop(client, student, course)
            assert answer.status == 200
        await connection.execute(change)
    assert (await enroll(client, student, course)).status == 201
    for invariant, find in INVARIANTS.items():
        assert list(await find(connection)) == [], invariant
