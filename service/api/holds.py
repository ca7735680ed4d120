"""Holds: what keeps a student from enrolling or dropping."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from service.api.answers import CreatedAt, Id, StudentId
from service.api.fields import IdInPath, Input, Instant, Name
from service.api.keys import DATABASE, REGISTRAR, origin_of
from service.errors import HoldNotFound, StudentNotFound
from service.registrar.holds import EndHold, PlaceHold
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.schema import named
from service.web.validation import wrong
from sql import holds as sql
from sql.holds import list_holds
from sql.students import get_student

Blocked: TypeAlias = Annotated[Literal["enroll", "drop"], named("Blocked", "What a hold keeps a student from.")]


class NewHold(Input):
    """A hold to place: in force from `from` until `until`, each open where null."""

    reason: Annotated[Name, Field(description="Why; shown to the student, and in no event.")]
    blocks: Annotated[
        list[Blocked],
        Field(min_length=1, max_length=2, description="What it keeps the student from."),
    ]
    starts_at: Annotated[Instant | None, Field(alias="from", description="Null: since ever.")] = None
    ends_at: Annotated[Instant | None, Field(alias="until", description="Null: without an end.")] = None

    @model_validator(mode="after")
    def check_order(self) -> Self:
        """Refuse a hold that ends before it begins."""
        if self.starts_at is not None and self.ends_at is not None and self.starts_at > self.ends_at:
            raise wrong("hold_dates", "from must not be after until.")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold on a student."""

    __pydantic_config__ = ConfigDict(serialize_by_alias=True)

    id: Id
    student_id: StudentId
    reason: Annotated[str, Field(description="Why; shown to the student, and in no event.")]
    blocks: Annotated[list[Blocked], Field(description="What it keeps the student from.")]
    starts_at: Annotated[datetime | None, Field(serialization_alias="from", description="Null: since ever.")]
    ends_at: Annotated[datetime | None, Field(serialization_alias="until", description="Null: without an end.")]
    created_at: CreatedAt


def hold_of(row: sql.Hold) -> Hold:
    """Show a row as callers see it."""
    blocks: list[Blocked] = []
    if row.blocks_enroll:
        blocks.append("enroll")
    if row.blocks_drop:
        blocks.append("drop")
    return Hold(
        id=row.id,
        student_id=row.student_id,
        reason=row.reason,
        blocks=blocks,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        created_at=row.created_at,
    )


@endpoint("POST", "/students/{student_id}/holds", scope="override", status=201, problems=[StudentNotFound])
async def place_hold(call: Call, student_id: IdInPath, body: NewHold) -> Reply[Hold]:
    """Place a hold on a student.

    The student keeps all seats and waitlist places, and is passed over on waitlists while a hold blocks enrolling.
    """
    row = await call[REGISTRAR].submit(
        PlaceHold(
            origin=origin_of(call),
            student_id=student_id,
            reason=body.reason,
            blocks_enroll="enroll" in body.blocks,
            blocks_drop="drop" in body.blocks,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
        )
    )
    return Reply(hold_of(row), 201)


@endpoint("GET", "/students/{student_id}/holds", scope="read", problems=[StudentNotFound])
async def list_student_holds(call: Call, student_id: IdInPath, query: Paging) -> Page[Hold]:
    """List a student's holds by id, those that have ended too.

    A hold is in force from `from` until `until`.
    """
    of = f"holds of {student_id}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        rows = await list_holds(connection, student_id, after, query.limit + 1)
        if not rows and await get_student(connection, student_id) is None:
            raise StudentNotFound(student_id)
    return page_of([hold_of(row) for row in rows], query.limit, of, lambda hold: hold.id)


@endpoint(
    "DELETE", "/students/{student_id}/holds/{hold_id}", scope="override", problems=[StudentNotFound, HoldNotFound]
)
async def end_hold(call: Call, student_id: IdInPath, hold_id: IdInPath) -> Hold:
    """End a hold now, or where it would begin if it has not begun yet.

    A waitlisted student who becomes eligible gets the seat in the same transaction. The hold stays listed, and ending
    it again changes nothing.
    """
    return hold_of(
        await call[REGISTRAR].submit(EndHold(origin=origin_of(call), student_id=student_id, hold_id=hold_id))
    )
