"""PostgreSQL frozen for 30 seconds: it keeps its connections but does not respond."""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.settings import Settings
from tests.trials.harness import Figure, Service, running

FROZEN_SECONDS = 30.0
CALLERS = 8
"""Callers for each kind of request; each sends its next request after a pause."""
PAUSE_SECONDS = 0.05
QUICK_SECONDS = 0.1
"""A generous limit for a response that needs no database."""
BODY = b'{"given_name":"Ada","family_name":"Byron","email":"%d.%d@campus.example"}'
KINDS = {
    "change": b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
    "read": b"GET /students/1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "list": b"GET /students HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@dataclass(slots=True)
class Seen:
    """The start of each request of one kind during the freeze, and its duration, in seconds."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    others: int = 0
    """Responses during the freeze with a status other than 503."""
    recovered: float = float("nan")
    """Seconds between the thaw and the first success."""


async def run() -> Sequence[Figure]:
    """Freeze all processes of PostgreSQL under load, then let them continue."""
    settings = Settings()
    budget = settings.admission_seconds + settings.acquire_timeout + settings.command_timeout
    found = {kind: Seen() for kind in KINDS}
    async with running() as service:
        frozen, thawed = asyncio.Event(), asyncio.Event()
        callers = [
            asyncio.create_task(ask(service, kind, number, found[kind], frozen, thawed))
            for kind in KINDS
            for number in range(CALLERS)
        ]
        await asyncio.sleep(1)
        with stopped(service):
            frozen.set()
            await asyncio.sleep(FROZEN_SECONDS)
        thawed.set()
        await asyncio.gather(*callers)
    figures = []
    for kind, seen in found.items():
        taken = [seconds for _, seconds in seen.answers]
        late = [seconds for began, seconds in seen.answers if began > budget]
        figures += [
            Figure(f"{kind}: longest wait for a 503", max(taken), "s", at_most=budget),
            Figure(f"{kind}: responses during the freeze", len(taken)),
            Figure(
                f"{kind}: median of those after {budget:.0f} s", statistics.median(late), "s", at_most=QUICK_SECONDS
            ),
            Figure(f"{kind}: responses during the freeze other than 503", seen.others, at_most=0),
            Figure(f"{kind}: first success after the thaw", seen.recovered, "s", at_most=budget),
        ]
    return figures


@contextmanager
def stopped(service: Service) -> Iterator[None]:
    """Stop the first process of PostgreSQL and all of its children while the context lasts, then let them continue."""
    first = int((service.data_dir / "cluster" / "postmaster.pid").read_text().split()[0])
    os.kill(first, signal.SIGSTOP)
    # A stopped process starts no more children, so the list is complete.
    children = [int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
    try:
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in (*children, first):
            os.kill(pid, signal.SIGCONT)


async def ask(
    service: Service, kind: str, number: int, seen: Seen, frozen: asyncio.Event, thawed: asyncio.Event
) -> None:
    """Send requests until one succeeds after the thaw."""
    reader, writer = await asyncio.open_connection(*service.address)
    start: float | None = None
    thaw: float | None = None
    try:
        for count in range(100_000):
            if start is None and frozen.is_set():
                start = time.monotonic()
            if thaw is None and thawed.is_set():
                thaw = time.monotonic()
            request = KINDS[kind]
            if kind == "change":
                body = BODY % (number, count)
                request %= (len(body), body)
            began = time.monotonic()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            taken = time.monotonic() - began
            success = head.startswith(b"http/1.1 2") or (kind == "read" and head.startswith(b"http/1.1 404"))
            if start is not None and not thawed.is_set():
                seen.answers.append((began - start, taken))
                seen.others += not head.startswith(b"http/1.1 503")
            elif thaw is not None and success:
                if not seen.recovered <= began + taken - thaw:
                    seen.recovered = began + taken - thaw
                return
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        writer.close()
