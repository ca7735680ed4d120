"""The judging part alone, in memory: rules, seats, and the ledger that undoes what is refused."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import (
    CourseNotFound,
    DomainError,
    EmailTaken,
    EnrollmentRefused,
    InUse,
    NotEnrolled,
    StudentNotFound,
    UnknownCourses,
)
from service.registrar.changes import Application, Change, Create, Delete, Drop, Edit, Enroll, Mode, Origin, Refusal
from service.registrar.decide import decide
from service.registrar.ledger import Ledger, Table
from service.registrar.rules import RULES, SENTENCES, judge, sentence
from service.registrar.seats import SEATED, has_free_seat, move_seat
from sql.courses import Course
from sql.enrollments import Enrollment
from sql.feed import Head
from sql.students import Student

NOW = datetime(2026, 9, 1, tzinfo=UTC)
ORIGIN = Origin(request_id="r", actor="a", reason="because")
STATUSES = ("enrolled", "waitlisted", "completed", "dropped", "withdrawn")

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No test fails because the machine is busy."""

capacities = st.none() | st.integers(0, 3)
statuses = st.sampled_from(STATUSES)


def course(id: int, capacity: int | None = None, seats_taken: int = 0) -> Course:
    return Course(
        id=id,
        external_id=None,
        code="C",
        title="T",
        credits=3.0,
        capacity=capacity,
        seats_taken=seats_taken,
        version=1,
        created_at=NOW,
        updated_at=NOW,
    )


def student(id: int) -> Student:
    return Student(
        id=id,
        external_id=None,
        given_name="A",
        family_name="B",
        email=f"s{id}@x",
        version=1,
        created_at=NOW,
        updated_at=NOW,
    )


@untimed
@given(capacities, st.integers(0, 5))
def test_a_seat_is_free_just_when_one_more_does_not_exceed_the_capacity(capacity: int | None, seats_taken: int) -> None:
    free = has_free_seat(course(1, capacity, seats_taken))

    assert free == (capacity is None or seats_taken + 1 <= capacity)


@untimed
@given(st.integers(1, 5), st.none() | statuses, statuses)
def test_a_seat_moves_just_when_a_student_comes_to_or_leaves_a_seat(seats_taken: int, before: Any, after: Any) -> None:
    standing = course(1, 10, seats_taken)

    moved = move_seat(standing, before, after)

    change = {(False, True): 1, (True, False): -1}.get((before in SEATED, after in SEATED), 0)
    assert moved == replace(standing, seats_taken=seats_taken + change)
    assert move_seat(moved, after, before or "dropped") == standing


@untimed
@given(st.integers(1, 2**63 - 1), st.none() | capacities.map(lambda capacity: course(7, capacity, 2)), st.booleans())
def test_a_refusal_names_the_course_and_a_rule_that_is_known_and_has_a_sentence(
    course_id: int, found: Course | None, seated: bool
) -> None:
    if found is not None:
        found = replace(found, id=course_id)

    refusals = judge(Application(course_id, found, seated))

    assert [refusal.code for refusal in refusals] == (
        ["course_not_found"] if found is None else [] if seated else ["course_full"]
    )
    for refusal in refusals:
        assert refusal.course_id == course_id
        assert refusal.code in {rule.__name__ for rule in RULES}
        assert str(course_id) in sentence(refusal)
        json.dumps(refusal.params)


def test_every_rule_has_a_sentence_and_every_sentence_a_rule() -> None:
    assert [rule.__name__ for rule in RULES] == list(SENTENCES)
    assert all((rule.__doc__ or "").startswith("Refuse ") for rule in RULES)


def test_judging_is_the_same_each_time() -> None:
    application = Application(7, course(7, 2, 2), seated=False)

    assert judge(application) == judge(application) == (Refusal("course_full", 7, {"capacity": 2, "seats_taken": 2}),)


keys = st.integers(1, 4)
steps = st.lists(st.tuples(st.sampled_from(["put", "put", "remove", "keep", "rollback"]), keys, st.integers(0, 3)))


@untimed
@given(st.dictionaries(keys, st.integers(0, 3)), steps)
def test_a_table_forgets_what_is_rolled_back_and_tells_just_what_differs_in_the_end(
    loaded: dict[int, int], steps: list[tuple[str, int, int]]
) -> None:
    table: Table[int, int] = Table()
    for key, row in loaded.items():
        table.load(key, row)
    kept, now = dict(loaded), dict(loaded)

    for step, key, row in steps:
        if step == "put":
            table.put(key, row)
            now[key] = row
        elif step == "remove":
            table.put(key, None)
            now.pop(key, None)
        elif step == "keep":
            table.keep()
            kept = dict(now)
        else:
            table.rollback()
            now = dict(kept)
        assert sorted(table) == sorted(now.values())
        assert all(table.get(key) == now.get(key) for key in range(1, 5))

    changed = {key: row for key, row in now.items() if loaded.get(key) != row}
    assert sorted(table.saved()) == sorted(changed.values())
    assert sorted(table.removed()) == sorted(loaded.keys() - now.keys())


STUDENTS = COURSES = range(1, 5)
UNKNOWN = 9


@dataclass
class Model:
    """The same semantics, said as plainly as can be: who is in which course, and how many may be."""

    capacities: dict[int, int | None]
    students: set[int] = field(default_factory=lambda: set(STUDENTS))
    seated: dict[int, set[int]] = field(default_factory=lambda: {id: set() for id in COURSES})
    ever: set[tuple[int, int]] = field(default_factory=set)
    events: int = 0

    def is_free(self, course_id: int) -> bool:
        capacity = self.capacities[course_id]
        return capacity is None or len(self.seated[course_id]) < capacity

    def enroll(self, student_id: int, course_ids: tuple[int, ...], mode: str) -> list[str] | type[DomainError]:
        if student_id not in self.students:
            return StudentNotFound
        outcomes = [
            "refused"
            if id not in self.capacities
            else "unchanged"
            if student_id in self.seated[id]
            else "enrolled"
            if self.is_free(id)
            else "refused"
            for id in course_ids
        ]
        if mode == "atomic" and "refused" in outcomes:
            return UnknownCourses if any(id not in self.capacities for id in course_ids) else EnrollmentRefused
        for id, outcome in zip(course_ids, outcomes, strict=True):
            if outcome == "enrolled":
                self.seated[id].add(student_id)
                self.ever.add((student_id, id))
                self.events += 1
        return outcomes

    def drop(self, student_id: int, course_id: int) -> str | type[DomainError]:
        if student_id not in self.students:
            return StudentNotFound
        if course_id not in self.capacities or (student_id, course_id) not in self.ever:
            return NotEnrolled
        if student_id not in self.seated[course_id]:
            return "unchanged"
        self.seated[course_id].remove(student_id)
        self.events += 1
        return "dropped"

    def resize(self, course_id: int, capacity: int | None) -> int | type[DomainError] | None:
        if course_id not in self.capacities:
            return CourseNotFound
        if self.capacities[course_id] != capacity:
            self.capacities[course_id] = capacity
            self.events += 1
        return capacity

    def delete_course(self, course_id: int) -> type[DomainError] | None:
        if course_id not in self.capacities:
            return CourseNotFound
        if any(id == course_id for _, id in self.ever):
            return InUse
        del self.capacities[course_id]
        self.events += 1
        return None

    def delete_student(self, student_id: int) -> type[DomainError] | None:
        if student_id not in self.students:
            return StudentNotFound
        if any(id == student_id for id, _ in self.ever):
            return InUse
        self.students.remove(student_id)
        self.events += 1
        return None


some_student = st.sampled_from([*STUDENTS, *STUDENTS, UNKNOWN])
some_course = st.sampled_from([*COURSES, *COURSES, UNKNOWN])
modes: st.SearchStrategy[Mode] = st.sampled_from(["atomic", "partial"])
enrolls = st.builds(
    Enroll,
    origin=st.just(ORIGIN),
    student_id=some_student,
    course_ids=st.lists(some_course, min_size=1, max_size=5, unique=True).map(tuple),
    mode=modes,
)
drops = st.builds(Drop, origin=st.just(ORIGIN), student_id=some_student, course_id=some_course)


def resize(id: int, capacity: int | None) -> Edit[Course]:
    return Edit(origin=ORIGIN, thing=Course, id=id, values={"capacity": capacity})


resizes = st.builds(resize, some_course, capacities)
deletions = st.builds(
    Delete,
    origin=st.just(ORIGIN),
    thing=st.sampled_from([Student, Course]),
    id=st.sampled_from([*COURSES, UNKNOWN]),
)
some_change = enrolls | enrolls | drops | resizes | deletions
changes = st.lists(some_change, max_size=10) | st.lists(some_change, min_size=20, max_size=60)


def outcome_of(model: Model, change: Change[Any]) -> object:
    if isinstance(change, Enroll):
        return model.enroll(change.student_id, change.course_ids, change.mode)
    if isinstance(change, Drop):
        return model.drop(change.student_id, change.course_id)
    if isinstance(change, Edit):
        capacity = change.values["capacity"]
        assert capacity is None or isinstance(capacity, int)
        return model.resize(change.id, capacity)
    assert isinstance(change, Delete)
    return model.delete_student(change.id) if change.thing is Student else model.delete_course(change.id)


def told(outcome: Any, change: Change[Any]) -> object:
    """Say an outcome in the words of the model."""
    if isinstance(outcome, Exception):
        return type(outcome)
    if isinstance(change, Enroll):
        return [result.outcome for result in outcome]
    if isinstance(change, Drop):
        return outcome.outcome
    return outcome.capacity if isinstance(change, Edit) else outcome


def new_ledger(capacities: list[int | None], position: int) -> Ledger:
    ledger = Ledger(Head(now=NOW, position=position))
    for id in STUDENTS:
        ledger.students.load(id, student(id))
    for id, capacity in zip(COURSES, capacities, strict=True):
        ledger.courses.load(id, course(id, capacity))
    return ledger


@untimed
@given(st.lists(capacities, min_size=4, max_size=4), changes, st.integers(0, 1000), st.booleans())
def test_any_changes_in_any_order_do_what_the_plainest_model_does(
    sizes: list[int | None], changes: list[Change[Any]], position: int, at_once: bool
) -> None:
    ledger = new_ledger(sizes, position)
    model = Model(dict(zip(COURSES, sizes, strict=True)))
    outcomes: list[Any] = decide(ledger, changes) if at_once else []

    for number, change in enumerate(changes):
        lowest = {id: len(model.seated[id]) for id in model.capacities}
        expected = outcome_of(model, change)
        if not at_once:
            outcomes += decide(ledger, [change])
        assert told(outcomes[number], change) == expected, change
        for id, capacity in model.capacities.items():
            assert capacity is None or len(model.seated[id]) <= max(capacity, lowest[id])
            if not at_once:
                assert ledger.courses[id].seats_taken == len(model.seated[id])

    rows = list(ledger.enrollments)
    for id in model.capacities:
        seated = {row.student_id for row in rows if row.course_id == id and row.status in SEATED}
        assert seated == model.seated[id]
        assert ledger.courses[id].seats_taken == len(seated)
    assert {(row.student_id, row.course_id) for row in rows} == model.ever
    assert {row.id for row in ledger.students} == model.students
    assert {row.id: row.capacity for row in ledger.courses} == model.capacities
    assert [event.position for event in ledger.events] == [position + number + 1 for number in range(model.events)]
    explained(ledger)


def explained(ledger: Ledger) -> None:
    """Assert that every row is what its last event says, and stands at the place of the event that put it there."""
    last: dict[tuple[int, int], str] = {}
    place: dict[tuple[int, int], int] = {}
    for event in ledger.events:
        assert (event.occurred_at, event.actor, event.request_id, event.reason) == (NOW, "a", "r", "because")
        if event.student_id is not None and event.course_id is not None:
            key = event.student_id, event.course_id
            assert event.after is not None
            before = None if event.before is None else json.loads(event.before)["status"]
            assert before == last.get(key)
            last[key] = json.loads(event.after)["status"]
            assert event.type == f"enrollment.{last[key]}"
            if last[key] == "enrolled":
                place[key] = event.position
    rows = {(row.student_id, row.course_id): row for row in ledger.enrollments}
    assert {key: row.status for key, row in rows.items()} == last
    assert {key: row.place for key, row in rows.items()} == place


@untimed
@given(st.lists(capacities, min_size=4, max_size=4), changes)
def test_what_is_to_be_saved_is_just_what_differs_from_what_was_loaded(
    sizes: list[int | None], changes: list[Change[Any]]
) -> None:
    ledger, untouched = new_ledger(sizes, 0), new_ledger(sizes, 0)

    decide(ledger, changes)

    before = {row.id: row for row in untouched.courses}
    after = {row.id: row for row in ledger.courses}
    assert {row.id: row for row in ledger.courses.saved()} == {
        id: row for id, row in after.items() if before.get(id) != row
    }
    assert set(ledger.courses.removed()) == before.keys() - after.keys()
    assert set(ledger.students.removed()) == set(STUDENTS) - {row.id for row in ledger.students}
    assert sorted(map(repr, ledger.enrollments.saved())) == sorted(map(repr, ledger.enrollments))
    assert bool(ledger.events) >= bool(ledger.courses.saved() or ledger.students.saved() or ledger.enrollments.saved())


@untimed
@given(st.lists(capacities, min_size=4, max_size=4), changes, enrolls)
def test_a_refused_change_leaves_everything_as_it_was(
    sizes: list[int | None], changes: list[Change[Any]], last: Enroll
) -> None:
    ledger = new_ledger(sizes, 0)
    decide(ledger, changes)
    before = contents(ledger)

    [outcome] = decide(ledger, [last])

    nothing_new = isinstance(outcome, DomainError) or all(result.outcome != "enrolled" for result in outcome)
    assert (contents(ledger) == before) == nothing_new


def contents(ledger: Ledger) -> tuple[list[object], ...]:
    tables = (ledger.students, ledger.courses, ledger.enrollments)
    return (*(sorted(table, key=repr) for table in tables), list(ledger.events))


def test_a_change_that_fails_of_a_bug_fails_alone() -> None:
    ledger = new_ledger([1, 1, 1, 1], 0)
    broken = Edit(origin=ORIGIN, thing=Course, id=1, values={"nonsense": 1})
    good = [Enroll(origin=ORIGIN, student_id=id, course_ids=(id,)) for id in (1, 2)]

    first, bug, second = decide(ledger, [good[0], broken, good[1]])

    assert isinstance(bug, TypeError)
    assert [first[0].outcome, second[0].outcome] == ["enrolled", "enrolled"]
    assert [event.position for event in ledger.events] == [1, 2]


def test_changes_of_one_batch_see_each_other() -> None:
    ledger = Ledger(Head(now=NOW, position=0))
    ledger.free_ids[Student] = [12, 11]
    values = {"external_id": None, "given_name": "A", "family_name": "B"}
    batch: list[Change[Any]] = [
        Create(origin=ORIGIN, thing=Student, values={**values, "email": "a@x"}),
        Create(origin=ORIGIN, thing=Student, values={**values, "email": "A@X"}),
        Delete(origin=ORIGIN, thing=Student, id=11),
    ]

    created, taken, deleted = decide(ledger, batch)

    assert created.id == 11
    assert isinstance(taken, EmailTaken)
    assert deleted is None
    assert [event.type for event in ledger.events] == ["student.created", "student.deleted"]
    assert ledger.students.saved() == []
    assert ledger.students.removed() == []


def test_who_was_enrolled_in_the_same_batch_is_in_use() -> None:
    ledger = new_ledger([1, 1, 1, 1], 0)

    enrolled, refused, also_refused = decide(
        ledger,
        [
            Enroll(origin=ORIGIN, student_id=1, course_ids=(2,)),
            Delete(origin=ORIGIN, thing=Student, id=1),
            Delete(origin=ORIGIN, thing=Course, id=2),
        ],
    )

    assert enrolled[0].outcome == "enrolled"
    assert isinstance(refused, InUse)
    assert isinstance(also_refused, InUse)


def test_enrolling_again_keeps_the_row_of_the_drop_and_takes_a_new_place() -> None:
    ledger = new_ledger([1, 1, 1, 1], 10)
    old = Enrollment(1, 2, "dropped", 3, NOW.replace(year=2020), NOW.replace(year=2020))
    ledger.enrollments.load((1, 2), old)

    decide(ledger, [Enroll(origin=ORIGIN, student_id=1, course_ids=(2,))])

    assert ledger.enrollments[1, 2] == Enrollment(1, 2, "enrolled", 11, NOW, NOW)
