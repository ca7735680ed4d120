"""A POST with an Idempotency-Key is made once: its repeats get the answer that was stored with the change."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from pytest_aiohttp import AiohttpClient

from service import registrar
from service.errors import PromotionsPending
from service.registrar.changes import Change, Origin
from service.registrar.courses import COURSE as RESOURCE
from service.registrar.enrollments import Enroll
from service.registrar.holds import PlaceHold
from service.registrar.idempotency import Once, Response
from service.registrar.resources import Edit
from service.settings import Settings
from sql import Connection
from sql.idempotency_keys import (
    ADD_IDEMPOTENCY_KEYS,
    DELETE_IDEMPOTENCY_KEYS,
    LOAD_IDEMPOTENCY_KEYS,
    CallersKey,
)
from tests import shared
from tests.campus import (
    Answer,
    busy,
    call,
    drop,
    enroll,
    events,
    everything,
    join_waitlist,
    new_course,
    new_student,
    places,
    problem,
    read,
    registrar_of,
    served,
    student_fields,
    until,
    waiting_writer,
)
from tests.conftest import Client
from tests.test_auth import bearer, new_key
from tests.test_database_failure import FAIL_AT_COMMIT
from tests.test_optimistic import counted
from tests.wire import Cut, wired

pytestmark, service, client, connection, settings = shared.SERVICE
database_url, aiohttp_client = shared.DATABASE_URL, shared.AIOHTTP_CLIENT

KEY: Final = {"Idempotency-Key": "k-1"}
HOLD: Final = {"reason": "Fees", "blocks": ["enroll"]}
TERM: Final = {"code": "2026F", "name": "Fall", "starts_on": "2026-09-01", "ends_on": "9999-12-31"}
COURSE: Final = {"code": "MATH101", "title": "Calculus I"}
OVERRIDE: Final = {"course_id": 1, "rule": "course_full", "author": "Dean", "reason": "So"}

POSTS: Final[dict[str, tuple[str, Any, Any]]] = {
    # First, because it deletes the answers that are stored about the student.
    "/students/{student_id}/erase": ("/students/1/erase", {"reason": "Art. 17"}, {"reason": "Art. 21"}),
    "/students/{student_id}/merge": (
        "/students/1/merge",
        {"student_id": 2, "reason": "Twice"},
        {"student_id": 2, "reason": "Again"},
    ),
    "/students": ("/students", student_fields(), student_fields()),
    "/instructors": ("/instructors", {"given_name": "Emmy"}, {"given_name": "Ada"}),
    "/terms": ("/terms", TERM, {**TERM, "code": "2027S"}),
    "/courses": ("/courses", COURSE, {**COURSE, "credits": 3}),
    "/equivalences": ("/equivalences", {"codes": ["X1", "X2"]}, {"codes": ["X1", "X3"]}),
    "/courses/{course_id}/cancel": ("/courses/1/cancel?reason=Ill", None, None),
    "/courses/{course_id}/reopen": ("/courses/4/reopen?reason=Funded", None, None),
    "/students/{student_id}/holds": ("/students/1/holds", HOLD, {**HOLD, "reason": "Library"}),
    "/students/{student_id}/overrides": ("/students/1/overrides", OVERRIDE, {**OVERRIDE, "reason": "Because"}),
    "/students/{student_id}/enroll": ("/students/1/enroll", {"course_ids": [1]}, {"course_ids": [2]}),
    "/students/{student_id}/swap": ("/students/1/swap", {"drop": [3], "add": [1]}, {"drop": [3], "add": [2]}),
    "/students/{student_id}/courses/{course_id}/complete": (
        "/students/1/courses/3/complete",
        {"passed": True, "grade": "A"},
        {"passed": False},
    ),
    "/enrollments": (
        "/enrollments",
        {
            "items": [
                {"student_id": 1, "course_ids": [1]},
                {"student_id": 9, "course_ids": [1]},
                {"action": "drop", "student_id": 1, "course_id": 1},
            ]
        },
        {"items": [{"student_id": 1, "course_ids": [2]}]},
    ),
}
"""A call of each POST operation, and another body, for a service with student 1, who is enrolled in course 3; course 4 is
cancelled."""

SECRET: Final = {"/keys": {"name": "portal", "scopes": ["read"]}, "/keys/{key_id}/rotate": {}}
"""The POST operations whose answers are secrets."""

OF_WEBHOOKS: Final = {
    "/webhooks",
    *[f"/webhooks/{{webhook_id}}/{name}" for name in ("rotate", "resume", "replay", "test")],
}
OF_FILES: Final = {"/imports", "/imports/{import_id}/confirm", "/imports/{import_id}/cancel", "/exports"}
UNSTORED: Final = SECRET.keys() | OF_WEBHOOKS | OF_FILES | {"/institutions"}
"""The POST operations that refuse a key."""


async def small_campus(client: Client) -> None:
    student = await new_student(client, family_name="A", email="a@campus.example")
    other = await new_student(client)
    courses = [await new_course(client) for _ in range(4)]
    assert (student, other, courses) == (1, 2, [1, 2, 3, 4])
    assert (await call(client, "POST", "/courses/4/cancel")).status == 200
    assert (await enroll(client, 1, 3)).status == 201


async def post(client: Client, path: str, body: object = None, key: str = "k-1", **headers: str) -> Answer:
    return await call(client, "POST", path, body, headers={"Idempotency-Key": key, **headers})


def replayed(repeat: Answer, first: Answer) -> bool:
    """Return whether an answer is the stored first one, with all headers that matter."""
    told = ("ETag", "Location", "Content-Type", "Retry-After")
    assert repeat.headers.get("Idempotent-Replayed") in {None, "true"}
    return (
        "Idempotent-Replayed" not in first.headers
        and "Idempotent-Replayed" in repeat.headers
        and (repeat.status, repeat.body) == (first.status, first.body)
        and [repeat.headers.get(name) for name in told] == [first.headers.get(name) for name in told]
        and repeat.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    )


async def count(connection: Connection, table: str) -> int:
    number: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return number


async def test_the_tests_cover_every_post_of_the_api_document(client: Client) -> None:
    document = await read(client, "/openapi.json")
    operations = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}

    assert operations.keys() == POSTS.keys() | UNSTORED
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            named = any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", []))
            assert named == (method == "post" and path in POSTS), (method, path)
    for path, operation in operations.items():
        success = next(answer for status, answer in operation["responses"].items() if status < "300")
        described = {status: answer.get("description", "") for status, answer in operation["responses"].items()}
        assert ("Idempotent-Replayed" in success["headers"]) == (path in POSTS)
        assert ("idempotency_key_in_use" in described.get("409", "")) == (path in POSTS)
        assert ("idempotency_key_reused" in described["422"]) == (path in POSTS)
        assert ("idempotency_key_unsupported" in described["422"]) == (path in UNSTORED)


@pytest.mark.parametrize("operation", POSTS)
async def test_a_repeat_of_any_post_gets_the_first_answer_and_changes_nothing(
    client: Client, connection: Connection, operation: str
) -> None:
    await small_campus(client)
    path, body, other = POSTS[operation]
    before = len(await events(connection))

    first = await post(client, path, body)
    assert first.status in {200, 201}, first
    assert len(await events(connection)) > before
    after = await everything(connection)
    assert len(after["idempotency_keys"]) == 1

    for _ in range(2):
        assert replayed(await post(client, path, body), first)
    problem(await post(client, path, other), 422, "idempotency_key_reused") if other else None
    separator = "&" if "?" in path else "?"
    if operation in {"/students/{student_id}/enroll", "/courses/{course_id}/cancel"}:
        another = f"{path}{separator}dry_run=false" if "enroll" in operation else "/courses/1/cancel?reason=Other"
        problem(await post(client, another, body), 422, "idempotency_key_reused")
    assert await everything(connection) == after


@pytest.mark.parametrize("operation", POSTS)
async def test_the_answer_with_a_key_is_that_without_one(service: shared.Shared, operation: str) -> None:
    path, body, _ = POSTS[operation]
    answers = []
    for headers in ({}, KEY):
        client = await service.reset()
        await small_campus(client)
        answers.append(await call(client, "POST", path, body, headers={"X-Request-Id": "same", **headers}))

    without, with_key = answers
    assert with_key.status == without.status
    assert settled(with_key.body) == settled(without.body)
    assert with_key.headers.keys() == without.headers.keys()
    for name in with_key.headers.keys() - {"Date", "Content-Length"}:
        assert with_key.headers[name] == without.headers[name]


def settled(value: Any) -> Any:
    """Return a body without its instants and UUIDs, and without the numbers that make names unique."""
    if isinstance(value, dict):
        varying = {"code", "title", "sourced_id", "joined_at", "updated_at", "created_at", "used_at"}
        return {name: settled(each) for name, each in value.items() if name not in varying}
    return [settled(each) for each in value] if isinstance(value, list) else value


async def test_calls_that_answer_with_a_secret_refuse_the_header_and_store_nothing(
    client: Client, connection: Connection
) -> None:
    admin = await new_key(client, "admin")
    for operation, body in SECRET.items():
        path = operation.replace("{key_id}", "1")
        answer = await call(client, "POST", path, body, headers={**KEY, **bearer(admin)})
        problem(answer, 422, "idempotency_key_unsupported")
        assert (await call(client, "POST", path, body, headers=bearer(admin))).status < 300
    assert await count(connection, "idempotency_keys") == 0


async def test_a_refusal_is_an_answer_too(client: Client, connection: Connection) -> None:
    course, first, second = await new_course(client, capacity=1), await new_student(client), await new_student(client)
    assert (await enroll(client, first, course)).status == 201
    path, body = f"/students/{second}/enroll", {"course_ids": [course]}
    missing = await post(client, "/students/99/holds", HOLD, "missing")
    problem(missing, 404, "student_not_found")
    refused = await post(client, path, body)
    problem(refused, 409, "course_full")
    before = await everything(connection)
    assert len(before["idempotency_keys"]) == 2

    assert (await drop(client, first, course)).status == 200
    after = await everything(connection)
    assert replayed(await post(client, path, body), refused)
    assert replayed(await post(client, "/students/99/holds", HOLD, "missing"), missing)
    assert await everything(connection) == after
    assert (await post(client, path, body, "k-2")).status == 201


async def test_invalid_requests_and_missing_scopes_are_not_stored(client: Client, connection: Connection) -> None:
    assert places(await post(client, "/students", student_fields(email="ada.campus.example"))) == [
        ("not_an_email", "#/email")
    ]
    problem(await call(client, "POST", "/students", data=b"{", headers=KEY), 400, "bad_json")
    read_only = await new_key(client, "read")
    problem(await post(client, "/students", student_fields()), 401, "unauthenticated")
    problem(await post(client, "/students", student_fields(), **bearer(read_only)), 403, "scope_missing")
    assert await count(connection, "idempotency_keys") == 0


@pytest.mark.not_on_citus("distributed tables have no triggers")
async def test_a_fault_is_not_stored(client: Client, connection: Connection) -> None:
    body = student_fields()
    before = await everything(connection)
    await connection.execute(FAIL_AT_COMMIT)
    problem(await post(client, "/students", body), 500, "internal_error")
    await connection.execute("DROP FUNCTION break_connection() CASCADE")
    assert await everything(connection) == before

    first = await post(client, "/students", body)
    assert first.status == 201
    assert replayed(await post(client, "/students", body), first)


async def test_each_caller_has_keys_of_its_own(client: Client, connection: Connection) -> None:
    admin = await new_key(client, "admin")
    callers = [await new_key(client, "manage", key=admin, name=name) for name in ("portal", "desk")]
    made = [await post(client, "/students", student_fields(), **bearer(caller)) for caller in callers]
    assert [answer.status for answer in made] == [201, 201]
    assert made[0].body["id"] != made[1].body["id"]
    rows = await connection.fetch("SELECT caller, key, student_ids FROM idempotency_keys ORDER BY caller")
    assert [tuple(row) for row in rows] == [
        ("desk", "k-1", str(made[1].body["id"])),
        ("portal", "k-1", str(made[0].body["id"])),
    ]


async def test_the_students_of_an_answer_are_stored_with_it(client: Client, connection: Connection) -> None:
    await small_campus(client)
    for operation, (path, body, _) in POSTS.items():
        await post(client, path, body, operation)
    rows = await connection.fetch("SELECT key, student_ids FROM idempotency_keys WHERE student_ids <> ''")
    assert {row["key"]: row["student_ids"] for row in rows} == {
        operation: {"/students": "3", "/enrollments": "1,9", "/students/{student_id}/merge": "1,2"}.get(operation, "1")
        for operation in POSTS
        if "student" in operation or operation == "/enrollments"
    }


@pytest.mark.parametrize("given", ["8e03978e-40d5", '"8e03978e-40d5"', "a,b;c=d", '" a \\" b \\\\ "', "x" * 255])
async def test_a_key_is_a_token_or_a_string_in_quotes(client: Client, connection: Connection, given: str) -> None:
    body = student_fields()
    first = await post(client, "/students", body, given)
    assert first.status == 201
    assert replayed(await post(client, "/students", body, given), first)
    plain = given[1:-1].replace('\\"', '"').replace("\\\\", "\\") if given.startswith('"') else given
    assert await connection.fetchval("SELECT key FROM idempotency_keys") == plain
    if " " not in given:
        assert replayed(await post(client, "/students", body, f'"{plain}"'), first)
        assert replayed(await post(client, "/students", body, plain), first)


@pytest.mark.parametrize(
    "given", ["", '""', '"', '"a', 'a"', 'a"b', '"a"b"', '"a\\b"', "a b", "é", '"é"', "x" * 256, f'"{"x" * 256}"']
)
async def test_any_other_key_is_invalid(client: Client, connection: Connection, given: str) -> None:
    refused = places(await post(client, "/students", student_fields(), given))
    assert refused == [("invalid_idempotency_key", "Idempotency-Key")]
    assert await count(connection, "students") == 0


async def test_two_keys_are_invalid(client: Client) -> None:
    sent = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with client.post("/students", json=student_fields(), headers=sent) as response:
        body = await response.json()
    assert (response.status, body["errors"][0]["code"]) == (422, "invalid_idempotency_key")


async def test_dry_runs_and_other_methods_ignore_the_key(client: Client, connection: Connection) -> None:
    await small_campus(client)
    for path, body in (
        ("/students/1/enroll?dry_run=true", {"course_ids": [1]}),
        ("/students/1/swap?dry_run=true", {"drop": [3], "add": [1]}),
        ("/enrollments?dry_run=true", {"items": [{"action": "drop", "student_id": 1, "course_id": 3}]}),
    ):
        for _ in range(2):
            answer = await post(client, path, body)
            assert (answer.status, answer.body["dry_run"]) == (200, True)
            assert "Idempotent-Replayed" not in answer.headers
    for method, path, sent in (
        ("GET", "/students/1", None),
        ("PATCH", "/students/1", {"given_name": "Emmy"}),
        ("PATCH", "/students/1", {"given_name": "Ada"}),
        ("PUT", "/students/by-external-id/S-2", student_fields()),
        ("DELETE", "/students/1/courses/3", None),
        ("DELETE", "/students/1/courses/3", None),
    ):
        for key in ("k-1", "not a key"):
            answer = await call(client, method, path, sent, headers={"Idempotency-Key": key})
            assert answer.status in {200, 201}, answer
            assert "Idempotent-Replayed" not in answer.headers
    assert await count(connection, "idempotency_keys") == 0


async def test_the_same_request_id_is_no_repeat(client: Client, connection: Connection) -> None:
    await small_campus(client)
    for _ in range(2):
        answer = await call(client, "POST", "/students/1/holds", HOLD, headers={"X-Request-Id": "r-1"})
        assert answer.status == 201
    assert await count(connection, "holds") == 2


async def test_a_repeat_may_have_another_request_id_and_events_keep_the_first(
    client: Client, connection: Connection
) -> None:
    body = student_fields()
    first = await post(client, "/students", body, **{"X-Request-Id": "r-1", "X-Actor": "desk"})
    repeat = await post(client, "/students", body, **{"X-Request-Id": "r-2", "X-Actor": "desk"})
    assert replayed(repeat, first)
    assert repeat.headers["X-Request-Id"] == "r-2"
    assert [event["request_id"] for event in await events(connection)] == ["r-1"]


async def test_the_stored_answer_includes_the_promotions_that_follow_from_the_change(
    client: Client, connection: Connection
) -> None:
    course, first, second = await new_course(client, capacity=1), await new_student(client), await new_student(client)
    await enroll(client, first, course)
    await join_waitlist(client, second, course)
    body = {**OVERRIDE, "course_id": course}

    granted = await post(client, f"/students/{second}/overrides", body)
    assert granted.body["used_at"] is not None, "the override seats the waitlisted student"
    assert replayed(await post(client, f"/students/{second}/overrides", body), granted)


# Lost answers.


LOST: Final[dict[str, tuple[str, Any, str]]] = {
    "hold": ("/students/1/holds", HOLD, "SELECT count(*) FROM holds"),
    "override": ("/students/1/overrides", OVERRIDE, "SELECT count(*) FROM overrides"),
    "course": ("/courses", COURSE, "SELECT count(*) FROM courses WHERE code = 'MATH101'"),
    "student": (
        "/students",
        {**student_fields(), "email": "ada@campus.example"},
        "SELECT count(*) FROM students WHERE email = 'ada@campus.example'",
    ),
    "term": ("/terms", TERM, "SELECT count(*) FROM terms"),
    "bulk": (
        "/enrollments",
        {"items": [{"student_id": 1, "course_ids": [1, 2]}]},
        "SELECT count(*) FROM events WHERE type = 'enrollment.enrolled' AND course_id = 1",
    ),
}


@pytest.mark.parametrize("name", LOST)
async def test_a_change_whose_commit_was_not_confirmed_is_made_once_if_it_is_repeated_with_its_key(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection, database_url: str, name: str
) -> None:
    path, body, find = LOST[name]
    async with wired(database_url) as (wire, url):
        client = await served(aiohttp_client, settings.model_copy(update={"database_url": url}))
        await small_campus(client)

        wire.cut = Cut(b"COMMIT")
        problem(await post(client, path, body), 503, "outcome_unknown")
        assert wire.cuts == 1
        assert await connection.fetchval(find) == 1, "the change was committed"

        [stored] = await connection.fetch("SELECT status, body FROM idempotency_keys")
        repeat = await post(client, path, body)
        assert repeat.headers["Idempotent-Replayed"] == "true"
        assert repeat.status == stored["status"] == (200 if name == "bulk" else 201)
        assert repeat.body == json.loads(stored["body"])
        assert await connection.fetchval(find) == 1
        if location := repeat.headers.get("Location"):
            assert (await read(client, location))["id"] == repeat.body["id"]
        await client.close()


@pytest.mark.parametrize("name", ["hold", "override", "course", "student", "term"])
async def test_without_a_key_such_a_change_is_made_twice_or_refused_by_itself(
    settings: Settings, aiohttp_client: AiohttpClient, connection: Connection, database_url: str, name: str
) -> None:
    path, body, find = LOST[name]
    async with wired(database_url) as (wire, url):
        client = await served(aiohttp_client, settings.model_copy(update={"database_url": url}))
        await small_campus(client)
        wire.cut = Cut(b"COMMIT")
        problem(await call(client, "POST", path, body), 503, "outcome_unknown")
        repeat = await call(client, "POST", path, body)
        made = await connection.fetchval(find)
        assert (repeat.status, made) == ((409, 1) if name in {"student", "term"} else (201, 2))
        await client.close()


# Requests at the same time.


async def test_a_key_that_is_in_use_is_refused_until_its_answer_is_there(
    client: Client, connection: Connection, database_url: str
) -> None:
    body = student_fields()
    async with busy(database_url):
        first = asyncio.create_task(post(client, "/students", body))
        await waiting_writer(connection)
        refused = await post(client, "/students", body)
        problem(refused, 409, "idempotency_key_in_use")
        assert int(refused.headers["Retry-After"]) > 0
        other = asyncio.create_task(post(client, "/students", student_fields(), "k-2"))

    made = await first
    assert made.status == (await other).status == 201
    assert replayed(await post(client, "/students", body), made)
    assert await count(connection, "students") == 2


async def repeat_until_answered(client: Client, path: str, body: object) -> Answer:
    """Send a request again as long as its key is in use."""
    for _ in range(1000):
        answer = await post(client, path, body)
        if answer.status != 409:
            return answer
        problem(answer, 409, "idempotency_key_in_use")
        await asyncio.sleep(0.001)
    raise AssertionError("the key stays in use")


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_callers_with_one_key_one_makes_the_change_and_all_get_its_answer(
    client: Client, aiohttp_client: AiohttpClient, settings: Settings, connection: Connection, processes: int
) -> None:
    services = [client, *[await served(aiohttp_client, settings) for _ in range(processes - 1)]]
    await small_campus(client)
    for round in range(3):
        body = {**HOLD, "reason": f"Round {round}"}
        before = await count(connection, "events")
        answers = await asyncio.gather(
            *(
                call(services[n % processes], "POST", "/students/1/holds", body, headers=key_of(round))
                for n in range(16)
            )
        )
        assert {answer.status for answer in answers} <= {201, 409}
        made = [answer for answer in answers if answer.status == 201]
        assert len([answer for answer in made if "Idempotent-Replayed" not in answer.headers]) == 1
        assert {json.dumps(answer.body) for answer in made} == {json.dumps(made[0].body)}
        for answer in answers:
            if answer.status == 409:
                problem(answer, 409, "idempotency_key_in_use")
        repeats = [await call(each, "POST", "/students/1/holds", body, headers=key_of(round)) for each in services]
        assert all(repeat.body == made[0].body for repeat in repeats)
        assert await count(connection, "events") == before + 1


def key_of(round: int) -> dict[str, str]:
    return {"Idempotency-Key": f"round-{round}"}


@pytest.mark.not_on_citus("the sessions that wait for the lock are on another node")
async def test_another_process_waits_for_the_change_and_returns_its_answer(
    client: Client, aiohttp_client: AiohttpClient, settings: Settings, connection: Connection, database_url: str
) -> None:
    other = await served(aiohttp_client, settings)
    body = student_fields()
    async with busy(database_url):
        requests = [asyncio.create_task(post(each, "/students", body)) for each in (client, other)]
        waiting = """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'enrollment-service' AND wait_event_type = 'Lock'
        """

        async def both_wait() -> bool:
            return bool(await connection.fetchval(waiting) == 2)

        await until(both_wait, "both processes to wait for the lock")
    first, second = sorted(await asyncio.gather(*requests), key=lambda answer: "Idempotent-Replayed" in answer.headers)
    assert first.status == 201
    assert replayed(second, first)
    assert await count(connection, "students") == 1


# Statements.


async def logged() -> None:
    """Wait until the driver has logged the last statement, in the next turn of the event loop."""
    await asyncio.sleep(0)


def hold(student: int = 1) -> PlaceHold:
    return PlaceHold(origin=Origin("r"), student_id=student, reason="Fees", blocks_enroll=True, blocks_drop=False)


def once(key: str, respond: Callable[[object], Response] | None = None, change: Change[Any] | None = None) -> Once:
    respond = respond or (lambda outcome: Response(201, {"ETag": '"1"'}, repr(outcome).encode()))
    return Once(origin=Origin("r"), inner=change or hold(), key=CallersKey("", key), fingerprint=b"f", respond=respond)


async def test_keys_cost_two_statements_a_batch_and_a_batch_without_keys_sends_none_of_them(
    client: Client, settings: Settings
) -> None:
    await small_campus(client)
    async with counted(settings) as (office, sent):
        await office.submit_all([once("warm up")])  # The driver looks up the types once.

        async def statements_of(*changes: Any) -> list[str]:
            await logged()
            sent.clear()
            outcomes: list[Any] = await office.submit_all(changes)
            await logged()
            assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            return list(sent)

        plain = await statements_of(hold(), hold())
        assert not {LOAD_IDEMPOTENCY_KEYS, ADD_IDEMPOTENCY_KEYS} & set(plain)
        for number in (1, 50):
            keyed = await statements_of(hold(), *(once(f"{number} {n}") for n in range(number)))
            assert [each for each in keyed if each not in {LOAD_IDEMPOTENCY_KEYS, ADD_IDEMPOTENCY_KEYS}] == plain
            assert len(keyed) == len(plain) + 2
        repeats = await statements_of(*(once(f"50 {n}") for n in range(50)))
        assert repeats.count(LOAD_IDEMPOTENCY_KEYS) == 1
        assert ADD_IDEMPOTENCY_KEYS not in repeats


async def test_two_changes_of_one_batch_with_the_same_key_are_one(
    client: Client, settings: Settings, connection: Connection
) -> None:
    await small_campus(client)
    async with counted(settings) as (office, _):
        answers: list[Any] = await office.submit_all([once("k"), once("k")])
    assert [answer.replayed for answer in answers] == [False, True]
    assert answers[0].response == answers[1].response
    assert await count(connection, "holds") == 1


async def test_an_answer_that_cannot_be_written_fails_no_other_change_of_its_batch(
    client: Client, settings: Settings, connection: Connection
) -> None:
    def fails(_: object) -> Response:
        raise ZeroDivisionError

    await small_campus(client)
    async with counted(settings) as (office, _):
        outcomes = await office.submit_all([once("a"), once("b", fails), once("c")])
    assert [type(outcome).__name__ for outcome in outcomes] == ["Answered", "ZeroDivisionError", "Answered"]
    assert [row["key"] for row in await connection.fetch("SELECT key FROM idempotency_keys ORDER BY 1")] == ["a", "c"]


async def test_a_change_that_has_to_wait_for_promotions_is_not_stored_and_made_when_it_is_repeated(
    client: Client, settings: Settings, connection: Connection
) -> None:
    course = await new_course(client, capacity=0)
    for _ in range(3):
        await join_waitlist(client, await new_student(client), course)
    newcomer = await new_student(client)
    raised = Edit(origin=Origin("r"), resource=RESOURCE, id=course, values={"capacity": 5})
    enrolling = once("k", change=Enroll(origin=Origin("r"), student_id=newcomer, course_ids=(course,)))
    changes: list[Any] = [raised, enrolling]
    async with registrar_of(settings.model_copy(update={"promotions_per_transaction": 1})) as office:
        _, waits = await office.submit_all(changes)
        assert isinstance(waits, PromotionsPending)
        assert await count(connection, "idempotency_keys") == 0

        async def promoted() -> bool:
            return bool((await read(client, f"/courses/{course}"))["seats_taken"] == 3)

        await until(promoted, "the promotions")
        assert [(await office.submit_once(enrolling)).replayed for _ in range(2)] == [False, True]
    assert (await read(client, f"/courses/{course}"))["seats_taken"] == 4


async def test_a_bulk_request_of_many_items_is_made_once(client: Client, connection: Connection) -> None:
    courses = [await new_course(client, capacity=200) for _ in range(2)]
    students = [await new_student(client) for _ in range(20)]
    items = [{"student_id": student, "course_ids": courses} for student in students] * 20
    assert len(items) == 400

    first = await post(client, "/enrollments", {"items": items})
    assert [item["status"] for item in first.body["items"]] == [201] * 20 + [200] * 380
    before = await everything(connection)
    assert replayed(await post(client, "/enrollments", {"items": items}), first)
    assert await everything(connection) == before


# Purging.


async def age(connection: Connection, ages: list[float]) -> None:
    """Insert answers that were stored so many seconds ago."""
    await connection.execute(
        """
        INSERT INTO idempotency_keys (caller, key, fingerprint, student_ids, status, headers, body, created_at)
        SELECT '', number::text, '', '', 201, '{}', '', now() - make_interval(secs => seconds)
        FROM unnest($1::double precision[]) WITH ORDINALITY AS ages (seconds, number)
        """,
        ages,
    )


async def test_a_sweep_deletes_the_answers_of_yesterday_in_bounded_steps(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "ROWS_PER_SWEEP", 10)
    monkeypatch.setattr(registrar, "MAX_SWEEP_TRANSACTIONS", 3)
    await age(connection, [86_401.0] * 35 + [86_300.0, 0.0])
    async with counted(settings) as (office, sent):
        await office.sweep()
        assert await count(connection, "idempotency_keys") == 7
        assert sent.count(DELETE_IDEMPOTENCY_KEYS) == 3
        await office.sweep()
        assert await count(connection, "idempotency_keys") == 2
        await logged()
        sent.clear()
        await office.sweep()
        await logged()
        assert len(sent) == 6, "a sweep with nothing to do"
        assert sent.count(DELETE_IDEMPOTENCY_KEYS) == 1


async def test_a_sweep_deletes_answers_while_another_transaction_writes(
    settings: Settings, connection: Connection, database_url: str
) -> None:
    await age(connection, [86_401.0])
    async with counted(settings) as (office, _), busy(database_url):
        await office.sweep()
        assert await count(connection, "idempotency_keys") == 0


async def test_the_age_of_answers_is_a_setting(settings: Settings, connection: Connection) -> None:
    await age(connection, [50.0, 70.0])
    async with counted(settings.model_copy(update={"idempotency_seconds": 60.0})) as (office, _):
        await office.sweep()
    assert await count(connection, "idempotency_keys") == 1


async def test_a_deleted_key_can_be_used_again(client: Client, settings: Settings, connection: Connection) -> None:
    await small_campus(client)
    await post(client, "/students/1/holds", HOLD)
    await connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '2 days'")
    async with registrar_of(settings) as office:
        await office.sweep()
    assert "Idempotent-Replayed" not in (await post(client, "/students/1/holds", HOLD)).headers
    assert await count(connection, "holds") == 2
