"""The work of a service on the imports and exports of an institution, in the background and one after the other."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import timedelta
from typing import Final

from aiohttp import web

from service.database import Database
from service.errors import DomainError
from service.interchange.exporter import Exporter, delete_old_exports
from service.interchange.importer import Importer, delete_old_imports
from service.interchange.spool import clean_spool
from service.registrar import Registrar
from service.settings import Settings
from sql.exports import has_exports_to_run
from sql.imports import has_imports_to_run

logger = logging.getLogger(__name__)

DELETED_AT_ONCE: Final = 20
"""Old imports and exports that one look deletes; the next look deletes more."""


class Queue:
    """Does work while there is some, and looks again whenever it is woken."""

    def __init__(self, work: Callable[[], Awaitable[bool]]) -> None:
        """``work`` does one piece and returns whether there was any."""
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._woken = False

    def wake(self) -> None:
        """Look for work."""
        self._woken = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), context=Context())

    def is_idle(self) -> bool:
        """Return whether nothing is under way."""
        return self._task is None or self._task.done()

    async def close(self) -> None:
        """Stop at once; another process continues the work."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._woken:
                self._woken = False
                while await self._work():
                    pass
        except DomainError as error:
            logger.warning("an import or an export waits for the database", extra={"reason": str(error)})
        except Exception:
            logger.exception("an import or an export failed")


class Worker:
    """The imports and exports of one institution that this process works on."""

    def __init__(self, database: Database, registrar: Registrar, settings: Settings) -> None:
        self._database = database
        self.settings = settings
        self._importer = Importer(database, registrar, settings)
        self.imports = Queue(self._import)
        self.exports = Queue(Exporter(database, settings).work)

    async def _import(self) -> bool:
        claimed = await self._importer.claim()
        if claimed is not None:
            await self._importer.work(claimed)
        return claimed is not None

    async def look(self) -> None:
        """Continue what another process has left, and delete what is too old."""
        if await has_work(self._database):
            self.imports.wake()
            self.exports.wake()
        await delete_old_imports(self._database, timedelta(days=self.settings.imports_kept), DELETED_AT_ONCE)
        await delete_old_exports(self._database, self.settings, DELETED_AT_ONCE)
        await asyncio.to_thread(clean_spool, self.settings)

    def is_idle(self) -> bool:
        """Return whether nothing is under way."""
        return self.imports.is_idle() and self.exports.is_idle()

    async def close(self) -> None:
        """Stop at once; another process continues the work."""
        await self.imports.close()
        await self.exports.close()


async def has_work(database: Database) -> bool:
    """Return whether an institution has work on which no process is."""
    async with database.reading() as connection:
        return await has_imports_to_run(connection) or await has_exports_to_run(connection)


WORKER = web.AppKey("interchange worker", Worker)
