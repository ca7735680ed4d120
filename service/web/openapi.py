"""The API document, OpenAPI 3.1, generated from the registered endpoints."""

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, get_origin

from aiohttp import web
from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from service.errors import DomainError
from service.web.endpoint import HEADERS, Call, Endpoint, endpoint
from service.web.paging import Page
from service.web.problems import PROBLEM_JSON, NoSuchPath, Problem, type_of

REF = "#/components/schemas/{model}"
Mode = Literal["validation", "serialization"]

ETAGS = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
REQUEST_HEADERS = {
    "if_match": "Apply only if the resource has this version: an ETag, several, or * for any version.",
    "if_none_match": "Apply only if the resource does not have this version; * only if it does not exist.",
}
ANSWER_HEADERS = {
    "X-Request-Id": "Id of the request, from the caller or new. The log and the events have it too.",
    "ETag": "The version, in quotes: pass it as If-Match to change only this version.",
    "Location": "The path of the created resource.",
    "Link": "The next page, with rel=next; absent on the last one.",
    "Retry-After": "Seconds to wait before the next try.",
}


@dataclass(frozen=True, slots=True)
class About:
    """The title, version and description of the API."""

    title: str
    version: str
    description: str
    tags: Sequence[tuple[str, str]]
    """Names and descriptions; an endpoint's tag is the name of its module."""


def build(about: About, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Build the document of these endpoints."""
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
        "components": {
            "schemas": schemas.components,
            "headers": {
                name: {"description": description, "schema": {"type": "string"}}
                for name, description in ANSWER_HEADERS.items()
            },
        },
    }


class _Generator(GenerateJsonSchema):
    """Names a page of students ``StudentPage``, and requires what an answer always has, its defaults too."""

    def normalize_name(self, name: str) -> str:
        """Put the kind of page last."""
        return super().normalize_name(re.sub(r"^(\w+)\[(\w+)\]$", r"\2\1", name))

    def field_is_required(self, field: Any, total: bool) -> bool:
        """Return whether a member is always present."""
        always = self.mode == "serialization" and field["type"] != "typed-dict-field"
        return always or super().field_is_required(field, total)


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
        self._bodies, definitions = TypeAdapter.json_schemas(bodies, ref_template=REF, schema_generator=_Generator)
        self.components = {name: _for_readers(schema) for name, schema in definitions["$defs"].items()}
        self._parameters, definitions = TypeAdapter.json_schemas(parameters, ref_template=REF)
        self._models = definitions.get("$defs", {})

    def of(self, use: str, mode: Mode) -> dict[str, Any]:
        schema: dict[str, Any] = _for_readers(self._bodies[use, mode])
        return schema

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema that a reference points to, or the schema itself."""
        return self.components[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema

    def parameters(self, use: str) -> tuple[dict[str, Any], list[str]]:
        """Return the schemas by name, and the names of those required."""
        schema = self._parameters[use, "validation"]
        if "$ref" in schema:
            schema = self._models[schema["$ref"].rsplit("/", 1)[1]]
        return {name: _for_readers(item) for name, item in schema["properties"].items()}, schema.get("required", [])


def _operation_id(item: Endpoint) -> str:
    return item.handler.__name__


def _operation(item: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    name = _operation_id(item)
    summary, _, description = _prose(item.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [item.handler.__module__.rsplit(".", 1)[1]],
        "summary": summary.removesuffix("."),
        "description": description.strip(),
        "parameters": list(_parameters(item, schemas)),
        "responses": _responses(item, schemas),
    }
    if item.body is not None:
        content: dict[str, Any] = {"schema": schemas.of(name, "validation")}
        if examples := schemas.resolved(content["schema"]).get("examples"):
            content["example"] = examples[0]
        operation["requestBody"] = {
            "required": True,
            "content": dict.fromkeys(item.media_types, content),
        }
    return {key: value for key, value in operation.items() if value}


def _parameters(item: Endpoint, schemas: _Schemas) -> Iterable[dict[str, Any]]:
    for place, model in (("path", item.path_model), ("query", item.query_model)):
        if model is not None:
            properties, required = schemas.parameters(f"{_operation_id(item)} {place}")
            for name, schema in properties.items():
                yield _parameter(name, place, _not_null(schema), required=place == "path" or name in required)
    for header in HEADERS if item.method == "GET" and item.has_etag else item.headers:
        yield _parameter(
            HEADERS[header],
            "header",
            {"type": "string", "pattern": ETAGS, "description": REQUEST_HEADERS[header]},
            required=False,
        )
    if item.writes:
        yield _parameter(
            "X-Actor",
            "header",
            {
                "type": "string",
                "pattern": "^[!-~]([ -~]{0,198}[!-~])?$",
                "description": "On whose behalf the change is made; recorded in events. Not authenticated.",
            },
            required=False,
        )


def _parameter(name: str, place: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    schema = dict(schema)
    description = schema.pop("description", "")
    parameter = {"name": name, "in": place, "required": required, "schema": schema}
    return {**parameter, "description": description} if description else parameter


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from an optional parameter: a URL can't hold null."""
    match schema.get("type"):
        case [kind, "null"]:
            return {"type": kind, **{key: value for key, value in schema.items() if key not in {"type", "default"}}}
    return schema


def _responses(item: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in item.statuses:
        headers = ["X-Request-Id"]
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if item.answer is not None:
            response["content"] = {"application/json": {"schema": schemas.of(_operation_id(item), "serialization")}}
            if item.has_etag:
                headers += ["ETag", "Location"] if status == 201 else ["ETag"]
            if get_origin(item.answer_type) is Page:
                headers.append("Link")
        elif item.answer_type is None:
            response["content"] = {"application/json": {"schema": {"type": "object"}}}
        responses[str(status)] = {**response, "headers": _headers(headers)}
    if item.method == "GET" and item.has_etag:
        description = "What is here has a version that If-None-Match names."
        responses["304"] = {"description": description, "headers": _headers(["X-Request-Id", "ETag"])}
    by_status: dict[int, list[type[DomainError]]] = {}
    for problem in item.problems:
        by_status.setdefault(problem.status, []).append(problem)
    for status, problems in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "\n\n".join(
                f"`{problem.code}`: {_prose(problem.__doc__ or '')}" for problem in dict.fromkeys(problems)
            ),
            "headers": _headers(["X-Request-Id", *(["Retry-After"] if problems[0].retry_after else [])]),
            "content": {PROBLEM_JSON: {"schema": {"$ref": REF.format(model="Problem")}}},
        }
    return responses


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _for_readers(schema: Any) -> Any:
    """Drop the titles that Pydantic derives from field names, merge null into the type, convert prose to Markdown."""
    if isinstance(schema, list):
        return [_for_readers(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    match schema.get("anyOf"):
        case [{"type": str(kind), **rest}, {"type": "null"}]:
            others = {key: value for key, value in schema.items() if key != "anyOf"}
            schema = {"type": [kind, "null"], **rest, **others}
    readable: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "description" and isinstance(value, str):
            readable[key] = _prose(value)
        elif key == "examples":
            readable[key] = value
        elif key != "title" or not isinstance(value, str):
            readable[key] = _for_readers(value)
    return readable


def _prose(docstring: str) -> str:
    """Convert a docstring to Markdown."""
    return inspect.cleandoc(docstring).replace("``", "`")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """The explanation of a kind of problem."""

    type: str
    title: str
    status: int
    description: str

    @classmethod
    def of(cls, code: str, status: int, description: str, title: str = "") -> "ProblemType":
        """Describe the problem with this code."""
        title = title or code.replace("_", " ").capitalize()
        return cls(type_of(code), title, status, _prose(description))


DOCUMENT = web.AppKey("document", bytes)
PROBLEMS: web.AppKey[list[ProblemType]] = web.AppKey("problems", list)


@endpoint("GET", "/openapi.json", needs_database=False)
async def read_document(call: Call) -> web.Response:
    """Read this document."""
    return web.Response(body=call.request.app[DOCUMENT], content_type="application/json")


@endpoint("GET", "/problems/{name}", problems=[NoSuchPath], needs_database=False)
async def explain_problem(
    call: Call,
    name: Annotated[str, Field(description="The last part of the `type`.", examples=["course-full"])],
) -> ProblemType:
    """Explain the `type` of a problem."""
    for problem in call[PROBLEMS]:
        if problem.type == f"/problems/{name}":
            return problem
    raise NoSuchPath("There is no problem of this kind.")
