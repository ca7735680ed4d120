"""The unit of work: identity maps that record what to write, and an undo log for refused changes."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")
UniqueKey: TypeAlias = Callable[[Row], Hashable]


class UndoLog:
    """The steps since the last ``commit``, which are undone if a change is refused."""

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[[Any, Any], None], Any, Any]] = []
        self.add = self._steps.append
        """Add a step: a function, the key that it gets, and the value to put back, None for nothing."""

    def rollback(self) -> None:
        """Undo every step since the last ``commit``, the newest first."""
        while self._steps:
            put_back, key, old = self._steps.pop()
            put_back(key, old)

    def commit(self) -> None:
        """Make every step final."""
        self._steps.clear()


class Flush(NamedTuple, Generic[Key, Row]):
    """Changes since the last flush: rows to save, keys to delete, and previous values, which are None for new rows."""

    saved: dict[Key, Row]
    removed: list[Key]
    before: dict[Key, Row | None]


UNCHANGED: Final[Flush[Any, Any]] = Flush({}, [], {})
"""No changes: most flushes of most types of rows have none. Nobody modifies a flush."""


class IdentityMap(Generic[Key, Row]):
    """Rows by key, each once, with the values that the database holds; a refused change can be undone."""

    __slots__ = ("_add_undo", "_indexes", "_loaded", "_rows", "get")

    def __init__(self, undo: UndoLog) -> None:
        self._rows: dict[Key, Row] = {}
        self._loaded: dict[Key, Row | None] = {}
        """The rows that were put since the last flush, as the database holds them."""
        self._add_undo = undo.add
        self._indexes: dict[UniqueKey[Row], dict[Hashable, Row]] = {}
        self.get = self._rows.get
        """Return a row, or None if there is none."""

    def load(self, key: Key, row: Row) -> None:
        """Add a row of the database, unless a change has set or removed it."""
        if key not in self:
            self._set(key, row)

    def reload(self, key: Key, row: Row) -> None:
        """Replace a row that a statement has changed in the database; everything must have been flushed before."""
        self._loaded.pop(key, None)
        self._set(key, row)

    def find(self, key_of: "UniqueKey[Row]", key: Hashable) -> Row | None:
        """Return the row with this value of another unique key, or None; no row has the key None."""
        index = self._indexes.get(key_of)
        if index is None:
            index = self._indexes[key_of] = {key_of(row): row for row in self._rows.values()}
        return None if key is None else index.get(key)

    def __getitem__(self, key: Key) -> Row:
        return self._rows[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._rows or key in self._loaded

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def items(self) -> list[tuple[Key, Row]]:
        """Return the rows with their keys, as they are now."""
        return list(self._rows.items())

    def changes(self) -> list[tuple[Row | None, Row | None]]:
        """Return the rows that were put since the last flush, as the database holds them and as they are now."""
        return [(old, self._rows.get(key)) for key, old in self._loaded.items()]

    def has_removed(self, key: Key) -> bool:
        """Return whether a change has removed a row."""
        return key in self._loaded and key not in self._rows

    def put(self, key: Key, row: Row | None) -> None:
        """Set a row, or remove it with None."""
        old = self._rows.get(key)
        # Rows are saved in the order of their last change, since an earlier change may have freed a unique key.
        self._loaded[key] = self._loaded.pop(key, old)
        # Do not keep this method in an attribute: the cycle would keep every row of a batch until the collector runs.
        self._add_undo((self._set, key, old))
        self._set(key, row)

    def flush(self) -> "Flush[Key, Row]":
        """Return the changes since the last flush, which count as written from now on."""
        if not self._loaded:
            return UNCHANGED
        rows = self._rows
        # Keep the keys of removed rows, which must not be loaded again.
        before, self._loaded = self._loaded, {key: None for key in self._loaded if key not in rows}
        return Flush(
            saved={key: row for key, old in before.items() if (row := rows.get(key)) is not None and row != old},
            removed=[key for key, old in before.items() if old is not None and key not in rows],
            before=before,
        )

    def _set(self, key: Key, row: Row | None) -> None:
        if self._indexes:
            self._reindex(self._rows.get(key), row)
        if row is not None:
            self._rows[key] = row
        else:
            self._rows.pop(key, None)

    def _reindex(self, old: Row | None, row: Row | None) -> None:
        for key_of, index in self._indexes.items():
            if old is not None:
                index.pop(key_of(old), None)
            if row is not None:
                index[key_of(row)] = row
