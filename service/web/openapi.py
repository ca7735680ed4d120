"""The API document, OpenAPI 3.1, generated from the registered endpoints."""

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, cast, get_origin

from aiohttp import web
from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from service.errors import DomainError
from service.web.endpoint import Call, Endpoint, Reply, endpoint
from service.web.etags import HEADERS
from service.web.idempotency import KEY_PATTERN
from service.web.paging import Page
from service.web.problems import PROBLEM_JSON, InternalError, NoSuchPath, Problem, ProblemCode, type_of
from service.web.schema import COMPONENT, MEANING

REF = "#/components/schemas/{model}"
PROBLEM = {PROBLEM_JSON: {"schema": {"$ref": REF.format(model="Problem")}}}
SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": (
            "An API key of the service, or an access token (RFC 9068) of the identity provider. Each call names the "
            "scope that it requires. A service without keys and without a provider is open, and needs none."
        ),
    }
}
Mode = Literal["validation", "serialization"]

ETAGS = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
REQUEST_HEADERS = {
    "if_match": "Apply only if the resource has one of these versions: a list of ETags, or * for any version.",
    "if_none_match": "Apply only if the resource has none of these versions: a list of ETags; * if it must not exist.",
}
STORED_REFUSALS = frozenset({404, 409, 422})
"""Statuses of the refusals that are stored for repeats, since they are decided after validation."""
ANSWER_HEADERS = {
    "X-Request-Id": "Id of the request: the caller's or a new one. The log and the events have the same id.",
    "ETag": (
        "The version, in quotes. Send it as If-Match to change only this version. That of a course is weak and also has its "
        'seats, such as `W/"3-17-2"`: send the version alone, `"3"`.'
    ),
    "Location": "The path of the created resource; from `/`, the path of the API page.",
    "Link": "The next page, with rel=next; absent on the last one.",
    "Retry-After": "Seconds to wait before the next try.",
    "Idempotent-Replayed": "`true` if this is the stored answer of an earlier request with the same Idempotency-Key.",
}


MESSAGES = (
    "Messages of Server-Sent Events. The `data` of a message are one of the `items` of a page, its `id` is the cursor after "
    "it. A message with `event: problem` has a problem document as its data, and is the last one. Lines that begin with "
    "`:` are comments."
)


@dataclass(frozen=True, slots=True)
class About:
    """The title, version and description of the API."""

    title: str
    version: str
    description: str
    contact: str
    tags: Sequence[tuple[str, str]]
    """Names and descriptions of tags. The tag of an endpoint is the name of its module."""


@dataclass(frozen=True, slots=True)
class Example:
    """A call of an operation and its answers by status. Tests execute each example."""

    parameters: Mapping[str, str | int]
    body: object
    answers: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that the service sends, as a request to a URL that a caller has named."""

    name: str
    tag: str
    summary: str
    description: str
    body: Any
    """The type of the body."""
    headers: Mapping[str, str]
    answers: Mapping[str, str]
    """What the receiver answers: the meaning of each status."""
    example: object = None


@dataclass(frozen=True, slots=True)
class Examples:
    """Example calls by operation id, and example problem documents by code."""

    calls: Mapping[str, Example]
    problems: Mapping[str, object]


def build(
    about: About,
    endpoints: Sequence[Endpoint],
    outgoing: Sequence[Outgoing],
    codes: Mapping[str, Sequence[str]],
    examples: Examples,
) -> dict[str, Any]:
    """Return the API document; ``codes`` maps each component that lists codes to its values."""
    schemas = _Schemas(endpoints, outgoing, codes)
    paths: dict[str, Any] = {}
    for item in endpoints:
        example = examples.calls.get(_operation_id(item), NO_EXAMPLE)
        paths.setdefault(item.path, {})[item.method.lower()] = _operation(item, schemas, example, examples.problems)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": about.title,
            "version": about.version,
            "description": about.description,
            "contact": {"name": about.contact},
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": description} for name, description in about.tags],
        "paths": paths,
        "webhooks": {each.name: {"post": _message(each, schemas)} for each in outgoing},
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {
                "InternalError": _problem(f"`{InternalError.code}`: {_prose(InternalError.__doc__ or '')}"),
                "Problem": _problem("Any other problem, such as one of a proxy between the caller and the service."),
            },
            "examples": {code: {"value": problem} for code, problem in examples.problems.items()},
            "securitySchemes": SECURITY_SCHEMES,
            "headers": {
                name: {"description": description, "schema": {"type": "string"}}
                for name, description in ANSWER_HEADERS.items()
            },
        },
    }


class _Generator(GenerateJsonSchema):
    """A schema generator that names a page of students ``StudentPage``, and requires every member of an answer."""

    def normalize_name(self, name: str) -> str:
        """Convert ``Page[Student]`` to ``StudentPage``."""
        return super().normalize_name(re.sub(r"^(\w+)\[(\w+)\]$", r"\2\1", name))

    def field_is_required(self, field: Any, total: bool) -> bool:
        """Return whether a member is always present; in an answer, members with a default are, unless they are left out."""
        optional = field["type"] == "typed-dict-field" or "serialization_exclude_if" in field
        always = self.mode == "serialization" and not optional
        return always or super().field_is_required(field, total)


class _Schemas:
    """The JSON schemas of all bodies and answers; each named schema appears once, under components."""

    def __init__(
        self, endpoints: Sequence[Endpoint], outgoing: Sequence[Outgoing], codes: Mapping[str, Sequence[str]]
    ) -> None:
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
        bodies += [(each.name, "serialization", TypeAdapter(each.body)) for each in outgoing]
        self._bodies, definitions = TypeAdapter.json_schemas(bodies, ref_template=REF, schema_generator=_Generator)
        self._codes = codes
        self.components: dict[str, Any] = {}
        for name, schema in definitions["$defs"].items():
            self.components[name] = self._for_readers(schema)
        self._parameters, definitions = TypeAdapter.json_schemas(parameters, ref_template=REF)
        self._models = definitions.get("$defs", {})

    def of(self, use: str, mode: Mode) -> dict[str, Any]:
        """Return the schema of a body."""
        schema: dict[str, Any] = self._for_readers(self._bodies[use, mode])
        return schema

    def parameters(self, use: str) -> tuple[dict[str, Any], list[str]]:
        """Return the schemas of parameters by name, and the names of the required parameters."""
        schema = self._parameters[use, "validation"]
        if "$ref" in schema:
            schema = self._models[schema["$ref"].rsplit("/", 1)[1]]
        properties = {
            name: self._for_readers(_not_null(item), keep_defaults=True) for name, item in schema["properties"].items()
        }
        return properties, schema.get("required", [])

    def _for_readers(self, schema: Any, *, keep_defaults: bool = False) -> Any:
        """Convert a schema that Pydantic generated.

        Drop the titles, which Pydantic derives from field names, merge null into the type, convert descriptions to
        Markdown, and move named schemas to the components. Write defaults into descriptions: client generators treat a
        member with a default as always present, and require callers to send it.
        """
        if isinstance(schema, list):
            return [self._for_readers(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        match schema.get("anyOf"):
            case [{"type": str(kind), **rest}, {"type": "null"}] if COMPONENT not in rest:
                others = {key: value for key, value in schema.items() if key != "anyOf"}
                schema = {"type": [kind, "null"], **rest, **others}
        readable: dict[str, Any] = {}
        for key, value in schema.items():
            match key:
                case "properties":
                    readable[key] = {name: self._for_readers(item) for name, item in value.items()}
                case "oneOf" if "discriminator" not in schema:
                    # The member by which the forms differ may be left out, which linters of oneOf do not accept.
                    readable["anyOf"] = self._for_readers(value)
                case "items" | "anyOf" | "oneOf" | "additionalProperties":
                    readable[key] = self._for_readers(value)
                case "description":
                    readable[key] = _prose(value)
                case "title":
                    pass
                case _:
                    readable[key] = value
        if "default" in schema and not keep_defaults:
            default = readable.pop("default")
            if default not in (None, []) and "const" not in schema:
                text = default if isinstance(default, str) else json.dumps(default)
                readable["description"] = f"{readable.get('description', '')} Default: `{text}`.".strip()
        return self._component(readable) if COMPONENT in readable else readable

    def _component(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Move a named schema to the components, and return a reference to it."""
        name, meaning = schema.pop(COMPONENT), schema.pop(MEANING)
        rest: dict[str, Any] = {key: schema.pop(key) for key in ("description", "default") if key in schema}
        if name in self._codes:
            schema["enum"] = list(self._codes[name])
        self.components[name] = {"description": meaning, **schema}
        return {"$ref": REF.format(model=name), **rest}


def _operation_id(item: Endpoint) -> str:
    return item.handler.__name__


def tag_of(item: Endpoint) -> str:
    """Return the tag of an operation: the name of its module."""
    return item.handler.__module__.rsplit(".", 1)[1]


def summary_of(item: Endpoint) -> str:
    """Return the summary of an operation: the first line of its docstring."""
    return _prose(item.handler.__doc__ or "").partition("\n")[0].removesuffix(".")


NO_EXAMPLE = Example({}, None, {})


def _operation(item: Endpoint, schemas: _Schemas, example: Example, problems: Mapping[str, object]) -> dict[str, Any]:
    name = _operation_id(item)
    description = _prose(item.handler.__doc__ or "").partition("\n")[2]
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [tag_of(item)],
        "summary": summary_of(item),
        "description": f"{description.strip()}{_scope(item)}",
        "parameters": list(_parameters(item, schemas, example)),
        "responses": _responses(item, schemas, example, problems),
        "security": [] if item.scope == "public" else [{"bearer": []}],
    }
    if item.body is not None:
        content: dict[str, Any] = {"schema": schemas.of(name, "validation")}
        if example.body is not None:
            content["example"] = example.body
        operation["requestBody"] = {
            "required": True,
            "content": dict.fromkeys(item.media_types, content),
        }
    if item.uploads:
        operation["requestBody"] = {
            "required": True,
            "content": {each: _file(each) for each in item.uploads},
        }
    return {key: value for key, value in operation.items() if value or key == "security"}


def _file(media_type: str) -> dict[str, Any]:
    # Generators of clients know the format, which the standard has replaced by the media type.
    return {"schema": {"type": "string", "format": "binary", "minLength": 1, "contentMediaType": media_type}}


def _message(item: Outgoing, schemas: _Schemas) -> dict[str, Any]:
    """Return the operation of a receiver. The security is that of the signature, which OpenAPI has no scheme for."""
    content: dict[str, Any] = {"schema": schemas.of(item.name, "serialization")}
    if item.example is not None:
        content["example"] = item.example
    return {
        "operationId": item.name,
        "tags": [item.tag],
        "summary": item.summary,
        "description": item.description,
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": description}
            for name, description in item.headers.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {status: {"description": description} for status, description in item.answers.items()},
        "security": [],
    }


def _scope(item: Endpoint) -> str:
    """Return the sentence about the scope. OpenAPI has a place for the scopes of OAuth 2 only."""
    if item.scope == "any":
        return "\n\nRequires no scope: every authenticated caller may make it."
    dry_run = "; a dry run requires only `read`" if item.previews else ""
    return "" if item.scope == "public" else f"\n\nRequires the scope `{item.scope}`{dry_run}."


def _parameters(item: Endpoint, schemas: _Schemas, example: Example) -> Iterable[dict[str, Any]]:
    for place, model in (("path", item.path_model), ("query", item.query_model)):
        if model is not None:
            properties, required = schemas.parameters(f"{_operation_id(item)} {place}")
            for name, schema in properties.items():
                parameter = _parameter(name, place, schema, required=place == "path" or name in required)
                # The API page fills in examples; a final call must not be one careless click away.
                if place == "path" and name in example.parameters and not item.final:
                    parameter["example"] = example.parameters[name]
                yield parameter
    for header in HEADERS if item.method == "GET" and item.has_etag else item.headers:
        yield _parameter(
            HEADERS[header],
            "header",
            {"type": "string", "pattern": ETAGS, "description": REQUEST_HEADERS[header]},
            required=False,
        )
    if item.streams:
        yield _parameter(
            "Last-Event-ID",
            "header",
            {
                "type": "string",
                "maxLength": 200,
                "description": "With `Accept: text/event-stream`: the id of the last message. It takes precedence over `after`.",
            },
            required=False,
        )
    if item.takes_key:
        yield _parameter(
            "Idempotency-Key",
            "header",
            {
                "type": "string",
                "pattern": KEY_PATTERN,
                "description": (
                    "A new key for each new request, such as a UUID. A repeat with the same key changes nothing and gets "
                    "the stored answer of the first request, for a day."
                ),
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
                "description": "For whom the caller makes the change. Events record it as `on_behalf_of`.",
            },
            required=False,
        )


def _parameter(name: str, place: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    schema = dict(schema)
    description = schema.pop("description", "")
    schema.pop("examples", None)
    parameter = {"name": name, "in": place, "required": required, "schema": schema}
    return {**parameter, "description": description} if description else parameter


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from an optional parameter: a URL can't hold null."""
    match schema.get("anyOf"):
        case [dict(kind), {"type": "null"}]:
            return {**kind, **{key: value for key, value in schema.items() if key not in {"anyOf", "default"}}}
    return schema


def _responses(item: Endpoint, schemas: _Schemas, example: Example, shown: Mapping[str, object]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in item.statuses:
        headers = ["X-Request-Id", *(["Idempotent-Replayed"] if item.takes_key else [])]
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if item.answer is not None:
            content: dict[str, Any] = {"schema": schemas.of(_operation_id(item), "serialization")}
            if str(status) in example.answers:
                content["example"] = example.answers[str(status)]
            messages = {"text/event-stream": _messages(example.answers.get(str(status)))} if item.streams else {}
            response["content"] = {"application/json": content, **messages}
            if item.has_etag:
                headers += ["ETag", "Location"] if status == 201 else ["ETag"]
            if get_origin(item.answer_type) is Page:
                headers.append("Link")
            if status == HTTPStatus.SEE_OTHER:
                headers.append("Location")
        elif item.answer_type is None:
            response["content"] = {each: _file(each) for each in item.downloads} or {
                "application/json": {"schema": {"type": "object"}}
            }
        responses[str(status)] = {**response, "headers": _headers(headers)}
    if item.method == "GET" and item.has_etag:
        description = "The resource has an ETag that If-None-Match names."
        responses["304"] = {"description": description, "headers": _headers(["X-Request-Id", "ETag"])}
    by_status: dict[int, list[type[DomainError]]] = {}
    for problem in item.problems:
        by_status.setdefault(problem.status, []).append(problem)
    for status, problems in sorted(by_status.items()):
        description = "\n\n".join(
            f"`{problem.code}`: {_prose(problem.__doc__ or '')}" for problem in dict.fromkeys(problems)
        )
        headers = ["Retry-After"] if any(problem.retry_after for problem in problems) else []
        if item.takes_key and status in STORED_REFUSALS:
            headers.append("Idempotent-Replayed")
        response = _problem(description, *headers)
        examples = {
            problem.code: {"$ref": f"#/components/examples/{problem.code}"}
            for problem in problems
            if problem.code in shown
        }
        if examples:
            response["content"] = {PROBLEM_JSON: {**PROBLEM[PROBLEM_JSON], "examples": examples}}
        responses[str(status)] = response
    responses["500"] = {"$ref": "#/components/responses/InternalError"}
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    return responses


def _problem(description: str, *headers: str) -> dict[str, Any]:
    return {"description": description, "headers": _headers(["X-Request-Id", *headers]), "content": PROBLEM}


def _messages(page: Any) -> dict[str, Any]:
    """Return the description of a stream, with the first item of an example page as a message."""
    content: dict[str, Any] = {"schema": {"type": "string", "description": MESSAGES}}
    if page is not None and page["items"]:
        content["example"] = f"id: {page['next']}\ndata: {json.dumps(page['items'][0], separators=(',', ':'))}\n\n"
    return content


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _prose(docstring: str) -> str:
    """Convert a docstring to Markdown."""
    return inspect.cleandoc(docstring).replace("``", "`")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """The explanation of a problem code."""

    type: Annotated[str, Field(description="The path of this page.")]
    code: ProblemCode
    title: Annotated[str, Field(description="A short summary of the problem code.")]
    status: Annotated[int, Field(description="The HTTP status, the same for every problem with this code.")]
    description: Annotated[str, Field(description="An explanation of the problem, in Markdown.")]

    @classmethod
    def of(cls, code: str, status: int, description: str, title: str = "") -> "ProblemType":
        """Return the explanation of a code."""
        title = title or code.replace("_", " ").capitalize()
        return cls(type_of(code), code, title, status, _prose(description))


DOCUMENT: web.AppKey[partial[bytes]] = web.AppKey("document", partial)
PROBLEMS: web.AppKey[dict[str, ProblemType]] = web.AppKey("problems", dict)


@dataclass(frozen=True, slots=True)
class Index:
    """The name and version of the service, and the paths to start from."""

    service: Annotated[str, Field(description="The name of the service.")]
    service_version: Annotated[str, Field(description="Its version.")]
    links: Annotated[dict[str, str], Field(description="The paths that can be read without an id, by name.")]

    @classmethod
    def of(cls, about: About, endpoints: Iterable[Endpoint], prefix: str = "") -> "Index":
        """Build the index of the endpoints that can be read without an id; ``prefix`` begins their paths."""
        paths = [item.path for item in endpoints if item.method == "GET" and "{" not in item.path and item.path != "/"]
        return cls(about.title, about.version, {_name(path): f"{prefix}{path}" for path in paths})


def _name(path: str) -> str:
    return path.strip("/").removesuffix(".json").replace("/", "_")


INDEX = web.AppKey("index", Index)

START: web.AppKey[Callable[[], web.Response] | None] = web.AppKey("start", object)  # type: ignore[arg-type]
"""Return the page that shows people the way to the console and to the API page; None without the console."""


@endpoint("GET", "/", scope="public", status=(200, 303), needs_database=False)
async def read_index(call: Call) -> Reply[Index]:
    """Read the paths to start from.

    A client that accepts `text/html`, such as a browser, gets a page with the ways to the console and to the API page; without
    the console it is redirected to the API page.
    """
    vary = {"Vary": "Accept"}
    if "text/html" in call.request.headers.get("Accept", ""):
        if (start := call[START]) is not None:
            page = start()
            page.headers.update(vary)
            return cast(Reply[Index], page)
        return Reply(call[INDEX], 303, {**vary, "Location": "/docs"})
    return Reply(call[INDEX], 200, vary)


@endpoint("GET", "/openapi.json", scope="public", needs_database=False)
async def read_document(call: Call) -> web.Response:
    """Read this document.

    The document is OpenAPI 3.1, and is generated from the code of the routes. `/docs` displays it.
    """
    # The first call makes the document, which takes longer than others may wait.
    return web.Response(body=await asyncio.to_thread(call.request.app[DOCUMENT]), content_type="application/json")


@endpoint("GET", "/problems/{code}", scope="public", problems=[NoSuchPath], needs_database=False)
async def explain_problem(
    call: Call,
    code: Annotated[ProblemCode, Field(description="The `code` of the problem.")],
) -> ProblemType:
    """Explain a problem code.

    The `type` of a problem is the path of this page. The explanation is the same as in the responses of this document.
    """
    problem = call[PROBLEMS].get(code)
    if problem is None:
        raise NoSuchPath("No problem has this code.")
    return problem
