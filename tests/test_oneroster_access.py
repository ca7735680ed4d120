"""Who may read OneRoster, and what a sync sees while the institution changes."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode

from aiohttp import ClientResponse
from openapi_spec_validator import OpenAPIV30SpecValidator
from pytest_aiohttp import AiohttpClient

from service.oneroster.operations import OPERATIONS
from service.oneroster.pages import Anchor, Anchors
from service.settings import Settings
from sql import Connection
from tests.campus import call, drop, enroll, new_course, new_student, served
from tests.conftest import Client
from tests.roster import V1P1, V1P2, ids, show
from tests.test_auth import bearer, new_key
from tests.test_oneroster import minor

SCOPE = "https://purl.imsglobal.org/spec/or/v1p2/scope/"
OLD_SCOPE = "http://purl.imsglobal.org/spec/or/v1p1/scope/"


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


async def token(client: Client, fields: dict[str, str], **headers: str) -> tuple[int, dict[str, Any], ClientResponse]:
    async with client.post(
        "/oauth/token", data={"grant_type": "client_credentials", **fields}, headers=headers
    ) as answer:
        return answer.status, await answer.json(), answer


async def get(client: Client, path: str, given: str) -> int:
    return (await call(client, "GET", path, headers=bearer(given))).status


async def test_a_client_gets_a_token_for_the_scopes_of_its_key(client: Client) -> None:
    admin = await new_key(client, "admin")
    key = await new_key(client, "roster", key=admin)
    client_id, secret = key.removeprefix("ek_").split("_")

    for fields, headers in (
        ({}, {"Authorization": basic(client_id, secret)}),
        ({}, {"Authorization": basic(quote_plus(client_id), quote_plus(secret))}),
        ({}, {"Authorization": basic(client_id, key)}),
        ({"client_id": client_id, "client_secret": secret}, {}),
    ):
        status, body, granted = await token(client, fields, **headers)
        assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 3600)
        assert granted.headers["Cache-Control"] == "no-store"
        assert body["access_token"].replace("_", "").isalnum()
        assert set(body["scope"].split()) >= {f"{SCOPE}roster.readonly", f"{SCOPE}roster-core.readonly"}
        for path in ("users", "schools/institution/students"):
            assert await get(client, f"{V1P2}/{path}", body["access_token"]) == 200
            assert await get(client, f"{V1P1}/{path}", body["access_token"]) == 200
        assert (await call(client, "GET", "/students", headers=bearer(body["access_token"]))).status == 403

    own = {"client_id": client_id, "client_secret": secret}
    wanted = f"{SCOPE}roster-core.readonly {SCOPE}roster-demographics.readonly nonsense"
    _, body, _ = await token(client, {**own, "scope": wanted})
    assert body["scope"] == f"{SCOPE}roster-core.readonly"
    assert await get(client, f"{V1P2}/users/nobody", body["access_token"]) == 404
    answer = await call(client, "GET", f"{V1P2}/schools/institution/students", headers=bearer(body["access_token"]))
    assert (answer.status, minor(answer)) == (403, "forbidden")
    _, body, _ = await token(client, {**own, "scope": f"{OLD_SCOPE}roster.readonly"})
    assert body["scope"] == f"{OLD_SCOPE}roster.readonly"
    assert await get(client, f"{V1P1}/users", body["access_token"]) == 200
    # A token of the full scope alone is enough for the core operations too.
    assert await get(client, f"{V1P1}/schools/institution/students", body["access_token"]) == 200


async def test_a_wrong_request_for_a_token_is_refused_in_the_format_of_oauth(
    aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"body_limit": 5000}))
    admin = await new_key(client, "admin")
    key = await new_key(client, "roster", key=admin)
    other = (await new_key(client, "read", key=admin)).removeprefix("ek_").split("_")
    client_id, secret = key.removeprefix("ek_").split("_")
    own = {"client_id": client_id, "client_secret": secret}
    for fields, headers, status, code in (
        ({**own, "client_secret": "0" * 48}, {}, 401, "invalid_client"),
        ({**own, "client_id": "99"}, {}, 401, "invalid_client"),
        ({**own, "client_id": f"north_{client_id}"}, {}, 401, "invalid_client"),
        ({**own, "client_secret": key.replace("ek_2", "ek_1")}, {}, 401, "invalid_client"),
        ({}, {"Authorization": "Basic !!"}, 401, "invalid_client"),
        ({}, {"Authorization": bearer(key)["Authorization"]}, 401, "invalid_client"),
        ({"client_id": client_id}, {}, 400, "invalid_request"),
        ({**own, "grant_type": "password"}, {}, 400, "unsupported_grant_type"),
        ({**own, "scope": f"{SCOPE}roster-demographics.readonly"}, {}, 400, "invalid_scope"),
        ({"client_id": other[0], "client_secret": other[1]}, {}, 400, "invalid_scope"),
        ({**own, "scope": "x" * 5_000}, {}, 413, "invalid_request"),
        ({**own, "Content-Type": "x"}, {"Content-Type": "application/json"}, 415, "invalid_request"),
        ({str(number): "" for number in range(60)}, {}, 400, "invalid_request"),
    ):
        data = urlencode({"grant_type": "client_credentials", **fields})
        sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        answer = await call(client, "POST", "/oauth/token", data=data.encode(), headers=sent)
        assert (answer.status, answer.body["error"]) == (status, code), (fields, answer)
        assert answer.body["error_description"]
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert (await call(client, "GET", "/oauth/token")).status == 405


async def test_a_token_ends_with_its_key_and_with_its_time(
    client: Client, aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    admin = await new_key(client, "admin")
    key = await new_key(client, "roster", key=admin)
    client_id, secret = key.removeprefix("ek_").split("_")
    own = {"client_id": client_id, "client_secret": secret}
    given = (await token(client, own))[1]["access_token"]

    for forged in (
        given[:-1] + ("0" if given[-1] != "0" else "1"),
        given.replace("_cr_", "_c_"),
        given.replace("er_2", "er_1"),
        "er_",
        given + "0",
    ):
        answer = await call(client, "GET", f"{V1P2}/users", headers=bearer(forged))
        assert (answer.status, minor(answer)) == (401, "unauthorisedrequest"), forged
        assert "WWW-Authenticate" in answer.headers
    reader = await new_key(client, "read", "manage", "events", key=admin)
    answer = await call(client, "GET", f"{V1P2}/users", headers=bearer(reader))
    assert (answer.status, minor(answer)) == (403, "forbidden"), "no other scope includes this one"
    for headers in ({}, {"Authorization": "Basic x"}):
        answer = await call(client, "GET", f"{V1P1}/users", headers=headers)
        assert (answer.status, minor(answer)) == (401, "unauthorisedrequest")

    rotated = await call(client, "POST", f"/keys/{client_id}/rotate", {"overlap_seconds": 60}, headers=bearer(admin))
    assert rotated.status == 200, rotated
    assert await get(client, f"{V1P2}/users", given) == 200, "the secret before is still valid"
    await call(client, "POST", f"/keys/{client_id}/rotate", {"overlap_seconds": 0}, headers=bearer(admin))
    assert await get(client, f"{V1P2}/users", given) == 401

    short = await served(aiohttp_client, settings.model_copy(update={"oneroster_token_seconds": 1}))
    last = await new_key(short, "roster", key=admin, name="short")
    client_id, secret = last.removeprefix("ek_").split("_")
    given = (await token(short, {"client_id": client_id, "client_secret": secret}))[1]["access_token"]
    assert await get(short, f"{V1P2}/users", given) == 200
    expires = int(given.split("_")[2])
    while datetime.now(UTC).timestamp() <= expires:
        await asyncio.sleep(0.05)
    assert await get(short, f"{V1P2}/users", given) == 401
    assert (await call(short, "DELETE", f"/keys/{client_id}", headers=bearer(admin))).status == 200
    assert (await token(short, {"client_id": client_id, "client_secret": secret}))[0] == 401


async def test_a_sync_misses_no_one_while_students_are_deleted(client: Client) -> None:
    for number in range(6):
        await new_student(client, sourced_id=f"s{number}")
    seen = ids(await show(client, f"{V1P2}/students?limit=2&filter=status='active'"))
    # Without a memory of the first page, the second would begin one student too late.
    assert (await call(client, "DELETE", "/students/1")).status == 204
    for offset in (2, 4, 6):
        answer = await call(client, "GET", f"{V1P2}/students?limit=2&filter=status='active'&offset={offset}")
        assert answer.headers["X-Total-Count"] == "6", "as when the sync began"
        seen += ids(answer.body)
    assert seen == ["s0", "s1", "s2", "s3", "s4", "s5"]
    # A sync that begins now.
    answer = await call(client, "GET", f"{V1P2}/students?limit=2&filter=status='active'")
    assert (ids(answer.body), answer.headers["X-Total-Count"]) == (["s1", "s2"], "5")


def test_the_places_that_a_process_remembers_have_a_bound() -> None:
    anchors = Anchors(size=2)
    for number in range(3):
        anchors.remember(number, Anchor((number,), 9))
    assert [anchors.find(number) is None for number in range(3)] == [True, False, False]


async def test_a_change_is_found_by_its_time_and_a_deletion_leaves_a_tombstone(
    client: Client, connection: Connection
) -> None:
    student, course = await new_student(client, sourced_id="s1"), await new_course(client)
    other, spare = await new_student(client, sourced_id="s2"), await new_course(client)
    await enroll(client, student, course)
    path = f"{V1P2}/enrollments"
    [before] = (await show(client, path))["enrollments"]
    await connection.execute("UPDATE student_courses SET updated_at = '2020-01-01Z', joined_at = '2020-01-01Z'")
    await connection.execute("UPDATE students SET updated_at = '2020-01-01 00:00:00.000999Z'")
    await connection.execute("UPDATE courses SET updated_at = '2020-01-01Z'")
    since = "filter=dateLastModified>'2020-06-01'"
    for name in ("users", "classes", "courses", "enrollments"):
        assert ids(await show(client, f"{V1P2}/{name}?{since}")) == [], name
    # An instant is rounded down to milliseconds, and compared as it is shown.
    assert len(ids(await show(client, f"{V1P2}/users?filter=dateLastModified='2020-01-01T00:00:00Z'"))) == 2
    assert ids(await show(client, f"{V1P2}/users?filter=dateLastModified>'2020-01-01T00:00:00.000Z'")) == []

    assert (await drop(client, student, course)).status in {200, 204}
    [dropped] = (await show(client, f"{path}?{since}"))["enrollments"]
    assert (dropped["sourcedId"], dropped["status"]) == (before["sourcedId"], "tobedeleted")
    await enroll(client, student, course)
    [again] = (await show(client, f"{path}?{since}"))["enrollments"]
    assert (again["sourcedId"], again["status"]) == (before["sourcedId"], "active")

    for deleted in (f"/students/{other}", f"/courses/{spare}"):
        assert (await call(client, "DELETE", deleted)).status == 204
    [user] = (await show(client, f"{V1P2}/students?{since}"))["users"]
    assert (user["sourcedId"], user["status"], user["enabledUser"]) == ("s2", "tobedeleted", "false")
    [gone] = (await show(client, f"{V1P2}/classes?{since}"))["classes"]
    assert (gone["status"], gone["course"]["sourcedId"]) == ("tobedeleted", f"course-{spare:010}")
    assert (await show(client, f"{V1P2}/courses/course-{spare:010}"))["course"]["status"] == "tobedeleted"
    # The id may be given again: then it names the new student.
    await new_student(client, sourced_id="s2")
    assert (await show(client, f"{V1P2}/users/s2"))["user"]["status"] == "active"
    assert ids(await show(client, f"{V1P2}/users")) == ["s1", "s2"]


async def test_a_duplicate_that_was_merged_leaves_a_tombstone(client: Client) -> None:
    student, duplicate = await new_student(client, sourced_id="s1"), await new_student(client, sourced_id="s2")
    course = await new_course(client)
    await enroll(client, duplicate, course)
    assert (
        await call(client, "POST", f"/students/{student}/merge", {"student_id": duplicate, "reason": "double"})
    ).status == 200
    assert (await show(client, f"{V1P2}/users/s2"))["user"]["status"] == "tobedeleted"
    assert ids(await show(client, f"{V1P2}/enrollments")) == [f"enrollment-{student:010}-{course:010}-student"]


async def test_the_oldest_tombstones_are_swept(
    settings: Settings, connection: Connection, aiohttp_client: AiohttpClient
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"sweep_interval": 0.01, "tombstones_kept": 10.0}))
    now = datetime.now(UTC)
    for id, age in ((1, 9), (2, 11)):
        await connection.execute(
            "INSERT INTO tombstones (resource, id, deleted_at) VALUES ('course', $1, $2)", id, now - timedelta(days=age)
        )
    for _ in range(500):
        found = ids(await show(client, f"{V1P2}/classes"))
        if len(found) == 1:
            break
        await asyncio.sleep(0.01)
    assert found == ["class-0000000001"]


async def test_a_database_that_does_not_answer_in_time_is_a_busy_server(
    settings: Settings, connection: Connection, aiohttp_client: AiohttpClient
) -> None:
    hasty = {"lock_timeout": 1.5, "acquire_timeout": 0.3, "oneroster_reads": 1}
    client = await served(aiohttp_client, settings.model_copy(update=hasty))
    # A busy machine may need longer than that to open connections.
    await asyncio.gather(*(call(client, "GET", path) for path in ("/courses", "/students", f"{V1P2}/users")))
    async with connection.transaction():
        await connection.execute("LOCK TABLE students IN ACCESS EXCLUSIVE MODE")
        slow = asyncio.create_task(call(client, "GET", f"{V1P2}/users?filter=givenName~'x'"))
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        # One request is being served, and no more may be.
        refused = await call(client, "GET", f"{V1P1}/courses")
        assert (await call(client, "GET", "/courses")).status == 200, "other requests have connections"
        for answer in (refused, await slow):
            assert (answer.status, minor(answer)) == (503, "server_busy")
            assert answer.headers["Retry-After"].isdigit()
    assert (await call(client, "GET", f"{V1P2}/users?filter=givenName~'x'")).status == 200


async def test_the_discovery_documents_list_every_operation(client: Client) -> None:
    for base, path in (
        (V1P2, "onerosterv1p2rostersservice_openapi3_v1p0.json"),
        (V1P1, "onerosterv1p1_openapi3.json"),
    ):
        answer = await call(client, "GET", f"{base}/discovery/{path}")
        assert answer.status == 200
        document = answer.body
        OpenAPIV30SpecValidator(document).validate()
        assert document["paths"].keys() == {operation.path for operation in OPERATIONS}
        assert len(document["paths"]) == 39
        assert document["servers"][0]["url"] == f"{str(client.make_url('/'))[:-1]}{base}"
        [scheme] = document["components"]["securitySchemes"].values()
        assert scheme["flows"]["clientCredentials"]["tokenUrl"].endswith("/oauth/token")


async def test_references_begin_with_the_public_url(settings: Settings, aiohttp_client: AiohttpClient) -> None:
    own = {"public_url": "https://campus.example/sis", "oneroster_org_sourced_id": "uni", "oneroster_org_name": "Ünï"}
    client = await served(aiohttp_client, settings.model_copy(update=own))
    await new_student(client)
    answer = await call(client, "GET", f"{V1P2}/users?limit=1", headers={"Accept-Encoding": "gzip"})
    [user] = answer.body["users"]
    assert user["primaryOrg"]["href"] == f"https://campus.example/sis{V1P2}/orgs/uni"
    assert answer.headers["Link"].startswith(f"<https://campus.example/sis{V1P2}/users?")
    assert (await show(client, f"{V1P2}/schools/uni"))["org"]["name"] == "Ünï"
