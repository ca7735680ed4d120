"""100 connections that request large responses and never read them."""

import asyncio
import math
import socket
import time
from collections.abc import Sequence

from service.settings import Settings
from tests.trials.harness import Figure, Service, observer, observer_figures, quiet, running

CONNECTIONS = 100
ANSWERS = 10
REQUEST = b"GET /docs/rapidoc-min.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMIT_SECONDS = Settings.model_fields["send_timeout"].default
WAIT_SECONDS = 2 * LIMIT_SECONDS


async def run() -> Sequence[Figure]:
    """Send the requests and wait until the service closes the connections."""
    async with running() as service:
        before = await quiet(service)
        memory = service.memory_bytes()
        callers = [ask(service) for _ in range(CONNECTIONS)]
        try:
            async with observer(service) as found:
                await asyncio.sleep(5)
                held = service.memory_bytes() - memory
                closed_after = await until_closed(callers)
        finally:
            for caller in callers:
                caller.close()
        return [
            *observer_figures(found, before),
            Figure("memory held during the attack", held / 1e6, "MB"),
            Figure("memory held after the attack", (service.memory_bytes() - memory) / 1e6, "MB"),
            # The service checks for expired connections once a second.
            Figure("time until the last connection was closed", closed_after, "s", at_most=LIMIT_SECONDS + 3),
        ]


def ask(service: Service) -> socket.socket:
    """Open a connection and request more than its buffers can hold."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(service.address)
    caller.sendall(REQUEST * ANSWERS)
    return caller


async def until_closed(callers: Sequence[socket.socket]) -> float:
    """Return the seconds until all connections were reset, or NaN if some are still open at the end of the wait."""
    began = time.monotonic() - 5
    is_open = set(callers)
    while time.monotonic() - began < WAIT_SECONDS:
        is_open -= {caller for caller in is_open if caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)}
        if not is_open:
            return time.monotonic() - began
        await asyncio.sleep(0.1)
    return math.nan
