"""Seats and places in line: who has one, whether one is to be had, and how the counts move. Pure functions."""

from service.registrar.changes import Course, OnFull, Seat

SEATED = frozenset({"enrolled", "completed"})
"""The statuses that keep a seat: a completed student keeps it, so that the end of a term frees none."""

STANDING = frozenset({"enrolled", "waitlisted"})
"""The statuses in which asking for the course again is no change."""


def has_free_seat(course: Course) -> bool:
    """Tell whether a course has a seat to give; a capacity lowered below the seats taken has none."""
    return course.capacity is None or course.seats_taken < course.capacity


def has_place_in_line(course: Course) -> bool:
    """Tell whether one more may wait for a course."""
    return course.waitlist_capacity is None or course.waitlisted < course.waitlist_capacity


def offer(course: Course, on_full: OnFull, *, above_capacity: bool = False) -> Seat:
    """Say what a newcomer gets; ``above_capacity`` where an override gives a seat that is not there."""
    if has_free_seat(course) or above_capacity:
        return "seat"
    return "line" if on_full == "waitlist" and has_place_in_line(course) else "none"


def recount(course: Course, before: str | None, after: str) -> Course:
    """Count what a student takes and frees by going from one status to another."""
    seats = (after in SEATED) - (before in SEATED)
    places = (after == "waitlisted") - (before == "waitlisted")
    if not seats and not places:
        return course
    return course._replace(seats_taken=course.seats_taken + seats, waitlisted=course.waitlisted + places)
