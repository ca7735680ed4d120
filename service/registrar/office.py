"""What the registrar's office does: completing, cancelling, requirements, holds, overrides, and the sweep."""

from dataclasses import replace

from service.errors import (
    CourseNotFound,
    HoldNotFound,
    NotInCourse,
    OverrideNotFound,
    OwnRequirement,
    StudentNotFound,
)
from service.registrar.changes import (
    Cancel,
    Complete,
    EndHold,
    EndOverride,
    GrantOverride,
    Group,
    Moved,
    Origin,
    PlaceHold,
    Require,
    Sweep,
)
from service.registrar.ledger import Ledger, Missing
from service.registrar.moves import ease, move
from service.registrar.promotion import promote
from service.registrar.rules import in_force
from sql.courses import Course
from sql.holds import Hold
from sql.overrides import Override


def complete(ledger: Ledger, change: Complete) -> Moved:
    """Complete a course, or correct how it was completed; raises ``NotInCourse`` for who is not enrolled."""
    _student(ledger, change.student_id)
    course = _course(ledger, change.course_id)
    row = ledger.enrollment(change.student_id, change.course_id)
    if row is None or row.status not in {"enrolled", "completed"}:
        raise NotInCourse(change.student_id, change.course_id)
    if row.status == "completed" and (row.passed, row.grade) == (change.passed, change.grade):
        return Moved("unchanged", row, course)
    row = move(
        ledger,
        change.student_id,
        change.course_id,
        "completed",
        change.origin,
        passed=change.passed,
        grade=change.grade,
    )
    return Moved("completed", row, course)


def cancel(ledger: Ledger, change: Cancel) -> Course:
    """Cancel a course and drop everyone in it or waiting for it; a cancelled one stays as it is."""
    course = _course(ledger, change.course_id)
    if course.status == "cancelled":
        return course
    if course.id not in ledger.waits_of_courses:
        raise Missing(waits_of_courses={course.id})
    leaving = [row for row in ledger.roster(course.id) if row.status in {"enrolled", "waitlisted"}]
    cancelled = course._replace(status="cancelled", version=course.version + 1, updated_at=ledger.now)
    ledger.courses.put(course.id, cancelled)
    ledger.record(
        "course.cancelled",
        change.origin,
        course_id=course.id,
        before={"status": "open", "version": course.version},
        after={"status": "cancelled", "version": cancelled.version},
    )
    for row in sorted(leaving, key=lambda row: row.place):
        move(ledger, row.student_id, row.course_id, "dropped", change.origin)
    # What they wait for is known without knowing each of them, but of those who came by changes of this batch.
    ledger.touched_students &= ledger.known_students
    ease(ledger, ledger.waits_of_courses[course.id])
    return ledger.courses[course.id]


def require(ledger: Ledger, change: Require) -> tuple[Group, ...]:
    """Set all requirements of a course; raises ``OwnRequirement`` where one names the course itself."""
    course = _course(ledger, change.course_id)
    for number, group in enumerate(change.groups):
        if course.code in group.codes:
            raise OwnRequirement(course.code, f"#/groups/{number}/any_of/{group.codes.index(course.code)}")
    before = ledger.groups(course.id)
    if before == change.groups:
        return before
    ledger.requirements.put(course.id, change.groups)
    ledger.record(
        "course.requirements_set",
        change.origin,
        course_id=course.id,
        before={"groups": _told(before), "version": course.version},
        after={"groups": _told(change.groups), "version": course.version},
    )
    ease(ledger, {course.id})
    return change.groups


def _told(groups: tuple[Group, ...]) -> list[dict[str, object]]:
    return [{"kind": group.kind, "any_of": list(group.codes)} for group in groups]


def place_hold(ledger: Ledger, change: PlaceHold) -> Hold:
    """Place a hold on a student."""
    _student(ledger, change.student_id)
    hold = Hold(
        id=ledger.take_id(Hold),
        student_id=change.student_id,
        reason=change.reason,
        blocks_enroll=change.blocks_enroll,
        blocks_drop=change.blocks_drop,
        starts_at=change.starts_at,
        ends_at=change.ends_at,
        created_at=ledger.now,
    )
    ledger.put_hold(hold)
    _record_hold(ledger, "placed", change.origin, None, hold)
    return hold


def end_hold(ledger: Ledger, change: EndHold) -> Hold:
    """End a hold now."""
    _student(ledger, change.student_id)
    hold = ledger.holds.get(change.hold_id)
    if hold is None or hold.student_id != change.student_id:
        raise HoldNotFound(change.hold_id)
    if hold.ends_at is not None and hold.ends_at <= ledger.now:
        return hold
    ended = replace(hold, ends_at=ledger.now)
    ledger.put_hold(ended)
    _record_hold(ledger, "ended", change.origin, hold, ended)
    if in_force(hold, ledger.now):
        ledger.touched_students.add(change.student_id)
    return ended


def _record_hold(ledger: Ledger, what: str, origin: Origin, before: Hold | None, after: Hold) -> None:
    """Record what a hold blocks and when; its reason is the student's affair."""

    def state(hold: Hold) -> dict[str, object]:
        blocks = [name for name, blocked in (("enroll", hold.blocks_enroll), ("drop", hold.blocks_drop)) if blocked]
        return {"hold_id": hold.id, "blocks": blocks, "starts_at": hold.starts_at, "ends_at": hold.ends_at}

    ledger.record(
        f"hold.{what}",
        origin,
        student_id=after.student_id,
        before=None if before is None else state(before),
        after=state(after),
    )


def grant_override(ledger: Ledger, change: GrantOverride) -> Override:
    """Grant an override."""
    _student(ledger, change.student_id)
    _course(ledger, change.course_id)
    override = Override(
        id=ledger.take_id(Override),
        student_id=change.student_id,
        course_id=change.course_id,
        rule=change.rule,
        author=change.author,
        reason=change.reason,
        expires_at=change.expires_at,
        used_at=None,
        created_at=ledger.now,
    )
    ledger.put_override(override)
    _record_override(ledger, "granted", change.origin, None, override)
    ledger.touched_students.add(change.student_id)
    return override


def end_override(ledger: Ledger, change: EndOverride) -> Override:
    """End an override that was not used yet."""
    _student(ledger, change.student_id)
    override = ledger.overrides.get(change.override_id)
    if override is None or override.student_id != change.student_id:
        raise OverrideNotFound(change.override_id)
    if override.used_at is not None or (override.expires_at is not None and override.expires_at <= ledger.now):
        return override
    ended = replace(override, expires_at=ledger.now)
    ledger.put_override(ended)
    _record_override(ledger, "ended", change.origin, override, ended)
    return ended


def _record_override(ledger: Ledger, what: str, origin: Origin, before: Override | None, after: Override) -> None:
    def state(override: Override) -> dict[str, object]:
        return {
            "override_id": override.id,
            "rule": override.rule,
            "author": override.author,
            "expires_at": override.expires_at,
        }

    ledger.record(
        f"override.{what}",
        origin,
        student_id=after.student_id,
        course_id=after.course_id,
        before=None if before is None else state(before),
        after=state(after),
    )


def sweep(ledger: Ledger, change: Sweep) -> int:
    """Promote whom the clock alone has made eligible, and say how many."""
    ease(ledger, change.course_ids)
    return promote(ledger, change.origin)


def _student(ledger: Ledger, student_id: int) -> None:
    if not ledger.has_student(student_id):
        raise StudentNotFound(student_id)


def _course(ledger: Ledger, course_id: int) -> Course:
    course = ledger.course(course_id)
    if course is None:
        raise CourseNotFound(course_id)
    return course
