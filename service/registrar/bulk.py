"""Many enrollments as one change: for a bulk request whose answer is stored in the transaction of its changes."""

from dataclasses import dataclass

from service.registrar.changes import Change, Outcome
from service.registrar.decide import decide
from service.registrar.enrollments import Enroll
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, NotLoaded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EnrollMany(Change[list[Outcome]]):
    """Make many enrollments in one transaction, each refused or accepted on its own; one outcome for each."""

    changes: tuple[Enroll, ...]

    @property
    def pairs(self) -> int:
        """Those of all enrollments."""
        return sum([change.pairs for change in self.changes])

    def add_needs(self, needs: Needs) -> None:
        """Add the needs of all enrollments."""
        for change in self.changes:
            change.add_needs(needs)

    def decide(self, ledger: Ledger) -> list[Outcome]:
        """Return the outcome of each enrollment; after ``NotLoaded``, continue where the last call stopped."""
        outcomes = ledger.answers.parts.setdefault(self, [])
        missing = decide(ledger, self.changes, outcomes)
        if missing is not None:
            raise NotLoaded(missing)
        return outcomes
