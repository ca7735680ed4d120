"""Waitlisted courses that need each other: a student gets seats in all of them together, or in none."""

import json
from typing import Any

import pytest

from service.check import check
from service.registrar.changes import Origin
from service.registrar.courses import COURSE
from service.registrar.enrollments import Drop, Swap
from service.registrar.resources import Edit
from service.settings import Settings
from sql import Connection
from sql.waitlist import LOAD_PARTNER_PLACES
from tests import shared
from tests.campus import bare, call, drop, enroll, events, join_waitlist, new_course, new_student, read
from tests.conftest import Client
from tests.test_corequisites import require_any, statuses
from tests.test_growth import STUDENTS, Cost, cost, office_of
from tests.test_optimistic import counted
from tests.test_registrar import grant
from tests.test_swaps import swap

pytestmark, service, client, connection, settings = shared.SERVICE


async def pair(client: Client, *, mutual: bool = True, **fields: object) -> tuple[int, int, int]:
    """Create a lab and a lecture of one seat each, both taken by one student; return them and the student."""
    lab, lecture = [await new_course(client, code=code, capacity=1, **fields) for code in ("LAB", "LEC")]
    seated = await new_student(client)
    assert (await enroll(client, seated, lab, lecture)).status == 201
    await require_any(client, lab, "lec")
    if mutual:
        await require_any(client, lecture, "LAB")
    return lab, lecture, seated


async def wait_for(client: Client, *courses: int) -> int:
    """Add a new student to waitlists; return the student."""
    student = await new_student(client)
    body = {"course_ids": courses, "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{student}/enroll", body)).status == 201
    return student


async def free(client: Client, student: int, *courses: int) -> None:
    """Let a student leave courses, whatever needs them."""
    for course in courses:
        answer = await call(client, "DELETE", f"/students/{student}/courses/{course}?as=dropped&reason=R")
        assert answer.status == 200


@pytest.mark.parametrize("first", [0, 1])
async def test_courses_that_need_each_other_are_given_together(
    client: Client, settings: Settings, connection: Connection, first: int
) -> None:
    *both, seated = await pair(client)
    student = await wait_for(client, *both)
    await free(client, seated, both[first])
    assert await statuses(client, student, *both) == ["waitlisted"] * 2
    place = await read(client, f"/students/{student}/courses/{both[first]}")
    assert bare(place["blocked_by"]) == [{"code": "corequisite_missing", "any_of": [["lec"], ["LAB"]][first]}]
    assert await check(settings) == 0

    await free(client, seated, both[1 - first])
    assert await statuses(client, student, *both) == ["enrolled"] * 2
    *_, left, judged_alone, one, other = await events(connection)
    types = [each["type"].removeprefix("enrollment.") for each in (left, judged_alone, one, other)]
    assert types == ["annulled", "skipped", "promoted", "promoted"]
    assert left["occurred_at"] == one["occurred_at"] == other["occurred_at"]
    assert await check(settings) == 0


async def test_a_course_that_needs_no_other_is_given_alone_and_the_other_one_follows_it(client: Client) -> None:
    lab, lecture, seated = await pair(client, mutual=False)
    student = await wait_for(client, lab, lecture)
    await free(client, seated, lab)
    assert await statuses(client, student, lab, lecture) == ["waitlisted", "waitlisted"]
    await free(client, seated, lecture)
    assert await statuses(client, student, lab, lecture) == ["enrolled", "enrolled"]


async def test_a_seat_goes_to_the_next_student_who_needs_no_partner(client: Client, settings: Settings) -> None:
    lab, lecture, seated = await pair(client)
    first = await wait_for(client, lab, lecture)
    second = await new_student(client)
    await grant(client, second, lab, "corequisite_missing")
    await join_waitlist(client, second, lab)
    await free(client, seated, lab)
    assert await statuses(client, first, lab, lecture) == ["waitlisted", "waitlisted"]
    assert await statuses(client, second, lab) == ["enrolled"]
    await free(client, seated, lecture)
    await free(client, second, lab)
    assert await statuses(client, first, lab, lecture) == ["enrolled", "enrolled"]
    assert await check(settings) == 0


async def test_the_first_student_of_the_waitlist_with_both_places_gets_both(client: Client) -> None:
    lab, lecture, seated = await pair(client)
    alone = await new_student(client)
    await join_waitlist(client, alone, lecture)
    late, early = await wait_for(client, lecture, lab), await wait_for(client, lab, lecture)
    await swap(client, seated, [lab, lecture], [])
    assert await statuses(client, late, lab, lecture) == ["enrolled", "enrolled"]
    assert await statuses(client, early, lab, lecture) == ["waitlisted", "waitlisted"]


@pytest.mark.parametrize("how", ["meetings", "credits", "hold"])
async def test_both_are_refused_if_one_is(client: Client, settings: Settings, how: str) -> None:
    meetings = [{"day": "mon", "start": "09:00", "end": "10:00"}]
    lab, lecture, seated = await pair(client)
    student = await wait_for(client, lab, lecture)
    hold = None
    match how:
        case "meetings":
            for course in (lab, lecture):
                await call(client, "PATCH", f"/courses/{course}", {"meetings": meetings})
        case "credits":
            term = {"code": "T", "name": "T", "starts_on": "2036-01-01", "ends_on": "2036-06-01", "max_credits": 5}
            id = (await call(client, "POST", "/terms", term)).body["id"]
            for course in (lab, lecture):
                await call(client, "PATCH", f"/courses/{course}", {"credits": 3, "term_id": id})
        case "hold":
            body = {"reason": "fees", "blocks": ["enroll"]}
            hold = (await call(client, "POST", f"/students/{student}/holds", body)).body["id"]
    await swap(client, seated, [lab, lecture], [])
    assert await statuses(client, student, lab, lecture) == ["waitlisted", "waitlisted"]
    assert await check(settings) == 0

    match how:
        case "meetings":
            await call(client, "PATCH", f"/courses/{lab}", {"meetings": []})
        case "credits":
            await call(client, "PATCH", f"/students/{student}", {"max_credits": 6})
        case "hold":
            await call(client, "DELETE", f"/students/{student}/holds/{hold}")
    assert await statuses(client, student, lab, lecture) == ["enrolled", "enrolled"]


async def test_three_courses_in_a_circle_are_given_together(client: Client, settings: Settings) -> None:
    names = ("ONE", "TWO", "THREE")
    circle = [await new_course(client, code=code, capacity=0) for code in names]
    student = await wait_for(client, *circle)
    for number, course in enumerate(circle):
        await require_any(client, course, "NONE", names[(number + 1) % 3])
    for course in circle[:2]:
        await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})
    assert await statuses(client, student, *circle) == ["waitlisted"] * 3
    await call(client, "PATCH", f"/courses/{circle[2]}", {"capacity": 1})
    assert await statuses(client, student, *circle) == ["enrolled"] * 3
    assert await check(settings) == 0


async def test_a_preview_looks_for_nobody_else(client: Client) -> None:
    lab, lecture, seated = await pair(client)
    student = await wait_for(client, lab, lecture)
    answer = await call(client, "POST", f"/students/{seated}/swap?dry_run=true", {"drop": [lab, lecture], "add": []})
    assert (answer.status, [each["outcome"] for each in answer.body["results"]]) == (200, ["dropped", "dropped"])
    assert await statuses(client, student, lab, lecture) == ["waitlisted", "waitlisted"]


async def test_a_preview_of_a_drop_that_opens_a_reserved_seat_writes_nothing(client: Client) -> None:
    course, seated = await new_course(client, capacity=1), await new_student(client, groups=["a"])
    await call(client, "PUT", f"/courses/{course}/reservations", {"reservations": [{"group": "a", "seats": 1}]})
    assert (await enroll(client, seated, course)).status == 201
    await wait_for(client, course)
    answer = await call(client, "POST", f"/students/{seated}/swap?dry_run=true", {"drop": [course], "add": []})
    assert answer.status == 200, answer


counted_cost = cost
"""The fixture, which pytest finds in this module."""

LAB, LECTURE = 1, 2
COURSES = """
INSERT INTO courses (id, code, title, credits, capacity, seats_taken, waitlisted)
SELECT n, 'C' || n, 'C', 0, 1, 1, $1::bigint FROM generate_series(1, 2) AS n
"""
REQUIRED = (
    "INSERT INTO requirements (course_id, kind, group_number, code) VALUES (1, 'co', 1, 'C2'), (2, 'co', 1, 'C1')"
)
WAITING = """
INSERT INTO student_courses
    (student_id, course_id, status, joined_position, joined_at, updated_at, recheck_at, blocked_reasons)
SELECT n, c, 'waitlisted', n, now(), now(), '9999-12-31Z', $2::text::json
FROM generate_series(1, $1::bigint) AS n
CROSS JOIN generate_series(1, 2) AS c
"""
SEATED = """
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
SELECT $1::bigint + 1, c, 'enrolled', $1::bigint + c, now(), now() FROM generate_series(1, 2) AS c
"""


async def test_a_seat_costs_the_same_beside_ten_times_the_waiting_partners(
    settings: Settings, connection: Connection, cost: Cost
) -> None:
    """Neither seat alone has anybody judged; both have one student judged for each course, alone or with the other."""
    costs = []
    for count in (20, 200):
        async with office_of(settings, connection, cost) as office:
            await connection.execute(STUDENTS, count + 1)
            await connection.execute(COURSES, count)
            await connection.execute(REQUIRED)
            reasons = json.dumps([{"code": "corequisite_missing", "any_of": ["C1"]}])
            await connection.execute(WAITING, count, reasons)
            await connection.execute(SEATED, count)
            gone = count + 1
            alone = Drop(origin=Origin("r"), student_id=gone, course_id=LAB, annuls=True)
            other = Swap(origin=Origin("r"), student_id=gone, drop=(LECTURE,), add=())
            costs.append([await office.cost_of_change(alone), await office.cost_of_change(other)])
            seated = await connection.fetch("SELECT student_id FROM student_courses WHERE status = 'enrolled'")
            assert [row[0] for row in seated] == [1, 1]
    assert costs[0] == costs[1]
    assert [each.judged for each in costs[0]] == [0, 5]


@pytest.mark.parametrize("promotions", [1, 2, 3])
async def test_partners_of_many_students_are_seated_in_many_transactions(
    settings: Settings, connection: Connection, cost: Cost, promotions: int
) -> None:
    async with office_of(settings, connection, cost, promotions_per_transaction=promotions) as office:
        await connection.execute(STUDENTS, 11)
        await connection.execute(COURSES, 10)
        await connection.execute(REQUIRED)
        await connection.execute(WAITING, 10, json.dumps([{"code": "corequisite_missing", "any_of": ["C1"]}]))
        await connection.execute(SEATED, 10)
        for course in (LAB, LECTURE):
            values: dict[str, Any] = {"capacity": 9}
            await office.registrar.submit_all([Edit(origin=Origin("r"), resource=COURSE, id=course, values=values)])
        for _ in range(40):
            await office.registrar.submit_all(())
        rows = await connection.fetch(
            "SELECT student_id FROM student_courses WHERE status = 'enrolled' AND course_id = 1"
        )
        assert sorted(row[0] for row in rows) == [*range(1, 9), 11]


async def test_a_course_without_corequisites_looks_for_no_partners(client: Client, settings: Settings) -> None:
    course, seated = await new_course(client, capacity=1), await new_student(client)
    await enroll(client, seated, course)
    student = await wait_for(client, course)
    await call(client, "POST", f"/students/{student}/holds", {"reason": "fees", "blocks": ["enroll"]})
    async with counted(settings) as (office, sent):
        await office.submit_all([Drop(origin=Origin("r"), student_id=seated, course_id=course)])
        assert LOAD_PARTNER_PLACES not in sent
    assert (await drop(client, student, course)).status == 200
