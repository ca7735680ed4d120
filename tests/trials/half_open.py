"""2,000 connections that send nothing, or half of a header."""

import asyncio
import math
import time
from collections.abc import Sequence

from service.settings import Settings
from tests.trials.harness import Figure, Service, observer, observer_figures, quiet, running

CONNECTIONS = 2_000
PAUSE_SECONDS = 0.001
LIMIT_SECONDS = Settings.model_fields["header_timeout"].default
WAIT_SECONDS = 6 * LIMIT_SECONDS


async def run() -> Sequence[Figure]:
    """Open the connections and wait until the service closes them."""
    async with running() as service:
        before = await quiet(service)
        async with observer(service) as found:
            holding = []
            for number in range(CONNECTIONS):
                holding.append(asyncio.create_task(hold(service, number)))
                # Spread out, because the cost of accepting connections is not measured here.
                await asyncio.sleep(PAUSE_SECONDS)
            seconds = await asyncio.gather(*holding)
        return [
            *observer_figures(found, before),
            Figure("connections still open after the wait", sum(map(math.isnan, seconds)), at_most=0),
            # The service checks for expired connections once a second.
            Figure("longest time that a connection stayed open", max(seconds), "s", at_most=LIMIT_SECONDS + 3),
        ]


async def hold(service: Service, number: int) -> float:
    """Return for how many seconds the service kept a connection open, or NaN if it did not close the connection."""
    reader, writer = await asyncio.open_connection(*service.address)
    began = time.monotonic()
    try:
        if number % 2:
            writer.write(b"GET /students HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
        async with asyncio.timeout(WAIT_SECONDS):
            await reader.read()
        return time.monotonic() - began
    except TimeoutError:
        return math.nan
    except ConnectionError:
        return time.monotonic() - began
    finally:
        writer.close()
