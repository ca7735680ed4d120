"""Enrollments: taking seats, dropping them, and listing them by student and by course."""

import asyncio
import json
from datetime import datetime
from typing import Any

from service.api.courses import search_courses
from service.api.enrollment_types import ALL_STATUSES
from service.api.enrollments import list_course_students, list_student_courses
from sql import Connection
from sql.enrollments import CoursesAsked, list_courses_of_students, list_courses_of_students_not_waiting
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
    student_fields,
    walk,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

LARGEST = 2**63 - 1
TERM = {"code": "F", "name": "Fall", "starts_on": "2030-09-01", "ends_on": "2030-12-20"}


def outcomes(answer: Answer) -> list[tuple[int, str]]:
    return [(result["course_id"], result["outcome"]) for result in answer.body["results"]]


def reasons(body: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(error["code"], error["pointer"], error["course_id"]) for error in body["errors"]]


async def seats(client: Client, course_id: int) -> tuple[int, int | None]:
    course = await read(client, f"/courses/{course_id}")
    return course["seats_taken"], course["seats_free"]


async def full_course(client: Client) -> int:
    course = await new_course(client, capacity=1)
    assert (await enroll(client, await new_student(client), course)).status == 201
    return course


async def test_student_enrollment_success(client: Client, connection: Connection) -> None:
    student = await new_student(client)
    maths = await new_course(client, code="MATH101", title="Calculus I", credits=4.5, capacity=30)
    choir = await new_course(client, code="MUS105", title="Choir")

    answer = await enroll(client, student, choir, maths)

    assert answer.status == 201
    assert answer.body == {
        "student_id": student,
        "results": [
            {
                "course_id": choir,
                "outcome": "enrolled",
                "course": {
                    "id": choir,
                    "external_id": None,
                    "code": "MUS105",
                    "title": "Choir",
                    "credits": 0,
                    "term_id": None,
                },
            },
            {
                "course_id": maths,
                "outcome": "enrolled",
                "course": {
                    "id": maths,
                    "external_id": None,
                    "code": "MATH101",
                    "title": "Calculus I",
                    "credits": 4.5,
                    "term_id": None,
                },
            },
        ],
    }
    rows = await connection.fetch(
        "SELECT student_id, course_id, status, joined_position FROM student_courses ORDER BY course_id"
    )
    assert [tuple(row) for row in rows] == [(student, maths, "enrolled", 5), (student, choir, "enrolled", 4)]
    assert (await seats(client, maths), await seats(client, choir)) == ((1, 29), (1, None))


async def test_student_enrollment_invalid_course(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client, capacity=1)
    before = await everything(connection)

    answer = await enroll(client, student, course, LARGEST, course + 1)

    body = problem(answer, 422, "unknown_course")
    assert reasons(body) == [
        ("unknown_course", "#/course_ids/1", LARGEST),
        ("unknown_course", "#/course_ids/2", course + 1),
    ]
    assert await everything(connection) == before


async def test_retrieve_student_courses(client: Client) -> None:
    student = await new_student(client)
    maths = await new_course(client, code="MATH101", title="Calculus I", credits=4)
    choir = await new_course(client, code="MUS105", title="Choir", credits=0.5)
    await enroll(client, student, choir)
    await enroll(client, student, maths)

    courses = await read(client, f"/students/{student}/courses")

    assert courses["next"] is None
    joined = [item.pop("joined_at") for item in courses["items"]]
    assert courses["items"] == [
        {
            "course_id": maths,
            "status": "enrolled",
            "position": None,
            "blocked_by": None,
            "swap_drops": None,
            "swap_adds": None,
            "passed": None,
            "grade": None,
            "course": {
                "id": maths,
                "external_id": None,
                "code": "MATH101",
                "title": "Calculus I",
                "credits": 4,
                "term_id": None,
            },
        },
        {
            "course_id": choir,
            "status": "enrolled",
            "position": None,
            "blocked_by": None,
            "swap_drops": None,
            "swap_adds": None,
            "passed": None,
            "grade": None,
            "course": {
                "id": choir,
                "external_id": None,
                "code": "MUS105",
                "title": "Choir",
                "credits": 0.5,
                "term_id": None,
            },
        },
    ]
    assert all(time.endswith("Z") for time in joined)
    assert datetime.fromisoformat(joined[0]) > datetime.fromisoformat(joined[1])


async def test_json_written_by_the_database_equals_json_written_by_the_models(client: Client) -> None:
    awkward = 'Ünïcode "quoted" \\ +00:00'
    term = (await create(client, "/terms", TERM))["id"]
    met = [{"day": "mon", "start": "09:00", "end": "10:00"}]
    await new_course(client, code="AWK", external_id="X-1", term_id=term, meetings=met, capacity=0, waitlist_capacity=3)
    ada = await new_student(client, given_name=awkward, family_name="O'Neil <b>")
    full = await new_course(client, title=awkward, capacity=1, credits=0.5)
    await enroll(client, await new_student(client), full)
    await join_waitlist(client, ada, full)
    for passed, grade in ((True, 'A"-'), (True, "зачёт"), (True, "优"), (True, "1°"), (False, None)):
        course = await new_course(client)
        await enroll(client, ada, course)
        path = f"/students/{ada}/courses/{course}/complete"
        assert (await call(client, "POST", path, {"passed": passed, "grade": grade})).status == 200
    await enroll(client, ada, last := await new_course(client))

    for path, endpoint in (
        (f"/students/{ada}/courses", list_student_courses),
        (f"/students/{ada}/courses?status=completed", list_student_courses),
        (f"/students/{ada}/courses?limit=1", list_student_courses),
        (f"/courses/{last}/students", list_course_students),
        (f"/courses/{full}/students?status=waitlisted", list_course_students),
        (f"/courses/{full}/students?status=withdrawn", list_course_students),
        ("/courses", search_courses),
        ("/courses?limit=2", search_courses),
        ("/courses?code=AWK", search_courses),
        (f"/courses?term_id={term}", search_courses),
        ("/courses?external_id=X-1", search_courses),
        ("/courses?external_id=X-2", search_courses),
    ):
        body = await read(client, path)
        assert endpoint.answer is not None
        page = endpoint.answer.validate_json(json.dumps(body), strict=True)
        assert json.loads(endpoint.answer.dump_json(page)) == body, path
    assert (await read(client, f"/students/{ada}/courses"))["items"][0]["course"]["title"] == awkward


async def test_the_courses_of_a_student_who_waits_nowhere_are_listed_as_those_of_one_who_waits(
    client: Client, connection: Connection
) -> None:
    external = {"title": "Ünïcode", "credits": 4.5, "external_id": "X-1"}
    courses = [await new_course(client, **external), *[await new_course(client) for _ in range(4)]]
    full, student, waiting = await full_course(client), await new_student(client), await new_student(client)
    for each in (student, waiting):
        await enroll(client, each, *courses)
        await call(client, "POST", f"/students/{each}/courses/{courses[1]}/complete", {"passed": True, "grade": "A"})
        await drop(client, each, courses[2])
    await join_waitlist(client, waiting, full)
    asked = [
        CoursesAsked(each, statuses, after, limit)
        for each in (student, waiting, LARGEST)
        for statuses in ("enrolled", "enrolled waitlisted", "completed dropped", " ".join(ALL_STATUSES))
        for after in (0, courses[2])
        for limit in (1, 2, 100)
    ]

    pages = await list_courses_of_students_not_waiting(connection, asked)

    expected = await list_courses_of_students(connection, asked)
    assert pages == [page for page in expected if asked[page.number - 1].student_id != waiting]
    assert sum(page.items is not None for page in pages) > 20
    assert sum(page.next_after is not None for page in pages) > 5
    paths = [f"/students/{each}/courses" for each in (waiting, student)]
    lists = [await read(client, path) for path in paths]
    assert await asyncio.gather(*(read(client, path) for path in paths * 5)) == lists * 5


async def test_retrieve_course_students(client: Client) -> None:
    course = await new_course(client)
    fields = [student_fields(given_name=name) for name in ("Ada", "Grace")]
    ada, grace = [(await create(client, "/students", body))["id"] for body in fields]
    await enroll(client, grace, course)
    await enroll(client, ada, course)

    roster = await read(client, f"/courses/{course}/students")

    assert roster["next"] is None
    assert all(item.pop("joined_at").endswith("Z") for item in roster["items"])
    assert roster["items"] == [
        {
            "student_id": id,
            "status": "enrolled",
            "position": None,
            "blocked_by": None,
            "swap_drops": None,
            "student": {"id": id, "external_id": None, **body, "preferred_name": None},
        }
        for id, body in zip((ada, grace), fields, strict=True)
    ]


async def test_a_duplicate_course_id_is_ignored(client: Client, connection: Connection) -> None:
    student, one, two = await new_student(client), await new_course(client, capacity=1), await new_course(client)

    answer = await enroll(client, student, two, one, two, one, one)

    assert answer.status == 201
    assert outcomes(answer) == [(two, "enrolled"), (one, "enrolled")]
    assert await seats(client, one) == (1, 0)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE type = 'enrollment.enrolled'") == 2


async def test_enrolling_again_is_unchanged_and_writes_nothing(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client, capacity=1)
    await enroll(client, student, course)
    before = await everything(connection)

    for mode in ("atomic", "partial"):
        answer = await enroll(client, student, course, mode=mode)
        assert answer.status == 200
        [result] = answer.body["results"]
        assert result.items() >= {"course_id": course, "outcome": "unchanged", "status": "enrolled"}.items()
        assert result["course"]["id"] == course

    assert await everything(connection) == before


async def test_unchanged_courses_do_not_prevent_enrollment_in_new_ones(client: Client) -> None:
    student, old, new = await new_student(client), await new_course(client, capacity=1), await new_course(client)
    await enroll(client, student, old)

    answer = await enroll(client, student, old, new)

    assert (answer.status, outcomes(answer)) == (201, [(old, "unchanged"), (new, "enrolled")])


async def test_a_full_course_refuses_the_next_student(client: Client, connection: Connection) -> None:
    course, student = await full_course(client), await new_student(client)
    before = await everything(connection)

    answer = await enroll(client, student, course)

    body = problem(answer, 409, "course_full")
    [error] = body["errors"]
    assert error.items() >= {"pointer": "#/course_ids/0", "course_id": course, "capacity": 1, "seats_taken": 1}.items()
    assert await everything(connection) == before


async def test_a_course_without_a_capacity_takes_everybody_and_one_of_capacity_0_nobody(client: Client) -> None:
    unlimited, closed = await new_course(client, capacity=None), await new_course(client, capacity=0)

    for _ in range(3):
        student = await new_student(client)
        assert (await enroll(client, student, unlimited)).status == 201
        problem(await enroll(client, student, closed), 409, "course_full")

    assert (await seats(client, unlimited), await seats(client, closed)) == ((3, None), (0, 0))


async def test_a_course_of_capacity_n_takes_n_students(client: Client) -> None:
    course = await new_course(client, capacity=3)

    statuses = [(await enroll(client, await new_student(client), course)).status for _ in range(5)]

    assert statuses == [201, 201, 201, 409, 409]


async def test_a_capacity_lowered_below_the_seats_taken_is_full_until_the_number_falls(client: Client) -> None:
    course = await new_course(client, capacity=3)
    seated = [await new_student(client) for _ in range(3)]
    for student in seated:
        await enroll(client, student, course)
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 2})
    newcomer = await new_student(client)

    statuses = []
    for student in seated[:2]:
        statuses.append((await enroll(client, newcomer, course)).status)
        await drop(client, student, course)
    statuses.append((await enroll(client, newcomer, course)).status)

    assert statuses == [409, 409, 201]
    assert await seats(client, course) == (2, 0)


async def test_a_raised_capacity_gives_seats_again(client: Client) -> None:
    course, student = await full_course(client), await new_student(client)
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 2})

    assert (await enroll(client, student, course)).status == 201


async def test_an_atomic_request_lists_every_reason_for_every_course_and_changes_nothing(
    client: Client, connection: Connection
) -> None:
    student = await new_student(client)
    free, old = await new_course(client, capacity=5), await new_course(client)
    full, closed = await full_course(client), await new_course(client, capacity=0)
    await enroll(client, student, old)
    before = await everything(connection)

    refused = await enroll(client, student, free, full, old, closed)
    unknown = await enroll(client, student, full, free, LARGEST)

    body = problem(refused, 409, "course_full")
    assert reasons(body) == [("course_full", "#/course_ids/1", full), ("course_full", "#/course_ids/3", closed)]
    assert [(error["capacity"], error["seats_taken"]) for error in body["errors"]] == [(1, 1), (0, 0)]
    body = problem(unknown, 422, "unknown_course")
    assert reasons(body) == [("course_full", "#/course_ids/0", full), ("unknown_course", "#/course_ids/2", LARGEST)]
    assert await everything(connection) == before


async def test_a_pointer_has_the_index_of_the_course_in_the_request(client: Client) -> None:
    student, free, full = await new_student(client), await new_course(client), await full_course(client)

    answer = await enroll(client, student, free, free, full)

    assert [pointer for _, pointer, _ in reasons(problem(answer, 409, "course_full"))] == ["#/course_ids/2"]


async def test_a_partial_request_grants_the_available_courses(client: Client, connection: Connection) -> None:
    student, old = await new_student(client), await new_course(client)
    free, full = await new_course(client, capacity=5), await full_course(client)
    await enroll(client, student, old)

    answer = await enroll(client, student, full, free, LARGEST, old, mode="partial")

    assert answer.status == 201
    assert outcomes(answer) == [(full, "refused"), (free, "enrolled"), (LARGEST, "refused"), (old, "unchanged")]
    [full_reason] = answer.body["results"][0]["errors"]
    assert full_reason.items() >= {"code": "course_full", "capacity": 1, "seats_taken": 1}.items()
    [unknown_reason] = answer.body["results"][2]["errors"]
    assert unknown_reason["code"] == "unknown_course"
    assert [item["course_id"] for item in (await read(client, f"/students/{student}/courses"))["items"]] == [old, free]
    assert (await events(connection))[-1]["course_id"] == free


async def test_a_partial_request_that_grants_nothing_is_not_an_error_and_writes_nothing(
    client: Client, connection: Connection
) -> None:
    student, full = await new_student(client), await full_course(client)
    before = await everything(connection)

    answer = await enroll(client, student, full, LARGEST, mode="partial")

    assert answer.status == 200
    assert outcomes(answer) == [(full, "refused"), (LARGEST, "refused")]
    assert await everything(connection) == before


async def test_calls_for_an_unknown_student_get_404_and_change_nothing(client: Client, connection: Connection) -> None:
    course = await new_course(client)
    before = await everything(connection)

    for mode in ("atomic", "partial"):
        problem(await enroll(client, LARGEST, course, LARGEST, mode=mode), 404, "student_not_found")
    problem(await call(client, "GET", f"/students/{LARGEST}/courses"), 404, "student_not_found")
    problem(await drop(client, LARGEST, course), 404, "student_not_found")

    assert await everything(connection) == before


async def test_the_roster_of_an_unknown_course_gets_404(client: Client) -> None:
    problem(await call(client, "GET", f"/courses/{LARGEST}/students"), 404, "course_not_found")
    problem(await call(client, "GET", f"/courses/{LARGEST}/students?status=dropped"), 404, "course_not_found")


async def test_100_courses_in_one_request_are_enrolled_and_101_are_too_many(
    client: Client, connection: Connection
) -> None:
    student = await new_student(client)
    await connection.execute(
        "INSERT INTO courses (id, code, title) SELECT n, 'C' || n, 'T' FROM generate_series(1001, 1101) AS n"
    )

    assert places(await enroll(client, student, *range(1001, 1102))) == [("too_long", "#/course_ids")]
    answer = await enroll(client, student, *range(1001, 1101))

    assert answer.status == 201
    assert outcomes(answer) == [(id, "enrolled") for id in range(1001, 1101)]
    assert (await enroll(client, student, *[1001] * 100)).status == 200


async def test_an_invalid_request_gets_a_pointer_to_the_error_and_changes_nothing(
    client: Client, connection: Connection
) -> None:
    student, course = await new_student(client), await new_course(client)
    before = await everything(connection)

    for ids, place in (
        ([0], "#/course_ids/0"),
        ([course, -1], "#/course_ids/1"),
        ([2**63], "#/course_ids/0"),
        ([10**400], "#/course_ids/0"),
        (["1"], "#/course_ids/0"),
        ([course, True], "#/course_ids/1"),
        ([1.5], "#/course_ids/0"),
        ([None], "#/course_ids/0"),
        ([[course]], "#/course_ids/0"),
        ([], "#/course_ids"),
        (course, "#/course_ids"),
        (None, "#/course_ids"),
        ("1", "#/course_ids"),
        ({"0": course}, "#/course_ids"),
    ):
        answer = await call(client, "POST", f"/students/{student}/enroll", {"course_ids": ids})
        assert [found for _, found in places(answer)] == [place], ids
    for more, place in (
        ({"mode": "all"}, "#/mode"),
        ({"mode": None}, "#/mode"),
        ({"mode": ""}, "#/mode"),
        ({"course_id": 1}, "#/course_id"),
    ):
        answer = await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course], **more})
        assert [found for _, found in places(answer)] == [place], more
    assert places(await call(client, "POST", f"/students/{student}/enroll", {})) == [("required", "#/course_ids")]

    assert await everything(connection) == before


async def test_every_invalid_id_of_a_request_is_listed(client: Client) -> None:
    answer = await enroll(client, await new_student(client), 0, 1, -1, 2**63)

    assert [place for _, place in places(answer)] == ["#/course_ids/0", "#/course_ids/2", "#/course_ids/3"]


async def test_a_malformed_id_in_a_path_is_invalid(client: Client) -> None:
    for id in ("0", "-1", str(2**63), "x", "%00"):
        for method, path, name, body in (
            ("POST", f"/students/{id}/enroll", "student_id", {"course_ids": [1]}),
            ("GET", f"/students/{id}/courses", "student_id", None),
            ("DELETE", f"/students/{id}/courses/1", "student_id", None),
            ("DELETE", f"/students/1/courses/{id}", "course_id", None),
            ("GET", f"/courses/{id}/students", "course_id", None),
        ):
            assert [place for _, place in places(await call(client, method, path, body))] == [name], (method, path)


async def test_a_drop_frees_the_seat_and_keeps_the_row(client: Client, connection: Connection) -> None:
    course = await new_course(client, code="C1", title="One", credits=3, capacity=1)
    student, other = await new_student(client), await new_student(client)
    await enroll(client, student, course)
    [joined] = [item["joined_at"] for item in (await read(client, f"/students/{student}/courses"))["items"]]

    answer = await drop(client, student, course)

    assert (answer.status, answer.body) == (
        200,
        {
            "course_id": course,
            "status": "dropped",
            "position": None,
            "blocked_by": None,
            "swap_drops": None,
            "swap_adds": None,
            "joined_at": joined,
            "passed": None,
            "grade": None,
            "course": {"id": course, "external_id": None, "code": "C1", "title": "One", "credits": 3, "term_id": None},
            "outcome": "dropped",
        },
    )
    assert await seats(client, course) == (0, 1)
    assert await connection.fetchval("SELECT status FROM student_courses") == "dropped"
    assert (await enroll(client, other, course)).status == 201


async def test_dropping_again_is_unchanged_and_writes_nothing(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client)
    await enroll(client, student, course)
    dropped = await drop(client, student, course)
    before = await everything(connection)

    again = await drop(client, student, course)

    assert (again.status, again.body) == (200, {**dropped.body, "outcome": "unchanged"})
    assert await everything(connection) == before


async def test_a_student_cannot_drop_a_course_without_an_enrollment(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client)
    await enroll(client, await new_student(client), course)
    before = await everything(connection)

    for id in (course, LARGEST):
        problem(await drop(client, student, id), 404, "enrollment_not_found")

    assert await everything(connection) == before


async def test_enrolling_again_after_a_drop_updates_the_row_with_a_new_joined_position(
    client: Client, connection: Connection
) -> None:
    student, course = await new_student(client), await new_course(client, capacity=1)
    await enroll(client, student, course)
    first = await connection.fetchrow("SELECT * FROM student_courses")
    await drop(client, student, course)
    dropped = await connection.fetchrow("SELECT * FROM student_courses")

    answer = await enroll(client, student, course)

    assert (answer.status, outcomes(answer)) == (201, [(course, "enrolled")])
    [again] = await connection.fetch("SELECT * FROM student_courses")
    assert first is not None
    assert dropped is not None
    assert (first["joined_position"], dropped["joined_position"], again["joined_position"]) == (3, 3, 5)
    assert first["joined_at"] == dropped["joined_at"] < again["joined_at"]
    assert await seats(client, course) == (1, 0)


async def test_enrolling_again_after_a_drop_needs_a_free_seat(client: Client) -> None:
    student, course = await new_student(client), await new_course(client, capacity=1)
    await enroll(client, student, course)
    await drop(client, student, course)
    await enroll(client, await new_student(client), course)

    problem(await enroll(client, student, course), 409, "course_full")


async def test_lists_show_the_requested_status(client: Client) -> None:
    student, other = await new_student(client), await new_student(client)
    kept, left = await new_course(client), await new_course(client)
    await enroll(client, student, kept, left)
    await enroll(client, other, left)
    await drop(client, student, left)

    async def ids(path: str) -> list[tuple[int, str]]:
        items = (await read(client, path))["items"]
        return [(item.get("course_id") or item["student_id"], item["status"]) for item in items]

    assert await ids(f"/students/{student}/courses") == [(kept, "enrolled")]
    assert await ids(f"/students/{student}/courses?status=enrolled") == [(kept, "enrolled")]
    assert await ids(f"/students/{student}/courses?status=dropped") == [(left, "dropped")]
    assert await ids(f"/courses/{left}/students") == [(other, "enrolled")]
    assert await ids(f"/courses/{left}/students?status=dropped") == [(student, "dropped")]
    assert await ids(f"/courses/{kept}/students?status=dropped") == []
    assert await ids(f"/students/{other}/courses?status=dropped") == []
    for path in (f"/students/{student}/courses", f"/courses/{kept}/students"):
        for status in ("", "Enrolled", "gone"):
            assert [place for _, place in places(await call(client, "GET", f"{path}?status={status}"))] == ["status"]


async def test_a_students_courses_are_paged_by_course_id(client: Client) -> None:
    student = await new_student(client)
    courses = [await new_course(client) for _ in range(5)]
    await enroll(client, student, *reversed(courses))
    await drop(client, student, courses[1])

    pages = await walk(client, f"/students/{student}/courses?limit=2&status=enrolled")

    assert [[item["course_id"] for item in page] for page in pages] == [
        [courses[0], courses[2]],
        [courses[3], courses[4]],
    ]


async def test_a_roster_is_paged_by_student_id(client: Client) -> None:
    course = await new_course(client)
    students = [await new_student(client) for _ in range(5)]
    for student in reversed(students):
        await enroll(client, student, course)

    pages = await walk(client, f"/courses/{course}/students?limit=2")

    assert [[item["student_id"] for item in page] for page in pages] == [students[:2], students[2:4], students[4:]]


async def test_a_cursor_is_valid_only_with_its_student_its_course_and_its_status(client: Client) -> None:
    students, courses = [await new_student(client) for _ in range(2)], [await new_course(client) for _ in range(2)]
    for student in students:
        await enroll(client, student, *courses)
    of_student = (await read(client, f"/students/{students[0]}/courses?limit=1"))["next"]
    of_course = (await read(client, f"/courses/{courses[0]}/students?limit=1"))["next"]

    for path in (
        f"/students/{students[1]}/courses?cursor={of_student}",
        f"/students/{students[0]}/courses?status=dropped&cursor={of_student}",
        f"/courses/{courses[0]}/students?cursor={of_student}",
        f"/courses/{courses[1]}/students?cursor={of_course}",
        f"/students?cursor={of_course}",
    ):
        assert places(await call(client, "GET", path)) == [("invalid_cursor", "cursor")], path


async def test_a_page_has_at_most_500_items(client: Client) -> None:
    student, course = await new_student(client), await new_course(client)

    for path in (f"/students/{student}/courses", f"/courses/{course}/students"):
        for limit in ("0", "501", "x"):
            assert [place for _, place in places(await call(client, "GET", f"{path}?limit={limit}"))] == ["limit"]
        assert await read(client, f"{path}?limit=500") == {"items": [], "next": None}


async def test_every_change_has_one_event_in_order(client: Client, connection: Connection) -> None:
    student, one, two = await new_student(client), await new_course(client), await new_course(client, capacity=0)
    path = f"/students/{student}"
    headers = {"X-Actor": "adviser 7", "X-Request-Id": "r-1"}
    await call(client, "POST", f"{path}/enroll", {"course_ids": [one]}, headers=headers)
    await call(client, "POST", f"{path}/enroll", {"course_ids": [one, two], "mode": "partial"}, headers=headers)
    dropping = {"X-Request-Id": "r-2"}
    await call(client, "DELETE", f"{path}/courses/{one}?reason=moved%20to%20M%C3%BCnchen", headers=dropping)
    await call(client, "DELETE", f"{path}/courses/{one}?reason=again")
    again = await enroll(client, student, one)

    recorded = (await events(connection))[3:]

    assert [event["position"] for event in recorded] == [4, 5, 6]
    assert [event["type"] for event in recorded] == ["enrollment.enrolled", "enrollment.dropped", "enrollment.enrolled"]
    assert [event["before"] for event in recorded] == [None, {"status": "enrolled"}, {"status": "dropped"}]
    assert [event["after"] for event in recorded] == [
        {"status": status} for status in ("enrolled", "dropped", "enrolled")
    ]
    assert {(event["student_id"], event["course_id"]) for event in recorded} == {(student, one)}
    assert [event["reason"] for event in recorded] == [None, "moved to München", None]
    assert [event["on_behalf_of"] for event in recorded] == ["adviser 7", None, None]
    assert [event["request_id"] for event in recorded] == ["r-1", "r-2", again.headers["X-Request-Id"]]
    times = [event["occurred_at"] for event in recorded]
    assert times == sorted(times)


async def test_a_reason_is_one_line_of_text(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client)
    await enroll(client, student, course)
    before = await everything(connection)

    for reason in ("", "%20", "%00", "a%0Ab", "x" * 201, "%E2%80%8B", "a%E2%80%A8b", "a%E2%80%AEb"):
        answer = await call(client, "DELETE", f"/students/{student}/courses/{course}?reason={reason}")
        assert [place for _, place in places(answer)] == ["reason"], reason
    assert places(await call(client, "DELETE", f"/students/{student}/courses/{course}?resaon=x")) == [
        ("unknown_parameter", "resaon")
    ]

    assert await everything(connection) == before


async def test_a_repeated_request_for_a_waitlist_place_returns_the_position(client: Client) -> None:
    course, other = await new_course(client, capacity=0), await new_course(client)
    students = [await new_student(client) for _ in range(4)]
    for student in students:
        await join_waitlist(client, student, course)
    await enroll(client, students[3], other)

    async def repeated(student: int) -> dict[str, object]:
        [result] = (await join_waitlist(client, student, course)).body["results"]
        return {name: result[name] for name in ("outcome", "status", "position")}

    unchanged = {"outcome": "unchanged", "status": "waitlisted"}
    assert [await repeated(student) for student in students] == [{**unchanged, "position": n} for n in (1, 2, 3, 4)]
    [seated] = (await join_waitlist(client, students[3], other)).body["results"]
    assert (seated["outcome"], seated["status"], seated["position"]) == ("unchanged", "enrolled", None)
    await drop(client, students[1], course)
    assert (await repeated(students[3])) == {**unchanged, "position": 3}
    body = {"course_ids": [course], "on_full": "fail"}
    previewed = await call(client, "POST", f"/students/{students[2]}/enroll?dry_run=true", body)
    assert previewed.body["results"][0]["position"] == 2
