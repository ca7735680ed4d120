"""A restore or a failover that loses events: readers of the feed learn of it, and no process remembers what was lost."""

import subprocess

import pytest
from pytest_aiohttp import AiohttpClient

from service.embedded import _find_binaries
from service.registrar import catalog
from service.settings import Settings
from tests.campus import call, enroll, new_course, new_student, problem, read, served
from tests.conftest import Client


def program(name: str, *arguments: str) -> bytes:
    """Run a program of PostgreSQL and return what it writes."""
    return subprocess.run([str(_find_binaries() / name), *arguments], check=True, capture_output=True).stdout


async def require(client: Client, course: int) -> None:
    """Require what no student has."""
    groups = [{"kind": "pre", "any_of": ["NOTHING"]}]
    assert (await call(client, "PUT", f"/courses/{course}/requirements", {"groups": groups})).status == 200


async def is_enrolled(client: Client, student: int, course: int) -> bool:
    """Try to enroll a student and return whether it went well, or else was refused for a requirement."""
    answer = await enroll(client, student, course)
    if answer.status != 201:
        assert [error["code"] for error in answer.body["errors"]] == ["prerequisite_missing"], answer
    return answer.status == 201


@pytest.mark.parametrize("others", [0, 2, 3, 4])
async def test_a_reader_whose_last_events_a_restore_has_lost_is_sent_back(
    client: Client, database_url: str, others: int
) -> None:
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
    """Restore a dump that drops what is there into the same database, as ``pg_restore --clean`` does."""
    command = [str(_find_binaries() / "psql"), "--no-psqlrc", "--quiet", f"--dbname={database_url}"]
    subprocess.run(command, input=dump, check=True, capture_output=True)


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_no_process_remembers_a_requirement_that_a_restore_has_lost(
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
    monkeypatch.setattr(catalog, "MOST_EDITS", 3)
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
