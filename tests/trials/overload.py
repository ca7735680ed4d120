"""More callers than the service can handle, each of which sends its next request as soon as it has a response."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from service.settings import Settings
from tests.benchmarks import wrk
from tests.benchmarks.data import IDLE, cluster_at, fill
from tests.benchmarks.run import options_of
from tests.trials.harness import Figure, Latencies, Service, observer, running

FEW = 256
ADMISSION_SECONDS = Settings().admission_seconds
CASES = ((8_000, ADMISSION_SECONDS), (10_000, ADMISSION_SECONDS), (13_000, ADMISSION_SECONDS), (13_000, 0.5))
"""Numbers of callers, and ``ADMISSION_SECONDS``. In the last case, any machine must refuse most of the requests."""
SIZE = len(CASES)
UNIT = "numbers of callers"
REFUSAL_MS = 10.0
"""A refusal costs no work, so it is quick even while the queue is full."""
STUDENTS = str(Path(__file__).parent / "students")
LOADS = (STUDENTS, "enroll")
"""Scripts for wrk: one creates students, the other enrolls the students of the benchmarks in two courses each."""
CONNECTING_SECONDS = {True: 2, False: 10}
"""Time until all callers are connected, for few callers or many: the kernel retries after one, two and four seconds."""
WINDOW_SECONDS = 8
STUDENT = b'{"given_name":"Ada","family_name":"Byron","email":"additional.%d@campus.example"}'


@dataclass(slots=True)
class Seen:
    """The results of an overload within the window."""

    goodput: float = 0.0
    """Events per second: one for each created student and one for each seat taken."""
    refusals: float = 0.0
    """503 responses per second, for the whole load."""
    reads: Latencies = field(default_factory=Latencies)
    refused_seconds: list[float] = field(default_factory=list)
    """How long an additional caller waited for each refusal."""
    served_seconds: list[float] = field(default_factory=list)
    """How long an additional caller waited for each successful change."""
    bare: int = 0
    """Refusals without Retry-After."""


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Compare many callers with few, in the same run."""
    return [figure for script in LOADS for figure in await compare(script, size)]


async def compare(script: str, size: int) -> list[Figure]:
    """Compare many callers with few, for one kind of change."""
    name = Path(script).name
    few = await overload(script, FEW, ADMISSION_SECONDS)
    figures = [
        Figure(f"{name}, {FEW} callers: events", few.goodput, "/s"),
        Figure(f"{name}, {FEW} callers: p99 of the observer", few.reads.p99, "ms"),
    ]
    for callers, seconds in CASES[-size:]:
        seen = await overload(script, callers, seconds)
        which = f"{name}, {callers} callers, {seconds} s"
        figures += [
            Figure(f"{which}: events", seen.goodput, "/s", at_least=0.9 * few.goodput),
            Figure(f"{which}: refused", seen.refusals, "/s"),
            Figure(f"{which}: longest wait for a refusal", max(seen.refused_seconds, default=0.0), "s"),
            Figure(f"{which}: longest wait for a successful change", max(seen.served_seconds, default=0.0), "s"),
            Figure(f"{which}: refusals without Retry-After", seen.bare, at_most=0),
            Figure(f"{which}: p99 of the observer", seen.reads.p99, "ms"),
            Figure(f"{which}: failed calls of the observer", seen.reads.failed, at_most=0),
        ]
        if seen.refused_seconds:
            median = 1000 * statistics.median(seen.refused_seconds)
            figures.append(Figure(f"{which}: median wait for a refusal", median, "ms", at_most=REFUSAL_MS))
    return figures


async def overload(script: str, callers: int, admission_seconds: float) -> Seen:
    """Let callers make changes, and count the changes after all callers are connected."""
    seen = Seen()
    connecting = CONNECTING_SECONDS[callers == FEW]
    async with running(admission_seconds=admission_seconds) as service:
        options = {"seed": callers}
        if script != STUDENTS:
            await asyncio.to_thread(
                fill, cluster_at(service.database_url), urlsplit(service.database_url).path[1:], IDLE
            )
            options = options_of(IDLE, script, seed=callers, warmup=False)
        await one_more(service, Seen(), -1)
        command = wrk.command(
            service.url,
            script,
            connections=callers,
            seconds=connecting + WINDOW_SECONDS + 2,
            options=options,
        )
        loading = asyncio.create_task(asyncio.to_thread(wrk.run, command))
        await asyncio.sleep(connecting)
        connection = await asyncpg.connect(service.database_url)
        try:
            async with observer(service, "/students/1") as seen.reads:
                began, before = time.monotonic(), await newest(connection)
                asking = asyncio.create_task(keep_asking(service, seen, until=began + WINDOW_SECONDS))
                await asyncio.sleep(WINDOW_SECONDS)
                # Counted before the last response, which may arrive after the load has ended.
                seen.goodput = (await newest(connection) - before) / (time.monotonic() - began)
                await asking
        finally:
            await connection.close()
        result = await loading
        seen.refusals = result.status / (result.microseconds / 1e6)
    return seen


async def newest(connection: asyncpg.Connection) -> int:
    """Return the position of the newest event; each change appends one."""
    position: int = await connection.fetchval("SELECT coalesce(max(position), 0) FROM events")
    return position


async def keep_asking(service: Service, seen: Seen, *, until: float) -> None:
    """Send requests as an additional caller, each on a new connection."""
    number = 0
    while time.monotonic() < until:
        await one_more(service, seen, number := number + 1)


async def one_more(service: Service, seen: Seen, number: int) -> None:
    """Send one request as an additional caller."""
    body = STUDENT % number
    reader, writer = await asyncio.open_connection(*service.address)
    try:
        began = time.monotonic()
        writer.write(
            b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        taken = time.monotonic() - began
        if head.startswith(b"http/1.1 503"):
            seen.refused_seconds.append(taken)
            seen.bare += b"\r\nretry-after: " not in head
        else:
            assert head.startswith(b"http/1.1 201"), head
            seen.served_seconds.append(taken)
    finally:
        writer.close()
