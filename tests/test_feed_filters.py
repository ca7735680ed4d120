"""The filters of the feed: a reader of some events misses none of them and repeats none."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.api import feed as reading
from service.api.events import LONG_POLL_SECONDS, POLLER
from service.api.feed import SCANNED_EVENTS, Cursor, Filter, decode
from service.settings import Settings
from sql import Connection
from sql.feed import LIST_EVENTS, get_epoch
from tests import shared
from tests.campus import call, new_course, new_student, places, read, until
from tests.conftest import Client
from tests.test_docs import every_event
from tests.test_feed import NEW_EVENTS, polling
from tests.test_sql import combinations_of

pytestmark, service, client, connection, settings = shared.SERVICE


async def history(client: Client) -> tuple[int, int, list[dict[str, Any]]]:
    """Make every kind of change, and courses that move between terms; return two terms and all events."""
    await every_event(client)
    days = {"starts_on": "2026-01-01", "ends_on": "9999-12-31", "name": "N"}
    first, second = [(await call(client, "POST", "/terms", {**days, "code": code})).body["id"] for code in "AB"]
    student = await new_student(client)
    moved, stays, deleted = [await new_course(client, term_id=first) for _ in range(3)]
    for course in (moved, stays):
        await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course]})
    await call(client, "PATCH", f"/courses/{moved}", {"term_id": second})
    await call(client, "DELETE", f"/courses/{deleted}")
    return first, second, (await read(client, "/events?limit=500"))["items"]


async def walk(client: Client, query: str, after: str | None = None) -> tuple[list[dict[str, Any]], list[int]]:
    """Read pages until the newest event; return the events, and the size of each page."""
    found: list[dict[str, Any]] = []
    sizes = []
    head = (await read(client, "/events/head"))["next"]
    while after != head:
        page = await read(client, f"/events?limit=2&{query}" + (f"&after={after}" if after else ""))
        assert page["next"] != after, "a page without progress would be read forever"
        after = page["next"]
        found += page["items"]
        sizes.append(len(page["items"]))
    return found, sizes


def is_in(event: dict[str, Any], term: int, courses: set[int]) -> bool:
    """Return whether an event is about a term, its courses, or a course that was put into it or taken out of it."""
    states = [event["before"] or {}, event["after"] or {}]
    moves = event["type"].startswith("course.") and any(state.get("term_id") == term for state in states)
    return event["term_id"] == term or event["course_id"] in courses or moves


@pytest.mark.parametrize("scanned", [SCANNED_EVENTS, 3])
async def test_each_combination_of_filters_finds_the_events_that_match_all_of_them(
    client: Client, monkeypatch: pytest.MonkeyPatch, settings: Settings, scanned: int
) -> None:
    first, _, items = await history(client)
    monkeypatch.setattr(reading, "SCANNED_EVENTS", scanned)
    courses = {row["id"] for row in (await read(client, f"/courses?term_id={first}"))["items"]}
    assert len(courses) == 1
    student, course = items[-5]["student_id"], next(iter(courses))
    values = {
        "types": "course.created,enrollment.enrolled,course.updated,course.deleted,term.created",
        "student_id": student,
        "course_id": course,
        "term_id": first,
    }
    tests: dict[str, Callable[[dict[str, Any], Any], bool]] = {
        "types": lambda event, value: event["type"] in value.split(","),
        "student_id": lambda event, value: event["student_id"] == value,
        "course_id": lambda event, value: event["course_id"] == value,
        "term_id": lambda event, value: is_in(event, value, courses),
    }
    beginning = decode((await read(client, "/events/head"))["next"]).epoch
    found_sizes = set()
    for chosen in combinations_of(values):
        sent = {name: value for name, value in chosen.items() if value is not None}
        expected = [event for event in items if all(tests[name](event, value) for name, value in sent.items())]
        assert expected, sent

        found, sizes = await walk(client, "&".join(f"{name}={value}" for name, value in sent.items()))

        assert found == expected, sent
        found_sizes |= set(sizes[:-1])
        # The poller decides in Python what a page decides in SQL.
        types = chosen["types"]
        wanted = Filter(None if types is None else tuple(types.split(",")), *list(chosen.values())[1:])
        async with polling(settings, interval=0.01) as (poller, _, _):
            extract = await poller.wait(Cursor(beginning, 0, ""), 500, 5, wanted)
        assert [entry.row.position for entry in extract.entries] == [event["position"] for event in expected], sent
    assert (0 in found_sizes) == (scanned == 3), "within the bound, a page may be empty although others follow"


async def test_a_course_that_left_a_term_or_was_deleted_is_reported_to_the_readers_of_the_term(client: Client) -> None:
    first, second, _ = await history(client)

    before = [event["type"] for event in (await walk(client, f"term_id={first}"))[0]]
    after = [event["type"] for event in (await walk(client, f"term_id={second}"))[0]]

    assert before == [
        "term.created",
        *["course.created"] * 3,
        "enrollment.enrolled",
        "course.updated",
        "course.deleted",
    ]
    assert after == ["term.created", "course.created", "enrollment.enrolled", "course.updated"]


async def test_a_cursor_of_a_filtered_page_is_a_place_in_the_whole_feed(client: Client) -> None:
    student, other = await new_student(client), await new_student(client)
    page = await read(client, f"/events?student_id={student}&limit=1")
    assert [event["student_id"] for event in page["items"]] == [student]

    assert [event["student_id"] for event in (await read(client, f"/events?after={page['next']}"))["items"]] == [other]
    last = await read(client, f"/events?student_id={student}&after={page['next']}")
    assert last == {"items": [], "next": (await read(client, "/events/head"))["next"]}


async def test_a_wait_with_a_filter_ends_with_the_first_event_that_matches(client: Client) -> None:
    student = await new_student(client)
    head = (await read(client, "/events/head"))["next"]
    path = f"/events?wait={LONG_POLL_SECONDS}&after={head}&student_id={student}"
    reader = asyncio.create_task(read(client, path))
    assert client.app is not None
    poller = client.app[POLLER]

    for _ in range(3):
        await new_student(client)
        newest = decode((await read(client, "/events/head"))["next"])

        async def waits_after(newest: Cursor = newest) -> bool:
            return [*poller._waiting] == [newest]

        await until(waits_after, "the reader to wait after an event of another student")
    assert not reader.done()
    await call(client, "PATCH", f"/students/{student}", {"max_credits": 3})

    async with asyncio.timeout(LONG_POLL_SECONDS / 2):
        page = await reader
    assert [(event["type"], event["student_id"]) for event in page["items"]] == [("student.updated", student)]
    assert page["next"] == (await read(client, "/events/head"))["next"]


async def test_a_wait_without_a_match_ends_with_a_cursor_after_the_events_of_others(client: Client) -> None:
    await new_student(client)
    head = (await read(client, "/events/head"))["next"]
    reader = asyncio.create_task(read(client, f"/events?wait=1&after={head}&course_id=7"))
    assert client.app is not None
    poller = client.app[POLLER]

    async def waits() -> bool:
        return bool(poller._waiting)

    await until(waits, "the reader")
    await new_student(client)

    assert await reader == {"items": [], "next": (await read(client, "/events/head"))["next"]}


async def test_readers_with_different_filters_share_the_queries_of_a_tick(
    settings: Settings, connection: Connection
) -> None:
    count = 2 * reading.POLLED_EVENTS + 10
    async with polling(settings, interval=0.01) as (poller, database, cursor):
        waits = [asyncio.create_task(poller.wait(cursor, 5, 30, Filter(student_id=id))) for id in range(1, 201)]
        await asyncio.sleep(0.1)
        assert len(poller._waiting[cursor]) == len(waits)
        insert = NEW_EVENTS.replace("request_id)", "request_id, student_id)").replace("'r' FROM", "'r', n % 100 FROM")

        await connection.execute(insert, 1, count)

        async with asyncio.timeout(30):
            extracts = [await wait for wait in waits[:99]]
        assert [[entry.row.position for entry in extract.entries] for extract in extracts[:2]] == [
            [1, 101, 201, 301, 401],
            [2, 102, 202, 302, 402],
        ]
        async with database.reading() as session:
            newest = await get_epoch(session)

        async def has_moved() -> bool:
            return [each.position for each in poller._waiting] == [newest.position]

        await until(has_moved, "those without an event to wait after all events")
        assert database.queries.count(LIST_EVENTS) == 3, "three pages, for 200 readers with a filter each"
        for wait in waits:
            wait.cancel()


async def test_a_filter_that_is_not_one_is_invalid(client: Client) -> None:
    for query, place in (
        ("types=", ("not_event_types", "types")),
        ("types=student.created,", ("not_event_types", "types")),
        ("types=student.*", ("not_event_types", "types")),
        ("types=student.created&types=student.deleted", ("repeated", "types")),
        ("student_id=0", ("too_small", "student_id")),
        ("course_id=x", ("wrong_type", "course_id")),
        ("term_id=", ("wrong_type", "term_id")),
        ("term=1", ("unknown_parameter", "term")),
    ):
        assert places(await call(client, "GET", f"/events?{query}")) == [place], query


async def test_a_filtered_read_with_a_cursor_of_another_history_has_expired(client: Client) -> None:
    await new_student(client)
    cursor = decode((await read(client, "/events/head"))["next"])
    for wrong in (
        Cursor(cursor.epoch, cursor.position, "0" * 16),
        Cursor(cursor.epoch, cursor.position + 1, cursor.proof),
        Cursor(cursor.epoch, cursor.position + 2 * SCANNED_EVENTS, cursor.proof),
    ):
        answer = await call(client, "GET", f"/events?student_id=1&after={reading.encode(wrong)}")
        assert (answer.status, answer.body["code"]) == (410, "cursor_expired"), wrong
