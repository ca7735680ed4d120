"""``python -m service seed``: send the requests in a file to the service's own handlers, as a caller would."""

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from service.api.courses import create_course, set_requirements
from service.api.enrollments import complete_course, enroll_student, swap_courses
from service.api.equivalences import create_equivalence
from service.api.holds import place_hold
from service.api.instructors import create_instructor, set_instructors
from service.api.overrides import grant_override
from service.api.students import create_student
from service.api.terms import create_term
from service.app import BRING_UP, create_app, make_runner
from service.errors import DomainError, OperatorError
from service.registry import settings_for
from service.settings import Settings
from service.terminal import show_progress
from service.web.endpoint import Endpoint
from service.web.validation import refused

MAX_LINES: Final = 100_000
"""All lines are validated, and so are in memory, before the first one is written: about 100 MB."""

MAX_ERRORS: Final = 20
"""Errors shown: enough to see a pattern."""

KINDS: Final[Mapping[str, Endpoint]] = {
    "term": create_term,
    "course": create_course,
    "requirements": set_requirements,
    "equivalence": create_equivalence,
    "instructor": create_instructor,
    "instructors": set_instructors,
    "student": create_student,
    "hold": place_hold,
    "override": grant_override,
    "enroll": enroll_student,
    "swap": swap_courses,
    "complete": complete_course,
}
"""The requests that a line may hold, by the member with the body; the ids in the path are members beside it."""


class SeedRefused(OperatorError):
    """A line of the file is invalid or was refused."""


@dataclass(frozen=True, slots=True)
class Line:
    """A request of the file, which is valid so far as a look at it alone can tell."""

    number: int
    kind: str
    path: str
    body: str


async def seed(settings: Settings, institution: str | None, file: str) -> None:
    """Send the requests of a file, one after the other, and print how many there were.

    Raises:
        SeedRefused: a line is invalid, and nothing was written; or a line was refused, and those before it were written.
        DomainError: as ``settings_for``.
        OSError: the file can't be read.
    """
    settings = await settings_for(settings, institution)
    lines = parse(await asyncio.to_thread(read, file))
    async with sending(settings) as session:
        for done, line in enumerate(lines):
            await send(session, line, done)
            show_progress(f"{done + 1:,} of {len(lines):,} lines")
    show_progress()
    counts = Counter(line.kind for line in lines)
    print("requests made: " + (", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind]) or "none"))


def read(file: str) -> list[str]:
    """Return the lines of a file, or of standard input if it is ``-``.

    Raises:
        SeedRefused: there are too many, or they are not UTF-8.
    """
    try:
        if file == "-":
            lines = list(islice(sys.stdin, MAX_LINES + 1))
        else:
            with Path(file).open(encoding="utf-8") as stream:
                lines = list(islice(stream, MAX_LINES + 1))
    except UnicodeDecodeError as error:
        raise SeedRefused("The file is not UTF-8. Nothing was written.") from error
    if len(lines) > MAX_LINES:
        raise SeedRefused(f"The file has more than {MAX_LINES:,} lines: divide it. Nothing was written.")
    return lines


def parse(texts: Iterable[str]) -> list[Line]:
    """Return the requests of a file; lines without a character are ignored.

    Raises:
        SeedRefused: lines are invalid.
    """
    lines: list[Line] = []
    errors: list[str] = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            lines.append(parse_line(number, text))
        except SeedRefused as error:
            errors.append(f"line {number}: {error}")
    if errors:
        more = [f"and {len(errors) - MAX_ERRORS} more lines"] if len(errors) > MAX_ERRORS else []
        raise SeedRefused("\n".join([*errors[:MAX_ERRORS], *more, "Nothing was written."]))
    return lines


def parse_line(number: int, text: str) -> Line:
    """Return the request of a line.

    Raises:
        SeedRefused: it is invalid.
    """
    try:
        members = json.loads(text)
    except ValueError as error:
        raise SeedRefused(f"not valid JSON: {error}") from error
    kinds = [kind for kind in KINDS if isinstance(members, dict) and kind in members]
    if len(kinds) != 1:
        raise SeedRefused(f"write a JSON object with exactly one of the members {', '.join(KINDS)}")
    [kind] = kinds
    endpoint, body = KINDS[kind], json.dumps(members.pop(kind))
    assert endpoint.body is not None
    try:
        endpoint.body.validate_json(body)
    except ValidationError as error:
        problem = refused(error, endpoint.body, parameters=False)
        raise SeedRefused(f"{kind}: {sentences(problem)}") from error
    ids: dict[str, object] = {}
    if endpoint.path_model is not None:
        try:
            found = endpoint.path_model.model_validate({name: str(value) for name, value in members.items()})
        except ValidationError as error:
            raise SeedRefused(f"{kind}: {sentences(refused(error, endpoint.path_model, parameters=True))}") from error
        ids = found.model_dump()
    elif members:
        raise SeedRefused(f"{kind}: unknown members beside the body: {', '.join(members)}")
    return Line(number, kind, endpoint.path.format_map(ids), body)


def sentences(problem: DomainError) -> str:
    """Return what is wrong in one line."""
    details = [f"{each.pointer or each.parameter or ''} {each.detail}".strip() for each in problem.errors]
    return " ".join(details or [problem.detail])


@asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """Run the service on a socket that only this account can reach, and yield a session with it.

    Raises:
        Exception: the database can't be used; an error that waiting can't resolve.
    """
    app = create_app(settings.model_copy(update={"auth": "off", "host": "127.0.0.1", "linger_seconds": 0.0}))
    runner = make_runner(app, settings)
    await runner.setup()
    try:
        with tempfile.TemporaryDirectory() as folder:
            socket = str(Path(folder) / "socket")
            await web.UnixSite(runner, socket).start()
            await app[BRING_UP]
            async with aiohttp.ClientSession(
                "http://localhost",
                connector=aiohttp.UnixConnector(socket),
                headers={"Content-Type": "application/json", "X-Actor": "seed"},
            ) as session:
                yield session
    finally:
        await runner.cleanup()


async def send(session: aiohttp.ClientSession, line: Line, done: int) -> None:
    """Send a request.

    Raises:
        SeedRefused: it was refused.
    """
    async with session.request(KINDS[line.kind].method, line.path, data=line.body) as response:
        if response.status < 400:
            return
        problem: dict[str, Any] = await response.json(content_type=None)
    reasons = " ".join(f"{each.get('pointer', '')} {each['detail']}".strip() for each in problem["errors"])
    raise SeedRefused(
        f"line {line.number}: {line.kind}: {problem['code']}: {reasons or problem['detail']}\n"
        f"The {done} requests before it were made; it and those after it were not."
    )
