"""Terms and enrollment: terms that share days, and the end of a term."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from pytest_aiohttp import AiohttpClient

from service.check import check
from service.registrar.application import Application
from service.registrar.ledger import Ledger
from service.registrar.rules import end_of_day, enrollment_closed
from service.settings import Settings, zone_of
from sql.enrollments import Transcript
from sql.feed import Head
from sql.terms import Term
from tests.campus import call, create, drop, enroll, join_waitlist, new_course, new_student, served
from tests.conftest import Client
from tests.test_check import checked
from tests.test_registrar import grant, status_of

START = datetime(2026, 1, 1, tzinfo=UTC)
AT = [{"day": "tue", "start": "09:00", "end": "10:00"}]
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
    together, swapper, waitlisted = [await new_student(client) for _ in range(3)]

    assert (await enroll(client, together, one, other)).status == status
    await enroll(client, swapper, one)
    assert (await enroll(client, swapper, other)).status == status
    swap = {"drop": [one], "add": [other]}
    assert (await call(client, "POST", f"/students/{swapper}/swap", swap)).status == (201 if status == 409 else 200)

    seated = await new_student(client)
    await enroll(client, seated, full)
    await enroll(client, waitlisted, one)
    await join_waitlist(client, waitlisted, full)
    await drop(client, seated, full)
    assert await status_of(client, waitlisted, full) == ("enrolled" if status == 201 else "waitlisted")


async def test_an_edit_that_separates_terms_seats_a_waitlisted_student_and_one_that_joins_them_is_noted(
    client: Client, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = await new_term(client, FIRST), await new_term(client, SECOND)
    one, full = (
        await new_course(client, meetings=AT, term_id=first),
        await new_course(client, term_id=second, capacity=1),
    )
    waitlisted, seated = await new_student(client), await new_student(client)
    await enroll(client, seated, full)
    await enroll(client, waitlisted, one)
    await join_waitlist(client, waitlisted, full)
    await call(client, "PATCH", f"/courses/{full}", {"meetings": AT})
    await drop(client, seated, full)
    assert await status_of(client, waitlisted, full) == "waitlisted"

    await call(client, "PATCH", f"/terms/{second}", {"starts_on": "2036-07-02"})

    assert await status_of(client, waitlisted, full) == "enrolled"
    assert await checked(settings, capsys) == (0, [])
    await call(client, "PATCH", f"/terms/{second}", {"starts_on": "2036-07-01"})
    status, lines = await checked(settings, capsys)
    assert (status, lines[1:]) == (
        0,
        [f"      student_id={waitlisted}, course_id={one}, with_course_id={full}, edited=True"],
    )


PAST = {"code": "2001", "name": "Past", "starts_on": "2001-01-01", "ends_on": "2001-06-01"}


@pytest.mark.parametrize(
    ("time_zone", "closed_at"),
    [
        ("UTC", "2001-06-02T00:00:00Z"),
        ("America/New_York", "2001-06-02T04:00:00Z"),
        ("Asia/Tokyo", "2001-06-01T15:00:00Z"),
    ],
)
async def test_a_term_closes_at_midnight_after_its_last_day_in_the_time_zone_of_the_institution(
    settings: Settings, aiohttp_client: AiohttpClient, time_zone: str, closed_at: str
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"time_zone": time_zone}))
    over = await new_term(client, PAST)
    earlier = await new_term(client, {**PAST, "code": "E"}, enroll_until="2001-02-03T00:00:00Z")
    course, full = await new_course(client, term_id=over), await new_course(client, term_id=over, capacity=0)
    student = await new_student(client)
    for answer in (await enroll(client, student, course), await join_waitlist(client, student, full)):
        refusal = answer.body["errors"][0]
        assert (refusal["code"], refusal["closed_at"]) == ("enrollment_closed", closed_at)
    [refusal] = (await enroll(client, student, await new_course(client, term_id=earlier))).body["errors"]
    assert refusal["closed_at"] == "2001-02-03T00:00:00Z"

    await grant(client, student, course, "enrollment_closed")

    assert (await enroll(client, student, course)).status == 201
    assert await check(settings) == 0


@pytest.mark.parametrize(
    ("time_zone", "midnight"), [("UTC", "2036-03-30T00:00:00Z"), ("Europe/Berlin", "2036-03-29T23:00:00Z")]
)
def test_a_term_is_open_up_to_the_midnight_after_its_last_day(time_zone: str, midnight: str) -> None:
    instant = datetime.fromisoformat(midnight)
    ends_at = end_of_day(date(2036, 3, 29), zone_of(time_zone))
    assert ends_at == instant
    term = Term(
        1, "F", "Fall", None, date(2036, 1, 1), date(2036, 3, 29), None, None, None, None, None, 1, START, START
    )
    ledger = Ledger(Head(START, 0))
    ledger.loaded_students.add(1)
    ledger.add_transcript(Transcript(1, None, None, None, None, None, None, False, False, False, ""))
    history = ledger.history(1)
    application = Application(START, 7, None, history, term, ends_at)
    assert not enrollment_closed(application._replace(now=instant - timedelta(microseconds=1)))
    [refusal] = enrollment_closed(application._replace(now=instant))
    assert (refusal.params, refusal.lapses_at) == ({"closed_at": midnight}, None)
    later = replace(term, enroll_until=instant + timedelta(days=9))
    assert enrollment_closed(application._replace(now=instant, term=later)) == [refusal]


def test_the_last_day_of_the_calendar_ends_in_every_time_zone() -> None:
    for name in ("UTC", "America/New_York", "Asia/Tokyo"):
        assert end_of_day(date.max, zone_of(name)) > datetime(9999, 12, 30, tzinfo=UTC)


def test_a_time_zone_that_does_not_exist_is_refused_at_the_start() -> None:
    for name in ("Europe/Atlantis", "", "../etc/passwd", "UTC+2", "Europe"):
        with pytest.raises(ValidationError, match="IANA"):
            Settings(time_zone=name)
    assert Settings(time_zone="Europe/Berlin").time_zone == "Europe/Berlin"
    assert Settings().time_zone == "UTC"
