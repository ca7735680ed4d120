"""The registrar: the one engine through which everything is changed. Lock, load, decide, save."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast

import asyncpg

from service.batching import Callers, Coalescer
from service.database import Database
from service.errors import OutcomeUnknown, Unavailable
from service.registrar import load, optimistic, save
from service.registrar.catalog import Catalog
from service.registrar.changes import Change, Origin, Outcome
from service.registrar.decide import decide
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs
from service.registrar.waitlist import Sweep, Swept
from service.settings import Settings
from sql import Connection
from sql.waitlist import is_any_due, load_ended, load_promotable

logger = logging.getLogger(__name__)

CHUNKS = 96
"""Resolving a batch in one chunk was 12 % slower for 64 to 1,024 callers that only enroll; resolving callers one at a time
was 25 % slower in a rush for one course, and the last of 4,096 callers connected seconds late."""

PART = 256
"""Changes of a large batch that are saved together, while the next ones are decided. Saved all at once, bulk requests of
1,000 items from two callers were served 20 % slower; parts of 128 cost a batch of 256 as much as they gained."""

ROUNDS = 10_000
"""Times that one batch may load more rows and decide on. What is loaded grows, so that this many are a bug."""

SWEPT_AT_ONCE = 1_000
"""Courses, and waitlist places that end, in one sweeping transaction."""

SWEEPS = 100
"""Transactions of one sweep: what is left then waits for the next one."""

LOCK_SECONDS = 1.0
"""How long batches take the lock first after another process has written: it would overtake optimistic ones."""

Answer = TypeVar("Answer")


class Registrar:
    """Takes changes and answers each with its outcome; one transaction at a time writes in this process."""

    def __init__(self, database: Database, settings: Settings, everybody: Callers | None = None) -> None:
        self._database = database
        self._write_timeout = settings.write_timeout
        self._promotions = settings.promotions_per_transaction
        self._turn = asyncio.Lock()
        self._time_zone = settings.time_zone
        self._catalog = Catalog(settings.zone)
        self._pending: dict[int, Origin] = {}
        """Courses whose promotions the last transaction left undone, with the changes that brought them about."""
        self._continuation: asyncio.Task[None] | None = None
        self._lock_until = 0.0
        """Until when every batch takes the lock first, by the loop's clock."""
        self._closing = False
        self._coalescer: Coalescer[Change[object], Outcome] = Coalescer(
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
        """Make one change, in a transaction with those that arrive meanwhile, and return its committed answer.

        Raises, when awaited:
            DomainError: the change is refused and nothing is written, or the database is unavailable.
        """
        return cast(Coroutine[Any, Any, Answer], self._coalescer.submit(change, change.origin.disconnected))

    async def submit_all(self, changes: Sequence[Change[Answer]]) -> list[Answer | Exception]:
        """Make many changes in one transaction, or each in its own where the database refused the whole of them.

        Returns what each change answers or raises.

        Raises:
            Unavailable, OutcomeUnknown: the database is unavailable.
        """
        async with self._my_turn():
            try:
                return cast(list[Answer | Exception], await self._transact(changes))
            except (Unavailable, OutcomeUnknown):
                raise
            except Exception as error:
                # Whatever failed may lie in the promotions that were left: the sweep finds them again.
                self._pending = {}
                if not changes:
                    raise
                if len(changes) == 1:
                    return [error]
                logger.warning("a batch was refused, its changes go one by one", extra={"error": type(error).__name__})
            return cast(list[Answer | Exception], await self._transact_each(changes))

    async def _transact_each(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        """Make each change in its own transaction, as long as the database serves and others may still wait for it."""
        outcomes: list[Outcome] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + self._write_timeout
        for change in changes:
            if loop.time() > until:
                outcomes.append(Unavailable("Earlier changes in this batch took too long; this one was not attempted."))
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
            needs = load.needs_of([change])
            ledger = await load.open_ledger(connection, Catalog(self._catalog.time_zone), self._promotions, needs)
            await load.load_for(connection, ledger, needs)
            outcomes: list[Outcome] = []
            await _decide(connection, ledger, [change], outcomes)
        [outcome] = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return cast(Answer, outcome)

    async def sweep(self) -> Swept:
        """Follow the clock: promote students who became eligible by it, and end the waitlists of terms that are over.

        Where there is nothing to do, it costs three look-ups in small indexes and no lock.
        """
        promoted = ended = 0
        for _ in range(SWEEPS):
            async with self._database.reading() as connection:
                course_ids = await load_promotable(connection, self._time_zone, SWEPT_AT_ONCE)
                places = await load_ended(connection, self._time_zone, SWEPT_AT_ONCE)
                if not course_ids and not places and not await is_any_due(connection):
                    break
            sweep = Sweep(origin=Origin(request_id="sweep"), course_ids=tuple(course_ids), ended=tuple(places))
            swept = await self.submit(sweep)
            promoted += swept.promoted
            ended += swept.ended
        return Swept(promoted, ended)

    async def close(self) -> None:
        """Stop promoting; what is left undone is found by the next sweep of any process."""
        self._closing = True
        if self._continuation is not None:
            self._continuation.cancel()
            await asyncio.wait([self._continuation])

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        try:
            if self._turn.locked():
                async with asyncio.timeout(self._write_timeout):
                    await self._turn.acquire()
            else:
                await self._turn.acquire()
        except TimeoutError as error:
            raise Unavailable("Timed out waiting for the write lock; try again shortly.") from error
        try:
            yield
        finally:
            self._turn.release()

    async def _transact(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        try:
            return await self._transact_once(changes)
        except asyncpg.InvalidCachedStatementError:
            # The driver only had to forget a plan that a migration made stale: nothing was written.
            return await self._transact_once(changes)

    async def _transact_once(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        """Make changes in one transaction: optimistically where that is likely to succeed, otherwise under the lock."""
        alone = self._lock_until <= asyncio.get_running_loop().time()
        if alone and not self._pending and optimistic.is_likely(changes):
            with suppress(optimistic.LockNeeded):
                return await optimistic.transact(self._database, self._catalog, self._promotions, changes)
        return await self._transact_locked(changes)

    async def _transact_locked(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        """Lock, load, decide and save; the promotions that the last transaction left undone come first."""
        try:
            async with self._database.writing() as connection:
                needs = load.needs_of(changes)
                known = self._catalog.position
                ledger = await load.open_ledger(connection, self._catalog, self._promotions, needs)
                if self._catalog.position != known:
                    self._lock_until = asyncio.get_running_loop().time() + LOCK_SECONDS
                for course_id, origin in self._pending.items():
                    ledger.mark_promotable(course_id, origin)
                ledger.commit()
                outcomes = await _decide_and_save(connection, ledger, changes, needs)
        except BaseException:
            # The catalog may hold what was read within the transaction, which is undone.
            self._catalog.clear()
            raise
        self._catalog.advance(ledger.flushed_events)
        self._pending = dict(ledger.promotable.items())
        if self._pending and not self._closing and (self._continuation is None or self._continuation.done()):
            self._continuation = asyncio.create_task(self._continue())
        return outcomes

    async def _continue(self) -> None:
        """Make the promotions that transactions leave undone, where no other change takes them along."""
        while self._pending:
            try:
                await self.submit_all(())
            except (Unavailable, OutcomeUnknown) as error:
                # The next transaction takes them along, of this process or, after its end, of the sweep of another one.
                logger.warning("promotions were put off", extra={"reason": str(error)})
                return
            except Exception:
                logger.exception("promotions failed")
                return


async def _decide_and_save(
    connection: Connection, ledger: Ledger, changes: Sequence[Change[object]], needs: Needs
) -> list[Outcome]:
    """Decide all changes and save what became of them; a large batch part by part, each while the last one is saved."""
    outcomes: list[Outcome] = []
    saving: asyncio.Task[None] | None = None
    await load.load_for(connection, ledger, needs)
    try:
        for end in range(PART, len(changes), PART):
            await _decide(connection, ledger, changes[:end], outcomes, saving)
            written = ledger.flush()
            if saving is not None:
                await saving
            saving = asyncio.create_task(save.save(connection, written))
            await asyncio.sleep(0)  # the statement is sent before the next part is decided
        await _decide(connection, ledger, changes, outcomes, saving)
    finally:
        if saving is not None:
            await saving
    await save.save(connection, ledger.flush())
    return outcomes


async def _decide(
    connection: Connection,
    ledger: Ledger,
    changes: Sequence[Change[object]],
    outcomes: list[Outcome],
    saving: "asyncio.Task[None] | None" = None,
) -> None:
    """Decide and load in turns, until every change has its outcome. A decision goes on from where it stopped."""
    for _ in range(ROUNDS):
        missing = decide(ledger, changes, outcomes)
        if missing is None:
            return
        if saving is not None:
            await saving
        await load.load(connection, ledger, missing)
    raise RuntimeError(f"{len(changes)} changes are not decided after {ROUNDS} rounds")
