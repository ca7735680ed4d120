"""Validation errors: a stable code and a sentence of the service for every error that Pydantic finds."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from service.errors import Detail
from service.web.problems import BadJson, Invalid, invalid

MAX_ERRORS_SHOWN = 100
"""Maximum number of errors that a problem lists: nobody reads more, and each takes time to write."""

CODES: Final[Mapping[str, str]] = {
    "required": "A required member or parameter is missing.",
    "unknown_field": "The body has no such member.",
    "unknown_parameter": "The call has no such query parameter.",
    "wrong_type": "The value has the wrong type, such as a string where a number is expected.",
    "too_short": "A string has too few characters, or an array has too few items.",
    "too_long": "A string has too many characters, or an array has too many items.",
    "too_small": "A number is below the minimum.",
    "too_large": "A number is above the maximum.",
    "not_a_multiple": "A number is not a multiple of the allowed step: it has more than two decimals.",
    "not_an_option": "The value is not one of the allowed options.",
    "not_an_instant": "The string is not an RFC 3339 instant, or is outside the years 1 to 9999.",
    "not_a_date": "The string is not a date in the form YYYY-MM-DD.",
    "repeated": "A query parameter was sent more than once.",
    "not_combinable": "Two query parameters were sent that can't be combined, such as `q` and `sort`.",
    "too_many_members": "The body has more members than any valid body.",
    "invalid_cursor": "The cursor is malformed, or belongs to another list.",
    "invalid_etag": "The header is not a list of entity tags.",
    "invalid_idempotency_key": "The header Idempotency-Key is not one key of 1 to 255 printable ASCII characters.",
    "invalid_actor": "The header X-Actor is not one line of 1 to 200 characters in UTF-8.",
    "not_utf_8": "The path or the query is not percent-encoded UTF-8.",
}
"""The error codes of invalid requests that do not depend on the domain, each with its meaning."""

TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("required", "{field} is required."),
    "extra_forbidden": ("unknown_field", "{field} is not a field of this body: remove it."),
    "model_type": ("wrong_type", "{field} must be an object."),
    "model_attributes_type": ("wrong_type", "{field} must be an object."),
    "dict_type": ("wrong_type", "{field} must be an object."),
    "list_type": ("wrong_type", "{field} must be an array."),
    "tuple_type": ("wrong_type", "{field} must be an array."),
    "string_type": ("wrong_type", "{field} must be a string."),
    "bool_type": ("wrong_type", "{field} must be true or false."),
    "int_type": ("wrong_type", "{field} must be a whole number."),
    "int_from_float": ("wrong_type", "{field} must be a whole number."),
    "int_parsing": ("wrong_type", "{field} must be a whole number in plain digits."),
    "int_parsing_size": ("too_large", "{field} must be {range}."),
    "float_type": ("wrong_type", "{field} must be a number."),
    "finite_number": ("wrong_type", "{field} must be a number that is {range}."),
    "greater_than_equal": ("too_small", "{field} must be {range}."),
    "less_than_equal": ("too_large", "{field} must be {range}."),
    "string_too_short": ("too_short", "{field} must have {range} characters."),
    "string_too_long": ("too_long", "{field} must have {range} characters."),
    "too_short": ("too_short", "{field} must contain {range} {items}."),
    "too_long": ("too_long", "{field} must contain {range} {items}."),
    "literal_error": ("not_an_option", "{field} must be {options}."),
    "date_from_datetime_parsing": ("not_a_date", "{field} must be a date that exists, such as 2026-09-01."),
    "date_parsing": ("not_a_date", "{field} must be a date that exists, such as 2026-09-01."),
    "datetime_from_date_parsing": ("not_an_instant", "{field} must be an instant that exists, such as 2026-09-01T08:00:00Z."),
    "datetime_parsing": ("not_an_instant", "{field} must be an instant that exists, such as 2026-09-01T08:00:00Z."),
}  # fmt: skip
"""The code and the sentence of each of Pydantic's error types that the models can cause. A test finds missing ones."""

POSITION: Final = re.compile(r"at line (\d+) column (\d+)$")


def wrong(code: str, sentence: str) -> PydanticCustomError:
    """Return the error of a custom validator; ``{field}`` in the sentence becomes the name of the field."""
    return PydanticCustomError(code, sentence)


def refused(
    error: ValidationError, source: TypeAdapter[Any] | type[BaseModel], *, parameters: bool
) -> BadJson | Invalid:
    """Convert the errors of a validation of ``source``; a detail names a parameter, or points into the body."""
    found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return BadJson(_bad_json(found[0]))
    details = [_detail(item, source, parameters=parameters) for item in found[:MAX_ERRORS_SHOWN]]
    return invalid(details, more=len(found) - len(details))


def _bad_json(item: ErrorDetails) -> str:
    position = POSITION.search(item["msg"])
    where = f": it ends early or has an error at line {position[1]}, column {position[2]}" if position else ""
    return f"The body is not valid JSON in UTF-8{where}."


def _detail(item: ErrorDetails, source: TypeAdapter[Any] | type[BaseModel], *, parameters: bool) -> Detail:
    location, schema = _place(_json_schema(source), item["loc"])
    path = [str(part).replace("~", "~0").replace("/", "~1") for part in location]
    field = "/".join(path) or "The body"
    code, sentence = TYPES.get(item["type"], (item["type"], item["msg"]))
    if parameters and item["type"] == "extra_forbidden":
        code, sentence = "unknown_parameter", "{field} is not a parameter of this call: remove it."
    if "{range}" in sentence or "{options}" in sentence:
        sentence = _with_limits(sentence, schema)
    sentence = sentence.replace("{field}", field)
    if parameters:
        return Detail(code, sentence, parameter=field)
    return Detail(code, sentence, pointer="".join(["#", *(f"/{part}" for part in path)]))


def _with_limits(sentence: str, schema: Mapping[str, Any]) -> str:
    """Fill in the limits, the options and the items of a field from its JSON schema."""
    options = [json.dumps(option, ensure_ascii=False) for option in schema.get("enum", [schema.get("const")])]
    items = "ids" if schema.get("items", {}).get("type") == "integer" else "items"
    return (
        sentence.replace("{range}", _range(schema))
        .replace("{options}", " or ".join(filter(None, [", ".join(options[:-1]), options[-1]])))
        .replace("{items}", items)
    )


def _range(schema: Mapping[str, Any]) -> str:
    least = schema.get("minItems", schema.get("minLength", schema.get("minimum")))
    most = schema.get("maxItems", schema.get("maxLength", schema.get("maximum")))
    if least is None:
        return "" if most is None else f"at most {most:,}"
    return f"at least {least:,}" if most is None else f"between {least:,} and {most:,}"


@cache
def _json_schema(source: TypeAdapter[Any] | type[BaseModel]) -> dict[str, Any]:
    return source.json_schema() if isinstance(source, TypeAdapter) else source.model_json_schema()


def _place(schema: Mapping[str, Any], location: tuple[int | str, ...]) -> tuple[list[int | str], Mapping[str, Any]]:
    """Return the path of a location into the body, and its schema; for a nullable field, the schema without null.

    Where a body may have one of several forms, the location names the form: the constant of its first such member.
    """
    definitions = schema.get("$defs", {})

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        if "anyOf" in node:
            node = node["anyOf"][0]
        return definitions[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    def has_constant(form: Mapping[str, Any], constant: object) -> bool:
        return any(member.get("const") == constant for member in form["properties"].values())

    node, path = resolved(schema), []
    for part in location:
        if "oneOf" in node:
            [node] = [form for form in map(resolved, node["oneOf"]) if has_constant(form, part)]
            continue
        path.append(part)
        members = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
        node = resolved(members)
    return path, node
