"""The access log: one line per request, at a fraction of the cost of a general handler."""

import asyncio
import contextlib
import json
import logging
import time
from functools import lru_cache
from typing import TextIO

FLUSH_SECONDS = 0.1
"""Longest delay before a line is written; a busy service writes many lines together."""

LINES_PER_WRITE = 8
"""Lines per write: stays below PIPE_BUF so that lines of several processes do not interleave."""

logger = logging.getLogger("service.access")

COMMON = vars(logging.LogRecord(logger.name, logging.INFO, "", 0, "request", (), None))


class RequestRecord(logging.LogRecord):
    """A log record of one request; all records share the attributes that are the same for every request."""

    method: str
    route: str
    status: int
    duration_ms: float
    request_id: str

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(COMMON, created=time.time(), **fields)


def log_request(*, method: str, route: str, status: int, duration_ms: float, request_id: str) -> None:
    """Log an answered request."""
    if logger.isEnabledFor(logging.INFO):
        # callHandlers() skips the filters that handle() looks up; this logger has none.
        logger.callHandlers(
            RequestRecord(method=method, route=route, status=status, duration_ms=duration_ms, request_id=request_id)
        )


class AccessHandler(logging.Handler):
    """A log handler that writes the records of requests to a stream, several lines at once, within the event loop.

    Other records go to the handlers of the parent logger. The handler never raises: a lost line must not fail a
    request.
    """

    def __init__(self, stream: TextIO, *, text: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._time_format = "%H:%M:%S" if text else "%Y-%m-%dT%H:%M:%S%z"
        self._line = self._text if text else self._json
        self._lines: list[str] = []
        self._second = 0
        self._time = ""

    def handle(self, record: logging.LogRecord) -> bool:
        """Buffer a record without the lock and the filters of other handlers: all requests run in one thread."""
        if isinstance(record, RequestRecord):
            self.emit(record)
        elif logger.parent is not None:
            logger.parent.callHandlers(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Buffer the line of a request until the next flush."""
        try:
            self._buffer(record)  # type: ignore[arg-type] # handle() passes nothing else
        except Exception:
            self.handleError(record)

    def _buffer(self, record: RequestRecord) -> None:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._time = time.strftime(self._time_format, time.localtime(second))
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._lines.append(self._line(record))

    def _json(self, record: RequestRecord) -> str:
        # REQUEST_ID allows only characters that JSON does not escape.
        return (
            f'{{"time": "{self._time}", {_members(record.method, record.route)}, "status": {record.status}, '
            f'"duration_ms": {record.duration_ms}, "request_id": "{record.request_id}"}}\n'
        )

    def _text(self, record: RequestRecord) -> str:
        return (
            f"{self._time} {record.levelname:<7} {record.method} {record.route} {record.status}  "
            f"{record.duration_ms} ms  request_id={record.request_id}\n"
        )

    def flush(self) -> None:
        """Write the buffered lines."""
        lines, self._lines = self._lines, []
        # A log stream without a reader must not stop the service; other handlers ignore this error too.
        with contextlib.suppress(OSError, ValueError):
            for first in range(0, len(lines), LINES_PER_WRITE):
                self._stream.write("".join(lines[first : first + LINES_PER_WRITE]))
                self._stream.flush()


@lru_cache(maxsize=256)
def _members(method: str, route: str) -> str:
    members = {"level": "INFO", "logger": logger.name, "message": "request", "method": method, "route": route}
    return json.dumps(members)[1:-1]
