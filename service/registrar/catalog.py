"""What the registrar remembers between batches: definitions of courses and terms, which change far less than seats."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from service.registrar.application import Definition, Group, Term
from sql.feed import Event

COURSES_REMEMBERED = 50_000
"""Some 20 MB. Beyond it the catalog is cleared."""


@dataclass(slots=True)
class Catalog:
    """Definitions, requirements and terms as they were at a position of the feed.

    Whoever holds the writer's lock, sees the same position and has the same epoch knows that nothing was changed since:
    every change has its event, in the order of the commits. Seats are never remembered.
    """

    epoch: UUID | None = None
    position: int = 0
    definitions: dict[int, Definition] = field(default_factory=dict)
    requirements: dict[int, tuple[Group, ...]] = field(default_factory=dict)
    terms: dict[int, Term] = field(default_factory=dict)

    def advance(self, events: Sequence[Event]) -> None:
        """Advance to the last of these events, which follow the position, once they are committed."""
        for event in events:
            if event.student_id is None:
                self.forget(event.course_id, event.term_id)
        if events:
            self.position = events[-1].position

    def forget(self, course_id: int | None, term_id: int | None) -> None:
        """Forget a course or a term that was changed."""
        if course_id is not None:
            self.definitions.pop(course_id, None)
            self.requirements.pop(course_id, None)
        if term_id is not None:
            self.terms.pop(term_id, None)

    def is_full(self) -> bool:
        """Return whether the catalog has outgrown its limit."""
        return max(len(self.definitions), len(self.requirements)) > COURSES_REMEMBERED

    def clear(self) -> None:
        """Forget everything."""
        self.epoch = None
        self.position = 0
        self.definitions.clear()
        self.requirements.clear()
        self.terms.clear()
