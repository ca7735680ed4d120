"""Creating, editing, replacing and deleting students, courses and terms: one set of changes for every resource type."""

import json
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar, cast

from service.errors import DomainError, InUse, PreconditionFailed
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, ReserveIds
from service.registrar.rules import number
from service.registrar.unit_of_work import IdentityMap
from sql import Connection
from sql.courses import Course
from sql.students import Student
from sql.terms import Term

Row = TypeVar("Row", Student, Course, Term)
Fields = TypeVar("Fields", bound=Mapping[str, Any])
"""The fields of a resource that callers write, a TypedDict."""

SERVER_FIELDS = frozenset({"id", "version", "created_at", "updated_at"})
"""The fields of every resource that no caller writes."""


@dataclass(frozen=True, slots=True, eq=False)
class ResourceType(Generic[Row, Fields]):
    """All that is particular to one resource type."""

    name: str
    table: Callable[[Ledger], IdentityMap[int, Row]]
    create: Callable[[int, datetime, Fields], Row]
    """Returns a new row of an id, the current instant and fields."""
    not_found: Callable[[int], DomainError]
    unique: Mapping[Callable[[], DomainError], Callable[[Row], Hashable]]
    """What is raised where another row has the same key, and the key; None is no key."""
    key_parts: tuple[str, ...]
    """The fields that a unique key of several fields is made of."""
    server_fields: frozenset[str]
    """Further fields that no caller writes."""
    redact_in_events: bool
    """Whether events carry only the names of changed fields, so that a person can be erased."""
    validate: Callable[[Ledger, Row], None]
    """Raises where a row does not fit with others, or in itself."""
    on_update: Callable[[Ledger, Row, Row, Origin], None]
    """Notes who may be promoted now that a row has changed from the first to the second."""
    on_delete: Callable[[Ledger, int], None]
    """Removes what belongs to a deleted row, as the database does."""
    is_in_use: Callable[[Ledger, int], bool]
    """Returns whether other rows in memory depend on a row."""
    load: Callable[[Connection, list[int]], Awaitable[list[Row]]]
    match: Callable[[Connection, list[str], Sequence[Mapping[str, Any]]], Awaitable[list[Row]]]
    """Loads the rows with one of these external ids, or with another unique key of these fields."""
    load_in_use: Callable[[Connection, Ledger, list[int]], Awaitable[list[int]]]
    save: Callable[[Connection, list[Row]], Awaitable[None]]
    delete: Callable[[Connection, list[int]], Awaitable[None]]
    reserve_ids: ReserveIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Change[Row], Generic[Row, Fields]):
    """Create a resource; raises where another one has its unique key."""

    resource: ResourceType[Row, Fields]
    fields: Fields

    def add_needs(self, needs: Needs) -> None:
        """Add the rows that have the same unique keys, and an id."""
        needs.resource(self.resource).created.append(self.fields)
        needs.ids[self.resource.reserve_ids] += 1

    def decide(self, ledger: Ledger) -> Row:
        """Return the new row."""
        return _insert(ledger, self.resource, self.fields, self.origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(Change[Row]):
    """Set some fields of a resource. Where nothing changes there is no event and the same version.

    ``if_match`` holds the versions that it may have, ``*`` any. ``check`` raises where the row is not as expected.
    """

    resource: ResourceType[Row, Any]
    id: int
    values: Mapping[str, object]
    if_match: frozenset[str] | None = None
    check: Callable[[Row], None] | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the row, and the rows that have the unique keys it would have."""
        wanted = needs.resource(self.resource)
        wanted.ids.add(self.id)
        wanted.edited.append((self.id, self.values))

    def decide(self, ledger: Ledger) -> Row:
        """Return the edited row."""
        row = _find(ledger, self.resource, self.id, self.if_match)
        if self.check is not None:
            self.check(row)
        return _update(ledger, self.resource, row, self.values, self.origin)


@dataclass(frozen=True, slots=True)
class Replaced(Generic[Row]):
    """The row as a ``Replace`` left it."""

    row: Row
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace(Change[Replaced[Row]], Generic[Row, Fields]):
    """Set every field of the resource with this external id, or create it.

    ``if_match`` holds the versions that it must have, ``if_none_match`` those it must not have, ``*`` any. ``check`` raises
    where the row, or None, is not as expected.
    """

    resource: ResourceType[Row, Fields]
    external_id: str
    fields: Fields
    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None
    check: Callable[[Row | None], None] | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the row with the external id, and the rows that have the same unique keys."""
        wanted = needs.resource(self.resource)
        wanted.external_ids.append(self.external_id)
        wanted.created.append(self.fields)

    def decide(self, ledger: Ledger) -> Replaced[Row]:
        """Return the row, and whether it is new."""
        name = self.resource.name
        row = self.resource.table(ledger).find(external_id_of, self.external_id)
        if row is None:
            if self.if_match is not None:
                raise PreconditionFailed(f"No {name} has this external id, and If-Match asks for one.")
            if self.check is not None:
                self.check(None)
            return Replaced(_insert(ledger, self.resource, self.fields, self.origin), created=True)
        if self.if_none_match is not None and self.if_none_match & {"*", str(row.version)}:
            raise PreconditionFailed(
                f"{name.capitalize()} {row.id} has this external id, and version {row.version}, which If-None-Match excludes."
            )
        _check_version(self.resource, row, self.if_match)
        if self.check is not None:
            self.check(row)
        return Replaced(_update(ledger, self.resource, row, self.fields, self.origin), created=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Change[None], Generic[Row]):
    """Delete a resource; raises ``InUse`` where an enrollment has ever named it."""

    resource: ResourceType[Row, Any]
    id: int
    if_match: frozenset[str] | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the row, and whether others depend on it."""
        wanted = needs.resource(self.resource)
        wanted.ids.add(self.id)
        wanted.deleted.add(self.id)

    def decide(self, ledger: Ledger) -> None:
        """Delete the row."""
        resource = self.resource
        row = _find(ledger, resource, self.id, self.if_match)
        if (resource.name, row.id) in ledger.in_use or resource.is_in_use(ledger, row.id):
            raise InUse(f"{resource.name.capitalize()} {row.id}")
        resource.table(ledger).put(row.id, None)
        resource.on_delete(ledger, row.id)
        _append_event(ledger, resource, "deleted", self.origin, before=row, after=None)


def _find(ledger: Ledger, resource: ResourceType[Row, Any], id: int, if_match: frozenset[str] | None) -> Row:
    row = resource.table(ledger).get(id)
    if row is None:
        raise resource.not_found(id)
    _check_version(resource, row, if_match)
    return row


def _check_version(resource: ResourceType[Row, Any], row: Row, if_match: frozenset[str] | None) -> None:
    if if_match is not None and not if_match & {"*", str(row.version)}:
        has = "is in version" if f'W/"{row.version}"' in if_match else "has changed: its current version is"
        raise PreconditionFailed.of_if_match(f"{resource.name.capitalize()} {row.id} {has} {row.version}.", if_match)


def _insert(ledger: Ledger, resource: ResourceType[Row, Fields], fields: Fields, origin: Origin) -> Row:
    row = resource.create(ledger.take_id(resource.reserve_ids), ledger.now, fields)
    _check_unique(ledger, resource, row)
    resource.validate(ledger, row)
    resource.table(ledger).put(row.id, row)
    _append_event(ledger, resource, "created", origin, before=None, after=row)
    return row


def _update(
    ledger: Ledger, resource: ResourceType[Row, Any], row: Row, values: Mapping[str, object], origin: Origin
) -> Row:
    edited = _copy(row, values)
    if edited == row:
        return row
    edited = _copy(edited, {"version": row.version + 1, "updated_at": ledger.now})
    _check_unique(ledger, resource, edited)
    resource.validate(ledger, edited)
    resource.table(ledger).put(row.id, edited)
    _append_event(ledger, resource, "updated", origin, before=row, after=edited)
    resource.on_update(ledger, row, edited, origin)
    return edited


def _copy(row: Row, values: Mapping[str, object]) -> Row:
    """Return a copy with other values in some fields: of a dataclass, or of a named tuple."""
    copy: Callable[..., Row] = getattr(row, "_replace", None) or partial(replace, cast(Any, row))
    return copy(**values)


def _check_unique(ledger: Ledger, resource: ResourceType[Row, Any], row: Row) -> None:
    for taken, key_of in resource.unique.items():
        other = resource.table(ledger).find(key_of, key_of(row))
        if other is not None and other.id != row.id:
            raise taken()


def external_id_of(row: Student | Course | Term) -> str | None:
    """Return the caller's own key of a row; terms have none."""
    return getattr(row, "external_id", None)


def event_value(name: str, value: object) -> object:
    """Return a field's value as the API shows it."""
    if name == "meetings" and isinstance(value, str):
        return json.loads(value)
    return number(value) if isinstance(value, float) else value


def _append_event(
    ledger: Ledger,
    resource: ResourceType[Row, Any],
    what: str,
    origin: Origin,
    *,
    before: Row | None,
    after: Row | None,
) -> None:
    """Append an event with the fields that differ, or with all fields of a new or deleted row."""
    row = after or before
    assert row is not None
    unwritten = SERVER_FIELDS | resource.server_fields
    names = [name for name in type(row).__annotations__ if name not in unwritten]
    if before is not None and after is not None:
        names = [name for name in names if getattr(before, name) != getattr(after, name)]

    def state(row: Row | None) -> dict[str, object] | None:
        if row is None:
            return None
        values = {name: event_value(name, getattr(row, name)) for name in names}
        return {**({"fields": names} if resource.redact_in_events else values), "version": row.version}

    ledger.append_event(
        f"{resource.name}.{what}",
        origin,
        before=state(before),
        after=state(after),
        **{f"{resource.name}_id": row.id},
    )
