"""Students as a resource type."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict
from uuid import uuid4

from service.errors import EmailTaken, ExternalIdTaken, Merged, NameRequired, StudentNotFound
from service.registrar.changes import Origin
from service.registrar.ledger import Ledger
from service.registrar.resources import ResourceType, external_id_of
from sql import Connection, enrollments, students
from sql.instructors import Instructor
from sql.students import Student


class StudentFields(TypedDict):
    """The fields of a student that callers write."""

    external_id: str | None
    sourced_id: str | None
    """None lets the service generate one."""
    given_name: str | None
    family_name: str | None
    preferred_name: str | None
    email: str | None
    max_credits: float | None
    groups: str


def _create(id: int, now: datetime, fields: StudentFields) -> Student:
    return Student(
        id=id,
        external_id=fields["external_id"],
        sourced_id=fields["sourced_id"] or str(uuid4()),
        given_name=fields["given_name"],
        family_name=fields["family_name"],
        preferred_name=fields["preferred_name"],
        email=fields["email"],
        max_credits=fields["max_credits"],
        groups=fields["groups"],
        version=1,
        created_at=now,
        updated_at=now,
    )


def require_name(_ledger: Ledger, person: Student | Instructor) -> None:
    """Raise NameRequired if a student or an instructor has neither name."""
    if person.given_name is None and person.family_name is None:
        raise NameRequired


def _on_update(ledger: Ledger, before: Student, after: Student, origin: Origin) -> None:
    if (before.max_credits, before.groups) != (after.max_credits, after.groups):
        ledger.changed_students.put(after.id, origin)


def _on_delete(ledger: Ledger, id: int) -> None:
    for hold in [hold for hold in ledger.holds if hold.student_id == id]:
        ledger.holds.put(hold.id, None)
    for override in [override for override in ledger.overrides if override.student_id == id]:
        ledger.overrides.put(override.id, None)


def _is_in_use(ledger: Ledger, id: int) -> bool:
    return any(ledger.courses_of(id)) or any(row.merged_into == id for row in ledger.merged)


def folded(email: str | None) -> str | None:
    """Return an address with its ASCII letters in lower case, as the database compares them in the collation C."""
    return None if email is None else email.encode().lower().decode()


def folded_emails(wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the folded addresses among the fields of people."""
    return [email for fields in wanted if (email := folded(fields.get("email"))) is not None]


async def _match(connection: Connection, external_ids: list[str], wanted: Sequence[Mapping[str, Any]]) -> list[Student]:
    return await students.match_students(connection, external_ids, folded_emails(wanted))


def _on_missing(ledger: Ledger, external_id: str) -> None:
    for row in ledger.merged:
        if row.external_id == external_id:
            raise Merged(row.student_id, row.merged_into)


async def _load_in_use(connection: Connection, _ledger: Ledger, ids: list[int]) -> list[int]:
    return await enrollments.load_students_in_use(connection, ids)


STUDENT: Final[ResourceType[Student, StudentFields]] = ResourceType(
    name="student",
    identity_map=lambda ledger: ledger.students,
    create=_create,
    not_found=StudentNotFound,
    unique={EmailTaken: lambda student: folded(student.email), ExternalIdTaken: external_id_of},
    key_parts=(),
    server_fields=frozenset(),
    redact_in_events=True,
    validate=require_name,
    on_update=_on_update,
    on_delete=_on_delete,
    is_in_use=_is_in_use,
    load=students.load_students,
    match=_match,
    load_in_use=_load_in_use,
    save=students.save_students,
    delete=students.delete_students,
    reserve_ids=students.reserve_student_ids,
    on_missing=_on_missing,
)


def check_student(ledger: Ledger, student_id: int) -> None:
    """Raise ``StudentNotFound`` or ``Merged`` if the student does not exist."""
    if not ledger.has_student(student_id):
        raise ledger.missing_student(student_id)


def names_of(student: Student) -> list[str]:
    """Return the texts that name a student."""
    full_names = [
        " ".join([name for name in (called, student.family_name) if name is not None])
        for called in (student.given_name, student.preferred_name or student.given_name)
    ]
    ids = (student.external_id, student.sourced_id, student.email, student.preferred_name)
    return [name for name in (*ids, *full_names) if name]
