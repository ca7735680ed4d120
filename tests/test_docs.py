"""The documents describe the service: their examples are run, and their tables are compared with the code."""

import ast
import asyncio
import inspect
import io
import json
import re
import shlex
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from pytest_aiohttp import AiohttpClient

from service import metrics
from service.__main__ import main
from service.api.bulk import BULK_ITEMS, BULK_PAIRS, BulkRequest
from service.api.enrollment_types import EnrollmentRequest
from service.api.events import EventsQuery
from service.api.feed import Cursor, encode
from service.api.fields import FIELD_CODES
from service.app import problem_types
from service.demo.campus import plan
from service.interchange.worker import WORKER
from service.migrate import LOCK_SECONDS
from service.registrar.rules import DROP_RULES, RULES
from service.replay import ACTIONS, STATUSES
from service.settings import Settings
from service.web.paging import Paging
from service.web.validation import MAX_ERRORS_SHOWN
from sql import Connection
from tests.campus import Answer, busy, call, new_course, new_student, read, served, waiting_writer
from tests.conftest import REGISTRY, Client
from tests.test_institutions import new_key, registry_of

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
PAGES: Final = (README, *sorted(DOCS.rglob("*.md")))
DOCUMENTS: Final = (*PAGES, *(path for path in sorted(ROOT.glob("*.md")) if path != README))
EXAMPLES: Final = ROOT / "service/api/examples.json"
ADDRESS: Final = "http://127.0.0.1:8080"
WIDTH: Final = 120

FILE: Final = re.compile(r"```csv (\S+)\n(.*?)```\n", re.DOTALL)
"""A file that later calls of a page send with ``--data-binary @NAME``, alone or in a zip."""
SHELL: Final = re.compile(r"```sh\n((?:curl [^\n]*\n)+)```\n(?:\n```json (\d+)\n(.*?)```\n)?", re.DOTALL)
FEED_CURSOR: Final = re.compile(r'"next": "[A-Za-z0-9_-]{44,}"')
INSTANT: Final = re.compile(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"')
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True, slots=True)
class Request:
    """A call on a page."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Example:
    """Consecutive calls on a page; a single call may have the response that the page shows."""

    text: str
    requests: list[Request]
    status: int | None
    body: str


def examples(text: str) -> Iterator[Example]:
    for match in SHELL.finditer(text):
        commands, status, body = match.groups()
        files = files_before(text[: match.start()])
        requests = [parse(command, files) for command in commands.strip().splitlines()]
        yield Example(match[0], requests, int(status) if status else None, body or "")


def files_before(text: str) -> dict[str, bytes]:
    """Return the files that a page shows before a call; ``files.zip`` holds those of its section."""
    files = {name: content.encode() for name, content in FILE.findall(text)}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in FILE.findall(text.rpartition("\n## ")[2]):
            archive.writestr(name, content)
    return {**files, "files.zip": data.getvalue()}


def parse(command: str, files: dict[str, bytes]) -> Request:
    method, url, headers, data = "GET", "", {}, None
    words = iter(shlex.split(command)[1:])
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            data = next(words).encode()
        elif word == "--data-binary":
            data = files[next(words).removeprefix("@")]
        elif word != "-s":
            assert word.startswith(ADDRESS), command
            url = word.removeprefix(ADDRESS)
    return Request(method, url, headers, data)


def settled(body: Any) -> Any:
    """Replace what differs from run to run: instants, UUIDs, ids of requests, cursors, keys and the newest migration."""
    text = FEED_CURSOR.sub('"next": "<cursor>"', INSTANT.sub('"<instant>"', json.dumps(body)))
    text = re.sub(r'"sourced_id": "[0-9a-f]{8}-[^"]*"', '"sourced_id": "<uuid>"', text)
    text = re.sub(r'"key": "ek_[^"]*"', '"key": "<key>"', text)
    text = re.sub(r'"access_token": "[^"]*"', '"access_token": "<token>"', text)
    text = re.sub(r'"http://127\.0\.0\.1:\d+/', f'"{ADDRESS}/', text)
    text = re.sub(r'"secret": "whsec_[^"]*"', '"secret": "<secret>"', text)
    text = re.sub(r'"milliseconds": \d+', '"milliseconds": 1', text)
    text = re.sub(r'"migration": "[^"]*"', '"migration": "<newest>"', text)
    text = re.sub(r'"size": \d+', '"size": 1', text)
    return json.loads(re.sub(r'"request_id": "[^"]*"', '"request_id": "<id>"', text))


def written(value: Any, indent: int = 0) -> str:
    """Format JSON as on the pages: on one line if it fits, otherwise with one member on each line."""
    line = json.dumps(value, ensure_ascii=False)
    if indent + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        rows = [f'{inner}"{name}": {written(each, indent + 2)}' for name, each in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(f"{inner}{written(each, indent + 2)}" for each in value) + "\n" + " " * indent + "]"


async def send(client: Client, request: Request, variables: dict[str, str]) -> Answer:
    """Send a request; the first API key that an answer holds is the variable KEY of those that follow, a token is TOKEN."""
    headers = {name: Template(value).substitute(variables) for name, value in request.headers.items()}
    data = request.data
    if data is not None and data.isascii():  # A file may have another encoding.
        data = Template(data.decode()).safe_substitute(variables).encode()
    answer = await call(client, request.method, request.path, data=data, headers=headers)
    if request.method == "POST" and request.path.startswith(("/imports", "/exports")):
        await until_idle(client)
    if isinstance(answer.body, dict):
        for name, variable in (("key", "KEY"), ("access_token", "TOKEN")):
            if name in answer.body:
                variables.setdefault(variable, answer.body[name])
    return answer


async def until_idle(client: Client) -> None:
    """Wait until the service has done what an import or an export leaves for the background."""
    assert client.app is not None
    for _ in range(1000):
        if client.app[WORKER].is_idle():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("an import or an export takes too long")


NO_REGISTRY = pytest.mark.not_on_citus("it has no registry")
NOT_ON_CITUS = {
    "institutions.md": [NO_REGISTRY],
    "enrollments.md": [pytest.mark.not_on_citus("each enroll also writes the refusals before it")],
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=NOT_ON_CITUS.get(page.name, []))
        for page in PAGES
        if "```sh\n" in page.read_text()
    ],
)
async def test_every_example_returns_what_its_page_shows(
    aiohttp_client: AiohttpClient, settings: Settings, page: Path, request: pytest.FixtureRequest
) -> None:
    text = page.read_text()
    of_registry = page.name == "institutions.md"
    if of_registry:
        settings = settings.model_copy(update={"registry_schema": REGISTRY})
    settings = settings.model_copy(update={"webhook_hosts": ("127.0.0.1",)})
    client = await served(aiohttp_client, settings)
    found = list(examples(text))
    assert len(found) == text.count("```sh\n")
    assert text.count("```json ") == sum(example.status is not None for example in found)
    rewrite = request.config.getoption("--write-docs")
    variables = {"KEY": await new_key(client, None)} if of_registry else {}
    for example in found:
        for its in example.requests:
            answer = await send(client, its, variables)
            shown = f"{its.method} {its.path}: {answer.status} {json.dumps(answer.body, default=repr) if answer.body else ''}"
            if example.status is None:
                assert answer.status < 300, shown
                continue
            assert len(example.requests) == 1, example.text
            promised = json.loads(example.body) if example.body else None
            actual = answer.body or None
            if rewrite and (answer.status, settled(actual)) != (example.status, settled(promised)):
                here = str(client.make_url("/")).removesuffix("/")
                body = f"{written(actual)}\n".replace(here, ADDRESS) if actual is not None else ""
                new = example.text.partition("```json")[0] + f"```json {answer.status}\n{body}```\n"
                text = text.replace(example.text, new, 1)
                continue
            assert answer.status == example.status, shown
            assert settled(actual) == settled(promised), shown
    if text != page.read_text():
        page.write_text(text)


async def test_the_examples_of_the_api_document_are_those_of_the_pages(
    client: Client, request: pytest.FixtureRequest
) -> None:
    document = await read(client, "/openapi.json")
    operations = [
        (method, path, re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)), operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    found: dict[str, dict[str, Any]] = {}
    for example in (example for page in PAGES for example in examples(page.read_text()) if example.status is not None):
        [its] = example.requests
        path, _, query = its.path.partition("?")
        if path.startswith(("/ims/", "/oauth/")):
            continue  # OneRoster has documents of its own.
        matches = [
            (method, template, match, id)
            for method, template, shape, id in operations
            if method == its.method.lower() and (match := shape.fullmatch(path))
        ]
        # /students/by-external-id/S-1 rather than /students/{student_id}/…
        _, _, match, id = min(matches, key=lambda match: match[1].count("{"))
        parameters = {**match.groupdict(), **dict(parse_qsl(query))}
        shown = found.setdefault(id, {"parameters": {}, "body": None, "answers": {}})
        if not shown["answers"]:
            shown["parameters"] = {name: int(text) if text.isdigit() else text for name, text in parameters.items()}
            is_json = its.data is not None and "--data-binary" not in example.text
            shown["body"] = json.loads(its.data or b"") if is_json else None
        if example.body:
            shown["answers"].setdefault(str(example.status), json.loads(example.body))
    hold_examples(request, "calls", found)


def hold_examples(request: pytest.FixtureRequest, kind: str, found: dict[str, Any]) -> None:
    """Compare the examples of the API document with those that were run; write them with --write-docs."""
    kept = json.loads(EXAMPLES.read_text())
    if request.config.getoption("--write-docs") and settled(kept.get(kind)) != settled(found):
        kept[kind] = found
        EXAMPLES.write_text(f"{written(kept)}\n")
    assert settled(kept[kind]) == settled(found)


@NO_REGISTRY
async def test_the_problems_of_the_api_document_are_those_that_the_service_returns(
    aiohttp_client: AiohttpClient,
    settings: Settings,
    connection: Connection,
    database_url: str,
    request: pytest.FixtureRequest,
) -> None:
    client = await served(aiohttp_client, settings.model_copy(update={"body_limit": 1000, "webhook_limit": 1}))
    found: dict[str, Any] = {}
    variables: dict[str, str] = {}
    async with busy(database_url):
        holding = call(client, "POST", "/students/99/holds", HOLD, headers={"Idempotency-Key": "0"})
        first = asyncio.create_task(holding)
        await waiting_writer(connection)
        repeat = await call(client, "POST", "/students/99/holds", HOLD, headers={"Idempotency-Key": "0"})
        found[repeat.body["code"]] = repeat.body
    await first
    for method, path, body, headers in PROBLEMS:
        data = body.encode() if isinstance(body, str) else None
        data = data or (None if body is None else json.dumps(body).encode())
        sent = {**JSON_TYPE, **headers} if data else headers
        answer = await send(client, Request(method, path, sent, data), variables)
        if answer.status >= 400:
            found[answer.body["code"]] = answer.body
    many = await served(aiohttp_client, settings.model_copy(update={"registry_schema": REGISTRY, "auth": "off"}))
    await registry_of(many).create("adopted", "Adopted", "UTC", schema="institution_south")
    for method, path, body, headers in PROBLEMS_OF_MANY:
        data = None if body is None else json.dumps(body).encode()
        answer = await send(many, Request(method, path, {**JSON_TYPE, **headers} if data else headers, data), {})
        if answer.status >= 400:
            found[answer.body["code"]] = answer.body
    document = await read(client, "/openapi.json")
    named = {
        code
        for operations in document["paths"].values()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        for code in re.findall(r"^`([a-z_]+)`:", answer.get("description", ""), re.MULTILINE)
        if status < "500"
    }
    assert named - found.keys() == {"body_too_slow"}, "each problem has an example, except the one that takes seconds"
    hold_examples(request, "problems", {code: found[code] for code in sorted(named & found.keys())})


WITH_KEY: Final = {"Authorization": "Bearer $KEY"}
JSON_TYPE: Final = {"Content-Type": "application/json"}
STUDENT: Final = {
    "given_name": "Ada",
    "family_name": "Lovelace",
    "email": "ada@campus.example",
    "external_id": "S-1001",
}
COURSE: Final = {"code": "MATH101", "title": "Calculus I", "credits": 4}
MEETING: Final = {"day": "mon", "start": "09:00", "end": "10:30"}
TERM: Final = {"code": "2026F", "name": "Fall 2026", "starts_on": "2026-09-01", "ends_on": "9999-12-31"}
HOLD: Final = {"reason": "Library fees", "blocks": ["drop"]}
OTHER_FEED: Final = encode(Cursor(UUID(int=7), 7, "0" * 16))
PROBLEMS: Final[list[tuple[str, str, Any, dict[str, str]]]] = [
    ("POST", "/students", STUDENT, {}),
    ("POST", "/students", {**STUDENT, "email": "emmy@campus.example", "external_id": None}, {}),
    ("POST", "/students", {**STUDENT, "external_id": None}, {}),
    ("POST", "/students", {**STUDENT, "email": "ada.king@campus.example"}, {}),
    ("POST", "/students", {"preferred_name": "Ada"}, {}),
    ("POST", "/students", {"given_name": "Alan", "sourced_id": "17"}, {}),
    ("POST", "/students", {"given_name": "Alan", "sourced_id": "17"}, {}),
    ("POST", "/students", "{", JSON_TYPE),
    ("POST", "/students", {"given_name": "Ada", "email": "ada"}, {}),
    ("POST", "/students", "{}", {"Content-Type": "text/plain"}),
    ("POST", "/students", "{}", {**JSON_TYPE, "Content-Encoding": "compress"}),
    ("POST", "/students", " " * 2000, JSON_TYPE),
    ("POST", "/terms", TERM | {"withdraw_until": "2026-01-01T00:00:00Z"}, {}),
    ("POST", "/terms", TERM, {}),
    ("POST", "/terms", {**TERM, "code": "2027S", "ends_on": "2026-08-01"}, {}),
    ("POST", "/terms", {**TERM, "code": "2027S", "parent_id": 1, "starts_on": "2026-08-01"}, {}),
    ("POST", "/courses", {**COURSE, "capacity": 1}, {}),
    ("POST", "/courses", {**COURSE, "code": "PHYS101", "term_id": 1}, {}),
    ("POST", "/courses", {**COURSE, "term_id": 99}, {}),
    ("POST", "/courses", {**COURSE, "meetings": [{**MEETING, "from": "2026-09-08", "until": "2026-09-13"}]}, {}),
    ("PUT", "/courses/1/requirements", {"groups": [{"kind": "pre", "any_of": ["MATH101"]}]}, {}),
    ("POST", "/students", STUDENT, {"Origin": "https://elsewhere.example"}),
    ("GET", "/students/1", None, {"Host": "elsewhere.example"}),
    ("GET", "/students/99", None, {}),
    ("GET", "/courses/99", None, {}),
    ("GET", "/terms/99", None, {}),
    ("GET", "/instructors/99", None, {}),
    ("PUT", "/courses/1/reservations", {"reservations": [{"group": "year:1", "seats": 2**31 - 1}]}, {}),
    ("PUT", "/courses/1/instructors", {"instructors": [{"instructor_id": 99, "primary": True}]}, {}),
    ("GET", "/equivalences/99", None, {}),
    ("POST", "/equivalences", {"codes": ["CS101", "COMP101"]}, {}),
    ("POST", "/equivalences", {"codes": ["INFO1", "comp101"]}, {}),
    ("PUT", "/grade-scale", {"grades": [{"grade": "B", "passes": True}]}, {}),
    ("PUT", "/courses/1/requirements", {"groups": [{"kind": "pre", "any_of": ["X1"], "min_grade": "A"}]}, {}),
    ("PUT", "/courses/1/requirements", {"groups": [{"kind": "pre", "any_of": ["X1"], "min_grade": "B"}]}, {}),
    ("PUT", "/grade-scale", {"grades": []}, {}),
    ("PUT", "/courses/1/requirements", {"groups": []}, {}),
    ("PUT", "/grade-scale", {"grades": []}, {}),
    ("GET", "/imports/99", None, {}),
    ("POST", "/imports?file=students.csv", "external_id,family_name\nS-9,Nobody\n", {"Content-Type": "text/csv"}),
    ("POST", "/imports/1/cancel", None, {}),
    ("POST", "/imports/1/confirm", None, {}),
    (
        *("POST", "/imports?strict=true&file=students.csv", "external_id,family_name,email\nS-9,Nobody,nowhere\n"),
        {"Content-Type": "text/csv"},
    ),
    ("POST", "/imports/2/confirm", None, {}),
    ("GET", "/exports/99", None, {}),
    ("POST", "/exports", {"format": "oneroster-1.1", "after": 10**9}, {}),
    ("GET", "/exports/1/file", None, {}),
    ("POST", "/webhooks", {"url": "https://169.254.169.254/latest/meta-data"}, {}),
    ("POST", "/webhooks", {"url": "https://receiver.invalid/", "from_position": 1000}, {}),
    ("POST", "/webhooks", {"url": "https://receiver.invalid/", "types": ["term.deleted"]}, {}),
    ("POST", "/webhooks", {"url": "https://receiver.invalid/"}, {}),
    ("GET", "/webhooks/99", None, {}),
    ("GET", "/institutions", None, {}),
    ("GET", "/problems/nothing", None, {}),
    ("GET", f"/events?after={OTHER_FEED}", None, {}),
    ("DELETE", "/students/1/holds/99", None, {}),
    ("DELETE", "/students/1/overrides/99", None, {}),
    ("DELETE", "/students/1/courses/1", None, {}),
    ("POST", "/students/1/courses/1/complete", {"passed": True}, {}),
    ("POST", "/students/1/enroll", {"course_ids": [1, 2]}, {}),
    ("POST", "/students/2/enroll", {"course_ids": [1, 99]}, {}),
    ("PUT", "/courses/2/requirements", {"groups": [{"kind": "pre", "any_of": ["MATH101"]}]}, {}),
    ("POST", "/students/2/enroll", {"course_ids": [1, 2]}, {}),
    ("POST", "/students/1/holds", HOLD, {}),
    ("DELETE", "/students/1/courses/2", None, {}),
    ("POST", "/students/1/courses/1/complete", {"passed": True}, {}),
    ("POST", "/students/1/courses/1/complete", {}, {}),
    ("DELETE", "/students/1/courses/1", None, {}),
    ("POST", "/students/1/merge", {"student_id": 1, "reason": "twice"}, {}),
    ("POST", "/students/1/merge", {"student_id": 99, "reason": "twice"}, {}),
    ("DELETE", "/students/1/courses/2?as=dropped&reason=error", None, {}),
    ("DELETE", "/students/1/courses/2/completion", None, {}),
    ("POST", "/courses/1/cancel", None, {}),
    ("DELETE", "/students/1/courses/1/completion", None, {}),
    ("POST", "/courses/1/reopen", None, {}),
    ("DELETE", "/students/1", None, {}),
    ("PATCH", "/students/1", {"family_name": "King"}, {"If-Match": '"9"'}),
    ("POST", "/students/1/enroll", {"course_ids": [1]}, {"If-Match": '"1"'}),
    ("POST", "/courses/1/cancel", None, {"Origin": "https://elsewhere.example"}),
    ("GET", "/courses", None, {"Host": "elsewhere.example"}),
    ("POST", "/students/2/holds", HOLD, {"Idempotency-Key": "1"}),
    ("POST", "/students/1/holds", HOLD, {"Idempotency-Key": "1"}),
    ("POST", "/students/2/merge", {"student_id": 6, "reason": "Enrolled twice"}, {}),
    ("POST", "/students/2/merge", {"student_id": 6, "reason": "Enrolled twice"}, {}),
    ("GET", "/students/6", None, {}),
    ("POST", "/students/1/erase", {"reason": "Art. 17"}, {}),
    ("POST", "/students/2/merge", {"student_id": 1, "reason": "Enrolled twice"}, {}),
    ("POST", "/keys", {"name": "office", "scopes": ["admin"]}, {"Idempotency-Key": "2"}),
    ("POST", "/keys", {"name": "office", "scopes": ["admin"]}, {}),
    ("GET", "/courses", None, {}),
    ("GET", "/courses", None, WITH_KEY),
    ("POST", "/keys", {"name": "office", "scopes": ["admin"]}, WITH_KEY),
    ("POST", "/keys", {"name": "portal", "scopes": ["read"]}, WITH_KEY),
    ("DELETE", "/keys/99", None, WITH_KEY),
    ("DELETE", "/keys/3", None, WITH_KEY),
    ("POST", "/keys/3/rotate", {}, WITH_KEY),
]
"""Calls to an empty service, in order, that cause each kind of problem."""

NORTH: Final = {"X-Institution": "north"}
PROBLEMS_OF_MANY: Final[list[tuple[str, str, object, dict[str, str]]]] = [
    ("POST", "/institutions", {"name": "north", "display_name": "North"}, {}),
    ("POST", "/institutions", {"name": "north", "display_name": "North"}, {}),
    ("POST", "/institutions", {"name": "south", "display_name": "South"}, {}),
    ("GET", "/students", None, {}),
    ("GET", "/students", None, {"X-Institution": "nowhere"}),
    ("DELETE", "/institutions/north", None, {}),
    ("PATCH", "/institutions/north", {"state": "read_only"}, {}),
    ("POST", "/terms", {"code": "2026F", "name": "Fall", "starts_on": "2026-09-01", "ends_on": "2026-12-18"}, NORTH),
    ("PATCH", "/institutions/north", {"state": "suspended"}, {}),
    ("GET", "/students", None, NORTH),
]
"""Calls to a service with a registry, which authenticates nobody."""


async def test_every_operation_has_a_section_and_an_example(client: Client) -> None:
    texts = [page.read_text() for page in PAGES if page != README]
    document = await read(client, "/openapi.json")
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    described = [match for text in texts for match in re.findall(r"^## ([A-Z]+) (/\S*)$", text, re.MULTILINE)]
    assert sorted(described) == sorted(operations)
    for method, path in operations - {("GET", "/openapi.json")}:  # The document itself is too long to quote.
        shape = re.compile(re.sub(r"{\w+}", "[^/]+", path))
        [text] = [text for text in texts if f"\n## {method} {path}\n" in text]
        called = [its for example in examples(text) for its in example.requests]
        assert any(its.method == method and shape.fullmatch(its.path.partition("?")[0]) for its in called), (
            f"{method} {path}"
        )


def rows_after(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table after a line, without its head."""
    lines = text.partition(f"{heading}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def hold_table(request: pytest.FixtureRequest, page: Path, heading: str, rows: list[list[str]]) -> None:
    """Compare the first table after a line with the code; write it with --write-docs."""
    text = page.read_text()
    if request.config.getoption("--write-docs"):
        before, _, after = text.partition(f"{heading}\n")
        body = "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)
        after = re.sub(
            r"((?:^|\n)\|[^\n]*\n\|[-:| ]*\n)(?:\|[^\n]*\n?)*", lambda found: found[1] + body, after, count=1
        )
        page.write_text(text := f"{before}{heading}\n{after}")
    assert rows_after(text, heading) == rows


def test_the_table_of_rules_matches_the_code() -> None:
    described = [code.strip("`") for code, _, _ in rows_after((DOCS / "rules.md").read_text(), "# The rules")]
    assert described == [rule.__name__ for rule in (*RULES, *DROP_RULES)]


def test_the_numbers_in_sentences_match_the_code() -> None:
    pages = Paging.model_json_schema()["properties"]["limit"]
    events = EventsQuery.model_json_schema()["properties"]
    course_ids = EnrollmentRequest.model_json_schema()["properties"]["course_ids"]
    bulk = BulkRequest.model_json_schema()["properties"]["items"]
    small, large = plan("small"), plan("large")
    for page, sentence in (
        ("docs/api/conventions.md", f"number of items: {pages['default']} by default, at most {pages['maximum']}"),
        ("docs/api/conventions.md", f"An invalid request gets its first {MAX_ERRORS_SHOWN} errors"),
        ("docs/api/enrollments.md", f"{course_ids['minItems']} to {course_ids['maxItems']} course ids"),
        ("docs/api/students.md", f"Creates or replaces up to {BULK_ITEMS:,} students"),
        ("docs/api/courses.md", f"Creates or replaces up to {BULK_ITEMS:,} courses"),
        ("docs/api/enrollments.md", f"Makes up to {bulk['maxItems']:,} requests with up to {BULK_PAIRS:,} courses"),
        ("docs/feed.md", f"The number of events, at most {events['limit']['maximum']}."),
        ("docs/feed.md", f"if there is none, at most {events['wait']['maximum']}."),
        ("docs/changing.md", f"waits at most {LOCK_SECONDS} seconds for the lock of a table"),
        ("docs/operations.md", f"with {len(small.students)} students and {len(small.next)} courses"),
        ("docs/operations.md", f"makes {len(large.students):,} students"),
        ("README.md", f"of {len(small.students)} students and {len(small.next)} courses"),
    ):
        assert sentence in " ".join((ROOT / page).read_text().split())


def test_the_table_of_settings_matches_the_code(request: pytest.FixtureRequest) -> None:
    [body] = [node.body for node in ast.parse(inspect.getsource(Settings)).body if isinstance(node, ast.ClassDef)]
    reasons = {
        ast.unparse(field.target): ast.literal_eval(reason.value)
        for field, reason in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(reason, ast.Expr)
    }
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, (), PydanticUndefined) else f"`{field.default}`"
        rows.append([f"`{name.upper()}`", default, " ".join(reasons[name].split())])
    hold_table(request, DOCS / "settings.md", "# Settings", rows)


def test_the_table_of_metrics_matches_the_code(request: pytest.FixtureRequest) -> None:
    rows = []
    for family in (*metrics.COUNTED, *metrics.OF_PROCESS, *metrics.OF_DATABASE):
        total = "_total" if isinstance(family, metrics.Counter) else ""
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows.append([f"`{family.name}{total}`", family.kind, labels, family.meaning])
    hold_table(request, DOCS / "operations.md", "## Metrics", rows)


def test_the_table_of_problems_matches_the_code(request: pytest.FixtureRequest) -> None:
    rows = [
        [f"`{problem.code}`", str(problem.status), " ".join(problem.description.split())]
        for problem in sorted(problem_types().values(), key=lambda problem: (problem.status, problem.code))
    ]
    hold_table(request, DOCS / "api/conventions.md", "## GET /problems/{code}", rows)


@pytest.mark.parametrize(
    ("page", "path"),
    [
        ("students", "/students/{student_id}"),
        ("courses", "/courses/{course_id}"),
        ("terms", "/terms/{term_id}"),
        ("holds", "/students/{student_id}/holds"),
        ("overrides", "/students/{student_id}/overrides"),
    ],
)
async def test_the_table_of_fields_matches_the_api(client: Client, page: str, path: str) -> None:
    document = await read(client, "/openapi.json")

    def resolved(schema: dict[str, Any]) -> Any:
        return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    schema = resolved(document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"])
    if "items" in schema["properties"]:
        schema = resolved(schema["properties"]["items"]["items"])
    text = (DOCS / f"api/{page}.md").read_text()
    described = [name.strip("`") for name, _ in rows_after(text, f"# {page.capitalize()}")]
    assert described == [*schema["properties"]]


@pytest.mark.parametrize(
    ("page", "heading", "model"),
    [
        ("api/enrollments.md", "## POST /students/{student_id}/enroll", EnrollmentRequest),
        ("feed.md", "## GET /events", EventsQuery),
    ],
)
def test_the_table_of_request_fields_matches_the_code(page: str, heading: str, model: type[BaseModel]) -> None:
    rows = rows_after((DOCS / page).read_text(), heading)
    assert {name.strip("`"): default.strip("`") for name, default, _ in rows} == {
        name: "" if field.default in (None, PydanticUndefined) else str(field.default)
        for name, field in model.model_fields.items()
    }


def test_the_table_of_commands_matches_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.search(r"\{(serve,[a-z,]+)\}", capsys.readouterr().out)
    assert listed
    rows = rows_after((DOCS / "operations.md").read_text(), "## Commands")
    words = [command.strip("`").removeprefix("python -m service").split() for command, _ in rows]
    assert {its[0] if its and its[0][0] != "-" else "serve" for its in words} == set(listed[1].split(","))


async def test_the_table_of_events_matches_the_events_that_the_service_writes(client: Client) -> None:
    """Make an event of every type and compare its members with the table."""
    text = (DOCS / "feed.md").read_text()
    rows = rows_after(text, "## Events")
    written = await every_event(client)
    document = await read(client, "/openapi.json")
    schema = {"$ref": "#/components/schemas/Event", "components": document["components"]}
    for event in written:
        Draft202012Validator(schema).validate(event)
    assert {event["type"] for event in written} == {
        *document["components"]["schemas"]["Event"]["discriminator"]["mapping"]
    }
    known = {f"{noun}.{action}" for noun, actions in ACTIONS.items() for action in actions}
    known |= {f"enrollment.{action}" for action in STATUSES}
    types = [type.strip("`") for type, *_ in rows]
    assert len(types) == len(set(types))
    assert set(types) == {event["type"] for event in written} >= known
    for type, _, *cells in rows:
        events = [event for event in written if event["type"] == type.strip("`")]
        for name, cell in zip(("before", "after"), cells, strict=True):
            states = [event[name] for event in events]
            members = set(re.findall(r"`(\w+)`", cell))
            optional = set(re.findall(r"`(\w+)` \(optional\)", cell))
            assert (None in states) == ("null" in cell or not cell), f"{type} {name}"
            found = [{*state} for state in states if state is not None]
            if "*fields*" in cell:
                assert all(members < its for its in found), f"{type} {name}: {found}"
            elif members:
                assert members == set[str]().union(*found), f"{type} {name}: {found}"
                assert members - optional == members.intersection(*found), f"{type} {name}: {found}"
    for noun, *ids in rows_after(text, "The ids of an event identify its subject:"):
        for event in written:
            if event["type"].startswith(f"{noun.strip('`')}."):
                named = [event[name] is not None for name in ("student_id", "course_id", "term_id")]
                assert named == [id == "yes" for id in ids], event


async def every_event(client: Client) -> list[dict[str, Any]]:  # noqa: PLR0915 - one call for each event
    """Make every change that writes an event, and return the events."""

    async def do(method: str, path: str, body: object = None) -> Any:
        answer = await call(client, method, path, body)
        assert answer.status < 300, f"{method} {path}: {answer.body}"
        return answer.body

    async def new(path: str, body: object) -> int:
        return int((await do("POST", path, body))["id"])

    first, second, third = await new_student(client), await new_student(client), await new_student(client)
    await do("PATCH", f"/students/{third}", {"max_credits": 1})
    await do("POST", f"/students/{third}/erase", {"reason": "Art. 17"})
    await do("DELETE", f"/students/{third}")
    unused = await new_course(client)
    teacher = await new("/instructors", {"given_name": "Emmy"})
    await do("PATCH", f"/instructors/{teacher}", {"family_name": "Noether"})
    await do("PUT", f"/courses/{unused}/reservations", {"reservations": [{"group": "year:1", "seats": 1}]})
    await do("PUT", f"/courses/{unused}/instructors", {"instructors": [{"instructor_id": teacher, "primary": True}]})
    await do("PATCH", f"/courses/{unused}", {"title": "U"})
    await do("DELETE", f"/courses/{unused}")
    await do("DELETE", f"/instructors/{teacher}")
    days = {"starts_on": "2026-01-01", "ends_on": "9999-12-31"}
    late = {**days, "code": "late", "name": "N", "drop_until": "2026-01-01T00:00:00Z"}
    term = await new("/terms", {**days, "code": "T", "name": "N"})
    late_term = await new("/terms", late)
    await do("PATCH", f"/terms/{term}", {"name": "M"})
    await do("DELETE", f"/terms/{term}")
    withdrawn = await new_course(client, term_id=late_term)
    await do("POST", f"/students/{first}/enroll", {"course_ids": [withdrawn]})
    await do("DELETE", f"/students/{first}/courses/{withdrawn}")
    # The second student is waitlisted by a swap that is changed, is passed over because of a hold, and then seated.
    full, kept, other = await new_course(client, capacity=1), await new_course(client), await new_course(client)
    await do("POST", f"/students/{first}/enroll", {"course_ids": [full]})
    await do("POST", f"/students/{second}/enroll", {"course_ids": [kept, other]})
    for drop in (kept, other):
        await do("POST", f"/students/{second}/swap", {"drop": [drop], "add": [full], "on_full": "waitlist"})
    hold = await new(f"/students/{second}/holds", {"reason": "fees", "blocks": ["enroll"]})
    await do("DELETE", f"/students/{first}/courses/{full}")
    await do("DELETE", f"/students/{second}/holds/{hold}")
    for passed in (False, True):
        await do("POST", f"/students/{second}/courses/{full}/complete", {"passed": passed})
    # Seats by override: one at once, the other by a promotion.
    override = {"author": "dean", "reason": "so", "rule": "course_full"}
    await do("POST", f"/students/{first}/overrides", {**override, "course_id": full})
    await do("POST", f"/students/{first}/enroll", {"course_ids": [full]})
    fourth = await new_student(client)
    await do("POST", f"/students/{fourth}/enroll", {"course_ids": [full], "on_full": "waitlist"})
    await do("POST", f"/students/{fourth}/overrides", {**override, "course_id": full})
    await do("DELETE", f"/students/{fourth}/courses/{full}")
    await do("POST", f"/students/{fourth}/enroll", {"course_ids": [full], "on_full": "waitlist"})
    await do("POST", f"/students/{fourth}/enroll", {"course_ids": [kept]})
    ended = await new(f"/students/{first}/overrides", {**override, "course_id": kept})
    await do("DELETE", f"/students/{first}/overrides/{ended}")
    # A seat in one section ends the waitlist place for the other.
    section = {"code": "S", "capacity": 0}
    places = [await new_course(client, section=name, **section) for name in ("1", "2")]
    await do("POST", f"/students/{fourth}/enroll", {"course_ids": places, "on_full": "waitlist"})
    await do("PATCH", f"/courses/{places[0]}", {"capacity": 1})
    equivalence = await new("/equivalences", {"codes": ["S", "T"]})
    await do("DELETE", f"/equivalences/{equivalence}")
    await do("PUT", "/grade-scale", {"grades": [{"grade": "A", "passes": True}]})
    await do("PUT", f"/courses/{kept}/requirements", {"groups": [{"kind": "pre", "any_of": ["X"]}]})
    await do("POST", f"/courses/{kept}/cancel")
    await do("POST", f"/courses/{kept}/reopen")
    await do("DELETE", f"/students/{first}/courses/{withdrawn}?as=dropped&reason=error")
    await do("DELETE", f"/students/{second}/courses/{full}/completion")
    await every_merge(do, new, client)
    # A course in progress is dropped, and taken again.
    terms = [
        await new("/terms", {"code": f"P{year}", "name": "P", "starts_on": f"{year}-01-01", "ends_on": f"{year}-12-31"})
        for year in (2090, 2091)
    ]
    early, later = [await new_course(client, term_id=id, code=f"P{id}") for id in terms]
    groups = [{"kind": "pre", "any_of": [f"P{terms[0]}"], "in_progress": True}]
    await do("PUT", f"/courses/{later}/requirements", {"groups": groups})
    for course in (early, later):
        await do("POST", f"/students/{first}/enroll", {"course_ids": [course]})
    await do("DELETE", f"/students/{first}/courses/{early}")
    await do("POST", f"/students/{first}/enroll", {"course_ids": [early]})
    return list((await read(client, "/events?limit=500"))["items"])


async def every_merge(do: Any, new: Any, client: Client) -> None:
    """Merge two students so that the events have all their members."""
    student, duplicate = await new_student(client), await new_student(client)
    full, swapped, failed, out = [await new_course(client, capacity=capacity) for capacity in (0, 0, None, None)]
    override = {"author": "dean", "reason": "so", "rule": "course_full", "course_id": full}
    await new(f"/students/{duplicate}/overrides", override)
    await do("POST", f"/students/{duplicate}/enroll", {"course_ids": [full, failed, out]})
    await do("POST", f"/students/{duplicate}/swap", {"drop": [out], "add": [swapped], "on_full": "waitlist"})
    await new(f"/students/{duplicate}/holds", {"reason": "fees", "blocks": ["drop"]})
    await do("POST", f"/students/{student}/enroll", {"course_ids": [failed, out]})
    await do("DELETE", f"/students/{student}/courses/{out}")
    for id, passed in ((student, False), (duplicate, True)):
        await do("POST", f"/students/{id}/courses/{failed}/complete", {"passed": passed})
    await do("PATCH", f"/courses/{failed}", {"code": "FORMER"})
    await do("POST", f"/students/{student}/merge", {"student_id": duplicate, "reason": "twice"})


def test_the_table_of_codes_of_an_invalid_request_matches_the_code(request: pytest.FixtureRequest) -> None:
    rows = [[f"`{code}`", meaning] for code, meaning in FIELD_CODES.items()]
    hold_table(request, DOCS / "api/conventions.md", "## Codes of an invalid request", rows)


async def test_the_diagram_of_states_shows_exactly_the_statuses(connection: Connection) -> None:
    diagram = (DOCS / "rules.md").read_text().partition("```mermaid\nstateDiagram-v2\n")[2].partition("```")[0]
    allowed = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'student_courses_status_check'"
    )
    shown = {name for line in diagram.strip().splitlines() for name in re.findall(r"(\w+)(?: -->|:)", line)}
    assert shown == set(re.findall(r"'(\w+)'", allowed))


@NO_REGISTRY
@pytest.mark.parametrize(("number", "schema"), [(1, "public"), (2, REGISTRY)])
async def test_a_diagram_shows_every_table_and_column(connection: Connection, number: int, schema: str) -> None:
    diagram = (DOCS / "tables.md").read_text().split("```mermaid\nerDiagram\n")[number].partition("```")[0]
    drawn = {
        table: [line.split()[1] for line in body.strip().splitlines()]
        for table, body in re.findall(r"^    (\w+) \{\n(.*?)^    \}", diagram, re.DOTALL | re.MULTILINE)
    }
    columns: dict[str, list[str]] = {}
    for row in await connection.fetch(
        """
        SELECT table_name, column_name
        FROM information_schema.columns
        WHERE table_schema = $1 AND table_name NOT LIKE '%yoyo%'
        ORDER BY table_name, ordinal_position
        """,
        schema,
    ):
        columns.setdefault(row["table_name"], []).append(row["column_name"])
    assert drawn == columns


def test_the_table_of_layers_matches_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(
        each for each in project["tool"]["importlinter"]["contracts"] if each.get("containers") == ["service"]
    )
    rows = rows_after((DOCS / "architecture.md").read_text(), "## Import rules")
    assert [re.findall(r"`(\w+)`", modules) for modules, _ in rows] == [
        layer.split(" | ") for layer in contract["layers"]
    ]


PATH: Final = re.compile(
    r"(?:service|sql|tests|migrations|docs|ops|requirements|\.ci)/[\w./-]*|[\w-]+\.(?:md|toml|py)|Makefile"
)
NAME: Final = re.compile(r"@?[A-Za-z_][\w.]*(?:\(\))?")
NO_NAME: Final = re.compile(".*[Tt]hing.*|[0-9a-f]{7,40}")
"""Words in backticks that are not names of the code: placeholders for a name of the reader's, and commits."""


SOURCES: Final = {".py", ".sql", ".txt", ".yml", ".yaml", ".json", ".sh", ".service"}


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Return every word of the code, its tests and its configuration."""
    folders = ("service", "sql", "tests", "migrations", "requirements", "ops")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    sources += [ROOT / name for name in ("Makefile", "pyproject.toml", "docker-compose.yml", "Dockerfile", ".ci/run")]
    settings = {name.upper() for name in Settings.model_fields}
    return settings.union(*(re.findall(r"\w+", path.read_text()) for path in sources))


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_name_of_code_exists(page: Path, words: set[str]) -> None:
    """Look up each text in backticks: a path in the repository, and each word of a text that looks like a name."""
    for code in re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    ):
        if NO_NAME.fullmatch(code):
            continue
        if PATH.fullmatch(code):
            assert (ROOT / code).exists() or (page.parent / code).exists(), f"{page.name} names {code}"
        elif NAME.fullmatch(code):
            missing = set(re.findall(r"\w+", code)) - words
            assert not missing, f"{page.name} names {code}"


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{page.name} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    found, pending = set[Path](), [README]
    while pending:
        page = pending.pop()
        found.add(page)
        for target in LINK.findall(page.read_text()):
            path = (page.parent / target.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.exists() and path not in found:
                pending.append(path)
    assert set(PAGES) <= found


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200
