"""Every refused enroll, swap and drop is kept for some days, and nobody waits for its record."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from pytest_aiohttp import AiohttpClient

from service import registrar
from service.api import refusals
from service.registrar.changes import Origin
from service.registrar.enrollments import Enroll
from service.registrar.refusals import RefusalBuffer
from service.settings import Settings
from sql import Connection
from sql.refusals import ADD_REFUSALS, DELETE_REFUSALS, NewRefusal
from tests import shared
from tests.campus import (
    bare,
    call,
    create,
    drop,
    enroll,
    join_waitlist,
    new_course,
    new_student,
    problem,
    read,
    registrar_of,
    served,
    until,
    waiting_writer,
    walk,
)
from tests.conftest import Client
from tests.test_optimistic import counted

pytestmark, service, client, connection, settings = shared.SERVICE
aiohttp_client = shared.AIOHTTP_CLIENT

FULL: Final = {"code": "course_full", "capacity": 0, "seats_taken": 0}
HOLD: Final = {"reason": "Canary owes fees", "blocks": ["enroll", "drop"]}


async def kept(client: Client, of: str, count: int) -> list[dict[str, Any]]:
    """Wait until a list of refusals has ``count`` items, and return it, the oldest first."""

    async def written() -> bool:
        return len((await read(client, f"{of}/refusals"))["items"]) >= count

    await until(written, f"{count} refusals")
    items: list[dict[str, Any]] = (await read(client, f"{of}/refusals"))["items"]
    assert len(items) == count
    return items[::-1]


def reasons(items: list[dict[str, Any]]) -> list[tuple[int, str, list[dict[str, Any]]]]:
    return [(each["course_id"], each["action"], bare(each["reasons"])) for each in items]


async def test_a_refused_enroll_is_listed_for_the_student_and_for_the_course(client: Client) -> None:
    student, course = await new_student(client), await new_course(client, capacity=0)
    headers = {"X-Request-Id": "r-1", "X-Actor": "Ada"}
    answer = await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course]}, headers=headers)
    problem(answer, 409, "course_full")

    [refusal] = await kept(client, f"/students/{student}", 1)
    assert datetime.fromisoformat(refusal["occurred_at"]).tzinfo == UTC
    assert {name: value for name, value in refusal.items() if name not in {"id", "occurred_at"}} == {
        "student_id": student,
        "course_id": course,
        "action": "enroll",
        "reasons": [FULL | {"detail": f"Course {course} has 0 of its 0 seats taken."}],
        "actor": None,
        "on_behalf_of": "Ada",
        "request_id": "r-1",
    }
    assert await kept(client, f"/courses/{course}", 1) == [refusal]


async def test_every_course_of_a_refused_request_is_listed_and_only_some_have_reasons(client: Client) -> None:
    student, course, full = await new_student(client), await new_course(client), await new_course(client, capacity=0)
    problem(await enroll(client, student, course, full, 999, course), 422, "unknown_course")

    items = await kept(client, f"/students/{student}", 3)
    assert reasons(items) == [
        (course, "enroll", []),
        (full, "enroll", [FULL]),
        (999, "enroll", [{"code": "unknown_course"}]),
    ]
    assert len({each["request_id"] for each in items}) == 1
    problem(await call(client, "GET", "/courses/999/refusals"), 404, "course_not_found")


async def test_the_refused_courses_of_partial_and_bulk_requests_are_listed(client: Client) -> None:
    one, other = await new_student(client), await new_student(client)
    course, full = await new_course(client), await new_course(client, capacity=0)
    assert (await enroll(client, one, full, course, mode="partial")).status == 201
    items = [{"student_id": other, "course_ids": [full]}, {"student_id": 999, "course_ids": [full]}]
    for headers in ({}, {"Idempotency-Key": "k-1"}, {"Idempotency-Key": "k-1"}):
        answer = await call(client, "POST", "/enrollments", {"items": items}, headers=headers)
        assert [item["status"] for item in answer.body["items"]] == [409, 404]

    assert reasons(await kept(client, f"/students/{one}", 1)) == [(full, "enroll", [FULL])]
    # The repeat with the same key got the stored answer: it was not refused again.
    assert reasons(await kept(client, f"/students/{other}", 2)) == [(full, "enroll", [FULL])] * 2
    assert len(await kept(client, f"/courses/{full}", 3)) == 3


async def test_refused_swaps_and_drops_are_listed_without_the_reason_of_a_hold(
    client: Client, connection: Connection
) -> None:
    student = await new_student(client)
    course, full = await new_course(client), await new_course(client, capacity=0)
    await enroll(client, student, course)
    answer = await call(client, "POST", f"/students/{student}/swap", {"drop": [course], "add": [full]})
    problem(answer, 409, "course_full")
    await call(client, "POST", f"/students/{student}/holds", HOLD)
    problem(await drop(client, student, course), 409, "hold")
    done = await new_student(client)
    await enroll(client, done, course)
    await call(client, "POST", f"/students/{done}/courses/{course}/complete", {"passed": True})
    problem(await drop(client, done, course), 409, "already_completed")

    assert reasons(await kept(client, f"/students/{student}", 3)) == [
        (course, "swap_drop", []),
        (full, "swap_add", [FULL]),
        (course, "drop", [{"code": "hold"}]),
    ]
    assert reasons(await kept(client, f"/students/{done}", 1)) == [(course, "drop", [{"code": "already_completed"}])]
    assert "Canary" not in str(await connection.fetch("TABLE refusals"))


async def test_what_is_not_refused_is_not_listed(client: Client, connection: Connection) -> None:
    student, full = await new_student(client), await new_course(client, capacity=0)
    body = {"course_ids": [full]}
    answer = await call(client, "POST", f"/students/{student}/enroll?dry_run=true", body)
    problem(answer, 409, "course_full")
    problem(await drop(client, student, full), 404, "enrollment_not_found")
    problem(await enroll(client, 999, full), 404, "student_not_found")
    assert (await join_waitlist(client, student, await new_course(client, capacity=0))).status == 201
    # Refusals are written in order: this one comes after all others would.
    await enroll(client, student, full)
    await kept(client, f"/students/{student}", 1)
    assert await connection.fetchval("SELECT count(*) FROM refusals") == 1
    problem(await call(client, "GET", "/students/999/refusals"), 404, "student_not_found")


async def test_the_lists_are_paged_and_the_newest_comes_first(client: Client) -> None:
    student = await new_student(client)
    full = [await new_course(client, capacity=0) for _ in range(5)]
    await enroll(client, student, *full)
    await kept(client, f"/students/{student}", 5)
    pages = await walk(client, f"/students/{student}/refusals?limit=2")
    assert [[each["course_id"] for each in page] for page in pages] == [full[:2:-1], full[2:0:-1], full[:1]]
    cursor = (await read(client, f"/students/{student}/refusals?limit=2"))["next"]
    problem(await call(client, "GET", f"/courses/{full[0]}/refusals?cursor={cursor}"), 422, "invalid")


async def submit(office: registrar.Registrar, student: int, *course_ids: int, count: int = 1) -> None:
    """Let an enroll be refused, ``count`` times in one batch."""
    change = Enroll(origin=Origin("r"), student_id=student, course_ids=course_ids)
    outcomes = await office.submit_all([change] * count)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)


async def campus(client: Client) -> tuple[int, int, int]:
    """Return a student, a course and a full course."""
    return await new_student(client), await new_course(client), await new_course(client, capacity=0)


@pytest.mark.not_on_citus("every batch takes the lock first")
async def test_a_refusal_takes_one_statement_and_its_record_comes_behind(
    client: Client, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, _, full = await campus(client)
    monkeypatch.setattr(registrar, "REFUSAL_SECONDS", 3600.0)
    async with counted(settings) as (office, sent):
        await submit(office, student, full)
        sent.clear()
        for _ in range(3):
            await submit(office, student, full)
        assert len(sent) == 3
        assert not office.is_idle()
        sent.clear()
        await office.close()
        assert sent.count(ADD_REFUSALS) == 1
        assert office.is_idle()
    assert await connection.fetchval("SELECT count(*) FROM refusals") == 4


async def test_a_transaction_that_writes_also_writes_refusals_in_order(
    client: Client, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, course, full = await campus(client)
    other = [await new_student(client) for _ in range(9)]
    monkeypatch.setattr(registrar, "REFUSAL_SECONDS", 3600.0)
    async with counted(settings) as (office, sent):
        await submit(office, student, full)
        sent.clear()
        changes = [
            *(Enroll(origin=Origin("r"), student_id=id, course_ids=(course,)) for id in other),
            Enroll(origin=Origin("r"), student_id=other[0], course_ids=(full,)),
        ]
        outcomes = await office.submit_all(changes)
        assert [isinstance(outcome, Exception) for outcome in outcomes] == [False] * 9 + [True]
        assert sent.count(ADD_REFUSALS) == 1
        assert office.is_idle()
        rows = await connection.fetch("SELECT student_id, course_id FROM refusals ORDER BY id")
        assert [tuple(row) for row in rows] == [(student, full), (other[0], full)]


async def test_a_large_batch_of_refusals_writes_nothing_and_buffers_them(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, _, full = await campus(client)
    monkeypatch.setattr(registrar, "REFUSAL_SECONDS", 3600.0)
    async with counted(settings) as (office, sent):
        change = Enroll(origin=Origin("r"), student_id=student, course_ids=(full,))
        await office.submit_all([change] * 20)
        assert ADD_REFUSALS not in sent
        assert not office.is_idle()
        await office.close()


async def test_refusals_of_a_batch_that_fails_are_kept_once(
    client: Client, settings: Settings, connection: Connection
) -> None:
    student, course, full = await campus(client)
    other = await new_student(client)
    await connection.execute(
        "ALTER TABLE student_courses ADD CONSTRAINT fails CHECK (student_id <> $$1$$::bigint)".replace("1", str(other))
    )
    async with registrar_of(settings) as office:
        changes = [
            Enroll(origin=Origin("a"), student_id=student, course_ids=(full,)),
            Enroll(origin=Origin("b"), student_id=other, course_ids=(course,)),
            Enroll(origin=Origin("c"), student_id=student, course_ids=(course,)),
        ]
        outcomes = await office.submit_all(changes)
        assert [isinstance(outcome, Exception) for outcome in outcomes] == [True, True, False]
    assert await connection.fetchval("SELECT array_agg(request_id) FROM refusals") == ["a"]
    await connection.execute("ALTER TABLE student_courses DROP CONSTRAINT fails")


@pytest.mark.not_on_citus("every batch takes the lock first")
async def test_while_the_database_is_unavailable_refusals_wait_and_those_above_the_limit_are_counted(
    client: Client,
    settings: Settings,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    student, _, full = await campus(client)
    monkeypatch.setattr(registrar, "REFUSAL_SECONDS", 0.01)
    patient = settings.model_copy(update={"refusals_queue": 5, "lock_timeout": 0.05})
    async with registrar_of(patient) as office:

        async def idle() -> bool:
            return office.is_idle()

        await submit(office, student, full)
        await until(idle, "the refusal to be written")
        await connection.execute("BEGIN")
        await connection.execute("SELECT FROM feed FOR UPDATE")
        await submit(office, student, full, count=8)
        await waiting_writer(connection)
        await connection.execute("COMMIT")
        await until(idle, "the refusals to be written")
        await submit(office, student, full)
    assert await connection.fetchval("SELECT count(*) FROM refusals") == 7
    lost = [record.__dict__["count"] for record in caplog.records if record.message == "refusals were lost"]
    assert sum(lost) == 3


async def test_a_buffer_never_holds_more_than_its_limit() -> None:
    row = NewRefusal(1, 1, "enroll", "[]", None, None, "r", datetime.now(UTC))
    buffer = RefusalBuffer(5)
    for request_id in "abcdefg":
        buffer.add([row._replace(request_id=request_id)] * 2)
        assert len(buffer) <= 5
    assert [each.request_id for each in buffer.first(9)] == ["a", "a", "b", "b", "c"]
    assert (buffer.take_lost(), buffer.take_lost()) == (9, 0)
    buffer.remove(2)
    buffer.add([row])
    assert [each.request_id for each in buffer.first(2)] == ["b", "b"]
    buffer.lose_all()
    assert (len(buffer), buffer.take_lost()) == (0, 4)


async def test_a_sweep_deletes_old_refusals_in_bounded_steps(
    client: Client, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "ROWS_PER_SWEEP", 10)
    monkeypatch.setattr(registrar, "MAX_SWEEP_TRANSACTIONS", 3)
    await connection.execute(
        """
        INSERT INTO refusals (student_id, course_id, action, reasons, request_id, occurred_at)
        SELECT 1, 1, 'enroll', '[]', 'r', now() - make_interval(days => days)
        FROM unnest(array_fill(8, ARRAY[35]) || ARRAY[6, 0]) AS days
        """
    )
    async with counted(settings.model_copy(update={"refusals_kept": 7.0})) as (office, sent):
        await office.sweep()
        await asyncio.sleep(0)  # the driver counts a statement in the next turn of the loop
        assert sent.count(DELETE_REFUSALS) == 3
        assert await connection.fetchval("SELECT count(*) FROM refusals") == 7
        await office.sweep()
        assert await connection.fetchval("SELECT count(*) FROM refusals") == 2


async def test_with_zero_days_no_refusal_is_kept(client: Client, settings: Settings, connection: Connection) -> None:
    student, _, full = await campus(client)
    async with registrar_of(settings.model_copy(update={"refusals_kept": 0.0})) as office:
        await submit(office, student, full)
        assert office.is_idle()
    assert await connection.fetchval("SELECT count(*) FROM refusals") == 0


@pytest.mark.parametrize("method", ["delete", "erase"])
async def test_a_deleted_or_erased_student_has_no_refusals_not_even_buffered_ones(
    client: Client, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    student, _, full = await campus(client)
    other = await new_student(client)
    monkeypatch.setattr(registrar, "REFUSAL_SECONDS", 3600.0)
    async with registrar_of(settings) as office:
        await submit(office, student, full)
        await office.submit_all(())
        assert await connection.fetchval("SELECT count(*) FROM refusals") == 1
        # In the buffer of this process while another one erases the student.
        await submit(office, student, full)
        await submit(office, other, full)
        if method == "delete":
            answer = await call(client, "DELETE", f"/students/{student}")
        else:
            answer = await call(client, "POST", f"/students/{student}/erase", {"reason": "Art. 17"})
        assert answer.status in {200, 204}
        assert await connection.fetchval("SELECT count(*) FROM refusals") == 0
    assert await connection.fetchval("SELECT array_agg(student_id) FROM refusals") == [other]


async def test_an_export_has_the_refusals(client: Client) -> None:
    student, course, full = await campus(client)
    await enroll(client, student, course, full)
    items = await kept(client, f"/students/{student}", 2)
    first = await read(client, f"/students/{student}/export?limit=2")
    assert (first["refusals"], len(first["events"])) == ([items[1]], 1)
    second = await read(client, f"/students/{student}/export?limit=2&cursor={first['next']}")
    assert (second["refusals"], second["events"], second["next"]) == ([items[0]], [], None)


async def test_a_stopped_service_has_written_its_refusals(
    aiohttp_client: AiohttpClient, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "REFUSAL_SECONDS", 3600.0)
    client = await served(aiohttp_client, settings)
    student, _, full = await campus(client)
    await enroll(client, student, full)
    await client.close()
    assert await connection.fetchval("SELECT count(*) FROM refusals") == 1


async def test_the_refusals_of_a_term_are_counted_by_code_and_interval(client: Client, connection: Connection) -> None:
    term = {"code": "T", "name": "T", "starts_on": "2030-01-01", "ends_on": "2030-06-01"}
    term_id = (await create(client, "/terms", term))["id"]
    inside, outside = await new_course(client, term_id=term_id), await new_course(client)
    student = await new_student(client)
    await connection.execute(
        """
        INSERT INTO refusals (student_id, course_id, action, reasons, request_id, occurred_at)
        SELECT $1, course_id, 'enroll', reasons, 'r', date_bin('1 minute', now(), 'epoch') - age
        FROM unnest($2::bigint[], $3::json[], $4::interval[]) AS refused (course_id, reasons, age)
        """,
        student,
        [inside, inside, outside, inside, inside],
        [
            '[{"code":"hold"}]',
            '[{"code":"hold"}]',
            '[{"code":"hold"},{"code":"course_full"}]',
            '[{"code":"course_full"}]',
            "[]",
        ],
        [timedelta(days=2), timedelta(minutes=2), timedelta(minutes=2), timedelta(minutes=1), timedelta(0)],
    )

    async def counts(query: str) -> list[tuple[str, int]]:
        return [(each["code"], each["count"]) for each in (await read(client, f"/refusals/counts{query}"))["items"]]

    assert await counts("") == [("course_full", 2), ("hold", 2)]
    assert await counts(f"?term_id={term_id}") == [("course_full", 1), ("hold", 1)]
    assert await counts("?seconds=60") == []
    found = await read(client, f"/refusals/counts?term_id={term_id}&interval=60")
    first, second = [datetime.fromisoformat(each["at"]) for each in found["items"]]
    assert [each["code"] for each in found["items"]] == ["hold", "course_full"]
    assert second - first == timedelta(minutes=1)
    assert datetime.fromisoformat(found["until"]) - datetime.fromisoformat(found["since"]) == timedelta(hours=1)


async def test_only_the_newest_refusals_are_counted(
    client: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "COUNTED_REFUSALS", 2)
    student, full = await new_student(client), await new_course(client, capacity=0)
    for _ in range(3):
        await enroll(client, student, full)
    items = await kept(client, f"/courses/{full}", 3)
    found = await read(client, "/refusals/counts")
    assert [each["count"] for each in found["items"]] == [2]
    assert found["since"] == items[1]["occurred_at"]
