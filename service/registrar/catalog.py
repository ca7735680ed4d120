"""What the registrar remembers between batches: definitions of courses and terms, which change far less than seats."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from uuid import UUID

from service.registrar.application import Course, Definition, Group, Term
from sql.feed import Edit, Event, Head

COURSES_REMEMBERED = 50_000
"""Some 20 MB. Beyond it the catalog is cleared."""

EDITS_FOLLOWED = 1_000
"""Edits by other processes that are followed one by one: after more of them everything is forgotten."""


@dataclass(slots=True)
class Catalog:
    """Definitions, requirements and terms as they were after an event of the feed.

    A transaction that holds the writer's lock and finds the same event as the newest knows that nothing was changed
    since: every change has its event, in the order of the commits. The position alone does not prove that: a restore or
    a failover loses events, and others take their positions. Seats are never remembered.
    """

    time_zone: tzinfo = UTC
    """The institution's, in which the days of terms begin and end."""
    epoch: UUID | None = None
    position: int = 0
    occurred_at: datetime | None = None
    request_id: str | None = None
    courses: dict[int, Course] = field(default_factory=dict)
    """As they were when they were first loaded: their seats have changed since."""
    definitions: dict[int, Definition] = field(default_factory=dict)
    requirements: dict[int, tuple[Group, ...]] = field(default_factory=dict)
    excluders: dict[str, frozenset[int]] = field(default_factory=dict)
    """By the keys of codes, the ids of the courses that name them as antirequisites."""
    terms: dict[int, Term] = field(default_factory=dict)

    def advance(self, events: Sequence[Event]) -> None:
        """Advance to the last of these events, which follow the position, once they are committed."""
        for event in events:
            if event.student_id is None:
                self.forget(event.course_id, event.term_id)
        if events:
            newest = events[-1]
            self.position, self.occurred_at, self.request_id = newest.position, newest.occurred_at, newest.request_id

    def is_at(self, head: Head) -> bool:
        """Return whether the newest event is the one after which everything here was read."""
        return (self.epoch, self.position, self.occurred_at, self.request_id) == (
            head.epoch,
            head.position,
            head.occurred_at,
            head.request_id,
        )

    def follow(self, edits: Sequence[Edit], head: Head) -> None:
        """Go on to the newest event; ``edits`` are the event of this position and what was edited after it.

        Without that event this is the memory of another history, and everything is forgotten.
        """
        known = self.position
        if self.epoch != head.epoch or known not in {edit.position for edit in edits} or len(edits) > EDITS_FOLLOWED:
            self.clear()
        for edit in edits:
            if edit.position > known:
                self.forget(edit.course_id, edit.term_id)
        self.epoch, self.position = head.epoch, head.position
        self.occurred_at, self.request_id = head.occurred_at, head.request_id

    def forget(self, course_id: int | None, term_id: int | None) -> None:
        """Forget a course or a term that was changed."""
        if course_id is not None:
            self.courses.pop(course_id, None)
            self.definitions.pop(course_id, None)
            self.requirements.pop(course_id, None)
            # Which codes it named is not known: a batch looks up all that it needs in one statement.
            self.excluders.clear()
        if term_id is not None:
            self.terms.pop(term_id, None)

    def is_full(self) -> bool:
        """Return whether the catalog has outgrown its limit."""
        return max(len(self.courses), len(self.definitions), len(self.requirements)) > COURSES_REMEMBERED

    def clear(self) -> None:
        """Forget everything."""
        self.epoch = None
        self.position = 0
        self.occurred_at = self.request_id = None
        self.courses.clear()
        self.definitions.clear()
        self.requirements.clear()
        self.excluders.clear()
        self.terms.clear()
