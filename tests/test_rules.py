"""The pure parts of the registrar: rules, seats and the ledger, with input from Hypothesis."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from service.api.enrollment_types import Blocker
from service.api.enrollment_types import Refusal as RefusalAnswer
from service.api.enrollments import refusal_of
from service.api.overrides import OverridableRule
from service.registrar.application import (
    NO_CODE_SETS,
    NO_SCALE,
    Application,
    Definition,
    Grade,
    GradeScale,
    Group,
    HeldSeat,
    Hold,
    Partner,
    Refusal,
    Reservation,
)
from service.registrar.catalog import Codes
from service.registrar.changes import Origin
from service.registrar.ledger import Ledger
from service.registrar.meetings import DAYS
from service.registrar.rules import (
    DROP_RULES,
    FINAL_RULES,
    RULES,
    SENTENCES,
    judge,
    judge_drop,
    sentence,
    terms_overlap,
)
from service.registrar.seats import SEATED, has_free_seat, offer, recount
from service.registrar.unit_of_work import IdentityMap, UndoLog
from sql.courses import Course
from sql.enrollments import Enrollment
from sql.feed import Head
from sql.terms import Term

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
STATUSES = [None, "enrolled", "waitlisted", "completed", "dropped", "withdrawn"]
instants = st.none() | st.sampled_from([NOW + timedelta(hours=hours) for hours in range(-3, 4)])
counts = st.integers(0, 5)
codes = st.sampled_from(["a", "b", "c", "d"])
code_sets = st.frozensets(codes)


@st.composite
def meetings(draw: st.DrawFn) -> str:
    hours = draw(st.lists(st.tuples(st.sampled_from(DAYS[:2]), st.integers(8, 12), st.integers(1, 3)), max_size=2))
    return json.dumps([{"day": day, "start": f"{at:02}:00", "end": f"{at + long:02}:00"} for day, at, long in hours])


courses = st.builds(
    partial(
        Course, external_id=None, section=None, title="T", version=1, created_at=NOW, updated_at=NOW, reservations=None
    ),
    id=st.integers(1, 3),
    term_id=st.sampled_from([None, 1]),
    code=codes,
    credits=st.sampled_from([0.0, 0.5, 3.0]),
    capacity=st.none() | counts,
    waitlist_capacity=st.none() | counts,
    meetings=meetings(),
    status=st.sampled_from(["open", "cancelled"]),
    seats_taken=counts,
    waitlisted=counts,
)
days = st.sampled_from([date(2026, 9, day) for day in range(1, 21)])
terms = st.builds(
    partial(Term, code="F", name="Fall", parent_id=None, max_credits=None, version=1, created_at=NOW, updated_at=NOW),
    id=st.integers(1, 2),
    starts_on=days,
    ends_on=days,
    enroll_from=instants,
    enroll_until=instants,
    drop_until=instants,
    withdraw_until=instants,
)
holds = st.builds(
    partial(Hold, student_id=1, reason="fees", created_at=NOW),
    id=st.integers(1, 9),
    blocks_enroll=st.booleans(),
    blocks_drop=st.booleans(),
    starts_at=instants,
    ends_at=instants,
)
groups = st.builds(
    Group,
    kind=st.sampled_from(["pre", "co", "anti"]),
    codes=st.lists(codes, min_size=1).map(tuple),
    min_grade=st.sampled_from([None, "A", "B"]),
    in_progress=st.booleans(),
)


@dataclass(frozen=True)
class KnownHistory:
    """A history with every fact loaded."""

    holds: tuple[Hold, ...]
    max_credits: float | None
    passed: frozenset[str]
    partners: dict[str, list[Partner]]
    seats: tuple[HeldSeat, ...]
    leaving: tuple[HeldSeat, ...]
    completed: bool
    known_grades: tuple[str | None, ...]

    def grades(self, _keys: Sequence[str]) -> Sequence[str | None]:
        return self.known_grades

    def has_completed(self, _course_id: int) -> bool:
        return self.completed

    def offerings(self, key: str) -> list[HeldSeat]:
        return [held for held in self.seats if held[0].code == key]


definitions = st.sampled_from([Definition(id, code, 3.0, None, "[]") for id, code in enumerate("abcd", start=1)])
partners = st.dictionaries(
    codes,
    st.builds(
        Partner,
        course=definitions,
        term=st.none() | terms,
        passed=st.booleans(),
        lapses_at=st.sampled_from([None, NOW]),
    ).map(lambda partner: [partner]),
    max_size=1,
)
held_seats = st.lists(st.tuples(courses, st.none() | terms), max_size=2).map(tuple)
histories = st.builds(
    KnownHistory,
    holds=st.lists(holds, max_size=2).map(tuple),
    max_credits=st.sampled_from([0.0, 3.0, 6.0, None]),
    passed=code_sets,
    partners=partners,
    seats=held_seats,
    leaving=st.just(()) | held_seats,
    completed=st.booleans(),
    known_grades=st.lists(st.sampled_from([None, "A", "B", "C"]), max_size=2).map(tuple),
)
applications = st.builds(
    partial(Application, now=NOW, course_id=7, parent=None, code_sets=NO_CODE_SETS),
    course=st.none() | courses,
    history=histories,
    term=st.none() | terms,
    ends_at=instants,
    seat=st.sampled_from(["seat", "waitlist", "none"]),
    on_full=st.sampled_from(["fail", "waitlist"]),
    scale=st.sampled_from([NO_SCALE, GradeScale((Grade("A", True), Grade("B", True)))]),
    groups=st.lists(groups, max_size=3).map(tuple),
    excluders=st.sampled_from([frozenset(), frozenset({1, 2})]),
    requested=st.just({}) | partners,
    granted=held_seats,
    requested_seats=held_seats,
    reserved=st.sampled_from([(), (Reservation("a", 1, None),), (Reservation("a", 1, NOW), Reservation("b", 2, None))]),
)


@given(applications)
def test_refusals_are_in_the_order_of_the_rules_and_each_has_a_sentence(application: Application) -> None:
    refusals = judge(application)
    order = [rule.__name__ for rule in RULES]
    places = [order.index(refusal.code) for refusal in refusals]
    assert places == sorted(places)
    for refusal in refusals:
        assert refusal.course_id in {application.course_id, application.course and application.course.id}
        assert "{" not in sentence(refusal)
    assert set(order) <= set(SENTENCES)


@given(applications)
def test_a_student_who_gets_no_seat_is_not_judged_by_time_and_credits(application: Application) -> None:
    found = {refusal.code for refusal in judge(application._replace(seat="waitlist"))}
    assert not found & {"time_conflict", "credit_limit", "seats_reserved", "course_full", "waitlist_full"}


@given(applications)
def test_the_course_or_its_waitlist_is_full_exactly_if_there_is_no_seat_and_no_waitlist_place(
    application: Application,
) -> None:
    application = application._replace(reserved=application.reserved[:1])
    rules = {"course_full", "waitlist_full", "seats_reserved"}
    full = [refusal.code for refusal in judge(application) if refusal.code in rules]
    is_kept = application.seat == "seat" and application.reserved
    assert len(full) == (application.course is not None and (application.seat == "none" or bool(is_kept)))


def test_every_rule_except_the_final_ones_can_be_overridden_and_so_can_those_of_a_drop() -> None:
    lifted = {rule.__name__ for rule in set(RULES) - set(FINAL_RULES)} | {rule.__name__ for rule in DROP_RULES}
    assert set(get_args(get_args(OverridableRule)[0])) == lifted


def test_the_api_documents_every_parameter_of_every_rule_and_events_leave_out_the_private_ones() -> None:
    found: dict[str, Refusal] = {}

    # The example that completes the collection raises an error to stop Hypothesis, which must not shrink or explain it.
    @given(applications)
    @settings(max_examples=10_000, database=None, derandomize=True, phases=[Phase.generate])
    def collect(application: Application) -> None:
        # One refusal of each rule, with as many parameters as there are.
        found.update({each.code: each for each in sorted(judge(application), key=lambda each: len(each.params))})
        if (
            found.keys() == {rule.__name__ for rule in RULES}
            and {
                "min_grade",
                "in_progress",
            }
            <= found["prerequisite_missing"].params.keys()
        ):
            raise StopIteration

    # If this fails for a new rule, let ``applications`` trigger it.
    with pytest.raises(StopIteration):
        collect()
    public = set(get_type_hints(Blocker)) - {"code"}
    private = set(get_type_hints(RefusalAnswer)) - set(get_type_hints(Blocker)) - {"detail"}
    for code, refusal in found.items():
        assert refusal.public.keys() <= public, code
        assert refusal.private.keys() <= private, code
        shown = TypeAdapter(RefusalAnswer).dump_python(refusal_of(refusal))
        assert refusal.params.keys() <= shown.keys(), code
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", (ROOT / "docs/rules.md").read_text(), re.MULTILINE)
    documented = {code: set(re.findall(r"`(\w+)`", params)) for code, params in rows}
    assert {code: set(refusal.params) for code, refusal in found.items()}.items() <= documented.items()


@given(applications)
def test_a_refusal_that_lapses_is_not_found_at_that_instant(application: Application) -> None:
    """Judge again at the instant at which a refusal lapses, with everything else unchanged."""
    for refusal in judge(application):
        if refusal.lapses_at is not None and refusal.code != "antirequisite":
            later = judge(application._replace(now=refusal.lapses_at))
            assert refusal not in later
        elif refusal.lapses_at is None:
            much_later = judge(application._replace(now=NOW + timedelta(days=365)))
            assert refusal.code in {each.code for each in much_later} or refusal.code == "enrollment_not_open"


@given(applications, code_sets)
def test_passing_more_courses_never_adds_a_missing_prerequisite(application: Application, more: frozenset[str]) -> None:
    def missing(each: Application) -> int:
        return sum(refusal.code == "prerequisite_missing" for refusal in judge(each))

    history = application.history
    assert isinstance(history, KnownHistory)
    better = replace(history, passed=history.passed | more)
    assert missing(application._replace(history=better)) <= missing(application)


@given(applications)
def test_the_credit_limit_refuses_only_requests_that_raise_the_credits_above_it(application: Application) -> None:
    refusals = [refusal for refusal in judge(application) if refusal.code == "credit_limit"]
    term, course = application.term, application.course
    limit = application.history.max_credits
    if term is None or course is None or application.seat != "seat" or limit is None:
        assert not refusals
        return

    def total(*parts: Iterable[HeldSeat]) -> float:
        return sum(each.credits for part in parts for each, _ in part if each.term_id == term.id)

    before = total(application.held_seats, application.history.leaving)
    after = total(application.held_seats, application.requested_seats) + course.credits
    assert bool(refusals) == (after > max(limit, before) and course.credits > 0)


@given(terms, terms)
def test_terms_overlap_both_ways_and_with_themselves(one: Term, other: Term) -> None:
    assert terms_overlap(one, other) == terms_overlap(other, one)
    assert terms_overlap(one, one)
    assert terms_overlap(one, None)
    shared = {one.starts_on + timedelta(days) for days in range((one.ends_on - one.starts_on).days + 1)} & {
        other.starts_on + timedelta(days) for days in range((other.ends_on - other.starts_on).days + 1)
    }
    if one.id != other.id and one.starts_on <= one.ends_on and other.starts_on <= other.ends_on:
        assert terms_overlap(one, other) == bool(shared)


@given(terms, st.sampled_from(["enrolled", "waitlisted"]), holds)
def test_a_drop_is_judged_by_holds_and_half_open_deadlines_and_leaving_a_waitlist_by_neither(
    term: Term, status: str, hold: Hold
) -> None:
    assert (judge_drop(7, "waitlisted", term, [hold], NOW)) == ("dropped", ())
    outcome, refusals = judge_drop(7, status, term, (), NOW)
    past_drop = term.drop_until is not None and term.drop_until <= NOW
    closed = term.withdraw_until is not None and term.withdraw_until <= NOW
    if status == "waitlisted":
        assert (outcome, refusals) == ("dropped", ())
    else:
        assert outcome == ("withdrawn" if past_drop else "dropped")
        assert [refusal.code for refusal in refusals] == ["drop_closed"] * closed


@given(courses, st.sampled_from(["fail", "waitlist"]))
def test_an_offer_never_exceeds_a_capacity(course: Course, on_full: str) -> None:
    seat = offer(course, "waitlist" if on_full == "waitlist" else "fail")
    if seat == "seat":
        assert course.capacity is None or recount(course, None, "enrolled").seats_taken <= course.capacity
    if seat == "waitlist":
        line = recount(course, None, "waitlisted").waitlisted
        assert not has_free_seat(course)
        assert course.waitlist_capacity is None or line <= course.waitlist_capacity


@given(courses, st.lists(st.sampled_from(STATUSES[1:]), max_size=6))
def test_the_counts_follow_a_student_through_any_history(course: Course, history: list[str]) -> None:
    start, before = course, None
    for status in history:
        course, before = recount(course, before, status), status
    assert course.seats_taken - start.seats_taken == (before in SEATED)
    assert course.waitlisted - start.waitlisted == (before == "waitlisted")


@given(st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(1, 9), st.sampled_from(["keep", "undo", ""]))))
def test_an_identity_map_forgets_undone_changes_and_saves_committed_ones(
    steps: list[tuple[int, int | None, str]],
) -> None:
    undo = UndoLog()
    table: IdentityMap[int, int] = IdentityMap(undo)
    loaded = {1: 10, 2: 20}
    for key, row in loaded.items():
        table.load(key, row)
    kept, now = dict(loaded), dict(loaded)
    for key, value, end in steps:
        table.put(key, value)
        if value is None:
            now.pop(key, None)
        else:
            now[key] = value
        if end == "keep":
            undo.commit()
            kept = dict(now)
        elif end == "undo":
            undo.rollback()
            now = dict(kept)
    undo.rollback()
    assert {key: table.get(key) for key in range(1, 5) if table.get(key) is not None} == kept
    flush = table.flush()
    assert flush.saved == {key: row for key, row in kept.items() if loaded.get(key) != row}
    assert set(flush.removed) == set(loaded) - set(kept)


@given(st.lists(st.booleans(), max_size=20))
def test_positions_stay_contiguous_whatever_is_undone(kept: list[bool]) -> None:
    ledger = Ledger(Head(NOW, 41))
    for keep in kept:
        position = ledger.append_event("student.created", Origin("r"), student_id=1)
        ledger.put_enrollment(Enrollment(1, position, "enrolled", position, NOW, NOW))
        if keep:
            ledger.commit()
        else:
            ledger.rollback()
    assert [event.position for event in ledger.events] == list(range(42, 42 + sum(kept)))
    assert [row.course_id for row in ledger.courses_of(1)] == [event.position for event in ledger.events]


def test_the_catalog_keeps_no_former_code_of_a_course() -> None:
    codes = Codes()
    codes.put(1, "A0")
    for number in range(1, 4):
        codes.put(1, f"A{number}")
        codes.put(2, "a3")
    assert (codes.courses_with("a3"), codes.courses_with("a0")) == ({1, 2}, set())
    assert codes.know_all({1, 2})
    assert not codes.know_all({3})
    codes.remove(1)
    codes.remove(2)
    assert codes == Codes()
