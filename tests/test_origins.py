"""Web pages that may call the service, and the host names under which it serves."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from service.settings import Settings
from sql import Connection
from tests.campus import Answer, events, problem
from tests.test_docs_page import CHROMIUM, opened, started
from tests.test_http import served_for_real, talk

PORTAL = "https://portal.campus.example"
DENIED = "origin_not_allowed"


async def ask(address: tuple[str, int], method: str, path: str, **headers: str) -> Answer:
    """Send a request without a body and with these headers, written with underscores in place of hyphens."""
    async with aiohttp.ClientSession("http://{}:{}".format(*address)) as session:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with session.request(method, path, headers=sent) as response:
            text = await response.text()
            return Answer(response.status, response.headers, json.loads(text) if text else None)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_origin_cannot_change_anything(
    settings: Settings, connection: Connection, site: str
) -> None:
    async with served_for_real(settings) as address:
        for method, path in (
            ("POST", "/courses/1/cancel"),
            ("PUT", "/students/1"),
            ("PATCH", "/students/1"),
            ("DELETE", "/students/1"),
            ("POST", "/nothing"),
        ):
            answer = await ask(address, method, path, Origin="http://evil.example", Sec_Fetch_Site=site)
            assert "http://evil.example" in problem(answer, 403, DENIED)["detail"]
            # Some requests of a page have neither a Referer nor an Origin.
            problem(await ask(address, method, path, Sec_Fetch_Site=site), 403, DENIED)
            # A browser without Fetch Metadata sends only the Origin.
            for origin in ("http://evil.example", "null", "http://localhost:1", "http://["):
                problem(await ask(address, method, path, Origin=origin), 403, DENIED)
        assert (await ask(address, "GET", "/students", Origin="http://evil.example", Sec_Fetch_Site=site)).status == 200
    assert await events(connection) == []


async def test_the_own_page_and_programs_may_change_anything(settings: Settings) -> None:
    async with served_for_real(settings) as address:
        own = f"http://127.0.0.1:{address[1]}"
        for headers in (
            {},
            {"Sec_Fetch_Site": "none"},
            {"Sec_Fetch_Site": "same-origin", "Origin": own},
            {"Origin": own},
            # A proxy may serve the page under another name.
            {"Sec_Fetch_Site": "same-origin", "Origin": "https://enrollment.campus.example"},
        ):
            problem(await ask(address, "DELETE", "/students/1", **headers), 404, "student_not_found")


async def test_only_loopback_names_are_served_on_loopback(settings: Settings) -> None:
    async with served_for_real(settings) as address:
        for host in (
            "localhost",
            "LOCALHOST:8080",
            "app.localhost",
            "localhost.",
            "127.0.0.1",
            "127.1.2.3:1",
            "[::1]:80",
        ):
            assert (await ask(address, "GET", "/students", Host=host)).status == 200, host
        for host in (
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "192.0.2.1",
            "[2001:db8::1]",
            "[",
            "",
        ):
            for method, path in (("GET", "/students"), ("POST", "/courses/1/cancel"), ("GET", "/nothing")):
                problem(await ask(address, method, path, Host=host), 421, "host_not_allowed")
    listed = settings.model_copy(update={"allowed_hosts": ("campus.example",)})
    async with served_for_real(listed) as address:
        for host, status in (("Campus.example:8080", 200), ("localhost", 200), ("a.campus.example", 421)):
            assert (await ask(address, "GET", "/students", Host=host)).status == status, host


async def test_any_host_is_served_elsewhere_unless_names_are_listed(settings: Settings) -> None:
    async with served_for_real(settings.model_copy(update={"host": "0.0.0.0", "auth": "off"})) as address:
        assert (await ask(address, "GET", "/students", Host="evil.example")).status == 200
    listed = settings.model_copy(update={"host": "0.0.0.0", "auth": "off", "allowed_hosts": ("campus.example",)})
    async with served_for_real(listed) as address:
        problem(await ask(address, "GET", "/students", Host="evil.example"), 421, "host_not_allowed")


async def test_a_page_of_an_allowed_origin_reads_every_response_and_its_headers(settings: Settings) -> None:
    async with served_for_real(settings.model_copy(update={"cors_origins": (PORTAL,)})) as address:
        for method, path, status in (
            ("GET", "/students", 200),
            ("DELETE", "/students/1", 404),
            ("POST", "/students", 415),
            ("GET", "/nothing", 404),
            ("GET", "/students?limit=x", 422),
        ):
            answer = await ask(address, method, path, Origin=PORTAL, Sec_Fetch_Site="cross-site")
            assert answer.status == status, path
            assert answer.headers["Access-Control-Allow-Origin"] == PORTAL
            assert answer.headers["Vary"] == "Origin"
            exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
            assert {"ETag", "Link", "Location", "Retry-After", "X-Request-Id"} <= set(exposed)
            assert "Access-Control-Allow-Credentials" not in answer.headers
        for origin in ("http://portal.campus.example", f"{PORTAL}:8443", "https://evil.example", "null"):
            problem(await ask(address, "POST", "/students", Origin=origin, Sec_Fetch_Site="cross-site"), 403, DENIED)
            answer = await ask(address, "GET", "/students", Origin=origin)
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert answer.headers["Vary"] == "Origin"


async def test_a_preflight_of_an_allowed_origin_is_answered_with_the_methods_of_the_path(settings: Settings) -> None:
    async with served_for_real(settings.model_copy(update={"cors_origins": (PORTAL,)})) as address:
        preflight = {
            "Access_Control_Request_Method": "PATCH",
            "Access_Control_Request_Headers": "content-type,if-match",
        }
        answer = await ask(address, "OPTIONS", "/students/1", Origin=PORTAL, Sec_Fetch_Site="cross-site", **preflight)
        assert (answer.status, answer.body) == (204, None)
        assert answer.headers["Access-Control-Allow-Origin"] == PORTAL
        assert answer.headers["Access-Control-Allow-Methods"] == "DELETE, GET, HEAD, PATCH"
        allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"content-type", "if-match", "if-none-match", "x-actor", "x-request-id"} <= set(allowed)
        assert int(answer.headers["Access-Control-Max-Age"]) > 0

        problem(await ask(address, "OPTIONS", "/nothing", Origin=PORTAL, **preflight), 404, "no_such_path")
        problem(await ask(address, "OPTIONS", "/students/1", Origin=PORTAL), 405, "method_not_allowed")
        answer = await ask(address, "OPTIONS", "/students/1", Origin="https://evil.example", **preflight)
        problem(answer, 405, "method_not_allowed")
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]


async def test_no_response_names_the_server(settings: Settings) -> None:
    async with served_for_real(settings) as address:
        for request in (
            b"GET /students HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /docs HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /students HTTP/1.1\r\nHost: localhost\r\nExpect: else\r\nContent-Length: 2\r\n\r\n",
            b"nonsense\r\n\r\n",
        ):
            answer, _ = await talk(*address, request)
            assert "Server" not in answer.headers, request


def test_lists_of_hosts_and_origins_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", f"{PORTAL}, HTTP://localhost:3000,")
    monkeypatch.setenv("ALLOWED_HOSTS", "Campus.Example.,[2001:db8::1]")
    settings = Settings()
    assert settings.cors_origins == (PORTAL, "http://localhost:3000")
    assert settings.allowed_hosts == ("campus.example", "2001:db8::1")
    for wrong in ("*", "null", f"{PORTAL}/", "portal.campus.example", "https://*.campus.example"):
        monkeypatch.setenv("CORS_ORIGINS", wrong)
        with pytest.raises(ValidationError, match="such as https://portal"):
            Settings()
    monkeypatch.delenv("CORS_ORIGINS")
    for wrong in ("https://campus.example", "campus.example:8080", "*"):
        monkeypatch.setenv("ALLOWED_HOSTS", wrong)
        with pytest.raises(ValidationError, match="such as enrollment"):
            Settings()


@asynccontextmanager
async def foreign_page(host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve an empty page and yield its URL: another origin than the service, but the same site on the same host."""

    async def show(_request: web.Request) -> web.Response:
        return web.Response(text="<link rel=icon href=data:,>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", show)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


CANCEL: Final = """
fetch("http://127.0.0.1:{port}/courses/1/cancel", {{method: "POST", mode: "no-cors"}}).then(() => document.title = "sent")
"""
EDIT: Final = """
fetch("http://127.0.0.1:{port}/courses/1", {{
    method: "PATCH", headers: {{"Content-Type": "application/json", "If-Match": '"1"'}}, body: '{{"title": "Taken"}}'
}}).then(response => document.title = response.status + " " + response.headers.get("ETag"))
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"], ids=["same-site", "cross-site"])
async def test_a_foreign_page_in_a_browser_cannot_cancel_a_course(
    settings: Settings, connection: Connection, tmp_path: Path, host: str
) -> None:
    async with served_for_real(settings) as address, foreign_page(host) as page:
        await create_course(address)
        async with started(tmp_path) as browser, opened(browser, page, 800) as tab:
            await tab.until("document.readyState == 'complete' && location.href != 'about:blank'")
            await tab.evaluate(CANCEL.format(port=address[1]))
            await tab.until("document.title == 'sent'")
        assert [event["type"] for event in await events(connection)] == ["course.created"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
async def test_an_allowed_page_in_a_browser_edits_a_course_and_reads_its_etag(
    settings: Settings, tmp_path: Path
) -> None:
    async with (
        foreign_page() as page,
        served_for_real(settings.model_copy(update={"cors_origins": (page,)})) as address,
        started(tmp_path) as browser,
        opened(browser, page, 800) as tab,
    ):
        await create_course(address)
        await tab.until("document.readyState == 'complete' && location.href != 'about:blank'")
        await tab.evaluate(EDIT.format(port=address[1]))
        assert await tab.until("document.title") == '200 W/"2-0-0"'


async def create_course(address: tuple[str, int]) -> None:
    async with (
        aiohttp.ClientSession("http://{}:{}".format(*address)) as session,
        session.post("/courses", json={"code": "C", "title": "T"}) as response,
    ):
        assert response.status == 201
