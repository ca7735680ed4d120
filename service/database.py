"""Transactions on the schema of one institution."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from time import perf_counter
from typing import Final, TypeVar
from uuid import UUID, uuid4

import asyncpg

from service.errors import OutcomeUnknown, Unavailable
from service.faults import text_of
from service.fitness import NotMigrated, UnfitDatabase
from service.metrics import LOCK_SECONDS, LOCK_WAIT_SECONDS
from service.pool import BUSY, LOST, REFUSES_CHANGES, TRANSIENT, Pool, is_closed, sqlstate_of
from service.settings import Settings
from sql import Connection, feed
from sql.feed import Home, get_home, get_writer_age, lock_feed
from sql.server import find_applied_migrations, is_read_only, try_to_write

Answer = TypeVar("Answer")

TRIAL_BYTES: Final = 65536
"""Size of a trial write: more than the free space in the last page of a table."""


class Database:
    """The schema of one institution, on a pool of its own or on one that it shares with others."""

    def __init__(self, settings: Settings, pool: Pool | None = None) -> None:
        self._schema = settings.database_schema
        self._pool = pool or Pool(settings)
        self._owns_pool = pool is None

    async def open(self) -> None:
        """Open the pool unless it is open; it opens connections on demand."""
        await self._pool.open()

    async def close(self) -> None:
        """Close the pool, unless it is shared, without waiting for its connections."""
        if self._owns_pool:
            await self._pool.close()

    @property
    def citus(self) -> bool:
        """Whether the database has the extension Citus, as far as a connection has shown."""
        return self._pool.citus

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

    async def check_writes(self) -> None:
        """Raise an error if the server answers reads but refuses changes: it is read-only, or its disk is full.

        A trial write, which is rolled back, is made only while the last change was refused: a service that gets no
        requests because it is not ready would otherwise never find out that changes are accepted again.

        Raises:
            Unavailable: as described, or as ``reading``.
        """
        async with self.reading() as connection:
            if await is_read_only(connection):
                raise Unavailable(LOST["25006"])
        if self._pool.refuses_changes:
            async with self.reading(for_changes=True) as connection, _rolled_back_on_error(connection):
                await connection.execute("BEGIN")
                await try_to_write(connection, os.urandom(TRIAL_BYTES))
                await connection.execute("ROLLBACK")

    async def list_migrations(self) -> list[str]:
        """Return the names of the migrations that were applied to the schema.

        Raises:
            Unavailable: the server does not answer.
            UnfitDatabase: the role may not read the schema.
        """
        try:
            async with self.reading() as connection:
                return await find_applied_migrations(connection)
        except asyncpg.UndefinedTableError:
            return []
        except asyncpg.InsufficientPrivilegeError as error:
            raise UnfitDatabase(
                "The role of DATABASE_URL lacks privileges: run `python -m service grants ROLE --apply` as the owner of "
                f"the tables. {text_of(error)}"
            ) from error

    def reading(self, *, for_changes: bool = False) -> AbstractAsyncContextManager[Connection]:
        """Return a context with a connection on which each statement is a transaction of its own.

        ``for_changes`` is for a transaction that writes, which uses another connection than reads.

        Raises, when entered:
            Unavailable: no connection was available in time, or the server is unavailable or unfit.
        """
        return self._pool.lend(self._schema, self._prepare, for_changes=for_changes)

    async def _prepare(self, connection: Connection) -> None:
        """Start a new epoch of the feed if the current one belongs to another server, timeline or database.

        Every connection does this before its first read or write, so another history is never read under an old epoch.

        Raises:
            Unavailable: the migrations of the schema are not complete.
        """
        home = await get_home(connection)
        if home.is_copy:
            try:
                await _renew_epoch(connection, home)
            except asyncpg.UndefinedFunctionError as error:
                # The first migrations are applied, and a later one creates the function.
                raise Unavailable("The database is not migrated.") from error

    async def _begin(self, connection: Connection) -> None:
        """Begin a transaction that no other transaction writes beside."""
        await lock_feed(connection)

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
        async with self.reading(for_changes=True) as connection:
            began = perf_counter()
            locked = None
            try:
                async with _rolled_back_on_error(connection):
                    await self._begin(connection)
                    locked = perf_counter()
                    yield connection
                with self.committing(connection):
                    await connection.execute("COMMIT")
            finally:
                ended = perf_counter()
                LOCK_WAIT_SECONDS.observe((locked or ended) - began)
                if locked is not None:
                    LOCK_SECONDS.observe(ended - locked)

    @asynccontextmanager
    async def trying(self) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction that holds the write lock, and is rolled back at the end.

        Raises:
            Unavailable: as ``writing``.
        """
        async with self.reading(for_changes=True) as connection:
            async with _rolled_back_on_error(connection):
                await self._begin(connection)
                yield connection
            await connection.execute("ROLLBACK")

    @contextmanager
    def committing(self, connection: Connection) -> Iterator[None]:
        """Map the errors of the statement that commits: the last one of a transaction, or the only one.

        Raises:
            OutcomeUnknown: the connection was lost, or the server did not answer in time.
        """
        try:
            yield
        except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
            self._pool.note_lost(error)
            raise OutcomeUnknown from error
        except asyncpg.PostgresError as error:
            # A statement that a working server cancels or refuses does not commit.
            sqlstate = sqlstate_of(error)
            refused = sqlstate in BUSY or sqlstate in REFUSES_CHANGES
            if is_closed(connection) or (sqlstate[:2] in TRANSIENT and not refused):
                raise OutcomeUnknown from error
            raise


async def write_once(database: Database, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Do one piece of work in a writing transaction on a database, which is open meanwhile, and return its answer.

    Raises:
        NotMigrated: the database has no schema of the service.
        DomainError: as ``Database.writing``.
    """
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
        if not is_closed(connection):
            await connection.execute("ROLLBACK")
        raise


async def renew_epoch(settings: Settings) -> UUID:
    """Start a new epoch of the feed, which invalidates all cursors, and return it.

    Raises:
        NotMigrated: the database has no schema of the service.
        Unavailable: as ``Database.reading``.
    """
    database = Database(settings)
    await database.open()
    try:
        async with database.reading() as connection:
            return await _renew_epoch(connection, await get_home(connection))
    except asyncpg.UndefinedTableError as error:
        raise NotMigrated from error
    finally:
        await database.close()


async def _renew_epoch(connection: Connection, home: Home) -> UUID:
    """Return a new epoch, or the one that another process has begun meanwhile."""
    renewed = await feed.renew_epoch(
        connection,
        home.epoch,
        uuid4(),
        system_identifier=home.actual_system_identifier,
        timeline=home.actual_timeline,
        database_oid=home.actual_database_oid,
    )
    return renewed or (await get_home(connection)).epoch
