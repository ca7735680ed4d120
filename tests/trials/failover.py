"""A primary killed by SIGKILL under load from 16 callers, and its streaming standby promoted one second later."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import psycopg

from tests.test_failover import Pair, started_pair
from tests.trials.harness import Figure, Restarted, folder, processes_of
from tests.trials.load import gaps, lost, under_load

SIZE = 1
UNIT = "failover of each kind"
LOAD_SECONDS = 5.0
"""Load before the primary is killed, and after the promotion."""
BROKEN_SECONDS = 0.2
"""Time from a break of the connection between the servers to the death of the primary."""
ERROR_SECONDS = 5.0
"""Time after the promotion within which the last error ends."""
DETECTION_SECONDS = 1.0
"""Time until the operator, or a tool such as Patroni, promotes the standby."""


def kill(home: Path) -> None:
    """Kill all processes of the primary, as a power cut would."""
    first = processes_of(home / "primary")[0]
    # Stopped, it starts no others and doesn't note that one has died.
    os.kill(first, signal.SIGSTOP)
    for process in reversed(processes_of(home / "primary")):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def promote(pair: Pair) -> None:
    """Promote the standby."""
    with psycopg.connect(pair.standby_url, autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote()").fetchone() == (True,)


def replicate_synchronously(pair: Pair) -> None:
    """Let each commit wait until the standby has flushed it to its disk."""
    with psycopg.connect(pair.primary_url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")


async def trial(*, synchronous: bool, broken: bool) -> list[Figure]:
    """Run one failover under load.

    With ``broken``, the connection between the servers breaks shortly before the primary dies.
    """
    with folder() as home, started_pair(home) as pair:
        if synchronous:
            replicate_synchronously(pair)
        async with Restarted(pair.url, home / "log", pool_size=4).up() as service:
            async with under_load(service.url) as load:
                await asyncio.sleep(LOAD_SECONDS)
                if broken:
                    await asyncio.to_thread(pair.cut)
                    await asyncio.sleep(BROKEN_SECONDS)
                kill(home)
                before = len(load.acknowledged)
                await asyncio.sleep(DETECTION_SECONDS)
                await asyncio.to_thread(promote, pair)
                back = time.monotonic()
                await asyncio.sleep(LOAD_SECONDS)
            late = max((end for _, end, succeeded in load.answers if not succeeded), default=back)
            kind = f"{'synchronous' if synchronous else 'asynchronous'}{', broken connection' if broken else ''}"
            return [
                Figure(f"{kind}: enrollments acknowledged before", before, at_least=1),
                Figure(f"{kind}: enrollments acknowledged after", len(load.acknowledged) - before, at_least=1),
                Figure(f"{kind}: acknowledged and lost", await lost(load), at_most=0 if synchronous else None),
                Figure(f"{kind}: unknown outcomes", load.unknown),
                Figure(f"{kind}: last error after the promotion", max(late - back, 0.0), "s", at_most=ERROR_SECONDS),
                Figure(f"{kind}: readers told by 410", load.expired, at_least=1, at_most=1),
                Figure(f"{kind}: positions missing in the feed", await gaps(load), at_most=0),
            ]


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Run failovers of both kinds, with and without a break of the connection before."""
    figures: list[Figure] = []
    for synchronous, broken in product((False, True), (False, True)):
        for _ in range(size):
            figures += await trial(synchronous=synchronous, broken=broken)
    return figures
