"""What the statements of OneRoster read: a page costs what it returns, whatever its offset and its filter."""

import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from sql import Connection

Statements = Mapping[str, tuple[str, Callable[..., Awaitable[object]]]]

LIMIT = 100
BASE: dict[str, object] = {"limit": LIMIT, "offset": 0, "descending": False, "counted": False}
USERS: dict[str, object] = {"after": "", "roles": ["student", "teacher"]}
ENROLLMENTS: dict[str, object] = {"after_person_id": 0, "after_course_id": 0, "after_role": ""}
FIRST: dict[str, object] = {"after_id": 0}
SESSIONS: dict[str, object] = {"after_type": "", "after_id": 0, "year": 2026, "types": ["term"]}
BIG_TABLES = {"students", "student_courses", "course_instructors", "events"}
LATE = "2098-12-31Z"


class Plans:
    """The plans of statements on a session whose tables are filled."""

    def __init__(
        self, session: Connection, statements: Statements, nodes: Callable[[Any], Iterator[dict[str, Any]]]
    ) -> None:
        self.session = session
        self.statements = statements
        self._nodes = nodes

    async def check(self) -> None:
        """Assert that pages are cheap wherever they begin, and filters wherever there is an index."""
        await self.session.execute(
            """
            INSERT INTO tombstones (resource, id, sourced_id, deleted_at)
            SELECT 'student', 100000 + n, 'gone' || n, now() FROM generate_series(1, 2000) AS n;
            UPDATE students SET updated_at = '2099-01-01Z' WHERE id % 1000 = 0;
            UPDATE student_courses SET updated_at = '2099-01-01Z' WHERE student_id % 1000 = 0
            """
        )
        await self.session.execute(
            "VACUUM ANALYZE student_courses, students, tombstones, courses, course_instructors, instructors"
        )
        await self.session.execute("SET plan_cache_mode = force_custom_plan")
        await walk_through_pages(self)
        await use_every_filter(self)

    def arguments(self, name: str, given: Mapping[str, object]) -> list[object]:
        """Return the arguments of a statement in order."""
        names = list(inspect.signature(self.statements[name][1]).parameters)[1:]
        arguments = {**BASE, **given}
        assert arguments.keys() <= set(names)
        return [arguments.get(each) for each in names]

    async def visited(self, name: str, given: Mapping[str, object], *, whole: bool = False) -> int:
        """Run a statement and return how many rows of tables and indexes it visits; ``whole`` allows scans of big tables."""
        literals = ", ".join(map(_literal, self.arguments(name, given)))
        await self.session.execute(f"PREPARE statement AS {self.statements[name][0]}")
        text = await self.session.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE statement({literals})")
        await self.session.execute("DEALLOCATE statement")
        run = [node for node in self._nodes(json.loads(text)[0]["Plan"]) if node["Actual Loops"]]
        scanned = {node["Relation Name"] for node in run if node["Node Type"] == "Seq Scan"}
        assert whole or not scanned & BIG_TABLES, (name, given, text)
        counted = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        scans = [node for node in run if "Relation Name" in node]
        return sum(round(node["Actual Loops"] * sum(node.get(each, 0) for each in counted)) for node in scans)


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    text = f"{{{','.join(map(str, value))}}}" if isinstance(value, list) else str(value)
    return "'" + text.replace("'", "''") + "'"


async def walk_through_pages(plans: Plans) -> None:
    for name, starts in (
        ("LIST_ROSTER_USERS", [{**USERS, "after": after} for after in ("", "8", "f", "gone5", "zz")]),
        (
            "LIST_ROSTER_ENROLLMENTS",
            [{**ENROLLMENTS, "after_person_id": id, "after_role": "student"} for id in (0, 10_000, 19_990)],
        ),
        ("LIST_ROSTER_CLASSES", [{"after_id": id} for id in (0, 5_000, 9_990)]),
        ("LIST_ROSTER_COURSES", [{"after_id": id} for id in (0, 500, 900)]),
    ):
        for start in starts:
            for deleted in (None, False):
                # Each row looks up at most two others, such as its user; each part of a union reads one row too many.
                assert await plans.visited(name, {**start, "deleted": deleted}) <= 5 * LIMIT + 10, (name, start)
    # The rest of the courses with a code: one look-up for each.
    assert await plans.visited("LIST_ROSTER_COURSES", {"after_id": 1_000}) <= 2 * 10_000
    # A whole sync is a walk of such pages: its cost is that of its rows.
    after, rows, pages = "", 0, 0
    statement = plans.statements["LIST_ROSTER_USERS"][0]
    while page := await plans.session.fetch(
        statement, *plans.arguments("LIST_ROSTER_USERS", {**USERS, "after": after, "limit": 2000})
    ):
        after, rows, pages = page[-1]["sourced_id"], rows + len(page), pages + 1
    assert (rows, pages) == (20_000 + 5_000 + 2_000, 14)


async def use_every_filter(plans: Plans) -> None:
    named = {"named": "S7", "condition": '($."username" == "S7")'}
    for name, given, most in (
        ("LIST_ROSTER_USERS", {"sourced_id": "I7"}, 4),
        ("LIST_ROSTER_USERS", {"sourced_id": "gone7"}, 4),
        ("LIST_ROSTER_USERS", {**named, "deleted": False}, 6),
        ("LIST_ROSTER_USERS", {"named": "s7@campus.example", "deleted": False}, 6),
        ("LIST_ROSTER_USERS", {"class_id": 7, "roles": ["student"], "deleted": False}, 30),
        ("LIST_ROSTER_USERS", {"class_id": 7, "roles": ["teacher"], "deleted": False}, 30),
        ("LIST_ROSTER_USERS", {"modified_from": LATE, "roles": ["student"], "deleted": False}, 30),
        ("LIST_ROSTER_ENROLLMENTS", {"role": "student", "person_id": 7, "course_id": 2}, 4),
        ("LIST_ROSTER_ENROLLMENTS", {"person_id": 7}, 60),
        ("LIST_ROSTER_ENROLLMENTS", {"person_id": 7, "role": "teacher"}, 20),
        ("LIST_ROSTER_ENROLLMENTS", {"course_id": 7}, 60),
        ("LIST_ROSTER_ENROLLMENTS", {"course_id": 7, "deleted": False}, 60),
        ("LIST_ROSTER_ENROLLMENTS", {"modified_from": LATE}, 4 * LIMIT),
        ("LIST_ROSTER_CLASSES", {"class_id": 7}, 10),
        ("LIST_ROSTER_CLASSES", {"first_id": 7}, 40),
        ("LIST_ROSTER_CLASSES", {"term_id": 7}, 40),
        ("LIST_ROSTER_CLASSES", {"term_id": 0}, 40),
        ("LIST_ROSTER_CLASSES", {"student_id": 7}, 40),
        ("LIST_ROSTER_CLASSES", {"instructor_id": 7}, 40),
        ("LIST_ROSTER_COURSES", {"course_id": 7}, 6),
    ):
        first = USERS if name.endswith("USERS") else ENROLLMENTS if name.endswith("ENROLLMENTS") else FIRST
        assert await plans.visited(name, {**first, **given}) <= most, (name, given)
    # Terms are few; what has no index is read once.
    assert await plans.visited("LIST_ROSTER_SESSIONS", {**SESSIONS, "session_id": 7}) <= 20
    unindexed = {**USERS, "condition": '($."givenName" like_regex "x.y" flag "iq")'}
    assert await plans.visited("LIST_ROSTER_USERS", unindexed, whole=True) <= 27_000
    counted = await plans.visited("LIST_ROSTER_USERS", {**USERS, "counted": True, "limit": 10}, whole=True)
    assert counted <= 27_000 + 4_000 + 40
