"""The access log: one line per request, at a fraction of the cost of a general handler."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Required, TextIO, TypedDict, Unpack

FLUSH_SECONDS = 0.1
"""Longest delay before a line is written; a busy service writes many lines together."""

BYTES_PER_WRITE = 4096
"""Bytes per write, PIPE_BUF of Linux: so the lines of several processes do not interleave in a pipe."""

logger = logging.getLogger("service.access")


class RequestFields(TypedDict, total=False):
    """What a line says of a request. The ids are digits; ``codes`` are those of the problem, its own first."""

    method: Required[str]
    route: Required[str]
    status: Required[int]
    duration_ms: Required[float]
    request_id: Required[str]
    actor: str | None
    institution: str | None
    student_id: str | None
    course_id: str | None
    codes: tuple[str, ...]
    remote: str | None
    trace_id: str | None


def log_request(*, routine: bool = False, **fields: Unpack[RequestFields]) -> None:
    """Log an answered request; one that machines repeat every few seconds is ``routine``, and logged at DEBUG.

    Nothing in a line is personal data except the address: a path is logged as its route.
    """
    level = logging.DEBUG if routine else logging.INFO
    if not logger.isEnabledFor(level):
        return
    if logger.handlers and isinstance(handler := logger.handlers[0], AccessHandler):
        # A record, which no other handler wants, would take as long as the line itself.
        handler.write(fields, "DEBUG" if routine else "INFO")
    else:
        logger.log(level, "request", extra={**ABSENT, **fields})


class AccessHandler(logging.Handler):
    """Writes the lines of requests to a stream, several lines at once, within the event loop.

    Records go to the handlers of the parent logger. The handler never raises: a lost line must not fail a request.
    """

    def __init__(self, stream: TextIO, *, text: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._format_second = _second_on_terminal if text else _second
        self._line = self._text if text else self._json
        self._lines: list[str] = []
        self._second = 0
        self._time = ""

    def handle(self, record: logging.LogRecord) -> bool:
        """Hand a record on."""
        if logger.parent is not None:
            logger.parent.callHandlers(record)
        return True

    def write(self, fields: RequestFields, level: str) -> None:
        """Buffer the line of a request until the next flush: all requests run in one thread."""
        try:
            now = time.time()
            if (second := int(now)) != self._second:
                self._second = second
                self._time = self._format_second(second)
            line = self._line(fields, level, now - second)
            if not self._lines:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            self._lines.append(line)
        except Exception:
            self.handleError(logging.LogRecord(logger.name, logging.INFO, "", 0, "request", (), None))

    def _json(self, fields: RequestFields, level: str, fraction: float) -> str:
        # Neither REQUEST_ID, codes nor addresses have characters that JSON escapes.
        line = (
            f'{{"time": "{self._time}.{int(fraction * 1000):03d}Z", {_members(level, fields["method"], fields["route"])}, '
            f'"status": {fields["status"]}, "duration_ms": {fields["duration_ms"]}, "request_id": "{fields["request_id"]}"'
        )
        get = fields.get
        if (actor := get("actor")) is not None:
            line += f', "actor": {_quoted(actor)}'
        if (institution := get("institution")) is not None:
            line += f', "institution": {_quoted(institution)}'
        if (student_id := get("student_id")) is not None:
            line += f', "student_id": {student_id}'
        if (course_id := get("course_id")) is not None:
            line += f', "course_id": {course_id}'
        if codes := get("codes"):
            line += f', "codes": {_list(codes)}'
        if (remote := get("remote")) is not None:
            line += f', "remote": "{remote}"'
        if (trace_id := get("trace_id")) is not None:
            line += f', "trace_id": "{trace_id}"'
        return line + "}\n"

    def _text(self, fields: RequestFields, level: str, _fraction: float) -> str:
        line = (
            f"{self._time} {level:<7} {fields['method']} {fields['route']} {fields['status']}  "
            f"{fields['duration_ms']} ms  request_id={fields['request_id']}"
        )
        shown = {**ABSENT, **fields}
        for name in SHOWN_ON_TERMINAL:
            if shown[name] is not None:
                line += f"  {name}={shown[name]}"
        return f"{line}  {' '.join(fields.get('codes', ()))}".rstrip() + "\n"

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


ABSENT: Final[Mapping[str, object]] = {
    **dict.fromkeys(("actor", "institution", "student_id", "course_id", "remote", "trace_id")),
    "codes": (),
}
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
