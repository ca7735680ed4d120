"""The console: how it is served, and what a clerk does with it in a real browser that can reach only the service."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, Request, Response, async_playwright, expect
from pytest_aiohttp import AiohttpClient

from service import console
from service.app import create_app
from service.settings import Settings
from tests.campus import call, create, enroll, new_course, new_student, problem, served, until
from tests.conftest import Client, Server, clone
from tests.test_auth import bearer
from tests.test_docs_page import CHROMIUM, WITHOUT_POPUPS

FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.*",
    WITHOUT_POPUPS,
)
PATIENCE_MILLISECONDS: Final = 30_000
"""A limit for steps that take a browser less than two seconds on an idle machine."""

FIRST_VIEW_BYTES: Final = 100_000
SERIOUS: Final = {"serious", "critical"}
MONDAY: Final = [{"day": "mon", "start": "09:00", "end": "10:30"}]
TERM: Final = {
    "code": "2040F",
    "name": "Fall 2040",
    "starts_on": "2040-09-01",
    "ends_on": "2040-12-20",
    "max_credits": 18,
}

SHIFTS: Final = """
window.shifts = [];
new PerformanceObserver(list => window.shifts.push(...list.getEntries().map(each => each.sources.map(its => its.node?.outerHTML))))
    .observe({ type: "layout-shift" });
"""

in_browser: Final = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]


# How the files are served


async def test_the_console_is_served_with_a_policy_and_an_etag(client: Client) -> None:
    page = await client.get("/console")
    assert (page.status, page.content_type) == (200, "text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = await client.get("/console", headers={"If-None-Match": page.headers["ETag"]})
    assert again.status == 304
    script = await client.get("/console/console.js")
    assert (script.status, script.content_type) == (200, "text/javascript")
    problem(await call(client, "GET", "/console/..%2f__init__.py"), 404, "no_such_path")
    problem(await call(client, "GET", "/console/nothing.js"), 404, "no_such_path")


async def test_a_browser_finds_the_ways_at_the_root_and_programs_find_the_index(client: Client) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    page = await client.get("/", headers={"Accept": browser})
    assert (page.status, page.content_type, page.headers["Vary"]) == (200, "text/html", "Accept")
    text = await page.text()
    assert 'href="console"' in text
    assert 'href="docs"' in text
    index = await client.get("/")
    assert (await index.json())["links"]["console"] == "/console"


async def test_a_service_without_the_console_serves_none_of_it(
    settings: Settings, aiohttp_client: AiohttpClient
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"console": "off"}))
    for path in ("/console", "/console/console.js"):
        problem(await call(client, "GET", path), 404, "no_such_path")
    page = await client.get("/", headers={"Accept": "text/html"}, allow_redirects=False)
    assert (page.status, page.headers["Location"]) == (303, "/docs")
    assert "console" not in (await (await client.get("/")).json())["links"]


def test_all_text_is_in_one_module() -> None:
    """A capital letter that follows a quote in another module would be text that a translator misses."""
    for name, file in console.read_files().items():
        if name.endswith(".js") and name != "text.js":
            code = "\n".join(
                line for line in file.body.decode().splitlines() if not line.strip().startswith(("//", "*", "/*"))
            )
            for quoted in code.split('"')[1::2]:
                words = quoted.split()
                is_text = len(words) > 1 and words[0][:1].isupper() and words[0].isalpha()
                assert not is_text, (name, quoted)


# In the browser


@dataclass(frozen=True, slots=True)
class Campus:
    """A service with a few students and courses, and an office that calls it."""

    client: Client
    url: str
    ids: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Call the API as the office."""
        answer = await call(self.client, method, path, body, headers=bearer(self.keys["office"]) if self.keys else None)
        return answer.body


@pytest.fixture(scope="module")
def url_of_database(server: Server, admin: psycopg.Connection[Any]) -> Iterator[str]:
    yield from clone(server, admin, server.template)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def campus(url_of_database: str, server: Server) -> AsyncIterator[Campus]:
    settings = Settings(
        database_url=server.as_service(url_of_database),
        migration_database_url=url_of_database,
        migrate_on_start=False,
        port=0,
    )
    async with TestClient(TestServer(create_app(settings))) as client:

        async def is_ready() -> bool:
            return (await client.get("/health/ready")).status == 200

        await until(is_ready, "the service is ready")
        campus = Campus(client, str(client.make_url("/console")))
        await seed(campus)
        yield campus


async def seed(campus: Campus) -> None:
    client, ids = campus.client, campus.ids
    ids["term"] = (await create(client, "/terms", TERM))["id"]

    async def course(code: str, **fields: object) -> int:
        return await new_course(client, code=code, term_id=ids["term"], credits=3, **fields)

    async def student(given: str, family: str, number: str) -> int:
        return await new_student(client, given_name=given, family_name=family, external_id=number)

    ids["full"] = await course("MATH101", title="Calculus", capacity=1, meetings=MONDAY)
    ids["clash"] = await course("PHYS101", title="Mechanics", capacity=30, meetings=MONDAY)
    ids["after"] = await course("MATH201", title="Analysis", capacity=30)
    ids["free"] = await course(
        "CHEM101", title="Chemistry", capacity=30, meetings=[{"day": "tue", "start": "13:00", "end": "14:00"}]
    )
    ids["big"] = await course("BIO101", title="Biology")
    groups = {"groups": [{"kind": "pre", "any_of": ["MATH101"]}]}
    await call(client, "PUT", f"/courses/{ids['after']}/requirements", groups)
    ids["ada"] = await student("Ada", "Lovelace", "S-1815")
    ids["grace"] = await student("Grace", "Hopper", "S-1906")
    ids["emmy"] = await student("Emmy", "Noether", "S-1882")
    await enroll(client, ids["grace"], ids["full"])
    for name in ("emmy", "ada"):
        await call(
            client, "POST", f"/students/{ids[name]}/enroll", {"course_ids": [ids["full"]], "on_full": "waitlist"}
        )
    await enroll(client, ids["emmy"], ids["clash"])
    crowd = [await student("=Nobody", f"Number{number}", f"N-{number}") for number in range(52)]
    items = [{"student_id": each, "course_ids": [ids["big"]]} for each in crowd]
    await call(client, "POST", "/enrollments", {"items": items})
    assert (await enroll(client, ids["ada"], ids["after"])).status == 409


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keys(campus: Campus) -> dict[str, str]:
    """Create the keys of an office and of a reader; from then on the service is not open."""
    if not campus.keys:
        scopes = {"office": ["read", "enroll", "events", "manage", "override", "admin"], "reader": ["read"]}
        for name, its in scopes.items():
            campus.keys[name] = (await campus.call("POST", "/keys", {"name": name, "scopes": its}))["key"]
    return campus.keys


@dataclass(slots=True)
class Visit:
    """What a page asked for, and what it complained about."""

    page: Page
    requested: list[Request] = field(default_factory=list)
    answered: list[Response] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Visiting = Callable[..., Any]


@pytest.fixture
def visiting(campus: Campus, browser: Browser) -> Visiting:
    """Return a context with a page of the console, with a key or without; the page must not complain."""

    @asynccontextmanager
    async def visit(path: str = "/", key: str | None = None) -> AsyncIterator[Visit]:
        context: BrowserContext = await browser.new_context(
            viewport={"width": 1400, "height": 900}, color_scheme="light", locale="en-GB", reduced_motion="reduce"
        )
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        if key is not None:
            await context.add_init_script(f"sessionStorage.setItem('token', '{key}')")
        page = await context.new_page()
        visit = Visit(page)
        page.on("request", lambda request: visit.requested.append(request))  # noqa: PLW0108  Playwright marks a listener
        page.on("response", lambda response: visit.answered.append(response))  # noqa: PLW0108
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: visit.complaints.append(message.text) if message.type in {"error", "warning"} else None,
        )
        await page.goto(f"{campus.url}#{path}")
        yield visit
        hosts = {each.url.split("/")[2] for each in visit.requested if not each.url.startswith(("data:", "blob:"))}
        assert hosts == {campus.url.split("/")[2]}
        assert visit.complaints == []
        await context.close()

    return visit


class TestInTheBrowser:
    """One browser, one service and one database for all of them, in this order."""

    pytestmark = in_browser

    async def test_an_open_service_needs_no_token_and_its_first_view_is_small(self, visiting: Visiting) -> None:
        async with visiting() as visit:
            page = visit.page
            await expect(page.get_by_role("heading", level=1)).to_have_text("Registration")
            await expect(page.locator(".figure").first).to_contain_text("5")
            await expect(page.locator(".who")).to_have_text("Open service")
            assert await page.evaluate("sessionStorage.length + localStorage.length") == 0
            await page.wait_for_load_state("load")
            sizes = {each.url: len(await each.body()) for each in visit.answered if "/events?" not in each.url}
        assert sum(sizes.values()) < FIRST_VIEW_BYTES, sizes

    async def test_a_wrong_token_is_refused_in_the_words_of_the_api(
        self, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        async with visiting() as visit:
            page = visit.page
            token = page.get_by_label("API key or access token")
            await token.fill("ek_1_wrong")
            await token.press("Enter")
            await expect(page.get_by_role("alert")).to_have_text(
                "The API key or access token is not valid. It may be unknown, expired or revoked."
            )
            await token.fill(keys["office"])
            await page.get_by_role("button", name="Continue").click()
            await expect(page.locator(".who")).to_have_text("office")
            assert await page.evaluate("[sessionStorage.getItem('token'), localStorage.length]") == [keys["office"], 0]
            await page.locator(".session summary").click()
            await page.get_by_role("button", name="Sign out").click()
            await expect(token).to_be_visible()
            assert await page.evaluate("sessionStorage.length") == 0
            # The browser itself notes each 401.
            visit.complaints.clear()

    async def test_a_clerk_finds_a_student_by_keyboard_and_sees_why_a_course_was_refused(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        async with visiting(key=keys["office"]) as visit:
            page = visit.page
            await expect(page.get_by_role("heading", level=1)).to_have_text("Registration")
            await page.keyboard.press("/")
            await page.keyboard.type("lovelace")
            await expect(page.locator(".results a").first).to_contain_text("Ada Lovelace")
            await page.keyboard.press("ArrowDown")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", level=1)).to_have_text("Ada Lovelace")
            refusals = page.get_by_role("region", name="Refusals")
            sentence = f"Course {campus.ids['after']} requires that one of these was passed: MATH101."
            await expect(refusals).to_contain_text(sentence)
            await expect(refusals.locator("a").first).to_have_text("MATH201")
            await expect(page.get_by_role("region", name="Waitlist places")).to_contain_text("Position 2")
            await page.get_by_role("searchbox", name="Find a student or a course").fill("S-1906")
            await expect(page.locator(".results a")).to_have_count(1)
            await expect(page.locator(".results a")).to_contain_text("Grace Hopper")

    async def test_what_if_shows_every_reason_and_then_enrolls_and_drops(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        ada, free = campus.ids["ada"], campus.ids["free"]
        async with visiting(f"/students/{ada}", keys["office"]) as visit:
            page = visit.page
            panel = page.get_by_role("region", name="What if")
            await panel.get_by_label("Add a course").fill("math2")
            await panel.get_by_role("button", name="Add MATH201").click()
            await expect(panel).to_contain_text("requires that one of these was passed: MATH101.")
            await expect(panel.get_by_role("button", name="Enroll")).to_have_count(0)
            await panel.get_by_label("Add a course").fill("chem")
            await panel.get_by_role("button", name="Add CHEM101").click()
            await expect(panel).to_contain_text("1 course possible, 1 refused.")
            await expect(page.locator(".block.planned")).to_contain_text("CHEM101")
            path = f"/students/{ada}/courses/{free}"
            assert (await campus.call("GET", path))["code"] == "enrollment_not_found"
            await panel.get_by_role("button", name="Enroll in 1 course").click()
            await expect(page.locator(".news")).to_contain_text("CHEM101: Gets a seat")
            assert (await campus.call("GET", path))["status"] == "enrolled"
            await page.get_by_role("button", name="Drop CHEM101").click()
            await page.get_by_role("button", name="Yes").click()
            await expect(page.locator(".news")).to_contain_text("CHEM101: Dropped")
            assert (await campus.call("GET", path))["status"] == "dropped"
            await expect(page.get_by_role("region", name="Earlier courses")).to_contain_text("CHEM101")

    async def test_a_waitlist_says_why_the_first_is_not_let_in_and_a_promotion_arrives_live(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        ids = campus.ids
        # Emmy is first, and has a seat in a course at the same time.
        async with visiting(f"/courses/{ids['full']}", keys["office"]) as visit:
            page = visit.page
            waitlist = page.get_by_role("region", name="Waitlist").first
            await expect(waitlist.locator("tbody tr")).to_have_count(2)
            await expect(waitlist.locator("tbody tr").first).to_contain_text("Emmy Noether")
            await expect(page.get_by_role("region", name="Events").first).to_contain_text("Nothing has happened")
            await expect(page.get_by_text("Live", exact=True)).to_be_visible()
            await campus.call("DELETE", f"/students/{ids['grace']}/courses/{ids['full']}")
            await expect(page.locator(".news")).to_contain_text("Ada Lovelace")
            await expect(waitlist.locator("tbody tr")).to_have_count(1)
            await expect(waitlist).to_contain_text(
                f"Course {ids['full']} meets at the same time as course {ids['clash']}."
            )
            await expect(page.get_by_role("region", name="Roster").first).to_contain_text("Ada Lovelace")

    async def test_lists_say_what_they_leave_out_and_the_roster_is_saved_whole(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        async with visiting(f"/courses/{campus.ids['big']}", keys["office"]) as visit:
            page = visit.page
            roster = page.get_by_role("region", name="Roster").first
            await expect(roster).to_contain_text("First 25; more follow")
            await roster.get_by_role("button", name="Next page").click()
            await expect(roster).to_contain_text("26\u201350; more follow")
            await roster.get_by_role("button", name="Next page").click()
            await expect(roster).to_contain_text("51\u201352")
            await expect(roster.locator("tbody tr")).to_have_count(2)
            async with page.expect_download() as download:
                await page.get_by_role("button", name="Roster as CSV").click()
            saved = await download.value
            assert saved.suggested_filename == "roster-BIO101.csv"
            lines = Path(await saved.path()).read_text("utf-8-sig").splitlines()
            assert len(lines) == 1 + 52
            await page.evaluate(
                "window.print = () => { document.body.dataset.printed = document.querySelectorAll('.print-only tbody tr').length }"
            )
            await page.get_by_role("button", name="Print roster").click()
            await expect(page.locator("body")).to_have_attribute("data-printed", "52")
            # A spreadsheet runs what begins like a formula.
            assert lines[1].startswith("N-0,Number0,'=Nobody,")

    async def test_a_read_only_token_is_offered_no_change_and_no_feed(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        async with visiting(f"/students/{campus.ids['emmy']}", keys["reader"]) as visit:
            page = visit.page
            await expect(page.get_by_role("heading", level=1)).to_have_text("Emmy Noether")
            await expect(page.get_by_role("region", name="Courses").first).to_contain_text("PHYS101")
            await expect(page.get_by_role("button", name="Drop")).to_have_count(0)
            await expect(page.get_by_role("button", name="Leave")).to_have_count(0)
            await expect(page.get_by_role("link", name="Feed")).to_have_count(0)
            panel = page.get_by_role("region", name="What if")
            await panel.get_by_label("Add a course").fill("bio")
            await panel.get_by_role("button", name="Add BIO101").click()
            await expect(panel).to_contain_text("The student gets all of this.")
            await expect(panel.get_by_role("button", name="Enroll")).to_have_count(0)
            await page.get_by_role("link", name="Home").click()
            await expect(page.locator(".tile")).to_have_count(1)
            await expect(page.get_by_text("This needs a token with the scope events.")).to_be_visible()
            await page.wait_for_load_state("networkidle")
            assert {each.status for each in visit.answered} == {200}

    async def test_what_happens_is_counted_live_and_moves_nothing_else(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        emmy, free, after = (campus.ids[name] for name in ("emmy", "free", "after"))
        async with visiting("/", keys["office"]) as visit:
            page = visit.page
            for place in (".refusals-place", ".waitlists", "section[aria-labelledby=courses] .page"):
                await expect(page.locator(f"{place} > :not(:empty)").first).to_be_visible()
            await page.evaluate(SHIFTS)
            await campus.call("POST", f"/students/{emmy}/enroll", {"course_ids": [free]})
            await campus.call("POST", f"/students/{emmy}/enroll", {"course_ids": [after]})
            await expect(page.locator(".tile.enrolled b")).to_have_text(re.compile("[1-9]"))
            await expect(page.locator(".tile.refused b")).to_have_text(re.compile("[1-9]"))
            await expect(page.locator(".codes li", has_text="Prerequisite missing").locator("small")).to_contain_text(
                "+"
            )
            assert await page.evaluate("window.shifts") == []

    async def test_the_feed_shows_an_event_before_and_after(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        path = f"/feed?types=course.updated&course_id={campus.ids['after']}"
        async with visiting(path, keys["office"]) as visit:
            page = visit.page
            await expect(page.get_by_text("Live", exact=True)).to_be_visible()
            await campus.call("PATCH", f"/courses/{campus.ids['after']}", {"title": "Real Analysis"})
            await page.get_by_role("button", name="course.updated").click()
            cells = page.locator(".difference tr", has_text="title").locator("td")
            await expect(cells).to_have_text(["Analysis", "Real Analysis"])

    async def test_a_bad_file_is_uploaded_and_its_errors_are_read(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str], tmp_path: Path
    ) -> None:
        if "imports" not in (await campus.call("GET", "/"))["links"]:
            pytest.skip("needs the API of imports")
        file = tmp_path / "students.csv"
        file.write_text("external_id,given_name,email\nI-1,Alan,alan@campus.example\nI-2,Kurt,no address\n")
        async with visiting("/imports", keys["office"]) as visit:
            page = visit.page
            await page.get_by_label("File", exact=True).set_input_files(file)
            await page.get_by_role("button", name="Upload").click()
            errors = page.get_by_role("region", name="Errors")
            await expect(errors.locator("tbody tr")).to_have_count(1)
            await expect(errors).to_contain_text("email must be one e-mail address, such as ada@campus.example.")
            await expect(errors).to_contain_text("students.csv, line 3")
            await page.get_by_role("button", name="Confirm the plan").click()
            await expect(page.locator(".badge", has_text="Done")).to_be_visible()
            found = (await campus.call("GET", "/students?external_id=I-1"))["items"]
            assert [each["given_name"] for each in found] == ["Alan"]

    async def test_every_page_is_accessible_and_no_wider_than_the_screen(
        self, campus: Campus, visiting: Visiting, keys: dict[str, str]
    ) -> None:
        ids = campus.ids
        pages = {
            "/": ".histogram",
            "/search?q=a": ".results a",
            f"/courses/{ids['full']}": "tbody tr",
            f"/students/{ids['emmy']}": ".week",
            "/feed?from=beginning": "tbody tr",
        }
        async with visiting("/", keys["office"]) as visit:
            page = visit.page
            for path, shown in pages.items():
                await page.evaluate("address => { location.hash = address }", path)
                await expect(page.locator(f"main {shown}").first).to_be_visible()
                for width, scheme in ((1400, "light"), (400, "dark")):
                    await page.set_viewport_size({"width": width, "height": 900})
                    await page.emulate_media(color_scheme=scheme)
                    found = (await Axe().run(page)).response["violations"]
                    assert not [each for each in found if each["impact"] in SERIOUS], (path, width, found)
                    assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
