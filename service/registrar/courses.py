"""Courses: the resource type, cancelling and reopening one, and setting its requirements."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, TypedDict

from service.errors import (
    CodeTaken,
    CourseNotFound,
    ExternalIdTaken,
    MeetingDates,
    OwnRequirement,
    PreconditionFailed,
    ReservationsAboveCapacity,
    UnknownGrade,
    UnknownTerm,
)
from service.registrar.application import Group, Reservation, code_key, reservations_in
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger, named_keys
from service.registrar.lost_requirements import allow_progress
from service.registrar.meetings import dates_of, first_without_date, first_without_week
from service.registrar.moves import move
from service.registrar.needs import Needs, Relaxed
from service.registrar.resources import ResourceType, check_unique, external_id_of
from service.registrar.seats import has_free_seat
from sql import Connection, courses, enrollments
from sql.courses import Course, Offering
from sql.passed_codes import FormerCode


class CourseFields(TypedDict):
    """The fields of a course that callers write."""

    external_id: str | None
    term_id: int | None
    code: str
    section: str | None
    title: str
    credits: float
    capacity: int | None
    waitlist_capacity: int | None
    meetings: str


def _create(id: int, now: datetime, fields: CourseFields) -> Course:
    return Course(
        id=id, status="open", seats_taken=0, waitlisted=0, version=1, created_at=now, updated_at=now, **fields
    )


def _validate(ledger: Ledger, course: Course) -> None:
    if course.term_id is not None and ledger.term(course.term_id) is None:
        raise UnknownTerm(course.term_id)
    # A new course has no requirements yet.
    if course.version > 1 and any(code_key(course.code) in group.keys for group in ledger.groups(course.id)):
        raise OwnRequirement(course.code)
    before = ledger.courses.get(course.id)
    if before is not None and before.capacity != course.capacity:
        check_reservations(reservations_in(course.reservations), course.capacity, ledger.now, "#/capacity")
    _validate_meetings(ledger, course)


def check_reservations(reservations: Sequence[Reservation], capacity: int | None, now: datetime, pointer: str) -> None:
    """Raise ``ReservationsAboveCapacity`` if the reservations in force have more seats than a course."""
    reserved = sum([each.seats for each in reservations if each.is_in_force(now)])
    if capacity is not None and reserved > capacity:
        raise ReservationsAboveCapacity(reserved, capacity, pointer)


def _validate_meetings(ledger: Ledger, course: Course) -> None:
    """Refuse meetings without a date. A later change of the term may leave some without one: they conflict with nothing."""
    before = ledger.courses.get(course.id)
    if before is not None and (before.meetings, before.term_id) == (course.meetings, course.term_id):
        return
    term = ledger.term(course.term_id)
    if term is None and (place := first_without_week(course.meetings)) is not None:
        raise MeetingDates.without_first_week(place)
    if (found := first_without_date(course.meetings, dates_of(term))) is not None:
        place, possible = found
        raise MeetingDates.on_no_date(place, *possible)


RELAXING: Final = ("meetings", "credits", "term_id", "code")
"""The fields of a course whose change can make students eligible, for this course or for others."""


def _on_update(ledger: Ledger, before: Course, after: Course, origin: Origin) -> None:
    """Mark for judgment the students who may be eligible now; an edit of any other field makes nobody eligible."""
    relaxing = [name for name in RELAXING if getattr(before, name) != getattr(after, name)]
    ledger.codes_changed |= "code" in relaxing
    # Nobody can be blocked by a course without students, and the catalogue of a coming term has many of them.
    if relaxing and (after.seats_taken or after.waitlisted):
        former = [] if before.code == after.code else [FormerCode(after.id, before.code)]
        ledger.relax(Relaxed(origin, courses={after.id}, members={after.id}, former_codes=former))
    if before.capacity != after.capacity and after.reservations is not None:
        ledger.opened.put(after.id, origin.of_promotions())
    if before.term_id != after.term_id or has_free_seat(after):
        ledger.mark_promotable(after.id, origin)


def _on_delete(ledger: Ledger, id: int) -> None:
    ledger.requirements.put(id, None)
    ledger.teaching.put(id, None)
    for override in [override for override in ledger.overrides if override.course_id == id]:
        ledger.overrides.put(override.id, None)


def _is_in_use(ledger: Ledger, id: int) -> bool:
    return ledger.has_students(id)


NO_SECTION = ""
"""The section of a course without one, as far as uniqueness is concerned."""


def _offering_key(course: Course) -> Hashable:
    """Return the term, the code and the section, or None for a course that shares them freely."""
    if course.term_id is None or course.status == "cancelled":
        return None
    return course.term_id, code_key(course.code), code_key(course.section or NO_SECTION)


async def _match(connection: Connection, external_ids: list[str], wanted: Sequence[Mapping[str, Any]]) -> list[Course]:
    offerings = [
        Offering(fields["term_id"], fields["code"], fields.get("section") or NO_SECTION)
        for fields in wanted
        if "code" in fields and fields.get("term_id") is not None
    ]
    return await courses.match_courses(connection, external_ids, offerings)


async def _load_in_use(connection: Connection, _ledger: Ledger, ids: list[int]) -> list[int]:
    return await enrollments.load_courses_in_use(connection, ids)


COURSE: Final[ResourceType[Course, CourseFields]] = ResourceType(
    name="course",
    identity_map=lambda ledger: ledger.courses,
    create=_create,
    not_found=CourseNotFound,
    unique={
        ExternalIdTaken: external_id_of,
        CodeTaken: _offering_key,
    },
    key_parts=("code", "section", "term_id"),
    server_fields=frozenset({"status", "seats_taken", "waitlisted", "reservations"}),
    redact_in_events=False,
    validate=_validate,
    on_update=_on_update,
    on_delete=_on_delete,
    is_in_use=_is_in_use,
    load=courses.load_courses,
    match=_match,
    load_in_use=_load_in_use,
    save=courses.save_courses,
    delete=courses.delete_courses,
    reserve_ids=courses.reserve_course_ids,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Change[Course]):
    """Cancel a course, and drop everyone enrolled or waitlisted; repeating it changes nothing."""

    course_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the course and everyone in it."""
        needs.courses.add(self.course_id)
        needs.rosters.add(self.course_id)

    def decide(self, ledger: Ledger) -> Course:
        """Return the cancelled course."""
        course = find_course(ledger, self.course_id)
        if course.status == "cancelled":
            return course
        leaving = [row for row in ledger.roster(course.id) if row.status in {"enrolled", "waitlisted"}]
        if ledger.dependents_in_progress(course.code) or allow_progress(ledger.groups(course.id)):
            # The courses of one student after the other would take a statement each.
            ledger.require_students([row.student_id for row in leaving])
        cancelled = course._replace(status="cancelled", version=course.version + 1, updated_at=ledger.now)
        ledger.courses.put(course.id, cancelled)
        ledger.append_event(
            "course.cancelled",
            self.origin,
            course_id=course.id,
            before={"status": "open", "version": course.version},
            after={"status": "cancelled", "version": cancelled.version},
        )
        for row in sorted(leaving, key=lambda row: row.joined_position):
            move(ledger, row.student_id, row.course_id, "dropped", self.origin, relaxes=False)
        # One statement finds the other courses for which these students are waitlisted.
        ledger.relax(Relaxed(self.origin, students={row.student_id for row in leaving}))
        return ledger.courses[course.id]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopen(Change[Course]):
    """Open a cancelled course again, with nobody enrolled or waitlisted; repeating it changes nothing.

    Raises, when decided:
        CourseNotFound: there is no such course.
        CodeTaken: another course has taken its place.
    """

    course_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the course, and the courses that have its unique keys."""
        needs.courses.add(self.course_id)
        wanted = needs.resource(COURSE)
        wanted.ids.add(self.course_id)
        wanted.edited.append((self.course_id, {}))

    def decide(self, ledger: Ledger) -> Course:
        """Return the open course."""
        course = find_course(ledger, self.course_id)
        if course.status == "open":
            return course
        reopened = course._replace(status="open", version=course.version + 1, updated_at=ledger.now)
        check_unique(ledger, COURSE, reopened)
        ledger.courses.put(course.id, reopened)
        ledger.append_event(
            "course.reopened",
            self.origin,
            course_id=course.id,
            before={"status": "cancelled", "version": course.version},
            after={"status": "open", "version": reopened.version},
        )
        return reopened


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRequirements(Change[tuple[Group, ...]]):
    """Replace all requirements of a course.

    Raises, when decided:
        OwnRequirement: a requirement names the course itself.
        UnknownGrade: a requirement names a grade that is not in the grade scale.

    ``if_match`` holds the tags that the requirements must have, ``if_none_match`` those they must not have, ``*`` any.
    """

    course_id: int
    groups: tuple[Group, ...]
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the course."""
        needs.courses.add(self.course_id)

    def decide(self, ledger: Ledger) -> tuple[Group, ...]:
        """Return the requirements."""
        course = find_course(ledger, self.course_id)
        before = ledger.groups(course.id)
        current = {"*", requirements_tag(before)}
        if self.if_match is not None and not self.if_match & current:
            sentence = f"The requirements of course {course.id} have no ETag that If-Match names; read them again."
            raise PreconditionFailed.of_if_match(sentence, self.if_match)
        if self.if_none_match is not None and self.if_none_match & current:
            raise PreconditionFailed(
                f"The requirements of course {course.id} have an ETag that If-None-Match excludes."
            )
        key = code_key(course.code)
        for number, group in enumerate(self.groups):
            if key in group.keys:
                raise OwnRequirement(course.code, f"#/groups/{number}/any_of/{group.keys.index(key)}")
        for number, group in enumerate(self.groups):
            if group.min_grade is not None and group.min_grade not in ledger.grade_scale.ranks:
                raise UnknownGrade(group.min_grade, f"#/groups/{number}/min_grade")
        if before == self.groups:
            return before
        ledger.requirements.put(course.id, self.groups)
        ledger.append_event(
            "course.requirements_set",
            self.origin,
            course_id=course.id,
            before={"groups": _state(before), "version": course.version},
            after={"groups": _state(self.groups), "version": course.version},
        )
        # The students in the course may now get courses that it no longer excludes, or swap what it no longer needs.
        excludes_less = named_keys(before, "anti") - named_keys(self.groups, "anti")
        needs_less = any(group.kind == "co" and group not in self.groups for group in before)
        members = {course.id} if excludes_less or needs_less else set()
        ledger.relax(Relaxed(self.origin, courses={course.id}, members=members))
        if allow_progress(before):
            # An edit marks no seat, but a mark ends if nothing is required any more that the student lacks.
            lost = ledger.lost_of_course(course.id)
            ledger.require_students(lost)
            for student_id in lost:
                ledger.doubtful.put((student_id, course.id), self.origin)
        return self.groups


def requirements_tag(groups: tuple[Group, ...]) -> str:
    """Return the entity tag of requirements: a digest, since they have no version of their own."""
    return blake2b(json.dumps(_state(groups)).encode(), digest_size=8).hexdigest()


def _state(groups: tuple[Group, ...]) -> list[dict[str, object]]:
    return [
        {"kind": group.kind, "any_of": list(group.codes)}
        | ({} if group.min_grade is None else {"min_grade": group.min_grade})
        | ({"in_progress": True} if group.in_progress else {})
        for group in groups
    ]


def find_course(ledger: Ledger, course_id: int) -> Course:
    """Return a course; raise ``CourseNotFound`` if it does not exist."""
    course = ledger.course(course_id)
    if course is None:
        raise CourseNotFound(course_id)
    return course
