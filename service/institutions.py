"""The institutions that a process serves: each has services of its own, made when it is first asked for."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aiohttp import web

from service.api.events import POLLER
from service.api.keys import DATABASE, REGISTRAR
from service.batching import Sharing
from service.database import Database
from service.errors import (
    BeingMigrated,
    DomainError,
    InstitutionNotFound,
    InstitutionReadOnly,
    InstitutionRequired,
    InstitutionSuspended,
    RegistryMissing,
    Unavailable,
)
from service.interchange.worker import WORKER, has_work
from service.metrics import SWEEPS
from service.pool import Pool
from service.registrar import Registrar
from service.registry import Registry, is_behind, settings_of
from service.settings import Settings
from service.web.auth import Caller
from service.web.endpoint import Services, Within
from service.web.problems import NoSuchPath
from sql.registry import Institution, claim_sweeps

logger = logging.getLogger(__name__)

CLAIMED_SWEEPS: Final = 16
"""Institutions that a process claims together: a process that is killed delays the sweeps of these by one interval."""

SWEEPS_PER_INTERVAL: Final = 6
"""How often a process looks for institutions to sweep, within one sweep interval."""


@dataclass(slots=True)
class Open:
    """An institution in memory, with the loop's time of its last request."""

    institution: Institution
    services: dict[web.AppKey[Any], Any]
    used_at: float

    def is_idle(self) -> bool:
        """Return whether nothing of it is under way."""
        registrar: Registrar = self.services[REGISTRAR]
        return registrar.is_idle() and self.services[POLLER].is_idle() and self.services[WORKER].is_idle()

    async def close(self) -> None:
        """Stop what runs in the background."""
        self.services[POLLER].close()
        await self.services[WORKER].close()
        await self.services[REGISTRAR].close()


class OnlyInstitution:
    """The services of a process without a registry: one institution, which every caller belongs to."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def __call__(self, _caller: Caller, within: Within, _writes: bool) -> Services:
        """Return the services of the institution.

        Raises:
            RegistryMissing: the call is about the institutions.
        """
        if within == "registry":
            raise RegistryMissing
        return self._services


class Institutions:
    """The services of each institution of the registry; those in memory have a bound."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        pool: Pool,
        make: Callable[[str, Database, Settings], dict[web.AppKey[Any], Any]],
        sharing: Sharing,
    ) -> None:
        """``make`` returns the services of an institution by its name, on its database and with its settings."""
        self._registry = registry
        self._settings = settings
        self._pool = pool
        self._make = make
        self._sharing = sharing
        self._of_registry: Services = {DATABASE: registry.database}
        self._open: OrderedDict[str, Open] = OrderedDict()
        """The institutions in memory, the one whose last request is the oldest first."""
        self._closing: set[asyncio.Task[None]] = set()

    def __call__(self, caller: Caller, within: Within, writes: bool) -> Services:
        """Return the services of the caller's institution.

        Raises:
            NoSuchPath: the call is about the institutions or the process, and the caller belongs to one institution.
            InstitutionRequired: the call is about an institution, and the caller belongs to none.
            InstitutionNotFound, InstitutionSuspended, InstitutionReadOnly, BeingMigrated: it does not serve this call.
            Unavailable: too many institutions have requests at the same time.
        """
        name = caller.institution
        if name is None:
            if within == "institution":
                raise InstitutionRequired
            return self._of_registry
        if within in {"registry", "process"}:
            raise NoSuchPath
        institution = self._registry.institutions.get(name)
        if institution is None or institution.state == "dropped":
            raise InstitutionNotFound(name)
        if institution.state in {"suspended", "dropping"}:
            raise InstitutionSuspended(name)
        if is_behind(institution):
            raise BeingMigrated(name)
        if writes and within == "institution" and institution.state == "read_only":
            raise InstitutionReadOnly(name)
        return self._services_of(institution)

    def opened(self) -> list[Services]:
        """Return the services of the institutions in memory."""
        return [each.services for each in self._open.values()]

    def is_active(self, name: str) -> bool:
        """Return whether an institution accepts changes, so that its webhooks are delivered."""
        institution = self._registry.institutions.get(name)
        return institution is not None and institution.state == "active" and not is_behind(institution)

    def database_of(self, name: str) -> Database | None:
        """Return the database of an institution; None if there is none with this name, or it can't be used yet."""
        institution = self._registry.institutions.get(name)
        if institution is None or institution.state in {"dropped", "dropping"} or is_behind(institution):
            return None
        return Database(settings_of(institution, self._settings), self._pool)

    def _services_of(self, institution: Institution) -> Services:
        found = self._open.get(institution.name)
        if found is not None and found.institution is not institution:
            if _is_same(found.institution, institution):
                found.institution = institution
            else:
                self._remove(institution.name)
                found = None
        now = asyncio.get_running_loop().time()
        self._sharing.note(institution.name, now)
        if found is None:
            self._make_room()
            settings = settings_of(institution, self._settings)
            found = Open(institution, self._make(institution.name, Database(settings, self._pool), settings), now)
            self._open[institution.name] = found
        else:
            found.used_at = now
            self._open.move_to_end(institution.name)
        return found.services

    def _make_room(self) -> None:
        """Remove an idle institution if there are as many in memory as may be."""
        if len(self._open) < self._settings.institutions_in_memory:
            return
        for name, each in self._open.items():
            if each.is_idle():
                self._remove(name)
                return
        raise Unavailable("Too many institutions have requests at the same time.")

    def _remove(self, name: str) -> None:
        self._closing.add(task := asyncio.create_task(self._open.pop(name).close()))
        task.add_done_callback(self._closing.discard)

    async def keep(self) -> None:
        """Sweep the institutions that are due, and remove the idle ones, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.sweep_interval / SWEEPS_PER_INTERVAL)
            self._remove_idle()
            try:
                await self.sweep()
            except DomainError as error:
                logger.warning("the sweeps were postponed", extra={"reason": str(error)})
            except Exception:
                logger.exception("the sweeps failed")

    def _remove_idle(self) -> None:
        oldest = asyncio.get_running_loop().time() - self._settings.institution_idle_seconds
        for name in [name for name, each in self._open.items() if each.used_at < oldest and each.is_idle()]:
            self._remove(name)

    async def sweep(self) -> int:
        """Sweep the active institutions that no process has swept for an interval; return their number."""
        interval, count = timedelta(seconds=self._settings.sweep_interval), 0
        while True:
            async with self._registry.database.reading() as connection:
                names = await claim_sweeps(connection, interval, CLAIMED_SWEEPS)
            for name in names:
                await self._sweep_one(name)
            count += len(names)
            if len(names) < CLAIMED_SWEEPS:
                return count

    async def _sweep_one(self, name: str) -> None:
        """Sweep an institution: with its registrar if it is in memory, else with one that is made for the sweep."""
        institution = self._registry.institutions.get(name)
        if institution is None or is_behind(institution):
            return
        opened = self._open.get(name)
        settings = settings_of(institution, self._settings)
        registrar = opened.services[REGISTRAR] if opened else Registrar(Database(settings, self._pool), settings)
        try:
            swept = await registrar.sweep()
        except DomainError as error:
            SWEEPS.add("postponed")
            logger.warning("a sweep was postponed", extra={"institution": name, "reason": str(error)})
        except Exception:
            SWEEPS.add("failed")
            logger.exception("a sweep failed", extra={"institution": name})
        else:
            SWEEPS.add("done")
            if swept.promoted or swept.ended:
                extra = {"institution": name, "promoted": swept.promoted, "waitlist_places_ended": swept.ended}
                logger.info("sweep done", extra=extra)
        finally:
            if opened is None:
                await registrar.close()
        await self._look_for_work(institution)

    async def _look_for_work(self, institution: Institution) -> None:
        """Continue the imports and exports of an institution that no process works on, and delete old ones."""
        database = Database(settings_of(institution, self._settings), self._pool)
        try:
            if await has_work(database) or institution.name in self._open:
                await self._services_of(institution)[WORKER].look()
        except DomainError as error:
            logger.warning(
                "the look for imports was postponed", extra={"institution": institution.name, "reason": str(error)}
            )

    async def close(self) -> None:
        """Close all institutions."""
        for name in list(self._open):
            self._remove(name)
        while self._closing:
            await asyncio.wait(self._closing)


def _is_same(known: Institution, institution: Institution) -> bool:
    """Return whether services of an institution as it was known can go on."""
    before, after = known.schema_name, institution.schema_name
    return (before, known.time_zone, known.created_at) == (after, institution.time_zone, institution.created_at)
