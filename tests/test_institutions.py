"""Many institutions in one service: each with data, keys, a feed and a state of its own."""

import asyncio
import csv
import io
import random
import zipfile
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from pytest_aiohttp import AiohttpClient

from service import registry as registry_module
from service.api.keys import AUTHENTICATOR, REGISTRY
from service.app import ENDPOINTS, examples
from service.auth import api_keys
from service.check import check_all
from service.errors import DomainError, InstitutionNotFound, InstitutionNotSuspended, RegistryMissing
from service.institutions import Institutions
from service.registry import NEWEST, Registry
from service.settings import Settings
from service.web.auth import SCOPES
from service.web.endpoint import EDGE
from sql import Connection
from sql.registry import Institution
from tests.campus import TABLES, Answer, call, command, course_fields, problem, served, student_fields, until
from tests.conftest import REGISTRY as SCHEMA
from tests.conftest import Client
from tests.provider import provider, with_issuer
from tests.test_auth import bearer, path_of

pytestmark = pytest.mark.not_on_citus("the tests would share the registry")


@dataclass(frozen=True, slots=True)
class School:
    """An institution, called with a key that has every scope."""

    client: Client
    institution: Institution
    key: str

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await call(self.client, method, path, body, headers={**bearer(self.key), **given})

    async def create(self, path: str, body: object) -> int:
        answer = await self.call("POST", path, body)
        assert answer.status == 201, answer
        id: int = answer.body["id"]
        return id

    async def read(self, path: str) -> Any:
        answer = await self.call("GET", path)
        assert answer.status == 200, answer
        return answer.body


@pytest.fixture
def many(settings: Settings) -> Settings:
    own = {"registry_schema": SCHEMA, "registry_interval": 0.02, "sweep_interval": 3600.0}
    return settings.model_copy(update=own)


@pytest.fixture
async def fleet(aiohttp_client: AiohttpClient, many: Settings) -> Client:
    return await served(aiohttp_client, many)


def registry_of(client: Client) -> Registry:
    assert client.app is not None
    return client.app[REGISTRY]


def serving(client: Client) -> Institutions:
    assert client.app is not None
    found = client.app[EDGE].services_of
    assert isinstance(found, Institutions)
    return found


async def new_school(client: Client, name: str, **fields: str) -> School:
    """Create an institution, with a key."""
    given = {"display_name": name, "time_zone": "UTC", **fields}
    institution = await registry_of(client).create(name, **given)
    return School(client, institution, await new_key(client, name))


async def new_key(client: Client, name: str | None, *scopes: Any) -> str:
    """Create a key of an institution, or of the registry."""
    database = registry_of(client).database if name is None else serving(client).database_of(name)
    assert database is not None
    async with database.writing() as connection:
        given = list(scopes) or [scope for scope in SCOPES if scope != "self"]
        _, text = await api_keys.create(connection, f"key of {name or 'an operator'}", given, None, name)
    assert client.app is not None
    client.app[AUTHENTICATOR].forget(name)
    return text


async def rows_of(connection: Connection, institution: Institution) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table of an institution."""
    schema = institution.schema_name
    return {
        table: [tuple(row) for row in await connection.fetch(f"TABLE {schema}.{table} ORDER BY 1, 2")]
        for table in TABLES
    }


async def test_two_institutions_with_the_same_ids_do_not_mix(fleet: Client) -> None:
    north, south = await new_school(fleet, "north"), await new_school(fleet, "south")
    for school in (north, south):
        fields = student_fields(external_id="S-1", email="ada@campus.example", family_name=school.institution.name)
        assert await school.create("/students", fields) == 1
        assert await school.create("/courses", course_fields(code="MATH", title=school.institution.name)) == 1
    assert (await north.call("POST", "/students/1/enroll", {"course_ids": [1]})).status == 201

    assert (await north.read("/students/1"))["family_name"] == "north"
    assert (await south.read("/students/1"))["family_name"] == "south"
    assert [item["course"]["title"] for item in (await north.read("/students/1/courses"))["items"]] == ["north"]
    assert (await south.read("/students/1/courses"))["items"] == []
    assert [event["type"] for event in (await north.read("/events"))["items"]] == [
        "student.created",
        "course.created",
        "enrollment.enrolled",
    ]
    events = (await south.read("/events"))["items"]
    assert [(event["type"], event["actor"]) for event in events] == [
        ("student.created", "key of south"),
        ("course.created", "key of south"),
    ]


async def test_cursors_and_etags_of_an_institution_are_worthless_in_another(fleet: Client) -> None:
    north, south = await new_school(fleet, "north"), await new_school(fleet, "south")
    for school in (north, south):
        for _ in range(2):
            await school.create("/students", student_fields())
        await school.create("/courses", course_fields())
    page, head = await north.read("/students?limit=1"), await north.read("/events/head")
    etag = (await north.call("GET", "/students/1")).etag

    assert [row["id"] for row in (await north.read(f"/students?limit=1&cursor={page['next']}"))["items"]] == [2]
    refused = problem(await south.call("GET", f"/students?limit=1&cursor={page['next']}"), 422, "invalid")
    assert refused["errors"][0]["code"] == "invalid_cursor"
    untagged = page["next"].partition(".")[2]
    for school in (north, south):
        problem(await school.call("GET", f"/students?limit=1&cursor={untagged}"), 422, "invalid")
    problem(await south.call("GET", f"/events?after={head['next']}"), 410, "cursor_expired")
    assert (await north.call("GET", "/students/1", If_None_Match=etag)).status == 304
    assert (await south.call("GET", "/students/1", If_None_Match=etag)).status == 200
    changes = {"given_name": "Eve"}
    for tag in (etag, '"1"'):
        problem(await south.call("PATCH", "/students/1", changes, If_Match=tag), 412, "precondition_failed")
    assert (await north.call("PATCH", "/students/1", changes, If_Match=etag)).status == 200
    assert (await south.call("PATCH", "/students/1", changes, If_Match="*")).status == 200
    groups = {"groups": [{"kind": "pre", "any_of": ["X"]}]}
    made = await north.call("PUT", "/courses/1/requirements", groups)
    assert (await north.call("PUT", "/courses/1/requirements", groups, If_Match=made.etag)).status == 200
    problem(await south.call("PUT", "/courses/1/requirements", groups, If_Match=made.etag), 412, "precondition_failed")


async def test_no_operation_reaches_another_institution(fleet: Client, connection: Connection) -> None:
    north, south = await new_school(fleet, "north"), await new_school(fleet, "south")
    student = await north.create("/students", student_fields(external_id="X", family_name="Canary"))
    course = await north.create("/courses", course_fields(title="Canary"))
    term = {"code": "2026F", "name": "Canary", "starts_on": "2026-09-01", "ends_on": "2026-12-18"}
    await north.create("/terms", term)
    await north.create(f"/students/{student}/holds", {"reason": "Canary", "blocks": ["drop"]})
    assert (await north.call("POST", f"/students/{student}/enroll", {"course_ids": [course]})).status == 201
    before = await rows_of(connection, north.institution)
    tried, calls = 0, examples().calls
    for item in ENDPOINTS:
        path = path_of(item) if "{key_id}" in item.path else path_of(item).replace("999", "1")
        example = calls.get(item.handler.__name__)
        body = None if example is None else example.body
        for key in (south.key, None):
            headers = {} if key is None else bearer(key)
            answer = await call(fleet, item.method, path, body, headers=headers)
            assert "Canary" not in str(answer.body), item
            assert answer.status != 500
            if item.scope != "public" and key is None:
                problem(answer, 401, "unauthenticated")
            if item.within == "registry" and key is not None:
                problem(answer, 404, "no_such_path")
            tried += 1
    assert tried == 2 * len(ENDPOINTS)
    assert await rows_of(connection, north.institution) == before


async def test_a_token_of_oneroster_reaches_the_institution_of_its_key(fleet: Client) -> None:
    given, path = {}, "/ims/oneroster/rostering/v1p2"
    for name in ("north", "south-college"):
        school = await new_school(fleet, name, display_name=f"The {name}")
        await school.create("/students", student_fields(sourced_id=f"s-{name}"))
        key_id, secret = school.key.partition(".")[2].split("_")
        form = {"grant_type": "client_credentials", "client_id": f"{name}_{key_id}", "client_secret": secret}
        async with fleet.post("/oauth/token", data=form) as granted:
            given[name] = bearer((await granted.json())["access_token"])
        async with fleet.post("/oauth/token", data={**form, "client_id": key_id}) as refused:
            assert refused.status == 401, "that would be a client of the registry"
    for name, headers in given.items():
        [org] = (await call(fleet, "GET", f"{path}/orgs", headers=headers)).body["orgs"]
        assert (org["sourcedId"], org["name"], org["identifier"]) == (name, f"The {name}", name)
        [user] = (await call(fleet, "GET", f"{path}/users", headers=headers)).body["users"]
        assert user["sourcedId"] == f"s-{name}"
    stolen = given["north"]["Authorization"].replace("er_north_", "er_south-college_")
    assert (await call(fleet, "GET", f"{path}/users", headers={"Authorization": stolen})).status == 401
    answer = await call(fleet, "GET", f"{path}/users", headers=bearer(await new_key(fleet, None)))
    assert (answer.status, answer.body["imsx_codeMajor"]) == (400, "failure")


async def test_an_operator_manages_institutions_and_reaches_none_of_their_data(fleet: Client) -> None:
    operator = bearer(await new_key(fleet, None))
    names = []
    for item in ENDPOINTS:
        if item.within == "institution" and item.scope != "public":
            answer = await call(fleet, item.method, path_of(item), headers=operator)
            assert problem(answer, 400, "institution_required")
            names.append(item.path)
    assert len(names) > 30
    body = {"name": "north-college", "display_name": "North College", "time_zone": "Europe/Berlin"}
    made = await call(fleet, "POST", "/institutions", body, headers=operator)
    assert made.status == 201
    assert made.headers["Location"] == "/institutions/north-college"
    assert (made.body["state"], made.body["migration"]) == ("active", NEWEST)
    again = await call(fleet, "POST", "/institutions", body, headers=operator)
    problem(again, 409, "institution_name_taken")
    [listed] = (await call(fleet, "GET", "/institutions", headers=operator)).body["items"]
    assert listed == made.body == (await call(fleet, "GET", "/institutions/north-college", headers=operator)).body
    changed = await call(fleet, "PATCH", "/institutions/north-college", {"display_name": "N"}, headers=operator)
    assert (changed.body["display_name"], changed.body["time_zone"]) == ("N", "Europe/Berlin")
    for method, wanted in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        problem(await call(fleet, method, "/institutions/none", wanted, headers=operator), 404, "institution_not_found")
        if method != "GET":
            refused = await call(
                fleet, method, "/institutions/north-college", wanted, headers={**operator, "If-Match": '"1"'}
            )
            problem(refused, 412, "precondition_unsupported")
    keys = (await call(fleet, "GET", "/keys", headers=operator)).body["items"]
    assert [key["name"] for key in keys] == ["key of an operator"]
    problem(await call(fleet, "GET", "/institutions"), 401, "unauthenticated")


async def test_a_service_without_a_registry_has_no_institutions(client: Client, fleet: Client) -> None:
    problem(await call(client, "GET", "/institutions"), 404, "registry_missing")
    assert "institutions" not in (await call(client, "GET", "/")).body["links"]
    assert "institutions" in (await call(fleet, "GET", "/")).body["links"]


async def test_a_key_says_nothing_about_which_institutions_there_are(fleet: Client) -> None:
    north = await new_school(fleet, "north")
    secret = north.key.partition("_")[2].partition("_")[2]
    answers = [
        problem(await call(fleet, "GET", "/students", headers=bearer(key)), 401, "unauthenticated")["detail"]
        for key in (
            f"ek_nowhere.1_{secret}",
            f"ek_1_{secret}",
            f"ek_north.2_{secret}",
            f"ek_north.1_{'0' * 48}",
            f"ek_north/../.1_{secret}",
        )
    ]
    assert len(set(answers)) == 1


async def test_states_of_an_institution(fleet: Client, aiohttp_client: AiohttpClient, many: Settings) -> None:
    north, south = await new_school(fleet, "north"), await new_school(fleet, "south")
    other = await served(aiohttp_client, many)
    registry = registry_of(fleet)

    async def in_both(state: str) -> list[School]:
        changed = await registry.change("north", state=state)

        async def noticed() -> bool:
            return registry_of(other).institutions["north"].revision == changed.revision

        await until(noticed, "the other process to notice")
        return [north, replace(north, client=other)]

    for school in await in_both("read_only"):
        assert await school.read("/students") == {"items": [], "next": None}
        problem(await school.call("POST", "/students", student_fields()), 403, "institution_read_only")
    for school in await in_both("suspended"):
        problem(await school.call("GET", "/students"), 403, "institution_suspended")
    for school in await in_both("active"):
        await school.create("/students", student_fields())
    await south.create("/students", student_fields())


async def test_only_a_suspended_institution_is_dropped_and_its_name_can_be_used_again(
    fleet: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = await new_school(fleet, "north"), await new_school(fleet, "south")
    await north.create("/students", student_fields())
    operator = bearer(await new_key(fleet, None))
    problem(await call(fleet, "DELETE", "/institutions/north", headers=operator), 409, "institution_not_suspended")
    await registry_of(fleet).change("north", state="suspended")
    with pytest.raises(InstitutionNotSuspended):
        await registry_of(fleet).drop("north")
    monkeypatch.setattr(registry_module, "SETTLE_SECONDS", 0.0)

    assert (await call(fleet, "DELETE", "/institutions/north", headers=operator)).status == 204

    problem(await north.call("GET", "/students"), 401, "unauthenticated")
    schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'institution_north'"
    assert await connection.fetchval(schemas) == 0
    await south.create("/students", student_fields())
    again = await new_school(fleet, "north")
    assert (await again.read("/students"))["items"] == []
    problem(await north.call("GET", "/students"), 401, "unauthenticated")


async def test_an_institution_whose_schema_is_behind_waits_for_its_migration_and_the_others_are_served(
    fleet: Client, connection: Connection
) -> None:
    north, south = await new_school(fleet, "north"), await new_school(fleet, "south")
    registry = registry_of(fleet)
    await north.create("/students", student_fields())
    await connection.execute(
        f"UPDATE {SCHEMA}.institutions SET migration = '0009', revision = revision + 100 WHERE name = 'north'"
    )
    await connection.execute(f"UPDATE {SCHEMA}.registry SET revision = revision + 100")
    await registry.refresh()

    answer = await north.call("GET", "/students")
    problem(answer, 503, "being_migrated")
    assert answer.headers["Retry-After"]
    assert (await south.read("/students"))["items"] == []
    done: list[tuple[str, int, int]] = []
    assert await registry.migrate_all(lambda *args: done.append((args[0].name, *args[1:]))) == 0
    assert done == [("north", 1, 1)]
    assert len((await north.read("/students"))["items"]) == 1
    assert await registry.migrate_all() == 0


async def test_the_migration_of_one_institution_may_fail_and_the_next_run_continues(
    fleet: Client, connection: Connection
) -> None:
    registry = registry_of(fleet)
    names = [f"school-{number}" for number in range(4)]
    for number, name in enumerate(names, start=1):
        schema = f"institution_school_{number - 1}"
        await connection.execute(
            f"INSERT INTO {SCHEMA}.institutions (name, schema_name, display_name, time_zone, state, revision, "
            "created_at, changed_at, swept_at) VALUES ($1, $2, $1, 'UTC', 'creating', $3, now(), now(), now())",
            name,
            schema,
            number,
        )
    await connection.execute(f"UPDATE {SCHEMA}.registry SET revision = 4")
    await connection.execute("CREATE SCHEMA institution_school_2; CREATE TABLE institution_school_2.students (x int)")

    assert await registry.migrate_all() == 1
    states = {name: registry.institutions[name].state for name in names}
    assert states == dict.fromkeys(names, "active") | {"school-2": "creating"}
    await connection.execute("DROP TABLE institution_school_2.students")
    done: list[str] = []
    assert await registry.migrate_all(lambda each, *_: done.append(each.name)) == 0
    assert done == ["school-2"]


async def test_the_institutions_in_memory_have_a_bound_and_idle_ones_make_room(
    aiohttp_client: AiohttpClient, many: Settings
) -> None:
    fleet = await served(aiohttp_client, many.model_copy(update={"institutions_in_memory": 2}))
    schools = [await new_school(fleet, name) for name in ("north", "south", "east")]
    for school in [*schools, *schools]:
        await school.create("/students", student_fields())
        assert len(serving(fleet)._open) <= 2
    heads = [(await school.read("/events/head"))["next"] for school in schools]
    waits = [
        asyncio.create_task(school.call("GET", f"/events?wait=30&after={head}"))
        for school, head in zip(schools[:2], heads, strict=False)
    ]

    async def both_wait() -> bool:
        return [each.is_idle() for each in serving(fleet)._open.values()] == [False, False]

    await until(both_wait, "two readers")
    assert "Too many institutions" in problem(await schools[2].call("GET", "/students"), 503, "unavailable")["detail"]
    for school in schools[:2]:
        await school.create("/students", student_fields())
    assert [len((await wait).body["items"]) for wait in waits] == [1, 1]
    await schools[2].create("/students", student_fields())


async def test_an_institution_without_requests_is_removed_from_memory(fleet: Client) -> None:
    north = await new_school(fleet, "north")
    await north.create("/students", student_fields())
    opened = serving(fleet)._open["north"]
    serving(fleet)._remove_idle()
    assert list(serving(fleet)._open) == ["north"]
    opened.used_at -= 3600
    serving(fleet)._remove_idle()
    assert list(serving(fleet)._open) == []
    assert len((await north.read("/students"))["items"]) == 1


async def test_every_institution_is_swept_once_an_interval_in_memory_or_not(
    fleet: Client, aiohttp_client: AiohttpClient, many: Settings, connection: Connection
) -> None:
    schools = [await new_school(fleet, name) for name in ("north", "south", "east")]
    for school in schools:
        student, course = (
            await school.create("/students", student_fields()),
            await school.create("/courses", course_fields(capacity=1)),
        )
        other = await school.create("/students", student_fields())
        await school.call("POST", f"/students/{other}/enroll", {"course_ids": [course]})
        body = {"course_ids": [course], "on_full": "waitlist"}
        assert (await school.call("POST", f"/students/{student}/enroll", body)).status == 201
        hold = {"reason": "fees", "blocks": ["enroll"], "until": "2999-01-01T00:00:00Z"}
        await school.create(f"/students/{student}/holds", hold)
        assert (await school.call("DELETE", f"/students/{other}/courses/{course}")).status == 200
        schema = school.institution.schema_name
        await connection.execute(f"UPDATE {schema}.holds SET ends_at = now() - interval '1 minute'")
        await connection.execute(f"UPDATE {schema}.student_courses SET recheck_at = now() WHERE status = 'waitlisted'")
    await registry_of(fleet).change("east", state="suspended")
    await connection.execute(f"UPDATE {SCHEMA}.institutions SET swept_at = now() - interval '2 hours'")
    processes = [serving(fleet), serving(await served(aiohttp_client, many))]
    assert "north" in processes[0]._open
    assert not processes[1]._open

    counts = await asyncio.gather(*(process.sweep() for process in processes))

    assert sum(counts) == 2
    assert [await process.sweep() for process in processes] == [0, 0]
    for school in schools:
        rows = await connection.fetch(f"SELECT status FROM {school.institution.schema_name}.student_courses")
        expected = ["dropped", "waitlisted" if school.institution.name == "east" else "enrolled"]
        assert sorted(row[0] for row in rows) == expected


async def test_without_authentication_a_header_names_the_institution(
    aiohttp_client: AiohttpClient, many: Settings
) -> None:
    fleet = await served(aiohttp_client, many.model_copy(update={"auth": "off"}))
    await new_school(fleet, "north")
    headers = {"X-Institution": "north"}
    assert (await call(fleet, "POST", "/students", student_fields(), headers=headers)).status == 201
    problem(await call(fleet, "GET", "/students"), 400, "institution_required")
    problem(await call(fleet, "GET", "/students", headers={"X-Institution": "south"}), 404, "institution_not_found")
    assert len((await call(fleet, "GET", "/institutions")).body["items"]) == 1


async def test_an_idempotency_key_of_an_institution_is_worthless_in_another(
    aiohttp_client: AiohttpClient, many: Settings
) -> None:
    client = await served(aiohttp_client, many.model_copy(update={"auth": "off"}))
    body = student_fields()
    made = []
    for name in ("north", "south"):
        await new_school(client, name)
        headers = {"X-Institution": name, "Idempotency-Key": "k-1"}
        made += [await call(client, "POST", "/students", body, headers=headers) for _ in range(2)]
    assert [answer.status for answer in made] == [201] * 4
    assert ["Idempotent-Replayed" in answer.headers for answer in made] == [False, True, False, True]
    assert [answer.etag for answer in made] == [made[0].etag] * 2 + [made[2].etag] * 2
    assert made[0].etag != made[2].etag


async def test_a_token_names_its_institution_in_a_claim(aiohttp_client: AiohttpClient, many: Settings) -> None:
    async with provider() as issuer:
        own = {"token_institution_claim": "school", "token_student_claim": "student"}
        fleet = await served(aiohttp_client, with_issuer(many, issuer).model_copy(update=own))
        schools = [await new_school(fleet, name) for name in ("north", "south")]
        for school in schools:
            await school.create("/students", student_fields(external_id=f"S-{school.institution.name}"))

        def token(**claims: Any) -> dict[str, str]:
            return bearer(issuer.token(**claims))

        for name in ("north", "south"):
            found = await call(fleet, "GET", "/students/1", headers=token(scope="read", school=name))
            assert found.body["external_id"] == f"S-{name}"
            own_student = token(scope="self", school=name, student=f"S-{name}")
            assert (await call(fleet, "GET", "/students/1", headers=own_student)).status == 200
            another = token(scope="self", school=name, student="S-north" if name == "south" else "S-south")
            problem(await call(fleet, "GET", "/students/1", headers=another), 404, "no_such_path")
        for claims in ({}, {"school": ""}, {"school": 7}, {"school": ["north"]}):
            answer = await call(fleet, "GET", "/students/1", headers=token(scope="read admin", **claims))
            problem(answer, 401, "unauthenticated")
        nowhere = token(scope="self", school="nowhere", student="S-north")
        problem(await call(fleet, "GET", "/students/1", headers=nowhere), 404, "no_such_path")


async def test_concurrent_calls_of_many_institutions_on_few_connections_stay_apart(
    aiohttp_client: AiohttpClient, many: Settings, connection: Connection
) -> None:
    fleet = await served(aiohttp_client, many.model_copy(update={"pool_size": 3, "acquire_timeout": 10.0}))
    schools = [await new_school(fleet, f"school-{number}") for number in range(6)]
    for school in schools:
        for _ in range(3):
            await school.create("/students", student_fields(family_name=school.institution.name))
        for _ in range(2):
            await school.create("/courses", course_fields(title=school.institution.name, capacity=2))
    chance = random.Random(3)

    async def caller() -> None:
        for _ in range(15):
            school, student, course = chance.choice(schools), chance.randint(1, 3), chance.randint(1, 2)
            if chance.random() < 0.6:
                body = {"course_ids": [course], "on_full": "waitlist"}
                answer = await school.call("POST", f"/students/{student}/enroll", body)
            elif chance.random() < 0.5:
                answer = await school.call("DELETE", f"/students/{student}/courses/{course}")
            else:
                answer = await school.call("GET", f"/students/{student}")
                assert answer.body["family_name"] == school.institution.name
            assert answer.status < 500, answer

    await asyncio.gather(*(caller() for _ in range(12)))
    for school in schools:
        positions = [event["position"] for event in (await school.read("/events?limit=500"))["items"]]
        assert positions == list(range(1, len(positions) + 1))
    assert await asyncio.to_thread(asyncio.run, check_all(many)) == 0


async def test_the_commands_manage_institutions_and_their_keys(
    many: Settings, service_url: str, fleet: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_here(*arguments: str) -> str:
        return await command(many, capsys, *arguments)

    assert "institution_north_college" in await run_here("institutions", "create", "north-college")
    printed = await run_here("keys", "create", "--institution", "north-college", "--name", "p", "--scope", "manage")
    [key] = [word for word in printed.split() if word.startswith("ek_")]

    async def known() -> bool:
        answer = await call(fleet, "POST", "/students", student_fields(), headers=bearer(key))
        return answer.status == 201

    await until(known, "the institution to be served")
    assert "north-college" in await run_here("institutions", "list")
    assert "suspended" in await run_here("institutions", "suspend", "north-college")
    assert "active" in await run_here("institutions", "resume", "north-college")
    assert "up to date" in await run_here("migrate")
    granted = await run_here("grants", urlsplit(service_url).username or "", "--apply")
    assert f"schema {SCHEMA}\n" in granted
    assert "schema institution_north_college\n" in granted
    assert "institution north-college" in await run_here("check", "--all")
    with pytest.raises(InstitutionNotFound):
        await run_here("keys", "list", "--institution", "nowhere")
    monkeypatch.setattr(registry_module, "SETTLE_SECONDS", 0.0)
    assert "dropped" in await run_here("institutions", "drop", "north-college", "--yes")
    assert "north-college" not in await run_here("institutions", "list")


async def test_the_commands_need_a_registry(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["institutions", "list"], ["check", "--all"], ["keys", "list", "--institution", "north"]):
        with pytest.raises(RegistryMissing, match="REGISTRY_SCHEMA"):
            await command(settings, capsys, *arguments)


async def test_a_change_of_another_process_is_never_overtaken_by_an_older_one(fleet: Client) -> None:
    await new_school(fleet, "north")
    registry = registry_of(fleet)
    older = registry.institutions["north"]
    newer = await registry.change("north", display_name="N")
    registry._know(older)
    assert registry.institutions["north"] == newer
    with pytest.raises(DomainError):
        await registry.change("nowhere", display_name="N")


async def test_an_export_for_other_systems_names_its_institution(fleet: Client) -> None:
    north = await new_school(fleet, "north", display_name="Northern College")
    made = await north.call("POST", "/exports", {"format": "oneroster-1.2"})
    place = made.headers["Location"]
    async with asyncio.timeout(10):
        while (await north.read(place))["state"] != "done":
            await asyncio.sleep(0.01)
    with zipfile.ZipFile(io.BytesIO((await north.call("GET", f"{place}/file")).body)) as archive:
        [org] = csv.DictReader(io.StringIO(archive.read("orgs.csv").decode()))
    assert (org["sourcedId"], org["name"], org["identifier"]) == ("north", "Northern College", "north")
