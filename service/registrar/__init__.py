"""The registrar: the one engine through which everything is changed. Lock, load, decide, record."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import asyncpg

from service.coalescer import Callers, Coalescer
from service.database import Database
from service.errors import OutcomeUnknown, Unavailable
from service.registrar.catalog import Catalog
from service.registrar.changes import Change, Origin, Sweep
from service.registrar.decide import Outcome, decide
from service.registrar.facts import load, load_named, open_ledger, record
from service.registrar.ledger import Ledger
from service.settings import Settings
from sql import Connection
from sql.courses import load_promotable
from sql.feed import Event, load_head

logger = logging.getLogger(__name__)

PART = 128
"""So many changes are written at once, while the next ones are decided. Parts of 64, 128 and 256 made little difference;
a bulk request of 1,000 items took some 7 % longer in one."""

LARGE = 2 * PART
"""More changes than these are loaded in two steps: a bulk request of 1,000 items was some 5 % faster for it, a batch of
256 slower, as each step takes a few statements."""

CHUNKS = 96
"""With one chunk 64 to 1,024 callers who did nothing but enroll were served some 12 % slower; one by one as many in a rush
for one course were served a quarter slower, and of 4,096 the last ones connected seconds late."""

Answer = TypeVar("Answer")


class Registrar:
    """Takes changes and answers each with its outcome; one transaction at a time writes in this process."""

    def __init__(self, database: Database, settings: Settings, everybody: Callers | None = None) -> None:
        self._database = database
        self._write_timeout = settings.write_timeout
        self._turn = asyncio.Lock()
        self._catalog = Catalog()
        self._coalescer: Coalescer[Change[Any], Any] = Coalescer(
            self.submit_all,
            cap=settings.batch_pairs if settings.batching else 1,
            queue=settings.queue_limit,
            patience=settings.admission_seconds,
            chunks=CHUNKS,
            everybody=everybody,
            size=lambda change: change.pairs,
        )

    def admit(self) -> None:
        """Raise ``Unavailable`` if a change that arrives now is expected to wait too long for its turn."""
        self._coalescer.admit()

    def submit(self, change: Change[Answer]) -> Coroutine[Any, Any, Answer]:
        """Make one change, in a transaction with those that arrive meanwhile; awaited, it gives the answer, committed.

        Raises, when awaited:
            DomainError: the change is refused and nothing is written, or the database could not be had.
        """
        return self._coalescer.submit(change, change.origin.gone)

    async def submit_all(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        """Make many changes in one transaction, or each in its own where the database refused the whole of them.

        Returns what each answers or raises.

        Raises:
            Unavailable, OutcomeUnknown: the database could not be had.
        """
        async with self._my_turn():
            try:
                return await self._transact(changes)
            except (Unavailable, OutcomeUnknown):
                raise
            except Exception as error:
                if len(changes) == 1:
                    return [error]
                logger.warning("a batch was refused, its changes go one by one", extra={"error": type(error).__name__})
            return await self._transact_each(changes)

    async def _transact_each(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        """Make each change in its own transaction, as long as the database serves and others may still wait for it."""
        outcomes: list[Outcome] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + self._write_timeout
        for change in changes:
            if loop.time() > until:
                outcomes.append(Unavailable("The changes before this one took too long."))
                continue
            try:
                outcomes += await self._transact([change])
            except Exception as error:  # handed on to the caller of this change
                outcomes.append(error)
                if isinstance(error, Unavailable | OutcomeUnknown):
                    until = 0.0
        return outcomes

    async def preview(self, change: Change[Answer]) -> Answer:
        """Return what a change would answer now; nothing is written, and nothing is locked.

        Raises: as ``submit``.
        """
        async with self._database.viewing() as connection:
            ledger = await open_ledger(connection, [change], Catalog())
            await load_named(connection, ledger, [change])
            [outcome] = await _decide_all(connection, ledger, [change])
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
        try:
            return await self._transact_once(changes)
        except asyncpg.InvalidCachedStatementError:
            # The driver only had to forget a plan that a migration made stale: nothing was written.
            return await self._transact_once(changes)

    async def _transact_once(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        try:
            async with self._database.writing() as connection:
                ledger = await open_ledger(connection, changes, self._catalog)
                outcomes, events = await _decide_and_record(connection, ledger, changes)
        except BaseException:
            # What was read after the first part was written may have been undone.
            self._catalog.clear()
            raise
        self._catalog.advance(events)
        return outcomes


async def _decide_and_record(
    connection: Connection, ledger: Ledger, changes: Sequence[Change[Any]]
) -> tuple[list[Outcome], list[Event]]:
    """Decide changes part by part, each while the database writes what became of the one before it.

    Of a large batch only the first part is loaded before, and the rest while the first part is decided.
    """
    outcomes: list[Outcome] = []
    events: list[Event] = []
    first = PART if len(changes) > LARGE else len(changes)
    await load_named(connection, ledger, changes[:first])
    working = asyncio.create_task(load_named(connection, ledger, changes[first:]))
    await asyncio.sleep(0)
    try:
        for end in range(PART, len(changes) + PART, PART):
            while (missing := decide(ledger, changes[:end], outcomes)) is not None:
                await working
                await load(connection, ledger, missing)
            entries = ledger.entries()
            events += entries.events
            await working
            working = asyncio.create_task(record(connection, entries))
            await asyncio.sleep(0)  # it is sent before the next part is decided
    finally:
        await working
    return outcomes, events


async def _decide_all(connection: Connection, ledger: Ledger, changes: Sequence[Change[Any]]) -> list[Outcome]:
    """Load and decide in turns, until every change has its outcome."""
    outcomes: list[Outcome] = []
    while (missing := decide(ledger, changes, outcomes)) is not None:
        await load(connection, ledger, missing)
    return outcomes


async def foresee(connection: Connection, change: Change[Any], *, earlier: timedelta = timedelta(0)) -> list[Event]:
    """Tell the events that a change would record now, or had recorded with the clock put back; nothing is written."""
    head = await load_head(connection)
    ledger = Ledger(replace(head, now=head.now - earlier))
    [outcome] = await _decide_all(connection, ledger, [change])
    _answer(outcome)
    return ledger.events


def _answer(outcome: Outcome) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
