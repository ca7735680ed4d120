"""Bulk requests: students and courses by external id, and enrollments with actions, over HTTP."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from service.registrar.changes import Origin
from service.registrar.courses import COURSE
from service.registrar.resources import Replace
from service.settings import Settings
from sql import Connection
from sql.courses import MATCH_COURSES, Course
from tests import shared
from tests.campus import (
    Answer,
    busy,
    call,
    course_fields,
    create,
    enroll,
    events,
    everything,
    join_waitlist,
    new_course,
    new_student,
    places,
    problem,
    read,
    student_fields,
)
from tests.conftest import Client
from tests.test_auth import bearer, new_key
from tests.test_optimistic import counted

pytestmark, service, client, connection, settings = shared.SERVICE
database_url = shared.DATABASE_URL

ORIGIN = Origin("r")
MONDAY = {"day": "mon", "start": "09:00", "end": "10:00"}


async def put(client: Client, path: str, *items: Mapping[str, object]) -> list[Any]:
    """Send items, and return their outcomes: what became of each, or the problem of a refused one."""
    answer = await call(client, "PUT", path, {"items": items})
    assert answer.status == 200, answer
    assert [each["external_id"] for each in answer.body["items"]] == [item["external_id"] for item in items]
    return [each.get("problem") or each["outcome"] for each in answer.body["items"]]


async def bulk(client: Client, *items: Mapping[str, object], dry_run: bool = False) -> list[tuple[int, Any]]:
    """Send items of enrollments, and return the status and the body of each."""
    answer = await call(client, "POST", f"/enrollments{'?dry_run=true' * dry_run}", {"items": items})
    assert answer.status == 200, answer
    assert answer.body.get("dry_run", False) == dry_run
    return [(item["status"], item["body"]) for item in answer.body["items"]]


def student(key: str, **fields: object) -> dict[str, object]:
    return {"external_id": key, "given_name": "Ada", "email": f"{key}@campus.example", **fields}


def alone(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without what differs between two calls."""
    return {name: value for name, value in body.items() if name not in {"request_id", "joined_at"}}


async def test_each_item_is_created_updated_unchanged_or_refused(client: Client, connection: Connection) -> None:
    [taken] = [await create(client, "/students", student_fields(email="taken@campus.example"))]
    assert await put(client, "/students", student("a"), student("b", groups=["x"]), student("c")) == ["created"] * 3
    before = await events(connection)
    version = (await read(client, "/students/by-external-id/b"))["version"]

    outcomes = await put(
        client,
        "/students",
        student("c"),
        student("b", groups=["y", "x"]),
        student("new", email="TAKEN@campus.example"),
        student("d", email=None),
        student("a"),
    )

    refused = outcomes.pop(2)
    assert outcomes == ["unchanged", "updated", "created", "unchanged"]
    assert (refused["code"], refused["errors"][0]["pointer"]) == ("email_taken", "#/email")
    made = [event["type"] for event in (await events(connection))[len(before) :]]
    assert made == ["student.updated", "student.created"]
    edited = await read(client, "/students/by-external-id/b")
    assert (edited["groups"], edited["version"]) == (["x", "y"], version + 1)
    assert (await read(client, f"/students/{taken['id']}"))["version"] == 1
    assert (await call(client, "GET", "/students/by-external-id/new")).status == 404


async def test_an_answer_that_is_sent_back_changes_nothing_and_does_not_wait_for_the_lock(
    client: Client, connection: Connection, database_url: str
) -> None:
    term = {"code": "T", "name": "T", "starts_on": "2036-01-07", "ends_on": "2036-06-30"}
    term_id = (await create(client, "/terms", term))["id"]
    made = [
        await create(client, "/courses", course_fields(external_id=f"c{number}", term_id=term_id, meetings=[MONDAY]))
        for number in range(2)
    ]
    await put(client, "/students", student("a", max_credits=3.5), student("b", groups=["x", "y"]))
    students = (await read(client, "/students"))["items"]
    before = await everything(connection)

    async with busy(database_url):
        assert await put(client, "/students", *students) == ["unchanged"] * 2
        assert await put(client, "/courses", *made) == ["unchanged"] * 2
    assert await everything(connection) == before


async def test_an_external_id_may_appear_once(client: Client, connection: Connection) -> None:
    items = [student("a"), student("b"), student("a", given_name="Emmy"), student("a")]

    answer = await call(client, "PUT", "/students", {"items": items})

    assert places(answer) == [("repeated_external_id", f"#/items/{number}/external_id") for number in (2, 3)]
    assert "items/2/external_id is also that of items/0" in answer.body["detail"]
    many = [student("a") for _ in range(300)]
    answer = await call(client, "PUT", "/students", {"items": many})
    assert (len(places(answer)), "… and 199 more" in answer.body["detail"]) == (100, True)
    assert await events(connection) == []


async def test_an_invalid_body_is_refused_as_a_whole(client: Client, connection: Connection) -> None:
    for path, items, found in (
        ("/students", [], [("too_short", "#/items")]),
        ("/students", [student("a"), {"given_name": "A"}], [("required", "#/items/1/external_id")]),
        ("/students", [student("a", q=1), student("b", q=1)], [("unknown_field", "#/items/0/q")]),
        ("/courses", [course_fields(external_id="a", credits=100)], [("too_large", "#/items/0/credits")]),
        ("/courses", [course_fields(external_id="a", meetings=[{}])], [("required", "#/items/0/meetings/0/day")]),
    ):
        assert places(await call(client, "PUT", path, {"items": items}))[:1] == found
    problem(
        await call(client, "PUT", "/students", data=b'{"items":[{"external_id":"a","external_id":"b"}]}'),
        400,
        "bad_json",
    )
    assert await events(connection) == []


async def test_a_refused_item_has_the_problem_of_a_call_of_its_own(client: Client, connection: Connection) -> None:
    await put(client, "/students", student("a"), student("b", sourced_id="s-b"), student("old"))
    ids = {each["external_id"]: each["id"] for each in (await read(client, "/students"))["items"]}
    body = {"student_id": ids["old"], "reason": "twice"}
    assert (await call(client, "POST", f"/students/{ids['a']}/merge", body)).status == 200
    term = {"code": "T", "name": "T", "starts_on": "2036-01-07", "ends_on": "2036-06-30"}
    term_id = (await create(client, "/terms", term))["id"]
    course = await new_course(client, external_id="c", code="X1", term_id=term_id, capacity=3)
    groups = {"groups": [{"kind": "pre", "any_of": ["Y1"]}]}
    assert (await call(client, "PUT", f"/courses/{course}/requirements", groups)).status == 200
    reserved = {"reservations": [{"group": "g", "seats": 2}]}
    assert (await call(client, "PUT", f"/courses/{course}/reservations", reserved)).status == 200
    before = await everything(connection)

    for path, item, code in (
        ("/students", student("é/x", email="a@campus.example"), "email_taken"),
        ("/students", student("n", sourced_id="s-b"), "sourced_id_taken"),
        ("/students", student("a", given_name=None), "name_required"),
        ("/students", student("a", version=7), "invalid"),
        ("/students", student("n", version=1), "invalid"),
        ("/students", student("old"), "merged"),
        ("/courses", course_fields(external_id="n", code="x1", term_id=term_id), "code_taken"),
        ("/courses", course_fields(external_id="n", term_id=9_999), "unknown_term"),
        ("/courses", course_fields(external_id="c", code="y1", term_id=term_id), "own_requirement"),
        ("/courses", course_fields(external_id="c", code="X1", capacity=1), "reservations_above_capacity"),
        ("/courses", course_fields(external_id="n", meetings=[{**MONDAY, "every_weeks": 2}]), "meeting_dates"),
        ("/courses", course_fields(external_id="c", code="X1", seats_taken=1), "invalid"),
    ):
        [refused] = await put(client, path, item)
        single = await call(client, "PUT", refused["instance"], {**item})
        assert alone(problem(single, refused["status"], code)) == alone(refused)
    assert await everything(connection) == before


async def test_items_follow_each_other_and_lift_what_blocked_students(client: Client) -> None:
    full, other = [await new_course(client, external_id=each, code=each, capacity=0) for each in ("full", "other")]
    waiting = await new_student(client, external_id="w", max_credits=0)
    assert (await join_waitlist(client, waiting, full)).status == 201
    fields = {name: (await read(client, f"/courses/{full}"))[name] for name in ("external_id", "code", "title")}

    raised = await put(client, "/courses", {**fields, "capacity": 2, "credits": 1}, {**fields, "external_id": "n"})
    assert raised == ["updated", "created"]

    assert (await read(client, f"/students/{waiting}/courses/{full}"))["status"] == "enrolled"
    assert (await read(client, f"/courses/{other}"))["version"] == 1
    moved = [student("p", email="q@campus.example"), student("q", email="p@campus.example")]
    assert await put(client, "/students", *moved) == ["created", "created"]
    # Each keeps the address that the other one wants; a released one is free.
    swapped = [student("p"), student("q")]
    assert [each["code"] for each in await put(client, "/students", *swapped)] == ["email_taken"] * 2
    assert await put(client, "/students", student("p", email=None), student("q", email="q@campus.example")) == [
        "updated",
        "updated",
    ]


async def test_the_statements_do_not_grow_with_the_items(client: Client, settings: Settings) -> None:
    term = {"code": "T", "name": "T", "starts_on": "2036-01-07", "ends_on": "2036-06-30"}
    term_id = (await create(client, "/terms", term))["id"]

    def change(number: int, **fields: object) -> Replace[Course, Any]:
        values: Any = {"external_id": f"c{number}", "term_id": term_id, "code": f"C{number}", "section": None}
        values |= {"title": "T", "credits": 1.0, "capacity": 3, "waitlist_capacity": None, "meetings": "[]", **fields}
        return Replace(origin=ORIGIN, resource=COURSE, external_id=f"c{number}", fields=values)

    async with counted(settings) as (office, sent):
        counts = []
        for few in (range(1), range(1, 31), range(31, 231)):
            for fields in ({}, {"credits": 2.0}, {"credits": 2.0, "title": "Q"}):
                sent.clear()
                made = await office.replace_all([change(number, **fields) for number in few])
                assert {each.outcome for each in made if not isinstance(each, Exception)} == {
                    "updated" if fields else "created"
                }
                counts.append(len(sent))
        sent.clear()
        made = await office.replace_all([change(number, credits=2.0, title="Q") for number in range(231)])
        await asyncio.sleep(0)  # the driver counts in the next turn of the loop
        assert {getattr(each, "outcome", None) for each in made} == {"unchanged"}
        assert sent == [MATCH_COURSES]
    created, edited, titled = counts[0::3], counts[1::3], counts[2::3]
    assert created[2] <= created[1] + 8, "ids are reserved in amounts that double"
    assert edited[2] <= edited[1]
    assert titled[2] <= titled[1]


async def test_a_bulk_request_has_up_to_1000_items(client: Client) -> None:
    items = [student(f"s{number}", groups=["major:physics"]) for number in range(1000)]
    assert await put(client, "/students", *items) == ["created"] * 1000
    assert await put(client, "/students", *items) == ["unchanged"] * 1000
    assert places(await call(client, "PUT", "/students", {"items": [*items, student("n")]})) == [
        ("too_long", "#/items")
    ]


async def test_an_item_of_enrollments_does_what_its_call_does(client: Client) -> None:
    """A dry run has the results of the items; the calls, made one by one, then have the same."""
    seated, other = [await new_student(client, external_id=each) for each in ("seated", "other")]
    small, big = await new_course(client, external_id="small", capacity=1), await new_course(client, external_id="big")
    await enroll(client, seated, small)
    await join_waitlist(client, other, small)
    items: list[tuple[dict[str, object], str, str, object]] = [
        ({"student_id": seated, "course_ids": [big, small]}, "POST", "enroll", {"course_ids": [big, small]}),
        ({"action": "enroll", "student_id": other, "course_ids": [9_999]}, "POST", "enroll", {"course_ids": [9_999]}),
        (
            {"action": "swap", "student_id": seated, "drop": [small], "add": [9_999]},
            "POST", "swap", {"drop": [small], "add": [9_999]},
        ),
        ({"action": "complete", "student_id": other, "course_id": big, "passed": True}, "POST", f"courses/{big}/complete", {"passed": True}),
        ({"action": "drop", "student_id": seated, "course_id": 9_999}, "DELETE", "courses/9999", None),
        ({"action": "swap", "student_id": seated, "drop": [small], "add": []}, "POST", "swap", {"drop": [small], "add": []}),
        ({"action": "drop", "student_id": other, "course_id": small, "reason": "so"}, "DELETE", f"courses/{small}?reason=so", None),
        ({"action": "complete", "student_id": seated, "course_id": big, "passed": False, "grade": "F"}, "POST", f"courses/{big}/complete", {"passed": False, "grade": "F"}),
        ({"action": "drop", "student_id": seated, "course_id": big}, "DELETE", f"courses/{big}", None),
    ]  # fmt: skip

    previewed = await bulk(client, *(item for item, *_ in items), dry_run=True)

    for (item, method, path, body), (status, shown) in zip(items, previewed, strict=True):
        answer = await call(client, method, f"/students/{item['student_id']}/{path}", body)
        assert (answer.status, alone(answer.body)) == (status, alone(shown)), item
    assert [status for status, _ in previewed] == [201, 422, 422, 409, 404, 200, 200, 200, 409]


async def test_a_dry_run_of_many_writes_nothing(client: Client, connection: Connection, database_url: str) -> None:
    seated, waiting, late = [await new_student(client) for _ in range(3)]
    course = await new_course(client, capacity=1)
    await enroll(client, seated, course)
    await join_waitlist(client, waiting, course)
    items = [
        {"action": "drop", "student_id": seated, "course_id": course},
        {"student_id": late, "course_ids": [course]},
        {"action": "drop", "student_id": waiting, "course_id": course},
        {"student_id": late, "course_ids": [course]},
        {"action": "complete", "student_id": late, "course_id": course, "passed": True},
    ]
    before = await everything(connection)

    async with busy(database_url):
        previewed = await bulk(client, *items, dry_run=True)
    assert await everything(connection) == before

    assert [status for status, _ in previewed] == [200, 409, 200, 201, 200]
    made = await bulk(client, *items)
    assert [(status, alone(body)) for status, body in made] == [(status, alone(body)) for status, body in previewed]


async def test_students_and_courses_may_be_named_by_their_external_ids(client: Client) -> None:
    one, other = await new_student(client, external_id="S-1"), await new_student(client, external_id="S-2")
    first = await new_course(client, external_id="C:1", capacity=1)
    second = await new_course(client, external_id="C:2")
    made = await bulk(
        client,
        {"student_external_id": "S-1", "course_external_ids": ["C:1", "C:2", "C:1"]},
        {"student_external_id": "S-2", "course_external_ids": ["C:2", "C:1"]},
        {"student_id": other, "course_external_ids": ["C:2"]},
        {"action": "swap", "student_external_id": "S-2", "drop_external_ids": ["C:2"], "add_external_ids": ["C:1"]},
        {"action": "complete", "student_external_id": "S-2", "course_external_id": "C:2", "passed": True},
        {"action": "drop", "student_external_id": "S-1", "course_external_id": "C:1"},
    )
    assert [status for status, _ in made] == [201, 409, 201, 409, 200, 200]
    assert [each["course_id"] for each in made[0][1]["results"]] == [first, second]
    assert [error["pointer"] for error in made[1][1]["errors"]] == ["#/course_external_ids/1"]
    assert [error["pointer"] for error in made[3][1]["errors"]] == ["#/add_external_ids/0"]
    assert made[3][1]["instance"] == f"/students/{other}/swap"
    assert (await read(client, f"/students/{one}/courses?status=dropped"))["items"][0]["course_id"] == first


async def test_an_external_id_that_names_nothing_refuses_its_item(client: Client, connection: Connection) -> None:
    student, duplicate = await new_student(client, external_id="S-1"), await new_student(client, external_id="S-2")
    course = await new_course(client, external_id="C-1")
    body = {"student_id": duplicate, "reason": "twice"}
    assert (await call(client, "POST", f"/students/{student}/merge", body)).status == 200
    before = await everything(connection)

    refused = await bulk(
        client,
        {"student_external_id": "nobody", "course_ids": [course]},
        {"student_external_id": "S-2", "course_ids": [course]},
        {"student_external_id": "S-1", "mode": "partial", "course_external_ids": ["C-1", "none", "no"]},
        {"action": "drop", "student_external_id": "S-1", "course_external_id": "none"},
        {"action": "complete", "student_external_id": "S-1", "course_external_id": "none", "passed": True},
        {"action": "swap", "student_id": student, "drop_external_ids": ["none"], "add_external_ids": ["C-1"]},
    )

    codes = ["student_not_found", "merged", "unknown_course", "course_not_found", "course_not_found", "unknown_course"]
    assert [body["code"] for _, body in refused] == codes
    assert [error["pointer"] for error in refused[2][1]["errors"]] == [
        "#/course_external_ids/1",
        "#/course_external_ids/2",
    ]
    assert [error["pointer"] for error in refused[5][1]["errors"]] == ["#/drop_external_ids/0"]
    assert {body["instance"] for _, body in refused} == {"/enrollments"}
    assert await everything(connection) == before


INVALID_ITEMS: list[tuple[dict[str, object], str, str]] = [
    ({"action": "quit", "student_id": 1, "course_id": 1}, "not_an_option", ""),
    ({"action": ["drop"], "student_id": 1, "course_id": 1}, "not_an_option", ""),
    ({"course_ids": [1]}, "ids_or_external_ids", ""),
    ({"student_id": 1, "student_external_id": "a", "course_ids": [1]}, "ids_or_external_ids", ""),
    ({"student_id": 1}, "ids_or_external_ids", ""),
    ({"student_id": 1, "course_ids": [1], "course_external_ids": ["a"]}, "ids_or_external_ids", ""),
    ({"student_id": 1, "course_ids": [1], "course_id": 1}, "unknown_field", "/course_id"),
    ({"student_id": 1, "course_ids": [1, "a", "b"]}, "wrong_type", "/course_ids/1"),
    ({"student_id": 1, "course_ids": []}, "too_short", "/course_ids"),
    ({"action": "drop", "student_id": 1}, "ids_or_external_ids", ""),
    ({"action": "drop", "student_id": 1, "course_id": 0}, "too_small", "/course_id"),
    ({"action": "drop", "student_id": 1, "course_id": 1, "as": "dropped"}, "required", ""),
    ({"action": "drop", "student_id": 1, "course_id": 1, "as": "gone"}, "not_an_option", "/as"),
    ({"action": "swap", "student_id": 1, "drop": [1]}, "ids_or_external_ids", ""),
    ({"action": "swap", "student_id": 1, "drop": [1], "add_external_ids": ["a"]}, "ids_or_external_ids", ""),
    ({"action": "swap", "student_id": 1, "drop": [1], "add": [1]}, "swap_with_itself", ""),
    ({"action": "swap", "student_id": 1, "drop": [1], "add": [2, 3], "on_full": "waitlist"}, "too_many_adds", ""),
    ({"action": "complete", "student_id": 1, "course_id": 1, "passed": 1}, "wrong_type", "/passed"),
]


async def test_an_invalid_item_is_named_by_its_place(client: Client, connection: Connection) -> None:
    items = [item for item, _, _ in INVALID_ITEMS]
    assert places(await call(client, "POST", "/enrollments", {"items": [*items, 5]})) == [
        *((code, f"#/items/{number}{place}") for number, (_, code, place) in enumerate(INVALID_ITEMS)),
        ("wrong_type", f"#/items/{len(items)}"),
    ]
    wide = [{"action": "swap", "student_id": 1, "drop": [*range(1, 101)], "add": [*range(101, 201)]}] * 11
    assert places(await call(client, "POST", "/enrollments", {"items": wide})) == [("too_many_pairs", "#")]
    assert await events(connection) == []


async def test_some_actions_require_the_scopes_of_their_calls(client: Client) -> None:
    admin = await new_key(client, "admin")
    key = {name: await new_key(client, *scopes, key=admin, name=name) for name, scopes in SCOPES.items()}
    student, course = 1, 1
    made = await call(client, "POST", "/students", student_fields(), headers=bearer(key["office"]))
    assert made.body["id"] == student
    assert (await call(client, "POST", "/courses", course_fields(), headers=bearer(key["office"]))).body["id"] == course

    async def send(name: str, item: dict[str, object]) -> Answer:
        body = {"items": [{"student_id": student, **item}]}
        return await call(client, "POST", "/enrollments", body, headers=bearer(key[name]))

    assert (await send("portal", {"course_ids": [course]})).status == 200
    annul = {"action": "drop", "course_id": course, "as": "dropped", "reason": "error"}
    complete = {"action": "complete", "course_id": course, "passed": True}
    assert "override" in problem(await send("portal", annul), 403, "scope_missing")["detail"]
    assert "manage" in problem(await send("portal", complete), 403, "scope_missing")["detail"]
    assert (await send("office", complete)).body["items"][0]["status"] == 200
    [refused] = (await send("dean", annul)).body["items"]
    assert refused["body"]["code"] == "already_completed"
    for path in ("/students", "/courses"):
        answer = await call(client, "PUT", path, {"items": []}, headers=bearer(key["portal"]))
        problem(answer, 403, "scope_missing")


SCOPES = {"portal": ["enroll"], "office": ["enroll", "manage"], "dean": ["enroll", "override"]}


@pytest.mark.parametrize("path", ["/students", "/courses"])
async def test_an_item_that_the_database_refuses_fails_alone(
    client: Client, connection: Connection, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    await connection.execute(f"ALTER TABLE {path[1:]} ADD CONSTRAINT not_it CHECK (external_id <> 'b')")
    fields = student_fields if path == "/students" else course_fields
    items = [fields(external_id=each) for each in "abc"]

    first, broken, last = await put(client, path, *items)

    assert (first, broken["code"], last) == ("created", "internal_error", "created")
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    await connection.execute(f"ALTER TABLE {path[1:]} DROP CONSTRAINT not_it")
