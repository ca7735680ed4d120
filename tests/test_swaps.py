"""Swaps: what a student gives up for another course, when, and what becomes of it until then."""

from typing import Any

import pytest

from service.check import check
from service.settings import Settings
from tests.campus import Answer, call, create, drop, enroll, new_course, new_student
from tests.conftest import Client
from tests.test_registrar import TERM, codes, grant, status_of


async def swap(client: Client, student: int, drops: list[int], adds: list[int], on_full: str = "fail") -> Answer:
    body = {"drop": drops, "add": adds, "on_full": on_full}
    return await call(client, "POST", f"/students/{student}/swap", body)


async def overloaded(client: Client, term: dict[str, Any], **fields: object) -> tuple[int, int]:
    """Give a student 6 credits of 4 allowed by an override; return the student and the course of 3 credits it was for."""
    student = await new_student(client, **fields)
    one, other = [await new_course(client, credits=3, term_id=term["id"]) for _ in range(2)]
    await enroll(client, student, one)
    await grant(client, student, other, "credit_limit")
    assert (await enroll(client, student, other)).status == 201
    return student, other


@pytest.mark.parametrize("own", [None, 4])
async def test_above_the_credit_limit_only_what_raises_the_credits_is_refused(
    client: Client, settings: Settings, own: int | None
) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 4 if own is None else None})
    student, held = await overloaded(client, term, max_credits=own)
    lab, even, less, more = [await new_course(client, credits=n, term_id=term["id"]) for n in (0, 3, 1, 3.5)]

    assert (await enroll(client, student, lab)).status == 201
    assert codes(await swap(client, student, [held], [more])) == ["credit_limit"]
    assert codes(await swap(client, student, [held], [even, less])) == ["credit_limit", "credit_limit"]
    assert codes(await enroll(client, student, less)) == ["credit_limit"]
    assert (await swap(client, student, [held], [even])).status == 201
    assert (await swap(client, student, [even], [less])).status == 201
    # What was allowed once is not allowed again when it was given up.
    assert codes(await swap(client, student, [less], [even])) == ["credit_limit"]
    assert await check(settings) == 0


async def test_a_lab_without_credits_is_not_what_raises_them_in_a_request_for_several(client: Client) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 4})
    student = await new_student(client)
    lab, course = [await new_course(client, credits=credits, term_id=term["id"]) for credits in (0, 5)]

    [refusal] = (await enroll(client, student, lab, course)).body["errors"]

    assert (refusal["code"], refusal["course_id"], refusal["asked"]) == ("credit_limit", course, 5)


async def test_an_even_swap_above_the_limit_waits_for_a_seat_and_gets_it(client: Client, settings: Settings) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 4})
    student, held = await overloaded(client, term)
    full, seated = await new_course(client, credits=3, capacity=1, term_id=term["id"]), await new_student(client)
    await enroll(client, seated, full)
    assert (await swap(client, student, [held], [full], "waitlist")).status == 201

    await drop(client, seated, full)

    assert [await status_of(client, student, course) for course in (held, full)] == ["dropped", "enrolled"]
    assert await check(settings) == 0


async def test_who_is_above_a_lowered_limit_may_swap_evenly_and_that_is_a_note_of_check(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    term = await create(client, "/terms", {**TERM, "max_credits": 6})
    student = await new_student(client)
    one, other = [await new_course(client, credits=6, term_id=term["id"]) for _ in range(2)]
    await enroll(client, student, one)
    await call(client, "PATCH", f"/terms/{term['id']}", {"max_credits": 3})

    assert (await swap(client, student, [one], [other])).status == 201

    assert await check(settings) == 0
    assert f"student_id={student}, term_id={term['id']}, held=6.0, allowed=3.0, edited=True" in capsys.readouterr().out
