"""The feed: the writer's lock, the clock and the record of every change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sql import Connection, columns


@dataclass(frozen=True, slots=True)
class Head:
    """Where the feed stands: the database's clock and the position of the newest event, 0 before the first."""

    now: datetime
    position: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one thing, as it is recorded: ``before`` and ``after`` are JSON texts."""

    position: int
    type: str
    occurred_at: datetime
    actor: str | None
    request_id: str
    reason: str | None
    student_id: int | None
    course_id: int | None
    before: str | None
    after: str | None


LOCK_FEED: Final = """
SELECT epoch
FROM feed
FOR UPDATE
"""


async def lock_feed(connection: Connection) -> UUID:
    """Wait for the turn to write: until this transaction ends, no other one writes."""
    epoch: UUID = await connection.fetchval(LOCK_FEED)
    return epoch


GET_EPOCH: Final = """
SELECT epoch
FROM feed
"""


async def get_epoch(connection: Connection) -> UUID:
    """Read which feed this is, without a lock."""
    epoch: UUID = await connection.fetchval(GET_EPOCH)
    return epoch


LOAD_HEAD: Final = """
SELECT
    clock_timestamp() AS now,
    coalesce((SELECT max(position) FROM events), 0) AS position
"""


async def load_head(connection: Connection) -> Head:
    """Read the clock and the newest position; current only in a statement after the lock."""
    row = await connection.fetchrow(LOAD_HEAD)
    assert row is not None
    return Head(*row)


RECORD_EVENTS: Final = """
INSERT INTO events (
    position, type, occurred_at, actor, request_id, reason, student_id, course_id, before, after
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::timestamptz[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::json[]), unnest($10::json[])
"""


async def record_events(connection: Connection, events: Sequence[Event]) -> None:
    """Append events, whose positions follow the newest one."""
    await connection.execute(RECORD_EVENTS, *columns(events))
