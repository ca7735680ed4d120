"""The server: what aiohttp answers before any endpoint sees a request is a problem and a line in the log too."""

from aiohttp import web

from service.errors import DomainError
from service.web.access import log_request, logger
from service.web.endpoint import request_id_of, unrouted
from service.web.problems import InternalError, NotHttp, problem_response


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
        if request.writer.output_size > 0:
            raise ConnectionError("The fault came amid an answer.") from exc
        request_id = request_id_of(request)
        error: DomainError
        if message is None:
            logger.error("a fault of the server", exc_info=exc, extra={"request_id": request_id})
            error = InternalError.logged()
        else:
            error = NotHttp(f"This can't be read as a request: {_on_one_line(message)}")
        response = problem_response(error, instance=request.rel_url.raw_path, request_id=request_id)
        response.force_close()
        log_request(
            method=request.method, route=unrouted.path, status=response.status, duration_ms=0.0, request_id=request_id
        )
        return response


def _on_one_line(message: str) -> str:
    """Say what the parser says, without the line that points to a column of the one above it."""
    return " ".join(word for word in message.split() if word != "^")
