"""Instructors: create, read, list, edit, replace, delete; and which courses they teach."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from service.check import INVARIANTS
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE
from service.registrar.instructors import INSTRUCTOR, SetInstructors
from service.registrar.resources import Create, Delete
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import (
    Answer,
    call,
    create,
    events,
    everything,
    new_course,
    places,
    problem,
    read,
    registrar_of,
    student_fields,
    walk,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

ADA = {"given_name": "Ada", "family_name": "Lovelace", "email": "ada@campus.example", "external_id": "I-1"}
FIELDS = ["external_id", "sourced_id", "given_name", "family_name", "email"]


async def new_instructor(client: Client, **fields: object) -> int:
    id: int = (await create(client, "/instructors", {"family_name": "Noether", **fields}))["id"]
    return id


async def teach(client: Client, course: int, *ids: int, headers: dict[str, str] | None = None) -> Answer:
    """Set the instructors of a course, the first one as the primary one."""
    body = {"instructors": [{"instructor_id": id, "primary": id == ids[0]} for id in ids]}
    return await call(client, "PUT", f"/courses/{course}/instructors", body, headers=headers)


async def faults(connection: Connection) -> dict[str, Any]:
    return {name: found for name, find in INVARIANTS.items() if (found := await find(connection))}


async def test_an_instructor_is_created_read_listed_edited_replaced_and_deleted(
    client: Client, connection: Connection
) -> None:
    created = await call(client, "POST", "/instructors", ADA)
    assert created.status == 201
    assert created.body.items() >= ADA.items()
    assert UUID(created.body["sourced_id"]).version == 4
    path = created.headers["Location"]
    assert (await call(client, "GET", path)).body == created.body
    for query in ("", "?email=ADA@campus.example", "?external_id=I-1"):
        assert (await read(client, f"/instructors{query}"))["items"] == [created.body]
    assert (await read(client, "/instructors?external_id=I-2"))["items"] == []
    assert len((await read(client, "/instructors?email=ada@campus.example&external_id=I-1"))["items"]) == 1
    assert (await read(client, "/instructors?email=ada@campus.example&external_id=I-2"))["items"] == []

    edited = await call(client, "PATCH", path, {"email": None, "family_name": "King"}, headers={"If-Match": '"1"'})
    assert (edited.status, edited.etag) == (200, '"2"')
    assert (edited.body["email"], edited.body["family_name"]) == (None, "King")
    problem(
        await call(client, "PATCH", path, {"given_name": "A"}, headers={"If-Match": '"1"'}), 412, "precondition_failed"
    )
    assert (await call(client, "PATCH", path, {"family_name": "King"})).body == edited.body

    put = await call(client, "PUT", "/instructors/by-external-id/I-1", {"given_name": "Ada"})
    assert (put.status, put.body["family_name"], put.body["version"]) == (200, None, 3)
    assert put.body["sourced_id"] == created.body["sourced_id"]
    other = await call(client, "PUT", "/instructors/by-external-id/I-2", {"given_name": "Al", "sourced_id": "T-2"})
    assert (other.status, other.body["sourced_id"]) == (201, "T-2")

    assert (await call(client, "DELETE", path)).status == 204
    problem(await call(client, "GET", path), 404, "instructor_not_found")
    problem(await call(client, "PATCH", path, {}), 404, "instructor_not_found")
    problem(await call(client, "DELETE", path), 404, "instructor_not_found")

    recorded = [each for each in await events(connection) if (each["after"] or each["before"])["instructor_id"] == 1]
    assert [(each["type"], each["before"], each["after"]) for each in recorded] == [
        ("instructor.created", None, {"instructor_id": 1, "fields": FIELDS, "version": 1}),
        (
            "instructor.updated",
            {"instructor_id": 1, "fields": ["family_name", "email"], "version": 1},
            {"instructor_id": 1, "fields": ["family_name", "email"], "version": 2},
        ),
        (
            "instructor.updated",
            {"instructor_id": 1, "fields": ["family_name"], "version": 2},
            {"instructor_id": 1, "fields": ["family_name"], "version": 3},
        ),
        ("instructor.deleted", {"instructor_id": 1, "fields": FIELDS, "version": 3}, None),
    ]
    assert {(each["student_id"], each["course_id"], each["term_id"]) for each in recorded} == {(None, None, None)}
    assert await faults(connection) == {}


async def test_pages_of_instructors_follow_each_other(client: Client) -> None:
    ids = [await new_instructor(client) for _ in range(5)]
    pages = await walk(client, "/instructors?limit=2")
    assert [[each["id"] for each in page] for page in pages] == [ids[:2], ids[2:4], ids[4:]]


async def test_invalid_instructors_are_refused_with_their_fields(client: Client, connection: Connection) -> None:
    id = await new_instructor(client, **ADA)
    before = await everything(connection)

    for method, path in (
        ("POST", "/instructors"),
        ("PATCH", f"/instructors/{id}"),
        ("PUT", "/instructors/by-external-id/I-9"),
    ):
        for body, place in (
            ({"given_name": "", "family_name": "B"}, "#/given_name"),
            ({"given_name": "A", "email": "a"}, "#/email"),
            ({"given_name": "A", "groups": []}, "#/groups"),
            ({"given_name": "A", "sourced_id": "a b"}, "#/sourced_id"),
        ):
            assert [each for _, each in places(await call(client, method, path, body))] == [place]
        answer = await call(client, method, path, {"given_name": None, "family_name": None})
        errors = problem(answer, 422, "name_required")["errors"]
        assert [error["pointer"] for error in errors] == ["#/given_name", "#/family_name"]
    assert await everything(connection) == before


async def test_addresses_and_external_ids_are_unique_among_instructors_only(client: Client) -> None:
    await create(client, "/instructors", ADA)
    other = await new_instructor(client)
    # A student may teach.
    await create(client, "/students", student_fields(email=ADA["email"], external_id=ADA["external_id"]))

    for fields, code in (
        ({"email": "ADA@campus.example"}, "email_taken"),
        ({"external_id": "I-1"}, "external_id_taken"),
    ):
        problem(await call(client, "POST", "/instructors", {"given_name": "A", **fields}), 409, code)
        problem(await call(client, "PATCH", f"/instructors/{other}", fields), 409, code)


@pytest.mark.parametrize(("first", "second"), [("/students", "/instructors"), ("/instructors", "/students")])
async def test_a_student_and_an_instructor_never_share_a_sourced_id(
    client: Client, connection: Connection, first: str, second: str
) -> None:
    person = await create(client, first, {"given_name": "A", "external_id": "1", "sourced_id": "P-1"})
    generated = await create(client, first, {"given_name": "A"})

    for sourced_id in ("P-1", generated["sourced_id"]):
        for path in (first, second):
            answer = await call(client, "POST", path, {"given_name": "B", "sourced_id": sourced_id})
            problem(answer, 409, "sourced_id_taken")
            answer = await call(
                client, "PUT", f"{path}/by-external-id/2", {"given_name": "B", "sourced_id": sourced_id}
            )
            problem(answer, 409, "sourced_id_taken")
    assert (
        await call(client, "PUT", f"{first}/by-external-id/1", {"given_name": "B", "sourced_id": "P-1"})
    ).status == 200
    assert (await call(client, "DELETE", f"{first}/{person['id']}")).status == 204
    # The id of a person who does not exist any more is free.
    await create(client, second, {"given_name": "B", "sourced_id": "P-1"})
    assert await faults(connection) == {}


async def test_of_people_created_at_once_with_one_sourced_id_one_is_created(
    client: Client, connection: Connection
) -> None:
    paths = ("/students", "/instructors") * 8
    body = {"given_name": "A", "sourced_id": "P-1"}

    statuses = sorted(
        [each.status for each in await asyncio.gather(*(call(client, "POST", path, body) for path in paths))]
    )

    assert statuses == [201] + [409] * 15
    assert await faults(connection) == {}


async def test_the_instructors_of_a_course_are_replaced_as_a_whole(client: Client, connection: Connection) -> None:
    course = await new_course(client)
    ada, emmy, max_ = [await new_instructor(client) for _ in range(3)]
    path = f"/courses/{course}/instructors"
    assert (await call(client, "GET", path)).body == {"instructors": []}

    first = await teach(client, course, emmy, ada)
    assert first.status == 200
    assert [(each["instructor_id"], each["primary"]) for each in first.body["instructors"]] == [
        (emmy, True),
        (ada, False),
    ]
    assert first.body["instructors"][0]["instructor"] == await read(client, f"/instructors/{emmy}")
    found = await call(client, "GET", path)
    assert (found.body, found.etag) == (first.body, first.etag)
    # The order of the others does not matter.
    assert (await teach(client, course, emmy, ada)).etag == first.etag
    await teach(client, course, max_, emmy)
    await teach(client, course)

    def state(*ids: int) -> dict[str, object]:
        return {"instructors": [{"instructor_id": id, "primary": id == ids[0]} for id in ids], "version": 1}

    recorded = [each for each in await events(connection) if each["type"] == "course.instructors_set"]
    assert [(each["before"], each["after"], each["course_id"]) for each in recorded] == [
        (state(), state(emmy, ada), course),
        (state(emmy, ada), state(max_, emmy), course),
        (state(max_, emmy), state(), course),
    ]
    assert (await read(client, f"/courses/{course}"))["version"] == 1
    assert await faults(connection) == {}


@pytest.mark.parametrize(
    ("instructors", "code", "place"),
    [
        ([{"instructor_id": 1}], "one_primary", "#/instructors"),
        (
            [{"instructor_id": 1, "primary": True}, {"instructor_id": 2, "primary": True}],
            "one_primary",
            "#/instructors",
        ),
        ([{"instructor_id": 1, "primary": True}, {"instructor_id": 1}], "repeated_instructor", "#/instructors"),
        ([{"instructor_id": id, "primary": id == 1} for id in range(1, 52)], "too_long", "#/instructors"),
        ([{"instructor_id": 0, "primary": True}], "too_small", "#/instructors/0/instructor_id"),
        ([{"instructor_id": 1, "primary": None}], "wrong_type", "#/instructors/0/primary"),
        ([{"primary": True}], "required", "#/instructors/0/instructor_id"),
        (None, "wrong_type", "#/instructors"),
    ],
)
async def test_invalid_instructors_of_a_course_are_refused(
    client: Client, connection: Connection, instructors: object, code: str, place: str
) -> None:
    course = await new_course(client)
    before = await everything(connection)

    answer = await call(client, "PUT", f"/courses/{course}/instructors", {"instructors": instructors})

    assert places(answer) == [(code, place)]
    assert await everything(connection) == before


async def test_unknown_courses_and_instructors_are_refused(client: Client, connection: Connection) -> None:
    course, ada = await new_course(client), await new_instructor(client)
    before = await everything(connection)

    [error] = problem(await teach(client, course, ada, 99), 422, "unknown_instructor")["errors"]
    assert error["pointer"] == "#/instructors/1/instructor_id"
    problem(await teach(client, 99, ada), 404, "course_not_found")
    problem(await call(client, "GET", "/courses/99/instructors"), 404, "course_not_found")
    problem(await call(client, "GET", "/instructors/99/courses"), 404, "instructor_not_found")
    assert await everything(connection) == before


async def test_a_precondition_protects_the_instructors_of_a_course(client: Client) -> None:
    course, ada, emmy = await new_course(client), await new_instructor(client), await new_instructor(client)
    path = f"/courses/{course}/instructors"
    empty = (await call(client, "GET", path)).etag
    first = await teach(client, course, ada, headers={"If-Match": empty})
    assert first.status == 200

    problem(await teach(client, course, emmy, headers={"If-Match": empty}), 412, "precondition_failed")
    problem(await teach(client, course, emmy, headers={"If-None-Match": "*"}), 412, "precondition_failed")
    assert (await call(client, "GET", path, headers={"If-None-Match": first.etag})).status == 304
    # The names are part of the answer, and therefore of its tag.
    await call(client, "PATCH", f"/instructors/{ada}", {"given_name": "Ada"})
    renamed = await call(client, "GET", path, headers={"If-None-Match": first.etag})
    assert (renamed.status, renamed.body["instructors"][0]["instructor"]["given_name"]) == (200, "Ada")
    problem(await teach(client, course, emmy, headers={"If-Match": first.etag}), 412, "precondition_failed")
    assert (await teach(client, course, emmy, headers={"If-Match": renamed.etag})).status == 200


async def test_the_courses_of_an_instructor_are_listed_by_id_and_by_term(client: Client) -> None:
    term = {"code": "T", "name": "T", "starts_on": "2036-01-01", "ends_on": "2036-06-30"}
    ids = [(await create(client, "/terms", {**term, "code": code}))["id"] for code in ("A", "B")]
    courses = [await new_course(client, term_id=ids[number % 2]) for number in range(5)]
    ada, emmy = await new_instructor(client), await new_instructor(client)
    for course in courses:
        await teach(client, course, *((ada, emmy) if course != courses[1] else (emmy, ada)))
    await teach(client, courses[2], emmy)

    path = f"/instructors/{ada}/courses"
    pages = await walk(client, f"{path}?limit=2")
    assert [[each["course_id"] for each in page] for page in pages] == [courses[:2], courses[3:]]
    assert [each["primary"] for page in pages for each in page] == [True, False, True, True]
    assert pages[0][0]["course"] == await read(client, f"/courses/{courses[0]}")
    pages = await walk(client, f"{path}?limit=1&term_id={ids[1]}")
    assert [[each["course_id"] for each in page] for page in pages] == [[courses[1]], [courses[3]]]
    assert (await read(client, f"{path}?term_id=99"))["items"] == []
    cursor = (await read(client, f"{path}?limit=1"))["next"]
    assert places(await call(client, "GET", f"{path}?term_id={ids[1]}&cursor={cursor}")) == [
        ("invalid_cursor", "cursor")
    ]


async def test_an_instructor_who_teaches_or_taught_cannot_be_deleted(client: Client, connection: Connection) -> None:
    course, ada, emmy = await new_course(client), await new_instructor(client), await new_instructor(client)
    await teach(client, course, ada, emmy)
    await teach(client, course, ada)

    for id in (ada, emmy):
        answer = await call(client, "DELETE", f"/instructors/{id}")
        assert "instructors who teach or taught a course" in problem(answer, 409, "in_use")["detail"]
    # The list of a deleted course is deleted with it.
    assert (await call(client, "DELETE", f"/courses/{course}")).status == 204
    for id in (ada, emmy):
        assert (await call(client, "DELETE", f"/instructors/{id}")).status == 204
    assert await connection.fetchval("SELECT count(*) FROM course_instructors") == 0
    assert await faults(connection) == {}


async def test_changes_of_courses_and_instructors_in_one_transaction(
    settings: Settings, connection: Connection
) -> None:
    origin = Origin("r")
    name: Any = {
        "external_id": None,
        "sourced_id": None,
        "given_name": "A",
        "family_name": None,
        "email": "a@b.example",
    }
    fields: Any = {"external_id": None, "term_id": None, "code": "C", "title": "T", "credits": 0.0, "capacity": None}
    fields |= {"section": None, "waitlist_capacity": None, "meetings": "[]"}

    def teaching(*ids: int) -> SetInstructors:
        return SetInstructors(origin=origin, course_id=1, primary={id: id == ids[0] for id in ids})

    async with registrar_of(settings) as registrar:
        changes: list[Change[Any]] = [
            Create(origin=origin, resource=COURSE, fields=fields),
            Create(origin=origin, resource=INSTRUCTOR, fields=name),
            teaching(1),
            teaching(),
            Delete(origin=origin, resource=INSTRUCTOR, id=1),
            Delete(origin=origin, resource=COURSE, id=1),
            Delete(origin=origin, resource=INSTRUCTOR, id=1),
            Create(origin=origin, resource=INSTRUCTOR, fields=name),
        ]
        outcomes = await registrar.submit_all(changes)
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Course", "Instructor", "tuple", "tuple", "InUse", "NoneType", "NoneType", "Instructor"]
    assert await faults(connection) == {}
