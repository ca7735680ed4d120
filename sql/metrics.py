"""Statements that read the numbers of the metrics, cheaply enough to run every few seconds."""

from dataclasses import dataclass
from typing import Final

from sql import Connection

GET_ACTIVITY: Final = """
SELECT
    (
        SELECT extract(epoch FROM max(statement_timestamp() - xact_start))::double precision
        FROM pg_stat_activity
        WHERE datname = current_database()
            AND pid <> pg_backend_pid()
    ) AS oldest_transaction,
    (
        SELECT extract(epoch FROM max(statement_timestamp() - activity.xact_start))::double precision
        FROM pg_locks AS locks
        INNER JOIN pg_class AS tables ON tables.oid = locks.relation
        INNER JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
        WHERE tables.relname = 'feed'
            AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND locks.mode = 'RowShareLock'
    ) AS oldest_write
"""


@dataclass(frozen=True, slots=True)
class Activity:
    """Ages in seconds of transactions in the database; None if there is none.

    The age of a transaction of another role is only visible to roles with ``pg_read_all_stats``.
    """

    oldest_transaction: float | None
    oldest_write: float | None


async def get_activity(connection: Connection) -> Activity:
    """Return the ages of the oldest transaction, and of the oldest that writes to the schema of an institution."""
    row = await connection.fetchrow(GET_ACTIVITY)
    assert row is not None
    return Activity(*row)


GET_TOTALS: Final = """
SELECT
    (SELECT coalesce(max(position), 0) FROM events) AS feed_position,
    (SELECT coalesce(sum(waitlisted), 0)::bigint FROM courses WHERE waitlisted > 0) AS waitlisted,
    (
        SELECT count(*)
        FROM student_courses
        WHERE status = 'waitlisted'
            AND recheck_at IS NULL
    ) AS unjudged
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """The position of the newest event, the waitlisted students, and those of them who are not judged yet."""

    feed_position: int
    waitlisted: int
    unjudged: int


async def get_totals(connection: Connection) -> Totals:
    """Return the totals of an institution."""
    row = await connection.fetchrow(GET_TOTALS)
    assert row is not None
    return Totals(*row)
