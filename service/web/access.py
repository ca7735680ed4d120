"""The access log: one line per request, at a fraction of the cost of a general handler."""

import asyncio
import contextlib
import json
import logging
import time
from functools import lru_cache
from typing import Final, NamedTuple, TextIO

FLUSH_SECONDS = 0.1
"""Longest delay before a line is written; a busy service writes many lines together."""

BYTES_PER_WRITE = 4096
"""Bytes per write, PIPE_BUF of Linux: so the lines of several processes do not interleave in a pipe."""

logger = logging.getLogger("service.access")


class RequestLine(NamedTuple):
    """What a line says of a request. The ids are digits; ``codes`` are those of the problem, its own first."""

    method: str
    route: str
    status: int
    duration_ms: float
    request_id: str
    actor: str | None = None
    institution: str | None = None
    student_id: str | None = None
    course_id: str | None = None
    codes: tuple[str, ...] = ()
    remote: str | None = None
    trace_id: str | None = None


def log_request(line: RequestLine, *, routine: bool = False) -> None:
    """Log an answered request; one that machines repeat every few seconds is ``routine``, and logged at DEBUG.

    Nothing in a line is personal data except the address: a path is logged as its route.
    """
    level = logging.DEBUG if routine else logging.INFO
    if not logger.isEnabledFor(level):
        return
    if logger.handlers and isinstance(handler := logger.handlers[0], AccessHandler):
        # A record, which no other handler wants, would take as long as the line itself.
        handler.write(line, "DEBUG" if routine else "INFO")
    else:
        logger.log(level, "request", extra=line._asdict())


class AccessHandler(logging.Handler):
    """Writes the lines of requests to a stream, several lines at once, within the event loop.

    Records go to the handlers of the parent logger. The handler never raises: a lost line must not fail a request.
    """

    def __init__(self, stream: TextIO, *, text: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._format_second = _second_on_terminal if text else _second
        self._format_line = self._text if text else self._json
        self._lines: list[str] = []
        self._second = 0
        self._time = ""

    def handle(self, record: logging.LogRecord) -> bool:
        """Hand a record on."""
        if logger.parent is not None:
            logger.parent.callHandlers(record)
        return True

    def write(self, line: RequestLine, level: str) -> None:
        """Buffer the line of a request until the next flush: all requests run in one thread."""
        try:
            now = time.time()
            if (second := int(now)) != self._second:
                self._second = second
                self._time = self._format_second(second)
            text = self._format_line(line, level, now - second)
            if not self._lines:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            self._lines.append(text)
        except Exception:
            self.handleError(logging.LogRecord(logger.name, logging.INFO, "", 0, "request", (), None))

    def _json(self, line: RequestLine, level: str, fraction: float) -> str:
        # Neither REQUEST_ID, codes nor addresses have characters that JSON escapes.
        (
            method,
            route,
            status,
            duration_ms,
            request_id,
            actor,
            institution,
            student_id,
            course_id,
            codes,
            remote,
            trace_id,
        ) = line
        text = (
            f'{{"time": "{self._time}.{int(fraction * 1000):03d}Z", {_members(level, method, route)}, '
            f'"status": {status}, "duration_ms": {duration_ms:.3f}, "request_id": "{request_id}"'
        )
        if actor is not None:
            text += f', "actor": {_quoted(actor)}'
        if institution is not None:
            text += f', "institution": {_quoted(institution)}'
        if student_id is not None:
            text += f', "student_id": {student_id}'
        if course_id is not None:
            text += f', "course_id": {course_id}'
        if codes:
            text += f', "codes": {_list(codes)}'
        if remote is not None:
            text += f', "remote": "{remote}"'
        if trace_id is not None:
            text += f', "trace_id": "{trace_id}"'
        return text + "}\n"

    def _text(self, line: RequestLine, level: str, _fraction: float) -> str:
        text = (
            f"{self._time} {level:<7} {line.method} {line.route} {line.status}  "
            f"{line.duration_ms:.3f} ms  request_id={line.request_id}"
        )
        for name in SHOWN_ON_TERMINAL:
            if (value := getattr(line, name)) is not None:
                text += f"  {name}={value}"
        return f"{text}  {' '.join(line.codes)}".rstrip() + "\n"

    def flush(self) -> None:
        """Write the buffered lines."""
        lines, self._lines = self._lines, []
        # A log stream without a reader must not stop the service; other handlers ignore this error too.
        with contextlib.suppress(OSError, ValueError):
            first = size = 0
            for number, line in enumerate(lines):
                # JSON is in ASCII: a character is a byte.
                size += len(line)
                if size > BYTES_PER_WRITE and number > first:
                    self._write(lines[first:number])
                    first, size = number, len(line)
            self._write(lines[first:])

    def _write(self, lines: list[str]) -> None:
        self._stream.write("".join(lines))
        self._stream.flush()


SHOWN_ON_TERMINAL: Final = ("actor", "institution", "student_id", "course_id", "trace_id")


def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _second_on_terminal(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


@lru_cache(maxsize=1024)
def _members(level: str, method: str, route: str) -> str:
    members = {"level": level, "logger": logger.name, "message": "request", "method": method, "route": route}
    return json.dumps(members)[1:-1]


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    return json.dumps(text)


@lru_cache(maxsize=1024)
def _list(codes: tuple[str, ...]) -> str:
    return json.dumps(codes)
