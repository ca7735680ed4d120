"""Courses: what callers send and see of them, and the handlers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from service.errors import CourseNotFound, Detail, ExternalIdTaken, InUse, PreconditionFailed
from service.keys import DATABASE, REGISTRAR
from service.registrar.changes import Create, Delete, Edit, Origin, Replace
from service.values import Capacity, CourseCode, Credits, ExternalId, IdInPath, Input, Name
from service.web.endpoint import Call, ETags, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.problems import invalid
from sql import courses as sql
from sql.courses import get_course, list_courses, list_courses_by_code


class CourseFields(Input):
    """All of a course that a caller writes, but the external id."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"code": "MATH101", "title": "Calculus I", "credits": 4, "capacity": 30}]}
    )

    code: CourseCode
    title: Name
    credits: Credits = 0.0
    capacity: Capacity | None = None


class NewCourse(CourseFields):
    """A course to create."""

    external_id: ExternalId | None = None


@with_config(ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"capacity": 40}]}))
class CourseChanges(TypedDict, total=False):
    """A JSON merge patch (RFC 7396): what is absent stays as it is, null removes."""

    external_id: ExternalId | None
    code: CourseCode
    title: Name
    credits: Credits
    capacity: Capacity | None


class CourseQuery(Paging):
    """A page, perhaps filtered by one thing."""

    code: Annotated[CourseCode | None, Field(description="Only courses with this code.")] = None
    external_id: Annotated[ExternalId | None, Field(description="Only the course with this external id.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A course: one offering."""

    id: int
    external_id: str | None
    code: str
    title: str
    credits: Credits
    capacity: Annotated[int | None, Field(description="Seats: null is unlimited, 0 is closed.")]
    seats_taken: int
    seats_free: Annotated[int | None, Field(description="Seats to be had now: null is unlimited.")]
    version: Annotated[int, Field(description="Counts the changes of the editable fields, not those of the seats.")]
    created_at: datetime
    updated_at: datetime


def course_of(row: sql.Course) -> Course:
    """Show a row as callers see it."""
    return Course(
        id=row.id,
        external_id=row.external_id,
        code=row.code,
        title=row.title,
        credits=row.credits,
        capacity=row.capacity,
        seats_taken=row.seats_taken,
        seats_free=None if row.capacity is None else max(0, row.capacity - row.seats_taken),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


@endpoint("POST", "/courses", status=201, problems=[ExternalIdTaken])
async def create_course(call: Call, body: NewCourse) -> Reply[Course]:
    """Create a course."""
    row = await call[REGISTRAR].submit(
        Create(origin=Origin(call.request_id, call.actor), thing=sql.Course, values=dict(body))
    )
    return Reply(course_of(row), 201, {"Location": f"/courses/{row.id}"})


@endpoint("GET", "/courses")
async def search_courses(call: Call, query: CourseQuery) -> Page[Course]:
    """List courses by id, all of them or those with a code, or find one by external id."""
    if query.code is not None and query.external_id is not None:
        raise invalid([Detail("too_many_filters", "Take one filter a call.", parameter="external_id")])
    of = "courses" if query.code is None else f"courses {query.code}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        if query.external_id is not None:
            rows = await sql.find_courses_by_external_id(connection, query.external_id)
        elif query.code is not None:
            rows = await list_courses_by_code(connection, query.code, after, query.limit + 1)
        else:
            rows = await list_courses(connection, after, query.limit + 1)
    return page_of([course_of(row) for row in rows], query.limit, of, lambda course: course.id)


@endpoint("GET", "/courses/{course_id}", problems=[CourseNotFound])
async def read_course(call: Call, course_id: IdInPath) -> Course:
    """Read a course, with its seats."""
    async with call[DATABASE].reading() as connection:
        row = await get_course(connection, course_id)
    if row is None:
        raise CourseNotFound(course_id)
    return course_of(row)


@endpoint("PATCH", "/courses/{course_id}", problems=[CourseNotFound, ExternalIdTaken, PreconditionFailed])
async def edit_course(call: Call, course_id: IdInPath, body: CourseChanges, if_match: ETags) -> Course:
    """Change some fields of a course.

    A capacity below the seats taken is allowed: nobody is removed, and no seat is free until the number falls.
    """
    row = await call[REGISTRAR].submit(
        Edit(
            origin=Origin(call.request_id, call.actor),
            thing=sql.Course,
            id=course_id,
            values=body,
            if_match=if_match,
        )
    )
    return course_of(row)


@endpoint("PUT", "/courses/by-external-id/{external_id}", status=(200, 201), problems=[PreconditionFailed])
async def put_course(
    call: Call, external_id: ExternalId, body: CourseFields, if_match: ETags, if_none_match: ETags
) -> Reply[Course]:
    """Create or replace the course with an external id.

    What the body leaves away is set to its default. Safe to repeat: the same call again changes nothing.
    """
    replaced = await call[REGISTRAR].submit(
        Replace(
            origin=Origin(call.request_id, call.actor),
            thing=sql.Course,
            external_id=external_id,
            values=dict(body),
            if_match=if_match,
            if_none_match=if_none_match,
        )
    )
    headers = {"Location": f"/courses/{replaced.thing.id}"} if replaced.created else {}
    return Reply(course_of(replaced.thing), 201 if replaced.created else 200, headers)


@endpoint("DELETE", "/courses/{course_id}", status=204, problems=[CourseNotFound, InUse, PreconditionFailed])
async def delete_course(call: Call, course_id: IdInPath, if_match: ETags) -> None:
    """Delete a course that nobody was ever enrolled in."""
    await call[REGISTRAR].submit(
        Delete(origin=Origin(call.request_id, call.actor), thing=sql.Course, id=course_id, if_match=if_match)
    )
