"""Decide changes one after the other, each on the result of the changes before it, without I/O and without a clock."""

from collections.abc import Sequence
from dataclasses import replace

from service.errors import DomainError
from service.registrar.changes import Change, Moved, Outcome
from service.registrar.idempotency import Decided
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, NotLoaded
from service.registrar.refusals import note_refusals
from service.registrar.reservations import Reserved
from service.registrar.resources import Replaced
from service.registrar.waitlist import Swept, settle
from sql.courses import Course
from sql.overrides import Override


def decide(ledger: Ledger, changes: Sequence[Change[object]], outcomes: list[Outcome]) -> Needs | None:
    """Decide changes in order, from where the last call stopped, and append an outcome for each.

    A refused change is rolled back, and its outcome is its ``DomainError``. If a change fails because of a bug, its
    outcome is that exception, and the other changes are made. Return the rows that must be loaded before the decisions
    can continue, or None at the end.
    """
    try:
        while True:
            # Make the promotions of the last change before the next change; before the first change, make those that
            # an earlier transaction left undone.
            settle(ledger)
            if outcomes:
                outcomes[-1] = _after_promotions(ledger, outcomes[-1])
            if len(outcomes) == len(changes):
                return None
            outcomes.append(_outcome(ledger, changes[len(outcomes)]))
            ledger.promoted = 0
    except NotLoaded as error:
        ledger.rollback()
        return error.needs


def _outcome(ledger: Ledger, change: Change[object]) -> Outcome:
    outcome: Outcome
    try:
        outcome = change.decide(ledger)
    except NotLoaded:
        raise
    except DomainError as error:
        ledger.rollback()
        # The frames of its traceback refer to the outcomes: a cycle, which would keep the request of the caller.
        outcome = error.with_traceback(None)
    except Exception as error:  # a bug in one change must not fail its neighbours
        ledger.rollback()
        outcome = error
    else:
        ledger.commit()
    note_refusals(ledger, change, outcome)
    return outcome


def _after_promotions(ledger: Ledger, outcome: Outcome) -> Outcome:
    """Return an outcome with its row as the promotions left it: a course with its seats, an override with its use.

    The answer of a change that is made once is stored now, since it is final.
    """
    match outcome:
        case Course(id=id):
            return ledger.courses.get(id)
        case Replaced(row=Course(id=id)):
            return replace(outcome, row=ledger.courses[id])
        case Override(id=id):
            return ledger.overrides.get(id)
        case Moved(enrollment=row):
            row = ledger.enrollments[row.student_id, row.course_id]
            return replace(outcome, enrollment=row, position=outcome.position if row.status == "waitlisted" else None)
        case Reserved(course_id=id):
            return replace(outcome, taken=ledger.reserved_seats[id])
        case Swept():
            return replace(outcome, promoted=ledger.promoted)
        case Decided(once, made):
            return once.store(ledger, _after_promotions(ledger, made))
        case _:
            return outcome
