"""What Schemathesis checks besides its own checks; it loads this module in its own process."""

from typing import Any, Final

import schemathesis

ACCEPTED: Final = frozenset({200, 201, 204, 304})
REFUSED: Final = frozenset({404, 409, 412})
"""The request is of the right form, and what it names is not there, or not in a state for it."""

BEYOND_SCHEMAS: Final = frozenset(
    {
        *{"invalid_cursor", "too_many_filters", "unknown_term", "own_requirement"},
        *{"blank", "forbidden_character"},
        *{"term_dates", "hold_dates", "inverted_meeting"},
        *{"read_only", "swap_with_itself", "too_many_adds", "too_many_pairs", "invalid_etag"},
    }
)
"""Reasons for a 422 that no schema can tell beforehand: the cursors and terms that exist, what does not fit together, and
characters beyond the Basic Multilingual Plane, which no pattern can name for every reader.
Entity tags are among them since Schemathesis 4.32 never writes a quote into a header, whatever its pattern."""


@schemathesis.check
def valid_request_is_understood(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A request that conforms to the document is done, or refused for what a schema can't tell."""
    meta = case.meta
    if meta is None or meta.generation.mode.is_negative or response.status_code in ACCEPTED | REFUSED | {405}:
        return
    if "/None" in case.formatted_path:
        return  # A link followed with the null of an event that concerns no student.
    codes = {error["code"] for error in response.json()["errors"]}
    if "unknown_course" in codes:
        return  # Refused for a course that does not exist, and perhaps for others' rules too.
    assert response.status_code == 422, f"a valid request is answered {response.status_code}"
    assert codes <= BEYOND_SCHEMAS, f"a valid request is refused: {sorted(codes - BEYOND_SCHEMAS)}"


@schemathesis.hook
def map_path_parameters(_context: schemathesis.HookContext, path_parameters: dict[str, Any] | None) -> Any:
    """Take the first of everything for ids that nothing has: calls that can't be undone have no example of an id."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    return {
        name: 1 if type(value) is int and 10**6 < value < 2**63 and name != "external_id" else value
        for name, value in path_parameters.items()
    }


@schemathesis.check
def status_is_listed(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A status is listed by itself: the default response is for what is between the caller and the service."""
    listed = case.operation.definition.raw["responses"]
    # A method that the path does not support is no operation of the document.
    assert str(response.status_code) in listed or response.status_code == 405, f"{response.status_code} is not listed"
