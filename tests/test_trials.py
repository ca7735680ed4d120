"""Short forms of the trials: the same faults, once or twice, without a look at the clock."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest
from pydantic import ValidationError
from pytest_aiohttp import AiohttpClient

from service.database import Database
from service.errors import DomainError, OutcomeUnknown
from service.settings import Settings
from sql import Connection
from tests.campus import Answer, call, enroll, new_course, new_student, problem, read, served, student_fields, until
from tests.conftest import Client, fast_folder
from tests.test_http import served_for_real
from tests.trials import TRIALS, crash, harness, report
from tests.trials.harness import Figure
from tests.trials.hostile import AT_ONCE, send
from tests.wire import Cut, wired

OURS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'enrollment-service'"


def test_the_document_contains_the_latest_figures_of_the_trials() -> None:
    assert report.table() in report.DOCUMENT.read_text()
    assert report.load().keys() <= set(TRIALS)


def test_a_figure_misses_its_target_on_either_side_and_if_it_was_not_measured() -> None:
    assert Figure("none", 7.0).holds
    for value, holds in ((1.0, False), (2.0, True), (3.0, True), (4.0, False), (float("nan"), False)):
        assert Figure("both", value, at_least=2, at_most=3).holds == holds, value


async def test_killing_the_service_a_backend_and_the_server_loses_and_doubles_no_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(harness, "DISK", fast_folder() or harness.DISK)
    figures = await crash.run(len(crash.VICTIMS))
    assert [figure for figure in figures if not figure.is_time and not figure.holds] == []


Step = Callable[[Client, int], Awaitable[tuple[str, str, object]]]


async def a_student(_client: Client, _turn: int) -> tuple[str, str, object]:
    return "POST", "/students", student_fields()


async def an_enrollment(client: Client, _turn: int) -> tuple[str, str, object]:
    return "POST", f"/students/{await new_student(client)}/enroll", {"course_ids": [await new_course(client)]}


async def a_drop(client: Client, _turn: int) -> tuple[str, str, object]:
    student, course = await new_student(client), await new_course(client)
    assert (await enroll(client, student, course)).status == 201
    return "DELETE", f"/students/{student}/courses/{course}", None


@pytest.mark.parametrize("answered", [False, True], ids=["before_the_message", "after_its_answer"])
@pytest.mark.parametrize("prepare", [a_student, an_enrollment, a_drop])
async def test_a_change_whose_connection_is_cut_at_any_message_is_made_once_by_its_repeats(
    settings: Settings,
    aiohttp_client: AiohttpClient,
    connection: Connection,
    database_url: str,
    prepare: Step,
    answered: bool,
) -> None:
    async with wired(database_url) as (wire, url):
        client = await served(aiohttp_client, settings.model_copy(update={"database_url": url}))
        for turn in range(1, 30):
            method, path, body = await prepare(client, turn)
            before = await connection.fetchval("SELECT count(*) FROM events")
            wire.cut = Cut(turn=turn, answered=answered)
            key = {"Idempotency-Key": f"turn-{turn}"} if method == "POST" else {}
            answers = [await call(client, method, path, body, headers=key)]

            async def repeated(
                sent: tuple[str, str, object] = (method, path, body),
                key: dict[str, str] = key,
                answers: list[Answer] = answers,
            ) -> bool:
                answers.append(await call(client, *sent, headers=key))
                return answers[-1].status != 503

            if answers[-1].status == 503:
                await until(repeated, "an answer")
            assert answers[-1].status in {200, 201}, answers
            assert await connection.fetchval("SELECT count(*) FROM events") == before + 1, (turn, answers)
            if wire.cut is not None:
                break
        assert wire.cuts == turn - 1 > 1, "each message of the change was cut once"
        await client.close()


async def test_behind_a_black_hole_callers_get_503_and_afterwards_no_connection_is_left_over(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection, database_url: str
) -> None:
    limits = {"statement_timeout": 0.4, "command_timeout": 0.5, "acquire_timeout": 0.3, "admission_seconds": 0.2}
    async with wired(database_url) as (wire, url):
        own = {"database_url": url, "connect_timeout": 0.3, "pool_size": 3, **limits}
        client = await served(aiohttp_client, settings.model_copy(update=own))
        paths = ("/students", "/courses", "/terms")
        await asyncio.gather(*(read(client, path) for path in paths * 2))

        wire.swallows = True
        for path in (*paths, "/health/ready") * 2:
            problem(await call(client, "GET", path), 503, "unavailable")
        assert (await call(client, "POST", "/students", student_fields())).status == 503
        assert (await call(client, "GET", "/health/live")).status == 200
        wire.swallows = False

        async def serves() -> bool:
            answers = [await call(client, "GET", path) for path in paths]
            return all(answer.status == 200 for answer in answers)

        await until(serves, "the service to recover")
        assert await new_student(client)
        await asyncio.gather(*(read(client, path) for path in paths * 4))
        assert await connection.fetchval(OURS) <= 3
        await client.close()


async def test_on_a_slow_network_every_call_succeeds(
    settings: Settings, aiohttp_client: AiohttpClient, database_url: str
) -> None:
    async with wired(database_url) as (wire, url):
        client = await served(aiohttp_client, settings.model_copy(update={"database_url": url}))
        wire.delay = 0.01
        student, course = await new_student(client), await new_course(client)
        answers = await asyncio.gather(
            enroll(client, student, course), *(call(client, "GET", "/courses") for _ in range(8))
        )
        assert {answer.status for answer in answers} == {200, 201}
        await client.close()


@pytest.mark.not_on_citus("the limit is that of a database")
async def test_without_a_free_connection_of_the_server_callers_get_503_and_the_service_recovers(
    client: Client, connection: Connection
) -> None:
    student, name = await new_student(client), await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    await connection.execute(OURS.replace("count(*)", "pg_terminate_backend(pid)"))

    async def refused() -> bool:
        answer = await call(client, "GET", f"/students/{student}")
        return answer.status == 503 and "reached its limit of connections" in answer.body["detail"]

    await until(refused, "the limit to be reported")
    for method, path, body in (
        ("GET", "/students", None),
        ("POST", "/students", student_fields()),
        ("GET", "/health/ready", None),
    ):
        assert (
            "reached its limit of connections"
            in problem(await call(client, method, path, body), 503, "unavailable")["detail"]
        )
    assert (await call(client, "GET", "/health/live")).status == 200

    await connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
    assert (await read(client, f"/students/{student}"))["id"] == student
    assert await new_student(client)


async def test_a_frozen_replica_with_the_write_lock_loses_it_and_the_others_go_on(
    client: Client, settings: Settings
) -> None:
    frozen = Database(settings.model_copy(update={"idle_in_transaction_timeout": 0.3}))
    await frozen.open()
    try:
        with pytest.raises(OutcomeUnknown):
            async with frozen.writing():
                # It does nothing more, as if it were stopped; the change waits until the server ends its session.
                assert await new_student(client)
    finally:
        await frozen.close()


async def test_hostile_requests_are_refused(settings: Settings) -> None:
    async with served_for_real(settings) as address:
        for hostile in AT_ONCE:
            assert await send(address, hostile.sent) in hostile.statuses, hostile.what


async def test_mixed_traffic_leaves_no_task_behind(client: Client) -> None:
    course = await new_course(client)

    async def traffic() -> None:
        student = await new_student(client)
        await enroll(client, student, course)
        for path in ("/courses", f"/students/{student}/courses", "/nothing", "/courses/0", "/events"):
            await call(client, "GET", path)
        await call(client, "DELETE", f"/students/{student}/courses/{course}")

    counts = []
    for _ in range(3):
        await asyncio.gather(*(traffic() for _ in range(16)))
        await asyncio.sleep(0)
        counts.append(len(asyncio.all_tasks()))
    assert counts[2] <= counts[0], counts


async def test_the_error_of_a_request_and_with_it_the_body_is_freed_without_a_garbage_collection(
    client: Client, connection: Connection
) -> None:
    student, course = await new_student(client), await new_course(client, capacity=0)
    closed = await new_course(client)
    calls: list[tuple[str, str, bytes | None]] = [
        ("POST", "/enrollments", b'{"items":[' + b"1," * 10_000 + b"1]}"),
        ("POST", "/students", b"{"),
        ("POST", "/students", b'{"given_name":1,"given_name":2}'),
        ("GET", "/students?nothing=1", None),
        ("GET", "/students/0", None),
        ("GET", "/students/99", None),
        ("GET", "/nothing", None),
        ("PATCH", "/students/99", b'{"given_name":"Ada"}'),
        ("POST", f"/students/{student}/enroll", b'{"course_ids":[%d]}' % course),
        ("POST", f"/students/{student}/enroll?dry_run=true", b'{"course_ids":[%d]}' % course),
        ("POST", f"/students/{student}/swap", b'{"drop":[%d],"add":[%d]}' % (closed, course)),
    ]
    gc.collect()
    gc.disable()
    try:
        for method, path, data in calls:
            answer = await call(client, method, path, data=data)
            assert answer.status >= 400, answer
            # The task of a batch ends a few turns after its callers have been answered.
            for _ in range(20):
                await asyncio.sleep(0)
            kept = [error for error in gc.get_objects() if isinstance(error, DomainError | ValidationError)]
            assert kept == [], (method, path)
    finally:
        gc.enable()
