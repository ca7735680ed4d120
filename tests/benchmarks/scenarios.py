"""The scenarios: loads on servers over data. They are pure descriptions, which run.py executes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.data import CONFIGURED, GROWN, IDLE, RUSH, Campus
from tests.benchmarks.servers import ALL_PEERS, NOOP, OURS, TWO_PROCESSES, UNBATCHED, Server

USUAL: Final = (64, 256)
"""Numbers of connections in scenarios that compare throughput; the better one of each server counts."""
FEW: Final = (1, 4, 16)
"""Numbers of connections in most hours of the year."""
FEW_ENROLL: Final = "few callers: enroll"
FEW_READ: Final = "few callers: read"
EVERY_NUMBER: Final = frozenset({"rush", "batching", FEW_ENROLL, FEW_READ})
"""Scenarios whose results show every number of connections, not only the best one."""
BULK_ITEMS: Final = 1000


@dataclass(frozen=True, slots=True)
class Load:
    """A script of load/ with its numbers of connections, and its name in the ledger."""

    scenario: str
    script: str
    connections: tuple[int, ...] = USUAL
    items: int = 1
    """Number of items in one request, if the throughput counts items."""
    share: float = 1.0
    """Duration as a fraction of the ``--seconds`` of the command line."""


@dataclass(frozen=True, slots=True)
class Case:
    """A server over a campus, with loads that run one after the other.

    If the loads of a case write, each one gets a new database and a new process.
    """

    server: Server
    campus: Campus
    loads: tuple[Load, ...]
    writes: bool = False
    label: str | None = None
    """Name of the server in the ledger, if it differs from the name of ``server``."""

    @property
    def name(self) -> str:
        """Return the name of the server in the ledger."""
        return self.label or self.server.name


READS: Final = (
    Load("read a student's courses", "student_courses"),
    Load("read a course", "course"),
    Load("list 100 courses", "list"),
)
READS_OF_NOOP: Final = (Load("read a student's courses", "student_courses"),)
ENROLL: Final = (Load("enroll", "enroll"),)
MIX: Final = (Load("mix", "mix"),)
ENROLL_OF_PROCESSES: Final = (Load("processes: enroll", "enroll", (256,)),)
READ_OF_PROCESSES: Final = (Load("processes: read", "student_courses", (256,)),)
RULES_CONFIGURED: Final = "ours, rules configured"


def _batching(connections: int) -> tuple[Load, ...]:
    return (Load("batching", "enroll", (connections,)),)


def _rush(*connections: int) -> tuple[Load, ...]:
    return (Load("rush", "rush", connections, share=1.5),)


def scenarios(largest: int) -> dict[str, list[Case]]:
    """Return all scenarios by name; ``largest`` is the largest number of existing enrollments in growth."""
    return {
        "enroll": [
            Case(OURS, IDLE, ENROLL, writes=True),
            Case(OURS, CONFIGURED, ENROLL, writes=True, label=RULES_CONFIGURED),
            Case(UNBATCHED, IDLE, ENROLL, writes=True),
            Case(NOOP, IDLE, ENROLL),
            *(Case(peer, IDLE, ENROLL, writes=True) for peer in ALL_PEERS),
        ],
        "read": [
            Case(OURS, IDLE, READS),
            Case(UNBATCHED, IDLE, READS[:1]),
            Case(NOOP, IDLE, READS_OF_NOOP),
            *(Case(peer, IDLE, READS) for peer in ALL_PEERS),
        ],
        "mix": [
            Case(OURS, IDLE, MIX, writes=True),
            *(Case(peer, IDLE, MIX, writes=True) for peer in ALL_PEERS),
        ],
        "rush": [
            Case(OURS, RUSH, _rush(64, 256, 1024, 4096), writes=True),
            *(Case(peer, RUSH, _rush(256), writes=True) for peer in ALL_PEERS),
        ],
        "few": [
            Case(server, IDLE, (Load(name, script, connections),), writes=name == FEW_ENROLL)
            for name, script in ((FEW_ENROLL, "enroll"), (FEW_READ, "student_courses"))
            # With one caller, a process is faster or slower from its start: each server has three starts, interleaved.
            for connections in (FEW, FEW[:1], FEW[:1])
            for server in (OURS, *ALL_PEERS)
        ],
        "idle": [
            Case(server, IDLE, (Load("idle", "enroll", (1,), share=0.5),), writes=True)
            # Interleaved, so that changes of the machine over time affect both servers equally.
            for server in (OURS, UNBATCHED, UNBATCHED, OURS) * 2
        ],
        "growth": [
            Case(
                OURS,
                GROWN[size],
                # Short, so that the load adds few enrollments compared with the existing ones.
                (Load(f"growth: {verb}", script, (64,), share=0.5),),
                writes=verb == "enroll",
                label=f"ours, {size:,} enrollments",
            )
            for verb, script in (("enroll", "enroll"), ("read", "student_courses"))
            # Interleaved, as above.
            for size in (*GROWN, *reversed(GROWN))
            if size <= largest
        ],
        "bulk": [Case(OURS, IDLE, (Load("bulk", "bulk", (1, 2), items=BULK_ITEMS, share=2),), writes=True)],
        "batching": [
            Case(server, IDLE, _batching(connections), writes=True)
            for connections in (1, 8, 64, 512)
            for server in (OURS, UNBATCHED)
        ],
        "processes": [
            Case(server, IDLE, loads, writes=loads is ENROLL_OF_PROCESSES)
            for loads in (ENROLL_OF_PROCESSES, READ_OF_PROCESSES)
            for server in (OURS, TWO_PROCESSES)
        ],
    }


def steps(case: Case, chosen: Mapping[tuple[str, str], int]) -> Iterator[list[tuple[Load, int]]]:
    """Yield the loads of a case, with their connections, that share a database and a process.

    ``chosen`` maps scenarios and servers to the only number of connections to use.
    """
    loads = [
        (load, connections)
        for load in case.loads
        for connections in load.connections
        if chosen.get((load.scenario, case.name), connections) == connections
    ]
    if case.writes:
        yield from ([each] for each in loads)
    else:
        yield loads
