"""The input and output of the rules: the application of one student for one course, and refusals.

The rules and the seats import only this module, which holds immutable values.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from sql.courses import Course as Course
from sql.courses import Definition as Definition
from sql.equivalences import Equivalence as Equivalence
from sql.grades import Grade as Grade
from sql.holds import Hold as Hold
from sql.requirements import RequirementKind
from sql.terms import Term as Term

OnFull: TypeAlias = Literal["fail", "waitlist"]

Seat: TypeAlias = Literal["seat", "waitlist", "none"]
"""What an applicant would get by the request."""

Mark: TypeAlias = Literal["enrolled", "waitlisted", "passed", "failed"]
"""A student's active or completed status in a course: a completed course is either passed or failed."""

COMPLETED = frozenset({"passed", "failed"})

Defined: TypeAlias = Course | Definition
"""A course, with or without its seats."""

HeldSeat: TypeAlias = tuple[Defined, Term | None]
"""A course in which a student has a seat, with its term."""


code_key: Final[Callable[[str], str]] = str.lower
"""Return the key by which codes are compared, which ignores case."""


@dataclass(frozen=True, slots=True)
class CodeSets:
    """The sets of equivalent codes, by id. A code is in at most one of them, without regard to case.

    ``key`` returns the key by which the rules compare a code: all codes of a set have the same one.
    """

    sets: Mapping[int, Equivalence]
    key: Callable[[str], str] = field(init=False, repr=False, compare=False)
    shared_keys: Set[str] = field(init=False, repr=False, compare=False)
    """The keys that several codes have."""
    _set_of: Mapping[str, Equivalence] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the sets by the keys of their codes."""
        set_of = {code_key(code): each for each in self.sets.values() for code in each.codes}
        common = {key: min(map(code_key, each.codes)) for key, each in set_of.items()}

        def key(code: str) -> str:
            own = code_key(code)
            return common.get(own, own)

        object.__setattr__(self, "_set_of", set_of)
        object.__setattr__(self, "key", key if common else code_key)
        object.__setattr__(self, "shared_keys", {*common.values()})

    def set_of(self, code: str) -> Equivalence | None:
        """Return the set with a code, or None."""
        return self._set_of.get(code_key(code))

    def equivalents(self, code: str) -> Sequence[str]:
        """Return the codes of the set with a code, or only that code."""
        found = self._set_of.get(code_key(code))
        return (code,) if found is None else found.codes

    def keys(self, codes: Iterable[str]) -> tuple[str, ...]:
        """Return the key of each code."""
        return tuple(map(self.key, codes))

    def own_keys(self, code: str) -> tuple[str, ...]:
        """Return the key that each code of the set with a code has by itself, or only that of the code."""
        own = code_key(code)
        found = self._set_of.get(own)
        return (own,) if found is None else tuple(map(code_key, found.codes))


NO_CODE_SETS = CodeSets({})


@dataclass(frozen=True, slots=True)
class GradeScale:
    """The grades of the institution, from the best on; without grades there is no scale. ``ranks`` count from 0."""

    grades: tuple[Grade, ...] = ()
    ranks: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Set the ranks."""
        object.__setattr__(self, "ranks", {each.grade: rank for rank, each in enumerate(self.grades)})

    def is_at_least(self, grade: str | None, min_grade: str) -> bool:
        """Return whether a grade is the other one or better; a grade that is not in the scale never is."""
        if grade is None or grade not in self.ranks or min_grade not in self.ranks:
            return False
        return self.ranks[grade] <= self.ranks[min_grade]


NO_SCALE = GradeScale()


@dataclass(frozen=True, slots=True)
class Group:
    """A group of course codes: any one of them satisfies it, or for ``anti`` violates it.

    ``keys`` are the keys of the codes, without those that are equivalent to them. A course of a ``pre`` group must be
    passed with ``min_grade`` or a better grade, if it has one. With ``in_progress``, a seat in such a course satisfies
    the group too, until the course is over.
    """

    kind: RequirementKind
    codes: tuple[str, ...]
    min_grade: str | None = None
    in_progress: bool = False
    keys: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Set the keys."""
        object.__setattr__(self, "keys", tuple(map(code_key, self.codes)))


class Reservation(NamedTuple):
    """Seats of a course that are kept for a group of students, until an instant or without an end."""

    group: str
    seats: int
    until: datetime | None

    def is_in_force(self, now: datetime) -> bool:
        """Return whether the seats are still kept."""
        return self.until is None or now < self.until


@lru_cache(maxsize=4096)
def reservations_in(text: str | None) -> tuple[Reservation, ...]:
    """Return the reservations of a course from the JSON that its row has."""
    return tuple(
        Reservation(each["group"], each["seats"], each["until"] and datetime.fromisoformat(each["until"]))
        for each in json.loads(text or "[]")
    )


class Partner(NamedTuple):
    """A course that may be the corequisite or the antirequisite of another one.

    If the student is enrolled in it, waitlisted for it or requests it, it counts if the terms overlap. If the student
    has passed it, it counts in any term. ``lapses_at`` is the instant at which the clock alone ends that.
    """

    course: Defined
    term: Term | None = None
    passed: bool = False
    waitlisted: bool = False
    lapses_at: datetime | None = None


Partners: TypeAlias = Mapping[str, Sequence[Partner]]
"""Courses by the keys of their codes, as ``CodeSets`` has them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason why a student can't enroll in a course or drop it: the code of a rule, and its parameters.

    ``lapses_at`` is the instant from which the clock alone lifts the refusal, or None if it never does. Parameters in
    ``private`` concern only the student, so events and rosters leave them out.
    """

    code: str
    course_id: int
    lapses_at: datetime | None
    public: Mapping[str, object] = field(default_factory=dict)
    private: Mapping[str, object] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, object]:
        """All parameters, as the student may see them."""
        return {**self.public, **self.private}


class History(Protocol):
    """The student's courses, holds and limits. Each part is looked up when a rule needs it."""

    @property
    def holds(self) -> Sequence[Hold]:
        """The holds that have not ended."""

    @property
    def max_credits(self) -> float | None:
        """The student's own credit limit in a term; None means that the term's limit applies."""

    @property
    def passed(self) -> frozenset[str]:
        """The keys of the codes of the courses that the student has passed, as ``CodeSets`` has them."""

    @property
    def partners(self) -> Partners:
        """The courses that the student is in, is waitlisted for or has passed."""

    @property
    def seats(self) -> Sequence[HeldSeat]:
        """The courses in which the student has a seat, by id."""

    @property
    def leaving(self) -> Sequence[HeldSeat]:
        """The courses in which the student has a seat that counts as dropped."""

    def grades(self, keys: Sequence[str]) -> Sequence[str | None]:
        """Return the grades with which the student has passed courses whose codes have one of these keys."""

    def has_completed(self, course_id: int) -> bool:
        """Return whether the student has completed a course."""

    def offerings(self, key: str) -> Sequence[HeldSeat]:
        """Return the courses whose codes have this key in which the student has a seat."""


NO_PARTNERS: Partners = MappingProxyType({})


class Application(NamedTuple):
    """The application of one student for one course, with the state of both when it is judged.

    ``ends_at`` is the instant at which the term is over, ``parent`` the whole term if the term is a part, ``seat`` what
    the student would get, ``on_full`` what the request wants if no seat is free. ``excluders`` are the ids of the
    courses that name this one as an antirequisite. ``requested`` are all courses of a request for more than one; among
    them are ``granted``, the seats that the request was granted before this one, and ``requested_seats``, the other
    seats that it would be granted together with this one. A promotion (``promotes``) counts no waitlist place as a
    corequisite. ``code_sets`` are the equivalent codes, ``scale`` is the grade scale, if a group requires a grade, and
    ``reserved`` are the reservations that keep the free seats from the student.
    """

    now: datetime
    course_id: int
    course: Course | None
    history: History
    term: Term | None = None
    ends_at: datetime | None = None
    seat: Seat = "none"
    on_full: OnFull = "fail"
    groups: tuple[Group, ...] = ()
    excluders: Set[int] = frozenset()
    requested: Partners = NO_PARTNERS
    granted: tuple[HeldSeat, ...] = ()
    requested_seats: tuple[HeldSeat, ...] = ()
    parent: Term | None = None
    code_sets: CodeSets = NO_CODE_SETS
    scale: GradeScale = NO_SCALE
    reserved: tuple[Reservation, ...] = ()
    promotes: bool = False

    @property
    def held_seats(self) -> list[HeldSeat]:
        """The seats that the student has in other courses, those granted by this request included."""
        # A completed course keeps its seat, which must not conflict with the course itself.
        return [held for held in (*self.history.seats, *self.granted) if held[0].id != self.course_id]

    def keys(self, group: Group) -> tuple[str, ...]:
        """Return the keys of the codes of a group, by which equivalent codes are equal."""
        return self.code_sets.keys(group.codes) if self.code_sets.sets else group.keys
