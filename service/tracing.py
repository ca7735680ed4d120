"""Spans of requests, batches and statements by OpenTelemetry; off, and its packages not imported, until ``install``.

No span has personal data: a path is its route, and a statement its name, without parameters.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, TracerProvider

MAX_LINKS = 128
"""Most links of a batch to its requests: the limit of the SDK, above which it would drop the first ones."""


class Statement(Protocol):
    """A statement that the driver has sent."""

    @property
    def query(self) -> str:
        """The text."""

    @property
    def elapsed(self) -> float:
        """The seconds until the answer."""

    @property
    def exception(self) -> BaseException | None:
        """The error that answered it."""


class Tracing:
    """Makes the spans of this process."""

    def __init__(self, provider: "TracerProvider", names: Mapping[str, str]) -> None:
        """``names`` are the names of statements by their texts."""
        from opentelemetry import trace  # noqa: PLC0415 - only if traces are on
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._tracer = provider.get_tracer("enrollment-service")
        self._root = Context()
        self._propagator = TraceContextTextMapPropagator()
        self._names = names

    @contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, str]) -> "Iterator[Span]":
        """Make the span of a request, which continues the trace of its header ``traceparent``."""
        with self._tracer.start_as_current_span(
            f"{method} {route}",
            self._propagator.extract(headers, context=self._root),
            self._trace.SpanKind.SERVER,
            {"http.request.method": method, "http.route": route},
        ) as span:
            yield span

    def current(self) -> "SpanContext | None":
        """Return the current span, for a link to it."""
        found = self._trace.get_current_span().get_span_context()
        return found if found.is_valid else None

    @contextmanager
    def batch(self, name: str, spans: "Sequence[SpanContext | None]") -> Iterator[None]:
        """Make the span of a batch, a trace of its own with links to the spans of its requests."""
        links = [self._trace.Link(span) for span in spans if span is not None]
        attributes = {"enrollment.batch.size": len(spans)}
        with self._tracer.start_as_current_span(name, self._root, attributes=attributes, links=links[:MAX_LINKS]):
            yield

    def note_statement(self, statement: Statement) -> None:
        """Make the span of a statement that was answered just now, within the batch or the request that sent it."""
        ended = time.time_ns()
        # A statement without a name begins or ends a transaction.
        name = self._names.get(statement.query) or statement.query.split(maxsplit=1)[0].rstrip(";")
        span = self._tracer.start_span(
            name,
            kind=self._trace.SpanKind.CLIENT,
            attributes={"db.system.name": "postgresql", "db.query.summary": name},
            start_time=ended - round(statement.elapsed * 1e9),
        )
        if statement.exception is not None:
            span.set_attribute("error.type", type(statement.exception).__name__)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended)


active: Tracing | None = None
"""Makes spans; None if traces are off."""


def install(provider: "TracerProvider", names: Mapping[str, str]) -> None:
    """Make spans from now on, in applications that are created after this call."""
    global active  # noqa: PLW0603 - one for the process, as its settings are
    active = Tracing(provider, names)


def uninstall() -> None:
    """Make no more spans."""
    global active  # noqa: PLW0603 - as above
    active = None


def current_trace_id() -> str | None:
    """Return the trace of the current request or batch in hexadecimal; None without one, or if traces are off."""
    span = None if active is None else active.current()
    return None if span is None else f"{span.trace_id:032x}"


def new_request_id() -> str | None:
    """Return the id of a request that brings none: its trace and its span; None if traces are off."""
    span = None if active is None else active.current()
    return None if span is None else f"{span.trace_id:032x}-{span.span_id:016x}"


def trace_response(span: Any) -> str:
    """Return the value of the header ``traceresponse`` (W3C Trace Context Level 2), which names the span of a request."""
    context: SpanContext = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
