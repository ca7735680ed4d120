"""Promotions of waitlisted students, which follow every change, and the sweep, which follows the clock.

The invariant: no seat is free while an eligible student is waitlisted for it. A waitlisted student is either unjudged
or blocked. A blocked student was judged and refused, and stays refused until something relevant changes: the student,
the course, its term, or the time. That change makes the row unjudged again. So only unjudged students are judged for a
free seat, and each of them is seated or becomes blocked: constant work for each, once.
"""

from dataclasses import dataclass

from service.errors import PromotionsPending
from service.registrar import reserved, rules, seats
from service.registrar.application import Course, Refusal
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger
from service.registrar.lost_requirements import lost_requirements
from service.registrar.moves import lift, move, use
from service.registrar.needs import Needs, NotLoaded, Relaxed
from service.registrar.partners import pair, seat_partners
from service.registrar.promotions import block, judge_waitlisted, seat_waitlisted
from sql.enrollments import Enrollment, Pair


def settle(ledger: Ledger) -> None:
    """Restore the invariant after a change, within the number of promotions that one transaction may make.

    While a course has a free seat and an unjudged student, the first such student of the course with the smallest id is
    judged. Then come the students who need seats in several courses together. Each student is committed alone, so that
    ``NotLoaded`` undoes none of the earlier promotions.
    """
    # Most changes leave no work.
    if ledger.is_settled():
        return
    while True:
        if ledger.relaxed:
            raise NotLoaded(Needs(relaxed=ledger.relaxed[0]))
        _unjudge_changed_students(ledger)
        _judge_doubtful(ledger)
        if _relax_opened(ledger):
            continue
        course_id = ledger.first_promotable()
        if course_id is None:
            if not seat_partners(ledger):
                return
        elif not _judge_next(ledger, course_id):
            for paired_id, origin in ledger.paired.items():
                ledger.mark_promotable(paired_id, origin)
            ledger.commit()
            return
        ledger.commit()


def settle_before_newcomer(ledger: Ledger, course_ids: tuple[int, ...], origin: Origin) -> None:
    """Promote everyone who has become eligible since the last change, so that a newcomer never overtakes them.

    These promotions are kept even if the newcomer is refused.

    Raises:
        PromotionsPending: a course has more students to judge than one transaction may judge.
    """
    for course_id in course_ids:
        course = ledger.course(course_id)
        if course is not None and course.waitlisted and seats.has_free_seat(course):
            if ledger.promotable.get(course_id) is None:
                # Only the clock can have made a student eligible, who is then unjudged: look for no partners.
                ledger.settled.add(course_id)
            ledger.mark_promotable(course_id, origin)
    if ledger.first_promotable() is None:
        return
    settle(ledger)
    ledger.settled.clear()
    for course_id in course_ids:
        course = ledger.course(course_id)
        # The transaction may have reached its limit before this course, which may have nobody left to judge.
        if course is None or not seats.has_free_seat(course) or ledger.promotable.get(course_id) is None:
            continue
        if _next_candidate(ledger, course) is not None:
            raise PromotionsPending(course_id)


def _relax_opened(ledger: Ledger) -> bool:
    """Relax the reservations of courses in which a seat has become free; return whether there are any.

    One student of each is judged again: the first to whom a seat is open. ``_judge_next`` continues with the next one.
    """
    relaxes = False
    for course_id, origin in ledger.opened.items():
        course = ledger.course(course_id)
        if course is not None and reserved.is_open(course):
            groups = reserved.groups_with_a_seat(ledger, course)
            ledger.relax(Relaxed(origin, reserved=(course_id, groups)))
            relaxes = True
        ledger.opened.put(course_id, None)
        ledger.commit()
    return relaxes


def _unjudge_changed_students(ledger: Ledger) -> None:
    """Make the waitlist places of changed students unjudged, and mark the courses that may have a seat for them."""
    for student_id, origin in ledger.changed_students.items():
        if ledger.has_student(student_id):
            for course_id, mark in ledger.marks(student_id).items():
                if mark == "waitlisted":
                    _unjudge(ledger, student_id, course_id, origin)
        ledger.changed_students.put(student_id, None)
        ledger.commit()


def _judge_doubtful(ledger: Ledger) -> None:
    """Mark the seats that have lost a requirement, and remove the marks of those that meet it again, each with an event.

    An override for the requirement is used up instead: the office has then decided about the loss.
    """
    for (student_id, course_id), origin in ledger.doubtful.items():
        lost = lost_requirements(ledger, student_id, course_id)
        was_lost = ledger.has_lost(student_id, course_id)
        remaining, used = lift(lost, ledger.overrides_of(student_id, course_id))
        use(ledger, used, origin)
        if bool(remaining) != was_lost:
            _mark_requirement(ledger, student_id, course_id, remaining, origin)
        ledger.doubtful.put((student_id, course_id), None)
        ledger.commit()


def _mark_requirement(
    ledger: Ledger, student_id: int, course_id: int, lost: tuple[Refusal, ...], origin: Origin
) -> None:
    reasons = {"blocked_by": [{"code": refusal.code, **refusal.public} for refusal in lost]} if lost else {}
    ledger.lost_requirements.put((student_id, course_id), True if lost else None)
    ledger.append_event(
        "enrollment.requirement_lost" if lost else "enrollment.requirement_met",
        origin,
        student_id=student_id,
        course_id=course_id,
        before={"status": "enrolled", "requirement_lost": not lost},
        after={"status": "enrolled", "requirement_lost": bool(lost), **reasons},
    )


def _unjudge(ledger: Ledger, student_id: int, course_id: int, origin: Origin) -> None:
    row = ledger.enrollments.get((student_id, course_id))
    if row is not None and row.recheck_at is not None:
        ledger.put_enrollment(row._replace(recheck_at=None))
    course = ledger.course(course_id)
    if course is None:
        return
    if ledger.overrides_of(student_id, course_id):
        ledger.add_override_holder(student_id, course_id)
        ledger.mark_promotable(course_id, origin)
    elif seats.has_free_seat(course):
        ledger.mark_promotable(course_id, origin)


def _judge_next(ledger: Ledger, course_id: int) -> bool:
    """Judge the next unjudged student of a course, or unmark the course if nobody is left to judge.

    Return False, and judge nobody, if the transaction has judged enough students.
    """
    origin = ledger.promotable[course_id]
    course = ledger.course(course_id)
    row = None if course is None else _next_candidate(ledger, course)
    if course is None or row is None:
        ledger.promotable.put(course_id, None)
        if course is not None and course_id not in ledger.settled:
            pair(ledger, course, origin)
        return True
    if ledger.promotions_left <= 0:
        return False
    refusals, used, drops = judge_waitlisted(ledger, course, row)
    if refusals:
        block(ledger, row, refusals, origin)
    else:
        seat_waitlisted(ledger, row, used, drops, origin)
        ledger.promoted += 1
    if refusals and all(refusal.code == "corequisite_missing" for refusal in refusals):
        ledger.settled.discard(course_id)
        ledger.partner_places = None
    if refusals and reserved.is_only_reserved(row.blocked_reasons):
        # The seat for which this student was judged again may be for the next one whom only reservations block.
        ledger.opened.put(course_id, origin)
    # Nothing undoes this: if rows were missing above, the student has not been judged yet.
    ledger.promotions_left -= 1
    return True


def _next_candidate(ledger: Ledger, course: Course) -> Enrollment | None:
    """Return the next student of a course to judge, or None.

    If the course has no free seat or is closed to promotion, only students whose overrides lift that are judged.
    """
    term = ledger.term(course.term_id)
    if course.status != "open" or not course.waitlisted or ledger.is_over(term):
        return None
    obstacles = [] if seats.has_free_seat(course) else ["course_full"]
    if (closed := rules.promotion_rule(term, ledger.now)) is not None:
        obstacles.append(closed)
    return ledger.next_override_holder(course.id, obstacles) if obstacles else ledger.next_unjudged(course.id)


@dataclass(frozen=True, slots=True)
class Swept:
    """The number of students that a sweep promoted, and of waitlist places that it ended."""

    promoted: int
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Change[Swept]):
    """Promote students who became eligible by the passage of time, and end the waitlists of terms that are over.

    ``course_ids`` have free seats and unjudged students; ``ended`` are waitlist places in terms that are over.
    """

    course_ids: tuple[int, ...] = ()
    ended: tuple[Pair, ...] = ()

    def add_needs(self, needs: Needs) -> None:
        """Add the courses, and the students of the places that end."""
        needs.courses.update(self.course_ids, [pair.course_id for pair in self.ended])
        needs.students.update([pair.student_id for pair in self.ended])
        needs.pairs.update(self.ended)

    def decide(self, ledger: Ledger) -> Swept:
        """Drop the waitlist places that end, and mark the students to judge."""
        ended = 0
        for student_id, course_id in self.ended:
            row, course = ledger.enrollment(student_id, course_id), ledger.course(course_id)
            term = None if course is None else ledger.term(course.term_id)
            if row is not None and row.status == "waitlisted" and ledger.is_over(term):
                move(ledger, student_id, course_id, "dropped", self.origin)
                ended += 1
        for course_id in self.course_ids:
            ledger.mark_promotable(course_id, self.origin)
        ledger.relax(Relaxed(self.origin, due=True))
        return Swept(0, ended)
