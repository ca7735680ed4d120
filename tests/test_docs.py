"""README.md and docs/ describe the service: their examples are run, and their tables compared with the code."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic_core import PydanticUndefined

from service.app import problem_types
from service.registrar.rules import RULES
from service.settings import Settings
from sql import Connection
from tests.campus import Answer, call, read
from tests.conftest import Client

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
PAGES: Final = (README, *sorted(DOCS.rglob("*.md")))
DOCUMENTS: Final = (*PAGES, *(path for path in sorted(ROOT.glob("*.md")) if path != README))
ADDRESS: Final = "http://127.0.0.1:8080"
WIDTH: Final = 120

SHELL: Final = re.compile(r"```sh\n((?:curl [^\n]*\n)+)```\n(?:\n```json (\d+)\n(.*?)```\n)?", re.DOTALL)
FEED_CURSOR: Final = re.compile(r'"next": "[A-Za-z0-9_-]{44,}"')
INSTANT: Final = re.compile(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"')
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Request:
    """A call as a page shows it."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Example:
    """Calls that stand together; of a single one, the answer that the page promises."""

    text: str
    requests: list[Request]
    status: int | None
    body: str


def examples(text: str) -> Iterator[Example]:
    for match in SHELL.finditer(text):
        commands, status, body = match.groups()
        requests = [parse(command) for command in commands.strip().splitlines()]
        yield Example(match[0], requests, int(status) if status else None, body or "")


def parse(command: str) -> Request:
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
        elif word != "-s":
            assert word.startswith(ADDRESS), command
            url = word.removeprefix(ADDRESS)
    return Request(method, url, headers, data)


def settled(body: Any) -> Any:
    """Put aside what differs from run to run: instants, the ids of requests, and the epoch of the feed."""
    text = FEED_CURSOR.sub('"next": "<cursor>"', INSTANT.sub('"<instant>"', json.dumps(body)))
    return json.loads(re.sub(r'"request_id": "[^"]*"', '"request_id": "<id>"', text))


def written(value: Any, indent: int = 0) -> str:
    """Write JSON as the pages do: in one line what fits, and otherwise one member a line."""
    line = json.dumps(value, ensure_ascii=False)
    if indent + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        rows = [f'{inner}"{name}": {written(each, indent + 2)}' for name, each in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(f"{inner}{written(each, indent + 2)}" for each in value) + "\n" + " " * indent + "]"


async def send(client: Client, request: Request) -> Answer:
    return await call(client, request.method, request.path, data=request.data, headers=request.headers)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
async def test_every_example_answers_what_its_page_promises(
    client: Client, page: Path, request: pytest.FixtureRequest
) -> None:
    text = page.read_text()
    found = list(examples(text))
    assert len(found) == text.count("```sh\n")
    assert text.count("```json ") == sum(example.status is not None for example in found)
    rewrite = request.config.getoption("--write-examples")
    for example in found:
        for its in example.requests:
            answer = await send(client, its)
            shown = f"{its.method} {its.path}: {answer.status} {json.dumps(answer.body) if answer.body else ''}"
            if example.status is None:
                assert answer.status < 300, shown
                continue
            assert len(example.requests) == 1, example.text
            promised = json.loads(example.body) if example.body else None
            actual = answer.body or None
            if rewrite and (answer.status, settled(actual)) != (example.status, settled(promised)):
                body = f"{written(actual)}\n" if actual is not None else ""
                new = example.text.partition("```json")[0] + f"```json {answer.status}\n{body}```\n"
                text = text.replace(example.text, new, 1)
                continue
            assert answer.status == example.status, shown
            assert settled(actual) == settled(promised), shown
    if rewrite:
        page.write_text(text)


async def test_every_operation_has_a_section_and_an_example(client: Client) -> None:
    texts = [page.read_text() for page in PAGES if page != README]
    document = await read(client, "/openapi.json")
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    described = [match for text in texts for match in re.findall(r"^## ([A-Z]+) (/\S*)$", text, re.MULTILINE)]
    assert sorted(described) == sorted(operations)
    for method, path in operations - {("GET", "/openapi.json")}:  # itself the document: too long to quote
        shape = re.compile(re.sub(r"{\w+}", "[^/]+", path))
        [text] = [text for text in texts if f"\n## {method} {path}\n" in text]
        called = [its for example in examples(text) for its in example.requests]
        assert any(its.method == method and shape.fullmatch(its.path.partition("?")[0]) for its in called), (
            f"{method} {path}"
        )


def rows_after(page: Path, heading: str) -> list[list[str]]:
    """Read the first table that follows a line, without its head."""
    lines = page.read_text().partition(f"{heading}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_table_of_rules_is_that_of_the_code() -> None:
    described = [code.strip("`") for code, _, _ in rows_after(DOCS / "rules.md", "# The rules")]
    assert described == [*(rule.__name__ for rule in RULES), "drop_closed"]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = rows_after(DOCS / "settings.md", "# Settings")
    assert [(name.strip("`"), default.strip("`")) for name, default, _ in rows] == [
        (
            name.upper(),
            "" if field.default in (None, PydanticUndefined) else str(field.default),
        )
        for name, field in Settings.model_fields.items()
    ]


def test_the_table_of_problems_is_that_of_the_code() -> None:
    rows = rows_after(DOCS / "api/conventions.md", "## GET /problems/{name}")
    assert {(name.strip("`"), int(status)) for name, status, _ in rows} == {
        (problem.type.removeprefix("/problems/").replace("-", "_"), problem.status) for problem in problem_types()
    }


async def test_the_diagram_of_states_shows_every_status_and_no_other(connection: Connection) -> None:
    diagram = (DOCS / "rules.md").read_text().partition("```mermaid\nstateDiagram-v2\n")[2].partition("```")[0]
    allowed = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'student_courses_status_check'"
    )
    shown = {name for line in diagram.strip().splitlines() for name in re.findall(r"(\w+)(?: -->|:)", line)}
    assert shown == set(re.findall(r"'(\w+)'", allowed))


async def test_the_diagram_shows_every_table_and_column(connection: Connection) -> None:
    diagram = (DOCS / "tables.md").read_text().partition("```mermaid\nerDiagram\n")[2].partition("```")[0]
    drawn = {
        table: [line.split()[1] for line in body.strip().splitlines()]
        for table, body in re.findall(r"^    (\w+) \{\n(.*?)^    \}", diagram, re.DOTALL | re.MULTILINE)
    }
    columns: dict[str, list[str]] = {}
    for row in await connection.fetch(
        """
        SELECT table_name, column_name
        FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name NOT LIKE '%yoyo%'
        ORDER BY table_name, ordinal_position
        """
    ):
        columns.setdefault(row["table_name"], []).append(row["column_name"])
    assert drawn == columns


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
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
