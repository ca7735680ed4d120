"""The service refuses a server that could lose confirmed changes, both at its start and while it runs."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from service.embedded import embedded_server
from tests.campus import call, new_student, problem, until, until_ready
from tests.conftest import Client
from tests.test_process import run

Admin = psycopg.Connection[Any]


def name_of(database_url: str) -> sql.Identifier:
    return sql.Identifier(urlsplit(database_url).path[1:])


@pytest.mark.parametrize(
    ("change", "level", "migrates"),
    [
        ("ALTER DATABASE {} SET synchronous_commit = off", "off", True),
        ("ALTER DATABASE {} SET synchronous_commit = off", "off", False),
        ("ALTER ROLE CURRENT_USER IN DATABASE {} SET synchronous_commit = local", "local", False),
        ("ALTER ROLE CURRENT_USER IN DATABASE {} SET synchronous_commit = remote_write", "remote_write", False),
    ],
)
async def test_the_service_does_not_start_if_commits_are_asynchronous(
    database_url: str, admin: Admin, change: str, level: str, migrates: bool
) -> None:
    admin.execute(sql.SQL(change).format(name_of(database_url)))

    ended = await run(DATABASE_URL=database_url, MIGRATE_ON_START=migrates)

    assert ended.status == 1
    assert f"error: synchronous_commit is {level}: an enrollment could be lost" in ended.err


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_the_service_does_not_start_if_a_crash_could_destroy_the_database(data_dir: Path, setting: str) -> None:
    with embedded_server(data_dir, options={setting: "off"}) as url:
        for arguments, migrates in (("migrate", True), ("serve", True), ("serve", False)):
            ended = await run(arguments, DATABASE_URL=url, MIGRATE_ON_START=migrates)

            assert ended.status == 1, arguments
            assert f"error: {setting} is off: a crash of the machine could destroy the database" in ended.err, arguments


async def test_workers_do_not_start_on_an_unfit_server_that_they_did_not_migrate(
    database_url: str, admin: Admin
) -> None:
    admin.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name_of(database_url)))

    ended = await run("--workers", "2", DATABASE_URL=database_url, MIGRATE_ON_START=False)

    assert ended.status == 1
    assert "error: synchronous_commit is off" in ended.err


def break_connections(admin: Admin, database_url: str) -> None:
    """End all sessions of the service, as a failover does."""
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
        [urlsplit(database_url).path[1:]],
    )


async def test_a_running_service_confirms_nothing_while_its_server_is_unfit(
    client: Client, database_url: str, admin: Admin
) -> None:
    student = await new_student(client)
    admin.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name_of(database_url)))
    break_connections(admin, database_url)

    async def refused(method: str, path: str, body: object = None) -> None:
        async def fails() -> bool:
            # The first calls may fail because their connection was ended.
            body_of_problem = problem(await call(client, method, path, body), 503, "unavailable")
            return "synchronous_commit is off" in body_of_problem["detail"]

        await until(fails, f"{method} {path} to be refused")

    await refused("GET", "/health/ready")
    await refused("PATCH", f"/students/{student}", {"given_name": "Grace"})
    await refused("GET", f"/students/{student}")

    admin.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(name_of(database_url)))
    await until_ready(client)
    assert (await call(client, "GET", f"/students/{student}")).body["given_name"] == "Ada"
