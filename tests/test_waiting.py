"""Whom a change makes eligible gets the free seat with it, however indirectly it came about."""

from collections.abc import Sequence
from typing import Any

import pytest

from service.registrar.changes import Cancel, Change, Edit, Enroll, Origin
from service.settings import Settings
from sql import Connection
from sql.courses import Course
from tests.campus import (
    call,
    create,
    drop,
    enroll,
    events,
    let_holds_end,
    new_course,
    new_student,
    registrar_of,
    wait_for,
)
from tests.conftest import Client
from tests.test_check import checked
from tests.test_registrar import TERM, grant, hold, status_of

AT = [{"day": "mon", "start": "09:00", "end": "10:00"}]


async def require(client: Client, course: int, kind: str, code: str) -> None:
    body = {"groups": [{"kind": kind, "any_of": [code]}]}
    assert (await call(client, "PUT", f"/courses/{course}/requirements", body)).status == 200


async def passed_by(client: Client, student: int, course: int) -> None:
    """Have a student wait for a course that has a seat free, and be passed by, for the reason that stands by now."""
    seated = await new_student(client)
    assert (await enroll(client, seated, course)).status == 201
    assert (await wait_for(client, student, course)).status == 201
    await drop(client, seated, course)
    assert await status_of(client, student, course) == "waitlisted"


@pytest.mark.parametrize("how", ["seat", "line", "promotion"])
async def test_who_gets_the_corequisite_is_promoted_with_it(client: Client, how: str) -> None:
    lecture, lab = await new_course(client, code="LEC", capacity=1), await new_course(client, code="LAB", capacity=1)
    student, other = await new_student(client), await new_student(client)
    if how != "seat":
        await enroll(client, other, lecture)
    seated = await new_student(client)
    await enroll(client, seated, lab)
    await wait_for(client, student, lab)
    await require(client, lab, "co", "LEC")
    await drop(client, seated, lab)
    assert await status_of(client, student, lab) == "waitlisted"

    await wait_for(client, student, lecture)
    if how == "promotion":
        assert await status_of(client, student, lab) == "enrolled"
        await drop(client, other, lecture)

    assert await status_of(client, student, lecture) == ("waitlisted" if how == "line" else "enrolled")
    assert await status_of(client, student, lab) == "enrolled"


@pytest.mark.parametrize("eased", ["cancel", "code"])
async def test_what_only_waits_for_another_course_counts_where_it_goes_away(client: Client, eased: str) -> None:
    rival, wanted = await new_course(client, code="RIVAL", capacity=0), await new_course(client, capacity=1)
    student = await new_student(client)
    await wait_for(client, student, rival)
    await passed_by_for(client, student, wanted, "anti", "RIVAL")

    if eased == "cancel":
        await call(client, "POST", f"/courses/{rival}/cancel")
    else:
        await call(client, "PATCH", f"/courses/{rival}", {"code": "OTHER"})

    assert await status_of(client, student, wanted) == "enrolled"


async def passed_by_for(client: Client, student: int, course: int, kind: str, code: str) -> None:
    """Have a student wait for a course with a free seat that a requirement keeps from it."""
    seated = await new_student(client)
    await enroll(client, seated, course)
    await wait_for(client, student, course)
    await require(client, course, kind, code)
    await drop(client, seated, course)
    assert await status_of(client, student, course) == "waitlisted"


@pytest.mark.parametrize("eased", ["meetings", "credits", "term"])
async def test_a_completed_course_counts_where_it_is_edited(client: Client, eased: str) -> None:
    term = (await create(client, "/terms", {**TERM, "max_credits": 4}))["id"]
    later = (await create(client, "/terms", {**TERM, "code": "L", "max_credits": 4}))["id"]
    timed = {} if eased == "credits" else {"meetings": AT}
    done = await new_course(client, term_id=term, credits=3 if eased == "credits" else 0, **timed)
    wanted = await new_course(client, capacity=1, credits=3, term_id=term if eased == "credits" else later, **timed)
    student, seated = await new_student(client), await new_student(client)
    await enroll(client, student, done)
    await call(client, "POST", f"/students/{student}/courses/{done}/complete", {"passed": True})
    await enroll(client, seated, wanted)
    await wait_for(client, student, wanted)
    await drop(client, seated, wanted)
    assert await status_of(client, student, wanted) == "waitlisted"

    match eased:
        case "meetings":
            await call(client, "PATCH", f"/courses/{done}", {"meetings": []})
        case "credits":
            await call(client, "PATCH", f"/courses/{done}", {"credits": 1})
        case "term":
            await call(client, "PATCH", f"/terms/{term}", {"starts_on": "2026-01-01", "ends_on": "2026-02-01"})

    assert await status_of(client, student, wanted) == "enrolled"


@pytest.mark.parametrize("eased", ["requirement", "meetings", "cancel", "term", "clock"])
async def test_an_override_seats_past_the_line_in_the_moment_that_nothing_else_forbids_it(
    client: Client, settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str], eased: str
) -> None:
    term = (await create(client, "/terms", {**TERM, "max_credits": 2}))["id"]
    wanted = await new_course(client, capacity=0, credits=3, **({"term_id": term} if eased == "term" else {}))
    other = await new_course(client, meetings=AT)
    first, student = await new_student(client), await new_student(client)
    await wait_for(client, first, wanted)
    await wait_for(client, student, wanted)
    await enroll(client, student, other)
    match eased:
        case "requirement":
            await require(client, wanted, "pre", "P")
        case "meetings" | "cancel":
            await call(client, "PATCH", f"/courses/{wanted}", {"meetings": AT})
        case "clock":
            await hold(client, student)
    await grant(client, student, wanted, "course_full")
    assert await status_of(client, student, wanted) == "waitlisted"

    match eased:
        case "requirement":
            await call(client, "PUT", f"/courses/{wanted}/requirements", {"groups": []})
        case "meetings":
            await call(client, "PATCH", f"/courses/{other}", {"meetings": []})
        case "cancel":
            await call(client, "POST", f"/courses/{other}/cancel")
        case "term":
            await call(client, "PATCH", f"/terms/{term}", {"max_credits": 3})
        case "clock":
            await let_holds_end(connection, "1 hour")
            status, lines = await checked(settings, capsys)
            assert (status, lines[1:]) == (1, [f"      course_id={wanted}, student_id={student}"])
            async with registrar_of(settings) as registrar:
                assert await registrar.sweep() == 1

    assert await status_of(client, student, wanted) == "enrolled"
    assert await status_of(client, first, wanted) == "waitlisted"
    assert (await checked(settings, capsys))[0] == 0


@pytest.mark.parametrize("eased", ["meetings", "cancel"])
async def test_what_eases_within_one_batch_reaches_those_who_have_joined_in_it(
    client: Client, settings: Settings, eased: str
) -> None:
    one, wanted = await new_course(client, meetings=AT), await new_course(client, capacity=1, meetings=AT)
    student, seated = await new_student(client), await new_student(client)
    await enroll(client, seated, wanted)
    easing: Change[Any] = (
        Edit(origin=Origin("r"), thing=Course, id=one, values={"meetings": "[]"})
        if eased == "meetings"
        else Cancel(origin=Origin("r"), course_id=one)
    )
    changes: Sequence[Change[Any]] = [
        Enroll(origin=Origin("r"), student_id=student, course_ids=(one,)),
        Enroll(origin=Origin("r"), student_id=student, course_ids=(wanted,), on_full="waitlist"),
        Edit(origin=Origin("r"), thing=Course, id=wanted, values={"capacity": 2}),
        easing,
    ]
    async with registrar_of(settings) as registrar:
        outcomes = await registrar.submit_all(changes)

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert await status_of(client, student, wanted) == "enrolled"


async def test_of_those_whom_overrides_seat_at_once_the_first_in_line_is_the_first(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=0)
    late, early = await new_student(client), await new_student(client)
    for student in (early, late):
        await wait_for(client, student, course)
    await require(client, course, "pre", "P")
    for student in (late, early):
        await grant(client, student, course, "course_full")

    await call(client, "PUT", f"/courses/{course}/requirements", {"groups": []})

    promoted = [event["student_id"] for event in await events(connection) if event["type"] == "enrollment.promoted"]
    assert promoted == [early, late]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_course_is_answered_with_the_seats_that_are_left_when_its_line_has_moved(
    client: Client, method: str
) -> None:
    fields = {"code": "C", "title": "T", "capacity": 0}
    course = (await call(client, "PUT", "/courses/by-external-id/c", fields)).body["id"]
    await wait_for(client, await new_student(client), course)

    path = f"/courses/{course}" if method == "PATCH" else "/courses/by-external-id/c"
    answer = await call(client, method, path, {"capacity": 2} if method == "PATCH" else {**fields, "capacity": 2})

    assert (answer.status, answer.body["seats_taken"], answer.body["seats_free"], answer.body["waitlisted"]) == (
        200,
        1,
        1,
        0,
    )
    assert answer.body == (await call(client, "GET", f"/courses/{course}")).body


async def test_an_override_that_is_used_at_once_is_answered_as_used(client: Client) -> None:
    course, student = await new_course(client, capacity=0), await new_student(client)
    await wait_for(client, student, course)

    granted = await grant(client, student, course, "course_full")

    assert granted["used_at"] is not None
    assert (await call(client, "GET", f"/students/{student}/overrides")).body["items"] == [granted]
