"""The registrar: the one engine through which everything is changed. Lock, load, decide, record."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import asyncpg

from service.database import Database
from service.errors import Unavailable
from service.registrar.changes import Change, Origin, Sweep
from service.registrar.decide import Outcome, decide
from service.registrar.facts import load, open_ledger, record
from service.registrar.ledger import Ledger
from sql import Connection
from sql.courses import load_promotable
from sql.feed import Event, load_head

Answer = TypeVar("Answer")


class Registrar:
    """Takes changes and answers each with its outcome; one transaction at a time writes in this process."""

    def __init__(self, database: Database, *, write_timeout: float) -> None:
        self._database = database
        self._write_timeout = write_timeout
        self._turn = asyncio.Lock()

    async def submit(self, change: Change[Answer]) -> Answer:
        """Make one change and return its answer, committed.

        Raises:
            DomainError: the change is refused and nothing is written, or the database could not be had.
        """
        [outcome] = await self.submit_all([change])
        return cast(Answer, _answer(outcome))

    async def submit_all(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        """Make many changes in one transaction, each for itself, and return what each answers or raises."""
        async with self._my_turn():
            try:
                return await self._transact(changes)
            except asyncpg.InvalidCachedStatementError:
                # The driver only had to forget a plan that a migration made stale: nothing was written.
                return await self._transact(changes)

    async def preview(self, change: Change[Answer]) -> Answer:
        """Return what a change would answer now; nothing is written, and nothing is locked.

        Raises: as ``submit``.
        """
        async with self._database.viewing() as connection:
            [outcome], _ = await _decide_all(connection, [change])
        return cast(Answer, _answer(outcome))

    async def sweep(self) -> int:
        """Promote whom the clock alone has made eligible, and return how many."""
        async with self._database.reading() as connection:
            course_ids = await load_promotable(connection)
        if not course_ids:
            return 0
        return await self.submit(Sweep(origin=Origin(request_id="sweep"), course_ids=tuple(course_ids)))

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            raise Unavailable("Too many changes wait to be written.") from error
        try:
            yield
        finally:
            self._turn.release()

    async def _transact(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        async with self._database.writing() as connection:
            outcomes, ledger = await _decide_all(connection, changes)
            await record(connection, ledger)
        return outcomes


async def _decide_all(connection: Connection, changes: Sequence[Change[Any]]) -> tuple[list[Outcome], Ledger]:
    """Load and decide in turns, until every change has its outcome."""
    ledger = await open_ledger(connection, changes)
    outcomes: list[Outcome] = []
    while (missing := decide(ledger, changes, outcomes)) is not None:
        await load(connection, ledger, missing)
    return outcomes, ledger


async def foresee(connection: Connection, change: Change[Any], *, earlier: timedelta = timedelta(0)) -> list[Event]:
    """Tell the events that a change would record now, or had recorded with the clock put back; nothing is written."""
    head = await load_head(connection)
    ledger = Ledger(replace(head, now=head.now - earlier))
    outcomes: list[Outcome] = []
    while (missing := decide(ledger, [change], outcomes)) is not None:
        await load(connection, ledger, missing)
    _answer(outcomes[0])
    return ledger.events


def _answer(outcome: Outcome) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
