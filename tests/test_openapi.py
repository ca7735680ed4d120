"""The API document: true to the routes, valid, and fit to be read."""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from service import __version__
from tests.conftest import Client

PAGE: Final = {("GET", "/docs"), ("GET", "/docs/rapidoc-min.js")}
"""What browsers get to show the document, and no part of the API."""


@pytest.fixture
async def document(client: Client) -> dict[str, Any]:
    response = await client.get("/openapi.json")
    assert response.status == 200
    assert response.content_type == "application/json"
    document: dict[str, Any] = await response.json()
    return document


@pytest.fixture
def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Walk through every object of a document, but not through the examples of callers' data."""
    if isinstance(value, dict):
        yield value
        for key, member in value.items():
            if key not in {"example", "examples"}:
                yield from nodes(member)
    elif isinstance(value, list):
        for member in value:
            yield from nodes(member)


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == __version__
    OpenAPIV31SpecValidator(document).validate()


def test_the_document_has_every_route_and_no_other(
    client: Client, operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    routes = {
        (route.method, route.resource.canonical)
        for route in client.server.app.router.routes()  # type: ignore[attr-defined]
        if route.resource is not None and route.method not in {"HEAD", "*"}
    }
    assert set(operations) == routes - PAGE


def test_every_operation_is_told_in_full(
    document: dict[str, Any], operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in document["tags"]}
    assert tags == {tag for operation in operations.values() for tag in operation["tags"]}
    for (method, path), operation in operations.items():
        assert re.fullmatch(r"[A-Z].*[^.\s]", operation["summary"]), operation["operationId"]
        assert len(operation["tags"]) == 1
        takes_body = method in {"POST", "PUT", "PATCH"} and not path.endswith("/cancel")
        assert ("requestBody" in operation) == takes_body, operation["operationId"]
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            assert content["schema"]
            assert content["example"]
        in_path = {item["name"] for item in operation.get("parameters", []) if item["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (operation["operationId"], parameter["name"])
            assert "null" not in parameter["schema"]["type"]


def test_every_answer_is_told_with_its_body(operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    for operation in operations.values():
        statuses = {int(status) for status in operation["responses"]}
        assert statuses & {200, 201, 204}
        # Faults of the service are no part of what it promises.
        assert {status for status in statuses if status >= 500} <= {503}
        for status, answer in operation["responses"].items():
            if status in {"204", "304"}:
                assert "content" not in answer
                continue
            [media_type] = answer["content"]
            assert media_type == ("application/json" if status < "400" else "application/problem+json")
            assert answer["content"][media_type]["schema"]
            assert "X-Request-Id" in answer["headers"]
            if status >= "400":
                assert re.match(r"`[a-z_]+`: [A-Z]", answer["description"])


def test_a_write_tells_that_its_outcome_may_be_unknown(operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    for (method, _), operation in operations.items():
        told = "`outcome_unknown`" in operation["responses"].get("503", {"description": ""})["description"]
        assert told == (method != "GET"), operation["operationId"]


def test_what_needs_no_database_promises_no_503(operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    without = {path for (_, path), operation in operations.items() if "503" not in operation["responses"]}
    assert without == {"/health/live", "/openapi.json", "/problems/{name}"}


def test_every_operation_refuses_a_compressed_body_that_it_does_not_take(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for name, operation in operations.items():
        assert "unsupported_content_coding" in operation["responses"].get("415", {}).get("description", ""), name


def test_the_document_reads_well(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert all(re.fullmatch("[A-Za-z]+", name) for name in schemas), schemas.keys()
    used = {node["$ref"].rsplit("/", 1)[1] for node in nodes(document) if "$ref" in node}
    assert used == {*schemas, *document["components"]["headers"]}
    for node in nodes({"paths": document["paths"], "components": document["components"]}):
        assert not isinstance(node.get("title"), str), node
        assert {"type": "null"} not in node.get("anyOf", []), node
        description = node.get("description")
        if isinstance(description, str):
            assert "``" not in description
            assert description == description.strip() != ""


def test_inputs_take_no_unknown_members_and_answers_name_those_always_there(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    inputs = {
        content["schema"]["$ref"].rsplit("/", 1)[1]
        for methods in document["paths"].values()
        for operation in methods.values()
        for content in operation.get("requestBody", {"content": {}})["content"].values()
    }
    for name in inputs:
        assert schemas[name]["additionalProperties"] is False
    nested = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    for name in set(schemas) - inputs - nested - {"ProblemDetail", "Reason", "Blocker"}:
        assert schemas[name]["required"] == list(schemas[name]["properties"]), name


def test_the_examples_are_what_their_schemas_say(document: dict[str, Any]) -> None:
    contents = [node for node in nodes(document["paths"]) if "example" in node]
    assert contents
    for content in contents:
        schema = {**content["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(content["example"])
