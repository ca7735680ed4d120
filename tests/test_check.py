"""``check`` on a campus in use: a violation is a fault unless overrides or later edits explain it."""

import asyncio
import os
import sys
from datetime import timedelta

import pytest

from service.check import INVARIANTS, SESSION, check, invariants
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import call, create, drop, enroll, let_holds_end, new_course, new_student, until
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

MONDAY = [{"day": "mon", "start": "09:00", "end": "10:30"}]
TUESDAY = [{"day": "tue", "start": "09:00", "end": "10:30"}]
CLASH, DUPLICATE, OVERLOAD, LOST = [each.note for each in invariants(60.0) if each.note is not None]


async def checked(settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Run the check; return its status and the lines of each fault or note."""
    status = await check(settings)
    return status, [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok ")]


async def new_term(client: Client, **fields: object) -> int:
    body = {"code": "T", "name": "Term", "starts_on": "2036-09-01", "ends_on": "2036-12-18", **fields}
    id: int = (await create(client, "/terms", body))["id"]
    return id


async def override(client: Client, student: int, course: int, rule: str) -> None:
    body = {"course_id": course, "rule": rule, "author": "Dean", "reason": "so"}
    await create(client, f"/students/{student}/overrides", body)


async def test_a_clash_caused_by_a_later_edit_is_a_note(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = await new_course(client, meetings=MONDAY), await new_course(client, meetings=TUESDAY)
    student = await new_student(client)
    assert (await enroll(client, student, one, other)).status == 201
    assert await checked(settings, capsys) == (0, [])

    await call(client, "PATCH", f"/courses/{other}", {"meetings": MONDAY})

    found = f"      student_id={student}, course_id={one}, with_course_id={other}, edited=True"
    assert await checked(settings, capsys) == (0, [f"note  {CLASH}", found])


async def test_a_clash_allowed_by_an_override_is_not_reported(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = await new_course(client, meetings=MONDAY), await new_course(client, meetings=MONDAY)
    student = await new_student(client)
    await override(client, student, other, "time_conflict")
    assert (await enroll(client, student, one, other)).status == 409
    assert (await enroll(client, student, one)).status == 201
    assert (await enroll(client, student, other)).status == 201

    assert await checked(settings, capsys) == (0, [])


async def test_a_clash_that_nothing_explains_is_a_fault(
    client: Client, settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = await new_course(client, meetings=MONDAY), await new_course(client, meetings=TUESDAY)
    student = await new_student(client)
    await call(client, "PATCH", f"/courses/{other}", {"meetings": []})
    assert (await enroll(client, student, one, other)).status == 201

    await connection.execute("UPDATE courses SET meetings = (SELECT meetings FROM courses WHERE id = $1)", one)

    status, lines = await checked(settings, capsys)
    assert status == 1
    assert lines[1] == f"      student_id={student}, course_id={one}, with_course_id={other}, edited=False"


@pytest.mark.parametrize("edited", ["course", "term", "student"])
async def test_credits_above_the_limit_because_of_a_later_edit_are_a_note(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str], edited: str
) -> None:
    term = await new_term(client, max_credits=6)
    courses = [await new_course(client, term_id=term, credits=3) for _ in range(2)]
    student = await new_student(client)
    assert (await enroll(client, student, *courses)).status == 201
    assert await checked(settings, capsys) == (0, [])
    path, changes, numbers = {
        "course": (f"/courses/{courses[0]}", {"credits": 3.5}, "held=6.5, allowed=6.0"),
        "term": (f"/terms/{term}", {"max_credits": 5.5}, "held=6.0, allowed=5.5"),
        "student": (f"/students/{student}", {"max_credits": 4}, "held=6.0, allowed=4.0"),
    }[edited]

    assert (await call(client, "PATCH", path, changes)).status == 200

    found = f"      student_id={student}, term_id={term}, {numbers}, edited=True"
    assert await checked(settings, capsys) == (0, [f"note  {OVERLOAD}", found])


@pytest.mark.parametrize("edited", ["code", "equivalence", "term"])
@pytest.mark.parametrize("waitlisted", [True, False])
async def test_a_seat_beside_another_offering_because_of_a_later_edit_is_a_note(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str], edited: str, waitlisted: bool
) -> None:
    terms = [await new_term(client, code=code) for code in "TU"]
    if edited == "term":
        await call(client, "PATCH", f"/terms/{terms[0]}", {"starts_on": "2050-01-01", "ends_on": "2050-01-02"})
    codes = ("C1", "C1" if edited == "term" else "C2")
    one, other = [
        await new_course(client, code=code, term_id=term, capacity=capacity)
        for code, term, capacity in zip(codes, terms, (0 if waitlisted else 1, 1), strict=True)
    ]
    student = await new_student(client)
    body = {"course_ids": [one, other], "on_full": "waitlist"}
    assert (await call(client, "POST", f"/students/{student}/enroll", body)).status == 201
    assert await checked(settings, capsys) == (0, [])

    if edited == "code":
        await call(client, "PATCH", f"/courses/{other}", {"code": "c1"})
    elif edited == "equivalence":
        await create(client, "/equivalences", {"codes": ["c1", "c2"]})
    else:
        await call(client, "PATCH", f"/terms/{terms[0]}", {"starts_on": "2036-09-01"})

    status = "waitlisted" if waitlisted else "enrolled"
    found = f"      student_id={student}, course_id={one}, status={status}, with_course_id={other}, edited=True"
    assert await checked(settings, capsys) == (0, [f"note  {DUPLICATE}", found])


async def test_credits_above_the_limit_allowed_by_an_override_are_not_reported(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    term = await new_term(client, max_credits=3)
    course = await new_course(client, term_id=term, credits=4)
    student = await new_student(client)
    await override(client, student, course, "credit_limit")
    assert (await enroll(client, student, course)).status == 201

    assert await checked(settings, capsys) == (0, [])


async def test_a_blocked_student_beside_a_free_seat_is_not_a_fault(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    course = await new_course(client, capacity=0)
    student = await new_student(client)
    await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course], "on_full": "waitlist"})
    await create(client, f"/students/{student}/holds", {"reason": "fees", "blocks": ["enroll"]})
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})

    assert await checked(settings, capsys) == (0, [])


@pytest.mark.parametrize(("ago", "status"), [(timedelta(seconds=1), 0), (timedelta(hours=1), 1)])
async def test_a_student_made_eligible_by_the_clock_may_wait_for_the_next_sweep_and_no_longer(
    client: Client,
    settings: Settings,
    connection: Connection,
    capsys: pytest.CaptureFixture[str],
    ago: timedelta,
    status: int,
) -> None:
    course = await new_course(client, capacity=0)
    student = await new_student(client)
    await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course], "on_full": "waitlist"})
    await create(client, f"/students/{student}/holds", {"reason": "fees", "blocks": ["enroll"]})
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})

    await let_holds_end(connection, ago)

    ended, lines = await checked(settings, capsys)
    assert ended == status
    assert lines[1:] == ([f"      course_id={course}, student_id={student}"] if status else [])


async def test_retaken_seats_a_lowered_capacity_and_an_override_are_not_an_oversell(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    course = await new_course(client, capacity=2)
    students = [await new_student(client) for _ in range(5)]
    for student in students[:2]:
        assert (await enroll(client, student, course)).status == 201
    await drop(client, students[0], course)
    assert (await enroll(client, students[2], course)).status == 201
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})
    await override(client, students[3], course, "course_full")
    assert (await enroll(client, students[3], course)).status == 201
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 4})
    assert (await enroll(client, students[4], course)).status == 201

    assert await checked(settings, capsys) == (0, [])


async def test_an_oversell_is_found_even_if_the_capacity_was_larger_before_and_after(
    client: Client, settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    course = await new_course(client, capacity=5)
    students = [await new_student(client) for _ in range(2)]
    for capacity in (2, 5):
        await call(client, "PATCH", f"/courses/{course}", {"capacity": capacity})
        if capacity == 2:
            for student in students:
                assert (await enroll(client, student, course)).status == 201
    await connection.execute("""UPDATE events SET after = replace(after::text, '"capacity":2', '"capacity":1')::json""")

    status, lines = await checked(settings, capsys)

    oversold = f"student_id={students[1]}, position=6, seats_taken=2, capacity=1"
    assert status == 1
    assert [line for line in lines if "seats_taken" in line] == [f"      course_id={course}, {oversold}"]


async def test_a_check_that_takes_too_long_is_stopped_and_leaves_no_session_behind(
    client: Client, settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await new_course(client)
    await connection.execute("BEGIN")
    await connection.execute("LOCK TABLE events")

    status = await check(settings.model_copy(update={"check_timeout": 0.5}))

    out, error = capsys.readouterr()
    assert status == 1
    first = [*INVARIANTS][:2]
    assert out.splitlines() == [f"ok    {sentence}" for sentence in first], "the invariants checked until then"
    assert error == "error: The check took longer than 0.5 seconds. Set CHECK_TIMEOUT to allow more.\n"
    await connection.execute("ROLLBACK")

    async def is_gone() -> bool:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
        count: int = await connection.fetchval(sessions, SESSION["application_name"])
        return count == 0

    await until(is_gone, "the end of the session")


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_a_check_shows_its_progress_only_on_a_terminal(database_url: str, is_terminal: bool) -> None:
    terminal, standard_error = os.openpty() if is_terminal else os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service",
            "check",
            stdout=asyncio.subprocess.PIPE,
            stderr=standard_error,
            env={**os.environ, "DATABASE_URL": database_url},
        )
        out, _ = await process.communicate()
        os.write(standard_error, b"end")
        shown = ""
        while not shown.endswith("end"):
            shown += os.read(terminal, 65_536).decode()
    finally:
        os.close(terminal)
        os.close(standard_error)

    assert process.returncode == 0
    assert [line.partition(" ")[0] for line in out.decode().splitlines()] == ["ok"] * len(INVARIANTS)
    if is_terminal:
        assert [sentence for sentence in INVARIANTS if f"\r\x1b[K      {sentence} (statement 1)" not in shown] == []
        assert shown.endswith("\r\x1b[Kend"), "nothing is left of it"
    else:
        assert shown == "end"
