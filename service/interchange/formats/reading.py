"""Read an import in whichever format its files have."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from service.interchange.bundle import Bundle
from service.interchange.formats import oneroster, plain
from service.interchange.rows import DROPPED_IF_MISSING, Kind, Place, Row, Unreadable

Format: TypeAlias = Literal["plain", "oneroster-1.1", "oneroster-1.2"]


@dataclass(slots=True)
class Reading:
    """The rows of an import, with what was noticed while they were read: both are complete at the end of ``rows``."""

    bundle: Bundle
    encoding: str | None
    mark: str
    max_rows: int
    format: Format = "plain"
    warnings: Counter[tuple[str, str]] = field(default_factory=Counter)
    complete: set[Kind] = field(default_factory=set)
    """The kinds of which the files list all rows: those that are missing may be dropped."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows of all files, at most ``max_rows``.

        Raises:
            Unreadable: the files can't be read, or have too many rows.
        """
        for number, row in enumerate(self._rows()):
            if number >= self.max_rows:
                sentence = f"An import may have at most {self.max_rows:,} rows: divide it."
                raise Unreadable("too_many_rows", sentence, row.place)
            if row.code is not None and not row.key:
                # Perhaps it was the row of one that seems to be missing now.
                self.complete -= {"teaching", "enrollment"} if row.kind in DROPPED_IF_MISSING else set()
            yield row

    def _rows(self) -> Iterator[Row]:
        if oneroster.MANIFEST not in self.bundle.names:
            yield from plain.read(self.bundle, self.encoding, self.complete)
            return
        reader = oneroster.Reader(self.bundle, self.encoding, self.mark, self.warnings, self.complete)
        rows = reader.rows()
        first = next(rows, None)
        self.format = "oneroster-1.2" if reader.manifest.version == "1.2" else "oneroster-1.1"
        if first is None:
            raise Unreadable("no_rows", "The files have no terms, courses, people or enrollments.", Place("the import"))
        yield first
        yield from rows
