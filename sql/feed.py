"""Statements about the feed: the writer's lock, the clock and the events."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sql import TIMES, Connection, New, columns


@dataclass(frozen=True, slots=True)
class Head:
    """The clock of the database and the newest event of the feed; the position is 0 before the first event.

    ``occurred_at`` and ``request_id`` identify the event: after a restore or a failover, another event may have the
    same position, but not the same time and request.
    """

    now: datetime
    position: int
    epoch: UUID | None = None
    occurred_at: datetime | None = None
    request_id: str | None = None


class Event(NamedTuple):
    """One change of one resource or enrollment; ``before`` and ``after`` are JSON texts."""

    position: int
    type: str
    occurred_at: datetime
    actor: str | None
    on_behalf_of: str | None
    request_id: str
    reason: str | None
    student_id: int | None
    course_id: int | None
    term_id: int | None
    before: str | None
    after: str | None


class ListedEvent(NamedTuple):
    """An event as the API shows it: with the external ids that its student and its course have now, if they exist.

    The feed itself holds no external ids: that of a student is personal data. ``course_term_id`` is the term that the
    course has now.
    """

    position: int
    type: str
    occurred_at: datetime
    actor: str | None
    on_behalf_of: str | None
    request_id: str
    reason: str | None
    student_id: int | None
    student_external_id: str | None
    course_id: int | None
    course_external_id: str | None
    course_term_id: int | None
    term_id: int | None
    before: str | None
    after: str | None


class Mark(NamedTuple):
    """What identifies the event at a position."""

    position: int
    occurred_at: datetime
    request_id: str


LOCK_FEED: Final = """
BEGIN;
SELECT FROM feed
FOR UPDATE
"""


async def lock_feed(connection: Connection) -> None:
    """Begin a transaction and lock the feed: no other transaction writes until this one ends.

    Both take one round trip, because a query without parameters may contain several statements.
    """
    await connection.execute(LOCK_FEED)


class Edit(NamedTuple):
    """The position of an event that changed a course or a term, or neither: the equivalent codes."""

    position: int
    course_id: int | None
    term_id: int | None


LOAD_EDITS: Final = """
SELECT position, course_id, term_id
FROM events
WHERE position = $1::bigint
    AND occurred_at = $2::timestamptz
    AND request_id = $3::text
UNION ALL
(
    SELECT position, course_id, term_id
    FROM events
    WHERE position > $1::bigint
        AND student_id IS NULL
    ORDER BY position
    LIMIT $4::bigint
)
"""


async def load_edits(
    connection: Connection, after_position: int, occurred_at: datetime, request_id: str, limit: int
) -> list[Edit]:
    """Return the event at a position, followed by at most ``limit`` later changes of courses, terms and equivalent codes.

    If the result does not begin with the event at the position, the history differs from the one that the caller knows.
    """
    rows = await connection.fetch(LOAD_EDITS, after_position, occurred_at, request_id, limit)
    return [Edit._make(row) for row in rows]


APPEND_EVENTS: Final = """
INSERT INTO events (
    position, type, actor, on_behalf_of, request_id, reason, student_id, course_id, term_id, before, after, occurred_at
)
SELECT
    unnest($1::bigint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
    unnest($6::text[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::bigint[]), unnest($10::json[]),
    unnest($11::json[]), $12::timestamptz
FROM feed
"""


async def append_events(connection: Connection, events: New[Event], now: datetime) -> None:
    """Append events at the time ``now``; their positions must follow the newest position."""
    await connection.execute(APPEND_EVENTS, *columns(events, without=TIMES), now)


GET_EPOCH: Final = """
SELECT
    feed.epoch,
    coalesce(newest.position, 0) AS position,
    newest.occurred_at,
    newest.request_id
FROM feed
LEFT JOIN LATERAL (
    SELECT position, occurred_at, request_id
    FROM events
    ORDER BY position DESC
    LIMIT 1
) AS newest ON true
"""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The epoch of the feed and its newest event; the position is 0 before the first event."""

    epoch: UUID
    position: int
    occurred_at: datetime | None
    request_id: str | None


async def get_epoch(connection: Connection) -> Epoch:
    """Return the epoch of the feed and its newest event."""
    row = await connection.fetchrow(GET_EPOCH)
    assert row is not None
    return Epoch(*row)


GET_NOW: Final = """
SELECT now() AS now
"""


async def get_now(connection: Connection) -> datetime:
    """Return the time of the current transaction, by the clock of the institution."""
    now: datetime = await connection.fetchval(GET_NOW)
    return now


LIST_EVENTS: Final = """
SELECT
    position, type, occurred_at, actor, on_behalf_of, request_id, reason, student_id,
    (SELECT external_id FROM students WHERE students.id = events.student_id) AS student_external_id,
    course_id,
    (SELECT external_id FROM courses WHERE courses.id = events.course_id) AS course_external_id,
    (SELECT courses.term_id FROM courses WHERE courses.id = events.course_id) AS course_term_id,
    term_id, before, after
FROM events
WHERE position > $1::bigint
ORDER BY position
LIMIT $2::bigint
"""


async def list_events(connection: Connection, after_position: int, limit: int) -> list[ListedEvent]:
    """Return the events after a position, in order."""
    return [ListedEvent._make(row) for row in await connection.fetch(LIST_EVENTS, after_position, limit)]


LIST_MARKS: Final = """
SELECT position, occurred_at, request_id
FROM events
WHERE position = ANY($1::bigint[])
"""


async def list_marks(connection: Connection, positions: list[int]) -> list[Mark]:
    """Return what identifies the events at some positions; a position without an event has no mark."""
    return [Mark._make(row) for row in await connection.fetch(LIST_MARKS, positions)]


LIST_MATCHING_EVENTS: Final = """
SELECT
    position, type, occurred_at, actor, on_behalf_of, request_id, reason, student_id,
    (SELECT external_id FROM students WHERE students.id = events.student_id) AS student_external_id,
    course_id,
    (SELECT external_id FROM courses WHERE courses.id = events.course_id) AS course_external_id,
    (SELECT courses.term_id FROM courses WHERE courses.id = events.course_id) AS course_term_id,
    term_id, before, after
FROM events
WHERE position > $1::bigint
    AND position <= $2::bigint
    AND ($4::text[] IS NULL OR type = ANY($4))
    AND ($5::bigint IS NULL OR student_id = $5)
    AND ($6::bigint IS NULL OR course_id = $6)
    AND (
        $7::bigint IS NULL
        OR term_id = $7
        OR (SELECT courses.term_id FROM courses WHERE courses.id = events.course_id) = $7
        OR (type LIKE 'course.%' AND $7 IN ((before ->> 'term_id')::bigint, (after ->> 'term_id')::bigint))
    )
ORDER BY position
LIMIT $3::bigint
"""


async def list_matching_events(
    connection: Connection,
    after_position: int,
    last_position: int,
    limit: int,
    *,
    types: list[str] | None = None,
    student_id: int | None = None,
    course_id: int | None = None,
    term_id: int | None = None,
) -> list[ListedEvent]:
    """Return the events between two positions that match each filter that is not None, in order.

    An event is in a term if it is about the term, about a course that is in the term now, or about a course that it
    put into the term or took out of it.
    """
    rows = await connection.fetch(
        LIST_MATCHING_EVENTS, after_position, last_position, limit, types, student_id, course_id, term_id
    )
    return [ListedEvent._make(row) for row in rows]


LIST_MATCHING_EVENTS_OF_STUDENT: Final = """
SELECT
    position, type, occurred_at, actor, on_behalf_of, request_id, reason, student_id,
    (SELECT external_id FROM students WHERE students.id = events.student_id) AS student_external_id,
    course_id,
    (SELECT external_id FROM courses WHERE courses.id = events.course_id) AS course_external_id,
    (SELECT courses.term_id FROM courses WHERE courses.id = events.course_id) AS course_term_id,
    term_id, before, after
FROM events
WHERE position = ANY(
        ARRAY(
            SELECT own.position
            FROM (
                SELECT position
                FROM events
                WHERE student_id = $5::bigint
                    AND position > $1::bigint
                    AND position <= $2::bigint
                    AND ($4::text[] IS NULL OR type = ANY($4))
                    AND ($6::bigint IS NULL OR course_id = $6)
                    AND (
                        $7::bigint IS NULL
                        OR (SELECT courses.term_id FROM courses WHERE courses.id = events.course_id) = $7
                    )
                OFFSET 0
            ) AS own
            ORDER BY own.position
            LIMIT $3::bigint
        )
    )
ORDER BY position
"""


async def list_matching_events_of_student(
    connection: Connection,
    after_position: int,
    last_position: int,
    limit: int,
    *,
    types: list[str] | None = None,
    student_id: int,
    course_id: int | None = None,
    term_id: int | None = None,
) -> list[ListedEvent]:
    """Return the same events as ``list_matching_events`` by the index of the student's events.

    The cost does not depend on how far the positions are apart.
    """
    rows = await connection.fetch(
        LIST_MATCHING_EVENTS_OF_STUDENT, after_position, last_position, limit, types, student_id, course_id, term_id
    )
    return [ListedEvent._make(row) for row in rows]


LIST_HISTORY: Final = """
SELECT
    position, type, occurred_at, actor, on_behalf_of, request_id, reason, student_id,
    (SELECT external_id FROM students WHERE students.id = events.student_id) AS student_external_id,
    course_id,
    (SELECT external_id FROM courses WHERE courses.id = events.course_id) AS course_external_id,
    (SELECT courses.term_id FROM courses WHERE courses.id = events.course_id) AS course_term_id,
    term_id, before, after
FROM events
WHERE student_id = $1::bigint
    AND course_id = $2::bigint
    AND position > $3::bigint
ORDER BY position
LIMIT $4::bigint
"""


async def list_history(
    connection: Connection, student_id: int, course_id: int, after_position: int, limit: int
) -> list[ListedEvent]:
    """Return the events of one student in one course after a position, in order."""
    rows = await connection.fetch(LIST_HISTORY, student_id, course_id, after_position, limit)
    return [ListedEvent._make(row) for row in rows]


GET_WRITER_AGE: Final = """
SELECT extract(epoch FROM max(statement_timestamp() - activity.xact_start))::double precision AS seconds
FROM pg_locks AS locks
INNER JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
WHERE locks.relation = 'feed'::regclass
    AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND locks.mode = 'RowShareLock'
"""


async def get_writer_age(connection: Connection) -> float | None:
    """Return the age of the oldest writing transaction in seconds, or None if none is running."""
    seconds: float | None = await connection.fetchval(GET_WRITER_AGE)
    return seconds


RENEW_EPOCH: Final = """
SELECT renew_epoch($1::uuid, $2::uuid, $3::bigint, $4::bigint, $5::bigint) AS epoch
"""


async def renew_epoch(
    connection: Connection,
    old_epoch: UUID,
    new_epoch: UUID,
    *,
    system_identifier: int,
    timeline: int,
    database_oid: int,
) -> UUID | None:
    """Begin an epoch in the database with this identity, which invalidates all existing cursors, and return it.

    None if another epoch than the old one has begun. The transaction must not have locked the feed before: on Citus, the
    function uses another connection to the node of the feed, because it runs as the owner.
    """
    renewed: UUID | None = await connection.fetchval(
        RENEW_EPOCH, old_epoch, new_epoch, system_identifier, timeline, database_oid
    )
    return renewed


@dataclass(frozen=True, slots=True)
class Home:
    """The epoch; the server, timeline and database for which it was begun, and those that hold the feed now."""

    epoch: UUID
    system_identifier: int | None
    timeline: int | None
    database_oid: int | None
    actual_system_identifier: int
    actual_timeline: int
    actual_database_oid: int

    @property
    def is_copy(self) -> bool:
        """Whether the epoch belongs to another server, timeline or database."""
        return (self.system_identifier, self.timeline, self.database_oid) != (
            self.actual_system_identifier,
            self.actual_timeline,
            self.actual_database_oid,
        )


GET_HOME: Final = """
SELECT
    epoch,
    system_identifier,
    timeline,
    database_oid,
    (pg_control_system()).system_identifier AS actual_system_identifier,
    ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint AS actual_timeline,
    (pg_stat_get_activity(pg_backend_pid())).datid::bigint AS actual_database_oid
FROM feed
"""


async def get_home(connection: Connection) -> Home:
    """Return for which server the epoch of the feed was begun, and which one holds the feed.

    The first 8 digits of the name of the current WAL file are the timeline that the server writes (PostgreSQL manual,
    28.2 and 9.28.3); ``pg_control_checkpoint`` shows a promotion only after the next checkpoint. A standby writes no
    WAL and has no timeline of its own. The functions are in the target list because Citus then calls them on the node
    that holds the feed; in FROM, it calls them on the node that this session is connected to.
    """
    row = await connection.fetchrow(GET_HOME)
    assert row is not None
    return Home(*row)
