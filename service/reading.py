"""Hot reads: what callers ask for together is read in one statement."""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from service.coalescer import Callers, Coalescer
from service.database import Database
from service.settings import Settings
from sql import Connection

Asked = TypeVar("Asked", bound=Hashable)
Found = TypeVar("Found")

IN_FLIGHT = 2
"""While one statement runs, the answers of the one before are serialised; more made the batches smaller, not faster."""

CHUNKS = 8
"""With one chunk 64 callers were served a fifth slower, with many more 256 callers a tenth slower."""


def reader(
    database: Database,
    settings: Settings,
    everybody: Callers,
    load: Callable[[Connection, list[Asked]], Awaitable[Mapping[Asked, Found]]],
) -> Coalescer[Asked, Found | None]:
    """Make a reader whose ``submit`` returns what ``load`` finds for what is asked, or None."""

    async def run(asked: Sequence[Asked]) -> list[Found | None]:
        async with database.reading() as connection:
            found = await load(connection, list(dict.fromkeys(asked)))
        return [found.get(each) for each in asked]

    return Coalescer(
        run,
        cap=settings.batch_reads if settings.batching else 1,
        queue=settings.queue_limit,
        patience=settings.admission_seconds,
        in_flight=IN_FLIGHT if settings.batching else settings.pool_size,
        chunks=CHUNKS,
        everybody=everybody,
    )
