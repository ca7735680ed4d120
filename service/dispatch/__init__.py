"""Which webhooks this process delivers for: those of the institutions whose leases it holds.

A process looks at all leases with one statement, a few times in the life of a lease. It renews its own, and takes those that
no process holds. A process that can't renew a lease stops its deliveries before another one can take it.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import uuid4

from service.api.feed import Poller
from service.database import Database
from service.dispatch.dispatcher import Dispatcher
from service.errors import DomainError
from service.metrics import ERRORS
from service.settings import Settings
from service.webhooks.sender import Sender
from sql.webhook_leases import (
    WebhookLease,
    claim_webhook_leases,
    delete_webhook_lease,
    list_webhook_leases,
    note_webhook_change,
    release_webhook_leases,
)

logger = logging.getLogger(__name__)

LOOKS_PER_LEASE: Final = 3
"""How often a process looks at the leases while one of its own lasts: it may miss one look."""

CLAIMED_LEASES: Final = 16
"""Free leases that a process takes in one look, so that the processes of a fleet share them."""

MAX_LEASES: Final = 10_000
"""Most institutions with webhooks that a look finds."""

SETTLING: Final = timedelta(seconds=60)
"""Longest time from the note of a change to its commit: several times the time limits of a transaction."""

POLLS_PER_SECOND: Final = 100
"""Most looks for new events each second, if a process delivers for many institutions; then an event waits longer."""

CLOSE_SECONDS: Final = 2.0
"""How long deliveries under way may take to end when the service stops. The next process repeats those that are cancelled."""


class Opened(NamedTuple):
    """What an institution's webhooks need: its database, and what finds its new events."""

    database: Database
    poller: Poller
    is_shared: bool
    """Whether other readers of the feed use the poller too."""


@dataclass(eq=False, slots=True)
class Held:
    """A lease that this process holds until ``deadline``, by the loop's clock."""

    opened: Opened
    deadline: float
    dispatcher: Dispatcher
    expiry: asyncio.TimerHandle | None = None
    seen: tuple[int, bool] | None = None
    """The revision of the webhooks when they were loaded, and whether no change was under way then."""


class Dispatch:
    """Holds leases, and delivers the webhooks of their institutions."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        sender: Sender,
        stop: asyncio.Event,
        *,
        open: Callable[[str], Opened | None],
        may_deliver: Callable[[str], bool],
    ) -> None:
        """The leases are in ``database``. ``open`` opens an institution; None if it is not to be served now."""
        self._database = database
        self._settings = settings
        self._sender = sender
        self._stop = stop
        self._open = open
        self._may_deliver = may_deliver
        self._holder = uuid4()
        self._held: dict[str, Held] = {}
        self._turns = asyncio.Semaphore(settings.webhook_deliveries)
        self._wake = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Task[None] | None = None

    def states(self) -> list[str]:
        """Return the state of each webhook that this process delivers for."""
        return [state for held in self._held.values() for state in held.dispatcher.states()]

    async def note_change(self, institution: str | None) -> None:
        """Note that a webhook of an institution changes: before the change, so that it is noticed in any case, and after it.

        Raises:
            DomainError: the database does not answer.
        """
        async with self._database.reading(for_changes=True) as connection:
            await note_webhook_change(connection, institution or "")
        self._wake.set()

    async def run(self) -> None:
        """Look at the leases several times in the life of one, and after each change of this process, until the service stops."""
        stopping = asyncio.create_task(self._stop.wait())
        stopping.add_done_callback(lambda _: self._wake.set())
        try:
            await self._keep_leases()
        finally:
            stopping.cancel()
        await self.close()

    async def _keep_leases(self) -> None:
        failed = False
        while not self._stop.is_set():
            try:
                await self._look()
                failed = False
            except DomainError as error:
                if not failed:
                    logger.warning("the leases of webhooks could not be read", extra={"reason": str(error)})
                failed = True
            except Exception as error:
                ERRORS.add(type(error).__name__)
                logger.exception("the leases of webhooks can't be held")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.webhook_lease / LOOKS_PER_LEASE):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._database.reading() as connection:
            leases = {each.institution: each for each in await list_webhook_leases(connection, SETTLING, MAX_LEASES)}
            wanted = {name: each for name, each in leases.items() if self._may_deliver(name)}
            own = [name for name, each in wanted.items() if each.holder == self._holder]
            free = [name for name, each in wanted.items() if each.is_free and each.holder != self._holder]
            names = own + random.sample(free, min(len(free), CLAIMED_LEASES))
            # The lease begins in the database after this instant, so it ends there after the deadline.
            deadline = loop.time() + self._settings.webhook_lease
            lease = timedelta(seconds=self._settings.webhook_lease)
            claimed = await claim_webhook_leases(connection, self._holder, lease, names) if names else []
        for name in self._held.keys() - claimed:
            self._give_up(name)
        for name in claimed:
            held = self._held.get(name) or self._take(name, deadline)
            if held is not None:
                self._renew(name, held, deadline)
                await self._refresh(held, wanted[name])
        for held in self._held.values():
            if not held.opened.is_shared:
                held.opened.poller.interval = max(self._settings.poll_interval, len(self._held) / POLLS_PER_SECOND)

    def _take(self, name: str, deadline: float) -> Held | None:
        opened = self._open(name)
        if opened is None:
            return None

        def may_deliver() -> bool:
            in_time = asyncio.get_running_loop().time() < held.deadline
            return in_time and not self._stop.is_set() and self._may_deliver(name)

        # Like the queues of the process, its turns have a share that one institution may take.
        share = 1.0 if opened.is_shared else self._settings.institution_share
        own = asyncio.Semaphore(max(round(self._settings.webhook_deliveries * share), 1))
        dispatcher = Dispatcher(opened.database, opened.poller, self._sender, (own, self._turns), may_deliver)
        held = self._held[name] = Held(opened, deadline, dispatcher)
        return held

    def _renew(self, name: str, held: Held, deadline: float) -> None:
        held.deadline = deadline
        if held.expiry is not None:
            held.expiry.cancel()
        held.expiry = asyncio.get_running_loop().call_at(deadline, self._give_up, name)

    async def _refresh(self, held: Held, lease: WebhookLease) -> None:
        """Load the webhooks if they may have changed; without any, the lease is not needed any more."""
        found = lease.revision, lease.is_settled
        if held.seen == found:
            return
        try:
            await held.dispatcher.refresh()
        except Exception as error:
            # Those of the other institutions can be read.
            ERRORS.add(type(error).__name__)
            logger.exception("webhooks can't be read", extra={"institution": lease.institution or None})
            return
        held.seen = found
        if held.dispatcher.is_empty and lease.is_settled:
            async with self._database.reading(for_changes=True) as connection:
                await delete_webhook_lease(connection, lease.institution, self._holder, lease.revision)

    def _give_up(self, name: str) -> None:
        """Stop the deliveries of an institution, whose lease ends or has been lost."""
        self._closing.add(task := asyncio.create_task(self._end(self._remove(name), 0.0)))
        task.add_done_callback(self._closing.discard)

    def _remove(self, name: str) -> Held:
        """Return a lease that is not held any more: no delivery begins from now on."""
        held = self._held.pop(name)
        held.deadline = 0.0
        if held.expiry is not None:
            held.expiry.cancel()
        return held

    async def _end(self, held: Held, seconds: float) -> None:
        await held.dispatcher.close(seconds)
        if not held.opened.is_shared:
            held.opened.poller.close()

    async def close(self) -> None:
        """Let the deliveries under way end, and release the leases, so that another process can go on at once."""
        if self._ended is None:
            self._ended = asyncio.create_task(self._close())
        await asyncio.shield(self._ended)

    async def _close(self) -> None:
        names = [*self._held]
        held = [self._remove(name) for name in names]
        await asyncio.gather(*[self._end(each, CLOSE_SECONDS) for each in held], *self._closing)
        if names:
            with suppress(DomainError):
                async with self._database.reading(for_changes=True) as connection:
                    await release_webhook_leases(connection, self._holder, names)
