"""The registry of institutions: which schemas one fleet of processes serves, and in which state each is."""

import asyncio
import logging
import random
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from service import grants
from service.database import Database
from service.errors import (
    DomainError,
    InstitutionNameTaken,
    InstitutionNotFound,
    InstitutionNotSuspended,
    OperatorError,
    RegistryMissing,
    Unavailable,
)
from service.migrate import REGISTRY_MIGRATIONS, drop_schema, migrate, migrate_to, move_schema, shipped
from service.pool import Pool
from service.settings import Settings
from sql import Connection
from sql.registry import (
    Institution,
    create_institution,
    get_institution,
    list_changed_institutions,
    list_institutions,
    next_revision,
    save_institution,
)
from sql.webhook_leases import note_webhook_change

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SETTLE_SECONDS: Final = 5.0
"""How long an institution must be suspended before it is dropped: by then every process has seen it, and has ended the
requests that it had begun."""

PAGE_ROWS: Final = 1_000

WITHOUT_SCHEMA: Final = frozenset({"creating", "dropping", "dropped"})
"""The states in which an institution may have no schema."""

INSTITUTION_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,48}[a-z0-9])?")
"""The form of an institution's name, which is part of its API keys and of the name of its schema."""

NEWEST: Final = shipped()[-1]
"""The newest migration of this version."""


class RegistryDatabase(Database):
    """The schema of the registry: it has no feed, and each of its changes has a revision."""

    async def _prepare(self, connection: Connection) -> None:
        """Prepare nothing: the registry has no epoch."""

    async def _begin(self, connection: Connection) -> None:
        await connection.execute("BEGIN")


def registry_database(settings: Settings, pool: Pool | None = None) -> RegistryDatabase:
    """Return the schema of the registry, which the settings must name."""
    assert settings.registry_schema is not None
    return RegistryDatabase(settings.model_copy(update={"database_schema": settings.registry_schema}), pool)


def settings_of(institution: Institution, settings: Settings) -> Settings:
    """Return the settings with what an institution has of its own."""
    own = {
        "database_schema": institution.schema_name,
        "time_zone": institution.time_zone,
        "oneroster_org_sourced_id": institution.name,
        "oneroster_org_name": institution.display_name,
        "oneroster_org_identifier": institution.name,
    }
    return settings.model_copy(update=own)


class Registry:
    """The institutions as a process knows them; ``keep_fresh`` follows the changes of other processes."""

    def __init__(self, settings: Settings, pool: Pool | None = None) -> None:
        self._settings = settings
        self.database = registry_database(settings, pool)
        self.institutions: dict[str, Institution] = {}
        self._revision = 0
        self._migrating = asyncio.Semaphore(settings.migrate_parallel)
        self.stop = threading.Event()
        """Ends the wait for another process that is migrating."""

    async def refresh(self) -> None:
        """Load what has changed in the registry since the last time.

        Raises:
            Unavailable: the database does not answer.
        """
        while True:
            async with self.database.reading() as connection:
                changed = await list_changed_institutions(connection, self._revision, PAGE_ROWS)
            for institution in changed:
                self._know(institution)
            if len(changed) < PAGE_ROWS:
                return

    def _know(self, institution: Institution) -> None:
        """Note a change, unless a newer one of the institution is known."""
        known = self.institutions.get(institution.name)
        if known is None or known.revision < institution.revision:
            self.institutions[institution.name] = institution
        self._revision = max(self._revision, institution.revision)

    async def keep_fresh(self) -> None:
        """Refresh every ``registry_interval`` seconds."""
        failed = False
        while True:
            await asyncio.sleep(self._settings.registry_interval)
            try:
                await self.refresh()
                failed = False
            except DomainError as error:
                if not failed:
                    logger.warning("the registry could not be read", extra={"reason": str(error)})
                failed = True

    async def _change(self, name: str, decide: Callable[[Institution, datetime], Institution]) -> Institution:
        """Save an institution as ``decide`` changes it, while no other process changes it; its time is that of now.

        Raises:
            InstitutionNotFound: there is none with this name.
        """
        async with self.database.writing() as connection:
            revision = await next_revision(connection)
            found = await get_institution(connection, name)
            if found is None or found.state == "dropped":
                raise InstitutionNotFound(name)
            wanted = decide(found, await connection.fetchval("SELECT clock_timestamp()"))
            saved = await save_institution(
                connection,
                name,
                display_name=wanted.display_name,
                time_zone=wanted.time_zone,
                state=wanted.state,
                migration=wanted.migration,
                revision=revision,
            )
        self._know(saved)
        return saved

    async def list(self, after_id: int, limit: int) -> list[Institution]:
        """Return a page of institutions by id."""
        async with self.database.reading() as connection:
            return await list_institutions(connection, after_id, limit)

    async def walk(self) -> AsyncIterator[Institution]:
        """Yield all institutions by id; they are read page by page."""
        last = 0
        while page := await self.list(last, PAGE_ROWS):
            for each in page:
                yield each
            last = page[-1].id

    async def get(self, name: str) -> Institution:
        """Return an institution as the database has it.

        Raises:
            InstitutionNotFound: there is none with this name.
        """
        async with self.database.reading() as connection:
            found = await get_institution(connection, name)
        if found is None or found.state == "dropped":
            raise InstitutionNotFound(name)
        return found

    async def create(self, name: str, display_name: str, time_zone: str, schema: str | None = None) -> Institution:
        """Create an institution with its schema; a creation that was interrupted is continued.

        An existing ``schema`` of the service keeps its rows.

        Raises:
            InstitutionNameTaken, InstitutionSchemaTaken: another institution has the name or the schema.
            Unavailable: this process creates or migrates as many institutions as it may at the same time.
            MigrationFailed, DatabaseUnavailable, UnfitDatabase: the schema could not be made.
        """
        if self._migrating.locked():
            raise Unavailable("Other institutions are being created or migrated; try again shortly.", 5)
        is_adopted = schema is not None
        schema = schema or f"institution_{name.replace('-', '_')}"
        async with self.database.writing() as connection:
            revision = await next_revision(connection)
            created = await create_institution(
                connection,
                name,
                schema_name=schema,
                display_name=display_name,
                time_zone=time_zone,
                revision=revision,
            )
            if created is None:
                raise InstitutionNameTaken(name)
            if is_adopted:
                # The schema may have webhooks.
                await note_webhook_change(connection, name)
        return await self.migrate(created)

    async def migrate(self, institution: Institution) -> Institution:
        """Bring the schema of an institution to the newest migration, and record that.

        Raises: as ``service.migrate.migrate``.
        """
        assert self._settings.owner_url is not None
        async with self._migrating:
            await asyncio.to_thread(
                migrate,
                self._settings.owner_url,
                schema=institution.schema_name,
                timeout=self._settings.migrate_timeout,
                role=self._settings.service_role,
                stop=self.stop,
            )

        def migrated(found: Institution, _now: datetime) -> Institution:
            state = "active" if found.state == "creating" else found.state
            return replace(found, state=state, migration=max(found.migration or "", NEWEST))

        return await self._change(institution.name, migrated)

    async def migrate_to(
        self, name: str, *, discard_data: bool
    ) -> AsyncIterator[tuple[Institution, Sequence[str], Sequence[str]]]:
        """Make a migration the newest one of every institution, one after the other, and yield what was done to each.

        Raises: as ``service.migrate.migrate_to``, at the first institution that can't be changed.
        """
        assert self._settings.owner_url is not None
        await self.refresh()
        for each in sorted(self.institutions.values(), key=lambda institution: institution.id):
            if each.state in WITHOUT_SCHEMA:
                continue
            applied, undone = await asyncio.to_thread(
                migrate_to,
                self._settings.owner_url,
                name,
                schema=each.schema_name,
                timeout=self._settings.migrate_timeout,
                discard_data=discard_data,
            )
            await self._change(each.name, lambda found, _now: replace(found, migration=name))
            yield each, applied, undone

    async def migrate_all(self, done: Callable[[Institution, int, int], None] | None = None) -> int:
        """Migrate every institution that is behind, ``migrate_parallel`` at a time; return how many failed.

        Work that was interrupted is continued by the next call. ``done`` is told of each institution, with the number
        of those that are done and of all.
        """
        await self.refresh()
        behind = [each for each in self.institutions.values() if is_behind(each)]
        # Several processes begin with different institutions, and leave out what another one has done meanwhile.
        random.shuffle(behind)
        waiting, failed, count = iter(behind), 0, 0

        async def work() -> None:
            nonlocal failed, count
            for each in waiting:
                try:
                    if is_behind(self.institutions[each.name]):
                        await self.migrate(each)
                except InstitutionNotFound:
                    pass  # It was dropped meanwhile.
                except Exception as error:
                    failed += 1
                    extra = {"institution": each.name, "reason": str(error).strip()}
                    logger.exception("an institution could not be migrated", extra=extra)
                count += 1
                if done is not None:
                    done(each, count, len(behind))

        await asyncio.gather(*(work() for _ in range(min(self._settings.migrate_parallel, len(behind)))))
        return failed

    async def change(
        self,
        name: str,
        *,
        state: str | None = None,
        display_name: str | None = None,
        time_zone: str | None = None,
    ) -> Institution:
        """Change what is given of an institution; other processes notice within ``registry_interval``.

        Raises:
            InstitutionNotFound: there is none with this name.
            Unavailable: it is being created or dropped.
        """

        def changed(found: Institution, _now: datetime) -> Institution:
            if found.state in {"creating", "dropping"}:
                raise Unavailable(f"The institution {name} is being created or dropped.")
            return replace(
                found,
                state=state or found.state,
                display_name=display_name or found.display_name,
                time_zone=time_zone or found.time_zone,
            )

        return await self._change(name, changed)

    async def move(self, name: str, host: str, port: int) -> None:
        """Move the schema of an institution to another node of a Citus, while it is in use.

        Raises:
            InstitutionNotFound: there is none with this name.
            DatabaseUnavailable, UnfitDatabase: as ``service.migrate.move_schema``.
        """
        owner_url = self._settings.owner_url
        assert owner_url is not None
        found = await self.get(name)
        await asyncio.to_thread(move_schema, owner_url, found.schema_name, host, port)

    async def drop(self, name: str) -> Institution:
        """Delete an institution with everything in its schema, which cannot be undone.

        Raises:
            InstitutionNotFound: there is none with this name.
            InstitutionNotSuspended: it has not been suspended for ``SETTLE_SECONDS``.
            DatabaseUnavailable, UnfitDatabase: the schema could not be dropped; try again.
        """
        owner_url = self._settings.owner_url
        assert owner_url is not None

        def dropping(found: Institution, now: datetime) -> Institution:
            settled = found.state == "suspended" and (now - found.changed_at).total_seconds() >= SETTLE_SECONDS
            if not settled and found.state != "dropping":
                raise InstitutionNotSuspended(name, SETTLE_SECONDS)
            return replace(found, state="dropping")

        found = await self._change(name, dropping)
        await asyncio.to_thread(drop_schema, owner_url, found.schema_name)
        return await self._change(name, lambda found, _now: replace(found, state="dropped", migration=None))


class InstitutionUnnamed(OperatorError):
    """A command works on one institution, and none is named."""

    def __init__(self) -> None:
        super().__init__(
            "There are many institutions, because REGISTRY_SCHEMA is set: name one with --institution NAME."
        )


def is_behind(institution: Institution) -> bool:
    """Return whether the schema of an institution lacks a migration of this version."""
    return institution.state not in {"dropping", "dropped"} and (institution.migration or "") < NEWEST


async def with_registry(settings: Settings, work: Callable[[Registry], Awaitable[Answer]]) -> Answer:
    """Do one piece of work with the registry, on connections of its own; create the registry if it is missing.

    Raises:
        RegistryMissing: the settings name no registry.
        DomainError, MigrationFailed, DatabaseUnavailable, UnfitDatabase: as the work, and as ``migrate_registry``.
    """
    if settings.registry_schema is None:
        raise RegistryMissing
    await asyncio.to_thread(migrate_registry, settings)
    pool = Pool(settings)
    await pool.open()
    try:
        return await work(Registry(settings, pool))
    finally:
        await pool.close()


async def settings_for(settings: Settings, institution: str | None) -> Settings:
    """Return the settings with which a command works on one institution as if there were no registry.

    Raises:
        InstitutionUnnamed: there are many institutions, and none is named.
        InstitutionNotFound, RegistryMissing: there is none with this name.
    """
    if institution is None:
        if settings.registry_schema is None:
            return settings
        raise InstitutionUnnamed
    found = await with_registry(settings, lambda registry: registry.get(institution))
    return settings_of(found, settings).model_copy(update={"registry_schema": None})


def migrate_registry(settings: Settings, stop: threading.Event | None = None) -> list[str]:
    """Apply the missing migrations of the registry, and return their names.

    Raises: as ``service.migrate.migrate``.
    """
    assert settings.owner_url is not None
    assert settings.registry_schema is not None
    return migrate(
        settings.owner_url,
        schema=settings.registry_schema,
        timeout=settings.migrate_timeout,
        migrations=REGISTRY_MIGRATIONS,
        role=settings.service_role,
        privileges=grants.REGISTRY,
        stop=stop,
    )
