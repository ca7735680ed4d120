"""Kill a primary under load and promote its standby, with asynchronous and with synchronous replication.

Nothing in this trial is simulated: the servers are those of ``make run``, and the primary is killed by SIGKILL.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from itertools import product
from pathlib import Path

import psycopg

from tests.benchmarks.servers import SERVICE, Server, serving
from tests.test_failover import Pair, started_pair
from tests.trials.load import gaps, lost, under_load

LOAD_SECONDS = 4.0
"""Load before the primary is killed, and after the promotion."""
BROKEN_SECONDS = 0.2
"""Time from a break of the connection between the servers to the death of the primary."""
DETECTION_SECONDS = 1.0
"""Time until the operator, or a tool such as Patroni, promotes the standby."""


def kill(folder: Path) -> None:
    """Kill all processes of the primary, as a power cut would."""
    postmaster = int((folder / "primary" / "cluster" / "postmaster.pid").read_text().split()[0])
    # Stopped, it starts no others and doesn't note that one has died.
    os.kill(postmaster, signal.SIGSTOP)
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for process in (*map(int, children), postmaster):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def promote(pair: Pair) -> None:
    with psycopg.connect(pair.standby_url, autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote()").fetchone() == (True,)


def replicate_synchronously(pair: Pair) -> None:
    """Let each commit wait until the standby has flushed it to its disk."""
    with psycopg.connect(pair.primary_url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")


async def trial(*, synchronous: bool, broken: bool) -> str:
    """Run one failover under load, and return a line of figures.

    With ``broken``, the connection between the servers breaks shortly before the primary dies.
    """
    folder = Path(tempfile.mkdtemp(prefix="enrollment-failover-"))
    folder.chmod(0o711)
    try:
        with started_pair(folder) as pair:
            if synchronous:
                replicate_synchronously(pair)
            server = Server("the service", SERVICE, environment=(("AUTH", "off"), ("POOL_SIZE", "4")))
            with serving(server, pair.url, folder / "log") as running:
                async with under_load(running.url) as load:
                    await asyncio.sleep(LOAD_SECONDS)
                    if broken:
                        await asyncio.to_thread(pair.cut)
                        await asyncio.sleep(BROKEN_SECONDS)
                    kill(folder)
                    before = len(load.acknowledged)
                    await asyncio.sleep(DETECTION_SECONDS)
                    await asyncio.to_thread(promote, pair)
                    await asyncio.sleep(LOAD_SECONDS)
                return (
                    f"{'synchronous' if synchronous else 'asynchronous'}{', broken connection' if broken else ''}: {before:,} enrollments acknowledged before, "
                    f"{len(load.acknowledged) - before:,} after the failover; {await lost(load)} of them lost; "
                    f"{load.unknown} with unknown outcome; errors for {load.error_seconds:.1f} s; "
                    f"the reader got 410 {load.expired} times; {await gaps(load)} gaps in the feed"
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def run(trials: int) -> None:
    """Run trials of both kinds and print a line for each."""
    for synchronous, broken in product((False, True), (False, True)):
        for _ in range(trials):
            print(await trial(synchronous=synchronous, broken=broken), flush=True)
