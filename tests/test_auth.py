"""Who may call: API keys and access tokens, scopes, and a service that is open."""

import asyncio
import logging
from typing import Any

import pytest
import pytest_asyncio
from pytest_aiohttp import AiohttpClient

from service.api.keys import AUTHENTICATOR
from service.app import ENDPOINTS
from service.auth import Authenticator, Unprotected, api_keys
from service.database import Database
from service.errors import DomainError
from service.settings import Settings
from service.web.auth import SCOPES
from service.web.endpoint import Endpoint
from sql import Connection
from sql.api_keys import list_api_keys
from tests import shared
from tests.campus import call, command, events, new_course, new_student, problem, served, student_fields
from tests.conftest import Client
from tests.provider import Provider, provider, with_issuer
from tests.test_process import run

pytestmark, service, client, connection, settings = shared.SERVICE
database_url, aiohttp_client = shared.DATABASE_URL, shared.AIOHTTP_CLIENT

ALSO_NEEDED = {("POST", "/imports"): "enroll", ("POST", "/imports/{import_id}/confirm"): "enroll"}
"""The scopes that operations need besides their own."""
NEEDED = {(item.method, item.path): item.scope for item in ENDPOINTS}


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def new_key(client: Client, *scopes: str, key: str | None = None, **fields: object) -> str:
    """Create an API key and return its text."""
    body = {"name": "-".join(scopes), "scopes": list(scopes), **fields}
    answer = await call(client, "POST", "/keys", body, headers=bearer(key) if key else None)
    assert answer.status == 201, answer
    text: str = answer.body["key"]
    return text


def path_of(item: Endpoint) -> str:
    """Name the path of an operation with ids that exist nowhere."""
    path = item.path
    for name in (
        "student_id",
        "course_id",
        "term_id",
        "hold_id",
        "override_id",
        "instructor_id",
        "key_id",
        "import_id",
        "export_id",
    ):
        path = path.replace(f"{{{name}}}", "999")
    return path.replace("{external_id}", "X").replace("{code}", "invalid")


async def test_each_operation_requires_its_scope_and_no_other(client: Client) -> None:
    admin = await new_key(client, "admin")
    keys = {scope: await new_key(client, scope, key=admin) for scope in SCOPES if scope != "admin"} | {"admin": admin}
    refused: dict[tuple[str, str], set[str]] = {}
    for item in ENDPOINTS:
        path = path_of(item)
        without = await call(client, item.method, path)
        if item.scope == "public":
            assert without.status < 400, path
            continue
        assert problem(without, 401, "unauthenticated")["errors"] == []
        assert without.headers["WWW-Authenticate"] == "Bearer"
        for scope, key in keys.items():
            answer = await call(client, item.method, path, headers=bearer(key))
            if item.scope == "any":
                assert answer.status == 200
            elif answer.status == 403:
                also = ALSO_NEEDED.get((item.method, item.path))
                missing = also if also is not None and scope == item.scope else item.scope
                assert problem(answer, 403, "scope_missing")["errors"][0]["scope"] == missing
                challenge = f'Bearer error="insufficient_scope", scope="{missing}"'
                assert answer.headers["WWW-Authenticate"] == challenge
                refused.setdefault((item.method, item.path), set()).add(scope)
            elif scope == "self":
                assert problem(answer, 404, "no_such_path")
            else:
                assert answer.status not in {401, 500}, answer
    for operation, scopes in refused.items():
        enough = set() if operation in ALSO_NEEDED else {NEEDED[operation]}
        assert scopes == {*SCOPES} - enough - {"self"}, operation
    assert {operation for operation, scope in NEEDED.items() if scope not in {"public", "any"}} == refused.keys()


async def test_a_service_is_open_until_the_first_key_is_created(
    client: Client, connection: Connection, aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    student = await new_student(client)
    key = await new_key(client, "read")
    problem(await call(client, "GET", f"/students/{student}"), 401, "unauthenticated")
    assert (await call(client, "GET", f"/students/{student}", headers=bearer(key))).status == 200
    for path in ("/health/live", "/health/ready", "/openapi.json", "/docs", "/"):
        assert (await call(client, "GET", path)).status in {200, 303}
    await connection.execute("UPDATE api_keys SET revoked_at = now()")
    again = await served(aiohttp_client, settings)
    problem(await call(again, "GET", f"/students/{student}"), 401, "unauthenticated")


WRONG = {
    "no scheme": "ek_1_" + "0" * 48,
    "another scheme": "Basic YWRhOnNlY3JldA==",
    "an empty key": "Bearer ",
    "an unknown key": "Bearer ek_77_" + "0" * 48,
    "a wrong secret": "Bearer ek_1_" + "0" * 48,
    "a short secret": "Bearer ek_1_00",
    "an id of 30 digits": f"Bearer ek_{'9' * 30}_{'0' * 48}",
    "something else": "Bearer something",
    "no ASCII": "Bearer é",
    "7 KB": "Bearer " + "x" * 7000,
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_credential_is_refused(client: Client, wrong: str) -> None:
    await new_key(client, "admin")

    answer = await call(client, "GET", "/students", headers={"Authorization": WRONG[wrong]})

    problem(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer error=")


async def test_unknown_wrong_expired_and_revoked_keys_get_the_same_answer(
    client: Client, connection: Connection
) -> None:
    admin = await new_key(client, "admin")
    revoked = await new_key(client, "read", key=admin)
    expired = await new_key(client, "events", key=admin, expires_at="2020-01-01T00:00:00Z")
    assert (await call(client, "DELETE", "/keys/2", headers=bearer(admin))).status == 200
    bodies = []
    for key in (revoked, expired, "ek_1_" + "0" * 48, "ek_99_" + "0" * 48):
        answer = await call(client, "GET", "/students", headers=bearer(key))
        bodies.append({**problem(answer, 401, "unauthenticated"), "request_id": None})
    assert all(body == bodies[0] for body in bodies)


async def test_wrong_keys_cost_no_statement_each(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await new_key(client, "admin")
    monkeypatch.setattr(api_keys, "LOOK_AGAIN_SECONDS", 60.0)
    monkeypatch.setattr(api_keys, "FRESH_SECONDS", 60.0)
    await call(client, "GET", "/students", headers=bearer("ek_1_" + "0" * 48))
    loads = 0

    async def counted(*arguments: Any) -> Any:
        nonlocal loads
        loads += 1
        return await list_api_keys(*arguments)

    monkeypatch.setattr(api_keys, "list_api_keys", counted)
    for number in range(50):
        answer = await call(client, "GET", "/students", headers=bearer(f"ek_{number + 5}_" + "0" * 48))
        assert answer.status == 401
    assert loads == 0


async def test_after_a_rotation_both_secrets_are_valid_until_the_overlap_ends(client: Client) -> None:
    admin = await new_key(client, "admin")
    first = await new_key(client, "read", key=admin)
    rotated = await call(client, "POST", "/keys/2/rotate", {}, headers=bearer(admin))
    assert rotated.status == 200
    second = rotated.body["key"]
    for key in (first, second):
        assert (await call(client, "GET", "/students", headers=bearer(key))).status == 200
    rotated = await call(client, "POST", "/keys/2/rotate", {"overlap_seconds": 0}, headers=bearer(admin))
    statuses = [
        (await call(client, "GET", "/students", headers=bearer(key))).status
        for key in (first, second, rotated.body["key"])
    ]
    assert statuses == [401, 401, 200]


async def test_the_database_holds_no_secret_and_no_log_shows_one(
    client: Client, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = await new_key(client, "admin")
    await call(client, "GET", "/keys", headers=bearer(key))
    await call(client, "GET", "/students", headers=bearer(key))
    rows = await connection.fetch("SELECT api_keys::text FROM api_keys")
    secret = key.rpartition("_")[2]
    assert all(secret not in row[0] for row in rows)
    assert all(secret not in str(vars(record)) for record in caplog.records)


async def test_events_name_the_key_and_for_whom_it_acts(client: Client, connection: Connection) -> None:
    key = await new_key(client, "manage", name="portal")
    headers = {**bearer(key), "X-Actor": "Dean Zoë"}
    assert (await call(client, "POST", "/students", student_fields(), headers=headers)).status == 201
    [event] = await events(connection)
    assert (event["actor"], event["on_behalf_of"]) == ("portal", "Dean Zoë")


@pytest_asyncio.fixture(loop_scope="module")
async def issuer() -> Any:
    async with provider() as running:
        yield running


async def test_a_token_of_the_provider_is_accepted_with_its_scopes(
    aiohttp_client: AiohttpClient, settings: Settings, issuer: Provider, connection: Connection
) -> None:
    client = await served(aiohttp_client, with_issuer(settings, issuer))
    problem(await call(client, "GET", "/students"), 401, "unauthenticated")
    problem(await call(client, "GET", "/students", headers=bearer(issuer.token(exp=1))), 401, "unauthenticated")
    assert (await call(client, "GET", "/students", headers=bearer(issuer.token()))).status == 200
    made = await call(client, "POST", "/students", student_fields(), headers=bearer(issuer.token(scope="manage")))
    assert made.status == 201
    assert [event["actor"] for event in await events(connection)] == ["portal"]
    problem(
        await call(client, "GET", f"/students?access_token={issuer.token()}", headers=bearer(issuer.token())),
        422,
        "invalid",
    )


async def test_a_student_reads_and_changes_no_other_student(
    aiohttp_client: AiohttpClient, settings: Settings, issuer: Provider
) -> None:
    client = await served(aiohttp_client, with_issuer(settings, issuer))
    office = bearer(issuer.token(scope="read enroll manage override events admin"))

    async def made(path: str, body: object) -> int:
        answer = await call(client, "POST", path, body, headers=office)
        assert answer.status == 201, answer
        id: int = answer.body["id"]
        return id

    own, other = [await made("/students", student_fields(external_id=f"S-{number}")) for number in (1, 2)]
    course = await made("/courses", {"code": "A", "title": "A"})
    portal = bearer(issuer.token(scope="self", student_number="S-1"))

    async def status(method: str, path: str, body: object = None) -> int:
        return (await call(client, method, path, body, headers=portal)).status

    assert await status("GET", f"/students/{own}") == 200
    assert await status("POST", f"/students/{own}/enroll", {"course_ids": [course]}) == 201
    assert await status("GET", f"/students/{own}/courses") == 200
    assert await status("GET", f"/students/{own}/export") == 200
    assert await status("GET", f"/students/{own}/courses/{course}") == 200
    assert await status("GET", f"/students/{own}/overview") == 200
    assert await status("GET", f"/students/{own}/refusals") == 200
    assert await status("DELETE", f"/students/{own}/courses/{course}") == 200
    assert (await call(client, "GET", "/whoami", headers=portal)).body["student_id"] == own
    for item in ENDPOINTS:
        if item.scope in {"public", "any"}:
            continue
        path = path_of(item).replace("/students/999", f"/students/{other}")
        assert (await status(item.method, path)) == 404, path
    for method, path in (
        ("PATCH", f"/students/{own}"),
        ("DELETE", f"/students/{own}"),
        ("POST", f"/students/{own}/holds"),
        ("POST", f"/students/{own}/overrides"),
        ("POST", f"/students/{own}/erase"),
        ("POST", f"/students/{own}/courses/{course}/complete"),
        ("GET", f"/students/0{own}"),
        ("GET", f"/courses/{course}/students"),
        ("GET", f"/courses/{course}/refusals"),
    ):
        assert (await status(method, path, {})) == 404, path
    unknown = bearer(issuer.token(scope="self", student_number="S-9"))
    assert (await call(client, "GET", f"/students/{own}", headers=unknown)).status == 404
    acting = {**portal, "X-Actor": "Dean"}
    problem(
        await call(client, "POST", f"/students/{own}/enroll", {"course_ids": [course]}, headers=acting),
        403,
        "scope_missing",
    )


async def test_nobody_is_authenticated_with_auth_off(
    aiohttp_client: AiohttpClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"auth": "off", "host": "0.0.0.0"}))
    await new_key(client, "read")
    assert (await call(client, "GET", "/students")).status == 200
    assert [record.message for record in caplog.records if "AUTH=off" in record.message]


async def test_other_machines_are_not_served_without_authentication(settings: Settings) -> None:
    database = Database(settings)
    await database.open()
    try:
        for host in ("0.0.0.0", "::", "192.0.2.1", "enrollment.example", ""):
            with pytest.raises(Unprotected, match="keys create"):
                await Authenticator(database, settings.model_copy(update={"host": host})).check_start()
        for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
            await Authenticator(database, settings.model_copy(update={"host": host})).check_start()
    finally:
        await database.close()


async def test_the_use_of_a_key_is_noted(
    aiohttp_client: AiohttpClient, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "NOTE_SECONDS", 0.05)
    client = await served(aiohttp_client, settings)
    key = await new_key(client, "read")
    await asyncio.sleep(0.2)
    assert await connection.fetchval("SELECT last_used_at FROM api_keys") is None
    await call(client, "GET", "/students", headers=bearer(key))
    async with asyncio.timeout(10):
        while await connection.fetchval("SELECT last_used_at FROM api_keys") is None:
            await asyncio.sleep(0.02)


async def test_the_command_line_manages_keys(
    client: Client, settings: Settings, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def keys(*arguments: str) -> str:
        return await command(settings, capsys, "keys", *arguments)

    def key_in(out: str) -> str:
        [key] = [word for word in out.split() if word.startswith("ek_")]
        return key

    ended = await run(
        *("keys", "create", "--name", "portal", "--scope", "read", "--expires", "2036-01-01"),
        DATABASE_URL=database_url,
    )
    assert ended.status == 0, ended
    first, second = key_in(ended.out), key_in(await keys("rotate", "1", "--overlap", "0"))
    client.app[AUTHENTICATOR].forget(None)
    statuses = [(await call(client, "GET", "/students", headers=bearer(key))).status for key in (first, second)]
    assert statuses == [401, 200]
    assert "portal" in await keys("list")
    await keys("revoke", "1")
    assert "revoked" in await keys("list")
    for wrong in (("revoke", "99"), ("rotate", "1"), ("create", "--name", "portal", "--scope", "read")):
        with pytest.raises(DomainError):
            await keys(*wrong)
    ended = await run("keys", "revoke", "99", DATABASE_URL=database_url)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err


async def test_every_caller_can_read_who_it_is_and_what_it_may_do(client: Client) -> None:
    everything = [scope for scope in SCOPES if scope != "self"]
    nobody = {"name": None, "scopes": everything, "student_id": None, "institution": None}
    assert (await call(client, "GET", "/whoami")).body == nobody
    reader = bearer(await new_key(client, "events", "read"))
    answer = await call(client, "GET", "/whoami", headers=reader)
    assert answer.body == {"name": "events-read", "scopes": ["read", "events"], "student_id": None, "institution": None}
    problem(await call(client, "GET", "/whoami"), 401, "unauthenticated")


async def test_a_dry_run_requires_only_the_scope_to_read(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client)
    key = await new_key(client, "read", "admin")
    reader, watcher = bearer(key), bearer(await new_key(client, "events", key=key))
    path, body = f"/students/{student}/enroll", {"course_ids": [course]}
    before = await events(connection)

    tried = await call(client, "POST", f"{path}?dry_run=true", body, headers=reader)
    assert (tried.status, tried.body["results"][0]["outcome"]) == (200, "enrolled")
    problem(await call(client, "POST", f"{path}?dry_run=true", body, headers=watcher), 403, "scope_missing")
    for query in ("", "?dry_run=false", "?dry_run=True", "?dry_run=true&dry_run=false", "?dry_run=false&dry_run=true"):
        answer = await call(client, "POST", path + query, body, headers=reader)
        assert problem(answer, 403, "scope_missing")["errors"][0]["scope"] == "enroll", query
    assert await events(connection) == before
