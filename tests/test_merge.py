"""Merging the double records of a student."""

import json
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from service.check import invariants
from service.database import Database
from service.registrar import Registrar
from service.registrar.changes import Origin
from service.registrar.enrollments import Enroll
from service.registrar.merge import Merge
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import (
    Answer,
    call,
    create,
    drop,
    enroll,
    events,
    everything,
    join_waitlist,
    new_course,
    new_student,
    places,
    problem,
    read,
    registrar_of,
    served,
    student_fields,
)
from tests.conftest import Client
from tests.provider import Provider, provider, with_issuer
from tests.test_auth import bearer
from tests.test_registrar import AHEAD, PAST, TERM, grant, hold, status_of

pytestmark, service, client, connection, settings = shared.SERVICE
aiohttp_client = shared.AIOHTTP_CLIENT

STATUSES = ["completed", "failed", "enrolled", "waitlisted", "withdrawn", "dropped"]


async def merge(client: Client, student: int, duplicate: int) -> Answer:
    body = {"student_id": duplicate, "reason": "Enrolled twice"}
    return await call(client, "POST", f"/students/{student}/merge", body)


async def assert_whole(connection: Connection, notes: int = 0) -> None:
    """Assert that every invariant holds, and the number of invariants with notes."""
    found = [(invariant.sentence, await invariant.search(connection)) for invariant in invariants(60.0)]
    assert [(sentence, each.faults) for sentence, each in found if each.faults] == []
    assert sum(bool(each.notes) for _, each in found) == notes


async def bring_to(client: Client, student: int, course: int, status: str) -> None:
    """Give a student a status in a course that has exactly one free seat more than it needs."""
    answer = await join_waitlist(client, student, course)
    assert answer.status == 201
    if status in {"completed", "failed"}:
        path = f"/students/{student}/courses/{course}/complete"
        assert (await call(client, "POST", path, {"passed": status == "completed"})).status == 200
    if status == "dropped":
        path = f"/students/{student}/courses/{course}?as=dropped&reason=x"
        assert (await call(client, "DELETE", path)).status == 200
    if status == "withdrawn":
        assert (await drop(client, student, course)).body["status"] == "withdrawn"


@pytest.mark.parametrize("first", STATUSES)
@pytest.mark.parametrize("second", STATUSES)
async def test_the_stronger_of_two_enrollments_stands_and_the_other_seat_goes_to_the_waitlist(
    client: Client, connection: Connection, first: str, second: str
) -> None:
    term = await create(client, "/terms", {**TERM, "drop_until": PAST, "withdraw_until": AHEAD})
    course = await new_course(client, term_id=term["id"])
    student, duplicate, waitlisted = [await new_student(client) for _ in range(3)]
    seats = 0
    for id, status in ((student, first), (duplicate, second)):
        if status == "waitlisted":
            await call(client, "PATCH", f"/courses/{course}", {"capacity": seats})
        await bring_to(client, id, course, status)
        seats += status in {"completed", "failed", "enrolled"}
        if status == "waitlisted":
            await call(client, "PATCH", f"/courses/{course}", {"capacity": seats, "waitlist_capacity": None})
            if id == student and second != "waitlisted":
                # The next one needs a seat of its own, above the capacity.
                await grant(client, duplicate, course, "course_full")
    await call(client, "PATCH", f"/courses/{course}", {"capacity": seats})
    assert (await join_waitlist(client, waitlisted, course)).status == 201
    assert await status_of(client, waitlisted, course) == "waitlisted"

    assert (await merge(client, student, duplicate)).status == 200

    strongest = min(first, second, key=STATUSES.index)
    row = await connection.fetchrow("SELECT status, passed FROM student_courses WHERE student_id = $1", student)
    assert row is not None
    completed = {"completed": True, "failed": False}
    assert (row["status"], row["passed"]) == (
        "completed" if strongest in completed else strongest,
        completed.get(strongest),
    )
    shared = {first, second} <= {"completed", "failed", "enrolled"}
    assert await status_of(client, waitlisted, course) == ("enrolled" if shared else "waitlisted")
    assert await connection.fetchval("SELECT count(*) FROM student_courses WHERE student_id = $1", duplicate) == 0
    await assert_whole(connection)


async def test_a_merge_moves_everything_and_its_events_name_both(client: Client, connection: Connection) -> None:
    student, duplicate = await new_student(client), await new_student(client, external_id="D-1")
    course, other = await new_course(client, capacity=0), await new_course(client)
    await grant(client, duplicate, course, "course_full")
    await grant(client, duplicate, other, "hold")
    await enroll(client, duplicate, course)
    held = await hold(client, duplicate)
    problem(await enroll(client, duplicate, await new_course(client)), 409, "hold")
    first = len(await events(connection))

    answer = await merge(client, student, duplicate)

    assert (answer.status, answer.body["id"], answer.body["version"]) == (200, student, 2)
    made = (await events(connection))[first:]
    assert [(event["type"], event["student_id"]) for event in made] == [
        ("enrollment.merged_into", duplicate),
        ("enrollment.merged", student),
        ("hold.merged", student),
        ("override.merged", student),
        ("override.merged", student),
        ("student.merged_into", duplicate),
        ("student.merged", student),
    ]
    assert {event["reason"] for event in made} == {"Enrolled twice"}
    assert made[0]["after"] == {"merged_into": student}
    assert made[1]["after"]["duplicate_id"] == made[-1]["after"]["duplicate_id"] == duplicate
    assert [item["id"] for item in (await read(client, f"/students/{student}/holds"))["items"]] == [held]
    assert len((await read(client, f"/students/{student}/overrides"))["items"]) == 2
    assert len((await read(client, f"/students/{student}/refusals"))["items"]) == 1
    history = (await read(client, f"/students/{student}/courses/{course}/history"))["items"]
    assert [event["type"] for event in history] == [
        "override.granted",
        "override.used",
        "enrollment.enrolled",
        "enrollment.merged_into",
        "enrollment.merged",
        "override.merged",
    ]
    export = await read(client, f"/students/{student}/export?limit=500")
    assert [record["student_id"] for record in export["duplicates"]] == [duplicate]
    assert "D-1" in export["duplicates"][0]["names"]
    assert {event["student_id"] for event in export["events"]} == {student, duplicate}
    # A hold and an override of the duplicate apply to the student.
    problem(await enroll(client, student, await new_course(client)), 409, "hold")
    assert (await enroll(client, student, other)).status == 201
    await assert_whole(connection)


async def test_every_call_about_a_duplicate_gets_410_with_the_student(client: Client) -> None:
    student, duplicate = await new_student(client), await new_student(client, external_id="D-1")
    course = await new_course(client)
    await enroll(client, duplicate, course)
    await merge(client, student, duplicate)
    document = await read(client, "/openapi.json")
    bodies: dict[str, Any] = {
        "/enroll": {"course_ids": [course]},
        "/swap": {"drop": [course], "add": [course + 1]},
        "/complete": {"passed": True},
        "/holds": {"reason": "x", "blocks": ["drop"]},
        "/overrides": {"course_id": course, "rule": "hold", "author": "x", "reason": "x"},
        "/erase": {"reason": "x"},
        "/merge": {"student_id": student, "reason": "x"},
    }
    seen = 0
    for path, methods in document["paths"].items():
        if "{student_id}" not in path:
            continue
        for method in methods:
            at = path.replace("{student_id}", str(duplicate)).replace("{course_id}", str(course))
            at = at.replace("{hold_id}", "1").replace("{override_id}", "1")
            body = next((body for end, body in bodies.items() if path.endswith(end) and method == "post"), None)
            body = {"max_credits": 1} if method == "patch" else body
            answer = await call(client, method.upper(), at, body)
            [error] = problem(answer, 410, "merged")["errors"]
            assert error["merged_into"] == student, path
            seen += 1
    assert seen > 15
    for method, body in (("GET", None), ("PUT", {"given_name": "Ada"})):
        answer = await call(client, method, "/students/by-external-id/D-1", body)
        assert problem(answer, 410, "merged")["errors"][0]["merged_into"] == student
    item = {"student_id": duplicate, "course_ids": [course]}
    [outcome] = (await call(client, "POST", "/enrollments", {"items": [item]})).body["items"]
    assert (outcome["status"], outcome["body"]["code"]) == (410, "merged")
    assert [each["id"] for each in (await read(client, "/students"))["items"]] == [student]


async def test_the_keys_of_a_duplicate_can_be_used_again(client: Client, connection: Connection) -> None:
    student = await new_student(client)
    duplicate = await new_student(client, external_id="D-1", email="two@campus.example")
    await merge(client, student, duplicate)

    answer = await call(client, "PATCH", f"/students/{student}", {"external_id": "D-1", "email": "two@campus.example"})

    assert answer.status == 200
    assert (await read(client, "/students/by-external-id/D-1"))["id"] == student
    assert (await call(client, "PUT", "/students/by-external-id/D-1", {"given_name": "Ada"})).status == 200
    await assert_whole(connection)


async def test_an_impossible_merge_is_refused_and_changes_nothing(client: Client, connection: Connection) -> None:
    student, duplicate, other, erased = [await new_student(client) for _ in range(4)]
    await call(client, "POST", f"/students/{erased}/erase", {"reason": "Art. 17"})
    await merge(client, student, duplicate)
    before = await everything(connection)

    def pointer(answer: Answer, status: int, code: str) -> str:
        [error] = problem(answer, status, code)["errors"]
        return str(error["pointer"])

    assert pointer(await merge(client, student, student), 422, "merge_with_itself") == "#/student_id"
    assert pointer(await merge(client, student, 999), 422, "unknown_student") == "#/student_id"
    again = await merge(client, other, duplicate)
    assert pointer(again, 409, "already_merged") == "#/student_id"
    assert again.body["errors"][0]["merged_into"] == student
    problem(await merge(client, 999, student), 404, "student_not_found")
    problem(await merge(client, duplicate, other), 410, "merged")
    problem(await merge(client, other, erased), 409, "merge_of_erased")
    problem(await merge(client, erased, other), 409, "merge_of_erased")
    assert places(await call(client, "POST", f"/students/{student}/merge", {"student_id": other})) == [
        ("required", "#/reason")
    ]
    assert await everything(connection) == before


async def test_merges_in_a_chain_lead_to_the_last_student(client: Client, connection: Connection) -> None:
    first, second, third = [await new_student(client) for _ in range(3)]
    course = await new_course(client)
    await enroll(client, first, course)
    await merge(client, second, first)
    await merge(client, third, second)

    assert await status_of(client, third, course) == "enrolled"
    for duplicate in (first, second):
        answer = await call(client, "GET", f"/students/{duplicate}")
        assert problem(answer, 410, "merged")["errors"][0]["merged_into"] == third
    history = (await read(client, f"/students/{third}/courses/{course}/history"))["items"]
    assert {event["student_id"] for event in history} == {first, second, third}
    await assert_whole(connection)


async def test_a_merge_may_exceed_limits_and_clash_which_check_notes(client: Client, connection: Connection) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 3})
    at = [{"day": "mon", "start": "09:00", "end": "10:00"}]
    courses = [await new_course(client, term_id=term["id"], credits=3, meetings=at) for _ in range(2)]
    student, duplicate = await new_student(client), await new_student(client)
    await enroll(client, student, courses[0])
    await enroll(client, duplicate, courses[1])

    assert (await merge(client, student, duplicate)).status == 200

    await assert_whole(connection, notes=2)


async def test_a_seat_above_a_lowered_capacity_is_kept_in_a_merge(client: Client, connection: Connection) -> None:
    course, student, duplicate = (
        await new_course(client, capacity=1),
        await new_student(client),
        await new_student(client),
    )
    await enroll(client, duplicate, course)
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 0})
    await merge(client, student, duplicate)
    assert await status_of(client, student, course) == "enrolled"
    await assert_whole(connection)


async def test_a_waitlist_place_keeps_its_position_and_its_swap(client: Client, connection: Connection) -> None:
    full, out = await new_course(client, capacity=1), await new_course(client)
    seated, student, before, duplicate, after = [await new_student(client) for _ in range(5)]
    await enroll(client, seated, full)
    await join_waitlist(client, before, full)
    await enroll(client, duplicate, out)
    swap = {"drop": [out], "add": [full], "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{duplicate}/swap", swap)).status == 201
    await join_waitlist(client, after, full)
    await join_waitlist(client, student, full)

    await merge(client, student, duplicate)

    items = (await read(client, f"/courses/{full}/students?status=waitlisted"))["items"]
    assert [(item["student_id"], item["position"], item["swap_drops"]) for item in items] == [
        (before, 1, None),
        (student, 2, [out]),
        (after, 3, None),
    ]
    await assert_whole(connection)
    await drop(client, seated, full)
    await drop(client, before, full)
    assert [await status_of(client, student, course) for course in (full, out)] == ["enrolled", "dropped"]
    await assert_whole(connection)


async def test_a_swap_forgets_a_course_that_the_merge_completes(client: Client, connection: Connection) -> None:
    full, out = await new_course(client, capacity=0), await new_course(client)
    student, duplicate = await new_student(client), await new_student(client)
    await enroll(client, student, out)
    swap = {"drop": [out], "add": [full], "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{student}/swap", swap)).status == 201
    await bring_to(client, duplicate, out, "completed")
    await merge(client, student, duplicate)
    assert (await read(client, f"/students/{student}/courses/{full}"))["swap_drops"] is None
    await assert_whole(connection)


async def test_a_pass_keeps_the_code_under_which_it_was_made(client: Client, connection: Connection) -> None:
    course, student, duplicate = (
        await new_course(client, code="OLD"),
        await new_student(client),
        await new_student(client),
    )
    needs_old = await new_course(client)
    groups = {"groups": [{"kind": "pre", "any_of": ["OLD"]}]}
    await call(client, "PUT", f"/courses/{needs_old}/requirements", groups)
    await bring_to(client, student, course, "failed")
    await bring_to(client, duplicate, course, "completed")
    await call(client, "PATCH", f"/courses/{course}", {"code": "NEW"})
    await merge(client, student, duplicate)
    assert (await enroll(client, student, needs_old)).status == 201
    await call(client, "PATCH", f"/courses/{course}", {"code": "NEWER"})
    await assert_whole(connection)


async def test_a_student_with_a_duplicate_cannot_be_deleted(client: Client, connection: Connection) -> None:
    student, duplicate = await new_student(client), await new_student(client)
    await merge(client, student, duplicate)
    problem(await call(client, "DELETE", f"/students/{student}"), 409, "in_use")
    await assert_whole(connection)


async def test_an_erasure_covers_the_duplicates(client: Client, connection: Connection) -> None:
    student = await new_student(client)
    canary = {"given_name": "Canary", "email": "canary@campus.example", "external_id": "Canary-1"}
    duplicate = await new_student(client, **canary)
    course = await new_course(client)
    headers = {"Idempotency-Key": "Canary", "X-Actor": "Canary"}
    await call(client, "POST", f"/students/{duplicate}/enroll", {"course_ids": [course]}, headers=headers)
    await call(client, "DELETE", f"/students/{duplicate}/courses/{course}?reason=Canary")
    await hold(client, duplicate, reason="Canary")
    await call(client, "POST", f"/students/{student}/merge", {"student_id": duplicate, "reason": "Canary"})

    assert (await call(client, "POST", f"/students/{student}/erase", {"reason": "Art. 17"})).status == 200

    tables = ("students", "events", "holds", "overrides", "refusals", "idempotency_keys", "merged_students")
    assert "canary" not in str({table: await connection.fetch(f"TABLE {table}") for table in tables}).lower()
    problem(await call(client, "GET", f"/students/{duplicate}"), 410, "merged")
    await assert_whole(connection)


async def test_a_token_of_a_duplicate_learns_into_whom_it_was_merged(
    aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    async with provider() as issuer:
        await learn(await served(aiohttp_client, with_issuer(settings, issuer)), issuer)


async def learn(client: Client, issuer: Provider) -> None:
    """Merge the student of a token, and make calls with the token."""
    office = bearer(issuer.token(scope="manage merge"))
    made = [
        (await call(client, "POST", "/students", student_fields(external_id=f"S-{number}"), headers=office)).body["id"]
        for number in (1, 2)
    ]
    portal = bearer(issuer.token(scope="self", student_number="S-2"))
    assert (await call(client, "GET", f"/students/{made[1]}", headers=portal)).status == 200
    body = {"student_id": made[1], "reason": "Twice"}
    assert (await call(client, "POST", f"/students/{made[0]}/merge", body, headers=office)).status == 200

    answer = await call(client, "GET", f"/students/{made[1]}", headers=portal)

    assert problem(answer, 410, "merged")["errors"][0]["merged_into"] == made[0]
    problem(await call(client, "GET", f"/students/{made[0]}", headers=portal), 404, "no_such_path")


async def test_the_statements_of_a_merge_do_not_grow_with_the_rows(client: Client, settings: Settings) -> None:
    sent: list[str] = []
    database = Database(settings.model_copy(update={"pool_size": 1}))
    await database.open()
    registrar = Registrar(database, settings)
    async with database.reading() as connection:
        connection.add_query_logger(lambda query: sent.append(query.query))
    counts = []
    # In the first transaction the driver looks up the types.
    for courses in (1, 1, 30):
        student, duplicate = await new_student(client), await new_student(client)
        ids = [await new_course(client) for _ in range(courses)]
        for each in (student, duplicate):
            await enroll(client, each, *ids)
            for course in ids:
                await grant(client, each, course, "hold")
                await hold(client, each, blocks=["drop"])
        sent.clear()
        await registrar.submit_all([Merge(origin=Origin("r"), student_id=student, duplicate_id=duplicate)])
        counts.append(len(sent))
    await database.close()
    assert counts[2] <= counts[1], sent


async def test_a_refusal_that_is_written_after_the_merge_is_the_students(
    client: Client, settings: Settings, connection: Connection
) -> None:
    student, duplicate = await new_student(client), await new_student(client)
    full = await new_course(client, capacity=0)
    async with registrar_of(settings) as office:
        origin = Origin("r")
        await office.submit_all([Enroll(origin=origin, student_id=duplicate, course_ids=(full,))])
        await office.submit_all([Merge(origin=origin, student_id=student, duplicate_id=duplicate)])
    rows = await connection.fetch("SELECT student_id, reasons FROM refusals")
    assert [(row["student_id"], json.loads(row["reasons"])[0]["code"]) for row in rows] == [(student, "course_full")]
