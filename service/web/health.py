"""Liveness and readiness endpoints."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from aiohttp import web
from pydantic import Field

from service.errors import Unavailable
from service.web.endpoint import DRAINING, Call, endpoint

Question: TypeAlias = Callable[[], Awaitable[float | None]]

READINESS: web.AppKey[Question] = web.AppKey("readiness", Callable)  # type: ignore[arg-type]
"""Returns the age in seconds of the oldest writing transaction, or None; raises ``Unavailable`` while not ready."""


@dataclass(frozen=True, slots=True)
class Health:
    """The process runs."""

    status: Annotated[Literal["live"], Field(description="Always the same.")]


@dataclass(frozen=True, slots=True)
class Readiness:
    """The service is ready, and how old the oldest write is."""

    status: Annotated[Literal["ready"], Field(description="Always the same: otherwise the answer is a problem.")]
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


@endpoint("GET", "/health/live", scope="public", needs_database=False)
async def live(_call: Call) -> Health:
    """Check that the process runs.

    Does not check the database: restarting the service repairs no database.
    """
    await asyncio.sleep(0)
    return Health("live")


@endpoint("GET", "/health/ready", scope="public", problems=[Draining])
async def ready(call: Call) -> Readiness:
    """Check whether the service can serve requests.

    The status is 503 until the database is reached and migrated, and as soon as the service begins to shut down.
    """
    if call[DRAINING].is_set():
        raise Draining("The service is shutting down.")
    return Readiness("ready", await call[READINESS]())
