"""Judge every blocked student again without writing anything, for ``python -m service check``."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta, tzinfo

from service.registrar import rules
from service.registrar.catalog import Catalog
from service.registrar.ledger import Ledger
from service.registrar.load import load, open_ledger
from service.registrar.needs import Needs, NotLoaded
from service.registrar.reserved import is_only_reserved
from service.registrar.seats import has_free_seat
from service.registrar.waitlist import judge_waitlisted
from sql import NEVER, Connection
from sql.enrollments import Enrollment
from sql.waitlist import list_blocked

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
            # Missing rows are loaded for all students of the page at once, so a few rounds are enough.
            for _ in range(MAX_ROUNDS):
                try:
                    fault = _review(ledger, row, sweep_interval)
                    break
                except NotLoaded as error:
                    await load(connection, ledger, error.needs)
            else:
                raise RuntimeError(f"student {row.student_id} in course {row.course_id} can't be judged")
            if fault is not None:
                yield fault


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
    if not refusals:
        swept = row.recheck_at > ledger.now - timedelta(seconds=sweep_interval)
        return None if swept and row.recheck_at <= ledger.now else Eligible(row.course_id, row.student_id)
    if row.recheck_at > lapses_at:
        return LateRecheck(row.course_id, row.student_id, rules.timestamp(row.recheck_at), rules.timestamp(lapses_at))
    return None
