"""Terms: what callers send of them, and the handlers."""

from typing import Annotated

from pydantic import ConfigDict, Field, with_config

from service.api.fields import CourseCode, CreditLimit, Day, IdInPath, Input, Instant, Name
from service.api.keys import DATABASE, REGISTRAR, origin_of
from service.api.read_only import ReadOnly, expecting, split
from service.errors import CodeTaken, InUse, PreconditionFailed, TermDates, TermNotFound
from service.registrar.resources import Create, Delete, Edit
from service.registrar.terms import TERM, TermFields
from service.web.endpoint import Call, ETags, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from sql.terms import Term, get_term, list_terms


class NewTerm(Input):
    """A term to create. Each deadline is an instant; null leaves that side open."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"code": "2026F", "name": "Fall 2026", "starts_on": "2026-09-01", "ends_on": "2026-12-18"}]
        }
    )

    code: CourseCode
    name: Name
    starts_on: Day
    ends_on: Day
    enroll_from: Instant | None = None
    enroll_until: Instant | None = None
    drop_until: Annotated[Instant | None, Field(description="From then on a drop is a withdrawal.")] = None
    withdraw_until: Annotated[Instant | None, Field(description="From then on nobody leaves a course.")] = None
    max_credits: CreditLimit | None = None


@with_config(ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"max_credits": 18}]}))
class TermChanges(ReadOnly, total=False):
    """A JSON merge patch (RFC 7396): what is absent stays as it is, null removes."""

    code: CourseCode
    name: Name
    starts_on: Day
    ends_on: Day
    enroll_from: Instant | None
    enroll_until: Instant | None
    drop_until: Instant | None
    withdraw_until: Instant | None
    max_credits: CreditLimit | None


@endpoint("POST", "/terms", status=201, problems=[CodeTaken, TermDates])
async def create_term(call: Call, body: NewTerm) -> Reply[Term]:
    """Create a term."""
    fields: TermFields = {
        "code": body.code,
        "name": body.name,
        "starts_on": body.starts_on,
        "ends_on": body.ends_on,
        "enroll_from": body.enroll_from,
        "enroll_until": body.enroll_until,
        "drop_until": body.drop_until,
        "withdraw_until": body.withdraw_until,
        "max_credits": body.max_credits,
    }
    term = await call[REGISTRAR].submit(Create(origin=origin_of(call), resource=TERM, fields=fields))
    return Reply(term, 201, {"Location": f"/terms/{term.id}"})


@endpoint("GET", "/terms")
async def search_terms(call: Call, query: Paging) -> Page[Term]:
    """List terms by id."""
    after = decode_cursor(query.cursor, "terms")
    async with call[DATABASE].reading() as connection:
        found = await list_terms(connection, after, query.limit + 1)
    return page_of(found, query.limit, "terms", lambda term: term.id)


@endpoint("GET", "/terms/{term_id}", problems=[TermNotFound])
async def read_term(call: Call, term_id: IdInPath) -> Term:
    """Read a term."""
    async with call[DATABASE].reading() as connection:
        term = await get_term(connection, term_id)
    if term is None:
        raise TermNotFound(term_id)
    return term


@endpoint("PATCH", "/terms/{term_id}", problems=[TermNotFound, CodeTaken, TermDates, PreconditionFailed])
async def edit_term(call: Call, term_id: IdInPath, body: TermChanges, if_match: ETags) -> Term:
    """Change some fields of a term; waitlists move at once where a deadline or a limit is eased."""
    values, sent = split(body, ReadOnly.__annotations__)
    return await call[REGISTRAR].submit(
        Edit(
            origin=origin_of(call),
            resource=TERM,
            id=term_id,
            values=values,
            if_match=if_match,
            check=expecting(sent),
        )
    )


@endpoint("DELETE", "/terms/{term_id}", status=204, problems=[TermNotFound, InUse, PreconditionFailed])
async def delete_term(call: Call, term_id: IdInPath, if_match: ETags) -> None:
    """Delete a term without courses."""
    await call[REGISTRAR].submit(Delete(origin=origin_of(call), resource=TERM, id=term_id, if_match=if_match))
