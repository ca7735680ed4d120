"""SIGTERM under load on 64 open connections, and a second one: every started request is answered."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from tests.trials.harness import Figure, Service, running

CONNECTIONS = 64
ROUNDS = 4
LOAD_SECONDS = 1.0
SECOND_SECONDS = 0.3
"""Time until the second signal, in every second round."""
REQUESTS = (
    b"GET /courses HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /terms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /courses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n%s"
    % b'{"code":"C1","title":"One"}',
    b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
)


async def run() -> Sequence[Figure]:
    """Stop a service under load, several times."""
    seen: Counter[str] = Counter()
    for turn in range(ROUNDS):
        async with running() as service:
            callers = [asyncio.create_task(load(service, number, seen)) for number in range(CONNECTIONS)]
            await asyncio.sleep(LOAD_SECONDS)
            os.kill(service.pid, signal.SIGTERM)
            if turn % 2:
                await asyncio.sleep(SECOND_SECONDS)
                with suppress(ProcessLookupError):
                    os.kill(service.pid, signal.SIGTERM)
            await asyncio.gather(*callers)
    return [
        Figure("requests answered", seen["answered"], at_least=ROUNDS * CONNECTIONS),
        Figure("started requests without a response", seen["unanswered"], at_most=0),
        Figure("responses with a status of 500 or above", seen["failed"], at_most=0),
        Figure("connections closed by header", seen["closed"], at_least=ROUNDS * CONNECTIONS),
    ]


async def load(service: Service, number: int, seen: Counter[str]) -> None:
    """Send requests on one connection until a response has ``Connection: close``, or no response arrives."""
    reader, writer = await asyncio.open_connection(*service.address)
    try:
        while True:
            writer.write(REQUESTS[number % len(REQUESTS)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            seen["answered"] += 1
            seen["failed"] += head.startswith(b"http/1.1 5")
            if b"connection: close" in head:
                seen["closed"] += 1
                return
            # Pauses of different length, so that some connections are idle when the signal arrives.
            await asyncio.sleep(0.001 * (number % 32))
    except (ConnectionError, asyncio.IncompleteReadError):
        seen["unanswered"] += 1
    finally:
        writer.close()
