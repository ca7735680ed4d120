"""Reserved seats of courses, over HTTP: who gets which seat, the waitlist, the clock, and the counters."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.check import INVARIANTS
from service.registrar.changes import Origin
from service.registrar.enrollments import Enroll
from service.settings import Settings
from sql import Connection
from sql.courses import LOAD_RESERVED_SEATS, SET_RESERVED_SEATS
from tests import shared
from tests.campus import Answer, bare, call, create, drop, enroll, new_course, new_student, places, problem, read
from tests.conftest import Client
from tests.test_optimistic import counted, statements_of_enroll

pytestmark, service, client, connection, settings = shared.SERVICE

PHYSICS, ART = "major:physics", "major:art"


async def reserve(client: Client, course: int, *wanted: tuple[str, int], **fields: object) -> Answer:
    """Set the reservations of a course, each with a group and a number of seats."""
    body = {"reservations": [{"group": group, "seats": seats, **fields} for group, seats in wanted]}
    return await call(client, "PUT", f"/courses/{course}/reservations", body)


async def students(client: Client, count: int, *groups: str) -> list[int]:
    return [await new_student(client, groups=groups) for _ in range(count)]


async def wait_for(client: Client, student: int, course: int) -> Any:
    """Enroll a student, on the waitlist if no seat is open, and return the status."""
    body = {"course_ids": [course], "on_full": "waitlist"}
    answer = await call(client, "POST", f"/students/{student}/enroll", body)
    assert answer.status == 201, answer
    return answer.body["results"][0]["outcome"]


async def taken(client: Client, course: int) -> list[int]:
    """Return how many reserved seats are taken, in the order of the reservations."""
    return [each["seats_taken"] for each in (await read(client, f"/courses/{course}/reservations"))["reservations"]]


async def status_of(client: Client, student: int, course: int) -> str:
    status: str = (await read(client, f"/students/{student}/courses/{course}"))["status"]
    return status


async def blocked_by(client: Client, course: int) -> dict[int, Any]:
    """Return why the waitlisted students were passed over, in the order of the waitlist."""
    page = await read(client, f"/courses/{course}/students?status=waitlisted")
    return {each["student_id"]: each["blocked_by"] for each in page["items"]}


async def assert_whole(connection: Connection) -> None:
    for invariant, find in INVARIANTS.items():
        assert list(await find(connection)) == [], invariant


def refusals(answer: Answer, code: str = "seats_reserved") -> list[tuple[str, int]]:
    """Assert that a request is refused by the rule only, and return the groups with their seats."""
    body = problem(answer, 409, code)
    return [(error["group"], error["reserved"]) for error in body["errors"]]


async def test_members_take_the_seats_of_their_group_first_and_others_only_the_rest(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=4)
    assert (await reserve(client, course, (PHYSICS, 2))).status == 200
    physicists, others = await students(client, 3, PHYSICS, "year:2"), await students(client, 3)

    for student in others[:2]:
        assert (await enroll(client, student, course)).status == 201
    assert refusals(await enroll(client, others[2], course)) == [(PHYSICS, 2)]
    for number, student in enumerate(physicists[:2], start=1):
        assert (await enroll(client, student, course)).status == 201
        assert await taken(client, course) == [number]
    problem(await enroll(client, physicists[2], course), 409, "course_full")
    assert (await drop(client, physicists[0], course)).status == 200
    assert await taken(client, course) == [1]
    assert refusals(await enroll(client, others[2], course)) == [(PHYSICS, 2)]
    await assert_whole(connection)


async def test_a_member_whose_group_has_no_seat_left_takes_a_common_one(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=3)
    await reserve(client, course, (PHYSICS, 1), (ART, 1))
    first, second, third = await students(client, 3, PHYSICS)

    for student in (first, second):
        assert (await enroll(client, student, course)).status == 201
    assert await taken(client, course) == [1, 0]
    assert refusals(await enroll(client, third, course)) == [(ART, 1)]
    await drop(client, second, course)
    assert await taken(client, course) == [1, 0]
    assert (await enroll(client, third, course)).status == 201
    await assert_whole(connection)


async def test_a_member_of_several_groups_takes_a_seat_of_the_first_that_has_one(client: Client) -> None:
    course = await new_course(client, capacity=3)
    await reserve(client, course, (PHYSICS, 1), (ART, 1))

    for expected in ([1, 0], [1, 1], [1, 1]):
        assert (await enroll(client, await new_student(client, groups=[ART, PHYSICS]), course)).status == 201
        assert await taken(client, course) == expected


async def test_a_freed_reserved_seat_goes_to_the_first_member_and_a_common_one_to_the_first_in_order(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=2)
    await reserve(client, course, (PHYSICS, 1))
    [physicist], [other] = await students(client, 1, PHYSICS), await students(client, 1)
    for student in (physicist, other):
        assert (await enroll(client, student, course)).status == 201
    crowd, members = await students(client, 3), await students(client, 2, PHYSICS)
    for student in (crowd[0], crowd[1], members[0], crowd[2], members[1]):
        assert await wait_for(client, student, course) == "waitlisted"

    await drop(client, physicist, course)
    assert await status_of(client, members[0], course) == "enrolled"
    reasons = await blocked_by(client, course)
    assert list(reasons) == [crowd[0], crowd[1], crowd[2], members[1]]
    reserved = [{"code": "seats_reserved", "group": PHYSICS, "reserved": 1}]
    assert bare(reasons[crowd[0]]) == bare(reasons[crowd[1]]) == reserved
    await drop(client, other, course)
    assert await status_of(client, crowd[0], course) == "enrolled"
    await drop(client, members[0], course)
    assert await status_of(client, members[1], course) == "enrolled"
    assert list(await blocked_by(client, course)) == [crowd[1], crowd[2]]
    await drop(client, crowd[0], course)
    assert list(await blocked_by(client, course)) == [crowd[2]]
    await assert_whole(connection)


async def test_a_freed_common_seat_passes_over_those_whom_another_rule_blocks(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=2)
    await reserve(client, course, (PHYSICS, 1))
    [other] = await students(client, 1)
    await enroll(client, other, course)
    crowd = await students(client, 4)
    for student in crowd:
        assert await wait_for(client, student, course) == "waitlisted"
    for student in crowd[:2]:
        await create(client, f"/students/{student}/holds", {"reason": "fees", "blocks": ["enroll"]})

    await drop(client, other, course)

    reasons = {
        student: [each["code"] for each in found] for student, found in (await blocked_by(client, course)).items()
    }
    assert reasons == {crowd[0]: ["hold"], crowd[1]: ["hold"], crowd[3]: ["seats_reserved"]}
    assert await status_of(client, crowd[2], course) == "enrolled"
    await assert_whole(connection)


async def test_a_course_with_a_reserved_free_seat_judges_each_waitlisted_student_once(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=3)
    await reserve(client, course, (PHYSICS, 1))
    seated = await students(client, 2)
    for student in seated:
        await enroll(client, student, course)
    crowd = await students(client, 12)
    for student in crowd:
        await wait_for(client, student, course)
    skips = "SELECT count(*) FROM events WHERE type = 'enrollment.skipped'"
    unjudged = "SELECT count(*) FROM student_courses WHERE status = 'waitlisted' AND recheck_at IS NULL"
    marks = "SELECT student_id, xmin::text FROM student_courses WHERE status = 'waitlisted' ORDER BY student_id"
    assert await connection.fetchval(skips) == 12
    before = await connection.fetch(marks)

    await drop(client, seated[0], course)
    assert await status_of(client, crowd[0], course) == "enrolled"
    [member] = await students(client, 1, PHYSICS)
    assert (await enroll(client, member, course)).status == 201
    await drop(client, member, course)

    assert await connection.fetch(marks) == before[1:], "nobody else was judged, so that no row was written"
    assert await connection.fetchval(skips) == 12
    assert await connection.fetchval(unjudged) == 0
    await assert_whole(connection)


@pytest.mark.parametrize("lifted", [True, False])
async def test_seats_are_for_everyone_once_the_reservation_is_lifted_or_smaller(
    client: Client, connection: Connection, *, lifted: bool
) -> None:
    course = await new_course(client, capacity=2)
    await reserve(client, course, (PHYSICS, 2))
    waiting = await students(client, 3)
    for student in waiting:
        await wait_for(client, student, course)

    await reserve(client, course, *[] if lifted else [(PHYSICS, 1)])

    assert list(await blocked_by(client, course)) == waiting[2:] if lifted else waiting[1:]
    await assert_whole(connection)


async def test_seats_are_for_everyone_from_until_on(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=2)
    ends_at = datetime.now(UTC) + timedelta(hours=1)
    await reserve(client, course, (PHYSICS, 1), until=ends_at.isoformat())
    seated, waiting = await students(client, 1), await students(client, 2)
    await enroll(client, seated[0], course)
    for student in waiting:
        assert await wait_for(client, student, course) == "waitlisted"
    assert await connection.fetchval(
        "SELECT array_agg(DISTINCT recheck_at) FROM student_courses WHERE status = 'waitlisted'"
    ) == [ends_at]
    # Let the hour pass.
    await connection.execute(
        "UPDATE student_courses SET recheck_at = $1 WHERE status = 'waitlisted'", ends_at - timedelta(hours=2)
    )
    text = (ends_at - timedelta(hours=2)).isoformat().replace("+00:00", "Z")
    await connection.execute(
        "UPDATE courses SET reservations = jsonb_set(reservations::jsonb, '{0,until}', to_jsonb($1::text))::json", text
    )
    await call(client, "PATCH", f"/courses/{course}", {"title": "Forget"})

    # The next request notices it: the first in order gets the seat, not the newcomer.
    problem(await enroll(client, (await students(client, 1))[0], course), 409, "course_full")
    assert await status_of(client, waiting[0], course) == "enrolled"
    assert await taken(client, course) == [0]


async def test_a_student_whose_groups_are_edited_keeps_the_seat_and_may_get_one(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=2)
    await reserve(client, course, (PHYSICS, 2))
    [member], [other] = await students(client, 1, PHYSICS), await students(client, 1)
    await enroll(client, member, course)
    assert await wait_for(client, other, course) == "waitlisted"

    await call(client, "PATCH", f"/students/{member}", {"groups": []})
    assert await taken(client, course) == [1]
    assert await status_of(client, other, course) == "waitlisted"
    await call(client, "PATCH", f"/students/{other}", {"groups": [PHYSICS]})
    assert await status_of(client, other, course) == "enrolled"
    assert await taken(client, course) == [2]
    await call(client, "POST", f"/students/{other}/erase")
    assert await taken(client, course) == [2]
    complete = await call(client, "POST", f"/students/{member}/courses/{course}/complete", {"passed": True})
    assert complete.status == 200
    assert await taken(client, course) == [2]
    await assert_whole(connection)


async def test_an_override_gives_a_reserved_seat_to_anyone(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=1)
    await reserve(client, course, (PHYSICS, 1))
    [first, second], [member] = await students(client, 2), await students(client, 1, PHYSICS)
    assert await wait_for(client, first, course) == "waitlisted"
    body = {"course_id": course, "author": "Dean", "reason": "so"}

    await create(client, f"/students/{first}/overrides", {**body, "rule": "course_full"})
    assert await status_of(client, first, course) == "waitlisted", "the rules are apart"
    await create(client, f"/students/{first}/overrides", {**body, "rule": "seats_reserved"})
    assert await status_of(client, first, course) == "enrolled"
    await drop(client, first, course)
    await create(client, f"/students/{second}/overrides", {**body, "rule": "seats_reserved"})
    assert (await enroll(client, second, course)).status == 201
    assert await taken(client, course) == [0]
    problem(await enroll(client, member, course), 409, "course_full")
    await assert_whole(connection)


async def test_a_larger_capacity_lets_those_in_whom_only_reservations_blocked(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=2)
    await reserve(client, course, (PHYSICS, 2))
    waiting = await students(client, 4)
    for student in waiting:
        await wait_for(client, student, course)

    await call(client, "PATCH", f"/courses/{course}", {"capacity": 4})

    assert list(await blocked_by(client, course)) == waiting[2:]
    await call(client, "PATCH", f"/courses/{course}", {"capacity": None})
    assert list(await blocked_by(client, course)) == []
    await assert_whole(connection)


async def test_the_reservations_in_force_have_at_most_as_many_seats_as_the_course(client: Client) -> None:
    course = await new_course(client, capacity=3)
    path = f"/courses/{course}"

    above = await reserve(client, course, (PHYSICS, 2), (ART, 2))
    [error] = problem(above, 422, "reservations_above_capacity")["errors"]
    assert error["pointer"] == "#/reservations"
    assert (await read(client, f"{path}/reservations"))["reservations"] == []
    assert (await reserve(client, course, (PHYSICS, 3))).status == 200
    lower = await call(client, "PATCH", path, {"capacity": 2})
    [error] = problem(lower, 422, "reservations_above_capacity")["errors"]
    assert error["pointer"] == "#/capacity"
    assert (await call(client, "PATCH", path, {"capacity": None})).status == 200
    assert (await reserve(client, course, (PHYSICS, 9))).status == 200
    problem(await call(client, "PATCH", path, {"capacity": 8}), 422, "reservations_above_capacity")
    assert (await reserve(client, course, (PHYSICS, 9), until="2020-01-01T00:00:00Z")).status == 200
    assert (await call(client, "PATCH", path, {"capacity": 1})).status == 200
    assert (await enroll(client, await new_student(client), course)).status == 201


async def test_reservations_are_replaced_and_read_with_a_tag(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=9)
    path = f"/courses/{course}/reservations"
    body = {
        "reservations": [
            {"group": ART, "seats": 2, "until": "2036-01-01T01:00:00+01:00"},
            {"group": PHYSICS, "seats": 1},
        ]
    }

    put = await call(client, "PUT", path, body)
    got = await call(client, "GET", path)
    assert put.body == got.body
    assert put.etag == got.etag
    assert put.body["reservations"] == [
        {"group": ART, "seats": 2, "until": "2036-01-01T00:00:00Z", "seats_taken": 0},
        {"group": PHYSICS, "seats": 1, "until": None, "seats_taken": 0},
    ]
    assert (await call(client, "PUT", path, body)).body == put.body
    assert await connection.fetchval("SELECT count(*) FROM events WHERE type = 'course.reservations_set'") == 1
    problem(await call(client, "PUT", path, body, headers={"If-None-Match": put.etag}), 412, "precondition_failed")
    problem(await call(client, "PUT", path, body, headers={"If-Match": '"x"'}), 412, "precondition_failed")
    empty = await call(client, "PUT", path, {"reservations": []}, headers={"If-Match": put.etag})
    assert empty.body == {"reservations": []}
    problem(await call(client, "GET", "/courses/99/reservations"), 404, "course_not_found")
    problem(await call(client, "PUT", "/courses/99/reservations", body), 404, "course_not_found")


@pytest.mark.parametrize(
    "reservations, place",
    [
        ([{"group": "a,b", "seats": 1}], ("forbidden_character", "#/reservations/0/group")),
        ([{"group": "a", "seats": 0}], ("too_small", "#/reservations/0/seats")),
        ([{"group": "a", "seats": 1}, {"group": "a", "seats": 2}], ("repeated_group", "#/reservations")),
        ([{"group": "a", "seats": 1, "until": "soon"}], ("not_an_instant", "#/reservations/0/until")),
        ([{"group": f"g{n}", "seats": 1} for n in range(51)], ("too_long", "#/reservations")),
    ],
)
async def test_an_invalid_reservation_is_named(client: Client, reservations: object, place: tuple[str, str]) -> None:
    course = await new_course(client, capacity=99)
    answer = await call(client, "PUT", f"/courses/{course}/reservations", {"reservations": reservations})
    assert places(answer) == [place]


async def test_a_course_without_reservations_costs_no_statement(client: Client, settings: Settings) -> None:
    plain, kept = await new_course(client, capacity=9), await new_course(client, capacity=9)
    await reserve(client, kept, (PHYSICS, 2))
    first, second = await students(client, 2, PHYSICS)
    async with counted(settings) as (office, sent):
        for course in (plain, kept):
            await office.submit(Enroll(origin=Origin("r"), student_id=first, course_ids=(course,)))
        sent.clear()
        await office.submit(Enroll(origin=Origin("r"), student_id=second, course_ids=(plain,)))
        assert sent == statements_of_enroll(office)
        sent.clear()
        await office.submit(Enroll(origin=Origin("r"), student_id=second, course_ids=(kept,)))
        assert sent.count(LOAD_RESERVED_SEATS) == sent.count(SET_RESERVED_SEATS) == 1


async def test_a_cancelled_course_has_no_reserved_seats_taken(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=2)
    await reserve(client, course, (PHYSICS, 2))
    for student in await students(client, 2, PHYSICS):
        await enroll(client, student, course)
    assert (await call(client, "POST", f"/courses/{course}/cancel")).status == 200
    assert await taken(client, course) == [0]
    await assert_whole(connection)


async def test_a_dry_run_that_frees_a_reserved_seat_writes_nothing(client: Client, connection: Connection) -> None:
    course, other = await new_course(client, capacity=2), await new_course(client)
    await reserve(client, course, (PHYSICS, 2))
    [member], [waiting] = await students(client, 1, PHYSICS), await students(client, 1)
    await enroll(client, member, course)
    await wait_for(client, waiting, course)
    assert (await drop(client, member, course)).status == 200
    assert (await enroll(client, member, course)).status == 201
    before = await connection.fetchval("SELECT count(*) FROM events")

    answer = await call(client, "POST", f"/students/{member}/swap?dry_run=true", {"drop": [course], "add": [other]})

    assert [each["outcome"] for each in answer.body["results"]] == ["dropped", "enrolled"]
    assert await connection.fetchval("SELECT count(*) FROM events") == before
