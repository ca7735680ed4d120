"""All SQL of the service: each statement is a constant, with a typed function of the same name beside it.

A function takes the connection first, then the parameters of the statement in order. A statement that writes many rows
takes a sequence of one row type: the fields are the parameters, and each field is sent as an array, except the times of
``New`` rows, which all rows share. A function returns rows whose fields are the columns of the statement: frozen
dataclasses, or named tuples where a batch creates many rows, because named tuples are created several times faster.
``tests/test_sql.py`` checks every statement against these rules.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeAlias, TypeVar

import asyncpg

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection: TypeAlias = asyncpg.Connection


Row = TypeVar("Row")


class JsonPage(NamedTuple):
    """One requested page: a JSON array as the API shows it, or None if the page is empty.

    ``number`` is the number of the requested page, counted from 1. ``next_after`` is the key after which the next page
    begins, or None for the last page.
    """

    number: int
    items: str | None
    next_after: int | None


TIMES: Final = frozenset({"occurred_at", "joined_at", "updated_at"})
"""Fields that hold the time of the transaction. New rows share it; sending it once costs less than an array."""

NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The ``recheck_at`` of a blocked student who never becomes eligible through the passage of time alone."""

New: TypeAlias = Annotated[Sequence[Row], TIMES]
"""New rows; their times are sent once, not for each row."""


def columns(
    rows: "Sequence[DataclassInstance | tuple[object, ...]]", of: type | None = None, without: Collection[str] = ()
) -> list[Sequence[object] | None]:
    """Convert rows to one array for each field, in the order of the fields; ``unnest`` turns the arrays back into rows.

    ``of`` is the type of the rows; it is required if ``rows`` may be empty, and null is sent for each of its fields. The
    fields in ``without`` are left out.

    A field of named tuples that is None in every row becomes null instead of an array: ``unnest`` pads it with nulls to
    the length of the longest array (PostgreSQL manual, 9.26 and 38.5.9), and the driver inspects every array.
    """
    names, chosen = _fields(of or type(rows[0]), frozenset(without))
    if not rows:
        return [None] * len(names)
    if chosen is None:
        return [list(map(attrgetter(name), rows)) for name in names]
    count = len(rows)
    sent = compress(zip(*rows, strict=True), chosen)
    return [None if column.count(None) == count else column for column in sent]


@cache
def _fields(row_type: Any, without: frozenset[str]) -> tuple[list[str], list[bool] | None]:
    """Return the names of the fields to send and, for named tuples, whether each of their fields is one of these."""
    fields = row_type._fields if issubclass(row_type, tuple) else row_type.__dataclass_fields__
    chosen = [name not in without for name in fields]
    return [*compress(fields, chosen)], chosen if issubclass(row_type, tuple) else None
