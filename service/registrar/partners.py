"""Seats in several courses together, for a student whom in each of them only a missing corequisite blocks."""

from collections.abc import Sequence
from typing import cast

from service.registrar import rules, seats
from service.registrar.application import Course, Refusal
from service.registrar.changes import Origin
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, NotLoaded
from service.registrar.promotions import judge_waitlisted, seat_waitlisted
from sql.enrollments import Enrollment

MAX_TOGETHER = 8
"""Most courses in which one student gets seats together: more corequisites of corequisites than any catalogue has."""


def pair(ledger: Ledger, course: Course, origin: Origin) -> None:
    """Have the students of a course with a seat left judged together with their places for its corequisites."""
    if not course.waitlisted or all(group.kind != "co" for group in ledger.groups(course.id)):
        return
    if ledger.paired.get(course.id) is None and (seats.has_free_seat(course) or ledger.has_override_holders(course.id)):
        ledger.paired.put(course.id, origin)
        ledger.partner_places = None


def seat_partners(ledger: Ledger) -> bool:
    """Seat the next student who gets seats in several courses together; return False if there is none.

    If the transaction has promoted enough students, the next one becomes unjudged: so the next transaction continues.
    """
    paired = dict(ledger.paired.items())
    while paired:
        found = ledger.partner_places
        if found is None or not (found.places or found.complete):
            raise NotLoaded(Needs(partners_of={*paired}))
        if not found.places:
            break
        course_id, _, student_id = found.places[0]
        row, course = ledger.enrollment(student_id, course_id), ledger.course(course_id)
        origin = paired.get(course_id) or next(iter(paired.values()))
        together = None
        is_blocked = row is not None and row.status == "waitlisted" and row.recheck_at is not None
        if row is not None and course is not None and is_blocked and _may_give_seat(ledger, student_id, course):
            together = find_together(ledger, row)
        if together is not None and ledger.promotions_left <= 0 and ledger.seated_together:
            ledger.put_enrollment(together[0]._replace(recheck_at=None))
            ledger.mark_promotable(course_id, origin)
            break
        seated = together is not None and _seat_together(ledger, together, origin)
        found.places.popleft()
        if seated:
            ledger.seated_together = True
            return True
    for course_id in paired:
        ledger.paired.put(course_id, None)
    ledger.partner_places = None
    ledger.commit()
    return False


def _may_give_seat(ledger: Ledger, student_id: int, course: Course) -> bool:
    """Return whether a course has a seat for a student, as far as can be seen without judging the student."""
    return seats.has_free_seat(course) or "course_full" in ledger.overrides_of(student_id, course.id)


def find_together(ledger: Ledger, *chosen: Enrollment) -> tuple[Enrollment, ...] | None:
    """Return waitlist places of a student, ``chosen`` and more, for all of which the student can get a seat at once.

    Each missing corequisite adds one of the places that serve as it, the first that leads to such a set. Return None if
    there is no such set.
    """
    lacking: tuple[Course, Refusal] | None = None
    courses = [course for row in chosen if (course := ledger.course(row.course_id)) is not None]
    for row, course in zip(chosen, courses, strict=True):
        others = [each for each in courses if each is not course]
        for refusal in judge_waitlisted(ledger, course, row, others)[0]:
            if refusal.code != "corequisite_missing":
                return None
            lacking = lacking or (course, refusal)
    if lacking is None:
        return chosen
    if len(chosen) == MAX_TOGETHER:
        return None
    course, refusal = lacking
    keys, term = ledger.code_sets.keys(cast(list[str], refusal.public["any_of"])), ledger.term(course.term_id)
    for place in ledger.places_of(chosen[0].student_id):
        other = ledger.course(place.course_id)
        if other is None or other in courses or ledger.code_sets.key(other.code) not in keys:
            continue
        if rules.terms_overlap(term, ledger.term(other.term_id)) and (found := find_together(ledger, *chosen, place)):
            return found
    return None


def _seat_together(ledger: Ledger, places: Sequence[Enrollment], origin: Origin) -> bool:
    """Seat a student in several courses; return False, and change nothing, if the drops of their swaps prevent it."""
    student_id = places[0].student_id
    for number, place in enumerate(places):
        row, course = ledger.enrollment(student_id, place.course_id), ledger.course(place.course_id)
        others = [each for later in places[number + 1 :] if (each := ledger.course(later.course_id)) is not None]
        if row is None or course is None or row.status != "waitlisted":
            ledger.rollback()
            return False
        refusals, used, drops = judge_waitlisted(ledger, course, row, others)
        if refusals:
            ledger.rollback()
            return False
        seat_waitlisted(ledger, row, used, drops, origin)
    ledger.promoted += len(places)
    ledger.promotions_left -= len(places)
    return True
