"""Creating, editing, replacing and deleting students, courses and terms: one set of functions for every kind of thing."""

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic

from service.errors import (
    CodeTaken,
    CourseNotFound,
    DomainError,
    EmailTaken,
    ExternalIdTaken,
    InUse,
    OwnRequirement,
    PreconditionFailed,
    StudentNotFound,
    TermDates,
    TermNotFound,
    UnknownTerm,
)
from service.registrar.changes import Create, Delete, Edit, Origin, Replace, Replaced, Thing
from service.registrar.ledger import Ledger, Missing, Table
from service.registrar.moves import ease
from service.registrar.rules import number
from sql.courses import Course
from sql.students import Student
from sql.terms import Term


@dataclass(frozen=True, slots=True)
class Kind(Generic[Thing]):
    """What differs between kinds of things."""

    name: str
    table: Callable[[Ledger], Table[int, Thing]]
    not_found: Callable[[int], DomainError]
    unique: Mapping[Callable[[], DomainError], Callable[[Thing], Hashable]]
    """What is raised when another thing has the same key, and the key; None is no key."""
    unwritten: frozenset[str]
    """The fields that no caller writes, besides the id, the version and the times."""
    personal: bool
    """Whether events tell only the names of the fields that changed, so that a person can be erased."""
    examine: Callable[[Ledger, Thing], None]
    """Raises where a thing does not fit with others, or in itself."""
    touch: Callable[[Ledger, Thing, Thing], None]
    """Notes who may be promoted now that a thing has changed from the first to the second."""
    detach: Callable[[Ledger, int], None]
    """Removes what belongs to a thing that is deleted, as the database does with what it holds."""


def _examine_course(ledger: Ledger, course: Course) -> None:
    if course.term_id is not None and ledger.term(course.term_id) is None:
        raise UnknownTerm(course.term_id)
    # A new course has no requirements yet.
    if course.version > 1 and any(course.code in group.codes for group in ledger.groups(course.id)):
        raise OwnRequirement(course.code)


def _touch_course(ledger: Ledger, before: Course, after: Course) -> None:
    ledger.touched_courses.add(after.id)
    if any(getattr(before, name) != getattr(after, name) for name in ("meetings", "credits", "term_id", "code")):
        if after.id not in ledger.waits_of_courses:
            raise Missing(waits_of_courses={after.id})
        ease(ledger, {after.id, *ledger.waits_of_courses[after.id]})


def _examine_term(_ledger: Ledger, term: Term) -> None:
    if term.starts_on > term.ends_on:
        raise TermDates("starts_on", "ends_on")
    if term.enroll_from is not None and term.enroll_until is not None and term.enroll_from > term.enroll_until:
        raise TermDates("enroll_from", "enroll_until")
    if term.drop_until is not None and term.withdraw_until is not None and term.drop_until > term.withdraw_until:
        raise TermDates("drop_until", "withdraw_until")


def _touch_term(ledger: Ledger, _before: Term, after: Term) -> None:
    if after.id not in ledger.waits_of_terms:
        raise Missing(waits_of_terms={after.id})
    ease(ledger, ledger.waits_of_terms[after.id])
    # Those whom changes before this one have put into a line, or whose course they have put into the term: either way
    # the batch knows them, as it went through the lines that such a course is in the way of.
    for student_id in ledger.known_students:
        marks = ledger.marks(student_id)
        if "waitlisted" in marks.values():
            had = ledger.definitions(sorted(marks)).values()
            if any(definition.term_id == after.id for definition in had):
                ledger.touched_students.add(student_id)


def _touch_student(ledger: Ledger, _before: Student, after: Student) -> None:
    ledger.touched_students.add(after.id)


def _detach_from_student(ledger: Ledger, id: int) -> None:
    for hold in [hold for hold in ledger.holds if hold.student_id == id]:
        ledger.holds.put(hold.id, None)
    for override in [override for override in ledger.overrides if override.student_id == id]:
        ledger.overrides.put(override.id, None)


def _detach_from_course(ledger: Ledger, id: int) -> None:
    ledger.requirements.put(id, None)
    for override in [override for override in ledger.overrides if override.course_id == id]:
        ledger.overrides.put(override.id, None)


def _has_nothing(_ledger: Ledger, _id: int) -> None:
    """Nothing to remove: no term is deleted that courses are in."""


def _fits(_ledger: Ledger, _thing: object) -> None:
    """Nothing to examine: each field was validated by itself."""


def _external_id(thing: Student | Course | Term) -> str | None:
    return getattr(thing, "external_id", None)


STUDENT: Kind[Student] = Kind(
    name="student",
    table=lambda ledger: ledger.students,
    not_found=StudentNotFound,
    unique={EmailTaken: lambda student: student.email.lower(), ExternalIdTaken: _external_id},
    unwritten=frozenset(),
    personal=True,
    examine=_fits,
    touch=_touch_student,
    detach=_detach_from_student,
)
COURSE: Kind[Course] = Kind(
    name="course",
    table=lambda ledger: ledger.courses,
    not_found=CourseNotFound,
    unique={
        ExternalIdTaken: _external_id,
        CodeTaken: lambda course: None if course.term_id is None else (course.term_id, course.code),
    },
    unwritten=frozenset({"status", "seats_taken", "waitlisted"}),
    personal=False,
    examine=_examine_course,
    touch=_touch_course,
    detach=_detach_from_course,
)
TERM: Kind[Term] = Kind(
    name="term",
    table=lambda ledger: ledger.terms,
    not_found=TermNotFound,
    unique={CodeTaken: lambda term: term.code},
    unwritten=frozenset(),
    personal=False,
    examine=_examine_term,
    touch=_touch_term,
    detach=_has_nothing,
)


def create(ledger: Ledger, kind: Kind[Thing], change: Create[Thing]) -> Thing:
    """Make a thing; raises where another one has its unique key."""
    return _insert(ledger, kind, change.thing, change.values, change.origin)


def edit(ledger: Ledger, kind: Kind[Thing], change: Edit[Thing]) -> Thing:
    """Set fields of a thing; nothing changed is no event and the same version."""
    thing = _find(ledger, kind, change.id, change.if_match)
    return _update(ledger, kind, thing, change.values, change.origin)


def put(ledger: Ledger, kind: Kind[Thing], change: Replace[Thing]) -> Replaced[Thing]:
    """Make the thing with an external id, or set all its fields."""
    thing = kind.table(ledger).find(_external_id, change.external_id)
    values = {**change.values, "external_id": change.external_id}
    if thing is None:
        if change.if_match is not None:
            raise PreconditionFailed(f"There is no {kind.name} with this external id to match.")
        return Replaced(_insert(ledger, kind, change.thing, values, change.origin), created=True)
    if change.if_none_match is not None and change.if_none_match & {"*", str(thing.version)}:
        raise PreconditionFailed(f"There is {kind.name} {thing.id} with this external id, in version {thing.version}.")
    _check_version(kind, thing, change.if_match)
    return Replaced(_update(ledger, kind, thing, values, change.origin), created=False)


def delete(ledger: Ledger, kind: Kind[Thing], change: Delete) -> None:
    """Delete a thing; raises ``InUse`` where an enrollment has ever named it."""
    thing = _find(ledger, kind, change.id, change.if_match)
    if (change.thing, thing.id) in ledger.in_use or _is_in_use(ledger, kind, thing.id):
        raise InUse(f"{kind.name.capitalize()} {thing.id}")
    kind.table(ledger).put(thing.id, None)
    kind.detach(ledger, thing.id)
    _record(ledger, kind, "deleted", change.origin, before=thing, after=None)


def _find(ledger: Ledger, kind: Kind[Thing], id: int, if_match: frozenset[str] | None) -> Thing:
    thing = kind.table(ledger).get(id)
    if thing is None:
        raise kind.not_found(id)
    _check_version(kind, thing, if_match)
    return thing


def _check_version(kind: Kind[Thing], thing: Thing, if_match: frozenset[str] | None) -> None:
    if if_match is not None and not if_match & {"*", str(thing.version)}:
        raise PreconditionFailed(f"{kind.name.capitalize()} {thing.id} is in version {thing.version} by now.")


def _insert(ledger: Ledger, kind: Kind[Thing], row: type[Thing], values: Mapping[str, object], origin: Origin) -> Thing:
    first = {"status": "open", "seats_taken": 0, "waitlisted": 0}
    given = {**{name: first[name] for name in kind.unwritten}, **values}
    thing = row(id=ledger.take_id(row), version=1, created_at=ledger.now, updated_at=ledger.now, **given)  # type: ignore[arg-type]
    _check_unique(ledger, kind, thing)
    kind.examine(ledger, thing)
    kind.table(ledger).put(thing.id, thing)
    _record(ledger, kind, "created", origin, before=None, after=thing)
    return thing


def _update(ledger: Ledger, kind: Kind[Thing], thing: Thing, values: Mapping[str, object], origin: Origin) -> Thing:
    edited = _changed(thing, values)
    if edited == thing:
        return thing
    edited = _changed(edited, {"version": thing.version + 1, "updated_at": ledger.now})
    _check_unique(ledger, kind, edited)
    kind.examine(ledger, edited)
    kind.table(ledger).put(thing.id, edited)
    _record(ledger, kind, "updated", origin, before=thing, after=edited)
    kind.touch(ledger, thing, edited)
    return edited


def _changed(thing: Thing, values: Mapping[str, object]) -> Thing:
    """Copy a thing with other values in some fields: of a dataclass, or of a named tuple."""
    copy: Callable[..., Thing] = getattr(thing, "_replace", None) or partial(replace, thing)
    return copy(**values)


def _field_names(thing: Student | Course | Term) -> tuple[str, ...]:
    return thing._fields if isinstance(thing, Course) else tuple(thing.__dataclass_fields__)


def _check_unique(ledger: Ledger, kind: Kind[Thing], thing: Thing) -> None:
    for taken, key_of in kind.unique.items():
        other = kind.table(ledger).find(key_of, key_of(thing))
        if other is not None and other.id != thing.id:
            raise taken()


def _is_in_use(ledger: Ledger, kind: Kind[Thing], id: int) -> bool:
    """Tell whether a change of this batch has made others depend on a thing."""
    if kind is TERM:
        return any(course.term_id == id for course in ledger.courses)
    return ledger.has_students(id) if kind is COURSE else any(ledger.courses_of(id))


def told_value(name: str, value: object) -> object:
    """Say a field's value as the API says it."""
    if name == "meetings" and isinstance(value, str):
        return json.loads(value)
    return number(value) if isinstance(value, float) else value


def _record(
    ledger: Ledger, kind: Kind[Thing], what: str, origin: Origin, *, before: Thing | None, after: Thing | None
) -> None:
    """Record an event with the fields that differ, or with all of what is new or gone."""
    thing = after if after is not None else before
    assert thing is not None
    unwritten = {"id", "version", "created_at", "updated_at", *kind.unwritten}
    names = [name for name in _field_names(thing) if name not in unwritten]
    if before is not None and after is not None:
        names = [name for name in names if getattr(before, name) != getattr(after, name)]

    def state(row: Thing | None) -> dict[str, object] | None:
        if row is None:
            return None
        told = {"fields": names} if kind.personal else {name: told_value(name, getattr(row, name)) for name in names}
        return {**told, "version": row.version}

    ledger.record(
        f"{kind.name}.{what}",
        origin,
        before=state(before),
        after=state(after),
        **{f"{kind.name}_id": thing.id},
    )
