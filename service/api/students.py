"""Students: request and answer models, and handlers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, with_config

from service.api.answers import CreatedAt, Id, UpdatedAt, Version
from service.api.fields import (
    CreditLimit,
    Email,
    ExternalId,
    Group,
    IdInPath,
    IdsInQuery,
    Input,
    Name,
    SearchText,
    SourcedId,
    refuse_together,
)
from service.api.keys import DATABASE, REGISTRAR, STUDENTS, origin_of, submit
from service.api.read_only import READ_ONLY, ReadOnly, ReadOnlyFields, expecting, sent_back, split
from service.errors import (
    EmailTaken,
    ExternalIdTaken,
    InUse,
    Merged,
    NameRequired,
    PreconditionFailed,
    SourcedIdTaken,
    StudentNotFound,
)
from service.registrar import students as registrar
from service.registrar.changes import Origin
from service.registrar.resources import Create, Delete, Edit, Replace
from service.registrar.students import STUDENT
from service.web.endpoint import Call, Reply, endpoint
from service.web.etags import ETags
from service.web.paging import Page, Paging, decode_cursor, decode_keys, encode_cursor, list_name, page_of
from sql import Connection
from sql import students as sql

GivenName: TypeAlias = Annotated[
    Name | None, Field(description="The given name or names; null if there are none. A family name is then required.")
]
FamilyName: TypeAlias = Annotated[
    Name | None, Field(description="The family name or names; null if there are none. A given name is then required.")
]
PreferredName: TypeAlias = Annotated[
    Name | None, Field(description="The name by which to call the student; null if it is the given name.")
]
MaxCredits: TypeAlias = Annotated[
    CreditLimit | None,
    Field(
        description="Maximum number of credits in one term, with at most two decimals; null applies the limit of the term."
    ),
]


def _distinct(groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(groups)))


Groups: TypeAlias = Annotated[
    tuple[Group, ...],
    Field(max_length=50, strict=False, description="The groups to which the student belongs, sorted, each once."),
    AfterValidator(_distinct),
]


class StudentFields(Input):
    """The writable fields of a student except the external id and the sourced id."""

    given_name: GivenName = None
    family_name: FamilyName = None
    preferred_name: PreferredName = None
    email: Email | None = None
    max_credits: MaxCredits = None
    groups: Groups = ()


class NewStudent(StudentFields):
    """A student to create."""

    external_id: ExternalId | None = None
    sourced_id: SourcedId | None = None


class StudentReadOnly(ReadOnly, total=False):
    """The read-only members of a student, for a merge patch."""

    sourced_id: Annotated[SourcedId, READ_ONLY]


@with_config(ConfigDict(extra="forbid", strict=True))
class StudentChanges(StudentReadOnly, total=False):
    """A JSON merge patch (RFC 7396): an absent field keeps its value, and null removes a value."""

    external_id: ExternalId | None
    given_name: GivenName
    family_name: FamilyName
    preferred_name: PreferredName
    email: Email | None
    max_credits: MaxCredits
    groups: Groups


class StudentReplacement(StudentFields, ReadOnlyFields):
    """A student to create or replace. A field that is left out gets its default, except the sourced id, which stays."""

    sourced_id: SourcedId | None = None


class StudentQuery(Paging):
    """A page of students, with any of the filters."""

    email: Annotated[Email | None, Field(description="Only the student with this address; case is ignored.")] = None
    external_id: Annotated[ExternalId | None, Field(description="Only the student with this external id.")] = None
    group: Annotated[Group | None, Field(description="Only students in this group.")] = None
    id: Annotated[
        IdsInQuery | None, Field(description="Only students with these ids: up to 100, separated by commas.")
    ] = None
    q: Annotated[
        SearchText | None,
        Field(
            description="Only students whose name begins with this text, with either name first, or with the preferred "
            "name before the family name; case, accents and apostrophes are ignored. The list is ordered by the names that "
            "matched."
        ),
    ] = None
    sort: Annotated[
        Literal["id", "name"] | None,
        Field(
            description="The order: `id`, or `name` for the family name followed by the given name; by default `id`."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student."""

    id: Id
    external_id: Annotated[str | None, Field(description="The caller's own key; null if the student has none.")]
    sourced_id: Annotated[str, Field(description="The key of the student for other programs; it never changes.")]
    given_name: Annotated[str | None, Field(description="The given name or names; null if there are none.")]
    family_name: Annotated[str | None, Field(description="The family name or names; null if there are none.")]
    preferred_name: Annotated[
        str | None, Field(description="The name by which to call the student; null if it is the given name.")
    ]
    email: Annotated[
        str | None, Field(description="Unique; the case of ASCII letters is ignored. Null if the student has none.")
    ]
    max_credits: MaxCredits
    groups: Annotated[list[str], Field(description="The groups to which the student belongs, sorted.")]
    version: Version
    created_at: CreatedAt
    updated_at: UpdatedAt


def groups_of(row: sql.Student) -> list[str]:
    """Return the groups of a student."""
    return row.groups.split(",") if row.groups else []


def student_of(row: sql.Student) -> Student:
    """Convert a row to the student that the API returns."""
    return Student(
        id=row.id,
        external_id=row.external_id,
        sourced_id=row.sourced_id,
        given_name=row.given_name,
        family_name=row.family_name,
        preferred_name=row.preferred_name,
        email=row.email,
        max_credits=row.max_credits,
        groups=groups_of(row),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _fields(body: NewStudent | StudentReplacement, external_id: str | None) -> registrar.StudentFields:
    """Return the fields of a student that a body sets."""
    return {
        "external_id": external_id,
        "sourced_id": body.sourced_id,
        "given_name": body.given_name,
        "family_name": body.family_name,
        "preferred_name": body.preferred_name,
        "email": body.email,
        "max_credits": body.max_credits,
        "groups": ",".join(body.groups),
    }


@endpoint(
    "POST",
    "/students",
    scope="manage",
    status=201,
    problems=[EmailTaken, ExternalIdTaken, NameRequired, SourcedIdTaken],
)
async def create_student(call: Call, body: NewStudent) -> Reply[Student]:
    """Create a student.

    A given name or a family name is required. The e-mail address, the external id and the sourced id, if given, must
    be unique.
    """
    change = Create(origin=origin_of(call), resource=STUDENT, fields=_fields(body, body.external_id))
    return await submit(call, change, lambda row: Reply(student_of(row), 201, {"Location": f"/students/{row.id}"}))


@endpoint("GET", "/students", scope="read")
async def search_students(call: Call, query: StudentQuery) -> Page[Student]:
    """List students by id or by name; filter them by e-mail address, external id, group, ids and the beginning of a name.

    The list contains the students that match every filter; it is empty if there are none. `sort` can't be combined with
    a filter: `q` alone orders the students by the names that matched, the others by id.
    """
    refuse_together(query, "sort", "email", "external_id", "group", "id", "q")
    of = list_name("students", query)
    if any(each is not None for each in (query.email, query.external_id, query.group, query.id)):
        after = decode_cursor(query.cursor, of)
        ids = None if query.id is None else list(query.id)
        async with call[DATABASE].reading() as connection:
            found = await sql.find_students(
                connection,
                after,
                query.limit + 1,
                external_id=query.external_id,
                email=query.email,
                ids=ids,
                text=query.q,
                group=query.group,
            )
    elif query.q is None and query.sort != "name":
        after = decode_cursor(query.cursor, of)
        async with call[DATABASE].reading() as connection:
            found = await sql.list_students(connection, after, query.limit + 1)
    else:
        after_key, after = decode_keys(query.cursor, of, "", 0)
        async with call[DATABASE].reading() as connection:
            keyed = await sql.search_students(connection, query.q or "", after_key, after, query.limit + 1)
        items = [student_of(row) for row in keyed[: query.limit]]
        last = keyed[len(items) - 1] if len(keyed) > query.limit else None
        return Page(items, None if last is None else encode_cursor(of, last.sort_key, last.id))
    return page_of([student_of(row) for row in found], query.limit, of, lambda student: student.id)


@endpoint("GET", "/students/by-external-id/{external_id}", scope="read", problems=[StudentNotFound])
async def read_student_by_external_id(call: Call, external_id: ExternalId) -> Student:
    """Read the student with an external id.

    The ETag is the version of the student, for `If-Match`.
    """
    async with call[DATABASE].reading() as connection:
        found = await sql.find_students_by_external_id(connection, external_id)
    if not found:
        raise StudentNotFound(external_id=external_id)
    return student_of(found[0])


@endpoint("GET", "/students/{student_id}", scope="read", problems=[StudentNotFound])
async def read_student(call: Call, student_id: IdInPath) -> Student:
    """Read a student.

    The ETag is the version of the student, for `If-Match`.
    """
    row = await call[STUDENTS].submit(student_id, call.disconnected)
    if row is None:
        raise StudentNotFound(student_id)
    return student_of(row)


async def find(connection: Connection, ids: list[int]) -> dict[int, sql.Student]:
    """Load students by id."""
    return {student.id: student for student in await sql.load_students(connection, ids)}


@endpoint(
    "PATCH",
    "/students/{student_id}",
    scope="manage",
    problems=[StudentNotFound, EmailTaken, ExternalIdTaken, NameRequired, PreconditionFailed],
)
async def edit_student(call: Call, student_id: IdInPath, body: StudentChanges, if_match: ETags) -> Student:
    """Change some fields of a student.

    The body is a JSON merge patch: an absent field keeps its value, and null removes a value. A waitlisted student who
    becomes eligible gets a seat in the same transaction.
    """
    values, sent = split(body, StudentReadOnly.__annotations__)
    if "groups" in body:
        values["groups"] = ",".join(body["groups"])
    row = await call[REGISTRAR].submit(
        Edit(
            origin=origin_of(call),
            resource=STUDENT,
            id=student_id,
            values=values,
            if_match=if_match,
            check=expecting(sent, student_of),
        )
    )
    return student_of(row)


def replacement(
    origin: Origin,
    body: StudentReplacement,
    external_id: str,
    if_match: ETags = None,
    if_none_match: ETags = None,
) -> Replace[sql.Student, registrar.StudentFields]:
    """Return the change that creates or replaces the student with an external id."""
    return Replace(
        origin=origin,
        resource=STUDENT,
        external_id=external_id,
        fields=_fields(body, external_id),
        if_match=if_match,
        if_none_match=if_none_match,
        check=expecting(sent_back(body, StudentFields, external_id), student_of),
    )


@endpoint(
    "PUT",
    "/students/by-external-id/{external_id}",
    scope="manage",
    status=(200, 201),
    problems=[EmailTaken, Merged, NameRequired, PreconditionFailed, SourcedIdTaken],
)
async def put_student(
    call: Call, external_id: ExternalId, body: StudentReplacement, if_match: ETags, if_none_match: ETags
) -> Reply[Student]:
    """Create or replace the student with an external id.

    A field that is left out gets its default; only the sourced id stays as it is. The call is safe to repeat: the same
    call again changes nothing.
    """
    replaced = await call[REGISTRAR].submit(replacement(origin_of(call), body, external_id, if_match, if_none_match))
    headers = {"Location": f"/students/{replaced.row.id}"} if replaced.created else {}
    return Reply(student_of(replaced.row), 201 if replaced.created else 200, headers)


@endpoint(
    "DELETE",
    "/students/{student_id}",
    scope="manage",
    status=204,
    problems=[StudentNotFound, InUse, PreconditionFailed],
)
async def delete_student(call: Call, student_id: IdInPath, if_match: ETags) -> None:
    """Delete a student without enrollment history.

    The student's holds and overrides are deleted too. A student with enrollment history cannot be deleted.
    """
    await call[REGISTRAR].submit(Delete(origin=origin_of(call), resource=STUDENT, id=student_id, if_match=if_match))
