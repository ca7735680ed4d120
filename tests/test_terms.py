"""What terms mean for enrollment: the days that they share, and the day that they end."""

from typing import Any

import pytest

from service.settings import Settings
from tests.campus import call, create, drop, enroll, new_course, new_student, wait_for
from tests.conftest import Client
from tests.test_check import checked
from tests.test_registrar import status_of

AT = [{"day": "mon", "start": "09:00", "end": "10:00"}]
FIRST = {"code": "1", "name": "First", "starts_on": "2036-01-01", "ends_on": "2036-07-01"}
SECOND = {"code": "2", "name": "Second", "starts_on": "2036-07-01", "ends_on": "2036-12-31"}


async def new_term(client: Client, fields: dict[str, Any], **others: object) -> int:
    id: int = (await create(client, "/terms", {**fields, **others}))["id"]
    return id


@pytest.mark.parametrize(("starts_on", "status"), [("2036-07-01", 409), ("2036-07-02", 201)])
async def test_terms_that_share_one_day_overlap(client: Client, starts_on: str, status: int) -> None:
    first, second = await new_term(client, FIRST), await new_term(client, SECOND, starts_on=starts_on)
    one, other = [await new_course(client, meetings=AT, term_id=term) for term in (first, second)]
    full = await new_course(client, meetings=AT, term_id=second, capacity=1)
    together, swapper, waiter = [await new_student(client) for _ in range(3)]

    assert (await enroll(client, together, one, other)).status == status
    await enroll(client, swapper, one)
    assert (await enroll(client, swapper, other)).status == status
    swap = {"drop": [one], "add": [other]}
    assert (await call(client, "POST", f"/students/{swapper}/swap", swap)).status == (201 if status == 409 else 200)

    seated = await new_student(client)
    await enroll(client, seated, full)
    await enroll(client, waiter, one)
    await wait_for(client, waiter, full)
    await drop(client, seated, full)
    assert await status_of(client, waiter, full) == ("enrolled" if status == 201 else "waitlisted")


async def test_an_edit_that_parts_terms_by_a_day_seats_who_waits_and_one_that_joins_them_is_noted(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = await new_term(client, FIRST), await new_term(client, SECOND)
    one, full = (
        await new_course(client, meetings=AT, term_id=first),
        await new_course(client, term_id=second, capacity=1),
    )
    waiter, seated = await new_student(client), await new_student(client)
    await enroll(client, seated, full)
    await enroll(client, waiter, one)
    await wait_for(client, waiter, full)
    await call(client, "PATCH", f"/courses/{full}", {"meetings": AT})
    await drop(client, seated, full)
    assert await status_of(client, waiter, full) == "waitlisted"

    await call(client, "PATCH", f"/terms/{second}", {"starts_on": "2036-07-02"})

    assert await status_of(client, waiter, full) == "enrolled"
    assert await checked(settings, capsys) == (0, [])
    await call(client, "PATCH", f"/terms/{second}", {"starts_on": "2036-07-01"})
    status, told = await checked(settings, capsys)
    assert (status, told[1:]) == (
        0,
        [f"      student_id={waiter}, course_id={one}, with_course_id={full}, edited=True"],
    )
