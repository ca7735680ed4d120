"""Hold a server, ours or a peer, to the contract that the benchmarks compare: ``BASE_URL DATABASE_URL``.

Students and courses of its own are put into the database, which is the one that the server writes to. No events tell of
them, so that ``python -m service check`` has something to say afterwards.
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
# One row a fault: counts that differ from the states, and states that are not what their last event says.
FIND_FAULTS: Final = """
SELECT 'course ' || courses.id || ' counts ' || seats_taken || ' seats and ' || waitlisted || ' places'
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
    """The calls, on students and courses that nobody else knows of."""

    def __init__(self, session: ClientSession, database: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.session = session
        self.database = database
        self.courses: list[int] = []

    def add_students(self, count: int) -> list[int]:
        """Make students, who come in the order of their ids."""
        return sorted(row[0] for row in self.database.execute(ADD_STUDENTS, [count]).fetchall())

    def add_course(self, capacity: int | None, waitlist_capacity: int | None = None) -> int:
        """Make a course."""
        row = self.database.execute(ADD_COURSE, [capacity, waitlist_capacity]).fetchone()
        assert row is not None
        self.courses.append(row[0])
        return self.courses[-1]

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Call the server."""
        async with self.session.request(method, path, json=body) as response:
            kind = "application/json" if response.status < 400 else "application/problem+json"
            assert response.content_type == kind, f"{method} {path} is answered as {response.content_type}"
            return response.status, await response.json(content_type=None)

    async def expect(self, status: int, expected: object, method: str, path: str, body: object = None) -> Any:
        """Call the server and compare its answer."""
        answered, answer = await self.ask(method, path, body)
        assert answered == status, f"{method} {path} {body}: {answered} instead of {status}: {answer}"
        compare(answer, expected, f"{method} {path} {body}: ")
        return answer

    async def refused(self, status: int, code: str, errors: list[object], path: str, body: object, method: str) -> None:
        """Call the server and compare its refusal."""
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
        """Enroll a student, whatever the answer."""
        return await self.ask("POST", f"/students/{student}/enroll", {"course_ids": courses, **options})

    async def seats(self, course: int) -> tuple[int, int]:
        """Read how many are in a course, and how many wait for it."""
        _, answer = await self.ask("GET", f"/courses/{course}")
        return answer["seats_taken"], answer["waitlisted"]

    async def check_enrolling(self) -> None:
        """Enroll, repeat, read."""
        [student] = self.add_students(1)
        one, other = self.add_course(30, 5), self.add_course(None)
        path, body = f"/students/{student}/enroll", {"course_ids": [other, one], "mode": "atomic", "on_full": "fail"}
        results = [{"course_id": id, "outcome": "enrolled", "course": info(id)} for id in (other, one)]
        await self.expect(201, {"student_id": student, "results": results}, "POST", path, body)
        results = [{**result, "outcome": "unchanged", "status": "enrolled"} for result in results]
        await self.expect(200, {"student_id": student, "results": results}, "POST", path, body)

        items = [standing(id, "enrolled", None) for id in (one, other)]
        path = f"/students/{student}/courses"
        await self.expect(200, {"items": items, "next": None}, "GET", path)
        first = await self.expect(200, {"items": items[:1], "next": TEXT}, "GET", f"{path}?limit=1")
        await self.expect(200, {"items": items[1:], "next": None}, "GET", f"{path}?limit=1&cursor={first['next']}")
        await self.expect(200, {"items": [], "next": None}, "GET", f"{path}?status=waitlisted")
        await self.expect(
            200, {"items": [rostered(student, "enrolled", None)], "next": None}, "GET", f"/courses/{one}/students"
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
        """Go through courses page by page."""
        seen: list[int] = []
        path = "/courses?limit=2"
        for _ in range(3):
            _, answer = await self.ask("GET", path)
            seen += [course["id"] for course in answer["items"]]
            if answer["next"] is None:
                break
            assert len(answer["items"]) == 2
            path = f"/courses?limit=2&cursor={answer['next']}"
        assert len(seen) > 2, f"there are only the courses {seen}"
        assert seen == sorted(set(seen)), f"pages of courses hold {seen}"

    async def check_line(self) -> None:
        """Wait, be promoted, drop."""
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
        items = [standing(course, "waitlisted", 2)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/students/{third}/courses")
        items = [rostered(second, "waitlisted", 1), rostered(third, "waitlisted", 2)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/courses/{course}/students?status=waitlisted")

        path = f"/students/{first}/courses/{course}"
        for outcome in ("dropped", "unchanged"):
            dropped = {**standing(course, "dropped", None), "outcome": outcome}
            await self.expect(200, dropped, "DELETE", path)
        items = [standing(course, "enrolled", None)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/students/{second}/courses")
        items = [standing(course, "waitlisted", 1)]
        await self.expect(200, {"items": items, "next": None}, "GET", f"/students/{third}/courses")
        assert await self.seats(course) == (1, 1)
        _, answer = await self.enroll(first, [course], on_full="waitlist")
        assert answer["results"][0]["position"] == 2, "who comes again comes last"

    async def check_refusals(self) -> None:
        """Ask for what is not to be had."""
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
            status, answer = await self.ask("POST", path, invalid)
            assert (status, answer["type"]) == (422, "/problems/invalid"), f"{invalid} is answered with {answer}"
            assert answer["errors"], f"{invalid} is answered without errors"

    async def check_rush(self) -> None:
        """Want the same seats in the same moment, and give them back in the same moment."""
        students, course = self.add_students(CALLERS), self.add_course(SEATS)
        answers = await asyncio.gather(*(self.enroll(student, [course]) for student in students))
        statuses = sorted(status for status, _ in answers)
        assert statuses == [201] * SEATS + [409] * (CALLERS - SEATS), f"{SEATS} seats: {statuses}"
        assert await self.seats(course) == (SEATS, 0)

        course = self.add_course(SEATS)
        answers = await asyncio.gather(*(self.enroll(student, [course], on_full="waitlist") for student in students))
        results = [answer["results"][0] for _, answer in answers]
        seated = [student for student, each in zip(students, results, strict=True) if each["outcome"] == "enrolled"]
        line = {
            each["position"]: student for student, each in zip(students, results, strict=True) if "position" in each
        }
        assert len(seated) == SEATS, f"{len(seated)} have one of {SEATS} seats"
        assert sorted(line) == list(range(1, CALLERS - SEATS + 1)), f"the places in line are {sorted(line)}"
        _, answer = await self.ask("GET", f"/courses/{course}/students?status=waitlisted&limit=500")
        assert [item["student_id"] for item in answer["items"]] == [line[place] for place in sorted(line)]

        answers = await asyncio.gather(*(self.ask("DELETE", f"/students/{each}/courses/{course}") for each in seated))
        assert all(answer["outcome"] == "dropped" for _, answer in answers)
        _, answer = await self.ask("GET", f"/courses/{course}/students?limit=500")
        assert {item["student_id"] for item in answer["items"]} == {line[place] for place in range(1, SEATS + 1)}
        assert await self.seats(course) == (SEATS, CALLERS - 2 * SEATS)

    async def check_crossing(self) -> None:
        """Ask for the same courses in different orders, several times at once, and drop them meanwhile."""
        students, courses = self.add_students(CALLERS // 4), [self.add_course(CALLERS) for _ in range(4)]

        async def come_and_go(student: int, turn: int) -> None:
            asked = courses[turn:] + courses[:turn]
            for _ in range(2):
                answers = await asyncio.gather(*(self.enroll(student, order) for order in (asked, asked[::-1])))
                assert sorted(status for status, _ in answers) == [200, 201], answers
                status, answer = await self.ask("DELETE", f"/students/{student}/courses/{asked[0]}")
                assert (status, answer["outcome"]) == (200, "dropped"), answer

        await asyncio.gather(*(come_and_go(student, number % 4) for number, student in enumerate(students)))
        taken = [await self.seats(course) for course in courses]
        assert sum(seats for seats, _ in taken) == len(students) * 3, f"the seats taken are {taken}"

    def check_tables(self) -> None:
        """Recount what was left behind."""
        faults = self.database.execute(FIND_FAULTS, {"courses": self.courses}).fetchall()
        assert not faults, f"the tables are inconsistent: {faults}"
        events = dict(self.database.execute(COUNT_EVENTS, [self.courses]).fetchall())
        assert events["enrollment.promoted"] == SEATS + 1, f"the events are {events}"
        assert set(events) == {f"enrollment.{name}" for name in ("enrolled", "waitlisted", "dropped", "promoted")}


def info(course: int) -> dict[str, object]:
    """What is shown of a course in short."""
    return {"id": course, "code": "CHECK", "title": "Checked", "credits": 2.5, "term_id": None}


def person(student: int) -> dict[str, object]:
    """What is shown of a student in short."""
    return {"id": student, "given_name": "Given", "family_name": "Family", "email": TEXT}


def standing(course: int, status: str, position: int | None) -> dict[str, object]:
    """What is shown of a student's course."""
    shown = {"course_id": course, "status": status, "position": position, "joined_at": TIME}
    return {**shown, "passed": None, "grade": None, "course": info(course)}


def rostered(student: int, status: str, position: int | None) -> dict[str, object]:
    """What is shown of a course's student."""
    shown = {"student_id": student, "status": status, "position": position, "joined_at": TIME}
    return {**shown, "student": person(student)}


def compare(answer: object, expected: object, where: str) -> None:
    """Compare JSON; a pattern stands for any text that matches it."""
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
    """Check a server; raises ``AssertionError`` where it is not as agreed."""
    with psycopg.connect(database_url, autocommit=True, row_factory=tuple_row) as database:
        # Servers close what was idle for 5 seconds: below that, none is closed in the moment that it is used again.
        connector, timeout = TCPConnector(limit=0, keepalive_timeout=2), ClientTimeout(total=60)
        async with ClientSession(base_url, connector=connector, timeout=timeout) as session:
            contract = Contract(session, database)
            await contract.check_enrolling()
            await contract.check_line()
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
