"""Overrides: each lifts one rule for one student and one course, once."""

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field

from service.api.fields import IdInBody, IdInPath, Input, Instant, Name
from service.api.keys import DATABASE, REGISTRAR, origin_of
from service.errors import OverrideNotFound, StudentNotFound, UnknownCourse
from service.registrar.overrides import EndOverride, GrantOverride
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from sql.overrides import Override, list_overrides
from sql.students import get_student

OverridableRule: TypeAlias = Literal[
    "enrollment_not_open",
    "enrollment_closed",
    "hold",
    "prerequisite_missing",
    "corequisite_missing",
    "antirequisite",
    "time_conflict",
    "credit_limit",
    "course_full",
    "waitlist_full",
    "drop_closed",
]


class NewOverride(Input):
    """An override to grant."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"course_id": 1, "rule": "course_full", "author": "Dean Hopper", "reason": "Needs it to graduate"}
            ]
        }
    )

    course_id: IdInBody
    rule: Annotated[
        OverridableRule,
        Field(description="The code that refusals by this rule carry. One for course_full seats above capacity."),
    ]
    author: Annotated[Name, Field(description="Who answers for it.")]
    reason: Name
    expires_at: Instant | None = None


@endpoint("POST", "/students/{student_id}/overrides", status=201, problems=[StudentNotFound, UnknownCourse])
async def grant_override(call: Call, student_id: IdInPath, body: NewOverride) -> Reply[Override]:
    """Lift one rule for a student and a course, once; if the student waits for the course, it counts at once."""
    override = await call[REGISTRAR].submit(
        GrantOverride(
            origin=origin_of(call),
            student_id=student_id,
            course_id=body.course_id,
            rule=body.rule,
            author=body.author,
            reason=body.reason,
            expires_at=body.expires_at,
        )
    )
    return Reply(override, 201)


@endpoint("GET", "/students/{student_id}/overrides", problems=[StudentNotFound])
async def list_student_overrides(call: Call, student_id: IdInPath, query: Paging) -> Page[Override]:
    """List a student's overrides by id, used and expired ones too."""
    of = f"overrides of {student_id}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await list_overrides(connection, student_id, after, query.limit + 1)
        if not rows and await get_student(connection, student_id) is None:
            raise StudentNotFound(student_id)
    return page_of(rows, query.limit, of, lambda override: override.id)


@endpoint("DELETE", "/students/{student_id}/overrides/{override_id}", problems=[StudentNotFound, OverrideNotFound])
async def end_override(call: Call, student_id: IdInPath, override_id: IdInPath) -> Override:
    """End an override now. It stays listed; one that was used keeps its seat."""
    return await call[REGISTRAR].submit(
        EndOverride(origin=origin_of(call), student_id=student_id, override_id=override_id)
    )
