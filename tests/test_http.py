"""HTTP rules for every path: problems, headers, limits, and faults that reveal no internals."""

import asyncio
import io
import json
import logging
import logging.config
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from dataclasses import asdict
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from pytest_aiohttp import AiohttpClient

from service.api.bulk import CourseItem, EnrollItem
from service.app import BRING_UP, create_app, make_runner, problem_types
from service.errors import DomainError, DropRefused, EnrollmentRefused, UnknownCourse
from service.logs import configuration
from service.registrar.rules import DROP_RULES, RULES, SENTENCES
from service.settings import Settings
from service.web.access import RequestLine, log_request
from service.web.server import Limits, Runner
from sql import Connection
from tests import shared
from tests.campus import (
    PROBLEM_JSON,
    Answer,
    busy,
    call,
    course_fields,
    create,
    enroll,
    events,
    everything,
    new_course,
    new_student,
    places,
    problem,
    read,
    served,
    student_fields,
    until,
    waiting_writer,
)
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE
database_url, aiohttp_client = shared.DATABASE_URL, shared.AIOHTTP_CLIENT


@asynccontextmanager
async def raw(client: Client) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection on which the test writes every byte."""
    assert client.port is not None
    reader, writer = await asyncio.open_connection(client.host, client.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def receive(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read one response with a Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def exchange(client: Client, request: bytes) -> tuple[int, dict[str, str], bytes]:
    async with raw(client) as (reader, writer):
        writer.write(request)
        return await receive(reader)


def requests_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "service.access" and record.msg == "request"]


def faults_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@contextmanager
def program_log() -> Iterator[list[dict[str, Any]]]:
    """Log as the program does; after the block, the list contains the records."""
    loggers = [logging.getLogger(name) for name in (None, *configuration()["loggers"])]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    written: list[dict[str, Any]] = []
    with redirect_stdout(io.StringIO()) as stdout:
        logging.config.dictConfig(configuration())
        try:
            yield written
        finally:
            for logger, level, handlers, propagate in before:
                for handler in logger.handlers:
                    handler.flush()
                logger.setLevel(level)
                logger.handlers, logger.propagate = handlers, propagate
    written.extend(json.loads(line) for line in stdout.getvalue().splitlines())


async def test_a_path_that_is_not_served_is_a_problem(client: Client) -> None:
    for path in ("/nothing", "/students/", "/students/1/nothing", "/%00", "/students/1/courses/1/"):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            problem(await call(client, method, path), 404, "no_such_path")


async def test_an_unsupported_method_is_a_problem_that_lists_the_supported_ones(client: Client) -> None:
    for method, path, allowed in (
        ("DELETE", "/students", "GET, HEAD, POST, PUT"),
        ("OPTIONS", "/courses", "GET, HEAD, POST, PUT"),
        ("PUT", "/students/1", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/courses/1", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/students/by-external-id/x", "GET, HEAD, PUT"),
        ("GET", "/students/1/enroll", "POST"),
        ("PATCH", "/students/1/courses/1", "DELETE, GET, HEAD"),
        ("POST", "/health/live", "GET, HEAD"),
        ("PROPFIND", "/health/live", "GET, HEAD"),
    ):
        answer = await call(client, method, path)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == allowed, (method, path)


async def test_a_body_that_is_not_json_is_a_problem(client: Client) -> None:
    for data in (
        b"",
        b"{",
        b"{} {}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b"\xff\xfe{}",
        b'"\xff"',
        b'{"given_name": "\\ud800"}',
        b"\x00",
        b"[" * 100_000,
        '{"a": 1}'.encode("utf-16"),
    ):
        problem(await call(client, "POST", "/students", data=data), 400, "bad_json")


async def test_a_member_sent_twice_is_a_problem(client: Client, connection: Connection) -> None:
    student, course = await new_student(client), await new_course(client)
    before = await everything(connection)

    for method, path, data, name in (
        ("POST", "/courses", b'{"code": "A", "code": "B", "title": "T"}', "code"),
        ("POST", "/courses", b'{"code": "A", "title": "T", "title": "T"}', "title"),
        ("POST", "/courses", b'{"code": "A:B", "title": "T", "c\\u006fde": "A:B"}', "code"),
        ("POST", "/courses", b'{"code": "A", "title": "T", "meetings": [{"day": "mon", "day": "tue", "start": "09:00", "end": "10:00"}]}', "day"),
        ("POST", "/courses", b'{"code": 1, "code": 2, "title": "T"}', "code"),
        ("POST", f"/students/{student}/enroll", b'{"course_ids": [1], "course_ids": [%d]}' % course, "course_ids"),
        ("POST", "/enrollments", b'{"items": [{"student_id": 1, "student_id": %d, "course_ids": [%d]}]}' % (student, course), "student_id"),
        ("PATCH", f"/students/{student}", b'{"given_name": "A", "given_name": "B"}', "given_name"),
        ("PATCH", f"/students/{student}", b'{"x": 1, "x": 1}', "x"),
        ("PUT", f"/courses/{course}/requirements", b'{"groups": [{"kind": "pre", "kind": "co", "any_of": ["X"]}]}', "kind"),
    ):  # fmt: skip
        answer = await call(client, method, path, data=data)
        assert f'"{name}" twice' in problem(answer, 400, "bad_json")["detail"]

    assert await everything(connection) == before
    data = b'{"course_ids": [%d], "mode": "atomic", "on_full": "fail"}' % course
    assert (await call(client, "POST", f"/students/{student}/enroll", data=data)).status == 201


async def test_put_and_patch_accept_a_body_as_get_returned_it(client: Client, connection: Connection) -> None:
    term = {"code": "2026F", "name": "Fall", "starts_on": "2026-09-01", "ends_on": "2026-12-18"}
    meetings = [{"day": "mon", "start": "09:00", "end": "10:00"}]
    bodies = {
        "students": student_fields(external_id="{1}", max_credits=12.5),
        "courses": course_fields(external_id="{1}", capacity=5, credits=1.5, meetings=meetings, waitlist_capacity=2),
        "terms": {**term, "enroll_from": "2026-06-01T08:00:00.123456789+02:00"},
    }
    paths = {name: f"/{name}/{(await create(client, f'/{name}', body))['id']}" for name, body in bodies.items()}
    await enroll(client, 1, 1)
    before = await everything(connection)

    for name, path in paths.items():
        found = await call(client, "GET", path)
        ways = [("PATCH", path)] + ([("PUT", f"/{name}/by-external-id/%7B1%7D")] if name != "terms" else [])
        for method, way in ways:
            answer = await call(client, method, way, found.body)
            assert (answer.status, answer.body, answer.etag) == (200, found.body, found.etag), (method, way)
            digits = {**found.body, "updated_at": found.body["updated_at"].replace("Z", "0+00:00")}
            assert (await call(client, method, way, digits)).status == 200, "as .NET writes the same instant"
            stale = {**found.body, "version": found.body["version"] + 1}
            assert places(await call(client, method, way, stale)) == [("read_only", "#/version")]
            answer = await call(client, method, way, stale, headers={"If-Match": '"7"'})
            problem(answer, 412, "precondition_failed")
    found = await call(client, "GET", "/courses/1/requirements")
    assert (await call(client, "PUT", "/courses/1/requirements", found.body)).status == 200

    assert await everything(connection) == before


async def test_a_byte_order_mark_and_the_other_name_of_utf_8_are_accepted(client: Client) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        for charset in ("utf-8", "UTF-8", "utf8", "UTF8", '"utf8"'):
            data = mark + json.dumps(student_fields(given_name="Zoë"), ensure_ascii=False).encode()
            headers = {"Content-Type": f"application/json; charset={charset}"}
            answer = await call(client, "POST", "/students", data=data, headers=headers)
            assert (answer.status, answer.body["given_name"]) == (201, "Zoë"), charset
    problem(await call(client, "POST", "/students", data=b"\xef\xbb\xbf\xef\xbb\xbf{}"), 400, "bad_json")


async def test_a_body_of_another_media_type_is_a_problem(client: Client) -> None:
    id = await new_student(client)
    for method, path, media_types in (
        ("POST", "/students", ("text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json", "")),
        ("PATCH", f"/students/{id}", ("text/json", "application/json-patch+json", "application/jsonx")),
        ("POST", "/students", ("application/json; charset=latin-1", "application/json; charset=nonsense", "garbage")),
    ):
        for media_type in media_types:
            answer = await call(client, method, path, {}, headers={"Content-Type": media_type})
            problem(answer, 415, "unsupported_media_type")


async def test_a_body_above_the_limit_is_a_problem_however_it_is_sent(
    settings: Settings, aiohttp_client: AiohttpClient
) -> None:
    limit = 2000
    client = await served(aiohttp_client, settings.model_copy(update={"body_limit": limit}))
    body = json.dumps(student_fields()).encode()

    async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
        yield data[:1000]
        yield data[1000:]

    assert (await call(client, "POST", "/students", data=body.ljust(limit))).status == 201
    problem(await call(client, "POST", "/students", data=body.ljust(limit + 1)), 413, "body_too_large")
    headers = {"Content-Type": "application/json"}
    async with client.post("/students", data=in_chunks(body.ljust(limit + 1)), headers=headers) as response:
        assert response.status == 413
        assert response.content_type == PROBLEM_JSON


def packed(data: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(data) + packer.flush()


GZIP, DEFLATE, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


async def test_a_body_in_gzip_or_deflate_is_read(settings: Settings) -> None:
    async with served_for_real(settings) as (host, port):
        for coding, window in (
            (b"gzip", GZIP),
            (b"x-gzip", GZIP),
            (b"GZIP", GZIP),
            (b"deflate", DEFLATE),
            (b"deflate", RAW),
        ):
            data = packed(json.dumps(student_fields()).encode(), window)
            answer, _ = await talk(host, port, posted(b"/students", data, coding))
            assert answer.status == 201, (coding, window, answer)


def posted(path: bytes, data: bytes, coding: bytes, method: bytes = b"POST") -> bytes:
    """Return the bytes of a request whose body has a content coding."""
    return (
        method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: " + coding + b"\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    )


async def test_a_compressed_body_is_unpacked_up_to_the_limit(settings: Settings, connection: Connection) -> None:
    limit = 2000
    body = json.dumps(student_fields()).encode()
    async with served_for_real(settings.model_copy(update={"body_limit": limit})) as (host, port):
        for coding, window in ((b"gzip", GZIP), (b"deflate", DEFLATE), (b"deflate", RAW)):
            for size in (limit + 1, 100 * limit):
                answer, _ = await talk(host, port, posted(b"/students", packed(body.ljust(size), window), coding))
                assert "2,000 bytes" in problem(answer, 413, "body_too_large")["detail"]
        assert await events(connection) == []
        answer, _ = await talk(host, port, posted(b"/students", packed(body.ljust(limit), GZIP), b"gzip"))
        assert answer.status == 201


async def test_a_body_that_is_not_in_the_coding_it_names_is_a_problem(
    settings: Settings, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    data = json.dumps(student_fields()).encode()
    zipped = packed(data, GZIP)

    async with served_for_real(settings) as (host, port):
        for coding, body in (
            (b"gzip", data),
            (b"deflate", data),
            (b"gzip", zipped[:-1]),
            (b"gzip", zipped + b"x"),
            (b"gzip", zipped + zipped),
            (b"gzip", b""),
        ):
            answer, _ = await talk(host, port, posted(b"/students", body, coding))
            assert coding.decode() in problem(answer, 400, "bad_json")["detail"]
        for coding in (b"br", b"zstd", b"compress", b"gzip, gzip", b"nonsense"):
            answer, _ = await talk(host, port, posted(b"/students", zipped, coding))
            problem(answer, 415, "unsupported_content_coding")
            assert answer.headers["Accept-Encoding"] == "gzip, deflate"
    assert faults_logged(caplog) == []
    assert await events(connection) == []


async def test_a_compressed_body_that_no_endpoint_reads_is_refused_and_not_unpacked(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with served_for_real(settings) as (host, port):
        for method, path, status, code in (
            (b"GET", b"/students", 415, "unsupported_content_coding"),
            (b"DELETE", b"/students/1", 415, "unsupported_content_coding"),
            (b"POST", b"/nothing", 404, "no_such_path"),
            (b"POST", b"/health/live", 405, "method_not_allowed"),
        ):
            # This is not valid gzip, so unpacking it would fail.
            answer, ended = await talk(host, port, posted(path, b"junk", b"gzip", method))
            problem(answer, status, code)
            assert not ended
    assert faults_logged(caplog) == []


async def test_a_response_lists_100_errors_and_counts_the_others(client: Client, connection: Connection) -> None:
    item = {"student_id": 1, "course_ids": [-1] * 100}
    for body, shown, more in (
        ({"items": [item] * 100}, 100, None),
        ({"items": [item] * 1000}, 100, "and 900 more"),
        ({f"unknown{number}": 1 for number in range(5000)}, 100, "and 4,901 more"),
        ({"student_id": 1, "items": []}, 2, None),
    ):
        answer = await call(client, "POST", "/enrollments", body)
        assert len(places(answer)) == shown
        assert answer.body["detail"].endswith(more or answer.body["errors"][-1]["detail"])
    assert places(answer) == [("too_short", "#/items"), ("unknown_field", "#/student_id")]
    assert await events(connection) == []


async def test_a_body_with_more_members_than_any_request_has_is_not_read_further(
    client: Client, settings: Settings, connection: Connection
) -> None:
    for path in ("/enrollments", "/students"):
        body = {f"u{number}": 1 for number in range(settings.body_members + 1)}
        answer = await call(client, "POST", path, body)
        assert places(answer) == [("too_many_members", "#")]
        assert "10,000 members" in answer.body["detail"]
    assert await events(connection) == []


async def test_the_largest_request_has_half_the_members_that_a_body_may_have(
    client: Client, settings: Settings
) -> None:
    item = {"action": "enroll", "student_id": 1, "course_ids": [1, 2], "mode": "atomic", "on_full": "fail"}
    other = {"student_external_id", "course_external_ids"}
    assert {*item, *other} == set(EnrollItem.model_fields)
    data = json.dumps({"items": [item] * 1000}).encode()

    assert data.count(b":") - 1 <= settings.body_members / 2
    assert (await call(client, "POST", "/enrollments", data=data)).status == 200


async def test_a_body_may_have_1000_courses_with_all_their_members(client: Client, settings: Settings) -> None:
    meetings = [{"day": "mon", "start": f"{hour:02}:00", "end": f"{hour:02}:50"} for hour in range(9, 14)]
    course = await create(client, "/courses", course_fields(external_id="c", meetings=meetings))
    items = [{**course, "external_id": f"c{number}"} for number in range(1000)]
    assert course.keys() == CourseItem.model_fields.keys()
    data = json.dumps({"items": items}).encode()

    assert settings.body_members < data.count(b":") <= settings.bulk_members
    answer = await call(client, "PUT", "/courses", data=data)
    assert {each["problem"]["errors"][0]["code"] for each in answer.body["items"]} == {"read_only"}


async def test_a_body_that_arrives_too_slowly_is_a_problem(settings: Settings, aiohttp_client: AiohttpClient) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"body_timeout": 0.05}))

    async with raw(client) as (reader, writer):
        writer.write(
            b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        status, headers, body = await receive(reader)

    assert (status, headers["content-type"].partition(";")[0]) == (408, PROBLEM_JSON)
    assert json.loads(body)["type"] == "/problems/body_too_slow"


async def test_100_continue_is_the_only_supported_expectation(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = json.dumps(student_fields()).encode()
    head = (
        b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        % len(body)
    )

    async with raw(client) as (reader, writer):
        writer.write(head + b"Expect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await receive(reader))[0] == 201
    old = head.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\n\r\n" + body
    assert (await exchange(client, old))[0] == 409, "an HTTP/1.0 caller gets no 100 Continue"
    for path in (b"/students", b"/nothing"):
        status, headers, text = await exchange(client, head.replace(b"/students", path) + b"Expect: tea\r\n\r\n" + body)
        assert (status, headers["content-type"].partition(";")[0]) == (417, PROBLEM_JSON)
        assert json.loads(text)["type"] == "/problems/expectation_failed"
        assert headers["x-request-id"] == json.loads(text)["request_id"]
        assert vars(requests_logged(caplog)[-1])["request_id"] == headers["x-request-id"]


@asynccontextmanager
async def served_for_real(settings: Settings) -> AsyncIterator[tuple[str, int]]:
    """Serve as in production, where a handler continues if its caller disconnects; aiohttp's test server cancels it."""
    app = create_app(settings)
    runner = make_runner(app, settings)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await app[BRING_UP]
        host, port = runner.addresses[0][:2]
        yield host, port
    finally:
        await runner.cleanup()


async def test_a_caller_who_disconnects_during_the_body_is_not_a_fault(
    settings: Settings, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = await everything(connection)
    body = json.dumps(student_fields()).encode()
    head = b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    async with served_for_real(settings) as (host, port):
        for framing in (b"Content-Length: %d\r\n\r\n" % (len(body) + 1), b"Transfer-Encoding: chunked\r\n\r\n99\r\n"):
            caplog.clear()
            _, writer = await asyncio.open_connection(host, port)
            writer.write(head + framing + body)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

            async def logged() -> bool:
                return bool(requests_logged(caplog))

            await until(logged, "the request in the log")
            assert faults_logged(caplog) == []
            assert [vars(record)["status"] for record in requests_logged(caplog)] == [400]
    assert await everything(connection) == before


async def test_a_change_is_finished_even_if_its_caller_has_disconnected(
    settings: Settings, connection: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body = json.dumps(student_fields()).encode()

    async with served_for_real(settings) as (host, port):
        async with busy(database_url):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(
                b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            await waiting_writer(connection)
            writer.close()
            await writer.wait_closed()

        async def logged() -> bool:
            return bool(requests_logged(caplog))

        await until(logged, "the request in the log")
    assert await connection.fetchval("SELECT count(*) FROM students") == 1
    assert faults_logged(caplog) == []


async def talk(host: str, port: int, request: bytes) -> tuple[Answer, bool]:
    """Send bytes; return the response, and whether the connection closed instead of serving another request."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        status, headers, text = await receive(reader)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            ended = await reader.read(1) == b""
        except ConnectionError:
            ended = True
    finally:
        writer.close()
    assert inside_of(text.decode()) == []
    return Answer(status, CIMultiDictProxy(CIMultiDict(headers)), json.loads(text)), ended


GET = b"GET /students HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (b"nonsense\r\n\r\n", "not_http", "Invalid method encountered: b'nonsense'"),
        (GET + b"bad header\r\n\r\n", "not_http", "b'bad header'"),
        (GET + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n", "not_http", "more than 8190 bytes"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", "not_http", "more than 8190 bytes"),
        (POST + b"Content-Length: -1\r\n\r\n", "not_http", "b'Content-Length: -1'"),
        (b"GET /students HTTP/1.1\r\n\r\n", "not_http", "Missing 'Host' header"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not_http", "HTTPS"),
    ],
    ids=[
        "method",
        "colon",
        "long header",
        "long path",
        "negative length",
        "host",
        "TLS",
    ],
)
async def test_a_request_that_is_not_http_is_a_problem_that_shows_where_and_is_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture, request_: bytes, code: str, says: str
) -> None:
    caplog.set_level(logging.INFO)
    async with served_for_real(settings) as (host, port):
        answer, ended = await talk(host, port, request_)

    body = problem(answer, 400, code)
    assert says in body["detail"]
    assert not re.search(r"[\n^]", body["detail"])
    assert ended
    assert faults_logged(caplog) == []
    [line] = [vars(record) for record in requests_logged(caplog)]
    assert [line[name] for name in ("method", "route", "status")] == ["UNKNOWN", "/{tail}", 400]
    assert line["request_id"] == body["request_id"]


@pytest.mark.parametrize("target", [b"OPTIONS *", b"CONNECT x:443", b"CONNECT /students", b"GET http://x?a=b"])
async def test_a_target_that_is_not_a_path_is_a_problem_and_is_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture, target: bytes
) -> None:
    caplog.set_level(logging.INFO)
    async with served_for_real(settings) as (host, port):
        answer, _ = await talk(host, port, target + b" HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r-1\r\n\r\n")

    assert problem(answer, 404, "no_such_path")["request_id"] == "r-1"
    [line] = [vars(record) for record in requests_logged(caplog) if vars(record)["request_id"] == "r-1"]
    logged_values = [line[name] for name in ("method", "route", "status", "request_id")]
    assert logged_values == [target.split()[0].decode(), "/{tail}", 404, "r-1"]


async def test_a_fault_outside_the_endpoints_is_a_problem_and_is_logged() -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise RuntimeError("hidden")

    async def fail_amid(request: web.Request) -> web.Response:
        response = web.StreamResponse(headers={"Content-Length": "3"})
        await response.prepare(request)
        await response.write(b"{}")
        raise RuntimeError("hidden")

    app = web.Application()
    app.router.add_get("/", fail)
    app.router.add_get("/amid", fail_amid)
    with program_log() as log:
        runner = Runner(app, Limits(header_timeout=15, send_timeout=30, peer_connections=0, linger=0))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            request = b" HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r-1\r\n\r\n"
            answer, ended = await talk(host, port, b"GET /" + request)
            with pytest.raises(asyncio.IncompleteReadError, match="2 bytes read"):
                await talk(host, port, b"GET /amid" + request)
        finally:
            await runner.cleanup()

    assert problem(answer, 500, "internal_error")["request_id"] == "r-1"
    assert ended
    faults = [line for line in log if line["level"] == "ERROR"]
    assert len(faults) == 2
    for fault in faults:
        assert (fault["logger"], fault["request_id"]) == ("service.web", "r-1")
        assert "RuntimeError: hidden" in fault["exc_info"]


async def test_a_record_that_is_not_a_request_is_written_with_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    access = logging.getLogger("service.access")
    with program_log() as log:
        log_request(RequestLine("GET", "/a", 200, 1.0, "r-1"))
        access.warning("else", extra={"request_id": "r-2"})
        await asyncio.to_thread(access.warning, "elsewhere", extra={"request_id": "r-3"})

    assert sorted(line["request_id"] for line in log) == ["r-1", "r-2", "r-3"]
    assert capsys.readouterr().err == ""


async def test_a_request_id_is_accepted_returned_and_recorded_in_the_events(
    client: Client, connection: Connection
) -> None:
    ids = ["x", "a.b_c:d/e+f=@-9", "0" * 128, "7f3c0f9e-8d38-4b1e-9f7d-0a3f1b2c4d5e"]

    for id in ids:
        answer = await call(client, "POST", "/students", student_fields(), headers={"X-Request-Id": id})
        assert answer.headers["X-Request-Id"] == id
    assert [event["request_id"] for event in await events(connection)] == ids
    for path in ("/nothing", "/students/0", "/health/live"):
        assert (await call(client, "GET", path, headers={"X-Request-Id": "mine"})).headers["X-Request-Id"] == "mine"


async def test_a_request_id_is_made_if_it_is_missing_or_invalid(client: Client) -> None:
    seen = set()
    for headers in (
        {},
        {"X-Request-Id": ""},
        {"X-Request-Id": "a b"},
        {"X-Request-Id": "x" * 129},
        {"X-Request-Id": "ü"},
    ):
        made = (await call(client, "GET", "/health/live", headers=headers)).headers["X-Request-Id"]
        assert UUID(made).hex == made
        seen.add(made)
    assert len(seen) == 5


async def test_an_unknown_query_parameter_is_invalid_everywhere(client: Client) -> None:
    student, course = await new_student(client), await new_course(client)
    for method, path, body in (
        ("GET", "/students", None),
        ("GET", f"/students/{student}", None),
        ("POST", "/students", student_fields()),
        ("PATCH", f"/students/{student}", {}),
        ("DELETE", f"/students/{student}", None),
        ("PUT", "/students/by-external-id/x", student_fields()),
        ("GET", f"/students/{student}/courses", None),
        ("GET", f"/courses/{course}/students", None),
        ("POST", f"/students/{student}/enroll", {"course_ids": [course]}),
        ("GET", "/events/head", None),
        ("GET", "/health/live", None),
        ("GET", "/openapi.json", None),
    ):
        answer = await call(client, method, f"{path}?nonsense=true", body)
        assert places(answer) == [("unknown_parameter", "nonsense")], (method, path)


async def test_a_query_parameter_given_twice_is_invalid(client: Client) -> None:
    for query in ("limit=1&limit=2", "limit=1&limit=1", "email=a@b&email=a@b"):
        answer = await call(client, "GET", f"/students?{query}")
        assert places(answer) == [("repeated", query.partition("=")[0])]


async def test_bytes_that_are_not_text_in_a_path_or_a_query_are_refused(client: Client) -> None:
    student = await new_student(client, external_id="%ff")
    course = await new_course(client)
    await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course]})

    for method, path, body in (
        ("PUT", "/students/by-external-id/%ff", student_fields()),
        ("GET", "/students?external_id=%ff", None),
        ("GET", "/students?%ff=1", None),
        ("GET", "/courses?code=%ED%A0%80", None),
        ("DELETE", f"/students/{student}/courses/{course}?reason=%ff", None),
    ):
        answer = await call(client, method, path, body)
        assert answer.status in {400, 422}, (method, path, answer)


async def test_a_precondition_is_honoured_or_refused_by_every_call(client: Client, connection: Connection) -> None:
    """A call that ignored a precondition would make a change that the caller wanted to prevent."""
    student, course = await new_student(client), await new_course(client)
    await call(client, "POST", f"/students/{student}/enroll", {"course_ids": [course]})
    hold = await call(client, "POST", f"/students/{student}/holds", {"reason": "x", "blocks": ["drop"]})
    instructor = await call(client, "POST", "/instructors", {"given_name": "Ada"})
    document = await read(client, "/openapi.json")
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    values = {"{student_id}": student, "{course_id}": course, "{hold_id}": hold.body["id"], "{external_id}": "x"}
    values |= {
        "{instructor_id}": instructor.body["id"],
        "{term_id}": 1,
        "{webhook_id}": 1,
        "{import_id}": 1,
        "{export_id}": 1,
    }
    equivalence = await call(client, "POST", "/equivalences", {"codes": ["A1", "B1"]})
    values["{equivalence_id}"] = equivalence.body["id"]
    before = await everything(connection)

    for method, path in sorted(operations):
        if path.startswith("/institutions"):
            continue  # Without a registry, these paths do not exist.
        for header in ("If-Match", "If-None-Match"):
            here = path
            for name, value in values.items():
                here = here.replace(name, str(value))
            documented = {item["name"] for item in document["paths"][path][method.lower()].get("parameters", [])}
            if header in documented:
                continue
            answer = await call(client, method, here, {} if method != "GET" else None, headers={header: '"1"'})
            if method != "GET":
                problem(answer, 412, "precondition_unsupported")
                assert header in answer.body["detail"]
                assert (
                    "precondition_unsupported"
                    in document["paths"][path][method.lower()]["responses"]["412"]["description"]
                )
            elif header == "If-Match" and answer.status != 404:
                problem(answer, 412, "precondition_failed")
            else:
                assert answer.status in {200, 404}, (method, path)

    assert await everything(connection) == before


async def test_an_actor_is_a_line_of_text_in_any_script(client: Client, connection: Connection) -> None:
    for actor in ("x", "registrar's office <office@campus.example>", "x" * 200, "Деканат", "教务处 李", "é" * 200):
        assert (await call(client, "POST", "/students", student_fields(), headers={"X-Actor": actor})).status == 201
        assert (await events(connection))[-1]["on_behalf_of"] == actor
    assert (await call(client, "POST", "/students", student_fields(), headers={"X-Actor": "e\u0301"})).status == 201
    assert (await events(connection))[-1]["on_behalf_of"] == "é"
    before = await everything(connection)

    for actor in ("", "x" * 201, "é" * 201, "\x80", "\u200b", "a\u202eb", "a\u2028b"):
        answer = await call(client, "POST", "/students", student_fields(), headers={"X-Actor": actor})
        assert places(answer) == [("invalid_actor", "X-Actor")], actor
    body = json.dumps(student_fields()).encode()
    head = (
        b"POST /students HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        % len(body)
    )
    status, _, text = await exchange(client, head + b"X-Actor: D\xe9kanat\r\n\r\n" + body)
    assert (status, json.loads(text)["errors"][0]["code"]) == (422, "invalid_actor"), "Latin-1 is not UTF-8"

    assert await everything(connection) == before
    assert (await call(client, "GET", "/students", headers={"X-Actor": "\x80"})).status == 200


async def test_head_returns_what_get_returns_without_the_body(client: Client) -> None:
    id = await new_student(client)
    for path in (f"/students/{id}", "/students", "/health/live", "/openapi.json", "/students/0", "/nothing"):
        get, head = await call(client, "GET", path), await call(client, "HEAD", path)
        assert (head.status, head.body) == (get.status, b"")
        for name in ("Content-Type", "Content-Length", "ETag"):
            assert head.headers.get(name) == get.headers.get(name), (path, name)


async def problems_of(client: Client) -> AsyncIterator[Answer]:
    """Yield problems of many kinds."""
    student, course = await new_student(client, email="ada@campus.example"), await new_course(client, capacity=0)
    path = f"/students/{student}"
    yield await call(client, "GET", "/nothing")
    yield await call(client, "PROPFIND", "/students")
    yield await call(client, "POST", "/students", data=b"{")
    yield await call(client, "POST", "/students", {})
    yield await call(client, "POST", "/students", {}, headers={"Content-Type": "text/plain"})
    yield await call(client, "POST", "/students", student_fields(email="ada@campus.example"))
    yield await call(client, "GET", "/students/99")
    yield await call(client, "PATCH", path, {}, headers={"If-Match": '"9"'})
    yield await call(client, "POST", f"{path}/enroll", {"course_ids": [course]})
    yield await call(client, "POST", f"{path}/enroll", {"course_ids": [99]})
    yield await call(client, "POST", f"{path}/enroll", {"course_ids": [99, course]})
    yield await call(client, "DELETE", f"{path}/courses/{course}")


async def test_the_type_of_a_problem_is_an_address_that_explains_it(client: Client) -> None:
    types = set()
    async for answer in problems_of(client):
        body = answer.body
        explained = await read(client, body["type"])
        assert explained.keys() == {"type", "code", "title", "status", "description"}
        for member in ("type", "code", "title", "status"):
            assert explained[member] == body[member]
        assert explained["description"]
        types.add(body["type"])
    assert len(types) == 11
    problem(await call(client, "GET", "/problems/nothing"), 404, "no_such_path")


def errors(parent: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    for child in parent.__subclasses__():
        if hasattr(child, "code"):
            yield child
        yield from errors(child)


async def test_each_code_has_one_status_one_meaning_and_one_page(client: Client) -> None:
    pages = problem_types()
    classes = [error for error in errors() if error.__module__.startswith("service.")]
    assert len({error.code for error in classes}) == len(classes), "no two errors share a code"
    for error in classes:
        assert (pages[error.code].status, pages[error.code].title) == (error.status, error.title)
        assert error.code == re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower(), "an error is named after its code"
    for rule in (*RULES, *DROP_RULES):
        # If all reasons have one code, it becomes the code of the problem, with the status of a refusal.
        status = UnknownCourse.status if rule.__name__ == UnknownCourse.code else EnrollmentRefused.status
        assert pages[rule.__name__].status == status
    assert DropRefused.status == EnrollmentRefused.status
    assert SENTENCES.keys() <= pages.keys()
    for code, page in pages.items():
        assert await read(client, f"/problems/{code}") == asdict(page)


async def test_the_index_has_the_paths_that_can_be_read_without_an_id(client: Client) -> None:
    index = await call(client, "GET", "/", headers={"Accept": "application/json"})

    assert (index.status, index.headers["Vary"]) == (200, "Accept")
    assert index.body["links"]["students"] == "/students"
    for path in index.body["links"].values():
        async with client.get(path) as response:
            assert response.status == 200, path


async def test_the_instance_of_a_problem_is_the_path_that_was_called(client: Client) -> None:
    for path in ("/students/0", "/nothing/%20x", "/students/0/courses?limit=3"):
        assert (await call(client, "GET", path)).body["instance"] == path.partition("?")[0]


async def test_every_request_is_one_line_in_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="service.access")

    await call(client, "GET", "/students/7?x=1", headers={"X-Request-Id": "r-1"})
    await call(client, "POST", "/students", student_fields(), headers={"X-Request-Id": "r-2"})
    await call(client, "GET", "/nothing", headers={"X-Request-Id": "r-3"})

    lines = [vars(record) for record in requests_logged(caplog)]
    names = ("method", "route", "status", "request_id")
    assert [tuple(line[name] for name in names) for line in lines] == [
        ("GET", "/students/{student_id}", 422, "r-1"),
        ("POST", "/students", 201, "r-2"),
        ("GET", "/{tail}", 404, "r-3"),
    ]
    assert all(isinstance(line["duration_ms"], float) for line in lines)


async def test_the_log_contains_no_personal_data(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="service")

    await call(client, "POST", "/students", student_fields(email="secret@campus.example"))
    await call(client, "POST", "/students", student_fields(email="secret@campus.example"))
    await call(client, "GET", "/students?email=secret@campus.example")

    assert len(requests_logged(caplog)) == 3
    assert all("secret" not in str(vars(record)) for record in caplog.records)


def inside_of(text: str) -> list[str]:
    """Return the parts of a text that reveal internals of the service."""
    return re.findall(r"Traceback|File \"|SELECT|relation|asyncpg|Undefined|hidden|\.py\b|select ", text)


async def test_a_fault_shows_its_internals_only_in_the_log_and_the_service_recovers(
    client: Client, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    id = await new_student(client)
    await connection.execute("ALTER TABLE students RENAME TO hidden")

    answers = [
        await call(client, "GET", f"/students/{id}", headers={"X-Request-Id": "r-1"}),
        await call(client, "POST", "/students", student_fields(), headers={"X-Request-Id": "r-2"}),
        await call(client, "POST", f"/students/{id}/enroll", {"course_ids": [1]}, headers={"X-Request-Id": "r-3"}),
    ]

    for answer in answers:
        body = problem(answer, 500, "internal_error")
        assert body["errors"] == []
        assert inside_of(json.dumps(body)) == []
    faults = faults_logged(caplog)
    assert [vars(record)["request_id"] for record in faults] == ["r-1", "r-2", "r-3"]
    assert all(record.exc_info and "hidden" not in str(record.exc_info[1]) for record in faults)
    await connection.execute("ALTER TABLE hidden RENAME TO students")
    assert (await read(client, f"/students/{id}"))["id"] == id
    assert await new_student(client) > id
    assert [event["position"] for event in await events(connection)] == [1, 2]


async def test_a_constraint_that_guards_against_a_bug_is_a_fault_that_shows_no_values_and_writes_nothing(
    client: Client, connection: Connection
) -> None:
    await connection.execute("ALTER TABLE students ADD CONSTRAINT students_bug_check CHECK (given_name <> 'Secret')")
    before = await everything(connection)

    answer = await call(client, "POST", "/students", student_fields(given_name="Secret"))

    body = json.dumps(problem(answer, 500, "internal_error"))
    assert "Secret" not in body
    assert "students_bug_check" not in body
    assert await everything(connection) == before
    assert await new_student(client)
