"""Columns added, retyped and dropped under load from 16 callers."""

import asyncio
import itertools
from collections.abc import Sequence

import asyncpg

from tests.trials.harness import Figure, PostgreSQL, Restarted, folder
from tests.trials.ledger import compare, keeping

SIZE = 60
UNIT = "changes"
PAUSE_SECONDS = 0.2
CHANGES = (
    "ALTER TABLE students ADD COLUMN nickname text, ALTER COLUMN given_name TYPE varchar(200)",
    "ALTER TABLE courses ADD COLUMN room text, ALTER COLUMN title TYPE varchar(200)",
    "ALTER TABLE student_courses ADD COLUMN note text, ALTER COLUMN status TYPE varchar(20)",
    "ALTER TABLE events ADD COLUMN note text",
    "ALTER TABLE students DROP COLUMN nickname, ALTER COLUMN given_name TYPE text",
    "ALTER TABLE courses DROP COLUMN room, ALTER COLUMN title TYPE text",
    "ALTER TABLE student_courses DROP COLUMN note, ALTER COLUMN status TYPE text",
    "ALTER TABLE events DROP COLUMN note",
)


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Change the tables one after the other, and compare what callers were answered with what is there."""
    with folder() as home, PostgreSQL(home / "postgresql").up() as postgresql:
        async with Restarted(postgresql.url, home / "log").up() as service:
            connection = await asyncpg.connect(postgresql.url)
            try:
                async with keeping(service.url) as ledger:
                    for change in itertools.islice(itertools.cycle(CHANGES), size):
                        await asyncio.sleep(PAUSE_SECONDS)
                        await connection.execute(change)
            finally:
                await connection.close()
            figures = await compare(ledger, postgresql.url)
    failed = ledger.statuses.total() - sum(ledger.statuses[status] for status in (200, 201))
    return [Figure("calls with a status other than 200 and 201", failed, at_most=0), *figures]
