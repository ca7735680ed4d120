"""Every event type, with the members of its states before and after the change.

The code creates no instances of these types, because events are stored and returned as JSON. The types describe that
JSON in the API document, and a test validates the events of the service against them.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Literal, NotRequired, TypeAlias

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypeAliasType, TypedDict

from service.api.answers import CourseId, StudentId, TermId, Version
from service.api.courses import Meeting, NamedCourseStatus, RequirementGroup
from service.api.enrollment_types import Blocker, NamedStatus
from service.api.fields import CreditLimit, Credits
from service.api.holds import Blocked
from service.api.overrides import OverridableRule
from service.web.schema import named

FORBID_EXTRA = with_config(ConfigDict(extra="forbid"))
"""A state has no members other than those of its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFields:
    """The members of every event except its type and states."""

    position: Annotated[
        int, Field(description="Position in the feed, counted from 1, without gaps, in the order of the changes.")
    ]
    occurred_at: Annotated[datetime, Field(description="When the change was made.")]
    actor: Annotated[
        str | None,
        Field(
            description="Who made the change: the name of the API key, the subject of the token, or `student-` and an id for "
            "a student's own token. Null on an open service."
        ),
    ]
    on_behalf_of: Annotated[str | None, Field(description="For whom the actor made it, as the header X-Actor said.")]
    request_id: Annotated[str, Field(description="The id of the request that made the change.")]
    reason: Annotated[
        str | None,
        Field(
            description="The reason that the caller gave, or why the service dropped a waitlist place; null if there is none."
        ),
    ]
    student_id: Annotated[StudentId | None, Field(description="The student of the event; null if there is none.")]
    student_external_id: Annotated[
        str | None,
        Field(description="The external id that the student has now; null if there is none, or no such student."),
    ]
    course_id: Annotated[CourseId | None, Field(description="The course of the event; null if there is none.")]
    course_external_id: Annotated[
        str | None,
        Field(description="The external id that the course has now; null if there is none, or no such course."),
    ]
    term_id: Annotated[TermId | None, Field(description="The term of the event; null if there is none.")]


@FORBID_EXTRA
class StudentState(TypedDict):
    """The names of the fields of a student that changed; the feed contains no personal data."""

    fields: Annotated[
        list[
            Literal[
                "external_id",
                "sourced_id",
                "given_name",
                "family_name",
                "preferred_name",
                "email",
                "max_credits",
                "groups",
            ]
        ],
        Field(description="The fields that changed, or all fields of a new or deleted student."),
    ]
    version: Version


StudentEventType: TypeAlias = Annotated[
    Literal["student.created", "student.updated", "student.deleted", "student.erased"],
    named("StudentEventType", "The types of events about students."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentEvent(EventFields):
    """A student was created, updated, deleted or erased."""

    type: StudentEventType
    before: Annotated[StudentState | None, Field(description="Null for a new student.")]
    after: Annotated[StudentState | None, Field(description="Null for a deleted student.")]


@FORBID_EXTRA
class InstructorState(TypedDict):
    """The names of the fields of an instructor that changed; the feed contains no personal data."""

    instructor_id: Annotated[int, Field(description="The id of the instructor.")]
    fields: Annotated[
        list[Literal["external_id", "sourced_id", "given_name", "family_name", "email"]],
        Field(description="The fields that changed, or all fields of a new or deleted instructor."),
    ]
    version: Version


InstructorEventType: TypeAlias = Annotated[
    Literal["instructor.created", "instructor.updated", "instructor.deleted"],
    named("InstructorEventType", "The types of events about instructors."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructorEvent(EventFields):
    """An instructor was created, updated or deleted."""

    type: InstructorEventType
    before: Annotated[InstructorState | None, Field(description="Null for a new instructor.")]
    after: Annotated[InstructorState | None, Field(description="Null for a deleted instructor.")]


@FORBID_EXTRA
class VersionState(TypedDict):
    """The version of a student."""

    version: Version


@FORBID_EXTRA
class MergedStudentState(VersionState):
    """A student into whom a duplicate was merged."""

    duplicate_id: Annotated[StudentId, Field(description="The duplicate, which is gone.")]


@FORBID_EXTRA
class DuplicateState(VersionState):
    """A duplicate that was merged into another student."""

    merged_into: Annotated[StudentId, Field(description="The student into whom the duplicate was merged.")]


StudentMergedType: TypeAlias = Annotated[
    Literal["student.merged"],
    named("StudentMergedType", "The type of the event of a student who got a duplicate's data."),
]
StudentMergedIntoType: TypeAlias = Annotated[
    Literal["student.merged_into"], named("StudentMergedIntoType", "The type of the event of a merged duplicate.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentMerged(EventFields):
    """A duplicate was merged into the student; the events of what the student got come before it."""

    type: StudentMergedType
    before: VersionState
    after: MergedStudentState


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentMergedInto(EventFields):
    """The student was a duplicate and was merged into another student: its rows are gone."""

    type: StudentMergedIntoType
    before: VersionState
    after: DuplicateState


@FORBID_EXTRA
class CourseState(TypedDict):
    """The fields of a course that changed, or all fields of a new or deleted course."""

    external_id: NotRequired[Annotated[str | None, Field(description="The caller's own key.")]]
    term_id: NotRequired[Annotated[TermId | None, Field(description="The term of the course.")]]
    code: NotRequired[Annotated[str, Field(description="The catalogue code.")]]
    section: NotRequired[Annotated[str | None, Field(description="The section; null is none.")]]
    title: NotRequired[Annotated[str, Field(description="The title.")]]
    credits: NotRequired[Credits]
    capacity: NotRequired[
        Annotated[int | None, Field(description="Number of seats; null is unlimited, and 0 closes the course.")]
    ]
    waitlist_capacity: NotRequired[
        Annotated[int | None, Field(description="Number of waitlist places; null is unlimited, and 0 is no waitlist.")]
    ]
    meetings: NotRequired[Annotated[list[Meeting], Field(description="When the course meets.")]]
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


@FORBID_EXTRA
class CourseStatusState(TypedDict):
    """Whether a course is cancelled."""

    status: NamedCourseStatus
    version: Version


CourseCancelledType: TypeAlias = Annotated[
    Literal["course.cancelled"], named("CourseCancelledType", "The type of the event of a cancelled course.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseCancelled(EventFields):
    """A course was cancelled; an event for each dropped student follows."""

    type: CourseCancelledType
    before: CourseStatusState
    after: CourseStatusState


CourseReopenedType: TypeAlias = Annotated[
    Literal["course.reopened"], named("CourseReopenedType", "The type of the event of a reopened course.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseReopened(EventFields):
    """A cancelled course was opened again, with nobody enrolled or waitlisted."""

    type: CourseReopenedType
    before: CourseStatusState
    after: CourseStatusState


@FORBID_EXTRA
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


@FORBID_EXTRA
class TaughtBy(TypedDict):
    """An instructor of a course."""

    instructor_id: Annotated[int, Field(description="The id of the instructor.")]
    primary: Annotated[bool, Field(description="Whether the instructor is the primary one.")]


@FORBID_EXTRA
class InstructorsState(TypedDict):
    """All instructors of a course."""

    instructors: Annotated[list[TaughtBy], Field(description="The primary one first, the others by id.")]
    version: Version


InstructorsSetType: TypeAlias = Annotated[
    Literal["course.instructors_set"], named("InstructorsSetType", "The type of the event of replaced instructors.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructorsSet(EventFields):
    """The instructors of a course were replaced."""

    type: InstructorsSetType
    before: InstructorsState
    after: InstructorsState


@FORBID_EXTRA
class SeatsFor(TypedDict):
    """Seats that are reserved for a group."""

    group: Annotated[str, Field(description="The group.")]
    seats: Annotated[int, Field(description="The number of seats.")]
    until: Annotated[datetime | None, Field(description="From when on the seats are for everyone; null is never.")]


@FORBID_EXTRA
class ReservationsState(TypedDict):
    """All reservations of a course."""

    reservations: Annotated[list[SeatsFor], Field(description="The reservations, in the order that was set.")]
    version: Version


ReservationsSetType: TypeAlias = Annotated[
    Literal["course.reservations_set"], named("ReservationsSetType", "The type of the event of replaced reservations.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationsSet(EventFields):
    """The reservations of a course were replaced."""

    type: ReservationsSetType
    before: ReservationsState
    after: ReservationsState


@FORBID_EXTRA
class TermState(TypedDict):
    """The fields of a term that changed, or all fields of a new or deleted term."""

    code: NotRequired[Annotated[str, Field(description="Unique among terms.")]]
    name: NotRequired[Annotated[str, Field(description="The name.")]]
    parent_id: NotRequired[
        Annotated[TermId | None, Field(description="The term of which it is a part; null for a whole term.")]
    ]
    starts_on: NotRequired[Annotated[date, Field(description="The first day.")]]
    ends_on: NotRequired[Annotated[date, Field(description="The last day.")]]
    enroll_from: NotRequired[
        Annotated[datetime | None, Field(description="Students may enroll from this instant on; null is always.")]
    ]
    enroll_until: NotRequired[
        Annotated[datetime | None, Field(description="Students may enroll until this instant; null is always.")]
    ]
    drop_until: NotRequired[
        Annotated[datetime | None, Field(description="From this instant on, a drop is a withdrawal; null is never.")]
    ]
    withdraw_until: NotRequired[
        Annotated[
            datetime | None, Field(description="From this instant on, students cannot leave a course; null is never.")
        ]
    ]
    max_credits: NotRequired[
        Annotated[CreditLimit | None, Field(description="Maximum number of credits per student; null is unlimited.")]
    ]
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


@FORBID_EXTRA
class EquivalenceState(TypedDict):
    """A set of equivalent codes."""

    equivalence_id: Annotated[int, Field(description="The id of the set.")]
    codes: Annotated[list[str], Field(description="The codes, sorted.")]


EquivalenceEventType: TypeAlias = Annotated[
    Literal["equivalence.created", "equivalence.deleted"],
    named("EquivalenceEventType", "The types of events about sets of equivalent codes."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EquivalenceEvent(EventFields):
    """A set of equivalent codes was created or deleted."""

    type: EquivalenceEventType
    before: Annotated[EquivalenceState | None, Field(description="Null for a new set.")]
    after: Annotated[EquivalenceState | None, Field(description="Null for a deleted set.")]


@FORBID_EXTRA
class EnrollmentState(TypedDict):
    """The state of one student in one course."""

    status: NamedStatus
    override_id: NotRequired[
        Annotated[int, Field(description="The override that gave the seat; absent without an override.")]
    ]
    swap_drops: Annotated[
        NotRequired[list[int]],
        Field(description="The courses that a swap drops when the waitlisted student gets a seat."),
    ]
    passed: NotRequired[Annotated[bool | None, Field(description="Whether the student passed the completed course.")]]
    grade: NotRequired[Annotated[str | None, Field(description="The grade of the completed course.")]]
    blocked_by: NotRequired[
        Annotated[
            list[Blocker],
            Field(description="Why the service dropped a waitlist place: the student has a seat in another offering."),
        ]
    ]


@FORBID_EXTRA
class MergedEnrollmentState(EnrollmentState):
    """An enrollment that a student got from a duplicate."""

    duplicate_id: Annotated[StudentId, Field(description="The duplicate that had the enrollment.")]
    joined_position: Annotated[
        int, Field(description="The position of the event that gave the duplicate the seat or the waitlist place.")
    ]
    joined_at: Annotated[datetime, Field(description="When the duplicate got the seat or the waitlist place.")]
    passed_code: NotRequired[
        Annotated[str, Field(description="The code that the course had at its completion, if it has changed since.")]
    ]


@FORBID_EXTRA
class DuplicateEnrollmentState(TypedDict):
    """An enrollment of a duplicate that is gone."""

    merged_into: Annotated[StudentId, Field(description="The student into whom the duplicate was merged.")]


EnrollmentMergedType: TypeAlias = Annotated[
    Literal["enrollment.merged"],
    named("EnrollmentMergedType", "The type of the event of an enrollment that a student got from a duplicate."),
]
EnrollmentMergedIntoType: TypeAlias = Annotated[
    Literal["enrollment.merged_into"],
    named("EnrollmentMergedIntoType", "The type of the event of an enrollment that a duplicate had."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentMerged(EventFields):
    """A student got an enrollment from a duplicate: there was none in the course, or a weaker one."""

    type: EnrollmentMergedType
    before: Annotated[
        EnrollmentState | None, Field(description="Null if the student had no status in the course before.")
    ]
    after: MergedEnrollmentState


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentMergedInto(EventFields):
    """A duplicate that was merged had an enrollment, which is gone."""

    type: EnrollmentMergedIntoType
    before: EnrollmentState
    after: DuplicateEnrollmentState


EnrollmentEventType: TypeAlias = Annotated[
    Literal[
        "enrollment.enrolled",
        "enrollment.waitlisted",
        "enrollment.promoted",
        "enrollment.dropped",
        "enrollment.withdrawn",
        "enrollment.completed",
        "enrollment.annulled",
        "enrollment.completion_removed",
        "enrollment.updated",
    ],
    named("EnrollmentEventType", "The types of events about a student's status in a course."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentEvent(EventFields):
    """A student's status in a course changed.

    `promoted`: enrolled from the waitlist. `annulled`: dropped by the office without a withdrawal. `completion_removed`:
    enrolled again. `updated`: other drops of a swap.
    """

    type: EnrollmentEventType
    before: Annotated[
        EnrollmentState | None, Field(description="Null if the student had no status in the course before.")
    ]
    after: EnrollmentState


@FORBID_EXTRA
class SkippedState(TypedDict):
    """A waitlisted student, and the reasons why a free seat went to another student."""

    status: Annotated[Literal["waitlisted"], Field(description="The student stays waitlisted.")]
    blocked_by: NotRequired[Annotated[list[Blocker], Field(description="Every reason, without private data.")]]


EnrollmentSkippedType: TypeAlias = Annotated[
    Literal["enrollment.skipped"],
    named("EnrollmentSkippedType", "The type of the event of a waitlisted student who was passed over."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentSkipped(EventFields):
    """A waitlisted student was passed over, for reasons that differ from those of the last time."""

    type: EnrollmentSkippedType
    before: SkippedState
    after: SkippedState


@FORBID_EXTRA
class RequirementState(TypedDict):
    """An enrolled student, and whether the student has lost what satisfied a requirement of the course."""

    status: Annotated[Literal["enrolled"], Field(description="The student keeps the seat.")]
    requirement_lost: Annotated[bool, Field(description="Whether a requirement is lost.")]
    blocked_by: NotRequired[Annotated[list[Blocker], Field(description="Every requirement that is lost.")]]


EnrollmentRequirementType: TypeAlias = Annotated[
    Literal["enrollment.requirement_lost", "enrollment.requirement_met"],
    named(
        "EnrollmentRequirementType", "The types of events about a requirement that a course in progress had satisfied."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentRequirement(EventFields):
    """An enrolled student lost what satisfied a requirement of the course, or meets the requirements again."""

    type: EnrollmentRequirementType
    before: RequirementState
    after: RequirementState


# "from" is a keyword, and the class syntax cannot declare it.
HoldTimes = TypedDict(
    "HoldTimes",
    {
        "from": Annotated[datetime | None, Field(description="Start of the hold; null is no start.")],
        "until": Annotated[datetime | None, Field(description="End of the hold; null is no end.")],
    },
)


@FORBID_EXTRA
class HoldState(HoldTimes):
    """What a hold blocks, and when. The reason is private to the student, and is not in the feed."""

    hold_id: Annotated[int, Field(description="The id of the hold.")]
    blocks: Annotated[list[Blocked], Field(description="The actions that the hold blocks.")]


HoldEventType: TypeAlias = Annotated[
    Literal["hold.placed", "hold.ended", "hold.merged"], named("HoldEventType", "The types of events about holds.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldEvent(EventFields):
    """A hold was placed or ended, or the student got it from a duplicate."""

    type: HoldEventType
    before: Annotated[HoldState | None, Field(description="Null for a hold that the student did not have.")]
    after: HoldState


@FORBID_EXTRA
class OverrideState(TypedDict):
    """The rule that an override lifts, and its expiry."""

    override_id: Annotated[int, Field(description="The id of the override.")]
    rule: OverridableRule
    author: Annotated[str, Field(description="Who authorized the override.")]
    expires_at: Annotated[datetime | None, Field(description="Until when the override can be used; null is no expiry.")]


OverrideEventType: TypeAlias = Annotated[
    Literal["override.granted", "override.ended"], named("OverrideEventType", "The types of events about overrides.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideEvent(EventFields):
    """An override was granted or ended."""

    type: OverrideEventType
    before: Annotated[OverrideState | None, Field(description="Null for a new override.")]
    after: OverrideState


@FORBID_EXTRA
class MergedOverrideState(OverrideState):
    """An override that a student got from a duplicate."""

    used_at: Annotated[datetime | None, Field(description="When the override was used; null if it was not.")]


OverrideMergedType: TypeAlias = Annotated[
    Literal["override.merged"],
    named("OverrideMergedType", "The type of the event of an override that a student got from a duplicate."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideMerged(EventFields):
    """A student got an override from a duplicate."""

    type: OverrideMergedType
    before: Annotated[OverrideState | None, Field(description="Always null.")]
    after: MergedOverrideState


@FORBID_EXTRA
class OverrideUseState(TypedDict):
    """When an override was used."""

    override_id: Annotated[int, Field(description="The id of the override.")]
    used_at: Annotated[datetime | None, Field(description="When the override was used; null if it was not.")]


OverrideUsedType: TypeAlias = Annotated[
    Literal["override.used"], named("OverrideUsedType", "The type of the event of a used override.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideUsed(EventFields):
    """An override was used: it lifted its rule for a seat or a drop."""

    type: OverrideUsedType
    before: OverrideUseState
    after: OverrideUseState


@FORBID_EXTRA
class GradeState(TypedDict):
    """A grade of the scale."""

    grade: Annotated[str, Field(description="The grade.")]
    passes: Annotated[bool, Field(description="Whether it passes.")]


@FORBID_EXTRA
class GradeScaleState(TypedDict):
    """The grade scale."""

    grades: Annotated[list[GradeState], Field(description="The grades, from the best on; empty for no scale.")]


GradeScaleSetType: TypeAlias = Annotated[
    Literal["grade_scale.set"], named("GradeScaleSetType", "The type of the event of a replaced grade scale.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeScaleSet(EventFields):
    """The grade scale was replaced."""

    type: GradeScaleSetType
    before: GradeScaleState
    after: GradeScaleState


AnyEvent: TypeAlias = (
    StudentEvent
    | StudentMerged
    | StudentMergedInto
    | InstructorEvent
    | CourseEvent
    | CourseCancelled
    | CourseReopened
    | RequirementsSet
    | InstructorsSet
    | ReservationsSet
    | TermEvent
    | EquivalenceEvent
    | GradeScaleSet
    | EnrollmentEvent
    | EnrollmentSkipped
    | EnrollmentRequirement
    | EnrollmentMerged
    | EnrollmentMergedInto
    | HoldEvent
    | OverrideEvent
    | OverrideMerged
    | OverrideUsed
)
Event = TypeAliasType(
    "Event",
    Annotated[AnyEvent, Field(discriminator="type", description="One change, with the states before and after it.")],
)
