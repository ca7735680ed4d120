"""Callers who repeat each change until it is answered, and the comparison of their ledger with the database."""

import asyncio
import bisect
import math
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import aiohttp
import asyncpg

from tests.trials.harness import Figure, check

CALLERS: Final = 16
COURSES: Final = 20
PAUSE_SECONDS: Final = 0.05
"""Pause of a caller after a call that failed."""
CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
PATIENCE_SECONDS: Final = 120.0
"""Time after which a caller gives up a change, which is then unanswered."""
REPEATED: Final = 500
"""The newest changes, which are repeated once more at the end."""


@dataclass(slots=True)
class Change:
    """A change that a caller asks for until it is answered."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: int = 0
    """The status of the answer; 0 if there is none."""
    answer: Any = None
    seconds: float = 0.0
    """From the first call to the answer."""


@dataclass(slots=True)
class Ledger:
    """What callers asked for, and what they were answered."""

    url: str
    courses: list[int] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    calls: list[tuple[float, float, bool]] = field(default_factory=list)
    """For each call the time of its start and its end, and whether it was answered."""
    statuses: Counter[int] = field(default_factory=Counter)
    """How often each status came; 0 is a call without a response."""

    def served_after(self, fault: float) -> float:
        """Return the seconds from a fault to the end of the first success that began after the first failure.

        The result is 0 if no call has failed since, and infinite if none has succeeded.
        """
        latest = self.calls[bisect.bisect_left(self.calls, fault, key=itemgetter(1)) :]
        failed = next((end for _, end, answered in latest if not answered), None)
        if failed is None:
            return 0.0
        return min((end for start, end, answered in latest if answered and start >= failed), default=math.inf) - fault

    async def ask(self, session: aiohttp.ClientSession, change: Change) -> None:
        """Send a change again and again until it is answered."""
        began = time.monotonic()
        self.changes.append(change)
        headers = {"Idempotency-Key": change.key} if change.method == "POST" else {}
        while time.monotonic() - began < PATIENCE_SECONDS:
            start = time.monotonic()
            status, body = await _call(session, change, headers)
            self.statuses[status] += 1
            code = body.get("code") if isinstance(body, dict) else None
            answered = 0 < status < 500 and code != "idempotency_key_in_use"
            self.calls.append((start, time.monotonic(), answered))
            if answered:
                change.status, change.answer, change.seconds = status, body, time.monotonic() - began
                return
            await asyncio.sleep(PAUSE_SECONDS)


async def _call(session: aiohttp.ClientSession, change: Change, headers: dict[str, str]) -> tuple[int, Any]:
    try:
        async with session.request(change.method, change.path, json=change.body, headers=headers) as response:
            return response.status, await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return 0, None


@asynccontextmanager
async def keeping(url: str, callers: int = CALLERS) -> AsyncIterator[Ledger]:
    """Let callers make changes while the context lasts; at its end every change has been answered or given up."""
    ledger, stop = Ledger(url), asyncio.Event()
    async with aiohttp.ClientSession(url, timeout=CALL_TIMEOUT) as session:
        for number in range(COURSES):
            course = Change("POST", "/courses", {"code": f"C{number}", "title": "Trial", "credits": 0})
            await ledger.ask(session, course)
            ledger.courses.append(course.answer["id"])
        tasks = [asyncio.create_task(_keep_asking(session, ledger, stop, number)) for number in range(callers)]
        try:
            yield ledger
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def _keep_asking(session: aiohttp.ClientSession, ledger: Ledger, stop: asyncio.Event, number: int) -> None:
    """Create a student, enroll them in two courses, drop one, and place a hold, over and over."""
    choice = random.Random(number)
    while not stop.is_set():
        email = f"{uuid.uuid4().hex}@campus.example"
        student = Change("POST", "/students", {"given_name": "Ada", "family_name": "Trial", "email": email})
        await ledger.ask(session, student)
        if student.status != 201:
            return
        path = f"/students/{student.answer['id']}"
        dropped, kept = choice.sample(ledger.courses, 2)
        for course in (dropped, kept):
            await ledger.ask(session, Change("POST", f"{path}/enroll", {"course_ids": [course]}))
        await ledger.ask(session, Change("DELETE", f"{path}/courses/{dropped}"))
        await ledger.ask(session, Change("POST", f"{path}/holds", {"reason": email, "blocks": ["enroll"]}))


async def compare(ledger: Ledger, database_url: str) -> list[Figure]:
    """Compare a ledger with the tables and the feed, and repeat its newest changes."""
    connection = await asyncpg.connect(database_url)
    try:
        effects = Counter(
            {
                name: number
                for find in (
                    "SELECT 'student ' || email, count(*) FROM students GROUP BY 1",
                    "SELECT 'hold ' || reason, count(*) FROM holds GROUP BY 1",
                    "SELECT status || ' ' || student_id || ' ' || course_id, count(*) FROM student_courses GROUP BY 1",
                    "SELECT 'course ' || code, count(*) FROM courses GROUP BY 1",
                )
                for name, number in await connection.fetch(find)
            }
        )
        events = await connection.fetchval("SELECT count(*) FROM events")
        newest = await connection.fetchval("SELECT max(position) FROM events")
    finally:
        await connection.close()
    answered = [change for change in ledger.changes if change.status]
    expected = _effects(answered)
    missing = sum((expected - effects).values())
    return [
        Figure("changes acknowledged", len(answered), at_least=CALLERS),
        Figure("changes never answered", len(ledger.changes) - len(answered), at_most=0),
        Figure("changes refused", sum(change.status >= 400 for change in answered), at_most=0),
        Figure("answers 500", ledger.statuses[500], at_most=0),
        Figure("acknowledged changes that are lost", missing, at_most=0),
        Figure("changes made twice, or made and not acknowledged", sum((effects - expected).values()), at_most=0),
        Figure("events beyond one for each change", events - len(ledger.changes), at_most=0, at_least=0),
        Figure("positions missing in the feed", newest - events, at_most=0, at_least=0),
        Figure("repeats with another answer", await _repeat(ledger), at_most=0),
        Figure("exit status of `python -m service check`", await check(database_url), at_most=0),
    ]


def _effects(changes: list[Change]) -> Counter[str]:
    """Return the rows that must be there after these changes."""
    expected: Counter[str] = Counter()
    for change in changes:
        owner, _, rest = change.path.removeprefix("/").partition("/")
        student, _, what = rest.partition("/")
        body = change.body or {}
        if owner == "courses":
            expected[f"course {body['code']}"] += 1
        elif not student:
            expected[f"student {body['email']}"] += 1
        elif what == "holds":
            expected[f"hold {body['reason']}"] += 1
        elif what == "enroll":
            expected[f"enrolled {student} {body['course_ids'][0]}"] += 1
        else:
            course = what.rpartition("/")[2]
            del expected[f"enrolled {student} {course}"]
            expected[f"dropped {student} {course}"] += 1
    return expected


async def _repeat(ledger: Ledger) -> int:
    """Repeat the newest changes that have a key; return how many got another answer than the first time."""
    async with aiohttp.ClientSession(ledger.url, timeout=CALL_TIMEOUT) as session:

        async def is_wrong(change: Change) -> bool:
            headers = {"Idempotency-Key": change.key}
            async with session.post(change.path, json=change.body, headers=headers) as response:
                same = (response.status, await response.json()) == (change.status, change.answer)
                return not same or response.headers.get("Idempotent-Replayed") != "true"

        newest = [change for change in ledger.changes if change.method == "POST"][-REPEATED:]
        return sum(await asyncio.gather(*map(is_wrong, newest)))
