"""PostgreSQL frozen, behind a network that drops all packets or delays them by 200 ms, and out of connections."""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import asyncpg

from service.settings import Settings
from tests.benchmarks.servers import START_SECONDS
from tests.trials.harness import Figure, PostgreSQL, Restarted, descriptors, folder, stopped
from tests.wire import Wire, wired

SIZE = 60
UNIT = "seconds of each"
CALLERS: Final = 8
"""Callers for each kind of request; each sends its next request after a pause."""
PAUSE_SECONDS: Final = 0.02
WORK: Final = ("change", "read", "list")
HEALTH: Final = ("live", "ready")
PATHS: Final = {
    "change": ("POST", "/students"),
    "read": ("GET", "/courses"),
    "list": ("GET", "/students?limit=5"),
    "live": ("GET", "/health/live"),
    "ready": ("GET", "/health/ready"),
}
SUCCESS: Final = frozenset({200, 201})
REFUSED: Final = frozenset({503})
EVERYTHING: Final[Mapping[str, frozenset[int]]] = dict.fromkeys(PATHS, SUCCESS)
NOTHING: Final[Mapping[str, frozenset[int]]] = {**dict.fromkeys(PATHS, REFUSED), "live": SUCCESS}
"""By the kind of a call, the expected statuses."""
MAX_CONNECTIONS: Final = 30
POOL_SIZE: Final = Settings.model_fields["pool_size"].default
USUAL_SECONDS: Final = 5.0
"""How long the usual speed is measured, and that after the fault."""
RECOVERY_SECONDS: Final = 5.0
"""Time after the end of the fault within which the usual speed must be reached."""
USUAL_SPEED: Final = 0.8
"""Part of the usual speed that counts as full: two measurements on the same machine differ by as much."""
LATE_SECONDS: Final = 0.2
BUDGET_SECONDS: Final = sum(
    Settings.model_fields[name].default for name in ("admission_seconds", "acquire_timeout", "command_timeout")
)
"""The longest wait for an answer, as docs/operations.md promises it."""
GRACE_SECONDS: Final = 0.5
"""The callers, the service, the proxy and the server share the processors."""
CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one kind: when it began and ended, and its status; 0 is no response."""

    kind: str
    began: float
    ended: float
    status: int


@dataclass(slots=True)
class Seen:
    """The calls that have ended."""

    calls: list[Call] = field(default_factory=list)

    def during(self, start: float, end: float, *kinds: str) -> list[Call]:
        """Return the calls of some kinds that began and ended between two times."""
        return [call for call in self.calls if call.kind in kinds and start <= call.began and call.ended < end]

    def speed(self, start: float, end: float) -> float:
        """Return the number of reads and changes per second that succeeded between two times."""
        return sum(call.status < 300 for call in self.during(start, end, *WORK) if call.status) / (end - start)


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Expose a service to one fault after the other."""
    figures: list[Figure] = []
    options = {"max_connections": str(MAX_CONNECTIONS)}
    with folder() as home, PostgreSQL(home / "postgresql", options).up() as postgresql:
        async with wired(postgresql.url) as (wire, url), Restarted(url, home / "log").up() as service:
            for name, fault, expected in (
                ("frozen", _async(stopped(postgresql.data_dir)), NOTHING),
                ("black hole", _async(swallowing(wire)), NOTHING),
                ("slow network", _async(delaying(wire)), EVERYTHING),
                ("out of connections", hogging(postgresql.url), NOTHING),
            ):
                figures += await expose(name, fault, service, postgresql.url, size, expected)
    return figures


@asynccontextmanager
async def _async(context: AbstractContextManager[None]) -> AsyncIterator[None]:
    with context:
        yield


@contextmanager
def swallowing(wire: Wire) -> Iterator[None]:
    """Let every message vanish."""
    wire.swallows = True
    try:
        yield
    finally:
        wire.swallows = False


@contextmanager
def delaying(wire: Wire) -> Iterator[None]:
    """Let every round trip take longer."""
    wire.delay = LATE_SECONDS / 2
    try:
        yield
    finally:
        wire.delay = 0.0


@asynccontextmanager
async def hogging(url: str) -> AsyncIterator[None]:
    """Take every connection of the server, also those that the service has used."""
    ours = await asyncpg.connect(url)
    hogs = [ours]
    try:
        async with asyncio.timeout(START_SECONDS):
            while len(hogs) < MAX_CONNECTIONS:
                await ours.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'enrollment-service'"
                )
                with suppress(asyncpg.TooManyConnectionsError):
                    while True:
                        hogs.append(await asyncpg.connect(url))
        yield
    finally:
        for hog in hogs:
            hog.terminate()


async def expose(
    name: str,
    fault: AbstractAsyncContextManager[None],
    service: Restarted,
    database_url: str,
    seconds: float,
    expected: Mapping[str, frozenset[int]],
) -> list[Figure]:
    """Let the callers call before, during and after a fault, during which each kind of call has expected statuses."""
    pid = service.pid
    async with calling(service.url) as seen:
        await asyncio.sleep(1 + USUAL_SECONDS)
        opened, start = descriptors(pid), time.monotonic()
        usual = seen.speed(start - USUAL_SECONDS, start)
        async with fault:
            start = time.monotonic()
            await asyncio.sleep(seconds)
            end = time.monotonic()
        await asyncio.sleep(RECOVERY_SECONDS + USUAL_SECONDS)
        recovered = seen.speed(end + RECOVERY_SECONDS, time.monotonic())
        left, used = descriptors(pid) - opened, await sessions(database_url)
    assert service.pid == pid, "the service was restarted"
    # Calls that began before the end of the fault may end after it.
    waits = [call.ended - call.began for call in seen.calls if start <= call.began < end]
    figures = [
        Figure(f"{name}: longest wait for an answer", max(waits), "s", at_most=BUDGET_SECONDS + GRACE_SECONDS),
        Figure(
            f"{name}: speed from {RECOVERY_SECONDS:.0f} s after it, without a restart",
            100 * recovered / usual,
            "%",
            at_least=100 * USUAL_SPEED,
        ),
        Figure(f"{name}: descriptors of the service more than before", left, at_most=POOL_SIZE),
        Figure(f"{name}: sessions of the server after it", used, at_most=POOL_SIZE),
    ]
    for kinds in (WORK, *((kind,) for kind in HEALTH)):
        calls = seen.during(start, end, *kinds)
        wrong = sum(call.status not in expected[call.kind] for call in calls)
        what = "other calls" if kinds is WORK else f"calls of {PATHS[kinds[0]][1]}"
        what = f"{name}: unexpected statuses of {len(calls):,} {what}"
        figures.append(Figure(what, wrong if calls else math.nan, at_most=0))
    return figures


async def sessions(database_url: str) -> int:
    """Return the number of sessions of the service."""
    connection = await asyncpg.connect(database_url)
    try:
        number: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'enrollment-service'"
        )
        return number
    finally:
        await connection.close()


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Seen]:
    """Let callers send requests of each kind while the context lasts."""
    seen, stop = Seen(), asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=CALL_TIMEOUT, connector=connector) as session:
        callers = [_call(session, seen, stop, kind) for kind in WORK for _ in range(CALLERS)]
        tasks = [
            asyncio.create_task(each) for each in (*callers, *(_call(session, seen, stop, kind) for kind in HEALTH))
        ]
        try:
            yield seen
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def _call(session: aiohttp.ClientSession, seen: Seen, stop: asyncio.Event, kind: str) -> None:
    while not stop.is_set():
        method, path = PATHS[kind]
        body = None
        if method == "POST":
            body = {"given_name": "Ada", "family_name": "Trial", "email": f"{uuid.uuid4().hex}@campus.example"}
        began, status = time.monotonic(), 0
        try:
            async with session.request(method, path, json=body) as response:
                await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError):
            pass
        seen.calls.append(Call(kind, began, time.monotonic(), status))
        await asyncio.sleep(PAUSE_SECONDS)
