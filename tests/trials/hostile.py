"""Requests made to hurt: trickled headers and bodies, huge arrays, deep nesting, 10,000 parameters, conflicting lengths."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.settings import Settings
from tests.trials.harness import ANSWER_SECONDS, Figure, Service, observer, quiet, running

SIZE = 10
UNIT = "callers of each kind"
TRICKLE_SECONDS: Final = 1.0
"""Pause between two bytes of a trickled request."""
LIMIT_SECONDS: Final = max(Settings.model_fields[name].default for name in ("header_timeout", "body_timeout")) + 5.0
"""The service ends a trickled request after its time; it looks at each connection once a second."""
MEMORY_MB: Final = 32
"""Most memory that the service may use more after the second time: a fraction of the bodies that it was sent."""
RATIO: Final = 2.0
"""The p99 of others at most doubles."""
MIN_P99_MS: Final = 5.0
"""Shorter times vary by more than the ratio."""
OBSERVED_PATH: Final = "/courses?limit=1"
JSON_HEAD: Final = b"POST /enrollments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def posted(body: bytes) -> bytes:
    """Return a POST with a body."""
    return JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def nested(depth: int) -> bytes:
    """Return arrays within each other."""
    return b"[" * depth + b"]" * depth


@dataclass(frozen=True, slots=True)
class Hostile:
    """Bytes to send, and the statuses with which the service may answer them; 0 is a closed connection."""

    what: str
    sent: bytes
    statuses: frozenset[int]


AT_ONCE: Final = (
    Hostile("arrays of 10⁶ elements", posted(json.dumps({"items": [1] * 1_000_000}).encode()), frozenset({413})),
    Hostile(
        "arrays of 5·10⁵ elements, below the limit of the body",
        posted(b'{"items":[' + b"1," * 500_000 + b"1]}"),
        frozenset({413, 422}),
    ),
    Hostile(
        "ids of 100,000 digits",
        posted(b'{"items":[{"student_id":' + b"9" * 100_000 + b',"course_ids":[1]}]}'),
        frozenset({400, 422}),
    ),
    Hostile("nesting of depth 100,000", posted(nested(100_000)), frozenset({400, 422})),
    Hostile(
        "nesting of depth 100,000 in a member", posted(b'{"items":' + nested(100_000) + b"}"), frozenset({400, 422})
    ),
    Hostile(
        "10,000 query parameters",
        b"GET /students?" + b"&".join(b"p%d=1" % n for n in range(10_000)) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        frozenset({400, 414, 431}),
    ),
    Hostile(
        "1,000 query parameters",
        b"GET /students?" + b"&".join(b"p%d=1" % n for n in range(1_000)) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        frozenset({400, 422}),
    ),
    Hostile(
        "10,000 headers",
        b"GET /students HTTP/1.1\r\nHost: localhost\r\n"
        + b"".join(b"X-%d: 1\r\n" % n for n in range(10_000))
        + b"\r\n",
        frozenset({400, 431}),
    ),
    Hostile("two lengths", JSON_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", frozenset({400})),
    Hostile(
        "a length beside chunks",
        JSON_HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        frozenset({400}),
    ),
    Hostile("a negative length", JSON_HEAD + b"Content-Length: -1\r\n\r\n", frozenset({400})),
    Hostile(
        "chunks of a size that is not a number",
        JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        frozenset({400}),
    ),
)
TRICKLED: Final = (
    Hostile(
        "trickled headers", b"GET /students HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 1000, frozenset({0, 408})
    ),
    Hostile("trickled bodies", JSON_HEAD + b"Content-Length: 1000\r\n\r\n" + b" " * 1000, frozenset({408})),
)


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Let callers send everything at the same time, each kind several times, while another caller reads."""
    async with running() as service:
        before = await quiet(service, OBSERVED_PATH, 5.0)
        # A first time, so that the memory that all later requests share is there already.
        for each in AT_ONCE:
            await _wrong(service, each, size)
        memory = service.memory_bytes()
        async with observer(service, OBSERVED_PATH) as found:
            trickling = [asyncio.create_task(trickle(service, each)) for each in TRICKLED for _ in range(size)]
            wrong = [await _wrong(service, each, size) for each in AT_ONCE]
            slow = await asyncio.gather(*trickling)
        grown = (service.memory_bytes() - memory) / 1e6
        alive = (await quiet(service, OBSERVED_PATH, 1.0)).failed
    figures = [
        Figure(f"{each.what}: unexpected answers", count, at_most=0) for each, count in zip(AT_ONCE, wrong, strict=True)
    ]
    for number, each in enumerate(TRICKLED):
        ended = slow[number * size : (number + 1) * size]
        figures += [
            Figure(
                f"{each.what}: unexpected answers", sum(status not in each.statuses for status, _ in ended), at_most=0
            ),
            Figure(f"{each.what}: longest time", max(seconds for _, seconds in ended), "s", at_most=LIMIT_SECONDS),
        ]
    return [
        *figures,
        Figure("memory of the service more than before", grown, "MB", at_most=MEMORY_MB),
        Figure("p99 of others before", before.p99, "ms"),
        Figure("p99 of others meanwhile", found.p99, "ms", at_most=RATIO * max(before.p99, MIN_P99_MS)),
        Figure("failed calls of others", found.failed + alive, at_most=0),
    ]


async def _wrong(service: Service, hostile: Hostile, size: int) -> int:
    """Return how many callers, one after the other, got an unexpected answer."""
    return sum([await send(service.address, hostile.sent) not in hostile.statuses for _ in range(size)])


async def send(address: tuple[str, int], sent: bytes) -> int:
    """Send bytes and return the status of the answer, or 0 if the connection ends without one."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(sent)
        return await status_of(reader)
    finally:
        writer.close()


async def trickle(service: Service, hostile: Hostile) -> tuple[int, float]:
    """Send the end of a request byte by byte; return the status and the seconds until the service ended it."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection(*service.address)
    try:
        head, tail = hostile.sent[:-1000], hostile.sent[-1000:]
        writer.write(head)
        answer = asyncio.create_task(status_of(reader))
        for byte in tail:
            done, _ = await asyncio.wait({answer}, timeout=TRICKLE_SECONDS)
            if done:
                break
            writer.write(bytes([byte]))
        return await answer, time.monotonic() - began
    finally:
        writer.close()


async def status_of(reader: asyncio.StreamReader) -> int:
    """Return the status of an answer, or 0 if the connection ends without one."""
    try:
        line = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
    except ConnectionError:
        return 0
    return int(line.split()[1]) if line else 0
