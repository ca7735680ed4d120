"""All SQL of the service: a constant for each statement and one typed function of the same name beside it.

A function takes the connection first, then the statement's parameters in order; where a statement writes many rows,
it takes them as a sequence of one dataclass, whose fields are the parameters, each sent as an array. It returns frozen
dataclasses whose fields are the statement's columns. ``tests/test_sql.py`` holds every statement to that.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection: TypeAlias = asyncpg.Connection


def columns(rows: "Sequence[DataclassInstance]") -> list[list[object]]:
    """Turn rows into one list a field, in the order of the fields: the arrays that ``unnest`` makes rows of again."""
    return [list(map(attrgetter(name), rows)) for name in rows[0].__dataclass_fields__]
