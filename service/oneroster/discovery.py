"""The discovery documents: what the service offers of OneRoster, as OpenAPI 3.0."""

import re
from functools import cache, lru_cache
from typing import Any, Final

from aiohttp import web
from pydantic import TypeAdapter

from service import __version__
from service.oneroster import objects
from service.oneroster.endpoints import ROSTER
from service.oneroster.objects import BASES, Version
from service.oneroster.operations import OPERATIONS, Operation
from service.oneroster.token import SCOPE_BASES
from service.web.endpoint import Call, Endpoint, endpoint
from service.web.problems import write_json

TITLES: Final[dict[Version, str]] = {
    "v1p2": "OneRoster 1.2 Rostering service",
    "v1p1": "OneRoster 1.1 Rostering service",
}
PATHS: Final[dict[Version, str]] = {
    "v1p2": "/discovery/onerosterv1p2rostersservice_openapi3_v1p0.json",
    "v1p1": "/discovery/onerosterv1p1_openapi3.json",
}
"""The path of each document below its base; the standard names only the first."""

SCOPES: Final = {
    "roster.readonly": "Read everything.",
    "roster-core.readonly": "Read the collections and their objects, but no collection below an object.",
}
ERRORS: Final = {
    400: "A parameter is not valid: `invalid_filter_field`, `invalid_selection_field` or `invaliddata`.",
    401: "There is no valid access token: `unauthorisedrequest`.",
    403: "The access token lacks the scope: `forbidden`.",
    404: "There is no object with the sourcedId in the path: `unknownobject`.",
    422: "The path is not percent-encoded UTF-8: `invaliddata`.",
    500: "An internal error: `internal_server_error`.",
    503: "The service is too busy, or the database does not answer in time: `server_busy`. Try again after `Retry-After`.",
}
NAMES: Final = {
    "Org": objects.Org,
    "AcademicSession": objects.AcademicSession,
    "Course": objects.Course,
    "Class": objects.Class,
    "Enrollment": objects.Enrollment,
}
STATUS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "imsx_codeMajor": {"type": "string", "enum": ["failure"]},
        "imsx_severity": {"type": "string", "enum": ["error"]},
        "imsx_messageRefIdentifier": {"type": "string", "description": "The id of the request; only in version 1.1."},
        "imsx_description": {"type": "string"},
        "imsx_CodeMinor": {
            "type": "object",
            "properties": {
                "imsx_codeMinorField": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {
                            "imsx_codeMinorFieldName": {"type": "string"},
                            "imsx_codeMinorFieldValue": {"type": "string"},
                        },
                        "required": ["imsx_codeMinorFieldName", "imsx_codeMinorFieldValue"],
                    },
                }
            },
            "required": ["imsx_codeMinorField"],
        },
    },
    "required": ["imsx_codeMajor", "imsx_severity", "imsx_description", "imsx_CodeMinor"],
}


@cache
def _schemas(version: Version) -> dict[str, Any]:
    """Return the schemas of the objects by name."""
    types: dict[str, Any] = {**NAMES, "User": objects.User if version == "v1p2" else objects.User11}
    adapters = [(name, "serialization", TypeAdapter(type)) for name, type in types.items()]
    _, found = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return {name.replace("User11", "User"): _for_3_0(schema) for name, schema in found["$defs"].items()}


@lru_cache(maxsize=16)
def document(version: Version, origin: str, max_limit: int) -> bytes:
    """Return the discovery document of a version, for callers who reach the service at ``origin``."""
    paths = {operation.path: {"get": _operation(operation, version, max_limit)} for operation in OPERATIONS}
    scopes = {f"https://{SCOPE_BASES[version]}{name}": text for name, text in SCOPES.items()}
    return write_json(
        {
            "openapi": "3.0.3",
            "info": {
                "title": TITLES[version],
                "version": __version__,
                "description": "What this service offers of OneRoster: rosters to read, as a provider.",
            },
            "servers": [{"url": f"{origin}{BASES[version]}"}],
            "paths": paths,
            "components": {
                "schemas": {**_schemas(version), "imsx_StatusInfo": STATUS},
                "securitySchemes": {
                    "OAuth2CC": {
                        "type": "oauth2",
                        "flows": {"clientCredentials": {"tokenUrl": f"{origin}/oauth/token", "scopes": scopes}},
                    }
                },
            },
        }
    )


def _for_3_0(schema: Any) -> Any:
    """Convert a schema of Pydantic to one of OpenAPI 3.0, which has no ``const``."""
    if isinstance(schema, list):
        return [_for_3_0(each) for each in schema]
    if not isinstance(schema, dict):
        return "#/components/schemas/User" if schema == "#/components/schemas/User11" else schema
    converted = {name: _for_3_0(each) for name, each in schema.items() if name not in {"title", "const"}}
    # A member of an object may be called title.
    if "properties" in schema:
        converted["properties"] = {name: _for_3_0(each) for name, each in schema["properties"].items()}
    return {**converted, "enum": [schema["const"]]} if isinstance(schema.get("const"), str) else converted


def _operation(operation: Operation, version: Version, max_limit: int) -> dict[str, Any]:
    singular = {"academicSessions": "academicSession", "classes": "class"}
    member = operation.member
    one = member if operation.is_single else singular.get(member, member.removesuffix("s"))
    schema: dict[str, Any] = {"$ref": f"#/components/schemas/{one[0].upper()}{one[1:]}"}
    if not operation.is_single:
        schema = {"type": "array", "items": schema}
    answer = {"type": "object", "properties": {member: schema}, "required": [member], "additionalProperties": False}
    names = ("roster.readonly", "roster-core.readonly") if operation.is_core else ("roster.readonly",)
    headers: dict[str, Any] = {
        "X-Total-Count": {"description": "The number of objects in the whole list.", "schema": {"type": "integer"}}
    }
    if not operation.is_single:
        headers["Link"] = {"description": "The first, previous, next and last page.", "schema": {"type": "string"}}
    unknown = operation.is_single or (version == "v1p2" and "{" in operation.path)
    errors = {status: text for status, text in ERRORS.items() if status != 404 or unknown}
    return {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation, max_limit)],
        "security": [{"OAuth2CC": [f"https://{SCOPE_BASES[version]}{name}"]} for name in names],
        "responses": {
            "200": {"description": "OK", "headers": headers, "content": {"application/json": {"schema": answer}}},
            **{
                str(status): {
                    "description": text,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/imsx_StatusInfo"}}},
                }
                for status, text in errors.items()
            },
        },
    }


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(operation: Operation, max_limit: int) -> list[dict[str, Any]]:
    fields = _query("fields", {"type": "array", "items": {"type": "string"}}, "The members of each object to return.")
    if operation.is_single:
        return [{**fields, "style": "form", "explode": False}]
    limit = {"type": "integer", "default": 100, "minimum": 1, "maximum": max_limit}
    return [
        _query("limit", limit, "The most objects to return."),
        _query("offset", {"type": "integer", "default": 0, "minimum": 0}, "How many objects to skip."),
        _query("sort", {"type": "string"}, "The field to sort by; the order is that of the sourcedIds by default."),
        _query("orderBy", {"type": "string", "enum": ["asc", "desc"]}, "The direction of the sort."),
        _query("filter", {"type": "string"}, "One clause or two, such as `status='active'`."),
        {**fields, "style": "form", "explode": False},
    ]


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _endpoint_of(version: Version) -> Endpoint:
    async def show(call: Call) -> web.Response:
        roster = call[ROSTER]
        body = document(version, roster.origin_of(call), roster.max_limit)
        return web.Response(body=body, content_type="application/json")

    show.__name__, show.__doc__ = f"get_discovery_{version}", f"Return the discovery document of {TITLES[version]}."
    return endpoint("GET", f"{BASES[version]}{PATHS[version]}", scope="public", within="process", parses=False)(show)


ENDPOINTS: Final = [_endpoint_of(version) for version in BASES]
