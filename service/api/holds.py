"""Holds, which block a student from enrolling or dropping: models and handlers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from service.api.answers import CreatedAt, Id, StudentId
from service.api.fields import IdInPath, Input, Instant, Name
from service.api.keys import DATABASE, REGISTRAR, origin_of, submit
from service.errors import HoldNotFound, StudentNotFound
from service.registrar.holds import EndHold, PlaceHold
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.schema import named
from service.web.validation import wrong
from sql import holds as sql
from sql.holds import list_holds
from sql.students import get_student

Blocked: TypeAlias = Annotated[Literal["enroll", "drop"], named("Blocked", "An action that a hold blocks.")]


class NewHold(Input):
    """A hold to place. It is in force from `from` until `until`; null leaves that side open."""

    reason: Annotated[Name, Field(description="The reason; shown to the student, and not recorded in events.")]
    blocks: Annotated[
        list[Blocked],
        Field(min_length=1, max_length=2, description="The actions that the hold blocks."),
    ]
    starts_at: Annotated[Instant | None, Field(alias="from", description="Start of the hold; null is no start.")] = None
    ends_at: Annotated[Instant | None, Field(alias="until", description="End of the hold; null is no end.")] = None

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
    reason: Annotated[str, Field(description="The reason; shown to the student, and not recorded in events.")]
    blocks: Annotated[list[Blocked], Field(description="The actions that the hold blocks.")]
    starts_at: Annotated[
        datetime | None, Field(serialization_alias="from", description="Start of the hold; null is no start.")
    ]
    ends_at: Annotated[
        datetime | None, Field(serialization_alias="until", description="End of the hold; null is no end.")
    ]
    created_at: CreatedAt


def hold_of(row: sql.Hold) -> Hold:
    """Convert a row to the hold that the API returns."""
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

    The student keeps all seats and waitlist places. While a hold blocks enrolling, waitlists pass the student over.
    """
    change = PlaceHold(
        origin=origin_of(call),
        student_id=student_id,
        reason=body.reason,
        blocks_enroll="enroll" in body.blocks,
        blocks_drop="drop" in body.blocks,
        starts_at=body.starts_at,
        ends_at=body.ends_at,
    )
    return await submit(call, change, lambda row: Reply(hold_of(row), 201))


@endpoint("GET", "/students/{student_id}/holds", scope="read", problems=[StudentNotFound])
async def list_student_holds(call: Call, student_id: IdInPath, query: Paging) -> Page[Hold]:
    """List a student's holds by id, including those that have ended.

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
    """End a hold now; a hold that has not started yet ends at its start.

    A waitlisted student who becomes eligible gets a seat in the same transaction. The hold stays in the list, and a
    second call changes nothing.
    """
    return hold_of(
        await call[REGISTRAR].submit(EndHold(origin=origin_of(call), student_id=student_id, hold_id=hold_id))
    )
