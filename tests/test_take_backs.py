"""What the office takes back: a withdrawal, a completion and a cancellation."""

import pytest

from service.check import INVARIANTS
from sql import Connection
from tests import shared
from tests.campus import (
    Answer,
    call,
    create,
    drop,
    enroll,
    events,
    everything,
    join_waitlist,
    new_course,
    new_student,
    places,
    problem,
    read,
)
from tests.conftest import Client
from tests.test_auth import bearer, new_key
from tests.test_registrar import AHEAD, PAST, TERM, hold, status_of

pytestmark, service, client, connection, settings = shared.SERVICE

LATE = {**TERM, "drop_until": PAST, "withdraw_until": AHEAD}
CLOSED = {**TERM, "drop_until": PAST, "withdraw_until": PAST}


async def annul(client: Client, student: int, course: int) -> Answer:
    return await call(client, "DELETE", f"/students/{student}/courses/{course}?as=dropped&reason=Entered%20in%20error")


async def complete(client: Client, student: int, course: int, *, passed: bool = True) -> Answer:
    path = f"/students/{student}/courses/{course}/complete"
    return await call(client, "POST", path, {"passed": passed, "grade": "A"})


async def take_back_completion(client: Client, student: int, course: int) -> Answer:
    return await call(client, "DELETE", f"/students/{student}/courses/{course}/completion?reason=Wrong%20student")


async def require(client: Client, course: int, kind: str, code: str) -> None:
    groups = {"groups": [{"kind": kind, "any_of": [code]}]}
    assert (await call(client, "PUT", f"/courses/{course}/requirements", groups)).status == 200


async def assert_whole(connection: Connection) -> None:
    for invariant, find in INVARIANTS.items():
        assert list(await find(connection)) == [], invariant


# Drops without a withdrawal.


@pytest.mark.parametrize("deadlines", [TERM, LATE, CLOSED])
async def test_a_course_is_annulled_after_every_deadline_and_under_a_hold(
    client: Client, connection: Connection, deadlines: dict[str, str]
) -> None:
    term = await create(client, "/terms", deadlines)
    course = await new_course(client, term_id=term["id"], capacity=1)
    student, waitlisted = await new_student(client), await new_student(client)
    await enroll(client, student, course)
    await join_waitlist(client, waitlisted, course)
    await hold(client, student, blocks=["drop"])

    answer = await annul(client, student, course)

    assert (answer.status, answer.body["outcome"], answer.body["status"]) == (200, "dropped", "dropped")
    assert await status_of(client, waitlisted, course) == "enrolled"
    annulled, promoted = (await events(connection))[-2:]
    assert (annulled["type"], annulled["reason"]) == ("enrollment.annulled", "Entered in error")
    assert (annulled["before"], annulled["after"]) == ({"status": "enrolled"}, {"status": "dropped"})
    assert (promoted["type"], promoted["reason"]) == ("enrollment.promoted", None)
    again = await annul(client, student, course)
    assert (again.status, again.body["outcome"]) == (200, "unchanged")
    await assert_whole(connection)


async def test_a_withdrawal_becomes_a_drop(client: Client, connection: Connection) -> None:
    term = await create(client, "/terms", LATE)
    course, student = await new_course(client, term_id=term["id"]), await new_student(client)
    await enroll(client, student, course)
    assert (await drop(client, student, course)).body["status"] == "withdrawn"
    assert (await drop(client, student, course)).body["outcome"] == "unchanged"

    assert (await annul(client, student, course)).body["outcome"] == "dropped"

    assert (await events(connection))[-1]["before"] == {"status": "withdrawn"}
    assert (await read(client, f"/courses/{course}"))["seats_taken"] == 0
    await assert_whole(connection)


async def test_a_waitlist_place_can_be_annulled_and_a_completed_course_cannot(
    client: Client, connection: Connection
) -> None:
    full, student, other = await new_course(client, capacity=1), await new_student(client), await new_student(client)
    await enroll(client, other, full)
    await join_waitlist(client, student, full)
    assert (await annul(client, student, full)).body["outcome"] == "dropped"
    await complete(client, other, full)
    before = await everything(connection)

    problem(await annul(client, other, full), 409, "already_completed")
    problem(await annul(client, await new_student(client), full), 404, "enrollment_not_found")

    after = await everything(connection)
    assert after["student_courses"] == before["student_courses"]
    [refused] = (await read(client, f"/students/{other}/refusals"))["items"]
    assert (refused["action"], refused["course_id"]) == ("drop", full)


async def test_as_dropped_needs_a_reason_and_knows_no_other_value(client: Client, connection: Connection) -> None:
    course, student = await new_course(client), await new_student(client)
    await enroll(client, student, course)
    path, before = f"/students/{student}/courses/{course}", await everything(connection)

    assert places(await call(client, "DELETE", f"{path}?as=dropped")) == [("required", "reason")]
    [(_, parameter)] = places(await call(client, "DELETE", f"{path}?as=withdrawn&reason=x"))
    assert parameter == "as"

    assert await everything(connection) == before


async def test_as_dropped_needs_the_scope_override_beside_enroll(client: Client, connection: Connection) -> None:
    course, student = await new_course(client), await new_student(client)
    await enroll(client, student, course)
    path = f"/students/{student}/courses/{course}"
    admin = await new_key(client, "admin")
    portal = bearer(await new_key(client, "enroll", key=admin))
    office = bearer(await new_key(client, "enroll", "override", key=admin))
    before = await everything(connection)

    refused = await call(client, "DELETE", f"{path}?as=dropped&reason=x", headers=portal)
    assert problem(refused, 403, "scope_missing")["errors"][0]["scope"] == "override"
    assert refused.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="override"'
    assert await everything(connection) == before

    assert (await call(client, "DELETE", f"{path}?as=dropped&reason=x", headers=office)).body["outcome"] == "dropped"
    assert (await call(client, "DELETE", path, headers=portal)).body["outcome"] == "unchanged"


# Completions.


async def test_a_completion_is_taken_back_and_the_student_keeps_the_seat(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=1)
    student, waitlisted = await new_student(client), await new_student(client)
    await enroll(client, student, course)
    await join_waitlist(client, waitlisted, course)
    joined = (await read(client, f"/students/{student}/courses/{course}"))["joined_at"]
    await complete(client, student, course)

    answer = await take_back_completion(client, student, course)

    assert (answer.status, answer.body["outcome"], answer.body["status"]) == (200, "enrolled", "enrolled")
    assert (answer.body["passed"], answer.body["grade"], answer.body["joined_at"]) == (None, None, joined)
    assert await status_of(client, waitlisted, course) == "waitlisted"
    assert (await read(client, f"/courses/{course}"))["seats_taken"] == 1
    event = (await events(connection))[-1]
    assert (event["type"], event["reason"]) == ("enrollment.completion_removed", "Wrong student")
    assert event["before"] == {"status": "completed", "passed": True, "grade": "A"}
    assert event["after"] == {"status": "enrolled"}
    assert (await take_back_completion(client, student, course)).body["outcome"] == "unchanged"
    await assert_whole(connection)
    assert (await drop(client, student, course)).body["outcome"] == "dropped"
    assert await status_of(client, waitlisted, course) == "enrolled"
    await assert_whole(connection)


async def test_a_seat_by_override_stays_one_after_its_completion_is_taken_back(
    client: Client, connection: Connection
) -> None:
    course, student = await new_course(client, capacity=0), await new_student(client)
    override = {"course_id": course, "rule": "course_full", "author": "Dean", "reason": "So"}
    await create(client, f"/students/{student}/overrides", override)
    await enroll(client, student, course)
    await complete(client, student, course)

    await take_back_completion(client, student, course)

    assert await connection.fetchval("SELECT override_id FROM student_courses") == 1
    await assert_whole(connection)


async def test_only_a_completion_can_be_taken_back(client: Client, connection: Connection) -> None:
    course, cancelled, student = await new_course(client), await new_course(client), await new_student(client)
    await enroll(client, student, course, cancelled)
    await drop(client, student, course)
    await complete(client, student, cancelled)
    await call(client, "POST", f"/courses/{cancelled}/cancel")
    never, before = await new_course(client), await everything(connection)

    problem(await take_back_completion(client, student, course), 409, "not_completed")
    assert (
        "reopen" in problem(await take_back_completion(client, student, cancelled), 409, "course_cancelled")["detail"]
    )
    problem(await take_back_completion(client, student, never), 404, "enrollment_not_found")
    problem(await take_back_completion(client, 999, never), 404, "student_not_found")

    changed = await everything(connection)
    assert {table: rows for table, rows in changed.items() if table != "courses"} == {
        table: rows for table, rows in before.items() if table != "courses"
    }
    await call(client, "POST", f"/courses/{cancelled}/reopen")
    assert (await take_back_completion(client, student, cancelled)).body["outcome"] == "enrolled"
    await assert_whole(connection)


async def test_a_completion_taken_back_no_longer_satisfies_a_prerequisite_and_seats_stay(client: Client) -> None:
    first, second = await new_course(client, code="ONE"), await new_course(client, code="TWO")
    third, student = await new_course(client, code="THREE"), await new_student(client)
    for course in (second, third):
        await require(client, course, "pre", "ONE")
    await enroll(client, student, first)
    await complete(client, student, first)
    assert (await enroll(client, student, second)).status == 201

    await take_back_completion(client, student, first)

    assert await status_of(client, student, second) == "enrolled"
    problem(await enroll(client, student, third), 409, "prerequisite_missing")


async def test_a_completion_taken_back_lifts_an_antirequisite_for_a_waitlisted_student(
    client: Client, connection: Connection
) -> None:
    past = await create(client, "/terms", {**TERM, "code": "P", "starts_on": "2001-09-01", "ends_on": "2001-12-18"})
    now = await create(client, "/terms", TERM)
    done = await new_course(client, code="OLD")
    wanted = await new_course(client, code="NEW", term_id=now["id"], capacity=1)
    student, seated = await new_student(client), await new_student(client)
    await enroll(client, student, done)
    await complete(client, student, done)
    await call(client, "PATCH", f"/courses/{done}", {"term_id": past["id"]})
    await enroll(client, seated, wanted)
    await join_waitlist(client, student, wanted)
    await require(client, wanted, "anti", "OLD")
    await drop(client, seated, wanted)
    assert await status_of(client, student, wanted) == "waitlisted"

    await take_back_completion(client, student, done)

    assert await status_of(client, student, wanted) == "enrolled"
    await assert_whole(connection)


async def test_a_course_that_is_completed_again_counts_for_its_new_code(client: Client, connection: Connection) -> None:
    course, student = await new_course(client, code="OLD"), await new_student(client)
    needs_old, needs_new = await new_course(client), await new_course(client)
    await require(client, needs_old, "pre", "OLD")
    await require(client, needs_new, "pre", "NEW")
    await enroll(client, student, course)
    await complete(client, student, course)
    await call(client, "PATCH", f"/courses/{course}", {"code": "NEW"})
    problem(await enroll(client, student, needs_new), 409, "prerequisite_missing")

    await take_back_completion(client, student, course)
    await complete(client, student, course)

    assert await connection.fetchval("SELECT passed_code FROM student_courses") is None
    problem(await enroll(client, student, needs_old), 409, "prerequisite_missing")
    assert (await enroll(client, student, needs_new)).status == 201
    await assert_whole(connection)


# Cancellations.


async def test_a_reopened_course_is_open_with_nobody_in_it(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=2)
    done, student, waitlisted = [await new_student(client) for _ in range(3)]
    await enroll(client, done, course)
    await enroll(client, student, course)
    await join_waitlist(client, waitlisted, course)
    await complete(client, done, course)
    cancelled = await call(client, "POST", f"/courses/{course}/cancel")

    answer = await call(client, "POST", f"/courses/{course}/reopen?reason=Funded")

    assert (answer.status, answer.body["status"], answer.body["version"]) == (200, "open", 3)
    assert answer.etag != cancelled.etag
    assert (answer.body["seats_taken"], answer.body["seats_free"], answer.body["waitlisted"]) == (1, 1, 0)
    event = (await events(connection))[-1]
    assert (event["type"], event["reason"]) == ("course.reopened", "Funded")
    assert (event["before"], event["after"]) == (
        {"status": "cancelled", "version": 2},
        {"status": "open", "version": 3},
    )
    assert [await status_of(client, each, course) for each in (done, student, waitlisted)] == [
        "completed",
        "dropped",
        "dropped",
    ]
    count = len(await events(connection))
    assert (await call(client, "POST", f"/courses/{course}/reopen")).body == answer.body
    assert len(await events(connection)) == count
    assert (await enroll(client, student, course)).status == 201
    await assert_whole(connection)


async def test_a_course_whose_code_is_taken_cannot_be_reopened(client: Client, connection: Connection) -> None:
    term = await create(client, "/terms", TERM)
    course = await new_course(client, code="A", term_id=term["id"])
    await call(client, "POST", f"/courses/{course}/cancel")
    other = await new_course(client, code="a", term_id=term["id"])
    before = await everything(connection)

    problem(await call(client, "POST", f"/courses/{course}/reopen"), 409, "code_taken")

    assert await everything(connection) == before
    await call(client, "PATCH", f"/courses/{other}", {"section": "002"})
    assert (await call(client, "POST", f"/courses/{course}/reopen")).body["status"] == "open"
    await assert_whole(connection)


async def test_a_completion_taken_back_in_a_repeated_course_is_noted(client: Client, connection: Connection) -> None:
    term = await create(client, "/terms", TERM)
    first = await new_course(client, code="A")
    again, place = [await new_course(client, code="A", term_id=term["id"], section=each) for each in ("1", "2")]
    student = await new_student(client)
    await enroll(client, student, first)
    await complete(client, student, first, passed=False)
    assert (await enroll(client, student, again)).status == 201
    await call(client, "PATCH", f"/courses/{place}", {"capacity": 0})

    assert (await take_back_completion(client, student, first)).body["outcome"] == "enrolled"

    assert await status_of(client, student, again) == "enrolled"
    await assert_whole(connection)


async def test_a_course_that_does_not_exist_cannot_be_reopened(client: Client) -> None:
    problem(await call(client, "POST", "/courses/999/reopen"), 404, "course_not_found")
