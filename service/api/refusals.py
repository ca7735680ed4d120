"""Refusals: why enrolls, swaps and drops were refused, for some days."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, NotRequired

from pydantic import Field

from service.api.answers import CourseId, Id, StudentId
from service.api.enrollments import Blocker, Sum
from service.api.feed import text
from service.api.fields import IdInPath
from service.api.keys import DATABASE
from service.errors import CourseNotFound, StudentNotFound
from service.registrar.rules import timestamp
from service.web.endpoint import Call, endpoint
from service.web.paging import Paging, WrittenPage, decode_cursor, written_page
from service.web.schema import named
from sql import refusals as sql
from sql.courses import get_course
from sql.refusals import Action, list_refusals_of_course, list_refusals_of_student
from sql.students import get_student

NEWEST: Final = 2**63 - 1
"""Above the id of every refusal."""


class RefusalReason(Blocker):
    """One reason: the code of a rule, and its parameters; the reason of a hold is left out."""

    limit: NotRequired[
        Annotated[Sum, Field(description="Maximum number of credits that the student may hold in the term.")]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCourse:
    """A course of a refused request. All courses of one request have the same `request_id`."""

    id: Id
    occurred_at: Annotated[datetime, Field(description="When the request was refused.")]
    student_id: StudentId
    course_id: CourseId
    action: Annotated[
        Action,
        named(
            "RefusedAction", "What the request wanted to do with the course; `swap_add` and `swap_drop` are in a swap."
        ),
    ]
    reasons: Annotated[
        list[RefusalReason],
        Field(description="Every reason for this course; empty if only other courses of the request had reasons."),
    ]
    actor: Annotated[str | None, Field(description="Who sent the request; null if nobody was authenticated.")]
    on_behalf_of: Annotated[str | None, Field(description="For whom, according to `X-Actor`.")]
    request_id: Annotated[str, Field(description="The `X-Request-Id` of the request.")]


def write_refusal(row: sql.Refusal) -> str:
    """Return a refusal as the JSON of ``RefusedCourse``; its reasons are already JSON."""
    return (
        f'{{"id":{row.id},"occurred_at":"{timestamp(row.occurred_at)}","student_id":{row.student_id},'
        f'"course_id":{row.course_id},"action":"{row.action}","reasons":{row.reasons},"actor":{text(row.actor)},'
        f'"on_behalf_of":{text(row.on_behalf_of)},"request_id":{text(row.request_id)}}}'
    )


def _page(rows: list[sql.Refusal], limit: int, of: str) -> WrittenPage[RefusedCourse]:
    shown = rows[:limit]
    next_before = shown[-1].id if len(rows) > limit else None
    return written_page(f"[{','.join([write_refusal(row) for row in shown])}]", next_before, of)


@endpoint("GET", "/students/{student_id}/refusals", scope="read", problems=[StudentNotFound])
async def list_student_refusals(call: Call, student_id: IdInPath, query: Paging) -> WrittenPage[RefusedCourse]:
    """List the courses that a student was refused lately, the newest first.

    Each course of a refused enroll, swap or drop is listed within a second. Dry runs are not. An operator sets for how
    many days refusals are kept.
    """
    of = f"refusals of student {student_id}"
    before = decode_cursor(query.cursor, of) or NEWEST
    async with call[DATABASE].reading() as connection:
        rows = await list_refusals_of_student(connection, student_id, before, query.limit + 1)
        if not rows and await get_student(connection, student_id) is None:
            raise StudentNotFound(student_id)
    return _page(rows, query.limit, of)


@endpoint("GET", "/courses/{course_id}/refusals", scope="read", problems=[CourseNotFound])
async def list_course_refusals(call: Call, course_id: IdInPath, query: Paging) -> WrittenPage[RefusedCourse]:
    """List the students whom a course was refused lately, the newest first.

    As the list of a student: each course of a refused enroll, swap or drop is an item.
    """
    of = f"refusals of course {course_id}"
    before = decode_cursor(query.cursor, of) or NEWEST
    async with call[DATABASE].reading() as connection:
        rows = await list_refusals_of_course(connection, course_id, before, query.limit + 1)
        # A refusal may name a course that does not exist.
        if await get_course(connection, course_id) is None:
            raise CourseNotFound(course_id)
    return _page(rows, query.limit, of)
