"""A database or a service that a test left behind is as empty as a new one before the next test uses it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import call, enroll, new_course, new_student
from tests.conftest import REUSED_BYTES, Copy, Server, copy, make_empty
from tests.test_auth import bearer, new_key

FILL = """
    INSERT INTO students (given_name, family_name, email) VALUES ('Ada', 'Lovelace', 'ada@campus.example');
    INSERT INTO courses (code, title) VALUES ('C1', 'Course');
    INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
    VALUES (1, 1, 'waitlisted', 1, now(), now());
    INSERT INTO registry.institutions (name, schema_name, display_name, time_zone, state, revision, created_at, changed_at, swept_at)
    VALUES ('north', 'north', 'North', 'UTC', 'active', 1, now(), now(), now());
    UPDATE registry.registry SET revision = 7;
    UPDATE feed SET timeline = 3
"""


def rows(url: str) -> dict[str, Any]:
    """Return the rows of every table without the epoch, which is random, and the last values of the sequences."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384"
        ).fetchall()
        return {
            "sequences": connection.execute("SELECT * FROM pg_sequences").fetchall(),
            **{
                table: connection.execute(
                    f"SELECT to_jsonb({table.split('.')[-1]}) - 'epoch' FROM {table}".encode()
                ).fetchall()
                for (table,) in tables
            },
        }


@pytest.fixture
def copied(server: Server, admin: psycopg.Connection[Any]) -> Iterator[Copy]:
    """Yield a copy of the template."""
    database = Copy(copy(server, admin, server.template))
    yield database
    database.drop(server, admin)


def test_an_emptied_database_has_the_rows_of_a_new_one(
    server: Server, admin: psycopg.Connection[Any], copied: Copy
) -> None:
    new = rows(server.url_of(copied.name))
    for _ in range(2):
        with psycopg.connect(server.url_of(copied.name)) as connection:
            connection.execute(FILL)
        assert rows(server.url_of(copied.name)) != new
        assert make_empty(server, admin, copied)
        assert rows(server.url_of(copied.name)) == new


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE a ()",
        "CREATE TEMPORARY TABLE a ()",
        "DROP INDEX students_email_key",
        "ALTER TABLE students DISABLE TRIGGER ALL",
        "GRANT SELECT ON students TO PUBLIC",
        "TRUNCATE students CASCADE",
        "DELETE FROM _yoyo_migration",
        "ANALYZE feed",
        "SELECT lo_create(0)",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''1MB''', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 0', current_database()); END $$",
        f"INSERT INTO courses (code, title) SELECT n, 'T' FROM generate_series(1, {REUSED_BYTES} / 50) AS n",
    ],
)
def test_a_database_with_other_changes_is_dropped(
    server: Server, admin: psycopg.Connection[Any], copied: Copy, statement: str
) -> None:
    with psycopg.connect(server.url_of(copied.name)) as connection:
        connection.execute(statement.encode())
    assert not make_empty(server, admin, copied)
    assert admin.execute("SELECT FROM pg_database WHERE datname = %s", [copied.name]).fetchone() is None


def test_a_database_in_use_is_dropped(server: Server, admin: psycopg.Connection[Any], copied: Copy) -> None:
    connection = psycopg.connect(server.url_of(copied.name))
    assert not make_empty(server, admin, copied)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT")
    connection.close()


service = shared.SERVICE[1]


@shared.in_one_loop
@pytest.mark.not_on_citus("reads every table of the database")
async def test_a_shared_service_that_was_reset_has_the_rows_of_a_new_one_and_remembers_nothing(
    service: shared.Shared, shared_settings: Settings, shared_connection: Connection
) -> None:
    url = shared_settings.owner_url or ""
    first = await service.reset()
    new, epoch = rows(url), await shared_connection.fetchval("SELECT epoch FROM feed")
    for _ in range(2):
        # Memory would know the course, and a refusal would be written later.
        course, student = await new_course(first, capacity=0), await new_student(first)
        assert (await enroll(first, student, course)).status == 409
        assert rows(url) != new
        assert await service.reset() is first
        assert rows(url) == new
        assert await shared_connection.fetchval("SELECT epoch FROM feed") != epoch
        assert (await call(first, "GET", f"/courses/{course}")).status == 404
        await asyncio.sleep(0.3)
        assert rows(url) == new


@shared.in_one_loop
async def test_a_shared_service_forgets_its_keys(service: shared.Shared) -> None:
    keys = []
    for _ in range(2):
        client = await service.reset()
        keys.append(await new_key(client, "read"))
        assert (await call(client, "GET", "/students")).status == 401
        statuses = [(await call(client, "GET", "/students", headers=bearer(key))).status for key in keys]
        assert statuses == [401, 200][-len(keys) :]
    assert (await call(await service.reset(), "GET", "/students")).status == 200


@shared.in_one_loop
@pytest.mark.not_on_citus("there, the schema is not compared")
async def test_a_change_of_the_schema_of_a_shared_service_is_an_error(
    service: shared.Shared, shared_connection: Connection
) -> None:
    await service.reset()
    await shared_connection.execute("ALTER TABLE holds ADD CONSTRAINT not_it CHECK (id <> 9)")
    with pytest.raises(AssertionError, match="changed the schema"):
        await service.reset()


async def test_a_task_that_a_test_leaves_is_found() -> None:
    async def left() -> None:
        await asyncio.Event().wait()

    [own] = shared.left_tasks()
    task = asyncio.create_task(left())
    assert {*shared.left_tasks()} == {own, task}
    task.cancel()
