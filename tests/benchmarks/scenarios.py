"""What is measured: which loads on which servers, over which data. Pure descriptions; run.py carries them out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.data import CONFIGURED, GROWN, IDLE, RUSH, Campus
from tests.benchmarks.servers import ALL_PEERS, NOOP, OURS, TWO_PROCESSES, UNBATCHED, Server

USUAL: Final = (64, 256)
"""Connections of the scenarios that compare throughput; each server's better one counts."""
FEW: Final = (1, 4, 16)
"""Connections of a handful of callers, as most hours of the year have."""
FEW_ENROLL: Final = "few callers: enroll"
FEW_READ: Final = "few callers: read"
EVERY_NUMBER: Final = frozenset({"rush", "batching", FEW_ENROLL, FEW_READ})
"""Scenarios where every number of connections is of interest, not the best alone."""
BULK_ITEMS: Final = 1000


@dataclass(frozen=True, slots=True)
class Load:
    """A script of load/ with so many connections, and what is said of it in the ledger."""

    scenario: str
    script: str
    connections: tuple[int, ...] = USUAL
    items: int = 1
    """What one request asks for, where throughput counts that."""
    share: float = 1.0
    """How long, as a part of what the command line says."""


@dataclass(frozen=True, slots=True)
class Case:
    """A server over a campus, under loads one after the other.

    After a load that ``writes``, the next one gets a database and a process of its own.
    """

    server: Server
    campus: Campus
    loads: tuple[Load, ...]
    writes: bool = False
    label: str | None = None
    """What the ledger calls the server, where its name alone does not say what was measured."""

    @property
    def name(self) -> str:
        """What the ledger calls the server."""
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
    """Name all scenarios; ``largest`` is up to how many standing enrollments growth goes."""
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
            Case(server, IDLE, (Load(name, script, FEW),), writes=name == FEW_ENROLL)
            for name, script in ((FEW_ENROLL, "enroll"), (FEW_READ, "student_courses"))
            for server in (OURS, *ALL_PEERS)
        ],
        "idle": [
            Case(server, IDLE, (Load("idle", "enroll", (1,), share=0.5),), writes=True)
            # In turns, so that what changes with time is no difference between them.
            for server in (OURS, UNBATCHED, UNBATCHED, OURS) * 2
        ],
        "growth": [
            Case(
                OURS,
                GROWN[size],
                # Few requests, so that what they add is small beside what stands.
                (Load(f"growth: {verb}", script, (64,), share=0.5),),
                writes=verb == "enroll",
                label=f"ours, {size:,} enrollments",
            )
            for verb, script in (("enroll", "enroll"), ("read", "student_courses"))
            # In turns, as above.
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
    """Divide the loads of a case, with their connections, among databases and processes.

    ``chosen`` is of scenarios and servers the one number of connections to go on with.
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
