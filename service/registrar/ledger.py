"""The working memory of a batch: the loaded facts, as the changes before this one have left them."""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

from service.registrar.catalog import Catalog
from service.registrar.changes import Defined, Group, Mark, Origin
from service.registrar.rules import timestamp
from sql.courses import Course
from sql.enrollments import Enrollment, Transcript
from sql.feed import Event, Head
from sql.holds import Hold
from sql.overrides import Override
from sql.students import Student
from sql.terms import Term

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")
UniqueKey: TypeAlias = Callable[[Row], Hashable]


class Undo:
    """The way back to where the last ``keep`` was: what to put back in the place of what."""

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[[Any, Any], None], Any, Any]] = []
        self.add = self._steps.append
        """Remember how to put back, for a key, what was there; None for nothing."""

    def rollback(self) -> None:
        """Undo everything since the last ``keep``."""
        while self._steps:
            put_back, key, old = self._steps.pop()
            put_back(key, old)

    def keep(self) -> None:
        """Make everything so far final."""
        self._steps.clear()


class Delta(NamedTuple, Generic[Key, Row]):
    """What has become of rows: those that differ, the keys of those that are no more, and what they were before."""

    saved: dict[Key, Row]
    removed: list[Key]
    before: dict[Key, Row | None]


class Table(Generic[Key, Row]):
    """Rows by key that remember what they were when loaded, and undo what a refused change did."""

    def __init__(self, undo: Undo | None = None) -> None:
        self._rows: dict[Key, Row] = {}
        self._loaded: dict[Key, Row | None] = {}
        undo = undo or Undo()
        self._remember, self._put_back = undo.add, self._set
        self._indexes: dict[UniqueKey[Row], dict[Hashable, Row]] = {}
        self.get = self._rows.get
        """Look a row up; None where there is none."""
        self.rollback, self.keep = undo.rollback, undo.keep

    def load(self, key: Key, row: Row) -> None:
        """Take in a row as the database has it, unless a change has made another of it."""
        if key not in self:
            self._set(key, row)

    def find(self, key_of: "UniqueKey[Row]", key: Hashable) -> Row | None:
        """Look a row up by another unique key; None is no key."""
        index = self._indexes.get(key_of)
        if index is None:
            index = self._indexes[key_of] = {key_of(row): row for row in self._rows.values()}
        return None if key is None else index.get(key)

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._rows or key in self._loaded

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def has_removed(self, key: Key) -> bool:
        """Tell whether a change has removed a row."""
        return key in self._loaded and key not in self._rows

    def put(self, key: Key, row: Row | None) -> None:
        """Set a row, or with None remove it."""
        old = self._rows.get(key)
        # Last in the order in which rows are saved: what another row gave up before is free.
        self._loaded[key] = self._loaded.pop(key, old)
        self._remember((self._put_back, key, old))
        self._set(key, row)

    def delta(self) -> "Delta[Key, Row]":
        """Tell what has become of the rows since they were loaded, or since this was told last."""
        rows = self._rows
        # What was removed stays known as such: it is neither to be loaded again nor to be looked up elsewhere.
        before, self._loaded = self._loaded, {key: None for key in self._loaded if key not in rows}
        return Delta(
            saved={key: row for key, old in before.items() if (row := rows.get(key)) is not None and row != old},
            removed=[key for key, old in before.items() if old is not None and key not in rows],
            before=before,
        )

    def _set(self, key: Key, row: Row | None) -> None:
        if self._indexes:
            self._reindex(self._rows.get(key), row)
        if row is not None:
            self._rows[key] = row
        else:
            self._rows.pop(key, None)

    def _reindex(self, old: Row | None, row: Row | None) -> None:
        for key_of, index in self._indexes.items():
            if old is not None:
                index.pop(key_of(old), None)
            if row is not None:
                index[key_of(row)] = row


@dataclass(slots=True, eq=False)
class Missing(Exception):
    """What has to be loaded before a change can be decided.

    ``students`` with all that they have, ``pairs`` of a student and a course in any state, ``courses`` with their terms
    and requirements, ``definitions`` of other courses, ``lines`` from the course to the place after which to go on,
    ``rosters`` of courses, ``holds`` and ``overrides`` by id, ``ids`` for new things, and what those who are in courses,
    or in those of terms, wait for, and the ``insiders`` of courses, whom an override seats above capacity.
    """

    students: set[int] = field(default_factory=set)
    pairs: set[tuple[int, int]] = field(default_factory=set)
    courses: set[int] = field(default_factory=set)
    definitions: set[int] = field(default_factory=set)
    terms: set[int] = field(default_factory=set)
    lines: dict[int, int] = field(default_factory=dict)
    rosters: set[int] = field(default_factory=set)
    holds: set[int] = field(default_factory=set)
    overrides: set[int] = field(default_factory=set)
    ids: set[type] = field(default_factory=set)
    waits_of_courses: set[int] = field(default_factory=set)
    waits_of_terms: set[int] = field(default_factory=set)
    insiders: set[int] = field(default_factory=set)


class Entries(NamedTuple):
    """What is to be written, and when that is."""

    now: datetime
    students: Delta[int, Student]
    courses: Delta[int, Course]
    terms: Delta[int, Term]
    enrollments: Delta[tuple[int, int], Enrollment]
    holds: Delta[int, Hold]
    overrides: Delta[int, Override]
    requirements: Delta[int, tuple[Group, ...]]
    events: list[Event]


@dataclass(slots=True)
class Line:
    """Who waits for a course, as far as it is loaded: places and students in order."""

    waiters: list[tuple[int, int]] = field(default_factory=list)
    complete: bool = False
    joined: list[tuple[int, int]] = field(default_factory=list)
    """Those who have joined since, in order: their places come after all that are in the database."""


class Ledger:
    """Everything a batch knows and does. Each change ends in ``keep`` or ``rollback``.

    What a change asks for and is not known yet raises ``Missing``.
    """

    def __init__(self, head: Head, catalog: Catalog | None = None) -> None:
        self.now: datetime = head.now
        self.catalog = catalog or Catalog()
        """What is known of courses and terms that no change of the batch has touched."""
        self._undo = Undo()
        self.students: Table[int, Student] = Table(self._undo)
        self.courses: Table[int, Course] = Table(self._undo)
        self.terms: Table[int, Term] = Table(self._undo)
        self.enrollments: Table[tuple[int, int], Enrollment] = Table(self._undo)
        self.holds: Table[int, Hold] = Table(self._undo)
        self.overrides: Table[int, Override] = Table(self._undo)
        self.requirements: Table[int, tuple[Group, ...]] = Table(self._undo)
        self.in_use: set[tuple[type, int]] = set()
        """Students, courses and terms that others depended on when they were loaded."""
        self.free_ids: dict[type, list[int]] = {}
        """Ids for what will be created, the next one last."""
        self.events: list[Event] = []
        self.touched_courses: set[int] = set()
        self.touched_students: set[int] = set()
        """What the current change has touched, for the promotions that follow it."""

        # What was looked up, found or not; never undone, since the database stands still under the lock.
        self.known_students: set[int] = set()
        self.known_courses: set[int] = set()
        self.known_terms: set[int] = set()
        self.known_rosters: set[int] = set()
        self.known_pairs: set[tuple[int, int]] = set()
        self.lines: dict[int, Line] = {}
        self.waits_of_courses: dict[int, set[int]] = {}
        self.waits_of_terms: dict[int, set[int]] = {}
        self.insiders: dict[int, set[int]] = {}
        self._marks: dict[int, dict[int, Mark]] = {}
        self._limits: dict[int, float | None] = {}
        self._gone: dict[int, list[int]] = {}
        """The courses that students were out of before this batch."""
        # By student and by course, each a superset of what is in the table.
        self._courses_of: dict[int, set[int]] = defaultdict(set)
        self._students_of: dict[int, set[int]] = defaultdict(set)
        self._holds_of: dict[int, list[int]] = {}
        self._overrides_of: dict[tuple[int, int], list[int]] = {}
        self._taken_ids: list[tuple[type, int]] = []
        self._position = head.position
        self._kept_events = 0

    def entries(self) -> Entries:
        """Tell what the changes since the last call have made, which is final; positions go on from there."""
        events, self.events = self.events, []
        self._position += len(events)
        self._kept_events = 0
        return Entries(
            now=self.now,
            students=self.students.delta(),
            courses=self.courses.delta(),
            terms=self.terms.delta(),
            enrollments=self.enrollments.delta(),
            holds=self.holds.delta(),
            overrides=self.overrides.delta(),
            requirements=self.requirements.delta(),
            events=events,
        )

    def has_student(self, student_id: int) -> bool:
        """Tell whether there is a student, of whom everything is known then."""
        if student_id not in self.known_students:
            raise Missing(students={student_id})
        if student_id in self.students:
            return self.students.get(student_id) is not None
        return student_id in self._limits

    def max_credits(self, student_id: int) -> float | None:
        """Look up a student's own limit of credits."""
        student = self.students.get(student_id)
        return self._limits[student_id] if student is None else student.max_credits

    def course(self, course_id: int) -> Course | None:
        """Look up a course, of which the term and the requirements are known then."""
        if course_id not in self.known_courses:
            raise Missing(courses={course_id})
        return self.courses.get(course_id)

    def definitions(self, course_ids: Iterable[int]) -> dict[int, Defined]:
        """Look up what courses are that somebody has, by id."""
        touched, known = self.courses.get, self.catalog.definitions.get
        found = {id: touched(id) or known(id) for id in course_ids}
        if None in found.values():
            raise Missing(definitions={id for id, definition in found.items() if definition is None})
        return cast(dict[int, Defined], found)

    def groups(self, course_id: int) -> tuple[Group, ...]:
        """Look up what a course requires."""
        groups = self.requirements.get(course_id)
        if groups is None:
            groups = self.catalog.requirements.get(course_id)
        if groups is None and course_id not in self.known_courses:
            raise Missing(courses={course_id})
        return groups or ()

    def term(self, term_id: int | None) -> Term | None:
        """Look up a term."""
        if term_id is None:
            return None
        if term_id in self.terms:
            return self.terms.get(term_id)
        term = self.catalog.terms.get(term_id)
        if term is None and term_id not in self.known_terms:
            raise Missing(terms={term_id})
        return term

    def marks(self, student_id: int) -> Mapping[int, Mark]:
        """Tell what a student has, by course id."""
        if student_id not in self.known_students:
            raise Missing(students={student_id})
        return self._marks.get(student_id, {})

    def courses_had(self) -> set[int]:
        """List the courses of all students of whom everything is known."""
        return set().union(*self._marks.values())

    def never_had(self, student_id: int, course_id: int) -> bool:
        """Tell whether it is known of a student, without a look at the pair, to have no row in a course."""
        return (
            student_id in self.known_students
            and course_id not in self._marks.get(student_id, ())
            and course_id not in self._gone.get(student_id, ())
        )

    def enrollment(self, student_id: int, course_id: int) -> Enrollment | None:
        """Look up the state of a student in a course."""
        row = self.enrollments.get((student_id, course_id))
        if row is None and (student_id, course_id) not in self.known_pairs:
            raise Missing(pairs={(student_id, course_id)})
        return row

    def courses_of(self, student_id: int) -> Iterator[Enrollment]:
        """Go through the rows of a student that were looked up or made, by course id."""
        for course_id in sorted(self._courses_of[student_id]):
            row = self.enrollments.get((student_id, course_id))
            if row is not None:
                yield row

    def roster(self, course_id: int) -> Iterator[Enrollment]:
        """Go through everyone who is in a course or waits for it, by student id."""
        if course_id not in self.known_rosters:
            raise Missing(rosters={course_id})
        for student_id in sorted(self._students_of[course_id]):
            row = self.enrollments.get((student_id, course_id))
            if row is not None:
                yield row

    def has_students(self, course_id: int) -> bool:
        """Tell whether anybody is known to be in a course or to have been in it."""
        return any((student_id, course_id) in self.enrollments for student_id in self._students_of[course_id])

    def known_students_of(self, course_ids: Iterable[int]) -> Iterator[int]:
        """Go through those who have a row in any of the courses and of whom everything is known, as of all moved ones."""
        wanted = set(course_ids)
        rows = set().union(*[self._students_of[course_id] for course_id in wanted])
        return (id for id in self.known_students if id in rows or not wanted.isdisjoint(self._marks.get(id, ())))

    def line(self, course_id: int) -> Iterator[int]:
        """Go through those who wait for a course, in order; of each, everything is known."""
        line = self.lines.get(course_id)
        if line is None:
            raise Missing(lines={course_id: 0})
        for index, (place, student_id) in enumerate(line.waiters):
            if student_id not in self.known_students:
                raise Missing(students={student for _, student in line.waiters[index:]})
            if self._waits(student_id, course_id, place):
                yield student_id
        if not line.complete:
            raise Missing(lines={course_id: line.waiters[-1][0] if line.waiters else 0})
        for place, student_id in line.joined:
            if self._waits(student_id, course_id, place):
                yield student_id

    def _waits(self, student_id: int, course_id: int, place: int) -> bool:
        row = self.enrollments.get((student_id, course_id))
        return row is not None and row.status == "waitlisted" and row.place == place

    def holds_of(self, student_id: int) -> tuple[Hold, ...]:
        """List the holds of a student that have not ended, by id."""
        ids = self._holds_of.get(student_id)
        return tuple(row for id in sorted(ids) if (row := self.holds.get(id)) is not None) if ids else ()

    def overrides_of(self, student_id: int, course_id: int) -> Mapping[str, Override]:
        """List what can be used of a student's overrides for a course, by rule: of each the one with the lowest id."""
        ids = self._overrides_of.get((student_id, course_id))
        usable: dict[str, Override] = {}
        for id in sorted(ids or ()):
            row = self.overrides.get(id)
            if row is None or row.used_at is not None or (row.expires_at is not None and row.expires_at <= self.now):
                continue
            usable.setdefault(row.rule, row)
        return usable

    def load_transcript(self, row: Transcript) -> None:
        """Take in what a student has, and what the batch has made of it since."""
        marks: dict[int, Mark] = dict.fromkeys(row.enrolled or (), "enrolled")
        if row.waitlisted:
            marks.update(dict.fromkeys(row.waitlisted, "waitlisted"))
        if row.passed:
            marks.update(dict.fromkeys(row.passed, "passed"))
        if row.failed:
            marks.update(dict.fromkeys(row.failed, "failed"))
        self._marks[row.student_id] = marks
        self._limits[row.student_id] = row.max_credits
        if row.gone:
            self._gone[row.student_id] = row.gone
        if row.student_id in self._courses_of:
            for enrollment in self.courses_of(row.student_id):
                _put_mark((marks, enrollment.course_id), mark_of(enrollment))

    def load_enrollment(self, row: Enrollment) -> None:
        """Take in a row of the database, unless a change has made another of it."""
        key = row.student_id, row.course_id
        if key not in self.enrollments:
            self.enrollments.load(key, row)
            self._index(row)

    def load_hold(self, row: Hold) -> None:
        """Take in a hold."""
        if row.id not in self.holds:
            self.holds.load(row.id, row)
            self._holds_of.setdefault(row.student_id, []).append(row.id)

    def load_override(self, row: Override) -> None:
        """Take in an override, unless its course was deleted."""
        if row.id not in self.overrides and not self.courses.has_removed(row.course_id):
            self.overrides.load(row.id, row)
            self._overrides_of.setdefault((row.student_id, row.course_id), []).append(row.id)

    def put_enrollment(self, row: Enrollment) -> None:
        """Set a row of ``student_courses``."""
        student_id, course_id = key = row.student_id, row.course_id
        joins = row.status == "waitlisted" and not self._waits(student_id, course_id, row.place)
        self.enrollments.put(key, row)
        self._index(row)
        if joins:
            self.lines.setdefault(course_id, Line()).joined.append((row.place, student_id))
        marks = self._marks.setdefault(student_id, {})
        where = marks, course_id
        self._undo.add((_put_mark, where, marks.get(course_id)))
        _put_mark(where, mark_of(row))

    def put_hold(self, row: Hold) -> None:
        """Set a hold."""
        if self.holds.get(row.id) is None:
            self._holds_of.setdefault(row.student_id, []).append(row.id)
        self.holds.put(row.id, row)

    def put_override(self, row: Override) -> None:
        """Set an override."""
        if self.overrides.get(row.id) is None:
            self._overrides_of.setdefault((row.student_id, row.course_id), []).append(row.id)
        self.overrides.put(row.id, row)

    def _index(self, row: Enrollment) -> None:
        self._courses_of[row.student_id].add(row.course_id)
        self._students_of[row.course_id].add(row.student_id)

    def record(
        self,
        kind: str,
        origin: Origin,
        *,
        student_id: int | None = None,
        course_id: int | None = None,
        term_id: int | None = None,
        before: Mapping[str, object] | str | None = None,
        after: Mapping[str, object] | str | None = None,
    ) -> int:
        """Add the next event and return its position; a state is given as its members, or as JSON."""
        position = self._position + len(self.events) + 1
        self.events.append(
            Event(
                position,
                kind,
                self.now,
                origin.actor,
                origin.request_id,
                origin.reason,
                student_id,
                course_id,
                term_id,
                before if before is None or isinstance(before, str) else as_json(before),
                after if after is None or isinstance(after, str) else as_json(after),
            )
        )
        return position

    def take_id(self, thing: type) -> int:
        """Take the next id for something new; it is free again if the change is forgotten."""
        if not self.free_ids.get(thing):
            raise Missing(ids={thing})
        id = self.free_ids[thing].pop()
        self._taken_ids.append((thing, id))
        return id

    def keep(self) -> None:
        """Make the current change final."""
        self._taken_ids.clear()
        self._undo.keep()
        self._kept_events = len(self.events)
        self._forget_touched()

    def rollback(self) -> None:
        """Forget the current change and its events."""
        while self._taken_ids:
            thing, id = self._taken_ids.pop()
            self.free_ids[thing].append(id)
        self._undo.rollback()
        del self.events[self._kept_events :]
        self._forget_touched()

    def _forget_touched(self) -> None:
        self.touched_courses.clear()
        self.touched_students.clear()


def mark_of(row: Enrollment) -> Mark | None:
    """Say what a row means to other courses; None where the student has left."""
    if row.status == "completed":
        return "passed" if row.passed else "failed"
    return row.status if row.status in {"enrolled", "waitlisted"} else None


def _put_mark(where: tuple[dict[int, Mark], int], mark: Mark | None) -> None:
    marks, course_id = where
    if mark is None:
        marks.pop(course_id, None)
    else:
        marks[course_id] = mark


def as_json(state: Mapping[str, object]) -> str:
    """Write a state as the events tell it."""
    return json.dumps(state, ensure_ascii=False, separators=(",", ":"), default=_text)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in an event")
