"""Terms: request and answer models, and handlers."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field, with_config

from service.api.answers import CreatedAt, Id, TermId, UpdatedAt, Version
from service.api.fields import CourseCode, CreditLimit, Day, IdInBody, IdInPath, Input, Instant, Name
from service.api.keys import DATABASE, REGISTRAR, origin_of, submit
from service.api.read_only import ReadOnly, expecting, split
from service.errors import CodeTaken, InUse, InvalidPart, PreconditionFailed, TermDates, TermNotFound, UnknownTerm
from service.registrar.resources import Create, Delete, Edit
from service.registrar.terms import TERM, TermFields
from service.web.endpoint import Call, Reply, endpoint
from service.web.etags import ETags
from service.web.paging import Page, Paging, decode_cursor, list_name, page_of
from sql import terms as sql

TermName: TypeAlias = Annotated[Name, Field(description='The name, such as "Fall 2026".')]
MaxCredits: TypeAlias = Annotated[
    CreditLimit | None,
    Field(
        description="Maximum number of credits per student in this term, with at most two decimals; null is unlimited."
    ),
]


ParentId: TypeAlias = Annotated[
    IdInBody | None,
    Field(
        description="The id of the term of which this one is a part: its dates lie within that term's. Null is a whole term."
    ),
]


class NewTerm(Input):
    """A term to create. Each deadline is an instant; null leaves that side open."""

    code: CourseCode
    name: TermName
    parent_id: ParentId = None
    starts_on: Day
    ends_on: Day
    enroll_from: Instant | None = None
    enroll_until: Instant | None = None
    drop_until: Annotated[
        Instant | None, Field(description="From this instant on, a drop is a withdrawal; null is never.")
    ] = None
    withdraw_until: Annotated[
        Instant | None, Field(description="From this instant on, students cannot leave a course; null is never.")
    ] = None
    max_credits: MaxCredits = None


@with_config(ConfigDict(extra="forbid", strict=True))
class TermChanges(ReadOnly, total=False):
    """A JSON merge patch (RFC 7396): an absent field keeps its value, and null removes a value."""

    code: CourseCode
    name: TermName
    parent_id: ParentId
    starts_on: Day
    ends_on: Day
    enroll_from: Instant | None
    enroll_until: Instant | None
    drop_until: Instant | None
    withdraw_until: Instant | None
    max_credits: MaxCredits


class TermQuery(Paging):
    """A page of terms, or the term with a code."""

    code: Annotated[CourseCode | None, Field(description="Only the term with this code; case is ignored.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A term: its dates, and the deadlines for enrolling, dropping and withdrawing."""

    id: Id
    code: Annotated[str, Field(description="Unique among terms.")]
    name: Annotated[str, Field(description='The name, such as "Fall 2026".')]
    parent_id: Annotated[
        TermId | None, Field(description="The id of the term of which this one is a part; null for a whole term.")
    ]
    starts_on: Annotated[date, Field(description="The first day.")]
    ends_on: Annotated[date, Field(description="The last day.")]
    enroll_from: Annotated[
        datetime | None, Field(description="Students may enroll from this instant on; null is always.")
    ]
    enroll_until: Annotated[
        datetime | None, Field(description="Students may enroll until this instant; null is always.")
    ]
    drop_until: Annotated[
        datetime | None, Field(description="From this instant on, a drop is a withdrawal; null is never.")
    ]
    withdraw_until: Annotated[
        datetime | None, Field(description="From this instant on, students cannot leave a course; null is never.")
    ]
    max_credits: MaxCredits
    version: Version
    created_at: CreatedAt
    updated_at: UpdatedAt


def term_of(row: sql.Term) -> Term:
    """Convert a row to the term that the API returns."""
    return Term(
        id=row.id,
        code=row.code,
        name=row.name,
        parent_id=row.parent_id,
        starts_on=row.starts_on,
        ends_on=row.ends_on,
        enroll_from=row.enroll_from,
        enroll_until=row.enroll_until,
        drop_until=row.drop_until,
        withdraw_until=row.withdraw_until,
        max_credits=row.max_credits,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


@endpoint("POST", "/terms", scope="manage", status=201, problems=[CodeTaken, UnknownTerm, TermDates, InvalidPart])
async def create_term(call: Call, body: NewTerm) -> Reply[Term]:
    """Create a term.

    The code must be unique. A deadline that is null leaves that side open.
    """
    fields: TermFields = {
        "code": body.code,
        "name": body.name,
        "parent_id": body.parent_id,
        "starts_on": body.starts_on,
        "ends_on": body.ends_on,
        "enroll_from": body.enroll_from,
        "enroll_until": body.enroll_until,
        "drop_until": body.drop_until,
        "withdraw_until": body.withdraw_until,
        "max_credits": body.max_credits,
    }
    change = Create(origin=origin_of(call), resource=TERM, fields=fields)
    return await submit(call, change, lambda row: Reply(term_of(row), 201, {"Location": f"/terms/{row.id}"}))


@endpoint("GET", "/terms", scope="read")
async def search_terms(call: Call, query: TermQuery) -> Page[Term]:
    """List terms by id, or find one by its code.

    The list includes past terms.
    """
    of = list_name("terms", query)
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        if query.code is None:
            found = await sql.list_terms(connection, after, query.limit + 1)
        else:
            found = await sql.match_terms(connection, [query.code], [], [])
    return page_of([term_of(row) for row in found], query.limit, of, lambda term: term.id)


@endpoint("GET", "/terms/{term_id}", scope="read", problems=[TermNotFound])
async def read_term(call: Call, term_id: IdInPath) -> Term:
    """Read a term.

    The ETag is the version of the term, for `If-Match`.
    """
    async with call[DATABASE].reading() as connection:
        row = await sql.get_term(connection, term_id)
    if row is None:
        raise TermNotFound(term_id)
    return term_of(row)


@endpoint(
    "PATCH",
    "/terms/{term_id}",
    scope="manage",
    problems=[TermNotFound, CodeTaken, UnknownTerm, TermDates, InvalidPart, PreconditionFailed],
)
async def edit_term(call: Call, term_id: IdInPath, body: TermChanges, if_match: ETags) -> Term:
    """Change some fields of a term.

    The body is a JSON merge patch: an absent field keeps its value, and null removes a value. Waitlisted students who
    become eligible get seats in the same transaction.
    """
    values, sent = split(body, ReadOnly.__annotations__)
    row = await call[REGISTRAR].submit(
        Edit(
            origin=origin_of(call),
            resource=TERM,
            id=term_id,
            values=values,
            if_match=if_match,
            check=expecting(sent, term_of),
        )
    )
    return term_of(row)


@endpoint("DELETE", "/terms/{term_id}", scope="manage", status=204, problems=[TermNotFound, InUse, PreconditionFailed])
async def delete_term(call: Call, term_id: IdInPath, if_match: ETags) -> None:
    """Delete a term without courses and parts.

    A term with courses or parts cannot be deleted; move its courses and parts to another term first.
    """
    await call[REGISTRAR].submit(Delete(origin=origin_of(call), resource=TERM, id=term_id, if_match=if_match))
