"""Every type of event, with what it holds of the state before and after.

Nothing is built of these types: events are stored as JSON and handed out as they are. They describe it, and a test
holds the events of the service to them.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypeAliasType, TypedDict

from service.api.answers import CourseId, StudentId, TermId, Version
from service.api.courses import Meeting, NamedCourseStatus, RequirementGroup
from service.api.enrollments import Blocker, NamedStatus
from service.api.fields import CreditLimit, Credits
from service.api.holds import Blocked
from service.api.overrides import OverridableRule
from service.web.schema import named

EXACT = with_config(ConfigDict(extra="forbid"))
"""A state has no other members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFields:
    """What every event has besides its type and the states."""

    position: Annotated[int, Field(description="Counted from 1, without gaps, in the order of the changes.")]
    occurred_at: Annotated[datetime, Field(description="When the change was made.")]
    actor: Annotated[
        str | None,
        Field(
            description="Who made the change: the name of the API key or the subject of the token. Null on an open service."
        ),
    ]
    on_behalf_of: Annotated[str | None, Field(description="For whom the actor made it, as the header X-Actor said.")]
    request_id: Annotated[str, Field(description="The id of the request that made the change.")]
    reason: Annotated[str | None, Field(description="Why, as the caller said; null if the caller said nothing.")]
    student_id: Annotated[StudentId | None, Field(description="The student whom it is about; null if there is none.")]
    course_id: Annotated[CourseId | None, Field(description="The course that it is about; null if there is none.")]
    term_id: Annotated[TermId | None, Field(description="The term that it is about; null if there is none.")]


@EXACT
class StudentState(TypedDict):
    """Which fields of a student an event is about: personal data is not in the feed."""

    fields: Annotated[
        list[Literal["external_id", "given_name", "family_name", "email", "max_credits"]],
        Field(description="The fields that changed, or all fields of a new or deleted student."),
    ]
    version: Version


StudentEventType: TypeAlias = Annotated[
    Literal["student.created", "student.updated", "student.deleted"],
    named("StudentEventType", "The types of events about students."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentEvent(EventFields):
    """A student was created, updated or deleted."""

    type: StudentEventType
    before: Annotated[StudentState | None, Field(description="Null for a new student.")]
    after: Annotated[StudentState | None, Field(description="Null for a deleted student.")]


@EXACT
class CourseState(TypedDict):
    """The fields of a course that changed, or all fields of a new or deleted course."""

    external_id: NotRequired[Annotated[str | None, Field(description="The caller's own key.")]]
    term_id: NotRequired[Annotated[TermId | None, Field(description="The term in which it takes place.")]]
    code: NotRequired[Annotated[str, Field(description="As in the catalogue.")]]
    title: NotRequired[Annotated[str, Field(description="As people call it.")]]
    credits: NotRequired[Credits]
    capacity: NotRequired[Annotated[int | None, Field(description="Seats: null is unlimited, 0 is closed.")]]
    waitlist_capacity: NotRequired[Annotated[int | None, Field(description="Waitlist places: null is unlimited.")]]
    meetings: NotRequired[Annotated[list[Meeting], Field(description="When it meets each week.")]]
    version: Version


CourseEventType: TypeAlias = Annotated[
    Literal["course.created", "course.updated", "course.deleted"],
    named("CourseEventType", "The types of events about the fields of courses."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseEvent(EventFields):
    """A course was created, updated or deleted."""

    type: CourseEventType
    before: Annotated[CourseState | None, Field(description="Null for a new course.")]
    after: Annotated[CourseState | None, Field(description="Null for a deleted course.")]


@EXACT
class CourseStatusState(TypedDict):
    """Whether a course is cancelled."""

    status: NamedCourseStatus
    version: Version


CourseCancelledType: TypeAlias = Annotated[
    Literal["course.cancelled"], named("CourseCancelledType", "The type of the event of a cancelled course.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseCancelled(EventFields):
    """A course was cancelled; an event for each student who was dropped follows."""

    type: CourseCancelledType
    before: CourseStatusState
    after: CourseStatusState


@EXACT
class RequirementsState(TypedDict):
    """All requirements of a course."""

    groups: Annotated[list[RequirementGroup], Field(description="Every group must be satisfied.")]
    version: Version


RequirementsSetType: TypeAlias = Annotated[
    Literal["course.requirements_set"], named("RequirementsSetType", "The type of the event of replaced requirements.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementsSet(EventFields):
    """The requirements of a course were replaced."""

    type: RequirementsSetType
    before: RequirementsState
    after: RequirementsState


@EXACT
class TermState(TypedDict):
    """The fields of a term that changed, or all fields of a new or deleted term."""

    code: NotRequired[Annotated[str, Field(description="Unique among terms.")]]
    name: NotRequired[Annotated[str, Field(description="As people call it.")]]
    starts_on: NotRequired[Annotated[date, Field(description="The first day.")]]
    ends_on: NotRequired[Annotated[date, Field(description="The last day.")]]
    enroll_from: NotRequired[Annotated[datetime | None, Field(description="Students may enroll from then on.")]]
    enroll_until: NotRequired[Annotated[datetime | None, Field(description="Students may enroll until then.")]]
    drop_until: NotRequired[Annotated[datetime | None, Field(description="From then on a drop is a withdrawal.")]]
    withdraw_until: NotRequired[Annotated[datetime | None, Field(description="From then on a course can't be left.")]]
    max_credits: NotRequired[Annotated[CreditLimit | None, Field(description="The most credits of one student.")]]
    version: Version


TermEventType: TypeAlias = Annotated[
    Literal["term.created", "term.updated", "term.deleted"], named("TermEventType", "The types of events about terms.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TermEvent(EventFields):
    """A term was created, updated or deleted."""

    type: TermEventType
    before: Annotated[TermState | None, Field(description="Null for a new term.")]
    after: Annotated[TermState | None, Field(description="Null for a deleted term.")]


@EXACT
class EnrollmentState(TypedDict):
    """The state of one student in one course."""

    status: NamedStatus
    override_id: NotRequired[Annotated[int, Field(description="The override that gave the seat, if one did.")]]
    swap_drops: Annotated[
        NotRequired[list[int]],
        Field(description="The courses that are dropped once the waitlisted student gets a seat."),
    ]
    passed: NotRequired[Annotated[bool | None, Field(description="Of a completed course.")]]
    grade: NotRequired[Annotated[str | None, Field(description="Of a completed course.")]]


EnrollmentEventType: TypeAlias = Annotated[
    Literal[
        "enrollment.enrolled",
        "enrollment.waitlisted",
        "enrollment.promoted",
        "enrollment.dropped",
        "enrollment.withdrawn",
        "enrollment.completed",
        "enrollment.updated",
    ],
    named("EnrollmentEventType", "The types of events about a student's status in a course."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentEvent(EventFields):
    """A student's status in a course changed; `promoted` is `enrolled` from the waitlist, `updated` changes the drops."""

    type: EnrollmentEventType
    before: Annotated[EnrollmentState | None, Field(description="Null if the student was never in the course before.")]
    after: EnrollmentState


@EXACT
class SkippedState(TypedDict):
    """A waitlisted student, and why a free seat went to another one."""

    status: Annotated[Literal["waitlisted"], Field(description="The student stays waitlisted.")]
    blocked_by: NotRequired[Annotated[list[Blocker], Field(description="Every reason, without what is private.")]]


EnrollmentSkippedType: TypeAlias = Annotated[
    Literal["enrollment.skipped"],
    named("EnrollmentSkippedType", "The type of the event of a waitlisted student who was passed over."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentSkipped(EventFields):
    """A waitlisted student was passed over, for other reasons than the last time."""

    type: EnrollmentSkippedType
    before: SkippedState
    after: SkippedState


# A class can't have a member that is called from.
HoldTimes = TypedDict(
    "HoldTimes",
    {
        "from": Annotated[datetime | None, Field(description="Null: since ever.")],
        "until": Annotated[datetime | None, Field(description="Null: without an end.")],
    },
)


@EXACT
class HoldState(HoldTimes):
    """What a hold blocks, and when; its reason is private to the student."""

    hold_id: Annotated[int, Field(description="The id of the hold.")]
    blocks: Annotated[list[Blocked], Field(description="What it keeps the student from.")]


HoldEventType: TypeAlias = Annotated[
    Literal["hold.placed", "hold.ended"], named("HoldEventType", "The types of events about holds.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldEvent(EventFields):
    """A hold was placed or ended."""

    type: HoldEventType
    before: Annotated[HoldState | None, Field(description="Null for a new hold.")]
    after: HoldState


@EXACT
class OverrideState(TypedDict):
    """Which rule an override lifts, and until when."""

    override_id: Annotated[int, Field(description="The id of the override.")]
    rule: OverridableRule
    author: Annotated[str, Field(description="Who answers for it.")]
    expires_at: Annotated[datetime | None, Field(description="Null: without an end.")]


OverrideEventType: TypeAlias = Annotated[
    Literal["override.granted", "override.ended"], named("OverrideEventType", "The types of events about overrides.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideEvent(EventFields):
    """An override was granted or ended."""

    type: OverrideEventType
    before: Annotated[OverrideState | None, Field(description="Null for a new override.")]
    after: OverrideState


@EXACT
class OverrideUseState(TypedDict):
    """When an override was used up."""

    override_id: Annotated[int, Field(description="The id of the override.")]
    used_at: Annotated[datetime | None, Field(description="When it was used up; null if it was not.")]


OverrideUsedType: TypeAlias = Annotated[
    Literal["override.used"], named("OverrideUsedType", "The type of the event of an override that was used up.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideUsed(EventFields):
    """An override was used up: it lifted its rule for a seat or a drop."""

    type: OverrideUsedType
    before: OverrideUseState
    after: OverrideUseState


AnyEvent: TypeAlias = (
    StudentEvent
    | CourseEvent
    | CourseCancelled
    | RequirementsSet
    | TermEvent
    | EnrollmentEvent
    | EnrollmentSkipped
    | HoldEvent
    | OverrideEvent
    | OverrideUsed
)
Event = TypeAliasType("Event", Annotated[AnyEvent, Field(discriminator="type", description="One change of one thing.")])
