"""Errors as ``application/problem+json`` (RFC 9457)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, NotRequired, Self, TypeAlias, cast

from aiohttp import web
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from service.errors import Detail, DomainError
from service.web.auth import InvalidClient, ScopeMissing, Unauthenticated
from service.web.error_formats import error_body_of
from service.web.schema import named

PROBLEM_JSON = "application/problem+json"


# service.web.openapi lists the codes themselves.
ProblemCode: TypeAlias = Annotated[
    str, named("ProblemCode", "The stable code of a problem. Each code has one status, one meaning and one page.")
]
DetailCode: TypeAlias = Annotated[str, named("DetailCode", "The stable code of one error of a problem.")]


@with_config(ConfigDict(extra="allow"))
class ProblemDetail(TypedDict):
    """One error of a problem. Some codes have additional members, which docs/rules.md lists."""

    code: DetailCode
    pointer: NotRequired[
        Annotated[str, Field(description="The place in the body, as a JSON pointer in a URI fragment.")]
    ]
    parameter: NotRequired[
        Annotated[str, Field(description="The name of the path parameter, query parameter or header.")]
    ]
    detail: Annotated[str, Field(description="Human-readable message.")]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem document of RFC 9457, with the id of the request and a list of errors."""

    type: Annotated[str, Field(description="The path of the page that explains the code.")]
    code: ProblemCode
    title: Annotated[str, Field(description="A short summary of the problem code.")]
    status: Annotated[int, Field(description="The HTTP status, the same for every problem with this code.")]
    detail: Annotated[str, Field(description="Human-readable message about this request. May be reworded at any time.")]
    instance: Annotated[str, Field(description="The path of the request.")]
    request_id: Annotated[str, Field(description="The id of the request, as in the header X-Request-Id and the log.")]
    errors: Annotated[
        list[ProblemDetail], Field(description="Every error; empty if the code alone describes the problem.")
    ]


class NotHttp(DomainError):
    """The request is not valid HTTP, or one of its lines is too long."""

    code, status, title = "not_http", 400, "Not HTTP"


class BadJson(DomainError):
    """The body is not JSON in UTF-8."""

    code, status, title = "bad_json", 400, "Body is not JSON"


class NoSuchPath(DomainError):
    """The service has no such path."""

    code, status, title = "no_such_path", 404, "No such path"

    def __init__(self, detail: str = "This path does not exist; see /docs for the paths of the service.") -> None:
        super().__init__(detail)


class MethodNotAllowed(DomainError):
    """The path does not support this method; the header Allow lists those it supports."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"Allowed methods: {self.allowed}.")


class BodyTooSlow(DomainError):
    """The body did not arrive in time."""

    code, status, title = "body_too_slow", 408, "Body too slow"


class BodyTooLarge(DomainError):
    """The body exceeds the size limit."""

    code, status, title = "body_too_large", 413, "Body too large"


class UnsupportedMediaType(DomainError):
    """The body is not declared as JSON."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class UnsupportedContentCoding(DomainError):
    """The body has a Content-Encoding that the service does not support, or the call accepts no body."""

    code, status, title = "unsupported_content_coding", 415, "Unsupported content coding"


class ExpectationFailed(DomainError):
    """The header Expect asks for something other than 100-continue."""

    code, status, title = "expectation_failed", 417, "Expectation failed"


class Invalid(DomainError):
    """The request does not match the API document; ``errors`` lists the first 100 errors."""

    code, status, title = "invalid", 422, "Invalid request"


class InternalError(DomainError):
    """An internal error of the service; the log has an entry with the id of the request."""

    code, status, title = "internal_error", 500, "Internal error"

    @classmethod
    def logged(cls) -> Self:
        """Return an error that refers the caller to the log."""
        return cls("Internal error; see the log entry with this request id.")


def invalid(details: Iterable[Detail], *, more: int = 0) -> Invalid:
    """Return one error for many details; ``more`` is the number of further errors without details."""
    details = tuple(details)
    sentences = [detail.detail for detail in details]
    if more:
        sentences.append(f"… and {more:,} more")
    return Invalid(" ".join(sentences), details)


def type_of(code: str) -> str:
    """Return the path of the page that explains a problem code."""
    return f"/problems/{code}"


def write_json(value: object) -> bytes:
    """Return a value as JSON in the form of every answer: no spaces, UTF-8, a newline at the end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # UTF-8 cannot encode a lone surrogate, which therefore stays an escape, as the caller sent it.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def problem_of(error: DomainError, *, instance: str, request_id: str) -> Problem:
    """Convert an error to a problem document."""
    return Problem(
        type=type_of(error.code),
        code=error.code,
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=instance,
        request_id=request_id,
        errors=[_member(detail) for detail in error.errors],
    )


def problem_text(error: DomainError, *, instance: str, request_id: str) -> bytes:
    """Return the problem document of an error as JSON."""
    # asdict() copies every member, which took half the time of a refusal.
    return write_json(vars(problem_of(error, instance=instance, request_id=request_id)))


def problem_response(error: DomainError, *, instance: str, request_id: str) -> web.Response:
    """Return the response of an error, in the format that callers of its path expect."""
    body_of = error_body_of(instance)
    if body_of is None:
        text, content_type = problem_text(error, instance=instance, request_id=request_id), PROBLEM_JSON
    else:
        text, content_type = write_json(body_of(error, instance, request_id)), "application/json"
    headers = {"X-Request-Id": request_id}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allowed
    if isinstance(error, Unauthenticated | ScopeMissing | InvalidClient):
        headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, UnsupportedContentCoding):
        # RFC 9110 section 15.5.16: this header distinguishes the coding from an unsupported media type.
        headers["Accept-Encoding"] = "gzip, deflate"
    return web.Response(
        body=text,
        status=error.status,
        headers=headers,
        content_type=content_type,
    )


def _member(detail: Detail) -> ProblemDetail:
    place = {"pointer": detail.pointer, "parameter": detail.parameter}
    member = {
        "code": detail.code,
        **{name: value for name, value in place.items() if value is not None},
        **detail.params,
        "detail": detail.detail,
    }
    return cast(ProblemDetail, member)
