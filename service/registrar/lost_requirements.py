"""Requirements that a course in progress may satisfy: which seats depend on a course, and which have lost a requirement.

A seat is marked when a change of the student takes away what satisfied such a requirement. So the marks depend on the
changes: seats that never met the requirement, by an override or an edit, are not marked.
"""

from collections.abc import Iterable, Sequence

from service.registrar import rules
from service.registrar.application import Application, Course, Group, Refusal
from service.registrar.changes import Origin
from service.registrar.ledger import Ledger
from sql.enrollments import Enrollment


def allow_progress(groups: Iterable[Group]) -> bool:
    """Return whether any of the groups allows a course in progress."""
    return any(group.in_progress for group in groups)


def lost_requirements(ledger: Ledger, student_id: int, course_id: int) -> Sequence[Refusal]:
    """Return the requirements that a student does not meet, among those that a course in progress may satisfy."""
    groups = ledger.groups(course_id)
    if not allow_progress(groups):
        return ()
    [course] = ledger.definitions([course_id]).values()
    return rules.lost_requirements(
        Application(
            now=ledger.now,
            course_id=course_id,
            course=None,
            history=ledger.history(student_id),
            term=ledger.term(course.term_id),
            groups=groups,
            code_sets=ledger.code_sets,
            scale=ledger.scale_for(groups),
        )
    )


def doubt_seat(ledger: Ledger, student_id: int, course_id: int, origin: Origin) -> None:
    """Have a seat judged after the change if its requirements are met now, or if it is marked as having lost one."""
    if ledger.doubtful.get((student_id, course_id)) is None and (
        ledger.has_lost(student_id, course_id) or not lost_requirements(ledger, student_id, course_id)
    ):
        ledger.doubtful.put((student_id, course_id), origin)


def doubt_requirements(
    ledger: Ledger, student_id: int, course: Course, existing: Enrollment | None, origin: Origin
) -> None:
    """Have the seats judged after the change that may depend on a seat which the student is about to get or to leave.

    The seat itself is not marked any more once the student leaves or completes it.
    """
    dependents = ledger.dependents_in_progress(course.code)
    if existing is None and not dependents:
        return
    if (code := ledger.passed_codes.get((student_id, course.id))) is not None:
        dependents |= ledger.dependents_in_progress(code)
    if dependents:
        for id in [id for id, mark in ledger.marks(student_id).items() if mark == "enrolled" and id in dependents]:
            doubt_seat(ledger, student_id, id, origin)
    if existing is not None and existing.status == "enrolled":
        forget_seat(ledger, student_id, course.id)


def forget_seat(ledger: Ledger, student_id: int, course_id: int) -> None:
    """Remove the mark of a seat that the student leaves or completes."""
    key = student_id, course_id
    if allow_progress(ledger.groups(course_id)):
        if ledger.doubtful.get(key) is not None:
            ledger.doubtful.put(key, None)
        if ledger.has_lost(student_id, course_id):
            ledger.lost_requirements.put(key, None)
