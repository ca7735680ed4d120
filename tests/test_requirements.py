"""Course codes and what refers to them: letter case, terms, and courses whose code has changed."""

import asyncpg
import pytest

from service.check import check
from service.errors import EnrollmentRefused
from service.registrar.changes import Origin
from service.registrar.courses import COURSE
from service.registrar.enrollments import Complete, Enroll
from service.registrar.resources import Edit
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import (
    Answer,
    bare,
    call,
    course_fields,
    create,
    drop,
    enroll,
    join_waitlist,
    new_course,
    new_student,
    problem,
    read,
    registrar_of,
)
from tests.conftest import Client
from tests.test_registrar import TERM, codes, status_of
from tests.test_waiting import require

pytestmark, service, client, connection, settings = shared.SERVICE


async def term_of(client: Client, code: str, starts_on: str, ends_on: str) -> int:
    body = {"code": code, "name": code, "starts_on": starts_on, "ends_on": ends_on}
    id: int = (await create(client, "/terms", body))["id"]
    return id


async def complete(client: Client, student: int, course: int, *, passed: bool = True) -> Answer:
    return await call(client, "POST", f"/students/{student}/courses/{course}/complete", {"passed": passed})


async def test_codes_that_differ_only_in_case_are_duplicates_and_are_stored_as_given(
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
    # The database refuses duplicates too.
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


async def test_a_course_cannot_require_its_own_code_in_another_case(client: Client) -> None:
    course = await new_course(client, code="Own1")
    body = {"groups": [{"kind": "pre", "any_of": ["A1", "oWN1"]}]}
    refused = problem(await call(client, "PUT", f"/courses/{course}/requirements", body), 422, "own_requirement")
    assert refused["errors"][0]["pointer"] == "#/groups/0/any_of/1"
    await require(client, course, "pre", "NEW1")
    problem(await call(client, "PATCH", f"/courses/{course}", {"code": "new1"}), 422, "own_requirement")


SPRING, SUMMER, FALL = ("2036-01-10", "2036-06-01"), ("2036-06-01", "2036-08-31"), ("2036-09-01", "2036-12-18")


@pytest.mark.parametrize(("term", "status"), [(None, 201), (SPRING, 201), (SUMMER, 201), (FALL, 409)])
@pytest.mark.parametrize("how", ["seat", "waitlist", "request"])
async def test_a_corequisite_must_be_in_a_term_that_shares_a_day(
    client: Client, how: str, term: tuple[str, str] | None, status: int
) -> None:
    spring = await term_of(client, "SPRING", *SPRING)
    of = await term_of(client, "OTHER", *term) if term else None
    lecture, lab = await new_course(client, code="LEC", term_id=of), await new_course(client, term_id=spring)
    await require(client, lab, "co", "lec")
    student = await new_student(client)
    if how == "request":
        assert (await enroll(client, student, lab, lecture)).status == status
        partial = (await enroll(client, student, lab, lecture, mode="partial")).body["results"]
        assert [result["outcome"] == "refused" for result in partial] == [status == 409, False]
        return
    if how == "waitlist":
        await call(client, "PATCH", f"/courses/{lecture}", {"capacity": 0})
    body = {"course_ids": [lecture], "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{student}/enroll", body)).status == 201

    answer = await enroll(client, student, lab)

    assert (answer.status, codes(answer) if status == 409 else []) == (
        status, ["corequisite_missing"] if status == 409 else [],
    )  # fmt: skip


async def test_a_corequisite_of_another_term_counts_once_it_is_passed(client: Client) -> None:
    spring, fall = await term_of(client, "SPRING", *SPRING), await term_of(client, "FALL", *FALL)
    lecture, lab = await new_course(client, code="LEC", term_id=spring), await new_course(client, term_id=fall)
    await require(client, lab, "co", "LEC")
    student = await new_student(client)
    await enroll(client, student, lecture)
    assert codes(await enroll(client, student, lab)) == ["corequisite_missing"]
    await complete(client, student, lecture, passed=False)
    assert codes(await enroll(client, student, lab)) == ["corequisite_missing"]
    await complete(client, student, lecture)
    assert (await enroll(client, student, lab)).status == 201


@pytest.mark.parametrize("names_the_other", ["first", "second", "both"])
@pytest.mark.parametrize("how", ["seat", "passed", "request", "partial"])
async def test_exclusion_is_mutual(client: Client, names_the_other: str, how: str) -> None:
    first, second = await new_course(client, code="ONE"), await new_course(client, code="TWO")
    if names_the_other != "second":
        await require(client, first, "anti", "TWO")
    if names_the_other != "first":
        await require(client, second, "anti", "one")
    student = await new_student(client)
    if how == "request":
        answer = await enroll(client, student, first, second)
        refusals = [(error["course_id"], error["course_code"].upper()) for error in answer.body["errors"]]
        assert refusals == [(first, "TWO"), (second, "ONE")]
        return
    if how == "partial":
        results = (await enroll(client, student, first, second, mode="partial")).body["results"]
        assert [result["outcome"] for result in results] == ["refused", "refused"]
        return
    await enroll(client, student, first)
    if how == "passed":
        await complete(client, student, first)

    [refusal] = (await enroll(client, student, second)).body["errors"]

    assert (refusal["code"], refusal["course_code"].upper()) == ("antirequisite", "ONE")


async def test_exclusion_applies_to_terms_that_share_a_day_and_to_passed_courses(client: Client) -> None:
    spring, fall = await term_of(client, "SPRING", *SPRING), await term_of(client, "FALL", *FALL)
    first, second = await new_course(client, code="ONE", term_id=spring), await new_course(client, term_id=fall)
    third = await new_course(client, code="THREE", term_id=fall)
    await require(client, second, "anti", "ONE")
    await require(client, first, "anti", "THREE")
    student, other = await new_student(client), await new_student(client)
    for each in (student, other):
        assert (await enroll(client, each, first)).status == 201
    assert (await enroll(client, student, second, third)).status == 201
    await complete(client, other, first, passed=False)
    assert (await enroll(client, other, second, third)).status == 201
    for course in (second, third):
        await drop(client, other, course)
    await complete(client, other, first)
    assert codes(await enroll(client, other, second, third)) == ["antirequisite", "antirequisite"]


@pytest.mark.parametrize("relaxed", ["requirement", "dates", "drop", "code"])
async def test_a_student_excluded_by_the_other_course_is_promoted_when_the_exclusion_ends(
    client: Client, settings: Settings, relaxed: str
) -> None:
    spring, summer = await term_of(client, "SPRING", *SPRING), await term_of(client, "SUMMER", *SUMMER)
    held = await new_course(client, code="HELD", term_id=summer)
    wanted = await new_course(client, code="WANTED", capacity=1, term_id=spring)
    student, seated = await new_student(client), await new_student(client)
    await enroll(client, student, held)
    await enroll(client, seated, wanted)
    body = {"course_ids": [wanted], "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{student}/enroll", body)).status == 201
    await require(client, held, "anti", "Wanted")
    await drop(client, seated, wanted)
    assert await status_of(client, student, wanted) == "waitlisted"
    [item] = (await read(client, f"/students/{student}/courses?status=waitlisted"))["items"]
    assert bare(item["blocked_by"]) == [{"code": "antirequisite", "course_code": "HELD"}]
    assert await check(settings) == 0

    match relaxed:
        case "requirement":
            await call(client, "PUT", f"/courses/{held}/requirements", {"groups": []})
        case "dates":
            await call(client, "PATCH", f"/terms/{summer}", {"starts_on": "2036-06-02"})
        case "drop":
            await drop(client, student, held)
        case "code":
            await call(client, "PATCH", f"/courses/{wanted}", {"code": "ELSE"})

    assert await status_of(client, student, wanted) == "enrolled"
    assert await check(settings) == 0


async def test_a_pass_counts_for_the_code_under_which_it_was_earned(
    client: Client, settings: Settings, connection: Connection
) -> None:
    course, needs_old, needs_new = (
        await new_course(client, code="OLD1"),
        await new_course(client),
        await new_course(client),
    )
    await require(client, needs_old, "pre", "OLD1")
    await require(client, needs_new, "pre", "NEW1")
    early, late, enrolled = [await new_student(client) for _ in range(3)]
    for student in (early, late, enrolled):
        await enroll(client, student, course)
    await complete(client, early, course)

    await call(client, "PATCH", f"/courses/{course}", {"code": "NEW1"})
    await complete(client, late, course)
    # A correction belongs to the same completion.
    await complete(client, early, course, passed=False)
    assert codes(await enroll(client, early, needs_old)) == ["prerequisite_missing"]
    await complete(client, early, course)

    assert (await enroll(client, early, needs_old)).status == 201
    assert codes(await enroll(client, early, needs_new)) == ["prerequisite_missing"]
    assert (await enroll(client, late, needs_new)).status == 201
    assert codes(await enroll(client, late, needs_old)) == ["prerequisite_missing"]
    await call(client, "PATCH", f"/courses/{course}", {"code": "OLD1"})
    assert codes(await enroll(client, late, needs_old)) == ["prerequisite_missing"]
    await call(client, "PATCH", f"/courses/{course}", {"code": "THIRD1"})
    assert codes(await enroll(client, early, needs_new)) == ["prerequisite_missing"]
    rows = await connection.fetch("SELECT passed_code FROM student_courses WHERE course_id = $1 ORDER BY 1", course)
    assert [row["passed_code"] for row in rows] == ["NEW1", "OLD1", None]
    assert await check(settings) == 0
    await connection.execute("UPDATE student_courses SET passed_code = NULL WHERE passed_code = 'OLD1'")
    assert await check(settings) == 1


async def test_a_passed_code_counts_for_corequisites_and_antirequisites_too(client: Client) -> None:
    course, together, apart = await new_course(client, code="OLD1"), await new_course(client), await new_course(client)
    await require(client, together, "co", "OLD1")
    await require(client, apart, "anti", "OLD1")
    student = await new_student(client)
    await enroll(client, student, course)
    await complete(client, student, course)
    await call(client, "PATCH", f"/courses/{course}", {"code": "NEW1"})
    assert (await enroll(client, student, together)).status == 201
    assert codes(await enroll(client, student, apart)) == ["antirequisite"]


async def test_a_new_code_takes_effect_at_once_in_the_same_batch(client: Client, settings: Settings) -> None:
    course, wanted = await new_course(client, code="OLD1"), await new_course(client)
    await require(client, wanted, "pre", "OLD1")
    early, late = await new_student(client), await new_student(client)
    for student in (early, late):
        await enroll(client, student, course)
    origin = Origin("r")
    async with registrar_of(settings) as registrar:
        outcomes = await registrar.submit_all([
            Complete(origin=origin, student_id=early, course_id=course, passed=True),
            Edit(origin=origin, resource=COURSE, id=course, values={"code": "NEW1"}),
            Complete(origin=origin, student_id=late, course_id=course, passed=True),
            Enroll(origin=origin, student_id=early, course_ids=(wanted,)),
            Enroll(origin=origin, student_id=late, course_ids=(wanted,)),
        ])  # fmt: skip
    assert [isinstance(outcome, EnrollmentRefused) for outcome in outcomes] == [False] * 4 + [True]
    assert await check(settings) == 0


async def test_a_waitlisted_student_keeps_the_passed_code_when_the_course_changes_its_code(
    client: Client, settings: Settings
) -> None:
    course, wanted = await new_course(client, code="OLD1"), await new_course(client, capacity=0)
    await require(client, wanted, "pre", "OLD1")
    student = await new_student(client)
    await enroll(client, student, course)
    await complete(client, student, course)
    await join_waitlist(client, student, wanted)
    await call(client, "PATCH", f"/courses/{course}", {"code": "NEW1"})
    await call(client, "PATCH", f"/courses/{wanted}", {"capacity": 1})
    assert await status_of(client, student, wanted) == "enrolled"
