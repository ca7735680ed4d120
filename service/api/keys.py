"""Keys of what handlers share: of the whole application, and of one institution."""

from collections.abc import Callable
from typing import TypeVar, cast

from aiohttp import web

from service.auth import Authenticator
from service.batching import Coalescer
from service.database import Database
from service.errors import DomainError
from service.pool import Pool
from service.registrar import Registrar
from service.registrar.changes import Change, Origin, Outcome
from service.registrar.idempotency import Once, Response
from service.registry import Registry
from service.web.endpoint import CODES, Call, codes_of
from service.web.idempotency import IDEMPOTENT_REPLAYED
from sql import JsonPage
from sql.courses import Course
from sql.enrollments import CoursesAsked, StudentsAsked
from sql.idempotency_keys import CallersKey
from sql.students import Student

AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
REGISTRY = web.AppKey("registry", Registry)
POOL = web.AppKey("pool", Pool)

# The services of one institution.
DATABASE = web.AppKey("database", Database)
REGISTRAR = web.AppKey("registrar", Registrar)
STUDENTS: web.AppKey[Coalescer[int, Student | None]] = web.AppKey("students", Coalescer)
COURSES: web.AppKey[Coalescer[int, Course | None]] = web.AppKey("courses", Coalescer)
COURSES_OF_STUDENTS: web.AppKey[Coalescer[CoursesAsked, JsonPage | None]] = web.AppKey("courses of students", Coalescer)
STUDENTS_OF_COURSES: web.AppKey[Coalescer[StudentsAsked, JsonPage | None]] = web.AppKey(
    "students of courses", Coalescer
)


Made = TypeVar("Made")
Answer = TypeVar("Answer")


async def submit(call: Call, change: Change[Made], answer_of: Callable[[Made], Answer]) -> Answer:
    """Make the change of a POST, and return its answer; a repeat with the same Idempotency-Key gets the stored answer.

    Raises:
        DomainError: the change is refused, or the database is unavailable.
    """
    if call.idempotency_key is None:
        return answer_of(await call[REGISTRAR].submit(change))

    def respond(outcome: Outcome) -> Response:
        response = call.respond(outcome if isinstance(outcome, DomainError) else answer_of(cast(Made, outcome)))
        headers = {name: value for name, value in response.headers.items() if name != "X-Request-Id"}
        return Response(response.status, headers, cast(bytes, response.body or b""))

    once = Once(
        origin=change.origin,
        inner=change,
        key=CallersKey(call.caller.name or "", call.idempotency_key.text),
        fingerprint=call.idempotency_key.fingerprint,
        respond=respond,
    )
    (status, headers, body), replayed, made = await call[REGISTRAR].submit_once(once)
    if replayed:
        headers = {**headers, IDEMPOTENT_REPLAYED: "true"}
    # An endpoint sends a response as it is, so that a repeat gets the bytes that the first request got.
    response = web.Response(status=status, headers=headers, body=body)
    if isinstance(made, DomainError):
        response[CODES] = codes_of(made)
    return cast(Answer, response)


def origin_of(call: Call, reason: str | None = None) -> Origin:
    """Return the origin of a change: its request, caller and reason."""
    return Origin(call.request_id, call.caller.name, reason, call.disconnected, call.on_behalf_of)
