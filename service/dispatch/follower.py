"""A task that brings one webhook the events of the feed, in order: the next one only after the receiver has confirmed the last."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from service.api.feed import Cursor, CursorExpired, Entry, Extract, Filter, Poller, read_extract
from service.database import Database
from service.errors import DomainError
from service.metrics import DELIVERIES, DELIVERY_SECONDS, ERRORS
from service.webhooks.retries import pause_after
from service.webhooks.sender import Attempt, Sender
from service.webhooks.signing import secrets_of
from sql.webhooks import NewAttempt, Progress, Webhook

logger = logging.getLogger(__name__)

EVENTS_PER_READ: Final = 100
"""Events that a webhook holds in memory, about 100 kB."""

FRESH_SECONDS: Final = 10.0
"""How old an event may be when it is sent. After that it is read again: the data of a student may have been erased."""

WAIT_SECONDS: Final = 30.0
"""How long a webhook waits for an event before it looks whether its filters have left out others."""

PAUSE_SECONDS: Final = 5.0
"""The pause after an error of the service or of its database."""

GONE: Final = 410
"""The status with which a receiver ends its subscription."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the webhooks of an institution share."""

    database: Database
    poller: Poller
    sender: Sender
    turn: Callable[[], AbstractAsyncContextManager[bool]]
    """A context in which a delivery may be made, unless it yields False: then none may be made any more."""
    now: Callable[[], datetime]
    """The time by the clock of the institution."""
    note: Callable[[Progress, NewAttempt | None], None]
    """Save soon how far a receiver is, and the last attempt."""


def message_id(epoch: str, position: int) -> str:
    """Return the id of the message about an event, the same in each attempt and in each replay."""
    return f"evt_{epoch}_{position}"


def attempt_of(webhook_id: int, position: int | None, at: datetime, attempt: Attempt) -> NewAttempt:
    """Return the row of an attempt, and count it."""
    DELIVERIES.add("delivered" if attempt.delivered else "failed")
    DELIVERY_SECONDS.observe(attempt.seconds)
    return NewAttempt(webhook_id, position, at, attempt.status, attempt.error, round(attempt.seconds * 1000))


@dataclass(slots=True)
class Place:
    """How far a receiver is, and whether it fails."""

    cursor: Cursor
    saved: Cursor
    """The last cursor that was noted to be saved."""
    failures: int
    next_attempt_at: datetime | None
    stopped_because: str | None

    @classmethod
    def of(cls, webhook: Webhook) -> "Place":
        """Return the place that the database has."""
        cursor = Cursor(webhook.epoch, webhook.position, webhook.proof)
        return cls(cursor, cursor, webhook.failures, webhook.next_attempt_at, webhook.stopped_because)


class Follower:
    """Follows the feed for one webhook until it is stopped, or its subscription ends."""

    def __init__(self, webhook: Webhook, place: Place, around: Surroundings) -> None:
        self.webhook = webhook
        self.place = place
        self._around = around
        types = None if webhook.types is None else tuple(webhook.types)
        self._chosen = Filter(types, webhook.student_id, webhook.course_id, webhook.term_id)
        self._has_caught_up = False
        """Whether the events before the cursor reached the newest one when they were read."""

    @property
    def state(self) -> str:
        """The state, as the metrics count it."""
        if self.place.stopped_because is not None:
            return "stopped"
        return "failing" if self.place.failures else "active"

    async def run(self) -> None:
        """Deliver events until the subscription ends, the service stops, or the task is cancelled."""
        while self.place.stopped_because is None and not self._around.poller.stopping:
            try:
                await self._wait_for_attempt()
                await self._advance(await self._read())
            except CursorExpired:
                self._stop("cursor_expired")
            except DomainError:
                # The database or the feed can't be read; those who lent the lease notice and log that.
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                ERRORS.add(type(error).__name__)
                logger.exception("a webhook can't be served", extra={"webhook_id": self.webhook.id})
                await asyncio.sleep(PAUSE_SECONDS)

    async def _wait_for_attempt(self) -> None:
        """After a failure, wait until the next attempt is due."""
        if self.place.next_attempt_at is not None:
            await asyncio.sleep(max((self.place.next_attempt_at - self._around.now()).total_seconds(), 0.0))

    async def _read(self) -> Extract:
        """Return the next events, and wait for one if there is none; or return none, and a cursor that has moved.

        A webhook that has caught up waits at the poller, which reads for all of them and for all readers of the feed.
        """
        around = self._around
        if self._has_caught_up and not around.poller.is_far(self.place.cursor):
            return await around.poller.wait(self.place.cursor, EVENTS_PER_READ, WAIT_SECONDS, self._chosen)
        limit = 1 if self.place.failures else EVENTS_PER_READ
        async with around.database.reading() as connection:
            extract, self._has_caught_up = await read_extract(connection, self.place.cursor, limit, self._chosen)
        return extract

    async def _advance(self, extract: Extract) -> None:
        """Deliver events in their order, until one fails or they are no longer fresh."""
        fresh_until = asyncio.get_running_loop().time() + FRESH_SECONDS
        for entry in extract.entries:
            if asyncio.get_running_loop().time() > fresh_until or not await self._deliver(entry):
                self._has_caught_up = False
                return
        self.place.cursor = extract.next
        if self.place.cursor != self.place.saved and not extract.entries:
            # The filters have left events out.
            self._note(None)

    async def _deliver(self, entry: Entry) -> bool:
        """Deliver one event; return whether the receiver has confirmed it."""
        around, place, webhook, position = self._around, self.place, self.webhook, entry.row.position
        async with around.turn() as may_deliver:
            at = around.now()
            if may_deliver:
                id = message_id(place.cursor.epoch.hex, position)
                attempt = await around.sender.send(webhook.url, secrets_of(webhook), id, entry.json.encode())
        if not may_deliver:
            # The task is about to be cancelled.
            await asyncio.sleep(PAUSE_SECONDS)
            return False
        row = attempt_of(webhook.id, position, at, attempt)
        if attempt.delivered:
            place.cursor, place.failures, place.next_attempt_at = entry.cursor, 0, None
            self._note(row)
            return True
        place.failures += 1
        pause = pause_after(place.failures, attempt.retry_after)
        if attempt.status == GONE:
            self._stop("gone", row)
        elif pause is None:
            self._stop("failures", row)
        else:
            place.next_attempt_at = around.now() + timedelta(seconds=pause)
            self._note(row)
        return False

    def _stop(self, because: str, row: NewAttempt | None = None) -> None:
        self.place.stopped_because, self.place.next_attempt_at = because, None
        logger.warning("a webhook was stopped", extra={"webhook_id": self.webhook.id, "reason": because})
        self._note(row)

    def _note(self, row: NewAttempt | None) -> None:
        place = self.place
        place.saved = place.cursor
        reached = Progress(
            id=self.webhook.id,
            restarts=self.webhook.restarts,
            position=place.cursor.position,
            proof=place.cursor.proof,
            failures=place.failures,
            next_attempt_at=place.next_attempt_at,
            stopped_because=place.stopped_because,
            stopped_at=None if place.stopped_because is None else self._around.now(),
        )
        self._around.note(reached, row)
