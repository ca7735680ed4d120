"""The cost of a change with ten times the waitlist, counted in statements and judged students, not in seconds."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from service.database import Database
from service.registrar import Registrar, rules
from service.registrar.application import Application
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE
from service.registrar.enrollments import Drop, Enroll
from service.registrar.equivalences import CreateEquivalence
from service.registrar.holds import EndHold
from service.registrar.resources import Edit
from service.registrar.students import STUDENT
from service.registrar.terms import TERM
from service.settings import Settings
from sql import Connection
from tests import shared
from tests.campus import TABLES

pytestmark, service, client, connection, settings = shared.SERVICE

ORIGIN = Origin("r")
CHAIN = 100_000
"""Promotions allowed in one transaction, in tests that look at a single transaction."""
STUDENTS = """
INSERT INTO students (id, given_name, family_name, email)
SELECT n, 'A', 'B', n || '@campus.example' FROM generate_series(1, $1::bigint) AS n
"""
WAITLISTED = """
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at, recheck_at)
SELECT n, $2::bigint, 'waitlisted', n, now(), now(), CASE WHEN $3 THEN '9999-12-31Z'::timestamptz END
FROM generate_series(1, $1::bigint) AS n
"""


@dataclass
class Cost:
    """The statements sent to the database, and the number of applications judged."""

    statements: int = 0
    judged: int = 0


@dataclass
class Office:
    """A registrar with counters for its work."""

    registrar: Registrar
    connection: Connection
    cost: Cost

    async def cost_of(self, work: Callable[[], Awaitable[object]]) -> Cost:
        """Do some work and return its cost."""
        self.cost.statements = self.cost.judged = 0
        await work()
        return Cost(self.cost.statements, self.cost.judged)

    async def cost_of_change(self, *changes: Change[Any]) -> Cost:
        """Make a batch of changes, none of which may be refused, and return its cost."""

        async def submit() -> None:
            for outcome in await self.registrar.submit_all(changes):
                assert not isinstance(outcome, Exception), outcome

        return await self.cost_of(submit)


Campus = Callable[[int, bool], Awaitable[None]]


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Cost:
    counted = Cost()
    judge = rules.judge

    def counting(application: Application) -> Any:
        counted.judged += 1
        return judge(application)

    monkeypatch.setattr(rules, "judge", counting)
    return counted


@asynccontextmanager
async def office_of(settings: Settings, connection: Connection, cost: Cost, **limits: object) -> AsyncIterator[Office]:
    """Yield a registrar with one connection, on a database without rows."""
    await connection.execute(f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY CASCADE")
    settings = settings.model_copy(update={"pool_size": 1, "promotions_per_transaction": CHAIN, **limits})
    database = Database(settings)
    await database.open()

    def count(_query: object) -> None:
        cost.statements += 1

    try:
        async with database.reading() as lent:
            lent.add_query_logger(count)
        registrar = Registrar(database, settings)
        yield Office(registrar, connection, cost)
        await registrar.close()
    finally:
        await database.close()


async def one_course(connection: Connection, waitlisted: int, *, capacity: int, taken: int, blocked: bool) -> None:
    """Create one course whose first students are waitlisted and the next enrolled; blocked students have a hold."""
    await connection.execute(STUDENTS, waitlisted + taken + 1)
    await connection.execute(
        "INSERT INTO courses (id, code, title, capacity, seats_taken, waitlisted) VALUES (1, 'C', 'T', $1, $2, $3)",
        capacity,
        taken,
        waitlisted,
    )
    await connection.execute(WAITLISTED, waitlisted, 1, blocked)
    await connection.execute(
        """
        INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
        SELECT n, 1, 'enrolled', n, now(), now() FROM generate_series($1::bigint + 1, $2::bigint) AS n
        """,
        waitlisted,
        waitlisted + taken,
    )
    if blocked:
        await connection.execute(
            """
            INSERT INTO holds (id, student_id, reason, blocks_enroll, blocks_drop, created_at)
            SELECT n, n, 'fees', true, false, now() FROM generate_series(1, $1::bigint) AS n
            """,
            waitlisted,
        )


async def many_courses(connection: Connection, courses: int, waitlisted: int, *, closed: bool) -> None:
    """Create a term of courses with a free seat and blocked students; in a closed term nobody has been judged."""
    await connection.execute(STUDENTS, waitlisted)
    await connection.execute(
        """
        INSERT INTO terms (id, code, name, starts_on, ends_on, enroll_until, max_credits)
        VALUES (1, 'T', 'Term', '2036-01-01', '2036-06-01', CASE WHEN $1 THEN '2001-01-01Z'::timestamptz END, 3)
        """,
        closed,
    )
    await connection.execute(
        """
        INSERT INTO courses (id, term_id, code, title, credits, capacity, waitlisted)
        SELECT n, 1, 'C' || n, 'T', 4, 1, $2 FROM generate_series(1, $1::bigint) AS n
        """,
        courses,
        waitlisted,
    )
    await connection.execute(
        """
        INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at, recheck_at)
        SELECT
            s, c, 'waitlisted', c * 100000 + s, now(), now(), CASE WHEN NOT $3 THEN '9999-12-31Z'::timestamptz END
        FROM generate_series(1, $1::bigint) AS c, generate_series(1, $2::bigint) AS s
        """,
        courses,
        waitlisted,
        closed,
    )


async def waitlisted(connection: Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM student_courses WHERE status = 'waitlisted'")
    return count


@pytest.mark.parametrize("size", [200, 1_000])
async def test_ten_times_the_students_to_seat_cost_ten_times_the_judgements_and_hardly_more_statements(
    settings: Settings, connection: Connection, cost: Cost, size: int
) -> None:
    costs = []
    for waiting in (size, 10 * size):
        async with office_of(settings, connection, cost) as office:
            await one_course(connection, waiting, capacity=0, taken=0, blocked=False)
            raised = Edit(origin=ORIGIN, resource=COURSE, id=1, values={"capacity": waiting})
            costs.append(await office.cost_of_change(raised))
            assert await waitlisted(connection) == 0
    few, many = costs
    assert (few.judged, many.judged) == (size, 10 * size)
    # A page of the waitlist is up to twice as long as the previous one, and takes a few statements.
    assert many.statements <= few.statements + 60, costs


@pytest.mark.not_on_citus("Citus refuses the SQL of the test")
async def test_ten_times_the_swaps_that_wait_for_a_seat_cost_hardly_more_statements(
    settings: Settings, connection: Connection, cost: Cost
) -> None:
    costs = []
    for waiting in (50, 500):
        async with office_of(settings, connection, cost) as office:
            await one_course(connection, waiting, capacity=0, taken=0, blocked=False)
            await connection.execute(
                """
                INSERT INTO courses (id, code, title, capacity, seats_taken)
                SELECT 1 + n, 'D' || n, 'T', 1, 1 FROM generate_series(1, $1::bigint) AS n
                """,
                waiting,
            )
            await connection.execute(
                """
                INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
                SELECT n, 1 + n, 'enrolled', $1 + n, now(), now() FROM generate_series(1, $1::bigint) AS n
                """,
                waiting,
            )
            await connection.execute(
                "UPDATE student_courses SET swap_drops = json_build_array(1 + student_id) WHERE course_id = 1"
            )
            raised = Edit(origin=ORIGIN, resource=COURSE, id=1, values={"capacity": waiting})
            costs.append(await office.cost_of_change(raised))
            assert await waitlisted(connection) == 0
    few, many = costs
    assert many.statements <= few.statements + 60, costs


async def enrolling(office: Office, waiting: int) -> Cost:
    """Enroll a newcomer in the free seat beside a waitlist."""
    await one_course(office.connection, waiting, capacity=2, taken=1, blocked=True)
    return await office.cost_of_change(Enroll(origin=ORIGIN, student_id=waiting + 2, course_ids=(1,)))


async def enrolling_again(office: Office, waiting: int) -> Cost:
    """Enroll an enrolled student again, which changes nothing."""
    await one_course(office.connection, waiting, capacity=2, taken=1, blocked=True)
    return await office.cost_of_change(Enroll(origin=ORIGIN, student_id=waiting + 1, course_ids=(1,)))


async def dropping(office: Office, waiting: int) -> Cost:
    """Drop a seat."""
    await one_course(office.connection, waiting, capacity=1, taken=1, blocked=True)
    return await office.cost_of_change(Drop(origin=ORIGIN, student_id=waiting + 1, course_id=1))


async def dropping_reserved(office: Office, waiting: int) -> Cost:
    """Drop one of two reserved seats, for which the last of the waitlist is the only member of the group."""
    await one_course(office.connection, waiting, capacity=2, taken=2, blocked=False)
    await office.connection.execute("UPDATE students SET groups = '{a}' WHERE id >= $1::bigint", waiting)
    await office.connection.execute(
        """
        UPDATE courses
        SET reservations = '[{"group":"a","seats":2,"until":null}]', reserved_taken = '{"a":2}'
        """
    )
    await office.connection.execute(
        """
        UPDATE student_courses
        SET reserved_group = CASE status WHEN 'enrolled' THEN 'a' END,
            recheck_at = CASE status WHEN 'waitlisted' THEN '9999-12-31Z'::timestamptz END,
            blocked_reasons = CASE status WHEN 'waitlisted' THEN '[{"code":"seats_reserved","group":"a","reserved":2}]'::json END
        """
    )
    spent = await office.cost_of_change(Drop(origin=ORIGIN, student_id=waiting + 1, course_id=1))
    assert await waitlisted(office.connection) == waiting - 1
    return spent


async def raising(office: Office, waiting: int) -> Cost:
    """Raise a capacity."""
    await one_course(office.connection, waiting, capacity=1, taken=1, blocked=True)
    raised = Edit(origin=ORIGIN, resource=COURSE, id=1, values={"capacity": 10})
    return await office.cost_of_change(raised)


async def editing_title(office: Office, waiting: int) -> Cost:
    """Edit a field of a course that makes nobody eligible."""
    await one_course(office.connection, waiting, capacity=10, taken=1, blocked=True)
    return await office.cost_of_change(Edit(origin=ORIGIN, resource=COURSE, id=1, values={"title": "Other"}))


async def ending_hold(office: Office, waiting: int) -> Cost:
    """Make one of the blocked students eligible."""
    await one_course(office.connection, waiting, capacity=10, taken=1, blocked=True)
    spent = await office.cost_of_change(EndHold(origin=ORIGIN, student_id=waiting, hold_id=waiting))
    assert await waitlisted(office.connection) == waiting - 1
    return spent


async def renaming_term(office: Office, waiting: int) -> Cost:
    """Edit a field of a term that makes nobody eligible."""
    await many_courses(office.connection, waiting // 5, 5, closed=False)
    return await office.cost_of_change(Edit(origin=ORIGIN, resource=TERM, id=1, values={"name": "Other"}))


async def sweeping_closed_courses(office: Office, waiting: int) -> Cost:
    """Sweep over courses of a closed term, each with a free seat."""
    await many_courses(office.connection, waiting // 5, 5, closed=True)
    return await office.cost_of(office.registrar.sweep)


async def sweeping_blocked_students(office: Office, waiting: int) -> Cost:
    """Sweep over courses with blocked students only."""
    await many_courses(office.connection, waiting // 5, 5, closed=False)
    return await office.cost_of(office.registrar.sweep)


async def sweeping_beside_overrides(office: Office, waiting: int) -> Cost:
    """Sweep over unjudged students whose overrides give no seat: they are for another rule, or expired."""
    await many_courses(office.connection, waiting // 5, 5, closed=True)
    await office.connection.execute("UPDATE courses SET capacity = 0")
    await office.connection.execute(
        """
        INSERT INTO overrides (student_id, course_id, rule, author, reason, created_at, expires_at)
        SELECT
            student_id,
            course_id,
            (ARRAY['course_full', 'enrollment_closed'])[1 + student_id % 2],
            'D',
            'R',
            now(),
            CASE WHEN student_id > 2 THEN now() END
        FROM student_courses
        """
    )
    spent = await office.cost_of(office.registrar.sweep)
    assert spent.statements <= 5, "there is nothing to do"
    return spent


@pytest.mark.parametrize(
    "work",
    [
        enrolling,
        enrolling_again,
        dropping,
        dropping_reserved,
        raising,
        editing_title,
        ending_hold,
        renaming_term,
        sweeping_closed_courses,
        sweeping_blocked_students,
        sweeping_beside_overrides,
    ],
)
async def test_ten_times_the_blocked_students_cost_no_more(
    settings: Settings, connection: Connection, cost: Cost, work: Callable[[Office, int], Awaitable[Cost]]
) -> None:
    costs = []
    for waiting in (500, 5_000):
        async with office_of(settings, connection, cost) as office:
            costs.append(await work(office, waiting))
    few, many = costs
    assert many == few
    assert many.judged <= 1


def limits(count: int) -> list[Change[Any]]:
    """Change the credit limit of each student who is blocked in one of the courses."""
    return [Edit(origin=ORIGIN, resource=STUDENT, id=n, values={"max_credits": 9.0}) for n in range(1, count + 1)]


def drops(count: int) -> list[Change[Any]]:
    """Drop the seat of each course."""
    return [Drop(origin=ORIGIN, student_id=count + n, course_id=n) for n in range(1, count + 1)]


def raises(count: int) -> list[Change[Any]]:
    """Raise the capacity of each course."""
    return [Edit(origin=ORIGIN, resource=COURSE, id=n, values={"capacity": 2}) for n in range(1, count + 1)]


@pytest.mark.parametrize("make", [limits, drops, raises])
async def test_a_batch_of_changes_each_of_which_gives_a_seat_takes_hardly_more_statements_than_a_few(
    settings: Settings, connection: Connection, cost: Cost, make: Callable[[int], list[Change[Any]]]
) -> None:
    costs = []
    for count in (20, 200):
        async with office_of(settings, connection, cost) as office:
            await connection.execute(STUDENTS, 2 * count)
            await connection.execute(
                """
                INSERT INTO courses (id, code, title, capacity, seats_taken, waitlisted)
                SELECT n, 'C' || n, 'T', $2, 1, 1 FROM generate_series(1, $1::bigint) AS n
                """,
                count,
                2 if make is limits else 1,
            )
            await connection.execute(
                """
                INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at, recheck_at)
                SELECT n, n, 'waitlisted', n, now(), now(), CASE WHEN $2 THEN '9999-12-31Z'::timestamptz END
                FROM generate_series(1, $1::bigint) AS n
                UNION ALL
                SELECT $1 + n, n, 'enrolled', $1 + n, now(), now(), NULL FROM generate_series(1, $1) AS n
                """,
                count,
                make is limits,
            )

            costs.append(await office.cost_of_change(*make(count)))
            assert await waitlisted(connection) == 0
    few, many = costs
    assert (few.judged, many.judged) == (20, 200)
    assert many.statements <= few.statements + 60, costs


async def test_ten_times_the_repeated_requests_for_a_waitlist_place_take_no_more_statements(
    settings: Settings, connection: Connection, cost: Cost
) -> None:
    costs = []
    for count in (20, 200):
        async with office_of(settings, connection, cost) as office:
            await one_course(connection, 300, capacity=1, taken=1, blocked=False)
            # Some students leave in between, so the others move up.
            changes: list[Change[Any]] = [
                Drop(origin=ORIGIN, student_id=n, course_id=1) for n in range(1, count // 2, 5)
            ]
            for number in range(count):
                student_id = 300 - number
                repeated = Enroll(origin=ORIGIN, student_id=student_id, course_ids=(1,), on_full="waitlist")
                changes.insert(2 * number, repeated)
            costs.append(await office.cost_of_change(*changes))
    few, many = costs
    assert many == few


async def test_a_relaxed_credit_limit_judges_each_student_once_for_each_course_it_may_help_with(
    settings: Settings, connection: Connection, cost: Cost
) -> None:
    async with office_of(settings, connection, cost) as office:
        await many_courses(connection, 20, 10, closed=False)
        raised = Edit(origin=ORIGIN, resource=TERM, id=1, values={"max_credits": 4})
        spent = await office.cost_of_change(raised)
        # Each of 10 students gets one seat, and is judged once for each course that still has a free seat.
        assert await waitlisted(connection) == 190
        assert spent.judged <= 20 * 10 + 10
        again = await office.cost_of_change(Edit(origin=ORIGIN, resource=TERM, id=1, values={"name": "Other"}))
    assert again.judged == 0


async def test_a_chain_of_promotions_continues_in_the_next_transactions(
    settings: Settings, connection: Connection, cost: Cost
) -> None:
    async with office_of(settings, connection, cost, promotions_per_transaction=100) as office:
        await one_course(connection, 1_000, capacity=0, taken=0, blocked=False)
        raised = Edit(origin=Origin("raise"), resource=COURSE, id=1, values={"capacity": 950})

        [course] = await office.registrar.submit_all([raised])

        assert not isinstance(course, Exception)
        assert course.seats_taken == 100
        while await waitlisted(connection) > 50:
            await office.registrar.submit_all(())
        transactions = await connection.fetch(
            "SELECT count(*), min(request_id) AS by FROM events WHERE type = 'enrollment.promoted' GROUP BY xmin::text"
        )
        assert max(row["count"] for row in transactions) == 100
        assert {row["by"] for row in transactions} == {"raise"}
        order = await connection.fetch(
            "SELECT student_id FROM events WHERE type = 'enrollment.promoted' ORDER BY position"
        )
        assert [row[0] for row in order] == list(range(1, 951))


async def test_ten_times_the_courses_of_a_partial_request_cost_ten_times_the_corequisites_judged(
    settings: Settings, connection: Connection, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = 0
    corequisite_missing = rules.corequisite_missing

    def counting(application: Application) -> Any:
        nonlocal judged
        judged += 1
        return corequisite_missing(application)

    monkeypatch.setattr(rules, "corequisite_missing", counting)
    counts = []
    for size in (10, 100):
        async with office_of(settings, connection, cost) as office:
            await connection.execute(STUDENTS, 1)
            await connection.execute(
                """
                INSERT INTO courses (id, code, title, capacity)
                SELECT n, 'C' || n, 'T', CASE WHEN n < $1 THEN 9 ELSE 0 END FROM generate_series(1, $1::bigint) AS n
                """,
                size,
            )
            # Each course requires the next one as a corequisite; the last is full, so one after the other is refused.
            await connection.execute(
                """
                INSERT INTO requirements (course_id, kind, group_number, code)
                SELECT n, 'co', 1, 'C' || n + 1 FROM generate_series(1, $1::bigint - 1) AS n
                """,
                size,
            )
            enrolling = Enroll(origin=ORIGIN, student_id=1, course_ids=tuple(range(1, size + 1)), mode="partial")
            judged = 0
            [results] = await office.registrar.submit_all([enrolling])
            assert not isinstance(results, Exception)
            assert {result.outcome for result in results} == {"refused"}
            counts.append(judged)
    few, many = counts
    assert many <= 12 * few, counts


async def test_an_enroll_pays_no_statement_for_sections_and_equivalent_codes_once_the_catalog_has_them(
    settings: Settings, connection: Connection, cost: Cost
) -> None:
    async with office_of(settings, connection, cost) as office:
        await connection.execute(STUDENTS, 4)
        await connection.execute(
            "INSERT INTO courses (id, code, title) SELECT n, 'C' || n, 'T' FROM generate_series(1, 4) AS n"
        )

        def take(student: int, course: int) -> Awaitable[Cost]:
            return office.cost_of_change(Enroll(origin=Origin("r"), student_id=student, course_ids=(course,)))

        for course in (1, 2, 3, 4):
            await take(1, course)
        first = await take(2, 1)
        assert [await take(2, course) for course in (2, 3)] == [first, first], "seats in other courses cost nothing"

        await office.cost_of_change(CreateEquivalence(origin=Origin("r"), codes=("C1", "X")))

        assert await take(3, 2) == Cost(first.statements + 1, first.judged), "the sets are loaded again, once"
        assert [await take(3, course) for course in (3, 4)] == [first, first]


@pytest.mark.parametrize("waitlisted", [20, 200])
async def test_a_set_of_equivalent_codes_has_only_those_judged_again_who_have_a_course_of_it(
    settings: Settings, connection: Connection, cost: Cost, waitlisted: int
) -> None:
    async with office_of(settings, connection, cost) as office:
        await one_course(connection, waitlisted, capacity=5, taken=0, blocked=True)
        await connection.execute("UPDATE holds SET ends_at = now()")
        await connection.execute("INSERT INTO requirements VALUES (1, 'pre', 1, 'NEW')")
        await connection.execute("INSERT INTO courses (id, code, title, seats_taken) VALUES (2, 'OLD', 'T', 2)")
        await connection.execute(
            """
            INSERT INTO student_courses (student_id, course_id, status, passed, joined_position, joined_at, updated_at)
            SELECT n, 2, 'completed', true, n, now(), now() FROM generate_series(11, 12) AS n
            """
        )

        created = await office.cost_of_change(CreateEquivalence(origin=Origin("r"), codes=("new", "old")))

        assert created.judged == 2
        assert await connection.fetchval("SELECT seats_taken FROM courses WHERE id = 1") == 2
