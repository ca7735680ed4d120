"""Whether the process lives, and whether it can serve."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from service.errors import Unavailable
from service.web.endpoint import DRAINING, Call, endpoint

READINESS: web.AppKey[Callable[[], Awaitable[None]]] = web.AppKey("readiness", Callable[[], Awaitable[None]])  # type: ignore[arg-type]
"""Raises ``Unavailable`` while the service can't do its work."""


@dataclass(frozen=True, slots=True)
class Health:
    """A state of the process."""

    status: Literal["live", "ready"]


class Draining(Unavailable):
    """The service shuts down: it finishes what it has begun and takes nothing new."""

    code, title = "draining", "Shutting down"


@endpoint("GET", "/health/live", needs_database=False)
async def live(_call: Call) -> Health:
    """Tell that the process runs.

    Says nothing of the database: restarting the service mends no database.
    """
    await asyncio.sleep(0)
    return Health("live")


@endpoint("GET", "/health/ready", problems=[Draining])
async def ready(call: Call) -> Health:
    """Tell whether requests can be served now.

    503 while the database is not reached or not migrated yet, and from the moment the service begins to shut down.
    """
    if call[DRAINING].is_set():
        raise Draining("The service is shutting down.")
    await call[READINESS]()
    return Health("ready")
