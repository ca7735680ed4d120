"""Readers who long-poll the feed, 10,000 at once: every event wakes all of them."""

import asyncio
import json
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.trials.harness import Figure, Latencies, Service, observer, quiet, running

SIZE = 10_000
UNIT = "readers"
READER_KB = 50
"""Most memory of the service for each reader who waits."""
CONNECTING_PAUSE_SECONDS = 0.001
EVENTS = 10
RATIO = 2.0
"""The p99 of others at most doubles."""
WAIT_SECONDS = 30
IDLE_SECONDS = 10
ANSWER_SECONDS = 60
OBSERVED_PATH = "/courses?limit=1"
"""The path that the observer reads; like the feed, it needs a database connection."""


@dataclass(slots=True)
class Crowd:
    """Readers of the feed, each of which requests the next events as soon as it has a response."""

    service: Service
    readers: int
    waiting: int = 0
    answers: int = 0
    failed: int = 0

    async def read(self, cursor: str) -> None:
        """Follow the feed from a cursor until cancelled."""
        reader, writer = await asyncio.open_connection(*self.service.address)
        try:
            while True:
                writer.write(
                    f"GET /events?wait={WAIT_SECONDS}&after={cursor} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
                self.waiting += 1
                head = await reader.readuntil(b"\r\n\r\n")
                self.waiting -= 1
                [length] = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                body = await reader.readexactly(int(length.split(b":")[1]))
                if not head.startswith(b"HTTP/1.1 200 "):
                    self.failed += 1
                    return
                page = json.loads(body)
                # A reader who has waited for WAIT_SECONDS gets an answer without events.
                self.answers += bool(page["items"])
                cursor = page["next"]
        finally:
            writer.close()

    async def until_answered(self, count: int) -> None:
        """Wait until ``count`` responses have arrived and every reader has sent its next request."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while self.answers < count or self.waiting < self.readers - self.failed:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def crowd(service: Service, cursor: str, readers: int) -> AsyncIterator[Crowd]:
    """Let readers wait at a cursor while the context lasts."""
    found = Crowd(service, readers)
    tasks = []
    try:
        for _ in range(readers):
            tasks.append(asyncio.create_task(found.read(cursor)))
            # Spread out, because the cost of accepting connections is not measured here.
            await asyncio.sleep(CONNECTING_PAUSE_SECONDS)
        await found.until_answered(0)
        await asyncio.sleep(1)
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Let the readers wait, then create one event after the other while another caller reads."""
    found = Latencies()
    spans: list[float] = []
    loop = asyncio.get_running_loop()
    async with running() as service, aiohttp.ClientSession(service.url) as session:
        await event(session)
        before = await quiet(service, OBSERVED_PATH, seconds=5)
        async with session.get("/events/head") as response:
            cursor = (await response.json())["next"]
        memory = service.memory_bytes()
        async with crowd(service, cursor, size) as readers:
            held = (service.memory_bytes() - memory) / size / 1e3
            used = service.cpu_seconds()
            await asyncio.sleep(IDLE_SECONDS)
            idle = (service.cpu_seconds() - used) / IDLE_SECONDS * 100
            for turn in range(EVENTS):
                async with observer(service, OBSERVED_PATH) as burst:
                    began = loop.time()
                    await event(session)
                    await readers.until_answered((turn + 1) * size)
                    spans.append(loop.time() - began)
                found.milliseconds += burst.milliseconds
                found.failed += burst.failed
                await asyncio.sleep(0.3)
        return [
            Figure("memory of the service for each reader", held, "kB", at_most=READER_KB),
            Figure("processor time without events", idle, "%", at_most=3),
            Figure("p99 of others, before", before.p99, "ms"),
            Figure("p99 of others, while the readers are answered", found.p99, "ms", at_most=RATIO * before.p99),
            Figure("longest wait of others", found.longest, "ms"),
            Figure("failed calls of others", found.failed, at_most=0),
            Figure("from the event to the last reader's next request, median", statistics.median(spans) * 1000, "ms"),
            Figure("responses to readers for each event", readers.answers / EVENTS, at_least=size, at_most=size),
            Figure("readers refused", readers.failed, at_most=0),
        ]


async def event(session: aiohttp.ClientSession) -> None:
    """Create one event."""
    async with session.post("/courses", json={"code": "C1", "title": "Course"}) as response:
        assert response.status == 201, response
