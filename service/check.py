"""``python -m service check``: every invariant recounted from the tables."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias

import asyncpg

from service.fitness import UnfitDatabase
from service.migrate import DatabaseUnavailable
from service.registrar import foresee
from service.registrar.changes import Origin, Sweep
from service.settings import Settings
from sql import Connection
from sql import check as sql
from sql.courses import load_promotable

Finder: TypeAlias = Callable[[Connection], Awaitable[Sequence[object]]]


@dataclass(frozen=True, slots=True)
class Overlooked:
    """A student who waits for a course that has a free seat, and whom every rule lets in."""

    course_id: int
    student_id: int


async def find_overlooked(connection: Connection, sweep_interval: float) -> list[Overlooked]:
    """Ask the registrar whom it would promote now, and would have promoted one sweep ago.

    Whom only the clock has made eligible since then, the next sweep promotes.
    """
    sweep = Sweep(origin=Origin(request_id="check"), course_ids=tuple(await load_promotable(connection)))
    now, earlier = [
        {
            (event.course_id, event.student_id)
            for event in await foresee(connection, sweep, earlier=timedelta(seconds=seconds))
            if event.type == "enrollment.promoted"
        }
        for seconds in (0, sweep_interval)
    ]
    return [Overlooked(course_id or 0, student_id or 0) for course_id, student_id in sorted(now & earlier)]


async def find_clashes(connection: Connection) -> list[sql.Clash]:
    """Find clashes that no later edit explains."""
    return [clash for clash in await sql.find_clashes(connection) if not clash.edited]


async def find_overloads(connection: Connection) -> list[sql.Overload]:
    """Find credits above the limit that no later edit explains."""
    return [overload for overload in await sql.find_overloads(connection) if not overload.edited]


async def find_edited_clashes(connection: Connection) -> list[sql.Clash]:
    """Find clashes that a later edit explains."""
    return [clash for clash in await sql.find_clashes(connection) if clash.edited]


async def find_edited_overloads(connection: Connection) -> list[sql.Overload]:
    """Find credits above the limit that a later edit explains."""
    return [overload for overload in await sql.find_overloads(connection) if overload.edited]


def invariants(sweep_interval: float) -> Mapping[str, Finder]:
    """Name what must always hold, and what finds where it does not."""
    return {
        "the seat counter is the number of seated students": sql.find_miscounts,
        "nobody was seated above the capacity of that moment, unless by an override": sql.find_oversold,
        "no seat is free while somebody waits who may have it": partial(find_overlooked, sweep_interval=sweep_interval),
        "nobody is seated in courses that clash, unless they were edited since": find_clashes,
        "nobody has credits above the limit, unless they were edited since": find_overloads,
        "every enrollment is what its last event says": sql.find_unexplained,
        "every student and course has the version of its last event": sql.find_unversioned,
        "the positions of the events are contiguous from 1": sql.find_gaps,
    }


INVARIANTS: Final = invariants(60.0)

NOTES: Final[Mapping[str, Finder]] = {
    "courses that clash since they were edited": find_edited_clashes,
    "credits above the limit since they were edited": find_edited_overloads,
}
"""What is worth knowing and no fault: an edit removes nobody."""

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
            found = {text: await find(connection) for text, find in invariants(settings.sweep_interval).items()}
            noted = {text: await find(connection) for text, find in NOTES.items()}
    except asyncpg.UndefinedTableError as error:
        raise UnfitDatabase("The database is not migrated: run `python -m service migrate` first.") from error
    finally:
        await connection.close()
    return report(found, noted)


def report(found: Mapping[str, Sequence[object]], noted: Mapping[str, Sequence[object]]) -> int:
    """Print what was found; returns the exit status, to which notes do not count."""
    for invariant, faults in found.items():
        print(f"{'ok   ' if not faults else 'FAULT'} {invariant}")
        _show(faults)
    for text, notes in noted.items():
        if notes:
            print(f"note  {text}")
            _show(notes)
    return 1 if any(found.values()) else 0


def _show(rows: Sequence[object]) -> None:
    for row in rows[:SHOWN]:
        print("      " + ", ".join(f"{name}={value}" for name, value in asdict(row).items()))  # type: ignore[call-overload]
    if len(rows) > SHOWN:
        print(f"      and {len(rows) - SHOWN} more")
