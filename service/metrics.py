"""What this process has done, as counters and histograms that every layer notes into.

Noting is a look-up in a dictionary and an addition, without a lock: all of it happens in one thread, the event loop's.
``service.exposition`` writes the families as Prometheus text. No label has unbounded values: routes are templates, and
neither ids nor institutions are labels.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Literal, Protocol, TypeAlias

Labels: TypeAlias = tuple[str | int, ...]

Snapshot: TypeAlias = dict[str, list[tuple[Labels, Any]]]
"""The values of each family by its name, with their labels: a number, or the buckets of a histogram and their sum."""

Purpose: TypeAlias = Literal["changes", "reads"]
"""What a batch, a connection or a statement is for: changes, which one transaction at a time makes, or reads."""


class Counter:
    """A number that only grows, for each combination of its labels."""

    kind: Final = "counter"

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name, self.meaning, self.labels = name, meaning, labels
        self._counts: dict[Labels, float] = {}
        COUNTED.append(self)

    def add(self, *labels: str | int, count: float = 1) -> None:
        """Add to the number of these labels."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def values(self) -> list[tuple[Labels, float]]:
        """Return the number of each combination of labels; a counter without labels begins with 0."""
        return list(self._counts.items()) if self.labels else [((), self._counts.get((), 0))]


class Histogram:
    """How often a value lay between two bounds, and the sum of the values, for each combination of its labels."""

    kind: Final = "histogram"

    def __init__(self, name: str, meaning: str, *labels: str, bounds: tuple[float, ...]) -> None:
        self.name, self.meaning, self.labels, self.bounds = name, meaning, labels, bounds
        self._series: dict[Labels, list[float]] = {}
        """The count of values up to each bound and above the last one, and then the sum."""
        COUNTED.append(self)

    def observe(self, value: float, *labels: str) -> None:
        """Add a value."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = [0.0] * (len(self.bounds) + 2)
        series[bisect_left(self.bounds, value)] += 1
        series[-1] += value

    def values(self) -> list[tuple[Labels, list[float]]]:
        """Return the counts and the sum of each combination of labels."""
        empty = [] if self.labels or self._series else [((), [0.0] * (len(self.bounds) + 2))]
        return [*self._series.items(), *empty]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is read when the metrics are."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    combine: Callable[[list[float]], float] = sum
    """How the numbers of several processes become one."""

    @property
    def kind(self) -> str:
        """The type of Prometheus; a number that the system counts is a counter."""
        return "counter" if self.name.endswith("_total") else "gauge"


@dataclass(slots=True)
class Last:
    """When something was done last, or when the process began."""

    at: float = field(default_factory=monotonic)

    def note(self) -> None:
        """Note that it was done now."""
        self.at = monotonic()

    def age(self) -> float:
        """Return the seconds since then."""
        return monotonic() - self.at


LAST_SWEEP: Final = Last()
"""The last sweep of the only institution."""

COUNTED: Final[list[Counter | Histogram]] = []
"""All counters and histograms, in the order in which they are written."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a request that nothing delays, about 1 ms, to the longest wait for a database that does not answer, about 10 s."""

SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Up to the default of BATCH_PAIRS; below 8 pairs, a batch may be optimistic."""

REQUESTS: Final = Counter(
    "enrollment_requests", "Requests answered, by route template, method and status.", "route", "method", "status"
)
REQUEST_SECONDS: Final = Histogram(
    "enrollment_request_seconds",
    "Time from the header of a request to its answer, by route template and method. Long polls and streams of /events wait on purpose.",
    "route",
    "method",
    bounds=SECONDS,
)
PROBLEMS: Final = Counter("enrollment_problems", "Answers that are problems, by the code of the problem.", "code")
REFUSALS: Final = Counter(
    "enrollment_refusals", "Reasons for which changes were refused, by code; a refused change has one or more.", "code"
)
EVENTS: Final = Counter(
    "enrollment_events", "Events written, by type: students enrolled, waitlisted, promoted, dropped and so on.", "type"
)
ERRORS: Final = Counter(
    "enrollment_errors", "Errors of the database and unexpected errors, by the name of the exception.", "kind"
)
RETRIES: Final = Counter(
    "enrollment_retries",
    "Transactions repeated: `lock_needed` under the lock, `one_by_one` since one change failed, `stale_plan` after a migration.",
    "reason",
)
BATCH_SIZE: Final = Histogram(
    "enrollment_batch_size", "Callers that share a transaction or a statement.", "purpose", bounds=SIZES
)
BATCH_SECONDS: Final = Histogram(
    "enrollment_batch_seconds",
    "Time that a batch takes, from its first statement to its outcome.",
    "purpose",
    bounds=SECONDS,
)
QUEUE_SECONDS: Final = Histogram(
    "enrollment_queue_seconds", "Longest wait of a caller of each batch before it began.", "purpose", bounds=SECONDS
)
LOCK_WAIT_SECONDS: Final = Histogram(
    "enrollment_lock_wait_seconds", "Time until a transaction has the write lock.", bounds=SECONDS
)
LOCK_SECONDS: Final = Histogram(
    "enrollment_lock_seconds", "Time for which a transaction holds the write lock, its commit included.", bounds=SECONDS
)
ROUND_TRIPS: Final = Counter("enrollment_round_trips", "Statements sent to the database.", "purpose")
POOL_SECONDS: Final = Histogram(
    "enrollment_pool_seconds", "Wait for a connection to the database.", "purpose", bounds=SECONDS
)
SWEEPS: Final = Counter("enrollment_sweeps", "Sweeps by result: `done`, `postponed` or `failed`.", "result")
DELIVERIES: Final = Counter(
    "enrollment_webhook_deliveries",
    "Attempts to deliver an event to a webhook by result: `delivered` or `failed`.",
    "result",
)
DELIVERY_SECONDS: Final = Histogram(
    "enrollment_webhook_delivery_seconds", "Time that an attempt to deliver an event takes.", bounds=(*SECONDS, 20.0)
)

QUEUED: Final = Gauge("enrollment_queued", "Callers that wait for a batch.", ("purpose",))
CONNECTIONS: Final = Gauge(
    "enrollment_pool_connections", "Connections to the database by state: `in_use` or `idle`.", ("state",)
)
POOL_SIZE: Final = Gauge("enrollment_pool_size", "Most connections to the database.")
POOL_WAITING: Final = Gauge("enrollment_pool_waiting", "Calls that wait for a connection to the database.")
READERS: Final = Gauge("enrollment_feed_readers", "Readers of the feed that wait for an event, streams included.")
STREAMS: Final = Gauge("enrollment_feed_streams", "Open streams of the feed.")
OLDEST_READER: Final = Gauge(
    "enrollment_feed_oldest_reader_seconds",
    "For how long the reader that has waited longest waits for an event.",
    (),
    max,
)
INSTITUTIONS: Final = Gauge("enrollment_institutions_in_memory", "Institutions whose services are in memory.")
SWEEP_LAG: Final = Gauge(
    "enrollment_sweep_lag_seconds",
    "Time since the last sweep; with a registry, of the institution that was swept longest ago.",
    (),
    min,
)
WEBHOOKS: Final = Gauge(
    "enrollment_webhooks",
    "Webhooks by state: `active`, `failing` or `stopped`; only from the process that delivers them.",
    ("state",),
)
PROCESSES: Final = Gauge("enrollment_processes", "Processes in this answer: those of one service with --workers.")
CPU_SECONDS: Final = Gauge("process_cpu_seconds_total", "Processor time that the processes have used.")
MEMORY: Final = Gauge("process_resident_memory_bytes", "Memory that the processes use.")
DESCRIPTORS: Final = Gauge("process_open_fds", "Files and sockets that the processes have open.")
BUILD: Final = Gauge("enrollment_build_info", "Always 1; the labels are the versions.", ("version", "python"), max)

DATABASE_UP: Final = Gauge("enrollment_database_up", "1 if the database has answered the last look at it, else 0.")
OLDEST_TRANSACTION: Final = Gauge(
    "enrollment_oldest_transaction_seconds", "Age of the oldest transaction in the database; 0 if there is none."
)
OLDEST_WRITE: Final = Gauge(
    "enrollment_oldest_write_seconds",
    "Age of the oldest transaction that writes or waits for the write lock; 0 if there is none.",
)
FEED_POSITION: Final = Gauge("enrollment_feed_position", "Position of the newest event. Not with a registry.")
WAITLISTED: Final = Gauge("enrollment_waitlisted", "Students on waitlists. Not with a registry.")
BLOCKED: Final = Gauge(
    "enrollment_blocked", "Waitlisted students who are blocked: a rule refuses them. Not with a registry."
)

OF_PROCESS: Final = (
    QUEUED,
    CONNECTIONS,
    POOL_SIZE,
    POOL_WAITING,
    READERS,
    STREAMS,
    OLDEST_READER,
    INSTITUTIONS,
    SWEEP_LAG,
    WEBHOOKS,
    PROCESSES,
    CPU_SECONDS,
    MEMORY,
    DESCRIPTORS,
    BUILD,
)
"""The gauges that each process reads for itself."""

OF_DATABASE: Final = (DATABASE_UP, OLDEST_TRANSACTION, OLDEST_WRITE, FEED_POSITION, WAITLISTED, BLOCKED)
"""The gauges that the process that is asked reads from the database; they hold for all processes."""

# A counter that appears with its first count has not grown for Prometheus: alerts would miss the first error.
PROBLEMS.add("internal_error", count=0)
for _reason in ("lock_needed", "one_by_one", "stale_plan"):
    RETRIES.add(_reason, count=0)
for _result in ("done", "postponed", "failed"):
    SWEEPS.add(_result, count=0)
for _result in ("delivered", "failed"):
    DELIVERIES.add(_result, count=0)

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def note_request(route: str, method: str, status: int, seconds: float) -> None:
    """Count an answered request; a method that no route has counts as ``other``."""
    if method not in METHODS:
        method = "other"
    REQUESTS.add(route, method, status)
    REQUEST_SECONDS.observe(seconds, route, method)


class Typed(Protocol):
    """An event of the feed, whose type is one of a few."""

    @property
    def type(self) -> str:
        """The type."""


def note_events(events: Iterable[Typed]) -> None:
    """Count the events of a committed transaction."""
    for each in events:
        EVENTS.add(each.type)


def snapshot() -> Snapshot:
    """Return the values of all counters and histograms as they are now."""
    return {family.name: [*family.values()] for family in COUNTED}


COMBINE: Final[Mapping[str, Callable[[list[float]], float]]] = {gauge.name: gauge.combine for gauge in OF_PROCESS}


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return one snapshot for those of several processes."""
    found: dict[str, dict[Labels, list[Any]]] = {}
    for each in snapshots:
        for name, values in each.items():
            family = found.setdefault(name, {})
            for labels, value in values:
                family.setdefault(tuple(labels), []).append(value)
    return {
        name: [(labels, _combined(name, values)) for labels, values in family.items()] for name, family in found.items()
    }


def _combined(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], list):
        return [sum(each) for each in zip(*values, strict=True)]
    return COMBINE.get(name, sum)(values)
