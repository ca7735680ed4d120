"""Reserved seats of courses: request and answer models, and handlers."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, Field

from service.api.fields import Group, IdInPath, Input, Instant, Whole
from service.api.keys import DATABASE, REGISTRAR, origin_of
from service.errors import CourseNotFound, PreconditionFailed, ReservationsAboveCapacity
from service.registrar.application import Reservation, reservations_in
from service.registrar.reservations import Reserved, SetReservations, reservations_tag
from service.web.endpoint import Call, Reply, endpoint
from service.web.etags import ETags
from service.web.validation import wrong
from sql.courses import get_course, load_reserved_seats

MAX_RESERVATIONS: Final = 50
"""The most reservations of one course: a student has no more groups."""

ReservedSeats: TypeAlias = Annotated[
    int, Field(ge=1, le=2**31 - 1, description="The number of seats for the group."), Whole
]


class NewReservation(Input):
    """Seats to reserve for a group of students."""

    group: Group
    seats: ReservedSeats
    until: Annotated[
        Instant | None, Field(description="From this instant on, the seats are for everyone; null is never.")
    ] = None


def _distinct(reservations: tuple[NewReservation, ...]) -> tuple[NewReservation, ...]:
    if len({each.group for each in reservations}) < len(reservations):
        raise wrong("repeated_group", "{field} must name each group once.")
    return reservations


class NewReservations(Input):
    """All reservations of a course."""

    reservations: Annotated[
        tuple[NewReservation, ...],
        Field(
            max_length=MAX_RESERVATIONS,
            strict=False,
            description="The reservations; a student who is in several groups takes a seat of the first one that has one. An "
            "empty list makes the seats everyone's.",
        ),
        AfterValidator(_distinct),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedGroup:
    """Seats that are reserved for a group of students."""

    group: Annotated[str, Field(description="The group.")]
    seats: Annotated[int, Field(description="The number of seats for the group.")]
    until: Annotated[
        datetime | None, Field(description="From this instant on, the seats are for everyone; null is never.")
    ]
    seats_taken: Annotated[int, Field(description="The number of students who have a reserved seat of the group.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseReservations:
    """The reservations of a course."""

    reservations: Annotated[list[ReservedGroup], Field(description="The reservations, in the order that was set.")]


def _shown(reserved: Reserved) -> Reply[CourseReservations]:
    shown = [
        ReservedGroup(
            group=each.group, seats=each.seats, until=each.until, seats_taken=reserved.taken.get(each.group, 0)
        )
        for each in reserved.reservations
    ]
    return Reply(CourseReservations(reservations=shown), 200, {"ETag": f'"{reservations_tag(reserved.reservations)}"'})


@endpoint(
    "PUT",
    "/courses/{course_id}/reservations",
    scope="manage",
    problems=[CourseNotFound, ReservationsAboveCapacity, PreconditionFailed],
    etag=True,
)
async def set_reservations(
    call: Call, course_id: IdInPath, body: NewReservations, if_match: ETags, if_none_match: ETags
) -> Reply[CourseReservations]:
    """Reserve seats of a course for groups of students; an empty list lifts all reservations.

    Nobody loses a seat. A waitlisted student to whom a seat is open now gets it in the same transaction.
    """
    change = SetReservations(
        origin=origin_of(call),
        course_id=course_id,
        reservations=tuple(Reservation(each.group, each.seats, each.until) for each in body.reservations),
        if_match=if_match,
        if_none_match=if_none_match,
    )
    return _shown(await call[REGISTRAR].submit(change))


@endpoint("GET", "/courses/{course_id}/reservations", scope="read", problems=[CourseNotFound], etag=True)
async def read_reservations(call: Call, course_id: IdInPath) -> Reply[CourseReservations]:
    """Read the reserved seats of a course.

    The ETag changes with the reservations, not with the seats that are taken.
    """
    async with call[DATABASE].viewing() as connection:
        course = await get_course(connection, course_id)
        if course is None:
            raise CourseNotFound(course_id)
        [(_, text)] = await load_reserved_seats(connection, [course_id])
    return _shown(Reserved(course_id, reservations_in(course.reservations), json.loads(text or "{}")))
