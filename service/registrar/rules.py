"""The rules of enrollment: pure functions from what is known of an application to the refusals of it.

They stand in the order in which their refusals are listed.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Literal, TypeAlias

from service.registrar.changes import Application, Hold, Refusal, Term

Rule: TypeAlias = Callable[[Application], Iterable[Refusal]]

NONE: tuple[Refusal, ...] = ()
"""What a rule finds that has nothing to refuse."""

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_A_DAY = 24 * 60


def course_not_found(application: Application) -> Iterable[Refusal]:
    """There is no such course."""
    if application.course is not None:
        return NONE
    return [Refusal("course_not_found", application.course_id)]


def course_cancelled(application: Application) -> Iterable[Refusal]:
    """The course is cancelled."""
    if application.course is None or application.course.status != "cancelled":
        return NONE
    return [Refusal("course_cancelled", application.course_id)]


def already_completed(application: Application) -> Iterable[Refusal]:
    """The student has completed this very offering: a retake is another one."""
    return [Refusal("already_completed", application.course_id)] if application.completed else NONE


def enrollment_not_open(application: Application) -> Iterable[Refusal]:
    """Enrollment in the course's term has not opened yet."""
    opens_at = application.term.enroll_from if application.term else None
    if opens_at is None or application.now >= opens_at:
        return NONE
    return [Refusal("enrollment_not_open", application.course_id, {"opens_at": timestamp(opens_at)})]


def enrollment_closed(application: Application) -> Iterable[Refusal]:
    """Enrollment in the course's term is over."""
    closed_at = application.term.enroll_until if application.term else None
    if closed_at is None or application.now < closed_at:
        return NONE
    return [Refusal("enrollment_closed", application.course_id, {"closed_at": timestamp(closed_at)})]


def hold(application: Application) -> Iterable[Refusal]:
    """A hold on the student is in force."""
    if not application.holds:
        return NONE
    return [
        Refusal("hold", application.course_id, {"reason": each.reason})
        for each in application.holds
        if each.blocks_enroll and in_force(each, application.now)
    ]


def prerequisite_missing(application: Application) -> Iterable[Refusal]:
    """The student has not passed any course of a group that the course requires."""
    if not application.groups:
        return NONE
    return [
        Refusal("prerequisite_missing", application.course_id, {"any_of": list(group.codes)})
        for group in application.groups
        if group.kind == "pre" and application.passed.isdisjoint(group.codes)
    ]


def corequisite_missing(application: Application) -> Iterable[Refusal]:
    """The student neither has nor asks for any course of a group that goes with the course."""
    if not application.groups:
        return NONE
    return [
        Refusal("corequisite_missing", application.course_id, {"any_of": list(group.codes)})
        for group in application.groups
        if group.kind == "co" and (application.has | application.asked).isdisjoint(group.codes)
    ]


def antirequisite(application: Application) -> Iterable[Refusal]:
    """The student has, or asks for, a course that rules the course out."""
    if not application.groups:
        return NONE
    return [
        Refusal("antirequisite", application.course_id, {"course_code": code})
        for group in application.groups
        if group.kind == "anti"
        for code in group.codes
        if code in application.has or code in application.asked
    ]


def time_conflict(application: Application) -> Iterable[Refusal]:
    """The course meets at the same time as another one in which the student has a seat."""
    course = application.course
    if course is None or application.seat != "seat" or not application.seated:
        return NONE
    week = week_of(course.meetings)
    return [
        Refusal("time_conflict", application.course_id, {"with_course_id": other.id})
        for other, term in application.seated
        if week & week_of(other.meetings) and terms_overlap(application.term, term)
    ]


def credit_limit(application: Application) -> Iterable[Refusal]:
    """The student would have more credits in the term than the student, or else the term, allows."""
    if application.term is None or application.limit is None or application.seat != "seat":
        return NONE
    if application.held + application.asked_credits <= application.limit:
        return NONE
    params = {
        "held": number(application.held),
        "asked": number(application.asked_credits),
        "limit": number(application.limit),
    }
    return [Refusal("credit_limit", application.course_id, params)]


def course_full(application: Application) -> Iterable[Refusal]:
    """No seat is free, and waiting was not asked for or is not to be had in this course."""
    course = application.course
    if course is None or application.seat != "none":
        return NONE
    if application.on_full == "waitlist" and course.waitlist_capacity != 0:
        return NONE
    params = {"capacity": course.capacity, "seats_taken": course.seats_taken}
    return [Refusal("course_full", application.course_id, params)]


def waitlist_full(application: Application) -> Iterable[Refusal]:
    """No seat is free, and no place in line."""
    course = application.course
    if course is None or application.seat != "none":
        return NONE
    if application.on_full == "fail" or course.waitlist_capacity == 0:
        return NONE
    return [Refusal("waitlist_full", application.course_id, {"waitlist_capacity": course.waitlist_capacity})]


RULES: tuple[Rule, ...] = (
    course_not_found,
    course_cancelled,
    already_completed,
    enrollment_not_open,
    enrollment_closed,
    hold,
    prerequisite_missing,
    corequisite_missing,
    antirequisite,
    time_conflict,
    credit_limit,
    course_full,
    waitlist_full,
)


def judge(application: Application) -> tuple[Refusal, ...]:
    """List every reason to refuse an application; none means that it is granted."""
    return tuple([refusal for rule in RULES for refusal in rule(application)])


DropStatus: TypeAlias = Literal["dropped", "withdrawn"]


def judge_drop(
    course_id: int, status: str, term: Term | None, holds: Iterable[Hold], now: datetime
) -> tuple[DropStatus, tuple[Refusal, ...]]:
    """Say in which status a drop ends now, and list every reason to refuse it.

    A place in line is left at any time and leaves no mark.
    """
    if status == "completed":
        return "dropped", (Refusal("already_completed", course_id),)
    refusals = [
        Refusal("hold", course_id, {"reason": each.reason})
        for each in holds
        if each.blocks_drop and in_force(each, now)
    ]
    if term is None or status == "waitlisted":
        return "dropped", tuple(refusals)
    if term.withdraw_until is not None and now >= term.withdraw_until:
        refusals.append(Refusal("drop_closed", course_id, {"closed_at": timestamp(term.withdraw_until)}))
    late = term.drop_until is not None and now >= term.drop_until
    return "withdrawn" if late else "dropped", tuple(refusals)


def in_force(hold: Hold, now: datetime) -> bool:
    """Tell whether a hold holds now: from its start on, until its end."""
    return (hold.starts_at is None or hold.starts_at <= now) and (hold.ends_at is None or now < hold.ends_at)


def terms_overlap(one: Term | None, other: Term | None) -> bool:
    """Tell whether two terms have a day in common; what has no term overlaps with every one."""
    if one is None or other is None or one.id == other.id:
        return True
    return one.starts_on < other.ends_on and other.starts_on < one.ends_on


@lru_cache(maxsize=16_384)
def week_of(meetings: str) -> int:
    """Turn a JSON array of meetings into a set of the minutes of the week, Monday 00:00 being the lowest bit."""
    week = 0
    for meeting in json.loads(meetings):
        midnight = DAYS.index(meeting["day"]) * MINUTES_A_DAY
        start, end = _minutes(meeting["start"]), _minutes(meeting["end"])
        week |= ((1 << (end - start)) - 1) << (midnight + start)
    return week


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def timestamp(instant: datetime) -> str:
    """Write an instant in UTC as RFC 3339 has it."""
    return instant.isoformat().replace("+00:00", "Z")


def number(value: float) -> float | int:
    """Write credits without a fraction where they have none."""
    return int(value) if value == int(value) else value


def sentence(refusal: Refusal) -> str:
    """Say a refusal to people; programs go by its code."""
    params = {name: ", ".join(value) if isinstance(value, list) else value for name, value in refusal.params.items()}
    return SENTENCES[refusal.code].format(course_id=refusal.course_id, **params)


SENTENCES: dict[str, str] = {
    "course_not_found": "There is no course {course_id}.",
    "course_cancelled": "Course {course_id} is cancelled.",
    "already_completed": "The student has completed course {course_id}; a retake is another offering.",
    "enrollment_not_open": "Enrollment in course {course_id} opens at {opens_at}.",
    "enrollment_closed": "Enrollment in course {course_id} closed at {closed_at}.",
    "hold": "A hold on the student forbids it: {reason}",
    "prerequisite_missing": "Course {course_id} requires that one of these was passed: {any_of}.",
    "corequisite_missing": "Course {course_id} is to be taken with one of these: {any_of}.",
    "antirequisite": "Course {course_id} is not to be taken with {course_code}.",
    "time_conflict": "Course {course_id} meets at the same time as course {with_course_id}.",
    "credit_limit": "Course {course_id} would make it {held} + {asked} credits in the term, of {limit} allowed.",
    "course_full": "Course {course_id} has {seats_taken} of its {capacity} seats taken.",
    "waitlist_full": "Course {course_id} is full, and so is its waitlist of {waitlist_capacity} places.",
    "drop_closed": "Course {course_id} could be dropped until {closed_at}.",
    "not_enrolled": "The student has never been enrolled in course {course_id}.",
}
