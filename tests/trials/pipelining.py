"""Callers who send 1,000 requests on one connection without waiting for the answers."""

import asyncio
from collections.abc import Sequence

from tests.trials.harness import Figure, Service, observer, quiet, running
from tests.trials.hostile import MEMORY_MB, MIN_P99_MS, OBSERVED_PATH, RATIO

SIZE = 20
UNIT = "callers"
REQUESTS = 1_000
ANSWER_SECONDS = 120.0
READ = b"GET /courses?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Let the callers send everything at once while another caller reads."""
    async with running() as service:
        before = await quiet(service, OBSERVED_PATH, 5.0)
        memory = service.memory_bytes()
        async with observer(service, OBSERVED_PATH) as found:
            answered = await asyncio.gather(*(pipeline(service) for _ in range(size)))
        return [
            Figure("answers to each caller, fewest", min(answered), at_least=REQUESTS),
            Figure(
                "memory of the service more than before",
                (service.memory_bytes() - memory) / 1e6,
                "MB",
                at_most=MEMORY_MB,
            ),
            Figure("p99 of others before", before.p99, "ms"),
            Figure("p99 of others meanwhile", found.p99, "ms", at_most=RATIO * max(before.p99, MIN_P99_MS)),
            Figure("failed calls of others", found.failed, at_most=0),
        ]


async def pipeline(service: Service) -> int:
    """Send all requests, and return the number of answers with status 200."""
    reader, writer = await asyncio.open_connection(*service.address)
    answered = 0
    try:
        writer.write(READ * REQUESTS)
        async with asyncio.timeout(ANSWER_SECONDS):
            for _ in range(REQUESTS):
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
                answered += head.startswith(b"http/1.1 200 ")
        return answered
    except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
        return answered
    finally:
        writer.close()
