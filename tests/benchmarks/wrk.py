"""Load: one thread of wrk with a script of load/, and what it tells when it is done."""

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

SCRIPTS: Final = Path(__file__).parent / "load"
MARK: Final = "RESULT "
TIMEOUT: Final = 60
"""Seconds that an answer may take; wrk's own 2 would count the slow ones as lost."""


class Result(BaseModel):
    """What a run of wrk has counted; times are in microseconds.

    The percentiles are wrk's: where an answer took longer than twice the mean, it adds those that a caller who did not
    wait would have had meanwhile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int
    microseconds: int
    bytes: int
    p50: int
    p99: int
    longest: int
    connect: int
    read: int
    write: int
    status: int
    timeout: int

    @property
    def answered(self) -> int:
        """The requests whose answer had a status below 400."""
        return self.requests - self.status

    @property
    def errors(self) -> dict[str, int]:
        """What went wrong, by kind; ``status`` are answers of 400 and above."""
        kinds = ("connect", "read", "write", "status", "timeout")
        return {kind: count for kind in kinds if (count := getattr(self, kind))}


class LoadFailed(Exception):
    """The load did not run to its end; the message is what wrk said."""


def command(url: str, script: str, *, connections: int, seconds: int, options: Mapping[str, int]) -> list[str]:
    """Write the command of a load."""
    return [
        "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={seconds}s",
        f"--timeout={TIMEOUT}s",
        f"--script={SCRIPTS / script}.lua",
        url,
        "--",
        *(f"{name}={value}" for name, value in options.items()),
    ]


def run(arguments: list[str]) -> Result:
    """Run a load to its end."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    result = parse(done.stdout)
    if done.returncode != 0 or result is None:
        raise LoadFailed(f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}")
    return result


def parse(output: str) -> Result | None:
    """Find the result in what wrk has printed; None where it did not get that far."""
    for line in output.splitlines():
        if line.startswith(MARK):
            return Result.model_validate_json(line.removeprefix(MARK))
    return None
