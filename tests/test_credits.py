"""Credits: two decimals that add up exactly, and the limits of terms and of their parts."""

from typing import Any

import pytest

from service.check import check
from service.settings import Settings
from sql import Connection
from tests.campus import call, course_fields, create, new_student, places, read
from tests.conftest import Client

TERM = {"code": "2036F", "name": "Fall", "starts_on": "2036-09-01", "ends_on": "2036-12-19"}


async def term(client: Client, **fields: object) -> int:
    id: int = (await create(client, "/terms", {**TERM, **fields}))["id"]
    return id


async def courses(client: Client, term_id: int, *credits: float, **fields: object) -> list[int]:
    bodies = [course_fields(term_id=term_id, credits=each, **fields) for each in credits]
    return [(await create(client, "/courses", body))["id"] for body in bodies]


async def enroll(client: Client, student: int, *course_ids: int, on_full: str = "fail") -> Any:
    return await call(client, "POST", f"/students/{student}/enroll", {"course_ids": course_ids, "on_full": on_full})


async def test_credits_of_two_decimals_add_up_exactly(client: Client, settings: Settings) -> None:
    """The sum of 0.1 and 0.2 is 0.3, which is not what a float of 0.1 and one of 0.2 add up to."""
    in_term = await term(client, max_credits=0.3)
    tenth, fifth, hundredth = await courses(client, in_term, 0.1, 0.2, 0.01)
    student = await new_student(client)

    assert (await enroll(client, student, tenth)).status == 201
    assert (await enroll(client, student, fifth)).status == 201

    [refusal] = (await enroll(client, student, hundredth)).body["errors"]
    assert {name: refusal[name] for name in ("code", "held", "asked", "limit")} == {
        "code": "credit_limit",
        "held": 0.3,
        "asked": 0.01,
        "limit": 0.3,
    }
    assert await check(settings) == 0


async def test_credits_are_returned_as_they_were_sent(client: Client, connection: Connection) -> None:
    in_term = await term(client, max_credits=18.25)
    sent = [0, 0.01, 0.29, 0.57, 1.15, 2.5, 3, 98.99, 99]
    ids = await courses(client, in_term, *sent)

    assert [each["credits"] for each in (await read(client, f"/courses?term_id={in_term}"))["items"]] == sent
    assert [(await read(client, f"/courses/{id}"))["credits"] for id in ids] == sent
    assert (await read(client, f"/terms/{in_term}"))["max_credits"] == 18.25
    events = await connection.fetch("SELECT after ->> 'credits' FROM events WHERE course_id IS NOT NULL")
    assert [each[0] for each in events] == [str(each) for each in sent]


@pytest.mark.parametrize("credits", [0.001, 1.255, 3.0000000001, 0.1 + 0.2])
async def test_more_than_two_decimals_are_refused(client: Client, credits: float) -> None:
    expected = [("not_a_multiple", "#/credits")]
    assert places(await call(client, "POST", "/courses", course_fields(credits=credits))) == expected
    limited = {**TERM, "max_credits": credits}
    assert places(await call(client, "POST", "/terms", limited)) == [("not_a_multiple", "#/max_credits")]
