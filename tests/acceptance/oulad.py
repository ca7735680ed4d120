"""Load the Open University Learning Analytics Dataset through the HTTP API twice, as another service would.

    .venv/bin/python -m tests.acceptance.oulad FOLDER

FOLDER contains courses.csv and studentRegistration.csv of the dataset (doi:10.1038/sdata.2017.171). The service runs as
a separate process on a new embedded PostgreSQL, or on the database that DATABASE_URL names, which must be empty.
"""

import argparse
import asyncio
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from service.embedded import embedded_server

CALLERS = 32
"""Concurrent requests, as many as one busy neighbouring service sends."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Registrations:
    """The dataset: the external ids of all courses, and of the courses that each student enrolled in and later left."""

    courses: list[str]
    enrolled: dict[str, list[str]]
    left: dict[str, list[str]]


def read(folder: Path) -> Registrations:
    """Read the dataset; the external id of a course is its module and presentation, such as AAA-2013J."""
    with (folder / "courses.csv").open(newline="") as file:
        courses = [f"{row['code_module']}-{row['code_presentation']}" for row in csv.DictReader(file)]
    enrolled: dict[str, list[str]] = defaultdict(list)
    left: dict[str, list[str]] = defaultdict(list)
    with (folder / "studentRegistration.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            course = f"{row['code_module']}-{row['code_presentation']}"
            enrolled[row["id_student"]].append(course)
            if row["date_unregistration"]:
                left[row["id_student"]].append(course)
    return Registrations(courses, dict(enrolled), dict(left))


@dataclass(slots=True)
class Caller:
    """A client of the service that counts its requests and their outcomes."""

    session: aiohttp.ClientSession
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request and return the body of the response; exit if the request fails."""
        self.requests += 1
        async with self.session.request(method, path, json=body) as response:
            if response.status >= 400:
                raise SystemExit(f"{method} {path}: {response.status} {await response.text()}")
            return await response.json()

    async def pages(self, path: str) -> AsyncIterator[Any]:
        """Yield all items of a list."""
        cursor = ""
        while True:
            page = await self.call("GET", f"{path}{'&' if '?' in path else '?'}limit=500{cursor}")
            for item in page["items"]:
                yield item
            if page["next"] is None:
                return
            cursor = f"&cursor={page['next']}"

    async def each(self, what: str, items: Iterable[Item], work: Callable[[Item], Awaitable[None]]) -> None:
        """Process many items, several at a time, and print the request rate."""
        before, started = self.requests, time.perf_counter()
        waiting = iter(items)

        async def worker() -> None:
            for item in waiting:
                await work(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(worker())
        seconds = time.perf_counter() - started
        sent = self.requests - before
        print(f"  {what:<28}{sent:>8,} requests in {seconds:6.1f} s = {sent / seconds:>6,.0f} per second", flush=True)


async def load(caller: Caller, data: Registrations) -> None:
    """Send the whole dataset; data that already exist in the service stay unchanged."""
    caller.outcomes.clear()
    course_ids: dict[str, int] = {}
    student_ids: dict[str, int] = {}

    async def put_course(name: str) -> None:
        body = {"code": name.partition("-")[0], "title": f"Module {name.replace('-', ', presentation ')}"}
        course_ids[name] = (await caller.call("PUT", f"/courses/by-external-id/{name}", body))["id"]

    async def put_student(name: str) -> None:
        body = {"given_name": "Student", "family_name": name, "email": f"{name}@students.example"}
        student_ids[name] = (await caller.call("PUT", f"/students/by-external-id/{name}", body))["id"]

    async def enroll(name: str) -> None:
        student, dropped = student_ids[name], set()
        if name in data.left:
            # A second run must not enroll the student again in the courses that the first run dropped.
            dropped = {item["course_id"] async for item in caller.pages(f"/students/{student}/courses?status=dropped")}
        requested = [course_ids[course] for course in data.enrolled[name] if course_ids[course] not in dropped]
        if requested:
            answer = await caller.call("POST", f"/students/{student}/enroll", {"course_ids": requested})
            caller.outcomes.update(f"enroll: {result['outcome']}" for result in answer["results"])

    async def drop(name: str) -> None:
        for course in data.left[name]:
            answer = await caller.call("DELETE", f"/students/{student_ids[name]}/courses/{course_ids[course]}")
            caller.outcomes[f"drop: {answer['outcome']}"] += 1

    await caller.each("courses put", data.courses, put_course)
    await caller.each("students put", data.enrolled, put_student)
    await caller.each("students enrolled", data.enrolled, enroll)
    await caller.each("registrations dropped", data.left, drop)
    print("  " + ", ".join(f"{name} {count:,}" for name, count in sorted(caller.outcomes.items())), flush=True)

    remaining = {
        (student_ids[name], course_ids[course])
        for name, courses in data.enrolled.items()
        for course in courses
        if course not in data.left.get(name, ())
    }
    by_roster: set[tuple[int, int]] = set()
    by_student: set[tuple[int, int]] = set()

    async def read_roster(course: int) -> None:
        by_roster.update([(item["student_id"], course) async for item in caller.pages(f"/courses/{course}/students")])

    async def read_courses(student: int) -> None:
        by_student.update([(student, item["course_id"]) async for item in caller.pages(f"/students/{student}/courses")])

    await caller.each("rosters read", course_ids.values(), read_roster)
    await caller.each("students' courses read", student_ids.values(), read_courses)
    print(f"  remaining: {len(by_roster):,} by roster, {len(by_student):,} by student", flush=True)
    if not by_roster == by_student == remaining:
        raise SystemExit("error: the enrollments in the service differ from the dataset")


@contextmanager
def running_service(database_url: str) -> Iterator[str]:
    """Run the service as a process and yield its address; exit if the process fails."""
    environment = {**os.environ, "DATABASE_URL": database_url, "PORT": "0"}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            greeting = process.stderr.readline()
            yield greeting.split()[-1].removesuffix("/docs")
        finally:
            process.send_signal(signal.SIGTERM)
        if process.wait(30) != 0:
            raise SystemExit(f"error: the service ended with status {process.returncode}")


async def run(address: str, data: Registrations) -> None:
    """Load the dataset twice; exit if the second run changes anything."""
    async with aiohttp.ClientSession(address, connector=aiohttp.TCPConnector(limit=CALLERS)) as session:
        caller = Caller(session)
        while (await session.get("/health/ready")).status != 200:
            await asyncio.sleep(0.1)
        for title in ("first run", "second run, on the same database"):
            print(f"{title}:", flush=True)
            started = time.perf_counter()
            caller.requests = 0
            await load(caller, data)
            seconds = time.perf_counter() - started
            print(
                f"  total: {caller.requests:,} requests in {seconds:.1f} s = {caller.requests / seconds:,.0f} per second"
            )
        changed = [name for name in caller.outcomes if not name.endswith("unchanged")]
        if changed:
            raise SystemExit(f"error: the second run changed something: {changed}")


def main() -> None:
    """Load the dataset into the service, then run ``check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    data = read(parser.parse_args().folder)
    print(f"{len(data.courses)} courses, {len(data.enrolled):,} students, ", end="")
    print(
        f"{sum(map(len, data.enrolled.values())):,} registrations, {sum(map(len, data.left.values())):,} of them left"
    )
    with tempfile.TemporaryDirectory(prefix="oulad-") as folder:
        Path(folder).chmod(0o711)
        given = os.environ.get("DATABASE_URL")
        if given:
            _run_on(given, data)
        else:
            with embedded_server(Path(folder) / "data") as url:
                _run_on(url, data)


def _run_on(database_url: str, data: Registrations) -> None:
    with running_service(database_url) as address:
        asyncio.run(run(address, data))
    print("check:", flush=True)
    subprocess.run(
        [sys.executable, "-m", "service", "check"], env={**os.environ, "DATABASE_URL": database_url}, check=True
    )


if __name__ == "__main__":
    main()
