"""Mixed traffic for half an hour: callers who read, change and follow the feed, and connections that come and go."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from service.settings import Settings
from tests.trials.harness import Figure, PostgreSQL, Restarted, descriptors, folder, memory_bytes
from tests.trials.ledger import CALLERS, compare, keeping
from tests.trials.outage import sessions

SIZE = 1800
UNIT = "seconds"
PAUSE_SECONDS: Final = 0.01
SAMPLES: Final = 60
WARM: Final = 1 / 3
"""Part of the time after which memory no longer grows: the caches and the pool are full."""
GROWTH_PERCENT: Final = 10
POOL_SIZE: Final = Settings.model_fields["pool_size"].default
PATHS: Final = (
    "/courses",
    "/students?limit=50",
    "/students/1/courses",
    "/courses/1/students?limit=50",
    "/events?limit=50",
    "/courses/0",
    "/nothing",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the service uses at one moment."""

    memory: int
    descriptors: int
    threads: int


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Keep the traffic going, and compare what the service uses during the last third with the second third."""
    samples: list[Sample] = []
    with folder() as home, PostgreSQL(home / "postgresql").up() as postgresql:
        async with Restarted(postgresql.url, home / "log").up() as service:
            idle = sample(service.pid)
            async with keeping(service.url) as ledger, reading(service.url) as read:
                for _ in range(SAMPLES):
                    await asyncio.sleep(size / SAMPLES)
                    samples.append(sample(service.pid))
                used = await sessions(postgresql.url)
            await asyncio.sleep(1)
            after = sample(service.pid)
            figures = await compare(ledger, postgresql.url)
    third = int(SAMPLES * WARM)
    middle, last = (max(each.memory for each in part) for part in (samples[third : 2 * third], samples[2 * third :]))
    return [
        Figure("requests", len(ledger.calls) + read[0], at_least=size),
        Figure("reads with a status of 500 or above", read[1], at_most=0),
        Figure("memory, second third", middle / 1e6, "MB"),
        Figure("memory, last third", last / 1e6, "MB"),
        Figure("growth of the memory", 100 * (last / middle - 1), "%", at_most=GROWTH_PERCENT),
        Figure(
            "descriptors more than before, after the traffic", after.descriptors - idle.descriptors, at_most=POOL_SIZE
        ),
        Figure("threads more than before", after.threads - idle.threads, at_most=0),
        Figure("sessions of the server", used, at_most=POOL_SIZE),
        *figures,
    ]


def sample(pid: int) -> Sample:
    """Return what a process uses."""
    return Sample(memory_bytes(pid), descriptors(pid), len(list(Path(f"/proc/{pid}/task").iterdir())))


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[list[int]]:
    """Let readers read and follow the feed; the list holds the numbers of their calls and of failures."""
    counts, stop = [0, 0], asyncio.Event()

    async def read(number: int) -> None:
        while not stop.is_set():
            # A session of its own for each round, so that connections are opened and closed.
            async with aiohttp.ClientSession(url) as session:
                for path in (*PATHS, "/events?wait=1" if number == 0 else "/health/ready"):
                    async with session.get(path) as response:
                        await response.read()
                    counts[0] += 1
                    counts[1] += response.status >= 500
                    await asyncio.sleep(PAUSE_SECONDS)

    tasks = [asyncio.create_task(read(number)) for number in range(CALLERS)]
    try:
        yield counts
    finally:
        stop.set()
        await asyncio.gather(*tasks)
