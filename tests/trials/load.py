"""Callers who enroll during a trial, a reader who follows the feed, and the check of what they were told."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

CALLERS: Final = 16
PAUSE_SECONDS: Final = 0.05
"""Pause of a caller after an error."""
PAGE: Final = 500
LONGEST_CALL: Final = aiohttp.ClientTimeout(total=30)


@dataclass(slots=True)
class Load:
    """What the callers and the reader of the feed have seen."""

    url: str
    course: int = 0
    acknowledged: list[int] = field(default_factory=list)
    """The students whose enrollment the service has confirmed."""
    unknown: int = 0
    """Enrollments of which the service could not say whether they were made."""
    answers: list[tuple[float, float, bool]] = field(default_factory=list)
    """By call: the time at its start and end, and whether it succeeded."""
    read: list[int] = field(default_factory=list)
    """The positions of the events that the reader has read since it began or had to begin again."""
    expired: int = 0
    """How often the reader was told by 410 that its cursor is not part of the history."""

    @property
    def error_seconds(self) -> float:
        """Return the time from the first call that failed to the end of the last one."""
        failed = [(start, end) for start, end, succeeded in self.answers if not succeeded]
        return max(end for _, end in failed) - min(start for start, _ in failed) if failed else 0.0

    @property
    def waited(self) -> list[float]:
        """Return the seconds of the calls that took longer than half a second, the longest first."""
        return sorted((end - start for start, end, _ in self.answers if end - start > 0.5), reverse=True)


@asynccontextmanager
async def under_load(url: str, callers: int = CALLERS, *, reader: bool = True) -> AsyncIterator[Load]:
    """Let callers enroll new students in one course, and a reader follow the feed, while the context lasts."""
    load, stop = Load(url), asyncio.Event()
    async with aiohttp.ClientSession(url, timeout=LONGEST_CALL) as session:
        load.course = (await _post(session, "/courses", {"code": "TRIAL", "title": "Trial", "credits": 0}))["id"]
        tasks = [asyncio.create_task(_enroll(session, load, stop)) for _ in range(callers)]
        if reader:
            tasks.append(asyncio.create_task(_follow(session, load, stop)))
        try:
            yield load
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def _post(session: aiohttp.ClientSession, path: str, body: object) -> dict[str, Any]:
    async with session.post(path, json=body) as response:
        answer: dict[str, Any] = await response.json()
        if response.status != 201:
            raise Refused(answer.get("code", ""))
        return answer


class Refused(Exception):
    """The service returned an error; the message is its code."""


async def _enroll(session: aiohttp.ClientSession, load: Load, stop: asyncio.Event) -> None:
    while not stop.is_set():
        started, succeeded = time.monotonic(), False
        email = f"{id(load)}.{time.monotonic_ns()}@campus.example"
        try:
            student = await _post(session, "/students", {"given_name": "Ada", "family_name": "Trial", "email": email})
            await _post(session, f"/students/{student['id']}/enroll", {"course_ids": [load.course]})
            load.acknowledged.append(student["id"])
            succeeded = True
        except Refused as refusal:
            load.unknown += str(refusal) == "outcome_unknown"
        except (aiohttp.ClientError, TimeoutError):
            load.unknown += 1
        load.answers.append((started, time.monotonic(), succeeded))
        if not succeeded:
            await asyncio.sleep(PAUSE_SECONDS)


async def _follow(session: aiohttp.ClientSession, load: Load, stop: asyncio.Event) -> None:
    """Follow the feed from its beginning, and begin again when the cursor has expired."""
    after = ""
    while not stop.is_set():
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"/events?limit={PAGE}&wait=1{after}") as response:
                page = await response.json()
            if response.status == 410:
                load.expired += 1
                load.read.clear()
                after = ""
            elif response.status == 200:
                load.read += [event["position"] for event in page["items"]]
                after = f"&after={page['next']}"
                continue
        await asyncio.sleep(PAUSE_SECONDS)


async def lost(load: Load) -> int:
    """Return how many acknowledged enrollments the service no longer has."""
    found = {item["student_id"] async for item in _items(load.url, f"/courses/{load.course}/students", "cursor")}
    return len(set(load.acknowledged) - found)


async def gaps(load: Load) -> int:
    """Read the whole feed and return how many positions are missing."""
    positions = [event["position"] async for event in _items(load.url, "/events", "after")]
    return max(positions, default=0) - len(set(positions))


async def _items(url: str, path: str, cursor: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the items of all pages; ``cursor`` names the parameter of the next page."""
    after = ""
    async with aiohttp.ClientSession(url, timeout=LONGEST_CALL, raise_for_status=True) as session:
        while True:
            async with session.get(f"{path}?limit={PAGE}{after}") as response:
                page = await response.json()
            for item in page["items"]:
                yield item
            if page["next"] is None or not page["items"]:
                return
            after = f"&{cursor}={page['next']}"
