"""Course codes and what refers to them: letter case, terms, and courses whose code has changed."""

import asyncpg
import pytest

from sql import Connection
from tests.campus import Answer, call, course_fields, create, enroll, new_course, new_student, problem, read
from tests.conftest import Client
from tests.test_registrar import TERM, codes
from tests.test_waiting import require


async def term_of(client: Client, code: str, starts_on: str, ends_on: str) -> int:
    body = {"code": code, "name": code, "starts_on": starts_on, "ends_on": ends_on}
    id: int = (await create(client, "/terms", body))["id"]
    return id


async def complete(client: Client, student: int, course: int, *, passed: bool = True) -> Answer:
    return await call(client, "POST", f"/students/{student}/courses/{course}/complete", {"passed": passed})


async def test_codes_that_differ_in_case_alone_are_taken_and_kept_as_given(
    client: Client, connection: Connection
) -> None:
    term = (await create(client, "/terms", {**TERM, "code": "2036Fall"}))["id"]
    other = (await create(client, "/terms", {**TERM, "code": "2037"}))["id"]
    course = await new_course(client, code="Bio1", term_id=term)
    second = await new_course(client, code="CHEM1", term_id=term)
    elsewhere = await new_course(client, code="BIO1", term_id=other)
    for method, path, body in (
        ("POST", "/terms", {**TERM, "code": "2036FALL"}),
        ("PATCH", f"/terms/{other}", {"code": "2036fall"}),
        ("POST", "/courses", course_fields(code="BIO1", term_id=term)),
        ("PATCH", f"/courses/{second}", {"code": "bIO1"}),
        ("PATCH", f"/courses/{elsewhere}", {"term_id": term}),
        ("PUT", "/courses/by-external-id/x", {"code": "BIO1", "title": "T", "term_id": term}),
    ):
        assert codes(await call(client, method, path, body)) == ["code_taken"], path
    for code in ("bio1", "BIO1"):
        await new_course(client, code=code)

    renamed = await call(client, "PATCH", f"/courses/{course}", {"code": "biO1"})

    assert (renamed.status, renamed.body["code"]) == (200, "biO1")
    listed = (await read(client, "/courses?code=BiO1"))["items"]
    assert sorted(each["code"] for each in listed) == ["BIO1", "BIO1", "biO1", "bio1"]
    # Beside the service, the database refuses twins too.
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("UPDATE courses SET code = 'BIO1' WHERE id = $1", second)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("UPDATE terms SET code = '2036FALL' WHERE id = $1", other)


async def test_requirements_match_codes_whatever_their_case(client: Client) -> None:
    pre, has = await new_course(client, code="PRE101"), await new_course(client, code="HAS101")
    needs_pre, needs_co, against = [await new_course(client) for _ in range(3)]
    await require(client, needs_pre, "pre", "pre101")
    await require(client, needs_co, "co", "has101")
    await require(client, against, "anti", "Has101")
    student = await new_student(client)
    await enroll(client, student, pre, has)
    await complete(client, student, pre)

    assert (await enroll(client, student, needs_pre, needs_co)).status == 201
    [refusal] = (await enroll(client, student, against)).body["errors"]
    assert (refusal["code"], refusal["course_code"]) == ("antirequisite", "Has101")
    body = {"groups": [{"kind": "pre", "any_of": ["Zoo1", "pre101", "PRE101", "zoo1"]}]}
    answer = await call(client, "PUT", f"/courses/{needs_pre}/requirements", body)
    assert answer.body == {"groups": [{"kind": "pre", "any_of": ["Zoo1", "pre101"]}]}
    assert await read(client, f"/courses/{needs_pre}/requirements") == answer.body
    partial = await enroll(client, await new_student(client), needs_co, has, mode="partial")
    assert [result["outcome"] for result in partial.body["results"]] == ["enrolled", "enrolled"]


async def test_a_course_does_not_require_its_own_code_in_other_letters(client: Client) -> None:
    course = await new_course(client, code="Own1")
    body = {"groups": [{"kind": "pre", "any_of": ["A1", "oWN1"]}]}
    refused = problem(await call(client, "PUT", f"/courses/{course}/requirements", body), 422, "own_requirement")
    assert refused["errors"][0]["pointer"] == "#/groups/0/any_of/1"
    await require(client, course, "pre", "NEW1")
    problem(await call(client, "PATCH", f"/courses/{course}", {"code": "new1"}), 422, "own_requirement")
