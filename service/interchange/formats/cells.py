"""Cells of CSV files as values: what the formats share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from unicodedata import normalize

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.api.fields import Grade
from service.interchange.rows import MAX_KEY, Wrong
from service.web.problems import Invalid
from service.web.validation import refused

GRADE: Final[TypeAdapter[str]] = TypeAdapter(Grade)
TRUTH: Final = {"true": True, "false": False}


def check_key(text: str, column: str) -> str:
    """Return a key in normal form C.

    Raises:
        Wrong: it is empty, too long, or has a control character.
    """
    if not text:
        raise Wrong("required", f"{column} is required.", column)
    if not text.isascii():
        text = normalize("NFC", text[: MAX_KEY + 1])
    if len(text) > MAX_KEY:
        raise Wrong("too_long", f"{column} must have at most {MAX_KEY} characters.", column)
    if not text.isprintable():
        raise Wrong("forbidden_character", f"{column} must be one line of text without control characters.", column)
    return text


def number(text: str, column: str) -> float | None:
    """Return a number, or None for an empty cell."""
    if not text:
        return None
    try:
        return float(text) if text.isascii() else float("nan")
    except ValueError as error:
        raise Wrong("wrong_type", f"{column} must be a number, such as 3 or 1.5.", column) from error


def whole(text: str, column: str) -> int | None:
    """Return a whole number, or None for an empty cell."""
    if not text:
        return None
    if not (text.isascii() and text.lstrip("-").isdigit() and len(text) <= 19):
        raise Wrong("wrong_type", f"{column} must be a whole number in plain digits.", column)
    return int(text)


def truth(text: str, column: str) -> bool | None:
    """Return true or false, or None for an empty cell."""
    if not text:
        return None
    if (found := TRUTH.get(text.lower())) is None:
        raise Wrong("wrong_type", f"{column} must be true or false.", column)
    return found


def text(text: str, _column: str) -> str | None:
    """Return a text, or None for an empty cell."""
    return text or None


def listed(text: str, _column: str) -> list[str]:
    """Return the texts that a cell lists with commas."""
    return [each for part in text.split(",") if (each := part.strip())]


Parse = Callable[[str, str], object]
"""Turns a cell, given with the name of its column, into a value of the API."""


def grade(text: str, column: str) -> str | None:
    """Return a grade in normal form, or None for an empty cell."""
    if not text:
        return None
    try:
        return GRADE.validate_python(text)
    except ValidationError as error:
        raise wrong_of(error, TypeAdapter(Grade), {"": column}, column) from error


def fields_of(
    model: type[BaseModel], values: Mapping[str, Any], given: Sequence[str], columns: Mapping[str, str]
) -> dict[str, Any]:
    """Return the given fields as the API writes them, after a model of the API has validated all values.

    ``columns`` names the columns of fields that have another name in the file.

    Raises:
        Wrong: a value is not valid.
    """
    try:
        found = model.model_validate(values)
    except ValidationError as error:
        raise wrong_of(error, model, columns, "") from error
    return found.model_dump(mode="json", include={*given}, by_alias=True)


def wrong_of(
    error: ValidationError, source: type[BaseModel] | TypeAdapter[Any], columns: Mapping[str, str], column: str
) -> Wrong:
    """Return the first error of a validation as that of a column."""
    problem = refused(error, source, parameters=False)
    if not isinstance(problem, Invalid) or not problem.errors:
        return Wrong(problem.code, problem.detail, column)
    detail = problem.errors[0]
    field = (detail.pointer or "#").removeprefix("#").strip("/").partition("/")[0]
    named = columns.get(field, field or column)
    sentence = detail.detail
    if field and named != field:
        sentence = sentence.replace(field, named, 1)
    elif not field and column:
        sentence = sentence.replace("The body", column, 1)
    return Wrong(detail.code, sentence, named)
