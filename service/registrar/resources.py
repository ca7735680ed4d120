"""The changes of students, instructors, courses and terms: creating, editing, replacing and deleting, for every resource type."""

import json
import re
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Generic, Literal, TypeVar, cast

from service.errors import DomainError, InUse, PreconditionFailed, SourcedIdTaken
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, ReserveIds
from service.registrar.rules import number
from service.registrar.unit_of_work import IdentityMap
from sql import Connection
from sql.courses import Course
from sql.instructors import Instructor
from sql.students import Student
from sql.terms import Term

Row = TypeVar("Row", Student, Instructor, Course, Term)
Fields = TypeVar("Fields", bound=Mapping[str, Any])
"""The fields of a resource that callers write, a TypedDict."""

GIVEN_ONCE = frozenset({"sourced_id"})
"""The fields that callers may write when they create a resource, and that no edit changes."""

SERVER_FIELDS = frozenset({"id", "version", "created_at", "updated_at"})
"""The fields of every resource that callers do not write."""


@dataclass(frozen=True, slots=True, eq=False)
class ResourceType(Generic[Row, Fields]):
    """The fields and functions in which resource types differ."""

    name: str
    identity_map: Callable[[Ledger], IdentityMap[int, Row]]
    create: Callable[[int, datetime, Fields], Row]
    """Returns a new row with an id, the current instant and fields."""
    not_found: Callable[[int], DomainError]
    unique: Mapping[Callable[[], DomainError], Callable[[Row], Hashable]]
    """The error to raise if another row has the same key, and the function that returns the key, or None for no key."""
    key_parts: tuple[str, ...]
    """The fields that an edit may keep and that ``match`` needs: those of a key of several fields, or the id."""
    server_fields: frozenset[str]
    """Other fields that callers do not write."""
    redact_in_events: bool
    """Whether events carry only the names of changed fields, so that a person can be erased."""
    validate: Callable[[Ledger, Row], None]
    """Raises an error if a row is invalid, by itself or together with other rows."""
    on_update: Callable[[Ledger, Row, Row, Origin], None]
    """Marks the students who may be promoted after a row has changed from the first to the second."""
    on_delete: Callable[[Ledger, int], None]
    """Removes from memory the rows that the database deletes with a row."""
    is_in_use: Callable[[Ledger, int], bool]
    """Returns whether other rows in memory depend on a row."""
    load: Callable[[Connection, list[int]], Awaitable[list[Row]]]
    match: Callable[[Connection, list[str], Sequence[Mapping[str, Any]]], Awaitable[list[Row]]]
    """Loads the rows with one of these external ids, with another unique key of these fields, or to validate them."""
    load_in_use: Callable[[Connection, Ledger, list[int]], Awaitable[list[int]]]
    save: Callable[[Connection, list[Row]], Awaitable[None]]
    delete: Callable[[Connection, list[int]], Awaitable[None]]
    reserve_ids: ReserveIds
    on_missing: Callable[[Ledger, str], None] = lambda _ledger, _external_id: None
    """Raises an error if ``Replace`` may not create a row with an external id."""
    has_event_id: bool = True
    """Whether events have a field for its id; otherwise their states contain the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Change[Row], Generic[Row, Fields]):
    """Create a resource; raise an error if another one has the same unique key."""

    resource: ResourceType[Row, Fields]
    fields: Fields

    def add_needs(self, needs: Needs) -> None:
        """Add the rows that have the same unique keys, and an id."""
        needs.resource(self.resource).created.append(self.fields)
        needs.ids[self.resource.reserve_ids] += 1
        needs.add_fields(self.fields)

    def decide(self, ledger: Ledger) -> Row:
        """Return the new row."""
        return _insert(ledger, self.resource, self.fields, self.origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(Change[Row]):
    """Set some fields of a resource. If no field changes, no event is appended and the version stays the same.

    ``if_match`` holds the versions that it may have, ``*`` any. ``check`` raises an error for a row that it refuses.
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
    """The row after a ``Replace``."""

    row: Row
    outcome: Literal["created", "updated", "unchanged"]

    @property
    def created(self) -> bool:
        """Whether the row is new."""
        return self.outcome == "created"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace(Change[Replaced[Row]], Generic[Row, Fields]):
    """Set every field of the resource with this external id, or create the resource.

    ``if_match`` holds the versions that it must have, ``if_none_match`` those it must not have, ``*`` any. ``check``
    raises an error for a row, or None, that it refuses.
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
        needs.add_fields(self.fields)

    def decide(self, ledger: Ledger) -> Replaced[Row]:
        """Return the row, and what became of it."""
        name = self.resource.name
        row = self.resource.identity_map(ledger).find(external_id_of, self.external_id)
        if row is None:
            self.resource.on_missing(ledger, self.external_id)
            if self.if_match is not None:
                raise PreconditionFailed(f"No {name} has this external id, but If-Match requires one.")
            if self.check is not None:
                self.check(None)
            return Replaced(_insert(ledger, self.resource, self.fields, self.origin), "created")
        if self.if_none_match is not None and self.if_none_match & {"*", str(row.version)}:
            raise PreconditionFailed(
                f"{name.capitalize()} {row.id} has this external id, in version {row.version}, which If-None-Match excludes."
            )
        _check_version(self.resource, row, self.if_match)
        if self.check is not None:
            self.check(row)
        replaced = _update(ledger, self.resource, row, self._values, self.origin)
        return Replaced(replaced, "unchanged" if replaced is row else "updated")

    @property
    def _values(self) -> dict[str, object]:
        """The fields that an existing row gets."""
        return {name: value for name, value in self.fields.items() if name not in GIVEN_ONCE}

    def leaves(self, row: Row) -> bool:
        """Return whether the change, which has no preconditions but ``check``, would accept a row and leave it as it is."""
        if any(getattr(row, name) != value for name, value in self._values.items()):
            return False
        if self.check is not None:
            try:
                self.check(row)
            except DomainError:
                return False
        return True


async def find_unchanged(connection: Connection, changes: Sequence[Replace[Row, Any]]) -> list[Row | None]:
    """Return, for each of these changes of one resource type, the row that it would leave as it is, or None.

    One statement reads all rows, without the lock.
    """
    resource = changes[0].resource
    rows = await resource.match(connection, [change.external_id for change in changes], ())
    by_external_id = {external_id_of(row): row for row in rows}
    found = [by_external_id.get(change.external_id) for change in changes]
    return [row if row is not None and change.leaves(row) else None for change, row in zip(changes, found, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Change[None], Generic[Row]):
    """Delete a resource; raise ``InUse`` if an enrollment, past or present, or a course refers to it."""

    resource: ResourceType[Row, Any]
    id: int
    if_match: frozenset[str] | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the row, and the question whether other rows depend on it."""
        wanted = needs.resource(self.resource)
        wanted.ids.add(self.id)
        wanted.deleted.add(self.id)

    def decide(self, ledger: Ledger) -> None:
        """Delete the row."""
        resource = self.resource
        row = _find(ledger, resource, self.id, self.if_match)
        if (resource.name, row.id) in ledger.in_use or resource.is_in_use(ledger, row.id):
            raise InUse(f"{resource.name.capitalize()} {row.id}")
        resource.identity_map(ledger).put(row.id, None)
        resource.on_delete(ledger, row.id)
        _append_event(ledger, resource, "deleted", self.origin, before=row, after=None)


def _find(ledger: Ledger, resource: ResourceType[Row, Any], id: int, if_match: frozenset[str] | None) -> Row:
    row = resource.identity_map(ledger).get(id)
    if row is None:
        raise resource.not_found(id)
    _check_version(resource, row, if_match)
    return row


def _check_version(resource: ResourceType[Row, Any], row: Row, if_match: frozenset[str] | None) -> None:
    if if_match is not None and not if_match & {"*", str(row.version)}:
        is_weak = any(re.match(rf'W/"{row.version}\b', tag) for tag in if_match)
        has = "is in version" if is_weak else "has changed: its current version is"
        raise PreconditionFailed.of_if_match(f"{resource.name.capitalize()} {row.id} {has} {row.version}.", if_match)


def _insert(ledger: Ledger, resource: ResourceType[Row, Fields], fields: Fields, origin: Origin) -> Row:
    row = resource.create(ledger.take_id(resource.reserve_ids), ledger.now, fields)
    check_unique(ledger, resource, row)
    resource.validate(ledger, row)
    resource.identity_map(ledger).put(row.id, row)
    _append_event(ledger, resource, "created", origin, before=None, after=row)
    return row


def _update(
    ledger: Ledger, resource: ResourceType[Row, Any], row: Row, values: Mapping[str, object], origin: Origin
) -> Row:
    edited = _copy(row, values)
    if edited == row:
        return row
    edited = _copy(edited, {"version": row.version + 1, "updated_at": ledger.now})
    check_unique(ledger, resource, edited)
    resource.validate(ledger, edited)
    resource.identity_map(ledger).put(row.id, edited)
    _append_event(ledger, resource, "updated", origin, before=row, after=edited)
    resource.on_update(ledger, row, edited, origin)
    return edited


def _copy(row: Row, values: Mapping[str, object]) -> Row:
    """Return a copy of a dataclass or a named tuple with other values in some fields."""
    copy: Callable[..., Row] = getattr(row, "_replace", None) or partial(replace, cast(Any, row))
    return copy(**values)


def check_unique(ledger: Ledger, resource: ResourceType[Row, Any], row: Row) -> None:
    """Raise the error of the resource type if another row has a unique key of this row."""
    for taken, key_of in resource.unique.items():
        other = resource.identity_map(ledger).find(key_of, key_of(row))
        if other is not None and other.id != row.id:
            raise taken()
    if (sourced_id := sourced_id_of(row)) is not None:
        people = ledger.students.find(sourced_id_of, sourced_id), ledger.instructors.find(sourced_id_of, sourced_id)
        if any((type(person), person.id) != (type(row), row.id) for person in people if person is not None):
            raise SourcedIdTaken


def external_id_of(row: Student | Instructor | Course | Term) -> str | None:
    """Return the external id of a row, or None; terms have none."""
    return getattr(row, "external_id", None)


def sourced_id_of(row: Student | Instructor | Course | Term) -> str | None:
    """Return the sourced id of a person, or None for any other row."""
    return getattr(row, "sourced_id", None)


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
    server_fields = SERVER_FIELDS | resource.server_fields
    names = [name for name in type(row).__annotations__ if name not in server_fields]
    if before is not None and after is not None:
        names = [name for name in names if getattr(before, name) != getattr(after, name)]

    id = {f"{resource.name}_id": row.id}

    def state(row: Row | None) -> dict[str, object] | None:
        if row is None:
            return None
        values = {name: event_value(name, getattr(row, name)) for name in names}
        its = {} if resource.has_event_id else id
        return {**its, **({"fields": names} if resource.redact_in_events else values), "version": row.version}

    ledger.append_event(
        f"{resource.name}.{what}",
        origin,
        before=state(before),
        after=state(after),
        **(id if resource.has_event_id else {}),
    )
