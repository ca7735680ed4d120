"""A restore or a failover that loses events: cursors expire, and no process remembers a lost change."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from pytest_aiohttp import AiohttpClient

from service.api.events import LONG_POLL_SECONDS, POLLER
from service.database import Database
from service.embedded import _find_binaries, embedded_server
from service.errors import Unavailable
from service.migrate import DatabaseUnavailable, migrate
from service.registrar import catalog
from service.settings import Settings
from tests.campus import call, enroll, new_course, new_student, problem, read, served, until, until_ready
from tests.conftest import Client


def program(name: str, *arguments: str) -> bytes:
    """Run a program of PostgreSQL and return its output."""
    return subprocess.run([str(_find_binaries() / name), *arguments], check=True, capture_output=True).stdout


async def require(client: Client, course: int) -> None:
    """Add a prerequisite that no student has passed."""
    groups = [{"kind": "pre", "any_of": ["NOTHING"]}]
    assert (await call(client, "PUT", f"/courses/{course}/requirements", {"groups": groups})).status == 200


async def is_enrolled(client: Client, student: int, course: int) -> bool:
    """Enroll a student; return whether it succeeded, and assert that any refusal names a missing prerequisite."""
    answer = await enroll(client, student, course)
    if answer.status != 201:
        assert [error["code"] for error in answer.body["errors"]] == ["prerequisite_missing"], answer
    return answer.status == 201


@pytest.mark.parametrize("others", [0, 2, 3, 4])
async def test_a_cursor_expires_if_a_restore_loses_its_event(client: Client, database_url: str, others: int) -> None:
    for _ in range(3):
        await new_student(client)
    kept = (await read(client, "/events?limit=2"))["next"]
    last = (await read(client, "/events/head"))["next"]
    dump = program("pg_dump", "--format=plain", "--clean", f"--dbname={database_url}")
    for _ in range(3):
        await new_student(client)
    lost = (await read(client, "/events/head"))["next"]
    assert (await read(client, f"/events?after={lost}"))["items"] == []

    restore(database_url, dump)
    for _ in range(others):
        await new_student(client)

    problem(await call(client, "GET", f"/events?after={lost}"), 410, "cursor_expired")
    problem(await call(client, "GET", f"/events?after={lost}&wait=1"), 410, "cursor_expired")
    positions = [event["position"] for event in (await read(client, f"/events?after={kept}"))["items"]]
    assert positions == list(range(3, 4 + others))
    assert len((await read(client, f"/events?after={last}"))["items"]) == others


def restore(database_url: str, dump: bytes) -> None:
    """Restore a dump into the same database and replace its contents, as ``pg_restore --clean`` does."""
    command = [str(_find_binaries() / "psql"), "--no-psqlrc", "--quiet", f"--dbname={database_url}"]
    subprocess.run(command, input=dump, check=True, capture_output=True)


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_no_process_remembers_a_requirement_that_a_restore_lost(
    client: Client, settings: Settings, aiohttp_client: AiohttpClient, database_url: str, others: int
) -> None:
    student, course = await new_student(client), await new_course(client)
    other = await served(aiohttp_client, settings)
    dump = program("pg_dump", "--format=plain", "--clean", f"--dbname={database_url}")
    await require(client, course)
    assert not await is_enrolled(client, student, course)

    restore(database_url, dump)
    for _ in range(others):
        await new_student(other)

    assert await is_enrolled(client, student, course)


async def test_after_too_many_edits_by_others_everything_is_read_again(
    client: Client, settings: Settings, aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MAX_EDITS", 3)
    student, course = await new_student(client), await new_course(client)
    assert await is_enrolled(client, student, course)
    other = await served(aiohttp_client, settings)
    for edits in (1, 2, 3, 4, 9):
        late = await new_course(client)
        assert await is_enrolled(client, await new_student(client), late)
        for _ in range(edits - 1):
            await new_course(other)
        await require(other, late)

        assert not await is_enrolled(client, await new_student(client), late), edits


@dataclass(slots=True)
class Pair:
    """A primary with a streaming standby, and one URL that finds the server that accepts changes."""

    primary: ExitStack
    primary_url: str
    standby_url: str

    @property
    def url(self) -> str:
        [first, second] = [parse_qs(urlsplit(url).query)["host"][0] for url in (self.primary_url, self.standby_url)]
        query = f"host={first},{second}&port=5432,5432&target_session_attrs=primary"
        return f"{self.primary_url.partition('?')[0]}?{query}"

    def cut(self) -> None:
        """Stop the standby from receiving further changes of the primary."""
        with psycopg.connect(self.standby_url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")
            for _ in range(1000):
                if connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() == (0,):
                    return
                connection.execute("SELECT pg_sleep(0.01)")
        raise AssertionError("the standby still streams")

    def catch_up(self) -> None:
        """Wait until the standby has received every change of the primary."""
        with psycopg.connect(self.primary_url, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert row is not None
        with psycopg.connect(self.standby_url, autocommit=True) as connection:
            for _ in range(1000):
                if connection.execute("SELECT pg_last_wal_replay_lsn() >= %s", row).fetchone() == (True,):
                    return
                connection.execute("SELECT pg_sleep(0.01)")
        raise AssertionError("the standby lags")

    def fail_over(self) -> None:
        """Stop the primary and promote the standby."""
        self.primary.close()
        with psycopg.connect(self.standby_url, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)


@contextmanager
def started_pair(data_dir: Path) -> Iterator[Pair]:
    """Run a migrated primary and its standby while the context lasts."""
    with ExitStack() as primary, ExitStack() as standby:
        primary_url = primary.enter_context(embedded_server(data_dir / "primary"))
        migrate(primary_url)
        folder = data_dir / "standby"
        folder.mkdir()
        program(
            "pg_basebackup",
            f"--dbname={primary_url}",
            f"--pgdata={folder / 'cluster'}",
            *("--checkpoint=fast", "--write-recovery-conf", "--no-sync"),
        )
        # These are the options of the primary, whose socket is in its data folder.
        (folder / "cluster" / ".s.PGSQL.5432.lock").unlink()
        owner = (data_dir / "primary" / "cluster").stat()
        for path in (folder, folder / "cluster", *(folder / "cluster").rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        standby_url = standby.enter_context(embedded_server(folder))
        yield Pair(primary, primary_url, standby_url)


@pytest.fixture
def pair(data_dir: Path) -> Iterator[Pair]:
    data_dir.mkdir()
    data_dir.chmod(0o711)
    with started_pair(data_dir) as pair:
        yield pair


async def test_after_a_failover_cursors_expire_and_running_services_forget_lost_changes(
    pair: Pair, aiohttp_client: AiohttpClient
) -> None:
    settings = Settings(database_url=pair.url, migrate_on_start=False, port=0)
    client, other = await served(aiohttp_client, settings), await served(aiohttp_client, settings)
    student, course = await new_student(client), await new_course(client)
    kept = (await read(client, "/events/head"))["next"]
    pair.catch_up()
    pair.cut()
    # The failover loses all changes from here on.
    await require(client, course)
    for each in (client, other):
        assert not await is_enrolled(each, student, course)
    for _ in range(4):
        await new_student(other)
    lost = (await read(client, "/events/head"))["next"]
    reader = asyncio.create_task(call(client, "GET", f"/events?wait={LONG_POLL_SECONDS}&after={lost}"))

    assert client.app is not None
    poller = client.app[POLLER]

    async def waits() -> bool:
        return bool(poller._waiting)

    await until(waits, "a waiting reader")

    await asyncio.to_thread(pair.fail_over)

    problem(await reader, 410, "cursor_expired")
    for each in (other, client):
        await until_ready(each)
        for _ in range(3):
            await new_student(each)
        for cursor in (lost, kept):
            problem(await call(each, "GET", f"/events?after={cursor}"), 410, "cursor_expired")
    late = await served(aiohttp_client, settings)
    problem(await call(late, "GET", f"/events?after={kept}"), 410, "cursor_expired")
    head = (await read(client, "/events/head"))["next"]
    for each in (other, late):
        assert (await read(each, f"/events?after={head}"))["items"] == [], "they agree on the epoch"
    for each in (client, other, late):
        assert await is_enrolled(each, await new_student(client), course)


async def test_a_service_that_starts_right_after_a_promotion_begins_a_new_epoch(
    pair: Pair, aiohttp_client: AiohttpClient
) -> None:
    client = await served(aiohttp_client, Settings(database_url=pair.primary_url, migrate_on_start=False, port=0))
    await new_student(client)
    cursor = (await read(client, "/events/head"))["next"]
    await client.close()
    pair.catch_up()
    await asyncio.to_thread(pair.fail_over)

    late = await served(aiohttp_client, Settings(database_url=pair.standby_url, migrate_on_start=False, port=0))

    problem(await call(late, "GET", f"/events?after={cursor}"), 410, "cursor_expired")
    assert len((await read(late, "/events"))["items"]) == 1


async def test_a_standby_is_refused_with_the_reason(pair: Pair) -> None:
    with pytest.raises(DatabaseUnavailable, match="a standby and accepts no changes: connect to the primary"):
        migrate(pair.standby_url)
    database = Database(Settings(database_url=pair.standby_url))
    await database.open()
    for use in (database.reading, database.viewing, database.writing):
        with pytest.raises(Unavailable, match="a standby and accepts no changes: connect to the primary"):
            async with use():
                pass
    await database.close()
