"""The cost of ``check`` grows with the data: ten times the campus is ten times the work, and no more memory."""

import asyncio
import cProfile
import json
import pstats
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from service import check, replay
from sql import Connection
from tests.campus import TABLES

PAGE_ROWS = 50
SEATS_EACH = 3

FILL = """
INSERT INTO terms (code, name, starts_on, ends_on) VALUES ('2026F', 'Fall', '2026-09-01', '2026-12-18');
INSERT INTO courses (code, title, credits, capacity, term_id, meetings)
SELECT 'C' || n, 'Course', 1, 1000000, 1, json_build_array(json_build_object(
    'day', (ARRAY['mon', 'tue', 'wed', 'thu', 'fri'])[1 + n % 5], 'start', '09:00', 'end', '10:30'
))
FROM generate_series(1, 2 * {students}) AS n;
INSERT INTO requirements (course_id, kind, group_number, code)
SELECT id, 'anti', 1, 'X' FROM courses WHERE id % 2 = 0;
INSERT INTO students (given_name, family_name, email)
SELECT 'Ada', 'N' || n, 's' || n || '@campus.example' FROM generate_series(1, {students}) AS n;
INSERT INTO holds (student_id, reason, blocks_enroll, blocks_drop, created_at)
SELECT id, 'fees', false, true, now() FROM students WHERE id % 2 = 0;
INSERT INTO overrides (student_id, course_id, rule, author, reason, created_at)
SELECT id, id, 'hold', 'dean', 'so', now() FROM students WHERE id % 2 = 0;
INSERT INTO events (position, type, occurred_at, request_id, student_id, course_id, term_id, before, after)
SELECT row_number() OVER (ORDER BY step, student_id, course_id), type, now(), 'r', student_id, course_id, term_id,
    before, after
FROM (
    SELECT 1 AS step, 'term.created' AS type, NULL::bigint AS student_id, NULL::bigint AS course_id,
        id AS term_id, NULL::json AS before, json_build_object(
            'code', code, 'name', name, 'starts_on', starts_on, 'ends_on', ends_on, 'version', version
        ) AS after
    FROM terms
    UNION ALL
    SELECT 2, 'course.created', NULL, id, NULL, NULL, json_build_object(
        'code', code, 'title', title, 'credits', credits, 'capacity', capacity, 'term_id', term_id,
        'meetings', meetings, 'version', version
    )
    FROM courses
    UNION ALL
    SELECT 3, 'course.requirements_set', NULL, course_id, NULL, '{{"groups":[],"version":1}}', json_build_object(
        'groups', json_build_array(json_build_object('kind', kind, 'any_of', json_build_array(code))), 'version', 1
    )
    FROM requirements
    UNION ALL
    SELECT 4, 'student.created', id, NULL, NULL, NULL, '{{"fields":[],"version":1}}' FROM students
    UNION ALL
    SELECT 5, 'hold.placed', student_id, NULL, NULL, NULL,
        json_build_object('hold_id', id, 'blocks', json_build_array('drop'), 'from', NULL, 'until', NULL)
    FROM holds
    UNION ALL
    SELECT 6, 'override.granted', student_id, course_id, NULL, NULL,
        json_build_object('override_id', id, 'rule', rule, 'author', author, 'expires_at', expires_at)
    FROM overrides
    UNION ALL
    SELECT 7, 'enrollment.enrolled', students.id, 1 + (students.id * {seats} + seat) % (2 * {students}), NULL, NULL,
        '{{"status":"enrolled"}}'
    FROM students
    CROSS JOIN generate_series(1, {seats}) AS seat
) AS history;
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
SELECT student_id, course_id, 'enrolled', position, occurred_at, occurred_at
FROM events
WHERE type = 'enrollment.enrolled';
UPDATE courses SET seats_taken = (SELECT count(*) FROM student_courses WHERE course_id = courses.id);
"""


@dataclass(frozen=True, slots=True)
class Work:
    """The cost of checking one invariant: rows handled by the database, and calls within Python."""

    rows: int
    calls: int
    largest_result: int


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def measure(connection: Connection) -> dict[str, Work]:
    """Check every invariant and count the work; each statement runs again with EXPLAIN."""
    work: dict[str, Work] = {}
    for sentence, find in check.INVARIANTS.items():
        statements: list[Any] = []
        connection.add_query_logger(statements.append)
        profile = cProfile.Profile()
        with profile:
            assert await find(connection) == [], sentence
        await asyncio.sleep(0)  # The last statement is logged in the next turn of the loop.
        connection.remove_query_logger(statements.append)
        rows = largest = 0
        for each in [statement for statement in statements if "pg_catalog" not in statement.query]:
            text = await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {each.query}", *each.args)
            plan = json.loads(text)[0]["Plan"]
            largest = max(largest, round(plan["Actual Rows"]))
            for node in nodes(plan):
                handled = [node["Actual Rows"], *(count for name, count in node.items() if "Removed" in name)]
                rows += round(sum(handled) * node["Actual Loops"])
        calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
        work[sentence] = Work(rows, calls, largest)
    return work


async def fill(connection: Connection, students: int) -> None:
    await connection.execute(f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY CASCADE")
    await connection.execute(FILL.format(students=students, seats=SEATS_EACH))
    await connection.execute("VACUUM (ANALYZE) events")
    for table in ("students", "courses", "student_courses", "requirements", "holds", "overrides"):
        await connection.execute(f"VACUUM (ANALYZE) {table}")


@pytest.mark.not_on_citus("Citus refuses the SQL of the test")
async def test_ten_times_the_campus_is_ten_times_the_work(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PAGE_ROWS", PAGE_ROWS)
    monkeypatch.setattr(replay, "PAGE_ROWS", PAGE_ROWS)
    connection = await asyncpg.connect(database_url, server_settings=check.SESSION)
    try:
        await fill(connection, 100)
        small = await measure(connection)
        await fill(connection, 1000)
        large = await measure(connection)
    finally:
        await connection.close()

    for sentence, work in large.items():
        assert work.rows <= 12 * small[sentence].rows + 100, (sentence, small[sentence], work)
        assert work.calls <= 12 * small[sentence].calls + 1000, (sentence, small[sentence], work)
        assert work.largest_result <= PAGE_ROWS, (sentence, work)
    assert sum(work.rows for work in large.values()) > 10_000
