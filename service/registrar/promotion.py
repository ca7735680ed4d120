"""Who gets a seat that is free: the loop to its fixed point that follows every change."""

import json
from collections.abc import Iterable

from service.registrar import rules, seats
from service.registrar.changes import Origin, Refusal
from service.registrar.ledger import Ledger
from service.registrar.moves import application, judge_drop, lift, move, possession, told, use
from sql.courses import Course
from sql.enrollments import Enrollment
from sql.overrides import Override


def promote(ledger: Ledger, origin: Origin) -> int:
    """Fill the seats that the current change has freed, or made somebody eligible for; returns how many.

    While some course has a free seat and a waiter who passes all rules, the first such waiter of the course with the
    smallest id gets it. Each promotion shrinks a line, so it ends.
    """
    promoted = 0
    while any(_promote_first(ledger, course_id, origin) for course_id in _candidates(ledger)):
        promoted += 1
    return promoted


def _candidates(ledger: Ledger) -> list[int]:
    """List the courses to look at: those touched, and those that a touched student waits for."""
    candidates = set(ledger.touched_courses)
    for student_id in ledger.touched_students:
        if ledger.has_student(student_id):
            marks = ledger.marks(student_id)
            if "waitlisted" in marks.values():
                candidates.update([course_id for course_id, mark in marks.items() if mark == "waitlisted"])
    return sorted(candidates)


def _promote_first(ledger: Ledger, course_id: int, origin: Origin) -> bool:
    """Promote the first eligible waiter of a course, if there are a seat and a waiter."""
    course = ledger.course(course_id)
    if course is None or course.status != "open" or course.waitlisted == 0:
        return False
    waiters: Iterable[int] = ledger.line(course_id) if seats.has_free_seat(course) else _past_the_line(ledger, course)
    for student_id in waiters:
        row = ledger.enrollment(student_id, course_id)
        assert row is not None
        refusals, used, drops = _examine(ledger, course, row)
        if not refusals:
            _seat(ledger, row, used, drops, origin)
            return True
        _skip(ledger, row, refusals, origin)
    return False


def _past_the_line(ledger: Ledger, course: Course) -> list[int]:
    """List the touched students whom an override seats above capacity, in the order of the line."""
    rows = [
        row
        for student_id in ledger.touched_students
        if ledger.has_student(student_id)
        and ledger.marks(student_id).get(course.id) == "waitlisted"
        and "course_full" in ledger.overrides_of(student_id, course.id)
        and (row := ledger.enrollment(student_id, course.id)) is not None
    ]
    return [row.student_id for row in sorted(rows, key=lambda row: row.place)]


def _examine(
    ledger: Ledger, course: Course, row: Enrollment
) -> tuple[tuple[Refusal, ...], tuple[Override, ...], list[Enrollment]]:
    """Judge a waiter as if the drops of the swap were gone; return refusals, overrides to use, and what to drop."""
    drops = []
    refusals: tuple[Refusal, ...] = ()
    for dropped_id in json.loads(row.swap_drops or "[]"):
        dropped = ledger.enrollment(row.student_id, dropped_id)
        if dropped is not None and dropped.status not in {"dropped", "withdrawn"}:
            drops.append(dropped)
            refusals += judge_drop(ledger, dropped)[1]
    without = {row.course_id, *(dropped.course_id for dropped in drops)}
    overrides = ledger.overrides_of(row.student_id, course.id)
    possessed = possession(ledger, row.student_id, without, [(course, "seat")])
    asked = application(ledger, course, possessed, seat="seat")
    found = rules.judge(asked)
    if not seats.has_free_seat(course):
        found += tuple(rules.course_full(asked._replace(seat="none")))
    standing, used = lift(found, overrides)
    return refusals + standing, used, drops


def _seat(ledger: Ledger, row: Enrollment, used: tuple[Override, ...], drops: list[Enrollment], origin: Origin) -> None:
    for dropped in drops:
        status, _, lifted = judge_drop(ledger, dropped)
        use(ledger, lifted, origin)
        move(ledger, row.student_id, dropped.course_id, status, origin)
    override_id = use(ledger, used, origin)
    move(ledger, row.student_id, row.course_id, "enrolled", origin, event="promoted", override_id=override_id)


def _skip(ledger: Ledger, row: Enrollment, refusals: tuple[Refusal, ...], origin: Origin) -> None:
    """Say why a waiter was passed by, where the reasons are not those of the last time."""
    reasons = [told(refusal) for refusal in refusals]
    text = json.dumps(reasons, ensure_ascii=False)
    if text == row.skipped:
        return
    ledger.put_enrollment(row._replace(skipped=text))
    ledger.record(
        "enrollment.skipped",
        origin,
        student_id=row.student_id,
        course_id=row.course_id,
        before={"status": "waitlisted"},
        after={"status": "waitlisted", "reasons": reasons},
    )
