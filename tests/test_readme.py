"""README.md says what the service does: its examples are run, and its tables compared with what they describe."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic_core import PydanticUndefined

from service.app import problem_types
from service.registrar.rules import RULES
from service.settings import Settings
from sql import Connection
from tests.campus import Answer, call, read
from tests.conftest import Client

README: Final = Path(__file__).parent.parent / "README.md"
ADDRESS: Final = "http://127.0.0.1:8080"
EXAMPLE: Final = re.compile(r"```sh\n(curl [^\n]*)\n```\n\n```json (\d+)\n(.*?)```", re.DOTALL)
FEED_CURSOR: Final = re.compile(r'"next": "[A-Za-z0-9_-]{44,}"')
INSTANT: Final = re.compile(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"')


@dataclass(frozen=True, slots=True)
class Example:
    """A call as the README has it, and the answer that it promises."""

    method: str
    path: str
    headers: dict[str, str]
    data: bytes | None
    status: int
    body: str


def examples(text: str) -> Iterator[Example]:
    for command, status, body in EXAMPLE.findall(text):
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
        yield Example(method, url, headers, data, int(status), body)


def settled(body: Any) -> Any:
    """Put what differs from run to run aside: instants, the ids of requests, and the epoch of the feed."""
    text = FEED_CURSOR.sub('"next": "<cursor>"', INSTANT.sub('"<instant>"', json.dumps(body)))
    return json.loads(re.sub(r'"request_id": "[^"]*"', '"request_id": "<id>"', text))


async def run(client: Client, example: Example) -> Answer:
    return await call(client, example.method, example.path, data=example.data, headers=example.headers)


async def test_every_example_answers_what_the_readme_promises(client: Client) -> None:
    found = list(examples(README.read_text()))
    assert len(found) == README.read_text().count("```sh\n")
    for example in found:
        answer = await run(client, example)
        shown = f"{example.method} {example.path}: {json.dumps(answer.body) if answer.body else ''}"
        assert answer.status == example.status, shown
        if example.body or answer.body:
            assert settled(answer.body) == settled(json.loads(example.body)), shown


async def test_every_path_of_the_document_is_described(client: Client) -> None:
    text = README.read_text()
    document = await read(client, "/openapi.json")
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"### {method.upper()} {path}\n" in text, f"{method.upper()} {path}"
    called = {(example.method, example.path.partition("?")[0]) for example in examples(text)}
    for path, operations in document["paths"].items():
        shape = re.compile(re.sub(r"{\w+}", "[^/]+", path))
        for method in operations:
            if path == "/openapi.json":  # itself the document: too long to quote
                continue
            assert any(method.upper() == its and shape.fullmatch(there) for its, there in called), f"{method} {path}"


def rows_after(heading: str) -> list[list[str]]:
    """Read the first table that follows a line, without its head."""
    lines = README.read_text().partition(f"{heading}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_table_of_rules_is_that_of_the_code() -> None:
    described = [code.strip("`") for code, _, _ in rows_after("## The rules")]
    assert described == [*(rule.__name__ for rule in RULES), "drop_closed"]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    described = [(name.strip("`"), default.strip("`")) for name, default, _ in rows_after("### Settings")]
    assert described == [
        (
            name.upper(),
            "" if field.default in (None, (), PydanticUndefined) else str(field.default),
        )
        for name, field in Settings.model_fields.items()
    ]


def test_the_table_of_problems_is_that_of_the_code() -> None:
    described = {(name.strip("`"), int(status)) for name, status, _ in rows_after("### GET /problems/{name}")}
    assert described == {
        (problem.type.removeprefix("/problems/").replace("-", "_"), problem.status) for problem in problem_types()
    }


async def test_the_diagram_of_states_shows_every_status_and_no_other(connection: Connection) -> None:
    diagram = README.read_text().partition("```mermaid\nstateDiagram-v2\n")[2].partition("```")[0]
    allowed = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'student_courses_status_check'"
    )
    shown = {name for line in diagram.strip().splitlines() for name in re.findall(r"(\w+)(?: -->|:)", line)}
    assert shown == set(re.findall(r"'(\w+)'", allowed))


async def test_the_diagram_shows_every_table_and_column(connection: Connection) -> None:
    diagram = README.read_text().partition("```mermaid\nerDiagram\n")[2].partition("```")[0]
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
