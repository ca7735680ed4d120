"""The change feed: every reader gets every committed change, once and in order."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest
from pytest_aiohttp import AiohttpClient

from service.__main__ import parse
from service.api.events import LONG_POLL_SECONDS, POLLER
from service.api.feed import (
    EXTRACTS_PER_TURN,
    READERS_PER_TURN,
    TURN_SECONDS,
    Cursor,
    Extract,
    News,
    Poller,
    cursor_after,
    decode,
    encode,
)
from service.api.keys import POOL
from service.database import Database
from service.errors import Unavailable
from service.registrar import Registrar
from service.registrar.changes import Origin
from service.registrar.resources import Create
from service.registrar.students import STUDENT, StudentFields
from service.settings import Settings
from service.web.endpoint import DRAINING
from sql import Connection
from sql.feed import GET_EPOCH, LIST_EVENTS, get_epoch, list_events
from tests import shared
from tests.campus import (
    busy,
    call,
    create,
    drop,
    enroll,
    new_course,
    new_student,
    places,
    problem,
    read,
    served,
    student_fields,
    until,
    walk,
)
from tests.conftest import Client, Server, clone
from tests.test_process import run

pytestmark, service, client, connection, settings = shared.SERVICE
database_url, aiohttp_client = shared.DATABASE_URL, shared.AIOHTTP_CLIENT


class Hesitant(Database):
    """A database whose writers pause before they take the lock, and again while they hold it."""

    chance = random.Random(7)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        await asyncio.sleep(self.chance.random() / 100)
        async with super().writing() as connection:
            await asyncio.sleep(self.chance.random() / 500)
            yield connection


@dataclass(slots=True)
class Reader:
    """A reader of the feed that stores its cursor with the events it has seen, so it can be killed at any moment."""

    client: Client
    cursor: str | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        return [event["position"] for event in self.seen]

    async def step(self, wait: int = 0) -> int:
        """Read a page and return the number of its events."""
        after = "" if self.cursor is None else f"&after={self.cursor}"
        page = await read(self.client, f"/events?limit=7&wait={wait}{after}")
        self.cursor = page["next"]
        self.seen += page["items"]
        return len(page["items"])

    async def follow(self, count: int) -> None:
        while len(self.seen) < count:
            await self.step(wait=5)


async def test_every_reader_sees_every_position_once_and_in_order_whatever_the_writers_do(
    client: Client, settings: Settings, database_url: str, connection: Connection
) -> None:
    writers, each = 32, 6
    # On a busy machine, 32 writers in turn can take longer than the default limits.
    patient = {"acquire_timeout": 60, "lock_timeout": 60, "statement_timeout": 61, "command_timeout": 62}
    database = Hesitant(settings.model_copy(update={"pool_size": writers, **patient}))
    await database.open()

    async def write(number: int) -> None:
        registrar = Registrar(database, settings.model_copy(update={"write_timeout": 60}))
        for turn in range(each):
            name = f"w{number}-{turn}"
            fields: StudentFields = {
                "external_id": name,
                "sourced_id": None,
                "given_name": "A",
                "family_name": "B",
                "preferred_name": None,
                "email": f"{name}@x",
                "max_credits": None,
                "groups": "",
            }
            await registrar.submit(Create(origin=Origin(name), resource=STUDENT, fields=fields))

    readers = [Reader(client) for _ in range(4)]
    following = [asyncio.create_task(reader.follow(writers * each)) for reader in readers]
    writing = asyncio.gather(*(write(number) for number in range(writers)))

    async def has_read() -> bool:
        return len(readers[0].seen) > 20

    await until(has_read, "the first reader to have read something")
    following[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await following[0]
    killed_at = len(readers[0].seen)
    following[0] = asyncio.create_task(readers[0].follow(writers * each))
    await writing
    await asyncio.gather(*following)
    await database.close()

    assert killed_at < writers * each
    for reader in readers:
        assert reader.positions == list(range(1, writers * each + 1))
        assert await reader.step() == 0
    written = await connection.fetch("SELECT request_id FROM events ORDER BY position")
    assert [event["request_id"] for event in readers[0].seen] == [row[0] for row in written]

    # For comparison without the lock: transactions take numbers from a sequence and commit in another order.
    await connection.execute("CREATE TABLE unlocked (id bigint GENERATED ALWAYS AS IDENTITY)")
    slow = await asyncpg.connect(database_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("INSERT INTO unlocked DEFAULT VALUES")
    await connection.execute("INSERT INTO unlocked DEFAULT VALUES")
    follow = "SELECT id FROM unlocked WHERE id > $1 ORDER BY id"
    seen = [row[0] for row in await connection.fetch(follow, 0)]
    await transaction.commit()
    seen += [row[0] for row in await connection.fetch(follow, seen[-1])]
    await slow.close()
    assert await connection.fetchval("SELECT count(*) FROM unlocked") == 2
    await connection.execute("DROP TABLE unlocked")
    assert seen == [2], "the control loses a row, or else the proof above proves nothing"


async def test_a_copy_from_the_head_the_lists_and_the_feed_equals_the_tables(
    client: Client, connection: Connection
) -> None:
    chance = random.Random(11)
    courses = [await new_course(client, capacity=3) for _ in range(4)]
    racers = [await new_student(client) for _ in range(12)]

    async def churn(student: int) -> None:
        for _ in range(12):
            course, what = chance.choice(courses), chance.random()
            if what < 0.5:
                body = {"course_ids": [course], "on_full": "waitlist"}
                await call(client, "POST", f"/students/{student}/enroll", body)
            elif what < 0.8:
                await drop(client, student, course)
            elif what < 0.9:
                await call(client, "PATCH", f"/courses/{course}", {"capacity": chance.randint(1, 6)})
            else:
                await call(client, "DELETE", f"/students/{await new_student(client)}")
        await new_student(client)

    churning = asyncio.gather(*(churn(student) for student in racers))
    reader = Reader(client)
    await reader.step()
    reader = Reader(client, cursor=(await read(client, "/events/head"))["next"])
    students = {row["id"] for page in await walk(client, "/students?limit=5") for row in page}
    capacities = {row["id"]: row["capacity"] for page in await walk(client, "/courses?limit=2") for row in page}
    states: dict[tuple[int, int], str] = {}
    for course in courses:
        for status in ("enrolled", "waitlisted"):
            for page in await walk(client, f"/courses/{course}/students?status={status}&limit=2"):
                states |= {(row["student_id"], course): status for row in page}
    await churning
    while await reader.step():
        pass

    assert len(reader.seen) > 20
    for event in reader.seen:
        student, course = event["student_id"], event["course_id"]
        if event["type"].startswith("enrollment."):
            states[student, course] = event["after"]["status"]
        elif event["type"] == "student.created":
            students.add(student)
        elif event["type"] == "student.deleted":
            students.discard(student)
        else:
            capacities[course] = event["after"]["capacity"]
    in_tables = await connection.fetch("SELECT student_id, course_id, status FROM student_courses")
    active = {(row[0], row[1]): row[2] for row in in_tables if row[2] in {"enrolled", "waitlisted"}}
    assert {key: status for key, status in states.items() if status != "dropped"} == active
    assert students == {row[0] for row in await connection.fetch("SELECT id FROM students")}
    assert capacities == {row[0]: row[1] for row in await connection.fetch("SELECT id, capacity FROM courses")}


async def waiting(client: Client, count: int) -> None:
    assert client.app is not None
    poller = client.app[POLLER]

    async def waits() -> bool:
        return sum(map(len, poller._waiting.values())) == count

    await until(waits, f"{count} waiting readers")


async def test_waiting_ends_as_soon_as_there_is_an_event(client: Client) -> None:
    head = (await read(client, "/events/head"))["next"]
    readers = [asyncio.create_task(read(client, f"/events?wait={LONG_POLL_SECONDS}&after={head}")) for _ in range(3)]
    await waiting(client, 3)

    student = await new_student(client)

    async with asyncio.timeout(LONG_POLL_SECONDS / 2):
        for page in await asyncio.gather(*readers):
            assert [(event["type"], event["student_id"]) for event in page["items"]] == [("student.created", student)]


async def test_a_wait_without_an_event_ends_with_the_cursor_to_continue_from(client: Client) -> None:
    await new_student(client)
    head = (await read(client, "/events/head"))["next"]

    assert await read(client, f"/events?wait=1&after={head}") == {"items": [], "next": head}


async def test_waiting_ends_when_the_service_shuts_down(aiohttp_client: AiohttpClient, settings: Settings) -> None:
    client = await served(aiohttp_client, settings)
    reader = asyncio.create_task(read(client, f"/events?wait={LONG_POLL_SECONDS}"))
    await waiting(client, 1)

    assert client.app is not None
    client.app[DRAINING].set()

    async with asyncio.timeout(LONG_POLL_SECONDS / 2):
        assert (await reader)["items"] == []


class Counted(Database):
    """A database that counts its reads and records each query."""

    read_count = 0
    queries: list[str]
    on_query: Callable[[str], object] = staticmethod(lambda query: None)

    @asynccontextmanager
    async def reading(self, *, for_changes: bool = False) -> AsyncIterator[Connection]:
        self.read_count += 1
        async with super().reading(for_changes=for_changes) as connection:
            with connection.query_logger(self._note):
                yield connection

    def _note(self, logged: asyncpg.connection.LoggedQuery) -> None:
        self.queries.append(logged.query)
        self.on_query(logged.query)


@asynccontextmanager
async def polling(settings: Settings, interval: float) -> AsyncIterator[tuple[Poller, Counted, Cursor]]:
    """Yield a poller for this test alone, its database, and the cursor after the newest event."""
    database = Counted(settings)
    database.queries = []
    await database.open()
    async with database.reading() as connection:
        newest = await get_epoch(connection)
    database.read_count = 0
    poller = Poller(database, asyncio.Event(), interval=interval, max_streams=10)
    try:
        yield poller, database, cursor_after(newest.epoch, newest)
    finally:
        poller.close()
        await database.close()


async def test_a_process_polls_once_a_tick_however_many_wait_and_never_if_nobody_waits(settings: Settings) -> None:
    async with polling(settings, interval=30) as (poller, database, cursor):
        await asyncio.gather(*(poller.wait(cursor, 100, 0.3) for _ in range(50)))
        assert database.read_count == 1
    async with polling(settings, interval=0.01) as (poller, database, cursor):
        await asyncio.gather(*(poller.wait(cursor, 100, 0.3) for _ in range(50)))
        assert poller._task is not None
        await poller._task
        read_count = database.read_count
        await asyncio.sleep(0.1)
        assert database.read_count == read_count > 2


async def test_readers_at_one_cursor_share_one_query_and_one_response(
    settings: Settings, connection: Connection
) -> None:
    await connection.execute(NEW_EVENTS, 1, 3)
    async with polling(settings, interval=0.01) as (poller, database, cursor):
        waits = [
            asyncio.create_task(poller.wait(cursor, limit, LONG_POLL_SECONDS)) for limit in [100, 50] * 20 + [2] * 10
        ]
        await asyncio.sleep(0.1)

        await connection.execute(NEW_EVENTS, 4, 6)

        answers = [(await wait).page.text() for wait in waits]
        assert [len(json.loads(text)["items"]) for text in answers] == [3] * 40 + [2] * 10
        assert len({id(text) for text in answers}) == 2
        assert database.queries.count(LIST_EVENTS) == 1


async def test_readers_who_disconnect_during_a_tick_do_not_fail_it(
    settings: Settings, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute(NEW_EVENTS, 1, 4)
    async with polling(settings, interval=0.01) as (poller, database, newest):
        async with database.reading() as session:
            rows = await list_events(session, 0, 3)
        waits = [asyncio.create_task(poller.wait(cursor_after(newest.epoch, row), 100, 5)) for row in rows]
        database.on_query = lambda query: query == LIST_EVENTS and waits[2].cancel()

        answers = [json.loads((await wait).page.text())["items"] for wait in waits[:2]]

        assert [[event["position"] for event in items] for items in answers] == [[2, 3, 4], [3, 4]]
        with pytest.raises(asyncio.CancelledError):
            await waits[2]
        assert poller._task is not None
        await poller._task
    assert caplog.text == ""


NEW_EVENTS = """
INSERT INTO events (position, type, occurred_at, request_id)
SELECT n, 'student.created', clock_timestamp(), 'r' FROM generate_series($1::bigint, $2::bigint) AS n
"""


async def test_a_limited_number_of_readers_are_answered_in_each_turn_of_the_loop(
    settings: Settings, connection: Connection
) -> None:
    count = 20 * READERS_PER_TURN
    async with polling(settings, interval=0.01) as (poller, _, cursor):
        waits = [asyncio.create_task(poller.wait(cursor, 100, LONG_POLL_SECONDS)) for _ in range(count)]
        await asyncio.sleep(0.1)
        await connection.execute(NEW_EVENTS, 1, 1)
        answered = [0]
        while answered[-1] < count:
            await asyncio.sleep(0)
            answered.append(sum(wait.done() for wait in waits))

    # The first pause ends with a millisecond of the loop's clock, perhaps within the same turn.
    assert max(later - earlier for earlier, later in pairwise(answered)) <= 2 * READERS_PER_TURN


async def test_the_pause_between_two_turns_of_readers_is_one() -> None:
    # uvloop calls at once what is due in less than half a millisecond, without a timer.
    timer = asyncio.get_running_loop().call_later(TURN_SECONDS, int)
    timer.cancel()
    assert type(timer).__name__ == "TimerHandle"


async def test_the_poller_chooses_events_for_a_limited_number_of_readers_in_each_turn_of_the_loop(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [0]
    extract = News.extract

    def counted(news: News, *arguments: Any) -> Extract:
        chosen[-1] += 1
        return extract(news, *arguments)

    monkeypatch.setattr(News, "extract", counted)
    count = 5 * EXTRACTS_PER_TURN
    async with polling(settings, interval=0.01) as (poller, _, cursor):
        waits = [asyncio.create_task(poller.wait(cursor, 100, LONG_POLL_SECONDS)) for _ in range(count)]
        await asyncio.sleep(0.1)
        await connection.execute(NEW_EVENTS, 1, 1)
        while sum(chosen) < count:
            await asyncio.sleep(0)
            chosen.append(0)
        await asyncio.wait(waits)

    assert max(chosen) <= EXTRACTS_PER_TURN


async def test_a_reader_who_returns_while_others_are_still_answered_waits_without_a_query(
    settings: Settings, connection: Connection, database_url: str
) -> None:
    async with polling(settings, interval=0.01) as (poller, database, cursor):

        async def may_wait_again() -> tuple[int, bool]:
            extract = await poller.wait(cursor, 100, LONG_POLL_SECONDS)
            return extract.next.position, poller.is_newest(extract.next)

        def commit_another(query: str) -> None:
            if query == GET_EPOCH:
                with psycopg.connect(database_url) as writer:
                    writer.execute(
                        """
                        INSERT INTO events (position, type, occurred_at, request_id)
                        SELECT 2, 'student.created', clock_timestamp(), 'r' FROM events HAVING count(*) = 1
                        """
                    )

        await connection.execute(NEW_EVENTS, 1, 1)
        database.on_query = commit_another
        count = 5 * EXTRACTS_PER_TURN
        assert await asyncio.gather(*[may_wait_again() for _ in range(count)]) == [(2, True)] * count


async def test_a_reader_who_returns_with_the_newest_cursor_waits_without_a_query(
    settings: Settings, aiohttp_client: AiohttpClient
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"poll_interval": 30}))
    assert client.app is not None
    head = (await read(client, "/events/head"))["next"]
    first = asyncio.create_task(read(client, f"/events?wait={LONG_POLL_SECONDS}&after={head}"))
    poller = client.app[POLLER]

    async def is_known() -> bool:
        return poller.is_newest(decode(head))

    await until(is_known, "the first tick")
    await client.app[POOL].close()

    second = asyncio.create_task(read(client, f"/events?wait={LONG_POLL_SECONDS}&after={head}"))
    await waiting(client, 2)
    problem(await call(client, "GET", f"/events?after={head}"), 503, "unavailable")
    client.app[DRAINING].set()
    assert (await first)["items"] == (await second)["items"] == []


async def test_the_poller_continues_after_a_failed_tick_and_a_wait_during_the_failure_gets_503(
    client: Client, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    head = (await read(client, "/events/head"))["next"]
    waits = asyncio.create_task(read(client, f"/events?wait={LONG_POLL_SECONDS}&after={head}"))
    await waiting(client, 1)
    await connection.execute("ALTER TABLE events RENAME TO lost")

    async def is_logged() -> bool:
        return "the feed can't be read" in caplog.text

    await until(is_logged, "the fault in the log")
    assert client.app is not None
    with pytest.raises(Unavailable):
        await client.app[POLLER].wait(decode(head), 100, 0.01)
    await asyncio.sleep(0.5)
    assert caplog.text.count("the feed can't be read") == 1, "once, not at every tick"
    await connection.execute("ALTER TABLE lost RENAME TO events")
    student = await new_student(client)

    async with asyncio.timeout(LONG_POLL_SECONDS / 2):
        assert [event["student_id"] for event in (await waits)["items"]] == [student]


async def test_renewing_the_epoch_expires_every_cursor_and_the_error_says_what_to_do(
    client: Client, database_url: str
) -> None:
    await new_student(client)
    cursor = (await read(client, "/events/head"))["next"]

    renewed = await run("feed", "renew", DATABASE_URL=database_url)

    assert (renewed.status, renewed.err) == (0, "")
    expired(await call(client, "GET", f"/events?after={cursor}"))
    fresh = (await read(client, "/events/head"))["next"]
    assert fresh != cursor
    assert (await read(client, f"/events?after={fresh}"))["items"] == []


def expired(answer: Any) -> None:
    body = problem(answer, 410, "cursor_expired")
    assert "/events/head" in body["detail"]
    assert [(error["code"], error["parameter"]) for error in body["errors"]] == [("cursor_expired", "after")]


async def test_feed_without_renew_is_reported_clearly(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("feed",), ("serve", "renew"), ("feed", "rewind")):
        with pytest.raises(SystemExit) as ended:
            parse(arguments)
        assert ended.value.code == 2, arguments
        assert "renew" in capsys.readouterr().err, arguments


async def test_a_copied_database_begins_a_new_epoch_and_the_original_keeps_its_own(
    settings: Settings, aiohttp_client: AiohttpClient, server: Server, admin: psycopg.Connection[Any]
) -> None:
    copied = contextmanager(clone)
    with copied(server, admin, server.template) as url:
        settings = settings.model_copy(update={"database_url": url})
        original = await served(aiohttp_client, settings)
        await new_student(original)
        cursor = (await read(original, "/events/head"))["next"]
        await original.close()
        name = urlsplit(url).path.removeprefix("/")
        # A database in use can't be copied.
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        with copied(server, admin, name) as url_of_copy:
            copy = await served(aiohttp_client, settings.model_copy(update={"database_url": url_of_copy}))
            expired(await call(copy, "GET", f"/events?after={cursor}"))
            assert [event["position"] for event in (await read(copy, "/events"))["items"]] == [1]
            await copy.close()

        again = await served(aiohttp_client, settings)
        assert (await read(again, f"/events?after={cursor}"))["items"] == []
        await again.close()


async def test_a_cursor_from_the_future_or_with_another_digest_has_expired(client: Client) -> None:
    await new_student(client)
    cursor = decode((await read(client, "/events/head"))["next"])
    assert cursor.position == 1

    for lost in (replace(cursor, position=2), replace(cursor, proof="0" * 16), replace(cursor, proof="")):
        for wait in (0, 1):
            expired(await call(client, "GET", f"/events?wait={wait}&after={encode(lost)}"))


async def test_a_malformed_cursor_is_invalid(client: Client) -> None:
    for _ in range(2):
        await new_student(client)
    cursor = (await read(client, "/events/head"))["next"]
    other = (await read(client, "/students?limit=1"))["next"]

    for garbled in ("", "x", "%C3%A4", "*" * 43, cursor[:20], cursor[:-1] + "-", other, "A" * 201):
        answer = await call(client, "GET", f"/events?after={garbled}")
        assert answer.status == 422, (garbled, answer)
        assert [place for _, place in places(answer)] == ["after"], garbled


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "wait=-1",
        f"wait={LONG_POLL_SECONDS + 1}",
        "wait=0.5",
        "wait=",
        "until=3",
    ],
)
async def test_a_limit_or_a_wait_beyond_its_bounds_is_invalid(client: Client, query: str) -> None:
    assert [place for _, place in places(await call(client, "GET", f"/events?{query}"))] == [query.partition("=")[0]]


async def test_the_bounds_themselves_are_valid(client: Client) -> None:
    student = await new_student(client)

    for query in ("limit=1", "limit=500", "wait=0", f"wait={LONG_POLL_SECONDS}"):
        page = await read(client, f"/events?{query}")
        assert [event["student_id"] for event in page["items"]] == [student], query


async def test_a_history_has_all_events_of_one_enrollment_and_no_others(client: Client) -> None:
    student, other = await new_student(client), await new_student(client)
    course = await new_course(client, capacity=1)
    await enroll(client, other, course)
    body = {"course_ids": [course], "on_full": "waitlist"}
    await call(client, "POST", f"/students/{student}/enroll", body, headers={"X-Actor": "desk"})
    await drop(client, other, course)
    await call(client, "DELETE", f"/students/{student}/courses/{course}?reason=moved")
    path = f"/students/{student}/courses/{course}/history"

    pages = await walk(client, f"{path}?limit=1")

    history = [event for page in pages for event in page]
    assert [event["type"] for event in history] == [
        "enrollment.waitlisted",
        "enrollment.promoted",
        "enrollment.dropped",
    ]
    assert [event["on_behalf_of"] for event in history] == ["desk", None, None]
    assert history[-1]["reason"] == "moved"
    before, after = [event["before"] for event in history], [event["after"] for event in history]
    assert before[0] is None
    assert [state["status"] for state in before[1:]] == [state["status"] for state in after[:-1]]
    problem(await call(client, "GET", f"/students/999/courses/{course}/history"), 404, "student_not_found")
    problem(await call(client, "GET", f"/students/{student}/courses/999/history"), 404, "enrollment_not_found")


async def test_events_show_only_the_names_of_a_students_fields(client: Client) -> None:
    secrets = {"given_name": "Zaphod", "family_name": "Beeblebrox", "email": "zb@secret.example"}
    student = await new_student(client, **secrets, external_id="secret-77", max_credits=7.5)
    course = await new_course(client, capacity=0)
    await call(client, "PATCH", f"/students/{student}", {"given_name": "Zarniwoop", "max_credits": 8.5})
    await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course], "on_full": "waitlist"})
    await create(client, f"/students/{student}/holds", {"reason": "Library fines", "blocks": ["enroll"]})
    await call(client, "PATCH", f"/courses/{course}", {"capacity": 1})
    deleted = student_fields(**secrets, external_id="secret-78") | {"email": "gone@secret.example"}
    await call(client, "DELETE", f"/students/{(await create(client, '/students', deleted))['id']}")

    items = (await read(client, "/events"))["items"]

    # The seconds of an instant may contain 7.5 or 8.5.
    written = json.dumps([{**event, "occurred_at": None, "student_external_id": None} for event in items])
    for secret in ("Zaphod", "Beeblebrox", "secret", "Zarniwoop", "Library", "7.5", "8.5"):
        assert secret not in written, secret
    [updated] = [event for event in items if event["type"] == "student.updated"]
    assert sorted(updated["after"]["fields"]) == ["given_name", "max_credits"]
    [skipped] = [event for event in items if event["type"] == "enrollment.skipped"]
    assert [reason["code"] for reason in skipped["after"]["blocked_by"]] == ["hold"]
    shown = {(event["student_id"], event["student_external_id"]) for event in items}
    assert shown == {(student, "secret-77"), (student + 1, None), (None, None)}, "a deleted student has no external id"


async def test_events_have_the_external_ids_that_their_student_and_course_have_now(
    client: Client, connection: Connection
) -> None:
    student, course = await new_student(client, external_id="S1"), await new_course(client, external_id="C1")
    await enroll(client, student, course)
    await call(client, "PATCH", f"/students/{student}", {"external_id": "S-2"})
    await call(client, "PATCH", f"/courses/{course}", {"external_id": None})

    items = (await read(client, "/events"))["items"]
    history = (await read(client, f"/students/{student}/courses/{course}/history"))["items"]

    by_type = {event["type"]: (event["student_external_id"], event["course_external_id"]) for event in items}
    assert by_type == {
        **dict.fromkeys(("student.created", "student.updated"), ("S-2", None)),
        **dict.fromkeys(("course.created", "course.updated"), (None, None)),
        "enrollment.enrolled": ("S-2", None),
    }
    assert [(event["student_external_id"], event["course_external_id"]) for event in history] == [("S-2", None)]
    rows = await connection.fetch("SELECT events::text FROM events WHERE student_id IS NOT NULL")
    assert not [row for row in rows if "S1" in row[0] or "S-2" in row[0]], "the feed holds no key of a student"


async def test_readiness_reports_the_age_of_the_oldest_writing_transaction(client: Client, service_url: str) -> None:
    assert await read(client, "/health/ready") == {"status": "ready", "oldest_write_seconds": None}

    async with busy(service_url):
        first = (await read(client, "/health/ready"))["oldest_write_seconds"]
        second = (await read(client, "/health/ready"))["oldest_write_seconds"]
        assert 0 < first < second

    async def idle() -> bool:
        return (await read(client, "/health/ready"))["oldest_write_seconds"] is None

    await until(idle, "the end of the writing transaction")
