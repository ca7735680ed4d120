"""Steps that many tests share, and assertions that hold for every response of the service."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from multidict import CIMultiDictProxy
from pytest_aiohttp import AiohttpClient
from yarl import URL

from service.__main__ import parse
from service.app import BRING_UP, create_app, problem_types
from service.database import Database
from service.registrar import Registrar
from service.settings import Settings
from sql import Connection
from tests.conftest import Client

PROBLEM_JSON = "application/problem+json"
TABLES = (
    *("student_courses", "requirements", "holds", "overrides", "course_instructors", "students", "courses", "terms"),
    *("instructors", "equivalent_codes", "equivalences", "grades", "events", "idempotency_keys"),
)
"""The tables that a refused request leaves as they are; one that refers to another one comes first."""

numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body has been read."""

    status: int
    headers: CIMultiDictProxy[str]
    body: Any

    @property
    def etag(self) -> str:
        return self.headers["ETag"]


async def call(
    client: Client,
    method: str,
    path: str,
    body: object = None,
    *,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request and return the response; the path is sent unchanged, ``body`` as JSON."""
    sent = {**(headers or {})}
    if body is not None:
        data = json.dumps(body).encode()
    if data is not None and not any(name.lower() == "content-type" for name in sent):
        sent["Content-Type"] = "application/json"
    async with client.request(method, URL(path, encoded=True), data=data, headers=sent) as response:
        text = await response.read()
        is_json = response.content_type in {"application/json", PROBLEM_JSON}
        return Answer(response.status, response.headers, read_json(text) if is_json and text else text)


def read_json(text: bytes) -> Any:
    """Parse JSON and assert the form of all JSON of the service: no spaces, no ``18.0``, a newline at the end."""
    value = json.loads(text)
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert (
        re.sub(r"(?<=[\[:,])(-?\d+)\.0(?=[,\]}])", r"\1", written).encode("utf-8", "backslashreplace") + b"\n" == text
    )
    return value


def problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Assert that a response is this problem, in the form of every problem, and return its body."""
    assert answer.headers["Content-Type"].startswith(PROBLEM_JSON), answer
    body: dict[str, Any] = answer.body
    assert (answer.status, body["type"]) == (status, f"/problems/{code}"), answer
    assert body["code"] == code
    assert problem_types()[code].status == status, "a code has one status"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"].startswith("/")
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert all(error["code"] and error["detail"] for error in body["errors"])
    return body


def places(answer: Answer) -> list[tuple[str, str]]:
    """Return the code and the place of each error of an invalid request."""
    body = problem(answer, 422, "invalid")
    return [(error["code"], error.get("pointer") or error["parameter"]) for error in body["errors"]]


def student_fields(**fields: object) -> dict[str, object]:
    """Return the body of a student with unique values."""
    number = next(numbers)
    return {"given_name": "Ada", "family_name": f"Number{number}", "email": f"s{number}@campus.example", **fields}


def course_fields(**fields: object) -> dict[str, object]:
    """Return the body of a course with unique values."""
    number = next(numbers)
    return {"code": f"C{number}", "title": f"Course {number}", **fields}


async def create(client: Client, path: str, body: object) -> dict[str, Any]:
    answer = await call(client, "POST", path, body)
    assert answer.status == 201, answer
    created: dict[str, Any] = answer.body
    return created


async def new_student(client: Client, **fields: object) -> int:
    """Create a student and return its id."""
    id: int = (await create(client, "/students", student_fields(**fields)))["id"]
    return id


async def new_students(client: Client, count: int) -> list[int]:
    """Create many students with one call, each with a new external id, and return their ids."""
    items = [student_fields(external_id=f"many-{next(numbers)}") for _ in range(count)]
    answer = await call(client, "PUT", "/students", {"items": items})
    assert [item["outcome"] for item in answer.body["items"]] == ["created"] * count, answer
    return [item["id"] for item in answer.body["items"]]


async def new_course(client: Client, **fields: object) -> int:
    """Create a course and return its id."""
    id: int = (await create(client, "/courses", course_fields(**fields)))["id"]
    return id


async def enroll(client: Client, student_id: int, *course_ids: int, mode: str = "atomic") -> Answer:
    return await call(client, "POST", f"/students/{student_id}/enroll", {"course_ids": list(course_ids), "mode": mode})


async def drop(client: Client, student_id: int, course_id: int) -> Answer:
    return await call(client, "DELETE", f"/students/{student_id}/courses/{course_id}")


async def read(client: Client, path: str) -> Any:
    """Return the body of a GET that succeeds."""
    answer = await call(client, "GET", path)
    assert answer.status == 200, answer
    return answer.body


def bare(reasons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return reasons without their sentences."""
    return [{name: value for name, value in reason.items() if name != "detail"} for reason in reasons]


async def walk(client: Client, path: str) -> list[list[Any]]:
    """Follow the Link headers of a list and return the items of each page."""
    pages = []
    here: str | None = path
    while here is not None:
        answer = await call(client, "GET", here)
        assert answer.status == 200, answer
        pages.append(answer.body["items"])
        link = answer.headers.get("Link")
        assert (link is None) == (answer.body["next"] is None)
        if link is not None:
            here, _, relation = link.removeprefix("<").partition(">; ")
            assert relation == 'rel="next"'
            assert URL(here).query["cursor"] == answer.body["next"]
        else:
            here = None
        assert len(pages) < 100, "the pages do not end"
    return pages


async def events(connection: Connection) -> list[dict[str, Any]]:
    """Return every event in order, with its states parsed."""
    rows = await connection.fetch("SELECT * FROM events ORDER BY position")
    states = {"before", "after"}
    return [
        {name: json.loads(value) if name in states and value is not None else value for name, value in row.items()}
        for row in rows
    ]


async def everything(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table."""
    return {table: [tuple(row) for row in await connection.fetch(f"TABLE {table} ORDER BY 1, 2")] for table in TABLES}


async def command(settings: Settings, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that succeeds in this process, which takes a tenth of the time of another one; return its output."""
    given = parse(arguments)
    capsys.readouterr()
    assert await asyncio.to_thread(given.run, settings, given) == 0
    return capsys.readouterr().out


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until a condition holds; ``what`` names it in the error."""
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"timed out waiting for {what}")


async def served(aiohttp_client: AiohttpClient, settings: Settings) -> Client:
    """Start a service with these settings and return its client once the service is ready."""
    client = await aiohttp_client(create_app(settings))
    async with asyncio.timeout(10):
        await client.app[BRING_UP]
    return client


async def until_ready(client: Client) -> None:
    """Wait until the service is ready."""

    async def ready() -> bool:
        return (await call(client, "GET", "/health/ready")).status == 200

    await until(ready, "readiness")


async def empty(connection: Connection) -> None:
    """Delete what changes write, and let ids begin at 1 again: for few rows, TRUNCATE takes twenty times as long."""
    deletions = "; ".join(f"DELETE FROM {table}" for table in ("merged_students", "refusals", "tombstones", *TABLES))
    await connection.execute(
        f"""
        BEGIN;
        SET LOCAL session_replication_role = replica;  -- checks no foreign key, except on Citus
        {deletions};
        SELECT setval(oid::regclass, 1, false)
        FROM pg_class WHERE relkind = 'S' AND relnamespace = current_schema::regnamespace;
        COMMIT
        """
    )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """Yield an open database."""
    database = Database(settings)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def registrar_of(settings: Settings, database: Database | None = None) -> AsyncIterator[Registrar]:
    """Yield a registrar that only the test calls, on a database of its own or on one that others use too."""
    async with nullcontext(database) if database is not None else opened(settings) as used:
        registrar = Registrar(used, settings)
        yield registrar
        await registrar.close()


@asynccontextmanager
async def busy(database_url: str) -> AsyncIterator[Connection]:
    """Hold the write lock, as another process of the service would; close the connection to release it early."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("BEGIN")
        await connection.execute("SELECT FROM feed FOR UPDATE")
        yield connection
    finally:
        await connection.close()


async def waiting_writer(connection: Connection) -> int:
    """Wait until the service waits for the write lock, and return the process id of that session."""
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"):
        # Another session, on the node that holds the feed, waits on behalf of that session.
        find = "SELECT citus_pid_for_gpid(waiting_gpid) FROM citus_lock_waits"
    else:
        find = """
            SELECT pid
            FROM pg_stat_activity
            WHERE datname = current_database()
                AND application_name = 'enrollment-service'
                AND wait_event_type = 'Lock'
        """

    async def waits() -> bool:
        return await connection.fetchval(find) is not None

    await until(waits, "a writer that waits for the lock")
    pid: int = await connection.fetchval(find)
    return pid


async def join_waitlist(client: Client, student: int, course: int) -> Answer:
    body = {"course_ids": [course], "on_full": "waitlist"}
    return await call(client, "POST", f"/students/{student}/enroll", body)


async def let_holds_end(connection: Connection, ago: timedelta = timedelta()) -> None:
    """Move the end of every hold into the past, with the events and rechecks that such holds would have had."""
    ends_at = await connection.fetchval("UPDATE holds SET ends_at = now() - $1::interval RETURNING ends_at", ago)
    await connection.execute(
        """
        UPDATE events
        SET after = jsonb_set(after::jsonb, '{until}', to_jsonb($1::timestamptz))::json
        FROM holds
        WHERE events.type = 'hold.placed'
            AND holds.id = (events.after ->> 'hold_id')::bigint
        """,
        ends_at,
    )
    await connection.execute(
        """
        UPDATE student_courses
        SET recheck_at = (SELECT max(ends_at) FROM holds WHERE holds.student_id = student_courses.student_id)
        WHERE status = 'waitlisted'
            AND recheck_at IS NOT NULL
        """
    )
