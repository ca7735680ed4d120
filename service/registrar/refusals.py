"""Refusals that are kept for some days, so that staff can find out why a student was refused."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from json import JSONEncoder
from typing import Final

from service.registrar.changes import Change, Outcome
from service.registrar.ledger import Ledger
from sql.refusals import NewRefusal

LEFT_OUT: Final = frozenset({"course_id", "reason"})
"""Parameters of a reason that are not kept: the course has a column, and the reason of a hold may name people."""

encode: Final = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def note_refusals(ledger: Ledger, change: Change[object], outcome: Outcome) -> None:
    """Add the refusals in the outcome of a change to those that the batch keeps."""
    for course in change.refused(outcome):
        reasons = [
            {"code": code} | {name: value for name, value in params.items() if name not in LEFT_OUT}
            for code, params in course.reasons
        ]
        origin = change.origin
        ledger.refusals.append(
            NewRefusal(
                course.student_id,
                course.course_id,
                course.action,
                encode(reasons),
                origin.actor,
                origin.on_behalf_of,
                origin.request_id,
                ledger.now,
            )
        )


class RefusalBuffer:
    """The refusals that wait to be written, oldest first; those above a limit are lost and counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: deque[NewRefusal] = deque()
        self._lost = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Sequence[NewRefusal]) -> None:
        """Add refusals, as many as there is room for."""
        room = self._limit - len(self._rows)
        self._rows.extend(rows[:room] if len(rows) > room else rows)
        self._lost += max(len(rows) - room, 0)

    def first(self, count: int) -> list[NewRefusal]:
        """Return the oldest refusals, which stay in the buffer."""
        return list(islice(self._rows, count))

    def remove(self, count: int) -> None:
        """Remove the oldest refusals."""
        for _ in range(count):
            self._rows.popleft()

    def lose_all(self) -> None:
        """Count the refusals in the buffer as lost, and remove them."""
        self._lost += len(self._rows)
        self._rows.clear()

    def take_lost(self) -> int:
        """Return the number of refusals that were lost since the last call."""
        lost, self._lost = self._lost, 0
        return lost
