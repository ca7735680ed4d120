"""Creating, editing, replacing and deleting students and courses: one set of functions for every kind of thing."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Generic

from service.errors import (
    CourseNotFound,
    DomainError,
    EmailTaken,
    ExternalIdTaken,
    InUse,
    PreconditionFailed,
    StudentNotFound,
)
from service.registrar.changes import Create, Delete, Edit, Origin, Replace, Replaced, Thing
from service.registrar.ledger import Ledger, Table
from sql.courses import Course
from sql.students import Student


@dataclass(frozen=True, slots=True)
class Kind(Generic[Thing]):
    """What differs between kinds of things."""

    name: str
    table: Callable[[Ledger], Table[int, Thing]]
    not_found: Callable[[int], DomainError]
    unique: Mapping[Callable[[], DomainError], Callable[[Thing], Hashable]]
    """What is raised when another thing has the same key, and the key; None is no key."""
    starting: Mapping[str, object]
    """The first values of the fields that no caller writes."""
    personal: bool
    """Whether events tell only the names of the fields that changed, so that a person can be erased."""


STUDENT: Kind[Student] = Kind(
    name="student",
    table=lambda ledger: ledger.students,
    not_found=StudentNotFound,
    unique={EmailTaken: lambda student: student.email.lower(), ExternalIdTaken: lambda student: student.external_id},
    starting={},
    personal=True,
)
COURSE: Kind[Course] = Kind(
    name="course",
    table=lambda ledger: ledger.courses,
    not_found=CourseNotFound,
    unique={ExternalIdTaken: lambda course: course.external_id},
    starting={"seats_taken": 0},
    personal=False,
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
    thing = next((row for row in kind.table(ledger) if row.external_id == change.external_id), None)
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
    if (change.thing, thing.id) in ledger.in_use or _is_enrolled(ledger, kind.name, thing.id):
        raise InUse(f"{kind.name.capitalize()} {thing.id}")
    kind.table(ledger).put(thing.id, None)
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
    given = {**kind.starting, **values}
    thing = row(id=ledger.free_ids[row].pop(), version=1, created_at=ledger.now, updated_at=ledger.now, **given)  # type: ignore[arg-type]
    _check_unique(ledger, kind, thing)
    kind.table(ledger).put(thing.id, thing)
    _record(ledger, kind, "created", origin, before=None, after=thing)
    return thing


def _update(ledger: Ledger, kind: Kind[Thing], thing: Thing, values: Mapping[str, object], origin: Origin) -> Thing:
    changed = replace(thing, **values)  # type: ignore[arg-type]
    if changed == thing:
        return thing
    changed = replace(changed, version=thing.version + 1, updated_at=ledger.now)
    _check_unique(ledger, kind, changed)
    kind.table(ledger).put(thing.id, changed)
    _record(ledger, kind, "updated", origin, before=thing, after=changed)
    return changed


def _check_unique(ledger: Ledger, kind: Kind[Thing], thing: Thing) -> None:
    for taken, key_of in kind.unique.items():
        key = key_of(thing)
        if key is not None and any(key_of(other) == key and other.id != thing.id for other in kind.table(ledger)):
            raise taken()


def _is_enrolled(ledger: Ledger, name: str, id: int) -> bool:
    return any(getattr(enrollment, f"{name}_id") == id for enrollment in ledger.enrollments)


def _record(
    ledger: Ledger, kind: Kind[Thing], what: str, origin: Origin, *, before: Thing | None, after: Thing | None
) -> None:
    """Record an event with the fields that differ, or with all of what is new or gone."""
    thing = after if after is not None else before
    assert thing is not None
    unwritten = {"id", "version", "created_at", "updated_at", *kind.starting}
    names = [field.name for field in fields(thing) if field.name not in unwritten]
    if before is not None and after is not None:
        names = [name for name in names if getattr(before, name) != getattr(after, name)]

    def state(row: Thing | None) -> dict[str, object] | None:
        if row is None:
            return None
        told = {"fields": names} if kind.personal else {name: getattr(row, name) for name in names}
        return {**told, "version": row.version}

    ledger.record(
        f"{kind.name}.{what}",
        origin,
        before=state(before),
        after=state(after),
        **{f"{kind.name}_id": thing.id},
    )
