"""The working memory of a batch: the loaded rows, with the changes decided so far."""

import json
from bisect import bisect_right, insort
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import date, datetime
from heapq import heappop, heappush
from typing import NamedTuple, cast

from service.errors import Merged, StudentNotFound
from service.registrar.application import (
    NO_SCALE,
    CodeSets,
    Defined,
    GradeScale,
    Group,
    Mark,
    code_key,
)
from service.registrar.catalog import Catalog
from service.registrar.changes import Origin, Outcome
from service.registrar.history import StudentHistory
from service.registrar.needs import Needs, NotLoaded, Relaxed, ReserveIds
from service.registrar.rules import end_of_day, timestamp
from service.registrar.unit_of_work import Flush, IdentityMap, UndoLog
from sql.course_instructors import CourseInstructor
from sql.courses import Course
from sql.enrollments import Enrollment, Transcript
from sql.equivalences import Equivalence
from sql.feed import Event, Head
from sql.holds import Hold
from sql.idempotency_keys import CallersKey, IdempotencyKey
from sql.instructors import Instructor
from sql.merged_students import MergedStudent
from sql.overrides import Override
from sql.passed_codes import PassedCode
from sql.refusals import NewRefusal
from sql.requirements import MinGrade, RequirementKind
from sql.students import Student
from sql.terms import Term
from sql.waitlist import PartnerPlace, Place, Position

WAITLISTS_PER_LOAD = 64
"""Most courses whose waitlists are loaded together, if many courses have free seats."""


NO_MARKS: Mapping[int, Mark] = {}
ONLY_SCALE = 1
"""The key of the grade scale: an institution has one."""


class Written(NamedTuple):
    """Everything to write, with the instant of the transaction.

    With ``one_table_each``, each statement modifies one table, as Citus requires. Otherwise one statement saves new
    enrollments, seats and events.
    """

    now: datetime
    students: Flush[int, Student]
    courses: Flush[int, Course]
    terms: Flush[int, Term]
    instructors: Flush[int, Instructor]
    teaching: Flush[int, tuple[CourseInstructor, ...]]
    enrollments: Flush[tuple[int, int], Enrollment]
    holds: Flush[int, Hold]
    overrides: Flush[int, Override]
    requirements: Flush[int, tuple[Group, ...]]
    equivalences: Flush[int, Equivalence]
    grade_scales: Flush[int, GradeScale]
    reserved_seats: Flush[int, dict[str, int]]
    events: list[Event]
    one_table_each: bool
    answers: list[IdempotencyKey]
    passed_codes: Flush[tuple[int, int], str]
    lost_requirements: Flush[tuple[int, int], bool]
    merged: Flush[int, MergedStudent]


@dataclass(slots=True)
class Answers:
    """The answers of changes that are made once, by key: ``stored`` before this batch or by it.

    ``parts`` are the outcomes so far of each such change that consists of many. Only a committed change adds an answer,
    so nothing undoes them.
    """

    stored: dict[CallersKey, IdempotencyKey] = field(default_factory=dict)
    parts: dict[object, list[Outcome]] = field(default_factory=dict)
    _new: list[IdempotencyKey] = field(default_factory=list)

    def load(self, row: IdempotencyKey) -> None:
        """Add an answer of the database."""
        self.stored[CallersKey(row.caller, row.key)] = row

    def add(self, row: IdempotencyKey) -> None:
        """Add the answer of a committed change."""
        self.load(row)
        self._new.append(row)

    def flush(self) -> list[IdempotencyKey]:
        """Return the answers to write, which count as written from now on."""
        new, self._new = self._new, []
        return new


@dataclass(slots=True)
class Waitlist:
    """The unjudged students of one course's waitlist that are loaded.

    ``unjudged`` is a heap of joined positions and students. An entry that no longer matches the student's row is
    skipped when its turn comes. ``loaded_through`` is the last joined position read from the database.
    """

    unjudged: list[tuple[int, int]] = field(default_factory=list)
    loaded_through: int = 0
    complete: bool = False
    pages: int = 0


@dataclass(slots=True)
class PartnerPlaces:
    """The next places to judge, in order; ``after`` is the key of the last one that was read from the database."""

    places: deque[PartnerPlace]
    after: tuple[int, int]
    complete: bool


class Ledger:
    """The rows and the events of a batch. Each change ends in ``commit`` or ``rollback``.

    A look-up of a row that is not in memory raises ``NotLoaded``.
    """

    one_table_each = False
    """Whether each statement that saves may modify one table only."""

    codes_changed = False
    """Whether a change of the batch has set the code of a course that the catalog knows."""

    def __init__(self, head: Head, catalog: Catalog | None = None, promotions_left: int = 0) -> None:  # noqa: PLR0915 - one attribute in each line
        self.now, self.answers = head.now, Answers()
        self.catalog = catalog or Catalog()
        """The courses and terms that no change of the batch has changed."""
        self._undo = UndoLog()
        self.students: IdentityMap[int, Student] = IdentityMap(self._undo)
        self.courses: IdentityMap[int, Course] = IdentityMap(self._undo)
        self.terms: IdentityMap[int, Term] = IdentityMap(self._undo)
        self.instructors: IdentityMap[int, Instructor] = IdentityMap(self._undo)
        self.teaching: IdentityMap[int, tuple[CourseInstructor, ...]] = IdentityMap(self._undo)
        """By course, its instructors by id, the removed ones too."""
        self.enrollments: IdentityMap[tuple[int, int], Enrollment] = IdentityMap(self._undo)
        self.holds: IdentityMap[int, Hold] = IdentityMap(self._undo)
        self.overrides: IdentityMap[int, Override] = IdentityMap(self._undo)
        self.requirements: IdentityMap[int, tuple[Group, ...]] = IdentityMap(self._undo)
        self.passed_codes: IdentityMap[tuple[int, int], str] = IdentityMap(self._undo)
        """By student and course, the code under which a course was completed, if its code has changed since."""
        self.lost_requirements: IdentityMap[tuple[int, int], bool] = IdentityMap(self._undo)
        """By student and course, the seats that have lost a requirement; each is True."""
        self.merged: IdentityMap[int, MergedStudent] = IdentityMap(self._undo)
        """The duplicates that were merged into other students, by their own ids."""
        self.reserved_seats: IdentityMap[int, dict[str, int]] = IdentityMap(self._undo)
        """By course, how many students have a reserved seat, by group."""
        self.equivalences: IdentityMap[int, Equivalence] = IdentityMap(self._undo)
        """Those that changes of the batch have created or deleted."""
        self.grade_scales: IdentityMap[int, GradeScale] = IdentityMap(self._undo)
        """The grade scale that changes of the batch have set, under the key of the only one."""
        self._min_grades: list[MinGrade] | None = None
        """The grades that courses required when they were loaded."""
        self._code_sets: CodeSets | None = None
        """All of them with these changes; None if there are no changes."""
        self.in_use: set[tuple[str, int]] = set()
        """Resources, by the name of their type and id, on which other rows depended when they were loaded."""
        self.free_ids: dict[ReserveIds, list[int]] = {}
        """Ids for new rows, the next one last."""
        self.events: list[Event] = []
        """The events that are not flushed yet."""
        self.flushed_events: list[Event] = []
        self.refusals: list[NewRefusal] = []
        """What the changes were refused. A change adds its refusals once, with its outcome, so nothing undoes them."""
        self.has_written = False
        """Whether events or answers were flushed."""
        self.erased_texts: dict[int, int] = {}
        """By student, how many rows had texts when those were erased, until the change has taken note of it."""

        # The work that remains after a change, with the origin of the change. Rolling a change back removes its work.
        self.promotable: IdentityMap[int, Origin] = IdentityMap(self._undo)
        """Courses with waitlisted students who may be promoted."""
        self.changed_students: IdentityMap[int, Origin] = IdentityMap(self._undo)
        """Students whose courses, holds or limits have changed: their waitlist places are judged again."""
        self.doubtful: IdentityMap[tuple[int, int], Origin] = IdentityMap(self._undo)
        """By student and course, the seats that may have lost a requirement, or may meet it again."""
        self.opened: IdentityMap[int, Origin] = IdentityMap(self._undo)
        """Courses in which a seat has become free for a student whom only reservations blocked."""
        self.paired: IdentityMap[int, Origin] = IdentityMap(self._undo)
        """Courses with a free seat and corequisites, whose students may get seats in several courses together."""
        self.partner_places: PartnerPlaces | None = None
        """The waitlist places of these students; None if they are not loaded."""
        self.relaxed: list[Relaxed] = []
        """Conditions that changes have relaxed: only the database can find the students who were blocked by them."""
        self.settled: set[int] = set()
        """Courses that are marked only because of a newcomer: no seat has become free in them."""
        self.seated_together = False
        """Whether the transaction has seated a student in several courses together."""
        self.promotions_left, self.promoted = promotions_left, 0
        """The waitlisted students that the transaction may still judge, and those promoted since the last change."""

        # The keys that were looked up, found or not. Nothing undoes them: under the lock the database does not change.
        self.loaded_students: set[int] = set()
        self.loaded_merged: set[int] = set()
        self.whole_students: set[int] = set()
        self.loaded_courses: set[int] = set()
        self.loaded_terms: set[int] = set()
        self.loaded_teaching: set[int] = set()
        self.loaded_rosters: set[int] = set()
        self.loaded_pairs: set[tuple[int, int]] = set()
        self.loaded_holders: set[int] = set()
        self.loaded_lost: set[int] = set()
        self.loaded_lost_courses: set[int] = set()
        self.waitlists: dict[int, Waitlist] = {}
        self._positions: dict[int, dict[int, tuple[int, int]]] = {}
        """By course and student, the joined position and the counted waitlist position."""
        self._promotable_heap: list[int] = []
        self._marks: dict[int, dict[int, Mark]] = {}
        self._waiting: set[int] = set()
        """The students who are on a waitlist, and some who were: most students are on none, and have many marks."""
        self._limits: dict[int, float | None] = {}
        self._groups: dict[int, str] = {}
        self._inactive: dict[int, list[int]] = {}
        """The courses that students had left before this batch."""
        # Indexes by student and by course: each is a superset of what is in the identity map.
        self._courses_of: dict[int, set[int]] = defaultdict(set)
        self._students_of: dict[int, set[int]] = defaultdict(set)
        self._holds_of: dict[int, list[int]] = {}
        self._overrides_of: dict[tuple[int, int], list[int]] = {}
        self._override_holders: dict[int, set[int]] = defaultdict(set)
        self._taken_ids: list[tuple[ReserveIds, int]] = []
        self._ids_taken: Counter[ReserveIds] = Counter()
        self._position, self._committed_events = head.position, 0

    # The unit of work.

    def commit(self) -> None:
        """Make everything since the last commit final."""
        self._taken_ids.clear()
        self._undo.commit()
        self._committed_events = len(self.events)

    def rollback(self) -> None:
        """Undo everything since the last commit, its events included."""
        while self._taken_ids:
            reserve, id = self._taken_ids.pop()
            self.free_ids[reserve].append(id)
        self._undo.rollback()
        del self.events[self._committed_events :]

    def flush(self) -> Written:
        """Return everything to write, which counts as written from now on."""
        events, self.events = self.events, []
        self.flushed_events += events
        self._position += len(events)
        self._committed_events = 0
        answers = self.answers.flush()
        self.has_written |= bool(events or answers)
        return Written(
            now=self.now,
            students=self.students.flush(),
            courses=self.courses.flush(),
            terms=self.terms.flush(),
            instructors=self.instructors.flush(),
            teaching=self.teaching.flush(),
            enrollments=self.enrollments.flush(),
            holds=self.holds.flush(),
            overrides=self.overrides.flush(),
            requirements=self.requirements.flush(),
            equivalences=self.equivalences.flush(),
            grade_scales=self.grade_scales.flush(),
            reserved_seats=self.reserved_seats.flush(),
            events=events,
            one_table_each=self.one_table_each,
            answers=answers,
            passed_codes=self.passed_codes.flush(),
            lost_requirements=self.lost_requirements.flush(),
            merged=self.merged.flush(),
        )

    def append_event(
        self,
        type: str,
        origin: Origin,
        *,
        student_id: int | None = None,
        course_id: int | None = None,
        term_id: int | None = None,
        before: Mapping[str, object] | str | None = None,
        after: Mapping[str, object] | str | None = None,
    ) -> int:
        """Append an event to the feed and return its position; ``before`` and ``after`` are members or JSON text."""
        position = self._position + len(self.events) + 1
        self.events.append(
            Event(
                position,
                type,
                self.now,
                origin.actor,
                origin.on_behalf_of,
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

    def take_id(self, reserve: ReserveIds) -> int:
        """Take the next id of a sequence; a rollback of the change frees it."""
        if not self.free_ids.get(reserve):
            # Reserve one more than were taken so far: the number of statements grows with the logarithm of the ids.
            raise NotLoaded(Needs(ids=Counter({reserve: 1 + self._ids_taken[reserve]})))
        id = self.free_ids[reserve].pop()
        self._ids_taken[reserve] += 1
        self._taken_ids.append((reserve, id))
        return id

    # Work that remains after a change.

    def mark_promotable(self, course_id: int, origin: Origin) -> None:
        """Mark a course, so that its waitlisted students are judged after the current change."""
        if self.promotable.get(course_id) is None:
            self.promotable.put(course_id, origin.of_promotions())
            heappush(self._promotable_heap, course_id)

    def is_settled(self) -> bool:
        """Return whether no work remains."""
        return not (
            self.relaxed or self.changed_students or self.doubtful or self.opened or self.promotable or self.paired
        )

    def first_promotable(self) -> int | None:
        """Return the smallest id of the courses marked for promotion, or None if there is none."""
        heap = self._promotable_heap
        while heap and self.promotable.get(heap[0]) is None:
            heappop(heap)
        return heap[0] if heap else None

    def promotable_ids(self) -> set[int]:
        """Return the ids of the courses marked for promotion."""
        return {id for id in self._promotable_heap if self.promotable.get(id) is not None}

    def relax(self, relaxed: Relaxed) -> None:
        """Record what the current change has relaxed, so that the students whom it blocked are judged again."""
        self.relaxed.append(relaxed)
        self._undo.add((self._unrelax, None, None))

    def _unrelax(self, _key: None, _old: None) -> None:
        self.relaxed.pop()

    # Students.

    def has_student(self, student_id: int) -> bool:
        """Return whether the student exists."""
        if student_id not in self.loaded_students:
            # An edit loads the row of a student only. If one student of a batch needs more, load it for the others too.
            raise NotLoaded(Needs(students={student_id, *[student.id for student in self.students]}))
        if student_id in self.students:
            return self.students.get(student_id) is not None
        return student_id in self._limits

    def missing_student(self, student_id: int) -> StudentNotFound | Merged:
        """Return the error of a student who does not exist, or not any more."""
        if student_id not in self.loaded_merged and student_id not in self.merged:
            raise NotLoaded(Needs(merged={student_id}))
        merged = self.merged.get(student_id)
        return StudentNotFound(student_id) if merged is None else Merged(student_id, merged.merged_into)

    def require_students(self, student_ids: Iterable[int]) -> None:
        """Make sure that the courses of students are in memory."""
        if missing := {*student_ids} - self.loaded_students:
            raise NotLoaded(Needs(students=missing))

    def require_whole(self, *student_ids: int) -> None:
        """Make sure that all enrollments, holds and overrides of students are in memory."""
        if missing := {*student_ids} - self.whole_students:
            raise NotLoaded(Needs(whole=missing))

    def merge(self, duplicate: MergedStudent) -> None:
        """Note that a student was merged, with the earlier duplicates of that student."""
        for earlier in [row for row in self.merged if row.merged_into == duplicate.student_id]:
            self.merged.put(earlier.student_id, earlier._replace(merged_into=duplicate.merged_into))
        self.merged.put(duplicate.student_id, duplicate)

    def max_credits(self, student_id: int) -> float | None:
        """Return a student's own credit limit, or None if the student has none."""
        student = self.students.get(student_id)
        return self._limits[student_id] if student is None else student.max_credits

    def groups_of(self, student_id: int) -> frozenset[str]:
        """Return the groups of a student."""
        if not self.has_student(student_id):
            return frozenset()
        student = self.students.get(student_id)
        groups = self._groups[student_id] if student is None else student.groups
        return frozenset(groups.split(",")) if groups else frozenset()

    def marks(self, student_id: int) -> Mapping[int, Mark]:
        """Return a student's marks by course id."""
        if student_id not in self.loaded_students:
            raise NotLoaded(Needs(students={student_id}))
        return self._marks.get(student_id, {})

    def passed_code(self, student_id: int, course: Defined) -> str:
        """Return the code under which a student has completed a course."""
        return self.passed_codes.get((student_id, course.id)) or course.code

    def held_course_ids(self) -> set[int]:
        """Return the ids of the courses of all loaded students."""
        return set().union(*self._marks.values())

    def history(self, student_id: int, without: Collection[int] = ()) -> StudentHistory:
        """Return a student's history, in which the courses in ``without`` count as dropped."""
        return StudentHistory(self, student_id, without)

    def holds_of(self, student_id: int) -> tuple[Hold, ...]:
        """Return the holds of a student that have not ended, by id."""
        ids = self._holds_of.get(student_id)
        if not ids:
            return ()
        rows = [self.holds.get(id) for id in sorted(ids)]
        return tuple([row for row in rows if row is not None and row.student_id == student_id])

    def overrides_of(self, student_id: int, course_id: int) -> Mapping[str, Override]:
        """Return a student's usable overrides for a course by rule: for each rule, the override with the lowest id."""
        ids = self._overrides_of.get((student_id, course_id))
        usable: dict[str, Override] = {}
        for id in sorted(ids or ()):
            row = self.overrides.get(id)
            if row is None or row.student_id != student_id or row.used_at is not None:
                continue
            if row.expires_at is not None and row.expires_at <= self.now:
                continue
            usable.setdefault(row.rule, row)
        return usable

    def has_places(self, student_id: int) -> bool:
        """Return whether a loaded student is waitlisted for any course."""
        return student_id in self._waiting and "waitlisted" in self._marks.get(student_id, NO_MARKS).values()

    def places_of(self, student_id: int) -> list[Enrollment]:
        """Return a student's waitlist places, by course id."""
        marks = self.marks(student_id)
        ids = sorted([id for id, mark in marks.items() if mark == "waitlisted"])
        return [row for id in ids if (row := self.enrollment(student_id, id)) is not None]

    # Courses and terms.

    def course(self, course_id: int) -> Course | None:
        """Return a course, or None if it does not exist; its term and requirements are loaded with it."""
        if course_id not in self.loaded_courses and course_id not in self.courses:
            raise NotLoaded(Needs(courses={course_id, *self.promotable_ids()}))
        return self.courses.get(course_id)

    def definitions(self, course_ids: Iterable[int]) -> dict[int, Defined]:
        """Return definitions of courses in which students have a row, by id."""
        changed, remembered = self.courses.get, self.catalog.definitions.get
        cached = self.catalog.courses.get
        found = {id: changed(id) or remembered(id) or cached(id) for id in course_ids}
        if None in found.values():
            raise NotLoaded(Needs(definitions={id for id, definition in found.items() if definition is None}))
        return cast(dict[int, Defined], found)

    def groups(self, course_id: int) -> tuple[Group, ...]:
        """Return the requirements of a course."""
        groups = self.requirements.get(course_id)
        if groups is None:
            groups = self.catalog.requirements.get(course_id)
        if groups is None and course_id not in self.loaded_courses:
            # An edit loads the row of a course only. If one course of a batch needs more, load it for the others too.
            raise NotLoaded(Needs(courses={course_id, *[course.id for course in self.courses]}))
        return groups or ()

    def reserved_taken(self, course: Course) -> Mapping[str, int]:
        """Return how many students have a reserved seat of a course, by group."""
        if (taken := self.reserved_seats.get(course.id)) is None:
            unloaded = {each.id for each in self.courses if each.reservations and each.id not in self.reserved_seats}
            raise NotLoaded(Needs(reserved_seats={course.id, *unloaded}))
        return taken

    def instructors_of(self, course_id: int) -> tuple[CourseInstructor, ...]:
        """Return the instructors of a course, the removed ones too, by id."""
        if course_id not in self.loaded_teaching:
            raise NotLoaded(Needs(teaching={course_id}))
        return self.teaching.get(course_id) or ()

    def excluders(self, course: Course) -> Set[int]:
        """Return the ids of the courses that name a course as an antirequisite."""
        return self._naming(course.code, self.catalog.excluders, "anti")

    def dependents(self, course: Course) -> Set[int]:
        """Return the ids of the courses that name a course as a corequisite."""
        return self._naming(course.code, self.catalog.dependents, "co")

    def dependents_in_progress(self, code: str) -> Set[int]:
        """Return the ids of the courses that allow a course with a code to be in progress."""
        if not self.catalog.allows_progress and code_key(code) in self.catalog.excluders and not self.requirements:
            return frozenset()
        return self._naming(code, self.catalog.dependents_in_progress, "pre", in_progress=True)

    def _naming(
        self, code: str, catalog: Mapping[str, frozenset[int]], kind: RequirementKind, *, in_progress: bool = False
    ) -> Set[int]:
        own, code_sets = code_key(code), self.code_sets
        known = catalog.get(own)
        keys = code_sets.own_keys(own) if code_sets.sets else (own,)
        if len(keys) > 1:
            found = [catalog.get(key) for key in keys]
            known = None if None in found else frozenset().union(*cast(list[frozenset[int]], found))
        if known is None:
            raise NotLoaded(Needs(codes={code}))
        changed = self.requirements.items()
        if not changed:
            return known
        naming = {
            id for id, groups in changed if not named_keys(groups, kind, in_progress=in_progress).isdisjoint(keys)
        }
        return (known - {id for id, _ in changed}) | naming

    @property
    def code_sets(self) -> CodeSets:
        """The sets of equivalent codes."""
        code_sets = self._code_sets or self.catalog.code_sets
        if code_sets is None:
            raise NotLoaded(Needs(code_sets=True))
        return code_sets

    def put_equivalence(self, id: int, row: Equivalence | None) -> None:
        """Add a set of equivalent codes, or remove it with None."""
        sets = dict(self.code_sets.sets)
        if (before := sets.pop(id, None)) is not None:
            self.equivalences.load(id, before)
        if row is not None:
            sets[id] = row
        self.equivalences.put(id, row)
        self._undo.add((self._put_code_sets, None, self._code_sets))
        self._put_code_sets(None, CodeSets(sets))

    def _put_code_sets(self, _key: None, code_sets: CodeSets | None) -> None:
        self._code_sets = code_sets

    @property
    def grade_scale(self) -> GradeScale:
        """The grade scale."""
        scale = self.grade_scales.get(ONLY_SCALE) or self.catalog.grade_scale
        if scale is None:
            raise NotLoaded(Needs(grade_scale=True))
        return scale

    def put_grade_scale(self, scale: GradeScale) -> None:
        """Set the grade scale."""
        self.grade_scales.load(ONLY_SCALE, self.grade_scale)
        self.grade_scales.put(ONLY_SCALE, scale)

    def scale_for(self, groups: Iterable[Group]) -> GradeScale:
        """Return the grade scale if one of these groups requires a grade; otherwise it need not be loaded."""
        return self.grade_scale if any(group.min_grade for group in groups) else NO_SCALE

    def min_grades(self) -> list[MinGrade]:
        """Return the courses that require grades, with each of these grades, in order."""
        if self._min_grades is None:
            raise NotLoaded(Needs(min_grades=True))
        changed = dict(self.requirements.items())
        kept = [
            each
            for each in self._min_grades
            if each.course_id not in changed and not self.requirements.has_removed(each.course_id)
        ]
        new = [
            MinGrade(id, group.min_grade)
            for id, groups in changed.items()
            for group in groups
            if group.min_grade is not None
        ]
        return sorted({*kept, *new})

    def add_min_grades(self, rows: list[MinGrade]) -> None:
        """Add the grades that courses require in the database."""
        self._min_grades = rows

    def term(self, term_id: int | None) -> Term | None:
        """Return a term, or None if it does not exist."""
        if term_id is None:
            return None
        if term_id in self.terms:
            return self.terms.get(term_id)
        term = self.catalog.terms.get(term_id)
        if term is None and term_id not in self.loaded_terms:
            raise NotLoaded(Needs(terms={term_id}))
        return term

    def end_of(self, term: Term | None) -> datetime | None:
        """Return the instant at which a term is over, or None without a term."""
        return None if term is None else end_of_day(term.ends_on, self.catalog.time_zone)

    def is_over(self, term: Term | None) -> bool:
        """Return whether a term is over."""
        ends_at = self.end_of(term)
        return ends_at is not None and ends_at <= self.now

    # Enrollments.

    def enrollment(self, student_id: int, course_id: int) -> Enrollment | None:
        """Return the row of a student in a course, or None if there is none."""
        row = self.enrollments.get((student_id, course_id))
        if row is None and (student_id, course_id) not in self.loaded_pairs:
            raise NotLoaded(Needs(pairs={(student_id, course_id)}))
        return row

    def rows_of(self, student_id: int, course_ids: Iterable[int]) -> list[Enrollment]:
        """Return the rows of a student in courses, all of which are loaded together."""
        pairs = [(student_id, course_id) for course_id in course_ids]
        if missing := {pair for pair in pairs if pair not in self.enrollments} - self.loaded_pairs:
            raise NotLoaded(Needs(pairs=missing))
        return [row for pair in pairs if (row := self.enrollments.get(pair)) is not None]

    def was_never_in(self, student_id: int, course_id: int) -> bool:
        """Return whether a loaded student is known to have no row in a course, without reading the pair."""
        return (
            student_id in self.loaded_students
            and course_id not in self._marks.get(student_id, ())
            and course_id not in self._inactive.get(student_id, ())
        )

    def courses_of(self, student_id: int) -> Iterator[Enrollment]:
        """Iterate over the rows of a student that are in memory, by course id."""
        for course_id in sorted(self._courses_of[student_id]):
            row = self.enrollments.get((student_id, course_id))
            if row is not None:
                yield row

    def roster(self, course_id: int) -> Iterator[Enrollment]:
        """Iterate over the students enrolled in a course or waitlisted for it, by student id."""
        if course_id not in self.loaded_rosters:
            raise NotLoaded(Needs(rosters={course_id}))
        for student_id in sorted(self._students_of[course_id]):
            row = self.enrollments.get((student_id, course_id))
            if row is not None:
                yield row

    def has_students(self, course_id: int) -> bool:
        """Return whether any student in memory has a row in a course."""
        return any((student_id, course_id) in self.enrollments for student_id in self._students_of[course_id])

    def put_enrollment(self, row: Enrollment) -> None:
        """Set the row of a student in a course."""
        student_id, course_id = key = row.student_id, row.course_id
        if course_id in self._positions:
            self._move_up(self.enrollments.get(key), row)
        self.enrollments.put(key, row)
        self._index(row)
        if row.status == "waitlisted":
            self._waiting.add(student_id)
            if row.recheck_at is None:
                self._queue(row)
        marks = self._marks.setdefault(student_id, {})
        where = marks, course_id
        self._undo.add((_put_mark, where, marks.get(course_id)))
        _put_mark(where, mark_of(row))

    def remove_enrollment(self, row: Enrollment) -> None:
        """Remove the row of a student in a course."""
        self._forget_positions(row.course_id)
        self.enrollments.put((row.student_id, row.course_id), None)
        marks = self._marks.setdefault(row.student_id, {})
        where = marks, row.course_id
        self._undo.add((_put_mark, where, marks.get(row.course_id)))
        _put_mark(where, None)

    def _forget_positions(self, course_id: int) -> None:
        if (counted := self._positions.pop(course_id, None)) is not None:
            self._undo.add((self._positions.__setitem__, course_id, counted))

    def _index(self, row: Enrollment) -> None:
        self._courses_of[row.student_id].add(row.course_id)
        self._students_of[row.course_id].add(row.student_id)

    def has_lost(self, student_id: int, course_id: int) -> bool:
        """Return whether a seat has lost a requirement."""
        if student_id not in self.loaded_lost:
            raise NotLoaded(Needs(lost_requirements={student_id, *self.loaded_students} - self.loaded_lost))
        return self.lost_requirements.get((student_id, course_id)) is not None

    def lost_of_course(self, course_id: int) -> list[int]:
        """Return the students whose seats in a course have lost a requirement."""
        if course_id not in self.loaded_lost_courses:
            raise NotLoaded(Needs(lost_of_courses={course_id}))
        return sorted([student_id for (student_id, id), _ in self.lost_requirements.items() if id == course_id])

    # Waitlists.

    def next_unjudged(self, course_id: int) -> Enrollment | None:
        """Return the first unjudged student of a waitlist, or None if all of them are judged."""
        waitlist = self.waitlists.get(course_id)
        if waitlist is None:
            unloaded = sorted(self.promotable_ids() - self.waitlists.keys())
            # Load up to as many other waitlists as are loaded already: the next changes may free seats there.
            likely = [course.id for course in self.courses if course.waitlisted and course.id not in self.waitlists]
            unloaded += likely[: len(self.waitlists)]
            raise NotLoaded(Needs(waitlists={course_id, *unloaded[:WAITLISTS_PER_LOAD]}))
        queue = waitlist.unjudged
        while queue:
            joined_position, student_id = queue[0]
            if joined_position > waitlist.loaded_through and not waitlist.complete:
                break
            row = self._unjudged_row(student_id, course_id, joined_position)
            if row is not None:
                if student_id not in self.loaded_students:
                    raise NotLoaded(Needs(students={student for _, student in queue} - self.loaded_students))
                return row
            heappop(queue)
        if not waitlist.complete:
            raise NotLoaded(Needs(waitlists={course_id}))
        return None

    def waitlist_position(self, row: Enrollment) -> int:
        """Return the position of a waitlisted student, counted from 1."""
        joined_position, position = self._positions.get(row.course_id, {}).get(row.student_id, (0, 0))
        if joined_position != row.joined_position:
            # Callers who repeat a request usually come many at a time, so load the positions of all pairs.
            others = [pair for pair in self.loaded_pairs if pair[0] not in self._positions.get(pair[1], ())]
            raise NotLoaded(Needs(positions={(row.student_id, row.course_id), *others}))
        return position

    def _move_up(self, before: Enrollment | None, after: Enrollment) -> None:
        """Move up the students behind a student who leaves a waitlist."""
        left = waitlist_place(before)
        if left is None or left == waitlist_place(after):
            return
        course_id = after.course_id
        counted = self._positions[course_id]
        self._undo.add((self._positions.__setitem__, course_id, counted))
        self._positions[course_id] = {
            student_id: (joined_position, position - (joined_position > left))
            for student_id, (joined_position, position) in counted.items()
            if student_id != after.student_id
        }

    def next_override_holder(self, course_id: int, rules: Collection[str]) -> Enrollment | None:
        """Return the first unjudged student of a waitlist for whom overrides lift all of these rules, or None."""
        if course_id not in self.loaded_holders:
            raise NotLoaded(Needs(override_holders={course_id, *self.promotable_ids()} - self.loaded_holders))
        rows = [
            row
            for student_id in self._override_holders[course_id]
            if (row := self.enrollment(student_id, course_id)) is not None
            and row.status == "waitlisted"
            and row.recheck_at is None
            and self.overrides_of(student_id, course_id).keys() >= set(rules)
        ]
        return min(rows, key=lambda row: row.joined_position, default=None)

    def _unjudged_row(self, student_id: int, course_id: int, joined_position: int) -> Enrollment | None:
        row = self.enrollments.get((student_id, course_id))
        holds = row is not None and row.status == "waitlisted" and row.joined_position == joined_position
        return row if holds and row is not None and row.recheck_at is None else None

    def _queue(self, row: Enrollment) -> None:
        waitlist = self.waitlists.get(row.course_id)
        if waitlist is not None:
            heappush(waitlist.unjudged, (row.joined_position, row.student_id))

    # Loading.

    def add_waitlist_page(self, course_id: int, rows: Iterable[Enrollment], *, complete: bool) -> None:
        """Add the next rows of a waitlist that are unjudged or due to be judged again."""
        waitlist = self.waitlists.get(course_id)
        if waitlist is None:
            waitlist = self.waitlists[course_id] = Waitlist()
            for student_id in self._students_of[course_id]:
                if (known := self.enrollments.get((student_id, course_id))) and known.status == "waitlisted":
                    heappush(waitlist.unjudged, (known.joined_position, student_id))
        for row in rows:
            self.add_enrollment(row)
            waitlist.loaded_through = max(waitlist.loaded_through, row.joined_position)
            heappush(waitlist.unjudged, (row.joined_position, row.student_id))
        waitlist.complete = complete
        waitlist.pages += 1

    def waitlist_places(self, pairs: Iterable[tuple[int, int]]) -> list[Place]:
        """Return the waitlist places in memory among these pairs."""
        rows = [row for pair in pairs if (row := self.enrollments.get(pair)) is not None]
        return [Place(row.student_id, row.course_id, row.joined_position) for row in rows if row.status == "waitlisted"]

    def add_positions(self, counted: Iterable[Position]) -> None:
        """Add waitlist positions as the database counts them, adjusted by changes that are not flushed yet."""
        left: dict[int, list[int]] = defaultdict(list)
        joined: dict[int, list[int]] = defaultdict(list)
        for before, after in self.enrollments.changes():
            for row, positions in ((before, left), (after, joined)):
                if row is not None and row.status == "waitlisted":
                    insort(positions[row.course_id], row.joined_position)
        for student_id, course_id, joined_position, position in counted:
            moved = bisect_right(joined[course_id], joined_position) - bisect_right(left[course_id], joined_position)
            self._positions.setdefault(course_id, {})[student_id] = joined_position, position + moved

    def add_unjudged(self, student_id: int, course_id: int) -> None:
        """Apply that a statement has made a row unjudged; everything in memory must have been flushed before."""
        row = self.enrollments.get((student_id, course_id))
        if row is not None and row.recheck_at is not None:
            self.enrollments.reload((student_id, course_id), row._replace(recheck_at=None))
        self.waitlists.pop(course_id, None)
        self.loaded_holders.discard(course_id)

    def has_override_holders(self, course_id: int) -> bool:
        """Return whether a waitlisted student in memory has an override for a course."""
        return bool(self._override_holders.get(course_id))

    def add_override_holder(self, student_id: int, course_id: int) -> None:
        """Add a waitlisted student who has an override for the course."""
        self._override_holders[course_id].add(student_id)

    def add_transcript(self, row: Transcript) -> None:
        """Add a student's courses and credit limit, with the changes of this batch applied."""
        marks: dict[int, Mark] = dict.fromkeys(row.enrolled or (), "enrolled")
        if row.waitlisted:
            marks.update(dict.fromkeys(row.waitlisted, "waitlisted"))
            self._waiting.add(row.student_id)
        if row.passed:
            marks.update(dict.fromkeys(row.passed, "passed"))
        if row.failed:
            marks.update(dict.fromkeys(row.failed, "failed"))
        self._marks[row.student_id] = marks
        self._limits[row.student_id] = row.max_credits
        self._groups[row.student_id] = row.groups
        if row.inactive:
            self._inactive[row.student_id] = row.inactive
        if row.student_id in self._courses_of:
            for enrollment in self.courses_of(row.student_id):
                _put_mark((marks, enrollment.course_id), mark_of(enrollment))

    def add_passed_codes(self, rows: Iterable[PassedCode]) -> None:
        """Add the codes under which students completed courses whose codes have changed since."""
        for row in rows:
            self.passed_codes.reload((row.student_id, row.course_id), row.code)

    def add_enrollment(self, row: Enrollment) -> None:
        """Add a row of the database, unless a change has set it.

        A row that is due to be judged again counts as unjudged.
        """
        key = row.student_id, row.course_id
        if key not in self.enrollments:
            if row.recheck_at is not None and row.recheck_at <= self.now:
                row = row._replace(recheck_at=None)
            self.enrollments.load(key, row)
            self._index(row)

    def add_teaching(self, course_ids: Iterable[int], rows: Iterable[CourseInstructor]) -> None:
        """Add all instructors of courses, unless a change has set them."""
        by_course: dict[int, list[CourseInstructor]] = {id: [] for id in course_ids}
        for row in rows:
            by_course[row.course_id].append(row)
        for course_id, own in by_course.items():
            self.teaching.load(course_id, tuple(sorted(own)))
        self.loaded_teaching |= by_course.keys()

    def add_hold(self, row: Hold) -> None:
        """Add a hold of the database."""
        if row.id not in self.holds:
            self.holds.load(row.id, row)
            self._holds_of.setdefault(row.student_id, []).append(row.id)

    def add_override(self, row: Override) -> None:
        """Add an override of the database, unless its course was deleted."""
        if row.id not in self.overrides and not self.courses.has_removed(row.course_id):
            self.overrides.load(row.id, row)
            self._overrides_of.setdefault((row.student_id, row.course_id), []).append(row.id)

    def put_hold(self, row: Hold) -> None:
        """Set a hold."""
        if self.holds.get(row.id) is None:
            self._holds_of.setdefault(row.student_id, []).append(row.id)
        self.holds.put(row.id, row)

    def put_override(self, row: Override) -> None:
        """Set an override."""
        if self.overrides.get(row.id) is None:
            self._overrides_of.setdefault((row.student_id, row.course_id), []).append(row.id)
        self._override_holders[row.course_id].add(row.student_id)
        self.overrides.put(row.id, row)

    def move_hold(self, row: Hold) -> None:
        """Set a hold that another student had."""
        self._holds_of.setdefault(row.student_id, []).append(row.id)
        self.holds.put(row.id, row)

    def move_override(self, row: Override) -> None:
        """Set an override that another student had."""
        self._overrides_of.setdefault((row.student_id, row.course_id), []).append(row.id)
        self._override_holders[row.course_id].add(row.student_id)
        self.overrides.put(row.id, row)


def named_keys(groups: Iterable[Group], kind: RequirementKind, *, in_progress: bool = False) -> set[str]:
    """Return the keys of the codes that groups of one kind name; with ``in_progress``, those that allow it."""
    return {
        key for group in groups if group.kind == kind and (group.in_progress or not in_progress) for key in group.keys
    }


def waitlist_place(row: Enrollment | None) -> int | None:
    """Return the joined position of a waitlisted student, or None for any other row."""
    return row.joined_position if row is not None and row.status == "waitlisted" else None


def mark_of(row: Enrollment) -> Mark | None:
    """Return the mark of a row, or None if the student has left the course."""
    if row.status == "completed":
        return "passed" if row.passed else "failed"
    return row.status if row.status in {"enrolled", "waitlisted"} else None


def _put_mark(where: tuple[dict[int, Mark], int], mark: Mark | None) -> None:
    marks, course_id = where
    if mark is None:
        marks.pop(course_id, None)
    else:
        marks[course_id] = mark


def as_json(state: Mapping[str, object] | Sequence[Mapping[str, object]]) -> str:
    """Format a state for an event."""
    return json.dumps(state, ensure_ascii=False, separators=(",", ":"), default=_text)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in an event")
