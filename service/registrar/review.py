"""Judge every blocked student again without writing anything, for ``python -m service check``."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from functools import partial
from typing import TypeVar

from service.registrar import rules
from service.registrar.catalog import Catalog
from service.registrar.ledger import Ledger
from service.registrar.load import load, open_ledger
from service.registrar.lost_requirements import lost_requirements
from service.registrar.needs import Needs, NotLoaded
from service.registrar.partners import find_together
from service.registrar.promotions import judge_waitlisted
from service.registrar.reserved import is_only_reserved
from service.registrar.seats import has_free_seat
from sql import NEVER, Connection
from sql.check import find_lifted
from sql.enrollments import Enrollment
from sql.lost_requirements import DependentSeat, find_dependent_seats, find_edit_of_requirements
from sql.waitlist import list_blocked

Answer = TypeVar("Answer")

PAGE_STUDENTS = 500
"""Blocked students in memory at once."""

NO_PROMOTIONS = 0

MAX_ROUNDS = 1_000
"""Most rounds of loading to judge one student. Each round loads at least another term, so more indicate a bug."""


@dataclass(frozen=True, slots=True)
class Eligible:
    """A blocked student who meets every rule."""

    course_id: int
    student_id: int


@dataclass(frozen=True, slots=True)
class LateRecheck:
    """A blocked student whose ``recheck_at`` is later than the instant at which the clock lifts the refusals."""

    course_id: int
    student_id: int
    recheck_at: str
    lapses_at: str


async def review_blocked(
    connection: Connection, sweep_interval: float, time_zone: tzinfo
) -> AsyncIterator[Eligible | LateRecheck]:
    """Judge every blocked student and yield what is wrong, page by page.

    A student who became eligible by the clock within the last ``sweep_interval`` seconds is left to the next sweep.
    """
    catalog = Catalog(time_zone)
    course_id = position = 0
    while page := await list_blocked(connection, course_id, position, PAGE_STUDENTS):
        course_id, position = page[-1].course_id, page[-1].joined_position
        needs = Needs()
        for row in page:
            needs.add_waitlisted(row)
        ledger = await open_ledger(connection, catalog, NO_PROMOTIONS, needs)
        await load(connection, ledger, needs)
        for row in page:
            fault = await _judged(connection, ledger, partial(_review, ledger, row, sweep_interval))
            if fault is not None:
                yield fault


async def _judged(connection: Connection, ledger: Ledger, judge: Callable[[], Answer]) -> Answer:
    """Return what a judgment returns, once all rows that it needs are loaded."""
    # Missing rows are loaded for all students of the page at once, so a few rounds are enough.
    for _ in range(MAX_ROUNDS):
        try:
            return judge()
        except NotLoaded as error:
            await load(connection, ledger, error.needs)
    raise RuntimeError(f"a student is not judged after {MAX_ROUNDS} rounds")


def _review(ledger: Ledger, row: Enrollment, sweep_interval: float) -> Eligible | LateRecheck | None:
    assert row.recheck_at is not None
    course = ledger.course(row.course_id)
    assert course is not None
    term = ledger.term(course.term_id)
    if ledger.is_over(term):
        return None
    # Ignore course_full: a blocked student is not blocked by a lack of free seats.
    refusals = [refusal for refusal in judge_waitlisted(ledger, course, row)[0] if refusal.code != "course_full"]
    lapses_at = rules.recheck_of(refusals) or NEVER
    if not has_free_seat(course) and is_only_reserved(row.blocked_reasons):
        # The first seat that is free for this student makes the row unjudged.
        return None
    if not refusals or (row.recheck_at == NEVER and find_together(ledger, row) is not None):
        swept = row.recheck_at > ledger.now - timedelta(seconds=sweep_interval)
        return None if swept and row.recheck_at <= ledger.now else Eligible(row.course_id, row.student_id)
    if row.recheck_at > lapses_at:
        return LateRecheck(row.course_id, row.student_id, rules.timestamp(row.recheck_at), rules.timestamp(lapses_at))
    return None


@dataclass(frozen=True, slots=True)
class WrongMark:
    """A seat whose mark ``requirement_lost`` differs from the student's courses.

    ``edited`` is true if an edit since the student got the seat may be the reason: edits mark nobody.
    """

    student_id: int
    course_id: int
    marked: bool
    edited: bool


async def review_lost_requirements(connection: Connection, time_zone: tzinfo) -> AsyncIterator[WrongMark]:
    """Judge every seat that may depend on a course in progress, and yield those with a wrong mark, page by page."""
    catalog = Catalog(time_zone)
    student_id = course_id = 0
    while page := await find_dependent_seats(connection, student_id, course_id, PAGE_STUDENTS):
        student_id, course_id = page[-1].student_id, page[-1].course_id
        needs = Needs(students={row.student_id for row in page}, courses={row.course_id for row in page})
        ledger = await open_ledger(connection, catalog, NO_PROMOTIONS, needs)
        await load(connection, ledger, needs)
        for row in page:
            lost = await _judged(connection, ledger, partial(lost_requirements, ledger, row.student_id, row.course_id))
            if bool(lost and row.status == "enrolled") != row.requirement_lost and not await _is_waived(
                connection, row
            ):
                edited = row.status == "enrolled" and await find_edit_of_requirements(connection, *row[:2], row[3])
                yield WrongMark(row.student_id, row.course_id, row.requirement_lost, edited)


async def _is_waived(connection: Connection, row: DependentSeat) -> bool:
    """Return whether an override explains that a seat is not marked."""
    if row.requirement_lost:
        return False
    return row.course_id in await find_lifted(connection, row.student_id, "prerequisite_missing")
