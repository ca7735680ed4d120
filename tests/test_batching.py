"""Natural batching: which changes share a transaction, which are refused, and that each failure stays alone."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from pytest_aiohttp import AiohttpClient

from service import batching
from service.api.keys import REGISTRAR
from service.batching import HTTP_SECONDS, SHARED_CAP, SHARED_CHUNK, Callers, Coalescer, Sharing
from service.errors import (
    DomainError,
    EmailTaken,
    OverrideNotFound,
    StudentNotFound,
    Unavailable,
    UnknownCourse,
    UnknownTerm,
)
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE
from service.registrar.enrollments import Enroll
from service.registrar.overrides import EndOverride
from service.registrar.resources import Create, Delete, Edit, ResourceType
from service.registrar.students import STUDENT, StudentFields
from service.registrar.terms import TERM
from service.registrar.unit_of_work import IdentityMap, UndoLog
from service.settings import Settings
from service.web.turnstile import REFUSALS_PER_TURN, Turnstile
from sql import Connection
from sql.students import Student
from tests.campus import (
    Answer,
    busy,
    call,
    course_fields,
    create,
    drop,
    enroll,
    join_waitlist,
    new_course,
    new_student,
    new_students,
    problem,
    registrar_of,
    served,
    student_fields,
    until,
    waiting_writer,
)
from tests.conftest import Client
from tests.test_database_failure import unavailable


class Runner:
    """A runner that returns each item doubled, once ``go`` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, items: Sequence[int]) -> list[Any]:
        self.batches.append(list(items))
        await self.go.wait()
        if 13 in items:
            raise RuntimeError("the batch fails")
        if 503 in items:
            raise Unavailable("The database is away.")
        return [ValueError(item) if item < 0 else item * 2 for item in items]


def make_coalescer(
    runner: Callable[[Sequence[int]], Awaitable[list[Any]]],
    *,
    cap: int = 4,
    queue: int = 100,
    patience: float = 60,
    everybody: Callers | None = None,
) -> Coalescer[int, int]:
    return Coalescer(runner, cap=cap, queue=queue, patience=patience, chunks=6, everybody=everybody)


async def start(*items: tuple[Coalescer[int, int], int]) -> list[asyncio.Task[int]]:
    tasks = []
    for coalescer, item in items:
        tasks.append(asyncio.create_task(coalescer.submit(item)))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_an_item_runs_at_once_and_later_ones_share_batches_in_order_up_to_the_cap() -> None:
    runner = Runner()
    coalescer = make_coalescer(runner)
    runner.go.clear()
    tasks = await start((coalescer, 1))
    assert runner.batches == [[1]]
    tasks += await start(*((coalescer, item) for item in (7, 3, 9, 2, 8, 4)))
    runner.go.set()
    assert await asyncio.gather(*tasks) == [2, 14, 6, 18, 4, 16, 8]
    assert runner.batches == [[1], [7, 3, 9, 2], [8, 4]]
    assert await coalescer.submit(5) == 10


@pytest.mark.parametrize(("others", "most"), [(0, 2), (100, 5)], ids=["few others", "many others"])
async def test_while_the_next_batch_runs_the_callers_of_the_last_one_are_resolved_in_chunks_or_at_once(
    others: int, most: int
) -> None:
    everybody = Callers(others)
    first, third = Runner(), Runner()
    coalescer = make_coalescer(lambda items: third(items) if 6 in items else first(items), cap=5, everybody=everybody)
    first.go.clear()
    third.go.clear()
    tasks = await start(*((coalescer, item) for item in range(11)))
    first.go.set()
    while not third.batches:
        await asyncio.sleep(0)
    resolved = [1]
    while resolved[-1] < 6:
        await asyncio.sleep(0)
        resolved.append(sum(task.done() for task in tasks))
    assert max(later - earlier for earlier, later in pairwise(resolved)) == most
    third.go.set()
    assert await asyncio.gather(*tasks) == [item * 2 for item in range(11)]
    assert [len(batch) for batch in first.batches + third.batches] == [1, 5, 5]
    assert everybody.count == others


async def test_a_batch_whose_callers_were_all_cancelled_does_not_block_the_next() -> None:
    runner = Runner()
    coalescer = make_coalescer(runner)
    runner.go.clear()
    [task] = await start((coalescer, 1))
    task.cancel()
    await asyncio.wait([task])
    runner.go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not coalescer._answered, "no caller is left"
    assert await coalescer.submit(2) == 4


async def test_an_item_above_the_cap_runs_alone() -> None:
    runner = Runner()
    coalescer: Coalescer[int, int] = Coalescer(runner, cap=4, queue=9, patience=60, size=lambda item: item)
    runner.go.clear()
    tasks = await start((coalescer, 1), (coalescer, 2), (coalescer, 9), (coalescer, 2))
    runner.go.set()
    await asyncio.gather(*tasks)
    assert runner.batches == [[1], [2], [9], [2]]


async def test_a_failed_item_fails_alone_and_a_failed_batch_fails_each_of_its_callers() -> None:
    runner = Runner()
    coalescer = make_coalescer(runner)
    runner.go.clear()
    tasks = await start((coalescer, 1), (coalescer, -2), (coalescer, 3))
    runner.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == 2
    assert isinstance(outcomes[1], ValueError)
    assert outcomes[2] == 6
    runner.go.clear()
    tasks = await start((coalescer, 1), (coalescer, 13), (coalescer, 3))
    runner.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == 2
    assert all(isinstance(outcome, RuntimeError) for outcome in outcomes[1:])
    assert await coalescer.submit(4) == 8


async def test_a_full_queue_refuses_at_once_and_a_long_wait_ends() -> None:
    runner = Runner()
    coalescer = make_coalescer(runner, queue=2, patience=0.05)
    runner.go.clear()
    tasks = await start((coalescer, 1), (coalescer, 2), (coalescer, 3))
    with pytest.raises(Unavailable):
        await coalescer.submit(4)
    await asyncio.wait(tasks[1:])
    assert not tasks[0].done(), "the time limit of the queue does not end a running batch"
    assert [type(task.exception()) for task in tasks[1:]] == [Unavailable, Unavailable]
    runner.go.set()
    assert await tasks[0] == 2
    assert runner.batches == [[1]]


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when the test advances it."""

    now = 0.0

    def time(self) -> float:
        return self.now


def on_clock(test: Callable[[Clock], Awaitable[None]]) -> Callable[[], None]:
    """Run a test on an event loop of its own."""

    def run() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Clock)
            await test(loop)

        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(main())

    return run


async def batches_that_take(clock: Clock, seconds: float, coalescer: Coalescer[int, int], runner: Runner) -> None:
    """Run batches of one item until the coalescer expects each to take this long."""
    for _ in range(40):
        runner.go.clear()
        [task] = await start((coalescer, 1))
        clock.now += seconds
        runner.go.set()
        await task
    runner.batches.clear()


async def refused(coalescer: Coalescer[int, int]) -> Unavailable:
    """Submit an item that is refused on arrival, and return the error."""
    [task] = await start((coalescer, 1))
    assert task.done(), "it waits"
    error = task.exception()
    assert isinstance(error, Unavailable)
    return error


@on_clock
async def test_while_a_batch_hangs_new_items_are_refused_at_once_and_afterwards_they_are_served(
    clock: Clock,
) -> None:
    runner = Runner()
    coalescer = make_coalescer(runner, patience=2)
    runner.go.clear()
    tasks = await start((coalescer, 1))
    clock.now = 1.9
    tasks += await start((coalescer, 2))
    clock.now = 2.1
    assert (await refused(coalescer)).retry_after == 3
    clock.now = 1000.0
    assert (await refused(coalescer)).retry_after == 60
    assert isinstance((await asyncio.gather(tasks[1], return_exceptions=True))[0], Unavailable), (
        "it has waited too long"
    )
    runner.go.set()
    assert await tasks[0] == 2
    assert await coalescer.submit(3) == 6, "the next one begins at once"
    assert runner.batches == [[1], [3]]


@on_clock
async def test_an_item_is_refused_at_once_if_the_full_batches_ahead_of_it_take_too_long(clock: Clock) -> None:
    runner = Runner()
    coalescer = make_coalescer(runner, cap=4, patience=3.5)
    await batches_that_take(clock, 1.0, coalescer, runner)
    runner.go.clear()
    # One batch in flight and two full batches ahead take three seconds; one more would take four.
    tasks = await start(*((coalescer, item) for item in range(13)))
    assert (await refused(coalescer)).retry_after == 4
    tasks[5].cancel()
    runner.go.set()
    await asyncio.wait(tasks)
    assert runner.batches == [[0], [1, 2, 3, 4], [6, 7, 8, 9], [10, 11, 12]]
    assert coalescer.expected_wait(clock.now) == 0
    runner.go.clear()
    tasks = await start((coalescer, 1))
    assert coalescer.expected_wait(clock.now) < 1, "batches have become faster"
    runner.go.set()
    await asyncio.wait(tasks)


@on_clock
async def test_after_a_batch_that_failed_late_items_run_one_by_one_until_they_are_fast_again(clock: Clock) -> None:
    runner = Runner()
    coalescer = make_coalescer(runner, patience=2)
    runner.go.clear()
    [task] = await start((coalescer, 13))
    clock.now += 70
    runner.go.set()
    await asyncio.wait([task])
    runner.go.clear()
    tasks = await start((coalescer, 1))
    await refused(coalescer)
    for _ in range(20):
        runner.go.set()
        await asyncio.wait(tasks)
        runner.go.clear()
        tasks = await start((coalescer, 1))
    tasks += await start((coalescer, 2))
    runner.go.set()
    assert await asyncio.gather(*tasks) == [2, 4]


@on_clock
async def test_while_the_database_is_away_one_batch_at_a_time_tries_it_and_new_items_are_refused(
    clock: Clock,
) -> None:
    runner = Runner()
    coalescer = make_coalescer(runner, patience=2)
    for _ in range(3):
        runner.go.clear()
        tasks = await start((coalescer, 503))
        clock.now += 0.8
        runner.go.set()
        await asyncio.wait(tasks)
    runner.go.clear()
    tasks = await start((coalescer, 1))
    assert (await refused(coalescer)).retry_after == 3
    runner.go.set()
    await asyncio.wait(tasks)
    runner.go.clear()
    tasks = await start((coalescer, 1), (coalescer, 2))
    runner.go.set()
    assert await asyncio.gather(*tasks) == [2, 4]


@on_clock
async def test_the_batches_ahead_are_counted_by_the_sizes_of_their_items(clock: Clock) -> None:
    runner = Runner()
    coalescer: Coalescer[int, int] = Coalescer(runner, cap=4, queue=9, patience=1.5, size=lambda item: item)
    await batches_that_take(clock, 1.0, coalescer, runner)
    runner.go.clear()
    tasks = await start((coalescer, 1), (coalescer, 1), (coalescer, 3))
    await refused(coalescer)
    assert len(tasks) == 3
    runner.go.set()
    await asyncio.wait(tasks)


async def test_a_fixed_number_of_requests_begin_in_each_turn_of_the_loop_in_order_of_arrival() -> None:
    turnstile = Turnstile(3, 60.0, 60.0)
    begun: list[int] = []

    async def request(number: int) -> None:
        if (turn := turnstile.enter()) is not None:
            await turn
        begun.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(10)]
    await asyncio.sleep(0)
    tasks[4].cancel()
    seen = [0]
    while len(begun) < 9:
        await asyncio.sleep(0)
        seen.append(len(begun))
        assert len(seen) < 100, "some never begin"
    assert begun == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert max(later - earlier for earlier, later in pairwise(seen)) == 3
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turnstile.enter() is None


async def test_the_institutions_take_turns_at_the_turnstile() -> None:
    turnstile = Turnstile(2, 60.0, 60.0)
    begun: list[str] = []

    async def request(institution: str) -> None:
        if (turn := turnstile.enter(institution)) is not None:
            await turn
        begun.append(institution)

    tasks = [asyncio.create_task(request(name)) for name in "aaaaaaaaabbc"]
    await asyncio.gather(*tasks)
    assert "".join(begun) == "aaabcabaaaaa"


@on_clock
async def test_the_turnstile_refuses_a_few_in_each_turn_while_others_wait_for_too_long(clock: Clock) -> None:
    turnstile = Turnstile(1, 2.0, 5.0)
    assert turnstile.enter() is None
    waiting = [turnstile.enter() for _ in range(3)]
    clock.now += 2.5
    assert turnstile.enter("another") is not None, "nobody of its institution waits"
    for _ in range(REFUSALS_PER_TURN):
        with pytest.raises(Unavailable) as refused:
            turnstile.enter()
        assert refused.value.retry_after == 3
    waiting.append(turnstile.enter())
    await asyncio.sleep(0)
    assert [turn.done() for turn in waiting if turn is not None] == [True, False, False, False]
    clock.now += 3.0
    for turn, outcome in zip(waiting[1:], ("late", "late", "begins"), strict=True):
        assert turn is not None
        try:
            await turn
            assert outcome == "begins"
        except Unavailable:
            assert outcome == "late"


async def test_an_institution_leaves_time_to_others_while_they_are_active(monkeypatch: pytest.MonkeyPatch) -> None:
    sharing, runner = Sharing(0.25), Runner()
    pauses: list[float] = []
    coalescer: Coalescer[int, int] = Coalescer(runner, cap=100, queue=1000, patience=60, sharing=(sharing, "north"))

    def no_pause(seconds: float) -> float:
        pauses.append(seconds)
        return 0.0

    monkeypatch.setattr(sharing, "pause_after", no_pause)

    async def rush(*others: str) -> list[int]:
        runner.go.clear()
        runner.batches.clear()
        pauses.clear()
        tasks = await start(*((coalescer, item) for item in range(1000, 1081)))
        for name in others:
            sharing.note(name, asyncio.get_running_loop().time())
        runner.go.set()
        await asyncio.gather(*tasks)
        return [len(batch) for batch in runner.batches]

    assert await rush() == [1, 80]
    assert not pauses
    batches, chunk = 80 // SHARED_CAP, SHARED_CHUNK * HTTP_SECONDS
    assert await rush("south") == [1, *[SHARED_CAP] * batches]
    assert len([pause for pause in pauses if pause != chunk]) == batches, (
        "after each batch but the last, behind which nobody waits"
    )
    between = SHARED_CAP // SHARED_CHUNK - 1
    assert len([pause for pause in pauses if pause == chunk]) >= batches * between, "and between the chunks of a batch"
    monkeypatch.setattr(batching, "ACTIVE_SECONDS", 0.0)
    assert await rush("south") == [1, 80]


def test_the_pause_leaves_the_institution_its_share_of_the_time() -> None:
    assert Sharing(0.5).pause_after(0.2) == pytest.approx(0.2)
    assert Sharing(0.25).pause_after(0.2) == pytest.approx(0.6)
    assert Sharing(1.0).pause_after(0.2) == 0
    sharing = Sharing(0.5)
    sharing.note("north", 1.0)
    assert not sharing.has_others("north", 1.1)
    assert sharing.has_others("south", 1.1)
    sharing.note("south", 1.2)
    assert sharing.has_others("north", 1.3)
    assert sharing.has_others("south", 1.3)
    assert not sharing.has_others("south", 1.6)


async def test_a_caller_who_disconnects_before_the_batch_begins_is_left_out() -> None:
    runner = Runner()
    coalescer = make_coalescer(runner)
    runner.go.clear()
    tasks = await start((coalescer, 1), (coalescer, 2))
    tasks[1].cancel()
    disconnected = asyncio.create_task(coalescer.submit(3, lambda: True))
    tasks += await start((coalescer, 4))
    runner.go.set()
    assert await tasks[2] == 8
    with pytest.raises(Unavailable):
        await disconnected
    assert runner.batches == [[1], [4]]


async def test_many_callers_share_a_transaction_and_a_bad_request_fails_alone(
    client: Client, connection: Connection, database_url: str
) -> None:
    course = await new_course(client, capacity=1000)
    students = await new_students(client, 40)
    closed = await new_course(client, capacity=0)
    async with busy(database_url):
        first = asyncio.create_task(enroll(client, students[0], course))
        await waiting_writer(connection)
        rest = [asyncio.create_task(enroll(client, student, course)) for student in students[1:]]
        refused = asyncio.create_task(enroll(client, students[5], course, closed))
        unknown = asyncio.create_task(enroll(client, 10**9, course))
        queue = client.app[REGISTRAR]._coalescer._waiting

        async def all_wait() -> bool:
            return len(queue) == 41

        await until(all_wait, "all to wait")
    answers = [await first, *[await task for task in rest]]
    problem(await refused, 409, "course_full")
    problem(await unknown, 404, "student_not_found")
    assert [answer.status for answer in answers] == [201] * 40
    transactions = "SELECT count(DISTINCT xmin::text) FROM student_courses WHERE course_id = $1"
    assert await connection.fetchval(transactions, course) == 2


async def test_without_batching_every_change_has_a_transaction_of_its_own(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection, database_url: str
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"batching": False}))
    course = await new_course(client, capacity=1000)
    students = await new_students(client, 10)
    await asyncio.gather(*(enroll(client, student, course) for student in students))
    transactions = "SELECT count(DISTINCT xmin::text) FROM student_courses WHERE course_id = $1"
    assert await connection.fetchval(transactions, course) == 10


async def test_a_change_that_the_database_refuses_fails_alone(
    client: Client, connection: Connection, database_url: str
) -> None:
    await connection.execute("ALTER TABLE students ADD CONSTRAINT nobody_is_called_x CHECK (given_name <> 'X')")
    async with busy(database_url):
        first = asyncio.create_task(call(client, "POST", "/courses", course_fields()))
        await waiting_writer(connection)
        tasks = [
            asyncio.create_task(
                call(client, "POST", "/students", student_fields(given_name="X" if number == 7 else "Ada"))
            )
            for number in range(20)
        ]
        await asyncio.sleep(0.2)
    assert (await first).status == 201
    statuses = [(await task).status for task in tasks]
    assert statuses == [500 if number == 7 else 201 for number in range(20)]
    assert await connection.fetchval("SELECT count(*) FROM students") == 19
    assert await connection.fetchval("SELECT max(position) = count(*) FROM events")


def creation(number: int, given_name: str = "Ada") -> Create[Student, StudentFields]:
    """Return a change that creates a student, a different one for each number."""
    fields: StudentFields = {
        "external_id": None,
        "sourced_id": None,
        "given_name": given_name,
        "family_name": "B",
        "preferred_name": None,
        "email": f"{number}@campus.example",
        "max_credits": None,
        "groups": "",
    }
    return Create(origin=Origin("r"), resource=STUDENT, fields=fields)


@pytest.mark.parametrize("refused", [64, 192])
async def test_of_256_changes_that_share_a_transaction_255_succeed_if_the_database_refuses_one(
    settings: Settings, connection: Connection, database_url: str, refused: int
) -> None:
    await connection.execute("ALTER TABLE students ADD CONSTRAINT nobody_is_called_x CHECK (given_name <> 'X')")
    async with registrar_of(settings) as registrar:
        async with busy(database_url):
            first = asyncio.create_task(registrar.submit(creation(1000)))
            await waiting_writer(connection)
            given_names = ["X" if number == refused else "Ada" for number in range(256)]
            rest = [asyncio.create_task(registrar.submit(creation(*each))) for each in enumerate(given_names)]
            await asyncio.sleep(0)
        await first
        outcomes = await asyncio.gather(*rest, return_exceptions=True)

    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)] == [refused]
    assert await connection.fetchval("SELECT count(*) FROM students") == 256
    assert await connection.fetchval("SELECT max(position) FROM events") == 256


async def test_an_address_taken_behind_the_registrars_back_fails_only_the_change_that_requests_it(
    settings: Settings, connection: Connection, database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    await other.execute("BEGIN")
    # Nothing in the service writes without the write lock: the registrar learns of this only from the refusal.
    await other.execute("INSERT INTO students (given_name, family_name, email) VALUES ('A', 'B', '7@campus.example')")
    async with registrar_of(settings) as registrar:
        creating = asyncio.create_task(registrar.submit_all([creation(number) for number in range(20)]))
        await waiting_writer(connection)
        await other.execute("COMMIT")
        outcomes = await creating
    await other.close()

    refused = [(number, type(outcome)) for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert refused == [(7, EmailTaken)]
    assert await connection.fetchval("SELECT count(*) FROM students") == 20


async def test_changes_that_run_one_by_one_stop_at_the_write_timeout(
    settings: Settings, connection: Connection
) -> None:
    slow = "CHECK (given_name <> 'X' AND pg_sleep(0.02) IS NOT NULL)"
    await connection.execute(f"ALTER TABLE students ADD CONSTRAINT slowly {slow}")
    async with registrar_of(settings.model_copy(update={"write_timeout": 0.2})) as registrar:
        outcomes = await registrar.submit_all([creation(0, given_name="X"), *map(creation, range(1, 60))])

    made = [isinstance(outcome, Student) for outcome in outcomes]
    assert not made[0]
    assert made[1:] == sorted(made[1:], reverse=True)
    assert 1 <= sum(made) < 59
    assert {type(outcome) for outcome, is_made in zip(outcomes[1:], made[1:], strict=True) if not is_made} == {
        Unavailable
    }
    assert await connection.fetchval("SELECT count(*) FROM students") == sum(made)


@pytest.mark.parametrize("size", [2, 300])
@pytest.mark.parametrize("what", ["student", "course", "term", "override"])
async def test_a_resource_deleted_by_a_batch_does_not_exist_for_the_rest_of_the_batch(
    client: Client, settings: Settings, connection: Connection, what: str, size: int
) -> None:
    student, course = await new_student(client), await new_course(client)
    dates = {"starts_on": "2030-09-01", "ends_on": "2030-12-20"}
    term = (await create(client, "/terms", {"code": "F", "name": "Fall", **dates}))["id"]
    granted = {"course_id": course, "rule": "course_full", "author": "Dean", "reason": "So"}
    override = (await create(client, f"/students/{student}/overrides", granted))["id"]
    origin = Origin("r")
    into = Edit(origin=origin, resource=COURSE, id=course, values={"term_id": term})
    enrolling = Enroll(origin=origin, student_id=student, course_ids=(course,))
    ending = EndOverride(origin=origin, student_id=student, override_id=override)
    cases: dict[str, tuple[ResourceType[Any, Any], int, Change[Any], type[DomainError]]] = {
        "student": (STUDENT, student, enrolling, StudentNotFound),
        "course": (COURSE, course, enrolling, UnknownCourse),
        "term": (TERM, term, into, UnknownTerm),
        "override": (COURSE, course, ending, OverrideNotFound),
    }
    resource, id, last, error = cases[what]
    between = [creation(number) for number in range(size - 2)]
    async with registrar_of(settings) as registrar:
        # The registrar remembers courses and terms from batch to batch.
        away = replace(into, values={"term_id": None})
        await registrar.submit_all([replace(change, origin=Origin("before")) for change in (into, away)])

        deleting: Change[Any] = Delete(origin=origin, resource=resource, id=id)
        first, *made, refused = await registrar.submit_all([deleting, *between, last])

    assert (first, type(refused)) == (None, error)
    assert all(isinstance(outcome, Student) for outcome in made)
    assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM events WHERE request_id = 'r'") == 1


async def test_changes_of_every_kind_share_a_transaction_in_the_order_of_arrival(
    client: Client, connection: Connection, database_url: str
) -> None:
    one, two = await new_student(client), await new_student(client)
    course, empty = await new_course(client, capacity=1), await new_course(client)
    await enroll(client, one, course)
    same = student_fields()
    path = "/students/by-external-id/s-1"
    async with busy(database_url):
        first = asyncio.create_task(call(client, "POST", "/students", student_fields()))
        await waiting_writer(connection)
        calls = [
            join_waitlist(client, two, course),
            drop(client, one, course),
            call(client, "POST", "/students", same),
            call(client, "POST", "/students", same),
            call(client, "PUT", path, student_fields(given_name="Grace")),
            call(client, "PATCH", f"/students/{one}", {"external_id": "s-2"}),
            call(client, "PUT", path, student_fields(given_name="Grace")),
            enroll(client, one, empty),
            call(client, "DELETE", f"/courses/{empty}"),
        ]
        tasks = []
        for each in calls:
            tasks.append(asyncio.create_task(each))
            await asyncio.sleep(0.03)
    await first
    answers = [await task for task in tasks]
    assert [answer.status for answer in answers] == [201, 200, 201, 409, 201, 200, 200, 201, 409]
    transactions = "SELECT count(DISTINCT xmin::text) FROM events WHERE position > 6"
    assert await connection.fetchval(transactions) == 1
    roster = await connection.fetch("SELECT student_id FROM student_courses WHERE status = 'enrolled' ORDER BY 1")
    assert [row[0] for row in roster] == [one, two]


async def test_an_external_id_released_by_an_earlier_change_of_the_batch_is_free_again(
    client: Client, connection: Connection, database_url: str
) -> None:
    path = "/students/by-external-id/s-1"
    student = (await call(client, "PUT", path, student_fields())).body["id"]
    async with busy(database_url):
        first = asyncio.create_task(call(client, "POST", "/courses", course_fields()))
        await waiting_writer(connection)
        away = asyncio.create_task(call(client, "PATCH", f"/students/{student}", {"external_id": None}))
        await asyncio.sleep(0.05)
        again = asyncio.create_task(call(client, "PUT", path, student_fields()))
        await asyncio.sleep(0.05)
    assert [(await task).status for task in (first, away, again)] == [201, 200, 201]
    assert (await again).body["id"] != student


async def test_requests_beyond_the_queue_limit_get_503_and_retry_after(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection, database_url: str
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"queue_limit": 3, "admission_seconds": 60}))
    async with busy(database_url):
        first = asyncio.create_task(call(client, "POST", "/students", student_fields()))
        await waiting_writer(connection)
        tasks = [asyncio.create_task(call(client, "POST", "/students", student_fields())) for _ in range(5)]
        done: set[asyncio.Task[Answer]] = set()
        waiting = set(tasks)
        while len(done) < 2:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= ended
        assert len(waiting) == 3
        for task in done:
            unavailable(task.result())
    assert (await first).status == 201
    assert [(await task).status for task in waiting] == [201] * 3


class Item:
    """An object that supports weak references."""


async def test_a_refused_item_is_freed_at_once_and_not_by_the_collector(no_collector: None) -> None:
    async def refuse(items: Sequence[Item]) -> list[Exception]:
        return [Unavailable("The database is away.") for _ in items]

    coalescer: Coalescer[Item, None] = Coalescer(refuse, cap=4, queue=9, patience=60)
    item = Item()
    freed = weakref.ref(item)
    with pytest.raises(Unavailable):
        await coalescer.submit(item)
    del item
    for _ in range(3):
        await asyncio.sleep(0)
    assert freed() is None


def test_the_rows_of_a_batch_are_freed_at_once_and_not_by_the_collector(no_collector: None) -> None:
    undo = UndoLog()
    rows: IdentityMap[int, Item] = IdentityMap(undo)
    row = Item()
    freed = weakref.ref(row)
    rows.put(1, row)
    undo.commit()
    del row, rows
    assert freed() is None


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Run a test without the cyclic garbage collector."""
    gc.disable()
    yield
    gc.enable()
