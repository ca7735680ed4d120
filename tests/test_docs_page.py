"""The API page, in a real browser that can reach only the service."""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from service import __version__
from tests.conftest import Client

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

PATIENCE: Final = 30.0
"""A limit for steps that take a browser less than two seconds on an idle machine."""

FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.*",
    "--remote-debugging-port=0",
)

TEXT: Final = """
(() => {
    const text = node => node.nodeType === Node.TEXT_NODE ? node.data
        : ["STYLE", "SCRIPT"].includes(node.nodeName) ? ""
        : [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(text).join(" ");
    return text(document.querySelector("rapi-doc")).replace(/\\s+/g, " ");
})()
"""
FORM: Final = """document.querySelector("rapi-doc").shadowRoot
    .querySelector('[id="post-/students"] api-request').shadowRoot"""
"""The form for calling POST /students."""
SWAP: Final = """document.querySelector("rapi-doc").shadowRoot
    .querySelector('[id="post-/students/-student_id-/swap"]')"""
"""The part of the page about a swap."""
MENU: Final = "[...document.querySelectorAll('.menu a')]"
"""The links of the menu for small screens."""


class Thrown(Exception):
    """An expression failed in the browser."""


class Tab:
    """A browser tab, controlled by the Chrome DevTools protocol; it keeps a list of its requests and errors."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        async for message in self._socket:
            received = json.loads(message.data)
            if "id" in received:
                self._answers.pop(received["id"]).set_result(received)
            else:
                self._note(received["method"], received["params"])

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event in {"Runtime.exceptionThrown", "Log.entryAdded"}:
            self.complaints.append(json.dumps(params))
        elif event == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(params["args"]))

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            answer = await self._answers[number]
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise Thrown(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true, and return its value."""
        async with asyncio.timeout(PATIENCE):
            while True:
                # The expression may refer to something that does not exist yet.
                with suppress(Thrown):
                    if value := await self.evaluate(expression):
                        return value
                await asyncio.sleep(0.05)


@asynccontextmanager
async def opened(url: str, folder: Path, width: int, height: int = 900) -> AsyncIterator[Tab]:
    """Open a page in a new browser with a window of this size."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await debugging_port(folder / "DevToolsActivePort")
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.get("/json/list") as response,
        ):
            [target] = [target for target in await response.json() if target["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await tab.call(f"{domain}.enable")
                await tab.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=height,
                    deviceScaleFactor=1,
                    mobile=width < 600,
                )
                await tab.call("Page.navigate", url=url)
                yield tab
        await listening
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def debugging_port(file: Path) -> int:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(OSError, IndexError):
                return int(file.read_text().splitlines()[0])
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("width", [1280, 400])
async def test_the_page_shows_every_operation_and_contacts_no_other_host(
    client: Client, tmp_path: Path, width: int
) -> None:
    document = await (await client.get("/openapi.json")).json()
    async with opened(str(client.make_url("/docs")), tmp_path, width) as tab:
        await tab.until(f"{TEXT}.includes('/problems/{{code}}')")
        text = await tab.evaluate(TEXT)
        # Nothing is wider than the screen.
        assert await tab.evaluate("document.documentElement.scrollWidth") <= width

    assert f"{document['info']['title']} {__version__}" in text
    for path, methods in document["paths"].items():
        assert path in text
        for operation in methods.values():
            assert operation["summary"].replace("`", "") in text.replace("`", "")
    requested = {url for url in tab.requests if not url.startswith("data:")}
    assert requested == {str(client.make_url(path)) for path in ("/docs", "/docs/rapidoc-min.js", "/openapi.json")}
    assert tab.complaints == []


async def test_a_small_screen_has_a_searchable_menu_that_leads_to_each_operation(
    client: Client, tmp_path: Path
) -> None:
    async with opened(str(client.make_url("/docs")), tmp_path, 400) as tab:
        await tab.until(f"{TEXT}.includes('/problems/{{code}}')")
        await tab.evaluate("document.querySelector('.menu summary').click()")
        links = await tab.evaluate(f"{MENU}.length")
        await tab.evaluate(
            "(() => { const field = document.querySelector('.menu input'); field.value = 'swap';"
            " field.dispatchEvent(new Event('input')) })()"
        )
        found = await tab.evaluate(f"{MENU}.filter(link => link.offsetHeight).map(link => link.textContent)")
        await tab.evaluate(f"{MENU}.find(link => link.offsetHeight).click()")
        below = await tab.until(f"(top => 0 < top && top < 200 && top)({SWAP}.getBoundingClientRect().top)")
        menu = await tab.evaluate("document.querySelector('.menu').getBoundingClientRect().bottom")
        closed = await tab.evaluate("!document.querySelector('.menu').open")
    document = await (await client.get("/openapi.json")).json()
    assert links == sum(len(methods) for methods in document["paths"].values())
    first, second = found
    assert "POST /students/{student_id}/swap" in first
    assert "DELETE /students/{student_id}/courses/{course_id}/swap" in second
    assert closed
    assert menu <= below, "the menu does not cover the section it leads to"
    assert tab.complaints == []


async def test_operations_that_cannot_be_undone_have_no_ids_filled_in(client: Client, tmp_path: Path) -> None:
    async with opened(str(client.make_url("/docs")), tmp_path, 1280) as tab:
        await tab.until(f"{TEXT}.includes('/problems/{{code}}')")
        fields = (
            "Object.fromEntries([...document.querySelector('rapi-doc').shadowRoot.querySelectorAll('[part~=section-operation]')]"
            ".map(each => [each.id, [...each.querySelector('api-request').shadowRoot"
            ".querySelectorAll('[data-ptype=path]')].map(field => field.value).join()]))"
        )
        filled = await tab.evaluate(fields)
    assert filled["get-/students/-student_id-"] == "1"
    assert filled["post-/students/-student_id-/enroll"] == "1"
    final = {id for id in filled if id.startswith("delete-") or id.endswith(("/cancel", "/complete", "/swap"))}
    assert len(final) == 17
    assert {filled[id].strip(",") for id in final} == {""}


async def test_a_call_from_the_page_reaches_the_service(client: Client, tmp_path: Path) -> None:
    async with opened(str(client.make_url("/docs")), tmp_path, 1280) as tab:
        await tab.until(f"{FORM}.textContent.includes('ada@campus.example')")
        await tab.evaluate(f"{FORM}.querySelector('[part~=btn-try]').click()")
        await tab.until(f"{FORM}.textContent.includes('Response Status')")
        text = await tab.evaluate(f"{FORM}.textContent")
    assert "201" in text
    assert "ada@campus.example" in text
    assert tab.complaints == []
    [student] = (await (await client.get("/students")).json())["items"]
    assert (student["given_name"], student["email"]) == ("Ada", "ada@campus.example")
