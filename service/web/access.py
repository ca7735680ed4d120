"""The access log: one JSON object a request, made and written for a fraction of what a general handler takes."""

import asyncio
import contextlib
import json
import logging
import time
from functools import lru_cache
from typing import TextIO

FLUSH_SECONDS = 0.1
"""How old a line may get before it is written: those of a busy service go out many at once."""

WHOLE_LINES = 8
"""So many fit into what a pipe takes in one piece (PIPE_BUF), so that those of several processes do not mix."""

logger = logging.getLogger("service.access")

COMMON = vars(logging.LogRecord(logger.name, logging.INFO, "", 0, "request", (), None))


class RequestRecord(logging.LogRecord):
    """The record of one request: what does not differ from one to the next is not found out anew."""

    method: str
    route: str
    status: int
    duration_ms: float
    request_id: str

    def __init__(self, **told: object) -> None:
        self.__dict__.update(COMMON, created=time.time(), **told)


def log_request(*, method: str, route: str, status: int, duration_ms: float, request_id: str) -> None:
    """Tell that a request was answered."""
    if logger.isEnabledFor(logging.INFO):
        # Not handle(), which asks for filters: there are none.
        logger.callHandlers(
            RequestRecord(method=method, route=route, status=status, duration_ms=duration_ms, request_id=request_id)
        )


class AccessHandler(logging.Handler):
    """Writes the records of requests to a stream, several lines at once; called within the event loop."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self._second = 0
        self._time = ""

    def handle(self, record: logging.LogRecord) -> bool:
        """Keep a record, without the lock and the filters of other handlers: all come from one thread."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line to be written soon."""
        assert isinstance(record, RequestRecord)
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._time = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        # What a request id is made of needs no escape in JSON.
        self._lines.append(
            f'{{"time": "{self._time}", {_members(record.method, record.route)}, "status": {record.status}, '
            f'"duration_ms": {record.duration_ms}, "request_id": "{record.request_id}"}}\n'
        )

    def flush(self) -> None:
        """Write what is kept."""
        lines, self._lines = self._lines, []
        # As with other handlers, a log that nobody reads any more is not the service's end.
        with contextlib.suppress(OSError, ValueError):
            for first in range(0, len(lines), WHOLE_LINES):
                self._stream.write("".join(lines[first : first + WHOLE_LINES]))
                self._stream.flush()


@lru_cache(maxsize=256)
def _members(method: str, route: str) -> str:
    told = {"level": "INFO", "logger": logger.name, "message": "request", "method": method, "route": route}
    return json.dumps(told)[1:-1]
