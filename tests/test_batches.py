"""Changes of every kind in one batch, in parts of any size, compared with the same changes one by one."""

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from service import registrar
from service.check import INVARIANTS, invariants
from service.database import Database
from service.errors import DomainError, EnrollmentRefused, PromotionsPending, Unavailable
from service.registrar import load
from service.registrar.application import Grade, Group, Reservation
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE, Cancel, Reopen, SetRequirements
from service.registrar.enrollments import Complete, Drop, Enroll, RemoveCompletion, Swap
from service.registrar.equivalences import CreateEquivalence, DeleteEquivalence
from service.registrar.grades import SetGradeScale
from service.registrar.holds import EndHold, PlaceHold
from service.registrar.instructors import INSTRUCTOR, Assign, SetInstructors
from service.registrar.merge import Merge
from service.registrar.overrides import EndOverride, GrantOverride
from service.registrar.records import Record
from service.registrar.reservations import SetReservations
from service.registrar.resources import Create, Delete, Edit, Replace
from service.registrar.students import STUDENT
from service.registrar.terms import TERM
from service.registrar.waitlist import Sweep
from service.settings import Settings
from sql import Connection
from sql.waitlist import is_any_due, load_ended, load_promotable
from tests.campus import TABLES, empty, opened, registrar_of, waiting_writer

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEEDS = int(os.environ.get("HISTORIES", "40"))
CHANGES = 40
ORIGIN = Origin("r")
STUDENTS, COURSES, TERMS, INSTRUCTORS = range(1, 7), range(1, 6), range(1, 3), range(1, 4)
"""Ids; the resource with the last one is sometimes deleted."""
HELD = 4
"""The number of holds, and of overrides, at the beginning: two for each of two students."""
EARLIER = 30
"""The number of changes that are made one by one before the batch."""
MEETINGS = [
    "[]",
    '[{"day": "mon", "start": "09:00", "end": "10:00"}]',
    '[{"day": "mon", "start": "09:30", "end": "11:00"}]',
    '[{"day": "mon", "start": "09:00", "end": "10:00", "from": "2030-09-09", "every_weeks": 2}]',
    '[{"day": "sun", "start": "23:00", "end": "10:00", "until": "2030-10-13"}]',
]
OPEN = {
    "starts_on": date(2030, 9, 1),
    "ends_on": date(2030, 12, 20),
    **dict.fromkeys(["enroll_from", "enroll_until", "drop_until", "withdraw_until"]),
}
"""The dates of a term without deadlines."""
OVERLAPPING: dict[str, object] = {name: OPEN[name] for name in ("starts_on", "ends_on")}
APART: dict[str, object] = {"starts_on": date(2031, 9, 1), "ends_on": date(2031, 12, 20)}
OVER: dict[str, object] = {"starts_on": date(2001, 9, 1), "ends_on": date(2001, 12, 20)}
LONG_AGO, AHEAD = datetime(2001, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
SCALES = [(), (Grade("A", True), Grade("C", True), Grade("F", False)), (Grade("C", True), Grade("A", False))]
RULES = [
    "hold",
    "duplicate_course",
    "time_conflict",
    "seats_reserved",
    "course_full",
    "credit_limit",
    "corequisite_missing",
    "drop_closed",
    "corequisite_needed",
]


TIME = re.compile(r"datetime\.datetime\([^()]*\)|20\d\d-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)")
NEW_ID = re.compile(
    r'((?:Hold|Override|Equivalence)\(id=|override_id=|"(?:hold|override|equivalence)_id": ?|in the set )\d+'
)


def term(id: int, **fields: object) -> Change[Any]:
    values: Any = {"code": f"T{id}", "name": "T", "parent_id": None, **OPEN, "max_credits": None, **fields}
    return Create(origin=ORIGIN, resource=TERM, fields=values)


def fields_of_course(id: int, **fields: object) -> Any:
    values: dict[str, object] = {
        "external_id": f"c{id}",
        "term_id": None,
        "code": f"C{id}",
        "section": None,
        "title": "T",
        "credits": 1.0,
        "capacity": 1,
    }
    limits: dict[str, object] = {"waitlist_capacity": None, "meetings": "[]"}
    return {**values, **limits, **fields}


def course(id: int, **fields: object) -> Change[Any]:
    return Create(origin=ORIGIN, resource=COURSE, fields=fields_of_course(id, **fields))


def fields_of_student(id: int, **fields: object) -> Any:
    ids = {"external_id": f"s{id}", "sourced_id": f"s-{id}"}
    names = {"given_name": "A", "family_name": "B", "preferred_name": None, "email": f"{id}@campus.example"}
    return {**ids, **names, "max_credits": None, "groups": "", **fields}


def student(id: int, groups: str = "") -> Change[Any]:
    return Create(origin=ORIGIN, resource=STUDENT, fields=fields_of_student(id, groups=groups))


def replace(resource: Any, fields: Any) -> Change[Any]:
    return Replace(origin=ORIGIN, resource=resource, external_id=fields["external_id"], fields=fields)


def instructor(id: int, **fields: object) -> Change[Any]:
    ids = {"external_id": None, "sourced_id": f"i-{id}"}
    made: Any = {**ids, "given_name": "A", "family_name": None, "email": f"{id}@campus.example", **fields}
    return Create(origin=ORIGIN, resource=INSTRUCTOR, fields=made)


def teach(course: int, *instructors: int) -> Change[Any]:
    """Return a change of the instructors of a course, of whom the first is the primary one."""
    primary = {id: id == instructors[0] for id in instructors}
    return SetInstructors(origin=ORIGIN, course_id=course, primary=primary)


def reserve(course: int, *groups: str) -> Change[Any]:
    """Return a change that reserves a seat of a course for each group."""
    wanted = tuple(Reservation(group, 1, None) for group in groups)
    return SetReservations(origin=ORIGIN, course_id=course, reservations=wanted)


def enroll(student: int, course: int) -> Change[Any]:
    return Enroll(origin=ORIGIN, student_id=student, course_ids=(course,), on_full="waitlist")


def drop(student: int, course: int) -> Change[Any]:
    return Drop(origin=ORIGIN, student_id=student, course_id=course)


def merge(student: int, duplicate: int) -> Change[Any]:
    return Merge(origin=ORIGIN, student_id=student, duplicate_id=duplicate)


def record(chance: random.Random, student: int, course: int) -> Change[Any]:
    """Record any status, with a result if it is that of a completion."""
    status = chance.choice(["enrolled", "enrolled", "completed", "dropped", "withdrawn", "left"])
    passed = chance.random() < 0.7 if status == "completed" else None
    return Record(
        origin=ORIGIN,
        student_id=student,
        course_id=course,
        status=status,  # type: ignore[arg-type]
        passed=passed,
        author="A",
        reason="R",
    )


def completed(student: int, course: int) -> list[Change[Any]]:
    return [Complete(origin=ORIGIN, student_id=student, course_id=course, passed=True)]


def failed(student: int, course: int) -> list[Change[Any]]:
    return [Complete(origin=ORIGIN, student_id=student, course_id=course, passed=False)]


def lean(course: int, code: str) -> Change[Any]:
    """Return a change after which a course requires another one, which may be in progress."""
    groups = (Group("pre", (code,), in_progress=True),)
    return SetRequirements(origin=ORIGIN, course_id=course, groups=groups)


def need(course: int, code: str) -> Change[Any]:
    """Return a change after which a course must be taken together with another one."""
    return SetRequirements(origin=ORIGIN, course_id=course, groups=(Group("co", (code,)),))


def drop_both(student: int, *courses: int) -> Change[Any]:
    return Swap(origin=ORIGIN, student_id=student, drop=courses, add=(), on_full="waitlist")


def equate(*codes: str) -> Change[Any]:
    return CreateEquivalence(origin=ORIGIN, codes=codes)


def part(id: int) -> Change[Any]:
    return DeleteEquivalence(origin=ORIGIN, equivalence_id=id)


def hold(student: int, reason: str, *, blocks_drop: bool = False) -> Change[Any]:
    return PlaceHold(origin=ORIGIN, student_id=student, reason=reason, blocks_enroll=True, blocks_drop=blocks_drop)


def grant(student: int, course: int, rule: str) -> Change[Any]:
    return GrantOverride(origin=ORIGIN, student_id=student, course_id=course, rule=rule, author="D", reason="R")


def end_override(student: int, override: int) -> Change[Any]:
    return EndOverride(origin=ORIGIN, student_id=student, override_id=override)


def end_hold(student: int, hold: int) -> Change[Any]:
    return EndHold(origin=ORIGIN, student_id=student, hold_id=hold)


def edit(resource: Any, id: int, **values: object) -> Change[Any]:
    return Edit(origin=ORIGIN, resource=resource, id=id, values=values)


def campus(chance: random.Random) -> list[Change[Any]]:
    """Choose the changes that create the campus."""
    made = [term(id, max_credits=4.0, parent_id=chance.choice([None, 1]) if id > 1 else None) for id in TERMS]
    made += [
        course(
            id,
            term_id=chance.choice([None, 1, 1, 1, 2]),
            credits=chance.choice([1.0, 3.0]),
            capacity=chance.choice([0, 1, 2, None]),
            waitlist_capacity=chance.choice([1, None, None]),
            meetings=chance.choice(MEETINGS),
        )
        for id in COURSES
    ]
    made += [equate("C1", "C2"), equate("C3", "C4")]
    made += [student(id, groups=chance.choice(["", "a", "a,b"])) for id in STUDENTS]
    made += [reserve(id, "a") for id in COURSES if chance.random() < 0.3]
    made += [instructor(id) for id in INSTRUCTORS]
    for holder in (1, 2, 1, 2):
        made += [hold(holder, "R"), grant(holder, chance.choice(COURSES[3:]), "course_full")]
    return made


def change(chance: random.Random) -> Change[Any]:
    """Choose a change; it seldom uses the last ids, so that those can be deleted."""
    student_id, held = chance.choice([*STUDENTS[:-1], *STUDENTS[:-1], STUDENTS[-1]]), chance.choice(STUDENTS)
    course_id, other = chance.choice([*permutations(COURSES[:-1], 2), *permutations(COURSES, 2)])
    lifted = chance.choice(COURSES)
    drawn = chance.random()
    if drawn < 0.35:
        wanted = chance.choice([(course_id,), (course_id, other)])
        mode, on_full = chance.choice(["atomic", "partial"]), chance.choice(["waitlist", "waitlist", "fail"])
        return Enroll(origin=ORIGIN, student_id=student_id, course_ids=wanted, mode=mode, on_full=on_full)  # type: ignore[arg-type]
    if drawn < 0.5:
        return drop(student_id, course_id)
    if drawn < 0.6:
        out, into = ((course_id,), (other,)) if drawn < 0.58 else ((course_id, other), ())
        return Swap(origin=ORIGIN, student_id=student_id, drop=out, add=into, on_full="waitlist")
    kind = chance.choice(["pre", "co", "anti"])
    edits: list[tuple[Any, int, dict[str, object]]] = [
        (COURSE, course_id, {"capacity": chance.choice([0, 1, 3, None])}),
        (COURSE, course_id, {"meetings": chance.choice(MEETINGS)}),
        (COURSE, course_id, {"term_id": chance.choice([None, *TERMS])}),
        (COURSE, course_id, {"credits": chance.choice([1.0, 3.0, 0.1])}),
        (STUDENT, student_id, {"max_credits": chance.choice([None, 3.0])}),
        (TERM, 1, {"max_credits": chance.choice([None, 2.0, 6.0])}),
        (TERM, 1, {"enroll_until": chance.choice([None, LONG_AGO, AHEAD])}),
        (TERM, 1, {"drop_until": chance.choice([None, LONG_AGO])}),
        (TERM, chance.choice(TERMS), {"withdraw_until": chance.choice([None, LONG_AGO, AHEAD])}),
        (TERM, chance.choice(TERMS), chance.choice([OVERLAPPING, APART, OVER])),
        (TERM, chance.choice(TERMS), {"parent_id": chance.choice([None, *TERMS])}),
        (STUDENT, student_id, {"email": chance.choice([None, "9@campus.example"])}),
        (STUDENT, student_id, {"given_name": chance.choice([None, "A"])}),
        (STUDENT, student_id, {"family_name": chance.choice([None, "B"]), "groups": chance.choice(["", "a,b"])}),
        (INSTRUCTOR, chance.choice(INSTRUCTORS), {"email": chance.choice([None, "9@campus.example"])}),
        (COURSE, course_id, {"code": chance.choice([f"C{course_id}", "C9", "c1"])}),
        (COURSE, course_id, {"section": chance.choice([None, f"{course_id}", "1"])}),
    ]
    # The last ones are sometimes deleted, and a new course or student would have an id that the batch has used up.
    replaced = [
        replace(
            COURSE,
            fields_of_course(
                min(course_id, COURSES[-2]),
                code=chance.choice([f"C{min(course_id, COURSES[-2])}", "C9"]),
                term_id=chance.choice([None, 1, 1, 2, 9]),
                capacity=chance.choice([0, 1, 3, None]),
                meetings=chance.choice(MEETINGS),
            ),
        ),
        replace(
            STUDENT,
            fields_of_student(
                min(student_id, STUDENTS[-2]),
                email=chance.choice([None, "9@campus.example"]),
                max_credits=chance.choice([None, 3.0]),
                groups=chance.choice(["", "a", "a,b"]),
            ),
        ),
    ]
    edited, id, values = chance.choice(edits)
    deleted: Any
    deleted, last = chance.choice(
        [(STUDENT, STUDENTS[-1]), (COURSE, COURSES[-1]), (TERM, TERMS[-1]), (INSTRUCTOR, INSTRUCTORS[-1])]
    )
    teachers = chance.sample(INSTRUCTORS, chance.choice([0, 1, 2]))
    others: list[Change[Any]] = [
        Complete(origin=ORIGIN, student_id=student_id, course_id=course_id, passed=chance.random() < 0.7),
        RemoveCompletion(origin=ORIGIN, student_id=student_id, course_id=course_id),
        Drop(origin=ORIGIN, student_id=student_id, course_id=course_id, annuls=True),
        Reopen(origin=ORIGIN, course_id=course_id),
        *[merge(held, student_id)] * (chance.random() < 0.4),
        Complete(
            origin=ORIGIN, student_id=student_id, course_id=course_id, passed=None, grade=chance.choice(["A", "C", "F"])
        ),
        SetGradeScale(origin=ORIGIN, grades=chance.choice(SCALES)),
        SetRequirements(
            origin=ORIGIN, course_id=course_id, groups=(Group("pre", (f"C{other}",), chance.choice(["A", "C"])),)
        ),
        SetRequirements(
            origin=ORIGIN,
            course_id=course_id,
            groups=(Group("pre", (f"C{other}",), chance.choice([None, None, "C"]), in_progress=True),),
        ),
        hold(held, "R", blocks_drop=chance.random() < 0.5),
        end_hold(chance.choice((1, 2)), chance.randint(1, HELD)),
        grant(held, lifted, chance.choice(RULES)),
        end_override(chance.choice((1, 2)), chance.randint(1, HELD)),
        SetRequirements(origin=ORIGIN, course_id=course_id, groups=(Group(kind, (f"C{other}",)),)),  # type: ignore[arg-type]
        SetRequirements(origin=ORIGIN, course_id=course_id, groups=()),
        PlaceHold(
            origin=ORIGIN,
            student_id=held,
            reason="R",
            blocks_enroll=True,
            blocks_drop=chance.random() < 0.5,
            starts_at=chance.choice([None, LONG_AGO, AHEAD]),
            ends_at=chance.choice([LONG_AGO + timedelta(1), AHEAD]),
        ),
        Sweep(origin=ORIGIN, course_ids=tuple(COURSES)),
        teach(course_id, *teachers),
        Assign(
            origin=ORIGIN,
            course_id=course_id,
            instructor_id=chance.choice(INSTRUCTORS),
            teaches=chance.random() < 0.7,
            is_primary=chance.random() < 0.5,
        ),
        *[record(chance, student_id, course_id)] * 2,
        *[reserve(course_id, *chance.sample(["a", "b"], chance.choice([0, 1, 1, 2])))] * 2,
        equate(f"C{course_id}", f"c{other}"),
        part(chance.choice((1, 2))),
        *[Delete(origin=ORIGIN, resource=deleted, id=last)] * 2,
        *[edit(edited, id, **values)] * 7,
        *replaced,
    ]
    if chance.random() < 0.03:
        return Cancel(origin=ORIGIN, course_id=course_id)
    return chance.choice(others)


def normalized(outcome: object) -> str:
    """Return an outcome or a row as text without times and new ids: refused changes use up ids."""
    if isinstance(outcome, DomainError):
        return f"{type(outcome).__name__} {outcome} {outcome.errors}"
    assert not isinstance(outcome, Exception), outcome
    text = outcome if isinstance(outcome, str) else repr(outcome)
    return NEW_ID.sub(r"\1new", TIME.sub("then", text))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(shared_settings: Settings) -> AsyncIterator[Database]:
    """Yield a database that each test empties: connections that know the statements need a fraction of the time."""
    async with opened(shared_settings) as database:
        yield database


async def rows_of(connection: Connection, table: str) -> list[str]:
    """Return the rows of a table in order, as JSON. No counters and null are the same number of reserved seats taken."""
    key = {"holds": "hold_id", "overrides": "override_id", "equivalences": "equivalence_id"}.get(table, "id")
    find = f"SELECT to_json(it)::text FROM (SELECT * FROM {table} ORDER BY 1, 2) AS it"
    rows = [row[0].replace('{"id"', f'{{"{key}"', 1) for row in await connection.fetch(find)]
    return [row.replace('"reserved_taken":{}', '"reserved_taken":null') for row in rows]


async def assert_alike(
    settings: Settings,
    database: Database,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
    made: Sequence[Sequence[Change[Any]]],
    changes: Sequence[Change[Any]],
) -> None:
    """Assert that changes, made after the batches ``made``, have the same outcomes and rows in one batch as one by one."""

    async def run(batches: Sequence[Sequence[Change[Any]]]) -> tuple[list[str], dict[str, list[str]]]:
        """Start with empty tables and return the outcomes and the rows afterwards."""
        await empty(connection)
        async with registrar_of(settings, database) as office:
            for batch in made:
                await office.submit_all(batch)
            outcomes = [normalized(outcome) for batch in batches for outcome in await office.submit_all(batch)]
        for invariant, find in INVARIANTS.items():
            assert list(await find(connection)) == [], invariant
        return outcomes, {table: [normalized(row) for row in await rows_of(connection, table)] for table in TABLES}

    alone = await run([[each] for each in changes])
    together = await run([changes])

    assert caplog.messages == [], "the database took the batch as a whole"
    for one_by_one, in_a_batch, each in zip(alone[0], together[0], changes, strict=True):
        assert in_a_batch == one_by_one, each
    for table, rows in alone[1].items():
        assert together[1][table] == rows


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_batch_has_the_same_result_as_its_changes_one_by_one(
    shared_settings: Settings,
    database: Database,
    shared_connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seed: int,
) -> None:
    chance = random.Random(seed)
    made = [campus(chance), *[[change(chance)] for _ in range(chance.choice([0, EARLIER]))]]
    changes = [change(chance) for _ in range(CHANGES)]
    monkeypatch.setattr(registrar, "CHANGES_PER_WRITE", chance.choice([1, 2, 7, CHANGES]))
    page = chance.choice([1, 2, 20])
    monkeypatch.setattr(load, "PAGE_STUDENTS", page)
    monkeypatch.setattr(load, "MAX_PAGE_STUDENTS", 2 * page)
    await assert_alike(shared_settings, database, shared_connection, caplog, made, changes)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_promotions_in_many_transactions_have_the_same_result_as_in_one(
    shared_settings: Settings,
    database: Database,
    shared_connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    chance = random.Random(seed)
    made = [campus(chance), *[[change(chance)] for _ in range(CHANGES)]]
    page = chance.choice([1, 2, 20])
    monkeypatch.setattr(load, "PAGE_STUDENTS", page)
    monkeypatch.setattr(load, "MAX_PAGE_STUDENTS", 2 * page)

    async def run(promotions: int) -> dict[str, list[str]]:
        """Make the changes one by one by two registrars, each after the promotions of the previous one."""
        await empty(shared_connection)
        limited = shared_settings.model_copy(update={"promotions_per_transaction": promotions})
        async with registrar_of(limited, database) as one, registrar_of(limited, database) as other:
            for number, batch in enumerate(made):
                office = (one, other)[number % 3 % 2]
                for outcome in await office.submit_all(batch):
                    assert not isinstance(outcome, PromotionsPending)
                while await load_promotable(shared_connection, "UTC", 1):
                    await office.submit_all(())
        await assert_settled(shared_connection)
        return {table: [normalized(row) for row in await rows_of(shared_connection, table)] for table in TABLES}

    assert await run(chance.choice([1, 2, 3])) == await run(1000)


async def assert_settled(connection: Connection) -> None:
    """Assert that every invariant holds, and that a sweep could do nothing except end waitlists."""
    for invariant in invariants(0.0):
        found = await invariant.search(connection)
        assert found.faults == [], invariant.sentence
    assert await load_promotable(connection, "UTC", 100) == []
    assert not await is_any_due(connection)


def soon(chance: random.Random) -> datetime:
    return datetime.now(UTC) + timedelta(milliseconds=chance.choice([-50, 0, 20, 100, 300]))


def change_of_time(chance: random.Random) -> Change[Any]:
    """Choose a change that depends on the clock."""
    student_id, course_id = chance.choice(STUDENTS), chance.choice(COURSES)
    early, late = sorted([soon(chance), soon(chance)])
    today, blocks_enroll = datetime.now(UTC).date(), chance.random() < 0.8
    changes: list[Change[Any]] = [
        PlaceHold(
            origin=ORIGIN,
            student_id=student_id,
            reason="R",
            blocks_enroll=blocks_enroll,
            blocks_drop=not blocks_enroll or chance.random() < 0.5,
            starts_at=chance.choice([None, early]),
            ends_at=late,
        ),
        GrantOverride(
            origin=ORIGIN,
            student_id=student_id,
            course_id=course_id,
            rule=chance.choice([*RULES, "enrollment_not_open", "enrollment_closed", "antirequisite"]),
            author="D",
            reason="R",
            expires_at=chance.choice([None, late]),
        ),
        edit(
            TERM,
            chance.choice(TERMS),
            enroll_from=chance.choice([None, early]),
            enroll_until=chance.choice([None, late]),
        ),
        edit(TERM, chance.choice(TERMS), drop_until=early, withdraw_until=chance.choice([None, late])),
        edit(
            TERM, chance.choice(TERMS), starts_on=date(2001, 1, 1), ends_on=today - timedelta(chance.choice([-9, 0, 1]))
        ),
        edit(TERM, chance.choice(TERMS), **OVERLAPPING, enroll_until=None),
        SetRequirements(origin=ORIGIN, course_id=course_id, groups=(Group("anti", (f"C{course_id % 5 + 1}",)),)),
        # If the batch deletes the term first, the database refuses this change and with it the whole batch.
        term(TERMS[-1]),
    ]
    return chance.choice(changes)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_sweep_follows_the_clock_after_any_changes(
    shared_settings: Settings,
    database: Database,
    shared_connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    chance = random.Random(seed)
    page = chance.choice([1, 2, 20])
    monkeypatch.setattr(load, "PAGE_STUDENTS", page)
    monkeypatch.setattr(load, "MAX_PAGE_STUDENTS", 2 * page)
    promotions = chance.choice([1, 2, 3, 1000])
    limited = shared_settings.model_copy(update={"promotions_per_transaction": promotions})
    await empty(shared_connection)
    async with registrar_of(limited, database) as one, registrar_of(limited, database) as other:
        await one.submit_all(campus(chance))
        for _ in range(6):
            batch = [
                change_of_time(chance) if chance.random() < 0.25 else change(chance)
                for _ in range(chance.choice([1, 1, 5, 20]))
            ]
            office = chance.choice([one, other])
            for outcome in await office.submit_all(batch):
                assert isinstance(outcome, DomainError) or not isinstance(outcome, Exception), outcome
            if chance.random() < 0.3:
                await chance.choice([one, other]).sweep()
        await asyncio.sleep(0.35)
        await one.sweep()

    await assert_settled(shared_connection)
    assert await load_ended(shared_connection, "UTC", 1) == []


MANY: list[Change[Any]] = [term(1), term(2), student(1), student(2)]
CLASH: list[Change[Any]] = [course(1, meetings=MEETINGS[1], term_id=1), course(2, meetings=MEETINGS[2], term_id=1)]
SEATED: list[Change[Any]] = [enroll(1, 1), enroll(2, 2)]
"""Student 1 has a seat in course 1, which clashes with course 2, where student 2 has a seat."""
SECTIONS: list[Change[Any]] = [
    course(1, code="A", term_id=1),
    *[course(id, code="A", section=f"{id}", term_id=1) for id in (2, 3)],
    *[course(4, code="B", term_id=1, capacity=None)],
]
CASES: dict[str, tuple[list[Change[Any]], list[Change[Any]]]] = {
    "an edit of a course unblocks a student waitlisted in the same batch": (
        [*MANY, *CLASH, *SEATED],
        [enroll(1, 2), drop(2, 2), edit(COURSE, 1, meetings="[]")],
    ),
    "an edit of a term unblocks a student waitlisted in the same batch": (
        [*MANY, *CLASH, edit(COURSE, 1, term_id=2), *SEATED],
        [enroll(1, 2), drop(2, 2), edit(TERM, 2, **APART)],
    ),
    "a course moved into a term stops clashing when the term moves": (
        [*MANY, *CLASH, *SEATED, enroll(1, 2), drop(2, 2)],
        [edit(COURSE, 1, term_id=2), edit(TERM, 2, **APART)],
    ),
    "a section whose place a promotion drops goes to the next student": (
        [*MANY, student(3), *SECTIONS, enroll(1, 1), enroll(2, 2), enroll(3, 1), enroll(3, 2)],
        [enroll(2, 1), drop(1, 1), enroll(1, 2), drop(2, 2), drop(3, 1), enroll(3, 3)],
    ),
    "a set is created, used, deleted and created again in one batch": (
        [*MANY, *SECTIONS, enroll(1, 4)],
        [
            *(enroll(2, 1), equate("a", "B"), enroll(1, 2), enroll(1, 1), part(1), enroll(1, 1)),
            *(equate("A", "X"), equate("X", "b"), part(2), drop(2, 1), equate("x", "b"), enroll(2, 4)),
        ],
    ),
    "the older override is used": (
        [*MANY, course(1, capacity=0), *[grant(1, 1, "course_full")] * 2],
        [enroll(1, 1), end_override(1, 2)],
    ),
    "a student is deleted, whose refusals are kept, while another one enrolls": (
        [*MANY, course(1), hold(2, "A"), enroll(2, 1), student(3)],
        [enroll(1, 1), Delete(origin=ORIGIN, resource=STUDENT, id=2)],
    ),
    "an instructor of a deleted course can be deleted": (
        [*MANY, course(1), course(2), instructor(1), instructor(2), teach(1, 1)],
        [
            Delete(origin=ORIGIN, resource=INSTRUCTOR, id=1),
            teach(2, 2),
            teach(2),
            Delete(origin=ORIGIN, resource=COURSE, id=1),
            Delete(origin=ORIGIN, resource=INSTRUCTOR, id=1),
            Delete(origin=ORIGIN, resource=INSTRUCTOR, id=2),
            teach(2, 1),
        ],
    ),
    "a released address of an instructor is free": (
        [*MANY, instructor(1), instructor(2)],
        [edit(INSTRUCTOR, 1, email=None), edit(INSTRUCTOR, 2, email="1@campus.example")],
    ),
    "a sourced id is taken until its person is deleted": (
        [*MANY, instructor(1)],
        [
            Delete(origin=ORIGIN, resource=STUDENT, id=2),
            instructor(2, sourced_id="s-2"),
            instructor(3, sourced_id="s-2"),
            instructor(3, sourced_id="s-1"),
            instructor(3, given_name=None),
        ],
    ),
    "holds are listed in order": (
        [*MANY, course(1), hold(1, "A"), hold(1, "B")],
        [enroll(1, 1), end_hold(1, 2)],
    ),
    "a term can be deleted after its course has left it": (
        [*MANY, course(1, term_id=2)],
        [edit(TERM, 2, name="Q"), edit(COURSE, 1, term_id=1), Delete(origin=ORIGIN, resource=TERM, id=2)],
    ),
    "a released address is free": (
        MANY,
        [
            edit(STUDENT, 2, given_name="Q"),
            edit(STUDENT, 1, email="9@campus.example"),
            edit(STUDENT, 2, email="1@campus.example"),
        ],
    ),
    "a course that is completed again counts for the code that it has then": (
        [*MANY, course(1), enroll(1, 1), *completed(1, 1), edit(COURSE, 1, code="C2"), edit(COURSE, 1, code="C3")],
        [RemoveCompletion(origin=ORIGIN, student_id=1, course_id=1), *completed(1, 1), edit(COURSE, 1, code="C4")],
    ),
    "the rows of a merged student are the other's at once": (
        [*MANY, student(3), course(1), course(2, capacity=0), enroll(1, 1), enroll(2, 1), enroll(2, 2), enroll(3, 2)],
        [
            hold(2, "R", blocks_drop=True),
            grant(2, 2, "course_full"),
            merge(1, 2),
            hold(1, "R"),
            edit(STUDENT, 3, email="9@campus.example"),
            drop(1, 1),
            enroll(2, 1),
            merge(3, 1),
            drop(3, 2),
        ],
    ),
    "a student who is new in the batch can be merged": (
        [*MANY, course(1), enroll(2, 1)],
        [student(3), hold(2, "R"), merge(3, 2), merge(1, 3), enroll(1, 1)],
    ),
    "replaced students and courses are created, changed and left as they are": (
        [*MANY, *CLASH, *SEATED, enroll(1, 2), drop(2, 2)],
        [
            replace(STUDENT, fields_of_student(3)),
            replace(STUDENT, fields_of_student(3, email="1@campus.example")),
            replace(STUDENT, fields_of_student(1, email=None)),
            replace(STUDENT, fields_of_student(3, email="1@campus.example")),
            replace(STUDENT, fields_of_student(3, email="1@campus.example")),
            replace(COURSE, fields_of_course(1, term_id=1)),
            replace(COURSE, fields_of_course(3, term_id=1)),
            replace(COURSE, fields_of_course(3, code="c2", term_id=1)),
            replace(COURSE, fields_of_course(2, code="C9", term_id=1)),
            replace(COURSE, fields_of_course(3, code="c2", term_id=1)),
            enroll(3, 3),
        ],
    ),
    "a course in progress is taken, lost, taken again, failed and waived": (
        [*MANY, edit(TERM, 2, **APART), course(1, term_id=1), course(2, term_id=2), lean(2, "C1"), enroll(1, 1)],
        [
            *(enroll(1, 2), drop(1, 1), enroll(1, 1), *failed(1, 1), grant(1, 2, "prerequisite_missing")),
            *(enroll(2, 1), enroll(2, 2), *completed(2, 1), *failed(2, 1), drop(2, 2), enroll(2, 2)),
        ],
    ),
    "requirements, a merge and a cancellation of courses in progress": (
        [*MANY, student(3), edit(TERM, 2, **APART), course(1, term_id=1), course(2, term_id=2), lean(2, "C1")],
        [
            *(enroll(1, 1), enroll(1, 2), drop(1, 1), enroll(2, 1), merge(1, 2), enroll(3, 1), enroll(3, 2)),
            *(edit(COURSE, 1, code="C9"), drop(3, 1), edit(COURSE, 1, code="C1"), enroll(3, 1)),
            *(
                Cancel(origin=ORIGIN, course_id=1),
                lean(2, "C8"),
                SetRequirements(origin=ORIGIN, course_id=2, groups=()),
            ),
        ],
    ),
    "courses that need each other are given together": (
        [*MANY, student(3), course(1), course(2), course(3), *[enroll(3, id) for id in (1, 2, 3)]],
        [
            *(need(1, "C2"), need(2, "C1"), enroll(1, 1), enroll(1, 2), enroll(2, 2), enroll(2, 1), enroll(1, 3)),
            *(drop_both(3, 1, 2), need(3, "C1"), drop(3, 3), edit(COURSE, 1, capacity=2), edit(COURSE, 2, capacity=2)),
            *(drop_both(1, 1, 2), enroll(1, 1), drop_both(2, 1, 2)),
        ],
    ),
    "a limit is lowered between a seat and a drop of one student": (
        [*MANY, course(1, term_id=1, credits=3.0), course(2, term_id=1)],
        [enroll(1, 1), enroll(1, 2), edit(TERM, 1, max_credits=2.0), drop(1, 2)],
    ),
    "a released code is free": (
        [*MANY, *CLASH],
        [edit(COURSE, 2, title="Q"), edit(COURSE, 1, code="C9"), edit(COURSE, 2, code="C1")],
    ),
}


@pytest.mark.parametrize("part", [1, 100])
@pytest.mark.parametrize("case", CASES)
async def test_a_case_has_the_same_result_in_a_batch_and_one_by_one(
    shared_settings: Settings,
    database: Database,
    shared_connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: str,
    part: int,
) -> None:
    monkeypatch.setattr(registrar, "CHANGES_PER_WRITE", part)
    made, changes = CASES[case]
    await assert_alike(shared_settings, database, shared_connection, caplog, [made], changes)


async def test_the_writes_of_a_lost_transaction_are_not_remembered(
    shared_settings: Settings, shared_connection: Connection
) -> None:
    await empty(shared_connection)
    made = [*MANY, course(1, meetings=MEETINGS[1]), course(2, meetings=MEETINGS[2]), course(3)]
    made += [enroll(1, 1), enroll(1, 3)]
    async with registrar_of(shared_settings) as other:
        await other.submit_all(made)
    schema = {"search_path": shared_settings.database_schema}
    blocker = await asyncpg.connect(shared_settings.owner_url, server_settings=schema)
    await blocker.execute("BEGIN")
    await blocker.execute("LOCK TABLE overrides IN SHARE MODE")
    # The edit is written at once, to find the students it helps; the enrollment is judged by it; the last change waits.
    changes = [edit(COURSE, 1, meetings="[]"), enroll(1, 2), grant(2, 3, "hold")]

    async with registrar_of(shared_settings) as office:
        enrolling = asyncio.create_task(office.submit_all(changes))
        await shared_connection.execute(
            "SELECT pg_terminate_backend($1::integer)", await waiting_writer(shared_connection)
        )
        with pytest.raises(Unavailable):
            await enrolling
        await blocker.close()
        [outcome] = await office.submit_all([enroll(1, 2)])

    assert isinstance(outcome, EnrollmentRefused)
    assert [error.code for error in outcome.errors] == ["time_conflict"]
