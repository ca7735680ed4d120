"""Terms as a resource type."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, TypedDict

from service.errors import CodeTaken, InvalidPart, TermDates, TermNotFound, UnknownTerm
from service.registrar.application import code_key
from service.registrar.changes import Origin
from service.registrar.ledger import Ledger
from service.registrar.needs import Relaxed
from service.registrar.resources import ResourceType
from sql import Connection, terms
from sql.terms import Term


class TermFields(TypedDict):
    """The fields of a term that callers write."""

    code: str
    name: str
    parent_id: int | None
    starts_on: date
    ends_on: date
    enroll_from: datetime | None
    enroll_until: datetime | None
    drop_until: datetime | None
    withdraw_until: datetime | None
    max_credits: float | None


def _create(id: int, now: datetime, fields: TermFields) -> Term:
    return Term(id=id, version=1, created_at=now, updated_at=now, **fields)


def _validate(ledger: Ledger, term: Term) -> None:
    if term.starts_on > term.ends_on:
        raise TermDates("starts_on", "ends_on")
    if term.enroll_from is not None and term.enroll_until is not None and term.enroll_from > term.enroll_until:
        raise TermDates("enroll_from", "enroll_until")
    if term.drop_until is not None and term.withdraw_until is not None and term.drop_until > term.withdraw_until:
        raise TermDates("drop_until", "withdraw_until")
    # The parts of a new term and of an edited one are in memory.
    parts = [part for part in ledger.terms if part.parent_id == term.id and part.id != term.id]
    if term.parent_id is not None:
        _validate_part(ledger, term, parts)
    for part in parts:
        if part.starts_on < term.starts_on:
            raise InvalidPart.outside("starts_on", "after", part.id, part.starts_on)
        if part.ends_on > term.ends_on:
            raise InvalidPart.outside("ends_on", "before", part.id, part.ends_on)


def _validate_part(ledger: Ledger, term: Term, parts: Sequence[Term]) -> None:
    """Raise an error unless a term lies within the whole term of which it is a part."""
    parent = ledger.term(term.parent_id)
    if parent is None:
        raise UnknownTerm(term.parent_id, "parent_id")
    if parent.id == term.id:
        raise InvalidPart.of_itself()
    if parent.parent_id is not None:
        raise InvalidPart.of_part(parent.id)
    if parts:
        raise InvalidPart.with_parts(parts[0].id)
    if term.starts_on < parent.starts_on:
        raise InvalidPart.outside("starts_on", "before", parent.id, parent.starts_on)
    if term.ends_on > parent.ends_on:
        raise InvalidPart.outside("ends_on", "after", parent.id, parent.ends_on)


def _on_update(ledger: Ledger, before: Term, after: Term, origin: Origin) -> None:
    """Mark for judgment the students who may be eligible now; an edit of any other field makes nobody eligible."""

    def changed(*names: str) -> bool:
        return any(getattr(before, name) != getattr(after, name) for name in names)

    relaxed = Relaxed(origin)
    if changed("max_credits"):
        relaxed.terms.add(after.id)
    if changed("parent_id"):
        # The credits of the courses count towards other limits, also when a swap drops them.
        relaxed.terms.add(after.id)
        relaxed.members_of_terms.add(after.id)
    if changed("starts_on", "ends_on"):
        # Whether meetings clash depends on the dates.
        relaxed.terms.add(after.id)
        relaxed.members_of_terms.add(after.id)
    if changed("withdraw_until"):
        # Whether a swap can drop a course depends on the deadline.
        relaxed.members_of_terms.add(after.id)
    if changed("enroll_from", "enroll_until", "ends_on"):
        # Nobody is judged while a term is closed, so its waitlists must be looked at when it is open again.
        relaxed.reopened_terms.add(after.id)
    if relaxed != Relaxed(origin):
        ledger.relax(relaxed)


def _on_delete(_ledger: Ledger, _id: int) -> None:
    """Remove nothing: a term that has courses or parts can't be deleted."""


def _is_in_use(ledger: Ledger, id: int) -> bool:
    return any(course.term_id == id for course in ledger.courses) or any(part.parent_id == id for part in ledger.terms)


async def _match(connection: Connection, _external_ids: list[str], wanted: Sequence[Mapping[str, Any]]) -> list[Term]:
    codes = [fields["code"] for fields in wanted if "code" in fields]
    parent_ids = [fields["parent_id"] for fields in wanted if fields.get("parent_id") is not None]
    return await terms.match_terms(connection, codes, parent_ids, [fields["id"] for fields in wanted if "id" in fields])


async def _load_in_use(connection: Connection, ledger: Ledger, ids: list[int]) -> list[int]:
    """Return the terms that have courses or parts other than those in memory, which a change may move out of the term."""
    return await terms.load_terms_in_use(
        connection, ids, [course.id for course in ledger.courses], [part.id for part in ledger.terms]
    )


TERM: Final[ResourceType[Term, TermFields]] = ResourceType(
    name="term",
    identity_map=lambda ledger: ledger.terms,
    create=_create,
    not_found=TermNotFound,
    unique={CodeTaken: lambda term: code_key(term.code)},
    key_parts=("id",),
    server_fields=frozenset(),
    redact_in_events=False,
    validate=_validate,
    on_update=_on_update,
    on_delete=_on_delete,
    is_in_use=_is_in_use,
    load=terms.load_terms,
    match=_match,
    load_in_use=_load_in_use,
    save=terms.save_terms,
    delete=terms.delete_terms,
    reserve_ids=terms.reserve_term_ids,
)
