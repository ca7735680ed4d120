"""Batches that are decided without the write lock: their cost, and other writers in the meantime."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from service import registrar
from service.check import INVARIANTS
from service.database import Database
from service.errors import EnrollmentRefused, OutcomeUnknown, UnknownCourse
from service.registrar import Registrar, load, optimistic, seats
from service.registrar.catalog import AHEAD
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE
from service.registrar.enrollments import Enroll
from service.registrar.resources import Delete
from service.registrar.students import STUDENT
from service.registrar.waitlist import Swept
from service.settings import Settings
from sql import Connection
from sql.courses import LOAD_COURSES, SET_SEATS, Course
from sql.enrollments import ADD_ENROLLMENTS, INSERT_ENROLLMENTS
from sql.feed import APPEND_EVENTS, LOCK_FEED
from sql.opening import LOAD_OPENING
from sql.requirements import LOAD_REQUIREMENTS
from tests.campus import busy, everything, registrar_of, until
from tests.test_batches import course, drop, edit, enroll, hold, instructor, student, teach

pytestmark = pytest.mark.not_on_citus("every batch takes the lock first")

STUDENTS = range(1, 10)
FULL, SMALL, LARGE, OTHER = range(1, 5)
"""Courses: the first has no seat, the second has one."""

WRITE, LOCK = INSERT_ENROLLMENTS[:100], LOCK_FEED[:100]
"""The beginnings of the statements that wait for the lock: in an optimistic batch, and in any other batch."""

WAITING = """
SELECT left(query, 100) AS query
FROM pg_stat_activity
WHERE datname = current_database()
    AND application_name = 'enrollment-service'
    AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def offices(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Registrar]]:
    """Yield two registrars on one database, as of two processes, that know the courses and are always optimistic."""
    monkeypatch.setattr(registrar, "LOCK_SECONDS", 0.0)
    made: list[Change[Any]] = [student(id) for id in STUDENTS]
    made += [course(FULL, capacity=0), course(SMALL, capacity=1), course(LARGE, capacity=None), course(OTHER)]
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(registrar_of(settings)) for _ in range(2)]
        await found[0].submit_all(made)
        await know_the_courses(found)
        yield found


async def know_the_courses(offices: Sequence[Registrar]) -> None:
    """Let each process load every course by changes that are refused."""
    for office in offices:
        for id in (FULL, SMALL, LARGE, OTHER):
            [outcome] = await office.submit_all([Enroll(origin=Origin("r"), student_id=99, course_ids=(id,))])
            assert isinstance(outcome, Exception)


async def waiting(connection: Connection, count: int) -> list[str]:
    """Wait until ``count`` sessions of the service wait for a lock, and return their statements."""

    async def wait() -> bool:
        return len(await connection.fetch(WAITING)) == count

    await until(wait, f"{count} sessions that wait for a lock")
    return [row["query"] for row in await connection.fetch(WAITING)]


async def assert_whole(connection: Connection) -> None:
    for invariant, find in INVARIANTS.items():
        assert list(await find(connection)) == [], invariant


async def statuses(connection: Connection) -> list[tuple[int, int, str]]:
    rows = await connection.fetch("SELECT student_id, course_id, status FROM student_courses ORDER BY 1, 2")
    return [(row[0], row[1], row[2]) for row in rows]


class Counted(Registrar):
    """A registrar whose statements have all been counted when it returns: the driver counts in the next turn of the loop."""

    async def submit_all(self, changes: Sequence[Change[Any]]) -> list[Any]:
        outcomes = await super().submit_all(changes)
        await asyncio.sleep(0)
        return outcomes


def statements_of_enroll(registrar: Registrar) -> list[str]:
    """Return the statements of a lone enroll; on Citus, each modifies one table."""
    if registrar._database.citus:
        return [LOCK_FEED, LOAD_OPENING, ADD_ENROLLMENTS, SET_SEATS, APPEND_EVENTS, "COMMIT"]
    return [LOAD_OPENING, INSERT_ENROLLMENTS]


@asynccontextmanager
async def counted(settings: Settings) -> AsyncIterator[tuple[Registrar, list[str]]]:
    """Yield a registrar with one connection, and the list of its statements."""
    sent: list[str] = []
    database = Database(settings.model_copy(update={"pool_size": 1}))
    await database.open()
    try:
        async with database.reading() as connection:
            connection.add_query_logger(lambda query: sent.append(query.query))
        yield Counted(database, settings), sent
    finally:
        await database.close()


async def test_a_single_enrollment_takes_two_statements_and_a_single_refusal_one(
    offices: list[Registrar], settings: Settings
) -> None:
    async with counted(settings) as (office, sent):
        await know_the_courses([office])
        await office.submit_all([enroll(9, LARGE)])  # The driver looks up the types once.
        sent.clear()

        [seated] = await office.submit_all([enroll(1, LARGE)])
        assert not isinstance(seated, Exception)
        assert sent == [LOAD_OPENING, INSERT_ENROLLMENTS]
        sent.clear()

        [refused] = await office.submit_all([Enroll(origin=Origin("r"), student_id=1, course_ids=(FULL,))])
        assert isinstance(refused, EnrollmentRefused)
        assert sent == [LOAD_OPENING]


async def test_a_course_is_copied_only_if_another_process_has_changed_its_seats(
    offices: list[Registrar], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    copy = seats.with_counters

    def noted(course: Course, *counters: int) -> Course:
        copied.append(course.id)
        return copy(course, *counters)

    monkeypatch.setattr(load, "with_counters", noted)
    await offices[0].submit_all([enroll(1, LARGE)])
    await offices[1].submit_all([enroll(2, LARGE)])
    assert copied == [LARGE]
    await offices[1].submit_all([enroll(3, LARGE)])
    await offices[1].submit_all([enroll(4, LARGE)])
    assert copied == [LARGE]
    await offices[0].submit_all([enroll(5, LARGE)])
    assert copied == [LARGE, LARGE]
    assert await connection.fetchval("SELECT seats_taken FROM courses WHERE id = $1", LARGE) == 5


async def test_instructors_and_groups_cost_an_enrollment_no_statement(
    offices: list[Registrar], settings: Settings
) -> None:
    async with counted(settings) as (office, sent):
        await office.submit_all([instructor(1), instructor(2), teach(LARGE, 1, 2), edit(STUDENT, 1, groups="a,b")])
        await know_the_courses([office])
        await office.submit_all([enroll(9, LARGE)])
        sent.clear()

        [seated] = await office.submit_all([enroll(1, LARGE)])
        assert not isinstance(seated, Exception)
        assert sent == [LOAD_OPENING, INSERT_ENROLLMENTS]


async def test_a_batch_that_needs_more_than_two_statements_runs_under_the_lock(
    offices: list[Registrar], settings: Settings
) -> None:
    await offices[0].submit_all([enroll(1, LARGE), drop(1, LARGE), enroll(2, FULL), hold(3, "R")])
    async with counted(settings) as (office, sent):
        await know_the_courses([office])
        # A student with a row for the course, a waitlisted one, one with a hold, and a change of another kind.
        for change in (enroll(1, LARGE), enroll(2, LARGE), enroll(3, LARGE), drop(1, LARGE)):
            sent.clear()
            await office.submit_all([change])
            assert LOCK_FEED in sent, change
            assert sent.count(LOCK_FEED) == sent.count("COMMIT") == 1


async def test_a_course_that_the_process_does_not_know_is_loaded_without_the_lock_unless_nothing_is_written(
    offices: list[Registrar], settings: Settings
) -> None:
    async with counted(settings) as (office, sent):
        office._catalog.reads_ahead = False
        # The first batch of a process takes the lock.
        await office.submit_all([enroll(9, OTHER)])
        sent.clear()
        [seated] = await office.submit_all([enroll(1, LARGE)])
        assert not isinstance(seated, Exception)
        assert sent == [LOAD_OPENING, LOAD_COURSES, LOAD_REQUIREMENTS, INSERT_ENROLLMENTS]
        sent.clear()
        [refused] = await office.submit_all([Enroll(origin=Origin("r"), student_id=1, course_ids=(FULL,))])
        assert isinstance(refused, EnrollmentRefused)
        assert LOCK_FEED in sent


async def test_courses_near_a_missing_one_are_read_ahead(offices: list[Registrar], settings: Settings) -> None:
    await offices[0].submit_all([course(id) for id in range(OTHER + 1, 3 * AHEAD)])
    async with counted(settings) as (office, sent):
        await office.submit_all([enroll(9, LARGE)])

        async def statements(course_id: int) -> list[str]:
            sent.clear()
            [seated] = await office.submit_all([enroll(1, course_id)])
            assert not isinstance(seated, Exception)
            return sent

        for id in (OTHER, 10, AHEAD - 1):
            assert await statements(id) == [LOAD_OPENING, INSERT_ENROLLMENTS]
        assert await statements(2 * AHEAD) == [LOAD_OPENING, LOAD_COURSES, LOAD_REQUIREMENTS, INSERT_ENROLLMENTS]
        assert await statements(3 * AHEAD - 1) == [LOAD_OPENING, INSERT_ENROLLMENTS]
        assert set(office._catalog.courses) == {*range(1, AHEAD), *range(2 * AHEAD, 3 * AHEAD)}

        # An edit may name any code: the catalog forgets who names which, and reads it again a block at a time.
        await office.submit_all([edit(COURSE, 20, title="Another one")])
        assert await statements(20) == [LOAD_OPENING, LOAD_COURSES, LOAD_REQUIREMENTS, INSERT_ENROLLMENTS]
        assert await statements(21) == [LOAD_OPENING, INSERT_ENROLLMENTS]
        assert await statements(2 * AHEAD + 1) == [LOAD_OPENING, LOAD_REQUIREMENTS, INSERT_ENROLLMENTS]
        assert await statements(2 * AHEAD + 2) == [LOAD_OPENING, INSERT_ENROLLMENTS]


async def test_a_course_that_changes_while_it_is_read_ahead_is_judged_by_its_new_state(
    offices: list[Registrar], settings: Settings, connection: Connection
) -> None:
    await offices[0].submit_all([course(id) for id in range(OTHER + 1, AHEAD + 3)])
    async with counted(settings) as (office, sent):
        await office.submit_all([enroll(9, LARGE)])
        fetch = optimistic.SingleRead.fetch

        async def overtaken(guard: optimistic.SingleRead, query: str, *args: object) -> Any:
            rows = await fetch(guard, query, *args)
            if query in {LOAD_OPENING, LOAD_COURSES}:
                changed = AHEAD + 1 if query == LOAD_OPENING else AHEAD + 2
                [made] = await offices[0].submit_all([edit(COURSE, changed, capacity=0)])
                assert not isinstance(made, Exception)
            return rows

        sent.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimistic.SingleRead, "fetch", overtaken)
            await office.submit_all([enroll(1, AHEAD)])
        assert LOAD_COURSES in sent
        assert LOCK_FEED in sent
        for id in (AHEAD + 1, AHEAD + 2):
            await office.submit_all([enroll(1, id)])
    assert await statuses(connection) == [
        (1, AHEAD, "enrolled"),
        (1, AHEAD + 1, "waitlisted"),
        (1, AHEAD + 2, "waitlisted"),
        (9, LARGE, "enrolled"),
    ]
    await assert_whole(connection)


async def test_no_more_courses_are_read_ahead_if_many_are_missing(offices: list[Registrar], settings: Settings) -> None:
    await offices[0].submit_all([course(id) for id in range(OTHER + 1, 4 * AHEAD)])
    async with counted(settings) as (office, _):
        wanted = {LARGE, 2 * AHEAD, 3 * AHEAD}
        await office.submit_all([enroll(1, id) for id in wanted])
        known = {*office._catalog.courses}
        assert known > wanted
        assert len({id // AHEAD for id in known - wanted}) == 1
        await office.preview_all([enroll(1, AHEAD)])
        assert {*office._catalog.courses} == known


@pytest.mark.parametrize(
    "change", [edit(COURSE, OTHER, capacity=0), Delete(origin=Origin("r"), resource=COURSE, id=OTHER)]
)
async def test_a_course_that_changes_after_its_seats_are_loaded_is_judged_by_its_new_state(
    offices: list[Registrar], settings: Settings, connection: Connection, change: Change[Any]
) -> None:
    async with counted(settings) as (office, _):
        office._catalog.reads_ahead = False
        await office.submit_all([enroll(9, LARGE)])
        fetch = optimistic.SingleRead.fetch

        async def overtaken(guard: optimistic.SingleRead, query: str, *args: object) -> Any:
            rows = await fetch(guard, query, *args)
            if query == LOAD_OPENING:
                [made] = await offices[0].submit_all([change])
                assert not isinstance(made, Exception)
            return rows

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimistic.SingleRead, "fetch", overtaken)
            seated, refused = await office.submit_all(
                [
                    Enroll(origin=Origin("r"), student_id=1, course_ids=(LARGE,)),
                    Enroll(origin=Origin("r"), student_id=2, course_ids=(OTHER,)),
                ]
            )
    assert not isinstance(seated, Exception)
    assert isinstance(refused, EnrollmentRefused | UnknownCourse)
    assert await statuses(connection) == [(1, LARGE, "enrolled"), (9, LARGE, "enrolled")]
    await assert_whole(connection)


async def test_of_two_processes_that_give_the_last_seat_at_once_one_starts_over_and_refuses(
    offices: list[Registrar], connection: Connection, database_url: str
) -> None:
    async with busy(database_url):
        calls = [
            asyncio.create_task(office.submit_all([Enroll(origin=Origin("r"), student_id=id, course_ids=(SMALL,))]))
            for id, office in enumerate(offices, start=1)
        ]
        # Both processes found the seat free.
        assert await waiting(connection, 2) == [WRITE] * 2
        before = await connection.fetchval("SELECT max(position) FROM events")
    outcomes = [outcome for each in await asyncio.gather(*calls) for outcome in each]

    [refused] = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert isinstance(refused, EnrollmentRefused)
    assert [error.code for error in refused.errors] == ["course_full"]
    assert len(await statuses(connection)) == 1
    assert await connection.fetchval("SELECT max(position) FROM events") == before + 1
    await assert_whole(connection)


@pytest.mark.parametrize(("seconds", "next_statement"), [(60.0, LOCK), (0.0, WRITE)])
async def test_an_overtaken_batch_is_made_once_and_the_next_ones_take_the_lock_for_a_while(
    offices: list[Registrar],
    connection: Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    next_statement: str,
) -> None:
    monkeypatch.setattr(registrar, "LOCK_SECONDS", seconds)
    first, second = offices
    async with busy(database_url):
        overtaking = asyncio.create_task(first.submit_all([enroll(1, LARGE)]))
        await waiting(connection, 1)
        overtaken = asyncio.create_task(second.submit_all([enroll(2, LARGE), enroll(3, OTHER)]))
        assert await waiting(connection, 2) == [WRITE] * 2
    await asyncio.gather(overtaking, overtaken)
    made = [(1, LARGE, "enrolled"), (2, LARGE, "enrolled"), (3, OTHER, "enrolled")]
    assert await statuses(connection) == made

    async with busy(database_url):
        enrolling = asyncio.create_task(second.submit_all([enroll(4, LARGE)]))
        assert await waiting(connection, 1) == [next_statement]
    await enrolling
    assert await statuses(connection) == [*made, (4, LARGE, "enrolled")]
    await assert_whole(connection)


async def test_waitlist_marks_that_a_sweep_writes_in_between_are_kept(
    offices: list[Registrar], connection: Connection, database_url: str
) -> None:
    sweeping, enrolling = offices
    # A blocked student is due to be judged again; the reason is the same, so this makes no event.
    await enrolling.submit_all([enroll(1, SMALL)])
    await enrolling.submit_all([enroll(2, SMALL), hold(2, "R"), edit(COURSE, SMALL, capacity=2)])
    await connection.execute("UPDATE student_courses SET recheck_at = now() WHERE recheck_at IS NOT NULL")
    await know_the_courses(offices)
    before = await connection.fetchval("SELECT max(position) FROM events")

    async with busy(database_url):
        swept = asyncio.create_task(sweeping.sweep())
        assert await waiting(connection, 1) == [LOCK]
        seated = asyncio.create_task(enrolling.submit_all([enroll(3, LARGE)]))
        assert WRITE in await waiting(connection, 2)
    assert await swept == Swept(promoted=0, ended=0)
    [outcome] = await seated
    assert not isinstance(outcome, Exception)

    blocked_until = await connection.fetchval("SELECT recheck_at FROM student_courses WHERE status = 'waitlisted'")
    assert blocked_until.year == 9999, "the sweep has judged the student"
    assert (3, LARGE, "enrolled") in await statuses(connection)
    assert await connection.fetchval("SELECT max(position) FROM events") == before + 1
    await assert_whole(connection)


async def test_a_connection_lost_while_a_batch_is_written_leaves_the_outcome_unknown(
    offices: list[Registrar], connection: Connection, database_url: str
) -> None:
    before = await everything(connection)
    async with busy(database_url):
        enrolling = asyncio.create_task(offices[0].submit_all([enroll(1, LARGE)]))
        assert await waiting(connection, 1) == [WRITE]
        await connection.execute(
            f"SELECT pg_terminate_backend(query) FROM ({WAITING.replace('left(query, 100)', 'pid')}) AS waiting"
        )
        with pytest.raises(OutcomeUnknown):
            await enrolling
    assert await everything(connection) == before

    [outcome] = await offices[0].submit_all([enroll(1, LARGE)])
    assert not isinstance(outcome, Exception)
    assert await statuses(connection) == [(1, LARGE, "enrolled")]
