"""Optimistic transactions: make a few enrollments in two round trips, without holding the lock while deciding them.

One statement loads the batch, and one saves it; each is a transaction of its own. The result is the same as under the
lock, for these reasons:

- One statement sees one snapshot: all rows that the decision reads, and the newest position of the feed.
- Every change of these rows appends an event, and positions have no gaps. If another process has committed a change
  since, the first position of the batch is taken. The primary key of ``events`` then refuses the whole statement, and
  the batch runs again under the lock.
- Definitions that are not in the catalog are loaded later. For them too, the free position proves that no change was
  committed since the first statement. A batch that writes nothing lacks this proof and runs again under the lock.
- Waitlist marks (``recheck_at``, ``blocked_reasons``) are the only columns that change without an event. The loading
  statement does not read them, and the saving statement only inserts rows, which have no marks yet.
- The saving statement takes the lock before it writes. So a transaction that holds the lock can still rely on a
  database that does not change, and positions follow the order of commits.

If the connection is lost during the saving statement, the outcome is unknown, as it is during a COMMIT.
"""

from collections.abc import Sequence
from typing import NoReturn, cast

import asyncpg

from service.database import Database
from service.metrics import note_events
from service.registrar import load, save
from service.registrar.catalog import Catalog
from service.registrar.changes import Change, Outcome
from service.registrar.decide import decide
from service.registrar.enrollments import Enroll
from service.registrar.ledger import Ledger
from sql import Connection
from sql.courses import LOAD_COURSES, LOAD_DEFINITIONS
from sql.equivalences import LOAD_EQUIVALENCES
from sql.grades import LOAD_GRADES
from sql.refusals import NewRefusal
from sql.requirements import LOAD_REQUIREMENTS
from sql.terms import LOAD_TERMS

MAX_PAIRS = 8
"""Most pairs of student and course in an optimistic batch: enough for four callers. With 32, which save round trips for
16 callers too, batches of 64 callers were smaller and took 5 % more CPU."""


DEFINITIONS = frozenset({LOAD_COURSES, LOAD_DEFINITIONS, LOAD_EQUIVALENCES, LOAD_GRADES, LOAD_REQUIREMENTS, LOAD_TERMS})
"""The statements that load the contents of the catalog."""


class LockNeeded(Exception):
    """The batch needs more statements, or another process has committed a change since; nothing was written."""


class SingleRead:
    """A connection that reads once, and after that only definitions; any other use raises ``LockNeeded``."""

    def __init__(self, connection: Connection) -> None:
        self._fetch = connection.fetch
        self._has_read = False
        self.read_definitions = False

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Return the rows of the first statement, or of one that loads definitions."""
        if self._has_read:
            if query not in DEFINITIONS:
                raise LockNeeded
            self.read_definitions = True
        self._has_read = True
        return await self._fetch(query, *args)

    def __getattr__(self, name: str) -> NoReturn:
        raise LockNeeded


def is_likely(changes: Sequence[Change[object]]) -> bool:
    """Return whether one statement to load a batch and one to save it are likely to be enough."""
    return all(type(change) is Enroll for change in changes) and 0 < sum([each.pairs for each in changes]) <= MAX_PAIRS


async def transact(
    database: Database, catalog: Catalog, promotions: int, changes: Sequence[Change[object]]
) -> tuple[list[Outcome], list[NewRefusal]]:
    """Load, decide and save a batch without holding the lock while deciding it; its refusals are not written.

    Raises:
        LockNeeded: the batch must run under the lock; nothing was written.
        OutcomeUnknown: the connection was lost while the batch was saved.
        Unavailable: the database is unavailable; nothing was written.
    """
    async with database.reading(for_changes=True) as connection:
        guard = SingleRead(connection)
        guarded = cast(Connection, guard)
        needs = load.needs_of(changes)
        ledger = await load.open_ledger(guarded, catalog, promotions, needs)
        await load.load_for(guarded, ledger, needs)
        outcomes: list[Outcome] = []
        if decide(ledger, changes, outcomes) is not None or ledger.promotable.items():
            raise LockNeeded
        if guard.read_definitions and not ledger.events:
            raise LockNeeded
        await _save(database, connection, ledger)
    catalog.advance(ledger.flushed_events, ledger.courses)
    note_events(ledger.flushed_events)
    return outcomes, ledger.refusals


async def _save(database: Database, connection: Connection, ledger: Ledger) -> None:
    written = ledger.flush()
    # Citus does not route the statement that saves everything; apart, only a transaction keeps the writes together.
    if database.citus or not save.takes_one_statement(written):
        raise LockNeeded
    try:
        with database.committing(connection):
            await save.save_enrollments(connection, written)
    except asyncpg.IntegrityConstraintViolationError as error:
        raise LockNeeded from error
