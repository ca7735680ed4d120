"""Sections of a code, the rule ``duplicate_course``, and equivalent codes, over HTTP."""

from typing import Any

from tests.campus import call, course_fields, create, new_course, places, problem, read
from tests.conftest import Client

TERM = {"code": "2036F", "name": "Fall", "starts_on": "2036-09-01", "ends_on": "2036-12-18"}


async def new_term(client: Client, code: str = "2036F", **fields: object) -> int:
    id: int = (await create(client, "/terms", {**TERM, "code": code, **fields}))["id"]
    return id


async def test_a_code_has_many_sections_in_a_term_and_each_of_them_once(client: Client) -> None:
    term, other = await new_term(client), await new_term(client, "2037S")
    first = await new_course(client, code="Bio1", section="a1", term_id=term)
    second = await new_course(client, code="BIO1", section="002", term_id=term)
    none = await new_course(client, code="bio1", term_id=term)
    elsewhere = await new_course(client, code="Bio1", section="A1", term_id=other)
    path = f"/courses/{second}"
    for method, where, body in (
        ("POST", "/courses", course_fields(code="BIO1", section="A1", term_id=term)),
        ("POST", "/courses", course_fields(code="BIO1", term_id=term)),
        ("PATCH", path, {"section": "A1"}),
        ("PATCH", path, {"section": None}),
        ("PATCH", f"/courses/{elsewhere}", {"term_id": term}),
        ("PUT", "/courses/by-external-id/x", {"code": "BIO1", "section": "002", "title": "T", "term_id": term}),
    ):
        problem(await call(client, method, where, body), 409, "code_taken")

    assert [each["id"] for each in (await read(client, "/courses?code=BIO1"))["items"]] == [
        first,
        second,
        none,
        elsewhere,
    ]
    assert [each["section"] for each in (await read(client, f"/courses?term_id={term}"))["items"]] == [
        "a1",
        "002",
        None,
    ]
    assert (await call(client, "PATCH", path, {"section": "003"})).body["section"] == "003"


async def test_a_cancelled_section_frees_its_number(client: Client) -> None:
    term = await new_term(client)
    cancelled = await new_course(client, code="A", section="1", term_id=term)
    await call(client, "POST", f"/courses/{cancelled}/cancel", {})

    again = await new_course(client, code="a", section="1", term_id=term)

    assert (await call(client, "PATCH", f"/courses/{cancelled}", {"title": "Was cancelled"})).status == 200
    problem(
        await call(client, "POST", "/courses", course_fields(code="A", section="1", term_id=term)), 409, "code_taken"
    )
    assert (await read(client, f"/courses/{again}"))["status"] == "open"


async def test_a_section_is_replaced_and_removed_by_put(client: Client) -> None:
    path = "/courses/by-external-id/sis-1"
    body: dict[str, Any] = {"code": "A", "title": "T", "section": "é 1"}
    created = await call(client, "PUT", path, body)
    assert (created.status, created.body["section"], created.body["version"]) == (201, "é 1", 1)
    assert (await call(client, "PUT", path, body)).body["version"] == 1
    assert (await call(client, "PUT", path, {"code": "A", "title": "T"})).body["section"] is None
    assert places(await call(client, "PUT", path, {**body, "section": ""})) == [("too_short", "#/section")]
    assert places(await call(client, "PUT", path, {**body, "section": "1" * 21})) == [("too_long", "#/section")]
