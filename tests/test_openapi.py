"""The API document: it matches the routes, is valid, and reads well."""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from service import __version__
from service.app import problem_types
from service.registrar.rules import SENTENCES
from tests import shared
from tests.conftest import Client

pytestmark, service, client, connection, settings = shared.SERVICE

PAGE: Final = {
    *(("GET", "/docs"), ("GET", "/docs/rapidoc-min.js"), ("GET", "/metrics")),
    *(("GET", "/console"), ("GET", "/console/{name}")),
}
"""Paths that are not part of the API: the pages for browsers, and the metrics."""


@pytest_asyncio.fixture(loop_scope="module")
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
    """Iterate over every object of a document, except the examples."""
    if isinstance(value, dict):
        yield value
        for key, member in value.items():
            if key not in {"example", "examples"}:
                yield from nodes(member)
    elif isinstance(value, list):
        for member in value:
            yield from nodes(member)


async def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == __version__
    OpenAPIV31SpecValidator(document).validate()


async def test_the_document_has_every_route_and_no_other(
    client: Client, operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    routes = {
        (route.method, route.resource.canonical)
        for route in client.server.app.router.routes()  # type: ignore[attr-defined]
        if route.resource is not None and route.method not in {"HEAD", "*"}
    }
    # OneRoster has documents of its own.
    own = {(method, path) for method, path in routes if not path.startswith(("/ims/", "/oauth/"))}
    assert set(operations) == own - PAGE


async def test_every_operation_is_described_in_full(
    document: dict[str, Any], operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in document["tags"]}
    assert tags == {tag for operation in operations.values() for tag in operation["tags"]}
    for (method, path), operation in operations.items():
        assert re.fullmatch(r"[A-Z].*[^.\s]", operation["summary"]), operation["operationId"]
        assert re.fullmatch(r"[A-Z].*\.", operation["description"], re.DOTALL), operation["operationId"]
        assert len(operation["tags"]) == 1
        takes_body = method in {"POST", "PUT", "PATCH"} and not path.endswith(
            ("/cancel", "/reopen", "/resume", "/test", "/confirm")
        )
        assert ("requestBody" in operation) == takes_body, operation["operationId"]
        for content in operation.get("requestBody", {"content": {}})["content"].values():
            assert content["schema"]
            assert "example" in content or "contentMediaType" in content["schema"]
        in_path = {item["name"] for item in operation.get("parameters", []) if item["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (operation["operationId"], parameter["name"])
            assert "null" not in parameter["schema"].get("type", "string")


DOWNLOADS = {("GET", "/imports/{import_id}/errors"), ("GET", "/exports/{export_id}/file")}
"""The operations that return a file."""


async def test_every_response_is_described_with_its_body(
    document: dict[str, Any], operations: dict[tuple[str, str], dict[str, Any]]
) -> None:
    for name, operation in operations.items():
        assert operation["responses"].keys() & {"200", "201", "202", "204"}
        assert operation["responses"]["500"] == {"$ref": "#/components/responses/InternalError"}
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
        for status, answer in operation["responses"].items():
            if "$ref" in answer:
                shared = document["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
                assert shared["content"]["application/problem+json"]["schema"]
                continue
            if name in DOWNLOADS and status < "300":
                assert all(content["schema"]["contentMediaType"] for content in answer["content"].values())
                continue
            if status in {"200", "201"} and name != ("GET", "/openapi.json"):
                examples = {"example" in content for content in answer["content"].values()}
                assert examples == {True} or {"200", "201"} <= operation["responses"].keys(), (name, status)
            if status in {"204", "304"}:
                assert "content" not in answer
                continue
            [media_type, *others] = answer["content"]
            assert others == (["text/event-stream"] if (name, status) == (("GET", "/events"), "200") else [])
            assert media_type == ("application/json" if status < "400" else "application/problem+json")
            assert answer["content"][media_type]["schema"]
            assert "X-Request-Id" in answer["headers"]
            if status >= "400":
                codes = re.findall(r"^`([a-z_]+)`:", answer["description"], re.MULTILINE)
                assert {str(problem_types()[code].status) for code in codes} == {status}, (name, status)
                assert re.match(r"`[a-z_]+`: [A-Z]", answer["description"])


async def test_every_write_documents_an_unknown_outcome(operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    for (method, _), operation in operations.items():
        documented = "`outcome_unknown`" in operation["responses"].get("503", {"description": ""})["description"]
        assert documented == (method != "GET"), operation["operationId"]


async def test_operations_without_the_database_document_no_503(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    without = {path for (_, path), operation in operations.items() if "503" not in operation["responses"]}
    assert without == {"/", "/health/live", "/openapi.json", "/problems/{code}"}


async def test_every_operation_refuses_a_compressed_body_that_it_does_not_accept(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    for name, operation in operations.items():
        assert "unsupported_content_coding" in operation["responses"].get("415", {}).get("description", ""), name


async def test_the_document_reads_well(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert all(re.fullmatch("[A-Za-z]+", name) for name in schemas), schemas.keys()
    used = {node["$ref"] for node in nodes(document) if "$ref" in node}
    used |= {example["$ref"] for node in nodes(document["paths"]) for example in node.get("examples", {}).values()}
    assert used == {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "headers", "responses", "examples")
        for name in document["components"][kind]
    }
    for node in nodes({"paths": document["paths"], "components": document["components"]}):
        assert not isinstance(node.get("title"), str), node
        if {"type": "null"} in node.get("anyOf", []):
            assert "$ref" in node["anyOf"][0], node
        description = node.get("description")
        if isinstance(description, str):
            assert "``" not in description
            assert description == description.strip() != ""


async def test_inputs_accept_no_unknown_members_and_responses_require_all_members_that_are_always_present(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    inputs = {
        content["schema"]["$ref"].rsplit("/", 1)[1]
        for methods in document["paths"].values()
        for operation in methods.values()
        for content in operation.get("requestBody", {"content": {}})["content"].values()
        if "$ref" in content["schema"]
    }
    for name in inputs:
        assert schemas[name]["additionalProperties"] is False
    nested = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    objects = {name for name, schema in schemas.items() if schema.get("type") == "object"}
    for name in objects - inputs - nested - {"ProblemDetail", "Refusal", "RefusalReason", "Reason", "Blocker"}:
        assert schemas[name]["required"] == list(schemas[name]["properties"]), name


async def test_every_schema_and_every_member_has_a_description(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for member, its in schema.get("properties", {}).items():
            assert "description" in its or "$ref" in its, (name, member)


async def test_a_member_with_a_default_is_not_required(document: dict[str, Any]) -> None:
    """openapi-typescript requires a member with a default, so the default is in the description."""
    for node in nodes(document["components"]):
        assert "default" not in node, node
    members = document["components"]["schemas"]["EnrollmentRequest"]
    assert members["required"] == ["course_ids"]
    assert members["properties"]["mode"]["description"] == "Default: `atomic`."


async def test_codes_and_types_are_components_that_list_every_value(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ProblemCode"]["enum"] == sorted(problem_types())
    assert schemas["RefusalCode"]["enum"] == list(SENTENCES)
    assert set(schemas["RefusalCode"]["enum"]) < set(schemas["DetailCode"]["enum"])
    # Only the named components list values; everything else refers to them.
    for name, schema in schemas.items():
        for node in nodes(schema.get("properties", {})):
            listed = node.get("enum", [])
            assert not isinstance(listed, list) or not listed or name in {"StudentState", "InstructorState"}, (
                name,
                node,
            )
    types = set(schemas["Event"]["discriminator"]["mapping"])
    for reference in schemas["Event"]["oneOf"]:
        event = schemas[reference["$ref"].rsplit("/", 1)[1]]
        its = schemas[event["properties"]["type"]["$ref"].rsplit("/", 1)[1]]
        types -= set(its.get("enum", [its.get("const")]))
    assert not types


async def test_operations_that_cannot_be_undone_have_no_example_ids(
    operations: dict[tuple[str, str], dict[str, Any]],
) -> None:
    filled = {
        name
        for name, operation in operations.items()
        for parameter in operation.get("parameters", [])
        if "example" in parameter or "examples" in parameter or "examples" in parameter["schema"]
    }
    final = {name for name in operations if name[0] == "DELETE" or name[1].endswith(("/cancel", "/complete", "/swap"))}
    assert not filled & final
    assert ("GET", "/students/{student_id}") in filled


async def test_the_examples_match_their_schemas(document: dict[str, Any]) -> None:
    contents = [node for node in nodes(document["paths"]) if "example" in node]
    assert contents
    for content in contents:
        schema = {**content["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(content["example"])
