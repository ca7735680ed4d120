"""The numbers that the metrics show as they are when they are read: of this process, and of the database."""

from collections.abc import Iterable
from typing import Final

from service import metrics
from service.api.events import POLLER
from service.api.keys import COURSES, COURSES_OF_STUDENTS, REGISTRAR, STUDENTS, STUDENTS_OF_COURSES
from service.database import Database
from service.metrics import LAST_SWEEP, Snapshot
from service.pool import Pool
from service.settings import Settings
from service.web.endpoint import Services
from sql.metrics import Activity, get_activity, get_totals
from sql.registry import get_sweep_age

READERS: Final = (STUDENTS, COURSES, COURSES_OF_STUDENTS, STUDENTS_OF_COURSES)


def of_process(settings: Settings, pool: Pool, opened: Iterable[Services], webhooks: list[str]) -> Snapshot:
    """Return the gauges of this process, which has opened the services of institutions, and delivers webhooks in some states."""
    institutions = [*opened]
    in_use, idle, waiting = pool.usage()
    readers = [each[POLLER].waiting() for each in institutions]
    found: Snapshot = {
        metrics.QUEUED.name: [
            (("changes",), sum([each[REGISTRAR].queued for each in institutions])),
            (("reads",), sum([each[reader].waiting for each in institutions for reader in READERS])),
        ],
        metrics.CONNECTIONS.name: [(("in_use",), in_use), (("idle",), idle)],
        metrics.POOL_SIZE.name: [((), settings.pool_size)],
        metrics.POOL_WAITING.name: [((), waiting)],
        metrics.READERS.name: [((), sum([count for count, _ in readers]))],
        metrics.STREAMS.name: [((), sum([each[POLLER].streams for each in institutions]))],
        metrics.OLDEST_READER.name: [((), max([seconds for _, seconds in readers], default=0.0))],
        metrics.INSTITUTIONS.name: [((), len(institutions))],
        metrics.WEBHOOKS.name: [((state,), webhooks.count(state)) for state in ("active", "failing", "stopped")],
    }
    if settings.registry_schema is None:
        found[metrics.SWEEP_LAG.name] = [((), LAST_SWEEP.age())]
    return found


async def of_database(database: Database) -> Snapshot:
    """Return the gauges that the database of the only institution knows.

    Raises:
        DomainError: the database does not answer.
    """
    async with database.reading() as connection:
        activity = await get_activity(connection)
        totals = await get_totals(connection)
    return {
        **_of_activity(activity),
        metrics.FEED_POSITION.name: [((), totals.feed_position)],
        metrics.WAITLISTED.name: [((), totals.waitlisted)],
        metrics.BLOCKED.name: [((), totals.waitlisted - totals.unjudged)],
    }


async def of_registry(database: Database) -> Snapshot:
    """Return the gauges of the database of many institutions; the totals of each would take a statement for each.

    Raises:
        DomainError: the database does not answer.
    """
    async with database.reading() as connection:
        activity = await get_activity(connection)
        lag = await get_sweep_age(connection)
    return {
        **_of_activity(activity),
        metrics.SWEEP_LAG.name: [((), lag or 0.0)],
    }


def _of_activity(activity: Activity) -> Snapshot:
    return {
        metrics.OLDEST_TRANSACTION.name: [((), activity.oldest_transaction or 0.0)],
        metrics.OLDEST_WRITE.name: [((), activity.oldest_write or 0.0)],
    }
