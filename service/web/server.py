"""The server: limits on connections, and problems for what aiohttp answers before any endpoint sees a request."""

import asyncio
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import hdrs, web

from service.errors import DomainError
from service.web.endpoint import DRAINING, logger, refuse, request_id_of
from service.web.origins import ORIGINS, Origins
from service.web.problems import InternalError, NoSuchPath, NotHttp

SWEEP_SECONDS: Final = 1.0
"""How often the connections are looked at: a timer for each connection and answer would cost every request."""

RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: what is not sent yet is thrown away (socket(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server takes from its callers; times are in seconds."""

    header_timeout: float
    """Closes a connection whose first request has no complete header by then."""
    send_timeout: float
    """Closes a connection whose caller has not taken an answer by then."""
    peer_connections: int
    """The most connections of one address; 0 is no limit."""
    linger: float
    """How long a server that stops still answers on the connections that are open."""


class Runner(web.AppRunner):
    """Serves an application within limits, every error as a problem."""

    def __init__(self, app: web.Application, limits: Limits, **options: Any) -> None:
        super().__init__(app, **options)
        self._limits = limits

    async def _make_server(self) -> web.Server:
        draining = self.app.get(DRAINING) or asyncio.Event()
        return _Server(await super()._make_server(), self._limits, draining, self.app.get(ORIGINS))

    async def shutdown(self) -> None:
        """Close idle connections, then run the application's own hooks; the listener is closed already."""
        assert isinstance(self.server, _Server)
        await self.server.close_idle()
        await super().shutdown()


class _Server(web.Server):
    """aiohttp's server of an application, with its own protocol and a sweep over the connections."""

    def __init__(self, made: web.Server, limits: Limits, draining: asyncio.Event, origins: Origins | None) -> None:
        vars(self).update(vars(made))
        self.request_factory = partial(made.request_factory, _cls=_Request)  # type: ignore[call-arg]
        self.draining = draining
        self.origins = origins
        self._limits = limits
        self._headerless: dict[web.RequestHandler, float] = {}
        """Connections without a first request yet, and since when, the oldest first."""
        self._unsent: dict[web.RequestHandler, tuple[float, asyncio.Future[None] | None]] = {}
        """Connections with bytes that their callers have not taken, since when, and what waits for that."""
        self._peers: dict[web.RequestHandler, str] = {}
        self._connections_of: Counter[str] = Counter()
        self._refused = 0
        self._open = 0
        self._all_closed = asyncio.Event()
        self._next_sweep = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Register a connection, or close it where its address has too many."""
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
        """Forget a connection."""
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
        """Close nothing yet: a caller of a kept connection may just have sent a request."""

    async def close_idle(self) -> None:
        """Answer what still arrives, and ask to close, until no connection is left or the time is over; then close."""
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
                # The next answer waits for its turn with a future of its own, and has a time of its own.
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
            logger.warning("refused connections of addresses that have too many", extra={"refused": self._refused})
            self._refused = 0


class _Request(web.Request):
    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """Finish the headers of a response, of every one: the signal on_response_prepare is not sent where no route was found."""
        response.headers.popall(hdrs.SERVER, None)
        server = self.protocol._manager  # noqa: SLF001
        if isinstance(server, _Server) and server.origins is not None:
            server.origins.add_headers(self, response)


class _Protocol(web.RequestHandler):
    __slots__ = ()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer: where the target is no path, as in ``OPTIONS *``, no route was found and aiohttp raised."""
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
        """Answer bytes that are not a request, with a ``message`` that shows where, or an unexpected error; disconnect.

        Raises:
            ConnectionError: an answer is under way already.
        """
        error: DomainError
        if message is not None:
            error = NotHttp(f"This can't be read as a request: {_on_one_line(message)}")
        else:
            logger.error(
                "unexpected error outside of an endpoint", exc_info=exc, extra={"request_id": request_id_of(request)}
            )
            error = InternalError.logged()
        if request.writer.output_size > 0:
            raise ConnectionError("An answer is under way already.") from exc
        response = refuse(request, error)
        response.force_close()
        return response


def _reset(transport: asyncio.Transport) -> None:
    """End a connection at once: close() waits until all is sent, and so does the kernel after abort()."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()


def _on_one_line(message: str) -> str:
    """Return the parser's message without the line that points to a column of the one above it."""
    return " ".join(word for word in message.split() if word != "^")
