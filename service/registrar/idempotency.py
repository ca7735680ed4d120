"""A change that is made once: a repeated request gets the answer that was stored in the transaction of the change."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import DomainError, IdempotencyKeyReused
from service.registrar.changes import Change, Outcome, RefusedCourse
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs
from sql.idempotency_keys import CallersKey, IdempotencyKey
from sql.students import Student

FIRST_SERVER_ERROR = 500
"""Refusals with a status from here on are not stored: the state of the service caused them, and a repeat may succeed."""


class Response(NamedTuple):
    """The answer to a request, as it is sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Answered(NamedTuple):
    """The answer of a change, and whether it was stored by an earlier request; otherwise the outcome that was ``made``."""

    response: Response
    replayed: bool
    made: Outcome = None


class Decided(NamedTuple):
    """The outcome of a change whose answer is stored once the promotions that follow from the change are made."""

    once: "Once"
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Once(Change[Answered | Decided]):
    """Make a change, unless the caller has sent its key before: then return the stored answer.

    Refusals are answers too, and are stored. ``respond`` converts the outcome of the change, or its ``DomainError``, to
    a response.

    Raises, when decided:
        IdempotencyKeyReused: the caller has sent the key with another request.
        Unavailable: the change was not made, for a reason that passes.
    """

    inner: Change[object]
    key: CallersKey
    fingerprint: bytes
    respond: Callable[[Outcome], Response]

    @property
    def pairs(self) -> int:
        """Those of the change."""
        return self.inner.pairs

    def add_needs(self, needs: Needs) -> None:
        """Add the needs of the change and the stored answer."""
        self.inner.add_needs(needs)
        needs.idempotency_keys.add(self.key)

    def decide(self, ledger: Ledger) -> Answered | Decided:
        """Return the stored answer, or the outcome of the change."""
        stored = ledger.answers.stored.get(self.key)
        if stored is not None:
            if stored.fingerprint != self.fingerprint:
                raise IdempotencyKeyReused
            return Answered(Response(stored.status, json.loads(stored.headers), stored.body), replayed=True)
        try:
            return Decided(self, self.inner.decide(ledger))
        except DomainError as error:
            if error.status >= FIRST_SERVER_ERROR:
                raise
            ledger.rollback()
            return Decided(self, error)

    def refused(self, outcome: Outcome) -> Sequence[RefusedCourse]:
        """Return the courses that the change was refused; a repeat is refused nothing."""
        return self.inner.refused(outcome.outcome) if isinstance(outcome, Decided) else ()

    def store(self, ledger: Ledger, outcome: Outcome) -> Answered | Exception:
        """Store the answer and return it; return the error that prevents it, which must not fail other changes."""
        try:
            response = self.respond(outcome)
        except Exception as error:
            return error
        needs = Needs()
        self.inner.add_needs(needs)
        students = needs.students | ({outcome.id} if isinstance(outcome, Student) else set())
        ledger.answers.add(
            IdempotencyKey(
                *self.key,
                fingerprint=self.fingerprint,
                student_ids=",".join(map(str, sorted(students))),
                status=response.status,
                headers=json.dumps(dict(response.headers)),
                body=response.body,
                created_at=ledger.now,
            )
        )
        return Answered(response, replayed=False, made=outcome)
