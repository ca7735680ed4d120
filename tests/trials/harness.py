"""Shared parts of the trials: a PostgreSQL and services in processes of their own, an observer, and figures with targets.

The observer is a caller in another process, which measures how a trial affects other callers.
"""

import asyncio
import http.client
import json
import math
import os
import select
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp

from service.embedded import embedded_server
from service.settings import Settings
from tests.benchmarks.servers import ROOT, SERVICE, START_SECONDS, Server, serving
from tests.benchmarks.usage import cpu_seconds

PAUSE_SECONDS: Final = 0.005
"""Pause between two calls of the observer, which detects longer stalls."""
ANSWER_SECONDS: Final = 60.0
"""Time after which the observer counts a call as failed."""
CHECK_SECONDS: Final = 300.0
"""Time that `python -m service check` may take."""
TIMES: Final = frozenset({"s", "ms", "/s", "%"})
"""The units of figures that depend on the machine."""
STALL_MS: Final = 50.0
"""Longest time for which a single request may delay all others."""
DISK: Final = Path("/var/tmp")
"""Used instead of /tmp, which may be in memory: commits must reach a disk."""


class Skipped(Exception):
    """A trial can't run here; the message gives the reason."""


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

    @property
    def is_time(self) -> bool:
        """Return whether the number depends on the speed of the machine, so that no test asserts it."""
        return self.unit in TIMES

    @property
    def target(self) -> str:
        """Return the target as text; empty if there is none."""
        if self.at_most is not None and self.at_most == self.at_least:
            return f"{self.at_most:,.6g}"
        if self.at_most is not None:
            return f"at most {self.at_most:,.6g}"
        return "" if self.at_least is None else f"at least {self.at_least:,.6g}"

    @property
    def number(self) -> str:
        """Return the value as text with its unit."""
        places = 0 if self.value == int(self.value if math.isfinite(self.value) else 0) else 2 if self.value < 1 else 1
        return f"{self.value:,.{places}f} {self.unit}".rstrip()

    def __str__(self) -> str:
        verdict = ("ok" if self.holds else "MISSED") if self.target else ""
        return f"  {self.what:<70} {self.number:>14} {self.target:<18} {verdict}".rstrip()


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
        return memory_bytes(self.pid)


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a temporary folder on a disk."""
    made = Path(tempfile.mkdtemp(prefix="enrollment-trial-", dir=DISK if DISK.is_dir() else None))
    # If this process is root, PostgreSQL runs under another account, which must be able to enter the folder.
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def server_of(settings: Mapping[str, object]) -> Server:
    """Return how to start a service with these settings of ``service.settings``."""
    return Server(
        "the service", SERVICE, environment=tuple((name.upper(), str(value)) for name, value in settings.items())
    )


@asynccontextmanager
async def running(**settings: object) -> AsyncIterator[Service]:
    """Run a service with these settings; it is ready, and its database is empty."""
    with (
        folder() as home,
        PostgreSQL(home / "postgresql").up() as postgresql,
        serving(server_of(settings), postgresql.url, home / "log") as process,
    ):
        yield Service(process.url, process.pid, postgresql.url, postgresql.data_dir)


class PostgreSQL:
    """A server that can be stopped and started again."""

    def __init__(self, data_dir: Path, options: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.url = ""
        self._options = options
        self._stack = ExitStack()

    @contextmanager
    def up(self) -> Iterator[Self]:
        """Run the server while the context lasts."""
        try:
            self.start()
            yield self
        finally:
            self._stack.close()

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self.url = self._stack.enter_context(embedded_server(self.data_dir, options=self._options))

    def backends(self) -> list[int]:
        """Return the processes of the server that serve connections to its database."""
        backends = []
        for pid in processes_of(self.data_dir)[1:]:
            with suppress(FileNotFoundError, ProcessLookupError):
                if b" enrollment " in Path(f"/proc/{pid}/cmdline").read_bytes():
                    backends.append(pid)
        return backends

    def is_running(self) -> bool:
        """Return whether the first process of the server runs."""
        try:
            os.kill(processes_of(self.data_dir)[0], 0)
        except (FileNotFoundError, ProcessLookupError):
            self._stack.close()
            return False
        return True

    def stop(self, sign: signal.Signals) -> None:
        """Stop the server: SIGINT is its fast stop, SIGQUIT the immediate one, which leaves no checkpoint."""
        os.kill(processes_of(self.data_dir)[0], sign)
        self._stack.close()


def processes_of(data_dir: Path) -> list[int]:
    """Return the first process of a server, and its children."""
    first = int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0])
    return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]


@contextmanager
def stopped(data_dir: Path) -> Iterator[None]:
    """Stop all processes of a server while the context lasts, then let them continue."""
    first = processes_of(data_dir)[0]
    os.kill(first, signal.SIGSTOP)
    # A stopped process starts no more children, so the list is complete.
    processes = processes_of(data_dir)
    try:
        for pid in processes[1:]:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(processes):
            os.kill(pid, signal.SIGCONT)


class Restarted:
    """A service on a port of its own, which a supervisor starts again whenever it has ended."""

    def __init__(self, database_url: str, log: Path, **settings: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        given = {name.upper(): str(value) for name, value in settings.items()}
        self._environment = {**inherited, **given, "DATABASE_URL": database_url, "PORT": str(port)}
        self.process: asyncio.subprocess.Process | None = None

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Self]:
        """Run the service while the context lasts; at the beginning it is ready."""
        keeping = asyncio.create_task(self._keep())
        try:
            async with aiohttp.ClientSession(self.url) as session, asyncio.timeout(START_SECONDS):
                while not await _is_ready(session):
                    await asyncio.sleep(0.05)
            yield self
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            self.kill()
            if self.process is not None:
                await self.process.wait()

    @property
    def pid(self) -> int:
        """Return the id of the current process."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End the process without warning."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def _keep(self) -> None:
        with self._log.open("ab") as log:
            while True:
                self.process = await asyncio.create_subprocess_exec(
                    *SERVICE,
                    cwd=ROOT,
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=log,
                )
                await self.process.wait()


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/health/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def descriptors(pid: int) -> int:
    """Return the number of open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def check(database_url: str) -> int:
    """Return the exit status of `python -m service check`."""
    process = await asyncio.create_subprocess_exec(
        *SERVICE,
        "check",
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(CHECK_SECONDS):
        return await process.wait()


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
        *(sys.executable, "-m", "tests.trials.harness", service.url, path, institution, body),
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
    """Return the response times of an observer without a trial."""
    async with observer(service, path, institution=institution, body=body) as found:
        await asyncio.sleep(seconds)
    return found


def observer_figures(found: Latencies, before: Latencies) -> list[Figure]:
    """Return the figures of an observer that the trial must not delay."""
    return [
        Figure("longest wait of the observer, before", before.longest, "ms"),
        Figure("longest wait of the observer, during the trial", found.longest, "ms", at_most=STALL_MS),
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
