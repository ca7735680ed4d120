"""All SQL of the service: a constant for each statement and one typed function of the same name beside it.

A function takes the connection first, then the statement's parameters in order; where a statement writes many rows,
it takes them as a sequence of one row type, whose fields are the parameters, each sent as an array. It returns rows
whose fields are the statement's columns: frozen dataclasses, or named tuples, which are made several times faster, where
a batch makes many. ``tests/test_sql.py`` holds every statement to that.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import asyncpg

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection: TypeAlias = asyncpg.Connection


class WrittenPage(NamedTuple):
    """One of the pages asked for, counted from 1: a JSON array as the API shows it, None without a row.

    ``next_after`` is the key after which the next page begins, None where this is the last.
    """

    number: int
    items: str | None
    next_after: int | None


def columns(rows: "Sequence[DataclassInstance | tuple[object, ...]]") -> list[Sequence[object]]:
    """Turn rows into one array a field, in the order of the fields: ``unnest`` makes rows of them again.

    Of nothing but None the array is empty: beside longer ones ``unnest`` fills it up with as many nulls (PostgreSQL
    manual, 9.26 and 38.5.9), and what is not sent costs nothing.
    """
    first = rows[0]
    if isinstance(first, tuple):
        count = len(rows)
        return [() if column.count(None) == count else column for column in zip(*rows, strict=True)]
    return [list(map(attrgetter(name), rows)) for name in first.__dataclass_fields__]
