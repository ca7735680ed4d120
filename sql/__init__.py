"""All SQL of the service: a constant for each statement and one typed function of the same name beside it.

A function takes the connection first, then the statement's parameters in order; where a statement writes many rows, it
takes them as a sequence of one row type, whose fields are the parameters, each sent as an array (but for the times of
``New`` ones, which are all the same). It returns rows whose fields are the statement's columns: frozen dataclasses, or
named tuples, which are made several times faster, where a batch makes many. ``tests/test_sql.py`` holds every
statement to that.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
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
    """One of the pages asked for, counted from 1: a JSON array as the API shows it, None without a row.

    ``next_after`` is the key after which the next page begins, None where this is the last.
    """

    number: int
    items: str | None
    next_after: int | None


TIMES: Final = frozenset({"occurred_at", "joined_at", "updated_at"})
"""What all that is new has in common, the time of its transaction: sent once, it costs less than an array of it."""

NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The ``recheck_at`` of a blocked student whom the clock alone never makes eligible."""

New: TypeAlias = Annotated[Sequence[Row], TIMES]
"""Rows that are new, which are sent without their times."""


def columns(
    rows: "Sequence[DataclassInstance | tuple[object, ...]]", of: type | None = None, without: Collection[str] = ()
) -> list[Sequence[object]]:
    """Turn rows into one array a field, in the order of the fields: ``unnest`` makes rows of them again.

    ``of`` is the type of the rows, where there may be none; the fields ``without`` which they are sent are left out.

    Of nothing but None the array is empty: beside longer ones ``unnest`` fills it up with as many nulls (PostgreSQL
    manual, 9.26 and 38.5.9), and what is not sent costs nothing.
    """
    row_type: Any = of or type(rows[0])
    named = issubclass(row_type, tuple)
    names = [name for name in (row_type._fields if named else row_type.__dataclass_fields__) if name not in without]
    if not named or not rows:
        return [list(map(attrgetter(name), rows)) for name in names]
    count = len(rows)
    sent = compress(zip(*rows, strict=True), [name in names for name in row_type._fields])
    return [() if column.count(None) == count else column for column in sent]
