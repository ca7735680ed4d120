"""Reserved seats in the ledger: who may take which free seat of a course, and how many are taken."""

import json

from service.registrar.application import Course, Reservation, reservations_in
from service.registrar.ledger import Ledger
from service.registrar.seats import has_common_seat, has_free_seat, open_reservations

ONLY_RESERVED = "seats_reserved"
"""The rule of which a waitlisted student may be blocked until a seat of the right kind is free."""


def keeping(ledger: Ledger, student_id: int, course: Course) -> tuple[Reservation, ...]:
    """Return the reservations that keep the free seats of a course from a student; none if a seat is open to the student."""
    if not reservations_in(course.reservations) or not has_free_seat(course):
        return ()
    taken = ledger.reserved_taken(course)
    if has_common_seat(course, taken, ledger.now):
        return ()
    kept, groups = open_reservations(course, taken, ledger.now), ledger.groups_of(student_id)
    return () if any(each.group in groups for each in kept) else kept


def group_of_seat(ledger: Ledger, student_id: int, course: Course) -> str | None:
    """Return the group whose reserved seat a student takes, the first of the list, or None for any other seat."""
    if not reservations_in(course.reservations):
        return None
    kept, groups = open_reservations(course, ledger.reserved_taken(course), ledger.now), ledger.groups_of(student_id)
    return next((each.group for each in kept if each.group in groups), None)


def count(ledger: Ledger, course: Course, before: str | None, after: str | None) -> None:
    """Count that a student left the reserved seat of one group, and took that of another."""
    if before == after:
        return
    taken = dict(ledger.reserved_taken(course))
    for group, change in ((before, -1), (after, 1)):
        if group is not None:
            taken[group] = taken.get(group, 0) + change
    ledger.reserved_seats.put(course.id, {group: seats for group, seats in sorted(taken.items()) if seats})


def is_open(course: Course) -> bool:
    """Return whether a course with reservations may have a free seat for a student whom only they blocked."""
    return (
        course.reservations is not None and course.waitlisted > 0 and course.status == "open" and has_free_seat(course)
    )


def groups_with_a_seat(ledger: Ledger, course: Course) -> list[str] | None:
    """Return the groups to which a free seat of a course is open; None is everyone."""
    taken = ledger.reserved_taken(course)
    if has_common_seat(course, taken, ledger.now):
        return None
    return [each.group for each in open_reservations(course, taken, ledger.now)]


def is_only_reserved(blocked_reasons: str | None) -> bool:
    """Return whether only reservations blocked a waitlisted student, perhaps beside a missing corequisite.

    The student may get seats in both courses together.
    """
    if blocked_reasons is None:
        return False
    codes = {each["code"] for each in json.loads(blocked_reasons)}
    return ONLY_RESERVED in codes <= {ONLY_RESERVED, "corequisite_missing"}
