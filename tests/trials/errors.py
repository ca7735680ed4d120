"""Requests with 100,000 errors: invalid ids in bulk, and unknown members."""

import asyncio
import json
from collections.abc import Sequence

import aiohttp

from tests.trials.harness import STALL_MS, Figure, observer, observer_figures, quiet, running

TIMES = 20
PAUSE_SECONDS = 0.02
"""Longer than the pause between two calls of the observer."""

BODIES = {
    "1,000 items of 100 invalid ids": {"items": [{"student_id": 1, "course_ids": [-1] * 100}] * 1000},
    "1,000 items with an invalid id at the end": {"items": [{"student_id": 1, "course_ids": [1] * 99 + [-1]}] * 1000},
    "1,000 items, invalid in every member": {
        "items": [{"student_id": "x", "course_ids": ["x"] * 100, "mode": 1, "on_full": 2, "other": 3}] * 1000
    },
    "110,000 unknown members": {f"{number:x}": 1 for number in range(110_000)},
    "9,000 unknown members": {f"{number:x}": 1 for number in range(9_000)},
}


async def run() -> Sequence[Figure]:
    """Send each body several times."""
    figures: list[Figure] = []
    async with running() as service, aiohttp.ClientSession() as session:
        before = await quiet(service)
        for name, body in BODIES.items():
            used = service.cpu_seconds()
            data = json.dumps(body, separators=(",", ":")).encode()
            async with observer(service) as found:
                for _ in range(TIMES):
                    headers = {"Content-Type": "application/json"}
                    async with session.post(f"{service.url}/enrollments", data=data, headers=headers) as response:
                        answer = await response.read()
                    await asyncio.sleep(PAUSE_SECONDS)
            per_request = (service.cpu_seconds() - used) / TIMES
            problem = json.loads(answer)
            figures += [
                Figure(f"{name}: body", len(data) / 1000, "kB"),
                Figure(f"{name}: status", response.status, at_least=422),
                Figure(f"{name}: errors in the response", len(problem["errors"]), at_most=100),
                Figure(f"{name}: response", len(answer) / 1000, "kB"),
                Figure(f"{name}: processor time for each request", per_request * 1000, "ms", at_most=STALL_MS),
                *observer_figures(found, before),
            ]
    return figures
