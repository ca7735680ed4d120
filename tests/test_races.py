"""Races: many callers at the same moment, over real connections to a real server."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar, cast

import pytest
from pytest_aiohttp import AiohttpClient

from service.check import INVARIANTS
from service.settings import Settings
from sql import Connection
from tests.campus import (
    call,
    drop,
    enroll,
    join_waitlist,
    new_course,
    new_student,
    new_students,
    served,
    student_fields,
)
from tests.conftest import Client

Answer = TypeVar("Answer")


class Replicas:
    """Two services on one database, called in turn: guarantees between requests must hold between processes too."""

    def __init__(self, clients: list[Client]) -> None:
        self._turns = itertools.cycle(clients)

    def request(self, *arguments: Any, **options: Any) -> Any:
        """Send the request to the next service."""
        return next(self._turns).request(*arguments, **options)


@pytest.fixture
async def client(settings: Settings, aiohttp_client: AiohttpClient) -> Client:
    return cast(Client, Replicas([await served(aiohttp_client, settings) for _ in range(2)]))


async def at_once(calls: Iterable[Awaitable[Answer]]) -> list[Answer]:
    return await asyncio.gather(*calls)


async def assert_whole(connection: Connection) -> None:
    for invariant, find in INVARIANTS.items():
        assert list(await find(connection)) == [], invariant


async def test_a_change_of_a_course_or_term_takes_effect_at_once_in_every_process(client: Client) -> None:
    """Each process remembers courses and terms, and learns of changes by the others."""
    term = (await call(client, "POST", "/terms", TERM)).body["id"]
    held, wanted = [await new_course(client, credits=2, term_id=term, code=code) for code in ("HELD", "WANTED")]
    meetings = [{"day": "mon", "start": "09:00", "end": "10:00"}]

    async def preview(student: int) -> list[str]:
        """Enroll and drop once in each process, and return the codes of the refusals."""
        found = []
        for _ in range(2):
            answer = await enroll(client, student, wanted)
            found.append(",".join(error["code"] for error in answer.body.get("errors", [])))
            if answer.status == 201:
                await drop(client, student, wanted)
        assert found[0] == found[1]
        return found[:1]

    student = await new_student(client)
    await enroll(client, student, held)
    assert await preview(student) == [""]
    for method, path, body, refused in (
        ("PATCH", f"/terms/{term}", {"max_credits": 3}, "credit_limit"),
        ("PATCH", f"/courses/{held}", {"credits": 1}, ""),
        ("PUT", f"/courses/{wanted}/requirements", {"groups": [{"kind": "anti", "any_of": ["HELD"]}]}, "antirequisite"),
        ("PATCH", f"/courses/{held}", {"code": "OTHER"}, ""),
        ("PATCH", f"/courses/{held}", {"meetings": meetings}, ""),
        ("PATCH", f"/courses/{wanted}", {"meetings": meetings}, "time_conflict"),
        ("PATCH", f"/courses/{held}", {"meetings": []}, ""),
        ("PATCH", f"/terms/{term}", {"enroll_until": "2001-01-01T00:00:00Z"}, "enrollment_closed"),
    ):
        assert (await call(client, method, path, body)).status == 200
        assert await preview(student) == [refused], (path, body)


TERM = {"code": "F", "name": "Fall", "starts_on": "2030-09-01", "ends_on": "2030-12-20"}


async def test_of_500_students_at_once_exactly_one_gets_the_last_seat(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=1)
    racers = await new_students(client, 500)

    answers = await at_once(enroll(client, student, course) for student in racers)

    assert Counter(answer.status for answer in answers) == {201: 1, 409: 499}
    refusals = [error["code"] for answer in answers for error in answer.body.get("errors", [])]
    assert refusals == ["course_full"] * 499
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 1
    await assert_whole(connection)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_overlapping_courses_in_opposite_orders_do_not_deadlock(
    client: Client, connection: Connection, seed: int
) -> None:
    chance = random.Random(seed)
    courses = [await new_course(client, capacity=chance.choice([5, 20, None])) for _ in range(8)]
    racers = await new_students(client, 60)
    wishes = [chance.sample(courses, 5) for _ in racers]

    forward = [enroll(client, student, *wish, mode="partial") for student, wish in zip(racers, wishes, strict=True)]
    backward = [
        enroll(client, student, *reversed(wish), mode="atomic") for student, wish in zip(racers, wishes, strict=True)
    ]
    answers = await at_once(call for pair in zip(forward, backward, strict=True) for call in pair)

    assert {answer.status for answer in answers} <= {200, 201, 409}
    await assert_whole(connection)


async def test_the_same_enrollment_50_times_at_once_is_one_row_and_one_event(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=10)
    student = await new_student(client)

    answers = await at_once(enroll(client, student, course) for _ in range(50))

    assert Counter(answer.status for answer in answers) == {201: 1, 200: 49}
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 1
    assert await connection.fetchval("SELECT count(*) FROM events WHERE type = 'enrollment.enrolled'") == 1
    assert await connection.fetchval("SELECT seats_taken FROM courses") == 1
    await assert_whole(connection)


async def test_enrolling_and_dropping_at_once_never_loses_or_invents_a_seat(
    client: Client, connection: Connection
) -> None:
    course = await new_course(client, capacity=3)
    racers = await new_students(client, 20)
    chance = random.Random(4)

    async def churn(student: int) -> list[int]:
        statuses = []
        for _ in range(8):
            if chance.random() < 0.5:
                statuses.append((await enroll(client, student, course)).status)
            else:
                statuses.append((await drop(client, student, course)).status)
        return statuses

    statuses = await at_once(churn(student) for student in racers)

    assert {status for each in statuses for status in each} <= {200, 201, 404, 409}
    await assert_whole(connection)
    seats_taken, seated = await connection.fetchrow(  # type: ignore[misc]
        "SELECT seats_taken, (SELECT count(*) FROM student_courses WHERE status = 'enrolled') FROM courses"
    )
    assert seats_taken == seated <= 3


async def test_students_can_be_created_changed_and_deleted_while_others_enroll_them(
    client: Client, connection: Connection
) -> None:
    courses = [await new_course(client, capacity=None) for _ in range(3)]
    statuses: Counter[tuple[str, int]] = Counter()

    async def send(what: str, method: str, path: str, body: object = None) -> Any:
        answer = await call(client, method, path, body)
        statuses[what, answer.status] += 1
        return answer.body

    async def life() -> None:
        fields = student_fields()
        student = await send("create", "POST", "/students", fields)
        path = f"/students/{student['id']}"
        await at_once(
            [
                send("enroll", "POST", f"{path}/enroll", {"course_ids": courses}),
                send("edit", "PATCH", path, {"given_name": "Grace"}),
                send("delete", "DELETE", path),
                send("enroll", "POST", f"{path}/enroll", {"course_ids": courses[:1]}),
                send("create again", "POST", "/students", fields),
            ]
        )

    await at_once(life() for _ in range(40))

    assert {status for _, status in statuses} <= {200, 201, 204, 404, 409}
    assert statuses["create", 201] == 40
    await assert_whole(connection)


async def test_a_course_cannot_be_deleted_while_students_enroll_in_it(client: Client, connection: Connection) -> None:
    racers = await new_students(client, 20)
    for _ in range(5):
        course = await new_course(client, capacity=5)

        answers, deleted = await asyncio.gather(
            at_once(enroll(client, student, course) for student in racers),
            call(client, "DELETE", f"/courses/{course}"),
        )

        enrolled = sum(answer.status == 201 for answer in answers)
        assert (deleted.status == 204) == (enrolled == 0)
        assert enrolled in {0, 5}
    await assert_whole(connection)


async def test_lowering_the_capacity_during_a_rush_sells_no_more_seats(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=50)
    racers = await new_students(client, 100)

    answers, lowered = await asyncio.gather(
        at_once(enroll(client, student, course) for student in racers),
        call(client, "PATCH", f"/courses/{course}", {"capacity": 10}),
    )

    assert lowered.status == 200
    sold_before, sold_after = await connection.fetchrow(  # type: ignore[misc]
        """
        SELECT count(*) FILTER (WHERE position < lowered), count(*) FILTER (WHERE position > lowered)
        FROM events, (SELECT position AS lowered FROM events WHERE type = 'course.updated') AS change
        WHERE type = 'enrollment.enrolled'
        """
    )
    assert sold_before + sold_after == sum(answer.status == 201 for answer in answers) == max(10, sold_before)
    await assert_whole(connection)


async def active_statuses(connection: Connection, course: int) -> dict[int, str]:
    """Return the status of each enrolled or waitlisted student of a course."""
    rows = await connection.fetch(
        "SELECT student_id, status FROM student_courses WHERE course_id = $1 AND status IN ('enrolled', 'waitlisted')",
        course,
    )
    return {row[0]: row[1] for row in rows}


async def test_of_two_clashing_courses_requested_at_once_each_of_100_students_gets_exactly_one(
    client: Client, connection: Connection
) -> None:
    one = await new_course(client, meetings=[{"day": "mon", "start": "09:00", "end": "10:30"}])
    other = await new_course(client, meetings=[{"day": "mon", "start": "10:00", "end": "11:00"}])
    racers = await new_students(client, 100)

    answers = await at_once(enroll(client, student, course) for student in racers for course in (one, other))

    assert Counter(answer.status for answer in answers) == {201: 100, 409: 100}
    assert {error["code"] for answer in answers for error in answer.body.get("errors", [])} == {"time_conflict"}
    seated = await connection.fetch("SELECT student_id FROM student_courses WHERE status = 'enrolled'")
    assert sorted(row[0] for row in seated) == sorted(racers)
    await assert_whole(connection)


async def test_two_requests_at_once_never_exceed_the_credit_limit_together(
    client: Client, connection: Connection
) -> None:
    body = {"code": "T", "name": "Term", "starts_on": "2036-09-01", "ends_on": "2036-12-18", "max_credits": 6}
    term = (await call(client, "POST", "/terms", body)).body["id"]
    courses = [await new_course(client, term_id=term, credits=4) for _ in range(2)]
    racers = await new_students(client, 50)

    answers = await at_once(enroll(client, student, course) for student in racers for course in courses)

    assert Counter(answer.status for answer in answers) == {201: 50, 409: 50}
    assert {error["code"] for answer in answers for error in answer.body.get("errors", [])} == {"credit_limit"}
    most = await connection.fetchval(
        "SELECT max(seats) FROM (SELECT count(*) AS seats FROM student_courses GROUP BY student_id) AS counted"
    )
    assert most == 1
    await assert_whole(connection)


async def test_a_seat_dropped_while_others_enroll_goes_to_the_first_on_the_waitlist(
    client: Client, connection: Connection
) -> None:
    for _ in range(5):
        course = await new_course(client, capacity=1)
        holder, *waitlist = await new_students(client, 4)
        await enroll(client, holder, course)
        for student in waitlist:
            assert (await join_waitlist(client, student, course)).status == 201
        newcomers = await new_students(client, 20)

        dropped, answers = await asyncio.gather(
            drop(client, holder, course), at_once(enroll(client, student, course) for student in newcomers)
        )

        assert dropped.status == 200
        assert Counter(answer.status for answer in answers) == {409: 20}
        assert await active_statuses(connection, course) == {
            waitlist[0]: "enrolled",
            waitlist[1]: "waitlisted",
            waitlist[2]: "waitlisted",
        }
    await assert_whole(connection)


async def test_seats_dropped_at_once_go_to_the_waitlist_in_order(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=10)
    holders, waitlist = await new_students(client, 10), await new_students(client, 15)
    for student in holders:
        await enroll(client, student, course)
    for student in waitlist:
        await join_waitlist(client, student, course)

    await at_once(drop(client, student, course) for student in [*holders, waitlist[3]])

    seated = [*waitlist[:3], *waitlist[4:11]]
    expected = {**dict.fromkeys(seated, "enrolled"), **dict.fromkeys(waitlist[11:], "waitlisted")}
    promoted = await connection.fetch(
        "SELECT student_id FROM events WHERE type = 'enrollment.promoted' AND student_id <> $1 ORDER BY position",
        waitlist[3],
    )
    assert await active_statuses(connection, course) == expected
    assert [row[0] for row in promoted] == seated
    await assert_whole(connection)


@pytest.mark.parametrize("on_full", ["fail", "waitlist"])
async def test_two_students_who_swap_full_courses_at_once_neither_deadlock_nor_lose_a_seat(
    client: Client, connection: Connection, on_full: str
) -> None:
    async def swap(student: int, out: int, into: int) -> int:
        body = {"drop": [out], "add": [into], "on_full": on_full}
        return (await call(client, "POST", f"/students/{student}/swap", body)).status

    for _ in range(10):
        one, other = await new_course(client, capacity=1), await new_course(client, capacity=1)
        first, second = await new_students(client, 2)
        await enroll(client, first, one)
        await enroll(client, second, other)

        statuses = await at_once([swap(first, one, other), swap(second, other, one)])

        # Two students who wait for each other's seats are not matched: each keeps their seat.
        waits = on_full == "waitlist"
        assert statuses == ([201, 201] if waits else [409, 409])
        assert await active_statuses(connection, one) == {
            first: "enrolled",
            **({second: "waitlisted"} if waits else {}),
        }
        assert await active_statuses(connection, other) == {
            second: "enrolled",
            **({first: "waitlisted"} if waits else {}),
        }
    await assert_whole(connection)


async def test_a_course_cancelled_during_a_rush_ends_with_nobody_in_it(client: Client, connection: Connection) -> None:
    course = await new_course(client, capacity=20)
    racers = await new_students(client, 80)

    answers, cancelled = await asyncio.gather(
        at_once(join_waitlist(client, student, course) for student in racers),
        call(client, "POST", f"/courses/{course}/cancel"),
    )

    assert cancelled.status == 200
    statuses = Counter(answer.status for answer in answers)
    assert statuses.keys() <= {201, 409}
    assert {error["code"] for answer in answers for error in answer.body.get("errors", [])} <= {"course_cancelled"}
    assert await active_statuses(connection, course) == {}
    left = await connection.fetchval("SELECT count(*) FROM events WHERE type = 'enrollment.dropped'")
    assert left == statuses[201]
    assert await connection.fetchval("SELECT count(*) FROM events WHERE type = 'enrollment.promoted'") == 0
    await assert_whole(connection)
