"""``python -m service check``: every invariant recounted from the tables."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict

import asyncpg

from service.migrate import DatabaseUnavailable, UnfitDatabase
from service.settings import Settings
from sql import Connection
from sql import check as sql

INVARIANTS: Mapping[str, Callable[[Connection], Awaitable[Sequence[object]]]] = {
    "the seat counter is the number of seated students": sql.find_miscounts,
    "nobody is seated above the capacity, unless it was lowered": sql.find_oversold,
    "every enrollment is what its last event says": sql.find_unexplained,
    "every student and course has the version of its last event": sql.find_unversioned,
    "the positions of the events are contiguous from 1": sql.find_gaps,
}

SHOWN = 20
"""Faults printed for each invariant: enough to see a pattern."""


async def check(settings: Settings) -> int:
    """Print every invariant and what is off; returns 1 where anything is, else 0."""
    try:
        connection = await asyncpg.connect(
            settings.database_url,
            timeout=settings.connect_timeout,
            server_settings={"search_path": settings.database_schema},
        )
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable(f"The database can't be reached: {error}") from error
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return report({text: await find(connection) for text, find in INVARIANTS.items()})
    except asyncpg.UndefinedTableError as error:
        raise UnfitDatabase("The database is not migrated: run `python -m service migrate` first.") from error
    finally:
        await connection.close()


def report(findings: Mapping[str, Sequence[object]]) -> int:
    """Print what was found; returns the exit status."""
    for invariant, faults in findings.items():
        print(f"{'ok   ' if not faults else 'FAULT'} {invariant}")
        for fault in faults[:SHOWN]:
            print("      " + ", ".join(f"{name}={value}" for name, value in asdict(fault).items()))  # type: ignore[call-overload]
        if len(faults) > SHOWN:
            print(f"      and {len(faults) - SHOWN} more")
    return 1 if any(findings.values()) else 0
