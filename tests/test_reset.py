"""What other people's tests build on: ``reset``, ``seed`` and ``TEST_CLOCK``."""

import asyncio
import json
import re
from pathlib import Path

import psycopg
import pytest
from pytest_aiohttp import AiohttpClient

from service.api.events import LONG_POLL_SECONDS
from service.api.keys import REGISTRAR
from service.check import check
from service.migrate import empty_schema
from service.registry import InstitutionUnnamed, settings_for
from service.registry import commands as institutions
from service.reset import ResetForbidden, reset
from service.seed import KINDS, SeedRefused, parse, seed
from service.settings import Settings
from sql import Connection
from tests.campus import TABLES, call, enroll, new_course, new_student, problem, read, served
from tests.conftest import Client
from tests.test_failover import is_enrolled, require
from tests.test_process import run

NO_TEST_CLOCK = pytest.mark.not_on_citus("it has no test clock")

CAMPUS = [
    {
        "term": {
            "code": "F27",
            "name": "Fall 2027",
            "starts_on": "2027-09-01",
            "ends_on": "2027-12-20",
            "enroll_from": "2027-08-01T08:00:00Z",
            "enroll_until": "2027-09-10T08:00:00Z",
        }
    },
    {"course": {"code": "CS1", "title": "Programming", "capacity": 1, "waitlist_capacity": 5, "term_id": 1}},
    {"course": {"code": "CS2", "title": "Algorithms"}},
    {"requirements": {"groups": [{"kind": "pre", "any_of": ["CS1"]}]}, "course_id": 2},
    {"student": {"given_name": "Ada", "family_name": "Byron", "email": "ada@campus.example"}},
    {"student": {"given_name": "Alan", "family_name": "Moore", "email": "alan@campus.example"}},
    {"hold": {"reason": "Library fees", "blocks": ["drop"]}, "student_id": 2},
    {"override": {"rule": "prerequisite_missing", "course_id": 2, "reason": "Exam", "author": "Dean"}, "student_id": 2},
]


def write(folder: Path, *lines: object) -> str:
    file = folder / "campus.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(file)


async def refusals(client: Client, student: int) -> list[str]:
    """Enroll a student in course 1, and return the codes of the rules that refuse it."""
    return [error["code"] for error in (await enroll(client, student, 1)).body.get("errors", [])]


def for_tests(settings: Settings, **more: object) -> Settings:
    return settings.model_copy(update={"allow_reset": True, **more})


async def test_a_reset_empties_everything_and_running_services_notice(
    client: Client, settings: Settings, aiohttp_client: AiohttpClient, connection: Connection
) -> None:
    other = await served(aiohttp_client, settings)
    student, course = await new_student(client), await new_course(client)
    await require(client, course)
    for each in (client, other):
        assert not await is_enrolled(each, student, course), "both remember the requirement"
    headers = {"Idempotency-Key": "once"}
    assert (await call(client, "POST", "/courses", {"code": "K", "title": "K"}, headers=headers)).status == 201
    cursor = (await read(client, "/events/head"))["next"]
    waiting = asyncio.create_task(call(other, "GET", f"/events?after={cursor}&wait={LONG_POLL_SECONDS}"))
    await asyncio.sleep(0)

    await reset(for_tests(settings), None)

    problem(await waiting, 410, "cursor_expired")
    for table in TABLES:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    for each in (client, other):
        problem(await call(each, "GET", f"/events?after={cursor}"), 410, "cursor_expired")
        problem(await call(each, "GET", f"/courses/{course}"), 404, "course_not_found")
    assert (await new_student(client), await new_course(other)) == (1, 1), "ids start at 1 again"
    for each in (other, client):
        assert await is_enrolled(each, 1, 1)
        assert (await call(each, "DELETE", "/students/1/courses/1")).status == 200
    answer = await call(client, "POST", "/courses", {"code": "K", "title": "K"}, headers=headers)
    assert (answer.status, answer.body["id"]) == (201, 2), "an answer from before the reset is not repeated"
    assert await check(settings) == 0


async def test_a_reset_keeps_api_keys_and_needs_permission(
    client: Client, settings: Settings, connection: Connection
) -> None:
    await new_course(client)
    assert (await call(client, "POST", "/keys", {"name": "portal", "scopes": ["read"]})).status == 201
    ended = await run("reset", DATABASE_URL=settings.database_url)
    assert (ended.status, ended.err.splitlines()) == (1, [f"error: {ResetForbidden()}"])
    assert await connection.fetchval("SELECT count(*) FROM courses") == 1

    await reset(for_tests(settings), None)

    assert await connection.fetchval("SELECT name FROM api_keys") == "portal"


async def test_changes_during_a_reset_are_made_before_or_after_it(
    client: Client, settings: Settings, connection: Connection
) -> None:
    """No statement of the service and the reset wait for each other in a circle."""
    await new_student(client)
    done = asyncio.Event()

    async def create() -> None:
        while not done.is_set():
            await new_student(client)
            await new_course(client)

    creating = [asyncio.create_task(create()) for _ in range(4)]
    for _ in range(5):
        await asyncio.to_thread(empty_schema, settings.owner_url or "", settings.database_schema)
    done.set()
    await asyncio.gather(*creating)

    assert await connection.fetchval("SELECT count(*) FROM events") == await connection.fetchval(
        "SELECT (SELECT count(*) FROM students) + (SELECT count(*) FROM courses)"
    )
    assert await check(settings) == 0


@NO_TEST_CLOCK
async def test_a_seed_makes_each_request_of_a_file(client: Client, settings: Settings, tmp_path: Path) -> None:
    frozen = for_tests(settings, test_clock="2027-08-15T12:00:00Z")
    lines = [{"enroll": {"course_ids": [1], "on_full": "waitlist"}, "student_id": id} for id in (1, 2)]
    file = write(tmp_path, *CAMPUS, "", *lines, {"complete": {"passed": True}, "student_id": 1, "course_id": 1})

    await seed(frozen, None, file)

    assert [each["status"] for each in (await read(client, "/students/1/courses?status=completed"))["items"]] == [
        "completed"
    ]
    [waitlisted] = (await read(client, "/students/2/courses"))["items"]
    assert (waitlisted["status"], waitlisted["position"]) == ("waitlisted", 1)
    feed = (await read(client, "/events"))["items"]
    assert {event["on_behalf_of"] for event in feed} == {"seed"}
    assert {event["occurred_at"] for event in feed} == {"2027-08-15T12:00:00Z"}
    assert await check(frozen) == 0


async def test_an_invalid_line_of_a_seed_is_named_and_nothing_is_written(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    wrong = [
        {"student": {"given_name": "Ada", "family_name": "Byron", "email": "nobody"}},
        {"studnet": {}},
        "{",
        {"enroll": {"course_ids": []}, "student_id": 1},
        {"enroll": {"course_ids": [1]}},
        {"course": {"code": "CS3", "title": "Graphs"}, "term_id": 1},
    ]

    with pytest.raises(SeedRefused) as refused:
        await seed(settings, None, write(tmp_path, *CAMPUS[2:], *wrong))

    texts = str(refused.value).splitlines()
    assert [text.partition(":")[0] for text in texts[:-1]] == [f"line {number}" for number in range(7, 13)]
    assert texts[0].startswith("line 7: student: #/email")
    assert texts[3].startswith("line 10: enroll: #/course_ids")
    assert texts[4].startswith("line 11: enroll: student_id")
    assert "term_id" in texts[5]
    assert texts[-1] == "Nothing was written."
    assert (await read(client, "/events"))["items"] == []


async def test_a_refused_line_of_a_seed_is_named_with_what_was_written(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    file = write(tmp_path, CAMPUS[2], CAMPUS[4], {"enroll": {"course_ids": [9]}, "student_id": 1}, CAMPUS[5])

    ended = await run("seed", file, DATABASE_URL=settings.database_url, MIGRATE_ON_START="false")

    assert ended.status == 1
    assert ended.err.splitlines() == [
        "error: line 3: enroll: unknown_course: #/course_ids/0 There is no course 9.",
        "The 2 requests before it were made; it and those after it were not.",
    ]
    assert ended.out == ""
    assert [each["given_name"] for each in (await read(client, "/students"))["items"]] == ["Ada"]


async def test_the_page_about_tests_seeds_a_campus_and_names_existing_settings(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    page = (Path(__file__).parent.parent / "docs/testing.md").read_text()
    [lines] = re.findall(r"```json lines\n(.*?)```", page, re.DOTALL)
    await seed(settings, None, write(tmp_path, *lines.splitlines()))

    assert len((await read(client, "/students"))["items"]) == 2
    statuses = [each["status"] for each in (await read(client, "/students/2/courses"))["items"]]
    assert statuses == ["waitlisted"], "as the example for Node.js expects"
    assert {kind for line in lines.splitlines() for kind in json.loads(line)} & KINDS.keys() == KINDS.keys() - {"swap"}
    documented = re.findall(r"^\| `(\w+)` \| `(\w+) (\S+)` \|", page, re.MULTILINE)
    assert documented == [(kind, endpoint.method, endpoint.path) for kind, endpoint in KINDS.items()]
    for text in re.findall(r"```(?:yaml|js|python)\n(.*?)```", page, re.DOTALL):
        assert set(re.findall(r"\b(DATABASE_URL|[A-Z]+_RESET|AUTH)\b", text)) == {"DATABASE_URL", "ALLOW_RESET", "AUTH"}


async def test_reset_and_seed_work_on_the_named_institution(empty_database_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database_url, registry_schema="registry", allow_reset=True)
    for name in ("north", "south"):
        await institutions.create(settings, name, None, None, None)
        await seed(settings, name, write(tmp_path, CAMPUS[4]))
    with pytest.raises(InstitutionUnnamed, match="name one with --institution NAME"):
        await reset(settings, None)

    await reset(settings, "north")

    with psycopg.connect(empty_database_url) as connection:
        for name, count in (("north", 0), ("south", 1)):
            schema = (await settings_for(settings, name)).database_schema
            assert connection.execute(f"SELECT count(*) FROM {schema}.students").fetchone() == (count,)


def test_a_seed_shows_a_bounded_number_of_errors() -> None:
    with pytest.raises(SeedRefused) as refused:
        parse("x" for _ in range(100))
    assert str(refused.value).splitlines()[-2:] == ["and 80 more lines", "Nothing was written."]


@NO_TEST_CLOCK
async def test_the_test_clock_opens_and_closes_what_time_opens_and_closes(
    client: Client, settings: Settings, aiohttp_client: AiohttpClient, tmp_path: Path
) -> None:
    await seed(settings, None, write(tmp_path, *CAMPUS[:2], *CAMPUS[4:6]))
    assert await refusals(client, 1) == ["enrollment_not_open"]
    before, during, after = [
        await served(aiohttp_client, for_tests(settings, test_clock=instant))
        for instant in ("2027-08-01T07:59:59Z", "2027-08-01T08:00:00Z", "2027-09-10T08:00:00Z")
    ]

    assert await refusals(before, 1) == ["enrollment_not_open"]
    assert await refusals(after, 1) == ["enrollment_closed"]
    assert await refusals(during, 1) == []
    assert (await read(during, "/events"))["items"][-1]["occurred_at"] == "2027-08-01T08:00:00Z"


@NO_TEST_CLOCK
async def test_a_sweep_follows_the_test_clock(
    client: Client, settings: Settings, aiohttp_client: AiohttpClient, connection: Connection
) -> None:
    student, course = await new_student(client), await new_course(client, capacity=0, waitlist_capacity=1)
    hold = {"reason": "Fees", "blocks": ["enroll"], "until": "2100-01-01T00:00:00Z"}
    assert (
        await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course], "on_full": "waitlist"})
    ).status == 201
    assert (await call(client, "POST", f"/students/{student}/holds", hold)).status == 201
    assert (await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})).status == 200
    status = "SELECT status FROM student_courses"
    assert await connection.fetchval(status) == "waitlisted"
    later = await served(aiohttp_client, for_tests(settings, test_clock="+30000d"))
    for each, promoted in ((client, "waitlisted"), (later, "enrolled")):
        assert each.app is not None
        await each.app[REGISTRAR].sweep()
        assert await connection.fetchval(status) == promoted


async def test_the_test_clock_needs_permission() -> None:
    ended = await run("--workers", "1", TEST_CLOCK="+7d", DATABASE_URL="postgresql://nowhere.invalid/x")
    assert (ended.status, ended.err) == (
        1,
        "error: TEST_CLOCK: set ALLOW_RESET=true too, but only on a database for tests\n",
    )
    ended = await run(TEST_CLOCK="tomorrow", ALLOW_RESET="true", DATABASE_URL="postgresql://nowhere.invalid/x")
    assert ended.status == 1
    assert ended.err.startswith("error: TEST_CLOCK: write an offset such as +7d")
