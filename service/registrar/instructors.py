"""Instructors as a resource type, and setting those of a course."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypedDict
from uuid import uuid4

from service.errors import (
    EmailTaken,
    ExternalIdTaken,
    InstructorNotFound,
    PreconditionFailed,
    UnknownInstructor,
)
from service.registrar.changes import Change, Origin
from service.registrar.courses import find_course
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, NotLoaded
from service.registrar.resources import ResourceType, external_id_of
from service.registrar.students import folded, folded_emails, require_name
from sql import Connection, course_instructors, instructors
from sql.course_instructors import CourseInstructor
from sql.instructors import Instructor


class InstructorFields(TypedDict):
    """The fields of an instructor that callers write."""

    external_id: str | None
    sourced_id: str | None
    """None lets the service generate one."""
    given_name: str | None
    family_name: str | None
    email: str | None


def _create(id: int, now: datetime, fields: InstructorFields) -> Instructor:
    return Instructor(
        id=id,
        external_id=fields["external_id"],
        sourced_id=fields["sourced_id"] or str(uuid4()),
        given_name=fields["given_name"],
        family_name=fields["family_name"],
        email=fields["email"],
        version=1,
        created_at=now,
        updated_at=now,
    )


def _on_update(_ledger: Ledger, _before: Instructor, _after: Instructor, _origin: Origin) -> None:
    """Mark nobody: no rule depends on an instructor."""


def _on_delete(_ledger: Ledger, _id: int) -> None:
    """Remove nothing: an instructor who teaches or taught a course can't be deleted."""


def _is_in_use(ledger: Ledger, id: int) -> bool:
    return any(row.instructor_id == id for rows in ledger.teaching for row in rows)


async def _match(
    connection: Connection, external_ids: list[str], wanted: Sequence[Mapping[str, Any]]
) -> list[Instructor]:
    return await instructors.match_instructors(connection, external_ids, folded_emails(wanted))


async def _load_in_use(connection: Connection, ledger: Ledger, ids: list[int]) -> list[int]:
    """Return the instructors of courses other than those in memory, which a change may delete with their instructors."""
    course_ids = [course.id for course in ledger.courses]
    if unread := [id for id in course_ids if id not in ledger.loaded_teaching]:
        ledger.add_teaching(unread, await course_instructors.load_course_instructors(connection, unread))
    return await course_instructors.load_instructors_in_use(connection, ids, course_ids)


INSTRUCTOR: Final[ResourceType[Instructor, InstructorFields]] = ResourceType(
    name="instructor",
    identity_map=lambda ledger: ledger.instructors,
    create=_create,
    not_found=InstructorNotFound,
    unique={EmailTaken: lambda instructor: folded(instructor.email), ExternalIdTaken: external_id_of},
    key_parts=(),
    server_fields=frozenset(),
    redact_in_events=True,
    validate=require_name,
    on_update=_on_update,
    on_delete=_on_delete,
    is_in_use=_is_in_use,
    load=instructors.load_instructors,
    match=_match,
    load_in_use=_load_in_use,
    save=instructors.save_instructors,
    delete=instructors.delete_instructors,
    reserve_ids=instructors.reserve_instructor_ids,
    has_event_id=False,
)


class Teacher(NamedTuple):
    """An instructor who teaches a course."""

    instructor: Instructor
    is_primary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInstructors(Change[tuple[Teacher, ...]]):
    """Replace all instructors of a course; raise ``UnknownInstructor`` if one does not exist.

    ``primary`` by instructor id: exactly one is true, unless it is empty. ``if_match`` holds the tags that the
    instructors must have, ``if_none_match`` those they must not have, ``*`` any.
    """

    course_id: int
    primary: Mapping[int, bool]
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the course, its instructors and those who shall teach it."""
        needs.courses.add(self.course_id)
        needs.teaching.add(self.course_id)
        needs.resource(INSTRUCTOR).ids.update(self.primary)

    def decide(self, ledger: Ledger) -> tuple[Teacher, ...]:
        """Return the instructors, the primary one first."""
        course = find_course(ledger, self.course_id)
        rows = ledger.instructors_of(course.id)
        if self.if_match is not None or self.if_none_match is not None:
            self._check_tag(ledger, rows)
        for number, id in enumerate(self.primary):
            if ledger.instructors.get(id) is None:
                raise UnknownInstructor(id, f"#/instructors/{number}/instructor_id")
        edited = {row.instructor_id: row for row in rows}
        for id in edited.keys() | self.primary.keys():
            before = edited.get(id)
            row = CourseInstructor(course.id, id, id in self.primary, self.primary.get(id, False), ledger.now)
            if before is None or before[:-1] != row[:-1]:
                edited[id] = row
        after = tuple(edited[id] for id in sorted(edited))
        if after != rows:
            ledger.teaching.put(course.id, after)
            ledger.append_event(
                "course.instructors_set",
                self.origin,
                course_id=course.id,
                before={"instructors": state_of(rows), "version": course.version},
                after={"instructors": state_of(after), "version": course.version},
            )
        return tuple(Teacher(ledger.instructors[row.instructor_id], row.is_primary) for row in teaching_of(after))

    def _check_tag(self, ledger: Ledger, rows: Iterable[CourseInstructor]) -> None:
        current = teaching_of(rows)
        if unread := {row.instructor_id for row in current if row.instructor_id not in ledger.instructors}:
            needs = Needs()
            needs.resource(INSTRUCTOR).ids |= unread
            raise NotLoaded(needs)
        tags = {"*", teachers_tag([Teacher(ledger.instructors[row.instructor_id], row.is_primary) for row in current])}
        if self.if_match is not None and not self.if_match & tags:
            sentence = f"The instructors of course {self.course_id} have no ETag that If-Match names; read them again."
            raise PreconditionFailed.of_if_match(sentence, self.if_match)
        if self.if_none_match is not None and self.if_none_match & tags:
            raise PreconditionFailed(
                f"The instructors of course {self.course_id} have an ETag that If-None-Match excludes."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign(Change[tuple[Teacher, ...]]):
    """Let an instructor teach a course, or no longer; the other instructors of the course stay.

    A new primary instructor replaces the one before. If the primary one leaves, the first of the others is primary.
    """

    course_id: int
    instructor_id: int
    teaches: bool
    is_primary: bool = False

    def add_needs(self, needs: Needs) -> None:
        """Add the course, its instructors and the one to assign."""
        needs.courses.add(self.course_id)
        needs.teaching.add(self.course_id)
        needs.resource(INSTRUCTOR).ids.add(self.instructor_id)

    def decide(self, ledger: Ledger) -> tuple[Teacher, ...]:
        """Return the instructors of the course, the primary one first."""
        rows = ledger.instructors_of(find_course(ledger, self.course_id).id)
        primary = {row.instructor_id: row.is_primary for row in teaching_of(rows)}
        if not self.teaches:
            primary.pop(self.instructor_id, None)
        elif self.is_primary:
            primary = {**dict.fromkeys(primary, False), self.instructor_id: True}
        else:
            primary.setdefault(self.instructor_id, False)
        if primary and not any(primary.values()):
            primary[next(iter(primary))] = True
        if unread := [id for id in primary if id not in ledger.instructors]:
            needs = Needs()
            needs.resource(INSTRUCTOR).ids.update(unread)
            if unread != [self.instructor_id]:
                raise NotLoaded(needs)
        return SetInstructors(origin=self.origin, course_id=self.course_id, primary=primary).decide(ledger)


def teaching_of(rows: Iterable[CourseInstructor]) -> list[CourseInstructor]:
    """Return those who teach a course now, the primary one first, the others by id."""
    return sorted([row for row in rows if row.teaches], key=lambda row: (not row.is_primary, row.instructor_id))


def state_of(rows: Iterable[CourseInstructor]) -> list[dict[str, object]]:
    """Return those who teach a course as events show them."""
    return [{"instructor_id": row.instructor_id, "primary": row.is_primary} for row in teaching_of(rows)]


def teachers_tag(teachers: Iterable[Teacher]) -> str:
    """Return the entity tag of the instructors of a course: a digest, since their list has no version of its own."""
    state = [[each.instructor.id, each.instructor.version, each.is_primary] for each in teachers]
    return blake2b(json.dumps(state).encode(), digest_size=8).hexdigest()
