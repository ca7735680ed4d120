"""Two replicas, one of which is frozen (SIGSTOP) while its transaction holds the write lock."""

import asyncio
import os
import random
import signal
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import asyncpg

from service.settings import Settings
from tests.trials.harness import Figure, PostgreSQL, Restarted, folder
from tests.trials.ledger import Change, compare, keeping

SIZE = 5
UNIT = "freezes"
IDLE_SECONDS: float = Settings.model_fields["idle_in_transaction_timeout"].default
GRACE_SECONDS = 2.0
"""The server notices the end of the time, and the first change afterwards is made, on a busy machine."""
ATTEMPTS = 2000
"""Freezes until one of them meets a transaction that holds the lock and waits for the service."""
SETTLE_SECONDS = 0.05
"""Time in which the server finishes the statement that it runs for the frozen replica."""


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Freeze the first replica, and let the second one make changes until one succeeds."""
    waits: list[float] = []
    reads: list[float] = []
    with folder() as home, PostgreSQL(home / "postgresql").up() as postgresql:
        async with (
            Restarted(postgresql.url, home / "one.log").up() as one,
            Restarted(postgresql.url, home / "two.log", migrate_on_start=False).up() as two,
            aiohttp.ClientSession(two.url) as session,
        ):
            connection = await asyncpg.connect(postgresql.url)
            try:
                async with keeping(one.url) as ledger:
                    for _ in range(size):
                        await asyncio.sleep(0.5)
                        async with holding(one, connection):
                            began = time.monotonic()
                            async with session.get("/courses") as response:
                                assert response.status == 200, await response.text()
                            reads.append(time.monotonic() - began)
                            email = f"{uuid.uuid4().hex}@campus.example"
                            body = {"given_name": "Ada", "family_name": "Trial", "email": email}
                            await ledger.ask(session, change := Change("POST", "/students", body))
                            waits.append(change.seconds)
            finally:
                await connection.close()
            figures = await compare(ledger, postgresql.url)
    return [
        Figure("the other replica changes again after, median", statistics.median(waits), "s"),
        Figure("the other replica changes again after, worst", max(waits), "s", at_most=IDLE_SECONDS + GRACE_SECONDS),
        Figure("the other replica reads after, worst", max(reads), "s", at_most=GRACE_SECONDS),
        *figures,
    ]


@asynccontextmanager
async def holding(replica: Restarted, connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Freeze a replica under load at a moment at which its transaction holds the write lock."""
    for _ in range(ATTEMPTS):
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                await connection.execute("SELECT FROM feed FOR UPDATE NOWAIT")
            except asyncpg.LockNotAvailableError:
                yield
                return
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        await asyncio.sleep(SETTLE_SECONDS * random.random())
    raise AssertionError("no freeze met a transaction that holds the lock")
