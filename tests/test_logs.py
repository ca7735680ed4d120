"""The line of a request in the log: who asked what, from where, with which result; and no personal data anywhere."""

import io
import json
import logging
import re
from contextlib import redirect_stdout
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request
from pytest_aiohttp import AiohttpClient

from service.logs import configuration
from service.settings import Settings
from service.web.access import BYTES_PER_WRITE, AccessHandler, RequestLine, log_request
from service.web.proxies import Proxies
from sql import Connection
from tests.campus import call, new_course, new_student, served, student_fields
from tests.conftest import Client
from tests.provider import provider, with_issuer
from tests.test_auth import bearer, new_key
from tests.test_http import program_log
from tests.test_institutions import fleet, many, new_school  # noqa: F401 - fixtures
from tests.test_process import serving

CANARY = "zqx"
"""Part of every name, address, external id and reason that the test sends; nothing else contains it."""


def lines_of(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in log if line["logger"] == "service.access"]


async def test_a_line_names_the_caller_the_ids_the_codes_and_the_address(client: Client) -> None:
    student_id, course_id = await new_student(client), await new_course(client, capacity=0)
    await new_key(client, "admin", name="ops")
    with program_log() as log:
        before = datetime.now(UTC)
        refused = await call(client, "GET", f"/students/{student_id}/courses/{course_id}/history")
        await call(client, "PUT", "/students/by-external-id/x")
        await call(client, "GET", f"/students/0{student_id}")
    assert refused.status == 401
    first, by_external_id, no_id = lines_of(log)
    assert {name: first[name] for name in ("student_id", "course_id", "codes", "status", "remote", "level")} == {
        "student_id": student_id,
        "course_id": course_id,
        "codes": ["unauthenticated"],
        "status": 401,
        "remote": "127.0.0.1",
        "level": "INFO",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert abs((datetime.fromisoformat(first["time"]) - before).total_seconds()) < 3600, "the time is in UTC"
    assert by_external_id["route"] == "/students/by-external-id/{external_id}"
    assert "student_id" not in by_external_id
    assert "student_id" not in no_id, "only digits are an id"
    assert not {"actor", "institution", "trace_id"} & first.keys()


async def test_a_line_has_the_code_of_a_refusal_and_of_each_of_its_reasons(client: Client) -> None:
    student_id, course_id = await new_student(client), await new_course(client, capacity=0)
    admin = await new_key(client, "admin", name="ops")
    portal = bearer(await new_key(client, "enroll", key=admin, name='the "portal"'))
    path, body = f"/students/{student_id}/enroll", {"course_ids": [course_id, 999]}
    with program_log() as log:
        for headers in (portal, {**portal, "Idempotency-Key": "k"}, {**portal, "Idempotency-Key": "k"}):
            answer = await call(client, "POST", path, body, headers=headers)
            assert answer.status == 422, answer
    first, keyed, replayed = lines_of(log)
    assert first["actor"] == 'the "portal"'
    assert first["codes"] == keyed["codes"] == ["unknown_course", "course_full"]
    assert "codes" not in replayed, "a stored answer is not decided again"


@pytest.mark.not_on_citus("it has no registry")
async def test_a_line_names_the_institution_but_no_name_that_none_has(
    aiohttp_client: AiohttpClient,
    many: Settings,  # noqa: F811
) -> None:
    client = await served(aiohttp_client, many.model_copy(update={"auth": "off"}))
    await new_school(client, "north")
    with program_log() as log:
        for name in ("north", 'x"y'):
            await call(client, "GET", "/courses", headers={"X-Institution": name})
    known, unknown = lines_of(log)
    assert known["institution"] == "north"
    assert unknown["codes"] == ["institution_not_found"]
    assert "institution" not in unknown


async def test_health_and_metrics_are_logged_at_debug_only(client: Client) -> None:
    paths = ("/health/live", "/health/ready", "/metrics")
    with program_log() as log:
        for path in paths:
            await call(client, "GET", path)
        logging.getLogger("service.access").setLevel(logging.DEBUG)
        for path in paths:
            await call(client, "GET", path)
    assert [(line["route"], line["level"]) for line in lines_of(log)] == [(path, "DEBUG") for path in paths]


@pytest.mark.parametrize(
    "peer, forwarded, found",
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.1, 192.0.2.7, 10.9.9.9"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7:4711"], "192.0.2.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ['192.0.2.7, "}'], "10.0.0.1"),
        ("10.0.0.1", ['192.0.2.7, fe80::1%"}'], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
    ],
)
def test_the_address_is_the_last_one_that_is_not_a_trusted_proxy(peer: str, forwarded: list[str], found: str) -> None:
    proxies = Proxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
    request = make_mocked_request("GET", "/", headers=[("X-Forwarded-For", each) for each in forwarded])
    request = request.clone(remote=peer)

    assert proxies.address_of(request) == found
    assert Proxies().address_of(request) == peer, "without TRUSTED_PROXIES, no header is believed"


async def test_the_address_behind_a_trusted_proxy_is_logged(aiohttp_client: AiohttpClient, settings: Settings) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"trusted_proxies": (ip_network("127.0.0.0/8"),)}))
    with program_log() as log:
        await call(client, "GET", "/courses", headers={"X-Forwarded-For": "198.51.100.1, 192.0.2.7"})
    assert [line["remote"] for line in lines_of(log)] == ["192.0.2.7"]


async def test_the_subject_of_a_student_is_not_logged(aiohttp_client: AiohttpClient, settings: Settings) -> None:
    async with provider() as issuer:
        client = await served(aiohttp_client, with_issuer(settings, issuer))
        office = bearer(issuer.token(scope="manage", sub="office"))
        made = await call(client, "POST", "/students", student_fields(external_id="S-1"), headers=office)
        own = bearer(issuer.token(scope="self", sub=f"{CANARY}@campus.example", student_number="S-1"))
        with program_log() as log:
            assert (await call(client, "GET", f"/students/{made.body['id']}", headers=own)).status == 200
            await call(client, "GET", f"/students/{made.body['id']}", headers=office)
            unknown = bearer(issuer.token(scope="self", sub=f"{CANARY}@campus.example", student_number="S-9"))
            assert (await call(client, "GET", f"/students/{made.body['id']}", headers=unknown)).status == 404
    student, employee, nobody = lines_of(log)
    assert student["actor"] == f"student-{made.body['id']}"
    assert employee["actor"] == "office"
    assert "actor" not in nobody
    assert CANARY not in json.dumps(log)


async def test_a_terminal_shows_a_line_for_people() -> None:
    with redirect_stdout(io.StringIO()) as stdout:
        logger = logging.getLogger("service.access")
        before = logger.handlers, logger.level, logger.propagate
        handler = logging.config.DictConfigurator(configuration("text")).configure_handler(
            {**configuration("text")["handlers"]["requests"], "stream": stdout}
        )
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
        try:
            codes = ("course_full", "hold")
            line = RequestLine("GET", "/a", 409, 1.5, "r", "portal", student_id="7", codes=codes, remote="192.0.2.7")
            log_request(line)
            handler.flush()
        finally:
            logger.handlers, logger.propagate = before[0], before[2]
            logger.setLevel(before[1])
    text = stdout.getvalue()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    GET /a 409  1\.500 ms  request_id=r  actor=portal  student_id=7  course_full hold\n",
        text,
    )


async def test_lines_are_written_together_as_long_as_a_pipe_keeps_them_whole() -> None:
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    handler = AccessHandler(Stream())
    for number in range(100):
        handler.write(RequestLine("GET", "/a", 200, 1.0, "r" * number), "INFO")
    handler.flush()
    assert max(map(len, written)) <= BYTES_PER_WRITE
    assert len(written) < 10
    assert [len(json.loads(line)["request_id"]) for line in "".join(written).splitlines()] == [*range(100)]


async def test_no_output_shows_personal_data(database_url: str, connection: Connection) -> None:
    """Send personal data in every place that takes any, with success, refusals and faults, at the lowest level."""
    person = {
        "given_name": f"{CANARY}-given",
        "family_name": f"{CANARY}-family",
        "email": f"{CANARY}@campus.example",
        "external_id": f"{CANARY}-1",
    }
    acting = {"X-Actor": f"{CANARY} clerk"}
    async with serving(DATABASE_URL=database_url, LOG_LEVEL="DEBUG") as running, aiohttp.ClientSession() as session:

        async def send(method: str, path: str, body: object = None, **headers: str) -> int:
            given = {**acting, **{name.replace("_", "-"): value for name, value in headers.items()}}
            async with session.request(method, running.url + path, json=body, headers=given) as response:
                return response.status

        assert await send("POST", "/students", person) == 201
        assert await send("POST", "/students", person) == 409
        assert await send("POST", "/students", {**person, "email": f"no address {CANARY}"}) == 422
        assert await send("POST", "/students", {f"{CANARY}": f"{CANARY}"}, Idempotency_Key=CANARY) == 422
        assert await send("PATCH", "/students/1", {"given_name": f"{CANARY}-new"}) == 200
        given = {name: person[name] for name in ("given_name", "family_name", "email")}
        assert await send("PUT", f"/students/by-external-id/{CANARY}-1", given) == 200
        assert await send("PUT", f"/students/by-external-id/{CANARY}-2", given) == 409
        assert await send("GET", f"/students?external_id={CANARY}-1") == 200
        assert await send("GET", f"/students?q={CANARY}&limit=1") == 200
        assert await send("GET", f"/students/by-external-id/{CANARY}-1") == 200
        assert await send("GET", f"/students/by-external-id/{CANARY}-3") == 404
        assert await send("POST", f"/students/by-external-id/{CANARY}-1") == 405
        assert await send("GET", f"/students/{CANARY}@campus.example/courses") == 422
        assert await send("GET", f"/students?{CANARY}={CANARY}") == 422
        assert await send("GET", f"/{CANARY}/{CANARY}") == 404
        assert await send("POST", "/students/1/holds", {"blocks": ["enroll"], "reason": f"{CANARY} reason"}) == 201
        assert await send("POST", "/courses", {"code": "A", "title": "A", "capacity": 0}) == 201
        override = {"course_id": 1, "rule": "course_full", "author": f"{CANARY} dean", "reason": f"{CANARY} reason"}
        assert await send("POST", "/students/1/overrides", override) == 201
        assert await send("GET", "/courses", Authorization=f"Bearer {CANARY}") == 200
        # Faults whose messages in PostgreSQL show the row.
        await connection.execute("ALTER TABLE students ADD CONSTRAINT names CHECK (given_name NOT LIKE '%-fault')")
        assert await send("PATCH", "/students/1", {"given_name": f"{CANARY}-fault"}) == 500
        fields = {**person, "email": f"{CANARY}2@campus.example", "external_id": f"{CANARY}-4"}
        assert await send("POST", "/students", {**fields, "given_name": f"{CANARY}-fault"}) == 500
        running.process.terminate()
        assert await running.ended() == 0

    output = [*running.log, *running.errors]
    assert len([line for line in running.log if json.loads(line)["logger"] == "service.access"]) >= 17
    assert [line for line in output if "internal" in line or "Traceback" in line], "the faults are in the log"
    assert [line for line in output if CANARY in line.lower()] == []
