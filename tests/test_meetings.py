"""Meetings: weekdays and times, dates, weeks, and which courses conflict."""

import json
import random
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import product
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.check import check
from service.registrar.meetings import ALWAYS, DAYS, Dates, conflict, week_of
from service.settings import Settings
from tests import shared
from tests.campus import Answer, call, course_fields, create, new_student, places, problem, read
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

TERM = {"code": "2036F", "name": "Fall", "starts_on": "2036-09-01", "ends_on": "2036-12-19"}
"""Monday 1 September 2036 until Friday 19 December."""
MONDAY: dict[str, Any] = {"day": "mon", "start": "09:00", "end": "10:00"}
FIRST, LAST = date(2036, 8, 1), date(2037, 1, 31)
"""The dates that the brute-force search looks at: it finds every pattern of weeks of courses without dates there."""

first_days = st.integers(0, 20).map(lambda days: date(2036, 9, 1) + timedelta(days))
last_days = st.integers(7, 70).map(lambda days: date(2036, 9, 1) + timedelta(days))


def clock(half_hours: int) -> str:
    return f"{half_hours // 2:02}:{half_hours % 2 * 30:02}"


@st.composite
def meetings(draw: st.DrawFn, dates: Dates) -> list[dict[str, Any]]:
    """Draw one or two meetings around Sunday's midnight, so that most of them overlap unless their dates differ."""
    drawn = []
    for _ in range(draw(st.integers(1, 2))):
        start, end = draw(st.sampled_from([*product([0, 1, 18, 46], [2, 19, 47, 48]), (46, 1), (0, 1)]))
        meeting: dict[str, Any] = {"day": draw(st.sampled_from(["sun", "mon", "mon"]))}
        meeting |= {"start": clock(start), "end": clock(end)}
        if draw(st.booleans()):
            meeting["from"] = draw(first_days).isoformat()
        if draw(st.booleans()):
            meeting["until"] = draw(last_days).isoformat()
        if "from" in meeting or dates != ALWAYS:
            meeting["every_weeks"] = draw(st.sampled_from([1, 2, 3, 4, 4]))
        drawn.append(meeting)
    return drawn


@st.composite
def timetables(draw: st.DrawFn) -> tuple[list[dict[str, Any]], Dates]:
    dates = draw(st.just(ALWAYS) | st.tuples(first_days, last_days))
    return draw(meetings(dates)), dates


def half_hours_of(meeting: dict[str, Any], dates: Dates) -> Iterator[tuple[date, int]]:
    """Yield every date and half hour of a meeting, by trying every date."""
    begin = date.fromisoformat(meeting["from"]) if "from" in meeting else dates[0]
    last = date.fromisoformat(meeting["until"]) if "until" in meeting else dates[1]
    starts, ends = ([*map(int, meeting[name].split(":"))] for name in ("start", "end"))
    start, end = starts[0] * 2 + starts[1] // 30, ends[0] * 2 + ends[1] // 30
    for number in range((LAST - FIRST).days):
        day = FIRST + timedelta(number)
        weeks = ((day - timedelta(day.weekday())) - (begin - timedelta(begin.weekday()))).days // 7
        if not begin <= day <= last or DAYS[day.weekday()] != meeting["day"] or weeks % meeting.get("every_weeks", 1):
            continue
        for half_hour in range(start, end if end > start else end + 48):
            yield day + timedelta(half_hour // 48), half_hour % 48


@given(timetables(), timetables())
@hypothesis.settings(max_examples=300)
async def test_courses_conflict_exactly_if_they_share_an_instant_on_a_date(
    one: tuple[list[dict[str, Any]], Dates], other: tuple[list[dict[str, Any]], Dates]
) -> None:
    taken = [
        {each for meeting in meetings for each in half_hours_of(meeting, dates)} for meetings, dates in (one, other)
    ]
    texts = [json.dumps(meetings) for meetings, _ in (one, other)]
    expected = not taken[0].isdisjoint(taken[1])

    assert conflict(texts[0], one[1], texts[1], other[1]) == expected
    assert conflict(texts[1], other[1], texts[0], one[1]) == expected
    assert week_of(texts[0]) & week_of(texts[1]) or not expected, "the quick test never hides a conflict"


def at(day: str, start: str, end: str, **more: object) -> dict[str, object]:
    return {"day": day, "start": start, "end": end, **more}


def on(day: str) -> dict[str, object]:
    return {"from": day, "until": day}


PAIRS: dict[str, tuple[dict[str, object], dict[str, object], bool]] = {
    "every week": (MONDAY, MONDAY, True),
    "odd and even weeks": ({**MONDAY, "every_weeks": 2}, {**MONDAY, "every_weeks": 2, "from": "2036-09-08"}, False),
    "even and every fourth week": ({**MONDAY, "every_weeks": 2}, {**MONDAY, "every_weeks": 4}, True),
    "every second and every third week": (
        {**MONDAY, "every_weeks": 2, "from": "2036-09-08"},
        {**MONDAY, "every_weeks": 3},
        True,
    ),
    "every second and every third week, too short to meet": (
        {**MONDAY, "every_weeks": 2, "from": "2036-09-08"},
        {**MONDAY, "every_weeks": 3, "until": "2036-09-21"},
        False,
    ),
    "two halves of the term": ({**MONDAY, "until": "2036-10-24"}, {**MONDAY, "from": "2036-10-27"}, False),
    "two halves with a common Monday": ({**MONDAY, "until": "2036-10-27"}, {**MONDAY, "from": "2036-10-27"}, True),
    "a common day that is no Monday": ({**MONDAY, "until": "2036-10-28"}, {**MONDAY, "from": "2036-10-28"}, False),
    "two dates": ({**MONDAY, **on("2036-09-01")}, {**MONDAY, **on("2036-09-08")}, False),
    "one date and the weeks of another": ({**MONDAY, **on("2036-09-01")}, {**MONDAY, "from": "2036-09-02"}, False),
    "one date of a week": ({**MONDAY, **on("2036-09-15")}, {**MONDAY, "every_weeks": 2}, True),
    "until midnight and after": (at("mon", "22:00", "24:00"), at("tue", "00:00", "01:00"), False),
    "until 00:00 and after": (at("mon", "22:00", "00:00"), at("tue", "00:00", "01:00"), False),
    "over midnight": (at("mon", "23:00", "01:00"), at("tue", "00:30", "02:00"), True),
    "over midnight on Sunday": (at("sun", "23:00", "01:00"), at("mon", "00:59", "02:00"), True),
    "the night after the last date": (
        at("sun", "23:00", "01:00", **on("2036-09-07")),
        at("mon", "00:00", "02:00", **on("2036-09-08")),
        True,
    ),
    "the night of another week": (
        at("sun", "23:00", "01:00", **on("2036-09-07")),
        at("mon", "00:00", "02:00", **{"from": "2036-09-15"}),
        False,
    ),
    "a whole day": (at("wed", "00:00", "24:00"), at("wed", "12:00", "12:01"), True),
    "almost a day": (at("wed", "12:00", "11:59"), at("thu", "11:58", "12:30"), True),
}


async def enroll(client: Client, student: int, *course_ids: int, **more: object) -> Answer:
    return await call(client, "POST", f"/students/{student}/enroll", {"course_ids": course_ids, **more})


@pytest.mark.parametrize("pair", PAIRS)
async def test_meetings_conflict_only_on_a_date(client: Client, settings: Settings, pair: str) -> None:
    *both, conflicting = PAIRS[pair]
    term = (await create(client, "/terms", TERM))["id"]
    bodies = [course_fields(term_id=term, meetings=[meeting]) for meeting in both]
    ids = [(await create(client, "/courses", body))["id"] for body in bodies]

    for first, second in (ids, ids[::-1]):
        student = await new_student(client)
        assert (await enroll(client, student, first)).status == 201
        answer = await enroll(client, student, second)
        assert answer.status == (409 if conflicting else 201)
        if conflicting:
            [refusal] = answer.body["errors"]
            assert (refusal["code"], refusal["with_course_id"]) == ("time_conflict", first)
    assert await check(settings) == 0


async def test_terms_that_share_no_weekday_of_a_meeting_do_not_conflict(client: Client, settings: Settings) -> None:
    """The second term begins on the Friday on which the first one ends: only Fridays are in both."""
    one = (await create(client, "/terms", {**TERM, "ends_on": "2036-10-24"}))["id"]
    other = (await create(client, "/terms", {**TERM, "code": "2", "starts_on": "2036-10-24"}))["id"]
    for day, status in (("mon", 201), ("fri", 409)):
        bodies = [course_fields(term_id=term, meetings=[{**MONDAY, "day": day}]) for term in (one, other)]
        student = await new_student(client)
        first, second = [(await create(client, "/courses", body))["id"] for body in bodies]
        assert (await enroll(client, student, first)).status == 201
        assert (await enroll(client, student, second)).status == status
    assert await check(settings) == 0


async def test_a_meeting_is_returned_as_it_was_sent_without_the_members_that_have_no_value(client: Client) -> None:
    term = (await create(client, "/terms", TERM))["id"]
    full = {**MONDAY, "from": "2036-09-08", "until": "2036-12-01", "every_weeks": 2, "location": "Hall 3"}
    sent = [{**MONDAY, "from": None, "until": None, "every_weeks": 1, "location": None}, full]

    course = await create(client, "/courses", course_fields(term_id=term, meetings=sent))

    assert course["meetings"] == [full, MONDAY] or course["meetings"] == [MONDAY, full]
    assert (await read(client, f"/courses/{course['id']}")) == course
    assert (await read(client, f"/courses?term_id={term}"))["items"] == [course]
    events = (await read(client, "/events"))["items"]
    assert events[-1]["after"]["meetings"] == course["meetings"]
    again = await call(client, "PATCH", f"/courses/{course['id']}", {"meetings": sent[::-1]})
    assert again.body["version"] == 1, "the order and members without a value make no difference"


@pytest.mark.parametrize(
    ("meeting", "place"),
    [
        ({**MONDAY, "end": "24:01"}, ("not_a_time", "#/meetings/0/end")),
        ({**MONDAY, "start": "24:00"}, ("not_a_time", "#/meetings/0/start")),
        ({**MONDAY, "end": "09:00"}, ("empty_meeting", "#/meetings/0")),
        ({**MONDAY, "every_weeks": 0}, ("too_small", "#/meetings/0/every_weeks")),
        ({**MONDAY, "every_weeks": 5}, ("too_large", "#/meetings/0/every_weeks")),
        ({**MONDAY, "every_weeks": 1.5}, ("wrong_type", "#/meetings/0/every_weeks")),
        ({**MONDAY, "from": "2036-09-31"}, ("not_a_date", "#/meetings/0/from")),
        ({**MONDAY, "until": "soon"}, ("not_a_date", "#/meetings/0/until")),
        ({**MONDAY, "location": " "}, ("blank", "#/meetings/0/location")),
        ({**MONDAY, "begins_on": "2036-09-01"}, ("unknown_field", "#/meetings/0/begins_on")),
    ],
)
async def test_an_invalid_meeting_is_refused(client: Client, meeting: object, place: tuple[str, str]) -> None:
    assert places(await call(client, "POST", "/courses", course_fields(meetings=[meeting]))) == [place]


@pytest.mark.parametrize(
    "dates",
    [
        {"from": "2036-09-08", "until": "2036-09-01"},
        {"from": "2036-09-02", "until": "2036-09-07"},
        {"from": "2036-09-02", "until": "2036-09-14", "every_weeks": 2},
        {"from": "2036-12-20"},
        {"until": "2036-08-31"},
    ],
)
async def test_a_meeting_without_a_date_is_refused_and_nothing_is_written(
    client: Client, dates: dict[str, object]
) -> None:
    term = (await create(client, "/terms", TERM))["id"]
    course = await create(client, "/courses", course_fields(term_id=term, meetings=[MONDAY]))
    bad = [MONDAY, {**MONDAY, "day": "mon", **dates}]
    path = f"/courses/{course['id']}"
    calls = [("POST", "/courses", course_fields(term_id=term, meetings=bad)), ("PATCH", path, {"meetings": bad})]
    calls += [("PUT", "/courses/by-external-id/X", course_fields(term_id=term, meetings=bad))]

    for method, target, body in calls:
        refused = problem(await call(client, method, target, body), 422, "meeting_dates")
        [error] = refused["errors"]
        assert error["pointer"].startswith("#/meetings/")
        assert "takes place on no date" in error["detail"]
    assert (await read(client, "/courses"))["items"] == [course]


async def test_weeks_can_only_be_counted_from_a_date_or_a_term(client: Client) -> None:
    term = (await create(client, "/terms", TERM))["id"]
    biweekly = {**MONDAY, "every_weeks": 2}
    refused = problem(await call(client, "POST", "/courses", course_fields(meetings=[biweekly])), 422, "meeting_dates")
    assert [error["pointer"] for error in refused["errors"]] == ["#/meetings/0/every_weeks"]
    course = await create(client, "/courses", course_fields(term_id=term, meetings=[biweekly]))
    path = f"/courses/{course['id']}"

    problem(await call(client, "PATCH", path, {"term_id": None}), 422, "meeting_dates")

    dated = {"term_id": None, "meetings": [{**biweekly, "from": "2036-09-01"}]}
    assert (await call(client, "PATCH", path, dated)).status == 200


async def test_a_meeting_may_lose_its_dates_when_the_term_is_moved(client: Client, settings: Settings) -> None:
    """Such a meeting conflicts with nothing, and does not keep the course from being edited."""
    term = (await create(client, "/terms", TERM))["id"]
    late = {**MONDAY, "from": "2036-12-01"}
    body = course_fields(term_id=term, meetings=[late])
    course, other = (
        (await create(client, "/courses", body))["id"],
        await create(client, "/courses", course_fields(meetings=[late])),
    )
    student = await new_student(client)

    assert (await call(client, "PATCH", f"/terms/{term}", {"ends_on": "2036-11-28"})).status == 200

    assert (await call(client, "PATCH", f"/courses/{course}", {"title": "Moved"})).status == 200
    assert (await enroll(client, student, course, other["id"])).status == 201
    assert await check(settings) == 0


@pytest.mark.parametrize("relaxed", ["from", "every_weeks", "term"])
async def test_a_waitlisted_student_gets_the_seat_when_other_dates_end_the_conflict(
    client: Client, settings: Settings, relaxed: str
) -> None:
    term = (await create(client, "/terms", {**TERM, "ends_on": "2036-10-24"}))["id"]
    later = (await create(client, "/terms", {**TERM, "code": "2", "starts_on": "2036-10-20"}))["id"]
    held = (await create(client, "/courses", course_fields(term_id=term, meetings=[MONDAY])))["id"]
    wanted = (await create(client, "/courses", course_fields(term_id=later, meetings=[MONDAY], capacity=0)))["id"]
    student = await new_student(client)
    assert (await enroll(client, student, held)).status == 201
    assert (await enroll(client, student, wanted, on_full="waitlist")).status == 201
    await call(client, "PATCH", f"/courses/{wanted}", {"capacity": 1})
    assert (await read(client, f"/courses/{wanted}"))["seats_taken"] == 0

    path, body = {
        "from": (f"/courses/{held}", {"meetings": [{**MONDAY, "until": "2036-10-13"}]}),
        "every_weeks": (f"/courses/{held}", {"meetings": [{**MONDAY, "every_weeks": 2}]}),
        "term": (f"/terms/{later}", {"starts_on": "2036-10-21"}),
    }[relaxed]
    assert (await call(client, "PATCH", path, body)).status == 200

    assert (await read(client, f"/courses/{wanted}"))["seats_taken"] == 1
    assert await check(settings) == 0


async def test_a_whole_timetable_is_created_and_students_enroll_in_it(client: Client, settings: Settings) -> None:
    """Lectures in two rooms at once, labs in odd and even weeks, seminars in a half of the term, and single dates."""
    term = (await create(client, "/terms", TERM))["id"]
    chance = random.Random(0)
    sections: list[list[dict[str, Any]]] = []
    for _ in range(60):
        day, hour = chance.choice(DAYS[:5]), chance.randint(8, 16)
        meeting = at(day, f"{hour:02}:00", f"{hour + 1:02}:50", location="Hall 1")
        odd, even = {**meeting, "every_weeks": 2}, {**meeting, "every_weeks": 2, "from": "2036-09-08"}
        shape = chance.choice(["rooms", "odd", "even", "half", "date", "plain"])
        date_of_day = date(2036, 9, 1) + timedelta(DAYS.index(day))
        sections.append(
            {
                "rooms": [meeting, {**meeting, "location": "Hall 2"}],
                "odd": [odd],
                "even": [even],
                "half": [{**meeting, "until": "2036-10-24"}],
                "date": [{**meeting, **on(date_of_day.isoformat())}],
                "plain": [meeting],
            }[shape]
        )
    ids = [(await create(client, "/courses", course_fields(term_id=term, meetings=each)))["id"] for each in sections]
    student = await new_student(client)

    results = [(await enroll(client, student, id)).status for id in ids]

    taken: set[tuple[date, int]] = set()
    expected = []
    dates = date(2036, 9, 1), date(2036, 12, 19)
    for meetings in sections:
        # The brute force counts half hours: ten minutes before the hour is the hour here.
        mine = {each for it in meetings for each in half_hours_of({**it, "end": it["end"][:2] + ":30"}, dates)}
        expected.append(409 if mine & taken else 201)
        taken |= mine if expected[-1] == 201 else set()
    assert results == expected
    assert {201, 409} == {*results}
    assert await check(settings) == 0
