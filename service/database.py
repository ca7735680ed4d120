"""Connection pool, transactions, and the mapping of driver errors to domain errors."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.arrays import register_arrays
from service.errors import CONSTRAINTS, OutcomeUnknown, Unavailable
from service.fitness import STANDBY, NotMigrated, UnfitDatabase, check_fitness
from service.settings import Settings
from sql import Connection
from sql.feed import get_home, get_writer_age, lock_feed, renew_epoch
from sql.server import find_applied_migrations, get_server

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

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
    "53300": "The database has reached its limit of connections.",
    "57": "The database is shutting down or starting.",
    "57P01": "An administrator closed the connection to the database.",
}
"""SQLSTATEs and SQLSTATE classes of a server that is unavailable, with the message for the caller."""


class Database:
    """A pool of connections to one PostgreSQL, bound to the running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._lost = False
        """Whether the last call found the server unavailable."""
        self._silent = False
        """Whether a call has timed out since the last one that succeeded."""
        self.citus = False
        """Whether the database has the extension Citus, as far as a connection has shown."""
        self._calls = 0
        """The number of calls in progress."""
        self._recovering: set[asyncio.Task[None]] = set()
        self._kept: PoolConnectionProxy[asyncpg.Record] | None = None
        """The connection of the last change, kept for the next one: the pool would cost a lone change a twentieth."""

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
            init=self._meet,
            reset=_keep_session,
            server_settings={
                "application_name": "enrollment-service",
                "search_path": settings.database_schema,
                "statement_timeout": _milliseconds(settings.statement_timeout),
                "lock_timeout": _milliseconds(settings.lock_timeout),
                "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
                "timezone": "UTC",
                "jit": "off",
                # Each statement has one good plan, which a test checks. Planning it for each set of parameters costs more
                # than it gains.
                "plan_cache_mode": "force_generic_plan",
                # The rows that requests read are in memory: with the default, PostgreSQL would scan a small table.
                "random_page_cost": "1.1",
            },
        )

    async def close(self) -> None:
        """Close the pool without waiting for its connections."""
        if self._pool is not None:
            pool, self._pool, self._kept = self._pool, None, None
            pool.terminate()
            if self._recovering:
                await asyncio.wait(self._recovering)

    async def ping(self) -> float | None:
        """Return the age in seconds of the oldest writing transaction, or None if there is none.

        Raises:
            Unavailable: the server does not answer, or its database is not migrated.
        """
        try:
            async with self.reading() as connection:
                return await get_writer_age(connection)
        except asyncpg.UndefinedTableError as error:
            raise Unavailable("The database is not migrated.") from error

    async def list_migrations(self) -> list[str]:
        """Return the names of the migrations that were applied to the schema.

        Raises:
            Unavailable: the server does not answer.
        """
        try:
            async with self.reading() as connection:
                return await find_applied_migrations(connection)
        except asyncpg.UndefinedTableError:
            return []

    async def _meet(self, connection: Connection) -> None:
        """Prepare a new connection, whose server may differ from the server of earlier connections.

        Raises:
            Unavailable: the server is a standby.
            UnfitDatabase: the server could lose commits that it has confirmed.
        """
        try:
            _set_keepalive(connection)
            register_arrays(connection)
            server = await get_server(connection)
            if server.standby:
                raise Unavailable(STANDBY)
            check_fitness(server)
            self.citus = server.citus
            if server.citus:
                # Citus can't plan INSERT … SELECT without its parameters.
                await connection.execute("SET plan_cache_mode = auto")
            await _renew_epoch_of_copy(connection)
        except BaseException:
            # The pool would close the connection gracefully and wait for a server that may not respond.
            connection.terminate()
            raise

    @asynccontextmanager
    async def reading(self, *, keep: bool = False) -> AsyncIterator[Connection]:
        """Yield a connection on which each statement is a transaction of its own.

        With ``keep``, the connection is kept for the next call with ``keep``, which does not acquire one from the pool.

        Raises:
            Unavailable: no connection was available in time, or the server is unavailable or unfit.
        """
        if self._pool is None:
            raise Unavailable("The service is starting: the database has not answered yet.")
        if self._silent and self._calls:
            # One call at a time tests whether the database answers again; the others are refused at once.
            raise Unavailable("The database does not respond.")
        self._calls += 1
        try:
            connection = await self._acquire(self._pool, keep=keep)
            try:
                yield connection
            except BaseException as error:
                if isinstance(error.__cause__ or error, TimeoutError):
                    self._silent = True
                    await self._expire(self._pool)
                    self._recover(self._pool, connection)
                else:
                    await self._pool.release(connection)
                raise
            await self._release(self._pool, connection, keep=keep)
        except UnfitDatabase as error:
            raise Unavailable(str(error)) from error
        except DRIVER_ERRORS as error:
            raise self._domain_error(error) from error
        finally:
            self._calls -= 1
        self._silent = False
        if self._lost:
            self._lost = False
            logger.warning("the database is back")

    async def _acquire(
        self, pool: "asyncpg.Pool[asyncpg.Record]", *, keep: bool
    ) -> "PoolConnectionProxy[asyncpg.Record]":
        """Return the kept connection unless it was lost, else one from the pool."""
        if keep and self._kept is not None:
            kept, self._kept = self._kept, None
            if not _is_closed(kept):
                return kept
            await pool.release(kept)
        try:
            return await pool.acquire(timeout=self._settings.acquire_timeout)
        except TimeoutError as error:
            self._silent = True
            raise self._busy("No connection to the database was available in time.", error) from error

    async def _release(
        self, pool: "asyncpg.Pool[asyncpg.Record]", connection: "PoolConnectionProxy[asyncpg.Record]", *, keep: bool
    ) -> None:
        """Keep a connection for the next change, or return it to the pool; a pool of one connection needs it for reads."""
        if keep and self._kept is None and self._settings.pool_size > 1:
            self._kept = connection
        else:
            await pool.release(connection)

    async def _expire(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Replace all other connections, which may be dead too; new ones may reach the server."""
        await pool.expire_connections()
        if self._kept is not None:
            self._kept.terminate()

    def _recover(self, pool: "asyncpg.Pool[asyncpg.Record]", connection: "PoolConnectionProxy[asyncpg.Record]") -> None:
        """Return a connection to the pool in the background, after a statement on it timed out.

        Cancelling the statement takes up to ``command_timeout``; its caller must not wait for that.
        """

        async def recover() -> None:
            with suppress(*DRIVER_ERRORS):
                await connection.execute("ROLLBACK")
            with suppress(*DRIVER_ERRORS):
                await pool.release(connection)

        self._recovering.add(task := asyncio.create_task(recover()))
        task.add_done_callback(self._recovering.discard)

    @asynccontextmanager
    async def viewing(self) -> AsyncIterator[Connection]:
        """Yield a connection in a read-only transaction that sees one snapshot.

        Raises:
            Unavailable: as ``reading``.
        """
        async with self.reading() as connection:
            async with _rolled_back_on_error(connection):
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield connection
            await connection.execute("ROLLBACK")

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction that holds the write lock, and commit at the end.

        Raises:
            OutcomeUnknown: the connection was lost during the commit.
            Unavailable: no connection or lock was available in time, or the server is unavailable; nothing was written.
        """
        async with self.reading(keep=True) as connection:
            async with _rolled_back_on_error(connection):
                await lock_feed(connection)
                yield connection
            async with self.committing(connection):
                await connection.execute("COMMIT")

    @asynccontextmanager
    async def committing(self, connection: Connection) -> AsyncIterator[None]:
        """Map the errors of the statement that commits: the last one of a transaction, or the only one.

        Raises:
            OutcomeUnknown: the connection was lost, or the server did not answer in time.
        """
        try:
            yield
        except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
            self._note_lost(error)
            raise OutcomeUnknown from error
        except asyncpg.PostgresError as error:
            # A statement that a working server cancels does not commit.
            if _is_closed(connection) or (_sqlstate(error)[:2] in TRANSIENT and _sqlstate(error) not in BUSY):
                raise OutcomeUnknown from error
            raise

    def _domain_error(self, error: Exception) -> Exception:
        """Map a driver error to a domain error; return it unchanged if it indicates a bug."""
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            meaning = CONSTRAINTS.get(getattr(error, "constraint_name", None) or "")
            return meaning() if meaning else error  # type: ignore[call-arg]
        # If the driver reports a closed connection, the cause of its error is the reason that the server gave.
        reason = error.__cause__ if isinstance(error.__cause__, asyncpg.PostgresError) else error
        if isinstance(reason, asyncpg.PostgresError):
            sqlstate = _sqlstate(reason)
            if sqlstate in BUSY:
                return self._busy(BUSY[sqlstate], reason)
            if sqlstate[:2] not in TRANSIENT:
                return error
        self._note_lost(reason)
        return Unavailable(_lost(reason))

    def _busy(self, sentence: str, error: Exception) -> Unavailable:
        if not self._lost:
            logger.warning("the database is busy", extra={"error": type(error).__name__, "reason": sentence})
        return Unavailable(sentence)

    def _note_lost(self, error: BaseException) -> None:
        """Log only once that the server is unavailable: every call fails until it is back."""
        if not self._lost:
            self._lost = True
            extra = {"error": type(error).__name__, "reason": str(error) or _lost(error)}
            logger.warning("the database is lost", extra=extra)


async def write_once(settings: Settings, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Do one piece of work in a writing transaction, on a connection of its own, and return its answer.

    Raises:
        NotMigrated: the database has no schema of the service.
        DomainError: as ``Database.writing``.
    """
    database = Database(settings)
    await database.open()
    try:
        async with database.writing() as connection:
            return await work(connection)
    except asyncpg.UndefinedTableError as error:
        raise NotMigrated from error
    finally:
        await database.close()


@asynccontextmanager
async def _rolled_back_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError:
        # The server does not answer: ``reading`` ends the transaction when it recovers the connection.
        raise
    except BaseException:
        if not _is_closed(connection):
            await connection.execute("ROLLBACK")
        raise


def _is_closed(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        # The pool has taken back a lost connection. If not caught, this error would hide the first one.
        return True


def _lost(error: BaseException) -> str:
    """Return the message for a server that is unavailable."""
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = _sqlstate(error)
        if sentence := LOST.get(sqlstate) or LOST.get(sqlstate[:2]):
            return sentence
    if isinstance(error, TimeoutError):
        return "The database did not answer in time."
    if isinstance(error, asyncpg.InterfaceError):
        # The driver discards the reason that the server gave, most likely that the transaction was idle for too long.
        return "The database closed the connection between two statements."
    return "The database can't be reached."


def _sqlstate(error: asyncpg.PostgresError) -> str:
    return error.sqlstate or ""


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


async def _keep_session(_connection: Connection) -> None:
    """Avoid a round trip on each release: no statement in ``sql/`` leaves session state, which a test checks."""


async def _renew_epoch_of_copy(connection: Connection) -> None:
    """Start a new epoch of the feed if the current one belongs to another server, timeline or database.

    Every connection does this before its first read or write, so another history is never read under an old epoch.
    """
    if (await get_home(connection)).is_copy:
        await lock_feed(connection)
        if (await get_home(connection)).is_copy:
            await renew_epoch(connection)
        await connection.execute("COMMIT")


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
