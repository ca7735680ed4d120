"""Serve an institution on a Citus: compare the nodes under the same load, and move the schema under load."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.benchmarks.servers import SERVICE, Server, serving
from tests.trials.load import Load, gaps, lost, under_load

SCHEMA: Final = "trial"
PLAIN: Final = "enrollment_trial_plain"
"""A database without the extension, on the coordinator."""
SECONDS: Final = 6.0
ROUNDS: Final = 3

Admin = psycopg.Connection[Any]


@contextmanager
def institution(admin: Admin) -> Iterator[None]:
    """Create a distributed schema, which the service migrates at its start, and drop it afterwards."""
    admin.execute("SET citus.enable_schema_based_sharding = on")
    admin.execute(f"CREATE SCHEMA {SCHEMA}")
    try:
        yield
    finally:
        admin.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@contextmanager
def served(database_url: str, schema: str = SCHEMA, *, migrates: bool = True) -> Iterator[str]:
    """Run the service and yield its URL. Migrations run only on the coordinator."""
    environment = (
        *(("AUTH", "off"), ("DATABASE_SCHEMA", schema), ("POOL_SIZE", "6")),
        ("MIGRATE_ON_START", str(migrates)),
    )
    with (
        tempfile.TemporaryDirectory(prefix="enrollment-trial-") as folder,
        serving(Server("the service", SERVICE, environment=environment), database_url, Path(folder) / "log") as running,
    ):
        yield running.url


def nodes(admin: Admin) -> tuple[tuple[str, int], list[tuple[str, int]]]:
    """Return the node that holds the schema, and the other workers."""
    found = admin.execute(
        """
        SELECT DISTINCT nodename, nodeport
        FROM citus_shards
        WHERE table_name = 'trial.feed'::regclass
        """
    ).fetchone()
    assert found is not None
    workers = admin.execute("SELECT node_name, node_port FROM citus_get_active_worker_nodes()").fetchall()
    return found, [worker for worker in workers if worker != found]


def url_of(url: str, node: tuple[str, int]) -> str:
    """Return the URL of the same database on another node."""
    parts = urlsplit(url)
    account = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{account}@{node[0]}:{node[1]}"))


async def measure(url: str, callers: int) -> tuple[float, float]:
    """Return the enrollments a second, each after the creation of its student, and the median of their milliseconds."""
    async with under_load(url, callers, reader=False) as load:
        await asyncio.sleep(1.0)
        skipped, started = len(load.answers), time.monotonic()
        await asyncio.sleep(SECONDS)
        calls, seconds = load.answers[skipped:], time.monotonic() - started
    return len(calls) / seconds, 1000 * statistics.median(end - start for start, end, _ in calls)


async def compare(url: str) -> None:
    """Measure PostgreSQL without the extension, the coordinator, and the node that holds the schema, in turns."""
    with psycopg.connect(url, autocommit=True) as admin, institution(admin):
        admin.execute(f"CREATE DATABASE {PLAIN}")
        try:
            plain = urlunsplit(urlsplit(url)._replace(path=f"/{PLAIN}"))
            with served(url) as through, served(plain, "public") as alone:
                owner, _ = nodes(admin)
                with served(url_of(url, owner), migrates=False) as direct:
                    print(f"{'':<40} {'plain':>10} {'coordinator':>12} {'owner':>10}")
                    for callers in (1, 64):
                        found = [
                            [await measure(each, callers) for each in (alone, through, direct)] for _ in range(ROUNDS)
                        ]
                        middle = [
                            (statistics.median(rate for rate, _ in each), statistics.median(ms for _, ms in each))
                            for each in zip(*found, strict=True)
                        ]
                        print(
                            f"{callers:>3} callers, students enrolled a second  " + _row([rate for rate, _ in middle])
                        )
                        print(f"{callers:>3} callers, milliseconds for the two calls" + _row([ms for _, ms in middle]))
        finally:
            admin.execute(f"DROP DATABASE {PLAIN} WITH (FORCE)")


def _row(values: list[float]) -> str:
    return "".join(f"{value:>{width},.1f}" for value, width in zip(values, (11, 13, 11), strict=True))


async def move(url: str) -> None:
    """Move the schema to another worker under load, and compare what callers were told with what is there."""
    with psycopg.connect(url, autocommit=True) as admin, institution(admin), served(url) as service:
        owner, others = nodes(admin)
        async with under_load(service) as load:
            await asyncio.sleep(SECONDS)
            before, started = len(load.acknowledged), time.monotonic()
            await asyncio.to_thread(_move, url, others[0])
            moved = time.monotonic() - started
            during = len(load.acknowledged) - before
            await asyncio.sleep(SECONDS)
        assert nodes(admin)[0] == others[0] != owner
        print(f"moved in {moved:.1f} s; {during:,} enrollments acknowledged meanwhile; {await _summary(load)}")


def _move(url: str, node: tuple[str, int]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT citus_schema_move(%s::regnamespace, %s, %s)", [SCHEMA, *node])


async def _summary(load: Load) -> str:
    failed = sum(not succeeded for _, _, succeeded in load.answers)
    waits = ", ".join(f"{seconds:.1f}" for seconds in load.waited[:3]) or "none"
    return (
        f"{len(load.acknowledged):,} acknowledged in all, {await lost(load)} of them lost; {failed} errors; "
        f"{len(load.waited)} calls waited over 0.5 s (the longest, in seconds: {waits}); "
        f"the reader got 410 {load.expired} times; {await gaps(load)} gaps in the feed"
    )
