"""What every change of an enrollment has in common: what a student has, which rules an override lifts, and the move."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from service.registrar import rules, seats
from service.registrar.changes import Application, Defined, Hold, Mark, OnFull, Origin, Refusal, Seat
from service.registrar.ledger import Ledger, Missing, as_json
from service.registrar.rules import DropStatus
from sql.courses import Course
from sql.enrollments import Enrollment, Status
from sql.overrides import Override
from sql.terms import Term

NO_CODES: frozenset[str] = frozenset()
NEVER = "[]"
"""The meetings of a course that does not meet."""

COMPLETED = frozenset({"passed", "failed"})
"""The marks of what is over: it is in no other course's way but by its seat."""


class Possession(NamedTuple):
    """What a student has besides one application: the basis on which the rules judge it.

    ``marks`` are those of all courses, ``limit`` is the student's own limit of credits.
    """

    marks: Mapping[int, Mark]
    holds: tuple[Hold, ...]
    limit: float | None
    passed: frozenset[str] = NO_CODES
    has: frozenset[str] = NO_CODES
    seated: tuple[tuple[Defined, Term | None], ...] = ()


def possession(
    ledger: Ledger, student_id: int, without: Collection[int], wanted: Iterable[tuple[Course, Seat]]
) -> Possession:
    """Gather what a student has, courses in ``without`` left aside, as far as the rules of the wanted courses ask."""
    marks = ledger.marks(student_id)
    limit = ledger.max_credits(student_id)
    possessed = Possession(marks, ledger.holds_of(student_id), limit)
    if not marks:
        return possessed
    codes = seated = False
    for course, seat in wanted:
        codes = codes or bool(ledger.groups(course.id))
        if seat == "seat" and not seated:
            seated = course.meetings != NEVER or limit_in(ledger.term(course.term_id), limit) is not None
    if not (codes or seated):
        return possessed
    own = ledger.definitions(sorted(marks))
    passed: frozenset[str] = NO_CODES
    has: frozenset[str] = NO_CODES
    if codes:
        passed = frozenset([own[id].code for id, mark in marks.items() if mark == "passed"])
        has = passed.union([own[id].code for id, mark in marks.items() if mark not in COMPLETED and id not in without])
    if not seated:
        return possessed._replace(passed=passed, has=has)
    terms = {term_id: ledger.term(term_id) for term_id in {definition.term_id for definition in own.values()}}
    taken = [
        (definition, terms[definition.term_id])
        for id, definition in own.items()
        if marks[id] != "waitlisted" and id not in without
    ]
    return possessed._replace(passed=passed, has=has, seated=tuple(taken))


def limit_in(term: Term | None, own: float | None) -> float | None:
    """Tell the most credits that a student with a limit of their own, or none, may have in a term."""
    if term is None:
        return None
    return term.max_credits if own is None else own


def credits_in(term: Term | None, courses: Iterable[Defined]) -> float:
    """Add up the credits of those courses that are in a term."""
    if term is None:
        return 0.0
    return sum([course.credits for course in courses if course.term_id == term.id], 0.0)


def application(
    ledger: Ledger,
    course: Course,
    possessed: Possession,
    *,
    seat: Seat,
    on_full: OnFull = "fail",
    asked: frozenset[str] = NO_CODES,
    seated: tuple[tuple[Defined, Term | None], ...] = (),
    asked_credits: float | None = None,
) -> Application:
    """Gather what the rules may know of a student who asks for one course.

    ``asked`` are the codes of the other courses of the request, ``seated`` those of them with a seat; ``asked_credits``
    are by default those of the course.
    """
    term = ledger.term(course.term_id)
    mark = possessed.marks.get(course.id)
    own = possessed.seated
    if mark is not None:
        # Who has completed the course keeps a seat in it, which is not in the way of the course itself.
        own = tuple([pair for pair in own if pair[0].id != course.id])
    return Application(
        now=ledger.now,
        course_id=course.id,
        course=course,
        term=term,
        completed=mark in COMPLETED,
        seat=seat,
        on_full=on_full,
        holds=possessed.holds,
        groups=ledger.groups(course.id),
        passed=possessed.passed,
        has=possessed.has,
        asked=asked,
        seated=own + seated,
        held=credits_in(term, [other for other, _ in own]) if own else 0.0,
        asked_credits=course.credits if asked_credits is None else asked_credits,
        limit=limit_in(term, possessed.limit),
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
    standing = ledger.enrollment(student_id, course_id)
    drops = json.dumps(list(swap_drops)) if swap_drops else None
    position = ledger.record(
        f"enrollment.{event or status}",
        origin,
        student_id=student_id,
        course_id=course_id,
        before=None if standing is None else _state(standing.status, standing.passed, standing.grade),
        after=_state(status, passed, grade, override_id, tuple(swap_drops)),
    )
    if standing is not None and status not in seats.STANDING:
        row = standing._replace(
            status=status,
            updated_at=ledger.now,
            passed=passed,
            grade=grade,
            swap_drops=drops,
            skipped=None,
        )
    else:
        row = Enrollment(
            student_id,
            course_id,
            status,
            position,
            ledger.now,
            ledger.now,
            override_id=override_id,
            swap_drops=drops,
        )
    ledger.put_enrollment(row)
    recounted = seats.recount(course, None if standing is None else standing.status, status)
    if recounted is not course:
        ledger.courses.put(course_id, recounted)
    if recounted.waitlisted:
        ledger.touched_courses.add(course_id)
    # Who leaves a course has its time and credits back, who gets one or waits for one may have a corequisite by it.
    ledger.touched_students.add(student_id)
    return row


def ease(ledger: Ledger, course_ids: Collection[int]) -> None:
    """Note courses for which others may be eligible now than those who changed something themselves."""
    if unknown := set(course_ids) - ledger.insiders.keys():
        raise Missing(insiders=unknown)
    ledger.touched_courses.update(course_ids)
    for course_id in course_ids:
        ledger.touched_students |= ledger.insiders[course_id]
    # Those in the courses, or waiting for them, whom the changes before this one in the batch may have put there.
    ledger.touched_students.update(ledger.known_students_of(course_ids))


@lru_cache(maxsize=1024)
def _state(
    status: Status,
    passed: bool | None,
    grade: str | None,
    override_id: int | None = None,
    swap_drops: tuple[int, ...] = (),
) -> str:
    """Write a state as the events tell it: most are one of a few."""
    state: dict[str, object] = {"status": status}
    if override_id is not None:
        state["override_id"] = override_id
    if swap_drops:
        state["swap_drops"] = list(swap_drops)
    if status == "completed":
        state |= {"passed": passed, "grade": grade}
    return as_json(state)


def told(refusal: Refusal) -> dict[str, object]:
    """Say a refusal as events say it: the reason of a hold and the limit of credits are the student's affair."""
    params = {name: value for name, value in refusal.params.items() if name not in {"reason", "limit"}}
    return {"code": refusal.code, **params}
