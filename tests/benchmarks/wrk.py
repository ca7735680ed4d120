"""The load: one thread of wrk with a script of load/, and its result."""

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

SCRIPTS: Final = Path(__file__).parent / "load"
MARK: Final = "RESULT "
TIMEOUT_SECONDS: Final = 60
"""Longest time for a response; the 2 seconds that wrk allows by default would count slow responses as lost."""


class Result(BaseModel):
    """The counters of a run of wrk; times are in microseconds.

    wrk corrects the percentiles: for a response that took longer than twice the mean, it adds the latencies that a
    caller who did not wait would have had in the meantime.
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
        """Return the number of responses with a status below 400."""
        return self.requests - self.status

    @property
    def errors(self) -> dict[str, int]:
        """Return the number of errors by kind; ``status`` counts responses of 400 and above."""
        kinds = ("connect", "read", "write", "status", "timeout")
        return {kind: count for kind in kinds if (count := getattr(self, kind))}


class LoadFailed(Exception):
    """The load failed; the message contains the output of wrk."""


def command(url: str, script: str, *, connections: int, seconds: int, options: Mapping[str, int]) -> list[str]:
    """Return the command of a load."""
    return [
        "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={seconds}s",
        f"--timeout={TIMEOUT_SECONDS}s",
        f"--script={SCRIPTS / script}.lua",
        url,
        "--",
        *(f"{name}={value}" for name, value in options.items()),
    ]


def run(arguments: list[str]) -> Result:
    """Run a load and return its result; raise ``LoadFailed`` if wrk fails."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    result = parse(done.stdout)
    if done.returncode != 0 or result is None:
        raise LoadFailed(f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}")
    return result


def parse(output: str) -> Result | None:
    """Return the result in the output of wrk, or None if wrk did not finish."""
    for line in output.splitlines():
        if line.startswith(MARK):
            return Result.model_validate_json(line.removeprefix(MARK))
    return None
