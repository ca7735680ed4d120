"""The pool, the two ways to use it, and driver errors turned into domain errors."""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from service.errors import CONSTRAINTS, OutcomeUnknown, Unavailable
from service.fitness import STANDBY, UnfitDatabase, check_fitness
from service.settings import Settings
from sql import Connection
from sql.feed import get_epoch, is_copy, lock_feed, renew_epoch
from sql.server import get_server

logger = logging.getLogger(__name__)

TRANSIENT = frozenset({"08", "25", "28", "3D", "53", "57", "58"})
"""SQLSTATE classes that speak of the server's condition and not of the statement: connection, transaction state
(a standby is read-only), authorization, a database not there yet, resources, operator intervention, system
(PostgreSQL manual, appendix A)."""

LOCK_NOT_AVAILABLE = "55P03"


class Database:
    """A pool of connections to one PostgreSQL, bound to the running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Make the pool, once; connections are opened when they are first needed."""
        if self._pool is not None:
            return
        settings = self._settings
        self._pool = await asyncpg.create_pool(
            settings.database_url,
            min_size=0,
            max_size=settings.pool_size,
            timeout=settings.connect_timeout,
            command_timeout=settings.command_timeout,
            init=_meet,
            reset=_keep_session,
            server_settings={
                "application_name": "enrollment-service",
                "search_path": settings.database_schema,
                "statement_timeout": _milliseconds(settings.statement_timeout),
                "lock_timeout": _milliseconds(settings.lock_timeout),
                "idle_in_transaction_session_timeout": _milliseconds(settings.idle_in_transaction_timeout),
                "timezone": "UTC",
                "jit": "off",
                # Each statement has one good plan (a test holds it to its indexes): to plan it anew for the parameters
                # at hand costs more than it ever gains.
                "plan_cache_mode": "force_generic_plan",
            },
        )

    async def close(self) -> None:
        """Close the pool, whatever the state of its connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.terminate()

    async def ping(self) -> None:
        """Read a row that is always there; raises ``Unavailable`` where the server or the schema is not."""
        try:
            async with self.reading() as connection:
                await get_epoch(connection)
        except asyncpg.UndefinedTableError as error:
            raise Unavailable("The database is not migrated.") from error

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Lend a connection, each statement its own transaction.

        Raises:
            Unavailable: no connection was free in time, or the server can't be reached, or is not fit to be used.
        """
        if self._pool is None:
            raise Unavailable("The service is starting: the database has not answered yet.")
        try:
            async with self._pool.acquire(timeout=self._settings.acquire_timeout) as connection:
                yield connection
        except UnfitDatabase as error:
            raise Unavailable(str(error)) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            raise _domain_error(error) from error

    @asynccontextmanager
    async def viewing(self) -> AsyncIterator[Connection]:
        """Lend a connection within a transaction that sees one moment of the database and writes nothing.

        Raises:
            Unavailable: as ``reading``.
        """
        async with (
            self.reading() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """Lend a connection within a transaction that holds the writer's lock, and commit it at the end.

        Raises:
            OutcomeUnknown: the connection broke during the commit.
            Unavailable: no connection or not the lock in time, or the server can't be reached; nothing was written.
        """
        async with self.reading() as connection:
            try:
                await lock_feed(connection)
                yield connection
            except BaseException:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise
            try:
                await connection.execute("COMMIT")
            except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
                raise OutcomeUnknown from error
            except asyncpg.PostgresError as error:
                if connection.is_closed() or _sqlstate(error)[:2] in TRANSIENT:
                    raise OutcomeUnknown from error
                raise


def _domain_error(error: Exception) -> Exception:
    """Say what a driver error means to a caller, or give the error back where it means a bug of ours."""
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        meaning = CONSTRAINTS.get(getattr(error, "constraint_name", None) or "")
        return meaning() if meaning else error  # type: ignore[call-arg]
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = _sqlstate(error)
        if sqlstate[:2] not in TRANSIENT and sqlstate != LOCK_NOT_AVAILABLE:
            return error
    logger.warning("the database did not serve", extra={"error": type(error).__name__, "reason": str(error)})
    if isinstance(error, TimeoutError | asyncpg.QueryCanceledError | asyncpg.LockNotAvailableError):
        return Unavailable("The database is too busy to answer in time.")
    return Unavailable("The database can't be reached.")


def _sqlstate(error: asyncpg.PostgresError) -> str:
    return error.sqlstate or ""


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


async def _keep_session(_connection: Connection) -> None:
    """Spare each release a round trip: no statement of ours leaves session state (a test holds ``sql/`` to that)."""


async def _meet(connection: Connection) -> None:
    """Prepare a new connection, whose server may be another one than that of the connections before.

    Raises:
        Unavailable: it is a standby.
        UnfitDatabase: it may lose what it has confirmed.
    """
    try:
        _set_keepalive(connection)
        server = await get_server(connection)
        if server.standby:
            raise Unavailable(STANDBY)
        check_fitness(server)
        await _renew_epoch_of_copy(connection)
    except BaseException:
        # The pool would close it in an orderly way, and wait for a server that may be gone.
        connection.terminate()
        raise


async def _renew_epoch_of_copy(connection: Connection) -> None:
    """Begin a new epoch of the feed where the old one was made for another server, timeline or database.

    Every connection goes through this before it reads or writes, so nothing is read of another history under an epoch
    that was read before.
    """
    if await is_copy(connection):
        await lock_feed(connection)
        if await is_copy(connection):
            await renew_epoch(connection)
        await connection.execute("COMMIT")


def _set_keepalive(connection: Connection) -> None:
    """Notice a server that vanished without a word, which asyncpg's own sockets would wait for without end."""
    transport = connection._transport  # type: ignore[union-attr]  # noqa: SLF001
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 20000)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
