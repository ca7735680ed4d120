"""Sections of a code, the rule ``duplicate_course``, and equivalent codes, over HTTP."""

from typing import Any

import pytest

from tests import shared
from tests.campus import (
    Answer,
    bare,
    call,
    course_fields,
    create,
    drop,
    enroll,
    new_course,
    new_student,
    places,
    problem,
    read,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

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


async def sections(client: Client, count: int = 2, code: str = "A", **fields: object) -> list[int]:
    """Create a term and sections of a code in it, and return their ids."""
    term = await new_term(client)
    return [await new_course(client, code=code, section=f"{n}", term_id=term, **fields) for n in range(1, count + 1)]


def duplicates(answer: Answer) -> list[tuple[int, int]]:
    """Assert that a request is refused only by ``duplicate_course``, and return each course with the other one."""
    body = problem(answer, 409, "duplicate_course")
    return [(error["course_id"], error["with_course_id"]) for error in body["errors"]]


async def statuses(client: Client, student: int) -> dict[int, str]:
    """Return the status of a student in each course."""
    found = {}
    for status in ("enrolled", "waitlisted", "completed", "dropped", "withdrawn"):
        page = await read(client, f"/students/{student}/courses?status={status}")
        found.update({each["course_id"]: status for each in page["items"]})
    return found


async def grant(client: Client, student: int, course: int) -> None:
    body = {"course_id": course, "rule": "duplicate_course", "author": "Dean", "reason": "so"}
    await create(client, f"/students/{student}/overrides", body)


async def join_waitlist(client: Client, student: int, *courses: int) -> Answer:
    body = {"course_ids": list(courses), "on_full": "waitlist"}
    return await call(client, "POST", f"/students/{student}/enroll", body)


async def complete(client: Client, student: int, course: int, *, passed: bool = True) -> Answer:
    return await call(client, "POST", f"/students/{student}/courses/{course}/complete", {"passed": passed})


async def fill(client: Client, *courses: int) -> int:
    """Let another student take the only seat of each course, and return that student."""
    other = await new_student(client)
    for course in courses:
        await grant(client, other, course)
        assert (await enroll(client, other, course)).status == 201
    return other


async def swap(client: Client, student: int, out: int, into: int) -> Answer:
    body = {"drop": [out], "add": [into], "on_full": "waitlist"}
    return await call(client, "POST", f"/students/{student}/swap", body)


async def test_a_second_section_is_refused_as_a_seat_and_as_a_waitlist_place(client: Client) -> None:
    first, second, full = await sections(client, 3, capacity=1)
    await fill(client, full)
    student = await new_student(client)
    assert (await enroll(client, student, first)).status == 201

    assert duplicates(await enroll(client, student, second)) == [(second, first)]
    assert duplicates(await join_waitlist(client, student, full)) == [(full, first)]
    assert (await complete(client, student, first, passed=False)).status == 200
    assert duplicates(await enroll(client, student, second)) == [(second, first)], "a completed seat counts"


async def test_two_sections_in_one_request_are_duplicates_and_in_mode_partial_the_first_seat_wins(
    client: Client,
) -> None:
    first, second, full = await sections(client, 3, capacity=1)
    await fill(client, full)
    student = await new_student(client)

    assert duplicates(await enroll(client, student, first, second)) == [(first, second), (second, first)]
    body = {"course_ids": [full, first, second], "mode": "partial", "on_full": "waitlist"}
    preview = await call(client, "POST", f"/students/{student}/enroll?dry_run=true", body)
    answer = await call(client, "POST", f"/students/{student}/enroll", body)

    assert [result["outcome"] for result in answer.body["results"]] == ["refused", "enrolled", "refused"]
    assert answer.body["results"][0]["errors"][0]["with_course_id"] == first
    assert preview.body["results"] == answer.body["results"]
    assert await statuses(client, student) == {first: "enrolled"}


async def test_a_seat_in_one_section_drops_the_waitlist_places_for_the_others(client: Client) -> None:
    first, second, third = await sections(client, 3, capacity=1)
    other = await fill(client, first, second)
    student, next_one = await new_student(client), await new_student(client)
    assert (await join_waitlist(client, student, first, second)).status == 201
    assert (await join_waitlist(client, next_one, second)).status == 201

    body = {"course_ids": [first, third], "on_full": "waitlist"}
    answer = await call(client, "POST", f"/students/{student}/enroll", body)

    assert [result["outcome"] for result in answer.body["results"]] == ["dropped", "enrolled"]
    assert await statuses(client, student) == {first: "dropped", second: "dropped", third: "enrolled"}
    *_, seat, one, two = (await read(client, "/events?limit=500"))["items"]
    assert [each["type"] for each in (seat, one, two)] == [
        "enrollment.enrolled",
        "enrollment.dropped",
        "enrollment.dropped",
    ]
    assert {each["request_id"] for each in (seat, one, two)} == {answer.headers["X-Request-Id"]}
    blocked_by = [{"code": "duplicate_course", "with_course_id": third}]
    assert (one["after"], two["after"]) == ({"status": "dropped", "blocked_by": blocked_by},) * 2
    assert str(third) in one["reason"]
    await drop(client, other, second)
    assert await statuses(client, next_one) == {second: "enrolled"}


async def test_a_promotion_and_a_bulk_request_drop_the_other_places_too(client: Client) -> None:
    first, second, third = await sections(client, 3, capacity=1)
    other = await fill(client, first, second)
    promoted, bulk = await new_student(client), await new_student(client)
    for student in (promoted, bulk):
        assert (await join_waitlist(client, student, first, second)).status == 201

    await drop(client, other, second)
    items = [{"student_id": bulk, "course_ids": [third]}]
    assert (await call(client, "POST", "/enrollments", {"items": items})).status == 200

    assert await statuses(client, promoted) == {first: "dropped", second: "enrolled"}
    assert await statuses(client, bulk) == {first: "dropped", second: "dropped", third: "enrolled"}
    assert [(await read(client, f"/courses/{id}"))["waitlisted"] for id in (first, second)] == [0, 0]


async def test_a_swap_between_sections_keeps_the_seat_until_the_other_one_is_free(client: Client) -> None:
    first, second, third = await sections(client, 3, capacity=1)
    other = await fill(client, second)
    student = await new_student(client)
    await enroll(client, student, first)

    assert (await swap(client, student, first, second)).status == 201
    assert await statuses(client, student) == {first: "enrolled", second: "waitlisted"}
    await drop(client, other, second)
    assert await statuses(client, student) == {first: "dropped", second: "enrolled"}
    assert (await swap(client, student, second, third)).status == 201
    assert await statuses(client, student) == {first: "dropped", second: "dropped", third: "enrolled"}


async def test_a_place_of_a_swap_between_sections_is_dropped_when_the_swap_or_the_first_section_ends(
    client: Client,
) -> None:
    first, second = await sections(client, capacity=2)
    await fill(client, second)
    await fill(client, second)
    keeping, completing = await new_student(client), await new_student(client)
    for student in (keeping, completing):
        assert (await enroll(client, student, first)).status == 201
        assert (await swap(client, student, first, second)).status == 201

    kept = await call(client, "DELETE", f"/students/{keeping}/courses/{second}/swap")
    await complete(client, completing, first)

    assert (kept.body["outcome"], kept.body["status"], kept.body["swap_drops"]) == ("dropped", "dropped", None)
    assert await statuses(client, keeping) == {first: "enrolled", second: "dropped"}
    assert await statuses(client, completing) == {first: "completed", second: "dropped"}


async def test_a_swap_of_another_course_must_not_keep_a_place_beside_a_seat_in_a_section(client: Client) -> None:
    first, second = await sections(client, capacity=1)
    await fill(client, second)
    student, choir = await new_student(client), await new_course(client)
    await enroll(client, student, first, choir)
    assert (await swap(client, student, first, second)).status == 201

    assert duplicates(await swap(client, student, choir, second)) == [(second, first)]
    assert (await swap(client, student, first, second)).status == 200, "the same swap again changes nothing"
    assert await statuses(client, student) == {first: "enrolled", choir: "enrolled", second: "waitlisted"}


async def test_an_override_allows_two_sections_and_keeps_a_waitlist_place(client: Client) -> None:
    first, second, third = await sections(client, 3, capacity=1)
    other = await fill(client, third)
    student = await new_student(client)
    await grant(client, student, second)
    await grant(client, student, third)
    assert (await join_waitlist(client, student, third)).status == 201

    assert (await enroll(client, student, first)).status == 201
    assert (await enroll(client, student, second)).status == 201
    await drop(client, other, third)

    assert await statuses(client, student) == dict.fromkeys((first, second, third), "enrolled")


async def test_only_overlapping_terms_count_and_a_course_without_a_term_until_it_is_completed(client: Client) -> None:
    fall, spring = await new_term(client), await new_term(client, "2037S", starts_on="2037-01-01", ends_on="2037-06-01")
    student = await new_student(client)
    first, second = [await new_course(client, code="A", term_id=term) for term in (fall, spring)]
    assert (await enroll(client, student, first, second)).status == 201
    always, again, in_fall = [
        await new_course(client, code=code, term_id=t) for code, t in (("B", None), ("b", None), ("B", fall))
    ]
    await enroll(client, student, always)
    assert duplicates(await enroll(client, student, again)) == [(again, always)]
    assert duplicates(await enroll(client, student, in_fall)) == [(in_fall, always)]
    await complete(client, student, always, passed=False)
    assert (await enroll(client, student, again)).status == 201


async def test_a_code_that_becomes_a_section_removes_nobody_and_unblocks_when_it_is_edited_again(
    client: Client,
) -> None:
    term = await new_term(client)
    first = await new_course(client, code="A", term_id=term)
    second = await new_course(client, code="B", section="2", term_id=term, capacity=1)
    student, other = await new_student(client), await fill(client, second)
    assert (await enroll(client, student, first)).status == 201
    assert (await join_waitlist(client, student, second)).status == 201

    await call(client, "PATCH", f"/courses/{second}", {"code": "a"})
    await drop(client, other, second)

    place = (await read(client, f"/students/{student}/courses?status=waitlisted"))["items"][0]
    assert bare(place["blocked_by"]) == [{"code": "duplicate_course", "with_course_id": first}]
    await call(client, "PATCH", f"/courses/{second}", {"code": "B"})
    assert await statuses(client, student) == {first: "enrolled", second: "enrolled"}


async def test_sets_of_equivalent_codes_are_created_listed_and_deleted(client: Client) -> None:
    created = await call(client, "POST", "/equivalences", {"codes": ["COMP101", "cs101", "ÉTÉ 1"]})
    id = created.body["id"]
    assert (created.status, created.headers["Location"]) == (201, f"/equivalences/{id}")
    assert created.body["codes"] == ["COMP101", "cs101", "ÉTÉ 1"]
    second = await create(client, "/equivalences", {"codes": ["B", "A"]})

    assert await read(client, f"/equivalences/{id}") == created.body
    assert (await read(client, "/equivalences"))["items"] == [created.body, second]
    page = await read(client, "/equivalences?limit=1")
    assert (await read(client, f"/equivalences?limit=1&cursor={page['next']}"))["items"] == [second]
    assert (await read(client, "/equivalences?code=CS101"))["items"] == [created.body]
    assert (await read(client, "/equivalences?code=none"))["items"] == []
    assert (await call(client, "DELETE", f"/equivalences/{id}")).status == 204
    problem(await call(client, "DELETE", f"/equivalences/{id}"), 404, "equivalence_not_found")
    problem(await call(client, "GET", f"/equivalences/{id}"), 404, "equivalence_not_found")
    assert [each["type"] for each in (await read(client, "/events"))["items"]] == [
        "equivalence.created",
        "equivalence.created",
        "equivalence.deleted",
    ]


@pytest.mark.parametrize(
    ("codes", "code", "place"),
    [
        (["A"], "too_short", "#/codes"),
        (["A", "a"], "repeated_code", "#/codes"),
        (["A", ""], "too_short", "#/codes/1"),
        ([f"C{n}" for n in range(51)], "too_long", "#/codes"),
    ],
)
async def test_an_invalid_set_is_refused(client: Client, codes: list[str], code: str, place: str) -> None:
    assert places(await call(client, "POST", "/equivalences", {"codes": codes})) == [(code, place)]


async def test_a_code_is_in_one_set_whatever_its_case(client: Client) -> None:
    await create(client, "/equivalences", {"codes": ["A", "B"]})

    body = problem(await call(client, "POST", "/equivalences", {"codes": ["C", "b"]}), 409, "code_in_another_set")

    assert body["errors"][0]["pointer"] == "#/codes/1"
    assert len((await read(client, "/events"))["items"]) == 1


async def require(client: Client, course: int, kind: str, *codes: str) -> None:
    body = {"groups": [{"kind": kind, "any_of": list(codes)}]}
    assert (await call(client, "PUT", f"/courses/{course}/requirements", body)).status == 200


async def test_requirements_and_duplicates_take_any_code_of_a_set(client: Client) -> None:
    term = await new_term(client)
    old, new, advanced, lab, excluded, excluding = [
        await new_course(client, code=code, term_id=None if code == "CS101" else term)
        for code in ("CS101", "COMP101", "COMP201", "LAB", "ART", "DANCE")
    ]
    await require(client, advanced, "pre", "comp101")
    await require(client, lab, "co", "CS101")
    await require(client, excluded, "anti", "CS101")
    await require(client, excluding, "anti", "Comp101")
    student, other = await new_student(client), await new_student(client)
    await enroll(client, student, old)
    await complete(client, student, old)
    problem(await enroll(client, student, advanced), 409, "prerequisite_missing")
    problem(await enroll(client, other, lab, new), 409, "corequisite_missing")
    assert (await enroll(client, other, new, excluded)).status == 201
    await drop(client, other, excluded)

    await create(client, "/equivalences", {"codes": ["COMP101", "CS101"]})

    assert (await enroll(client, student, advanced)).status == 201
    assert (await enroll(client, other, lab)).status == 201
    body = problem(await enroll(client, other, excluded), 409, "antirequisite")
    assert body["errors"][0]["course_code"] == "CS101"
    problem(await enroll(client, student, excluding), 409, "antirequisite")
    assert duplicates(await enroll(client, other, old)) == [(old, new)]


async def test_a_set_seats_exactly_those_whom_it_makes_eligible_and_so_does_its_deletion(client: Client) -> None:
    term = await new_term(client)
    old = await new_course(client, code="CS101")
    advanced = await new_course(client, code="COMP201", term_id=term, capacity=1)
    new = await new_course(client, code="COMP101", term_id=term, capacity=1)
    waiting, other, holder = [await new_student(client) for _ in range(3)]
    await enroll(client, waiting, old)
    await complete(client, waiting, old)
    for course in (advanced, new):
        await enroll(client, holder, course)
    for student in (other, waiting):
        assert (await join_waitlist(client, student, advanced)).status == 201
    await require(client, advanced, "pre", "COMP101")
    await drop(client, holder, advanced)
    assert [(await statuses(client, each))[advanced] for each in (other, waiting)] == ["waitlisted"] * 2
    before = len((await read(client, "/events?limit=500"))["items"])

    id = (await create(client, "/equivalences", {"codes": ["COMP101", "CS101"]}))["id"]

    events = (await read(client, "/events?limit=500"))["items"][before:]
    assert [(each["type"], each["student_id"]) for each in events] == [
        ("equivalence.created", None),
        ("enrollment.promoted", waiting),
    ]
    current = await new_course(client, code="CS101", section="x", term_id=term)
    assert (await enroll(client, other, current)).status == 201
    assert duplicates(await join_waitlist(client, other, new)) == [(new, current)]
    await grant(client, other, new)
    assert (await join_waitlist(client, other, new)).status == 201
    [override] = (await read(client, f"/students/{other}/overrides"))["items"]
    await call(client, "DELETE", f"/students/{other}/overrides/{override['id']}")
    await drop(client, holder, new)
    assert (await statuses(client, other))[new] == "waitlisted"
    assert (await call(client, "DELETE", f"/equivalences/{id}")).status == 204
    assert (await statuses(client, other))[new] == "enrolled"
