"""Seats: who has one, whether one is free, and how the count moves. Pure functions."""

from dataclasses import replace

from sql.courses import Course

SEATED = frozenset({"enrolled", "completed"})
"""The statuses that keep a seat: a completed student keeps it, so that the end of a term frees none."""


def has_free_seat(course: Course) -> bool:
    """Tell whether a course has a seat to give; a capacity lowered below the seats taken has none."""
    return course.capacity is None or course.seats_taken < course.capacity


def move_seat(course: Course, before: str | None, after: str) -> Course:
    """Count the seat that a student takes or frees by going from one status to another."""
    moved = (after in SEATED) - (before in SEATED)
    return replace(course, seats_taken=course.seats_taken + moved) if moved else course
