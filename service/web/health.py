"""Liveness and readiness endpoints."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from aiohttp import web
from pydantic import Field

from service.errors import Unavailable
from service.web.endpoint import DRAINING, Call, endpoint

ReadinessCheck: TypeAlias = Callable[[], Awaitable[float | None]]

READINESS: web.AppKey[ReadinessCheck] = web.AppKey("readiness", Callable)  # type: ignore[arg-type]
"""Return the age in seconds of the oldest writing transaction, or None; raise ``Unavailable`` while not ready."""


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of a process that is running."""

    status: Annotated[Literal["live"], Field(description="Always `live`.")]


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer of a service that is ready, with the age of its oldest write."""

    status: Annotated[
        Literal["ready"], Field(description="Always `ready`; a service that is not ready answers with a problem.")
    ]
    oldest_write_seconds: Annotated[
        float | None,
        Field(
            description=(
                "Age of the oldest transaction of any process that writes or waits for the write lock; "
                "null if there is none. Writes are serial: one that takes seconds delays all others."
            )
        ),
    ]


class Draining(Unavailable):
    """The service is shutting down and accepts no new requests."""

    code, title = "draining", "Shutting down"


@endpoint("GET", "/health/live", scope="public", needs_database=False, routine=True)
async def live(_call: Call) -> Health:
    """Check that the process is running.

    This call does not check the database, because a restart of the service does not repair a database.
    """
    await asyncio.sleep(0)
    return Health("live")


@endpoint("GET", "/health/ready", scope="public", problems=[Draining], routine=True)
async def ready(call: Call) -> Readiness:
    """Check whether the service can serve requests.

    The status is 503 until the database is reachable and migrated, while it refuses changes, because its disk is full or
    it is read-only, and from the moment the service starts to shut down.
    """
    if call[DRAINING].is_set():
        raise Draining("The service is shutting down.")
    return Readiness("ready", await call[READINESS]())
