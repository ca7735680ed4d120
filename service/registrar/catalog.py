"""What the registrar remembers between batches: what courses and terms are, which changes far less often than seats do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from service.registrar.changes import Group
from sql.courses import Definition
from sql.feed import Event
from sql.terms import Term

MOST_COURSES = 50_000
"""Some 20 MB: more than that is forgotten, and read again as it is needed."""


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
        """Go on to the last of these events, which follow the position; call it when they are committed."""
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
        """Tell whether more is known than is worth the memory."""
        return max(len(self.definitions), len(self.requirements)) > MOST_COURSES

    def clear(self) -> None:
        """Forget everything."""
        self.epoch = None
        self.position = 0
        self.definitions.clear()
        self.requirements.clear()
        self.terms.clear()
