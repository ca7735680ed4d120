"""``check`` on a small campus with one change made by SQL, past the service: it finds each such change."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from service.app import BRING_UP, create_app
from service.check import INVARIANTS, check, invariants, report
from service.settings import Settings
from sql import Connection
from tests.campus import call, create, drop, enroll, join_waitlist, new_course, new_student
from tests.conftest import Client, Server

in_one_loop = pytest.mark.asyncio(loop_scope="module")

MONDAY = [{"day": "mon", "start": "09:00", "end": "10:30"}]
TUESDAY = [{"day": "tue", "start": "09:00", "end": "10:30"}]
PAIR = "student_id = {} AND course_id = {}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def campus(server: Server, shared_settings: Settings, shared_connection: Connection) -> Connection:
    """Return a connection to a database with the campus."""
    server.own_database()
    app = create_app(shared_settings)
    async with TestClient(TestServer(app)) as client:
        await app[BRING_UP]
        await new_campus(client)
    return shared_connection


@pytest_asyncio.fixture(loop_scope="module")
async def connection(campus: Connection) -> AsyncIterator[Connection]:
    """Yield that connection in a transaction, which is rolled back: to copy the database for each test took longer."""
    # Sequences are not rolled back.
    find = """
        SELECT string_agg(format('SELECT setval(%L, %s, %L)', sequencename, coalesce(last_value, 1), last_value IS NOT NULL), '; ')
        FROM pg_sequences
        WHERE schemaname = current_schema
    """
    restore = await campus.fetchval(find)
    transaction = campus.transaction()
    await transaction.start()
    yield campus
    await transaction.rollback()
    await campus.execute(restore)


async def checked(connection: Connection, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that the check prints if it finds faults."""
    assert report({each: await each.search(connection) for each in invariants(60.0)}) == 1
    return capsys.readouterr().out.splitlines()


async def new_campus(client: Client) -> None:
    """Fill an empty database: students 1 to 7, instructors 1 and 2, courses 1 to 6, term 1, holds 1 and 2, overrides 1 to 3."""
    now = datetime.now(UTC)
    term = {
        "code": "2026F",
        "name": "Fall",
        "starts_on": "2036-09-01",
        "ends_on": "2036-12-18",
        "enroll_from": (now - timedelta(days=1)).isoformat(),
        "enroll_until": (now + timedelta(days=9)).isoformat(),
        "drop_until": (now + timedelta(days=20)).isoformat(),
        "withdraw_until": (now + timedelta(days=40)).isoformat(),
        "max_credits": 6,
    }
    for name in ("Ada", "Emmy"):
        await create(client, "/instructors", {"given_name": name})
    await call(client, "PATCH", "/instructors/2", {"family_name": "Noether"})
    await create(client, "/terms", term)
    await call(client, "PATCH", "/terms/1", {"name": "Fall 2026"})
    for fields in (
        {"capacity": 2, "term_id": 1, "credits": 3, "meetings": MONDAY},
        {"capacity": 1, "term_id": 1, "credits": 3, "meetings": TUESDAY, "waitlist_capacity": 9},
        {"external_id": "sis-3"},
        {},
        {"capacity": 1},
        {"capacity": 30},
    ):
        await new_course(client, **fields)
    for _ in range(7):
        await new_student(client, groups=["a"])
    await call(client, "PATCH", "/students/1", {"email": "ada.king@campus.example"})
    await call(client, "PATCH", "/courses/3", {"capacity": 5, "title": "A new title"})
    await call(client, "PATCH", "/courses/3", {"capacity": 6})
    teaching = [{"instructor_id": 2, "primary": True}, {"instructor_id": 1}]
    for wanted in (teaching[:1], teaching):
        await call(client, "PUT", "/courses/6/instructors", {"instructors": wanted})
    reserved = {"reservations": [{"group": "a", "seats": 4}]}
    await call(client, "PUT", "/courses/3/reservations", reserved)
    for codes in (["ART1", "ART2", "ART3"], ["OLD1", "NEW1"]):
        await create(client, "/equivalences", {"codes": codes})
    await call(client, "DELETE", "/equivalences/2")
    scale = [{"grade": grade, "passes": grade != "F"} for grade in ("A", "A-", "B", "F")]
    for grades in (scale[:3], scale):
        await call(client, "PUT", "/grade-scale", {"grades": grades})
    groups = [
        {"kind": "pre", "any_of": ["MATH101", "MATH102"], "min_grade": "B"},
        {"kind": "anti", "any_of": ["CS999"]},
    ]
    await call(client, "PUT", "/courses/6/requirements", {"groups": groups})
    for rule, course in (("course_full", 2), ("hold", 3), ("time_conflict", 4)):
        body = {"course_id": course, "rule": rule, "author": "Dean", "reason": "so"}
        await create(client, "/students/5/overrides", body)
    await call(client, "DELETE", "/students/5/overrides/3")
    assert (await enroll(client, 1, 1, 2)).status == 201
    assert (await enroll(client, 2, 1, 3)).status == 201
    assert (await enroll(client, 5, 2)).status == 201
    assert (await enroll(client, 4, 3, 4)).status == 201
    swap = {"drop": [3], "add": [2], "on_full": "waitlist"}
    assert (await enroll(client, 3, 3)).status == 201
    assert (await call(client, "POST", "/students/3/swap", swap)).status == 201
    assert (await join_waitlist(client, 4, 2)).status == 201
    assert (await drop(client, 4, 4)).status == 200
    await call(client, "POST", "/students/2/courses/3/complete", {"passed": True, "grade": "A-"})
    assert (await enroll(client, 6, 5)).status == 201
    await call(client, "POST", "/courses/5/cancel", {})
    assert (await enroll(client, 6, 3)).status == 201
    assert (await call(client, "DELETE", "/students/6/courses/3?as=dropped&reason=error")).status == 200
    await call(client, "POST", "/students/4/courses/3/complete", {"passed": True})
    assert (await call(client, "DELETE", "/students/4/courses/3/completion")).status == 200
    for action in ("cancel", "reopen"):
        assert (await call(client, "POST", f"/courses/6/{action}")).status == 200
    for _ in range(2):
        await create(client, "/students/7/holds", {"reason": "fees", "blocks": ["enroll"]})
    await call(client, "DELETE", "/students/7/holds/2")
    for _ in range(2):
        await new_student(client)
    assert (await enroll(client, 9, 3)).status == 201
    await create(client, "/students/9/holds", {"reason": "fees", "blocks": ["drop"]})
    body = {"student_id": 9, "reason": "twice"}
    assert (await call(client, "POST", "/students/8/merge", body)).status == 200
    await take_in_progress(client)


async def take_in_progress(client: Client) -> None:
    """Enroll students 10 and 11 in course 7 and in course 8, which needs it, and let student 11 drop course 7."""
    for code, half in (("2035S", ("2035-01-10", "2035-06-30")), ("2035F", ("2035-09-01", "2035-12-18"))):
        await create(client, "/terms", {"code": code, "name": code, "starts_on": half[0], "ends_on": half[1]})
    early, late = await new_course(client, code="EARLY", term_id=2), await new_course(client, code="LATE", term_id=3)
    groups = [{"kind": "pre", "any_of": ["EARLY"], "in_progress": True}]
    await call(client, "PUT", f"/courses/{late}/requirements", {"groups": groups})
    for student in [await new_student(client) for _ in range(2)]:
        for course in (early, late):
            assert (await enroll(client, student, course)).status == 201
    assert (await drop(client, student, early)).status == 200


STUDENTS = "every student, hold, override and enrollment matches its events"
MERGED = "every merged student matches the events"
COURSES = "every course matches its events, requirements included"
TERMS = "every term matches its events"
INSTRUCTORS = "every instructor matches the events"
VALID = "every student, instructor, course and term is valid"
GAPS = "the positions of the events are contiguous from 1"
GRADES = "the grade scale matches its events"
EQUIVALENCES = "every set of equivalent codes matches its events"
DUPLICATES = "nobody has a seat or a place beside a seat in another offering of the code, unless edited since"
SEQUENCES = "every sequence is ahead of the ids in its table"
BLOCKED = "every blocked student is refused, until recheck_at at the latest"
RESERVED = "every counter of reserved seats equals the number of students who have one"
LOST = "every enrolled student who has lost a requirement is marked, and nobody else, unless edited since"
COUNTERS = "every seat counter equals the number of seated students"

CORRUPTIONS = {
    "a lost requirement without a mark": (LOST, "UPDATE student_courses SET requirement_lost = false"),
    "a mark without a lost requirement": (
        LOST,
        "UPDATE student_courses SET requirement_lost = true WHERE student_id = 10 AND course_id = 8",
    ),
    "a mark of a student who left": (
        LOST,
        "UPDATE student_courses SET requirement_lost = true WHERE student_id = 11 AND course_id = 7",
    ),
    "a mark that no event explains": (
        STUDENTS,
        "UPDATE student_courses SET requirement_lost = true WHERE student_id = 10 AND course_id = 8",
    ),
    "an event of a lost requirement that is met": (
        STUDENTS,
        "UPDATE events SET type = 'enrollment.requirement_met' WHERE type = 'enrollment.requirement_lost'",
    ),
    "a requirement that may no longer be in progress": (COURSES, "UPDATE requirements SET in_progress = false"),
    "a capacity that was exceeded from the start": (
        "nobody was seated above the capacity at that time, except by an override",
        """
        UPDATE courses SET capacity = 1 WHERE id = 1;
        UPDATE events SET after = replace(after::text, '"capacity":2', '"capacity":1')::json
        """,
    ),
    "a free seat beside a waitlist": (
        "no seat is free while an unjudged student is waitlisted",
        "UPDATE courses SET capacity = 9 WHERE id = 2",
    ),
    "a blocked student without a reason": (
        BLOCKED,
        "UPDATE student_courses SET recheck_at = '9999-12-31Z' WHERE status = 'waitlisted'",
    ),
    "a recheck that comes too late": (
        BLOCKED,
        """
        INSERT INTO holds (student_id, reason, blocks_enroll, blocks_drop, ends_at, created_at)
        VALUES (4, 'fees', true, false, now() + interval '1 hour', now());
        UPDATE student_courses SET recheck_at = now() + interval '2 hours' WHERE student_id = 4 AND course_id = 2
        """,
    ),
    "meetings that clash": (
        "nobody is seated in courses that clash, unless they were edited since",
        "UPDATE courses SET meetings = (SELECT meetings FROM courses WHERE id = 1) WHERE id = 2",
    ),
    "two seats in one code": (
        DUPLICATES,
        "UPDATE courses SET section = '2', code = (SELECT code FROM courses WHERE id = 1) WHERE id = 2",
    ),
    "a waitlist place beside a seat in the code": (
        DUPLICATES,
        """
        UPDATE courses SET code = (SELECT code FROM courses WHERE id = 3) WHERE id = 2;
        UPDATE student_courses SET swap_drops = NULL WHERE status = 'waitlisted'
        """,
    ),
    "two seats in equivalent codes": (
        DUPLICATES,
        """
        INSERT INTO equivalences (id, created_at) VALUES (9, now());
        INSERT INTO equivalent_codes SELECT 9, code FROM courses WHERE id IN (1, 2)
        """,
    ),
    "a missing code of a set": (EQUIVALENCES, "DELETE FROM equivalent_codes WHERE code = 'ART1'"),
    "a missing set": (EQUIVALENCES, "DELETE FROM equivalences"),
    "a set without events": (
        EQUIVALENCES,
        """
        INSERT INTO equivalences (id, created_at) VALUES (9, now());
        INSERT INTO equivalent_codes VALUES (9, 'X1'), (9, 'X2')
        """,
    ),
    "an event of a set that is missing": (
        EQUIVALENCES,
        "UPDATE events SET type = 'equivalence.deleted' WHERE type = 'equivalence.created'",
    ),
    "a missing grade": (GRADES, "DELETE FROM grades WHERE grade = 'B'"),
    "grades in another order": (GRADES, "UPDATE grades SET number = 9 WHERE number = 1"),
    "a grade that passes no more": (GRADES, "UPDATE grades SET passes = false WHERE grade = 'A'"),
    "a grade scale without events": (GRADES, "DELETE FROM events WHERE type = 'grade_scale.set'"),
    "a minimum grade": (COURSES, "UPDATE requirements SET min_grade = 'A' WHERE kind = 'pre'"),
    "reservations": (COURSES, "UPDATE courses SET reservations = '[]' WHERE id = 3"),
    "reservations without events": (
        COURSES,
        """UPDATE courses SET reservations = '[{"group":"a","seats":1,"until":null}]' WHERE id = 6""",
    ),
    "the counter of reserved seats": (RESERVED, "UPDATE courses SET reserved_taken = NULL WHERE id = 3"),
    "a counter of reserved seats that nobody has": (
        RESERVED,
        """UPDATE courses SET reserved_taken = '{"a":1}' WHERE id = 1""",
    ),
    "a reserved seat": (RESERVED, f"UPDATE student_courses SET reserved_group = NULL WHERE {PAIR.format(3, 3)}"),
    "a reserved seat of another group": (
        RESERVED,
        f"UPDATE student_courses SET reserved_group = 'b' WHERE {PAIR.format(3, 3)}",
    ),
    "a reserved seat of a student who left": (
        RESERVED,
        f"UPDATE student_courses SET reserved_group = 'a' WHERE {PAIR.format(4, 4)}",
    ),
    "an event with other reservations": (
        COURSES,
        """
        UPDATE events SET after = '{"reservations":[],"version":4}' WHERE type = 'course.reservations_set'
        """,
    ),
    "a section": (COURSES, "UPDATE courses SET section = '9' WHERE id = 3"),
    "a limit below what a student has": (
        "nobody has credits above the limit, unless they were edited since",
        "UPDATE terms SET max_credits = 5.5",
    ),
    "a capacity that is raised": (COURSES, "UPDATE courses SET capacity = 7 WHERE id = 3"),
    "a missing capacity": (COURSES, "UPDATE courses SET capacity = NULL WHERE id = 3"),
    "a missing waitlist capacity": (COURSES, "UPDATE courses SET waitlist_capacity = NULL WHERE id = 2"),
    "a tombstone of a course that exists": (
        "nothing that has a tombstone exists",
        "INSERT INTO tombstones (resource, id, deleted_at) VALUES ('course', 1, now())",
    ),
    "a merged student whom nobody has merged": (
        MERGED,
        "INSERT INTO merged_students (student_id, merged_into, merged_at) VALUES (99, 1, now())",
    ),
    "a merged student who is missing": (MERGED, "DELETE FROM merged_students"),
    "a merge into another student": (MERGED, "UPDATE merged_students SET merged_into = 1"),
    "a moved enrollment that joined now": (
        STUDENTS,
        f"UPDATE student_courses SET joined_at = now() WHERE {PAIR.format(8, 3)}",
    ),
    "a moved enrollment in another place": (
        STUDENTS,
        f"UPDATE student_courses SET joined_position = 1 WHERE {PAIR.format(8, 3)}",
    ),
    "a moved hold of another student": (STUDENTS, "UPDATE holds SET student_id = 6 WHERE student_id = 8"),
    "an annulled course that is withdrawn": (
        STUDENTS,
        f"UPDATE student_courses SET status = 'withdrawn' WHERE {PAIR.format(6, 3)}",
    ),
    "a removed completion that is still there": (
        STUDENTS,
        f"UPDATE student_courses SET status = 'completed', passed = true WHERE {PAIR.format(4, 3)}",
    ),
    "a reopened course that is cancelled": (COURSES, "UPDATE courses SET status = 'cancelled' WHERE id = 6"),
    "a cancelled course that is open": (COURSES, "UPDATE courses SET status = 'open' WHERE id = 5"),
    "an open course that is cancelled": (COURSES, "UPDATE courses SET status = 'cancelled' WHERE id = 4"),
    "a title": (COURSES, "UPDATE courses SET title = 'Another' WHERE id = 3"),
    "a code": (COURSES, "UPDATE courses SET code = 'OTHER' WHERE id = 3"),
    "credits": (COURSES, "UPDATE courses SET credits = 2.5 WHERE id = 2"),
    "the term of a course": (COURSES, "UPDATE courses SET term_id = NULL WHERE id = 2"),
    "meetings": (COURSES, "UPDATE courses SET meetings = '[]' WHERE id = 2"),
    "invalid meetings": (VALID, """UPDATE courses SET meetings = '[{"day": "moon"}]' WHERE id = 2"""),
    "an external id": (COURSES, "UPDATE courses SET external_id = NULL WHERE id = 3"),
    "a course's version": (COURSES, "UPDATE courses SET version = 2 WHERE id = 3"),
    "a course without events": (COURSES, "INSERT INTO courses (code, title) VALUES ('X', 'X')"),
    "a missing course": (COURSES, "DELETE FROM courses WHERE id = 6"),
    "the counter of seats": (COUNTERS, "UPDATE courses SET seats_taken = 1 WHERE id = 1"),
    "the counter of the waitlist": (COUNTERS, "UPDATE courses SET waitlisted = 1 WHERE id = 2"),
    "a missing requirement": (COURSES, "DELETE FROM requirements WHERE code = 'MATH102'"),
    "a requirement without events": (COURSES, "INSERT INTO requirements VALUES (1, 'pre', 1, 'MATH101')"),
    "the kind of a requirement": (COURSES, "UPDATE requirements SET kind = 'co' WHERE kind = 'anti'"),
    "the code of a requirement": (COURSES, "UPDATE requirements SET code = 'CS998' WHERE kind = 'anti'"),
    "the deadline to enroll": (TERMS, "UPDATE terms SET enroll_until = enroll_until + interval '1 microsecond'"),
    "a missing deadline": (TERMS, "UPDATE terms SET withdraw_until = NULL"),
    "the end of a term": (TERMS, "UPDATE terms SET ends_on = ends_on + 1"),
    "the parent of a term": (TERMS, "UPDATE terms SET parent_id = id"),
    "a part of a part": ("every part of a term lies within a whole term", "UPDATE terms SET parent_id = id"),
    "the credit limit of a term": (TERMS, "UPDATE terms SET max_credits = 6.5"),
    "a term without events": (
        TERMS,
        "INSERT INTO terms (code, name, starts_on, ends_on) VALUES ('X', 'X', now(), now())",
    ),
    "a missing hold": (STUDENTS, "DELETE FROM holds WHERE id = 1"),
    "a hold that blocks more": (STUDENTS, "UPDATE holds SET blocks_drop = true WHERE id = 1"),
    "an ended hold that is in force": (STUDENTS, "UPDATE holds SET ends_at = NULL WHERE id = 2"),
    "another student's hold": (STUDENTS, "UPDATE holds SET student_id = 6 WHERE id = 1"),
    "a hold without events": (
        STUDENTS,
        """
        INSERT INTO holds (student_id, reason, blocks_enroll, blocks_drop, created_at)
        VALUES (1, 'fees', true, false, now())
        """,
    ),
    "an override that can be used again": (STUDENTS, "UPDATE overrides SET used_at = NULL WHERE id = 1"),
    "an override that was never used": (STUDENTS, "UPDATE overrides SET used_at = now() WHERE id = 2"),
    "the time at which an override was used": (
        STUDENTS,
        "UPDATE overrides SET used_at = used_at - interval '1 hour' WHERE id = 1",
    ),
    "a missing override": (STUDENTS, "DELETE FROM overrides WHERE id = 2"),
    "the rule of an override": (STUDENTS, "UPDATE overrides SET rule = 'waitlist_full' WHERE id = 2"),
    "the end of an override": (STUDENTS, "UPDATE overrides SET expires_at = NULL WHERE id = 3"),
    "the author of an override": (STUDENTS, "UPDATE overrides SET author = 'Nobody' WHERE id = 2"),
    "the course of an override": (STUDENTS, "UPDATE overrides SET course_id = 6 WHERE id = 2"),
    "a seat without its override": (
        STUDENTS,
        f"UPDATE student_courses SET override_id = NULL WHERE {PAIR.format(5, 2)}",
    ),
    "a seat with another override": (STUDENTS, f"UPDATE student_courses SET override_id = 2 WHERE {PAIR.format(5, 2)}"),
    "an enrollment that is dropped": (
        STUDENTS,
        f"""
        UPDATE student_courses SET status = 'dropped' WHERE {PAIR.format(1, 1)};
        UPDATE courses SET seats_taken = seats_taken - 1 WHERE id = 1
        """,
    ),
    "a missing enrollment": (STUDENTS, f"DELETE FROM student_courses WHERE {PAIR.format(4, 4)}"),
    "an enrollment without events": (
        STUDENTS,
        """
        INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
        VALUES (7, 3, 'withdrawn', 5, now(), now())
        """,
    ),
    "a course that is failed": (STUDENTS, f"UPDATE student_courses SET passed = false WHERE {PAIR.format(2, 3)}"),
    "a grade": (STUDENTS, f"UPDATE student_courses SET grade = 'A' WHERE {PAIR.format(2, 3)}"),
    "a waitlist in another order": (
        STUDENTS,
        "UPDATE student_courses SET joined_position = 1 WHERE status = 'waitlisted' AND student_id = 4",
    ),
    "the time at which a student joined": (
        STUDENTS,
        f"UPDATE student_courses SET joined_at = joined_at - interval '1 day' WHERE {PAIR.format(4, 2)}",
    ),
    "a swap without its drops": (STUDENTS, f"UPDATE student_courses SET swap_drops = NULL WHERE {PAIR.format(3, 2)}"),
    "a student's version": (STUDENTS, "UPDATE students SET version = 3 WHERE id = 1"),
    "a student without events": (
        STUDENTS,
        "INSERT INTO students (given_name, family_name, email) VALUES ('A', 'B', 'a@b')",
    ),
    "a missing student": (STUDENTS, "DELETE FROM students WHERE id = 7"),
    "an invalid e-mail address": (VALID, "UPDATE students SET email = 'ada' WHERE id = 1"),
    "an invalid name": (VALID, "UPDATE students SET given_name = '' WHERE id = 1"),
    "a refusal of a student who does not exist": (
        "every refusal is of a student who exists",
        """
        INSERT INTO refusals (student_id, course_id, action, reasons, request_id, occurred_at)
        VALUES (999, 1, 'enroll', '[]', 'r', now())
        """,
    ),
    "the e-mail address of another student": (
        "no two students have the same e-mail address",
        """
        DROP INDEX students_email_key;
        UPDATE students SET email = (SELECT upper(email) FROM students WHERE id = 2) WHERE id = 1
        """,
    ),
    "an event with another state": (
        STUDENTS,
        """UPDATE events SET after = '{"status":"completed","passed":true,"grade":"A"}'
           WHERE type = 'enrollment.completed'""",
    ),
    "an event with another state before": (
        STUDENTS,
        """UPDATE events SET before = '{"status":"waitlisted"}' WHERE type = 'enrollment.completed'""",
    ),
    "an event in the middle of a history": (
        COURSES,
        """UPDATE events SET after = replace(after::text, '"capacity":5', '"capacity":4')::json
           WHERE type = 'course.updated'""",
    ),
    "an event that leaves a field out": (
        COURSES,
        """UPDATE events SET after = (after::jsonb - 'title')::json
           WHERE type = 'course.updated' AND after -> 'title' IS NOT NULL""",
    ),
    "an event that names other fields": (
        STUDENTS,
        """UPDATE events SET after = '{"fields":["max_credits"],"version":2}' WHERE type = 'student.updated'""",
    ),
    "a malformed event": (
        COURSES,
        """UPDATE events SET after = '{"groups":[1],"version":1}', before = '[]'
           WHERE type = 'course.requirements_set'""",
    ),
    "a malformed event of a hold": (
        STUDENTS,
        """UPDATE events SET after = '{"hold_id":[]}' WHERE type = 'hold.ended'""",
    ),
    "the type of an event": (
        STUDENTS,
        "UPDATE events SET type = 'enrollment.withdrawn' WHERE type = 'enrollment.dropped' AND student_id = 4",
    ),
    "the student of an event": (STUDENTS, "UPDATE events SET student_id = 6 WHERE type = 'hold.ended'"),
    "the course of an event": (
        STUDENTS,
        "UPDATE events SET course_id = 6 WHERE type = 'enrollment.enrolled' AND student_id = 2 AND course_id = 1",
    ),
    "the term of an event": (TERMS, "UPDATE events SET term_id = 2 WHERE type = 'term.updated'"),
    "the time at which an override was used, in its event": (
        STUDENTS,
        "UPDATE events SET occurred_at = now() WHERE type = 'override.used'",
    ),
    "a missing event": (GAPS, "DELETE FROM events WHERE type = 'override.ended'"),
    "two events in the other order": (
        STUDENTS,
        """
        UPDATE events AS one
        SET (type, before, after) = (
            SELECT type, before, after
            FROM events AS other
            WHERE other.student_id = 2 AND other.course_id = 3 AND other.position <> one.position
        )
        WHERE student_id = 2 AND course_id = 3
        """,
    ),
    "a missing newest event": (
        STUDENTS,
        "DELETE FROM events WHERE position = (SELECT max(position) FROM events)",
    ),
    "an instructor's version": (INSTRUCTORS, "UPDATE instructors SET version = 3 WHERE id = 2"),
    "an instructor without events": (INSTRUCTORS, "INSERT INTO instructors (sourced_id, given_name) VALUES ('x', 'A')"),
    "the events of a missing instructor": (
        INSTRUCTORS,
        "DELETE FROM course_instructors WHERE instructor_id = 1; DELETE FROM instructors WHERE id = 1",
    ),
    "an event of another instructor": (
        INSTRUCTORS,
        """UPDATE events SET after = '{"instructor_id":1,"fields":["family_name"],"version":2}'
           WHERE type = 'instructor.updated'""",
    ),
    "an instructor who was removed from a course": (
        COURSES,
        "UPDATE course_instructors SET teaches = false WHERE instructor_id = 1",
    ),
    "another primary instructor": (
        COURSES,
        "UPDATE course_instructors SET is_primary = NOT is_primary",
    ),
    "a course without a primary instructor": (
        "exactly one of the instructors of a course is primary",
        "UPDATE course_instructors SET is_primary = false",
    ),
    "an event with other instructors": (
        COURSES,
        """UPDATE events SET after = '{"instructors":[],"version":1}' WHERE type = 'course.instructors_set'""",
    ),
    "an invalid sourced id": (VALID, "UPDATE instructors SET sourced_id = 'a b' WHERE id = 1"),
    "an invalid group": (VALID, "UPDATE students SET groups = ARRAY['a  b'] WHERE id = 1"),
    "a sourced id of two people": (
        "no two people have the same sourced id",
        "UPDATE instructors SET sourced_id = (SELECT sourced_id FROM students WHERE id = 3) WHERE id = 2",
    ),
    "a sequence of instructors": (SEQUENCES, "SELECT setval('instructors_id_seq', 1, false)"),
    "a sequence of students": (SEQUENCES, "SELECT setval('students_id_seq', 3)"),
    "a sequence of courses": (SEQUENCES, "SELECT setval('courses_id_seq', 6, false)"),
    "a sequence of overrides": (SEQUENCES, "ALTER SEQUENCE overrides_id_seq RESTART"),
}


@in_one_loop
@pytest.mark.usefixtures("campus")
async def test_the_campus_violates_no_invariant(shared_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert await check(shared_settings) == 0, capsys.readouterr().out


@in_one_loop
@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_check_finds_a_change_made_past_the_service(
    connection: Connection,
    capsys: pytest.CaptureFixture[str],
    corruption: str,
) -> None:
    sentence, statements = CORRUPTIONS[corruption]

    await connection.execute(statements)

    assert f"FAULT {sentence}" in await checked(connection, capsys)


def test_every_invariant_is_broken_by_some_corruption() -> None:
    assert {sentence for sentence, _ in CORRUPTIONS.values()} == INVARIANTS.keys()


@in_one_loop
@pytest.mark.parametrize(
    ("statements", "fault"),
    [
        (
            "UPDATE courses SET seats_taken = 1 WHERE id = 1",
            "course_id=1, seats_taken=1, seated=2, waitlisted=0, waiting=0",
        ),
        (
            "UPDATE student_courses SET grade = 'A' WHERE grade IS NOT NULL",
            "resource=student 2 in course 3, field=grade, value=A, value_by_events=A-",
        ),
        (
            "DELETE FROM holds WHERE id = 1",
            "resource=hold 1 of student 7, field=row, value=None, value_by_events=present",
        ),
        (
            "UPDATE events SET before = NULL WHERE type = 'term.updated'",
            "position=5, type=term.updated, field=before, value=None, value_by_events=a state",
        ),
        ("UPDATE events SET position = 1000 WHERE position = 2", "after_position=1, next_position=3"),
        ("SELECT setval('students_id_seq', 3)", "sequence=students_id_seq, next_id=4, largest_id=11"),
    ],
)
async def test_check_names_the_rows_that_violate_an_invariant(
    connection: Connection,
    capsys: pytest.CaptureFixture[str],
    statements: str,
    fault: str,
) -> None:
    await connection.execute(statements)

    assert f"      {fault}" in await checked(connection, capsys)
