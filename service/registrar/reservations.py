"""Setting the reserved seats of a course."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from service.errors import PreconditionFailed
from service.registrar.application import Reservation, reservations_in
from service.registrar.changes import Change
from service.registrar.courses import check_reservations, find_course
from service.registrar.ledger import Ledger, as_json
from service.registrar.needs import Needs, Relaxed
from service.registrar.seats import has_free_seat


@dataclass(frozen=True, slots=True)
class Reserved:
    """The reservations of a course, with the number of their seats that are taken, by group."""

    course_id: int
    reservations: tuple[Reservation, ...]
    taken: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReservations(Change[Reserved]):
    """Replace all reservations of a course; raise ``ReservationsAboveCapacity`` if they have more seats than it.

    Nobody loses or changes a seat. ``if_match`` holds the tags that the reservations must have, ``if_none_match`` those
    they must not have, ``*`` any.
    """

    course_id: int
    reservations: tuple[Reservation, ...]
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the course and the counters of its reserved seats."""
        needs.courses.add(self.course_id)
        needs.reserved_seats.add(self.course_id)

    def decide(self, ledger: Ledger) -> Reserved:
        """Return the reservations."""
        course = find_course(ledger, self.course_id)
        taken = ledger.reserved_taken(course)
        before = reservations_in(course.reservations)
        tags = {"*", reservations_tag(before)}
        if self.if_match is not None and not self.if_match & tags:
            sentence = f"The reservations of course {course.id} have no ETag that If-Match names; read them again."
            raise PreconditionFailed.of_if_match(sentence, self.if_match)
        if self.if_none_match is not None and self.if_none_match & tags:
            raise PreconditionFailed(
                f"The reservations of course {course.id} have an ETag that If-None-Match excludes."
            )
        check_reservations(self.reservations, course.capacity, ledger.now, "#/reservations")
        if before != self.reservations:
            text = as_json(_state(self.reservations))
            edited = course._replace(reservations=text, version=course.version + 1, updated_at=ledger.now)
            ledger.courses.put(course.id, edited)
            ledger.append_event(
                "course.reservations_set",
                self.origin,
                course_id=course.id,
                before={"reservations": _state(before), "version": course.version},
                after={"reservations": _state(self.reservations), "version": edited.version},
            )
            ledger.relax(Relaxed(self.origin, courses={course.id}))
            if has_free_seat(edited):
                ledger.mark_promotable(course.id, self.origin)
        return Reserved(course.id, self.reservations, taken)


def reservations_tag(reservations: Iterable[Reservation]) -> str:
    """Return the entity tag of reservations: a digest, since they have no version of their own."""
    return blake2b(as_json(_state(reservations)).encode(), digest_size=8).hexdigest()


def _state(reservations: Iterable[Reservation]) -> list[dict[str, object]]:
    return [{"group": each.group, "seats": each.seats, "until": each.until} for each in reservations]
