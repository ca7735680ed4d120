"""Replay the events against the tables: each row must equal the result of its events, and each event continue them."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from itertools import groupby
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from sql import Connection
from sql import replay as sql
from sql.course_instructors import CourseInstructor
from sql.courses import Course, load_definitions
from sql.equivalences import load_equivalences
from sql.grades import load_grades
from sql.holds import Hold
from sql.instructors import Instructor, list_instructors
from sql.overrides import Override
from sql.replay import EnrollmentState, Recorded
from sql.requirements import Requirement
from sql.students import Student, list_students
from sql.terms import Term, list_terms

Row = TypeVar("Row")
State: TypeAlias = Mapping[str, object]

PAGE_ROWS = 5_000
"""Rows read at once: larger pages do not make a check faster, and a page stays in memory."""

LOWEST: Final = -(2**63)
"""A value below every id and position, including invalid ones."""

INSTANTS: Final = frozenset(
    {
        "enroll_from",
        "enroll_until",
        "drop_until",
        "withdraw_until",
        "from",
        "until",
        "expires_at",
        "used_at",
        "joined_at",
    }
)
"""The fields that events write as RFC 3339 instants, with Z or with an offset."""

NOT_IN_EVENTS: Final = frozenset({"id", "seats_taken", "waitlisted", "created_at", "updated_at"})
"""The columns of students, courses and terms that their events do not carry."""

ACTIONS: Final = {
    "student": frozenset({"created", "updated", "deleted", "erased", "merged", "merged_into"}),
    "course": frozenset(
        {
            "created",
            "updated",
            "deleted",
            "cancelled",
            "reopened",
            "requirements_set",
            "instructors_set",
            "reservations_set",
        }
    ),
    "term": frozenset({"created", "updated", "deleted"}),
    "instructor": frozenset({"created", "updated", "deleted"}),
}
STATUSES: Final = {
    "enrolled": "enrolled",
    "promoted": "enrolled",
    "waitlisted": "waitlisted",
    "skipped": "waitlisted",
    "updated": "waitlisted",
    "requirement_lost": "enrolled",
    "requirement_met": "enrolled",
    "completed": "completed",
    "completion_removed": "enrolled",
    "dropped": "dropped",
    "annulled": "dropped",
    "withdrawn": "withdrawn",
}
"""The status after each event of an enrollment."""

MERGES: Final = frozenset({"merged", "merged_into"})
"""The actions of a merge: ``merged_into`` is the last event of a duplicate."""

COURSE_STATUSES: Final = {"cancelled": "cancelled", "reopened": "open"}
"""The status after each event that changes that of a course."""

JOINS: Final = frozenset({"enrollment.enrolled", "enrollment.waitlisted", "enrollment.promoted"})
"""The events that put a student at the end of a waitlist or in a seat."""

REQUIREMENT_MARKS: Final = {"enrollment.requirement_lost": True, "enrollment.requirement_met": False}
"""Whether an enrollment has lost a requirement after each of these events; after any other event it has not."""

DEFAULTS: Final = {
    "status": "open",
    "groups": (),
    "instructors": [],
    "reservations": [],
    "meetings": [],
    "swap_drops": [],
    "requirement_lost": False,
}
"""The values of fields before any event carries them; all other fields are None."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row, or a field of a row, that differs from its events; a value is None if there is no row, or no event."""

    resource: str
    field: str
    value: object
    value_by_events: object


@dataclass(frozen=True, slots=True)
class Break:
    """An event that does not continue the events before it: one of its fields differs from their result."""

    position: int
    type: str
    field: str
    value: object
    value_by_events: object


Faults: TypeAlias = Iterator[Difference | Break]


class Stream(Generic[Row]):
    """Rows in ascending order of an id, read page by page."""

    def __init__(self, read: Callable[[Row | None], Awaitable[Sequence[Row]]], id_of: Callable[[Row], int]) -> None:
        self._read = read
        """Reads the page after a row, or the first page after None."""
        self._id_of = id_of
        self._rows: Sequence[Row] = ()
        self._next = 0
        self._last: Row | None = None
        self._complete = False

    async def next_id(self) -> int | None:
        """Return the id of the next row; None at the end."""
        if self._next == len(self._rows):
            if self._complete:
                return None
            self._rows, self._next = await self._read(self._last), 0
            if not self._rows:
                self._complete = True
                return None
            self._last = self._rows[-1]
        return self._id_of(self._rows[self._next])

    async def take(self, id: int) -> list[Row]:
        """Return the rows with an id and advance to the next id; the id must not be larger than ``next_id`` returns."""
        taken: list[Row] = []
        while await self.next_id() == id:
            taken.append(self._rows[self._next])
            self._next += 1
        return taken


class HasIds(Protocol):
    """A stream of any rows."""

    async def next_id(self) -> int | None:
        """Return the id of the next row; None at the end."""


async def smallest_id(*streams: HasIds) -> int | None:
    """Return the smallest id that is next in any of the streams, or None at the end of all streams."""
    ids = [id for stream in streams if (id := await stream.next_id()) is not None]
    return min(ids, default=None)


async def replay_terms(connection: Connection) -> AsyncIterator[Difference | Break]:
    """Compare every term with the result of its events."""
    # Terms are few, and their events are not sorted by term: all of them are held in memory.
    events: dict[int, list[Recorded]] = defaultdict(list)
    after = LOWEST
    while page := await sql.find_events_of_terms(connection, after, PAGE_ROWS):
        after = page[-1].position
        for event in page:
            if not event.type.startswith(("instructor.", "equivalence.", "grade_scale.")):
                events[event.term_id or 0].append(event)
    terms = terms_of(connection)
    while (id := await terms.next_id()) is not None:
        for term in await terms.take(id):
            for fault in _follow("term", id, events.pop(id, []), _row_state(term, Term.__dataclass_fields__)):
                yield fault
    for id, remaining in events.items():
        for fault in _follow("term", id, remaining, None):
            yield fault


async def replay_instructors(connection: Connection) -> AsyncIterator[Difference | Break]:
    """Compare every instructor with the result of the events.

    They carry only the id, the version and the names of the changed fields.
    """
    # Few too, and found among the same events as terms.
    events: dict[int, list[Recorded]] = defaultdict(list)
    after = LOWEST
    while page := await sql.find_events_of_terms(connection, after, PAGE_ROWS):
        after = page[-1].position
        for event in page:
            if event.type.startswith("instructor."):
                state = parsed(event.after) or parsed(event.before) or {}
                events[_id_in(state, "instructor_id") or 0].append(event)
    instructors = instructors_of(connection)
    while (id := await instructors.next_id()) is not None:
        for instructor in await instructors.take(id):
            row = {"instructor_id": id, "version": instructor.version}
            for fault in _follow("instructor", id, events.pop(id, []), row):
                yield fault
    for id, remaining in events.items():
        for fault in _follow("instructor", id, remaining, None):
            yield fault


async def replay_equivalences(connection: Connection) -> AsyncIterator[Difference | Break]:
    """Compare every set of equivalent codes with the result of its events; all of them are in memory."""
    states: dict[int | None, State] = {}
    after = LOWEST
    while page := await sql.find_events_of_terms(connection, after, PAGE_ROWS):
        after = page[-1].position
        for event in page:
            if event.type.startswith("equivalence."):
                for fault in _follow_equivalence(event, states):
                    yield fault
    for row in await load_equivalences(connection):
        state = states.pop(row.id, None)
        for fault in _compare(f"equivalence {row.id}", {"codes": sorted(row.codes)}, state):
            yield fault
    for id, state in states.items():
        for fault in _compare(f"equivalence {id}", None, state):
            yield fault


def _follow_equivalence(event: Recorded, states: dict[int | None, State]) -> Faults:
    """Apply the event of a set, which is created and deleted as a whole, to the states of all sets by id."""
    before, after = parsed(event.before), parsed(event.after)
    id = _id_in(before or after or {}, "equivalence_id")
    yield from _check_before(event, states.pop(id, None), "equivalence_id")
    if event.type != ("equivalence.created" if before is None else "equivalence.deleted") or (before and after):
        yield Break(event.position, event.type, "type", event.type, None)
    if after is not None:
        states[id] = after


async def replay_grade_scale(connection: Connection) -> AsyncIterator[Difference | Break]:
    """Compare the grade scale with the result of its events."""
    state: State = {"grades": []}
    after = LOWEST
    while page := await sql.find_events_of_terms(connection, after, PAGE_ROWS):
        after = page[-1].position
        for event in page:
            if event.type.startswith("grade_scale."):
                for fault in _check_before(event, state, "grades"):
                    yield fault
                if event.type != "grade_scale.set":
                    yield Break(event.position, event.type, "type", event.type, None)
                state = parsed(event.after) or {"grades": []}
    grades = [{"grade": each.grade, "passes": each.passes} for each in await load_grades(connection)]
    for fault in _compare("grade scale", {"grades": grades}, state):
        yield fault


async def replay_courses(connection: Connection) -> AsyncIterator[Difference | Break]:
    """Compare every course, its requirements and its instructors with the result of its events."""
    courses = courses_of(connection)
    requirements = Stream[Requirement](
        lambda last: sql.find_requirements(
            connection,
            *((last.course_id, last.group_number, last.code) if last else (LOWEST, LOWEST, "")),
            PAGE_ROWS,
        ),
        lambda row: row.course_id,
    )
    teaching = Stream[CourseInstructor](
        lambda last: sql.find_course_instructors(
            connection, *((last.course_id, last.instructor_id) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda row: row.course_id,
    )
    events = Stream[Recorded](
        lambda last: sql.find_events_of_courses(
            connection, *((last.course_id or 0, last.position) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda event: event.course_id or 0,
    )
    while (id := await smallest_id(courses, requirements, teaching, events)) is not None:
        state: State | None = None
        required = await requirements.take(id)
        teachers = [
            {"instructor_id": row.instructor_id, "primary": row.is_primary}
            for row in sorted(await teaching.take(id), key=lambda row: (not row.is_primary, row.instructor_id))
            if row.teaches
        ]
        for course in await courses.take(id):
            groups = [
                {
                    "kind": kind,
                    "any_of": [row.code for row in members],
                    "min_grade": min_grade,
                    "in_progress": in_progress,
                }
                for (_, kind, min_grade, in_progress), members in groupby(
                    required, lambda row: (row.group_number, row.kind, row.min_grade, row.in_progress)
                )
            ]
            state = {
                **_row_state(course, Course._fields),
                "groups": _plain("groups", groups),
                "instructors": teachers,
                "reservations": json.loads(course.reservations or "[]"),
            }
        for fault in _follow("course", id, await events.take(id), state):
            yield fault


async def replay_students(connection: Connection) -> AsyncIterator[Difference | Break]:
    """Compare every student, hold, override and enrollment with the result of its events, student by student.

    The events of a student carry only the version and the names of the changed fields.
    """
    recoded = await _recoded_courses(connection)
    students = students_of(connection)
    holds = Stream[Hold](
        lambda last: sql.find_all_holds(
            connection, *((last.student_id, last.id) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda hold: hold.student_id,
    )
    overrides = Stream[Override](
        lambda last: sql.find_all_overrides(
            connection, *((last.student_id, last.id) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda override: override.student_id,
    )
    enrollments = Stream[EnrollmentState](
        lambda last: sql.find_enrollments(
            connection, *((last.student_id, last.course_id) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda row: row.student_id,
    )
    events = Stream[Recorded](
        lambda last: sql.find_events_of_students(
            connection, *((last.student_id or 0, last.position) if last else (LOWEST, LOWEST)), PAGE_ROWS
        ),
        lambda event: event.student_id or 0,
    )
    moves = Stream[Recorded](
        lambda last: sql.find_events_of_enrollments(
            connection,
            *((last.student_id or 0, last.course_id or 0, last.position) if last else (LOWEST, LOWEST, LOWEST)),
            PAGE_ROWS,
        ),
        lambda event: event.student_id or 0,
    )
    while (id := await smallest_id(students, holds, overrides, enrollments, events, moves)) is not None:
        student = next(iter(await students.take(id)), None)
        of_student, of_holds = _divided(await events.take(id), "hold.")
        for fault in _follow("student", id, of_student, None if student is None else {"version": student.version}):
            yield fault
        for fault in _follow_holds(student, await holds.take(id), of_holds):
            yield fault
        of_enrollments, of_overrides = _divided(await moves.take(id), "override.")
        own_overrides = await overrides.take(id)
        deleted = await _deleted_courses(connection, own_overrides, of_overrides)
        for fault in _follow_overrides(student, own_overrides, of_overrides, deleted):
            yield fault
        for fault in _follow_enrollments(id, await enrollments.take(id), of_enrollments, of_overrides, recoded):
            yield fault


async def replay_merges(connection: Connection) -> AsyncIterator[Difference]:
    """Compare the students of whom the table says that they were merged with those of the events."""
    # All of them are in memory: few students are merged.
    into: dict[int, int] = {}
    after = LOWEST
    while merges := await sql.find_merges(connection, after, PAGE_ROWS):
        after = merges[-1].position
        into.update({merge.student_id: merge.merged_into for merge in merges})
    after = LOWEST
    expected = {id: _last(into, id) for id in into}
    while page := await sql.find_merged_students(connection, after, PAGE_ROWS):
        after = page[-1].student_id
        for row in page:
            value = expected.pop(row.student_id, None)
            if row.merged_into != value:
                yield Difference(f"merged student {row.student_id}", "merged_into", row.merged_into, value)
    for id, value in expected.items():
        yield Difference(f"merged student {id}", "merged_into", None, value)


def _last(into: Mapping[int, int], id: int) -> int:
    """Return the student into whom a student was merged, who may have been merged into another one later."""
    for _ in range(len(into)):
        if id not in into:
            break
        id = into[id]
    return id


async def _recoded_courses(connection: Connection) -> dict[int, list[sql.Recoded]]:
    """Return the changes of codes by course, all of them in memory: few courses ever change their code."""
    recoded: dict[int, list[sql.Recoded]] = defaultdict(list)
    after = LOWEST
    while page := await sql.find_recoded(connection, after, PAGE_ROWS):
        after = page[-1].position
        for event in page:
            recoded[event.course_id].append(event)
    return recoded


def students_of(connection: Connection) -> Stream[Student]:
    """Return a stream of all students."""
    return Stream(
        lambda last: list_students(connection, last.id if last else LOWEST, PAGE_ROWS), lambda student: student.id
    )


def instructors_of(connection: Connection) -> Stream[Instructor]:
    """Return a stream of all instructors."""
    return Stream(lambda last: list_instructors(connection, last.id if last else LOWEST, PAGE_ROWS), lambda row: row.id)


def courses_of(connection: Connection) -> Stream[Course]:
    """Return a stream of all courses."""
    return Stream(
        lambda last: sql.find_courses(connection, last.id if last else LOWEST, PAGE_ROWS), lambda course: course.id
    )


def terms_of(connection: Connection) -> Stream[Term]:
    """Return a stream of all terms."""
    return Stream(lambda last: list_terms(connection, last.id if last else LOWEST, PAGE_ROWS), lambda term: term.id)


@lru_cache(maxsize=4096)
def parsed(text: str | None) -> State | None:
    """Parse a state of an event; the result is cached, since many states are equal, and must not be modified."""
    state = None if text is None else json.loads(text)
    return state if state is None or isinstance(state, dict) else {"state": state}


def _divided(events: Iterable[Recorded], prefix: str) -> tuple[list[Recorded], list[Recorded]]:
    """Split events into those whose type does not begin with a prefix, and those whose type does."""
    parts: tuple[list[Recorded], list[Recorded]] = ([], [])
    for event in events:
        parts[event.type.startswith(prefix)].append(event)
    return parts


def _plain(name: str, value: object) -> object:
    """Return the normal form of a value of a row or an event, which may have several spellings."""
    try:
        if name in INSTANTS and isinstance(value, str):
            return datetime.fromisoformat(value)
        if name == "groups" and isinstance(value, list):
            # Within a group the codes are a set: the table does not keep their order.
            return tuple(
                [
                    (
                        group["kind"],
                        tuple(sorted(group["any_of"])),
                        group.get("min_grade"),
                        group.get("in_progress", False),
                    )
                    for group in value
                ]
            )
    except (KeyError, TypeError, ValueError):
        return value  # A rewritten event may contain anything; such a value equals no normal form.
    if name == "meetings" and isinstance(value, str):
        return json.loads(value)
    return value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else value


def _id_in(state: State, name: str) -> int | None:
    """Return an id in the state of an event, or None if it is not an integer."""
    id = state.get(name)
    return id if isinstance(id, int) else None


def _row_state(row: object, names: Iterable[str]) -> dict[str, object]:
    return {name: _plain(name, getattr(row, name)) for name in names if name not in NOT_IN_EVENTS}


def _of(state: State | None, name: str) -> object:
    """Return the normal form of a field in the result of events."""
    return None if state is None else _plain(name, state.get(name, DEFAULTS.get(name)))


def _compare(resource: str, row: State | None, state: State | None) -> Faults:
    """Compare a row with the result of its events; ``row`` or ``state`` is None if there is none."""
    if row is None or state is None:
        if row is not state:
            yield Difference(resource, "row", "present" if row is not None else None, "present" if state else None)
        return
    for name, value in row.items():
        # Compare without the normal form first, which is faster: usually the spellings are equal.
        if value != state.get(name, DEFAULTS.get(name)) and value != (expected := _of(state, name)):
            yield Difference(resource, name, value, expected)


def _check_before(event: Recorded, state: State | None, required: str) -> Faults:
    """Compare the state before an event, as the event has it, with the result of the events before it."""
    before = parsed(event.before)
    if before is None or state is None:
        if before is not state:
            yield Break(event.position, event.type, "before", before and "a state", state and "a state")
        return
    if required not in before:
        yield Break(event.position, event.type, required, None, _of(state, required))
    for name, value in before.items():
        if value == state.get(name, DEFAULTS.get(name)) or name == "fields":
            continue
        if (actual := _plain(name, value)) != (expected := _of(state, name)):
            yield Break(event.position, event.type, name, actual, expected)


def _follow(noun: str, id: int, events: Sequence[Recorded], row: State | None) -> Faults:
    """Replay the events of one student, course or term, and compare its row with the result."""
    state: dict[str, object] | None = None
    for event in events:
        prefix, _, action = event.type.partition(".")
        if prefix != noun or action not in ACTIONS[noun]:
            yield Break(event.position, event.type, "type", event.type, None)
            continue
        yield from _check_before(event, state, "version")
        after = parsed(event.after)
        if (action == "created") != (state is None) or (action == "deleted") != (after is None):
            yield Break(event.position, event.type, "type", event.type, None)
        if after is None:
            state = None
            continue
        version = state.get("version", 0) if state else 0
        expected = (
            version + (action not in {"requirements_set", "instructors_set"}) if isinstance(version, int) else None
        )
        if after.get("version") != expected:
            yield Break(event.position, event.type, "version", after.get("version"), expected)
        before = parsed(event.before)
        differs = before is not None and (before.keys(), before.get("fields")) != (after.keys(), after.get("fields"))
        if before is not None and differs and action not in MERGES:
            yield Break(
                event.position, event.type, "fields", after.get("fields", [*after]), before.get("fields", [*before])
            )
        if after.get("status") != (status := COURSE_STATUSES.get(action, after.get("status"))):
            yield Break(event.position, event.type, "status", after.get("status"), status)
        state = None if action == "merged_into" else {**(state or {}), **after}
    yield from _compare(f"{noun} {id}", row, state)


def _follow_holds(student: Student | None, rows: Sequence[Hold], events: Sequence[Recorded]) -> Faults:
    """Replay the events of a student's holds, which are deleted with the student."""
    states: dict[int | None, dict[str, object]] = {}
    for event in events:
        after = parsed(event.after) or {}
        id = _id_in(after, "hold_id")
        yield from _check_before(event, states.get(id), "hold_id")
        if event.type not in ({"hold.ended"} if id in states else {"hold.placed", "hold.merged"}):
            yield Break(event.position, event.type, "type", event.type, None)
        states[id] = {**states.get(id, {}), **after}
    if student is None:
        return
    for hold in rows:
        row: State = {
            "blocks": [name for name, is_set in (("enroll", hold.blocks_enroll), ("drop", hold.blocks_drop)) if is_set],
            "from": hold.starts_at,
            "until": hold.ends_at,
        }
        yield from _compare(f"hold {hold.id} of student {student.id}", row, states.pop(hold.id, None))
    for id, state in states.items():
        yield from _compare(f"hold {id} of student {student.id}", None, state)


async def _deleted_courses(
    connection: Connection, rows: Sequence[Override], events: Sequence[Recorded]
) -> set[int | None]:
    """Return the deleted courses among the courses of overrides; their overrides were deleted with them."""
    courses = {event.course_id for event in events} - {row.course_id for row in rows}
    if not courses:
        return set()
    existing = await load_definitions(connection, [id for id in courses if id is not None])
    return courses - {definition.id for definition in existing}


def _follow_overrides(
    student: Student | None, rows: Sequence[Override], events: Sequence[Recorded], deleted: Container[int | None]
) -> Faults:
    """Replay the events of a student's overrides, which are deleted with the student or the course."""
    states: dict[tuple[int | None, int | None], dict[str, object]] = {}
    for event in events:
        after = parsed(event.after) or {}
        key = event.course_id, _id_in(after, "override_id")
        yield from _check_before(event, states.get(key), "override_id")
        expected = {"override.ended", "override.used"} if key in states else {"override.granted", "override.merged"}
        used = event.type == "override.used"
        unused = after.get("used_at") is None
        if event.type not in expected or (unused == used and event.type != "override.merged"):
            yield Break(event.position, event.type, "type", event.type, None)
        if used and _plain("used_at", after.get("used_at")) != event.occurred_at:
            yield Break(event.position, event.type, "used_at", after.get("used_at"), event.occurred_at)
        states[key] = {**states.get(key, {}), **after}
    if student is None:
        return
    for override in rows:
        row = {name: getattr(override, name) for name in ("rule", "author", "expires_at", "used_at")}
        state = states.pop((override.course_id, override.id), None)
        yield from _compare(f"override {override.id} of student {student.id}", row, state)
    for (course_id, id), state in states.items():
        if course_id not in deleted:
            yield from _compare(f"override {id} of student {student.id}", None, state)


def _follow_enrollments(
    student_id: int,
    rows: Sequence[EnrollmentState],
    events: Sequence[Recorded],
    of_overrides: Sequence[Recorded],
    recoded: Mapping[int, Sequence[sql.Recoded]],
) -> Faults:
    """Replay the events of a student's enrollments, course by course."""
    used = {
        (event.course_id, _id_in(parsed(event.after) or {}, "override_id"))
        for event in of_overrides
        if event.type == "override.used" or (parsed(event.after) or {}).get("used_at") is not None
    }
    own = {row.course_id: row for row in rows}
    for course_id, history in groupby(events, lambda event: event.course_id or 0):
        state: dict[str, object] | None = None
        for event in history:
            yield from _check_before(event, state, "status")
            yield from _check_status(event)
            completes = event.type == "enrollment.completed" and (state or {}).get("status") != "completed"
            completes |= event.type == "enrollment.merged"
            state = _moved(event, state)
            if completes and state is not None and state["status"] == "completed" and not state.get("passed_code"):
                later = [each.code for each in recoded.get(course_id, ()) if each.position > event.position]
                state["passed_code"] = later[0] if later else None
        row = own.pop(course_id, None)
        resource = f"student {student_id} in course {course_id}"
        yield from _compare(resource, None if row is None else _enrollment_state(row), state)
        if row is not None and row.override_id is not None and (course_id, row.override_id) not in used:
            yield Difference(resource, "override_id", row.override_id, "never used")
    for course_id, row in own.items():
        yield from _compare(f"student {student_id} in course {course_id}", _enrollment_state(row), None)


def _check_status(event: Recorded) -> Faults:
    """Compare the type of an enrollment event with the status that the event sets."""
    prefix, _, action = event.type.partition(".")
    if prefix == "enrollment" and action in MERGES:
        return
    if prefix != "enrollment" or action not in STATUSES:
        yield Break(event.position, event.type, "type", event.type, None)
    elif (status := (parsed(event.after) or {}).get("status")) != STATUSES[action]:
        yield Break(event.position, event.type, "status", status, STATUSES[action])


def _moved(event: Recorded, state: dict[str, object] | None) -> dict[str, object] | None:
    """Return the state of an enrollment after an event."""
    after = parsed(event.after) or {}
    if event.type == "enrollment.skipped":
        return state
    if event.type == "enrollment.updated":
        return {**(state or {}), "swap_drops": after.get("swap_drops", [])}
    if event.type == "enrollment.merged_into":
        return None
    if event.type in REQUIREMENT_MARKS:
        return {**(state or {}), "requirement_lost": REQUIREMENT_MARKS[event.type]}
    moved = {**(state or {}), "passed": None, "grade": None, "swap_drops": [], "requirement_lost": False, **after}
    if event.type == "enrollment.merged":
        return {**moved, "override_id": after.get("override_id"), "passed_code": after.get("passed_code")}
    if event.type == "enrollment.completion_removed":
        moved["passed_code"] = None
    if state is None or event.type in JOINS:
        moved["joined_position"], moved["joined_at"] = event.position, event.occurred_at
        moved["override_id"] = after.get("override_id")
    return moved


def _enrollment_state(row: EnrollmentState) -> State:
    return {
        "status": row.status,
        "joined_position": row.joined_position,
        "joined_at": row.joined_at,
        "passed": row.passed,
        "grade": row.grade,
        "override_id": row.override_id,
        "swap_drops": [] if row.swap_drops is None else json.loads(row.swap_drops),
        "passed_code": row.passed_code,
        "requirement_lost": row.requirement_lost,
    }
