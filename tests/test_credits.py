"""Credits: two decimals that add up exactly, and the limits of terms and of their parts."""

from typing import Any

import pytest

from service.check import check
from service.registrar.changes import Origin
from service.registrar.enrollments import Enroll
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import call, course_fields, create, new_student, places, problem, read
from tests.conftest import Client
from tests.test_optimistic import counted, statements_of_enroll

pytestmark, service, client, connection, settings = shared.SERVICE

TERM = {"code": "2036F", "name": "Fall", "starts_on": "2036-09-01", "ends_on": "2036-12-19"}


async def term(client: Client, **fields: object) -> int:
    id: int = (await create(client, "/terms", {**TERM, **fields}))["id"]
    return id


async def courses(client: Client, term_id: int, *credits: float, **fields: object) -> list[int]:
    bodies = [course_fields(term_id=term_id, credits=each, **fields) for each in credits]
    return [(await create(client, "/courses", body))["id"] for body in bodies]


async def enroll(client: Client, student: int, *course_ids: int, on_full: str = "fail") -> Any:
    return await call(client, "POST", f"/students/{student}/enroll", {"course_ids": course_ids, "on_full": on_full})


async def test_credits_of_two_decimals_add_up_exactly(client: Client, settings: Settings) -> None:
    """The sum of 0.1 and 0.2 is 0.3, which is not what a float of 0.1 and one of 0.2 add up to."""
    in_term = await term(client, max_credits=0.3)
    tenth, fifth, hundredth = await courses(client, in_term, 0.1, 0.2, 0.01)
    student = await new_student(client)

    assert (await enroll(client, student, tenth)).status == 201
    assert (await enroll(client, student, fifth)).status == 201

    [refusal] = (await enroll(client, student, hundredth)).body["errors"]
    assert {name: refusal[name] for name in ("code", "held", "asked", "limit")} == {
        "code": "credit_limit",
        "held": 0.3,
        "asked": 0.01,
        "limit": 0.3,
    }
    assert await check(settings) == 0


async def test_credits_are_returned_as_they_were_sent(client: Client, connection: Connection) -> None:
    in_term = await term(client, max_credits=18.25)
    sent = [0, 0.01, 0.29, 0.57, 1.15, 2.5, 3, 98.99, 99]
    ids = await courses(client, in_term, *sent)

    assert [each["credits"] for each in (await read(client, f"/courses?term_id={in_term}"))["items"]] == sent
    assert [(await read(client, f"/courses/{id}"))["credits"] for id in ids] == sent
    assert (await read(client, f"/terms/{in_term}"))["max_credits"] == 18.25
    events = await connection.fetch("SELECT after ->> 'credits' FROM events WHERE course_id IS NOT NULL")
    assert [each[0] for each in events] == [str(each) for each in sent]


@pytest.mark.parametrize("credits", [0.001, 1.255, 3.0000000001, 0.1 + 0.2])
async def test_more_than_two_decimals_are_refused(client: Client, credits: float) -> None:
    expected = [("not_a_multiple", "#/credits")]
    assert places(await call(client, "POST", "/courses", course_fields(credits=credits))) == expected
    limited = {**TERM, "max_credits": credits}
    assert places(await call(client, "POST", "/terms", limited)) == [("not_a_multiple", "#/max_credits")]


PART = {"starts_on": "2036-09-01", "ends_on": "2036-10-24"}
SECOND = {"starts_on": "2036-10-27", "ends_on": "2036-12-19"}


async def part(client: Client, parent_id: int, code: str = "A", **fields: object) -> int:
    return await term(client, code=code, parent_id=parent_id, **{**PART, **fields})


def limits(answer: Any) -> list[tuple[object, ...]]:
    """Return the terms, the credits and the limits of the refusals by credit limits."""
    assert {error["code"] for error in answer.body["errors"]} == {"credit_limit"}
    return [(error["term_id"], error["held"], error["asked"], error["limit"]) for error in answer.body["errors"]]


async def test_the_limit_of_a_term_counts_all_its_parts_and_a_part_has_its_own(
    client: Client, settings: Settings
) -> None:
    whole = await term(client, max_credits=10)
    first = await part(client, whole, max_credits=4.5)
    second = await part(client, whole, "B", **SECOND)
    other = await term(client, code="other", max_credits=1)
    [long] = await courses(client, whole, 4)
    early, more = await courses(client, first, 3, 2)
    late, later = await courses(client, second, 3, 1)
    elsewhere = await courses(client, other, 1)
    student = await new_student(client)

    assert (await enroll(client, student, long, early, *elsewhere)).status == 201
    assert limits(await enroll(client, student, more)) == [(first, 3, 2, 4.5)]
    assert (await enroll(client, student, late)).status == 201
    assert limits(await enroll(client, student, later)) == [(whole, 10, 1, 10)]
    assert limits(await enroll(client, student, more)) == [(first, 3, 2, 4.5), (whole, 10, 2, 10)]
    body = {"drop": [early], "add": [more]}
    assert (await call(client, "POST", f"/students/{student}/swap", body)).status == 201
    assert (await enroll(client, student, later)).status == 201
    assert await check(settings) == 0


async def test_a_students_own_limit_takes_the_place_of_the_limits_of_a_term_and_its_parts(
    client: Client, settings: Settings
) -> None:
    whole = await term(client, max_credits=2)
    first = await part(client, whole, max_credits=1)
    [long], [early, more] = await courses(client, whole, 3), await courses(client, first, 3, 0.01)
    student = await new_student(client, max_credits=6)

    assert (await enroll(client, student, long, early)).status == 201
    assert limits(await enroll(client, student, more)) == [(whole, 6, 0.01, 6)]
    assert await check(settings) == 0


@pytest.mark.parametrize("relaxed", ["parent", "part", "drop", "moved", "joined", "own"])
async def test_a_waitlisted_student_of_a_part_gets_the_seat_when_a_limit_allows_it(
    client: Client, settings: Settings, relaxed: str
) -> None:
    whole = await term(client, max_credits=4)
    first, second = await part(client, whole, max_credits=3), await part(client, whole, "B", **SECOND)
    roomy = await term(client, code="roomy")
    [held], [wanted] = await courses(client, second, 3), await courses(client, first, 2, capacity=0)
    student = await new_student(client)
    if relaxed == "part":
        await call(client, "PATCH", f"/terms/{whole}", {"max_credits": None})
        await call(client, "PATCH", f"/terms/{first}", {"max_credits": 1})
    assert (await enroll(client, student, held)).status == 201
    assert (await enroll(client, student, wanted, on_full="waitlist")).status == 201
    await call(client, "PATCH", f"/courses/{wanted}", {"capacity": 1})
    [place] = (await read(client, f"/courses/{wanted}/students?status=waitlisted"))["items"]
    assert [each["term_id"] for each in place["blocked_by"]] == [first if relaxed == "part" else whole]

    method, path, body = {
        "parent": ("PATCH", f"/terms/{whole}", {"max_credits": 5}),
        "part": ("PATCH", f"/terms/{first}", {"max_credits": 2}),
        "drop": ("DELETE", f"/students/{student}/courses/{held}", None),
        "moved": ("PATCH", f"/terms/{second}", {"parent_id": None}),
        "joined": ("PATCH", f"/terms/{first}", {"parent_id": roomy}),
        "own": ("PATCH", f"/students/{student}", {"max_credits": 5}),
    }[relaxed]
    assert (await call(client, method, path, body)).status == 200

    assert (await read(client, f"/courses/{wanted}"))["seats_taken"] == 1
    assert await check(settings) == 0


async def test_a_swap_waits_until_its_drop_counts_towards_the_same_limit(client: Client, settings: Settings) -> None:
    whole, apart = await term(client, max_credits=4), await term(client, code="A", **PART)
    [own], [full], [lab] = (
        await courses(client, whole, 4),
        await courses(client, whole, 3, capacity=0),
        await courses(client, apart, 3),
    )
    student = await new_student(client)
    assert (await enroll(client, student, own, lab)).status == 201
    body = {"drop": [lab], "add": [full], "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{student}/swap", body)).status == 201
    await call(client, "PATCH", f"/courses/{full}", {"capacity": 1})
    assert (await read(client, f"/courses/{full}"))["seats_taken"] == 0

    assert (await call(client, "PATCH", f"/terms/{apart}", {"parent_id": whole})).status == 200

    assert (await read(client, f"/courses/{full}"))["seats_taken"] == 1
    assert await check(settings) == 0


async def test_a_part_has_its_own_dates_and_deadlines(client: Client) -> None:
    whole = await term(client, enroll_until="2001-01-01T00:00:00Z")
    first = await part(client, whole)
    [long], [early] = await courses(client, whole, 1), await courses(client, first, 1)
    student = await new_student(client)

    [refusal] = (await enroll(client, student, long)).body["errors"]

    assert refusal["code"] == "enrollment_closed"
    assert (await enroll(client, student, early)).status == 201


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"starts_on": "2036-08-31"}, "invalid_part", "#/starts_on"),
        ({"ends_on": "2036-12-20"}, "invalid_part", "#/ends_on"),
        ({"starts_on": "2035-01-01", "ends_on": "2035-02-01"}, "invalid_part", "#/starts_on"),
        ({"starts_on": "2036-10-01", "ends_on": "2036-09-01"}, "term_dates", "#/starts_on"),
        ({"parent_id": 999_999}, "unknown_term", "#/parent_id"),
        ({"parent_id": "part"}, "invalid_part", "#/parent_id"),
    ],
)
async def test_an_invalid_part_is_refused_and_nothing_is_written(
    client: Client, fields: dict[str, object], code: str, pointer: str
) -> None:
    whole = await term(client)
    valid = await part(client, whole)
    another = await term(client, code="another", **PART)
    before = (await read(client, "/terms"))["items"]
    sent = {"parent_id": whole, **fields}
    if sent["parent_id"] == "part":
        sent["parent_id"] = valid

    for method, path, body in (
        ("POST", "/terms", {**TERM, "code": "new", **PART, **sent}),
        ("PATCH", f"/terms/{another}", sent),
    ):
        [error] = problem(await call(client, method, path, body), 422, code)["errors"]
        assert error["pointer"] == pointer
    assert (await read(client, "/terms"))["items"] == before


async def test_a_term_with_parts_stays_around_them_and_is_no_part_itself(client: Client, settings: Settings) -> None:
    whole, another = await term(client), await term(client, code="another")
    first, second = await part(client, whole), await part(client, whole, "B", **SECOND)
    path = f"/terms/{whole}"

    for body, pointer in (
        ({"starts_on": "2036-09-02"}, "#/starts_on"),
        ({"ends_on": "2036-12-18"}, "#/ends_on"),
        ({"parent_id": whole}, "#/parent_id"),
        ({"parent_id": another}, "#/parent_id"),
        ({"parent_id": first}, "#/parent_id"),
    ):
        [error] = problem(await call(client, "PATCH", path, body), 422, "invalid_part")["errors"]
        assert error["pointer"] == pointer
    problem(await call(client, "DELETE", path), 409, "in_use")

    assert (await call(client, "PATCH", f"/terms/{second}", {"ends_on": "2036-12-12"})).status == 200
    assert (await call(client, "PATCH", path, {"ends_on": "2036-12-12"})).status == 200
    assert (await call(client, "PATCH", f"/terms/{second}", {"parent_id": None})).status == 200
    assert (await call(client, "DELETE", f"/terms/{first}")).status == 204
    assert (await call(client, "DELETE", path)).status == 204
    assert await check(settings) == 0


@pytest.mark.parametrize("edited", [False, True])
async def test_check_counts_the_credits_of_all_parts(
    client: Client, settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str], edited: bool
) -> None:
    whole = await term(client, max_credits=0.3)
    first, second = await part(client, whole), await part(client, whole, "B", **SECOND)
    [one], [other] = await courses(client, first, 0.1), await courses(client, second, 0.2)
    student = await new_student(client)
    assert (await enroll(client, student, one, other)).status == 201
    assert await check(settings) == 0
    capsys.readouterr()
    if edited:
        await call(client, "PATCH", f"/terms/{whole}", {"max_credits": 0.29})
    else:
        await connection.execute("UPDATE terms SET max_credits = 0.29 WHERE id = $1", whole)

    assert await check(settings) == (0 if edited else 1)

    assert f"student_id={student}, term_id={whole}, held=0.3, allowed=0.29, edited={edited}" in capsys.readouterr().out


async def test_parts_and_meetings_with_dates_cost_no_statement(client: Client, settings: Settings) -> None:
    """Enrollments that are judged by them send the statements of those that are not, also with an empty catalog."""
    meeting = {"day": "mon", "start": "09:00", "end": "10:00"}
    other_weeks = {**meeting, "every_weeks": 2, "from": "2036-09-08"}
    apart, far = [await term(client, code=code, max_credits=9) for code in ("apart", "far")]
    whole = await term(client, max_credits=9)
    first, second = await part(client, whole, max_credits=9), await part(client, whole, "B", max_credits=9)
    plain = [(apart, meeting), (far, {**meeting, "day": "tue"})]
    dated = [(first, {**meeting, "every_weeks": 2}), (second, other_weeks)]
    [unrelated] = await courses(client, await term(client, code="unrelated"), 1)
    counts = []
    for kind in (plain, dated):
        one, other = [(await courses(client, id, 1, meetings=[meeting]))[0] for id, meeting in kind]
        ids = [await new_student(client) for _ in range(3)]
        async with counted(settings) as (office, sent):
            await office.submit(Enroll(origin=Origin("r"), student_id=ids[0], course_ids=(unrelated,)))
            for student in ids[1:]:
                for course in (one, other):
                    sent.clear()
                    await office.submit(Enroll(origin=Origin("r"), student_id=student, course_ids=(course,)))
                    counts.append([*sent])

    print([len(each) for each in counts])
    assert counts[:4] == counts[4:]
    assert counts[3] == statements_of_enroll(office)
