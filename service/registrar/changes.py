"""The base class of changes, and the answers that several changes return.

A change is a frozen dataclass in the module of its resource: it names the rows that it needs, and decides. To add a
change, write such a class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from service.registrar.application import Course, Refusal
from service.registrar.needs import Needs
from sql.enrollments import Enrollment, Status
from sql.refusals import Action

if TYPE_CHECKING:
    from service.registrar.ledger import Ledger

Answer_co = TypeVar("Answer_co", covariant=True)

Outcome: TypeAlias = object
"""The answer of a change, or the exception that it raises instead."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a change comes from, as its events record it."""

    request_id: str
    actor: str | None = None
    """The authenticated caller; None if nobody is authenticated."""

    reason: str | None = None
    disconnected: Callable[[], bool] | None = field(default=None, compare=False)
    """Returns whether the caller has disconnected; a change that has not begun is then not made."""

    on_behalf_of: str | None = None
    """For whom the actor makes the change, as the actor says."""

    def of_promotions(self) -> "Origin":
        """Return the origin of the promotions that follow the change.

        The events of other students carry no text that may be about the student of the change: such a text could not
        be found again when that student is erased.
        """
        return self if self.reason is self.on_behalf_of is None else replace(self, reason=None, on_behalf_of=None)


class RefusedCourse(NamedTuple):
    """One course of a refused request; ``reasons`` are codes with parameters, none if only other courses had reasons."""

    student_id: int
    course_id: int
    action: Action
    reasons: Sequence[tuple[str, Mapping[str, object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(ABC, Generic[Answer_co]):
    """One request to change something."""

    origin: Origin

    @property
    def pairs(self) -> int:
        """The number of (student, course) pairs that the change names, which bounds the size of a batch."""
        return 1

    def add_needs(self, needs: Needs) -> None:
        """Add the rows that the decision is sure to need, so that a batch loads them at once."""

    @abstractmethod
    def decide(self, ledger: "Ledger") -> Answer_co:
        """Make the change in memory and return its answer.

        Raises:
            DomainError: the change is refused; the ledger is rolled back.
            NotLoaded: the decision needs rows that are not in memory; it is made again once they are.
        """

    def refused(self, outcome: Outcome) -> Sequence[RefusedCourse]:
        """Return the courses that an outcome of this change refuses: those of a refused enroll, swap or drop."""
        return ()


class Result(NamedTuple):
    """The outcome for one course.

    ``status`` is the student's status after the change, ``position`` the waitlist position counted from 1; ``course``
    is None if the course does not exist.
    """

    course_id: int
    outcome: Literal["enrolled", "waitlisted", "unchanged", "refused", "dropped", "withdrawn", "kept"]
    course: Course | None
    status: Status | None = None
    position: int | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """The outcome for one student in one course: the row after the change.

    ``position`` is that of a waitlisted student; ``swap_adds`` are the courses for which this one will be dropped.
    """

    outcome: Literal["enrolled", "dropped", "withdrawn", "completed", "kept", "unchanged"]
    enrollment: Enrollment
    course: Course
    position: int | None = None
    swap_adds: tuple[int, ...] = ()
