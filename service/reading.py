"""Batched reads: concurrent lookups share one statement."""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from service.coalescer import Callers, Coalescer
from service.database import Database
from service.settings import Settings
from sql import Connection

Asked = TypeVar("Asked", bound=Hashable)
Found = TypeVar("Found")

IN_FLIGHT = 2
"""While one statement runs, the answers of another are serialised; with more, batches were smaller and no faster."""

CHUNKS = 8
"""With one chunk, throughput of 64 callers was a fifth lower; with many more, that of 256 callers was a tenth lower."""


def reader(
    database: Database,
    settings: Settings,
    everybody: Callers,
    load: Callable[[Connection, list[Asked]], Awaitable[Mapping[Asked, Found]]],
) -> Coalescer[Asked, Found | None]:
    """Make a coalescer whose ``submit`` returns what ``load`` finds for a key, or None."""

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
