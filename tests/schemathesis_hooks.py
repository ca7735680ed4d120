"""Additional checks for Schemathesis, which loads this module in its own process."""

import functools
import gc
from typing import Any, Final

import requests
import schemathesis
from hypothesis.strategies._internal import regex

# Schemathesis makes the strategies of the same few patterns for each value, which took longer than to draw the values.
regex.regex_strategy = functools.cache(regex.regex_strategy)
# It keeps most of what it makes: to search this for garbage took a tenth of the time.
gc.freeze()
gc.set_threshold(10_000)
# A server on this machine needs no proxy and no .netrc, for which requests searches the environment before each call.
requests.sessions.get_environ_proxies = lambda *_arguments, **_options: {}  # type: ignore[attr-defined]
requests.sessions.get_netrc_auth = lambda *_arguments, **_options: None  # type: ignore[attr-defined]

ACCEPTED: Final = frozenset({200, 201, 202, 204, 206, 304})
REFUSED: Final = frozenset({404, 409, 410, 412})
"""Statuses of valid requests that name a missing or a merged resource, or one in the wrong state."""

BEYOND_SCHEMAS: Final = frozenset(
    {
        *{"invalid_cursor", "not_combinable", "unknown_term", "unknown_instructor", "own_requirement"},
        *{"name_required", "repeated_instructor", "one_primary", "repeated_code", "repeated_group", "repeated_grade"},
        *{"unknown_grade", "invalid_result", "min_grade_of_pre", "in_progress_of_pre", "reservations_above_capacity"},
        # The reason of a drop with as=dropped.
        *{"merge_with_itself", "unknown_student", "required"},
        *{"blank", "forbidden_character"},
        *{"not_a_multiple", "term_dates", "invalid_part", "hold_dates", "empty_meeting", "meeting_dates"},
        *{"read_only", "swap_with_itself", "too_many_adds", "too_many_pairs", "invalid_etag", "unknown_position"},
        *{"ids_or_external_ids", "repeated_external_id"},
    }
)
"""Codes of a 422 that no schema can express: cursors and terms that don't exist, values that don't fit together, and
characters beyond the Basic Multilingual Plane, which no pattern can name for every reader.
Entity tags are included because Schemathesis 4.32 never writes a quote into a header, whatever its pattern."""


@schemathesis.check
def valid_request_is_understood(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that a valid request succeeds, or is refused for a reason that no schema can express."""
    meta = case.meta
    if meta is None or meta.generation.mode.is_negative or response.status_code in ACCEPTED | REFUSED | {405}:
        return
    if "/None" in case.formatted_path:
        return  # A link was followed with the null of an event without a student.
    codes = {error["code"] for error in response.json()["errors"]}
    if "unknown_course" in codes:
        return  # The request is refused because a course does not exist, and perhaps by rules for other courses too.
    assert response.status_code == 422, f"a valid request is answered {response.status_code}"
    assert codes <= BEYOND_SCHEMAS, f"a valid request is refused: {sorted(codes - BEYOND_SCHEMAS)}"


@schemathesis.hook
def map_path_parameters(_context: schemathesis.HookContext, path_parameters: dict[str, Any] | None) -> Any:
    """Use id 1 for ids that nothing has: calls that can't be undone have no example of an id."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    return {
        name: 1 if type(value) is int and 10**6 < value < 2**63 and name != "external_id" else value
        for name, value in _whole(path_parameters).items()
    }


def _whole(parameters: dict[str, Any]) -> dict[str, Any]:
    """Write 7.0 as 7: the two are one number in JSON, and a URL has only one of them."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in parameters.items()
    }


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _options: dict[str, Any]) -> None:
    """Let webhooks send to this machine, never to hosts that are made up; send files as they are."""
    is_positive = case.meta is None or case.meta.generation.mode.is_positive
    if is_positive and (data := getattr(case.body, "data", None)) is not None:
        # Schemathesis 4.32 makes bytes for a binary format, and sends none of them as text/csv.
        case.body = data or b"x"
    if is_positive and isinstance(case.body, dict) and "url" in case.body:
        case.body = {**case.body, "url": "http://127.0.0.1:9/"}


@schemathesis.hook
def map_query(_context: schemathesis.HookContext, query: dict[str, Any] | None) -> Any:
    """Wait for a second at most: hardly an event matches filters that are made up."""
    if not isinstance(query, dict):
        return query
    query = _whole(query)
    return {**query, "wait": 1} if type(query.get("wait")) is int and 1 < query["wait"] <= 30 else query


@schemathesis.check
def status_is_listed(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that each status is listed: the default response is only for proxies between the caller and the service."""
    listed = case.operation.definition.raw["responses"]
    # A method that the path does not support is not an operation of the document.
    assert str(response.status_code) in listed or response.status_code == 405, f"{response.status_code} is not listed"
