"""The changes of equivalent codes: creating a set of them and deleting it."""

from dataclasses import dataclass

from service.errors import CodeInAnotherSet, EquivalenceNotFound
from service.registrar.changes import Change, Origin
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, Relaxed
from sql.equivalences import Equivalence, reserve_equivalence_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateEquivalence(Change[Equivalence]):
    """Create a set of codes, each of which then counts for the others; raise an error if a code is in another set.

    Nobody loses a seat or a waitlist place by it.
    """

    codes: tuple[str, ...]

    def add_needs(self, needs: Needs) -> None:
        """Add the equivalent codes and an id."""
        needs.code_sets = True
        needs.ids[reserve_equivalence_ids] += 1

    def decide(self, ledger: Ledger) -> Equivalence:
        """Return the new set."""
        for number, code in enumerate(self.codes):
            other = ledger.code_sets.set_of(code)
            if other is not None:
                raise CodeInAnotherSet(code, other.id, number)
        row = Equivalence(ledger.take_id(reserve_equivalence_ids), sorted(self.codes), ledger.now)
        ledger.put_equivalence(row.id, row)
        _append_event(ledger, "created", self.origin, None, row)
        # A requirement may now be met by a course whose code it does not name.
        ledger.relax(Relaxed(self.origin, joined_codes=row.codes))
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteEquivalence(Change[None]):
    """Delete a set of codes, each of which then counts only for itself."""

    equivalence_id: int

    def add_needs(self, needs: Needs) -> None:
        """Add the equivalent codes."""
        needs.code_sets = True

    def decide(self, ledger: Ledger) -> None:
        """Delete the set."""
        row = ledger.code_sets.sets.get(self.equivalence_id)
        if row is None:
            raise EquivalenceNotFound(self.equivalence_id)
        ledger.put_equivalence(row.id, None)
        _append_event(ledger, "deleted", self.origin, row, None)
        # A course may no longer be excluded, or be another offering, by a code of the set.
        ledger.relax(Relaxed(self.origin, parted_codes=row.codes))


def _append_event(
    ledger: Ledger, what: str, origin: Origin, before: Equivalence | None, after: Equivalence | None
) -> None:
    def state(row: Equivalence | None) -> dict[str, object] | None:
        return None if row is None else {"equivalence_id": row.id, "codes": row.codes}

    ledger.append_event(f"equivalence.{what}", origin, before=state(before), after=state(after))
