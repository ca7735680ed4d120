"""Enrolling, swapping and dropping: what students do."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import (
    AlreadyCompleted,
    Detail,
    DropRefused,
    EnrollmentRefused,
    NotEnrolled,
    StudentNotFound,
    UnknownCourses,
)
from service.registrar import rules, seats
from service.registrar.changes import Application, Drop, Enroll, Moved, OnFull, Origin, Refusal, Result, Seat, Swap
from service.registrar.ledger import Ledger
from service.registrar.moves import NEVER, NO_CODES, application, credits_in, judge_drop, lift, move, possession, use
from service.registrar.promotion import promote
from service.registrar.rules import DropStatus
from sql.courses import Course
from sql.enrollments import Enrollment
from sql.overrides import Override
from sql.terms import Term

GONE = frozenset({"dropped", "withdrawn"})


class Decision(NamedTuple):
    """What is decided of one course before anything is moved."""

    course_id: int
    course: Course | None
    seat: Seat = "none"
    standing: Enrollment | None = None
    """Set where the student is in the course, or waits for it, already."""
    refusals: tuple[Refusal, ...] = ()
    used: tuple[Override, ...] = ()


def enroll(ledger: Ledger, change: Enroll) -> tuple[Result, ...]:
    """Give seats and places in line, or say for each course why not.

    Raises:
        StudentNotFound: there is no such student.
        EnrollmentRefused: in mode atomic, with every reason for every course.
    """
    if not ledger.has_student(change.student_id):
        raise StudentNotFound(change.student_id)
    course_ids = tuple(dict.fromkeys(change.course_ids))
    _let_the_line_go_first(ledger, course_ids, change.origin)
    decide = _decide_together if change.mode == "atomic" else _decide_in_turn
    decisions = decide(ledger, change.student_id, course_ids, change.on_full, ())
    if change.mode == "atomic":
        _raise_refusals(Asked("course_ids", change.course_ids, decisions))
    return tuple([_carry_out(ledger, change.student_id, decision, change.origin) for decision in decisions])


def _let_the_line_go_first(ledger: Ledger, course_ids: Sequence[int], origin: Origin) -> None:
    """Promote whom the clock has made eligible since the last change: a newcomer never overtakes them.

    Kept whatever becomes of the newcomer.
    """
    for course_id in course_ids:
        course = ledger.course(course_id)
        if course is not None and course.waitlisted and seats.has_free_seat(course):
            ledger.touched_courses.add(course_id)
    if ledger.touched_courses:
        promote(ledger, origin)
        ledger.keep()


class Ask(NamedTuple):
    """One course as it stands for a student, before any rule."""

    course_id: int
    course: Course | None
    seat: Seat = "none"
    standing: Enrollment | None = None


def _ask(ledger: Ledger, student_id: int, course_id: int, on_full: OnFull) -> Ask:
    """Find out what a course has for a student, before any rule."""
    course = ledger.course(course_id)
    if course is None:
        return Ask(course_id, None)
    row = ledger.enrollment(student_id, course_id)
    if row is not None and row.status in seats.STANDING:
        return Ask(course_id, course, standing=row)
    overrides = ledger.overrides_of(student_id, course_id)
    seat = seats.offer(course, on_full, above_capacity="course_full" in overrides)
    if seat == "none" and on_full == "waitlist" and "waitlist_full" in overrides and course.waitlist_capacity != 0:
        seat = "line"
    return Ask(course_id, course, seat)


def _wanted(asks: Iterable[Ask]) -> list[tuple[Course, Seat]]:
    return [(ask.course, ask.seat) for ask in asks if ask.course is not None and ask.standing is None]


def _decide_together(
    ledger: Ledger, student_id: int, course_ids: Sequence[int], on_full: OnFull, without: Collection[int]
) -> list[Decision]:
    """Judge all courses as if all of them were had: for a request that is granted or refused as a whole."""
    asks = [_ask(ledger, student_id, course_id, on_full) for course_id in course_ids]
    wanted = _wanted(asks)
    possessed = possession(ledger, student_id, without, wanted)
    seated = [course for course, seat in wanted if seat == "seat"]

    def judge(ask: Ask) -> Decision:
        course = ask.course
        if course is None or ask.standing is not None:
            return _settled(ledger, ask)
        others = [other for other in seated if other.id != course.id] if course.meetings != NEVER else ()
        asked = application(
            ledger,
            course,
            possessed,
            seat=ask.seat,
            on_full=on_full,
            asked=_other_codes(ledger, course, wanted),
            seated=tuple([(other, ledger.term(other.term_id)) for other in others]),
            asked_credits=credits_in(ledger.term(course.term_id), seated),
        )
        return _judged(ledger, student_id, ask, course, asked)

    return [judge(ask) for ask in asks]


def _decide_in_turn(
    ledger: Ledger, student_id: int, course_ids: Sequence[int], on_full: OnFull, without: Collection[int]
) -> list[Decision]:
    """Judge each course against what the earlier ones took, then take back those that lost their corequisite."""
    asks = [_ask(ledger, student_id, course_id, on_full) for course_id in course_ids]
    wanted = _wanted(asks)
    possessed = possession(ledger, student_id, without, wanted)
    taken: tuple[tuple[Course, Term | None], ...] = ()
    decisions: list[Decision] = []
    for ask in asks:
        course = ask.course
        if course is None or ask.standing is not None:
            decisions.append(_settled(ledger, ask))
            continue
        asked = application(
            ledger,
            course,
            possessed._replace(seated=possessed.seated + taken),
            seat=ask.seat,
            on_full=on_full,
            asked=_other_codes(ledger, course, wanted),
        )
        decisions.append(decision := _judged(ledger, student_id, ask, course, asked))
        if not decision.refusals and ask.seat == "seat":
            taken += ((course, ledger.term(course.term_id)),)
    return _without_lost_corequisites(ledger, student_id, decisions, possessed.has)


def _other_codes(ledger: Ledger, course: Course, wanted: Iterable[tuple[Course, Seat]]) -> frozenset[str]:
    """List the codes of the other courses of a request, where the requirements of the course ask for them."""
    if not ledger.groups(course.id):
        return NO_CODES
    return frozenset([other.code for other, _ in wanted if other.id != course.id])


def _settled(ledger: Ledger, ask: Ask) -> Decision:
    """Decide of a course that the student has already, or that does not exist."""
    unknown = Application(now=ledger.now, course_id=ask.course_id, course=None)
    refusals = rules.judge(unknown) if ask.course is None else ()
    return Decision(ask.course_id, ask.course, standing=ask.standing, refusals=refusals)


def _without_lost_corequisites(
    ledger: Ledger, student_id: int, decisions: list[Decision], has: frozenset[str]
) -> list[Decision]:
    """Refuse those whose corequisite in this request was refused, until nothing moves."""
    while True:
        granted = [decision for decision in decisions if _granted(decision)]
        for decision in granted:
            assert decision.course is not None
            codes = {other.course.code for other in granted if other is not decision and other.course is not None}
            asked = Application(
                now=ledger.now,
                course_id=decision.course_id,
                course=decision.course,
                groups=ledger.groups(decision.course_id),
                has=has,
                asked=frozenset(codes),
            )
            lost, used = lift(rules.corequisite_missing(asked), ledger.overrides_of(student_id, decision.course_id))
            if lost:
                changed = decision._replace(refusals=lost)
            elif set(used) - set(decision.used):
                changed = decision._replace(used=decision.used + used)
            else:
                continue
            decisions = [changed if each is decision else each for each in decisions]
            break
        else:
            return decisions


def _granted(decision: Decision) -> bool:
    return decision.standing is None and not decision.refusals


def _judged(ledger: Ledger, student_id: int, ask: Ask, course: Course, asked: Application) -> Decision:
    """Judge an application, overrides considered; those used up are of a seat only."""
    found = rules.judge(asked)
    if ask.seat == "seat" and not seats.has_free_seat(course):
        found += tuple(rules.course_full(asked._replace(seat="none", on_full="fail")))
    if not found:
        return Decision(course.id, course, ask.seat)
    refusals, used = lift(found, ledger.overrides_of(student_id, course.id))
    return Decision(course.id, course, ask.seat, refusals=refusals, used=used if ask.seat == "seat" else ())


def _carry_out(
    ledger: Ledger, student_id: int, decision: Decision, origin: Origin, swap_drops: Sequence[int] = ()
) -> Result:
    """Make a decision true."""
    course_id, course = decision.course_id, decision.course
    if decision.refusals:
        return Result(course_id, "refused", course, refusals=decision.refusals)
    if decision.standing is not None:
        return Result(course_id, "unchanged", course, decision.standing.status)
    if decision.seat == "seat":
        override_id = use(ledger, decision.used, origin) if decision.used else None
        move(ledger, student_id, course_id, "enrolled", origin, override_id=override_id)
        return Result(course_id, "enrolled", course, "enrolled")
    move(ledger, student_id, course_id, "waitlisted", origin, swap_drops=swap_drops)
    return Result(course_id, "waitlisted", course, "waitlisted", position=ledger.courses[course_id].waitlisted)


def swap(ledger: Ledger, change: Swap) -> tuple[Result, ...]:
    """Drop and add, all or nothing. An add that only gets a place in line keeps the drops until it gets its seat.

    Raises:
        StudentNotFound: there is no such student.
        EnrollmentRefused: with every reason for every course.
    """
    if not ledger.has_student(change.student_id):
        raise StudentNotFound(change.student_id)
    _let_the_line_go_first(ledger, change.add, change.origin)
    drops = [_ask_to_drop(ledger, change.student_id, course_id) for course_id in dict.fromkeys(change.drop)]
    going = [drop.row.course_id for drop in drops if drop.row is not None and drop.row.status not in GONE]
    adds = _decide_together(ledger, change.student_id, tuple(dict.fromkeys(change.add)), change.on_full, going)
    _raise_refusals(Asked("drop", change.drop, drops), Asked("add", change.add, adds))
    seated = any(add.standing is None and add.seat == "seat" for add in adds)
    waits = any(add.seat == "line" if add.standing is None else add.standing.status == "waitlisted" for add in adds)
    # A seat was judged as if the drops were gone: where one is given, they go, whatever else is waited for already.
    if waits and going and not seated:
        return _swap_later(ledger, change, drops, adds, going)
    results = [_drop_now(ledger, drop, change.origin) for drop in drops]
    return (*results, *(_carry_out(ledger, change.student_id, add, change.origin) for add in adds))


def _swap_later(
    ledger: Ledger, change: Swap, drops: Sequence["DropDecision"], adds: Sequence[Decision], going: list[int]
) -> tuple[Result, ...]:
    """Keep the drops, and remember them with the place in line."""
    results = [
        Result(drop.course_id, "kept" if drop.course_id in going else "unchanged", drop.course, drop.row.status)
        for drop in drops
        if drop.row is not None
    ]
    for add in adds:
        row = add.standing
        if row is not None and row.status == "waitlisted" and json.loads(row.swap_drops or "[]") != going:
            ledger.put_enrollment(row._replace(swap_drops=json.dumps(going)))
            ledger.record(
                "enrollment.updated",
                change.origin,
                student_id=change.student_id,
                course_id=row.course_id,
                before={"status": "waitlisted", "swap_drops": json.loads(row.swap_drops or "[]")},
                after={"status": "waitlisted", "swap_drops": going},
            )
            ledger.touched_students.add(change.student_id)
        results.append(_carry_out(ledger, change.student_id, add, change.origin, going))
    return tuple(results)


@dataclass(frozen=True, slots=True)
class DropDecision:
    """What is decided of one course to drop."""

    course_id: int
    course: Course | None
    row: Enrollment | None
    status: DropStatus = "dropped"
    refusals: tuple[Refusal, ...] = ()
    used: tuple[Override, ...] = ()


def _ask_to_drop(ledger: Ledger, student_id: int, course_id: int) -> DropDecision:
    course = ledger.course(course_id)
    row = None if course is None else ledger.enrollment(student_id, course_id)
    if course is None or row is None:
        return DropDecision(course_id, course, None, refusals=(Refusal("not_enrolled", course_id),))
    if row.status in GONE:
        return DropDecision(course_id, course, row)
    return DropDecision(course_id, course, row, *judge_drop(ledger, row))


def _drop_now(ledger: Ledger, drop: DropDecision, origin: Origin) -> Result:
    row = drop.row
    assert row is not None
    if row.status in GONE:
        return Result(drop.course_id, "unchanged", drop.course, row.status)
    use(ledger, drop.used, origin)
    move(ledger, row.student_id, row.course_id, drop.status, origin)
    return Result(drop.course_id, drop.status, drop.course, drop.status)


def drop(ledger: Ledger, change: Drop) -> Moved:
    """Take a student out of a course or its line; who is out already stays as is.

    Raises:
        StudentNotFound: there is no such student.
        NotEnrolled: the student never had the course.
        AlreadyCompleted: the student has completed it.
        DropRefused: with every reason.
    """
    if not ledger.has_student(change.student_id):
        raise StudentNotFound(change.student_id)
    decision = _ask_to_drop(ledger, change.student_id, change.course_id)
    if decision.row is None or decision.course is None:
        raise NotEnrolled(change.student_id, change.course_id)
    if decision.row.status == "completed":
        raise AlreadyCompleted(change.course_id)
    if decision.refusals:
        raise DropRefused([detail_of(refusal, None) for refusal in decision.refusals])
    result = _drop_now(ledger, decision, change.origin)
    row = ledger.enrollments[change.student_id, change.course_id]
    return Moved("unchanged" if result.outcome == "unchanged" else decision.status, row, decision.course)


def detail_of(refusal: Refusal, pointer: str | None) -> Detail:
    """Say a refusal within an error."""
    return Detail(
        refusal.code,
        rules.sentence(refusal),
        pointer=pointer,
        params={"course_id": refusal.course_id, **refusal.params},
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """The decisions about one member of the body, and the course ids as they stand there."""

    member: str
    course_ids: tuple[int, ...]
    decisions: Sequence[Decision | DropDecision]


def _raise_refusals(*asked: Asked) -> None:
    """Raise an error of all refusals, if there are any."""
    if not any(decision.refusals for each in asked for decision in each.decisions):
        return
    errors = [
        detail_of(refusal, f"#/{each.member}/{each.course_ids.index(decision.course_id)}")
        for each in asked
        for decision in each.decisions
        for refusal in decision.refusals
    ]
    unknown = any(error.code == "course_not_found" for error in errors)
    raise UnknownCourses(errors) if unknown else EnrollmentRefused(errors)
