"""Errors in the formats of other standards: the status of 1EdTech below ``/ims/``, and that of OAuth 2.0 below ``/oauth/``."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from service.errors import DomainError

ErrorBody: TypeAlias = Callable[[DomainError, str, str], Mapping[str, object]]
"""Return the JSON object of an error, from the error, the path of the request and its id."""

MINOR_CODES: Final = frozenset(
    {
        *("invalid_filter_field", "invalid_selection_field", "invaliddata", "unauthorisedrequest", "forbidden"),
        *("server_busy", "unknownobject", "internal_server_error"),
    }
)
"""The minor codes of errors in OneRoster 1.2; 1.1 has them too."""

MINOR_CODE_OF_STATUS: Final = {
    401: "unauthorisedrequest",
    403: "forbidden",
    404: "unknownobject",
    429: "server_busy",
    500: "internal_server_error",
    503: "server_busy",
}
"""The minor code of an error that has none of its own; any other status is one of invalid data."""

OAUTH_CODE_OF_STATUS: Final = {401: "invalid_client", 500: "server_error", 503: "temporarily_unavailable"}
"""The code of an error that is not one of OAuth; any other status is one of an invalid request."""

OAUTH_CODES: Final = frozenset({"invalid_request", "invalid_client", "invalid_scope", "unsupported_grant_type"})


def imsx_status(error: DomainError, path: str, request_id: str) -> Mapping[str, object]:
    """Return the status object of 1EdTech. Only OneRoster 1.1 has a place for the id of the request."""
    minor = error.code if error.code in MINOR_CODES else MINOR_CODE_OF_STATUS.get(error.status, "invaliddata")
    field = {"imsx_codeMinorFieldName": "TargetEndSystem", "imsx_codeMinorFieldValue": minor}
    return {
        "imsx_codeMajor": "failure",
        "imsx_severity": "error",
        **({"imsx_messageRefIdentifier": request_id} if path.startswith("/ims/oneroster/v1p1/") else {}),
        "imsx_description": error.detail,
        "imsx_CodeMinor": {"imsx_codeMinorField": [field]},
    }


def oauth_error(error: DomainError, _path: str, _request_id: str) -> Mapping[str, object]:
    """Return the error object of OAuth 2.0 (RFC 6749 section 5.2)."""
    code = error.code if error.code in OAUTH_CODES else OAUTH_CODE_OF_STATUS.get(error.status, "invalid_request")
    return {"error": code, "error_description": error.detail}


def error_body_of(path: str) -> ErrorBody | None:
    """Return how the errors of a path are written; None for a problem document."""
    if path.startswith("/ims/"):
        return imsx_status
    return oauth_error if path.startswith("/oauth/") else None
