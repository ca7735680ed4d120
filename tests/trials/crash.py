"""``kill -9`` of the service or a backend, or an immediate stop of PostgreSQL, at random under load from 16 callers."""

import asyncio
import math
import os
import random
import signal
import statistics
import time
from collections.abc import Sequence

from tests.trials.harness import Figure, PostgreSQL, Restarted, folder
from tests.trials.ledger import Ledger, compare, keeping

SIZE = 100
UNIT = "kills"
LOAD_SECONDS = (0.2, 0.6)
"""The callers are served for a random time between these before the next kill."""
SERVE_SECONDS = 60.0
"""Time within which the service must serve again."""
MEDIAN_SECONDS = 5.0
"""A start of the service takes a second, and so does the recovery of a small database."""
VICTIMS = ("the service", "a backend", "the server")


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Kill one after the other, and compare what callers were answered with what is there."""
    choice = random.Random(size)
    taken: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    with folder() as home, PostgreSQL(home / "postgresql").up() as postgresql:
        async with Restarted(postgresql.url, home / "log").up() as service:
            async with keeping(service.url) as ledger:
                for number in range(size):
                    await asyncio.sleep(choice.uniform(*LOAD_SECONDS))
                    victim = VICTIMS[number] if number < len(VICTIMS) else choice.choice(VICTIMS)
                    killed = time.monotonic()
                    await kill(victim, service, postgresql, choice)
                    taken[victim].append(await served_again(ledger, killed))
            figures = await compare(ledger, postgresql.url)
    for victim, seconds in taken.items():
        if seconds:
            figures += [
                Figure(f"{victim} killed", len(seconds)),
                Figure(
                    f"{victim} killed: time to serve again, median",
                    statistics.median(seconds),
                    "s",
                    at_most=MEDIAN_SECONDS,
                ),
                Figure(f"{victim} killed: time to serve again, worst", max(seconds), "s", at_most=SERVE_SECONDS),
            ]
    longest = max(change.seconds for change in ledger.changes)
    return [*figures, Figure("longest time from the first call of a change to its answer", longest, "s")]


async def kill(victim: str, service: Restarted, postgresql: PostgreSQL, choice: random.Random) -> None:
    """Kill the victim; the server is started again at once, as a supervisor would."""
    if victim == "the service":
        service.kill()
    elif victim == "a backend":
        os.kill(choice.choice(postgresql.backends()), signal.SIGKILL)
    else:
        await asyncio.to_thread(postgresql.stop, signal.SIGQUIT)
        await asyncio.to_thread(postgresql.start)


async def served_again(ledger: Ledger, killed: float) -> float:
    """Wait until callers are served again, and return the seconds since the kill."""
    async with asyncio.timeout(SERVE_SECONDS):
        # The kill of a backend becomes visible when the first process of PostgreSQL has stopped the others.
        await asyncio.sleep(0.1)
        while (seconds := ledger.served_after(killed)) == math.inf:
            await asyncio.sleep(0.02)
    return seconds
