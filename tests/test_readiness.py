"""A database that answers reads and refuses changes: the service is not ready, says why, and recovers by itself."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pytest_aiohttp import AiohttpClient

from service.settings import Settings
from tests.campus import (
    Answer,
    call,
    create,
    enroll,
    new_course,
    new_student,
    read,
    served,
    student_fields,
    until,
    until_ready,
)
from tests.conftest import Client, Server
from tests.test_database_failure import unavailable

FULL = "The disk of the database is full."
MAX_CHANGES = 500
"""Most changes that fit into the free space of the pages of a table."""


@pytest.fixture
def small_disk(admin: psycopg.Connection[object]) -> Iterator[Path]:
    """Yield a folder on a file system of 32 MB that belongs to the server's account."""
    folder = Path(tempfile.mkdtemp(prefix="enrollment-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("this account can't mount a file system")
    try:
        row = admin.execute("SELECT current_setting('data_directory')").fetchone()
        assert row is not None
        data = Path(str(row[0]))  # type: ignore[index]
        if not data.exists():
            pytest.skip("the server is on another machine")
        os.chown(folder, data.stat().st_uid, data.stat().st_gid)
        folder.chmod(0o700)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def small_database(small_disk: Path, server: Server, admin: psycopg.Connection[object]) -> Iterator[str]:
    """Yield the URL of a migrated database on the small file system."""
    name = f"{server.run}_small"
    admin.execute(
        sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(name), sql.Literal(str(small_disk)))
    )
    try:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {server.template} TABLESPACE {name} STRATEGY {server.strategy}")
        yield server.url_of(name)
    finally:
        with suppress(psycopg.Error):
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"DROP TABLESPACE {name}")


async def test_a_full_disk_is_called_a_full_disk_and_the_service_is_not_ready_until_there_is_room(
    small_database: str,
    small_disk: Path,
    server: Server,
    settings: Settings,
    aiohttp_client: AiohttpClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    urls = {"database_url": server.as_service(small_database), "migration_database_url": small_database}
    client = await served(aiohttp_client, settings.model_copy(update=urls))
    course = await new_course(client, capacity=10_000)
    students = [await new_student(client) for _ in range(MAX_CHANGES // 10)]
    filler = small_disk / "filler"
    fill(filler)

    answers = [answer for answer in [await enroll(client, id, course) for id in students] if answer.status != 201]
    more = await refused(client)

    for answer in (*answers, more):
        assert unavailable(answer) == FULL, "and never an unknown outcome"
    assert len((await read(client, "/courses"))["items"]) == 1, "reads are answered"
    for _ in range(3):
        assert unavailable(await call(client, "GET", "/health/ready")) == FULL
    assert (await call(client, "GET", "/health/live")).status == 200
    assert [record.message for record in caplog.records].count("the database refuses changes") == 1

    filler.unlink()

    assert (await call(client, "GET", "/health/ready")).status == 200, "without any other request"
    await new_student(client)
    assert "the database accepts changes again" in [record.message for record in caplog.records]


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


async def refused(client: Client) -> Answer:
    """Create students with long names until one is refused, and return that answer."""
    for _ in range(MAX_CHANGES):
        answer = await call(client, "POST", "/students", student_fields(family_name="x" * 100))
        if answer.status != 201:
            return answer
    raise AssertionError("the disk is not full")


@pytest.mark.not_on_citus("it has no database of its own")
async def test_a_database_that_becomes_read_only_is_not_ready_until_it_is_writable_again(
    client: Client, database_url: str, admin: psycopg.Connection[object]
) -> None:
    await create(client, "/students", student_fields())
    sentence = "The database is read-only, like a standby."

    async def is_read_only() -> bool:
        return unavailable(await call(client, "GET", "/health/ready")) == sentence

    switch(database_url, admin, "on")
    await until(is_read_only, "the lost connections are replaced")
    assert unavailable(await call(client, "POST", "/students", student_fields())) == sentence
    assert len((await read(client, "/students"))["items"]) == 1

    switch(database_url, admin, "off")
    await until_ready(client)
    await create(client, "/students", student_fields())


def switch(database_url: str, admin: psycopg.Connection[object], value: str) -> None:
    """Let transactions of a database be read-only by default or not, and end its sessions."""
    name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(database_url)["dbname"])  # type: ignore[arg-type]
    admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(name, sql.Literal(value)))
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
        [psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]],
    )
