"""The judgment of one waitlisted student, and what follows from it: a seat, or a mark that says what blocks the student."""

import json
from collections.abc import Sequence

from service.registrar import reserved, rules, seats
from service.registrar.application import NO_SCALE, Application, Course, Partner, Refusal
from service.registrar.changes import Origin
from service.registrar.ledger import Ledger
from service.registrar.moves import judge_drop, lift, move, swap_drops_of, use
from sql import NEVER
from sql.enrollments import Enrollment
from sql.overrides import Override


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


def seat_waitlisted(
    ledger: Ledger, row: Enrollment, used: tuple[Override, ...], drops: list[Enrollment], origin: Origin
) -> None:
    """Seat a waitlisted student, using overrides and making the drops of the swap."""
    # The drops are made here: clear them first, so that each move updates only the student's other swaps.
    ledger.put_enrollment(row._replace(swap_drops=None))
    leaving = [dropped.course_id for dropped in drops]
    for dropped in drops:
        status, _, lifted = judge_drop(ledger, dropped, leaving)
        use(ledger, lifted, origin)
        move(ledger, row.student_id, dropped.course_id, status, origin)
    override_id = use(ledger, used, origin)
    move(ledger, row.student_id, row.course_id, "enrolled", origin, event="promoted", override_id=override_id)


def block(ledger: Ledger, row: Enrollment, refusals: tuple[Refusal, ...], origin: Origin) -> None:
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
