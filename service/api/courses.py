"""Courses: request and answer models, and handlers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, model_validator, with_config

from service.api.answers import CreatedAt, Id, TermId, UpdatedAt, Version
from service.api.fields import (
    Capacity,
    Clock,
    ClockOfEnd,
    Count,
    CourseCode,
    Credits,
    Day,
    ExternalId,
    Grade,
    IdInBody,
    IdInPath,
    IdInQuery,
    IdsInQuery,
    Input,
    Name,
    ReasonQuery,
    SearchText,
    Section,
    Truth,
    WaitlistCapacity,
    Whole,
    refuse_together,
)
from service.api.keys import COURSES, DATABASE, REGISTRAR, origin_of, submit
from service.api.read_only import READ_ONLY, ReadOnly, ReadOnlyFields, expecting, sent_back, split
from service.errors import (
    CodeTaken,
    CourseNotFound,
    ExternalIdTaken,
    InUse,
    MeetingDates,
    OwnRequirement,
    PreconditionFailed,
    ReservationsAboveCapacity,
    UnknownGrade,
    UnknownTerm,
)
from service.registrar import courses as registrar
from service.registrar.application import Group, code_key
from service.registrar.changes import Origin
from service.registrar.courses import COURSE, Cancel, Reopen, SetRequirements, requirements_tag
from service.registrar.load import groups_of
from service.registrar.meetings import DAYS
from service.registrar.resources import Create, Delete, Edit, Replace
from service.web.endpoint import Call, Reply, endpoint
from service.web.etags import ETags
from service.web.paging import (
    SCANNED_ROWS,
    Paging,
    WrittenPage,
    decode_cursor,
    decode_keys,
    keyed_page,
    list_name,
    written_page,
)
from service.web.schema import named
from service.web.validation import wrong
from sql import Connection
from sql import courses as sql
from sql.courses import CourseStatus, get_course
from sql.requirements import RequirementKind, load_requirements

Weekday: TypeAlias = Annotated[
    Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], named("Weekday", "A day of the week.")
]
NamedCourseStatus: TypeAlias = Annotated[CourseStatus, named("CourseStatus", "Whether the course takes place.")]


def _is_absent(value: object) -> bool:
    return value is None


class Meeting(Input):
    """A meeting on a day of the week, from `start` until `end`, exclusive, in the local time of the institution.

    Without `from` and `until`, it takes place in every week of the term. Members without a value are left out.
    """

    model_config = ConfigDict(serialize_by_alias=True, extra="forbid", frozen=True, strict=True)

    day: Weekday
    start: Annotated[Clock, Field(description="Start of the meeting, as HH:MM.")]
    end: Annotated[
        ClockOfEnd,
        Field(description="End of the meeting, as HH:MM, exclusive. An end before `start` is on the next day."),
    ]
    begins_on: Annotated[
        Day | None,
        Field(alias="from", exclude_if=_is_absent, description="The first possible date; else the term's first day."),
    ] = None
    ends_on: Annotated[
        Day | None,
        Field(alias="until", exclude_if=_is_absent, description="The last possible date; else the term's last day."),
    ] = None
    every_weeks: Annotated[
        int,
        Field(
            ge=1,
            le=4,
            exclude_if=lambda weeks: bool(weeks == 1),
            description="2 is every other week, counted from the week of the first possible date. Weeks begin on Monday.",
        ),
        Whole,
    ] = 1
    location: Annotated[
        Name | None, Field(exclude_if=_is_absent, description="Where the meeting takes place; no rule reads it.")
    ] = None

    @model_validator(mode="after")
    def check_length(self) -> Self:
        """Refuse a meeting that ends when it starts."""
        if self.start == self.end:
            raise wrong("empty_meeting", "end must differ from start; a whole day is from 00:00 until 24:00.")
        return self


def _order(meeting: Meeting) -> tuple[object, ...]:
    dates = meeting.begins_on or date.min, meeting.ends_on or date.max
    return DAYS.index(meeting.day), meeting.start, meeting.end, *dates, meeting.every_weeks, meeting.location or ""


def _in_order(meetings: Sequence[Meeting]) -> tuple[Meeting, ...]:
    """Return meetings in the order of the week. Meetings may coincide: a section can meet in two rooms at once."""
    return tuple(sorted(meetings, key=_order))


Meetings = Annotated[
    tuple[Meeting, ...],
    Field(max_length=50, strict=False, description="When the course meets."),
    AfterValidator(_in_order),
]


SectionOfCourse: TypeAlias = Annotated[
    Section | None,
    Field(description="The section, which distinguishes the offerings of a code in a term; null is no section."),
]
CourseTitle: TypeAlias = Annotated[Name, Field(description='The title, such as "Calculus I".')]
TermOfCourse: TypeAlias = Annotated[
    IdInBody | None,
    Field(description="The id of the term; null is no term, and therefore no deadlines and no credit limit."),
]


class CourseFields(Input):
    """The writable fields of a course except the external id."""

    code: CourseCode
    section: SectionOfCourse = None
    title: CourseTitle
    credits: Credits = 0.0
    term_id: TermOfCourse = None
    capacity: Capacity | None = None
    waitlist_capacity: WaitlistCapacity | None = None
    meetings: Meetings = ()


class NewCourse(CourseFields):
    """A course to create."""

    external_id: ExternalId | None = None


class CourseReadOnly(ReadOnly, total=False):
    """The read-only members of a course, for a merge patch."""

    status: Annotated[NamedCourseStatus, READ_ONLY]
    seats_taken: Annotated[Count, READ_ONLY]
    seats_free: Annotated[Count | None, READ_ONLY]
    waitlisted: Annotated[Count, READ_ONLY]


class CourseReplacement(CourseFields, ReadOnlyFields):
    """A course to create or replace. A field that is left out gets its default."""

    status: Annotated[NamedCourseStatus, READ_ONLY] = "open"
    seats_taken: Annotated[Count | None, READ_ONLY] = None
    seats_free: Annotated[Count | None, READ_ONLY] = None
    waitlisted: Annotated[Count | None, READ_ONLY] = None


@with_config(ConfigDict(extra="forbid", strict=True))
class CourseChanges(CourseReadOnly, total=False):
    """A JSON merge patch (RFC 7396): an absent field keeps its value, and null removes a value."""

    external_id: ExternalId | None
    code: CourseCode
    section: SectionOfCourse
    title: CourseTitle
    credits: Credits
    term_id: TermOfCourse
    capacity: Capacity | None
    waitlist_capacity: WaitlistCapacity | None
    meetings: Meetings


class CourseQuery(Paging):
    """A page of courses, with any of the filters."""

    term_id: Annotated[IdInQuery | None, Field(description="Only courses in this term.")] = None
    code: Annotated[
        CourseCode | None, Field(description="Only courses with this code: all its sections. Case is ignored.")
    ] = None
    external_id: Annotated[ExternalId | None, Field(description="Only the course with this external id.")] = None
    id: Annotated[
        IdsInQuery | None, Field(description="Only courses with these ids: up to 100, separated by commas.")
    ] = None
    instructor_id: Annotated[IdInQuery | None, Field(description="Only courses that this instructor teaches.")] = None
    status: Annotated[NamedCourseStatus | None, Field(description="Only courses with this status.")] = None
    has_free_seats: Annotated[
        bool | None, Truth, Field(description="Only courses that have a free seat, or only those that have none.")
    ] = None
    q: Annotated[
        SearchText | None,
        Field(
            description="Only courses whose code or title begins with this text; case, accents and apostrophes are "
            "ignored. The list is ordered by the code or title that matched."
        ),
    ] = None
    sort: Annotated[Literal["id", "code"] | None, Field(description="The order; by default `id`.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A course: one offering in one term, or without a term."""

    id: Id
    external_id: Annotated[str | None, Field(description="The caller's own key; null if the course has none.")]
    code: Annotated[str, Field(description="The catalogue code; unique within a term, together with the section.")]
    section: Annotated[str | None, Field(description="The section; null if the course has none.")]
    title: Annotated[str, Field(description='The title, such as "Calculus I".')]
    credits: Credits
    term_id: Annotated[
        TermId | None, Field(description="The id of the course's term; null for a course without a term.")
    ]
    capacity: Annotated[int | None, Field(description="Number of seats; null is unlimited, and 0 closes the course.")]
    waitlist_capacity: Annotated[
        int | None, Field(description="Number of waitlist places; null is unlimited, and 0 is no waitlist.")
    ]
    meetings: Annotated[list[Meeting], Field(description="When the course meets, in the order of the week.")]
    status: NamedCourseStatus
    seats_taken: Annotated[
        int, Field(description="Number of students who are enrolled in the course or have completed it.")
    ]
    seats_free: Annotated[
        int | None, Field(description="Number of free seats; null is unlimited. A cancelled course has 0.")
    ]
    waitlisted: Annotated[int, Field(description="Number of waitlisted students.")]
    version: Version
    created_at: CreatedAt
    updated_at: UpdatedAt

    @property
    def etag(self) -> str:
        """The ETag: the version and the counters of seats, which the version does not count.

        It is weak, since a change of the course depends on its version alone.
        """
        return f'W/"{self.version}-{self.seats_taken}-{self.waitlisted}"'


SEATS_IN_TAG = re.compile(r"^(\d+)-\d+-\d+$")


def versions_in(tags: ETags) -> ETags:
    """Return the versions that entity tags of a course name: those in its ETags, and versions alone."""
    return None if tags is None else frozenset(SEATS_IN_TAG.sub(r"\1", tag) for tag in tags)


MEETINGS = TypeAdapter(list[Meeting])


def _fields(body: CourseFields, external_id: str | None) -> registrar.CourseFields:
    """Return the fields of a course that a body sets."""
    return {
        "external_id": external_id,
        "term_id": body.term_id,
        "code": body.code,
        "section": body.section,
        "title": body.title,
        "credits": body.credits,
        "capacity": body.capacity,
        "waitlist_capacity": body.waitlist_capacity,
        "meetings": MEETINGS.dump_json(list(body.meetings)).decode(),
    }


def _seats_free(row: sql.Course) -> int | None:
    if row.status == "cancelled":
        return 0
    return None if row.capacity is None else max(0, row.capacity - row.seats_taken)


def course_of(row: sql.Course) -> Course:
    """Convert a row to the course that the API returns."""
    return Course(
        id=row.id,
        external_id=row.external_id,
        code=row.code,
        section=row.section,
        title=row.title,
        credits=row.credits,
        term_id=row.term_id,
        capacity=row.capacity,
        waitlist_capacity=row.waitlist_capacity,
        meetings=MEETINGS.validate_json(row.meetings),
        status=row.status,
        seats_taken=row.seats_taken,
        seats_free=_seats_free(row),
        waitlisted=row.waitlisted,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


@endpoint(
    "POST", "/courses", scope="manage", status=201, problems=[ExternalIdTaken, CodeTaken, UnknownTerm, MeetingDates]
)
async def create_course(call: Call, body: NewCourse) -> Reply[Course]:
    """Create a course.

    The code and the section together must be unique in the term, cancelled courses aside; courses without a term may share
    both. The external id must be unique.
    """
    change = Create(origin=origin_of(call), resource=COURSE, fields=_fields(body, body.external_id))
    return await submit(call, change, lambda row: Reply(course_of(row), 201, {"Location": f"/courses/{row.id}"}))


@endpoint("GET", "/courses", scope="read")
async def search_courses(call: Call, query: CourseQuery) -> WrittenPage[Course]:
    """List courses by id or by code; filter them by term, code, external id, ids, status, seats and the beginning of a title.

    The list contains the courses that match every filter; it is empty if there are none. A page examines some thousand
    courses: it may have fewer items than `limit`, or none, although others follow. Only `next` says whether they do.
    `sort` can be combined with `term_id`, `status` and `has_free_seats`.
    """
    refuse_together(query, "sort", "code", "external_id", "id", "instructor_id", "q")
    of = list_name("courses", query)
    named_courses = any(each is not None for each in (query.external_id, query.id, query.code, query.instructor_id))
    async with call[DATABASE].reading() as connection:
        if named_courses or (query.q is None and query.sort != "code"):
            [page] = await sql.list_courses(
                connection,
                decode_cursor(query.cursor, of),
                SCANNED_ROWS,
                query.limit,
                external_id=query.external_id,
                ids=None if query.id is None else list(query.id),
                code=query.code,
                term_id=query.term_id,
                status=query.status,
                has_free_seats=query.has_free_seats,
                text=query.q,
                instructor_id=query.instructor_id,
            )
            return written_page(page.items, page.next_after, of)
        after_key, after_id = decode_keys(query.cursor, of, "", 0)
        [keyed] = await sql.sort_courses(
            connection,
            after_key,
            after_id,
            SCANNED_ROWS,
            query.limit,
            text=query.q or "",
            term_id=query.term_id,
            status=query.status,
            has_free_seats=query.has_free_seats,
        )
    after = None if keyed.next_key is None or keyed.next_id is None else (keyed.next_key, keyed.next_id)
    return keyed_page(keyed.items, after, of)


@endpoint("GET", "/courses/by-external-id/{external_id}", scope="read", problems=[CourseNotFound])
async def read_course_by_external_id(call: Call, external_id: ExternalId) -> Course:
    """Read the course with an external id, with its seats.

    The ETag changes with the editable fields and with the seats. It is weak: to change the course, send its version in
    quotes as If-Match.
    """
    async with call[DATABASE].reading() as connection:
        found = await sql.find_courses_by_external_id(connection, external_id)
    if not found:
        raise CourseNotFound(external_id=external_id)
    return course_of(found[0])


@endpoint("GET", "/courses/{course_id}", scope="read", problems=[CourseNotFound])
async def read_course(call: Call, course_id: IdInPath) -> Course:
    """Read a course, with its seats.

    The ETag changes with the editable fields and with the seats. It is weak: to change the course, send its version in
    quotes as If-Match.
    """
    row = await call[COURSES].submit(course_id, call.disconnected)
    if row is None:
        raise CourseNotFound(course_id)
    return course_of(row)


async def find(connection: Connection, ids: list[int]) -> dict[int, sql.Course]:
    """Load courses by id."""
    return {course.id: course for course in await sql.load_courses(connection, ids)}


@endpoint(
    "PATCH",
    "/courses/{course_id}",
    scope="manage",
    problems=[
        CourseNotFound,
        ExternalIdTaken,
        CodeTaken,
        UnknownTerm,
        MeetingDates,
        OwnRequirement,
        PreconditionFailed,
        ReservationsAboveCapacity,
    ],
)
async def edit_course(call: Call, course_id: IdInPath, body: CourseChanges, if_match: ETags) -> Course:
    """Change some fields of a course.

    The capacity may be lower than the number of seats taken: no student is removed, and no seat is free until enough
    students have left.
    """
    values, sent = split(body, CourseReadOnly.__annotations__)
    if "meetings" in body:
        values["meetings"] = MEETINGS.dump_json(list(body["meetings"])).decode()
    row = await call[REGISTRAR].submit(
        Edit(
            origin=origin_of(call),
            resource=COURSE,
            id=course_id,
            values=values,
            if_match=versions_in(if_match),
            check=expecting(sent, course_of),
        )
    )
    return course_of(row)


def replacement(
    origin: Origin,
    body: CourseReplacement,
    external_id: str,
    if_match: ETags = None,
    if_none_match: ETags = None,
) -> Replace[sql.Course, registrar.CourseFields]:
    """Return the change that creates or replaces the course with an external id."""
    return Replace(
        origin=origin,
        resource=COURSE,
        external_id=external_id,
        fields=_fields(body, external_id),
        if_match=if_match,
        if_none_match=if_none_match,
        check=expecting(sent_back(body, CourseFields, external_id), course_of),
    )


@endpoint(
    "PUT",
    "/courses/by-external-id/{external_id}",
    scope="manage",
    status=(200, 201),
    problems=[CodeTaken, UnknownTerm, MeetingDates, OwnRequirement, PreconditionFailed, ReservationsAboveCapacity],
)
async def put_course(
    call: Call, external_id: ExternalId, body: CourseReplacement, if_match: ETags, if_none_match: ETags
) -> Reply[Course]:
    """Create or replace the course with an external id.

    A field that is left out gets its default. The call is safe to repeat: the same call again changes nothing.
    """
    replaced = await call[REGISTRAR].submit(
        replacement(origin_of(call), body, external_id, versions_in(if_match), versions_in(if_none_match))
    )
    headers = {"Location": f"/courses/{replaced.row.id}"} if replaced.created else {}
    return Reply(course_of(replaced.row), 201 if replaced.created else 200, headers)


@endpoint(
    "DELETE", "/courses/{course_id}", scope="manage", status=204, problems=[CourseNotFound, InUse, PreconditionFailed]
)
async def delete_course(call: Call, course_id: IdInPath, if_match: ETags) -> None:
    """Delete a course without enrollment history.

    Its requirements are deleted too. A course with enrollment history cannot be deleted; cancel it instead.
    """
    await call[REGISTRAR].submit(
        Delete(origin=origin_of(call), resource=COURSE, id=course_id, if_match=versions_in(if_match))
    )


@endpoint("POST", "/courses/{course_id}/cancel", scope="manage", problems=[CourseNotFound], final=True)
async def cancel_course(call: Call, course_id: IdInPath, query: ReasonQuery) -> Course:
    """Cancel a course.

    All enrolled and waitlisted students are dropped, regardless of deadlines. A second call changes nothing.
    """
    return await submit(call, Cancel(origin=origin_of(call, query.reason), course_id=course_id), course_of)


@endpoint("POST", "/courses/{course_id}/reopen", scope="manage", problems=[CourseNotFound, CodeTaken])
async def reopen_course(call: Call, course_id: IdInPath, query: ReasonQuery) -> Course:
    """Reopen a cancelled course.

    Nobody is enrolled in it or waitlisted for it: the students whom the cancellation dropped can enroll again. A second call
    changes nothing.
    """
    return await submit(call, Reopen(origin=origin_of(call, query.reason), course_id=course_id), course_of)


class RequirementGroup(Input):
    """A group of course codes; any one of them satisfies the group."""

    kind: Annotated[
        RequirementKind,
        named(
            "RequirementKind",
            "`pre`: the student must have passed one of the courses. `co`: the student must have one of them, or "
            "request it together with the course. `anti`: the student must not have any of them, or request it "
            "together with the course.",
        ),
    ]
    any_of: Annotated[
        list[CourseCode],
        Field(min_length=1, max_length=50, description="Codes may refer to courses that do not exist in this service."),
    ]
    min_grade: Annotated[
        Grade | None,
        Field(
            exclude_if=lambda grade: grade is None,
            description="For `pre`: the lowest grade of the grade scale with which the course must be passed; left out "
            "if any pass is enough.",
        ),
    ] = None
    in_progress: Annotated[
        bool,
        Field(
            exclude_if=lambda allowed: not allowed,
            description="For `pre`: whether a seat in a course of the group is enough whose term ends before the term of "
            "this course begins; left out if it is not.",
        ),
    ] = False

    @model_validator(mode="after")
    def check_kind(self) -> Self:
        """Refuse the members of prerequisites in another group."""
        if self.min_grade is not None and self.kind != "pre":
            raise wrong("min_grade_of_pre", "min_grade is possible only in a group of the kind pre.")
        if self.in_progress and self.kind != "pre":
            raise wrong("in_progress_of_pre", "in_progress is possible only in a group of the kind pre.")
        return self


class Requirements(Input):
    """All requirements of a course; every group must be satisfied."""

    groups: Annotated[
        tuple[RequirementGroup, ...],
        Field(max_length=50, strict=False, description="Groups of course codes; an empty list is no requirements."),
    ]


def _distinct(codes: Sequence[str]) -> tuple[str, ...]:
    """Return sorted codes; of codes that differ only in case, keep the first."""
    first = {code_key(code): code for code in reversed(codes)}
    return tuple(sorted(first.values()))


@endpoint(
    "PUT",
    "/courses/{course_id}/requirements",
    scope="manage",
    problems=[CourseNotFound, OwnRequirement, UnknownGrade, PreconditionFailed],
    etag=True,
)
async def set_requirements(
    call: Call, course_id: IdInPath, body: Requirements, if_match: ETags, if_none_match: ETags
) -> Reply[Requirements]:
    """Set all requirements of a course; an empty list of groups removes them.

    Enrolled students keep their seats; the new requirements apply to waitlisted students.
    """
    groups = tuple(
        Group(group.kind, _distinct(group.any_of), group.min_grade, group.in_progress) for group in body.groups
    )
    change = SetRequirements(
        origin=origin_of(call),
        course_id=course_id,
        groups=groups,
        if_match=if_match,
        if_none_match=if_none_match,
    )
    return _requirements(await call[REGISTRAR].submit(change))


@endpoint("GET", "/courses/{course_id}/requirements", scope="read", problems=[CourseNotFound], etag=True)
async def read_requirements(call: Call, course_id: IdInPath) -> Reply[Requirements]:
    """Read the requirements of a course.

    A course without requirements has an empty list of groups.
    """
    async with call[DATABASE].reading() as connection:
        if await get_course(connection, course_id) is None:
            raise CourseNotFound(course_id)
        return _requirements(groups_of(await load_requirements(connection, [course_id], [])))


def _requirements(groups: tuple[Group, ...]) -> Reply[Requirements]:
    shown = tuple(
        RequirementGroup(
            kind=group.kind, any_of=list(group.codes), min_grade=group.min_grade, in_progress=group.in_progress
        )
        for group in groups
    )
    return Reply(Requirements(groups=shown), 200, {"ETag": f'"{requirements_tag(groups)}"'})
