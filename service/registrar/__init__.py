"""The registrar, which makes every change: lock, load, decide, save."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from typing import Any, TypeVar, cast

import asyncpg

from service.batching import Callers, Coalescer, Sharing
from service.database import Database
from service.errors import DomainError, IdempotencyKeyInUse, OutcomeUnknown, Unavailable
from service.metrics import REFUSALS, RETRIES, note_events
from service.registrar import load, optimistic, save
from service.registrar.catalog import Catalog
from service.registrar.changes import Change, Origin, Outcome, Result
from service.registrar.decide import decide
from service.registrar.idempotency import FIRST_SERVER_ERROR, Answered, Once
from service.registrar.ledger import Ledger
from service.registrar.needs import Needs
from service.registrar.refusals import RefusalBuffer
from service.registrar.resources import Replace, Replaced, Row, find_unchanged
from service.registrar.waitlist import Sweep, Swept
from service.settings import Settings
from sql import Connection
from sql.idempotency_keys import CallersKey, delete_idempotency_keys
from sql.refusals import NewRefusal, add_refusals, commit_without_waiting, delete_refusals, load_kept_students
from sql.tombstones import delete_tombstones
from sql.waitlist import is_any_due, load_ended, load_promotable

logger = logging.getLogger(__name__)

CHUNKS = 96
"""Resolving a batch in one chunk was 12 % slower for 64 to 1,024 callers that only enroll; resolving callers one at a
time was 25 % slower in a rush for one course, and the last of 4,096 callers connected seconds late."""

CHANGES_PER_WRITE = 256
"""Changes of a large batch that are saved together, while the next ones are decided. Saved all at once, bulk requests
of 1,000 items from two callers were served 20 % slower; with 128, a batch of 256 lost as much as it gained."""

MAX_ROUNDS = 10_000
"""Most rounds of loading and deciding for one batch. Each round loads more rows, so more rounds indicate a bug."""

ROWS_PER_SWEEP = 1_000
"""Most courses, most waitlist places that end, and most stored answers to delete, in one transaction of a sweep."""

MAX_SWEEP_TRANSACTIONS = 100
"""Most transactions of one sweep; the next sweep does the rest."""

REFUSALS_PER_TRANSACTION = 1_000
"""Most buffered refusals that one transaction writes, which takes about 10 ms."""

REFUSAL_SECONDS = 0.25
"""How long refusals are buffered while no transaction writes anything else: the next ones share their transaction."""

CLOSE_SECONDS = 1.0
"""Longest time in which buffered refusals are written when the service stops."""

LOCK_SECONDS = 1.0
"""How long batches take the lock first after another process has written, which would overtake optimistic batches."""

Answer = TypeVar("Answer")


class WriteNeeded(Exception):
    """A preview needs rows that only a transaction that writes can load."""


class Registrar:
    """Makes changes and returns the outcome of each; in this process, one transaction at a time writes."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        everybody: Callers | None = None,
        sharing: tuple[Sharing, str] | None = None,
    ) -> None:
        self._database = database
        self._write_timeout = settings.write_timeout
        self._promotions = settings.promotions_per_transaction
        self._turn = asyncio.Lock()
        self._time_zone = settings.time_zone
        self._catalog = Catalog(settings.zone, reads_ahead=True)
        self._pending: dict[int, Origin] = {}
        """Courses whose promotions the last transaction left undone, with the origins of the changes behind them."""
        self._continuation: asyncio.Task[None] | None = None
        self._keys_in_use: set[CallersKey] = set()
        """The idempotency keys of the requests that are being served."""
        self._refusals = RefusalBuffer(settings.refusals_queue)
        self._refusal_age = timedelta(days=settings.refusals_kept)
        self._writing_refusals: asyncio.Task[None] | None = None
        self._answer_age = timedelta(seconds=settings.idempotency_seconds)
        self._tombstone_age = timedelta(days=settings.tombstones_kept)
        self._lock_until = 0.0
        """The end, by the loop's clock, of the time in which every batch takes the lock first."""
        self._closing = False
        self._coalescer: Coalescer[Change[object], Outcome] = Coalescer(
            self.submit_all,
            purpose="changes",
            cap=settings.batch_pairs if settings.batching else 1,
            queue=settings.queue_limit,
            patience=settings.admission_seconds,
            chunks=CHUNKS,
            everybody=everybody,
            sharing=sharing,
            size=lambda change: change.pairs,
        )

    def admit(self) -> None:
        """Raise ``Unavailable`` if a change that arrives now is expected to wait too long for its turn."""
        self._coalescer.admit()

    def submit(self, change: Change[Answer]) -> Coroutine[Any, Any, Answer]:
        """Make one change, in a transaction with others that arrive at the same time, and return its committed answer.

        Raises, when awaited:
            DomainError: the change is refused and nothing is written, or the database is unavailable.
        """
        return cast("Coroutine[Any, Any, Answer]", self._coalescer.submit(change, change.origin.disconnected))

    async def submit_once(self, once: Once) -> Answered:
        """Make a change unless its key was sent before, and return its answer, which is stored with the change.

        In this process, a key that is in use is refused. Another process waits for the lock, and then finds the answer.

        Raises:
            IdempotencyKeyInUse: this process serves a request with the same key.
            DomainError: as ``Once``, or the database is unavailable.
        """
        if once.key in self._keys_in_use:
            raise IdempotencyKeyInUse
        self._keys_in_use.add(once.key)
        try:
            return cast(Answered, await self.submit(once))
        finally:
            self._keys_in_use.discard(once.key)

    async def submit_all(self, changes: Sequence[Change[Answer]]) -> list[Answer | Exception]:
        """Make many changes in one transaction, or each in its own transaction if the database refuses the batch.

        Return the answer of each change, or the exception that it raises.

        Raises:
            Unavailable, OutcomeUnknown: the database is unavailable.
        """
        outcomes = await self._submit_all(changes)
        count_refusals(outcomes)
        return outcomes

    async def replace_all(self, changes: Sequence[Replace[Row, Any]]) -> list[Replaced[Row] | Exception]:
        """Make many changes of one resource type, with different external ids, as ``submit_all``.

        Those that change nothing are found by one read. They do not wait for the lock, and make nobody else wait.

        Raises: as ``submit_all``.
        """
        async with self._database.reading() as connection:
            unchanged = await find_unchanged(connection, changes)
        remaining = [change for change, row in zip(changes, unchanged, strict=True) if row is None]
        made = iter(await self.submit_all(remaining) if remaining else ())
        known = [None if row is None else Replaced(row, "unchanged") for row in unchanged]
        return [each or next(made) for each in known]

    async def _submit_all(self, changes: Sequence[Change[Answer]]) -> list[Answer | Exception]:
        await self._take_turn()
        try:
            return cast("list[Answer | Exception]", await self._transact_all(changes))
        finally:
            self._turn.release()

    async def _transact_all(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        """Make changes in one transaction; if the database refuses it, make each in its own."""
        try:
            return await self._transact(changes)
        except (Unavailable, OutcomeUnknown):
            raise
        except Exception as error:
            # The pending promotions may have caused the error: drop them, since the sweep finds them again.
            self._pending = {}
            if not changes:
                raise
            if len(changes) == 1:
                return [error]
            RETRIES.add("one_by_one")
            logger.warning("a batch failed; its changes are made one by one", extra={"error": type(error).__name__})
        return await self._transact_each(changes)

    async def _transact_each(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        """Make each change in its own transaction, until the database is unavailable or the write timeout passes."""
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
        """Return the answer that a change would have now; nothing is written.

        Raises: as ``submit``.
        """
        [outcome] = await self.preview_all([change])
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                # Its traceback refers to this frame: a cycle, which would keep the request.
                del outcome
        return outcome

    async def preview_all(self, changes: Sequence[Change[Answer]]) -> list[Answer | Exception]:
        """Return the outcome that each change would have now, after the changes before it; nothing is written.

        The changes are decided on a snapshot, without a lock. If only the database can find the students whom a change
        lets in, they are decided again in a transaction that is rolled back.

        Raises:
            Unavailable: the database is unavailable.
        """
        try:
            async with self._database.viewing() as connection:
                outcomes = await self._preview(connection, changes, may_write=False)
        except WriteNeeded:
            await self._take_turn()
            try:
                async with self._database.trying() as connection:
                    outcomes = await self._preview(connection, changes, may_write=True)
            finally:
                self._turn.release()
        return cast("list[Answer | Exception]", outcomes)

    async def _preview(
        self, connection: Connection, changes: Sequence[Change[object]], *, may_write: bool
    ) -> list[Outcome]:
        needs = load.needs_of(changes)
        ledger = await load.open_ledger(connection, Catalog(self._catalog.time_zone), self._promotions, needs)
        ledger.one_table_each = self._database.citus
        await load.load_for(connection, ledger, needs)
        outcomes: list[Outcome] = []
        for end in (*range(CHANGES_PER_WRITE, len(changes), CHANGES_PER_WRITE), len(changes)):
            await _decide(connection, ledger, changes[:end], outcomes, may_write=may_write)
            await asyncio.sleep(0)
        return outcomes

    async def sweep(self) -> Swept:
        """Apply the passage of time: promote students who became eligible, end the waitlists of terms that are over, and
        delete stored answers, refusals and tombstones.

        If there is nothing to do, a sweep costs six look-ups in small indexes and takes no lock.
        """
        promoted = ended = 0
        for _ in range(MAX_SWEEP_TRANSACTIONS):
            async with self._database.reading() as connection:
                course_ids = await load_promotable(connection, self._time_zone, ROWS_PER_SWEEP)
                places = await load_ended(connection, self._time_zone, ROWS_PER_SWEEP)
                if not course_ids and not places and not await is_any_due(connection):
                    break
            sweep = Sweep(origin=Origin(request_id="sweep"), course_ids=tuple(course_ids), ended=tuple(places))
            swept = await self.submit(sweep)
            promoted += swept.promoted
            ended += swept.ended
        await self._delete_old(delete_idempotency_keys, self._answer_age)
        await self._delete_old(delete_refusals, self._refusal_age)
        await self._delete_old(delete_tombstones, self._tombstone_age)
        return Swept(promoted, ended)

    async def _delete_old(
        self, delete: Callable[[Connection, timedelta, int], Awaitable[Sequence[object]]], age: timedelta
    ) -> None:
        """Delete the rows above an age; they are no part of any decision and need no lock."""
        for _ in range(MAX_SWEEP_TRANSACTIONS):
            async with self._database.reading() as connection:
                deleted = await delete(connection, age, ROWS_PER_SWEEP)
            if len(deleted) < ROWS_PER_SWEEP:
                return

    @property
    def queued(self) -> int:
        """The number of changes that wait for a batch."""
        return self._coalescer.waiting

    def is_idle(self) -> bool:
        """Return whether no change waits or is being made, and no promotions and no refusals are left to write."""
        continued = self._continuation is not None and not self._continuation.done()
        return self._coalescer.is_idle() and not self._turn.locked() and not continued and not self._refusals

    async def close(self) -> None:
        """Stop promoting, and write the refusals that are left; the next sweep of any process makes the promotions."""
        self._closing = True
        for task in (self._continuation, self._writing_refusals):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._refusals:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._write_refusals()
            self._refusals.lose_all()
            self._log_lost()

    async def _take_turn(self) -> None:
        """Wait until no other transaction of this process writes; the caller releases ``_turn``."""
        if not self._turn.locked():
            await self._turn.acquire()
            return
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            raise Unavailable("Timed out waiting for the write lock; try again shortly.") from error

    async def _transact(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        try:
            return await self._transact_once(changes)
        except asyncpg.InvalidCachedStatementError:
            # A migration made a cached plan stale, which the driver has discarded; nothing was written.
            RETRIES.add("stale_plan")
            return await self._transact_once(changes)

    async def _transact_once(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        """Make changes in one transaction: optimistically if that is likely to succeed, otherwise under the lock."""
        alone = self._lock_until <= asyncio.get_running_loop().time()
        if alone and not self._pending and not self._database.citus and optimistic.is_likely(changes):
            with suppress(optimistic.LockNeeded):
                outcomes, refusals = await optimistic.transact(self._database, self._catalog, self._promotions, changes)
                self._buffer(refusals)
                return outcomes
            RETRIES.add("lock_needed")
        return await self._transact_locked(changes)

    async def _transact_locked(self, changes: Sequence[Change[object]]) -> list[Outcome]:
        """Lock, load, decide and save; the promotions that the last transaction left undone come first.

        A transaction that writes, or that makes no change, also writes refusals: its own and the oldest of the buffer.
        If the outcome of its commit is unknown, those of the buffer may be written twice.
        """
        buffered: list[NewRefusal] = []
        try:
            async with self._database.writing() as connection:
                needs = load.needs_of(changes)
                known = self._catalog.position
                ledger = await load.open_ledger(connection, self._catalog, self._promotions, needs)
                ledger.one_table_each = self._database.citus
                if self._catalog.position != known:
                    self._lock_until = asyncio.get_running_loop().time() + LOCK_SECONDS
                for course_id, origin in self._pending.items():
                    ledger.mark_promotable(course_id, origin)
                ledger.commit()
                outcomes = await _decide_and_save(connection, ledger, changes, needs)
                refusals = ledger.refusals if self._refusal_age else []
                writes_refusals = ledger.has_written or not changes
                if writes_refusals:
                    buffered = self._refusals.first(REFUSALS_PER_TRANSACTION)
                    if buffered and not ledger.has_written:
                        await commit_without_waiting(connection)
                    await _add_refusals(connection, [*buffered, *refusals])
        except BaseException:
            # The catalog may hold rows that were read in this transaction, which was rolled back.
            self._catalog.clear()
            raise
        self._catalog.advance(ledger.flushed_events, ledger.courses)
        note_events(ledger.flushed_events)
        self._pending = dict(ledger.promotable.items())
        self._refusals.remove(len(buffered))
        if not writes_refusals:
            self._buffer(refusals)
        if self._pending and not self._closing and (self._continuation is None or self._continuation.done()):
            self._continuation = asyncio.create_task(self._continue(), context=Context())
        return outcomes

    def _buffer(self, refusals: Sequence[NewRefusal]) -> None:
        """Write refusals soon, in a transaction of their own unless another one comes first: nobody waits for them."""
        if not refusals or not self._refusal_age:
            return
        self._refusals.add(refusals)
        if not self._closing and (self._writing_refusals is None or self._writing_refusals.done()):
            self._writing_refusals = asyncio.create_task(self._write_refusals_soon(), context=Context())

    async def _write_refusals_soon(self) -> None:
        while self._refusals:
            await asyncio.sleep(REFUSAL_SECONDS)
            await self._write_refusals()
            self._log_lost()

    async def _write_refusals(self) -> None:
        """Write the refusals that are in the buffer now; while the database is unavailable, they stay there."""
        try:
            for _ in range(-(-len(self._refusals) // REFUSALS_PER_TRANSACTION)):
                await self.submit_all(())
        except (Unavailable, OutcomeUnknown):
            return
        except Exception:
            logger.exception("refusals can't be written")
            self._refusals.lose_all()

    def _log_lost(self) -> None:
        if lost := self._refusals.take_lost():
            logger.warning("refusals were lost", extra={"count": lost})

    async def _continue(self) -> None:
        """Make the promotions that transactions leave undone, unless another change makes them first."""
        while self._pending:
            try:
                await self.submit_all(())
            except (Unavailable, OutcomeUnknown) as error:
                # The next transaction of this process makes them, or else the sweep of another process.
                logger.warning("promotions were postponed", extra={"reason": str(error)})
                return
            except Exception:
                logger.exception("promotions failed")
                return


def count_refusals(outcomes: Iterable[Outcome]) -> None:
    """Count the reasons of refused changes."""
    for outcome in outcomes:
        if type(outcome) is tuple:
            for result in outcome:
                if isinstance(result, Result) and result.refusals:
                    for refusal in result.refusals:
                        REFUSALS.add(refusal.code)
        elif isinstance(outcome, Answered):
            count_refusals([outcome.made])
        elif isinstance(outcome, list):
            count_refusals(outcome)
        elif isinstance(outcome, DomainError) and outcome.status < FIRST_SERVER_ERROR:
            for code in [each.code for each in outcome.errors] or [outcome.code]:
                REFUSALS.add(code)


async def _add_refusals(connection: Connection, refusals: Sequence[NewRefusal]) -> None:
    """Write refusals, except those of students who have been deleted or erased since; a student may have been merged."""
    if refusals:
        kept = dict(await load_kept_students(connection, sorted({each.student_id for each in refusals})))
        of_kept = [
            each if kept[each.student_id] == each.student_id else each._replace(student_id=kept[each.student_id])
            for each in refusals
            if each.student_id in kept
        ]
        if of_kept:
            await add_refusals(connection, of_kept)


async def _decide_and_save(
    connection: Connection, ledger: Ledger, changes: Sequence[Change[object]], needs: Needs
) -> list[Outcome]:
    """Decide all changes and save the results; in a large batch, save each chunk while the next one is decided."""
    outcomes: list[Outcome] = []
    saving: asyncio.Task[None] | None = None
    await load.load_for(connection, ledger, needs)
    try:
        for end in range(CHANGES_PER_WRITE, len(changes), CHANGES_PER_WRITE):
            await _decide(connection, ledger, changes[:end], outcomes, saving)
            written = ledger.flush()
            if saving is not None:
                await saving
            saving = asyncio.create_task(save.save(connection, written))
            await asyncio.sleep(0)  # send the statement before the next chunk is decided
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
    *,
    may_write: bool = True,
) -> None:
    """Decide and load alternately until every change has an outcome; deciding resumes where it stopped.

    Raises:
        WriteNeeded: rows must be written before others can be loaded, and the transaction may not write.
    """
    for _ in range(MAX_ROUNDS):
        missing = decide(ledger, changes, outcomes)
        if missing is None:
            return
        if missing.writes and not may_write:
            raise WriteNeeded
        if saving is not None:
            await saving
        if missing.pause:
            await asyncio.sleep(0)
        else:
            await load.load(connection, ledger, missing)
    raise RuntimeError(f"{len(changes)} changes are not decided after {MAX_ROUNDS} rounds")
