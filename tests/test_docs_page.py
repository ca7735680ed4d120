"""The API page in a real browser: it renders from the service alone, and its calls are answered."""

import asyncio
import itertools
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.campus import new_course, until
from tests.conftest import Client

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS: Final = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0 --window-size=1280,900"
).split()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Page:
    """A page of a browser, spoken to in the Chrome DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.requested: list[str] = []
        self.complaints: list[str] = []

    async def send(self, method: str, **params: object) -> Any:
        """Send a command and return its result, noting what else the page tells meanwhile."""
        id = next(self._ids)
        await self._socket.send_json({"id": id, "method": method, "params": params})
        while True:
            message = json.loads(await self._socket.receive_str())
            if message.get("id") == id:
                assert "error" not in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(folder)},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            port = None
            while port is None:
                line = (await process.stderr.readline()).decode()
                assert line, "the browser ended"
                port = re.search(r"DevTools listening on ws://[^:]+:(\d+)/", line)
            async with session.get(f"http://127.0.0.1:{port[1]}/json/list") as response:
                [target] = [each for each in await response.json() if each["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Network", "Runtime", "Log", "Page"):
                    await page.send(f"{domain}.enable")
                yield page
    finally:
        process.terminate()
        await process.communicate()


REQUEST: Final = """
    [...document.querySelector('rapi-doc').shadowRoot.querySelectorAll('api-request')]
        .find(request => request.method === 'get' && request.path === '/courses')?.shadowRoot
"""


async def test_the_page_shows_every_call_and_tries_one(client: Client, tmp_path: Path) -> None:
    course = await new_course(client, title="Seen on the page")
    origin = str(client.make_url("/")).rstrip("/")
    async with client.get("/openapi.json") as response:
        document = await response.json()

    async with browser(tmp_path) as page:
        await page.send("Page.navigate", url=f"{origin}/docs")

        async def rendered() -> bool:
            return bool(
                await page.evaluate(
                    f"customElements.get('rapi-doc') && document.querySelector('rapi-doc').shadowRoot && !!({REQUEST})"
                )
            )

        await until(rendered, "the page")
        text = await page.evaluate("document.querySelector('rapi-doc').shadowRoot.textContent")
        for operations in document["paths"].values():
            for operation in operations.values():
                assert operation["summary"] in text

        await page.evaluate(f"({REQUEST}).querySelector('button[part~=\"btn-try\"]').click()")

        async def answered() -> bool:
            shown = await page.evaluate(
                f"""[...({REQUEST}).querySelectorAll('*')].map(e => (e.shadowRoot ?? e).textContent).join(' ')"""
            )
            return "Seen on the page" in shown and f'"id": {course}' in re.sub(r"\s+", " ", shown)

        await until(answered, "the answer on the page")
        assert page.complaints == []
        assert {url for url in page.requested if not url.startswith((origin, "data:"))} == set()
        assert f"{origin}/courses" in [url.partition("?")[0] for url in page.requested]
