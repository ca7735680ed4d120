"""Check that a server, ours or a peer, keeps the contract of the benchmarks: ``BASE_URL DATABASE_URL``.

The check inserts its own students and courses into the database of the server, without events. Afterwards
``python -m service check`` therefore reports violations in this database.
"""

import asyncio
import re
import sys
from collections.abc import Iterable
from typing import Any, Final

import psycopg
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from psycopg.rows import tuple_row

CALLERS: Final = 200
SEATS: Final = 50

TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z")
TEXT: Final = re.compile(r".+", re.DOTALL)

ADD_STUDENTS: Final = """
INSERT INTO students (given_name, family_name, email)
SELECT 'Given', 'Family', gen_random_uuid() || '@check.example'
FROM generate_series(1, %s)
RETURNING id
"""
ADD_COURSE: Final = """
INSERT INTO courses (code, title, credits, capacity, waitlist_capacity)
VALUES ('CHECK', 'Checked', 2.5, %s, %s)
RETURNING id
"""
# One row for each fault: counters that differ from the states, and states that differ from their last event.
FIND_FAULTS: Final = """
SELECT 'course ' || courses.id || ' counts ' || seats_taken || ' seats and ' || waitlisted || ' waitlist places'
FROM courses
LEFT JOIN student_courses ON student_courses.course_id = courses.id
WHERE courses.id = ANY(%(courses)s)
GROUP BY courses.id
HAVING seats_taken <> count(*) FILTER (WHERE student_courses.status = 'enrolled')
    OR waitlisted <> count(*) FILTER (WHERE student_courses.status = 'waitlisted')
    OR seats_taken > capacity
UNION ALL
SELECT 'student ' || mine.student_id || ' in course ' || mine.course_id || ' is ' || mine.status
FROM student_courses AS mine
CROSS JOIN LATERAL (
    SELECT after ->> 'status' AS status, position
    FROM events
    WHERE events.student_id = mine.student_id AND events.course_id = mine.course_id
    ORDER BY position DESC
    LIMIT 1
) AS last
WHERE mine.course_id = ANY(%(courses)s)
    AND (last.status <> mine.status OR (mine.status <> 'dropped' AND last.position <> mine.joined_position))
"""
COUNT_EVENTS: Final = """
SELECT type, count(*)
FROM events
WHERE course_id = ANY(%s)
GROUP BY type
"""


class Contract:
    """The calls of the contract, on students and courses that no other caller uses."""

    def __init__(self, session: ClientSession, database: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.session = session
        self.database = database
        self.courses: list[int] = []

    def add_students(self, count: int) -> list[int]:
        """Insert students and return their ids in ascending order."""
        return sorted(row[0] for row in self.database.execute(ADD_STUDENTS, [count]).fetchall())

    def add_course(self, capacity: int | None, waitlist_capacity: int | None = None) -> int:
        """Insert a course and return its id."""
        row = self.database.execute(ADD_COURSE, [capacity, waitlist_capacity]).fetchone()
        assert row is not None
        self.courses.append(row[0])
        return self.courses[-1]

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request and return the status and the body of the response."""
        async with self.session.request(method, path, json=body) as response:
            kind = "application/json" if response.status < 400 else "application/problem+json"
            assert response.content_type == kind, f"the response to {method} {path} is {response.content_type}"
            return response.status, await response.json(content_type=None)

    async def expect(self, status: int, expected: object, method: str, path: str, body: object = None) -> Any:
        """Send a request, compare the response with the expected one, and return its body."""
        answered, answer = await self.call(method, path, body)
        assert answered == status, f"{method} {path} {body}: {answered} instead of {status}: {answer}"
        compare(answer, expected, f"{method} {path} {body}: ")
        return answer

    async def refused(self, status: int, code: str, errors: list[object], path: str, body: object, method: str) -> None:
        """Send a request and compare the refusal with the expected one."""
        await self.expect(
            status,
            {
                "type": f"/problems/{code}",
                "code": code,
                "title": TEXT,
                "status": status,
                "detail": TEXT,
                "instance": path,
                "request_id": TEXT,
                "errors": errors,
            },
            method,
            path,
            body,
        )

    async def enroll(self, student: int, courses: list[int], **options: str) -> tuple[int, Any]:
        """Enroll a student and return the status and the body of the response."""
        return await self.call("POST", f"/students/{student}/enroll", {"course_ids": courses, **options})

    async def seats(self, course: int) -> tuple[int, int]:
        """Return the numbers of enrolled and waitlisted students of a course."""
        _, answer = await self.call("GET", f"/courses/{course}")
        return answer["seats_taken"], answer["waitlisted"]

    async def check_enrolling(self) -> None:
        """Check an enrollment, its repetition, and the reads of its results."""
        [student] = self.add_students(1)
        one, other = self.add_course(30, 5), self.add_course(None)
        path, body = f"/students/{student}/enroll", {"course_ids": [other, one], "mode": "atomic", "on_full": "fail"}
        results = [{"course_id": id, "outcome": "enrolled", "course": info(id)} for id in (other, one)]
        await self.expect(201, {"student_id": student, "results": results}, "POST", path, body)
        results = [{**result, "outcome": "unchanged", "status": "enrolled"} for result in results]
        await self.expect(200, {"student_id": student, "results": results}, "POST", path, body)

        items = [student_course(id, "enrolled", None) for id in (one, other)]
        path = f"/students/{student}/courses"
        await self.expect(200, {"items": items, "next": None}, "GET", path)
        first = await self.expect(200, {"items": items[:1], "next": TEXT}, "GET", f"{path}?limit=1")
        await self.expect(200, {"items": items[1:], "next": None}, "GET", f"{path}?limit=1&cursor={first['next']}")
        await self.expect(200, {"items": [], "next": None}, "GET", f"{path}?status=waitlisted")
        await self.expect(
            200, {"items": [course_student(student, "enrolled", None)], "next": None}, "GET", f"/courses/{one}/students"
        )
        times = {"version": 1, "created_at": TIME, "updated_at": TIME}
        await self.expect(
            200, {**person(student), "external_id": None, "max_credits": None, **times}, "GET", f"/students/{student}"
        )
        shown = {**info(one), "external_id": None, "meetings": [], "status": "open", **times}
        seats: dict[str, object] = {
            "capacity": 30,
            "waitlist_capacity": 5,
            "seats_taken": 1,
            "seats_free": 29,
            "waitlisted": 0,
        }
        await self.expect(200, {**shown, **seats}, "GET", f"/courses/{one}")
        seats = {"capacity": None, "waitlist_capacity": None, "seats_taken": 1, "seats_free": None, "waitlisted": 0}
        await self.expect(200, {**shown, **seats, "id": other}, "GET", f"/courses/{other}")
        await self.check_pages()

    async def check_pages(self) -> None:
        """Check the pages of the list of courses."""
        seen: list[int] = []
        path = "/courses?limit=2"
        for _ in range(3):
            _, answer = await self.call("GET", path)
            seen += [course["id"] for course in answer["items"]]
            if answer["next"] is None:
                break
            assert len(answer["items"]) == 2
            path = f"/courses?limit=2&cursor={answer['next']}"
        assert len(seen) > 2, f"the list has only the courses {seen}"
        assert seen == sorted(set(seen)), f"the pages of courses contain {seen}"

    async def check_waitlist(self) -> None:
        """Check the waitlist, the promotion and the drop."""
        first, second, third = self.add_students(3)
        course, free = self.add_course(1), self.add_course(1, 0)
        assert (await self.enroll(first, [course]))[0] == 201
        full = {"code": "course_full", "course_id": course, "capacity": 1, "seats_taken": 1, "detail": TEXT}
        body: dict[str, object] = {"course_ids": [free, course]}
        await self.refused(
            409, "course-full", [{"pointer": "#/course_ids/1", **full}], f"/students/{second}/enroll", body, "POST"
        )
        assert await self.seats(free) == (0, 0), "a refused request took a seat"
        for position, student in enumerate((second, third), 1):
            result = {"course_id": course, "outcome": "waitlisted", "position": position, "course": info(course)}
            body = {"course_ids": [course], "on_full": "waitlist"}
            answer = {"student_id": student, "results": [result]}
            await self.expect(201, answer, "POST", f"/students/{student}/enroll", body)
        items = [student_course(course, "waitlisted", 2)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/students/{third}/courses")
        items = [course_student(second, "waitlisted", 1), course_student(third, "waitlisted", 2)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/courses/{course}/students?status=waitlisted")

        path = f"/students/{first}/courses/{course}"
        for outcome in ("dropped", "unchanged"):
            dropped = {**student_course(course, "dropped", None), "outcome": outcome}
            await self.expect(200, dropped, "DELETE", path)
        items = [student_course(course, "enrolled", None)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/students/{second}/courses")
        items = [student_course(course, "waitlisted", 1)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/students/{third}/courses")
        assert await self.seats(course) == (1, 1)
        _, answer = await self.enroll(first, [course], on_full="waitlist")
        assert answer["results"][0]["position"] == 2, "a student who enrolls again must be the last on the waitlist"

    async def check_refusals(self) -> None:
        """Check the refusals."""
        student, other = self.add_students(2)
        narrow, closed, free = self.add_course(0, 1), self.add_course(0, 0), self.add_course(9)
        path = f"/students/{student}/enroll"
        assert (await self.enroll(other, [narrow], on_full="waitlist"))[0] == 201
        waitlist_full = {"code": "waitlist_full", "course_id": narrow, "waitlist_capacity": 1, "detail": TEXT}
        course_full = {"code": "course_full", "course_id": closed, "capacity": 0, "seats_taken": 0, "detail": TEXT}
        unknown = {"code": "unknown_course", "course_id": 2**53 - 1, "detail": TEXT}
        pointers = [{"pointer": f"#/course_ids/{index}"} for index in range(3)]
        body: dict[str, object] = {"course_ids": [narrow, closed, free], "on_full": "waitlist"}
        errors: list[object] = [pointers[0] | waitlist_full, pointers[1] | course_full]
        await self.refused(409, "enrollment_refused", errors, path, body, "POST")
        body = {"course_ids": [free, 2**53 - 1]}
        await self.refused(422, "unknown_course", [pointers[1] | unknown], path, body, "POST")
        assert await self.seats(free) == (0, 0), "a refused request took a seat"
        body = {"course_ids": [closed, free], "mode": "partial"}
        del course_full["course_id"]
        results = [
            {"course_id": closed, "outcome": "refused", "errors": [course_full]},
            {"course_id": free, "outcome": "enrolled", "course": info(free)},
        ]
        await self.expect(201, {"student_id": student, "results": results}, "POST", path, body)
        nobody = f"/students/{2**53 - 1}"
        await self.refused(404, "student_not_found", [], f"{nobody}/enroll", {"course_ids": [free]}, "POST")
        await self.refused(404, "student_not_found", [], nobody, None, "GET")
        await self.refused(404, "student_not_found", [], f"{nobody}/courses", None, "GET")
        await self.refused(404, "course_not_found", [], f"/courses/{2**53 - 1}", None, "GET")
        await self.refused(404, "course_not_found", [], f"/courses/{2**53 - 1}/students", None, "GET")
        await self.refused(404, "enrollment_not_found", [], f"/students/{student}/courses/{closed}", None, "DELETE")
        malformed: list[dict[str, object]] = [
            {"course_ids": []},
            {"course_ids": [free] * 101},
            {"course_ids": [0]},
            {"course_ids": ["one"]},
            {"course_ids": [free], "mode": "some"},
            {"course_ids": [free], "extra": 1},
        ]
        for invalid in malformed:
            status, answer = await self.call("POST", path, invalid)
            assert (status, answer["type"]) == (422, "/problems/invalid"), f"{invalid} returns {answer}"
            assert answer["errors"], f"{invalid} returns no errors"

    async def check_rush(self) -> None:
        """Check concurrent requests for the same seats, and concurrent drops of them."""
        students, course = self.add_students(CALLERS), self.add_course(SEATS)
        answers = await asyncio.gather(*(self.enroll(student, [course]) for student in students))
        statuses = sorted(status for status, _ in answers)
        assert statuses == [201] * SEATS + [409] * (CALLERS - SEATS), f"{SEATS} seats: {statuses}"
        assert await self.seats(course) == (SEATS, 0)

        course = self.add_course(SEATS)
        answers = await asyncio.gather(*(self.enroll(student, [course], on_full="waitlist") for student in students))
        results = [answer["results"][0] for _, answer in answers]
        seated = [student for student, each in zip(students, results, strict=True) if each["outcome"] == "enrolled"]
        waitlist = {
            each["position"]: student for student, each in zip(students, results, strict=True) if "position" in each
        }
        assert len(seated) == SEATS, f"{len(seated)} students have one of {SEATS} seats"
        assert sorted(waitlist) == list(range(1, CALLERS - SEATS + 1)), f"the positions are {sorted(waitlist)}"
        _, answer = await self.call("GET", f"/courses/{course}/students?status=waitlisted&limit=500")
        assert [item["student_id"] for item in answer["items"]] == [waitlist[position] for position in sorted(waitlist)]

        answers = await asyncio.gather(*(self.call("DELETE", f"/students/{each}/courses/{course}") for each in seated))
        assert all(answer["outcome"] == "dropped" for _, answer in answers)
        _, answer = await self.call("GET", f"/courses/{course}/students?limit=500")
        promoted = {waitlist[position] for position in range(1, SEATS + 1)}
        assert {item["student_id"] for item in answer["items"]} == promoted
        assert await self.seats(course) == (SEATS, CALLERS - 2 * SEATS)

    async def check_crossing(self) -> None:
        """Check concurrent requests for the same courses in different orders, with drops in between."""
        students, courses = self.add_students(CALLERS // 4), [self.add_course(CALLERS) for _ in range(4)]

        async def come_and_go(student: int, turn: int) -> None:
            requested = courses[turn:] + courses[:turn]
            for _ in range(2):
                answers = await asyncio.gather(*(self.enroll(student, order) for order in (requested, requested[::-1])))
                assert sorted(status for status, _ in answers) == [200, 201], answers
                status, answer = await self.call("DELETE", f"/students/{student}/courses/{requested[0]}")
                assert (status, answer["outcome"]) == (200, "dropped"), answer

        await asyncio.gather(*(come_and_go(student, number % 4) for number, student in enumerate(students)))
        taken = [await self.seats(course) for course in courses]
        assert sum(seats for seats, _ in taken) == len(students) * 3, f"the seats taken are {taken}"

    def check_tables(self) -> None:
        """Verify the counters, states and events after the other checks."""
        faults = self.database.execute(FIND_FAULTS, {"courses": self.courses}).fetchall()
        assert not faults, f"the tables are inconsistent: {faults}"
        events = dict(self.database.execute(COUNT_EVENTS, [self.courses]).fetchall())
        assert events["enrollment.promoted"] == SEATS + 1, f"the events are {events}"
        assert set(events) == {f"enrollment.{name}" for name in ("enrolled", "waitlisted", "dropped", "promoted")}


def info(course: int) -> dict[str, object]:
    """Return the expected summary of a course."""
    return {"id": course, "external_id": None, "code": "CHECK", "title": "Checked", "credits": 2.5, "term_id": None}


def person(student: int) -> dict[str, object]:
    """Return the expected summary of a student."""
    return {"id": student, "external_id": None, "given_name": "Given", "family_name": "Family", "email": TEXT}


def student_course(course: int, status: str, position: int | None) -> dict[str, object]:
    """Return the expected entry in a student's list of courses."""
    shown = {"course_id": course, "status": status, "position": position, "joined_at": TIME}
    return {**shown, "passed": None, "grade": None, "course": info(course)}


def course_student(student: int, status: str, position: int | None) -> dict[str, object]:
    """Return the expected entry in a course's list of students."""
    shown = {"student_id": student, "status": status, "position": position, "joined_at": TIME}
    return {**shown, "student": person(student)}


def compare(answer: object, expected: object, where: str) -> None:
    """Compare JSON values; an expected pattern matches any text that fits it."""
    if isinstance(expected, re.Pattern):
        assert expected.fullmatch(str(answer)), f"{where} is {answer!r}"
    elif isinstance(expected, dict):
        assert isinstance(answer, dict), f"{where} is {answer!r}"
        assert answer.keys() == expected.keys(), f"{where} has {sorted(answer)} instead of {sorted(expected)}"
        for name, value in expected.items():
            compare(answer[name], value, f"{where}/{name}")
    elif isinstance(expected, list):
        assert isinstance(answer, list), f"{where} is {answer!r}"
        assert len(answer) == len(expected), f"{where} is {answer!r} instead of {expected!r}"
        for index, (item, value) in enumerate(zip(answer, expected, strict=True)):
            compare(item, value, f"{where}/{index}")
    else:
        assert answer == expected, f"{where} is {answer!r} instead of {expected!r}"


async def check(base_url: str, database_url: str) -> None:
    """Check a server; raise ``AssertionError`` if it breaks the contract."""
    with psycopg.connect(database_url, autocommit=True, row_factory=tuple_row) as database:
        # Servers close connections that are idle for 5 seconds; a shorter limit avoids a close at the moment of reuse.
        connector, timeout = TCPConnector(limit=0, keepalive_timeout=2), ClientTimeout(total=60)
        async with ClientSession(base_url, connector=connector, timeout=timeout) as session:
            contract = Contract(session, database)
            await contract.check_enrolling()
            await contract.check_waitlist()
            await contract.check_refusals()
            await contract.check_rush()
            await contract.check_crossing()
            contract.check_tables()


def main(arguments: Iterable[str]) -> None:
    """Check the server that the command line names."""
    base_url, database_url = arguments
    asyncio.run(check(base_url, database_url))
    print(f"{base_url} keeps the contract")


if __name__ == "__main__":
    main(sys.argv[1:])
