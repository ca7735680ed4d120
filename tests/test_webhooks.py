"""Webhooks: every event reaches its receiver in order and signed, whatever fails on the way, and nothing else is reached."""

import asyncio
import json
import re
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.resolver import DefaultResolver, ThreadedResolver
from aiohttp.test_utils import TestServer
from pytest_aiohttp import AiohttpClient
from standardwebhooks.webhooks import WebhookVerificationError
from yarl import URL

from service.api.events import POLLER
from service.api.keys import DATABASE, POOL
from service.settings import Settings
from service.webhooks import ATTEMPTS_KEPT
from service.webhooks.retries import DELAYS, JITTER, MAX_RETRY_SECONDS, pause_after, read_retry_after
from service.webhooks.sender import Sender
from service.webhooks.targets import UrlRefused, check_url, is_public
from sql import Connection
from sql.feed import GET_EPOCH, LIST_EVENTS
from tests.campus import call, create, new_student, problem, read, served, student_fields, until
from tests.conftest import Client
from tests.receiver import Receiver, certificate_of, receiving
from tests.test_clients import FILES, needs_npm, run
from tests.test_institutions import many, new_school, registry_of  # noqa: F401 - fixtures

QUICK: Final = {"webhook_hosts": ("127.0.0.1",), "poll_interval": 0.02, "webhook_lease": 0.6}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=QUICK)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def subscribe(client: Client, url: str, **fields: object) -> dict[str, Any]:
    return await create(client, "/webhooks", {"url": url, **fields})


async def shown(client: Client, webhook: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = await read(client, f"/webhooks/{webhook['id']}")
    return found


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait as ``until`` does, with fewer requests."""
    for _ in range(300):
        if await condition():
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"timed out waiting for {what}")


async def until_state(client: Client, webhook: dict[str, Any], state: str, failures: int = 0) -> dict[str, Any]:
    """Wait until a webhook is shown in a state, after some failures in a row; return it."""

    async def is_there() -> bool:
        found = await shown(client, webhook)
        return (found["state"], found["failures"]) == (state, failures)

    await eventually(is_there, f"the state {state}")
    return await shown(client, webhook)


async def until_position(client: Client, webhook: dict[str, Any], position: int) -> None:
    async def is_there() -> bool:
        return bool((await shown(client, webhook))["position"] == position)

    await eventually(is_there, f"the position {position}")


async def attempt_now(connection: Connection, webhook: dict[str, Any]) -> None:
    """Let the pause before the next attempt be over, as after some hours."""
    await connection.execute(
        "UPDATE webhooks SET next_attempt_at = now(), version = version + 1, restarts = restarts + 1 WHERE id = $1",
        webhook["id"],
    )
    await connection.execute("UPDATE webhook_leases SET revision = revision + 1")


async def attempts(client: Client, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await read(client, f"/webhooks/{webhook['id']}/attempts"))["items"]
    return found


async def test_events_arrive_in_order_signed_and_as_the_feed_shows_them(
    client: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No proxy of the environment is used: nothing listens there.
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    before = await new_student(client)
    webhook = await subscribe(client, receiver.url)
    everything = await subscribe(client, f"{receiver.url}?all", from_position=1)
    assert re.fullmatch("whsec_[A-Za-z0-9+/]{43}=", webhook["secret"])
    assert "secret" not in await shown(client, webhook)
    for _ in range(3):
        await new_student(client)
    await receiver.until(7)

    items = (await read(client, "/events"))["items"]
    assert [item["student_id"] for item in items] == [before, *range(before + 1, before + 4)]
    own, all_events = [
        [each for each in receiver.messages if _is_signed(each, secret)]
        for secret in (webhook["secret"], everything["secret"])
    ]
    assert [each.event for each in own] == items[1:]
    assert [each.event for each in all_events] == items
    assert [each.id for each in own] == [each.id for each in all_events[1:]], "an event has one id"
    assert len({each.id for each in all_events}) == 4
    assert {each.headers["content-type"] for each in own} == {"application/json"}
    await until_position(client, webhook, 4)
    [attempt, *_] = await attempts(client, webhook)
    assert (attempt["position"], attempt["status"], attempt["error"]) == (4, 200, None)


def _is_signed(message: Any, secret: str) -> bool:
    try:
        message.verify(secret)
    except WebhookVerificationError:
        return False
    return True


async def test_only_the_events_that_match_the_filters_arrive(client: Client, receiver: Receiver) -> None:
    course = (await create(client, "/courses", {"code": "A", "title": "A"}))["id"]
    types = ["enrollment.enrolled", "enrollment.dropped"]
    webhook = await subscribe(client, receiver.url, types=types[::-1], course_id=course, from_position=1)
    assert webhook["types"] == types, "in the order of the document"
    for _ in range(2):
        student = await new_student(client)
        await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course]})
    await receiver.until(2)
    await call(client, "PATCH", f"/webhooks/{webhook['id']}", {"types": None, "course_id": None})
    await new_student(client)
    await receiver.until(3)
    assert [each.event["type"] for each in receiver.messages] == [types[0], types[0], "student.created"]


async def test_a_receiver_that_was_down_for_ten_events_gets_them_in_order(
    client: Client, receiver: Receiver, connection: Connection
) -> None:
    receiver.answer = 503
    webhook = await subscribe(client, receiver.url)
    for _ in range(10):
        await new_student(client)
    failing = await until_state(client, webhook, "failing", 1)
    assert (failing["position"], receiver.positions) == (0, [1])
    healthy = await subscribe(client, f"{receiver.url}?healthy", from_position=10)

    receiver.answer = 200
    await attempt_now(connection, webhook)
    await receiver.until(12)
    of_first = [each.event["position"] for each in receiver.messages if _is_signed(each, webhook["secret"])]
    assert of_first == [1, *range(1, 11)]
    await until_position(client, webhook, 10)
    assert (await until_state(client, webhook, "active"))["next_attempt_at"] is None
    await until_position(client, healthy, 10)


async def test_attempts_follow_the_schedule_and_then_the_webhook_is_stopped(
    client: Client, receiver: Receiver, connection: Connection
) -> None:
    receiver.answer = 500
    webhook = await subscribe(client, receiver.url)
    await new_student(client)
    for failures in range(1, len(DELAYS)):
        await receiver.until(failures)
        found = await until_state(client, webhook, "failing", failures)
        [last, *_] = await attempts(client, webhook)
        pause = _instant(found["next_attempt_at"]) - _instant(last["attempted_at"])
        # The pause begins when the attempt has ended, which took some milliseconds.
        took = pause.total_seconds() - last["milliseconds"] / 1000
        assert DELAYS[failures] - 0.01 <= took <= DELAYS[failures] * (1 + JITTER) + 1
        await attempt_now(connection, webhook)
    stopped = await until_state(client, webhook, "stopped", len(DELAYS))
    assert (stopped["stopped_because"], stopped["position"], stopped["next_attempt_at"]) == ("failures", 0, None)
    assert stopped["stopped_at"]
    assert len(receiver.messages) == len(DELAYS) == 10
    assert len({each.id for each in receiver.messages}) == 1
    metrics = (await call(client, "GET", "/metrics")).body.decode()
    assert 'enrollment_webhooks{state="stopped"} 1.0' in metrics
    assert re.search(r'^enrollment_webhook_deliveries_total{result="failed"} \d\d', metrics, re.MULTILINE)

    receiver.answer = 204
    resumed = await call(client, "POST", f"/webhooks/{webhook['id']}/resume")
    assert (resumed.status, resumed.body["state"], resumed.body["failures"]) == (200, "active", 0)
    await receiver.until(11)
    await until_position(client, webhook, 1)
    assert [each["status"] for each in await attempts(client, webhook)] == [204, *[500] * 10]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_the_pause_ends_by_the_clock_of_the_institution(
    aiohttp_client: AiohttpClient, settings: Settings, receiver: Receiver
) -> None:
    receiver.answer = 500
    client = await served(aiohttp_client, settings)
    webhook = await subscribe(client, receiver.url)
    await new_student(client)
    before = await until_state(client, webhook, "failing", 1)
    await client.close()
    receiver.answer = 200
    later = await served(aiohttp_client, settings.model_copy(update={"allow_reset": True, "test_clock": "+1h"}))
    await receiver.until(2)
    await until_position(later, webhook, 1)
    [last, *_] = await attempts(later, webhook)
    assert _instant(last["attempted_at"]) > _instant(before["next_attempt_at"]) + timedelta(minutes=50)
    receiver.messages[1].verify(webhook["secret"])


async def test_a_receiver_may_end_its_subscription_and_ask_for_a_pause(client: Client, receiver: Receiver) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7200"})

    receiver.answer = busy
    paused = await subscribe(client, receiver.url, types=["student.created"])
    await new_student(client)
    found = await until_state(client, paused, "failing", 1)
    await until(lambda: attempts(client, paused), "the attempt")
    [last] = await attempts(client, paused)
    pause = (_instant(found["next_attempt_at"]) - _instant(last["attempted_at"])).total_seconds()
    assert 7200 <= pause <= 7210

    receiver.answer = 410
    gone = await subscribe(client, receiver.url, from_position=1)
    assert (await until_state(client, gone, "stopped", 1))["stopped_because"] == "gone"


async def test_redirects_are_not_followed_and_endless_answers_are_not_read(client: Client, receiver: Receiver) -> None:
    async with receiving() as other:

        async def redirect(_request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": other.url})

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(bytes(65536))

        receiver.answer = redirect
        moved = await subscribe(client, receiver.url)
        await new_student(client)
        await until_state(client, moved, "failing", 1)
        assert other.messages == []
        assert [each["status"] for each in await attempts(client, moved)] == [307]

        other.answer = endless
        streaming = await subscribe(client, other.url, from_position=1)
        await new_student(client)
        await other.until(2)
        await until_position(client, streaming, 2)


async def test_a_rotation_signs_with_both_secrets_until_it_is_over(
    client: Client, receiver: Receiver, connection: Connection
) -> None:
    first = await subscribe(client, receiver.url)
    rotated = await call(client, "POST", f"/webhooks/{first['id']}/rotate", {})
    second = rotated.body
    assert second["secret"] != first["secret"]
    assert second["previous_until"]
    await new_student(client)
    await receiver.until(1)
    receiver.messages[0].verify(first["secret"])
    receiver.messages[0].verify(second["secret"])
    assert len(receiver.messages[0].headers["webhook-signature"].split()) == 2

    await connection.execute("UPDATE webhooks SET previous_until = now()")
    await attempt_now(connection, first)
    assert (await call(client, "POST", f"/webhooks/{first['id']}/test")).body["delivered"]
    receiver.messages[1].verify(second["secret"])
    assert not _is_signed(receiver.messages[1], first["secret"])


@needs_npm
async def test_the_npm_package_verifies_messages(client: Client, receiver: Receiver, tmp_path: Path) -> None:
    first = await subscribe(client, receiver.url)
    second = (await call(client, "POST", f"/webhooks/{first['id']}/rotate", {})).body
    await create(client, "/courses", {"code": "É1", "title": "Analysis für Öl 🎓"})
    await receiver.until(1)
    [message] = receiver.messages
    body = message.body.decode()
    rows = [(secret, message.headers, body) for secret in (first["secret"], second["secret"], "whsec_AAAA")]
    rows.append((first["secret"], message.headers, body.replace("Analysis", "Synthesis")))
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(rows))
    output = await run("node", FILES / "verify_webhooks.mjs", file, cwd=FILES)
    refused = "WebhookVerificationError"
    assert output.splitlines() == ["course.created", "course.created", refused, refused]


async def test_a_test_delivery_is_signed_and_changes_nothing(client: Client, receiver: Receiver) -> None:
    webhook = await subscribe(client, receiver.url)
    receiver.answer = 404
    answer = await call(client, "POST", f"/webhooks/{webhook['id']}/test")
    assert (answer.status, answer.body["delivered"], answer.body["status"], answer.body["error"]) == (
        200,
        False,
        404,
        None,
    )
    [message] = receiver.messages
    message.verify(webhook["secret"])
    assert (message.event["type"], message.event["webhook_id"]) == ("webhook.test", webhook["id"])
    assert (await shown(client, webhook)) == {name: each for name, each in webhook.items() if name != "secret"}
    [attempt] = await attempts(client, webhook)
    assert (attempt["position"], attempt["status"]) == (None, 404)


async def test_a_replay_sends_events_again_with_their_ids(client: Client, receiver: Receiver) -> None:
    webhook = await subscribe(client, receiver.url)
    for _ in range(3):
        await new_student(client)
    await receiver.until(3)
    await call(client, "POST", f"/webhooks/{webhook['id']}/replay", {"from_position": 2})
    await receiver.until(5)
    assert receiver.positions == [1, 2, 3, 2, 3]
    assert [each.id for each in receiver.messages[1:3]] == [each.id for each in receiver.messages[3:]]
    await until_position(client, webhook, 3)

    beyond = await call(client, "POST", f"/webhooks/{webhook['id']}/replay", {"from_position": 5})
    body = problem(beyond, 422, "unknown_position")
    assert body["errors"][0]["pointer"] == "#/from_position"
    next_one = await call(client, "POST", f"/webhooks/{webhook['id']}/replay", {"from_position": None})
    assert next_one.body["position"] == 3


async def test_a_webhook_is_stopped_when_another_history_of_the_feed_begins(
    client: Client, receiver: Receiver, connection: Connection
) -> None:
    await new_student(client)
    webhook = await subscribe(client, receiver.url)
    await connection.execute("UPDATE feed SET epoch = $1", uuid4())
    stopped = await until_state(client, webhook, "stopped")
    assert (stopped["stopped_because"], stopped["position"]) == ("cursor_expired", 1)
    problem(await call(client, "POST", f"/webhooks/{webhook['id']}/resume"), 410, "cursor_expired")

    replayed = await call(client, "POST", f"/webhooks/{webhook['id']}/replay", {"from_position": 1})
    assert (replayed.body["state"], replayed.body["stopped_because"]) == ("active", None)
    await receiver.until(1)
    assert receiver.positions == [1]


async def test_a_slow_receiver_holds_up_only_its_own_webhook(client: Client, receiver: Receiver) -> None:
    released = asyncio.Event()

    async def hesitate(_request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    async with receiving() as slow:
        slow.answer = hesitate
        await subscribe(client, slow.url)
        webhook = await subscribe(client, receiver.url)
        for _ in range(5):
            await new_student(client)
        await receiver.until(5)
        await until_position(client, webhook, 5)
        assert slow.positions == [1], "the next event waits for the answer"
        released.set()
        await slow.until(5)
        assert slow.positions == receiver.positions == [1, 2, 3, 4, 5]


async def test_another_process_takes_over_when_the_one_that_delivers_dies(
    client: Client, aiohttp_client: AiohttpClient, settings: Settings, receiver: Receiver, connection: Connection
) -> None:
    webhook = await subscribe(client, receiver.url)
    await new_student(client)
    await until_position(client, webhook, 1)
    first = await connection.fetchval("SELECT holder FROM webhook_leases")
    other = await served(aiohttp_client, settings)
    # The other process can reach the database no more, and does not release its lease.
    assert client.app is not None
    await client.app[POOL].close()
    for _ in range(3):
        await new_student(other)
    await receiver.until(4)
    assert await connection.fetchval("SELECT holder FROM webhook_leases") != first
    assert receiver.positions == [1, 2, 3, 4]
    await until_position(other, webhook, 4)


async def test_a_process_that_stops_ends_its_deliveries_and_the_next_goes_on(
    aiohttp_client: AiohttpClient, settings: Settings, receiver: Receiver, connection: Connection
) -> None:
    # With so long a lease, only one that is released can be taken over.
    settings = settings.model_copy(update={"webhook_lease": 60.0})
    client = await served(aiohttp_client, settings)
    begun = asyncio.Event()

    async def take_time(_request: web.Request) -> web.Response:
        begun.set()
        await asyncio.sleep(0.1)
        return web.Response()

    receiver.answer = take_time
    webhook = await subscribe(client, receiver.url)
    for _ in range(2):
        await new_student(client)
    await begun.wait()
    await client.close()
    assert await connection.fetchval("SELECT position FROM webhooks") == len(receiver.messages) == 1
    assert await connection.fetchval("SELECT holder FROM webhook_leases") is None

    other = await served(aiohttp_client, settings)
    await receiver.until(2)
    assert receiver.positions == [1, 2]
    await until_position(other, webhook, 2)


async def test_idle_webhooks_share_the_statement_of_the_poller_and_cost_no_other(
    aiohttp_client: AiohttpClient, settings: Settings, receiver: Receiver
) -> None:
    # One connection reads, and one changes.
    settings = settings.model_copy(update={"webhook_lease": 600.0, "pool_size": 2})
    client = await served(aiohttp_client, settings)
    for _ in range(10):
        await subscribe(client, receiver.url)
    await new_student(client)
    await receiver.until(10)
    assert client.app is not None
    sent: list[str] = []
    await until_caught_up(client, 10)
    for for_changes in (False, True):
        async with client.app[DATABASE].reading(for_changes=for_changes) as connection:
            connection.add_query_logger(lambda query: sent.append(query.query))

    async def has_polled() -> bool:
        return len(sent) > 10

    await eventually(has_polled, "ten looks at the feed")
    assert set(sent) == {GET_EPOCH}
    sent.clear()
    await new_student(client)
    await receiver.until(20)
    assert sent.count(LIST_EVENTS) == 1, "one read for all"


async def until_caught_up(client: Client, count: int) -> None:
    """Wait until so many webhooks wait for an event, and their positions are saved."""
    assert client.app is not None
    poller = client.app[POLLER]
    newest = (await read(client, "/events"))["items"][-1]["position"]

    async def is_quiet() -> bool:
        items = (await read(client, "/webhooks"))["items"]
        return poller.waiting()[0] == count and {each["position"] for each in items} == {newest}

    await eventually(is_quiet, "webhooks that have caught up")


async def test_the_last_attempts_are_kept(client: Client, receiver: Receiver, connection: Connection) -> None:
    webhook = await subscribe(client, receiver.url)
    await connection.execute(
        "INSERT INTO webhook_attempts (webhook_id, attempted_at, status, milliseconds) "
        "SELECT $1, now(), 200, 1 FROM generate_series(1, 150)",
        webhook["id"],
    )
    await new_student(client)
    await until_position(client, webhook, 1)

    async def cleaned() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM webhook_attempts") == ATTEMPTS_KEPT)

    await eventually(cleaned, "the deletion of the oldest attempts")
    assert (await call(client, "DELETE", f"/webhooks/{webhook['id']}")).status == 204
    assert await connection.fetchval("SELECT count(*) FROM webhook_attempts") == 0
    problem(await call(client, "GET", f"/webhooks/{webhook['id']}"), 404, "webhook_not_found")


async def test_versions_limits_and_scopes(
    aiohttp_client: AiohttpClient, settings: Settings, receiver: Receiver
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"webhook_limit": 1}))
    webhook = await subscribe(client, receiver.url)
    path = f"/webhooks/{webhook['id']}"
    problem(await call(client, "POST", "/webhooks", {"url": receiver.url}), 409, "webhook_limit_reached")
    stale = await call(client, "PATCH", path, {"student_id": 1}, headers={"If-Match": '"7"'})
    problem(stale, 412, "precondition_failed")
    edited = await call(client, "PATCH", path, {"student_id": 1}, headers={"If-Match": '"1"'})
    assert (edited.status, edited.etag, edited.body["student_id"]) == (200, '"2"', 1)
    assert (await call(client, "PATCH", path, {"student_id": None})).body["student_id"] is None
    unknown = await call(client, "PATCH", path, {"types": ["student.exploded"]})
    assert problem(unknown, 422, "invalid")["errors"][0]["pointer"] == "#/types/0"


async def test_the_receiver_of_the_document_stores_each_event_once(client: Client, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/webhooks.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    written: dict[str, Any] = {}
    exec(compile(code, "docs/webhooks.md", "exec"), written)
    # The secret is known only once there is a webhook, and its URL only once the receiver listens.
    webhook = await subscribe(client, "http://127.0.0.1:9/")
    async with TestServer(written["create_receiver"](webhook["secret"], tmp_path / "events.db")) as server:
        path = f"/webhooks/{webhook['id']}"
        await call(client, "PATCH", path, {"url": str(server.make_url("/enrollment"))})
        assert (await call(client, "POST", f"{path}/test")).body["delivered"]
        for _ in range(3):
            await new_student(client)
        await until_position(client, webhook, 3)
        await call(client, "POST", f"{path}/replay", {"from_position": 2})
        await until_position(client, webhook, 3)
        with sqlite3.connect(tmp_path / "events.db") as database:
            stored = database.execute("SELECT position, event FROM events ORDER BY position").fetchall()
        database.close()
    items = (await read(client, "/events"))["items"]
    assert [(position, json.loads(event)) for position, event in stored] == [(item["position"], item) for item in items]


@pytest.mark.not_on_citus("the tests would share the registry")
async def test_each_institution_has_webhooks_of_its_own_and_a_suspended_one_sends_nothing(
    aiohttp_client: AiohttpClient,
    many: Settings,  # noqa: F811
    receiver: Receiver,
    connection: Connection,
) -> None:
    first, second = [await served(aiohttp_client, many.model_copy(update=QUICK)) for _ in range(2)]
    north, south = await new_school(first, "north"), await new_school(first, "south")
    receiver.answer = 503
    webhook = (await north.call("POST", "/webhooks", {"url": receiver.url})).body
    assert (await south.read("/webhooks"))["items"] == []
    await south.create("/students", student_fields())
    await north.create("/students", student_fields())
    await receiver.until(1)
    registry = registry_of(second)
    await registry.change("north", state="suspended")
    receiver.answer = 200

    async def is_released() -> bool:
        # Neither process renews the lease.
        return bool(await connection.fetchval("SELECT expires_at < statement_timestamp() FROM registry.webhook_leases"))

    await eventually(is_released, "the end of the lease")
    await connection.execute("UPDATE institution_north.webhooks SET next_attempt_at = now()")
    sent = len(receiver.messages)
    await asyncio.sleep(0.3)
    assert len(receiver.messages) == sent == 1

    await registry.change("north", state="active")
    await receiver.until(2)
    assert receiver.positions == [1, 1]
    receiver.messages[1].verify(webhook["secret"])

    assert (await north.call("DELETE", f"/webhooks/{webhook['id']}")).status == 204
    await connection.execute("UPDATE registry.webhook_leases SET changed_at = now() - interval '2 minutes'")

    async def is_deleted() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM registry.webhook_leases")

    await eventually(is_deleted, "the deletion of a lease that nobody needs")


@pytest.mark.not_on_citus("the tests would share the registry")
async def test_the_webhooks_of_an_adopted_schema_are_delivered(
    aiohttp_client: AiohttpClient,
    settings: Settings,
    many: Settings,  # noqa: F811
    receiver: Receiver,
    connection: Connection,
) -> None:
    alone = await served(aiohttp_client, settings)
    receiver.answer = 503
    webhook = await subscribe(alone, receiver.url)
    await new_student(alone)
    await until_state(alone, webhook, "failing", 1)
    await alone.close()
    await connection.execute("UPDATE webhooks SET next_attempt_at = now()")
    receiver.answer = 200
    fleet = await served(aiohttp_client, many.model_copy(update={**QUICK, "auth": "off"}))
    await registry_of(fleet).create("main", "Main", "UTC", schema="public")
    of_main = {"X-Institution": "main"}
    # The attempt is due: no call has to notice the webhook.
    await receiver.until(2)
    assert (await call(fleet, "GET", f"/webhooks/{webhook['id']}", headers=of_main)).body["url"] == receiver.url


REFUSED: Final = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "192.0.0.8", "198.18.0.1", "192.88.99.1", "::", "::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8"),
    *("fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "2002:7f00:1::1"),
    *("2001::1", "2001:db8::1", "3fff::1", "100::1", "::127.0.0.1", "5f00::1"),
)
ALLOWED: Final = ("8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888", "172.32.0.1", "100.128.0.1")


def test_only_public_addresses_are_allowed() -> None:
    assert [each for each in REFUSED if is_public(each)] == []
    assert all(is_public(each) for each in ALLOWED)


async def test_no_connection_is_made_to_an_address_that_is_not_public_whatever_a_name_resolves_to(
    settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[str] = []

    async def resolve(_self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        """Resolve as a name server that an attacker controls."""
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in answers
            if family in {0, socket.AF_INET6 if ":" in address else socket.AF_INET}
        ]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr(DefaultResolver, "resolve", resolve)
    port = URL(receiver.url).port
    for number, address in enumerate(REFUSED):
        answers[:] = [address]
        sender = Sender(settings)
        attempt = await sender.send(f"https://rebound{number}.example:{port}/", ["whsec_AAAA"], "evt_1", b"{}")
        await sender.close()
        assert (attempt.status, attempt.error) == (None, "address_refused"), address
    answers[:] = ["127.0.0.1", "::1"]
    sender = Sender(settings.model_copy(update={"webhook_hosts": ("listed.example",)}))
    refused = await sender.send(f"https://other.example:{port}/", ["whsec_AAAA"], "evt_1", b"{}")
    assert refused.error == "address_refused"
    assert receiver.messages == []
    answers[:] = ["127.0.0.1"]
    listed = await sender.send(f"http://listed.example:{port}/", ["whsec_AAAA"], "evt_1", b"{}")
    await sender.close()
    assert (listed.status, listed.error, len(receiver.messages)) == (200, None, 1)


async def test_no_message_is_sent_to_a_server_whose_certificate_nobody_vouches_for(
    settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    sender = Sender(settings)
    async with receiving(certificate_of("127.0.0.1", tmp_path)) as unknown:
        refused = await sender.send(unknown.url, ["whsec_AAAA"], "evt_1", b"{}")
    without_tls = await sender.send(receiver.url.replace("http:", "https:"), ["whsec_AAAA"], "evt_1", b"{}")
    await sender.close()

    assert (refused.status, refused.error, unknown.messages) == (None, "certificate_refused", [])
    assert (without_tls.status, without_tls.error, receiver.messages) == (None, "certificate_refused", [])


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/",
            "https://[::ffff:a00:1]/",
            "https://2130706433/",
        ),
        *("https://0x7f.1/", "https://0177.0.0.1/", "https://127.1/", "https://[64:ff9b::a9fe:a9fe]/", "https://a.1/"),
        *("https://localhost/", "https://hook.localhost./", "http://lms.campus.example/", "ftp://lms.campus.example/"),
        *("https://user:secret@lms.campus.example/", "https://lms.campus.example/#part", "https:///hook", "hook", ""),
        *(
            "https://lms.campus.example:0/",
            "https://lms.campus.example:99999/",
            "https://lms.campus.example/ ",
            "https://a b/",
        ),
        *(
            "https://lms.campus.example\\@10.0.0.1/",
            "https://lms.campus.example/\r\nX: 1",
            "https://\uff11\uff12\uff17.0.0.\uff11/",
        ),
    ],
)
def test_a_url_that_events_may_not_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused, match="url must "):
        check_url(url, {"lms"})


async def test_a_refused_url_names_the_member_and_nothing_is_written(client: Client, connection: Connection) -> None:
    answer = await call(client, "POST", "/webhooks", {"url": "https://169.254.169.254/latest/meta-data"})
    body = problem(answer, 422, "webhook_url_refused")
    [error] = body["errors"]
    assert (error["pointer"], error["code"]) == ("#/url", "webhook_url_refused")
    assert "public address" in error["detail"]
    assert await connection.fetchval("SELECT count(*) FROM webhooks") == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *((None, None), ("120", 120.0), ("9" * 400, 999999999.0), ("-5", None), ("soon", None), ("", None)),
        *(("Thu, 01 Jan 2026 00:02:00 GMT", 120.0), ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0), ("Thu, 99 Jan 2026", None)),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(text: str | None, seconds: float | None) -> None:
    assert read_retry_after(text, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


def test_a_receiver_can_make_a_pause_longer_up_to_a_day_and_not_shorter() -> None:
    assert pause_after(2, 1.0) >= DELAYS[2]  # type: ignore[operator]
    assert pause_after(1, 10.0**9) == MAX_RETRY_SECONDS
    assert pause_after(len(DELAYS), 10.0) is None
