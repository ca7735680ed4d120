"""What the rules may know: one student who applies for one course, and the refusals that they answer with.

The rules and the seats import this module alone; it holds plain immutable values.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, TypeAlias

from sql.courses import Course as Course
from sql.courses import Definition as Definition
from sql.holds import Hold as Hold
from sql.requirements import RequirementKind
from sql.terms import Term as Term

OnFull: TypeAlias = Literal["fail", "waitlist"]

Seat: TypeAlias = Literal["seat", "waitlist", "none"]
"""What an applicant would get."""

Mark: TypeAlias = Literal["enrolled", "waitlisted", "passed", "failed"]
"""A student's active or completed status in a course: a completed course is either passed or failed."""

COMPLETED = frozenset({"passed", "failed"})

Defined: TypeAlias = Course | Definition
"""What a course is, whatever its seats."""

HeldSeat: TypeAlias = tuple[Defined, Term | None]
"""A course in which a student has a seat, with its term."""


def code_key(code: str) -> str:
    """Return what codes are compared by: the case of their letters makes no difference."""
    return code.lower()


@dataclass(frozen=True, slots=True)
class Group:
    """A group of course codes: any one of them satisfies it, or for ``anti`` violates it.

    ``keys`` are what the codes are compared by.
    """

    kind: RequirementKind
    codes: tuple[str, ...]
    keys: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Set the keys."""
        object.__setattr__(self, "keys", tuple(map(code_key, self.codes)))


class Partner(NamedTuple):
    """A course that may be the corequisite or the antirequisite of another one.

    A student is in it, is waitlisted for it or requests it, and then it counts where the terms overlap; or has passed it,
    and then it counts whatever its term is. ``lapses_at`` is the instant at which the clock alone takes it away.
    """

    course: Defined
    term: Term | None = None
    passed: bool = False
    lapses_at: datetime | None = None


Partners: TypeAlias = Mapping[str, Sequence[Partner]]
"""Courses by the keys of their codes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a student does not get a course, or can't leave it: the code of a rule, and its parameters.

    ``lapses_at`` is the instant from which the clock alone lifts the refusal; None where it never does. Parameters in
    ``private`` concern the student alone: events and rosters leave them out.
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
    """What a student has besides the application. Each part is looked up when a rule asks for it."""

    @property
    def holds(self) -> Sequence[Hold]:
        """The holds that have not ended."""

    @property
    def max_credits(self) -> float | None:
        """The student's own credit limit in a term; None leaves it to the term."""

    @property
    def passed(self) -> frozenset[str]:
        """The keys of the codes of the courses that the student has passed."""

    @property
    def partners(self) -> Partners:
        """The courses that the student is in, is waitlisted for or has passed."""

    @property
    def seats(self) -> Sequence[HeldSeat]:
        """The courses in which the student has a seat, by id."""

    @property
    def leaving(self) -> Sequence[HeldSeat]:
        """The courses in which the student has a seat that counts as left."""

    def has_completed(self, course_id: int) -> bool:
        """Return whether the student has completed a course."""


NO_PARTNERS: Partners = MappingProxyType({})


class Application(NamedTuple):
    """One student who applies for one course, as things are when the application's turn comes.

    ``ends_at`` is the instant at which the term is over, ``seat`` what the student would get, ``on_full`` what was asked
    for where no seat is free. ``excluders`` are the ids of the courses that name this one as an antirequisite.
    ``requested`` are all courses of the request, ``granted`` the seats that it has been given before this one, and
    ``requested_seats`` those that it would be given with this one.
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

    @property
    def held_seats(self) -> list[HeldSeat]:
        """The seats that the student has in other courses, those granted by this request included."""
        # A completed course keeps its seat, which is not in the way of the course itself.
        return [held for held in (*self.history.seats, *self.granted) if held[0].id != self.course_id]
