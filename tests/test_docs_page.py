"""The API page, in a real browser that can reach only the service."""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from service import __version__
from tests import shared
from tests.conftest import Client

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

in_one_loop, service, client, connection, settings = shared.SERVICE
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), in_one_loop]

PATIENCE: Final = 30.0
"""A limit for steps that take a browser less than two seconds on an idle machine."""

WITHOUT_POPUPS: Final = "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup"
"""Each window loads two pages for suggestions below its address bar, which takes more time than most pages of a test."""

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
    WITHOUT_POPUPS,
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
LAST: Final = """document.querySelector("rapi-doc").shadowRoot
    .querySelector('[id="get-/problems/-code-"] api-request').shadowRoot.textContent"""
"""The form of the last operation, which is there once the page is complete."""
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

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event in {"Runtime.exceptionThrown", "Log.entryAdded"}:
            self.complaints.append(json.dumps(params))
        elif event == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(params["args"]))

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            while (answer := await self._socket.receive_json()).get("id") != number:
                self._note(answer["method"], answer["params"])
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
async def started(folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Start a browser, and yield a session that opens and closes its tabs."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await debugging_port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as browser:
            yield browser
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def opened(browser: aiohttp.ClientSession, url: str, width: int, height: int = 900) -> AsyncIterator[Tab]:
    """Open a page in a new tab of this size."""
    async with browser.put("/json/new?about:blank") as response:
        target = await response.json()
    async with browser.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        tab = Tab(socket)
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
    await browser.get(f"/json/close/{target['id']}")


async def debugging_port(file: Path) -> int:
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(OSError, IndexError):
                return int(file.read_text().splitlines()[0])
            await asyncio.sleep(0.05)


Loading = Callable[[Client, int], Awaitable[Tab]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loading(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Loading]:
    """Yield a function that loads the API page of a service with a width, and once only while nothing happened in it."""
    loaded: dict[tuple[str, int], tuple[Tab, int]] = {}
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(started(tmp_path_factory.mktemp("chromium")))

        async def load(client: Client, width: int) -> Tab:
            url = str(client.make_url("/docs"))
            tab, requests = loaded.get((url, width), (None, 0))
            if tab is None or tab.complaints or len(tab.requests) != requests:
                tab = await stack.enter_async_context(opened(browser, url, width))
                await tab.until(LAST)
                loaded[url, width] = tab, len(tab.requests)
            await tab.call("Page.bringToFront")
            return tab

        yield load


@pytest.mark.parametrize("width", [1280, 400])
async def test_the_page_shows_every_operation_and_contacts_no_other_host(
    client: Client, loading: Loading, width: int
) -> None:
    document = await (await client.get("/openapi.json")).json()
    tab = await loading(client, width)
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
    client: Client, loading: Loading
) -> None:
    tab = await loading(client, 400)
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


async def test_operations_that_cannot_be_undone_have_no_ids_filled_in(client: Client, loading: Loading) -> None:
    tab = await loading(client, 1280)
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


async def test_a_call_from_the_page_reaches_the_service(client: Client, loading: Loading) -> None:
    tab = await loading(client, 1280)
    await tab.until(f"{FORM}.textContent.includes('ada@campus.example')")
    await tab.evaluate(f"{FORM}.querySelector('[part~=btn-try]').click()")
    await tab.until(f"{FORM}.textContent.includes('Response Status')")
    text = await tab.evaluate(f"{FORM}.textContent")
    assert "201" in text
    assert "ada@campus.example" in text
    assert tab.complaints == []
    [student] = (await (await client.get("/students")).json())["items"]
    assert (student["given_name"], student["email"]) == ("Ada", "ada@campus.example")
