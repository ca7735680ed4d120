"""The bodies, queries and answers of the calls about enrollments."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, NotRequired, Self, TypeAlias, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
    with_config,
)
from typing_extensions import TypeAliasType, TypedDict

from service.api.answers import CourseId, Id, StudentId, TermId
from service.api.fields import Credits, Grade, IdInBody, IdInQuery, Input, Instant, ReasonQuery, Truth
from service.registrar.application import OnFull
from service.registrar.enrollments import Mode
from service.registrar.rules import SENTENCES, number
from service.web.paging import Digits, Paging
from service.web.schema import named
from service.web.validation import wrong
from sql.enrollments import Status

ACTIVE: Final[tuple[Status, ...]] = ("enrolled", "waitlisted")
CourseIds = Annotated[list[IdInBody], Field(min_length=1, max_length=100, description="Duplicate ids are ignored.")]
AddedIds = Annotated[
    list[IdInBody],
    Field(max_length=100, description="Duplicate ids are ignored. An empty list only drops courses, all or none."),
]
ModeField = Annotated[
    Mode,
    named("Mode", "`atomic`: all courses or none. `partial`: every course that is not refused, in request order."),
]
OnFullField = Annotated[
    OnFull,
    named(
        "OnFull",
        "What to do if the course is full. `fail`: refuse the course. `waitlist`: add the student to its waitlist.",
    ),
]


NamedStatus: TypeAlias = Annotated[
    Status,
    named(
        "Status",
        "The status of a student in a course. `enrolled` and `completed` students have a seat. `dropped` students "
        "have left the course before the term's `drop_until`, `withdrawn` students after it.",
    ),
]


ALL_STATUSES: Final[tuple[Status, ...]] = get_args(Status)
STATUSES_PATTERN: Final = f"({'|'.join(ALL_STATUSES)})(,({'|'.join(ALL_STATUSES)})){{0,{len(ALL_STATUSES) - 1}}}"


def _statuses(text: object) -> tuple[Status, ...]:
    """Split statuses at their commas, and put them in one order."""
    if not isinstance(text, str) or not re.fullmatch(STATUSES_PATTERN, text):
        raise wrong("not_statuses", f"{{field}} must be one or more of {', '.join(ALL_STATUSES)}, separated by commas.")
    return tuple(status for status in ALL_STATUSES if status in text.split(","))


StatusesInQuery = Annotated[
    tuple[Status, ...],
    PlainValidator(_statuses),
    WithJsonSchema({"type": "string", "pattern": f"^{STATUSES_PATTERN}$"}),
]


class EnrollmentRequest(Input):
    """The courses in which to enroll a student."""

    course_ids: CourseIds
    mode: ModeField = "atomic"
    on_full: OnFullField = "fail"


class SwapRequest(Input):
    """The courses to drop and the courses to add. With `on_full: waitlist`, `add` must contain at most one course."""

    drop: CourseIds
    add: AddedIds
    on_full: OnFullField = "fail"

    @model_validator(mode="after")
    def check_courses(self) -> Self:
        """Refuse a course in both lists, and a waitlisted swap with several courses to add."""
        check_swap(self.drop, self.add, self.on_full)
        return self


def check_swap(drop: Iterable[int | str], add: Iterable[int | str], on_full: OnFull) -> None:
    """Refuse a course in both lists of a swap, and a waitlisted swap with several courses to add."""
    if set(drop) & set(add):
        raise wrong("swap_with_itself", "drop and add must not contain the same course.")
    if on_full == "waitlist" and len(set(add)) > 1:
        raise wrong("too_many_adds", "add must contain at most one id if on_full is waitlist.")


class CompletionRequest(Input):
    """The result of a completed course."""

    passed: Annotated[
        bool | None,
        Field(
            description="Whether the student passed the course; only a passed course satisfies prerequisites. It may be "
            "left out if the grade is in the grade scale, and must agree with it."
        ),
    ] = None
    grade: Annotated[
        Grade | None, Field(description="The grade: one of the grade scale if there is one, otherwise free-form.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseInfo:
    """The main fields of the course of an enrollment."""

    id: Id
    external_id: Annotated[str | None, Field(description="The caller's own key; null if the course has none.")]
    code: Annotated[str, Field(description="The catalogue code.")]
    title: Annotated[str, Field(description="The title.")]
    credits: Credits
    term_id: Annotated[
        TermId | None, Field(description="The id of the course's term; null for a course without a term.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentInfo:
    """The main fields of the student of an enrollment."""

    id: Id
    external_id: Annotated[str | None, Field(description="The caller's own key; null if the student has none.")]
    given_name: Annotated[str | None, Field(description="The given name or names; null if there are none.")]
    family_name: Annotated[str | None, Field(description="The family name or names; null if there are none.")]
    preferred_name: Annotated[
        str | None, Field(description="The name by which to call the student; null if it is the given name.")
    ]
    email: Annotated[str | None, Field(description="The e-mail address; null if the student has none.")]


Position = Annotated[int | None, Field(description="The waitlist position, counted from 1; null if not waitlisted.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The student got a seat."""

    course_id: CourseId
    outcome: Annotated[Literal["enrolled"], Field(description="The kind of result.")] = "enrolled"
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The student already had a seat in the course, or was already waitlisted."""

    course_id: CourseId
    outcome: Annotated[Literal["unchanged"], Field(description="The kind of result.")] = "unchanged"
    status: NamedStatus
    position: Position
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Waitlisted:
    """The student was added to the waitlist."""

    course_id: CourseId
    outcome: Annotated[Literal["waitlisted"], Field(description="The kind of result.")] = "waitlisted"
    position: Annotated[int, Field(description="The waitlist position, counted from 1.")]
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The result of a course to drop, or of a waitlist place for another section; a `kept` course is dropped with the other seat."""

    course_id: CourseId
    outcome: Annotated[
        Literal["dropped", "withdrawn", "kept"],
        named(
            "LeftOutcome", "The result of a course to drop; a `kept` course is dropped when the student gets the seat."
        ),
    ]
    course: CourseInfo


Timestamp = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Sum = Annotated[float, PlainSerializer(number), WithJsonSchema({"type": "number"})]
"""A sum of credits; a whole number has no fraction."""


RefusalCode: TypeAlias = Annotated[
    str, named("RefusalCode", "The rule that refuses; docs/rules.md explains each rule.", enum=[*SENTENCES])
]


@with_config(ConfigDict(extra="ignore"))
class Blocker(TypedDict):
    """One reason why a waitlisted student was passed over: the code of a rule, and its parameters."""

    code: RefusalCode
    opens_at: NotRequired[Annotated[Timestamp, Field(description="When enrollment opens.")]]
    closed_at: NotRequired[Annotated[Timestamp, Field(description="When enrolling or dropping closed.")]]
    any_of: NotRequired[Annotated[list[str], Field(description="The course codes of which one is required.")]]
    min_grade: NotRequired[Annotated[str, Field(description="The lowest grade with which the course must be passed.")]]
    in_progress: NotRequired[
        Annotated[Literal[True], Field(description="A seat in such a course in an earlier term is enough too.")]
    ]
    course_code: NotRequired[Annotated[str, Field(description="The code of the course that excludes this one.")]]
    with_course_id: NotRequired[
        Annotated[
            CourseId,
            Field(
                description="The course that meets at the same time, the other offering, or the course that needs this one."
            ),
        ]
    ]
    term_id: NotRequired[Annotated[TermId, Field(description="The term, or the part of a term, that has the limit.")]]
    held: NotRequired[
        Annotated[Sum, Field(description="The credits that the student holds in that term and its parts.")]
    ]
    asked: NotRequired[Annotated[Sum, Field(description="The credits that the request adds.")]]
    group: NotRequired[Annotated[str, Field(description="The group for which seats are reserved.")]]
    reserved: NotRequired[Annotated[int, Field(description="Number of seats that are reserved for that group.")]]
    capacity: NotRequired[Annotated[int, Field(description="Number of seats of the course.")]]
    seats_taken: NotRequired[Annotated[int, Field(description="Number of seats taken.")]]
    waitlist_capacity: NotRequired[Annotated[int, Field(description="Number of waitlist places.")]]


class Reason(Blocker):
    """One reason why a waitlisted student is passed over: the code of a rule, its parameters and a message."""

    detail: Annotated[str, Field(description="Human-readable message.")]


class Refusal(Reason):
    """One reason of a refusal: the code of a rule, its parameters and a message."""

    reason: NotRequired[Annotated[str, Field(description="The reason of the hold.")]]
    limit: NotRequired[
        Annotated[Sum, Field(description="Maximum number of credits that the student may hold in the term.")]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The course was refused."""

    course_id: CourseId
    outcome: Annotated[Literal["refused"], Field(description="The kind of result.")] = "refused"
    errors: Annotated[list[Refusal], Field(description="Every reason of the refusal.")]


AnyResult: TypeAlias = Enrolled | Waitlisted | Unchanged | Left | Refused
EnrollmentResult = TypeAliasType(
    "EnrollmentResult",
    Annotated[AnyResult, Field(discriminator="outcome", description="The result of one course of the request.")],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollments:
    """The result of each course, in the order of the request."""

    student_id: StudentId
    results: Annotated[
        list[EnrollmentResult],
        Field(description="One result per course, in the order of the request; duplicates are ignored."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Enrollments):
    """The result that each course would have; nothing was changed."""

    dry_run: Annotated[Literal[True], Field(description="Always true: nothing was changed.")] = True


BlockedBy = Annotated[
    list[Reason] | None,
    Field(
        description="Every reason why the student is passed over when a seat becomes free; "
        "null if the student is not waitlisted or not passed over."
    ),
]


SwapDrops = Annotated[
    list[int] | None,
    Field(
        description="The courses that a swap drops when the student gets a seat in this course; null if there are none."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentCourse:
    """The enrollment of one student, with its course."""

    course_id: CourseId
    status: NamedStatus
    position: Position
    blocked_by: BlockedBy
    swap_drops: SwapDrops
    swap_adds: Annotated[
        list[int] | None,
        Field(description="The waitlisted courses whose swaps drop this course with the seat; null if there are none."),
    ]
    joined_at: Annotated[datetime, Field(description="When the student got the seat or the waitlist place.")]
    passed: Annotated[bool | None, Field(description="Whether the student passed; null until the course is completed.")]
    grade: Annotated[str | None, Field(description="Free-form grade; null if there is none.")]
    course: CourseInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedCourse(StudentCourse):
    """An enrollment after a drop, a completion or its removal, or a change of its swap."""

    outcome: Annotated[
        Literal["enrolled", "dropped", "withdrawn", "completed", "kept", "unchanged"],
        named("MovedOutcome", "The result; `unchanged` if the call had nothing to change."),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseStudent:
    """The enrollment of one course, with its student."""

    student_id: StudentId
    status: NamedStatus
    position: Position
    blocked_by: BlockedBy
    swap_drops: SwapDrops
    joined_at: Annotated[datetime, Field(description="When the student got the seat or the waitlist place.")]
    student: StudentInfo


class DryRun(BaseModel):
    """Whether to preview only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dry_run: Annotated[
        bool, Truth, Field(description="If true, return what the call would answer without changing anything.")
    ] = False


class DropQuery(ReasonQuery):
    """How and why to drop a course."""

    as_: Annotated[
        Literal["dropped"] | None,
        Field(
            alias="as",
            description="With `dropped`, the course is dropped without a withdrawal, even after the deadlines; `reason` is "
            "then required, and the call also requires the scope `override`.",
        ),
    ] = None


class StudentCoursesQuery(Paging):
    """A page of a student's courses."""

    status: Annotated[
        StatusesInQuery | None,
        Field(
            description="Only courses with these statuses, separated by commas; by default `enrolled` and `waitlisted`."
        ),
    ] = None
    term_id: Annotated[IdInQuery | None, Field(description="Only courses in this term.")] = None


class EnrollmentsQuery(Paging):
    """A page of enrollments, with any of the filters."""

    limit: Annotated[int, Field(ge=1, le=1000, description="Maximum number of items on a page."), Digits] = 50
    student_id: Annotated[IdInQuery | None, Field(description="Only enrollments of this student.")] = None
    course_id: Annotated[IdInQuery | None, Field(description="Only enrollments in this course.")] = None
    term_id: Annotated[IdInQuery | None, Field(description="Only enrollments in courses of this term.")] = None
    status: Annotated[
        StatusesInQuery | None,
        Field(description="Only enrollments with these statuses, separated by commas; by default all of them."),
    ] = None
    updated_since: Annotated[
        Instant | None, Field(description="Only enrollments whose status changed at this instant or later.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEnrollment:
    """The enrollment of a student in a course, with the keys of both and without their other fields."""

    student_id: StudentId
    student_external_id: Annotated[
        str | None, Field(description="The caller's own key of the student; null if the student has none.")
    ]
    course_id: CourseId
    course_external_id: Annotated[
        str | None, Field(description="The caller's own key of the course; null if the course has none.")
    ]
    term_id: Annotated[
        TermId | None, Field(description="The id of the course's term; null for a course without a term.")
    ]
    status: NamedStatus
    joined_at: Annotated[datetime, Field(description="When the student got the seat or the waitlist place.")]
    updated_at: Annotated[datetime, Field(description="When the status last changed.")]
    passed: Annotated[bool | None, Field(description="Whether the student passed; null until the course is completed.")]
    grade: Annotated[str | None, Field(description="Free-form grade; null if there is none.")]


class CourseStudentsQuery(Paging):
    """A page of a course's students."""

    status: Annotated[
        NamedStatus,
        Field(description="Only students with this status. Waitlisted students are listed in waitlist order."),
    ] = "enrolled"
    requirement: Annotated[
        Literal["lost"] | None,
        Field(
            description="With `lost`, only the enrolled students who no longer meet a requirement that a course in progress "
            "had satisfied."
        ),
    ] = None
