"""Traces: a span for each request, batch and statement, without personal data; nothing of it while traces are off."""

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_aiohttp import AiohttpClient

from service import tracing
from service.settings import Settings
from service.traces import export_to, statement_names
from sql import Connection
from tests.campus import call, course_fields, drop, enroll, events, new_course, new_student, problem, served
from tests.conftest import Client, Server

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Turn traces on, and yield the spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.install(provider, statement_names())
    yield exporter
    tracing.uninstall()
    provider.shutdown()


@pytest.fixture
async def client(spans: InMemorySpanExporter, settings: Settings, aiohttp_client: AiohttpClient) -> Client:
    """Yield the client of a service with traces on."""
    return await served(aiohttp_client, settings)


async def ended(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the spans that have ended; the driver reports a statement in the next turn of the loop."""
    await asyncio.sleep(0)
    return list(spans.get_finished_spans())


def of_trace(found: list[ReadableSpan], trace: str) -> list[ReadableSpan]:
    return [span for span in found if f"{span.context.trace_id:032x}" == trace]


async def test_a_request_continues_the_trace_of_its_caller_and_its_batch_links_to_it(
    client: Client, spans: InMemorySpanExporter, server: Server
) -> None:
    student, course = await new_student(client), await new_course(client)
    spans.clear()
    answer = await call(
        client,
        "POST",
        f"/students/{student}/enroll",
        {"course_ids": [course]},
        headers={**PARENT, "X-Request-Id": "r-1"},
    )
    found = await ended(spans)

    [request] = of_trace(found, TRACE)
    assert request.name == "POST /students/{student_id}/enroll"
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/students/{student_id}/enroll",
        "http.response.status_code": 201,
        "enrollment.request_id": "r-1",
    }
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{request.context.span_id:016x}-01"

    [batch] = [span for span in found if span.name == "batch"]
    assert batch.parent is None
    assert [link.context.span_id for link in batch.links] == [request.context.span_id]
    assert dict(batch.attributes or {}) == {"enrollment.batch.size": 1}
    statements = [span for span in found if span.parent is not None and span.parent.span_id == batch.context.span_id]
    names = [span.name for span in statements]
    expected = ("LOCK_FEED", "COMMIT") if server.citus else ("LOAD_OPENING", "INSERT_ENROLLMENTS")
    assert (names[0], names[-1]) == expected
    assert {span.name for span in found} == {request.name, batch.name, *(span.name for span in statements)}
    assert dict(statements[0].attributes or {}) == {"db.system.name": "postgresql", "db.query.summary": names[0]}


async def test_a_batch_links_to_all_its_requests(client: Client, spans: InMemorySpanExporter) -> None:
    course = await new_course(client)
    students = [await new_student(client) for _ in range(12)]
    spans.clear()
    await asyncio.gather(*(enroll(client, student, course) for student in students))
    found = await ended(spans)
    requests = {span.context.span_id for span in found if span.name.startswith("POST ")}
    batches = [span for span in found if span.name == "batch"]
    linked = [link.context.span_id for span in batches for link in span.links]
    assert len(batches) < len(requests) == len(linked)
    assert set(linked) == requests


async def test_a_read_without_a_batch_has_its_statements_as_children(
    client: Client, spans: InMemorySpanExporter
) -> None:
    # The first read on a connection prepares it.
    await call(client, "GET", "/events")
    await call(client, "GET", "/events", headers=PARENT)
    names = [span.name for span in of_trace(await ended(spans), TRACE)]
    assert sorted(names) == ["GET /events", "GET_EPOCH", "LIST_EVENTS"]


async def test_a_request_without_an_id_gets_that_of_its_span_which_its_events_have(
    client: Client, spans: InMemorySpanExporter, connection: Connection
) -> None:
    answer = await call(client, "POST", "/courses", course_fields(), headers=PARENT)
    [request] = [span for span in await ended(spans) if span.name == "POST /courses"]
    expected = f"{TRACE}-{request.context.span_id:016x}"
    assert answer.headers["X-Request-Id"] == expected
    assert [event["request_id"] for event in await events(connection)] == [expected]
    answer = await call(client, "GET", "/courses/1")
    assert re.fullmatch("[0-9a-f]{32}-[0-9a-f]{16}", answer.headers["X-Request-Id"])


async def test_the_log_line_of_a_request_names_its_trace(
    client: Client, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.access")
    await call(client, "GET", "/courses", headers=PARENT)
    [line] = [record for record in caplog.records if record.name == "service.access"]
    assert vars(line)["trace_id"] == TRACE


async def test_no_span_has_what_a_caller_sends(client: Client, spans: InMemorySpanExporter) -> None:
    canary = "Canary"
    student = await new_student(client, given_name=canary, external_id=canary, email="canary@campus.example")
    hold = {"reason": canary, "blocks": ["enroll", "drop"]}
    await call(client, "POST", f"/students/{student}/holds", hold, headers={"X-Actor": canary})
    await call(client, "GET", f"/students?email={canary}@campus.example&external_id={canary}")
    await call(client, "GET", f"/{canary}")
    problem(await drop(client, student, 1), 404, "enrollment_not_found")
    assert canary.lower() not in "".join(span.to_json() for span in await ended(spans)).lower()


async def test_the_trace_of_the_current_request_is_known(spans: InMemorySpanExporter) -> None:
    assert tracing.current_trace_id() is None
    assert tracing.active is not None
    with tracing.active.request("GET", "/", PARENT):
        assert tracing.current_trace_id() == TRACE
    with tracing.active.request("GET", "/", {"traceparent": "wrong"}):
        assert tracing.current_trace_id() not in {None, TRACE}
    assert tracing.current_trace_id() is None


async def test_without_traces_there_is_neither_a_span_nor_a_header(
    aiohttp_client: AiohttpClient, settings: Settings
) -> None:
    client = await served(aiohttp_client, settings)
    answer = await call(client, "GET", "/events", headers=PARENT)
    assert "traceresponse" not in answer.headers
    assert TRACE not in answer.headers["X-Request-Id"]
    assert tracing.current_trace_id() is None


def test_what_serves_traces_or_access_tokens_is_imported_only_if_they_are_on() -> None:
    script = "import sys, service.__main__, service.app, service.serving\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "service.tracing" in loaded
    assert not {name for name in loaded if name.startswith(("opentelemetry", "joserfc", "cryptography"))}


async def test_spans_are_sent_to_the_collector(aiohttp_client: AiohttpClient, settings: Settings) -> None:
    received: list[ExportTraceServiceRequest] = []

    async def collect(request: web.Request) -> web.Response:
        received.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    collector = web.Application()
    collector.router.add_post("/v1/traces", collect)
    address = (await aiohttp_client(collector)).make_url("")
    provider = export_to(str(address).rstrip("/"))
    try:
        client = await served(aiohttp_client, settings)
        await call(client, "GET", "/courses/1", headers=PARENT)
    finally:
        tracing.uninstall()
        await asyncio.to_thread(provider.shutdown)
    resources = [resource for message in received for resource in message.resource_spans]
    known = {each.key: each.value.string_value for each in resources[0].resource.attributes}
    assert known["service.name"] == "enrollment-service"
    names = [span.name for each in resources for scope in each.scope_spans for span in scope.spans]
    assert "GET /courses/{course_id}" in names


async def test_a_missing_package_is_named(database_url: str, tmp_path: Path) -> None:
    script = (
        "import sys\nsys.modules['opentelemetry'] = None\n"
        "from service.serving import serve\nfrom service.settings import Settings\nsys.exit(serve(Settings()))"
    )
    environment = {"OTLP_ENDPOINT": "http://127.0.0.1:9", "PORT": "0", "DATABASE_URL": database_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith("error: OTLP_ENDPOINT needs the packages of requirements/traces.txt")
