"""Refusals: why enrolls, swaps and drops were refused, for some days."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, NotRequired

from pydantic import BaseModel, ConfigDict, Field

from service.api.answers import CourseId, Id, StudentId
from service.api.enrollment_types import Reason, RefusalCode, Sum
from service.api.enrollments import explain
from service.api.feed import text
from service.api.fields import IdInPath, IdInQuery
from service.api.keys import DATABASE
from service.errors import CourseNotFound, StudentNotFound
from service.registrar.refusals import encode
from service.registrar.rules import timestamp
from service.web.endpoint import Call, endpoint
from service.web.paging import Digits, Paging, WrittenPage, decode_cursor, written_page
from service.web.schema import named
from sql import refusals as sql
from sql.courses import get_course
from sql.feed import get_now
from sql.refusals import Action, count_refusals, list_refusals_of_course, list_refusals_of_student
from sql.students import get_student

NEWEST: Final = 2**63 - 1
"""Above the id of every refusal."""

FOREVER: Final = timedelta(days=365_000)
"""An interval that contains every refusal."""

COUNTED_REFUSALS: Final = 10_000
"""The newest refusals that a call counts, in about 20 ms."""


class RefusalReason(Reason):
    """One reason: the code of a rule, its parameters and a message; the reason of a hold is left out."""

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
    """Return a refusal as the JSON of ``RefusedCourse``."""
    reasons = encode(explain(row.course_id, json.loads(row.reasons)))
    return (
        f'{{"id":{row.id},"occurred_at":"{timestamp(row.occurred_at)}","student_id":{row.student_id},'
        f'"course_id":{row.course_id},"action":"{row.action}","reasons":{reasons},"actor":{text(row.actor)},'
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


class CountsQuery(BaseModel):
    """Which refusals to count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: Annotated[
        int, Field(ge=1, le=86_400, description="Only refusals of this many seconds until now."), Digits
    ] = 3600
    interval: Annotated[
        int | None,
        Field(ge=1, le=86_400, description="Count each interval of this many seconds on its own."),
        Digits,
    ] = None
    term_id: Annotated[IdInQuery | None, Field(description="Only refusals of courses in this term.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalCount:
    """How often a rule refused a course in an interval."""

    at: Annotated[datetime, Field(description="When the interval begins.")]
    code: RefusalCode
    count: Annotated[int, Field(description="Number of refused courses with this reason.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalCounts:
    """How often each rule refused a course lately."""

    since: Annotated[
        datetime,
        Field(
            description="Refusals from this instant on are counted. It is later than requested if more than 10,000 were "
            "refused since then: only the newest are counted."
        ),
    ]
    until: Annotated[datetime, Field(description="The instant of the count.")]
    items: Annotated[
        list[RefusalCount],
        Field(
            description="The counts that are not 0, by interval and code. A course with two reasons counts for both."
        ),
    ]


@endpoint("GET", "/refusals/counts", scope="read")
async def read_refusal_counts(call: Call, query: CountsQuery) -> RefusalCounts:
    """Count the refusals of the last hour by their reasons.

    With `interval` the counts show how the refusals change over time. At most the newest 10,000 refusals are counted.
    """
    async with call[DATABASE].viewing() as connection:
        now = await get_now(connection)
        since = now - timedelta(seconds=query.seconds)
        interval = FOREVER if query.interval is None else timedelta(seconds=query.interval)
        rows = await count_refusals(connection, COUNTED_REFUSALS, since, interval, query.term_id)
    since = max([since, *(row.examined_since for row in rows[:1] if row.examined_since is not None)])
    items = [RefusalCount(at=max(row.at, since), code=row.code, count=row.refusals) for row in rows]
    return RefusalCounts(since=since, until=now, items=items)
