"""What may be asked of the registrar and what it answers: plain immutable values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from sql.courses import Course
from sql.enrollments import Enrollment, Status
from sql.students import Student

Mode = Literal["atomic", "partial"]

Answer = TypeVar("Answer")
Thing = TypeVar("Thing", Student, Course)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, as the events will tell."""

    request_id: str
    actor: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[Answer]):
    """One request to change something; the registrar answers it with an ``Answer`` or a ``DomainError``."""

    origin: Origin


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

    thing: type[Student | Course]
    id: int
    if_match: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a student does not get a course: the code of a rule and the parameters it tells."""

    code: str
    course_id: int
    params: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one course of an ``Enroll``.

    ``status`` is the standing status after the change; ``course`` is missing where there is no such course.
    """

    course_id: int
    outcome: Literal["enrolled", "unchanged", "refused"]
    course: Course | None
    status: Status | None = None
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Enroll(Change[tuple[Result, ...]]):
    """Give a student seats in courses, in the order asked; answered with a result for each distinct one."""

    student_id: int
    course_ids: tuple[int, ...]
    mode: Mode = "atomic"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What became of a ``Drop``: the row as it is now."""

    outcome: Literal["dropped", "unchanged"]
    enrollment: Enrollment
    course: Course


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Change[Dropped]):
    """Take a student out of a course."""

    student_id: int
    course_id: int


@dataclass(frozen=True, slots=True)
class Application:
    """All that the rules may know of one student asking for one course.

    ``seated`` tells whether a seat was free for the student when its turn came.
    """

    course_id: int
    course: Course | None
    seated: bool
