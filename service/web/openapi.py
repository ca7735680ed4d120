"""The API document, OpenAPI 3.1, made of the very endpoints that serve; and the page that shows it."""

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Literal

from aiohttp import web
from pydantic import TypeAdapter

from service.errors import DomainError
from service.web.endpoint import HEADERS, Call, Endpoint, endpoint
from service.web.problems import PROBLEM_JSON, NoSuchPath, Problem, type_of

REF = "#/components/schemas/{model}"
Mode = Literal["validation", "serialization"]


@dataclass(frozen=True, slots=True)
class About:
    """What the document says of the whole."""

    title: str
    version: str
    description: str
    tags: Sequence[tuple[str, str]]
    """Names and descriptions; an endpoint's tag is the name of its module."""


def build(about: About, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Write the document of these endpoints."""
    schemas = _Schemas(endpoints)
    paths: dict[str, Any] = {}
    for item in endpoints:
        paths.setdefault(item.path, {})[item.method.lower()] = _operation(item, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": about.title,
            "version": about.version,
            "description": about.description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in about.tags],
        "paths": paths,
        "components": {"schemas": schemas.components},
    }


class _Schemas:
    """The JSON schemas of all bodies and answers, each named thing once under components."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        bodies: list[tuple[str, Mode, TypeAdapter[Any]]] = [("Problem", "serialization", TypeAdapter(Problem))]
        parameters: list[tuple[str, Mode, TypeAdapter[Any]]] = []
        for item in endpoints:
            name = _operation_id(item)
            if item.body is not None:
                bodies.append((name, "validation", item.body))
            if item.answer is not None:
                bodies.append((name, "serialization", item.answer))
            for place, model in (("path", item.path_model), ("query", item.query_model)):
                if model is not None:
                    parameters.append((f"{name} {place}", "validation", TypeAdapter(model)))
        self._bodies, definitions = TypeAdapter.json_schemas(bodies, ref_template=REF)
        self.components = {name: _without_titles(schema) for name, schema in definitions["$defs"].items()}
        self._parameters, definitions = TypeAdapter.json_schemas(parameters, ref_template=REF)
        self._models = definitions.get("$defs", {})

    def of(self, use: str, mode: Mode) -> dict[str, Any]:
        schema: dict[str, Any] = _without_titles(self._bodies[use, mode])
        return schema

    def parameters(self, use: str) -> tuple[dict[str, Any], list[str]]:
        """Return the schemas by name, and the names of those required."""
        schema = self._parameters[use, "validation"]
        if "$ref" in schema:
            schema = self._models[schema["$ref"].rsplit("/", 1)[1]]
        return {name: _without_titles(item) for name, item in schema["properties"].items()}, schema.get("required", [])


def _operation_id(item: Endpoint) -> str:
    return item.handler.__name__


def _operation(item: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    name = _operation_id(item)
    summary, _, description = (item.handler.__doc__ or "").strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [item.handler.__module__.rsplit(".", 1)[1]],
        "summary": summary.removesuffix("."),
        "description": re.sub(r"\n +", "\n", description).strip(),
        "parameters": list(_parameters(item, schemas)),
        "responses": _responses(item, schemas),
    }
    if item.body is not None:
        schema = schemas.of(name, "validation")
        operation["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": schema} for media_type in item.media_types},
        }
    return {key: value for key, value in operation.items() if value}


def _parameters(item: Endpoint, schemas: _Schemas) -> Iterable[dict[str, Any]]:
    for place, model in (("path", item.path_model), ("query", item.query_model)):
        if model is not None:
            properties, required = schemas.parameters(f"{_operation_id(item)} {place}")
            for name, schema in properties.items():
                yield _parameter(name, place, _not_null(schema), required=place == "path" or name in required)
    for header in item.headers:
        yield _parameter(
            HEADERS[header],
            "header",
            {
                "type": "string",
                "pattern": r'^(\*|"[0-9]+")$',
                "description": "The ETag of the version that is meant, or * for any that exists."
                if header == "if_match"
                else "* to do it only where nothing exists yet.",
            },
            required=False,
        )
    if item.writes:
        yield _parameter(
            "X-Actor",
            "header",
            {
                "type": "string",
                "pattern": "^[!-~]([ -~]{0,198}[!-~])?$",
                "description": "On whose behalf; told by the events. Not authenticated.",
            },
            required=False,
        )


def _parameter(name: str, place: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    schema = dict(schema)
    description = schema.pop("description", "")
    parameter = {"name": name, "in": place, "required": required, "schema": schema}
    return {**parameter, "description": description} if description else parameter


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Say of an optional parameter what it is when it is there: null can't be written in a URL."""
    variants = [variant for variant in schema.get("anyOf", []) if variant != {"type": "null"}]
    if not variants:
        return schema
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
    return {**(variants[0] if len(variants) == 1 else {"anyOf": variants}), **rest}


def _responses(item: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in item.statuses:
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase, "headers": {"X-Request-Id": _TEXT}}
        if item.answer is not None:
            response["content"] = {"application/json": {"schema": schemas.of(_operation_id(item), "serialization")}}
            if getattr(item.answer_type, "__dataclass_fields__", {}).get("version"):
                response["headers"]["ETag"] = {"description": "The version, in quotes.", **_TEXT}
        responses[str(status)] = response
    by_status: dict[int, list[type[DomainError]]] = {}
    for problem in item.problems:
        by_status.setdefault(problem.status, []).append(problem)
    for status, problems in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "\n\n".join(
                f"`{problem.code}`: {(problem.__doc__ or '').strip()}" for problem in dict.fromkeys(problems)
            ),
            "headers": {"X-Request-Id": _TEXT},
            "content": {PROBLEM_JSON: {"schema": {"$ref": REF.format(model="Problem")}}},
        }
    return responses


_TEXT: dict[str, Any] = {"schema": {"type": "string"}}


def _without_titles(schema: Any) -> Any:
    """Leave away the titles that Pydantic makes of field names: they say nothing that the names don't."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)
        }
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    return schema


@dataclass(frozen=True, slots=True)
class ProblemType:
    """What a kind of problem means."""

    type: str
    title: str
    status: int
    description: str

    @classmethod
    def of(cls, code: str, status: int, description: str, title: str = "") -> "ProblemType":
        """Describe the problem with this code."""
        title = title or code.replace("_", " ").capitalize()
        return cls(type_of(code), title, status, inspect.cleandoc(description).replace("``", "`"))


DOCUMENT = web.AppKey("document", bytes)
PROBLEMS: web.AppKey[list[ProblemType]] = web.AppKey("problems", list)

PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Enrollment service: API</title>
<link rel="icon" href="data:,">
<script src="/docs/rapidoc-min.js" defer></script>
</head>
<body>
<rapi-doc spec-url="/openapi.json" render-style="read" theme="light" primary-color="#1f5f99"
  load-fonts="false" regular-font="system-ui, sans-serif" mono-font="ui-monospace, monospace"
  show-header="false" allow-server-selection="false" allow-authentication="false"
  allow-spec-file-download="true" schema-style="table" schema-description-expanded="true"
  show-method-in-nav-bar="as-colored-text" use-path-in-nav-bar="true" default-api-server="/"></rapi-doc>
</body>
</html>
"""
SCRIPT = files("openapi_ui_bundles.rapidoc") / "vendor" / "rapidoc-min.js"


@endpoint("GET", "/openapi.json")
async def read_document(call: Call) -> web.Response:
    """Read this document."""
    return web.Response(body=call.request.app[DOCUMENT], content_type="application/json")


@endpoint("GET", "/docs")
async def show_page(_call: Call) -> web.Response:
    """Show the API page."""
    return web.Response(body=PAGE, content_type="text/html", charset="utf-8")


@endpoint("GET", "/docs/rapidoc-min.js")
async def read_script(_call: Call) -> web.Response:
    """Read the script of the API page."""
    headers = {"Cache-Control": "max-age=3600"}
    return web.Response(body=SCRIPT.read_bytes(), content_type="text/javascript", charset="utf-8", headers=headers)


@endpoint("GET", "/problems/{name}", problems=[NoSuchPath])
async def explain_problem(call: Call, name: str) -> ProblemType:
    """Explain the `type` of a problem."""
    for problem in call[PROBLEMS]:
        if problem.type == f"/problems/{name}":
            return problem
    raise NoSuchPath("There is no such kind of problem.")
