"""The ``@endpoint`` decorator: it parses, validates, calls the handler, serialises, logs and registers routes.

A handler is a function of a ``Call`` and of named parameters: one for each name in the path's braces, ``body`` for the
JSON body, ``query`` for a model of the query, ``if_match`` and ``if_none_match`` for entity tags. The annotations of
the parameters validate the input and define the API document.
"""

import asyncio
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from random import getrandbits
from types import ModuleType, NoneType, UnionType
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote_to_bytes

from aiohttp import HttpVersion11, hdrs, web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from service import tracing
from service.errors import (
    BeingMigrated,
    Detail,
    DomainError,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    IdempotencyKeyUnsupported,
    InstitutionNotFound,
    InstitutionReadOnly,
    InstitutionRequired,
    InstitutionSuspended,
    Merged,
    OutcomeUnknown,
    PreconditionFailed,
    PreconditionUnsupported,
    StudentNotFound,
    Unavailable,
)
from service.metrics import ERRORS, PROBLEMS, note_request
from service.web.access import RequestLine, log_request
from service.web.auth import (
    ACTS_FOR_OTHERS,
    ANYONE,
    SELF_COVERS,
    Access,
    Authenticate,
    Caller,
    Scope,
    ScopeMissing,
    Unauthenticated,
)
from service.web.body import BODY_MEMBERS, BULK_MEMBERS, check_members, read_json
from service.web.etags import HEADERS, conditional, put_on_tags, read_etags, tag_of, take_off_tags
from service.web.idempotency import IdempotencyKey, fingerprint_of, read_key
from service.web.negotiation import compress
from service.web.origins import HostNotAllowed, OriginNotAllowed, Origins
from service.web.paging import PAGES, Page, WrittenPage
from service.web.problems import (
    BadJson,
    BodyTooLarge,
    BodyTooSlow,
    ExpectationFailed,
    InternalError,
    Invalid,
    MethodNotAllowed,
    NoSuchPath,
    UnsupportedContentCoding,
    UnsupportedMediaType,
    invalid,
    problem_response,
)
from service.web.proxies import Proxies
from service.web.text import normalize_actor
from service.web.turnstile import Turnstile
from service.web.validation import refused

logger = logging.getLogger("service.web")


DRAINING = web.AppKey("draining", asyncio.Event)
"""Set while the service shuts down: all responses then carry ``Connection: close``."""

ADMISSION: web.AppKey[Callable[[], None]] = web.AppKey("admission", Callable)  # type: ignore[arg-type]
"""Raise ``Unavailable`` if a change is expected to wait too long.

Endpoints call it before they read the body, because a refusal must be cheap.
"""

FIND_MERGED: web.AppKey[Callable[[StudentNotFound], Awaitable[DomainError]]] = web.AppKey("find merged", Callable)  # type: ignore[arg-type]
"""Return the error of a student who was merged into another one, or else the given error."""

Within: TypeAlias = Literal["institution", "registry", "either", "process"]
"""What a call is about: the data of one institution, the institutions, whichever of the two the caller belongs to, or
the process itself, which an institution's callers know nothing about."""

Services: TypeAlias = Mapping[Any, Any]
"""What handlers need of one institution, by application key; and the ``ADMISSION`` of its changes."""

ServicesOf: TypeAlias = Callable[[Caller, Within, bool], Services]


@dataclass(frozen=True, slots=True)
class Edge:
    """What every request passes before its handler."""

    origins: Origins
    proxies: Proxies
    authenticate: Authenticate
    services_of: ServicesOf
    """Return the services of a caller's institution, for a call ``Within`` it that writes or not.

    It raises a domain error if there is no such institution, or if it does not serve this call.
    """
    turnstiles: tuple[Turnstile, Turnstile]
    """That of reads and that of other requests: each limits the requests that begin in one turn of the loop."""


EDGE = web.AppKey("edge", Edge)

CALLER = web.RequestKey("caller", Caller)
"""Who sent a request, once that is known."""

CODES: web.ResponseKey[tuple[str, ...]] = web.ResponseKey("codes", tuple)
"""The codes of a problem, for the log."""

Answer = TypeVar("Answer")
Key = TypeVar("Key")
NO_SERVICES: Services = {}
MAX_DIGITS = 19
FIRST_ERROR = 400
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
ASCII_ACTOR = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")
MEDIA_TYPES = {
    "PATCH": ("application/merge-patch+json", "application/json"),
}
JSON_ONLY = ("application/json",)
FIRST_SERVER_ERROR = 500


@dataclass(slots=True)
class Call:
    """What a handler gets in addition to its parameters: the request, its id, its actor and its idempotency key."""

    endpoint: "Endpoint"
    request: web.Request
    request_id: str
    caller: Caller
    on_behalf_of: str | None
    services: Services
    idempotency_key: IdempotencyKey | None

    def respond(self, answer: object) -> web.Response:
        """Return the response to an answer of the handler, or to an error."""
        return self.endpoint.respond(self.request, answer, self.request_id, self.caller.institution)

    def require(self, scope: Scope) -> None:
        """Raise ``ScopeMissing`` if the caller lacks a scope that only some requests to the endpoint need."""
        if scope not in self.caller.scopes:
            raise ScopeMissing(scope)

    async def start_stream(self, content_type: str) -> web.StreamResponse:
        """Send the headers of a response, which the handler writes and returns once it is complete."""
        headers = {
            "X-Request-Id": self.request_id,
            "Content-Type": content_type,
            "Cache-Control": "no-store",
            # nginx would hold messages back until its buffer is full.
            "X-Accel-Buffering": "no",
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(self.request)
        return response

    async def check_caller(self) -> None:
        """Raise a domain error if the caller may no longer make this call, which takes long."""
        await self.endpoint.check_caller(self.request)

    def disconnected(self) -> bool:
        """Return whether the client has disconnected."""
        return self.request.transport is None or self.request.transport.is_closing()

    def __getitem__(self, key: web.AppKey[Key]) -> Key:
        """Return a value of the caller's institution, or one that ``create_app`` stored in the application."""
        if key in self.services:
            found: Key = self.services[key]
            return found
        return self.request.app[key]


@dataclass(frozen=True, slots=True)
class Reply(Generic[Answer]):
    """An answer with its own status and headers."""

    body: Answer
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written(Generic[Answer]):
    """An answer that is already JSON, equal to the serialised ``Answer``. Many requests may share its bytes."""

    json: str | bytes

    def text(self) -> bytes:
        """Return the body."""
        return self.json if isinstance(self.json, bytes) else self.json.encode()


@dataclass(frozen=True, eq=False)
class Endpoint:
    """A handler with everything that ``@endpoint`` derives from its signature."""

    method: str
    path: str
    scope: Access
    within: Within
    handler: Callable[..., Awaitable[Any]]
    statuses: tuple[int, ...]
    problems: tuple[type[DomainError], ...]
    path_model: type[BaseModel] | None
    query_model: type[BaseModel] | None
    no_query: BaseModel | None
    """The query model of a URL without a query; None if a parameter is required."""
    body: TypeAdapter[Any] | None
    answer_type: Any
    """The type that the handler returns, ``NoneType`` for no content; None if it returns a finished response."""
    headers: tuple[str, ...]
    unsupported: tuple[str, ...]
    """The precondition headers that the endpoint refuses."""
    has_etag: bool
    """Whether the answer has an ETag, and a read can therefore be conditional."""
    final: bool
    """Whether the call can't be undone."""
    routine: bool
    """Whether machines repeat the call every few seconds, so that it is logged at DEBUG."""
    streams: bool
    """Whether the call has a second form, a stream of Server-Sent Events."""
    parses: bool
    """Whether the path and the query are parsed here; otherwise the handler does it, by the rules of another standard."""
    previews: bool
    """Whether the call can be a dry run, which changes nothing and requires only the scope ``read``."""
    bulk: bool
    """Whether the body has many resources: it may have more members, and a thread validates it."""
    takes_key: bool
    """Whether a request with an idempotency key is made once. The answers of some calls are secrets, which are not stored."""
    uploads: tuple[str, ...]
    """The media types of a body that the handler reads itself."""
    downloads: tuple[str, ...]
    """The media types of an answer that is a file."""

    @cached_property
    def answer(self) -> TypeAdapter[Any] | None:
        """The serializer of the answer. It is made at its first use: all of them took a sixth of the time of a start."""
        return None if self.answer_type in {None, NoneType} else TypeAdapter(self.answer_type)

    @property
    def has_secrets(self) -> bool:
        """Whether an answer may have a secret, whose length after compression would depend on it."""
        return self.method == "POST" and not self.takes_key

    @property
    def writes(self) -> bool:
        """Whether the endpoint may change something, so that events record an actor."""
        return self.method not in {"GET", "HEAD"}

    @property
    def media_types(self) -> tuple[str, ...]:
        """The media types that the body may have."""
        return MEDIA_TYPES.get(self.method, JSON_ONLY)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, convert errors to problems, and log one line."""
        started = time.perf_counter()
        request_id = request_id_of(request)
        edge = request.app[EDGE]
        response: web.StreamResponse
        try:
            edge.origins.check(request)
            response = await self._answer(request, request_id, edge)
        except DomainError as error:
            # Keep no reference to an exception: it refers to this frame, and the cycle would keep the request.
            response = self.respond(request, error, request_id)
            response[CODES] = codes_of(error)
        except Exception as error:
            ERRORS.add(type(error).__name__)
            logger.exception("unexpected error in an endpoint", extra={"request_id": request_id, "route": self.path})
            response = self.respond(request, InternalError.logged(), request_id)
            response[CODES] = (InternalError.code,)
        if hdrs.ACCEPT_ENCODING in request.headers and isinstance(response, web.Response) and not self.has_secrets:
            await compress(request, response)
        # The next turn of the event loop counts and logs the request, when the response is on its way.
        seconds = time.perf_counter() - started
        asyncio.get_running_loop().call_soon(self._note, request, response, request_id, seconds, edge)
        return response

    def _note(
        self,
        request: web.Request,
        response: web.StreamResponse,
        request_id: str,
        seconds: float,
        edge: Edge,
    ) -> None:
        """Count and log an answered request."""
        status = response.status
        codes = response.get(CODES, ()) if status >= FIRST_ERROR else ()
        note_request(self.path, request.method, status, seconds)
        if codes:
            PROBLEMS.add(codes[0])
        caller = request.get(CALLER, ANYONE)
        ids = request.match_info
        line = RequestLine(
            request.method,
            self.path,
            status,
            seconds * 1000,
            request_id,
            # Without its student, the name is the subject of the token: perhaps an e-mail address.
            actor=None if "self" in caller.scopes and caller.student_id is None else caller.name,
            # A name that no institution has may be anything.
            institution=None if InstitutionNotFound.code in codes else caller.institution,
            student_id=_id_in(ids["student_id"]) if "student_id" in ids else None,
            course_id=_id_in(ids["course_id"]) if "course_id" in ids else None,
            codes=codes,
            remote=edge.proxies.address_of(request),
            trace_id=tracing.current_trace_id(),
        )
        log_request(line, routine=self.routine)

    async def check_caller(self, request: web.Request) -> None:
        """Raise a domain error if the caller of a request that is being served may no longer make it."""
        if self.scope != "public":
            edge = request.app[EDGE]
            found = edge.authenticate(request.headers)
            caller = self._permitted(request, found if isinstance(found, Caller) else await found, self.scope)
            edge.services_of(caller, self.within, self.writes)

    async def _answer(self, request: web.Request, request_id: str, edge: Edge) -> web.StreamResponse:
        writes = self.writes
        if self.scope == "public":
            caller, services = ANYONE, NO_SERVICES
        else:
            scope = "read" if self.previews and is_dry_run(request) else self.scope
            found = edge.authenticate(request.headers)
            caller = self._permitted(request, found if isinstance(found, Caller) else await found, scope)
            services = edge.services_of(caller, self.within, writes)
            if (turn := edge.turnstiles[writes].enter(caller.institution)) is not None:
                await turn
            if writes and (admit := services.get(ADMISSION)) is not None:
                admit()
        on_behalf_of = _on_behalf_of(request, caller) if writes else None
        key = read_key(request) if self.method == "POST" else None
        if key is not None and not self.takes_key:
            raise IdempotencyKeyUnsupported
        arguments = await self._arguments(request, caller)
        once = None if key is None else await self._idempotency_key(request, key)
        call = Call(self, request, request_id, caller, on_behalf_of, services, once)
        try:
            answer = await self.handler(call, **arguments)
        except StudentNotFound as error:
            raise await services[FIND_MERGED](error) from None
        if isinstance(answer, web.StreamResponse) and not isinstance(answer, web.Response):
            return answer
        response = self.respond(request, answer, request_id, caller.institution)
        return response if writes else conditional(request, response)

    async def _arguments(self, request: web.Request, caller: Caller) -> dict[str, Any]:
        """Return the arguments of the handler, validated.

        Raises:
            DomainError: a part of the request is invalid.
        """
        for header in self.unsupported:
            if header in request.headers:
                raise PreconditionUnsupported(header)
        _check_text(request)
        arguments: dict[str, Any] = {}
        if self.path_model is not None:
            arguments.update(_validated(self.path_model, request.match_info))
        has_query = bool(request.rel_url.raw_query_string)
        if self.query_model is not None:
            plain = self.no_query is not None and not has_query
            arguments["query"] = self.no_query if plain else _query(self.query_model, request)
        elif has_query and self.parses and self is not unrouted:
            _query(_NoQuery, request)
        for name in self.headers:
            arguments[name] = read_etags(request, name)
        if caller.institution is not None:
            take_off_tags(arguments, self.headers, tag_of(caller.institution))
        if self.body is not None:
            arguments["body"] = await self._body(request)
        elif request.body_exists and self is not unrouted and "Content-Encoding" in request.headers:
            raise UnsupportedContentCoding(
                "Send the file without Content-Encoding."
                if self.uploads
                else "This call has no body: send it without a body and without Content-Encoding."
            )
        return arguments

    async def _idempotency_key(self, request: web.Request, key: str) -> IdempotencyKey:
        """Return the key with the fingerprint of the request, whose body has been read."""
        body = await request.read() if self.body is not None else b""
        return IdempotencyKey(key, fingerprint_of(request, body))

    def _permitted(self, request: web.Request, caller: Caller, scope: Scope | Literal["any"]) -> Caller:
        """Note the caller, and return it if it may make this call.

        Raises:
            ScopeMissing: the caller does not have the scope.
            NoSuchPath: the caller has the scope ``self``, and this is not about its student.
        """
        request[CALLER] = caller
        if scope == "any" or scope in caller.scopes:
            return caller
        if "self" not in caller.scopes:
            raise ScopeMissing(scope)
        if scope not in SELF_COVERS or request.match_info.get("student_id") != str(caller.student_id):
            raise NoSuchPath
        return caller

    async def _body(self, request: web.Request) -> Any:
        text = await read_json(request, self.media_types, BULK_MEMBERS if self.bulk else BODY_MEMBERS)
        return await asyncio.to_thread(self._parsed, text) if self.bulk else self._parsed(text)

    def _parsed(self, text: bytes) -> Any:
        assert self.body is not None
        try:
            parsed = self.body.validator.validate_json(text)
        except ValidationError as error:
            # A variable with the raised error would be a cycle, which keeps the body until the next garbage collection.
            raise self._refused_body(error, text) from error
        check_members(text, parsed)
        return parsed

    def _refused_body(self, error: ValidationError, text: bytes) -> DomainError:
        """Return the problem of a body that is not valid; raise ``BadJson`` if it has a member twice."""
        assert self.body is not None
        problem = refused(error, self.body, parameters=False)
        if isinstance(problem, Invalid):
            check_members(text, None)
        return problem

    def respond(
        self, request: web.Request, answer: Any, request_id: str, institution: str | None = None
    ) -> web.Response:
        """Return the response to an answer of the handler, or to an error."""
        status, headers = self.statuses[0], {"X-Request-Id": request_id}
        if isinstance(answer, Reply):
            headers.update(answer.headers)
            status, answer = answer.status, answer.body
        elif isinstance(answer, DomainError):
            return problem_response(answer, instance=request.rel_url.raw_path, request_id=request_id)
        elif isinstance(answer, web.Response):
            answer.headers["X-Request-Id"] = request_id
            return answer
        if self.answer is None:
            return web.Response(status=status, headers=headers)
        headers["Content-Type"] = "application/json"
        version = getattr(answer, "version", None)
        if version is not None:
            headers["ETag"] = getattr(answer, "etag", None) or f'"{version}"'
        if institution is not None:
            answer = put_on_tags(answer, headers, tag_of(institution))
        if isinstance(answer, PAGES) and answer.next is not None:
            url = request.rel_url.update_query(cursor=answer.next)
            headers["Link"] = f'<{url}>; rel="next"'
        text = answer.text() if isinstance(answer, WRITTEN) else self.answer.dump_json(answer)
        return web.Response(body=text + b"\n", status=status, headers=headers)


def endpoint(
    method: str,
    path: str,
    *,
    scope: Access,
    within: Within = "institution",
    status: int | tuple[int, ...] = 200,
    problems: Iterable[type[DomainError]] = (),
    needs_database: bool = True,
    etag: bool = False,
    final: bool = False,
    routine: bool = False,
    parses: bool = True,
    bulk: bool = False,
    keyed: bool = True,
    uploads: tuple[str, ...] = (),
    downloads: tuple[str, ...] = (),
) -> Callable[[Callable[..., Awaitable[Any]]], Endpoint]:
    """Turn a handler into an endpoint.

    ``scope`` is the scope that a caller needs; everybody may call a public endpoint. ``within`` is what the call is about.
    ``status`` is the status of success, or all statuses of success, the usual one first. ``problems`` are the errors of
    the handler itself; errors that follow from its signature are added. Without ``needs_database`` the API document
    lists no database errors. With ``etag`` the handler sets an ETag; an answer with a version always has one. A
    ``final`` call can't be undone, and the API page fills in no ids for it; every DELETE is final. A POST within an
    institution takes an Idempotency-Key if it is ``keyed``: its handler makes the change with ``service.api.keys.submit``,
    which stores the answer. Any other POST refuses the header. A ``routine`` call is one that machines repeat every few
    seconds. The body of a ``bulk`` call has many resources. If ``parses`` is false, the handler parses the path and the
    query of the request itself. ``uploads`` are the media types of a body that the handler reads itself, ``downloads``
    those of a file that it returns.
    """

    def decorate(handler: Callable[..., Awaitable[Any]]) -> Endpoint:
        hints = get_type_hints(handler, include_extras=True)
        returns = hints.pop("return")
        names = list(inspect.signature(handler).parameters)[1:]
        in_path = re.findall(r"{(\w+)}", path) if parses else []
        headers = tuple(name for name in names if name in HEADERS)
        assert set(names) == {*in_path, *headers, *(set(names) & {"body", "query"})}, f"{handler.__name__}: {names}"
        body = TypeAdapter(hints["body"]) if "body" in names else None
        path_model = (
            create_model(
                "Path", __config__=ConfigDict(extra="forbid"), **{name: (hints[name], ...) for name in in_path}
            )  # type: ignore[call-overload]
            if in_path
            else None
        )
        query_model: type[BaseModel] | None = hints.get("query")
        optional = query_model is not None and not any(
            field.is_required() for field in query_model.model_fields.values()
        )
        returns, streams = _unwrapped(returns)
        raw = returns in {web.Response, web.StreamResponse}
        statuses = status if isinstance(status, tuple) else (status,)
        implied: tuple[type[DomainError], ...] = (Invalid, UnsupportedContentCoding, HostNotAllowed)
        if method != "GET":
            implied += (OriginNotAllowed,)
        if uploads:
            implied += (BadJson, BodyTooSlow, BodyTooLarge, UnsupportedMediaType)
        if body is not None:
            implied += (BadJson, BodyTooSlow, BodyTooLarge, UnsupportedMediaType)
        implied += (Merged,) * (StudentNotFound in problems)
        if scope != "public":
            implied += (Unauthenticated,) if scope == "any" else (Unauthenticated, ScopeMissing)
            if within != "registry":
                implied += (InstitutionNotFound, InstitutionRequired, InstitutionSuspended)
                if needs_database:
                    implied += (BeingMigrated,)
            if within == "institution" and method != "GET":
                implied += (InstitutionReadOnly,)
        # The method "*" is that of ``unrouted``, which answers paths that do not exist.
        unsupported = () if method in {"GET", "*"} else tuple(HEADERS[name] for name in HEADERS if name not in headers)
        has_etag = etag or "version" in getattr(returns, "__dataclass_fields__", {})
        if unsupported:
            implied += (PreconditionUnsupported,)
        if method == "GET" and has_etag:
            implied += (PreconditionFailed,)
        takes_key = method == "POST" and within == "institution" and keyed
        if method == "POST":
            implied += (IdempotencyKeyInUse, IdempotencyKeyReused) if takes_key else (IdempotencyKeyUnsupported,)
        if needs_database:
            implied += (Unavailable,) if method == "GET" else (Unavailable, OutcomeUnknown)
        return Endpoint(
            method=method,
            path=path,
            scope=scope,
            within=within,
            handler=handler,
            statuses=statuses,
            problems=(*problems, *implied),
            path_model=path_model,
            query_model=query_model,
            no_query=query_model() if query_model is not None and optional else None,
            body=body,
            answer_type=None if raw else returns,
            headers=headers,
            unsupported=unsupported,
            has_etag=has_etag,
            final=final or method == "DELETE",
            routine=routine,
            streams=streams,
            parses=parses,
            previews=query_model is not None and "dry_run" in query_model.model_fields,
            bulk=bulk,
            takes_key=takes_key,
            uploads=uploads,
            downloads=downloads,
        )

    return decorate


def is_dry_run(request: web.Request) -> bool:
    """Return whether a request asks for a dry run, in the only form in which ``dry_run`` can be true."""
    return request.rel_url.raw_query_string != "" and request.query.getall("dry_run", []) == ["true"]


def _unwrapped(returns: Any) -> tuple[Any, bool]:
    """Return the type of an answer without the form in which the handler returns it, and whether it may be a stream."""
    streams = get_origin(returns) in {Union, UnionType} and get_args(returns)[-1] is web.StreamResponse
    if streams:
        returns = get_args(returns)[0]
    if get_origin(returns) is Reply:
        [returns] = get_args(returns)
    if get_origin(returns) is Written:
        [returns] = get_args(returns)
    if get_origin(returns) is WrittenPage:
        returns = Page[get_args(returns)]  # type: ignore[misc]
    return returns, streams


WRITTEN: Final = (Written, WrittenPage)
"""A tuple: to write a union of types takes as long as the check by it."""


def endpoints_of(*modules: ModuleType) -> list[Endpoint]:
    """Return the endpoints that modules define, in the order of their definition."""
    return [item for module in modules for item in vars(module).values() if isinstance(item, Endpoint)]


def register(app: web.Application, endpoints: Iterable[Endpoint]) -> None:
    """Add the routes of endpoints, and answer every other path and method with a problem."""
    for resource in _resources(tuple(endpoints), tracing.active):
        app.router.register_resource(resource)


@lru_cache(maxsize=8)
def _resources(endpoints: tuple[Endpoint, ...], traces: tracing.Tracing | None) -> tuple[web.AbstractResource, ...]:
    """Return the routes of endpoints, which all applications share: making them takes most of the time of making one."""
    router = web.UrlDispatcher()
    for item in endpoints:
        # Without a pattern, a parameter of aiohttp does not match braces, even if they are percent-encoded.
        path = re.sub(r"{(\w+)}", r"{\1:[^/]+}", item.path)
        router.add_route(item.method, path, _traced(item, traces), expect_handler=_expect)
        if item.method == "GET":
            router.add_route("HEAD", path, _traced(item, traces), expect_handler=_expect)
    router.add_route("*", "/{tail:.*}", _traced(unrouted, traces), expect_handler=_expect)
    return tuple(router.resources())


def _traced(item: Endpoint, traces: tracing.Tracing | None) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler of an endpoint, which makes a span for each request if traces are on."""
    if traces is None:
        return item.__call__

    async def handle(request: web.Request) -> web.StreamResponse:
        with traces.request(request.method, item.path, request.headers) as span:
            response = await item(request)
            span.set_attribute("http.response.status_code", response.status)
            span.set_attribute("enrollment.request_id", response.headers["X-Request-Id"])
            if response.status >= FIRST_SERVER_ERROR:
                span.set_attribute("error.type", str(response.status))
            response.headers["traceresponse"] = tracing.trace_response(span)
        return response

    return handle


async def _unrouted(call: Call, tail: str) -> web.Response:
    """Answer a CORS preflight request; raise MethodNotAllowed if the path has other methods, otherwise NoSuchPath."""
    allowed: set[str] = set()
    for resource in call.request.app.router.resources():
        if resource.canonical != "/{tail}":
            allowed |= (await resource.resolve(call.request))[1]
    if not allowed:
        raise NoSuchPath
    if preflight := call[EDGE].origins.preflight(call.request, allowed):
        return preflight
    raise MethodNotAllowed(allowed)


unrouted = endpoint("*", "/{tail}", scope="public")(_unrouted)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer ``Expect: 100-continue``, and refuse every other expectation (RFC 9110 section 10.1.1)."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        return refuse(request, ExpectationFailed("Only `Expect: 100-continue` is supported."))
    # HTTP/1.0 does not define 100 Continue.
    if request.transport is not None and request.version >= HttpVersion11:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


def refuse(request: web.BaseRequest, error: DomainError) -> web.Response:
    """Log a request that reaches no endpoint, and return its error as a response."""
    request_id = request_id_of(request)
    path = request.rel_url.raw_path
    response = problem_response(error, instance=path if path.startswith("/") else "/", request_id=request_id)
    note_request(unrouted.path, request.method, response.status, 0.0)
    PROBLEMS.add(error.code)
    line = RequestLine(
        request.method, unrouted.path, response.status, 0.0, request_id, codes=codes_of(error), remote=request.remote
    )
    log_request(line)
    return response


def codes_of(error: DomainError) -> tuple[str, ...]:
    """Return the code of an error, and then those of its details that differ from it."""
    return error.code, *sorted({each.code for each in error.errors} - {error.code})


def _id_in(text: str) -> str | None:
    """Return an id of a path; None if it is not one, since it may then be anything."""
    if not (text.isascii() and text.isdigit()) or text[0] == "0" or len(text) > MAX_DIGITS:
        return None
    return text


def _on_behalf_of(request: web.Request, caller: Caller) -> str | None:
    """Return for whom the caller says that it calls.

    Raises:
        Invalid: it is not one line of text.
        ScopeMissing: the caller may not act for others.
    """
    actor = request.headers.get("X-Actor")
    if actor is None:
        return None
    if not ASCII_ACTOR.fullmatch(actor):
        actor = normalize_actor(actor)
        if actor is None:
            sentence = "X-Actor must be one line of 1 to 200 characters in UTF-8."
            raise invalid([Detail("invalid_actor", sentence, parameter="X-Actor")])
    if not caller.scopes & ACTS_FOR_OTHERS:
        raise ScopeMissing("enroll")
    return actor


class _NoQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")


def request_id_of(request: web.BaseRequest) -> str:
    """Return the X-Request-Id of the caller if it is valid, otherwise a new request id."""
    given = request.headers.get("X-Request-Id", "")
    if given and REQUEST_ID.fullmatch(given):
        return given
    return tracing.new_request_id() or f"{getrandbits(128):032x}"


def _check_text(request: web.Request) -> None:
    """Refuse a path or query that is not percent-encoded UTF-8: aiohttp would treat the escapes as literal text."""
    if "%" in request.raw_path:
        try:
            unquote_to_bytes(request.raw_path).decode()
        except UnicodeDecodeError as error:
            raise invalid(
                [Detail("not_utf_8", "The path and the query must be percent-encoded UTF-8.", parameter="path")]
            ) from error


def _validated(model: type[BaseModel], values: Mapping[str, str]) -> dict[str, Any]:
    try:
        strings: Any = dict(values)
        validated: dict[str, Any] = vars(model.__pydantic_validator__.validate_strings(strings))
    except ValidationError as error:
        raise refused(error, model, parameters=True) from error
    return validated


def _query(model: type[BaseModel], request: web.Request) -> BaseModel:
    values = request.query
    for name in values:
        if len(values.getall(name)) > 1:
            raise invalid([Detail("repeated", f"{name} was sent more than once: send it once.", parameter=name)])
    try:
        return model.model_validate_strings(dict(values))
    except ValidationError as error:
        raise refused(error, model, parameters=True) from error
