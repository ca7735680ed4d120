"""Compressed bodies of 1 MB that unpack to 1 GB, sent to an endpoint that takes a body and to paths that take none."""

import asyncio
import zlib
from collections.abc import Sequence

from tests.trials.harness import Figure, Service, observer, observer_figures, quiet, running

UNPACKED_BYTES = 1 << 30
AT_ONCE = 5


async def run() -> Sequence[Figure]:
    """Send the bodies one after the other, then several at once."""
    bombs = {"gzip": bomb(16 + zlib.MAX_WBITS), "deflate": bomb(zlib.MAX_WBITS)}
    async with running() as service:
        before = await quiet(service)
        used = service.cpu_seconds()
        statuses: set[int] = set()
        async with observer(service) as found:
            for encoding, data in bombs.items():
                for target in ("POST /students", "POST /nothing", "GET /students", "POST /health/live"):
                    statuses.add(await send(service, target, encoding, data))
            statuses.update(
                await asyncio.gather(*(send(service, "POST /nothing", "gzip", bombs["gzip"]) for _ in range(AT_ONCE)))
            )
        return [
            *observer_figures(found, before),
            Figure("processor time of the service", service.cpu_seconds() - used, "s", at_most=1.0),
            Figure("responses other than the expected problems", len(statuses - {404, 405, 413, 415})),
        ]


def bomb(window: int) -> bytes:
    """Return a compressed gigabyte of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    block = bytes(1 << 20)
    packed = [packer.compress(block) for _ in range(UNPACKED_BYTES // len(block))]
    return b"".join([*packed, packer.flush()])


async def send(service: Service, target: str, encoding: str, data: bytes) -> int:
    """Send a body and return the status, or 0 if the connection ends without a response."""
    reader, writer = await asyncio.open_connection(*service.address)
    try:
        writer.write(
            f"{target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        line = await asyncio.wait_for(reader.readline(), 60)
        return int(line.split()[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()
