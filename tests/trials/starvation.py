"""Readers beside as many callers who change: neither of the two starves."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks import wrk
from tests.trials.harness import Figure, Service, running

SIZE = 256
UNIT = "readers, and as many who change"
SECONDS: Final = 10
LOADS: Final = {"reads": "readers", "changes": "students"}
LEAST_PERCENT: Final = 20
"""Each kind keeps at least this part of its own speed; half of it would be exactly fair if both cost the same."""
LONGEST_SECONDS: Final = 4.0
"""Twice ADMISSION_SECONDS: no caller waits for longer."""


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Measure each kind of caller alone, and then both at the same time."""
    async with running() as service:
        alone = {kind: await load(service, kind, size, seed) for seed, kind in enumerate(LOADS, 1)}
        both = await asyncio.gather(*(load(service, kind, size, seed) for seed, kind in enumerate(LOADS, 3)))
    figures = []
    for kind, found in zip(LOADS, both, strict=True):
        share = 100 * _speed(found) / _speed(alone[kind])
        figures += [
            Figure(f"{kind} alone", _speed(alone[kind]), "/s"),
            Figure(f"{kind} beside the others", _speed(found), "/s"),
            Figure(f"{kind} beside the others, in parts of those alone", share, "%", at_least=LEAST_PERCENT),
            Figure(f"{kind} beside the others, p99", found.p99 / 1e6, "s"),
            Figure(f"{kind} beside the others, longest", found.longest / 1e6, "s", at_most=LONGEST_SECONDS),
            Figure(f"{kind} beside the others, refused or failed", sum(found.errors.values()), at_most=0),
        ]
    return figures


async def load(service: Service, kind: str, callers: int, seed: int) -> wrk.Result:
    """Let callers of one kind send requests, each as soon as it has an answer."""
    script = str(Path(__file__).parent / LOADS[kind])
    command = wrk.command(service.url, script, connections=callers, seconds=SECONDS, options={"seed": seed})
    return await asyncio.to_thread(wrk.run, command)


def _speed(result: wrk.Result) -> float:
    return result.answered / result.microseconds * 1e6
