"""Judging changes one after the other, each on what those before it left: no I/O, no clock."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from service.errors import Detail, EnrollmentRefused, NotEnrolled, StudentNotFound, UnknownCourses
from service.registrar import records, rules, seats
from service.registrar.changes import (
    Application,
    Change,
    Create,
    Delete,
    Drop,
    Dropped,
    Edit,
    Enroll,
    Origin,
    Replace,
    Result,
)
from service.registrar.ledger import Ledger
from service.registrar.records import COURSE, STUDENT
from sql.courses import Course
from sql.enrollments import Enrollment, Status
from sql.students import Student

Outcome: TypeAlias = Any
"""What a change answers, or the exception that it raises instead."""


def decide(ledger: Ledger, changes: Sequence[Change[Any]]) -> list[Outcome]:
    """Judge changes in order; a refused one leaves nothing behind and returns its ``DomainError``.

    A change that fails of a bug returns that exception, and the others stand.
    """
    outcomes: list[Outcome] = []
    for change in changes:
        try:
            outcome = _decide(ledger, change)
        except Exception as error:  # a bug in one change must not fail its neighbours
            ledger.rollback()
            outcomes.append(error)
        else:
            ledger.keep()
            outcomes.append(outcome)
    return outcomes


def _decide(ledger: Ledger, change: Change[Any]) -> Outcome:
    if isinstance(change, Enroll):
        return enroll(ledger, change)
    if isinstance(change, Drop):
        return drop(ledger, change)
    kind = KINDS[change.thing]  # type: ignore[attr-defined]
    return RECORDS[type(change)](ledger, kind, change)


KINDS = {Student: STUDENT, Course: COURSE}

RECORDS: dict[type[Change[Any]], Callable[..., Outcome]] = {
    Create: records.create,
    Edit: records.edit,
    Replace: records.put,
    Delete: records.delete,
}


def enroll(ledger: Ledger, change: Enroll) -> tuple[Result, ...]:
    """Give seats, or say for each course why not.

    Raises:
        StudentNotFound: there is no such student.
        EnrollmentRefused: in mode atomic, with every reason for every course.
    """
    if ledger.students.get(change.student_id) is None:
        raise StudentNotFound(change.student_id)
    results = tuple(_ask(ledger, change, course_id) for course_id in dict.fromkeys(change.course_ids))
    if change.mode == "atomic" and any(result.refusals for result in results):
        raise _refused(results, change.course_ids)
    return results


def _ask(ledger: Ledger, change: Enroll, course_id: int) -> Result:
    course = ledger.courses.get(course_id)
    standing = ledger.enrollments.get((change.student_id, course_id))
    if standing is not None and standing.status == "enrolled":
        return Result(course_id, "unchanged", course, standing.status)
    seated = course is not None and seats.has_free_seat(course)
    refusals = rules.judge(Application(course_id, course, seated))
    if refusals or course is None:
        return Result(course_id, "refused", course, refusals=refusals)
    _move(ledger, change.student_id, course, "enrolled", change.origin)
    return Result(course_id, "enrolled", course, "enrolled")


def _refused(results: Sequence[Result], asked: Sequence[int]) -> EnrollmentRefused:
    errors = [
        Detail(
            refusal.code,
            rules.sentence(refusal),
            pointer=f"#/course_ids/{asked.index(result.course_id)}",
            params={"course_id": refusal.course_id, **refusal.params},
        )
        for result in results
        for refusal in result.refusals
    ]
    unknown = any(error.code == "course_not_found" for error in errors)
    return UnknownCourses(errors) if unknown else EnrollmentRefused(errors)


def drop(ledger: Ledger, change: Drop) -> Dropped:
    """Take a student out of a course; who is out already stays as is.

    Raises:
        StudentNotFound: there is no such student.
        NotEnrolled: the student never had the course.
    """
    if ledger.students.get(change.student_id) is None:
        raise StudentNotFound(change.student_id)
    course = ledger.courses.get(change.course_id)
    standing = ledger.enrollments.get((change.student_id, change.course_id))
    if course is None or standing is None:
        raise NotEnrolled(change.student_id, change.course_id)
    if standing.status == "dropped":
        return Dropped("unchanged", standing, course)
    return Dropped("dropped", _move(ledger, change.student_id, course, "dropped", change.origin), course)


def _move(ledger: Ledger, student_id: int, course: Course, status: Status, origin: Origin) -> Enrollment:
    """Bring a student into a status, with the event, the row and the seat."""
    key = student_id, course.id
    standing = ledger.enrollments.get(key)
    before = None if standing is None else standing.status
    position = ledger.record(
        f"enrollment.{status}",
        origin,
        student_id=student_id,
        course_id=course.id,
        before=None if before is None else {"status": before},
        after={"status": status},
    )
    if standing is None:
        row = Enrollment(student_id, course.id, status, position, ledger.now, ledger.now)
    elif status in seats.SEATED:
        row = replace(standing, status=status, place=position, joined_at=ledger.now, updated_at=ledger.now)
    else:
        row = replace(standing, status=status, updated_at=ledger.now)
    ledger.enrollments.put(key, row)
    ledger.courses.put(course.id, seats.move_seat(course, before, status))
    return row
