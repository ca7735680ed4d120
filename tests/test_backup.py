"""Backups, restored by the scripts in ``ops/``: the data are complete, and readers of the feed are told what was lost."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from pytest_aiohttp import AiohttpClient

from service.check import check
from service.demo import fill
from service.embedded import _find_binaries, embedded_server
from service.migrate import migrate
from service.settings import Settings
from sql import Connection
from tests.campus import TABLES, call, new_student, problem, read, served, until
from tests.conftest import Client
from tests.test_process import ROOT


def script(name: str, *arguments: object, fails: bool = False, **variables: str) -> str:
    """Run a script of ``ops/`` with the programs of the tests' server, and return its output."""
    paths = f"{_find_binaries()}:{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "ops" / name, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PATH": paths, "PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout


async def counts(connection: Connection) -> dict[str, int]:
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def follow(client: Client) -> list[str]:
    """Read the feed to its end, and return the cursors on the way."""
    cursors = [""]
    while True:
        page = await read(client, f"/events?limit=500{cursors[-1] and '&after='}{cursors[-1]}")
        if not page["items"]:
            return cursors[1:]
        cursors.append(page["next"])


@pytest.mark.not_on_citus("pg_dump sees no rows of distributed tables")
async def test_a_backup_is_restored_in_place_and_into_another_database(
    client: Client,
    settings: Settings,
    database_url: str,
    empty_database_url: str,
    connection: Connection,
    aiohttp_client: AiohttpClient,
    tmp_path: Path,
) -> None:
    assert await fill(settings, "small") == 0
    cursors, before = await follow(client), await counts(connection)
    file = tmp_path / "enrollment.dump"
    assert f"backed up the schema public into {file}" in script("backup.sh", file, DATABASE_URL=database_url)

    lost = await new_student(client)
    after_loss = (await read(client, "/events/head"))["next"]
    assert "FAULT" not in script(
        "restore.sh", file, DATABASE_URL=str(settings.database_url), MIGRATION_DATABASE_URL=database_url
    )

    assert await counts(connection) == before
    problem(await call(client, "GET", f"/students/{lost}"), 404, "student_not_found")
    problem(await call(client, "GET", f"/events?after={after_loss}"), 410, "cursor_expired")
    assert (await read(client, f"/events?after={cursors[-1]}"))["items"] == [], "nothing before the backup is lost"
    await new_student(client)
    problem(await call(client, "GET", f"/events?after={after_loss}"), 410, "cursor_expired")
    assert len((await read(client, f"/events?after={cursors[-1]}"))["items"]) == 1

    half = tmp_path / "half.dump"
    half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    now = await counts(connection)
    script("restore.sh", half, fails=True, DATABASE_URL=database_url)
    assert await counts(connection) == now, "a file that ends early changes nothing"

    assert "FAULT" not in script("restore.sh", file, DATABASE_URL=empty_database_url)
    copy = await served(aiohttp_client, Settings(database_url=empty_database_url, port=0))
    assert len(await follow(copy)) == len(cursors)
    for cursor in (cursors[0], cursors[-1], after_loss):
        problem(await call(copy, "GET", f"/events?after={cursor}"), 410, "cursor_expired")


async def test_a_server_is_restored_to_an_instant_from_a_base_backup_and_its_wal(
    data_dir: Path, aiohttp_client: AiohttpClient
) -> None:
    data_dir.mkdir()
    data_dir.chmod(0o711)
    wal, base, restored = data_dir / "wal", data_dir / "base", data_dir / "restored"
    wal.mkdir()
    wal.chmod(0o777)
    archive = f"test ! -f {wal}/%f && cp %p {wal}/%f.partial && mv {wal}/%f.partial {wal}/%f"
    with embedded_server(data_dir / "primary", options={"archive_mode": "on", "archive_command": archive}) as url:
        migrate(url)
        client = await served(aiohttp_client, Settings(database_url=url, migrate_on_start=False, port=0))
        await new_student(client)
        script("base-backup.sh", url, base)
        kept = await new_student(client)
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None
            lost = await new_student(client)
            cursor = (await read(client, "/events/head"))["next"]
            segment = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert segment is not None
        await client.close()
        archived = wal / str(segment[0])

        async def is_archived() -> bool:
            return archived.exists()

        await until(is_archived, "the WAL to be archived")
        owner = (data_dir / "primary" / "cluster").stat()

    restored.mkdir()
    script("restore-to.sh", base, wal, restored / "cluster", row[0].isoformat(sep=" "))
    (restored / "cluster" / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
    for path in (restored, *restored.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    with embedded_server(restored) as url:
        client = await served(aiohttp_client, Settings(database_url=url, migrate_on_start=False, port=0))
        assert (await read(client, f"/students/{kept}"))["id"] == kept
        problem(await call(client, "GET", f"/students/{lost}"), 404, "student_not_found")
        problem(await call(client, "GET", f"/events?after={cursor}"), 410, "cursor_expired")
        await new_student(client)
        problem(await call(client, "GET", f"/events?after={cursor}"), 410, "cursor_expired")
        assert len((await read(client, "/events"))["items"]) == 3
        assert await check(Settings(database_url=url)) == 0
        await client.close()
