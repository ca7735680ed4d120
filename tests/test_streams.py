"""The feed as a stream of Server-Sent Events."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient
from yarl import URL

from service import metrics
from service.api import events
from service.api.events import POLLER
from service.api.feed import Poller
from service.api.keys import POOL
from service.app import BRING_UP, create_app, make_runner
from service.settings import Settings
from service.web import server
from service.web.endpoint import DRAINING
from service.web.server import Runner
from sql import Connection
from sql.feed import LIST_EVENTS
from tests import shared
from tests.campus import call, new_course, new_student, places, problem, read, served, until
from tests.conftest import Client
from tests.test_auth import bearer, new_key
from tests.test_feed import NEW_EVENTS, Counted
from tests.test_process import run

pytestmark, service, client, connection, settings = shared.SERVICE
database_url, aiohttp_client = shared.DATABASE_URL, shared.AIOHTTP_CLIENT

STREAM = {"Accept": "text/event-stream"}
PATIENCE_SECONDS = 20


@dataclass(slots=True)
class Message:
    """What stands between two blank lines of a stream."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    comments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Stream:
    """A client that reads a stream line by line, as browsers do."""

    response: aiohttp.ClientResponse
    last_id: str | None = None

    async def message(self) -> Message | None:
        """Return the next message; None at the end of the stream."""
        found = Message()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while line := (await self.response.content.readline()).decode():
                assert line.endswith("\n")
                if line == "\n":
                    self.last_id = found.id or self.last_id
                    return found
                name, _, value = line.removesuffix("\n").partition(": ")
                if name in {"", ":"}:
                    found.comments.append(value)
                else:
                    setattr(found, name, value)
        assert found == Message(), "the stream ends between messages"
        return None

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Return the next events, and ignore messages without data."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            message = await self.message()
            assert message is not None
            if message.data is not None:
                assert message.event is None, message
                found.append(json.loads(message.data))
        return found

    async def rest(self) -> list[Message]:
        """Return the messages with data until the end of the stream."""
        found = []
        while (message := await self.message()) is not None:
            if message.data is not None:
                found.append(message)
        return found


@asynccontextmanager
async def stream(client: Client, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    path = URL(f"/events?{query}", encoded=True)
    async with client.get(path, headers={**STREAM, **headers}) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Content-Encoding" not in response.headers
        yield Stream(response)


def poller_of(client: Client) -> Poller:
    assert client.app is not None
    return client.app[POLLER]


async def test_a_stream_has_the_events_of_pages_and_then_those_that_follow(client: Client) -> None:
    student = await new_student(client)
    await new_student(client)

    async with stream(client) as reader:
        found = await reader.events(2)
        course = await new_course(client)
        found += await reader.events(1)

    assert found == (await read(client, "/events"))["items"]
    assert [(event["position"], event["student_id"], event["course_id"]) for event in found] == [
        (1, student, None),
        (2, student + 1, None),
        (3, None, course),
    ]
    assert reader.last_id == (await read(client, "/events/head"))["next"], "the id is the cursor after the event"


async def test_a_stream_that_breaks_continues_where_it_was_also_at_another_process(
    aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    first, second = await served(aiohttp_client, settings), await served(aiohttp_client, settings)
    seen: list[int] = []
    last_id = head = (await read(first, "/events/head"))["next"]
    for turn in range(6):
        for _ in range(3):
            await new_student(first)
        # The header wins, because a browser repeats the URL.
        async with stream((first, second)[turn % 2], f"after={head}", **{"Last-Event-ID": last_id}) as reader:
            await new_student(second)
            seen += [event["position"] for event in await reader.events(2)]
            assert reader.last_id is not None
            last_id = reader.last_id

    assert seen == list(range(1, 13))


async def test_a_stream_has_only_the_events_that_match_its_filters(client: Client) -> None:
    student, other = await new_student(client), await new_student(client)

    async with stream(client, f"student_id={student}&types=student.updated") as reader:
        while reader.last_id is None:
            await reader.message()
        assert reader.last_id == (await read(client, "/events/head"))["next"], "the id moves without an event too"
        await call(client, "PATCH", f"/students/{other}", {"max_credits": 3})
        await call(client, "PATCH", f"/students/{student}", {"max_credits": 4})
        [event] = await reader.events(1)

    assert (event["type"], event["student_id"]) == ("student.updated", student)


async def test_a_stream_without_events_sends_comments_with_the_place_it_has_reached(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.3)
    async with stream(client, "course_id=7") as reader:
        first = await reader.message()
        await new_student(client)
        head = (await read(client, "/events/head"))["next"]
        comments = []
        while reader.last_id != head:
            message = await reader.message()
            assert message is not None
            assert message.data is None
            comments += message.comments
        again = await reader.message()

    assert first == Message(comments=["events follow"])
    assert set(comments) == {"no events"}
    assert again == Message(comments=["no events"]), "the id is sent once"


async def test_a_stream_ends_when_the_service_shuts_down_and_the_reader_continues_elsewhere(
    aiohttp_client: AiohttpClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = await served(aiohttp_client, settings), await served(aiohttp_client, settings)
    await new_student(first)
    async with stream(first) as reader:
        await reader.events(1)
        request_id = reader.response.headers["X-Request-Id"]
        assert request_id not in caplog.text
        assert first.app is not None
        first.app[DRAINING].set()
        assert await reader.rest() == []
        assert reader.last_id is not None

    async def has_ended() -> bool:
        return poller_of(first).streams == 0

    await until(has_ended, "the end of the stream")
    student = await new_student(second)
    async with stream(second, **{"Last-Event-ID": reader.last_id}) as reader:
        assert [event["student_id"] for event in await reader.events(1)] == [student]

    lines = [vars(record) for record in caplog.records if vars(record).get("route") == "/events"]
    ended = [line for line in lines if line["request_id"] == request_id]
    assert [(line["method"], line["status"]) for line in ended] == [("GET", 200)], "one line, at the end"


async def test_a_cursor_that_has_expired_is_refused_before_the_stream_begins(client: Client, database_url: str) -> None:
    await new_student(client)
    cursor = (await read(client, "/events/head"))["next"]
    assert (await run("feed", "renew", DATABASE_URL=database_url)).status == 0

    for query, headers in (
        (f"?after={cursor}", {}),
        ("", {"Last-Event-ID": cursor}),
        (f"?student_id=1&after={cursor}", {}),
    ):
        problem(await call(client, "GET", f"/events{query}", headers={**STREAM, **headers}), 410, "cursor_expired")
    for query, headers, name in (("?after=x", {}, "after"), ("", {"Last-Event-ID": "x"}, "Last-Event-ID")):
        answer = await call(client, "GET", f"/events{query}", headers={**STREAM, **headers})
        assert places(answer) == [("invalid_cursor", name)]


async def test_a_stream_ends_with_a_problem_if_the_epoch_changes(client: Client, database_url: str) -> None:
    await new_student(client)
    async with stream(client) as reader:
        await reader.events(1)
        assert (await run("feed", "renew", DATABASE_URL=database_url)).status == 0
        [message] = await reader.rest()

    assert (message.event, message.id) == ("problem", None)
    assert message.data is not None
    body = json.loads(message.data)
    assert (body["code"], body["status"], body["instance"]) == ("cursor_expired", 410, "/events")
    assert body["request_id"] == reader.response.headers["X-Request-Id"]


async def test_a_stream_ends_with_a_problem_once_its_key_is_revoked(
    client: Client, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.05)
    admin = bearer(await new_key(client, "admin"))
    made = await call(client, "POST", "/keys", {"name": "mirror", "scopes": ["events"]}, headers=admin)
    key = bearer(made.body["key"])
    async with stream(client, **key) as reader:
        await reader.message()
        revoked = await call(client, "DELETE", f"/keys/{made.body['id']}", headers=admin)
        assert revoked.status < 300
        [message] = await reader.rest()

    assert message.data is not None
    assert (message.event, json.loads(message.data)["code"]) == ("problem", "unauthenticated")
    problem(await call(client, "GET", "/events", headers={**STREAM, **key}), 401, "unauthenticated")


async def test_a_stream_needs_the_scope_of_pages(client: Client) -> None:
    admin = await new_key(client, "admin")
    problem(await call(client, "GET", "/events", headers=STREAM), 401, "unauthenticated")
    key = bearer(await new_key(client, "read", key=admin))
    answer = await call(client, "GET", "/events", headers={**STREAM, **key})
    problem(answer, 403, "scope_missing")


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/event-stream, */*;q=0.1", True),
        ("application/json, text/event-stream", True),
        ("application/json, text/event-stream;q=0.9", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=x", False),
        ("application/json", False),
        ("text/*", False),
        ("*/*", False),
    ],
)
async def test_the_header_accept_chooses_between_pages_and_a_stream(
    client: Client, accept: str, is_stream: bool
) -> None:
    async with client.get("/events", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"] == ("text/event-stream" if is_stream else "application/json")
    async with client.head("/events", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"] == ("text/event-stream" if is_stream else "application/json")
        assert await response.read() == b""


async def test_the_number_of_streams_has_a_bound_and_a_closed_stream_makes_room(
    aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"feed_streams": 2}))
    async with stream(client) as first, stream(client) as second:
        for reader in (first, second):
            await reader.message()
        refused = await call(client, "GET", "/events", headers=STREAM)
        problem(refused, 503, "unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        text = (await (await client.get("/metrics")).text()).splitlines()
        assert "enrollment_feed_streams 2.0" in text
        assert (await call(client, "GET", "/events")).status == 200, "pages have no such bound"

    async def has_room() -> bool:
        return poller_of(client).streams < 2

    await until(has_room, "the end of a stream")
    async with stream(client) as reader:
        await reader.message()


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[tuple[str, int], Runner, Poller, Counted]]:
    """Serve as in production; yield the address, the runner and the poller, with a database that counts its queries."""
    app = create_app(settings)
    counted = Counted(settings, app[POOL])
    counted.queries = []
    app[POLLER]._database = counted
    runner = make_runner(app, settings)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        await app[BRING_UP]
        host, port = runner.addresses[0][:2]
        yield (host, port), runner, app[POLLER], counted
    finally:
        await runner.cleanup()


REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


def reads_sent() -> float:
    """Return how many statements the reads of this process have sent."""
    return sum(count for labels, count in metrics.ROUND_TRIPS.values() if labels == ("reads",))


async def test_a_thousand_streams_get_an_event_by_one_query(settings: Settings, connection: Connection) -> None:
    count = 1000
    async with serving(settings) as (address, _, poller, database), AsyncExitStack() as stack:
        readers = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*address)
            stack.callback(writer.close)
            writer.write(REQUEST)
            readers.append(reader)
        for reader in readers:
            await reader.readuntil(b"id: ")

        async def all_wait() -> bool:
            return poller.waiting()[0] == count

        await until(all_wait, "all streams to wait")
        before = reads_sent()
        database.queries.clear()

        await connection.execute(NEW_EVENTS, 1, 3)

        for reader in readers:
            assert (await reader.readuntil(b'"position":3,')).count(b'"position":') == 3
        await until(all_wait, "all streams to wait again")
        assert database.queries.count(LIST_EVENTS) == 1
        assert reads_sent() - before < count / 10, "the streams read nothing themselves"


async def test_a_stream_whose_caller_does_not_read_holds_little_and_is_closed(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SWEEP_SECONDS", 0.02)
    await connection.execute(NEW_EVENTS, 1, 20_000)
    held = [0]
    async with serving(settings.model_copy(update={"send_timeout": 0.3})) as (address, runner, poller, _):
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.connect(address)
            caller.sendall(REQUEST)

            async def has_begun() -> bool:
                return poller.streams == 1

            async def has_ended() -> bool:
                assert runner.server is not None
                held.extend(
                    each.transport.get_write_buffer_size() for each in runner.server.connections if each.transport
                )
                return poller.streams == 0

            await until(has_begun, "the stream")
            await until(has_ended, "the end of the stream")
    assert 0 < max(held) <= 3 * events.BYTES_PER_WRITE


async def test_a_slow_reader_gets_every_event_once(settings: Settings, connection: Connection) -> None:
    count = 5_000
    seen: list[int] = []
    async with (
        serving(settings) as ((host, port), _, _, _),
        aiohttp.ClientSession(read_bufsize=4096) as session,
        session.get(f"http://{host}:{port}/events", headers=STREAM) as response,
    ):
        reader = Stream(response)
        for newest in range(1000, count + 1, 1000):
            await connection.execute(NEW_EVENTS, newest - 999, newest)
            behind = 500 if newest < count else 0
            seen += [event["position"] for event in await reader.events(newest - behind - len(seen))]
    assert seen == list(range(1, count + 1))
