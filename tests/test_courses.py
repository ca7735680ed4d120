"""Courses: create, read, list, edit, replace, delete, and the seat counts."""

import asyncio
from collections import Counter
from urllib.parse import quote

import pytest

from sql import Connection
from tests import shared
from tests.campus import (
    call,
    course_fields,
    create,
    drop,
    enroll,
    events,
    everything,
    new_course,
    new_student,
    places,
    problem,
    read,
    walk,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

LARGEST = 2**63 - 1


async def test_a_new_course_is_read_back_as_created(client: Client) -> None:
    fields = {"code": "MATH 101", "title": "Calculus I", "credits": 4.5, "capacity": 30, "external_id": "2026/MATH"}

    created = await call(client, "POST", "/courses", fields)

    assert created.status == 201
    assert created.body.items() >= fields.items()
    assert created.body.items() >= {"version": 1, "seats_taken": 0, "seats_free": 30}.items()
    assert created.body["created_at"].endswith("Z")
    assert created.headers["Location"] == f"/courses/{created.body['id']}"
    found = await call(client, "GET", created.headers["Location"])
    assert (found.status, found.body, found.etag) == (200, created.body, 'W/"1-0-0"')


async def test_a_course_needs_a_code_and_a_title_and_has_no_limit_and_no_credits_by_default(client: Client) -> None:
    course = await create(client, "/courses", {"code": "C1", "title": "One"})

    assert course.items() >= {"credits": 0, "capacity": None, "seats_free": None, "external_id": None}.items()
    answer = await call(client, "POST", "/courses", {})
    assert places(answer) == [("required", "#/code"), ("required", "#/title")]


async def test_courses_may_share_a_code(client: Client) -> None:
    assert await new_course(client, code="MATH101") != await new_course(client, code="MATH101")


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (
            "code",
            [
                "X",
                "MATH101",
                "MATH 101 A",
                "x" * 50,
                "!~",
                "a/b",
                ">?&#%",
                '"\\',
                "é",
                "ЖЗЛ 101",
                "数学101",
                "ก๑",
                "§ 7",
            ],
            [
                *("", " ", "A  B", " A", "A ", "A\tB", "A\x00", "x" * 51, 101, None, True),
                *("A\u00a0B", "A\u200bB", "\u3164", "A\u202eB", "A\u2028B", "\u2800", "A\u3000B"),
            ],
        ),
        ("title", ["X", "李", " x ", "x" * 200], ["", " ", "\u2003", "x" * 201, "a\x00b", "a\nb", "\x7f", 1, None]),
        (
            "credits",
            [0, 0.5, 1, 1.0, 3.5, 0.25, 1.49, 98.99, 99, 99.0, 5e-1, -0.0],
            [-0.5, -1, 0.255, 1.001, 99.01, 99.5, 100, 1e300, NAN, INFINITE, -INFINITE, "3", True, None, [1], 10**400],
        ),
        (
            "capacity",
            [0, 1, LARGEST, None],
            [-1, 2**63, 10**400, 1.5, NAN, "1", True, False, [1], {}],
        ),
        ("external_id", ["1", "a/b", "%2F", None], ["", ".", "..", " ", "a b", "a\x00", "x" * 201, 1]),
    ],
)
async def test_a_field_accepts_valid_values_and_refuses_all_others(
    client: Client, connection: Connection, field: str, good: list[object], bad: list[object]
) -> None:
    ids = []
    for value in good:
        created = await create(client, "/courses", course_fields(**{field: value}))
        assert created[field] == value
        assert type(created[field]) is not float or created[field] % 1
        ids.append(created["id"])
    before = await everything(connection)

    for value in bad:
        for method, path in (("POST", "/courses"), ("PATCH", f"/courses/{ids[0]}")):
            body = course_fields(**{field: value}) if method == "POST" else {field: value}
            answer = await call(client, method, path, body)
            assert {place for _, place in places(answer)} == {f"#/{field}"}, value

    assert await everything(connection) == before


async def test_fields_that_only_the_service_writes_are_refused(client: Client) -> None:
    id = await new_course(client)
    path, put = f"/courses/{id}", "/courses/by-external-id/x"

    for name in ("id", "seats_taken", "seats_free", "version", "waitlisted"):
        assert places(await call(client, "POST", "/courses", course_fields(**{name: 7}))) == [
            ("unknown_field", f"#/{name}")
        ]
        assert places(await call(client, "PATCH", path, {name: 7})) == [("read_only", f"#/{name}")]
        assert places(await call(client, "PATCH", path, {name: "7"})) == [("wrong_type", f"#/{name}")]
        assert places(await call(client, "PUT", put, course_fields(**{name: 7}))) == [("read_only", f"#/{name}")]
    for name in ("created_at", "updated_at"):
        answer = await call(client, "PATCH", path, {name: "2020-01-01T00:00:00Z"})
        assert places(answer) == [("read_only", f"#/{name}")]
    assert places(await call(client, "PATCH", path, {"status": "cancelled", "id": 7, "seats_taken": 0})) == [
        ("read_only", "#/id"),
        ("read_only", "#/status"),
    ]


async def test_a_malformed_id_is_invalid_and_the_largest_id_is_not_found(client: Client) -> None:
    for id in ("0", "-1", str(2**63), "x", "1.0", "%D9%A1", "%00"):
        for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
            answer = await call(client, method, f"/courses/{id}", body)
            assert [place for _, place in places(answer)] == ["course_id"], (method, id)
    for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        problem(await call(client, method, f"/courses/{LARGEST}", body), 404, "course_not_found")


async def test_a_list_shows_every_course_once_by_id_over_all_its_pages(client: Client) -> None:
    ids = [await new_course(client) for _ in range(5)]

    pages = await walk(client, "/courses?limit=2")

    assert [[course["id"] for course in page] for page in pages] == [ids[:2], ids[2:4], ids[4:]]


async def test_a_list_by_code_shows_those_with_that_code_over_all_its_pages(client: Client) -> None:
    for code in ("MATH101", 'A>"b&c d', "%3E", "数" * 49, "🎓" * 49):
        ids = [await new_course(client, code=code) for _ in range(5)]
        await new_course(client, code=code.lower() + "x")
        query = quote(code, safe="")

        pages = await walk(client, f"/courses?limit=2&code={query}")

        assert [[course["id"] for course in page] for page in pages] == [ids[:2], ids[2:4], ids[4:]]
    assert len((await read(client, "/courses?code=math101"))["items"]) == len(ids)
    assert await read(client, "/courses?code=MATH10") == {"items": [], "next": None}


async def test_a_course_is_found_by_external_id(client: Client) -> None:
    await new_course(client)
    course = await create(client, "/courses", course_fields(external_id="2026/MATH?"))

    assert await read(client, "/courses?external_id=2026%2FMATH%3F") == {"items": [course], "next": None}
    assert await read(client, "/courses?external_id=2026") == {"items": [], "next": None}


async def test_a_filter_that_no_course_can_match_is_invalid(client: Client) -> None:
    for name, value in (("code", ""), ("code", "A%20%20B"), ("code", "%00"), ("external_id", "."), ("limit", "501")):
        answer = await call(client, "GET", f"/courses?{name}={value}")
        assert [place for _, place in places(answer)] == [name], value


async def test_a_cursor_is_valid_only_with_its_filter(client: Client) -> None:
    for _ in range(2):
        await new_course(client, code="A")
        await new_course(client, code="B")
    cursor = (await read(client, "/courses?limit=1&code=A"))["next"]

    for query in (f"code=B&cursor={cursor}", f"cursor={cursor}", "cursor=x"):
        assert places(await call(client, "GET", f"/courses?{query}")) == [("invalid_cursor", "cursor")]


async def test_a_patch_changes_the_fields_it_names_and_null_removes_a_value(client: Client) -> None:
    course = await create(client, "/courses", course_fields(credits=3, capacity=10, external_id="C1"))

    answer = await call(
        client, "PATCH", f"/courses/{course['id']}", {"credits": 1.5, "capacity": None, "external_id": None}
    )

    assert (answer.status, answer.etag) == (200, 'W/"2-0-0"')
    assert answer.body == {
        **course,
        "credits": 1.5,
        "capacity": None,
        "seats_free": None,
        "external_id": None,
        "version": 2,
        "updated_at": answer.body["updated_at"],
    }
    assert await read(client, f"/courses/{course['id']}") == answer.body


async def test_a_patch_that_changes_nothing_makes_no_event_and_no_version(
    client: Client, connection: Connection
) -> None:
    course = await create(client, "/courses", course_fields(credits=3, capacity=10))
    before = await everything(connection)

    for patch in ({}, {"credits": 3.0}, {"credits": 3, "capacity": 10, "external_id": None, "code": course["code"]}):
        answer = await call(client, "PATCH", f"/courses/{course['id']}", patch)
        assert (answer.status, answer.body) == (200, course)

    assert await everything(connection) == before


async def test_a_put_resets_the_fields_it_leaves_out_to_their_defaults(client: Client, connection: Connection) -> None:
    path = "/courses/by-external-id/2026%2FMATH"

    created = await call(client, "PUT", path, {"code": "M", "title": "Maths", "credits": 3, "capacity": 5})
    again = await call(client, "PUT", path, {"code": "M", "title": "Maths", "credits": 3.0, "capacity": 5})
    replaced = await call(client, "PUT", path, {"code": "M", "title": "Maths"})

    assert (created.status, created.body["external_id"]) == (201, "2026/MATH")
    assert created.headers["Location"] == f"/courses/{created.body['id']}"
    assert (again.status, again.body) == (200, created.body)
    assert (replaced.status, replaced.etag) == (200, 'W/"2-0-0"')
    assert replaced.body.items() >= {"id": created.body["id"], "credits": 0, "capacity": None}.items()
    assert [event["type"] for event in await events(connection)] == ["course.created", "course.updated"]


async def test_a_put_keeps_the_seats(client: Client) -> None:
    id = await new_course(client, external_id="C1", capacity=5)
    await enroll(client, await new_student(client), id)

    answer = await call(client, "PUT", "/courses/by-external-id/C1", course_fields(capacity=3))

    assert answer.body.items() >= {"id": id, "seats_taken": 1, "seats_free": 2}.items()


async def test_a_put_honours_its_preconditions(client: Client, connection: Connection) -> None:
    path = "/courses/by-external-id/C1"
    problem(await call(client, "PUT", path, course_fields(), headers={"If-Match": "*"}), 412, "precondition_failed")
    assert (await call(client, "PUT", path, course_fields(), headers={"If-None-Match": "*"})).status == 201
    before = await everything(connection)

    for headers in ({"If-None-Match": "*"}, {"If-Match": '"2"'}, {"If-Match": 'W/"1"'}):
        problem(await call(client, "PUT", path, course_fields(), headers=headers), 412, "precondition_failed")

    assert await everything(connection) == before
    assert (await call(client, "PUT", path, course_fields(), headers={"If-Match": '"1"'})).status == 200


async def test_a_course_that_is_read_for_its_seats_is_not_modified_only_while_they_are_the_same(client: Client) -> None:
    first, second = await new_student(client), await new_student(client)
    course = await new_course(client, capacity=1, external_id="C/1")
    waitlist = {"course_ids": [course], "on_full": "waitlist"}
    tags: list[str] = []
    for change in (
        None,
        ("POST", f"/students/{first}/enroll", {"course_ids": [course]}),
        ("POST", f"/students/{second}/enroll", waitlist),
        ("PATCH", f"/courses/{course}", {"title": "X"}),
    ):
        if change is not None:
            assert (await call(client, *change)).status < 300
        for path in (f"/courses/{course}", "/courses/by-external-id/C%2F1"):
            found = await call(client, "GET", path, headers={"If-None-Match": ", ".join(tags) or '"x"'})
            assert found.status == 200, "an older tag would hide the seats"
            again = await call(client, "GET", path, headers={"If-None-Match": f'"x", {found.etag}'})
            assert (again.status, again.body, again.etag) == (304, b"", found.etag)
            strong = await call(client, "GET", path, headers={"If-None-Match": found.etag.removeprefix("W/")})
            assert strong.status == 304, "the comparison is weak"
        tags.append(found.etag)

    assert tags == ['W/"1-0-0"', 'W/"1-1-0"', 'W/"1-1-1"', 'W/"2-1-1"']


async def test_a_change_of_a_course_goes_by_its_version_whatever_its_seats(client: Client) -> None:
    student, course = await new_student(client), await new_course(client, external_id="C1")
    path = f"/courses/{course}"
    etag = (await call(client, "GET", path)).etag
    await enroll(client, student, course)

    for method, way, body in (
        ("PATCH", path, {"title": "X"}),
        ("PUT", "/courses/by-external-id/C1", course_fields()),
        ("DELETE", path, None),
    ):
        refused = await call(client, method, way, body, headers={"If-Match": etag})
        detail = problem(refused, 412, "precondition_failed")["detail"]
        assert "is in version 1" in detail
        assert f"The weak tag {etag} never matches" in detail
        assert 'Send "1-0-0" instead' in detail
    edited = await call(client, "PATCH", path, {"title": "X"}, headers={"If-Match": '"1-0-0"'})
    assert (edited.status, edited.body["version"]) == (200, 2)
    stale = await call(client, "PATCH", path, {"title": "Y"}, headers={"If-Match": '"1-0-0"'})
    problem(stale, 412, "precondition_failed")
    edited = await call(client, "PATCH", path, {"title": "Y"}, headers={"If-Match": '"2"'})
    assert (edited.status, edited.body["version"]) == (200, 3)
    exists = await call(
        client, "PUT", "/courses/by-external-id/C1", course_fields(), headers={"If-None-Match": edited.etag}
    )
    problem(exists, 412, "precondition_failed")


async def test_requirements_have_an_etag_that_makes_a_change_conditional(
    client: Client, connection: Connection
) -> None:
    path = f"/courses/{await new_course(client)}/requirements"
    empty = await call(client, "GET", path)
    body = {"groups": [{"kind": "pre", "any_of": ["A", "B"]}]}

    put = await call(client, "PUT", path, body, headers={"If-Match": empty.etag, "If-None-Match": '"other"'})

    assert (put.status, put.body) == (200, body)
    got = await call(client, "GET", path)
    assert got.etag == put.etag != empty.etag
    assert (await call(client, "GET", path, headers={"If-None-Match": f"W/{put.etag}"})).status == 304
    before = await everything(connection)
    for headers in (
        {"If-Match": empty.etag},
        {"If-Match": f"W/{put.etag}"},
        {"If-None-Match": put.etag},
        {"If-None-Match": "*"},
    ):
        problem(await call(client, "PUT", path, {"groups": []}, headers=headers), 412, "precondition_failed")
    assert await everything(connection) == before
    assert (await call(client, "PUT", path, got.body, headers={"If-Match": got.etag})).etag == got.etag
    again = await call(client, "PUT", path, {"groups": []}, headers={"If-Match": "*"})
    assert (again.status, again.etag) == (200, empty.etag)
    problem(
        await call(client, "PUT", "/courses/99/requirements", body, headers={"If-Match": '"x"'}),
        404,
        "course_not_found",
    )


async def test_the_version_counts_edits_and_not_seats(client: Client) -> None:
    course, student = await new_course(client, capacity=5), await new_student(client)
    await enroll(client, student, course)

    answer = await call(client, "PATCH", f"/courses/{course}", {"title": "X"}, headers={"If-Match": '"1"'})

    assert (answer.status, answer.etag, answer.body["seats_taken"]) == (200, 'W/"2-1-0"', 1)
    await drop(client, student, course)
    assert (await call(client, "GET", f"/courses/{course}")).etag == 'W/"2-0-0"'


async def test_a_stale_edit_or_deletion_is_refused(client: Client, connection: Connection) -> None:
    id = await new_course(client)
    await call(client, "PATCH", f"/courses/{id}", {"title": "X"})
    before = await everything(connection)

    for method, body in (("PATCH", {"title": "Y"}), ("DELETE", None)):
        answer = await call(client, method, f"/courses/{id}", body, headers={"If-Match": '"1"'})
        problem(answer, 412, "precondition_failed")

    assert await everything(connection) == before
    assert (await call(client, "DELETE", f"/courses/{id}", headers={"If-Match": '"2"'})).status == 204


async def test_a_capacity_below_the_seats_taken_removes_nobody_and_leaves_no_seat_free(client: Client) -> None:
    course = await new_course(client, capacity=3)
    for _ in range(3):
        await enroll(client, await new_student(client), course)

    answer = await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})

    assert answer.body.items() >= {"capacity": 1, "seats_taken": 3, "seats_free": 0}.items()
    assert len((await read(client, f"/courses/{course}/students"))["items"]) == 3


async def test_a_deleted_course_is_not_found(client: Client) -> None:
    id = await new_course(client, external_id="C1")

    answer = await call(client, "DELETE", f"/courses/{id}")

    assert (answer.status, answer.body) == (204, b"")
    for method in ("GET", "DELETE"):
        problem(await call(client, method, f"/courses/{id}"), 404, "course_not_found")
    assert await new_course(client, external_id="C1") != id


async def test_a_course_with_enrollment_history_cannot_be_deleted(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client)
    await enroll(client, student, course)
    await drop(client, student, course)
    before = await everything(connection)

    problem(await call(client, "DELETE", f"/courses/{course}"), 409, "in_use")

    assert await everything(connection) == before


async def test_an_external_id_is_unique(client: Client, connection: Connection) -> None:
    await new_course(client, external_id="C1")
    other = await new_course(client)
    await new_student(client, external_id="C1")
    before = await everything(connection)

    for method, path, body in (
        ("POST", "/courses", course_fields(external_id="C1")),
        ("PATCH", f"/courses/{other}", {"external_id": "C1"}),
    ):
        [error] = problem(await call(client, method, path, body), 409, "external_id_taken")["errors"]
        assert error["pointer"] == "#/external_id"

    assert await everything(connection) == before


async def test_of_50_creations_with_one_external_id_at_once_exactly_one_succeeds(
    client: Client, connection: Connection
) -> None:
    answers = await asyncio.gather(
        *(call(client, "POST", "/courses", course_fields(external_id="C1")) for _ in range(50))
    )

    assert Counter(answer.status for answer in answers) == {201: 1, 409: 49}
    assert await connection.fetchval("SELECT count(*) FROM events") == 1


async def test_every_change_has_an_event_with_the_state_before_and_after(
    client: Client, connection: Connection
) -> None:
    headers = {"X-Actor": "timetable office"}
    fields = {
        "code": "C1",
        "section": "001",
        "title": "One",
        "credits": 1.5,
        "capacity": 3,
        "external_id": None,
        "term_id": None,
        "waitlist_capacity": 2,
        "meetings": [{"day": "mon", "start": "09:00", "end": "10:00"}],
    }
    created = await call(client, "POST", "/courses", fields, headers=headers)
    path = f"/courses/{created.body['id']}"
    patched = await call(client, "PATCH", path, {"capacity": None, "title": "One"}, headers={"X-Request-Id": "r-2"})
    await call(client, "DELETE", path)

    recorded = await events(connection)

    assert [event["position"] for event in recorded] == [1, 2, 3]
    assert [event["type"] for event in recorded] == ["course.created", "course.updated", "course.deleted"]
    assert [event["before"] for event in recorded] == [
        None,
        {"capacity": 3, "version": 1},
        {**fields, "capacity": None, "version": 2},
    ]
    assert [event["after"] for event in recorded] == [
        {**fields, "version": 1},
        {"capacity": None, "version": 2},
        None,
    ]
    assert {(event["student_id"], event["course_id"]) for event in recorded} == {(None, created.body["id"])}
    assert (recorded[0]["on_behalf_of"], recorded[0]["request_id"]) == (
        "timetable office",
        created.headers["X-Request-Id"],
    )
    assert (recorded[1]["on_behalf_of"], recorded[1]["request_id"]) == (None, "r-2")
    assert recorded[1]["occurred_at"].isoformat().startswith(patched.body["updated_at"].removesuffix("Z"))


@pytest.mark.parametrize("capacity", [3, None])
async def test_a_cancelled_course_has_no_free_seat_wherever_it_is_shown(client: Client, capacity: int | None) -> None:
    term = {"code": "2036F", "name": "Fall", "starts_on": "2036-09-01", "ends_on": "2036-12-18"}
    term_id = (await create(client, "/terms", term))["id"]
    fields = course_fields(code="GONE", external_id="gone", capacity=capacity, term_id=term_id)
    id = (await create(client, "/courses", fields))["id"]

    cancelled = await call(client, "POST", f"/courses/{id}/cancel")

    assert cancelled.body["seats_free"] == 0
    assert (await read(client, f"/courses/{id}"))["seats_free"] == 0
    for filters in ("", "?code=GONE", "?external_id=gone", f"?term_id={term_id}"):
        [listed] = (await read(client, f"/courses{filters}"))["items"]
        assert listed == cancelled.body
