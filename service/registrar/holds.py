"""The changes of holds: placing a hold on a student and ending it."""

from dataclasses import dataclass, replace
from datetime import datetime

from service.errors import HoldNotFound
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs
from service.registrar.rules import in_force
from service.registrar.students import check_student
from sql.holds import Hold, reserve_hold_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold(Change[Hold]):
    """Place a hold on a student."""

    student_id: int
    reason: str
    blocks_enroll: bool
    blocks_drop: bool
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def add_needs(self, needs: Needs) -> None:
        """Add the student and an id."""
        needs.students.add(self.student_id)
        needs.ids[reserve_hold_ids] += 1

    def decide(self, ledger: Ledger) -> Hold:
        """Return the new hold."""
        check_student(ledger, self.student_id)
        hold = Hold(
            id=ledger.take_id(reserve_hold_ids),
            student_id=self.student_id,
            reason=self.reason,
            blocks_enroll=self.blocks_enroll,
            blocks_drop=self.blocks_drop,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            created_at=ledger.now,
        )
        ledger.put_hold(hold)
        _append_event(ledger, "placed", self.origin, None, hold)
        return hold


@dataclass(frozen=True, slots=True, kw_only=True)
class EndHold(Change[Hold]):
    """End a hold now, or at its start if that is later; a hold that has ended does not change."""

    student_id: int
    hold_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the student and the hold."""
        needs.students.add(self.student_id)
        needs.holds.add(self.hold_id)

    def decide(self, ledger: Ledger) -> Hold:
        """Return the ended hold."""
        check_student(ledger, self.student_id)
        hold = ledger.holds.get(self.hold_id)
        if hold is None or hold.student_id != self.student_id:
            raise HoldNotFound(self.hold_id)
        ends_at = ledger.now if hold.starts_at is None else max(hold.starts_at, ledger.now)
        if hold.ends_at is not None and hold.ends_at <= ends_at:
            return hold
        ended = replace(hold, ends_at=ends_at)
        ledger.put_hold(ended)
        _append_event(ledger, "ended", self.origin, hold, ended)
        if in_force(hold, ledger.now):
            ledger.changed_students.put(self.student_id, self.origin)
        return ended


def _append_event(ledger: Ledger, what: str, origin: Origin, before: Hold | None, after: Hold) -> None:
    ledger.append_event(
        f"hold.{what}",
        origin,
        student_id=after.student_id,
        before=None if before is None else hold_state(before),
        after=hold_state(after),
    )


def hold_state(hold: Hold) -> dict[str, object]:
    """Return what a hold blocks and when, for an event, without its reason, which is private to the student."""
    blocks = [name for name, blocked in (("enroll", hold.blocks_enroll), ("drop", hold.blocks_drop)) if blocked]
    return {"hold_id": hold.id, "blocks": blocks, "from": hold.starts_at, "until": hold.ends_at}
