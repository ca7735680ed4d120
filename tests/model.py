"""A sequential model of enrollment in plain loops, with which the service must agree.

The model handles one request after the other, looks up everything each time, and stores nothing that it can compute.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

Refusal = tuple[int, str, tuple[tuple[str, Any], ...]]
"""A course, the code of a rule, and the parameters of the refusal."""
SEATED = {"enrolled", "completed"}


PARTS = {1: ("2036-01-01", "2036-06-30"), 2: ("2036-07-01", "2036-07-01"), 3: ("2036-07-02", "2036-12-31")}
"""The year in three parts; the middle one is a single day, a Tuesday, which both halves of the year may share."""
WINDOW = date(2035, 10, 1), date(2037, 3, 31)
"""The dates that the model looks at: a course without a term meets at any time."""

Meeting = tuple[str, int, int, str | None, str | None, int]
"""A day of the week, the hours of the start and the end, the first and the last date, and the number of weeks."""


@cache
def hours_of(meetings: tuple[Meeting, ...], first: date | None, last: date | None) -> frozenset[tuple[date, int]]:
    """Return the dates and hours at which meetings take place, by looking at every date."""
    found = set()
    for day, start, end, begin, until, weeks in meetings:
        begins_on = date.fromisoformat(begin) if begin else first or WINDOW[0]
        ends_on = date.fromisoformat(until) if until else last or WINDOW[1]
        monday = begins_on - timedelta(begins_on.weekday())
        for ordinal in range(begins_on.toordinal(), ends_on.toordinal() + 1):
            on = date.fromordinal(ordinal)
            if f"{on:%a}".lower() == day and (on - monday).days // 7 % weeks == 0:
                found |= {(on + timedelta(hour // 24), hour % 24) for hour in range(start, end)}
    return frozenset(found)


@dataclass
class Term:
    """A term in one or more parts of the year, whose deadlines are either far ahead or long past."""

    halves: frozenset[int] = frozenset({1, 2, 3})
    limit: float | None = None
    enroll_closed: bool = False
    drop_late: bool = False
    drop_closed: bool = False
    parent: int | None = None

    def is_within(self, whole: "Term") -> bool:
        """Return whether all days of the term are days of a whole term, which is in one piece."""
        return min(self.halves) >= min(whole.halves) and max(self.halves) <= max(whole.halves)


@dataclass
class Course:
    """A course."""

    code: str
    term: int | None
    credits: float
    capacity: int | None
    waitlist_capacity: int | None
    meetings: list[Meeting]
    section: str = ""
    cancelled: bool = False
    groups: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    reserved: list[tuple[str, int]] = field(default_factory=list)
    """Groups of students with the number of their seats."""


@dataclass
class State:
    """One student in one course."""

    status: str
    joined: int
    passed: bool | None = None
    grade: str | None = None
    drops: list[int] = field(default_factory=list)
    above: bool = False
    group: str | None = None
    """The group whose reserved seat the student has."""


def fold(code: str) -> str:
    """Return a code in the form in which codes are compared."""
    return code.lower()


class Refused(Exception):
    """Raised if a request is refused and changes nothing; ``reasons`` says why."""

    def __init__(self, reasons: Iterable[Refusal]) -> None:
        self.reasons = sorted(reasons, key=repr)


@dataclass
class Model:
    """A campus."""

    terms: dict[int, Term] = field(default_factory=dict)
    courses: dict[int, Course] = field(default_factory=dict)
    limits: dict[int, float | None] = field(default_factory=dict)
    """The credit limit of each student."""
    states: dict[tuple[int, int], State] = field(default_factory=dict)
    holds: list[tuple[int, str]] = field(default_factory=list)
    """Students, each with the action that is blocked: enroll or drop."""
    instructors: list[int] = field(default_factory=list)
    teachers: dict[int, list[int]] = field(default_factory=dict)
    """The instructors of each course, the primary one first, the others by id."""
    taught: set[int] = field(default_factory=set)
    """The instructors who have ever been in the list of a course."""
    overrides: list[tuple[int, int, str]] = field(default_factory=list)
    """Unused overrides: student, course, rule."""
    sets: list[frozenset[str]] = field(default_factory=list)
    """Sets of equivalent codes, in the form in which codes are compared."""
    scale: list[tuple[str, bool]] = field(default_factory=list)
    """The grades from the best on, each with whether it passes."""
    members: dict[int, frozenset[str]] = field(default_factory=dict)
    """The groups of each student who has some."""
    lost: set[tuple[int, int]] = field(default_factory=set)
    """The students and courses whose seats have lost a requirement."""
    before: dict[tuple[int, int], tuple[str, bool | None, str | None]] = field(default_factory=dict)
    """The states before the change that is being made."""
    met: set[tuple[int, int]] = field(default_factory=set)
    """The seats that met all requirements which may be in progress before that change."""
    clock: int = 0

    # Requirements that may be in progress.

    def in_progress(self, student: int, course: int, without: Iterable[int] = ()) -> set[str]:
        """Return the codes of the courses with a seat that are over before another course begins."""
        term = self.courses[course].term
        return {
            self.key(self.courses[c].code)
            for c in self.of(student, {"enrolled"}, {*without, course})
            if (own := self.courses[c].term) is not None
            and term is not None
            and max(self.terms[own].halves) < min(self.terms[term].halves)
        }

    def lacks(self, student: int, course: int) -> bool:
        """Return whether a student does not meet a requirement of a course that may be in progress."""
        passed = {
            self.key(self.courses[c].code) for c in self.of(student, {"completed"}) if self.states[student, c].passed
        }
        for kind, codes in self.courses[course].groups:
            word, _, grade = kind.partition(" ")
            good = self.passed_with(student, grade) if grade else passed
            if word == "pre*" and not (good | self.in_progress(student, course)) & set(map(self.key, codes)):
                return True
        return False

    def judge_seat(self, student: int, course: int) -> None:
        """Mark a seat, or remove its mark; an override is used up instead of a mark."""
        if not self.lacks(student, course):
            self.lost.discard((student, course))
        elif self.lifted(student, course, "prerequisite_missing"):
            self.use(student, course, ["prerequisite_missing"])
            self.lost.discard((student, course))
        else:
            self.lost.add((student, course))

    def after_change(self) -> None:
        """Judge the seats that depend on the courses whose seats the change has given, taken or completed."""
        now = {key: (state.status, state.passed, state.grade) for key, state in self.states.items()}
        moved = {
            key
            for key in {*now, *self.before}
            if now.get(key) != self.before.get(key)
            and {each[0] for each in (now.get(key), self.before.get(key)) if each} & SEATED
        }
        self.lost -= {key for key in moved if now.get(key, ("",))[0] != "enrolled" or key in self.before}
        for student, course in sorted(now):
            if now[student, course][0] != "enrolled" or (student, course) in moved:
                continue
            named = {
                self.key(code) for kind, codes in self.courses[course].groups if kind[:4] == "pre*" for code in codes
            }
            depends = any(s == student and self.key(self.courses[c].code) in named for s, c in moved)
            if depends and {(student, course)} & (self.met | self.lost):
                self.judge_seat(student, course)
        self.remember()

    def remember(self) -> None:
        """Take note of the state before the next change."""
        self.before = {key: (state.status, state.passed, state.grade) for key, state in self.states.items()}
        self.met = {
            key
            for key, state in self.states.items()
            if state.status == "enrolled"
            and any(kind[:4] == "pre*" for kind, _ in self.courses[key[1]].groups)
            and not self.lacks(*key)
        }

    # Queries.

    def seated_in(self, course: int) -> int:
        return sum(state.status in SEATED for (_, c), state in self.states.items() if c == course)

    def waitlist(self, course: int) -> list[int]:
        joined = [
            (state.joined, s) for (s, c), state in self.states.items() if c == course and state.status == "waitlisted"
        ]
        return [student for _, student in sorted(joined)]

    def position(self, student: int, course: int) -> int | None:
        waitlist = self.waitlist(course)
        return waitlist.index(student) + 1 if student in waitlist else None

    def free(self, course: int) -> bool:
        capacity = self.courses[course].capacity
        return capacity is None or self.seated_in(course) < capacity

    def unfilled(self, course: int) -> dict[str, int]:
        """Return the groups that have a reserved seat left, with the number of these seats."""
        found = {}
        for group, seats in self.courses[course].reserved:
            used = [s for (_, c), s in self.states.items() if c == course and s.status in SEATED and s.group == group]
            if len(used) < seats:
                found[group] = seats - len(used)
        return found

    def kept(self, student: int, course: int) -> list[str]:
        """Return the groups for which the free seats of a course are kept from a student."""
        capacity, unfilled = self.courses[course].capacity, self.unfilled(course)
        if capacity is None or not self.free(course) or self.seated_in(course) + sum(unfilled.values()) < capacity:
            return []
        return [] if self.members.get(student, frozenset()) & {*unfilled} else [*unfilled]

    def reserve(self, course: int, reserved: list[tuple[str, int]]) -> int:
        """Reserve seats of a course."""
        it = self.courses[course]
        if it.capacity is not None and sum(seats for _, seats in reserved) > it.capacity:
            return 422
        it.reserved = reserved
        self.promote()
        return 200

    def resize(self, course: int, capacity: int | None) -> int:
        """Set the capacity of a course."""
        it = self.courses[course]
        if capacity is not None and capacity != it.capacity and sum(seats for _, seats in it.reserved) > capacity:
            return 422
        it.capacity = capacity
        self.promote()
        return 200

    def of(self, student: int, statuses: set[str], without: Iterable[int] = ()) -> list[int]:
        left_out = set(without)
        return sorted(
            c
            for (s, c), state in self.states.items()
            if s == student and state.status in statuses and c not in left_out
        )

    def overlap(self, one: int | None, other: int | None) -> bool:
        return one is None or other is None or bool(self.terms[one].halves & self.terms[other].halves)

    def hours(self, meetings: Iterable[Meeting], term: int | None) -> frozenset[tuple[date, int]]:
        dates: list[date | None] = [None, None]
        if term is not None:
            halves = self.terms[term].halves
            dates = [date.fromisoformat(PARTS[min(halves)][0]), date.fromisoformat(PARTS[max(halves)][1])]
        return hours_of(tuple(meetings), *dates)

    def key(self, code: str) -> str:
        """Return the same text for all equivalent codes."""
        return next((min(each) for each in self.sets if fold(code) in each), fold(code))

    def duplicates(self, student: int, course: int, seats: Iterable[int]) -> list[int]:
        """Return the courses among those with a seat that are other offerings of a course at the same time."""
        it = self.courses[course]
        return [
            c
            for c in seats
            if c != course
            and self.key(self.courses[c].code) == self.key(it.code)
            and self.overlap(it.term, self.courses[c].term)
            and not (self.is_completed(student, c) and None in {it.term, self.courses[c].term})
        ]

    def is_completed(self, student: int, course: int) -> bool:
        state = self.states.get((student, course))
        return state is not None and state.status == "completed"

    def clash(self, one: int, other: int) -> bool:
        mine, its = [self.hours(self.courses[c].meetings, self.courses[c].term) for c in (one, other)]
        return bool(mine & its)

    def can_meet(self, meetings: Iterable[Meeting], term: int | None) -> bool:
        """Return whether each meeting takes place on some date, and its weeks can be counted."""
        return all(
            self.hours([each], term) and (each[5] == 1 or each[3] is not None or term is not None) for each in meetings
        )

    def meet(self, course: int, meetings: list[Meeting]) -> int:
        """Set the meetings of a course."""
        it = self.courses[course]
        if meetings != it.meetings and not self.can_meet(meetings, it.term):
            return 422
        it.meetings = meetings
        self.promote()
        return 200

    def limits_of(self, student: int, term: int | None) -> list[tuple[int, float]]:
        """Return the terms whose limits count the credits of a course in a term, with these limits."""
        if term is None:
            return []
        parent, own = self.terms[term].parent, self.limits[student]
        if own is not None:
            return [(term if parent is None else parent, own)]
        found = [(id, self.terms[id].limit) for id in (term, parent) if id is not None]
        return [(id, limit) for id, limit in found if limit is not None]

    def credits(self, courses: Iterable[int], within: int) -> Decimal:
        """Return the credits of the courses that are in a term or a part of it."""
        found = Decimal()
        for course in courses:
            term = self.courses[course].term
            if term is not None and within in {term, self.terms[term].parent}:
                found += Decimal(str(self.courses[course].credits))
        return found

    def parts(self, term: int) -> list[Term]:
        return [part for part in self.terms.values() if part.parent == term]

    def join(self, term: int, parent: int | None) -> int:
        """Make a term a part of another one, or a whole term."""
        it = self.terms[term]
        if parent is not None and parent != it.parent:
            whole = self.terms[parent]
            if parent == term or whole.parent is not None or self.parts(term) or not it.is_within(whole):
                return 422
        it.parent = parent
        self.promote()
        return 200

    def shift(self, term: int, halves: frozenset[int]) -> int:
        """Set the dates of a term."""
        it = self.terms[term]
        moved = replace(it, halves=halves)
        if it.parent is not None and not moved.is_within(self.terms[it.parent]):
            return 422
        if not all(part.is_within(moved) for part in self.parts(term)):
            return 422
        it.halves = halves
        self.promote()
        return 200

    def passed_with(self, student: int, grade: str) -> set[str]:
        """Return the codes of the courses that a student has passed with a grade or a better one."""
        order = [each for each, _ in self.scale]
        best = order[: order.index(grade) + 1] if grade in order else []
        return {
            self.key(self.courses[c].code)
            for c in self.of(student, {"completed"})
            if self.states[student, c].passed and self.states[student, c].grade in best
        }

    def rescale(self, scale: list[tuple[str, bool]]) -> int:
        """Set the grade scale."""
        needed = {kind.partition(" ")[2] for it in self.courses.values() for kind, _ in it.groups} - {""}
        if needed - {grade for grade, _ in scale}:
            return 409
        self.scale = scale
        self.promote()
        return 200

    def require(self, course: int, groups: list[tuple[str, tuple[str, ...]]]) -> int:
        """Set the requirements of a course; the kind of a group may be followed by a grade."""
        if {kind.partition(" ")[2] for kind, _ in groups} - {"", *(grade for grade, _ in self.scale)}:
            return 422
        allowed = any(kind[:4] == "pre*" for kind, _ in self.courses[course].groups)
        self.courses[course].groups = groups
        for s, c in sorted(self.lost):
            if c == course and allowed:
                self.judge_seat(s, c)
        self.promote()
        return 200

    def grant(self, student: int, course: int, rule: str) -> int:
        """Grant an override, which is used at once if the student has lost a requirement."""
        self.overrides.append((student, course, rule))
        if rule == "prerequisite_missing" and (student, course) in self.lost:
            self.judge_seat(student, course)
        self.promote()
        return 201

    def lifted(self, student: int, course: int, code: str) -> bool:
        return (student, course, code) in self.overrides

    # The rules.

    def reasons(  # noqa: PLR0915 - one statement for each reason
        self,
        student: int,
        course: int,
        seat: str,
        on_full: str,
        others: list[int],
        requested: list[int],
        without: Iterable[int],
        together: bool,
        promotes: bool = False,
    ) -> list[Refusal]:
        """Return every reason for a refusal; the request also contains ``requested`` and gives a seat in ``others``.

        A promotion counts no waitlist place as a corequisite.
        """
        found: list[Refusal] = []

        def refuse(rule: str, **params: Any) -> None:
            found.append((course, rule, tuple(sorted(params.items()))))

        if course not in self.courses:
            refuse("unknown_course")
            return found
        it = self.courses[course]
        term = self.terms[it.term] if it.term is not None else None
        state = self.states.get((student, course))
        if it.cancelled:
            refuse("course_cancelled")
        if state is not None and state.status == "completed":
            refuse("already_completed")
        if term is not None and term.enroll_closed:
            refuse("enrollment_closed")
        for who, what in self.holds:
            if who == student and what == "enroll":
                refuse("hold", reason="fees")
        passed = {
            self.key(self.courses[c].code) for c in self.of(student, {"completed"}) if self.states[student, c].passed
        }
        current = self.of(student, {"enrolled", "waitlisted"}, {*without, course})
        also = [c for c in requested if c in self.courses and c != course]
        # Courses of an overlapping term count, and passed courses of any term.
        near = sorted(c for c in {*current, *also} if self.overlap(it.term, self.courses[c].term))
        has = passed | {self.key(self.courses[c].code) for c in near}
        for kind, codes in it.groups:
            word, _, grade = kind.partition(" ")
            good = passed if not grade else self.passed_with(student, grade)
            has_now = self.in_progress(student, course, without) if word == "pre*" else set()
            if word[:3] == "pre" and not (good | has_now) & set(map(self.key, codes)):
                params = {"min_grade": grade} if grade else {}
                refuse("prerequisite_missing", any_of=codes, **params, **({"in_progress": True} if "*" in word else {}))
        seated = {c for c in near if c in also or self.states[student, c].status == "enrolled"}
        serving = passed | {self.key(self.courses[c].code) for c in seated} if promotes else has
        for kind, codes in it.groups:
            if kind == "co" and not serving & set(map(self.key, codes)):
                refuse("corequisite_missing", any_of=codes)
        own = [code for kind, codes in it.groups if kind == "anti" for code in codes if self.key(code) in has]
        graduate = [c for c in self.of(student, {"completed"}) if self.states[student, c].passed and c != course]
        naming = [
            self.courses[c].code
            for c in sorted({*near, *graduate})
            if any(
                kind == "anti" and self.key(it.code) in map(self.key, codes) for kind, codes in self.courses[c].groups
            )
        ]
        for code in {self.key(code): code for code in reversed([*own, *naming])}.values():
            refuse("antirequisite", course_code=code)
        mine = self.of(student, SEATED, {*without, course})
        for other in self.duplicates(student, course, [*mine, *(c for c in others if c != course)]):
            refuse("duplicate_course", with_course_id=other)
        if seat == "seat":
            for other in [*mine, *(c for c in others if c != course)]:
                if self.clash(course, other):
                    refuse("time_conflict", with_course_id=other)
            for within, limit in self.limits_of(student, it.term):
                counted = mine if together else [*mine, *(c for c in others if c != course)]
                now = {*others, course} if together else {course}
                left = [c for c in self.of(student, SEATED) if c in without and c != course]
                held, added, freed = [self.credits(some, within) for some in (counted, now, left)]
                if held + added > Decimal(str(limit)) and added > freed and it.credits:
                    refuse("credit_limit", term_id=within, held=float(held), asked=float(added), limit=limit)
        kept = self.kept(student, course)
        if kept and (seat == "seat" or (seat == "none" and (on_full == "fail" or it.waitlist_capacity == 0))):
            for group in kept:
                refuse("seats_reserved", group=group, reserved=dict(it.reserved)[group])
        elif seat == "none" and (on_full == "fail" or it.waitlist_capacity == 0):
            refuse("course_full", capacity=it.capacity, seats_taken=self.seated_in(course))
        elif seat == "none":
            refuse("waitlist_full", waitlist_capacity=it.waitlist_capacity)
        return found

    def offer(self, student: int, course: int, on_full: str) -> str:
        it = self.courses.get(course)
        if it is None:
            return "none"
        rule = "seats_reserved" if self.free(course) else "course_full"
        if (self.free(course) and not self.kept(student, course)) or self.lifted(student, course, rule):
            return "seat"
        room = it.waitlist_capacity is None or len(self.waitlist(course)) < it.waitlist_capacity
        if (
            on_full == "waitlist"
            and it.waitlist_capacity != 0
            and (room or self.lifted(student, course, "waitlist_full"))
        ):
            return "waitlist"
        return "none"

    # Changes.

    def put(self, student: int, course: int, status: str, **fields: Any) -> None:
        self.clock += 1
        self.states[student, course] = State(status, self.clock, **fields)

    def use(self, student: int, course: int, codes: Iterable[str]) -> None:
        for code in set(codes):
            if self.lifted(student, course, code):
                self.overrides.remove((student, course, code))

    def drop_reasons(
        self, student: int, course: int, leaving: Iterable[int] = (), requested: Iterable[int] = ()
    ) -> list[Refusal]:
        """Return every reason against a drop, by a step that drops ``leaving`` and gives the courses ``requested``."""
        state = self.states[student, course]
        if state.status == "waitlisted":
            return []
        if state.status == "completed":
            return [(course, "already_completed", ())]
        term = self.courses[course].term
        found: list[Refusal] = [
            (course, "hold", (("reason", "fees"),)) for who, what in self.holds if who == student and what == "drop"
        ]
        if term is not None and self.terms[term].drop_closed:
            found.append((course, "drop_closed", ()))
        for other in self.needing(student, course, {*leaving, course}, requested):
            found.append((course, "corequisite_needed", (("with_course_id", other),)))
        return found

    def needing(self, student: int, course: int, leaving: set[int], requested: Iterable[int]) -> list[int]:
        """Return the courses with a seat that lose their only corequisite with a course, if the student drops several."""
        it, found = self.courses[course], []
        passed = {
            self.key(self.courses[c].code) for c in self.of(student, {"completed"}) if self.states[student, c].passed
        }
        kept = {*self.of(student, {"enrolled", "waitlisted"}, leaving), *(c for c in requested if c in self.courses)}
        for other in self.of(student, {"enrolled"}, leaving):
            term = self.courses[other].term
            near = [self.courses[c] for c in kept if c != other and self.overlap(term, self.courses[c].term)]
            has = passed | {self.key(each.code) for each in near}
            wanted = [{*map(self.key, codes)} for kind, codes in self.courses[other].groups if kind == "co"]
            if self.overlap(term, it.term) and any(self.key(it.code) in keys and not keys & has for keys in wanted):
                found.append(other)
        return found

    def unlifted(self, student: int, reasons: list[Refusal]) -> list[Refusal]:
        return [reason for reason in reasons if not self.lifted(student, reason[0], reason[1])]

    def leave(self, student: int, course: int, leaving: Iterable[int] = (), requested: Iterable[int] = ()) -> str:
        state = self.states[student, course]
        self.use(student, course, [code for _, code, _ in self.drop_reasons(student, course, leaving, requested)])
        term = self.courses[course].term
        late = state.status == "enrolled" and term is not None and self.terms[term].drop_late
        state.status = "withdrawn" if late else "dropped"
        state.drops = []
        self.lapse(student, course)
        return state.status

    def lapse(self, student: int, course: int) -> None:
        """Remove a course that the student left or completed from the student's swaps."""
        for (s, _), state in self.states.items():
            if s == student and course in state.drops:
                state.drops.remove(course)

    def seat(self, student: int, course: int, reasons: list[Refusal]) -> None:
        codes = {code for _, code, _ in reasons}
        if not self.free(course):
            codes.add("course_full")
        self.use(student, course, codes)
        mine = [group for group in self.unfilled(course) if group in self.members.get(student, frozenset())]
        self.put(student, course, "enrolled", group=mine[0] if mine else None)
        self.leave_siblings(student, course)

    def leave_siblings(self, student: int, course: int) -> None:
        """Drop the waitlist places for other offerings of a course, except by an override or for a swap of it."""
        for c in self.of(student, {"waitlisted"}):
            kept = course in self.states[student, c].drops or self.lifted(student, c, "duplicate_course")
            if not kept and self.duplicates(student, c, [course]):
                self.leave(student, c)

    def enroll(self, student: int, requested: list[int], mode: str, on_full: str) -> list[tuple[int, str, Any]]:
        requested = list(dict.fromkeys(requested))
        self.promote()
        return (self._atomic if mode == "atomic" else self._partial)(student, requested, on_full)

    def active_status(self, student: int, course: int) -> str | None:
        state = self.states.get((student, course))
        return state.status if state is not None and state.status in {"enrolled", "waitlisted"} else None

    def _atomic(
        self, student: int, requested: list[int], on_full: str, without: list[int] | None = None
    ) -> list[tuple[int, str, Any]]:
        without = without or []
        new = [c for c in requested if not self.active_status(student, c)]
        seats = {c: self.offer(student, c, on_full) for c in new}
        seated = [c for c in new if seats[c] == "seat"]
        reasons = {c: self.reasons(student, c, seats[c], on_full, seated, new, without, True) for c in new}
        self.refused = [reason for c in new for reason in self.unlifted(student, reasons[c])]
        if without == [] and self.refused:
            raise Refused(self.refused)
        self.planned = (seats, reasons)
        return [] if without else self._dropped(student, [self._give(student, c, seats, reasons) for c in requested])

    def _dropped(self, student: int, results: list[tuple[int, str, Any]]) -> list[tuple[int, str, Any]]:
        """Return results in which the places that a seat of the request has dropped are dropped."""
        return [
            (c, "dropped", None)
            if outcome == "unchanged" and self.active_status(student, c) is None
            else (c, outcome, more)
            for c, outcome, more in results
        ]

    def _give(
        self, student: int, c: int, seats: dict[int, str], reasons: dict[int, list[Refusal]], drops: Iterable[int] = ()
    ) -> tuple[int, str, Any]:
        if c not in seats:
            return c, "unchanged", (self.active_status(student, c), self.position(student, c))
        if seats[c] == "seat":
            self.seat(student, c, reasons[c])
            return c, "enrolled", None
        self.put(student, c, "waitlisted", drops=list(drops))
        return c, "waitlisted", len(self.waitlist(c))

    def _partial(self, student: int, requested: list[int], on_full: str) -> list[tuple[int, str, Any]]:
        new = [c for c in requested if not self.active_status(student, c)]
        granted: list[int] = []
        seats: dict[int, str] = {}
        reasons: dict[int, list[Refusal]] = {}
        refused: dict[int, list[Refusal]] = {}
        for c in new:
            seats[c] = self.offer(student, c, on_full)
            taken = [g for g in granted if seats[g] == "seat"]
            reasons[c] = self.reasons(student, c, seats[c], on_full, taken, new, [], False)
            refused[c] = self.unlifted(student, reasons[c])
            if not refused[c]:
                granted.append(c)
        taken = [g for g in granted if seats[g] == "seat"]
        for c in [g for g in granted if seats[g] == "waitlist"]:
            again = self.reasons(student, c, "waitlist", on_full, taken, new, [], False)
            siblings = self.unlifted(student, [reason for reason in again if reason[1] == "duplicate_course"])
            if siblings:
                refused[c] = siblings
                granted.remove(c)
        moved = True
        while moved:
            moved = False
            for c in granted:
                again = self.reasons(student, c, "waitlist", on_full, [], granted, [], False)
                lost = [reason for reason in again if reason[1] == "corequisite_missing"]
                if self.unlifted(student, lost):
                    refused[c] = lost
                    granted.remove(c)
                    moved = True
                    break
                reasons[c] = reasons[c] + lost
        results: list[tuple[int, str, Any]] = []
        for c in requested:
            if c in refused and c not in granted:
                results.append((c, "refused", sorted(refused[c], key=repr)))
            else:
                results.append(self._give(student, c, seats, reasons))
        results = self._dropped(student, results)
        self.promote()
        return results

    def drop(self, student: int, course: int) -> str:
        state = self.states.get((student, course))
        if state is None:
            raise Refused([(course, "enrollment_not_found", ())])
        if state.status in {"dropped", "withdrawn"}:
            return "unchanged"
        reasons = self.unlifted(student, self.drop_reasons(student, course))
        if reasons:
            raise Refused(reasons)
        outcome = self.leave(student, course)
        self.promote()
        return outcome

    def swap(self, student: int, drop: list[int], add: list[int], on_full: str) -> list[tuple[int, str, Any]]:
        self.promote()
        unknown: list[Refusal] = [(c, "not_enrolled", ()) for c in drop if (student, c) not in self.states]
        to_drop = [
            c
            for c in drop
            if (student, c) in self.states and self.states[student, c].status not in {"dropped", "withdrawn"}
        ]
        self._atomic(student, add, on_full, without=to_drop or [-1])
        given = [*self.planned[0]]
        reasons = [
            *unknown,
            *(r for c in to_drop for r in self.unlifted(student, self.drop_reasons(student, c, to_drop, given))),
        ]
        if reasons or self.refused:
            raise Refused([*reasons, *self.refused])
        seats, why = self.planned
        waits = any(
            (seats[c] == "waitlist") if c in seats else self.active_status(student, c) == "waitlisted" for c in add
        )
        results: list[tuple[int, str, Any]] = []
        # If a seat was given, it was judged as if the courses were already dropped, so they are dropped.
        if waits and to_drop and "seat" not in seats.values():
            beside: list[Refusal] = [
                (c, "duplicate_course", (("with_course_id", other),))
                for c in add
                if self.active_status(student, c) == "waitlisted"
                for other in self.duplicates(student, c, self.of(student, SEATED, {*to_drop, c}))
            ]
            if self.unlifted(student, beside):
                raise Refused(self.unlifted(student, beside))
            for c in drop:
                results.append(
                    (c, "kept", None) if c in to_drop else (c, "unchanged", (self.states[student, c].status, None))
                )
            for c in add:
                if c not in seats and self.active_status(student, c) == "waitlisted":
                    self.states[student, c].drops = list(to_drop)
                results.append(self._give(student, c, seats, why, to_drop))
        else:
            for c in drop:
                results.append(
                    (c, self.leave(student, c, to_drop, given), None)
                    if c in to_drop
                    else (c, "unchanged", (self.states[student, c].status, None))
                )
            results += self._dropped(student, [self._give(student, c, seats, why) for c in add])
        self.promote()
        return results

    def complete(self, student: int, course: int, passed: bool | None, grade: str | None = None) -> str:
        state = self.states.get((student, course))
        if state is None or state.status not in SEATED:
            raise Refused([(course, "not_enrolled", ())])
        if state.status == "completed" and (state.passed, state.grade) == (passed, grade):
            return "unchanged"
        passes = dict(self.scale)
        if grade is not None and self.scale:
            if grade not in passes:
                raise Refused([(course, "unknown_grade", ())])
            if passed not in {None, passes[grade]}:
                raise Refused([(course, "invalid_result", ())])
            passed = passes[grade]
        if passed is None:
            raise Refused([(course, "invalid_result", ())])
        if state.status == "completed" and (state.passed, state.grade) == (passed, grade):
            return "unchanged"
        state.status, state.passed, state.grade = "completed", passed, grade
        self.lapse(student, course)
        self.leave_siblings(student, course)
        self.promote()
        return "completed"

    def annul(self, student: int, course: int) -> str:
        """Drop a course whatever the deadlines and holds; a withdrawal becomes a drop."""
        state = self.states.get((student, course))
        if state is None:
            raise Refused([(course, "enrollment_not_found", ())])
        if state.status == "completed":
            raise Refused([(course, "already_completed", ())])
        if state.status == "dropped":
            return "unchanged"
        state.status, state.drops = "dropped", []
        self.lapse(student, course)
        self.promote()
        return "dropped"

    def remove_completion(self, student: int, course: int) -> str:
        state = self.states.get((student, course))
        if state is None:
            raise Refused([(course, "enrollment_not_found", ())])
        if state.status == "enrolled":
            return "unchanged"
        if state.status != "completed":
            raise Refused([(course, "not_completed", ())])
        if self.courses[course].cancelled:
            raise Refused([(course, "course_cancelled", ())])
        state.status, state.passed = "enrolled", None
        self.leave_siblings(student, course)
        self.promote()
        return "enrolled"

    def merge(self, student: int, duplicate: int) -> int:
        """Give everything that a duplicate has to a student; the stronger of two states in a course stands."""
        if student not in self.limits:
            return 404
        if student == duplicate:
            return 422
        if duplicate not in self.limits:
            return 409
        order = ["dropped", "withdrawn", "waitlisted", "enrolled", "completed"]

        def strength(state: State) -> tuple[int, bool, int]:
            earlier = -state.joined if state.status == "waitlisted" else 0
            return order.index(state.status), bool(state.passed), earlier

        doubtful = {c for s, c in {*self.met, *self.lost} if s in {student, duplicate}}
        for (s, c), state in list(self.states.items()):
            if s == duplicate:
                del self.states[s, c]
                self.lost.discard((s, c))
                own = self.states.get((student, c))
                if own is None or strength(state) > strength(own):
                    self.states[student, c] = state
        active = self.of(student, {"enrolled", "waitlisted"})
        for (s, _), state in self.states.items():
            if s == student:
                state.drops = [c for c in state.drops if c in active]
        self.holds = [(student if who == duplicate else who, what) for who, what in self.holds]
        self.overrides = [(student if who == duplicate else who, c, rule) for who, c, rule in self.overrides]
        del self.limits[duplicate]
        for c in self.of(student, SEATED):
            self.leave_siblings(student, c)
        for c in sorted(doubtful):
            if self.states[student, c].status == "enrolled":
                self.judge_seat(student, c)
            else:
                self.lost.discard((student, c))
        self.remember()
        self.promote()
        return 200

    def reopen(self, course: int) -> int:
        it = self.courses[course]
        taken = [
            other
            for id, other in self.courses.items()
            if id != course and not other.cancelled and (other.section, other.term) == (it.section, it.term)
        ]
        if it.cancelled and it.term is not None and fold(it.code) in [fold(other.code) for other in taken]:
            return 409
        it.cancelled = False
        self.promote()
        return 200

    def cancel(self, course: int) -> None:
        self.courses[course].cancelled = True
        for (s, c), state in self.states.items():
            if c == course and state.status in {"enrolled", "waitlisted"}:
                state.status, state.drops = "dropped", []
                self.lapse(s, course)
        self.promote()

    def edit(self, course: int, what: str, value: Any) -> int:
        """Set the code, the credits or the term of a course."""
        it = self.courses[course]
        code, term = (value if what == "code" else it.code), (value if what == "term" else it.term)
        section = value if what == "section" else it.section
        if not it.cancelled and any(
            (fold(other.code), other.section, other.term) == (fold(code), section, term) and not other.cancelled
            for id, other in self.courses.items()
            if id != course and term is not None
        ):
            return 409
        if any(fold(code) in map(fold, codes) for _, codes in it.groups):
            return 422
        if term != it.term and not self.can_meet(it.meetings, term):
            return 422
        setattr(it, what, value)
        self.promote()
        return 200

    def teach(self, course: int, instructors: list[int]) -> int:
        """Set the instructors of a course, of whom the first is the primary one."""
        if not {*instructors} <= {*self.instructors}:
            return 422
        self.teachers[course] = instructors[:1] + sorted(instructors[1:])
        self.taught |= {*instructors}
        return 200

    def dismiss(self, instructor: int) -> int:
        """Delete an instructor."""
        if instructor not in self.instructors:
            return 404
        if instructor in self.taught:
            return 409
        self.instructors.remove(instructor)
        return 204

    def promote(self) -> None:
        """Seat the first eligible student of the course with the smallest id, as long as there is one."""
        self.after_change()
        courses = sorted(self.courses)
        while any(map(self._promote_in, courses)) or any(map(self._promote_together, courses)):
            self.after_change()

    def keep(self, student: int, course: int) -> str:
        state = self.states.get((student, course))
        if state is None:
            raise Refused([(course, "not_enrolled", ())])
        if state.status != "waitlisted" or not state.drops:
            return "unchanged"
        state.drops = []
        beside = self.duplicates(student, course, self.of(student, SEATED, {course}))
        if beside and not self.lifted(student, course, "duplicate_course"):
            self.leave(student, course)
            self.promote()
            return "dropped"
        self.promote()
        return "kept"

    def equate(self, codes: list[str]) -> int:
        """Create a set of equivalent codes."""
        keys = frozenset(map(fold, codes))
        if any(keys & each for each in self.sets):
            return 409
        self.sets.append(keys)
        self.promote()
        return 201

    def part(self, codes: frozenset[str]) -> int:
        """Delete a set of equivalent codes."""
        self.sets.remove(codes)
        self.promote()
        return 204

    def pending_drops(self, student: int, course: int) -> list[int]:
        """Return the courses that a swap drops when the student gets the seat."""
        return list(self.states[student, course].drops)

    def judge_waitlisted(self, student: int, course: int) -> list[Refusal]:
        """Return every reason against a seat for a waitlisted student, including those that overrides lift."""
        return self.judge_together(student, course, [course])

    def judge_together(self, student: int, course: int, chosen: list[int]) -> list[Refusal]:
        """Return every reason against a seat, if the student gets seats in all chosen courses at once."""
        drops = self.pending_drops(student, course)
        requested = chosen if len(chosen) > 1 else []
        return self.reasons(student, course, "seat", "fail", chosen, requested, drops, True, promotes=True)

    def together(self, student: int, chosen: list[int]) -> list[int]:
        """Return chosen waitlist places and more, for all of which the student can get a seat at once, or nothing."""
        lacking: Refusal | None = None
        for c in chosen:
            drops = self.pending_drops(student, c)
            if not self.free(c) and not self.lifted(student, c, "course_full"):
                return []
            blocked = [r for d in drops for r in self.unlifted(student, self.drop_reasons(student, d, drops))]
            for reason in [*blocked, *self.unlifted(student, self.judge_together(student, c, chosen))]:
                if reason[1] != "corequisite_missing":
                    return []
                lacking = lacking or reason
        if lacking is None:
            return chosen
        course, _, params = lacking
        keys = {*map(self.key, dict(params)["any_of"])}
        for other in self.of(student, {"waitlisted"}, chosen):
            it = self.courses[other]
            serves = self.key(it.code) in keys and self.overlap(it.term, self.courses[course].term)
            if serves and (found := self.together(student, [*chosen, other])):
                return found
        return []

    def _promote_together(self, course: int) -> bool:
        """Give seats in several courses to the first student who is waitlisted for all of them and needs all of them."""
        for student in self.waitlist(course):
            chosen = self.together(student, [course])
            if not chosen:
                continue
            was = deepcopy((self.states, self.overrides, self.clock))
            if all(self._seat_next(student, chosen[number:]) for number in range(len(chosen))):
                return True
            self.states, self.overrides, self.clock = was
        return False

    def _seat_next(self, student: int, chosen: list[int]) -> bool:
        """Give a seat in the first of the chosen courses, unless the drops of another one's swap prevent it."""
        course = chosen[0]
        if self.states[student, course].status != "waitlisted":
            return False
        drops = self.pending_drops(student, course)
        blocked = [r for d in drops for r in self.unlifted(student, self.drop_reasons(student, d, drops))]
        reasons = self.judge_together(student, course, chosen)
        if blocked or self.unlifted(student, reasons):
            return False
        for d in drops:
            self.leave(student, d, drops)
        self.seat(student, course, reasons)
        return True

    def _promote_in(self, course: int) -> bool:
        if self.courses[course].cancelled:
            return False
        for student in self.waitlist(course):
            if not self.free(course) and not self.lifted(student, course, "course_full"):
                continue
            drops = self.pending_drops(student, course)
            blocked = [r for d in drops for r in self.unlifted(student, self.drop_reasons(student, d, drops))]
            reasons = self.judge_waitlisted(student, course)
            if blocked or self.unlifted(student, reasons):
                continue
            for d in drops:
                self.leave(student, d, drops)
            self.seat(student, course, reasons)
            return True
        return False
