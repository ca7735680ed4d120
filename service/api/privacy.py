"""The data of one person: its export and its erasure."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, TypeAdapter

from service.api.answers import CourseId, StudentId
from service.api.enrollment_types import Blocker, NamedStatus
from service.api.event_types import Event
from service.api.feed import text, write_event
from service.api.fields import IdInPath, Input, Name
from service.api.holds import Hold, hold_of
from service.api.keys import AUTHENTICATOR, DATABASE, origin_of, submit
from service.api.overrides import Override, override_of
from service.api.refusals import NEWEST, RefusedCourse, write_refusal
from service.api.students import Student, student_of
from service.errors import EmailTaken, ExternalIdTaken, SourcedIdTaken, StudentNotFound
from service.registrar.privacy import Erase
from service.registrar.rules import timestamp
from service.web.endpoint import Call, Reply, Written, endpoint
from service.web.paging import Paging, decode_cursor, encode_cursor
from service.web.problems import Invalid
from sql import Connection, privacy
from sql.holds import list_holds
from sql.merged_students import MergedStudent
from sql.overrides import list_overrides
from sql.refusals import list_refusals_of_student
from sql.students import get_student


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldEnrollment:
    """What is stored about the student in one course; its history is in `events`."""

    course_id: CourseId
    course_code: Annotated[str, Field(description="The code of the course.")]
    status: NamedStatus
    joined_at: Annotated[datetime, Field(description="When the student got the seat or was waitlisted.")]
    updated_at: Annotated[datetime, Field(description="When the enrollment last changed.")]
    passed: Annotated[bool | None, Field(description="Whether the student passed the completed course.")]
    grade: Annotated[str | None, Field(description="The grade of the completed course.")]
    passed_code: Annotated[
        str | None, Field(description="The code that the course had at its completion, if it has changed since.")
    ]
    override_id: Annotated[int | None, Field(description="The override that gave the seat; null without one.")]
    swap_drops: Annotated[list[int] | None, Field(description="The courses that a pending swap drops.")]
    blocked_by: Annotated[
        list[Blocker] | None, Field(description="Why the student was last passed over on the waitlist.")
    ]
    reserved_group: Annotated[
        str | None, Field(description="The group whose reserved seat the student has; null for any other seat.")
    ]
    requirement_lost: Annotated[
        bool, Field(description="Whether the student has lost what satisfied a requirement of the course.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A double record that was merged into the student."""

    student_id: Annotated[StudentId, Field(description="The id that the record had.")]
    external_id: Annotated[str | None, Field(description="The external id that it had; null if it had none.")]
    names: Annotated[list[str] | None, Field(description="The texts that named the student in the record.")]
    merged_at: Annotated[datetime, Field(description="When it was merged.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Everything that the service holds on a person, in pages.

    All pages have the student. The lists of the pages, put together, have everything else.
    """

    student: Student
    enrollments: Annotated[list[HeldEnrollment], Field(description="By course, in any status.")]
    holds: Annotated[list[Hold], Field(description="By id, including those that have ended.")]
    overrides: Annotated[list[Override], Field(description="By id, including used and expired ones.")]
    events: Annotated[list[Event], Field(description="The events about the student, in order.")]
    refusals: Annotated[list[RefusedCourse], Field(description="The refusals that are still kept, the newest first.")]
    duplicates: Annotated[list[Duplicate], Field(description="The double records that were merged, by id.")]
    next: Annotated[str | None, Field(description="Send it as `cursor` to get the next page; null on the last page.")]


Rows: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A list of an export: how to read its rows after a key, their keys, and their JSON."""

    read: Callable[[Connection, int, int, int], Awaitable[Rows]]
    key: str
    write: Callable[[Any], str]


STUDENT: Final = TypeAdapter(Student)
HOLD: Final = TypeAdapter(Hold)
OVERRIDE: Final = TypeAdapter(Override)


def _write_enrollment(row: privacy.HeldEnrollment) -> str:
    """Return an enrollment as the JSON of ``HeldEnrollment``; two of its members are already JSON."""
    passed = {None: "null", True: "true", False: "false"}[row.passed]
    return (
        f'{{"course_id":{row.course_id},"course_code":{text(row.course_code)},"status":"{row.status}",'
        f'"joined_at":"{timestamp(row.joined_at)}","updated_at":"{timestamp(row.updated_at)}","passed":{passed},'
        f'"grade":{text(row.grade)},"passed_code":{text(row.passed_code)},"override_id":{row.override_id or "null"},'
        f'"swap_drops":{row.swap_drops or "null"},"blocked_by":{row.blocked_by or "null"},'
        f'"reserved_group":{text(row.reserved_group)},"requirement_lost":{str(row.requirement_lost).lower()}}}'
    )


def _write_duplicate(row: MergedStudent) -> str:
    """Return a merged record as the JSON of ``Duplicate``; its names are already JSON."""
    return (
        f'{{"student_id":{row.student_id},"external_id":{text(row.external_id)},"names":{row.names or "null"},'
        f'"merged_at":"{timestamp(row.merged_at)}"}}'
    )


async def _list_refusals(connection: Connection, student_id: int, after_id: int, limit: int) -> Rows:
    """Return a page of a student's refusals after one, which is 0 for the first page."""
    return await list_refusals_of_student(connection, student_id, after_id or NEWEST, limit)


SECTIONS: Final[Mapping[str, Section]] = {
    "enrollments": Section(privacy.list_held_enrollments, "course_id", _write_enrollment),
    "holds": Section(list_holds, "id", lambda row: HOLD.dump_json(hold_of(row)).decode()),
    "overrides": Section(list_overrides, "id", lambda row: OVERRIDE.dump_json(override_of(row)).decode()),
    "events": Section(privacy.list_events_of_student, "position", write_event),
    "refusals": Section(_list_refusals, "id", write_refusal),
    "duplicates": Section(privacy.list_duplicates, "student_id", _write_duplicate),
}
"""The lists of an export, in the order in which its pages have them."""


@endpoint("GET", "/students/{student_id}/export", scope="read", problems=[StudentNotFound])
async def export_student(call: Call, student_id: IdInPath, query: Paging) -> Reply[Written[Export]]:
    """Export everything that is held on a student.

    Each page has the student and at most `limit` rows: first the enrollments, then the holds, the overrides, the
    events, the refusals and the merged duplicates. A caller with the scope `self` can export its own student.
    """
    section, after = _place(query.cursor, student_id)
    lists = dict.fromkeys(SECTIONS, "")
    room, cursor = query.limit, None
    async with call[DATABASE].viewing() as connection:
        student = await get_student(connection, student_id)
        if student is None:
            raise StudentNotFound(student_id)
        for name in [*SECTIONS][section:]:
            its = SECTIONS[name]
            rows = await its.read(connection, student_id, after, room + 1)
            shown = rows[:room]
            lists[name] = ",".join([its.write(row) for row in shown])
            if len(rows) > room:
                cursor = encode_cursor(_list_name(name, student_id), getattr(shown[-1], its.key) if shown else after)
                break
            room, after = room - len(shown), 0
    members = ",".join([f'"{name}":[{items}]' for name, items in lists.items()])
    json = (
        f'{{"student":{STUDENT.dump_json(student_of(student)).decode()},{members},'
        f'"next":{"null" if cursor is None else text(cursor)}}}'
    )
    link = {} if cursor is None else {"Link": f'<{call.request.rel_url.update_query(cursor=cursor)}>; rel="next"'}
    return Reply(Written(json), 200, link)


def _place(cursor: str | None, student_id: int) -> tuple[int, int]:
    """Return the number of the section with which a page begins, and the key after which it begins.

    Raises:
        Invalid: the cursor belongs to another list, or is malformed.
    """
    for number, name in enumerate(SECTIONS):
        try:
            return number, decode_cursor(cursor, _list_name(name, student_id))
        except Invalid:
            if number == len(SECTIONS) - 1:
                raise
    raise AssertionError("an export has sections")


def _list_name(section: str, student_id: int) -> str:
    return f"{section} of the export of {student_id}"


class Erasure(Input):
    """The reason of an erasure."""

    reason: Annotated[
        Name, Field(description="Why the student is erased. It is kept: don't name the student.", examples=["Art. 17"])
    ]


@endpoint(
    "POST",
    "/students/{student_id}/erase",
    scope="admin",
    problems=[StudentNotFound, EmailTaken, ExternalIdTaken, SourcedIdTaken],
    final=True,
)
async def erase_student(call: Call, student_id: IdInPath, body: Erasure) -> Student:
    """Erase the identifying data of a student.

    A pseudonym replaces names, e-mail address, external id and sourced id; the groups are removed. The reasons of
    holds, overrides and events, the authors of overrides and what `X-Actor` said are replaced too. Enrollments, grades,
    seats and the feed stay. A second call changes nothing if no such data was added meanwhile.
    """
    change = Erase(origin=origin_of(call, body.reason), student_id=student_id)
    answer = await submit(call, change, student_of)
    # A token of the student names a student who can't be found any more.
    call[AUTHENTICATOR].forget(call.caller.institution)
    return answer
