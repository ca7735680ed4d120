"""Steps that all enrollment changes share: lifting refusals by overrides, judging a drop, and the move itself."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import lru_cache

from service.registrar import reserved, rules, seats
from service.registrar.application import NO_PARTNERS, Application, Course, Partners, Refusal
from service.registrar.changes import Origin
from service.registrar.ledger import Ledger, as_json
from service.registrar.lost_requirements import doubt_requirements
from service.registrar.rules import DropStatus
from sql.enrollments import Enrollment, Status
from sql.overrides import Override


def lift(
    refusals: Iterable[Refusal], overrides: Mapping[str, Override]
) -> tuple[tuple[Refusal, ...], tuple[Override, ...]]:
    """Split refusals into those that remain and the overrides that lift the others, each override once."""
    refusals = tuple(refusals)
    remaining = tuple(refusal for refusal in refusals if refusal.code not in overrides)
    used = dict.fromkeys(overrides[refusal.code] for refusal in refusals if refusal.code in overrides)
    return remaining, tuple(used)


def use(ledger: Ledger, overrides: Sequence[Override], origin: Origin) -> int | None:
    """Use overrides up, and return the id of the override to store with the seat, preferably one for a full course."""
    for override in overrides:
        ledger.put_override(replace(override, used_at=ledger.now))
        ledger.append_event(
            "override.used",
            origin,
            student_id=override.student_id,
            course_id=override.course_id,
            before={"override_id": override.id, "used_at": None},
            after={"override_id": override.id, "used_at": ledger.now},
        )
    first = sorted(overrides, key=lambda override: (override.rule != "course_full", override.id))
    return first[0].id if first else None


def judge_drop(
    ledger: Ledger, row: Enrollment, leaving: Collection[int], requested: Partners = NO_PARTNERS
) -> tuple[DropStatus, tuple[Refusal, ...], tuple[Override, ...]]:
    """Return the status that a drop leads to, the refusals that remain, and the overrides that it would use.

    ``leaving`` are all courses that the student drops by the same step, ``requested`` those that the student gets by it.
    """
    course = ledger.course(row.course_id)
    assert course is not None
    status, refusals = rules.judge_drop(
        row.course_id, row.status, ledger.term(course.term_id), ledger.holds_of(row.student_id), ledger.now
    )
    if row.status == "enrolled" and (dependents := ledger.dependents(course)):
        refusals += tuple(
            rules.corequisite_needed(
                course,
                ledger.term(course.term_id),
                _keeping(ledger, row.student_id, dependents, leaving, requested),
            )
        )
    remaining, used = lift(refusals, ledger.overrides_of(row.student_id, row.course_id))
    return status, remaining, used


def _keeping(
    ledger: Ledger, student_id: int, dependents: Set[int], leaving: Collection[int], requested: Partners
) -> list[Application]:
    """Return an application for each of these courses in which a student keeps a seat, as the rule of drops needs it."""
    kept = [id for id, mark in ledger.marks(student_id).items() if mark == "enrolled" and id in dependents]
    kept = sorted([id for id in kept if id not in leaving])
    if not kept:
        return []
    history, courses = ledger.history(student_id, leaving), ledger.definitions(kept)
    return [
        Application(
            now=ledger.now,
            course_id=id,
            course=None,
            history=history,
            term=ledger.term(courses[id].term_id),
            groups=ledger.groups(id),
            requested=requested,
            code_sets=ledger.code_sets,
        )
        for id in kept
    ]


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
    relaxes: bool = True,
    duplicate_of: int | None = None,
) -> Enrollment:
    """Change a student's status: append the event, set the row, count the seats, and mark who may be promoted.

    Without ``relaxes``, the caller has the student's other waitlist places judged again. ``duplicate_of`` is the course
    whose seat is the reason to drop a waitlist place. A seat drops the places for other offerings of its code.
    """
    course = ledger.course(course_id)
    assert course is not None
    existing = ledger.enrollment(student_id, course_id)
    drops = swap_drops_text(swap_drops)
    was_seated, is_seated = existing is not None and existing.status in seats.SEATED, status in seats.SEATED
    group = None if existing is None or not is_seated else existing.reserved_group
    if was_seated or is_seated:
        doubt_requirements(ledger, student_id, course, existing, origin)
    if course.reservations is not None:
        if is_seated and not was_seated:
            group = reserved.group_of_seat(ledger, student_id, course)
        reserved.count(ledger, course, None if existing is None else existing.reserved_group, group)
        was_passed_over = existing is not None and reserved.is_only_reserved(existing.blocked_reasons)
        if was_passed_over or (was_seated and not is_seated):
            ledger.opened.put(course_id, origin.of_promotions())
    position = ledger.append_event(
        f"enrollment.{event or status}",
        origin,
        student_id=student_id,
        course_id=course_id,
        before=None if existing is None else _state(existing.status, existing.passed, existing.grade),
        after=_state(status, passed, grade, override_id, tuple(swap_drops))
        if duplicate_of is None
        else _duplicate_state(status, duplicate_of),
    )
    # A student who has a seat keeps it, also when a completion is taken back.
    if existing is not None and (status not in seats.ACTIVE or existing.status in seats.SEATED):
        row = existing._replace(
            status=status,
            updated_at=ledger.now,
            passed=passed,
            grade=grade,
            swap_drops=drops,
            blocked_reasons=None,
            recheck_at=None,
            reserved_group=group,
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
            reserved_group=group,
        )
    ledger.put_enrollment(row)
    recounted = seats.recount(course, None if existing is None else existing.status, status)
    if recounted is not course:
        ledger.courses.put(course_id, recounted)
    if recounted.waitlisted and seats.has_free_seat(recounted):
        ledger.mark_promotable(course_id, origin)
    # A drop frees time and credits; a new course may be the corequisite of another one.
    has_places = ledger.has_places(student_id)
    if relaxes and has_places:
        ledger.changed_students.put(student_id, origin)
    if status not in seats.ACTIVE:
        for place in swaps_that_drop(ledger, student_id, course_id):
            set_swap_drops(ledger, place, [id for id in swap_drops_of(place) if id != course_id], origin)
    if has_places and status in seats.SEATED:
        drop_siblings(ledger, student_id, course, origin, completed=status == "completed")
    return row


def drop_siblings(ledger: Ledger, student_id: int, course: Course, origin: Origin, *, completed: bool) -> None:
    """Drop the student's waitlist places for other offerings of the code of a course in which the student has a seat.

    A place stays if an override lifts the rule, or if its swap drops the course.
    """
    key, term = ledger.code_sets.key, ledger.term(course.term_id)
    own = key(course.code)
    for place in ledger.places_of(student_id):
        other = ledger.course(place.course_id)
        if other is None or other.id == course.id or key(other.code) != own or course.id in swap_drops_of(place):
            continue
        if not rules.are_offered_together(term, ledger.term(other.term_id), completed=completed):
            continue
        if "duplicate_course" not in ledger.overrides_of(student_id, other.id):
            drop_duplicate(ledger, student_id, other.id, course.id, origin)


def drop_duplicate(ledger: Ledger, student_id: int, course_id: int, seat_id: int, origin: Origin) -> Enrollment:
    """Drop a waitlist place because the student has a seat in another offering, ``seat_id``; the event has the reason."""
    reason = f"The student has a seat in course {seat_id}, another offering of the course."
    of_seat = replace(origin, reason=origin.reason or reason)
    return move(ledger, student_id, course_id, "dropped", of_seat, duplicate_of=seat_id)


def swap_drops_of(row: Enrollment) -> list[int]:
    """Return the ids of the courses that the student drops when a seat in this one is granted."""
    drops: list[int] = json.loads(row.swap_drops or "[]")
    return drops


def swap_drops_text(drops: Sequence[int]) -> str | None:
    """Format the pending drops of a swap for storage; lists return this text unchanged."""
    return json.dumps(list(drops), separators=(",", ":")) if drops else None


def swaps_that_drop(ledger: Ledger, student_id: int, course_id: int) -> list[Enrollment]:
    """Return the waitlist places whose swaps will drop a course."""
    return [row for row in ledger.courses_of(student_id) if row.swap_drops and course_id in swap_drops_of(row)]


def set_swap_drops(ledger: Ledger, row: Enrollment, drops: Sequence[int], origin: Origin) -> None:
    """Set the courses that a waitlisted student drops when the seat is granted."""
    ledger.append_event(
        "enrollment.updated",
        origin,
        student_id=row.student_id,
        course_id=row.course_id,
        before={"status": "waitlisted", "swap_drops": swap_drops_of(row)},
        after={"status": "waitlisted", "swap_drops": list(drops)},
    )
    ledger.put_enrollment(row._replace(swap_drops=swap_drops_text(drops)))


def enrollment_state(row: Enrollment) -> dict[str, object]:
    """Return the state of an enrollment for an event."""
    state: dict[str, object] = json.loads(_state(row.status, row.passed, row.grade, None, tuple(swap_drops_of(row))))
    return state


@lru_cache(maxsize=1024)
def _state(
    status: Status,
    passed: bool | None,
    grade: str | None,
    override_id: int | None = None,
    swap_drops: tuple[int, ...] = (),
) -> str:
    """Format a state for an event; the result is cached, since many states are equal."""
    state: dict[str, object] = {"status": status}
    if override_id is not None:
        state["override_id"] = override_id
    if swap_drops:
        state["swap_drops"] = list(swap_drops)
    if status == "completed":
        state |= {"passed": passed, "grade": grade}
    return as_json(state)


def _duplicate_state(status: Status, seat_id: int) -> str:
    """Format the state of a dropped waitlist place, with the seat that is the reason."""
    return as_json({"status": status, "blocked_by": [{"code": "duplicate_course", "with_course_id": seat_id}]})
