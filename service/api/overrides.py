"""Overrides, each of which lifts one rule for one student and one course, once: models and handlers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TypeAlias, cast

from pydantic import Field

from service.api.answers import CourseId, CreatedAt, Id, StudentId
from service.api.fields import IdInBody, IdInPath, Input, Instant, Name
from service.api.keys import DATABASE, REGISTRAR, origin_of, submit
from service.errors import OverrideNotFound, StudentNotFound, UnknownCourse
from service.registrar.overrides import EndOverride, GrantOverride
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.schema import named
from sql import overrides as sql
from sql.students import get_student

OverridableRule: TypeAlias = Annotated[
    Literal[
        "enrollment_not_open",
        "enrollment_closed",
        "hold",
        "prerequisite_missing",
        "corequisite_missing",
        "antirequisite",
        "duplicate_course",
        "time_conflict",
        "credit_limit",
        "seats_reserved",
        "course_full",
        "waitlist_full",
        "drop_closed",
        "corequisite_needed",
    ],
    named("OverridableRule", "A rule that an override can lift, named by the code of its refusals."),
]


class NewOverride(Input):
    """An override to grant."""

    course_id: Annotated[IdInBody, Field(description="The id of the course.")]
    rule: Annotated[
        OverridableRule,
        Field(description="The rule to lift; `course_full` gives a seat above capacity."),
    ]
    author: Annotated[Name, Field(description="Who authorized the override.")]
    reason: Annotated[Name, Field(description="Why the override is granted.")]
    expires_at: Annotated[
        Instant | None, Field(description="Until when the override can be used; null is no expiry.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An override, which lifts one rule for one student and one course, once."""

    id: Id
    student_id: StudentId
    course_id: CourseId
    rule: OverridableRule
    author: Annotated[str, Field(description="Who authorized the override.")]
    reason: Annotated[str, Field(description="Why the override was granted.")]
    expires_at: Annotated[datetime | None, Field(description="Until when the override can be used; null is no expiry.")]
    used_at: Annotated[datetime | None, Field(description="When the override was used; null if it was not.")]
    created_at: CreatedAt


def override_of(row: sql.Override) -> Override:
    """Convert a row to the override that the API returns."""
    return Override(
        id=row.id,
        student_id=row.student_id,
        course_id=row.course_id,
        rule=cast(OverridableRule, row.rule),
        author=row.author,
        reason=row.reason,
        expires_at=row.expires_at,
        used_at=row.used_at,
        created_at=row.created_at,
    )


@endpoint(
    "POST", "/students/{student_id}/overrides", scope="override", status=201, problems=[StudentNotFound, UnknownCourse]
)
async def grant_override(call: Call, student_id: IdInPath, body: NewOverride) -> Reply[Override]:
    """Lift one rule for a student and a course, once.

    The override is used when the student gets or drops a seat that the rule would otherwise refuse. If the student is
    waitlisted for the course, the override applies immediately.
    """
    change = GrantOverride(
        origin=origin_of(call),
        student_id=student_id,
        course_id=body.course_id,
        rule=body.rule,
        author=body.author,
        reason=body.reason,
        expires_at=body.expires_at,
    )
    return await submit(call, change, lambda row: Reply(override_of(row), 201))


@endpoint("GET", "/students/{student_id}/overrides", scope="read", problems=[StudentNotFound])
async def list_student_overrides(call: Call, student_id: IdInPath, query: Paging) -> Page[Override]:
    """List a student's overrides by id, including used and expired overrides.

    An override lifts its rule until it is used or expires.
    """
    of = f"overrides of {student_id}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await sql.list_overrides(connection, student_id, after, query.limit + 1)
        if not rows and await get_student(connection, student_id) is None:
            raise StudentNotFound(student_id)
    return page_of([override_of(row) for row in rows], query.limit, of, lambda override: override.id)


@endpoint(
    "DELETE",
    "/students/{student_id}/overrides/{override_id}",
    scope="override",
    problems=[StudentNotFound, OverrideNotFound],
)
async def end_override(call: Call, student_id: IdInPath, override_id: IdInPath) -> Override:
    """End an override now.

    The override stays in the list. If it was used, the student keeps the seat, and nothing changes.
    """
    row = await call[REGISTRAR].submit(
        EndOverride(origin=origin_of(call), student_id=student_id, override_id=override_id)
    )
    return override_of(row)
