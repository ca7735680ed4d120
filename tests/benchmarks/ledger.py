"""The ledger: every measurement with its command, and the machine, versions and settings of the run."""

import platform
import re
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("aiohttp", "asyncpg", "pydantic", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One load on one server.

    ``throughput`` is the number of responses below 400 per second, or of items for bulk requests. Latencies are in
    milliseconds, CPU is in microseconds for each such response or item. ``state`` describes the database afterwards.
    """

    scenario: str
    server: str
    connections: int
    round: int
    started: datetime
    command: str
    seconds: float
    requests: int
    errors: dict[str, int] = field(default_factory=dict)
    throughput: float
    p50: float
    p99: float
    service_cpu: float | None = None
    postgres_cpu: float | None = None
    state: dict[str, int | float | bool | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All measurements of a run; ``commit`` is the commit of the working copy."""

    started: datetime
    command: str
    commit: str
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, str]
    measurements: list[Measurement] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the ledger as JSON."""
        path.write_bytes(LEDGER.dump_json(self, indent=1) + b"\n")


LEDGER: Final = TypeAdapter(Ledger)


def read(path: Path) -> Ledger:
    """Load a ledger that ``write`` saved."""
    return LEDGER.validate_json(path.read_bytes())


def begin(command: str, *, postgres: str, settings: dict[str, str], others: dict[str, str]) -> Ledger:
    """Return a new ledger without measurements."""
    return Ledger(
        started=now(),
        command=command,
        commit=_output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        machine=machine(),
        versions={
            "Python": platform.python_version(),
            "PostgreSQL": postgres,
            "wrk": (re.search(r"wrk (\S+)", _output_of("wrk", "-v")) or ["", "?"])[1],
            **{package: version(package) for package in PACKAGES},
            **others,
        },
        settings=settings,
    )


def now() -> datetime:
    """Return the current time, rounded to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def machine() -> dict[str, str]:
    """Return a description of the machine, without its name."""
    processors = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "processor": processors[0] if processors else platform.machine(),
        "cores": str(len(processors)),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "?",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _output_of(*command: str) -> str:
    # wrk prints its version with exit status 1.
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
