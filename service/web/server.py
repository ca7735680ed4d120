"""The HTTP server: limits on connections, and problem documents for errors outside endpoints."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import hdrs, web

from service.errors import DomainError
from service.web.endpoint import DRAINING, EDGE, logger, refuse, request_id_of
from service.web.origins import Origins
from service.web.problems import InternalError, NoSuchPath, NotHttp

SWEEP_SECONDS: Final = 1.0
"""Interval between sweeps over all connections: timers for each connection and answer would slow down every request."""

PUBLIC_PATH = web.AppKey("public_path", str)
"""The path below which a reverse proxy offers the service; empty if there is none."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with a timeout of 0: the kernel discards unsent data (socket(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the connections of callers; times are in seconds."""

    header_timeout: float
    """Close a connection if the header of its first request is not complete after this time."""
    send_timeout: float
    """Close a connection if the caller has not received an answer after this time."""
    peer_connections: int
    """Maximum number of connections per address; 0 is unlimited."""
    linger: float
    """How long a stopping server still answers requests on open connections."""


class Runner(web.AppRunner):
    """An application runner with limits, whose server answers every error with a problem."""

    def __init__(self, app: web.Application, limits: Limits, **options: Any) -> None:
        super().__init__(app, **options)
        self._limits = limits

    async def _make_server(self) -> web.Server:
        draining = self.app.get(DRAINING) or asyncio.Event()
        path = self.app.get(PUBLIC_PATH, "")
        edge = self.app.get(EDGE)
        origins = None if edge is None else edge.origins
        return _Server(await super()._make_server(), self._limits, draining, origins, path)

    async def shutdown(self) -> None:
        """Close idle connections, then run the application's shutdown hooks; the listener is already closed."""
        assert isinstance(self.server, _Server)
        await self.server.close_idle()
        await super().shutdown()


class _Server(web.Server):
    """aiohttp's server with the protocol ``_Protocol`` and a periodic sweep over the connections."""

    def __init__(
        self, made: web.Server, limits: Limits, draining: asyncio.Event, origins: Origins | None, public_path: str
    ) -> None:
        vars(self).update(vars(made))
        self.request_factory = partial(made.request_factory, _cls=_Request)  # type: ignore[call-arg]
        self.draining = draining
        self.origins = origins
        self.public_path = public_path
        self._limits = limits
        self._headerless: dict[web.RequestHandler, float] = {}
        """Connections before their first request, with the time of the connect, the oldest first."""
        self._unsent: dict[web.RequestHandler, tuple[float, asyncio.Future[None] | None]] = {}
        """Connections with unsent bytes: the time of the sweep that found them, and the future that waits for them."""
        self._peers: dict[web.RequestHandler, str] = {}
        self._connections_of: Counter[str] = Counter()
        self._refused = 0
        self._open = 0
        self._all_closed = asyncio.Event()
        self._next_sweep = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Register a connection; reset it if its address has too many connections."""
        super().connection_made(handler, transport)
        self._open += 1
        self._headerless[handler] = self._loop.time()
        address = transport.get_extra_info("peername")
        if self._limits.peer_connections and address:
            peer = self._peers[handler] = address[0]
            self._connections_of[peer] += 1
            if self._connections_of[peer] > self._limits.peer_connections:
                self._refused += 1
                _reset(transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Remove a closed connection from all counts."""
        super().connection_lost(handler, exc)
        self._open -= 1
        if not self._open:
            self._all_closed.set()
        self._headerless.pop(handler, None)
        peer = self._peers.pop(handler, None)
        if peer is not None:
            self._connections_of[peer] -= 1
            if not self._connections_of[peer]:
                del self._connections_of[peer]

    def pre_shutdown(self) -> None:
        """Close no connection yet: a caller may just have sent a request on a kept-alive connection."""

    async def close_idle(self) -> None:
        """Answer with ``Connection: close`` until all connections are closed or the time is up; close the rest."""
        self.draining.set()
        self._next_sweep.cancel()
        if self._open:
            self._all_closed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.linger):
                    await self._all_closed.wait()
        super().pre_shutdown()

    def _sweep(self) -> None:
        """Close the connections that have exceeded a limit."""
        self._next_sweep = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        now = self._loop.time()
        for handler, since in list(self._headerless.items()):
            if handler._request_count:  # noqa: SLF001
                del self._headerless[handler]
            elif now - since > self._limits.header_timeout:
                handler.force_close()
        unsent = {}
        for handler, transport in list(self._connections.items()):
            if transport.get_write_buffer_size():
                # Each answer waits with its own future, which restarts the time.
                waits = handler._drain_waiter  # noqa: SLF001
                since, waited = self._unsent.get(handler, (now, waits))
                if waited is not waits:
                    since = now
                if now - since > self._limits.send_timeout:
                    _reset(transport)
                else:
                    unsent[handler] = since, waits
        self._unsent = unsent
        if self._refused:
            logger.warning("refused connections from addresses with too many", extra={"refused": self._refused})
            self._refused = 0


class _Request(web.Request):
    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """Complete the headers of a response: without a route, aiohttp sends no on_response_prepare signal."""
        response.headers.popall(hdrs.SERVER, None)
        server = self.protocol._manager  # noqa: SLF001
        if not isinstance(server, _Server):
            return
        if server.origins is not None:
            server.origins.add_headers(self, response)
        if server.public_path:
            _put_below(server.public_path, response.headers)


class _Protocol(web.RequestHandler):
    __slots__ = ()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; convert the 404 that aiohttp raises for targets that are not paths, as in ``OPTIONS *``."""
        if isinstance(resp, web.HTTPNotFound):
            resp = refuse(request, NoSuchPath())
        server = self._manager
        if isinstance(server, _Server) and server.draining.is_set():
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to bytes that are not HTTP, or to an unexpected error, and close the connection.

        ``message`` shows where the bytes are wrong; None for an unexpected error.

        Raises:
            ConnectionError: a response has already been started.
        """
        error: DomainError
        if message is not None:
            error = NotHttp(f"The request is not valid HTTP: {_on_one_line(message)}")
        else:
            logger.error(
                "unexpected error outside an endpoint", exc_info=exc, extra={"request_id": request_id_of(request)}
            )
            error = InternalError.logged()
        if request.writer.output_size > 0:
            raise ConnectionError("The response has already been started.") from exc
        response = refuse(request, error)
        response.force_close()
        return response


def _put_below(path: str, headers: MutableMapping[str, str]) -> None:
    """Let the links in headers begin with a path."""
    for name, start in ((hdrs.LOCATION, "/"), (hdrs.LINK, "</")):
        if headers.get(name, "").startswith(start):
            headers[name] = f"{start.removesuffix('/')}{path}/{headers[name].removeprefix(start)}"


def _reset(transport: asyncio.Transport) -> None:
    """Reset a connection at once: close() waits until all data is sent, and so does the kernel after abort()."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()


def _on_one_line(message: str) -> str:
    """Return the parser's message on one line, without the marker ``^`` under a column."""
    return " ".join(word for word in message.split() if word != "^")
