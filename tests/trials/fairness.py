"""One institution in its rush, and another one on the same process, which reads and changes a little."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.benchmarks import wrk
from tests.trials.harness import Figure, Latencies, Service, quiet, running

CALLERS = (16, 256)
"""Numbers of callers of the institution in its rush."""
SECONDS = 8
CONNECTING_SECONDS = 2
RUSH = str(Path(__file__).parent / "rush")
READ = ("/students/1", "")
CHANGE = ("/students/1", '{"given_name":"Ada"}')
RATIO = 2.0
"""The p99 of the other institution at most doubles."""


async def run() -> Sequence[Figure]:
    """Measure the other institution alone, and then beside the rush, in the same run."""
    figures = []
    async with running(auth="off", registry_schema="registry") as service:
        await prepare(service)
        for number, (what, (path, body)) in enumerate((("a read", READ), ("a change", CHANGE))):
            before = await quiet(service, path, SECONDS, institution="south", body=body)
            figures.append(Figure(f"{what}, p99 without a rush", before.p99, "ms"))
            for callers in CALLERS:
                async with rushing(service, callers, seed=callers + number) as answered:
                    found = await quiet(service, path, SECONDS, institution="south", body=body)
                figures += figures_of(what, callers, before, found)
                figures.append(Figure(f"students created by the rush of {callers}", answered[0], "/s"))
    return figures


async def prepare(service: Service) -> None:
    """Create the two institutions, and a student in the one that is not in its rush."""
    async with aiohttp.ClientSession(service.url) as session:
        for name in ("north", "south"):
            async with session.post("/institutions", json={"name": name, "display_name": name}) as response:
                assert response.status == 201, await response.text()
        student = {"given_name": "Ada", "family_name": "Byron", "email": "ada@campus.example"}
        async with session.post("/students", json=student, headers={"X-Institution": "south"}) as response:
            assert response.status == 201, await response.text()


@asynccontextmanager
async def rushing(service: Service, callers: int, *, seed: int) -> AsyncIterator[list[float]]:
    """Let callers create students of the other institution; at the end, the list holds their number per second."""
    seconds = CONNECTING_SECONDS + SECONDS + 1
    command = wrk.command(service.url, RUSH, connections=callers, seconds=seconds, options={"seed": seed})
    loading = asyncio.create_task(asyncio.to_thread(wrk.run, command))
    await asyncio.sleep(CONNECTING_SECONDS)
    answered: list[float] = []
    yield answered
    result = await loading
    answered.append(result.answered / result.microseconds * 1e6)


def figures_of(what: str, callers: int, before: Latencies, found: Latencies) -> list[Figure]:
    """Return what the rush did to the other institution."""
    return [
        Figure(f"{what}, p99 beside a rush of {callers}", found.p99, "ms"),
        Figure(f"{what}, ratio of the p99s", found.p99 / before.p99, "", at_most=RATIO),
        Figure(f"{what}, failed calls", found.failed, at_most=0),
    ]
