"""Webhooks: every event reaches its receiver in order and signed, whatever fails on the way, and nothing else is reached."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient
from standardwebhooks.webhooks import WebhookVerificationError

from service.api.events import POLLER
from service.api.keys import DATABASE, POOL
from service.settings import Settings
from service.webhooks import ATTEMPTS_KEPT
from service.webhooks.retries import DELAYS, JITTER
from sql import Connection
from sql.feed import GET_EPOCH, LIST_EVENTS
from tests.campus import call, create, new_student, problem, read, served, until
from tests.conftest import Client
from tests.receiver import Receiver, receiving

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


async def until_state(client: Client, webhook: dict[str, Any], state: str, failures: int = 0) -> dict[str, Any]:
    """Wait until a webhook is shown in a state, after some failures in a row; return it."""

    async def is_there() -> bool:
        found = await shown(client, webhook)
        return (found["state"], found["failures"]) == (state, failures)

    await until(is_there, f"the state {state}")
    return await shown(client, webhook)


async def until_position(client: Client, webhook: dict[str, Any], position: int) -> None:
    async def is_there() -> bool:
        return bool((await shown(client, webhook))["position"] == position)

    await until(is_there, f"the position {position}")


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


async def test_events_arrive_in_order_signed_and_as_the_feed_shows_them(client: Client, receiver: Receiver) -> None:
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
    assert 'enrollment_webhooks{state="stopped"} 1.0' in (await call(client, "GET", "/metrics")).body.decode()

    receiver.answer = 204
    resumed = await call(client, "POST", f"/webhooks/{webhook['id']}/resume")
    assert (resumed.status, resumed.body["state"], resumed.body["failures"]) == (200, "active", 0)
    await receiver.until(11)
    await until_position(client, webhook, 1)
    assert [each["status"] for each in await attempts(client, webhook)] == [204, *[500] * 10]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_receiver_may_end_its_subscription_and_ask_for_a_pause(client: Client, receiver: Receiver) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7200"})

    receiver.answer = busy
    paused = await subscribe(client, receiver.url, types=["student.created"])
    await new_student(client)
    found = await until_state(client, paused, "failing", 1)
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
    with pytest.raises(WebhookVerificationError):
        receiver.messages[1].verify(first["secret"])


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
    await connection.execute("UPDATE feed SET epoch = gen_random_uuid()")
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

    await until(has_polled, "ten looks at the feed")
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

    await until(is_quiet, "webhooks that have caught up")


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

    await until(cleaned, "the deletion of the oldest attempts")
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
