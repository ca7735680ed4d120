"""Sets of equivalent codes: request and answer models, and handlers."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from service.api.answers import CreatedAt, Id
from service.api.fields import CourseCode, IdInPath, Input
from service.api.keys import DATABASE, REGISTRAR, origin_of, submit
from service.errors import CodeInAnotherSet, EquivalenceNotFound
from service.registrar.application import code_key
from service.registrar.equivalences import CreateEquivalence, DeleteEquivalence
from service.web.endpoint import Call, Reply, endpoint
from service.web.paging import Page, Paging, decode_cursor, page_of
from service.web.validation import wrong
from sql import equivalences as sql


def _distinct(codes: list[str]) -> list[str]:
    """Refuse codes that differ only in case."""
    if len({code_key(code) for code in codes}) < len(codes):
        raise wrong("repeated_code", "{field} must not contain a code twice; case is ignored.")
    return codes


class NewEquivalence(Input):
    """The codes of a set to create."""

    codes: Annotated[
        list[CourseCode],
        Field(
            min_length=2,
            max_length=50,
            description="The codes that mean the same course. They may refer to courses that do not exist in this service.",
        ),
        AfterValidator(_distinct),
    ]


class EquivalenceQuery(Paging):
    """A page of sets, or the set with a code."""

    code: Annotated[CourseCode | None, Field(description="Only the set with this code; case is ignored.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """A set of codes that mean the same course, such as those of a renumbered or cross-listed one."""

    id: Id
    codes: Annotated[
        list[str], Field(description="The codes, sorted. No other set has one of them, without regard to case.")
    ]
    created_at: CreatedAt


def equivalence_of(row: sql.Equivalence) -> Equivalence:
    """Convert a row to the set that the API returns."""
    return Equivalence(id=row.id, codes=row.codes, created_at=row.created_at)


@endpoint("POST", "/equivalences", scope="manage", status=201, problems=[CodeInAnotherSet])
async def create_equivalence(call: Call, body: NewEquivalence) -> Reply[Equivalence]:
    """Create a set of equivalent codes.

    From now on, each code counts for the others in requirements and in the rule `duplicate_course`. Nobody loses a seat or
    a waitlist place; waitlisted students who become eligible get seats in the same transaction.
    """
    change = CreateEquivalence(origin=origin_of(call), codes=tuple(body.codes))
    return await submit(
        call, change, lambda row: Reply(equivalence_of(row), 201, {"Location": f"/equivalences/{row.id}"})
    )


@endpoint("GET", "/equivalences", scope="read")
async def search_equivalences(call: Call, query: EquivalenceQuery) -> Page[Equivalence]:
    """List the sets of equivalent codes by id; filter them by code.

    A code is in at most one set. A filter that matches no set returns an empty list.
    """
    of = "equivalences" if query.code is None else f"equivalences of {query.code}"
    after = decode_cursor(query.cursor, of)
    async with call[DATABASE].reading() as connection:
        if query.code is None:
            found = await sql.list_equivalences(connection, after, query.limit + 1)
        else:
            found = await sql.find_equivalences_by_code(connection, query.code)
    return page_of([equivalence_of(row) for row in found], query.limit, of, lambda row: row.id)


@endpoint("GET", "/equivalences/{equivalence_id}", scope="read", problems=[EquivalenceNotFound])
async def read_equivalence(call: Call, equivalence_id: IdInPath) -> Equivalence:
    """Read a set of equivalent codes.

    A set never changes: to change it, delete it and create another one.
    """
    async with call[DATABASE].reading() as connection:
        row = await sql.get_equivalence(connection, equivalence_id)
    if row is None:
        raise EquivalenceNotFound(equivalence_id)
    return equivalence_of(row)


@endpoint("DELETE", "/equivalences/{equivalence_id}", scope="manage", status=204, problems=[EquivalenceNotFound])
async def delete_equivalence(call: Call, equivalence_id: IdInPath) -> None:
    """Delete a set of equivalent codes.

    From now on, each code counts only for itself. Waitlisted students who become eligible get seats in the same
    transaction.
    """
    await call[REGISTRAR].submit(DeleteEquivalence(origin=origin_of(call), equivalence_id=equivalence_id))
