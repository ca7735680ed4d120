"""The registrar: the one engine through which everything is changed. Lock, load, decide, record."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import asyncpg

from service.database import Database
from service.errors import Unavailable
from service.registrar.changes import Change
from service.registrar.decide import Outcome, decide
from service.registrar.facts import load, record

Answer = TypeVar("Answer")


class Registrar:
    """Takes changes and answers each with its outcome; one transaction at a time writes in this process."""

    def __init__(self, database: Database, *, write_timeout: float) -> None:
        self._database = database
        self._write_timeout = write_timeout
        self._turn = asyncio.Lock()

    async def submit(self, change: Change[Answer]) -> Answer:
        """Make one change and return its answer, committed.

        Raises:
            DomainError: the change is refused and nothing is written, or the database could not be had.
        """
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            raise Unavailable("Too many changes wait to be written.") from error
        try:
            [outcome] = await self._run([change])
        finally:
            self._turn.release()
        if isinstance(outcome, Exception):
            raise outcome
        return cast(Answer, outcome)

    async def _run(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        """Run changes in one transaction; run them again where the driver only had to forget a plan made stale."""
        try:
            return await self._transact(changes)
        except asyncpg.InvalidCachedStatementError:
            return await self._transact(changes)

    async def _transact(self, changes: Sequence[Change[Any]]) -> list[Outcome]:
        async with self._database.writing() as connection:
            ledger = await load(connection, changes)
            outcomes = decide(ledger, changes)
            await record(connection, ledger)
        return outcomes
