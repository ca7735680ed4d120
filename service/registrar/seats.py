"""Seats and waitlist places: pure functions that decide what a course can offer and update its counters."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from service.registrar.application import Course, OnFull, Reservation, Seat, reservations_in

SEATED = frozenset({"enrolled", "completed"})
"""The statuses that occupy a seat. A completed course keeps its seat, so that the end of a term frees none."""

ACTIVE = frozenset({"enrolled", "waitlisted"})
"""The statuses in which a request for the same course changes nothing."""

INACTIVE = frozenset({"dropped", "withdrawn"})
"""The statuses of a student who has left the course."""


def has_free_seat(course: Course) -> bool:
    """Return whether a course has a free seat; a capacity lowered below the seats taken leaves none."""
    return course.capacity is None or course.seats_taken < course.capacity


def has_waitlist_place(course: Course) -> bool:
    """Return whether one more student can be waitlisted for a course."""
    return course.waitlist_capacity is None or course.waitlisted < course.waitlist_capacity


def offer(course: Course, on_full: OnFull, *, above_capacity: bool = False, is_reserved: bool = False) -> Seat:
    """Return what a newcomer gets; with ``above_capacity``, an override gives a seat above the capacity.

    If ``is_reserved``, reservations keep the free seats from the newcomer.
    """
    if not is_reserved if has_free_seat(course) else above_capacity:
        return "seat"
    return "waitlist" if on_full == "waitlist" and has_waitlist_place(course) else "none"


def open_reservations(course: Course, taken: Mapping[str, int], now: datetime) -> tuple[Reservation, ...]:
    """Return the reservations in force with a seat that is not taken; ``taken`` counts the taken ones by group."""
    return tuple(
        [
            each
            for each in reservations_in(course.reservations)
            if each.is_in_force(now) and each.seats > taken.get(each.group, 0)
        ]
    )


def has_common_seat(course: Course, taken: Mapping[str, int], now: datetime) -> bool:
    """Return whether a course has a free seat that no reservation keeps."""
    if course.capacity is None:
        return True
    kept = sum([each.seats - taken.get(each.group, 0) for each in open_reservations(course, taken, now)])
    return course.seats_taken + kept < course.capacity


COUNTERS: Final = Course._fields.index("seats_taken")
"""Where the two counters are in the row of a course."""


def with_counters(course: Course, seats_taken: int, waitlisted: int) -> Course:
    """Return the course with other counters: every seat makes such a copy, and ``_replace`` takes twice as long."""
    return Course._make((*course[:COUNTERS], seats_taken, waitlisted, *course[COUNTERS + 2 :]))


def recount(course: Course, before: str | None, after: str) -> Course:
    """Return the course with its counters after a student went from one status to another."""
    seats = (after in SEATED) - (before in SEATED)
    places = (after == "waitlisted") - (before == "waitlisted")
    if not seats and not places:
        return course
    return with_counters(course, course.seats_taken + seats, course.waitlisted + places)
