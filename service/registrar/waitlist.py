"""Promotions of waitlisted students, which follow every change, and the sweep, which follows the clock.

The invariant: no seat is free while an eligible student is waitlisted for it. A waitlisted student is either unjudged
or blocked. A blocked student was judged and refused, and stays refused until something relevant changes: the student,
the course, its term, or the time. That change makes the row unjudged again. So only unjudged students are judged for a
free seat, and each of them is seated or becomes blocked: constant work for each, once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from service.errors import PromotionsPending
from service.registrar import reserved, rules, seats
from service.registrar.application import NO_SCALE, Application, Course, Partner, Refusal
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger
from service.registrar.lost_requirements import lost_requirements
from service.registrar.moves import judge_drop, lift, move, swap_drops_of, use
from service.registrar.needs import Needs, NotLoaded, Relaxed
from sql import NEVER
from sql.enrollments import Enrollment, Pair
from sql.overrides import Override


def settle(ledger: Ledger) -> None:
    """Restore the invariant after a change, within the number of promotions that one transaction may make.

    While a course has a free seat and an unjudged student, the first such student of the course with the smallest id is
    judged. Then come the students who need seats in several courses together. Each student is committed alone, so that
    ``NotLoaded`` undoes none of the earlier promotions.
    """
    while True:
        if ledger.relaxed:
            raise NotLoaded(Needs(relaxed=ledger.relaxed[0]))
        _unjudge_changed_students(ledger)
        _judge_doubtful(ledger)
        if _relax_opened(ledger):
            continue
        course_id = ledger.first_promotable()
        if course_id is None:
            if not _seat_partners(ledger):
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
            _pair(ledger, course, origin)
        return True
    if ledger.promotions_left <= 0:
        return False
    refusals, used, drops = judge_waitlisted(ledger, course, row)
    if refusals:
        _block(ledger, row, refusals, origin)
    else:
        _seat(ledger, row, used, drops, origin)
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


def judge_waitlisted(
    ledger: Ledger, course: Course, row: Enrollment, together: Sequence[Course] = ()
) -> tuple[tuple[Refusal, ...], tuple[Override, ...], list[Enrollment]]:
    """Judge a waitlisted student as if the drops of the swap were made, and the other courses ``together`` were granted.

    Returns the refusals that remain, the overrides that the seat would use, and the rows that it would drop.
    """
    drops = []
    for dropped_id in swap_drops_of(row):
        dropped = ledger.enrollment(row.student_id, dropped_id)
        if dropped is not None and dropped.status in seats.ACTIVE:
            drops.append(dropped)
    leaving = [dropped.course_id for dropped in drops]
    refusals = tuple([refusal for dropped in drops for refusal in judge_drop(ledger, dropped, leaving)[1]])
    term, groups = ledger.term(course.term_id), ledger.groups(course.id)
    application = Application(
        now=ledger.now,
        course_id=course.id,
        course=course,
        history=ledger.history(row.student_id, {course.id, *leaving}),
        term=term,
        ends_at=ledger.end_of(term),
        parent=None if term is None or term.parent_id is None else ledger.term(term.parent_id),
        seat="seat",
        groups=groups,
        excluders=ledger.excluders(course),
        code_sets=ledger.code_sets,
        scale=ledger.scale_for(groups) if groups else NO_SCALE,
        reserved=reserved.keeping(ledger, row.student_id, course),
        promotes=True,
    )
    if together:
        granted = [(each, ledger.term(each.term_id)) for each in (course, *together)]
        requested: dict[str, list[Partner]] = {}
        for held in granted:
            requested.setdefault(ledger.code_sets.key(held[0].code), []).append(Partner(*held))
        application = application._replace(requested=requested, requested_seats=tuple(granted[1:]))
    found = rules.judge(application)
    if not seats.has_free_seat(course):
        found += tuple(rules.course_full(application._replace(seat="none")))
    remaining, used = lift(found, ledger.overrides_of(row.student_id, course.id))
    return refusals + remaining, used, drops


def _seat(ledger: Ledger, row: Enrollment, used: tuple[Override, ...], drops: list[Enrollment], origin: Origin) -> None:
    # The drops are made here: clear them first, so that each move updates only the student's other swaps.
    ledger.put_enrollment(row._replace(swap_drops=None))
    leaving = [dropped.course_id for dropped in drops]
    for dropped in drops:
        status, _, lifted = judge_drop(ledger, dropped, leaving)
        use(ledger, lifted, origin)
        move(ledger, row.student_id, dropped.course_id, status, origin)
    override_id = use(ledger, used, origin)
    move(ledger, row.student_id, row.course_id, "enrolled", origin, event="promoted", override_id=override_id)


def _block(ledger: Ledger, row: Enrollment, refusals: tuple[Refusal, ...], origin: Origin) -> None:
    """Mark a student as blocked, and append an event with the reasons if they have changed."""
    reasons = [{"code": refusal.code, **refusal.public} for refusal in refusals]
    text = json.dumps(reasons, ensure_ascii=False, separators=(",", ":"))
    ledger.put_enrollment(row._replace(blocked_reasons=text, recheck_at=rules.recheck_of(refusals) or NEVER))
    if text == row.blocked_reasons:
        return
    ledger.append_event(
        "enrollment.skipped",
        origin,
        student_id=row.student_id,
        course_id=row.course_id,
        before={"status": "waitlisted"},
        after={"status": "waitlisted", "blocked_by": reasons},
    )


MAX_TOGETHER = 8
"""Most courses in which one student gets seats together: more corequisites of corequisites than any catalogue has."""


def _pair(ledger: Ledger, course: Course, origin: Origin) -> None:
    """Have the students of a course with a seat left judged together with their places for its corequisites."""
    if not course.waitlisted or all(group.kind != "co" for group in ledger.groups(course.id)):
        return
    if ledger.paired.get(course.id) is None and (seats.has_free_seat(course) or ledger.has_override_holders(course.id)):
        ledger.paired.put(course.id, origin)
        ledger.partner_places = None


def _seat_partners(ledger: Ledger) -> bool:
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
        _seat(ledger, row, used, drops, origin)
    ledger.promoted += len(places)
    ledger.promotions_left -= len(places)
    return True


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
