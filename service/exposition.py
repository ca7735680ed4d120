"""Metrics as Prometheus text: those of this process, or of all processes of a service with workers, in one answer."""

import asyncio
import json
import mmap
import platform
import resource
import struct
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service import __version__, metrics
from service.metrics import Snapshot

PUBLISH_SECONDS: Final = 1.0
"""How often a worker publishes its metrics for the others: far more often than they are read."""

LOOK_SECONDS: Final = 1.0
"""How long an answer waits for the database; without it, the other metrics are worth more than a late answer."""

LOOK_INTERVAL: Final = 5.0
"""Least time between two looks at the database: whoever reads the metrics more often gets the last ones."""

PAGE_BYTES: Final = 1 << 20
"""Memory for a snapshot, of which about 50 kB are used; the kernel provides memory only for pages that are written."""

LENGTH: Final = struct.Struct("=Q")

STATUS: Final = Path("/proc/self/statm")
DESCRIPTORS: Final = Path("/proc/self/fd")


class Board:
    """Memory that the workers of a service share, with the newest snapshot of each; it ends with them.

    If one worker dies, all are stopped: no page outlives its worker, and there are no files to clean up.
    Each worker writes its own two pages in turn, so that readers find a whole snapshot on the page that was written last.
    """

    def __init__(self, workers: int) -> None:
        """Allocate the memory; call this before the workers are forked."""
        self._workers = workers
        self._memory = mmap.mmap(-1, workers * 2 * PAGE_BYTES)
        self._newest = mmap.mmap(-1, workers)

    def publish(self, worker: int, snapshot: Snapshot) -> None:
        """Show the snapshot of a worker to all workers."""
        text = json.dumps(snapshot, separators=(",", ":")).encode()
        assert LENGTH.size + len(text) <= PAGE_BYTES, "labels have no bound"
        page = 1 - self._newest[worker]
        start = (2 * worker + page) * PAGE_BYTES
        self._memory[start + LENGTH.size : start + LENGTH.size + len(text)] = text
        self._memory[start : start + LENGTH.size] = LENGTH.pack(len(text))
        self._newest[worker] = page

    def read(self) -> list[Snapshot]:
        """Return the newest snapshot of each worker that has published one."""
        snapshots = []
        for worker in range(self._workers):
            start = (2 * worker + self._newest[worker]) * PAGE_BYTES
            [length] = LENGTH.unpack(self._memory[start : start + LENGTH.size])
            if length:
                snapshots.append(json.loads(self._memory[start + LENGTH.size : start + LENGTH.size + length]))
        return snapshots


class Exposition:
    """The metrics of a process, with those of the other workers."""

    def __init__(
        self,
        gauges: Callable[[], Snapshot],
        look: Callable[[], Awaitable[Snapshot]],
        place: tuple[Board, int] | None = None,
    ) -> None:
        """``gauges`` returns what this process reads for itself; ``look`` what it reads from the database.

        ``place`` is that of a worker: the board of all workers, and its number.
        """
        self._gauges = gauges
        self._look = look
        self._place = place
        self._looking: asyncio.Task[None] | None = None
        self._seen: Snapshot = {}
        self._seen_at = -LOOK_INTERVAL

    async def text(self) -> bytes:
        """Return all metrics as Prometheus text (format 0.0.4)."""
        await self._look_at_database()
        snapshots = [self._own()]
        if self._place is not None:
            # The own snapshot is published too: a process that is asked a moment later must not find smaller counts.
            board, worker = self._place
            board.publish(worker, snapshots[0])
            snapshots = board.read()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families({**metrics.merged(snapshots), **self._seen}))
        return generate_latest(registry)

    async def keep_published(self) -> None:
        """Publish the metrics of this process for the other workers, until cancelled."""
        while self._place is not None:
            board, worker = self._place
            board.publish(worker, self._own())
            await asyncio.sleep(PUBLISH_SECONDS)

    async def close(self) -> None:
        """Stop looking at the database."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _own(self) -> Snapshot:
        return {**metrics.snapshot(), **_of_system(), **self._gauges()}

    async def _look_at_database(self) -> None:
        """Look at the database unless that was done just now; a look that takes long goes on in the background."""
        now = asyncio.get_running_loop().time()
        if self._looking is None and now - self._seen_at >= LOOK_INTERVAL:
            self._looking = asyncio.create_task(self._see())
        if self._looking is not None:
            done, _ = await asyncio.wait([self._looking], timeout=LOOK_SECONDS)
            if done:
                self._looking, self._seen_at = None, now
            else:
                self._seen = _down()

    async def _see(self) -> None:
        try:
            self._seen = {**await self._look(), metrics.DATABASE_UP.name: [((), 1)]}
        except Exception:
            # Whatever went wrong is counted among the errors; the metrics must not fail with the database.
            self._seen = _down()


def _down() -> Snapshot:
    return {metrics.DATABASE_UP.name: [((), 0)]}


def _of_system() -> Snapshot:
    """Return what the operating system knows of this process, and its versions."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found: Snapshot = {
        metrics.PROCESSES.name: [((), 1)],
        metrics.CPU_SECONDS.name: [((), usage.ru_utime + usage.ru_stime)],
        metrics.BUILD.name: [((__version__, platform.python_version()), 1)],
    }
    if STATUS.exists():
        found[metrics.MEMORY.name] = [((), int(STATUS.read_text().split()[1]) * mmap.PAGESIZE)]
        found[metrics.DESCRIPTORS.name] = [((), len([*DESCRIPTORS.iterdir()]))]
    return found


class _Families(Collector):
    def __init__(self, values: Snapshot) -> None:
        self._values = values

    def collect(self) -> Iterable[Metric]:
        for family in (*metrics.COUNTED, *metrics.OF_PROCESS, *metrics.OF_DATABASE):
            values = self._values.get(family.name, [])
            labelled = [([str(each) for each in labels], value) for labels, value in values]
            if isinstance(family, metrics.Histogram):
                yield _histogram(family, labelled)
                continue
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            shown = kind(family.name, family.meaning, labels=family.labels)
            for labels, value in labelled:
                shown.add_metric(labels, value)
            yield shown


def _histogram(family: metrics.Histogram, values: list[tuple[list[str], list[float]]]) -> Metric:
    """Return a histogram, whose buckets Prometheus counts cumulatively."""
    shown = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
    bounds = [*[f"{bound:g}" for bound in family.bounds], "+Inf"]
    for labels, [*counts, total] in values:
        below, buckets = 0.0, []
        for bound, count in zip(bounds, counts, strict=True):
            below += count
            buckets.append((bound, below))
        shown.add_metric(labels, buckets, total)
    return shown
