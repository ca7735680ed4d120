"""What every change of an enrollment has in common: what a student has, which rules an override lifts, and the move."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from service.registrar import rules, seats
from service.registrar.changes import Application, OnFull, Origin, Refusal, Seat
from service.registrar.ledger import Ledger
from service.registrar.rules import DropStatus
from sql.courses import Course
from sql.enrollments import Enrollment, Status
from sql.overrides import Override
from sql.terms import Term


@dataclass(frozen=True, slots=True)
class Possession:
    """What a student has besides one application: the basis on which the rules judge it."""

    passed: frozenset[str]
    has: frozenset[str]
    seated: tuple[tuple[Course, Term | None], ...]


def possession(ledger: Ledger, student_id: int, without: Collection[int]) -> Possession:
    """Gather what a student has, courses in ``without`` left aside."""
    passed, has, seated = set(), set(), []
    for row in ledger.courses_of(student_id):
        course = ledger.course(row.course_id)
        assert course is not None
        if row.status == "completed" and row.passed:
            passed.add(course.code)
        if row.course_id in without:
            continue
        if row.status in seats.STANDING:
            has.add(course.code)
        if row.status in seats.SEATED:
            seated.append((course, ledger.term(course.term_id)))
    return Possession(frozenset(passed), frozenset(has | passed), tuple(seated))


def credits_in(term: Term | None, courses: Iterable[Course]) -> float:
    """Add up the credits of those courses that are in a term."""
    return sum((course.credits for course in courses if term is not None and course.term_id == term.id), 0.0)


def application(
    ledger: Ledger,
    student_id: int,
    course: Course,
    possessed: Possession,
    *,
    seat: Seat,
    on_full: OnFull = "fail",
) -> Application:
    """Gather what the rules may know of a student who asks for one course and no other."""
    student = ledger.student(student_id)
    term = ledger.term(course.term_id)
    row = ledger.enrollments.get((student_id, course.id))
    assert student is not None
    # Who has completed the course keeps a seat in it, which is not in the way of the course itself.
    seated = tuple(pair for pair in possessed.seated if pair[0].id != course.id)
    limit = student.max_credits
    if limit is None and term is not None:
        limit = term.max_credits
    return Application(
        now=ledger.now,
        course_id=course.id,
        course=course,
        term=term,
        completed=row is not None and row.status == "completed",
        seat=seat,
        on_full=on_full,
        holds=ledger.holds_of(student_id),
        groups=ledger.requirements.get(course.id) or (),
        passed=possessed.passed,
        has=possessed.has,
        seated=seated,
        held=credits_in(term, (other for other, _ in seated)),
        asked_credits=course.credits,
        limit=limit,
    )


def lift(
    refusals: Iterable[Refusal], overrides: Mapping[str, Override]
) -> tuple[tuple[Refusal, ...], tuple[Override, ...]]:
    """Split refusals into those that stand and the overrides that lift the others, each override once."""
    refusals = tuple(refusals)
    standing = tuple(refusal for refusal in refusals if refusal.code not in overrides)
    used = dict.fromkeys(overrides[refusal.code] for refusal in refusals if refusal.code in overrides)
    return standing, tuple(used)


def use(ledger: Ledger, overrides: Sequence[Override], origin: Origin) -> int | None:
    """Use overrides up, and return the id of the one that stays with the seat: the one for a full course before others."""
    for override in overrides:
        ledger.put_override(replace(override, used_at=ledger.now))
        ledger.record(
            "override.used",
            origin,
            student_id=override.student_id,
            course_id=override.course_id,
            before={"override_id": override.id, "used": False},
            after={"override_id": override.id, "used": True},
        )
    first = sorted(overrides, key=lambda override: (override.rule != "course_full", override.id))
    return first[0].id if first else None


def judge_drop(ledger: Ledger, row: Enrollment) -> tuple[DropStatus, tuple[Refusal, ...], tuple[Override, ...]]:
    """Say in which status a drop ends, which refusals stand, and which overrides would be used."""
    course = ledger.course(row.course_id)
    assert course is not None
    status, refusals = rules.judge_drop(
        row.course_id, row.status, ledger.term(course.term_id), ledger.holds_of(row.student_id), ledger.now
    )
    standing, lifted = lift(refusals, ledger.overrides_of(row.student_id, row.course_id))
    return status, standing, lifted


def move(
    ledger: Ledger,
    student_id: int,
    course_id: int,
    status: Status,
    origin: Origin,
    *,
    event: str | None = None,
    override_id: int | None = None,
    swap_drops: Sequence[int] = (),
    passed: bool | None = None,
    grade: str | None = None,
) -> Enrollment:
    """Bring a student into a status, with the event, the row and the counts; what depends on it is touched."""
    course = ledger.course(course_id)
    assert course is not None
    standing = ledger.enrollments.get((student_id, course_id))
    drops = json.dumps(list(swap_drops)) if swap_drops else None
    after = {
        "status": status,
        **({"override_id": override_id} if override_id is not None else {}),
        **({"swap_drops": list(swap_drops)} if swap_drops else {}),
        **({"passed": passed, "grade": grade} if status == "completed" else {}),
    }
    position = ledger.record(
        f"enrollment.{event or status}",
        origin,
        student_id=student_id,
        course_id=course_id,
        before=None if standing is None else _state(standing),
        after=after,
    )
    row = Enrollment(student_id, course_id, status, position, ledger.now, ledger.now, override_id=override_id)
    if standing is not None and status not in seats.STANDING:
        row = replace(standing, status=status, updated_at=ledger.now, passed=passed, grade=grade, skipped=None)
    ledger.put_enrollment(replace(row, swap_drops=drops))
    recounted = seats.recount(course, None if standing is None else standing.status, status)
    if recounted != course:
        ledger.courses.put(course_id, recounted)
    ledger.touched_courses.add(course_id)
    if status not in seats.STANDING:
        ledger.touched_students.add(student_id)
    return ledger.enrollments[student_id, course_id]


def _state(row: Enrollment) -> dict[str, object]:
    state: dict[str, object] = {"status": row.status}
    if row.status == "completed":
        state |= {"passed": row.passed, "grade": row.grade}
    return state


def told(refusal: Refusal) -> dict[str, object]:
    """Say a refusal as events say it: the reason of a hold and the limit of credits are the student's affair."""
    params = {name: value for name, value in refusal.params.items() if name not in {"reason", "limit"}}
    return {"code": refusal.code, **params}
