"""Connections to one PostgreSQL, each of which remembers the schema that it has served last."""

import asyncio
import logging
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service import tracing
from service.arrays import register_arrays
from service.clock import search_path, session_settings
from service.errors import CONSTRAINTS, Unavailable
from service.faults import text_of
from service.fitness import STANDBY, UnfitDatabase, check_fitness
from service.metrics import ERRORS, POOL_SECONDS, ROUND_TRIPS, Purpose
from service.settings import Settings
from sql import Connection
from sql.server import configure, get_pid, get_server, set_search_path

logger = logging.getLogger(__name__)

TRANSIENT = frozenset({"08", "25", "28", "3D", "53", "57", "58"})
"""SQLSTATE classes that report the state of the server, not an error in the statement: connection, transaction state
(a standby is read-only), authorization, missing database, resources, operator intervention, system (PostgreSQL manual,
appendix A)."""

BUSY: Mapping[str, str] = {
    "55P03": "Another transaction held a lock for too long.",
    "57014": "The database did not finish a statement in time.",
}
"""SQLSTATEs with which a working server ends a wait or a statement, with the message for the caller."""

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

LOST: Mapping[str, str] = {
    "08": "The connection to the database was lost.",
    "25006": "The database is read-only, like a standby.",
    "25P03": "The database closed the connection because the transaction was idle for too long.",
    "28": "The database rejects the account of the service.",
    "3D": "The database does not exist on its server.",
    "53": "The database is out of resources.",
    "53100": "The disk of the database is full.",
    "53300": "The database has reached its limit of connections.",
    "57": "The database is shutting down or starting.",
    "57P01": "An administrator closed the connection to the database.",
}
"""SQLSTATEs and SQLSTATE classes of a server that is unavailable, with the message for the caller."""

REFUSES_CHANGES: Final = frozenset({"25006", "53100"})
"""SQLSTATEs with which a server that answers reads refuses a change, which is then not made: read-only, disk full."""

TWO_ROLES_ON_CITUS: Final = (
    "On Citus, the service and its migrations need the same role: unset MIGRATION_DATABASE_URL, and set DATABASE_URL to a URL "
    "of the owner."
)
"""Citus refuses statements of two roles on the same tables within a transaction, such as those of the owner's functions."""

MAX_SWITCHES: Final = 1_000
"""A connection that has served so many schemas one after the other is replaced: its backend remembers each table."""

if TYPE_CHECKING:
    _Base: TypeAlias = asyncpg.Connection[asyncpg.Record]

    class Lent(PoolConnectionProxy[asyncpg.Record]):
        """A ``PooledConnection`` that the pool has lent, as asyncpg wraps it."""

        schema: str | None
        schemas: set[str]
        switches: int
        serve: Callable[[str, list[str], "Callable[[Connection], Awaitable[None]]"], Awaitable[None]]
        note_statements: Callable[[Purpose], None]
else:
    _Base = asyncpg.Connection


class PooledConnection(_Base):
    """A connection with the schema that its search path names."""

    __slots__ = ("_noted", "schema", "schemas", "switches")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.schema: str | None = None
        """The schema that statements without a schema's name refer to; None if unknown."""
        self.schemas: set[str] = set()
        """The schemas that were prepared on this connection."""
        self.switches = 0
        self._noted = 0
        """The number of statements that the metrics count already."""

    async def serve(self, schema: str, path: list[str], prepare: Callable[[Connection], Awaitable[None]]) -> None:
        """Make ``schema`` the one of the following statements, with its search path; ``prepare`` runs once for each schema."""
        if self.schema != schema:
            self.schema = None
            await set_search_path(self, path)
            self.schema = schema
            self.switches += 1
        if schema not in self.schemas:
            await prepare(self)
            self.schemas.add(schema)

    def note_statements(self, purpose: Purpose) -> None:
        """Count the statements since the last call."""
        sent: int = self._protocol.queries_count  # type: ignore[attr-defined] # of asyncpg, and not in its stubs
        ROUND_TRIPS.add(purpose, count=sent - self._noted)
        self._noted = sent


@dataclass(eq=False, slots=True)
class Lane:
    """The connections of one schema and one purpose, reads or changes."""

    schema: str
    for_changes: bool
    idle: "list[Lent]" = field(default_factory=list)
    calls: int = 0
    """The calls that use a connection or wait for one."""
    lent: int = 0
    waiting: "deque[asyncio.Future[Lent | None]]" = field(default_factory=deque)
    """Calls that wait for a connection of the lane. None tells a call to look again."""

    @property
    def purpose(self) -> Purpose:
        """The purpose as the metrics name it."""
        return "changes" if self.for_changes else "reads"


class Pool:
    """A pool of connections to one PostgreSQL, bound to the running event loop.

    Another schema costs a connection a round trip and, within the server, a new plan for each statement: ten times as
    much as a short statement. So a call takes an idle connection of its own schema, or a new one; if there is none, it
    waits for one that its schema uses, and only if its schema has none it takes one from another schema. Reads and
    changes have connections of their own, so that each connection prepares fewer statements. Either leaves one
    connection of the pool to the other.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._lost = False
        """Whether the last call found the server unavailable."""
        self._silent = False
        """Whether a call has timed out since the last one that succeeded."""
        self.refuses_changes = False
        """Whether the server has refused a change since the last one that it accepted."""
        self.citus = False
        """Whether the database has the extension Citus, as far as a connection has shown."""
        self._has_own_sessions = False
        """Whether a pooler in front of the server was found to give each connection a session of its own."""
        self._calls = 0
        """The number of calls in progress."""
        self._recovering: set[asyncio.Task[None]] = set()
        share = max(settings.pool_size - 1, 1)
        self._shares = {False: asyncio.Semaphore(share), True: asyncio.Semaphore(share)}
        """By purpose, reads or changes, the connections that it may still use."""
        self._lanes: dict[tuple[str, bool], Lane] = {}
        """By schema and purpose, those with connections or with calls that wait."""
        self._idle: dict[Lent, Lane] = {}
        """Idle connections that were not returned to asyncpg's pool, the one idle for longest first.

        Acquiring one from asyncpg's pool takes a twentieth of a lone change.
        """
        self._out = 0
        """The connections that asyncpg's pool has lent, or is about to lend."""
        self._queued = 0
        """The calls that wait for a connection of whichever schema."""

    def usage(self) -> tuple[int, int, int]:
        """Return the connections in use, the idle ones, and the calls that wait for one."""
        idle = len(self._idle)
        return self._out - idle, idle, self._queued + sum([len(lane.waiting) for lane in self._lanes.values()])

    async def open(self) -> None:
        """Create the pool unless it exists; the pool opens connections on demand."""
        if self._pool is not None:
            return
        settings = self._settings
        self._pool = await asyncpg.create_pool(
            settings.database_url,
            min_size=0,
            max_size=settings.pool_size,
            timeout=settings.connect_timeout,
            command_timeout=settings.command_timeout,
            connection_class=PooledConnection,
            init=self._meet,
            reset=_keep_session,
            server_settings={"application_name": "enrollment-service", "timezone": "UTC"},
        )

    async def _meet(self, connection: Connection) -> None:
        """Prepare a new connection, whose server may differ from the server of earlier connections.

        Raises:
            Unavailable: the server is a standby.
            UnfitDatabase: the server could lose commits that it has confirmed.
        """
        try:
            _set_keepalive(connection)
            register_arrays(connection)
            if tracing.active is not None:
                connection.add_query_logger(tracing.active.note_statement)
            session = session_of(self._settings)
            await configure(connection, list(session), list(session.values()))
            server = await get_server(connection)
            if server.standby:
                raise Unavailable(STANDBY)
            check_fitness(server)
            if server.pid != connection.get_server_pid() and not self._has_own_sessions:
                await self._refuse_shared_sessions(server.pid)
            self.citus = server.citus
            if server.citus:
                if self._settings.has_two_roles:
                    raise UnfitDatabase(TWO_ROLES_ON_CITUS)
                # Citus can't plan INSERT … SELECT without its parameters.
                await connection.execute("SET plan_cache_mode = auto")
        except BaseException:
            # The pool would close the connection gracefully and wait for a server that may not respond.
            connection.terminate()
            raise

    async def _refuse_shared_sessions(self, pid: int) -> None:
        """Raise an error if the pooler in front of the server lends one session to several connections.

        Then the search path that one connection sets would be that of another, which may serve another institution.

        Raises:
            UnfitDatabase: a second connection reaches the session of an idle first one, which ``pid`` serves.
        """
        # A named statement of the first connection would be in the way.
        other = await asyncpg.connect(
            self._settings.database_url, timeout=self._settings.connect_timeout, statement_cache_size=0
        )
        try:
            if await get_pid(other) == pid:
                raise UnfitDatabase(
                    "The pooler in front of the database lends a session to several connections, like PgBouncer with "
                    "pool_mode = transaction: set pool_mode = session for the database of the service."
                )
        finally:
            other.terminate()
        self._has_own_sessions = True

    async def close(self) -> None:
        """Close the pool without waiting for its connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            self._idle.clear()
            self._lanes.clear()
            pool.terminate()
            if self._recovering:
                await asyncio.wait(self._recovering)

    @asynccontextmanager
    async def lend(
        self, schema: str, prepare: Callable[[Connection], Awaitable[None]], *, for_changes: bool = False
    ) -> AsyncIterator[Connection]:
        """Yield a connection whose statements refer to ``schema``; each is a transaction of its own.

        ``prepare`` runs once for each connection and schema. ``for_changes`` is the purpose: changes instead of reads.

        Raises:
            Unavailable: no connection was available in time, or the server is unavailable or unfit.
        """
        if self._pool is None:
            raise Unavailable("The service is starting: the database has not answered yet.")
        if self._silent and self._calls:
            # One call at a time tests whether the database answers again; the others are refused at once.
            raise Unavailable("The database does not respond.")
        self._calls += 1
        lane = self._lanes.get((schema, for_changes))
        if lane is None:
            lane = self._lanes[schema, for_changes] = Lane(schema, for_changes)
        lane.calls += 1
        try:
            connection = await self._acquire(self._pool, lane)
            try:
                if schema not in connection.schemas or connection.schema != schema:
                    await _serve(connection, schema, search_path(self._settings, schema), prepare)
                yield connection
            except BaseException as error:
                try:
                    if isinstance(error.__cause__ or error, TimeoutError):
                        self._silent = True
                        await self._expire(self._pool)
                        self._recover(self._pool, connection)
                    else:
                        await self._return(self._pool, connection)
                finally:
                    self._leave(lane)
                raise
            connection.note_statements(lane.purpose)
            await self._release(self._pool, connection, lane)
        except UnfitDatabase as error:
            raise Unavailable(str(error)) from error
        except DRIVER_ERRORS as error:
            raise self.domain_error(error) from error
        finally:
            self._calls -= 1
            lane.calls -= 1
            self._tend(lane)
        self._silent = False
        if self._lost or self.refuses_changes:
            self._note_success(for_changes)

    async def _acquire(self, pool: "asyncpg.Pool[asyncpg.Record]", lane: Lane) -> "Lent":
        """Return a connection for a lane."""
        if lane.idle and not self._shares[lane.for_changes].locked():
            # Almost always, and without a timer.
            connection = await self._take(pool, lane)
            if connection is not None:
                POOL_SECONDS.observe(0.0, lane.purpose)
                return connection
        began = perf_counter()
        try:
            async with asyncio.timeout(self._settings.acquire_timeout):
                while True:
                    if not lane.idle and lane.lent and not self._has_room(lane):
                        connection = await self._wait(pool, lane)
                    else:
                        connection = await self._take(pool, lane)
                    if connection is not None:
                        return connection
        except TimeoutError as error:
            self._silent = True
            raise self.busy("No connection to the database was available in time.", error) from error
        finally:
            POOL_SECONDS.observe(perf_counter() - began, lane.purpose)

    def _has_room(self, lane: Lane) -> bool:
        """Return whether a lane may have one more connection without taking it from another lane."""
        return self._out < self._settings.pool_size and not self._shares[lane.for_changes].locked()

    async def _wait(self, pool: "asyncpg.Pool[asyncpg.Record]", lane: Lane) -> "Lent | None":
        """Wait for a connection that the lane uses; return None if it is time to look for another one."""
        handed: asyncio.Future[Lent | None] = asyncio.get_running_loop().create_future()
        lane.waiting.append(handed)
        try:
            return await handed
        except BaseException:
            if handed.done() and not handed.cancelled():
                if (connection := handed.result()) is None:
                    self._wake(lane)
                else:
                    await self._release(pool, connection, lane)
            raise

    async def _take(self, pool: "asyncpg.Pool[asyncpg.Record]", lane: Lane) -> "Lent | None":
        """Take an idle connection of the lane, else a new one, else the one of another lane that is idle for longest.

        Return None if the connection was lost while it was idle.
        """
        self._queued += 1
        try:
            await self._shares[lane.for_changes].acquire()
            lane.lent += 1
            try:
                connection = self._pop(lane)
                if connection is None:
                    self._out += 1
                    try:
                        return cast("Lent", await pool.acquire())
                    except BaseException:
                        self._out -= 1
                        raise
                if not is_closed(connection):
                    return connection
                await self._return(pool, connection)
            except BaseException:
                self._leave(lane)
                raise
        finally:
            self._queued -= 1
        self._leave(lane)
        return None

    def _pop(self, lane: Lane) -> "Lent | None":
        """Remove an idle connection from its lane and return it; None if asyncpg's pool has to provide one."""
        if lane.idle:
            connection = lane.idle.pop()
            del self._idle[connection]
            return connection
        if self._idle and self._out >= self._settings.pool_size:
            connection = next(iter(self._idle))
            other = self._idle.pop(connection)
            other.idle.remove(connection)
            self._tend(other)
            return connection
        return None

    async def _release(self, pool: "asyncpg.Pool[asyncpg.Record]", connection: "Lent", lane: Lane) -> None:
        """Hand a connection to the next call of its lane, or keep it idle, or return it to a call of another lane."""
        is_spent = connection.switches > MAX_SWITCHES or pool is not self._pool
        while lane.waiting and not is_spent and not self._queued:
            handed = lane.waiting.popleft()
            if not handed.done():
                handed.set_result(connection)
                return
        try:
            if is_spent:
                connection.terminate()
                await self._return(pool, connection)
            elif self._queued and self._out >= self._settings.pool_size and not self._idle:
                # Perhaps a call waits in asyncpg's pool.
                await self._return(pool, connection)
            else:
                self._idle[connection] = lane
                lane.idle.append(connection)
        finally:
            self._leave(lane)

    async def _return(self, pool: "asyncpg.Pool[asyncpg.Record]", connection: "Lent") -> None:
        """Return a connection to asyncpg's pool."""
        self._out -= 1
        await pool.release(connection)

    def _leave(self, lane: Lane) -> None:
        """End the use of a connection by a lane; a call that waits for one of its connections looks again."""
        lane.lent -= 1
        self._shares[lane.for_changes].release()
        self._wake(lane)

    def _wake(self, lane: Lane) -> None:
        while lane.waiting:
            handed = lane.waiting.popleft()
            if not handed.done():
                handed.set_result(None)
                return

    def _tend(self, lane: Lane) -> None:
        """Let no call wait in a lane that uses no connection, and forget a lane without connections and calls."""
        if not lane.lent:
            if lane.waiting:
                self._wake(lane)
            elif not lane.calls and not lane.idle:
                self._lanes.pop((lane.schema, lane.for_changes), None)

    async def _expire(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Replace all other connections, which may be dead too; new ones may reach the server."""
        await pool.expire_connections()
        for connection in self._idle:
            if not is_closed(connection):
                connection.terminate()

    def _recover(self, pool: "asyncpg.Pool[asyncpg.Record]", connection: "Lent") -> None:
        """Return a connection to asyncpg's pool in the background, after a statement on it timed out.

        Cancelling the statement takes up to ``command_timeout``; its caller must not wait for that.
        """

        async def recover() -> None:
            with suppress(*DRIVER_ERRORS):
                await connection.execute("ROLLBACK")
            with suppress(*DRIVER_ERRORS):
                await self._return(pool, connection)

        self._recovering.add(task := asyncio.create_task(recover()))
        task.add_done_callback(self._recovering.discard)

    def domain_error(self, error: Exception) -> Exception:
        """Map a driver error to a domain error; return it unchanged if it indicates a bug."""
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            # On Citus, only the message names the constraint, and the name ends in the number of the shard.
            name = getattr(error, "constraint_name", None)
            names = [name] if name else re.findall(r"\w+", str(error.args[0] if error.args else ""))
            meanings = [CONSTRAINTS.get(re.sub(r"_[0-9]+$", "", each)) for each in names]
            meaning = next(filter(None, meanings), None)
            return meaning() if meaning else error  # type: ignore[call-arg]
        # If the driver reports a closed connection, the cause of its error is the reason that the server gave.
        reason = error.__cause__ if isinstance(error.__cause__, asyncpg.PostgresError) else error
        if isinstance(reason, asyncpg.PostgresError):
            sqlstate = sqlstate_of(reason)
            if sqlstate in BUSY:
                return self.busy(BUSY[sqlstate], reason)
            if sqlstate in REFUSES_CHANGES:
                self._note_refusal(reason)
                return Unavailable(LOST[sqlstate])
            if sqlstate[:2] not in TRANSIENT:
                return error
        self.note_lost(reason)
        return Unavailable(_lost(reason))

    def busy(self, sentence: str, error: Exception) -> Unavailable:
        """Log that the server is busy, and return the error for the caller."""
        ERRORS.add(type(error).__name__)
        if not self._lost:
            logger.warning("the database is busy", extra={"error": type(error).__name__, "reason": sentence})
        return Unavailable(sentence)

    def _note_refusal(self, error: asyncpg.PostgresError) -> None:
        """Log only once that the server refuses changes: every change fails until it accepts them again."""
        ERRORS.add(type(error).__name__)
        if not self.refuses_changes:
            self.refuses_changes = True
            extra = {"error": type(error).__name__, "reason": text_of(error)}
            logger.error("the database refuses changes", extra=extra)

    def _note_success(self, for_changes: bool) -> None:
        """Log that the server is available again, and, after a change, that it accepts changes again."""
        if self._lost:
            self._lost = False
            logger.warning("the database is back")
        if for_changes and self.refuses_changes:
            self.refuses_changes = False
            logger.warning("the database accepts changes again")

    def note_lost(self, error: BaseException) -> None:
        """Log only once that the server is unavailable: every call fails until it is back."""
        ERRORS.add(type(error).__name__)
        if not self._lost:
            self._lost = True
            text = text_of(error) if isinstance(error, asyncpg.PostgresError | OSError) else ""
            extra = {"error": type(error).__name__, "reason": text or _lost(error)}
            logger.warning("the database is lost", extra=extra)


async def _serve(
    connection: "Lent", schema: str, path: list[str], prepare: Callable[[Connection], Awaitable[None]]
) -> None:
    try:
        await connection.serve(schema, path, prepare)
    except BaseException:
        # It may have an open transaction, or a server that does not respond.
        connection.terminate()
        raise


def is_closed(connection: Connection) -> bool:
    """Return whether a connection is closed, also if the pool has taken it back."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        # The pool has taken back a lost connection. If not caught, this error would hide the first one.
        return True


def _lost(error: BaseException) -> str:
    """Return the message for a server that is unavailable."""
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = sqlstate_of(error)
        if sentence := LOST.get(sqlstate) or LOST.get(sqlstate[:2]):
            return sentence
    if isinstance(error, TimeoutError):
        return "The database did not answer in time."
    if isinstance(error, asyncpg.InterfaceError):
        # The driver discards the reason that the server gave, most likely that the transaction was idle for too long.
        return "The database closed the connection between two statements."
    return "The database can't be reached."


def sqlstate_of(error: asyncpg.PostgresError) -> str:
    """Return the SQLSTATE of an error; empty if there is none."""
    return error.sqlstate or ""


def session_of(settings: Settings) -> dict[str, str]:
    """Return the settings of each session."""
    return {
        "statement_timeout": _milliseconds(settings.statement_timeout),
        "lock_timeout": _milliseconds(settings.lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
        "jit": "off",
        # Each statement has one good plan, which a test checks. Planning it for each set of parameters costs more
        # than it gains.
        "plan_cache_mode": "force_generic_plan",
        # The rows that requests read are in memory: with the default, PostgreSQL would scan a small table.
        "random_page_cost": "1.1",
        **session_settings(settings),
    }


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


async def _keep_session(_connection: Connection) -> None:
    """Avoid a round trip on each release: no statement in ``sql/`` leaves session state, which a test checks."""


def _set_keepalive(connection: Connection) -> None:
    """Detect a server that disappears without closing the connection; by default asyncpg would wait without end."""
    transport = connection._transport  # type: ignore[union-attr]  # noqa: SLF001
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 20000)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
