"""The rules of enrollment: pure functions that return the refusals of an application.

Refusals are listed in the order of the rules. Each refusal has the instant at which the clock alone lifts it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Literal, TypeAlias

from service.registrar.application import (
    Application,
    Course,
    Defined,
    Group,
    HeldSeat,
    Hold,
    Partner,
    Refusal,
    Term,
    reservations_in,
)
from service.registrar.meetings import conflict, dates_of, week_of

Rule: TypeAlias = Callable[[Application], Sequence[Refusal]]

NONE: tuple[Refusal, ...] = ()
"""No refusal."""


def unknown_course(application: Application) -> Sequence[Refusal]:
    """There is no such course."""
    if application.course is not None:
        return NONE
    return [Refusal("unknown_course", application.course_id, None)]


def course_cancelled(application: Application) -> Sequence[Refusal]:
    """The course is cancelled."""
    if application.course is None or application.course.status != "cancelled":
        return NONE
    return [Refusal("course_cancelled", application.course_id, None)]


def already_completed(application: Application) -> Sequence[Refusal]:
    """The student has completed this offering; a retake needs another offering."""
    if not application.history.has_completed(application.course_id):
        return NONE
    return [Refusal("already_completed", application.course_id, None)]


def enrollment_not_open(application: Application) -> Sequence[Refusal]:
    """Enrollment in the course's term has not opened yet."""
    opens_at = application.term.enroll_from if application.term else None
    if opens_at is None or application.now >= opens_at:
        return NONE
    return [Refusal("enrollment_not_open", application.course_id, opens_at, {"opens_at": timestamp(opens_at)})]


def enrollment_closed(application: Application) -> Sequence[Refusal]:
    """Enrollment in the course's term has closed; it closes when the term is over at the latest."""
    term = application.term
    if term is None:
        return NONE
    closed_at = min([each for each in (term.enroll_until, application.ends_at) if each is not None], default=None)
    if closed_at is None or application.now < closed_at:
        return NONE
    return [Refusal("enrollment_closed", application.course_id, None, {"closed_at": timestamp(closed_at)})]


def hold(application: Application) -> Sequence[Refusal]:
    """A hold on the student blocks this call; holds block enrolling, dropping, or both."""
    if not application.history.holds:
        return NONE
    return [
        Refusal("hold", application.course_id, each.ends_at, private={"reason": each.reason})
        for each in application.history.holds
        if each.blocks_enroll and in_force(each, application.now)
    ]


def prerequisite_missing(application: Application) -> Sequence[Refusal]:
    """The student has not passed any course of a group that the course requires, or not with the grade that it requires.

    If the group allows it, a seat in a course of the group is enough whose term ends before the term of this one begins.
    """
    if not application.groups:
        return NONE
    return [
        Refusal("prerequisite_missing", application.course_id, None, _required(group))
        for group in application.groups
        if group.kind == "pre"
        and not (group.in_progress and _is_in_progress(application, group))
        and not _has_passed(application, group)
    ]


def _required(group: Group) -> dict[str, object]:
    required: dict[str, object] = {"any_of": list(group.codes)}
    if group.min_grade is not None:
        required["min_grade"] = group.min_grade
    if group.in_progress:
        required["in_progress"] = True
    return required


def _is_in_progress(application: Application, group: Group) -> bool:
    """Return whether the student has a seat in a course of a group that is over before the course begins."""
    term, partners = application.term, application.history.partners
    return term is not None and any(
        not partner.passed and not partner.waitlisted and partner.term and partner.term.ends_on < term.starts_on
        for key in application.keys(group)
        for partner in partners.get(key, ())
    )


def lost_requirements(application: Application) -> Sequence[Refusal]:
    """Return the groups that allow a course in progress and are not satisfied, as refusals."""
    groups = tuple([group for group in application.groups if group.in_progress])
    return prerequisite_missing(application._replace(groups=groups)) if groups else NONE


def _has_passed(application: Application, group: Group) -> bool:
    keys = application.keys(group)
    if application.history.passed.isdisjoint(keys):
        return False
    if group.min_grade is None:
        return True
    grades = application.history.grades(keys)
    return any(application.scale.is_at_least(grade, group.min_grade) for grade in grades)


def corequisite_missing(application: Application) -> Sequence[Refusal]:
    """The student neither has nor requests any course of a group that must be taken together with the course.

    Such a course counts in the same or an overlapping term or, once it is passed, in any term. A waitlist place is enough
    to ask for a seat, but not to get one from the waitlist.
    """
    if not application.groups:
        return NONE
    return [
        Refusal("corequisite_missing", application.course_id, None, {"any_of": list(group.codes)})
        for group in application.groups
        if group.kind == "co" and not any(_corequisites(application, key) for key in application.keys(group))
    ]


def _corequisites(application: Application, key: str) -> list[Partner]:
    """Return the courses with a code that serve as a corequisite of the course."""
    partners = _partners(application, key)
    return [partner for partner in partners if not partner.waitlisted] if application.promotes else partners


def antirequisite(application: Application) -> Sequence[Refusal]:
    """The student has, or requests, a course that can't be taken together with the course; either may name the other.

    Such a course counts in the same or an overlapping term or, once it is passed, in any term.
    """
    if not application.groups and not application.excluders:
        return NONE
    named: dict[str, tuple[str, list[Partner]]] = {}
    for group in application.groups:
        if group.kind != "anti":
            continue
        for code, key in zip(group.codes, application.keys(group), strict=True):
            if partners := _partners(application, key):
                named.setdefault(key, (code, partners))
    if application.excluders:
        for key in sorted({*application.history.partners, *application.requested} - named.keys()):
            partners = [each for each in _partners(application, key) if each.course.id in application.excluders]
            if partners:
                named[key] = min(partners, key=lambda partner: partner.course.id).course.code, partners
    return [
        Refusal(
            "antirequisite",
            application.course_id,
            latest([partner.lapses_at for partner in partners]),
            {"course_code": code},
        )
        for code, partners in named.values()
    ]


def _partners(application: Application, key: str) -> list[Partner]:
    """Return the other courses with a code that the student has or requests and that count for the course."""
    return [
        partner
        for partner in (*application.history.partners.get(key, ()), *application.requested.get(key, ()))
        if partner.course.id != application.course_id
        and (partner.passed or terms_overlap(application.term, partner.term))
    ]


def duplicate_course(application: Application) -> Sequence[Refusal]:
    """The student has a seat in another offering of the code, or gets one by the same request.

    Offerings of equivalent codes count too, all of them only in the same or an overlapping term.
    """
    course, history = application.course, application.history
    if course is None:
        return NONE
    key = application.code_sets.key
    own = key(course.code)
    held = history.offerings(own)
    if len(application.requested.get(own, ())) > 1:
        seats = (*application.granted, *application.requested_seats)
        held = [*held, *[each for each in seats if key(each[0].code) == own]]
    if not held:
        return NONE
    return [
        Refusal("duplicate_course", application.course_id, None, {"with_course_id": other.id})
        for other, term in held
        if other.id != application.course_id
        and are_offered_together(application.term, term, completed=history.has_completed(other.id))
    ]


def are_offered_together(one: Term | None, other: Term | None, *, completed: bool) -> bool:
    """Return whether offerings of one code in two terms are duplicates: their terms overlap.

    Without a term, an offering overlaps with every other one until the student has ``completed`` one of the two: since
    it never ends, the course could not be repeated otherwise.
    """
    if completed and (one is None or other is None):
        return False
    return terms_overlap(one, other)


def time_conflict(application: Application) -> Sequence[Refusal]:
    """The course meets at the same time as another course in which the student has a seat."""
    course = application.course
    if course is None or application.seat != "seat":
        return NONE
    week = week_of(course.meetings)
    if not week:
        return NONE
    return [
        Refusal("time_conflict", application.course_id, None, {"with_course_id": other.id})
        for other, term in (*application.held_seats, *application.requested_seats)
        if week & week_of(other.meetings)
        and conflict(course.meetings, dates_of(application.term), other.meetings, dates_of(term))
    ]


def credit_limit(application: Application) -> Sequence[Refusal]:
    """The seat would bring the student above the credit limit: the student's own, or else the term's.

    The credits of a term include those of its parts; a part may have a limit of its own. A student who is already above
    the limit, by an override or an edit, is refused only what raises the credits.
    """
    course, term = application.course, application.term
    if course is None or term is None or application.seat != "seat" or not course.credits:
        return NONE
    parent, own = application.parent, application.history.max_credits
    if parent is None:
        return _above_limit(application, course, term, term.max_credits if own is None else own)
    if own is not None:
        return _above_limit(application, course, parent, own)
    return [
        *_above_limit(application, course, term, term.max_credits),
        *_above_limit(application, course, parent, parent.max_credits),
    ]


def _above_limit(application: Application, course: Course, term: Term, limit: float | None) -> Sequence[Refusal]:
    """Return the refusal of a course that would raise the credits in a term and its parts above a limit."""
    if limit is None:
        return NONE
    held = credits_in(term, application.held_seats)
    requested = course.credits + credits_in(term, application.requested_seats)
    if at_most(held + requested, limit) or at_most(requested, credits_in(term, application.history.leaving)):
        return NONE
    public = {"term_id": term.id, "held": number(exact(held)), "asked": number(exact(requested))}
    return [Refusal("credit_limit", application.course_id, None, public, {"limit": number(limit)})]


def seats_reserved(application: Application) -> Sequence[Refusal]:
    """Seats are free, but all of them are reserved for groups in which the student is not."""
    course = application.course
    if course is None or not application.reserved or application.seat == "waitlist":
        return NONE
    if application.seat == "none" and application.on_full == "waitlist" and course.waitlist_capacity != 0:
        return NONE
    # The first end of any reservation in force may free a seat, even one of a reservation that is full now.
    ends = [each.until for each in reservations_in(course.reservations) if each.is_in_force(application.now)]
    lapses_at = min([end for end in ends if end is not None], default=None)
    return [
        Refusal("seats_reserved", application.course_id, lapses_at, {"group": each.group, "reserved": each.seats})
        for each in application.reserved
    ]


def course_full(application: Application) -> Sequence[Refusal]:
    """The course is full, and the request did not ask to be waitlisted or the course has no waitlist."""
    course = application.course
    if course is None or application.seat != "none" or application.reserved:
        return NONE
    if application.on_full == "waitlist" and course.waitlist_capacity != 0:
        return NONE
    public = {"capacity": course.capacity, "seats_taken": course.seats_taken}
    return [Refusal("course_full", application.course_id, None, public)]


def waitlist_full(application: Application) -> Sequence[Refusal]:
    """The course is full, and so is its waitlist."""
    course = application.course
    if course is None or application.seat != "none":
        return NONE
    if application.on_full == "fail" or course.waitlist_capacity == 0:
        return NONE
    return [Refusal("waitlist_full", application.course_id, None, {"waitlist_capacity": course.waitlist_capacity})]


RULES: tuple[Rule, ...] = (
    unknown_course,
    course_cancelled,
    already_completed,
    enrollment_not_open,
    enrollment_closed,
    hold,
    prerequisite_missing,
    corequisite_missing,
    antirequisite,
    duplicate_course,
    time_conflict,
    credit_limit,
    seats_reserved,
    course_full,
    waitlist_full,
)

FINAL_RULES: tuple[Rule, ...] = (unknown_course, course_cancelled, already_completed)
"""The rules that no override lifts."""


def judge(application: Application) -> tuple[Refusal, ...]:
    """Return every refusal of an application; an application without a refusal is granted."""
    refusals: list[Refusal] = []
    for rule in RULES:
        # Almost every rule finds nothing.
        if found := rule(application):
            refusals += found
    return tuple(refusals)


def promotion_rule(term: Term | None, now: datetime) -> str | None:
    """Return the rule that closes the courses of a term to every promotion, or None if they are open."""
    if term is None:
        return None
    if term.enroll_from is not None and now < term.enroll_from:
        return "enrollment_not_open"
    if term.enroll_until is not None and now >= term.enroll_until:
        return "enrollment_closed"
    return None


DropStatus: TypeAlias = Literal["dropped", "withdrawn"]


def judge_drop(
    course_id: int, status: str, term: Term | None, holds: Iterable[Hold], now: datetime
) -> tuple[DropStatus, tuple[Refusal, ...]]:
    """Return the status that a drop leads to now, and every refusal of the drop.

    A student can always leave a waitlist, even under a hold or after a deadline, and that is not a withdrawal.
    """
    if status == "waitlisted":
        return "dropped", ()
    if status == "completed":
        return "dropped", (Refusal("already_completed", course_id, None),)
    refusals = [
        Refusal("hold", course_id, each.ends_at, private={"reason": each.reason})
        for each in holds
        if each.blocks_drop and in_force(each, now)
    ]
    if term is None:
        return "dropped", tuple(refusals)
    refusals += drop_closed(course_id, term, now)
    late = term.drop_until is not None and now >= term.drop_until
    return "withdrawn" if late else "dropped", tuple(refusals)


def drop_closed(course_id: int, term: Term, now: datetime) -> Sequence[Refusal]:
    """The term's `withdraw_until` has passed: the course can no longer be dropped."""
    closed_at = term.withdraw_until
    if closed_at is None or now < closed_at:
        return NONE
    return [Refusal("drop_closed", course_id, None, {"closed_at": timestamp(closed_at)})]


def corequisite_needed(course: Defined, term: Term | None, keeping: Iterable[Application]) -> Sequence[Refusal]:
    """The course is the corequisite of another one in which the student keeps a seat, and no other course serves as it.

    To drop both, drop them in one call: a swap with an empty `add`.
    """
    # Each of ``keeping`` is for a course with a seat; in its history, all courses that are dropped are left out.
    return [
        Refusal("corequisite_needed", course.id, None, {"with_course_id": each.course_id})
        for each in keeping
        if terms_overlap(term, each.term)
        and any(
            group.kind == "co"
            and each.code_sets.key(course.code) in each.keys(group)
            and not any(_partners(each, key) for key in each.keys(group))
            for group in each.groups
        )
    ]


DROP_RULES = (drop_closed, corequisite_needed)
"""The rules that judge only a drop."""


def lapse_of(refusals: Iterable[Refusal]) -> datetime | None:
    """Return the instant at which the clock alone has lifted all refusals, or None if it never does."""
    return latest([refusal.lapses_at for refusal in refusals])


def recheck_of(refusals: Sequence[Refusal]) -> datetime | None:
    """Return the instant at which to judge a blocked student again because of the clock alone, or None.

    Corequisites and reservations count only if nothing else blocks the student: a seat may become free at any time.
    """
    for code in ("corequisite_missing", "seats_reserved"):
        refusals = [refusal for refusal in refusals if refusal.code != code] or refusals
    return lapse_of(refusals)


def latest(instants: Sequence[datetime | None]) -> datetime | None:
    """Return the latest of instants, or None if any of them is None or if there are none."""
    known = [instant for instant in instants if instant is not None]
    return max(known) if known and len(known) == len(instants) else None


def in_force(hold: Hold, now: datetime) -> bool:
    """Return whether a hold is in force now: from its start until its end."""
    return (hold.starts_at is None or hold.starts_at <= now) and (hold.ends_at is None or now < hold.ends_at)


@lru_cache(maxsize=1024)
def end_of_day(day: date, time_zone: tzinfo) -> datetime:
    """Return the midnight at which a day ends in a time zone, in UTC."""
    # Some callers write 9999-12-31 for a term without an end; the midnight after it lies beyond the calendar.
    next_day = min(day, date.max - timedelta(days=1)) + timedelta(days=1)
    return datetime.combine(next_day, time(), time_zone).astimezone(UTC)


def terms_overlap(one: Term | None, other: Term | None) -> bool:
    """Return whether two terms have a day in common; the absence of a term (None) overlaps with every term."""
    if one is None or other is None or one.id == other.id:
        return True
    return one.starts_on <= other.ends_on and other.starts_on <= one.ends_on


def credits_in(term: Term, seats: Iterable[HeldSeat]) -> float:
    """Return the credits of the seats in a term and its parts, with the error of binary fractions."""
    id = term.id
    return sum(
        [course.credits for course, its in seats if course.term_id == id or (its is not None and its.parent_id == id)],
        0.0,
    )


def at_most(credits: float, limit: float) -> bool:
    """Return whether a sum of credits is at most a limit or another sum; 0.1 + 0.2 is at most 0.3.

    Credits have two decimals: half a hundredth is less than any difference, and more than the error of any sum.
    """
    return credits < limit + 0.005


def exact(credits: float) -> float:
    """Return a sum of credits without the error of binary fractions: 0.3 for 0.1 + 0.2."""
    return round(credits, 2)


def timestamp(instant: datetime) -> str:
    """Format an instant in UTC as RFC 3339."""
    return instant.isoformat().replace("+00:00", "Z")


def number(value: float) -> float | int:
    """Return credits as an integer if they are whole."""
    return int(value) if value == int(value) else value


def sentence(refusal: Refusal) -> str:
    """Format a refusal as an English sentence."""
    params = {name: ", ".join(value) if isinstance(value, list) else value for name, value in refusal.params.items()}
    with_grade = f" with {params['min_grade']} or a better grade" if "min_grade" in params else ""
    if "in_progress" in params:
        with_grade += ", or is taken in an earlier term"
    return SENTENCES[refusal.code].format(course_id=refusal.course_id, with_grade=with_grade, **params)


def sentence_of(code: str, course_id: int, params: Mapping[str, object]) -> str:
    """Format a reason that was kept as an English sentence; its private parameter may have been left out."""
    if code not in SENTENCES:
        return "A rule of a newer version of the service refuses this."
    private, without_it = PUBLIC_SENTENCES.get(code, ("", ""))
    if private and private not in params:
        return without_it.format(course_id=course_id, **params)
    return sentence(Refusal(code, course_id, None, params))


SENTENCES: dict[str, str] = {
    "unknown_course": "There is no course {course_id}.",
    "course_cancelled": "Course {course_id} is cancelled.",
    "already_completed": "The student has completed course {course_id}; a retake needs another offering.",
    "enrollment_not_open": "Enrollment in course {course_id} opens at {opens_at}.",
    "enrollment_closed": "Enrollment in course {course_id} closed at {closed_at}.",
    "hold": "A hold blocks this: {reason}",
    "prerequisite_missing": "Course {course_id} requires that one of these was passed{with_grade}: {any_of}.",
    "corequisite_missing": "Course {course_id} must be taken together with one of these: {any_of}.",
    "antirequisite": "Course {course_id} cannot be taken together with {course_code}.",
    "duplicate_course": "Course {course_id} has the same code as course {with_course_id}, or an equivalent one; the student "
    "can have a seat in one of them.",
    "time_conflict": "Course {course_id} meets at the same time as course {with_course_id}.",
    "credit_limit": "Course {course_id} would bring term {term_id} to {held} + {asked} credits; the limit is {limit}.",
    "seats_reserved": "The free seats of course {course_id} are reserved for the group {group}, which has {reserved} in all.",
    "course_full": "Course {course_id} has {seats_taken} of its {capacity} seats taken.",
    "waitlist_full": "Course {course_id} is full, and so is its waitlist of {waitlist_capacity} places.",
    "drop_closed": "Course {course_id} could be dropped until {closed_at}.",
    "corequisite_needed": "Course {with_course_id} must be taken together with course {course_id}; drop both in one call.",
    "not_enrolled": "The student has never been enrolled in course {course_id}.",
}

PUBLIC_SENTENCES: dict[str, tuple[str, str]] = {
    "hold": ("reason", "A hold blocks this."),
    "credit_limit": (
        "limit",
        "Course {course_id} would bring term {term_id} to {held} + {asked} credits, which is above the limit.",
    ),
}
"""The private parameter of a rule, and the sentence without it."""
