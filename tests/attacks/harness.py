"""Shared parts of the attacks: a service in its own process, an observer, and figures with targets.

The observer is a caller in another process, which measures how an attack affects other callers.
"""

import asyncio
import http.client
import json
import math
import select
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service.embedded import embedded_server
from tests.benchmarks.servers import ROOT, SERVICE, Server, serving
from tests.benchmarks.usage import cpu_seconds

PAUSE_SECONDS: Final = 0.005
"""Pause between two calls of the observer, which detects longer stalls."""
ANSWER_SECONDS: Final = 60.0
"""Time after which the observer counts a call as failed."""
STALL_MS: Final = 50.0
"""Longest time for which a single request may delay all others."""
DISK: Final = Path("/var/tmp")
"""Used instead of /tmp, which may be in memory: commits must reach a disk."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number and its target; a number without a target is for information."""

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool:
        """Return whether the target is met."""
        if math.isnan(self.value):
            return False
        above = self.at_most is not None and self.value > self.at_most
        return not above and (self.at_least is None or self.value >= self.at_least)

    def __str__(self) -> str:
        target = ""
        if self.at_most is not None:
            target = f"at most {self.at_most:,.6g}"
        elif self.at_least is not None:
            target = f"at least {self.at_least:,.6g}"
        verdict = ("ok" if self.holds else "MISSED") if target else ""
        return f"  {self.what:<60} {self.value:>12,.1f} {self.unit:<6} {target:<18} {verdict}".rstrip()


@dataclass(frozen=True, slots=True)
class Service:
    """A service in a separate process, with its own PostgreSQL."""

    url: str
    pid: int
    database_url: str
    data_dir: Path
    """The folder of the embedded server; ``cluster/postmaster.pid`` contains its process id."""

    @property
    def address(self) -> tuple[str, int]:
        """Return the host and the port."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def cpu_seconds(self) -> float:
        """Return the processor time that the service has used so far, without PostgreSQL."""
        return cpu_seconds(self.pid)

    def memory_bytes(self) -> int:
        """Return the resident memory of the service."""
        [line] = [
            line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith("VmRSS")
        ]
        return int(line.split()[1]) * 1024


@asynccontextmanager
async def attacked(**settings: object) -> AsyncIterator[Service]:
    """Run a service with these settings of ``service.settings``; it is ready, and its database is empty."""
    folder = Path(tempfile.mkdtemp(prefix="enrollment-attack-", dir=DISK if DISK.is_dir() else None))
    # If this process is root, PostgreSQL runs under another account, which must be able to enter the folder.
    folder.chmod(0o711)
    environment = tuple((name.upper(), str(value)) for name, value in settings.items())
    try:
        data_dir = folder / "postgresql"
        with (
            embedded_server(data_dir) as database_url,
            serving(Server("the service", SERVICE, environment=environment), database_url, folder / "log") as running,
        ):
            yield Service(running.url, running.pid, database_url, data_dir)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Latencies:
    """The response times of an observer; filled when ``observer`` ends."""

    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0
    """Calls without a 200 response."""

    @property
    def p99(self) -> float:
        """Return the 99th percentile in milliseconds, or NaN with fewer than two calls."""
        if len(self.milliseconds) < 2:
            return math.nan
        return statistics.quantiles(self.milliseconds, n=100, method="inclusive")[98]

    @property
    def longest(self) -> float:
        """Return the longest time in milliseconds: the longest stall of the event loop, plus the time of a call."""
        return max(self.milliseconds, default=math.nan)


@asynccontextmanager
async def observer(
    service: Service, path: str = "/health/live", *, institution: str = "", body: str = ""
) -> AsyncIterator[Latencies]:
    """Call a path repeatedly from a separate process while the context lasts; with a body, send a PATCH."""
    found = Latencies()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.attacks.harness", service.url, path, institution, body),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield found
        out, _ = await process.communicate(b"\n")
        found.milliseconds, found.failed = json.loads(out)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def quiet(
    service: Service, path: str = "/health/live", seconds: float = 2.0, *, institution: str = "", body: str = ""
) -> Latencies:
    """Return the response times of an observer without an attack."""
    async with observer(service, path, institution=institution, body=body) as found:
        await asyncio.sleep(seconds)
    return found


def observer_figures(found: Latencies, before: Latencies) -> list[Figure]:
    """Return the figures of an observer that the attack must not delay."""
    return [
        Figure("longest wait of the observer, before the attack", before.longest, "ms"),
        Figure("longest wait of the observer, during the attack", found.longest, "ms", at_most=STALL_MS),
        Figure("failed calls of the observer", found.failed, at_most=0),
    ]


def observe(url: str, path: str, institution: str, body: str) -> None:
    """Call a path until a line arrives on standard input; print "begun" first, and the durations at the end."""
    parts = urlsplit(url)
    headers = {"X-Institution": institution} if institution else {}
    if body:
        headers["Content-Type"] = "application/json"
    taken: list[float] = []
    failed = 0
    connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS)
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS if taken else 0)[0]:
        began = time.perf_counter()
        try:
            connection.request("PATCH" if body else "GET", path, body or None, headers)
            with connection.getresponse() as response:
                response.read()
                failed += response.status != 200
        except (OSError, http.client.HTTPException):
            failed += 1
            connection.close()
        taken.append((time.perf_counter() - began) * 1000)
        if len(taken) == 1:
            # The first call connects and does not count.
            print("begun", flush=True)
    print(json.dumps([taken[1:], failed]))


if __name__ == "__main__":
    observe(*sys.argv[1:])
