"""Cache of the registrar between batches: definitions of courses and terms, which change far less often than seats."""

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from uuid import UUID

from service.registrar.application import CodeSets, Course, Definition, GradeScale, Group, Term, code_key
from sql.feed import Edit, Event, Head

MAX_COURSES = 50_000
"""Cache limit, about 20 MB. Beyond it the catalog is cleared."""

AHEAD = 128
"""Courses are read in blocks of so many ids: a block takes about two milliseconds, and each course in it saves a caller
two round trips later."""

MAX_EDITS = 1_000
"""Most edits by other processes that are followed one by one. After more edits the catalog is cleared."""


@dataclass(slots=True)
class Codes:
    """The keys of the codes of courses, and the courses that have each of them."""

    _keys: dict[int, str] = field(default_factory=dict)
    _ids: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def put(self, course_id: int, code: str) -> None:
        """Set the code of a course."""
        self.remove(course_id)
        key = self._keys[course_id] = code_key(code)
        self._ids[key].add(course_id)

    def remove(self, course_id: int) -> None:
        """Remove a course."""
        if (key := self._keys.pop(course_id, None)) is not None:
            self._ids[key].remove(course_id)
            if not self._ids[key]:
                # Codes are renamed; without this, each former one would stay for as long as the process runs.
                del self._ids[key]

    def know_all(self, course_ids: Set[int]) -> bool:
        """Return whether the codes of all these courses are known."""
        return self._keys.keys() >= course_ids

    def courses_with(self, key: str) -> Set[int]:
        """Return the ids of the known courses whose codes have a key."""
        return self._ids.get(key, NO_COURSES)

    def clear(self) -> None:
        """Remove everything."""
        self._keys.clear()
        self._ids.clear()


NO_COURSES: Set[int] = frozenset()


@dataclass(slots=True)
class Catalog:
    """Definitions, requirements and terms as they were after an event of the feed.

    If a transaction that holds the write lock finds the same newest event, nothing has changed since: every change
    appends an event, in the order of the commits. The position alone does not prove that: a restore or a failover loses
    events, and other events take their positions. Seats are loaded by each batch, whatever the catalog has.
    """

    time_zone: tzinfo = UTC
    """The time zone of the institution, in which the days of terms begin and end."""
    reads_ahead: bool = False
    """Whether courses are read ahead, since the catalog is kept for other batches."""
    epoch: UUID | None = None
    position: int = 0
    occurred_at: datetime | None = None
    request_id: str | None = None
    courses: dict[int, Course] = field(default_factory=dict)
    """Courses as the last batch that needed them left them; other processes may have changed their seats since."""
    definitions: dict[int, Definition] = field(default_factory=dict)
    codes: Codes = field(default_factory=Codes)
    """The codes of all these courses and definitions."""
    requirements: dict[int, tuple[Group, ...]] = field(default_factory=dict)
    excluders: dict[str, frozenset[int]] = field(default_factory=dict)
    """By the keys of codes, the ids of the courses that name them as antirequisites."""
    dependents: dict[str, frozenset[int]] = field(default_factory=dict)
    """By the same keys, the ids of the courses that name them as corequisites."""
    dependents_in_progress: dict[str, frozenset[int]] = field(default_factory=dict)
    """By the same keys, the ids of the courses that allow courses with them to be in progress."""
    allows_progress: bool = False
    """Whether any of these requirements allows a course in progress; most institutions have none."""
    terms: dict[int, Term] = field(default_factory=dict)
    code_sets: CodeSets | None = None
    """All sets of equivalent codes; None if they are not loaded."""
    grade_scale: GradeScale | None = None
    """The grade scale, which may be empty; None if it is not loaded."""

    def near(self, missing: Sequence[int]) -> range:
        """Return the ids to read ahead: those near the first missing course. Some may be known, or belong to no course."""
        if not missing or not self.reads_ahead:
            return range(0)
        first = missing[0] - missing[0] % AHEAD
        return range(first, first + AHEAD)

    def advance(self, events: Sequence[Event], courses: Iterable[Course]) -> None:
        """Advance to the last of these events, which follow the position, once they are committed.

        ``courses`` are those of the batch. The next batch copies only those whose seats have changed since.
        """
        for event in events:
            if event.student_id is None:
                self.forget(event.course_id, event.term_id)
        if events:
            newest = events[-1]
            self.position, self.occurred_at, self.request_id = newest.position, newest.occurred_at, newest.request_id
        for course in courses:
            if course.id in self.courses:
                self.courses[course.id] = course

    def is_at(self, head: Head) -> bool:
        """Return whether the catalog is as new as the newest event."""
        return (self.epoch, self.position, self.occurred_at, self.request_id) == (
            head.epoch,
            head.position,
            head.occurred_at,
            head.request_id,
        )

    def follow(self, edits: Sequence[Edit], head: Head) -> None:
        """Advance to the newest event; ``edits`` are the event at the position of the catalog and the edits after it.

        If that event is missing, the catalog belongs to another history and is cleared.
        """
        known = self.position
        if self.epoch != head.epoch or known not in {edit.position for edit in edits} or len(edits) > MAX_EDITS:
            self.clear()
        for edit in edits:
            if edit.position > known:
                self.forget(edit.course_id, edit.term_id)
        self.epoch, self.position = head.epoch, head.position
        self.occurred_at, self.request_id = head.occurred_at, head.request_id

    def forget(self, course_id: int | None, term_id: int | None) -> None:
        """Remove a course or a term that has changed; one that names neither is of the equivalent codes or the grades."""
        if course_id is not None:
            self.courses.pop(course_id, None)
            self.definitions.pop(course_id, None)
            self.codes.remove(course_id)
            self.requirements.pop(course_id, None)
            # The codes that it named are not known; a batch loads all courses that name its codes in one statement.
            self.excluders.clear()
            self.dependents.clear()
            self.dependents_in_progress.clear()
        if term_id is not None:
            self.terms.pop(term_id, None)
        if course_id is None and term_id is None:
            self.code_sets = self.grade_scale = None

    def is_full(self) -> bool:
        """Return whether the catalog exceeds its limit."""
        return max(len(self.courses), len(self.definitions), len(self.requirements)) > MAX_COURSES

    def clear(self) -> None:
        """Remove everything."""
        self.epoch = None
        self.position = 0
        self.occurred_at = self.request_id = None
        self.courses.clear()
        self.definitions.clear()
        self.codes.clear()
        self.requirements.clear()
        self.excluders.clear()
        self.dependents.clear()
        self.dependents_in_progress.clear()
        self.allows_progress = False
        self.terms.clear()
        self.code_sets = self.grade_scale = None
