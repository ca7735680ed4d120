"""Whether the process lives, and whether it can serve."""

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
"""Returns the age in seconds of the oldest writing transaction, None where none is under way.

Raises ``Unavailable`` while the service can't do its work.
"""


@dataclass(frozen=True, slots=True)
class Health:
    """A state of the process."""

    status: Literal["live"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """That requests are served now, and whether writes go on."""

    status: Literal["ready"]
    oldest_write_seconds: Annotated[
        float | None,
        Field(
            description=(
                "Age of the oldest transaction, of any process, that writes or waits for its turn to; "
                "null where there is none. Writes are serial: one that lasts for seconds holds all others up."
            )
        ),
    ]


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
async def ready(call: Call) -> Readiness:
    """Tell whether requests can be served now.

    503 while the database is not reached or not migrated yet, and from the moment the service begins to shut down.
    """
    if call[DRAINING].is_set():
        raise Draining("The service is shutting down.")
    return Readiness("ready", await call[READINESS]())
