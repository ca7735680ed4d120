"""The webhooks of one institution that this process delivers for."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from service.api.feed import Poller
from service.database import Database
from service.dispatch.follower import Follower, Place, Surroundings
from service.errors import DomainError
from service.metrics import ERRORS
from service.webhooks import ATTEMPTS_KEPT
from service.webhooks.sender import Sender
from sql import Connection
from sql.feed import get_now
from sql.webhooks import (
    NewAttempt,
    Progress,
    add_webhook_attempts,
    delete_webhook_attempts,
    list_webhooks,
    save_progress,
)

logger = logging.getLogger(__name__)

SAVE_SECONDS: Final = 0.5
"""How often positions and attempts are saved at most, those of all webhooks together. If the process is killed, the next one repeats
the deliveries since."""

MAX_UNSAVED_ATTEMPTS: Final = 10_000
"""Attempts that wait to be saved, about 2 MB: more than are made while a lease lasts without the database."""

ATTEMPTS_PER_CLEANUP: Final = ATTEMPTS_KEPT // 2
"""After so many attempts of a webhook, the oldest ones are deleted."""

MAX_WEBHOOKS: Final = 10_000
"""Most webhooks of an institution that are served, whatever WEBHOOK_LIMIT was when they were created."""


class Dispatcher:
    """Lets each active webhook of an institution follow the feed, and saves how far they are."""

    def __init__(
        self,
        database: Database,
        poller: Poller,
        sender: Sender,
        turns: tuple[asyncio.Semaphore, asyncio.Semaphore],
        may_deliver: Callable[[], bool],
    ) -> None:
        """Each delivery takes a turn of the institution and one of the process, and is not made unless ``may_deliver``."""
        self._database = database
        self._turns = turns
        self._under_way = 0
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._may_deliver = may_deliver
        self._ahead = timedelta(0)
        """How far the clock of the institution is ahead of that of this process."""
        self._around = Surroundings(database, poller, sender, self._turn, self._now, self._note)
        self._followers: dict[int, Follower] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._progress: dict[int, Progress] = {}
        self._attempts: deque[NewAttempt] = deque(maxlen=MAX_UNSAVED_ATTEMPTS)
        self._uncleaned: Counter[int] = Counter()
        """The attempts of each webhook since the oldest ones were deleted."""
        self._is_closed = asyncio.Event()
        self._saving: asyncio.Task[None] | None = None
        self._saved_at = 0.0
        """When the last save began, by the loop's clock."""

    @property
    def is_empty(self) -> bool:
        """Whether the institution has no webhooks."""
        return not self._followers

    def states(self) -> list[str]:
        """Return the state of each webhook."""
        return [follower.state for follower in self._followers.values()]

    async def refresh(self) -> None:
        """Load the webhooks, and begin to follow the feed for those that are new or changed.

        Raises:
            DomainError: the database does not answer; nothing has changed.
        """
        async with self._database.reading() as connection:
            rows = {row.id: row for row in await list_webhooks(connection, 0, MAX_WEBHOOKS)}
            self._ahead = await get_now(connection) - datetime.now(UTC)
        for id in self._followers.keys() - rows.keys():
            self._tasks.pop(id).cancel()
            del self._followers[id]
            self._progress.pop(id, None)
        for id, row in rows.items():
            before = self._followers.get(id)
            if before is None:
                # What another process has left is cleaned up with the first attempt.
                self._uncleaned[id] = ATTEMPTS_PER_CLEANUP
            elif before.webhook.version != row.version:
                self._tasks[id].cancel()
            else:
                continue
            # A caller may have changed the filters, and has not moved the place that is in memory.
            place = before.place if before and before.webhook.restarts == row.restarts else Place.of(row)
            follower = self._followers[id] = Follower(row, place, self._around)
            self._tasks[id] = asyncio.create_task(follower.run())

    async def close(self, seconds: float) -> None:
        """Give the deliveries under way some seconds, and cancel the others; then save how far the receivers are.

        None begins meanwhile if ``may_deliver`` is false. The receiver of a delivery that is cancelled may get it again.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_quiet.wait()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._is_closed.set()
        if self._saving is not None:
            await self._saving
        await self._save()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Wait for a turn; yield whether a delivery may be made."""
        own, of_process = self._turns
        async with own, of_process:
            self._under_way += 1
            self._is_quiet.clear()
            try:
                yield self._may_deliver()
            finally:
                self._under_way -= 1
                if not self._under_way:
                    self._is_quiet.set()

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def _note(self, reached: Progress, attempt: NewAttempt | None) -> None:
        self._progress[reached.id] = reached
        if attempt is not None:
            self._attempts.append(attempt)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_soon())

    async def _save_soon(self) -> None:
        clock = asyncio.get_running_loop().time
        while (self._progress or self._attempts) and not self._is_closed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._saved_at + SAVE_SECONDS):
                    await self._is_closed.wait()
            self._saved_at = clock()
            await self._save()

    async def _save(self) -> None:
        """Save progress and attempts; while the database is unavailable, they wait."""
        progress, self._progress = self._progress, {}
        attempts, self._attempts = self._attempts, deque(maxlen=MAX_UNSAVED_ATTEMPTS)
        if not progress and not attempts:
            return
        try:
            async with self._database.reading(for_changes=True) as connection:
                if progress:
                    await save_progress(connection, [*progress.values()])
                await self._save_attempts(connection, [each for each in attempts if each.webhook_id in self._followers])
        except DomainError:
            self._progress = {**progress, **self._progress}
            self._attempts.extendleft(reversed(attempts))
        except Exception as error:
            ERRORS.add(type(error).__name__)
            logger.exception("the progress of webhooks can't be saved")

    async def _save_attempts(self, connection: Connection, attempts: Sequence[NewAttempt]) -> None:
        if not attempts:
            return
        # A webhook may be deleted at this moment, with its attempts.
        with suppress(asyncpg.ForeignKeyViolationError):
            await add_webhook_attempts(connection, attempts)
        self._uncleaned.update(each.webhook_id for each in attempts)
        for id in {each.webhook_id for each in attempts}:
            if self._uncleaned[id] >= ATTEMPTS_PER_CLEANUP:
                await delete_webhook_attempts(connection, id, ATTEMPTS_KEPT)
                self._uncleaned[id] = 0
