"""Many changes as one: for a bulk request whose answer is stored in the transaction of its changes."""

from dataclasses import dataclass
from typing import Any

from service.registrar.changes import Change, Outcome
from service.registrar.decide import decide
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs, NotLoaded

CHANGES_PER_TURN = 256
"""Changes that are decided in one turn of the event loop, in some 10 ms."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Many(Change[list[Outcome]]):
    """Make many changes in one transaction, each refused or accepted on its own; one outcome for each."""

    changes: tuple[Change[Any], ...]

    @property
    def pairs(self) -> int:
        """Those of all changes."""
        return sum([change.pairs for change in self.changes])

    def add_needs(self, needs: Needs) -> None:
        """Add the needs of all changes."""
        for change in self.changes:
            change.add_needs(needs)

    def decide(self, ledger: Ledger) -> list[Outcome]:
        """Return the outcome of each change; after ``NotLoaded``, continue where the last call stopped."""
        outcomes = ledger.answers.parts.setdefault(self, [])
        end = len(outcomes) + CHANGES_PER_TURN
        missing = decide(ledger, self.changes[:end], outcomes)
        if missing is None and end < len(self.changes):
            missing = Needs(pause=True)
        if missing is not None:
            raise NotLoaded(missing)
        return outcomes
