"""Judging changes one after the other, each on what those before it left: no I/O, no clock."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from service.registrar import enrolling, office, records
from service.registrar.changes import (
    Cancel,
    Change,
    Complete,
    Create,
    Delete,
    Drop,
    Edit,
    EndHold,
    EndOverride,
    Enroll,
    GrantOverride,
    PlaceHold,
    Replace,
    Replaced,
    Require,
    Swap,
    Sweep,
)
from service.registrar.ledger import Ledger, Missing
from service.registrar.promotion import promote
from service.registrar.records import COURSE, STUDENT, TERM
from sql.courses import Course
from sql.overrides import Override
from sql.students import Student
from sql.terms import Term

Outcome: TypeAlias = Any
"""What a change answers, or the exception that it raises instead."""


def decide(ledger: Ledger, changes: Sequence[Change[Any]], outcomes: list[Outcome]) -> Missing | None:
    """Judge changes in order, going on after those that have outcomes, and append an outcome each.

    A refused one leaves nothing behind; its outcome is its ``DomainError``. One that fails of a bug has that exception,
    and the others stand. Returns what has to be loaded before it can go on, or None at the end.
    """
    for change in changes[len(outcomes) :]:
        try:
            outcome = _decide(ledger, change)
            if promote(ledger, change.origin):
                outcome = _with_promotions(ledger, outcome)
        except Missing as missing:
            ledger.rollback()
            return missing
        except Exception as error:  # a bug in one change must not fail its neighbours
            ledger.rollback()
            outcomes.append(error)
        else:
            ledger.keep()
            outcomes.append(outcome)
    return None


def _with_promotions(ledger: Ledger, outcome: Outcome) -> Outcome:
    """Show a course with the seats that promotions took, and an override with its use, as they are committed."""
    match outcome:
        case Course(id=id):
            return ledger.courses.get(id)
        case Replaced(thing=Course(id=id)):
            return replace(outcome, thing=ledger.courses[id])
        case Override(id=id):
            return ledger.overrides.get(id)
        case _:
            return outcome


def _decide(ledger: Ledger, change: Change[Any]) -> Outcome:
    decide_change = CHANGES.get(type(change))
    if decide_change is not None:
        return decide_change(ledger, change)
    assert isinstance(change, Create | Edit | Replace | Delete)
    return RECORDS[type(change)](ledger, KINDS[change.thing], change)


KINDS: dict[type, Any] = {Student: STUDENT, Course: COURSE, Term: TERM}

RECORDS: dict[type[Change[Any]], Callable[..., Outcome]] = {
    Create: records.create,
    Edit: records.edit,
    Replace: records.put,
    Delete: records.delete,
}

CHANGES: dict[type[Change[Any]], Callable[..., Outcome]] = {
    Enroll: enrolling.enroll,
    Swap: enrolling.swap,
    Drop: enrolling.drop,
    Complete: office.complete,
    Cancel: office.cancel,
    Require: office.require,
    PlaceHold: office.place_hold,
    EndHold: office.end_hold,
    GrantOverride: office.grant_override,
    EndOverride: office.end_override,
    Sweep: office.sweep,
}
