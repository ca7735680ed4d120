"""The registrar: overrides, waitlists, the sweep, bulk requests, dry runs, terms, and refusals."""

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.check import check
from service.database import Database
from service.registrar import Registrar
from service.registrar.changes import Origin
from service.registrar.courses import Cancel
from service.registrar.enrollments import Drop, Enroll
from service.registrar.needs import Needs
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import (
    Answer,
    busy,
    call,
    course_fields,
    create,
    drop,
    enroll,
    events,
    everything,
    join_waitlist,
    let_holds_end,
    new_course,
    new_student,
    new_students,
    problem,
    read,
    registrar_of,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE
database_url = shared.DATABASE_URL

TERM = {"code": "2026F", "name": "Fall", "starts_on": "2036-09-01", "ends_on": "2036-12-18"}
MONDAY = {"day": "mon", "start": "09:00", "end": "10:00"}
MANY = 256
"""The number of items in a large bulk request."""
PAST, AHEAD = "2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


async def hold(client: Client, student: int, **fields: object) -> int:
    body = {"reason": "Fees", "blocks": ["enroll"], **fields}
    id: int = (await create(client, f"/students/{student}/holds", body))["id"]
    return id


async def grant(client: Client, student: int, course: int, rule: str, **fields: object) -> dict[str, Any]:
    body = {"course_id": course, "rule": rule, "author": "Dean", "reason": "So", **fields}
    return await create(client, f"/students/{student}/overrides", body)


async def status_of(client: Client, student: int, course: int) -> str | None:
    for status in ("enrolled", "waitlisted", "completed", "dropped", "withdrawn"):
        found = await read(client, f"/students/{student}/courses?status={status}")
        if course in [item["course_id"] for item in found["items"]]:
            return status
    return None


def codes(answer: Answer) -> list[str]:
    return [error["code"] for error in answer.body["errors"]]


async def test_every_rule_that_refuses_is_listed_with_its_parameters_and_its_pointer(client: Client) -> None:
    term = await create(client, "/terms", {**TERM, "enroll_from": AHEAD, "max_credits": 3})
    at = {"meetings": [{"day": "mon", "start": "09:00", "end": "10:00"}]}
    seated = await new_course(client, code="HERE", **at)
    wanted = await new_course(client, code="WANT", credits=4, term_id=term["id"], **at)
    groups = [{"kind": kind, "any_of": [code]} for kind, code in (("pre", "P"), ("co", "Q"), ("anti", "HERE"))]
    await call(client, "PUT", f"/courses/{wanted}/requirements", {"groups": groups})
    student = await new_student(client)
    await enroll(client, student, seated)
    await hold(client, student)

    answer = await enroll(client, student, wanted)

    refusals = [{k: v for k, v in error.items() if k != "detail"} for error in answer.body["errors"]]
    place = {"pointer": "#/course_ids/0", "course_id": wanted}
    assert refusals == [
        {"code": "enrollment_not_open", **place, "opens_at": AHEAD.replace("Z", "Z")},
        {"code": "hold", **place, "reason": "Fees"},
        {"code": "prerequisite_missing", **place, "any_of": ["P"]},
        {"code": "corequisite_missing", **place, "any_of": ["Q"]},
        {"code": "antirequisite", **place, "course_code": "HERE"},
        {"code": "time_conflict", **place, "with_course_id": seated},
        {"code": "credit_limit", **place, "term_id": term["id"], "held": 0, "asked": 4, "limit": 3},
    ]


async def test_touching_meetings_do_not_clash(client: Client) -> None:
    one = await new_course(client, meetings=[{"day": "mon", "start": "09:00", "end": "10:00"}])
    next_one = await new_course(client, meetings=[{"day": "mon", "start": "10:00", "end": "11:00"}])
    assert (await enroll(client, await new_student(client), one, next_one)).status == 201


async def test_deadlines_separate_drops_from_withdrawals_and_end_both(client: Client) -> None:
    term = await create(client, "/terms", TERM)
    student, course = await new_student(client), await new_course(client, term_id=term["id"])
    path = f"/terms/{term['id']}"
    await enroll(client, student, course)
    assert (await call(client, "PATCH", path, {"drop_until": PAST, "withdraw_until": PAST})).status == 200
    assert codes(await drop(client, student, course)) == ["drop_closed"]
    await grant(client, student, course, "drop_closed")
    assert (await drop(client, student, course)).body["outcome"] == "withdrawn"
    await call(client, "PATCH", path, {"drop_until": AHEAD, "withdraw_until": None})
    await enroll(client, student, course)
    assert (await drop(client, student, course)).body["outcome"] == "dropped"


async def test_only_a_seat_uses_an_override_and_it_may_exceed_the_capacity(client: Client, settings: Settings) -> None:
    course = await new_course(client, capacity=0)
    student, other = await new_student(client), await new_student(client)
    await join_waitlist(client, other, course)
    override = await grant(client, student, course, "course_full")
    path = f"/students/{student}/enroll"
    assert (await call(client, "POST", f"{path}?dry_run=true", {"course_ids": [course]})).status == 200
    [unused] = (await read(client, f"/students/{student}/overrides"))["items"]
    assert unused["used_at"] is None

    assert (await enroll(client, student, course)).status == 201

    [used] = (await read(client, f"/students/{student}/overrides"))["items"]
    assert used["used_at"] is not None
    seen = await read(client, f"/courses/{course}")
    assert (seen["seats_taken"], seen["seats_free"], seen["waitlisted"]) == (1, 0, 1)
    assert override["used_at"] is None


async def test_an_override_granted_to_a_waitlisted_student_takes_effect_at_once(client: Client) -> None:
    course = await new_course(client, capacity=0)
    first, second = await new_student(client), await new_student(client)
    await join_waitlist(client, first, course)
    await join_waitlist(client, second, course)
    await grant(client, second, course, "course_full")
    assert await status_of(client, second, course) == "enrolled"
    assert await status_of(client, first, course) == "waitlisted"


async def test_a_skipped_student_keeps_the_waitlist_position_and_the_reason_is_recorded_once(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=1)
    seated, held, third, fourth = [await new_student(client) for _ in range(4)]
    await enroll(client, seated, course)
    for student in (held, third, fourth):
        await join_waitlist(client, student, course)
    await hold(client, held)
    await drop(client, seated, course)
    await drop(client, third, course)

    waitlist = (await read(client, f"/courses/{course}/students?status=waitlisted"))["items"]
    assert [(item["student_id"], item["position"]) for item in waitlist] == [(held, 1)]
    skipped = [event for event in await events(connection) if event["type"] == "enrollment.skipped"]
    assert [event["after"]["blocked_by"] for event in skipped] == [[{"code": "hold"}]]


async def test_the_sweep_promotes_students_made_eligible_by_the_clock_and_newcomers_do_not_overtake(
    client: Client, settings: Settings, connection: Connection
) -> None:
    course = await new_course(client, capacity=1)
    seated, waitlisted, newcomer = [await new_student(client) for _ in range(3)]
    await enroll(client, seated, course)
    await join_waitlist(client, waitlisted, course)
    await hold(client, waitlisted, until=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    await drop(client, seated, course)
    assert await status_of(client, waitlisted, course) == "waitlisted"
    await let_holds_end(connection)

    refused = await enroll(client, newcomer, course)
    assert codes(refused) == ["course_full"]
    assert await status_of(client, waitlisted, course) == "enrolled"

    await join_waitlist(client, newcomer, course)
    await hold(client, newcomer, until=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    await drop(client, waitlisted, course)
    await let_holds_end(connection)
    async with registrar_of(settings) as registrar:
        assert (await registrar.sweep()).promoted == 1
    assert await status_of(client, newcomer, course) == "enrolled"


@pytest.mark.parametrize("relaxed", ["hold", "capacity", "prerequisite", "requirement", "meetings", "limit", "cancel"])
async def test_a_waitlist_moves_as_soon_as_a_condition_is_relaxed(client: Client, relaxed: str) -> None:
    at = [{"day": "mon", "start": "09:00", "end": "10:00"}]
    term = await create(client, "/terms", {**TERM, "max_credits": 4})
    wanted = await new_course(client, code="WANT", capacity=1, credits=3, term_id=term["id"], meetings=at)
    clashing = await new_course(client, code="HAVE", capacity=1)
    seated, waitlisted = await new_student(client), await new_student(client)
    await enroll(client, seated, wanted)
    await enroll(client, waitlisted, clashing)
    assert (await join_waitlist(client, waitlisted, wanted)).status == 201
    prerequisite = {"groups": [{"kind": "pre", "any_of": ["HAVE"]}]}
    if relaxed == "hold":
        id = await hold(client, waitlisted)
    if relaxed in {"prerequisite", "requirement"}:
        await call(client, "PUT", f"/courses/{wanted}/requirements", prerequisite)
    if relaxed in {"meetings", "cancel"}:
        await call(client, "PATCH", f"/courses/{clashing}", {"meetings": at})
    if relaxed == "limit":
        await call(client, "PATCH", f"/students/{waitlisted}", {"max_credits": 2})
    if relaxed != "capacity":
        await drop(client, seated, wanted)
    assert await status_of(client, waitlisted, wanted) == "waitlisted"

    match relaxed:
        case "hold":
            await call(client, "DELETE", f"/students/{waitlisted}/holds/{id}")
        case "capacity":
            await call(client, "PATCH", f"/courses/{wanted}", {"capacity": 2})
        case "prerequisite":
            await call(client, "POST", f"/students/{waitlisted}/courses/{clashing}/complete", {"passed": True})
        case "requirement":
            await call(client, "PUT", f"/courses/{wanted}/requirements", {"groups": []})
        case "meetings":
            await call(client, "PATCH", f"/courses/{clashing}", {"meetings": []})
        case "limit":
            await call(client, "PATCH", f"/students/{waitlisted}", {"max_credits": 3})
        case "cancel":
            await call(client, "POST", f"/courses/{clashing}/cancel")

    assert await status_of(client, waitlisted, wanted) == "enrolled"


async def test_nobody_is_promoted_after_the_deadline_or_into_a_cancelled_course(client: Client) -> None:
    term = await create(client, "/terms", TERM)
    late, cancelled = await new_course(client, capacity=1, term_id=term["id"]), await new_course(client, capacity=1)
    seated, waitlisted = await new_student(client), await new_student(client)
    for course in (late, cancelled):
        await enroll(client, seated, course)
        await join_waitlist(client, waitlisted, course)
    await call(client, "PATCH", f"/terms/{term['id']}", {"enroll_until": PAST})
    await drop(client, seated, late)
    await call(client, "POST", f"/courses/{cancelled}/cancel")
    assert await status_of(client, waitlisted, late) == "waitlisted"
    assert await status_of(client, waitlisted, cancelled) == "dropped"
    assert codes(await enroll(client, waitlisted, cancelled)) == ["course_cancelled"]


async def test_swaps_cascade(client: Client) -> None:
    one, two, three = [await new_course(client, capacity=1) for _ in range(3)]
    a, b, c = [await new_student(client) for _ in range(3)]
    for student, course in ((a, one), (b, two), (c, three)):
        await enroll(client, student, course)
    for student, out, into in ((a, one, two), (b, two, three)):
        body = {"drop": [out], "add": [into], "on_full": "waitlist"}
        answer = await call(client, "POST", f"/students/{student}/swap", body)
        assert [result["outcome"] for result in answer.body["results"]] == ["kept", "waitlisted"]
        again = await call(client, "POST", f"/students/{student}/swap", body)
        assert [result["outcome"] for result in again.body["results"]] == ["kept", "unchanged"]

    await drop(client, c, three)

    assert [await status_of(client, student, course) for student, course in ((b, three), (a, two))] == ["enrolled"] * 2
    assert [await status_of(client, student, course) for student, course in ((b, two), (a, one))] == ["dropped"] * 2


async def test_a_swap_that_gives_a_seat_at_once_drops_at_once(client: Client) -> None:
    at = [{"day": "mon", "start": "09:00", "end": "10:00"}]
    held, wanted = await new_course(client, meetings=at), await new_course(client, meetings=at)
    full, student = await new_course(client, capacity=0), await new_student(client)
    await enroll(client, student, held)
    await join_waitlist(client, student, full)

    answer = await call(client, "POST", f"/students/{student}/swap", {"drop": [held], "add": [full, wanted]})

    outcomes = [(result["course_id"], result["outcome"]) for result in answer.body["results"]]
    assert outcomes == [(held, "dropped"), (full, "unchanged"), (wanted, "enrolled")]
    assert await status_of(client, student, held) == "dropped"


async def test_a_course_replaced_by_external_id_cannot_require_its_own_code(client: Client) -> None:
    body = {"code": "OLD", "title": "T"}
    course = (await call(client, "PUT", "/courses/by-external-id/c1", body)).body["id"]
    groups = [{"kind": "pre", "any_of": ["NEW"]}]
    await call(client, "PUT", f"/courses/{course}/requirements", {"groups": groups})

    answer = await call(client, "PUT", "/courses/by-external-id/c1", {**body, "code": "NEW"})

    assert (answer.status, codes(answer)) == (422, ["own_requirement"])


async def test_completion_can_be_corrected_and_keeps_the_seat(client: Client, connection: Connection) -> None:
    course, student, waitlisted = (
        await new_course(client, capacity=1),
        await new_student(client),
        await new_student(client),
    )
    path = f"/students/{student}/courses/{course}/complete"
    problem(await call(client, "POST", path, {"passed": True}), 409, "not_enrolled")
    await enroll(client, student, course)
    await join_waitlist(client, waitlisted, course)
    outcomes = [
        (await call(client, "POST", path, body)).body["outcome"]
        for body in ({"passed": False, "grade": "F"}, {"passed": True, "grade": "A-"}, {"passed": True, "grade": "A-"})
    ]
    assert outcomes == ["completed", "completed", "unchanged"]
    assert await status_of(client, waitlisted, course) == "waitlisted"
    problem(await drop(client, student, course), 409, "already_completed")
    assert codes(await enroll(client, student, course)) == ["already_completed", "course_full"]
    completions = [event["after"] for event in await events(connection) if event["type"] == "enrollment.completed"]
    assert completions == [
        {"status": "completed", "passed": False, "grade": "F"},
        {"status": "completed", "passed": True, "grade": "A-"},
    ]


async def test_a_bulk_request_has_an_outcome_for_each_item_and_its_statements_do_not_grow_with_them(
    client: Client, settings: Settings
) -> None:
    course, small = await new_course(client), await new_course(client, capacity=1)
    students = await new_students(client, 200)
    skipped_courses = []
    for _ in range(20):
        # A free seat with a blocked waitlisted student: the waitlist is judged before any newcomer.
        skipped_courses.append(await new_course(client, capacity=0))
        waitlisted = await new_student(client)
        await join_waitlist(client, waitlisted, skipped_courses[-1])
        await hold(client, waitlisted)
        await call(client, "PATCH", f"/courses/{skipped_courses[-1]}", {"capacity": None})
    items = [{"student_id": student, "course_ids": [small]} for student in students[:2]]
    answer = await call(
        client, "POST", "/enrollments", {"items": [*items, {"student_id": 999_999, "course_ids": [course]}]}
    )
    assert answer.status == 200
    assert [item["status"] for item in answer.body["items"]] == [201, 409, 404]
    assert answer.body["items"][1]["body"]["errors"][0]["code"] == "course_full"

    counts = []
    sent: list[str] = []
    database = Database(settings.model_copy(update={"pool_size": 1}))
    await database.open()
    registrar = Registrar(database, settings)
    async with database.reading() as connection:
        connection.add_query_logger(lambda query: sent.append(query.query))
    # In the first batch the driver looks up the types, and the registrar loads the courses.
    for few in (students[:20], students[20:21], students[21:]):
        sent.clear()
        changes = [
            Enroll(origin=Origin("r"), student_id=student, course_ids=(course, skipped_courses[number % 20]))
            for number, student in enumerate(few)
        ]
        await registrar.submit_all(changes)
        counts.append(len(sent))
    await database.close()
    print("statements for 1 and for 179 items:", counts[1:])
    assert counts[2] <= counts[1], sent
    assert (await read(client, f"/courses/{course}"))["seats_taken"] == 200


async def test_a_fault_in_one_item_of_a_bulk_request_does_not_hide_the_outcomes_of_the_others(
    client: Client, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    held, broken, sound = [
        await new_course(client, meetings=[MONDAY]),
        await new_course(client),
        await new_course(client),
    ]
    student, other = await new_student(client), await new_student(client)
    await connection.execute("""UPDATE courses SET meetings = '[{"day": "someday"}]' WHERE id = $1""", broken)
    await enroll(client, student, held)
    items = [{"student_id": student, "course_ids": [broken]}, {"student_id": other, "course_ids": [sound]}]

    answer = await call(client, "POST", "/enrollments", {"items": items}, headers={"X-Request-Id": "r-1"})

    assert (answer.status, [item["status"] for item in answer.body["items"]]) == (200, [500, 201])
    assert answer.body["items"][0]["body"]["type"] == "/problems/internal_error"
    [fault] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (fault.exc_info is not None, vars(fault)["request_id"]) == (True, "r-1")
    assert await status_of(client, other, sound) == "enrolled"


async def test_an_item_that_the_database_refuses_fails_alone(client: Client, connection: Connection) -> None:
    students = await new_students(client, MANY)
    course, refused = await new_course(client), students[MANY // 2]
    await connection.execute(f"ALTER TABLE student_courses ADD CONSTRAINT not_them CHECK (student_id <> {refused})")
    items = [{"student_id": student, "course_ids": [course]} for student in students]

    answer = await call(client, "POST", "/enrollments", {"items": items})

    statuses = [item["status"] for item in answer.body["items"]]
    assert statuses == [500 if student == refused else 201 for student in students]
    [alone] = (await call(client, "POST", "/enrollments", {"items": [items[MANY // 2]]})).body["items"]
    assert alone["status"] == 500
    assert (await read(client, f"/courses/{course}"))["seats_taken"] == MANY - 1
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == MANY - 1
    await connection.execute("ALTER TABLE student_courses DROP CONSTRAINT not_them")


async def test_a_waitlisted_student_is_judged_by_the_courses_they_have_after_the_batch_changed_them(
    client: Client, settings: Settings
) -> None:
    held, wanted = await new_course(client, meetings=[MONDAY]), await new_course(client, capacity=1, meetings=[MONDAY])
    waitlisted, seated = await new_student(client), await new_student(client)
    await enroll(client, seated, wanted)
    await enroll(client, waitlisted, held)
    await join_waitlist(client, waitlisted, wanted)
    origin = Origin("r")

    async with registrar_of(settings) as registrar:
        # The waitlisted student is loaded only when the seat becomes free, after the clashing course was cancelled.
        await registrar.submit_all(
            [Cancel(origin=origin, course_id=held), Drop(origin=origin, student_id=seated, course_id=wanted)]
        )

    assert await status_of(client, waitlisted, wanted) == "enrolled"


async def test_a_bulk_request_may_have_1000_items_and_no_more(client: Client) -> None:
    course = await new_course(client)
    student = await new_student(client)
    items = [{"student_id": student, "course_ids": [course]}] * 1000
    answer = await call(client, "POST", "/enrollments", {"items": items})
    assert [item["status"] for item in answer.body["items"]] == [201] + [200] * 999
    assert (await call(client, "POST", "/enrollments", {"items": [*items, items[0]]})).status == 422
    wide = [{"student_id": student, "course_ids": list(range(1, 101))}] * 21
    body = problem(await call(client, "POST", "/enrollments", {"items": wide}), 422, "invalid")
    assert [error["code"] for error in body["errors"]] == ["too_many_pairs"]


async def test_a_dry_run_returns_the_same_writes_nothing_and_does_not_wait_for_the_lock(
    client: Client, connection: Connection, database_url: str
) -> None:
    full, free = await new_course(client, capacity=0), await new_course(client)
    student = await new_student(client)
    before = await everything(connection)
    requests: list[tuple[str, dict[str, object]]] = [
        ("enroll", {"course_ids": [free]}),
        ("enroll", {"course_ids": [free, full]}),
        ("enroll", {"course_ids": [free, full], "mode": "partial"}),
        ("swap", {"drop": [free], "add": [full]}),
    ]
    async with busy(database_url):
        previews = [
            await call(client, "POST", f"/students/{student}/{what}?dry_run=true", body) for what, body in requests
        ]
    assert await everything(connection) == before
    for preview, (what, body) in zip(previews, requests, strict=True):
        real = await call(client, "POST", f"/students/{student}/{what}", body)
        if real.status < 300:
            assert (preview.status, preview.body) == (200, {**real.body, "dry_run": True})
            await drop(client, student, free)
        else:
            assert preview.status == real.status
            assert preview.body["errors"] == real.body["errors"]
        await connection.execute("DELETE FROM student_courses; UPDATE courses SET seats_taken = 0")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "place"),
    [
        ("PUT", "/courses/1/requirements", {"groups": [{"kind": "pre", "any_of": ["X", "OWN"]}]}, 422, "own_requirement", "#/groups/0/any_of/0"),
        ("POST", "/courses", course_fields(meetings=[{"day": "mon", "start": "10:00", "end": "10:00"}]), 422, "empty_meeting", "#/meetings/0"),
        ("POST", "/courses", course_fields(capacity=-1), 422, "too_small", "#/capacity"),
        ("POST", "/courses", course_fields(waitlist_capacity=-1), 422, "too_small", "#/waitlist_capacity"),
        ("POST", "/courses", course_fields(term_id=99), 422, "unknown_term", "#/term_id"),
        ("POST", "/terms", {**TERM, "enroll_from": AHEAD, "enroll_until": PAST}, 422, "term_dates", "#/enroll_from"),
        ("POST", "/terms", {**TERM, "drop_until": AHEAD, "withdraw_until": PAST}, 422, "term_dates", "#/drop_until"),
        ("POST", "/terms", {**TERM, "starts_on": "2037-01-01"}, 422, "term_dates", "#/starts_on"),
        ("POST", "/terms", {**TERM, "enroll_from": "2026-09-01T00:00:00"}, 422, "not_an_instant", "#/enroll_from"),
        ("POST", "/students/1/overrides", {"course_id": 1, "rule": "gravity", "author": "D", "reason": "S"}, 422, "not_an_option", "#/rule"),
        ("POST", "/students/1/overrides", {"course_id": 99, "rule": "hold", "author": "D", "reason": "S"}, 422, "unknown_course", "#/course_id"),
        ("POST", "/students/1/holds", {"reason": "x", "blocks": []}, 422, "too_short", "#/blocks"),
        ("POST", "/students/1/holds", {"reason": "x", "blocks": ["enroll"], "from": AHEAD, "until": PAST}, 422, "hold_dates", "#"),
        ("POST", "/students/1/holds", {"reason": "x", "blocks": ["enroll"], "until": "9999-12-31T23:59:59.999999Z"}, 422, "not_an_instant", "#/until"),
        ("POST", "/terms", {**TERM, "enroll_from": "0001-01-01T00:00:00Z"}, 422, "not_an_instant", "#/enroll_from"),
        ("POST", "/students/1/swap", {"drop": [1], "add": [1]}, 422, "swap_with_itself", "#"),
        ("POST", "/students/1/swap", {"drop": [1], "add": [2, 3], "on_full": "waitlist"}, 422, "too_many_adds", "#"),
        ("POST", "/students/1/enroll", {"course_ids": [1], "on_full": "wait"}, 422, "not_an_option", "#/on_full"),
        ("DELETE", "/students/1/holds/9", None, 404, None, None),
        ("DELETE", "/students/1/overrides/9", None, 404, None, None),
        ("DELETE", "/terms/9", None, 404, None, None),
    ],
)  # fmt: skip
async def test_invalid_input_is_refused_by_name_and_changes_nothing(
    client: Client,
    connection: Connection,
    method: str,
    path: str,
    body: object,
    status: int,
    code: str | None,
    place: str | None,
) -> None:
    await new_course(client, code="OWN")
    await new_student(client)
    before = await everything(connection)
    answer = await call(client, method, path, body)
    assert answer.status == status, answer
    assert [(error["code"], error["pointer"]) for error in answer.body["errors"]] == ([(code, place)] if code else [])
    assert await everything(connection) == before


async def test_a_term_is_created_read_listed_edited_and_deleted(client: Client) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 7.5})
    path = f"/terms/{term['id']}"
    assert await read(client, path) == term
    problem(await call(client, "POST", "/terms", TERM), 409, "code_taken")
    assert [each["id"] for each in (await read(client, "/terms"))["items"]] == [term["id"]]
    edited = await call(client, "PATCH", path, {"max_credits": None}, headers={"If-Match": '"1"'})
    assert (edited.status, edited.body["version"], edited.body["max_credits"]) == (200, 2, None)
    problem(await call(client, "PATCH", path, {"name": "x"}, headers={"If-Match": '"1"'}), 412, "precondition_failed")
    course = await new_course(client, code="A", term_id=term["id"])
    problem(await call(client, "POST", "/courses", course_fields(code="A", term_id=term["id"])), 409, "code_taken")
    assert [each["id"] for each in (await read(client, f"/courses?term_id={term['id']}"))["items"]] == [course]
    problem(await call(client, "DELETE", path), 409, "in_use")
    await call(client, "PATCH", f"/courses/{course}", {"term_id": None})
    assert (await call(client, "DELETE", path)).status == 204


async def test_meetings_are_kept_in_the_order_of_the_week(client: Client, connection: Connection) -> None:
    late, early = ({"day": day, "start": "09:00", "end": "10:30"} for day in ("fri", "mon"))
    course = await create(client, "/courses", course_fields(meetings=[late, early]))
    assert course["meetings"] == [early, late]
    assert json.loads(await connection.fetchval("SELECT meetings FROM courses")) == [early, late]


async def test_meetings_of_one_course_may_coincide_and_clash_only_with_those_of_other_courses(
    client: Client, settings: Settings
) -> None:
    lecture, overlapping = MONDAY, {"day": "mon", "start": "09:30", "end": "11:00"}
    rooms = await create(client, "/courses", course_fields(meetings=[overlapping, lecture, lecture]))
    other = await new_course(client, meetings=[{"day": "mon", "start": "10:30", "end": "11:30"}])
    student = await new_student(client)
    assert rooms["meetings"] == [lecture, lecture, overlapping]
    assert (await enroll(client, student, rooms["id"])).status == 201

    [refusal] = (await enroll(client, student, other)).body["errors"]

    assert (refusal["code"], refusal["with_course_id"]) == ("time_conflict", rooms["id"])
    assert await check(settings) == 0


async def test_a_hold_ended_before_it_begins_ends_when_it_would_have_begun(client: Client, settings: Settings) -> None:
    student, course = await new_student(client), await new_course(client)
    id = await hold(client, student, **{"from": AHEAD, "until": None})
    path = f"/students/{student}/holds/{id}"

    ended = await call(client, "DELETE", path)

    assert (ended.body["from"], ended.body["until"]) == (AHEAD, AHEAD)
    assert (await call(client, "DELETE", path)).body == ended.body
    [listed] = (await read(client, f"/students/{student}/holds"))["items"]
    assert listed == ended.body
    assert (await enroll(client, student, course)).status == 201
    assert await check(settings) == 0


async def test_ending_a_hold_that_was_never_in_force_changes_nothing(client: Client, connection: Connection) -> None:
    student = await new_student(client)
    id = await hold(client, student, **{"from": AHEAD, "until": AHEAD})
    before = await everything(connection)
    assert (await call(client, "DELETE", f"/students/{student}/holds/{id}")).body["until"] == AHEAD
    assert await everything(connection) == before


async def test_a_waitlist_can_be_left_under_a_hold_on_drops_and_after_every_deadline(
    client: Client, connection: Connection
) -> None:
    term = await create(client, "/terms", TERM)
    full = [await new_course(client, capacity=0, term_id=term["id"]) for _ in range(2)]
    seated, student = await new_course(client, term_id=term["id"]), await new_student(client)
    await enroll(client, student, seated)
    for course in full:
        await join_waitlist(client, student, course)
    await grant(client, student, full[0], "hold")
    await hold(client, student, blocks=["drop"])
    await call(client, "PATCH", f"/terms/{term['id']}", {"drop_until": PAST, "withdraw_until": PAST})

    left = await drop(client, student, full[0])
    swapped = await call(
        client, "POST", f"/students/{student}/swap", {"drop": [full[1]], "add": [await new_course(client)]}
    )

    assert (left.status, left.body["outcome"]) == (200, "dropped")
    assert [result["outcome"] for result in swapped.body["results"]] == ["dropped", "enrolled"]
    assert sorted(codes(await drop(client, student, seated))) == ["drop_closed", "hold"]
    assert await connection.fetchval("SELECT count(*) FROM overrides WHERE used_at IS NULL") == 1


COMMON_NEEDS = {"students", "pairs", "courses", "positions", "definitions", "terms", "codes", "code_sets", "pause"}
"""What ``load`` itself loads, or what needs no rows."""


@pytest.mark.parametrize("name", [field.name for field in fields(Needs)])
async def test_every_need_beyond_those_of_enrollments_is_loaded(name: str) -> None:
    assert Needs().are_those_of_enrollments
    needs = Needs()
    setattr(needs, name, {1})
    assert needs.are_those_of_enrollments == (name in COMMON_NEEDS)
