"""Verify every invariant against the tables, for ``python -m service check``."""

import asyncio
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import asyncpg
from pydantic import ValidationError

from service.api.courses import NewCourse
from service.api.fields import Input
from service.api.instructors import NewInstructor
from service.api.students import NewStudent, groups_of
from service.api.terms import NewTerm
from service.clock import search_path, session_settings
from service.faults import text_of
from service.fitness import NotMigrated
from service.migrate import DatabaseUnavailable
from service.registrar.application import CodeSets
from service.registrar.meetings import conflict, dates_of, week_of
from service.registrar.review import review_blocked, review_lost_requirements
from service.registrar.rules import are_offered_together, exact
from service.registry import Registry, is_behind, settings_of, with_registry
from service.replay import (
    LOWEST,
    PAGE_ROWS,
    Stream,
    courses_of,
    instructors_of,
    parsed,
    replay_courses,
    replay_equivalences,
    replay_grade_scale,
    replay_instructors,
    replay_merges,
    replay_students,
    replay_terms,
    smallest_id,
    students_of,
    terms_of,
)
from service.settings import Settings, zone_of
from service.terminal import show_progress
from sql import Connection
from sql import check as sql
from sql import replay as sql_replay
from sql.courses import Course
from sql.equivalences import load_equivalences
from sql.instructors import Instructor
from sql.overrides import find_overrides
from sql.replay import Recorded
from sql.server import configure
from sql.students import Student
from sql.terms import Term
from sql.waitlist import find_unjudged

Finder: TypeAlias = Callable[[Connection], AsyncIterator[object] | Awaitable[Sequence[object]]]

MAX_FAULTS_SHOWN = 20
"""Faults printed for each invariant: enough to see a pattern."""

MAX_FAULTS = 10_000
"""Faults counted for each invariant: the exact number of more faults is not worth the memory."""


SESSION: Final = {
    "application_name": "enrollment-service check",
    "timezone": "UTC",
    "jit": "off",
    # A generic plan does not know the size and the place of a page: it would read the whole table for each page.
    "plan_cache_mode": "force_custom_plan",
}
"""Settings of the session of a check."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """A condition that must always hold, and the function that finds its violations."""

    sentence: str
    find: Finder
    note: str | None = None
    """The name of a fault whose ``edited`` is true, which is only reported as a note: edits never remove anyone."""

    async def search(self, connection: Connection) -> "Found":
        """Return the faults and the notes, at most ``MAX_FAULTS`` of each."""
        found = Found([], [])
        faults = self.find(connection)
        if not isinstance(faults, AsyncIterator):
            found.faults.extend(await faults)
            return found
        async for fault in faults:
            kind = found.notes if self.note is not None and getattr(fault, "edited", False) else found.faults
            if len(kind) < MAX_FAULTS:
                kind.append(fault)
        return found

    async def find_faults(self, connection: Connection) -> Sequence[object]:
        """Return the faults only."""
        return (await self.search(connection)).faults


@dataclass(frozen=True, slots=True)
class Found:
    """The faults and the notes about one invariant."""

    faults: list[object]
    notes: list[object]


@dataclass(frozen=True, slots=True)
class Overlooked:
    """An unjudged student who is waitlisted for a course with a free seat."""

    course_id: int
    student_id: int


async def find_overlooked(connection: Connection, sweep_interval: float, time_zone: str) -> AsyncIterator[Overlooked]:
    """Find unjudged students waitlisted for a free seat, except in courses that opened since the last sweep."""
    for unjudged in await find_unjudged(connection, sweep_interval, time_zone):
        yield Overlooked(*unjudged)


@dataclass(frozen=True, slots=True)
class Miscount:
    """A course whose counters differ from the numbers of its seated and waitlisted students."""

    course_id: int
    seats_taken: int
    seated: int
    waitlisted: int
    waiting: int


async def find_miscounts(connection: Connection) -> AsyncIterator[Miscount]:
    """Recount the seats and the waitlist of every course, and yield the courses with wrong counters."""
    after = LOWEST
    while page := await sql.find_counts(connection, after, PAGE_ROWS):
        after = page[-1].course_id
        for count in page:
            if (count.seats_taken, count.waitlisted) != (count.seated, count.waiting):
                yield Miscount(*count)


@dataclass(frozen=True, slots=True)
class ReservedMiscount:
    """A group whose reserved seats in a course are not counted as its students are."""

    course_id: int
    group: str
    counted: int
    students: int


@dataclass(frozen=True, slots=True)
class StrayGroup:
    """A student with a reserved seat who has no seat, or whose course never had reservations."""

    course_id: int
    student_id: int


async def find_reserved_miscounts(connection: Connection) -> AsyncIterator[ReservedMiscount | StrayGroup]:
    """Recount the reserved seats of every course by group, and yield the groups with wrong counters."""
    for stray in await sql.find_stray_groups(connection, MAX_FAULTS):
        yield StrayGroup(*stray)
    after = LOWEST
    while page := await sql.find_reserved_counts(connection, after, PAGE_ROWS):
        after = page[-1].course_id
        for course_id, *texts in page:
            counted, students = [json.loads(text or "{}") for text in texts]
            for group in sorted(counted.keys() | students.keys()):
                if counted.get(group, 0) != students.get(group, 0):
                    yield ReservedMiscount(course_id, group, counted.get(group, 0), students.get(group, 0))


@dataclass(frozen=True, slots=True)
class Oversold:
    """A seat above the capacity: the position of the event that gave it, and the counters right after that event."""

    course_id: int
    student_id: int
    position: int
    seats_taken: int
    capacity: int


SEATED: Final = frozenset({"enrolled", "completed"})


def is_seated(state: str | None) -> bool:
    """Return whether a student has a seat in this state of an enrollment, as an event has it."""
    return (parsed(state) or {}).get("status") in SEATED


async def find_oversold(connection: Connection) -> AsyncIterator[Oversold]:
    """Find students who were seated without an override when no seat was free.

    All events are read in order; two numbers for each course are in memory.
    """
    taken: dict[int, int] = defaultdict(int)
    capacities: dict[int, object] = {}
    after = LOWEST
    while page := await sql_replay.find_events_of_seats(connection, after, PAGE_ROWS):
        after = page[-1].position
        for event in page:
            course_id = event.course_id or 0
            state = parsed(event.after) or {}
            if event.student_id is None:
                if "capacity" in state:
                    capacities[course_id] = state["capacity"]
                continue
            if not event.type.startswith("enrollment."):
                continue
            seats = is_seated(event.after) - is_seated(event.before)
            taken[course_id] += seats
            capacity = capacities.get(course_id)
            # The seat of a duplicate, which it has just given back, exceeds no capacity again.
            if (
                seats < 1
                or event.type == "enrollment.merged"
                or not isinstance(capacity, int)
                or taken[course_id] <= capacity
            ):
                continue
            if not await _is_above_capacity(connection, state.get("override_id")):
                yield Oversold(course_id, event.student_id, event.position, taken[course_id], capacity)


async def _is_above_capacity(connection: Connection, override_id: object) -> bool:
    """Return whether an override seats a student in a full course."""
    if not isinstance(override_id, int):
        return False
    return any(override.rule == "course_full" for override in await find_overrides(connection, [override_id]))


class Offering(NamedTuple):
    """The fields of a course that matter to the other courses of its students."""

    code: str
    term: Term | None
    parent: Term | None
    credits: float
    meetings: str

    def is_in(self, term_id: int) -> bool:
        """Return whether the course is in a term or a part of it."""
        return self.term is not None and term_id in {self.term.id, self.term.parent_id}


async def load_offerings(connection: Connection) -> dict[int, Offering]:
    """Load the offerings of all courses: they fit into memory, and loading some for each student takes too long."""
    all_terms, all_courses = terms_of(connection), courses_of(connection)
    terms: dict[int, Term] = {}
    while (id := await all_terms.next_id()) is not None:
        [terms[id]] = await all_terms.take(id)
    offerings: dict[int, Offering] = {}
    while (id := await all_courses.next_id()) is not None:
        [course] = await all_courses.take(id)
        term = None if course.term_id is None else terms.get(course.term_id)
        parent = None if term is None or term.parent_id is None else terms.get(term.parent_id)
        offerings[id] = Offering(course.code, term, parent, course.credits, course.meetings)
    return offerings


def seats_of(connection: Connection) -> Stream[sql.Seated]:
    """Return a stream of the seats of all students."""
    return Stream(
        lambda last: sql.find_seated(
            connection, *((last.student_id, last.course_id) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda seat: seat.student_id,
    )


@dataclass(frozen=True, slots=True)
class Clash:
    """Two courses that meet at the same time, and a student who is seated in both without an override.

    ``edited`` is true if the meetings, or the terms' dates, were edited after the student had both seats.
    """

    student_id: int
    course_id: int
    with_course_id: int
    edited: bool


async def find_clashes(connection: Connection) -> AsyncIterator[Clash]:
    """Find students who are seated in courses that meet at the same time without an override."""
    offerings = await load_offerings(connection)
    seats = seats_of(connection)
    while (student_id := await seats.next_id()) is not None:
        own = [
            (seat, offerings[seat.course_id]) for seat in await seats.take(student_id) if seat.course_id in offerings
        ]
        meeting = [(seat, offering, week) for seat, offering in own if (week := _week(offering.meetings))]
        clashing = [
            (seat, offering, other_seat, other)
            for (seat, offering, week), (other_seat, other, other_week) in itertools.combinations(meeting, 2)
            if week & other_week
            and conflict(offering.meetings, dates_of(offering.term), other.meetings, dates_of(other.term))
        ]
        lifted = set(await sql.find_lifted(connection, student_id, "time_conflict")) if clashing else set()
        for seat, offering, other_seat, other in clashing:
            course_ids = [seat.course_id, other_seat.course_id]
            if lifted.isdisjoint(course_ids):
                term_ids = [term.id for term in (offering.term, other.term) if term is not None]
                since = max(seat.joined_position, other_seat.joined_position)
                edited = await sql.find_edit_of_times(connection, course_ids, term_ids, student_id, since)
                yield Clash(student_id, seat.course_id, other_seat.course_id, edited)


def _week(meetings: str) -> int:
    """Return when a course meets, or never if its meetings are invalid, which ``find_invalid`` reports."""
    try:
        return week_of(meetings)
    except (KeyError, TypeError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A seat or a waitlist place beside a seat in another offering of the code, without an override.

    ``edited`` is true if a code, a term or the equivalent codes were edited after the student had both.
    """

    student_id: int
    course_id: int
    status: str
    with_course_id: int
    edited: bool


async def find_duplicates(connection: Connection) -> AsyncIterator[Duplicate]:
    """Find students who have a seat in one offering of a code and a seat or a waitlist place in another."""
    offerings = await load_offerings(connection)
    code_sets = CodeSets({each.id: each for each in await load_equivalences(connection)})
    held = Stream[sql.Held](
        lambda last: sql.find_held(
            connection, *((last.student_id, last.course_id) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda row: row.student_id,
    )
    while (student_id := await held.next_id()) is not None:
        by_code: dict[str, list[sql.Held]] = defaultdict(list)
        for row in await held.take(student_id):
            if row.course_id in offerings:
                by_code[code_sets.key(offerings[row.course_id].code)].append(row)
        pairs = [pair for rows in by_code.values() for pair in itertools.permutations(rows, 2)]
        duplicates = [(row, seat) for row, seat in pairs if _is_duplicate(row, seat, offerings)]
        granted = await sql.find_granted(connection, student_id, "duplicate_course") if duplicates else []
        lifted = await sql.find_lifted(connection, student_id, "duplicate_course") if duplicates else []
        for row, seat in duplicates:
            course_ids = [row.course_id, seat.course_id]
            if row.course_id in granted if row.status == "waitlisted" else not set(lifted).isdisjoint(course_ids):
                continue
            term_ids = [term.id for id in course_ids if (term := offerings[id].term) is not None]
            since = max(row.joined_position, seat.joined_position)
            edited = await sql.find_edit_of_codes(connection, course_ids, term_ids, student_id, since)
            yield Duplicate(student_id, row.course_id, row.status, seat.course_id, edited)


def _is_duplicate(row: sql.Held, seat: sql.Held, offerings: Mapping[int, Offering]) -> bool:
    """Return whether the rule ``duplicate_course`` forbids a seat or a place beside a seat; of two seats, one is named."""
    if seat.status not in SEATED or (row.status in SEATED and row.course_id > seat.course_id):
        return False
    if row.status == "waitlisted" and seat.course_id in json.loads(row.swap_drops or "[]"):
        return False
    completed = "completed" in {row.status, seat.status}
    return are_offered_together(offerings[row.course_id].term, offerings[seat.course_id].term, completed=completed)


@dataclass(frozen=True, slots=True)
class Overload:
    """A student who has more credits in a term and its parts than allowed without an override.

    ``edited`` is true if the credits, the courses' terms or the limits were edited after the credits last rose.
    """

    student_id: int
    term_id: int
    held: float
    allowed: float
    edited: bool


async def find_overloads(connection: Connection) -> AsyncIterator[Overload]:
    """Find students who have more credits in a term and its parts than allowed without an override."""
    offerings = await load_offerings(connection)
    seats = seats_of(connection)
    limits = Stream[sql.CreditLimit](
        lambda last: sql.find_credit_limits(connection, last.student_id if last else LOWEST, PAGE_ROWS),
        lambda limit: limit.student_id,
    )
    while (student_id := await smallest_id(seats, limits)) is not None:
        own_limit = next((limit.max_credits for limit in await limits.take(student_id)), None)
        by_term: dict[int, list[sql.Seated]] = defaultdict(list)
        allowed: dict[int, float] = {}
        for seat in await seats.take(student_id):
            for term_id, most in _limits_of(offerings.get(seat.course_id), own_limit):
                by_term[term_id].append(seat)
                allowed[term_id] = most
        for term_id, own in sorted(by_term.items()):
            held = exact(sum(offerings[seat.course_id].credits for seat in own))
            if held <= allowed[term_id]:
                continue
            course_ids = [seat.course_id for seat in own]
            in_term = {id: each.credits for id, each in offerings.items() if each.is_in(term_id)}
            since, gained = await _last_raise(connection, student_id, in_term)
            if gained.isdisjoint(await sql.find_lifted(connection, student_id, "credit_limit")):
                term_ids = sorted(
                    {term_id, *[each.term.id for each in offerings.values() if each.term and each.is_in(term_id)]}
                )
                edited = await sql.find_edit_of_credits(connection, course_ids, term_ids, student_id, since)
                yield Overload(student_id, term_id, held, allowed[term_id], edited)


def _limits_of(offering: Offering | None, own_limit: float | None) -> Iterator[tuple[int, float]]:
    """Yield the terms whose credit limits hold for a seat in a course, and these limits."""
    if offering is None or offering.term is None:
        return
    if own_limit is not None:
        yield (offering.parent or offering.term).id, own_limit
        return
    for term in (offering.term, offering.parent):
        if term is not None and term.max_credits is not None:
            yield term.id, term.max_credits


async def _last_raise(connection: Connection, student_id: int, credits: Mapping[int, float]) -> tuple[int, set[int]]:
    """Return the position from which a student's credits in these courses last rose, and the courses that raised them.

    A swap for the same number of credits is always allowed and does not raise them: its events share one instant. So do
    those of other changes in its batch, and the position is that of the first: a limit may be edited between them.
    """
    moves: list[Recorded] = []
    after = student_id, LOWEST, LOWEST
    while page := await sql_replay.find_events_of_enrollments(connection, *after, PAGE_ROWS):
        moves += [event for event in page if event.student_id == student_id and event.course_id in credits]
        after = page[-1].student_id or 0, page[-1].course_id or 0, page[-1].position
        if after[0] != student_id:
            break
    position, raised_by = LOWEST, set[int]()
    for _, group in itertools.groupby(sorted(moves), lambda event: event.occurred_at):
        together = list(group)
        change, gained = 0.0, set[int]()
        for event in together:
            course_id = event.course_id or 0
            seats = is_seated(event.after) - is_seated(event.before)
            change += seats * credits[course_id]
            if seats > 0:
                gained.add(course_id)
        if exact(change) > 0:
            position, raised_by = together[0].position, gained
    return position, raised_by


@dataclass(frozen=True, slots=True)
class Invalid:
    """A field of a student, instructor, course or term with a value that the API would refuse."""

    resource: str
    field: str
    problem: str


async def find_invalid(connection: Connection) -> AsyncIterator[Invalid]:
    """Find students, instructors, courses and terms with values that the API would refuse."""
    students, courses, terms = students_of(connection), courses_of(connection), terms_of(connection)
    instructors = instructors_of(connection)
    while (id := await students.next_id()) is not None:
        for student in await students.take(id):
            for fault in _validate(f"student {id}", NewStudent, student):
                yield fault
    while (id := await instructors.next_id()) is not None:
        for instructor in await instructors.take(id):
            for fault in _validate(f"instructor {id}", NewInstructor, instructor):
                yield fault
    while (id := await courses.next_id()) is not None:
        for course in await courses.take(id):
            for fault in _validate(f"course {id}", NewCourse, course):
                yield fault
    while (id := await terms.next_id()) is not None:
        for term in await terms.take(id):
            for fault in _validate(f"term {id}", NewTerm, term):
                yield fault


def _validate(resource: str, model: type[Input], row: Student | Instructor | Course | Term) -> Iterator[Invalid]:
    """Validate a row as if a caller had sent it."""
    values = {name: getattr(row, name) for name in model.model_fields}
    if "meetings" in values:
        values["meetings"] = json.loads(values["meetings"])
    if isinstance(row, Student):
        values["groups"] = groups_of(row)
    try:
        model.model_validate_json(json.dumps(values, default=lambda value: value.isoformat()))
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            yield Invalid(resource, ".".join(map(str, item["loc"])), item["msg"])


async def find_shared_emails(connection: Connection) -> Sequence[sql.SharedEmail]:
    """Find students who share an e-mail address."""
    return await sql.find_shared_emails(connection, MAX_FAULTS)


async def find_shared_sourced_ids(connection: Connection) -> Sequence[sql.SharedSourcedId]:
    """Find students and instructors who share a sourced id."""
    return await sql.find_shared_sourced_ids(connection, MAX_FAULTS)


async def find_wrong_primaries(connection: Connection) -> Sequence[sql.WrongPrimary]:
    """Find courses whose instructors do not have exactly one primary among them."""
    return await sql.find_wrong_primaries(connection, MAX_FAULTS)


async def find_stray_refusals(connection: Connection) -> Sequence[sql.StrayRefusal]:
    """Find refusals of students who do not exist."""
    return await sql.find_stray_refusals(connection, MAX_FAULTS)


async def find_misplaced_parts(connection: Connection) -> Sequence[sql.MisplacedPart]:
    """Find parts of terms that do not lie within a whole term."""
    return await sql.find_misplaced_parts(connection, MAX_FAULTS)


async def find_gaps(connection: Connection) -> Sequence[sql.Gap]:
    """Find gaps in the positions of the events."""
    return await sql.find_gaps(connection, MAX_FAULTS)


def invariants(sweep_interval: float, time_zone: str = "UTC") -> tuple[Invariant, ...]:
    """Return all invariants, in the order in which they are checked."""
    overlooked = partial(find_overlooked, sweep_interval=sweep_interval, time_zone=time_zone)
    wrongly_marked = partial(review_lost_requirements, time_zone=zone_of(time_zone))
    misjudged = partial(review_blocked, sweep_interval=sweep_interval, time_zone=zone_of(time_zone))
    return (
        Invariant("every seat counter equals the number of seated students", find_miscounts),
        Invariant(
            "every counter of reserved seats equals the number of students who have one", find_reserved_miscounts
        ),
        Invariant("nobody was seated above the capacity at that time, except by an override", find_oversold),
        Invariant("no seat is free while an unjudged student is waitlisted", overlooked),
        Invariant("every blocked student is refused, until recheck_at at the latest", misjudged),
        Invariant(
            "nobody is seated in courses that clash, unless they were edited since",
            find_clashes,
            note="courses that have clashed since they were edited",
        ),
        Invariant(
            "nobody has a seat or a place beside a seat in another offering of the code, unless edited since",
            find_duplicates,
            note="offerings of one code since they were edited",
        ),
        Invariant(
            "nobody has credits above the limit, unless they were edited since",
            find_overloads,
            note="credits that have been above the limit since an edit",
        ),
        Invariant(
            "every enrolled student who has lost a requirement is marked, and nobody else, unless edited since",
            wrongly_marked,
            note="marks of lost requirements that an edit has overtaken",
        ),
        Invariant("every student, hold, override and enrollment matches its events", replay_students),
        Invariant("every merged student matches the events", replay_merges),
        Invariant("every course matches its events, requirements included", replay_courses),
        Invariant("every term matches its events", replay_terms),
        Invariant("every set of equivalent codes matches its events", replay_equivalences),
        Invariant("the grade scale matches its events", replay_grade_scale),
        Invariant("every instructor matches the events", replay_instructors),
        Invariant("every student, instructor, course and term is valid", find_invalid),
        Invariant("every part of a term lies within a whole term", find_misplaced_parts),
        Invariant("no two people have the same sourced id", find_shared_sourced_ids),
        Invariant("exactly one of the instructors of a course is primary", find_wrong_primaries),
        Invariant("no two students have the same e-mail address", find_shared_emails),
        Invariant("every refusal is of a student who exists", find_stray_refusals),
        Invariant("the positions of the events are contiguous from 1", find_gaps),
        Invariant("every sequence is ahead of the ids in its table", sql.find_lagging_sequences),
    )


INVARIANTS: Final[Mapping[str, Callable[[Connection], Awaitable[Sequence[object]]]]] = {
    each.sentence: each.find_faults for each in invariants(60.0)
}


async def check_all(settings: Settings) -> int:
    """Check every institution that is up to date, one after the other; return 1 if one has faults, else 0.

    Raises:
        RegistryMissing: the service has only one.
    """

    async def work(registry: Registry) -> int:
        status = 0
        async for institution in registry.walk():
            print(f"institution {institution.name}", flush=True)
            if is_behind(institution):
                print(f"skip  its schema lacks migrations (state {institution.state})")
            else:
                status = await check(settings_of(institution, settings)) or status
        return status

    return await with_registry(settings, work)


async def check(settings: Settings) -> int:
    """Verify every invariant, print the findings and return the exit status: 1 if there are faults, else 0.

    One snapshot is kept for at most ``check_timeout`` seconds, since a snapshot keeps PostgreSQL from cleaning up.
    """
    milliseconds = str(round(settings.check_timeout * 1000))
    try:
        connection = await asyncpg.connect(
            settings.database_url,
            timeout=settings.connect_timeout,
            command_timeout=settings.check_timeout,
        )
        session = {
            **SESSION,
            **session_settings(settings),
            "search_path": ", ".join(search_path(settings, settings.database_schema)),
            # These end the statement of a check that was stopped or killed.
            "statement_timeout": milliseconds,
            "idle_in_transaction_session_timeout": milliseconds,
        }
        await configure(connection, list(session), list(session.values()))
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable(f"The database can't be reached: {text_of(error)}") from error
    found: dict[Invariant, Found] = {}
    try:
        async with (
            asyncio.timeout(settings.check_timeout),
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            for each in invariants(settings.sweep_interval, settings.time_zone):
                with progress(connection, each.sentence):
                    found[each] = await each.search(connection)
        await connection.close(timeout=settings.connect_timeout)
    except asyncpg.UndefinedTableError as error:
        raise NotMigrated from error
    except (TimeoutError, asyncpg.QueryCanceledError):
        report(found)
        print(
            f"error: The check took longer than {settings.check_timeout:g} seconds. Set CHECK_TIMEOUT to allow more.",
            file=sys.stderr,
        )
        return 1
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
        raise DatabaseUnavailable(f"The connection was lost during the check: {text_of(error)}") from error
    finally:
        connection.terminate()
    return report(found)


@contextmanager
def progress(connection: Connection, sentence: str) -> Iterator[None]:
    """Show on a terminal which invariant is being checked, and the number of statements so far."""
    statements = itertools.count(1)
    ended = False

    def show(_: object = None) -> None:
        # The driver calls this some time after a statement has ended.
        if not ended:
            show_progress(f"      {sentence} (statement {next(statements)})")

    connection.add_query_logger(show)
    show()
    try:
        yield
    finally:
        ended = True
        connection.remove_query_logger(show)
        show_progress()


def report(found: Mapping[Invariant, Found]) -> int:
    """Print the findings and return the exit status, which notes do not change."""
    for invariant, each in found.items():
        print(f"{'ok   ' if not each.faults else 'FAULT'} {invariant.sentence}")
        _show(each.faults)
    for invariant, each in found.items():
        if each.notes:
            print(f"note  {invariant.note}")
            _show(each.notes)
    return 1 if any(each.faults for each in found.values()) else 0


def _show(rows: Sequence[object]) -> None:
    for row in rows[:MAX_FAULTS_SHOWN]:
        print("      " + ", ".join(f"{name}={value}" for name, value in asdict(row).items()))  # type: ignore[call-overload]
    if len(rows) > MAX_FAULTS_SHOWN:
        more = len(rows) - MAX_FAULTS_SHOWN
        print(f"      and {more} more" if len(rows) < MAX_FAULTS else f"      and {more} or more")
