"""The working memory of a batch: the loaded facts, as the changes before this one have left them."""

import json
from collections.abc import Hashable, Iterator, Mapping
from datetime import datetime
from typing import Generic, TypeVar

from service.registrar.changes import Origin
from sql.courses import Course
from sql.enrollments import Enrollment
from sql.feed import Event, Head
from sql.students import Student

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")


class Table(Generic[Key, Row]):
    """Rows by key that remember what they were when loaded, and undo what a refused change did."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._loaded: dict[Key, Row | None] = {}
        self._undo: list[tuple[Key, Row | None]] = []

    def load(self, key: Key, row: Row) -> None:
        """Take in a row as the database has it."""
        self._rows[key] = row

    def get(self, key: Key) -> Row | None:
        """Look a row up; None where there is none."""
        return self._rows.get(key)

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def put(self, key: Key, row: Row | None) -> None:
        """Set a row, or with None remove it."""
        old = self._rows.get(key)
        self._loaded.setdefault(key, old)
        self._undo.append((key, old))
        self._set(key, row)

    def rollback(self) -> None:
        """Undo every ``put`` since the last ``keep``."""
        while self._undo:
            self._set(*self._undo.pop())

    def keep(self) -> None:
        """Make every ``put`` so far final."""
        self._undo.clear()

    def saved(self) -> list[Row]:
        """List the rows that differ from what was loaded."""
        return [row for key, old in self._loaded.items() if (row := self._rows.get(key)) is not None and row != old]

    def removed(self) -> list[Key]:
        """List the keys of the rows that were loaded and are no more."""
        return [key for key, old in self._loaded.items() if old is not None and key not in self._rows]

    def loaded(self, key: Key) -> Row | None:
        """Look up what a row of ``saved`` was in the database."""
        return self._loaded[key]

    def _set(self, key: Key, row: Row | None) -> None:
        if row is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = row


class Ledger:
    """Everything a batch knows and does. Each change ends in ``keep`` or ``rollback``."""

    def __init__(self, head: Head) -> None:
        self.now: datetime = head.now
        self.students: Table[int, Student] = Table()
        self.courses: Table[int, Course] = Table()
        self.enrollments: Table[tuple[int, int], Enrollment] = Table()
        self.in_use: set[tuple[type, int]] = set()
        """Students and courses that were part of an enrollment when they were loaded."""
        self.free_ids: dict[type, list[int]] = {}
        """Ids for what will be created, the next one last."""
        self.events: list[Event] = []
        self._position = head.position
        self._kept_events = 0

    def record(
        self,
        kind: str,
        origin: Origin,
        *,
        student_id: int | None = None,
        course_id: int | None = None,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
    ) -> int:
        """Add the next event and return its position."""
        position = self._position + len(self.events) + 1
        self.events.append(
            Event(
                position=position,
                type=kind,
                occurred_at=self.now,
                actor=origin.actor,
                request_id=origin.request_id,
                reason=origin.reason,
                student_id=student_id,
                course_id=course_id,
                before=_json(before),
                after=_json(after),
            )
        )
        return position

    def keep(self) -> None:
        """Make the current change final."""
        for table in (self.students, self.courses, self.enrollments):
            table.keep()
        self._kept_events = len(self.events)

    def rollback(self) -> None:
        """Forget the current change and its events."""
        for table in (self.students, self.courses, self.enrollments):
            table.rollback()
        del self.events[self._kept_events :]


def _json(state: Mapping[str, object] | None) -> str | None:
    return None if state is None else json.dumps(state, ensure_ascii=False, separators=(",", ":"))
