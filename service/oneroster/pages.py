"""The pages of a list by offset, at a cost that does not grow with the offset during a sync."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Final

MAX_ANCHORS: Final = 10_000
"""Most places in lists that a process remembers: about 5 MB."""

ANCHOR_SECONDS: Final = 600.0
"""How long a place is remembered: a system that syncs asks for the next page within seconds."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a page begins: after the row with a key. ``total`` is the number of rows when the first page was read."""

    after: tuple[object, ...]
    total: int


class Anchors:
    """Remembers where the next pages of lists begin, so that they continue there instead of counting rows.

    A caller that asks for one page after the other thus sees no row twice and misses none, whatever is added or deleted
    meanwhile, as long as one process serves it. Any other page is found by counting rows.
    """

    def __init__(self, size: int = MAX_ANCHORS) -> None:
        self._size = size
        self._anchors: OrderedDict[Hashable, tuple[float, Anchor]] = OrderedDict()

    def find(self, place: Hashable) -> Anchor | None:
        """Return where the page at a place begins, or None."""
        expires, anchor = self._anchors.get(place, (0.0, None))
        return anchor if monotonic() < expires else None

    def remember(self, place: Hashable, anchor: Anchor) -> None:
        """Remember where the page at a place begins; forget the place that was noted longest ago if there are too many."""
        self._anchors[place] = (monotonic() + ANCHOR_SECONDS, anchor)
        self._anchors.move_to_end(place)
        if len(self._anchors) > self._size:
            self._anchors.popitem(last=False)
