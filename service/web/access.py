"""The access log: one line a request, at a fraction of the cost of a general handler."""

import asyncio
import contextlib
import json
import logging
import time
from functools import lru_cache
from typing import TextIO

FLUSH_SECONDS = 0.1
"""Longest delay before a line is written: a busy service writes many lines at once."""

WHOLE_LINES = 8
"""Lines per write: stays below PIPE_BUF so that lines of several processes do not interleave."""

logger = logging.getLogger("service.access")

COMMON = vars(logging.LogRecord(logger.name, logging.INFO, "", 0, "request", (), None))


class RequestRecord(logging.LogRecord):
    """The record of one request; it shares the attributes that are the same for all requests."""

    method: str
    route: str
    status: int
    duration_ms: float
    request_id: str

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(COMMON, created=time.time(), **fields)


def log_request(*, method: str, route: str, status: int, duration_ms: float, request_id: str) -> None:
    """Log that a request was answered."""
    if logger.isEnabledFor(logging.INFO):
        # Not handle(), which asks for filters: there are none.
        logger.callHandlers(
            RequestRecord(method=method, route=route, status=status, duration_ms=duration_ms, request_id=request_id)
        )


class AccessHandler(logging.Handler):
    """Writes the records of requests to a stream, several lines at once; called within the event loop.

    Any other record goes on to the handlers of the parent logger. Never raises: a caller is worth more than a line.
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
        """Keep a record, without the lock and the filters of other handlers: all requests come from one thread."""
        if isinstance(record, RequestRecord):
            self.emit(record)
        elif logger.parent is not None:
            logger.parent.callHandlers(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of a request, to be written soon."""
        try:
            self._keep(record)  # type: ignore[arg-type] # handle() passes nothing else
        except Exception:
            self.handleError(record)

    def _keep(self, record: RequestRecord) -> None:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._time = time.strftime(self._time_format, time.localtime(second))
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        self._lines.append(self._line(record))

    def _json(self, record: RequestRecord) -> str:
        # A request id holds no character that JSON escapes.
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
        """Write the kept lines."""
        lines, self._lines = self._lines, []
        # As with other handlers, a log that nobody reads any more does not stop the service.
        with contextlib.suppress(OSError, ValueError):
            for first in range(0, len(lines), WHOLE_LINES):
                self._stream.write("".join(lines[first : first + WHOLE_LINES]))
                self._stream.flush()


@lru_cache(maxsize=256)
def _members(method: str, route: str) -> str:
    members = {"level": "INFO", "logger": logger.name, "message": "request", "method": method, "route": route}
    return json.dumps(members)[1:-1]
