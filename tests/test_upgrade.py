"""An upgrade and its rollback without downtime: the last two versions of the schema, side by side under load."""

import asyncio
import itertools
import subprocess
from pathlib import Path

import aiohttp
import psycopg
import pytest

from service.check import check
from service.migrate import migrate, migrate_to, shipped
from service.registry import commands
from service.settings import Settings
from tests.campus import course_fields, student_fields
from tests.test_process import ROOT, run, serving, serving_from

CALLERS = 4
CHANGES_EACH = 15
"""Changes of each caller in each phase: students, each with a seat and without it again."""


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Return a folder with the sources as they were before the newest migration was merged."""
    path = f"migrations/{shipped()[-1]}.sql"
    history = [
        "log",
        "--first-parent",
        "--no-patch",
        "--diff-merges=first-parent",
        "--diff-filter=A",
        "--format=%H",
        "--",
        path,
    ]
    commits = git(*history).decode().split()
    if not commits or git("rev-parse", "--quiet", "--verify", f"{commits[-1]}^1") == b"":
        pytest.skip("there is no git history that contains the newest migration")
    folder = tmp_path / "before"
    folder.mkdir()
    subprocess.run(["tar", "--extract"], cwd=folder, input=git("archive", f"{commits[-1]}^1"), check=True)
    return folder


def git(*arguments: str) -> bytes:
    """Return the output of git in the repository; empty if it fails."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False).stdout


async def test_both_versions_serve_during_an_upgrade_and_a_rollback(before: Path, empty_database_url: str) -> None:
    old_migrations = sorted(path.name for path in (before / "migrations").glob("*.sql"))
    assert old_migrations != sorted(path.name for path in (ROOT / "migrations").glob("*.sql"))
    previous = shipped()[-2]
    url = empty_database_url
    migrate_to(url, previous)
    async with serving_from(before, DATABASE_URL=url) as old, aiohttp.ClientSession() as session:
        async with session.post(f"{old.url}/courses", json=course_fields(capacity=1000)) as response:
            course = (await response.json())["id"]
        await asyncio.gather(load(session, [old.url], course), upgrade(url))
        async with serving(DATABASE_URL=url) as new:
            await load(session, [old.url, new.url], course)
        await asyncio.gather(load(session, [old.url], course), roll_back(url, previous))
        await load(session, [old.url], course)
    await upgrade(url)

    made = 4 * CALLERS * CHANGES_EACH
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1 + 3 * made,)
    assert await check(Settings(database_url=url)) == 0


async def load(session: aiohttp.ClientSession, urls: list[str], course: int) -> None:
    """Let callers make changes, each by the services in turn; assert that every one succeeds."""

    async def call(method: str, url: str, status: int, body: object = None) -> dict[str, int]:
        async with session.request(method, url, json=body) as response:
            assert response.status == status, await response.text()
            found: dict[str, int] = await response.json()
            return found

    async def caller() -> None:
        turns = itertools.cycle(urls)
        for _ in range(CHANGES_EACH):
            student = (await call("POST", f"{next(turns)}/students", 201, student_fields()))["id"]
            path = f"/students/{student}"
            await call("POST", f"{next(turns)}{path}/enroll", 201, {"course_ids": [course]})
            await call("DELETE", f"{next(turns)}{path}/courses/{course}", 200)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def upgrade(url: str) -> None:
    assert await asyncio.to_thread(migrate, url) == [shipped()[-1]]


async def roll_back(url: str, to: str) -> None:
    ended = await run("migrate", "--to", to, DATABASE_URL=url)
    assert (ended.status, ended.out.splitlines()[-1]) == (0, f"rolled back {shipped()[-1]}"), ended.err


async def test_a_rollback_with_a_registry_changes_every_institution(
    empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(database_url=empty_database_url, registry_schema="registry")
    for name in ("north", "south"):
        await commands.create(settings, name, None, None, None)
    newest, previous = shipped()[-1], shipped()[-2]
    capsys.readouterr()

    await commands.migrate_all_to(settings, previous, discard_data=False)
    assert capsys.readouterr().out.splitlines() == [
        f"institution {name}: rolled back {newest}" for name in ("north", "south")
    ]
    await commands.list_all(settings)
    assert capsys.readouterr().out.count(f"{previous} (behind)") == 2

    await commands.migrate_all(settings)
    await commands.migrate_all_to(settings, newest, discard_data=False)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"institution {name}: nothing to do" for name in ("north", "south")
    ]
