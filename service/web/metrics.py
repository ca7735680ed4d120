"""The metrics over HTTP: for a caller with the scope ``metrics``, or for anyone who reaches a port of their own."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from service.web.endpoint import EDGE, Call, endpoint, register
from service.web.origins import Origins

READ_METRICS: web.AppKey[Callable[[], Awaitable[bytes]]] = web.AppKey("metrics", Callable)  # type: ignore[arg-type]
"""Return the metrics of the service as Prometheus text."""

FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"


@endpoint("GET", "/metrics", scope="metrics", within="process", needs_database=False, routine=True)
async def read_metrics(call: Call) -> web.Response:
    """Read the metrics of the service as Prometheus text."""
    return web.Response(body=await call[READ_METRICS](), headers={"Content-Type": FORMAT})


def metrics_app(app: web.Application, origins: Origins) -> web.Application:
    """Return an application that serves the metrics of ``app``, and nothing else, to everyone."""
    alone = web.Application()
    register(alone, [replace(read_metrics, scope="public")])
    alone[EDGE] = replace(app[EDGE], origins=origins)
    alone[READ_METRICS] = app[READ_METRICS]
    return alone
