"""If a change makes a student eligible, even indirectly, its transaction gives the student the free seat."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from service.database import Database
from service.errors import PromotionsPending
from service.registrar import Registrar
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE, Cancel
from service.registrar.enrollments import Enroll
from service.registrar.resources import Edit
from service.registrar.waitlist import Sweep, Swept
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import (
    call,
    create,
    drop,
    enroll,
    events,
    join_waitlist,
    let_holds_end,
    new_course,
    new_student,
    read,
    registrar_of,
    until,
)
from tests.conftest import Client
from tests.test_check import checked
from tests.test_registrar import TERM, grant, hold, status_of

pytestmark, service, client, connection, settings = shared.SERVICE

AT = [{"day": "mon", "start": "09:00", "end": "10:00"}]


async def require(client: Client, course: int, kind: str, code: str) -> None:
    body = {"groups": [{"kind": kind, "any_of": [code]}]}
    assert (await call(client, "PUT", f"/courses/{course}/requirements", body)).status == 200


@pytest.mark.parametrize("how", ["seat", "waitlist", "promotion"])
async def test_a_student_who_gets_the_corequisite_is_promoted_with_it(client: Client, how: str) -> None:
    lecture, lab = await new_course(client, code="LEC", capacity=1), await new_course(client, code="LAB", capacity=1)
    student, other = await new_student(client), await new_student(client)
    if how != "seat":
        await enroll(client, other, lecture)
    seated = await new_student(client)
    await enroll(client, seated, lab)
    await join_waitlist(client, student, lab)
    await require(client, lab, "co", "LEC")
    await drop(client, seated, lab)
    assert await status_of(client, student, lab) == "waitlisted"

    await join_waitlist(client, student, lecture)
    if how == "promotion":
        assert await status_of(client, student, lab) == "waitlisted"
        await drop(client, other, lecture)

    # A waitlist place is no corequisite for a promotion.
    expected = "waitlisted" if how == "waitlist" else "enrolled"
    assert await status_of(client, student, lecture) == expected
    assert await status_of(client, student, lab) == expected


@pytest.mark.parametrize("relaxed", ["cancel", "code"])
async def test_a_student_is_promoted_when_an_excluding_waitlist_place_goes_away(client: Client, relaxed: str) -> None:
    rival, wanted = await new_course(client, code="RIVAL", capacity=0), await new_course(client, capacity=1)
    student = await new_student(client)
    await join_waitlist(client, student, rival)
    await passed_over_for(client, student, wanted, "anti", "RIVAL")

    if relaxed == "cancel":
        await call(client, "POST", f"/courses/{rival}/cancel")
    else:
        await call(client, "PATCH", f"/courses/{rival}", {"code": "OTHER"})

    assert await status_of(client, student, wanted) == "enrolled"


async def passed_over_for(client: Client, student: int, course: int, kind: str, code: str) -> None:
    """Waitlist a student for a course with a free seat, and block the student by a requirement."""
    seated = await new_student(client)
    await enroll(client, seated, course)
    await join_waitlist(client, student, course)
    await require(client, course, kind, code)
    await drop(client, seated, course)
    assert await status_of(client, student, course) == "waitlisted"


@pytest.mark.parametrize("relaxed", ["meetings", "credits", "term"])
async def test_a_student_is_promoted_when_an_edit_of_a_completed_course_clears_the_way(
    client: Client, relaxed: str
) -> None:
    term = (await create(client, "/terms", {**TERM, "max_credits": 4}))["id"]
    later = (await create(client, "/terms", {**TERM, "code": "L", "max_credits": 4}))["id"]
    timed = {} if relaxed == "credits" else {"meetings": AT}
    done = await new_course(client, term_id=term, credits=3 if relaxed == "credits" else 0, **timed)
    wanted = await new_course(client, capacity=1, credits=3, term_id=term if relaxed == "credits" else later, **timed)
    student, seated = await new_student(client), await new_student(client)
    await enroll(client, student, done)
    await call(client, "POST", f"/students/{student}/courses/{done}/complete", {"passed": True})
    await enroll(client, seated, wanted)
    await join_waitlist(client, student, wanted)
    await drop(client, seated, wanted)
    assert await status_of(client, student, wanted) == "waitlisted"

    match relaxed:
        case "meetings":
            await call(client, "PATCH", f"/courses/{done}", {"meetings": []})
        case "credits":
            await call(client, "PATCH", f"/courses/{done}", {"credits": 1})
        case "term":
            await call(client, "PATCH", f"/terms/{term}", {"starts_on": "2036-01-01", "ends_on": "2036-02-01"})

    assert await status_of(client, student, wanted) == "enrolled"


@pytest.mark.parametrize("relaxed", ["requirement", "meetings", "cancel", "term", "clock"])
async def test_a_capacity_override_seats_ahead_of_the_waitlist_as_soon_as_no_other_rule_refuses(
    client: Client, settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str], relaxed: str
) -> None:
    term = (await create(client, "/terms", {**TERM, "max_credits": 2}))["id"]
    wanted = await new_course(client, capacity=0, credits=3, **({"term_id": term} if relaxed == "term" else {}))
    other = await new_course(client, meetings=AT)
    first, student = await new_student(client), await new_student(client)
    await join_waitlist(client, first, wanted)
    await join_waitlist(client, student, wanted)
    await enroll(client, student, other)
    match relaxed:
        case "requirement":
            await require(client, wanted, "pre", "P")
        case "meetings" | "cancel":
            await call(client, "PATCH", f"/courses/{wanted}", {"meetings": AT})
        case "clock":
            await hold(client, student)
    await grant(client, student, wanted, "course_full")
    assert await status_of(client, student, wanted) == "waitlisted"

    match relaxed:
        case "requirement":
            await call(client, "PUT", f"/courses/{wanted}/requirements", {"groups": []})
        case "meetings":
            await call(client, "PATCH", f"/courses/{other}", {"meetings": []})
        case "cancel":
            await call(client, "POST", f"/courses/{other}/cancel")
        case "term":
            await call(client, "PATCH", f"/terms/{term}", {"max_credits": 3})
        case "clock":
            await let_holds_end(connection, timedelta(hours=1))
            status, lines = await checked(settings, capsys)
            assert (status, lines[1:]) == (1, [f"      course_id={wanted}, student_id={student}"])
            async with registrar_of(settings) as registrar:
                assert (await registrar.sweep()).promoted == 1

    assert await status_of(client, student, wanted) == "enrolled"
    assert await status_of(client, first, wanted) == "waitlisted"
    assert (await checked(settings, capsys))[0] == 0


@pytest.mark.parametrize("relaxed", ["meetings", "cancel"])
async def test_a_relaxed_condition_reaches_students_waitlisted_in_the_same_batch(
    client: Client, settings: Settings, relaxed: str
) -> None:
    one, wanted = await new_course(client, meetings=AT), await new_course(client, capacity=1, meetings=AT)
    student, seated = await new_student(client), await new_student(client)
    await enroll(client, seated, wanted)
    relaxing: Change[Any] = (
        Edit(origin=Origin("r"), resource=COURSE, id=one, values={"meetings": "[]"})
        if relaxed == "meetings"
        else Cancel(origin=Origin("r"), course_id=one)
    )
    changes: Sequence[Change[Any]] = [
        Enroll(origin=Origin("r"), student_id=student, course_ids=(one,)),
        Enroll(origin=Origin("r"), student_id=student, course_ids=(wanted,), on_full="waitlist"),
        Edit(origin=Origin("r"), resource=COURSE, id=wanted, values={"capacity": 2}),
        relaxing,
    ]
    async with registrar_of(settings) as registrar:
        outcomes = await registrar.submit_all(changes)

    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert await status_of(client, student, wanted) == "enrolled"


async def test_students_seated_by_overrides_at_once_are_promoted_in_waitlist_order(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=0)
    late, early = await new_student(client), await new_student(client)
    for student in (early, late):
        await join_waitlist(client, student, course)
    await require(client, course, "pre", "P")
    for student in (late, early):
        await grant(client, student, course, "course_full")

    await call(client, "PUT", f"/courses/{course}/requirements", {"groups": []})

    promoted = [event["student_id"] for event in await events(connection) if event["type"] == "enrollment.promoted"]
    assert promoted == [early, late]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_an_edited_course_is_returned_with_the_seats_left_after_promotions(client: Client, method: str) -> None:
    fields = {"code": "C", "title": "T", "capacity": 0}
    course = (await call(client, "PUT", "/courses/by-external-id/c", fields)).body["id"]
    await join_waitlist(client, await new_student(client), course)

    path = f"/courses/{course}" if method == "PATCH" else "/courses/by-external-id/c"
    answer = await call(client, method, path, {"capacity": 2} if method == "PATCH" else {**fields, "capacity": 2})

    assert (answer.status, answer.body["seats_taken"], answer.body["seats_free"], answer.body["waitlisted"]) == (
        200,
        1,
        1,
        0,
    )
    assert answer.body == (await call(client, "GET", f"/courses/{course}")).body


async def test_an_override_that_is_used_at_once_is_returned_as_used(client: Client) -> None:
    course, student = await new_course(client, capacity=0), await new_student(client)
    await join_waitlist(client, student, course)

    granted = await grant(client, student, course, "course_full")

    assert granted["used_at"] is not None
    assert (await call(client, "GET", f"/students/{student}/overrides")).body["items"] == [granted]


async def shown(client: Client, student: int, course: int) -> tuple[Any, Any]:
    """Return the ``blocked_by`` of a waitlisted student, from the student's courses and from the course's waitlist."""
    mine = (await read(client, f"/students/{student}/courses"))["items"]
    theirs = (await read(client, f"/courses/{course}/students?status=waitlisted"))["items"]
    [by_student] = [item["blocked_by"] for item in mine if item["course_id"] == course]
    [by_course] = [item["blocked_by"] for item in theirs if item["student_id"] == student]
    return by_student, by_course


async def test_a_waitlist_shows_why_a_student_is_passed_over_but_nothing_private(client: Client) -> None:
    term = (await create(client, "/terms", {**TERM, "max_credits": 2}))["id"]
    course = await new_course(client, capacity=0, credits=3, term_id=term, meetings=AT)
    student = await new_student(client)
    await join_waitlist(client, student, course)
    assert await shown(client, student, course) == (None, None)
    fees = await hold(client, student, reason="Unpaid fees")

    await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})

    above = f"Course {course} would bring term {term} to 0 + 3 credits, which is above the limit."
    reasons = [
        {"code": "hold", "detail": "A hold blocks this."},
        {"code": "credit_limit", "term_id": term, "held": 0, "asked": 3, "detail": above},
    ]
    assert await shown(client, student, course) == (reasons, reasons)

    await call(client, "DELETE", f"/students/{student}/holds/{fees}")
    assert await shown(client, student, course) == (reasons[1:], reasons[1:])
    # An edit makes all students it may have helped unjudged; without a free seat they remain unjudged.
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 0, "meetings": []})
    assert await shown(client, student, course) == (None, None)


async def test_a_waitlist_ends_with_its_term(client: Client, settings: Settings, connection: Connection) -> None:
    term = (await create(client, "/terms", TERM))["id"]
    course, wanted = (
        await new_course(client, code="OVER", capacity=0, term_id=term),
        await new_course(client, capacity=0),
    )
    student, newcomer = await new_student(client), await new_student(client)
    await join_waitlist(client, student, course)
    await require(client, wanted, "anti", "OVER")
    await enroll_on_waitlist_despite(client, student, wanted, "antirequisite")
    await call(client, "PATCH", f"/courses/{wanted}", {"capacity": 1})
    assert await status_of(client, student, wanted) == "waitlisted"

    await call(client, "PATCH", f"/terms/{term}", {"starts_on": "2001-01-01", "ends_on": "2001-06-01"})

    # From then on the waitlist place excludes no other course, and nobody on the waitlist gets a seat.
    assert await status_of(client, student, wanted) == "enrolled"
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 5})
    assert await status_of(client, student, course) == "waitlisted"
    async with registrar_of(settings) as registrar:
        swept = await registrar.sweep()
        assert (swept.promoted, swept.ended) == (0, 1)
        swept = await registrar.sweep()
        assert (swept.promoted, swept.ended) == (0, 0)
    assert await status_of(client, student, course) == "dropped"
    assert (await read(client, f"/courses/{course}"))["waitlisted"] == 0
    last = (await events(connection))[-1]
    assert (last["type"], last["student_id"], last["course_id"]) == ("enrollment.dropped", student, course)
    assert (await enroll(client, newcomer, course)).body["errors"][0]["code"] == "enrollment_closed"


async def test_a_term_may_end_on_the_last_day_of_the_calendar(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    term = (await create(client, "/terms", {**TERM, "ends_on": "9999-12-31"}))["id"]
    rival = await new_course(client, code="RIVAL", capacity=0, term_id=term)
    course = await new_course(client, capacity=1, term_id=term)
    seated, first, second = await new_student(client), await new_student(client), await new_student(client)
    await enroll(client, seated, course)
    for student in (first, second):
        await join_waitlist(client, student, course)
    await join_waitlist(client, first, rival)
    await require(client, course, "anti", "RIVAL")

    assert (await drop(client, seated, course)).status == 200

    assert await status_of(client, second, course) == "enrolled"
    async with registrar_of(settings) as registrar:
        assert (await registrar.sweep()).ended == 0
    assert await status_of(client, first, course) == "waitlisted"
    assert (await checked(settings, capsys))[0] == 0


async def enroll_on_waitlist_despite(client: Client, student: int, course: int, rule: str) -> None:
    """Waitlist a student for a course whose rules refuse it, by an override that ends before a seat is free."""
    override = await grant(client, student, course, rule)
    assert (await join_waitlist(client, student, course)).status == 201
    await call(client, "DELETE", f"/students/{student}/overrides/{override['id']}")


async def test_a_newcomer_is_refused_during_a_long_chain_of_promotions_and_may_try_again(
    client: Client, settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    course = await new_course(client, capacity=0)
    waiting = [await new_student(client) for _ in range(10)]
    for student in waiting:
        await join_waitlist(client, student, course)
    newcomer = await new_student(client)
    enrolling = Enroll(origin=Origin("r"), student_id=newcomer, course_ids=(course,))
    raised: Change[Any] = Edit(origin=Origin("r"), resource=COURSE, id=course, values={"capacity": 11})
    async with registrar_of(settings.model_copy(update={"promotions_per_transaction": 3})) as registrar:
        first, second = await registrar.submit_all([raised, enrolling])
        assert not isinstance(first, Exception)
        assert isinstance(second, PromotionsPending)

        async def promoted() -> bool:
            return bool((await read(client, f"/courses/{course}"))["seats_taken"] == 10)

        # The rest follows without another request.
        await until(promoted, "the rest of the promotions")
        for outcome in ("enrolled", "unchanged"):
            [result] = await registrar.submit(enrolling)
            assert result.outcome == outcome

    order = [event["student_id"] for event in await events(connection) if event["type"] == "enrollment.promoted"]
    assert order == waiting
    assert (await checked(settings, capsys))[0] == 0


async def test_a_long_chain_of_promotions_blocks_only_its_own_courses(client: Client, settings: Settings) -> None:
    chained, other = await new_course(client, capacity=0), await new_course(client, capacity=0)
    for _ in range(3):
        await join_waitlist(client, await new_student(client), chained)
    blocked, newcomer = await new_student(client), await new_student(client)
    await join_waitlist(client, blocked, other)
    await hold(client, blocked)
    await call(client, "PATCH", f"/courses/{other}", {"capacity": 2})
    changes: Sequence[Change[Any]] = [
        Edit(origin=Origin("r"), resource=COURSE, id=chained, values={"capacity": 5}),
        Enroll(origin=Origin("r"), student_id=newcomer, course_ids=(chained,)),
        Enroll(origin=Origin("r"), student_id=newcomer, course_ids=(other,)),
    ]

    async with registrar_of(settings.model_copy(update={"promotions_per_transaction": 1})) as registrar:
        _, waits, enrolled = await registrar.submit_all(changes)

    assert isinstance(waits, PromotionsPending)
    assert not isinstance(enrolled, Exception)
    assert await status_of(client, newcomer, other) == "enrolled"


async def test_a_sweep_counts_its_own_promotions_whatever_the_next_change_needs(
    client: Client, settings: Settings, connection: Connection
) -> None:
    course, one, other = await new_course(client, capacity=0), await new_course(client), await new_course(client)
    await require(client, other, "anti", "NONE")
    student, newcomer = await new_student(client), await new_student(client)
    await join_waitlist(client, student, course)
    await hold(client, student)
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})
    await enroll(client, newcomer, one)
    await let_holds_end(connection)
    # The enrollment needs the student's other course, which no earlier change has loaded.
    changes: Sequence[Change[Any]] = [
        Sweep(origin=Origin("r")),
        Enroll(origin=Origin("r"), student_id=newcomer, course_ids=(other,)),
    ]

    async with registrar_of(settings) as registrar:
        swept, _ = await registrar.submit_all(changes)

    assert swept == Swept(promoted=1, ended=0)


async def test_a_chain_of_promotions_left_unfinished_is_finished_by_the_sweep_of_another_process(
    client: Client, settings: Settings, connection: Connection
) -> None:
    course = await new_course(client, capacity=0)
    for _ in range(10):
        await join_waitlist(client, await new_student(client), course)
    few = settings.model_copy(update={"promotions_per_transaction": 3})
    database = Database(few)
    await database.open()
    registrar = Registrar(database, few)
    await registrar.submit_all([Edit(origin=Origin("r"), resource=COURSE, id=course, values={"capacity": 10})])
    await registrar.close()
    await database.close()
    assert (await read(client, f"/courses/{course}"))["seats_taken"] < 10

    async with registrar_of(few) as other:
        await other.sweep()

    assert (await read(client, f"/courses/{course}"))["seats_taken"] == 10
