"""A roster for the tests of OneRoster: an institution that has one of everything that OneRoster shows."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.campus import call, create, drop, enroll, join_waitlist
from tests.conftest import Client

V1P2: Final = "/ims/oneroster/rostering/v1p2"
V1P1: Final = "/ims/oneroster/v1p1"
DOCUMENT: Final = "onerosterv1p2rostersservice_openapi3_v1p0.json"
FOLDER: Final = Path(os.environ.get("ONEROSTER_DOCUMENTS", Path(__file__).parents[2] / "shared" / "data" / "oneroster"))
"""The folder with the official document, which must not be copied into this repository."""


def official_document() -> Path:
    """Return the path of the official document; skip the test without it."""
    path = FOLDER / DOCUMENT
    if not path.exists():
        pytest.skip(
            f"needs {DOCUMENT} of 1EdTech, in ../shared/data/oneroster or in the folder that ONEROSTER_DOCUMENTS names"
        )
    return path


@dataclass(frozen=True, slots=True)
class Roster:
    """The ids of what is in the roster."""

    term: int
    part: int
    first: int
    """A section of CS1 in the part of the term."""
    second: int
    """Another section of CS1."""
    free: int
    """A course without a term."""
    cancelled: int
    deleted_course: int
    students: tuple[int, int, int, int]
    """One enrolled in each of ``first`` and ``free``; one who completed ``first``; one who dropped ``first``; one waitlisted."""
    deleted_student: int
    instructor: int
    former: int
    """An instructor who does not teach ``first`` any more."""


async def new_roster(client: Client) -> Roster:
    """Fill an empty database."""
    dates = {"starts_on": "2036-09-01", "ends_on": "2036-12-18"}
    term = (await create(client, "/terms", {"code": "2036F", "name": "Fall", **dates}))["id"]
    part = (
        await create(
            client,
            "/terms",
            {"code": "2036F1", "name": "First half", **dates, "ends_on": "2036-10-20", "parent_id": term},
        )
    )["id"]

    async def course(**fields: object) -> int:
        id: int = (await create(client, "/courses", {"title": "Computing", **fields}))["id"]
        return id

    async def student(number: int, **fields: object) -> int:
        given = {
            "external_id": f"S-{number}",
            "given_name": "Ada",
            "family_name": f"Number{number}",
            "email": f"s{number}@campus.example",
        }
        id: int = (await create(client, "/students", {**given, "sourced_id": f"student-{number}", **fields}))["id"]
        return id

    first = await course(code="CS1", section="A", term_id=part, capacity=2)
    second = await course(code="cs1", section="B", term_id=term, capacity=9)
    free = await course(code="Ünï", title='Bücher & "Quotes"', external_id="C-3")
    cancelled = await course(code="OLD", term_id=term)
    deleted_course = await course(code="GONE", term_id=term)
    ada = await student(1, preferred_name="Countess")
    # A student who has only one name, and neither an external id nor an e-mail address.
    bob = await student(2, external_id=None, email=None, given_name=None)
    cyd = await student(3)
    dan = await student(4, family_name="O'Neil")
    eve = await student(5)
    grace = (
        await create(
            client,
            "/instructors",
            {"given_name": "Grace", "family_name": "Hopper", "email": "g@campus.example", "sourced_id": "teacher-1"},
        )
    )["id"]
    former = (await create(client, "/instructors", {"family_name": "Gone", "sourced_id": "teacher-2"}))["id"]
    for people in ([{"instructor_id": former, "primary": True}], [{"instructor_id": grace, "primary": True}]):
        answer = await call(client, "PUT", f"/courses/{first}/instructors", {"instructors": people})
        assert answer.status == 200, answer
    for id, courses in ((ada, [first, free]), (bob, [first])):
        assert (await enroll(client, id, *courses)).status == 201
    assert (
        await call(client, "POST", f"/students/{bob}/courses/{first}/complete", {"passed": True, "grade": "A"})
    ).status == 200
    assert (await enroll(client, cyd, second)).status == 201
    assert (await drop(client, cyd, second)).status == 200
    await join_waitlist(client, dan, first)
    assert (await call(client, "POST", f"/courses/{cancelled}/cancel", {})).status == 200
    assert (await call(client, "DELETE", f"/courses/{deleted_course}")).status == 204
    assert (await call(client, "DELETE", f"/students/{eve}")).status == 204
    return Roster(term, part, first, second, free, cancelled, deleted_course, (ada, bob, cyd, dan), eve, grace, former)


async def show(client: Client, path: str, **headers: str) -> Any:
    """Return the body of an answer of OneRoster that succeeds."""
    answer = await call(client, "GET", path, headers=headers)
    assert answer.status == 200, answer
    return answer.body


def ids(body: dict[str, Any]) -> list[str]:
    """Return the sourcedIds of a list."""
    [objects] = body.values()
    return [each["sourcedId"] for each in objects]
