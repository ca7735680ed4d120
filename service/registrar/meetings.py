"""When courses meet: the minutes of the week for a quick test of two courses, and the dates for the exact one.

Times are wall-clock times of the institution. The day of a change to or from summer time has 24 hours here, so that
meetings overlap by their clock times alone.
"""

import json
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

from service.registrar.application import Term

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 24 * 60
MINUTES_PER_WEEK = 7 * MINUTES_PER_DAY

Dates: TypeAlias = tuple[date, date]
"""The first and the last date on which a course without other dates can meet."""

ALWAYS: Dates = (date.min, date.max)
"""The dates of a course without a term."""


class Meeting(NamedTuple):
    """Every ``step`` days from ``first`` until ``last`` at most, which are ordinals of dates.

    ``start`` and ``end`` are minutes after midnight; a meeting that ends on the next day has an ``end`` above 24 hours.
    """

    first: int
    last: int
    step: int
    start: int
    end: int


@lru_cache(maxsize=16_384)
def week_of(meetings: str) -> int:
    """Return the minutes of the week at which a JSON array of meetings takes place, Monday 00:00 as the lowest bit.

    Courses whose weeks have no minute in common never conflict, whatever the dates of their meetings.
    """
    week = 0
    for meeting in json.loads(meetings):
        start, end = _times(meeting)
        minutes = ((1 << (end - start)) - 1) << (DAYS.index(meeting["day"]) * MINUTES_PER_DAY + start)
        # A meeting in the night to Monday reaches into the first minutes of the next week.
        week |= minutes % (1 << MINUTES_PER_WEEK) | minutes >> MINUTES_PER_WEEK
    return week


def dates_of(term: Term | None) -> Dates:
    """Return the first and the last date of a course in a term."""
    return ALWAYS if term is None else (term.starts_on, term.ends_on)


@lru_cache(maxsize=16_384)
def conflict(one: str, dates: Dates, other: str, other_dates: Dates) -> bool:
    """Return whether meetings of two courses share an instant on any date."""
    return any(_overlap(*pair) for pair in product(_schedule(one, dates), _schedule(other, other_dates)))


def first_without_date(meetings: str, dates: Dates) -> tuple[int, Dates] | None:
    """Return the first meeting that takes place on no date, by its place in the JSON array, with its possible dates."""
    for place, meeting in enumerate(json.loads(meetings)):
        parsed = _parsed(meeting, dates)
        if parsed.first > parsed.last:
            return place, _possible(meeting, dates)
    return None


def first_without_week(meetings: str) -> int | None:
    """Return the first meeting whose weeks only a term could count, by its place in the JSON array."""
    places = [place for place, each in enumerate(json.loads(meetings)) if "every_weeks" in each and "from" not in each]
    return min(places, default=None)


@lru_cache(maxsize=16_384)
def _schedule(meetings: str, dates: Dates) -> frozenset[Meeting]:
    """Return the meetings of a course that take place on any date; those at the same times in other rooms are one."""
    parsed = [_parsed(meeting, dates) for meeting in json.loads(meetings)]
    return frozenset([meeting for meeting in parsed if meeting.first <= meeting.last])


def _parsed(meeting: Mapping[str, Any], dates: Dates) -> Meeting:
    begin, last = _possible(meeting, dates)
    step = 7 * int(meeting.get("every_weeks", 1))
    # Count the weeks from the one of the first date, which may be later in its week than the meeting.
    first = begin.toordinal() - begin.weekday() + DAYS.index(meeting["day"])
    if first < begin.toordinal():
        first += step
    return Meeting(first, last.toordinal(), step, *_times(meeting))


def _possible(meeting: Mapping[str, Any], dates: Dates) -> Dates:
    """Return the first and the last possible date of a meeting."""
    starts_on, ends_on = dates
    return (
        date.fromisoformat(meeting["from"]) if "from" in meeting else starts_on,
        date.fromisoformat(meeting["until"]) if "until" in meeting else ends_on,
    )


def _times(meeting: Mapping[str, Any]) -> tuple[int, int]:
    start, end = _minutes(meeting["start"]), _minutes(meeting["end"])
    return start, end if start < end else end + MINUTES_PER_DAY


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _overlap(one: Meeting, other: Meeting) -> bool:
    """Return whether two meetings share an instant on any date."""
    if one.last + 1 < other.first or other.last + 1 < one.first:
        return False
    # Meetings last a day at most: those that overlap begin on the same day, or one of them on the next day.
    return any(
        one.start < other.end + days * MINUTES_PER_DAY
        and other.start + days * MINUTES_PER_DAY < one.end
        and _follow(one, other, days)
        for days in (-1, 0, 1)
    )


def _follow(one: Meeting, other: Meeting, days: int) -> bool:
    """Return whether one meeting takes place on any date and the other one that many days later."""
    if (one.first + days - other.first) % 7:
        return False
    first, last = max(one.first, other.first - days), min(one.last, other.last - days)
    first += (one.first - first) % one.step
    # The weeks of both meetings repeat together after as many dates of the one as the other has weeks in its step.
    dates = range(first, min(last + 1, first + one.step * (other.step // 7)), one.step)
    return any((day + days - other.first) % other.step == 0 for day in dates)
