"""The server: what aiohttp answers by itself, before any endpoint sees a request, is a problem and in the log as well."""

from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError

from service.errors import DomainError
from service.web.endpoint import logger, refuse, request_id_of
from service.web.problems import BadJson, InternalError, NoSuchPath, NotHttp


class Runner(web.AppRunner):
    """Serves an application, every error as a problem."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server())


class _Server(web.Server):
    """What aiohttp has made of an application, but for the protocol that its connections speak."""

    def __init__(self, made: web.Server) -> None:
        vars(self).update(vars(made))

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
    __slots__ = ()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer: where the target is no path, as in ``OPTIONS *``, no route was found and aiohttp raised."""
        if isinstance(resp, web.HTTPNotFound):
            resp = refuse(request, NoSuchPath())
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, with a ``message`` that shows where, or a fault of aiohttp; then disconnect.

        Raises:
            ConnectionError: an answer is under way already.
        """
        error: DomainError
        if isinstance(exc, ContentEncodingError):
            error = BadJson("The body is not encoded as Content-Encoding says, or otherwise than in gzip or deflate.")
        elif message is not None:
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

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log a fault, which a body that no endpoint wanted and nobody could read is not."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)


def _on_one_line(message: str) -> str:
    """Say what the parser says, without the line that points to a column of the one above it."""
    return " ".join(word for word in message.split() if word != "^")
