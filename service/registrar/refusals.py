"""Refusals that are kept for some days, so that staff can find out why a student was refused."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from json import JSONEncoder
from typing import Final

from service.registrar.changes import Change, Outcome
from service.registrar.ledger import Ledger
from sql.refusals import NewRefusal

LEFT_OUT: Final = frozenset({"course_id", "reason"})
"""Parameters of a reason that are not kept: the course has a column, and the reason of a hold may name people."""

encode: Final = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _text_of(code: str, params: Mapping[str, object]) -> str:
    """Return a reason as JSON."""
    try:
        return _common_text(code, tuple(params.items()))
    except TypeError:  # a list can't be the key of a cache
        return _written(code, params.items())


def _written(code: str, params: Iterable[tuple[str, object]]) -> str:
    return encode({"code": code} | {name: value for name, value in params if name not in LEFT_OUT})


_common_text = lru_cache(maxsize=1024)(_written)
"""Cached, because a rush repeats a few reasons."""


def note_refusals(ledger: Ledger, change: Change[object], outcome: Outcome) -> None:
    """Add the refusals in the outcome of a change to those that the batch keeps."""
    origin = change.origin
    for course in change.refused(outcome):
        ledger.refusals.append(
            NewRefusal(
                course.student_id,
                course.course_id,
                course.action,
                f"[{','.join([_text_of(*reason) for reason in course.reasons])}]",
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
        """Remove the oldest refusals, unless they were lost meanwhile."""
        for _ in range(min(count, len(self._rows))):
            self._rows.popleft()

    def lose_all(self) -> None:
        """Count the refusals in the buffer as lost, and remove them."""
        self._lost += len(self._rows)
        self._rows.clear()

    def take_lost(self) -> int:
        """Return the number of refusals that were lost since the last call."""
        lost, self._lost = self._lost, 0
        return lost
