"""What may be asked of the registrar and what it answers: plain immutable values.

The rules and the seats know nothing but this module, which hands the rows that they judge on to them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

from sql.courses import Course as Course
from sql.courses import Definition as Definition
from sql.enrollments import Enrollment, Status
from sql.holds import Hold as Hold
from sql.overrides import Override
from sql.requirements import RequirementKind
from sql.students import Student
from sql.terms import Term as Term

Mode: TypeAlias = Literal["atomic", "partial"]
OnFull: TypeAlias = Literal["fail", "waitlist"]

Mark: TypeAlias = Literal["enrolled", "waitlisted", "passed", "failed"]
"""What a student has of a course: a completed one is either passed or failed."""

Defined: TypeAlias = Course | Definition
"""What a course is, whatever its seats."""

Answer = TypeVar("Answer")
Thing = TypeVar("Thing", Student, Course, Term)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, as the events will tell."""

    request_id: str
    actor: str | None = None
    reason: str | None = None
    gone: Callable[[], bool] | None = field(default=None, compare=False)
    """Tells whether the caller has left, so that a change that was not begun is not made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[Answer]):
    """One request to change something; the registrar answers it with an ``Answer`` or a ``DomainError``."""

    origin: Origin

    @property
    def pairs(self) -> int:
        """How many pairs of student and course it names, by which the size of a batch is bounded."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Change[Thing]):
    """Make a new thing of these values of its writable fields."""

    thing: type[Thing]
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(Change[Thing]):
    """Set some writable fields of a thing. ``if_match`` holds the versions it may be in, ``*`` any."""

    thing: type[Thing]
    id: int
    values: Mapping[str, object]
    if_match: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Replaced(Generic[Thing]):
    """The thing as a ``Replace`` left it."""

    thing: Thing
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace(Change[Replaced[Thing]]):
    """Set every writable field of the thing with this external id, or make it.

    ``if_match`` holds the versions it must be in, ``if_none_match`` those it must not be in, ``*`` any.
    """

    thing: type[Thing]
    external_id: str
    values: Mapping[str, object]
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Change[None]):
    """Delete a thing that was never part of an enrollment."""

    thing: type[Student | Course | Term]
    id: int
    if_match: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group of course codes: any one of them satisfies it, or for ``anti`` offends it."""

    kind: RequirementKind
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Require(Change[tuple[Group, ...]]):
    """Set all requirements of a course; answered with them as they are now."""

    course_id: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold(Change[Hold]):
    """Place a hold on a student."""

    student_id: int
    reason: str
    blocks_enroll: bool
    blocks_drop: bool
    starts_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndHold(Change[Hold]):
    """End a hold now; one that has ended stays as it is."""

    student_id: int
    hold_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantOverride(Change[Override]):
    """Lift one rule for one student and one course, once."""

    student_id: int
    course_id: int
    rule: str
    author: str
    reason: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOverride(Change[Override]):
    """End an override now; one that is used or has expired stays as it is."""

    student_id: int
    override_id: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a student does not get a course, or keeps it: the code of a rule and the parameters it tells."""

    code: str
    course_id: int
    params: Mapping[str, object] = field(default_factory=dict)


class Result(NamedTuple):
    """What became of one course.

    ``status`` is the standing status after the change, ``position`` the place in line counted from 1; ``course`` is
    missing where there is no such course.
    """

    course_id: int
    outcome: Literal["enrolled", "waitlisted", "unchanged", "refused", "dropped", "withdrawn", "kept"]
    course: Course | None
    status: Status | None = None
    position: int | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Enroll(Change[tuple[Result, ...]]):
    """Give a student seats in courses, or places in line, in the order asked; a result for each distinct one."""

    student_id: int
    course_ids: tuple[int, ...]
    mode: Mode = "atomic"
    on_full: OnFull = "fail"

    @property
    def pairs(self) -> int:
        """One for each course."""
        return len(self.course_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap(Change[tuple[Result, ...]]):
    """Drop courses and enroll in others, all or nothing; a result for each distinct drop, then for each add."""

    student_id: int
    drop: tuple[int, ...]
    add: tuple[int, ...]
    on_full: OnFull = "fail"

    @property
    def pairs(self) -> int:
        """One for each course."""
        return len(self.drop) + len(self.add)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a student in a course: the row as it is now."""

    outcome: Literal["dropped", "withdrawn", "completed", "unchanged"]
    enrollment: Enrollment
    course: Course


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Change[Moved]):
    """Take a student out of a course, or out of its line."""

    student_id: int
    course_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Change[Moved]):
    """Say that a student has completed a course, or correct what was said."""

    student_id: int
    course_id: int
    passed: bool
    grade: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Change[Course]):
    """Cancel a course for good: everyone in it or waiting for it is dropped."""

    course_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Change[int]):
    """Promote whom the clock alone has made eligible; answered with how many."""

    course_ids: tuple[int, ...]


Seat: TypeAlias = Literal["seat", "line", "none"]


class Application(NamedTuple):
    """All that the rules may know of one student asking for one course, as it stood when its turn came.

    ``seat`` is what the student would get, ``on_full`` what was asked for otherwise. What a student has is gathered as
    far as the rules of this course ask for it: codes where it has ``groups``, seats where it meets or where credits are
    limited. ``has`` are the codes of the
    student's other courses, those waited for and those passed too; ``asked`` the codes of the other courses of this
    request. ``seated`` are the other courses with a seat of the student's, each with its term. Credits are those in
    the course's term: ``held`` before this request, ``asked_credits`` those of it.
    """

    now: datetime
    course_id: int
    course: Course | None
    term: Term | None = None
    completed: bool = False
    seat: Seat = "none"
    on_full: OnFull = "fail"
    holds: tuple[Hold, ...] = ()
    groups: tuple[Group, ...] = ()
    passed: frozenset[str] = frozenset()
    has: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    seated: tuple[tuple[Defined, Term | None], ...] = ()
    held: float = 0.0
    asked_credits: float = 0.0
    limit: float | None = None
