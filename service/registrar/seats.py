"""Seats and waitlist places: pure functions that decide what a course can offer and update its counters."""

from service.registrar.application import Course, OnFull, Seat

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


def offer(course: Course, on_full: OnFull, *, above_capacity: bool = False) -> Seat:
    """Return what a newcomer gets; with ``above_capacity``, an override gives a seat above the capacity."""
    if has_free_seat(course) or above_capacity:
        return "seat"
    return "waitlist" if on_full == "waitlist" and has_waitlist_place(course) else "none"


def recount(course: Course, before: str | None, after: str) -> Course:
    """Return the course with its counters after a student went from one status to another."""
    seats = (after in SEATED) - (before in SEATED)
    places = (after == "waitlisted") - (before == "waitlisted")
    if not seats and not places:
        return course
    return course._replace(seats_taken=course.seats_taken + seats, waitlisted=course.waitlisted + places)
