"""Instructors and the courses that they teach: request and answer models, and handlers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, with_config

from service.api.answers import CourseId, CreatedAt, Id, UpdatedAt, Version
from service.api.courses import Course, course_of, find
from service.api.fields import Email, ExternalId, IdInBody, IdInPath, IdInQuery, Input, SourcedId
from service.api.keys import DATABASE, REGISTRAR, origin_of, submit
from service.api.read_only import READ_ONLY, ReadOnly, ReadOnlyFields, expecting, sent_back, split
from service.api.students import FamilyName, GivenName
from service.errors import (
    CourseNotFound,
    EmailTaken,
    ExternalIdTaken,
    InstructorNotFound,
    InUse,
    NameRequired,
    PreconditionFailed,
    SourcedIdTaken,
    UnknownInstructor,
)
from service.registrar import instructors as registrar
from service.registrar.instructors import INSTRUCTOR, SetInstructors, Teacher, teachers_tag, teaching_of
from service.registrar.resources import Create, Delete, Edit, Replace
from service.web.endpoint import Call, Reply, endpoint
from service.web.etags import ETags
from service.web.paging import Page, Paging, decode_cursor, list_name, page_of
from service.web.validation import wrong
from sql import course_instructors
from sql import instructors as sql
from sql.courses import get_course

MAX_INSTRUCTORS: Final = 50
"""The most instructors of one course: more than the assistants of the largest lecture."""


class InstructorFields(Input):
    """The writable fields of an instructor except the external id and the sourced id."""

    given_name: GivenName = None
    family_name: FamilyName = None
    email: Email | None = None


class NewInstructor(InstructorFields):
    """An instructor to create."""

    external_id: ExternalId | None = None
    sourced_id: SourcedId | None = None


class InstructorReadOnly(ReadOnly, total=False):
    """The read-only members of an instructor, for a merge patch."""

    sourced_id: Annotated[SourcedId, READ_ONLY]


@with_config(ConfigDict(extra="forbid", strict=True))
class InstructorChanges(InstructorReadOnly, total=False):
    """A JSON merge patch (RFC 7396): an absent field keeps its value, and null removes a value."""

    external_id: ExternalId | None
    given_name: GivenName
    family_name: FamilyName
    email: Email | None


class InstructorReplacement(InstructorFields, ReadOnlyFields):
    """An instructor to create or replace. A field that is left out gets its default; only the sourced id stays."""

    sourced_id: SourcedId | None = None


class InstructorQuery(Paging):
    """A page of instructors, and filters, each of which matches at most one instructor."""

    email: Annotated[Email | None, Field(description="Only the instructor with this address; case is ignored.")] = None
    external_id: Annotated[ExternalId | None, Field(description="Only the instructor with this external id.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructor:
    """A person who teaches."""

    id: Id
    external_id: Annotated[str | None, Field(description="The caller's own key; null if the instructor has none.")]
    sourced_id: Annotated[str, Field(description="The key of the instructor for other programs; it never changes.")]
    given_name: Annotated[str | None, Field(description="The given name or names; null if there are none.")]
    family_name: Annotated[str | None, Field(description="The family name or names; null if there are none.")]
    email: Annotated[
        str | None,
        Field(description="Unique among instructors; the case of ASCII letters is ignored. Null if there is none."),
    ]
    version: Version
    created_at: CreatedAt
    updated_at: UpdatedAt


def instructor_of(row: sql.Instructor) -> Instructor:
    """Convert a row to the instructor that the API returns."""
    return Instructor(
        id=row.id,
        external_id=row.external_id,
        sourced_id=row.sourced_id,
        given_name=row.given_name,
        family_name=row.family_name,
        email=row.email,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _fields(body: NewInstructor | InstructorReplacement, external_id: str | None) -> registrar.InstructorFields:
    return {
        "external_id": external_id,
        "sourced_id": body.sourced_id,
        "given_name": body.given_name,
        "family_name": body.family_name,
        "email": body.email,
    }


@endpoint(
    "POST",
    "/instructors",
    scope="manage",
    status=201,
    problems=[EmailTaken, ExternalIdTaken, NameRequired, SourcedIdTaken],
)
async def create_instructor(call: Call, body: NewInstructor) -> Reply[Instructor]:
    """Create an instructor.

    A given name or a family name is required. The e-mail address and the external id, if given, must be unique among
    instructors, and the sourced id among instructors and students.
    """
    change = Create(origin=origin_of(call), resource=INSTRUCTOR, fields=_fields(body, body.external_id))
    return await submit(
        call, change, lambda row: Reply(instructor_of(row), 201, {"Location": f"/instructors/{row.id}"})
    )


@endpoint("GET", "/instructors", scope="read")
async def search_instructors(call: Call, query: InstructorQuery) -> Page[Instructor]:
    """List instructors by id, or find one by e-mail address or by external id.

    The list contains the instructors that match every filter; it is empty if there are none.
    """
    of = list_name("instructors", query)
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        if query.email is not None:
            found = await sql.find_instructors_by_email(connection, query.email)
            found = [row for row in found if query.external_id in {None, row.external_id}]
        elif query.external_id is not None:
            found = await sql.find_instructors_by_external_id(connection, query.external_id)
        else:
            found = await sql.list_instructors(connection, after, query.limit + 1)
    return page_of([instructor_of(row) for row in found], query.limit, of, lambda each: each.id)


@endpoint("GET", "/instructors/by-external-id/{external_id}", scope="read", problems=[InstructorNotFound])
async def read_instructor_by_external_id(call: Call, external_id: ExternalId) -> Instructor:
    """Read the instructor with an external id.

    The ETag is the version of the instructor, for `If-Match`.
    """
    async with call[DATABASE].reading() as connection:
        found = await sql.find_instructors_by_external_id(connection, external_id)
    if not found:
        raise InstructorNotFound(external_id=external_id)
    return instructor_of(found[0])


@endpoint("GET", "/instructors/{instructor_id}", scope="read", problems=[InstructorNotFound])
async def read_instructor(call: Call, instructor_id: IdInPath) -> Instructor:
    """Read an instructor.

    The ETag is the version of the instructor, for `If-Match`.
    """
    async with call[DATABASE].reading() as connection:
        row = await sql.get_instructor(connection, instructor_id)
    if row is None:
        raise InstructorNotFound(instructor_id)
    return instructor_of(row)


@endpoint(
    "PATCH",
    "/instructors/{instructor_id}",
    scope="manage",
    problems=[InstructorNotFound, EmailTaken, ExternalIdTaken, NameRequired, PreconditionFailed],
)
async def edit_instructor(call: Call, instructor_id: IdInPath, body: InstructorChanges, if_match: ETags) -> Instructor:
    """Change some fields of an instructor.

    The body is a JSON merge patch: an absent field keeps its value, and null removes a value.
    """
    values, sent = split(body, InstructorReadOnly.__annotations__)
    row = await call[REGISTRAR].submit(
        Edit(
            origin=origin_of(call),
            resource=INSTRUCTOR,
            id=instructor_id,
            values=values,
            if_match=if_match,
            check=expecting(sent, instructor_of),
        )
    )
    return instructor_of(row)


@endpoint(
    "PUT",
    "/instructors/by-external-id/{external_id}",
    scope="manage",
    status=(200, 201),
    problems=[EmailTaken, NameRequired, PreconditionFailed, SourcedIdTaken],
)
async def put_instructor(
    call: Call, external_id: ExternalId, body: InstructorReplacement, if_match: ETags, if_none_match: ETags
) -> Reply[Instructor]:
    """Create or replace the instructor with an external id.

    A field that is left out gets its default; only the sourced id stays as it is. The call is safe to repeat: the same
    call again changes nothing.
    """
    replaced = await call[REGISTRAR].submit(
        Replace(
            origin=origin_of(call),
            resource=INSTRUCTOR,
            external_id=external_id,
            fields=_fields(body, external_id),
            if_match=if_match,
            if_none_match=if_none_match,
            check=expecting(sent_back(body, InstructorFields, external_id), instructor_of),
        )
    )
    headers = {"Location": f"/instructors/{replaced.row.id}"} if replaced.created else {}
    return Reply(instructor_of(replaced.row), 201 if replaced.created else 200, headers)


@endpoint(
    "DELETE",
    "/instructors/{instructor_id}",
    scope="manage",
    status=204,
    problems=[InstructorNotFound, InUse, PreconditionFailed],
)
async def delete_instructor(call: Call, instructor_id: IdInPath, if_match: ETags) -> None:
    """Delete an instructor who has never been an instructor of a course.

    An instructor who teaches or taught a course cannot be deleted; change the names instead.
    """
    await call[REGISTRAR].submit(
        Delete(origin=origin_of(call), resource=INSTRUCTOR, id=instructor_id, if_match=if_match)
    )


Primary: TypeAlias = Annotated[
    bool, Field(description="Whether the instructor is the primary one, who is responsible for the course.")
]
InstructorId: TypeAlias = Annotated[IdInBody, Field(description="The id of the instructor.")]


class Assignment(Input):
    """An instructor who shall teach a course."""

    instructor_id: InstructorId
    primary: Primary = False


def _with_one_primary(assignments: tuple[Assignment, ...]) -> tuple[Assignment, ...]:
    if len({each.instructor_id for each in assignments}) < len(assignments):
        raise wrong("repeated_instructor", "{field} must name each instructor once.")
    if assignments and sum(each.primary for each in assignments) != 1:
        raise wrong("one_primary", "{field} must have exactly one primary instructor, unless it is empty.")
    return assignments


class Assignments(Input):
    """All instructors who shall teach a course."""

    instructors: Annotated[
        tuple[Assignment, ...],
        Field(
            max_length=MAX_INSTRUCTORS,
            strict=False,
            description="The instructors, exactly one of them primary; an empty list removes all.",
        ),
        AfterValidator(_with_one_primary),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseInstructor:
    """An instructor of a course."""

    instructor_id: Annotated[int, Field(description="The id of the instructor.")]
    primary: Primary
    instructor: Instructor


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseInstructors:
    """The instructors of a course."""

    instructors: Annotated[list[CourseInstructor], Field(description="The primary one first, the others by id.")]


def _shown(teachers: Iterable[Teacher]) -> Reply[CourseInstructors]:
    teachers = [*teachers]
    shown = [
        CourseInstructor(instructor_id=row.id, primary=is_primary, instructor=instructor_of(row))
        for row, is_primary in teachers
    ]
    return Reply(CourseInstructors(instructors=shown), 200, {"ETag": f'"{teachers_tag(teachers)}"'})


@endpoint(
    "PUT",
    "/courses/{course_id}/instructors",
    scope="manage",
    problems=[CourseNotFound, UnknownInstructor, PreconditionFailed],
    etag=True,
)
async def set_instructors(
    call: Call, course_id: IdInPath, body: Assignments, if_match: ETags, if_none_match: ETags
) -> Reply[CourseInstructors]:
    """Set all instructors of a course; an empty list removes them.

    Exactly one of them is primary. The same call again changes nothing.
    """
    change = SetInstructors(
        origin=origin_of(call),
        course_id=course_id,
        primary={each.instructor_id: each.primary for each in body.instructors},
        if_match=if_match,
        if_none_match=if_none_match,
    )
    return _shown(await call[REGISTRAR].submit(change))


@endpoint("GET", "/courses/{course_id}/instructors", scope="read", problems=[CourseNotFound], etag=True)
async def read_instructors(call: Call, course_id: IdInPath) -> Reply[CourseInstructors]:
    """Read the instructors of a course, the primary one first.

    The ETag changes with the list and with the fields of the instructors.
    """
    async with call[DATABASE].viewing() as connection:
        rows = teaching_of(await course_instructors.load_course_instructors(connection, [course_id]))
        if not rows and await get_course(connection, course_id) is None:
            raise CourseNotFound(course_id)
        found = await sql.load_instructors(connection, [row.instructor_id for row in rows]) if rows else []
    by_id = {row.id: row for row in found}
    return _shown([Teacher(by_id[row.instructor_id], row.is_primary) for row in rows])


class TaughtQuery(Paging):
    """A page of the courses of an instructor."""

    term_id: Annotated[IdInQuery | None, Field(description="Only courses in this term.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtCourse:
    """A course that an instructor teaches."""

    course_id: CourseId
    primary: Primary
    course: Course


@endpoint("GET", "/instructors/{instructor_id}/courses", scope="read", problems=[InstructorNotFound])
async def list_instructor_courses(call: Call, instructor_id: IdInPath, query: TaughtQuery) -> Page[TaughtCourse]:
    """List the courses that an instructor teaches, by id, the cancelled ones too.

    Courses from which the instructor was removed are not in the list.
    """
    of = f"courses of instructor {instructor_id}" + ("" if query.term_id is None else f" in term {query.term_id}")
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].viewing() as connection:
        if query.term_id is None:
            rows = await course_instructors.list_courses_of_instructor(
                connection, instructor_id, after, query.limit + 1
            )
        else:
            rows = await course_instructors.list_courses_of_instructor_in_term(
                connection, instructor_id, query.term_id, after, query.limit + 1
            )
        if not rows and await sql.get_instructor(connection, instructor_id) is None:
            raise InstructorNotFound(instructor_id)
        courses = await find(connection, [row.course_id for row in rows]) if rows else {}
    taught = [TaughtCourse(course_id=id, primary=is_primary, course=course_of(courses[id])) for id, is_primary in rows]
    return page_of(taught, query.limit, of, lambda each: each.course_id)
