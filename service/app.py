"""Application factory: the only place where components are wired together."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final

from aiohttp import web
from pydantic import TypeAdapter

from service import __version__, console, gauges
from service.api import (
    api_keys,
    bulk,
    courses,
    enrollments,
    equivalences,
    events,
    grades,
    holds,
    institutions,
    instructors,
    merge,
    overrides,
    overview,
    privacy,
    refusals,
    reservations,
    students,
    terms,
    webhooks,
    whoami,
)
from service.api.events import POLLER
from service.api.feed import Poller
from service.api.fields import FIELD_CODES
from service.api.keys import (
    AUTHENTICATOR,
    COURSES,
    COURSES_OF_STUDENTS,
    DATABASE,
    POOL,
    REGISTRAR,
    REGISTRY,
    STUDENTS,
    STUDENTS_OF_COURSES,
)
from service.auth import Authenticator
from service.batching import Callers, Sharing, reader
from service.database import Database
from service.dispatch import Dispatch, Opened
from service.errors import AlreadyMerged, DomainError, EnrollmentRefused, FieldError, Merged, Unavailable
from service.exposition import Board, Exposition
from service.fitness import UnfitDatabase
from service.institutions import Institutions, OnlyInstitution
from service.interchange import exports, imports
from service.interchange.worker import WORKER, Worker
from service.metrics import LAST_SWEEP, SWEEPS, Snapshot
from service.migrate import DatabaseUnavailable, create_test_clock, migrate, refuse_unknown, shipped
from service.oneroster import discovery
from service.oneroster import endpoints as oneroster
from service.oneroster import token as oneroster_token
from service.oneroster.endpoints import ROSTER, Roster
from service.pool import Pool
from service.registrar import Registrar
from service.registrar.rules import DROP_RULES, RULES, SENTENCES
from service.registry import Registry, migrate_registry
from service.settings import Settings
from service.web import health, openapi, page
from service.web import metrics as web_metrics
from service.web.auth import Authenticate, ScopeMissing
from service.web.body import BODY_MEMBERS, BODY_TIMEOUT, BULK_MEMBERS
from service.web.endpoint import (
    ADMISSION,
    DRAINING,
    EDGE,
    FIND_MERGED,
    Edge,
    Services,
    ServicesOf,
    endpoints_of,
    register,
)
from service.web.health import READINESS, ReadinessCheck
from service.web.metrics import READ_METRICS, metrics_app
from service.web.openapi import DOCUMENT, INDEX, PROBLEMS, START, About, Examples, Index, ProblemType
from service.web.origins import Origins
from service.web.page import PAGE
from service.web.problems import write_json
from service.web.proxies import Proxies
from service.web.server import PUBLIC_PATH, Limits, Runner
from service.web.turnstile import CHANGES_PER_TURN, READS_PER_TURN, Turnstile
from service.webhooks.sender import Sender

logger = logging.getLogger(__name__)

BRING_UP: web.AppKey[asyncio.Task[None]] = web.AppKey("bring_up", asyncio.Task)
"""Completes when the database is ready; fails if waiting for the database can't help."""

EXPOSITION = web.AppKey("exposition", Exposition)

ABOUT = About(
    title="Enrollment service",
    version=__version__,
    description=(
        "The system of record for students, courses and enrollments. Errors are `application/problem+json` (RFC 9457); "
        "every refusal carries a stable code. Lists are paged: pass the `next` value of a page as `cursor`. "
        "Answers above 1 KiB are compressed with gzip for callers who accept it. Rosters in the format OneRoster have a document "
        "of their own, `/ims/oneroster/rostering/v1p2/discovery/onerosterv1p2rostersservice_openapi3_v1p0.json`. "
        "Times are in UTC, formatted as in RFC 3339."
    ),
    contact="The enrollment service authors",
    tags=[
        ("students", "The students who can be enrolled."),
        ("merge", "One student out of two records."),
        ("courses", "Each course is one offering, in one term or in none, with its seats and its waitlist."),
        ("instructors", "The people who teach, and which courses they teach."),
        ("reservations", "Seats of a course that are kept for groups of students."),
        ("enrollments", "Which student is in which course. A seat is never sold twice."),
        ("bulk", "Many students, courses or enrollments in one call, with an outcome for each."),
        ("overview", "A student, or a term, at a glance."),
        ("refusals", "Why enrolls, swaps and drops were refused, for some days."),
        ("terms", "The periods in which courses take place, with the deadlines to enroll, drop and withdraw."),
        ("equivalences", "Sets of codes that mean the same course, such as those of a renumbered or cross-listed one."),
        ("grades", "The grade scale: the grades of the institution in order, and which of them pass."),
        ("holds", "A hold keeps a student from enrolling, dropping, or both."),
        ("overrides", "An override lifts one rule for one student and one course, once."),
        ("events", "The change feed, which is also the audit log."),
        ("webhooks", "A webhook sends the events of the feed to a URL, signed and in order."),
        ("imports", "Files of other systems come in: a plan is shown, and applied once it is confirmed."),
        ("exports", "Everything, or what has changed, as files for other systems."),
        ("privacy", "What the service holds on a person, and its erasure."),
        ("api_keys", "An API key lets a program call the service; its scopes define what the program may do."),
        ("institutions", "One service can serve many institutions, each with data and keys of its own."),
        ("whoami", "Who the service takes the caller for, and what the caller may do."),
        ("health", "Probes for load balancers and orchestrators."),
        ("openapi", "This document, an index of links, and the meaning of each problem code."),
    ],
)


ENDPOINTS: Final = endpoints_of(
    students,
    merge,
    courses,
    instructors,
    reservations,
    enrollments,
    bulk,
    overview,
    refusals,
    terms,
    equivalences,
    grades,
    holds,
    overrides,
    events,
    webhooks,
    imports,
    exports,
    privacy,
    api_keys,
    institutions,
    whoami,
    health,
    openapi,
)


ONEROSTER_ENDPOINTS: Final = [*oneroster.ENDPOINTS, *discovery.ENDPOINTS, oneroster_token.create_token]
"""The operations of OneRoster, which have documents of their own."""


CALLED_MOST: Final = endpoints_of(enrollments, bulk)
CALLS: Final = (*CALLED_MOST, *[each for each in ENDPOINTS if each not in CALLED_MOST])
"""All endpoints of the API. aiohttp tries the paths with one prefix in this order: those that are called most come first."""


def examples() -> Examples:
    """Return the example calls of the documents. Tests run all of them, and write the file with ``--write-docs``."""
    return TypeAdapter(Examples).validate_json((files("service.api") / "examples.json").read_bytes())


@cache
def document(public_url: str | None = None) -> bytes:
    """Return the API document, which all applications share: it takes as long to build as the rest of one."""
    built = openapi.build(ABOUT, ENDPOINTS, webhooks.MESSAGES, codes(), examples())
    return write_json({**built, "servers": [{"url": public_url or "/"}]})


@cache
def api_page() -> bytes:
    """Return the API page, which all applications share."""
    return page.page(ABOUT, ENDPOINTS)


def create_app(settings: Settings, place: tuple[Board, int] | None = None) -> web.Application:
    """Return the application of the service; once it starts, it brings up its database in the background.

    ``place`` is that of a worker: the board with the metrics of all workers, and its number.
    """
    app = web.Application(client_max_size=settings.body_limit)
    pages = endpoints_of(page, web_metrics, *([console] if settings.console == "on" else []))
    register(app, [*CALLS, *pages, *ONEROSTER_ENDPOINTS])
    served = [each for each in ENDPOINTS if each.within != "registry" or settings.registry_schema is not None]
    shown = [page.show_page, *([console.show_console] if settings.console == "on" else [])]
    app[PUBLIC_PATH] = settings.public_path
    app[INDEX] = Index.of(ABOUT, [*served, *shown], settings.public_path)
    app[START] = (lambda: console.respond("start.html")) if settings.console == "on" else None
    app[DOCUMENT] = partial(document, settings.public_url)
    app[PROBLEMS] = problem_types()
    app[PAGE] = api_page()
    app[ROSTER] = Roster(settings)
    everybody = Callers()
    pool = app[POOL] = Pool(settings)
    app[DRAINING] = asyncio.Event()
    app[webhooks.SENDER] = Sender(settings)
    app[webhooks.WEBHOOK_LIMIT] = settings.webhook_limit
    if settings.registry_schema is None:
        serve_one(app, settings, pool, everybody, place)
    else:
        serve_many(app, settings, pool, everybody, place)
    return app


def show_metrics(
    app: web.Application,
    settings: Settings,
    opened: Callable[[], Iterable[Services]],
    dispatch: Dispatch,
    *,
    look: Callable[[], Awaitable[Snapshot]],
    place: tuple[Board, int] | None,
) -> None:
    """Let the application show its metrics, with those of the institutions that it has opened and of its webhooks."""

    async def look_when_ready() -> Snapshot:
        if not app[BRING_UP].done():
            raise Unavailable("The service is starting: the database has not answered yet.")
        return await look()

    exposition = app[EXPOSITION] = Exposition(
        lambda: gauges.of_process(settings, app[POOL], opened(), dispatch.states()), look_when_ready, place
    )
    app[READ_METRICS] = exposition.text


def services_of(
    database: Database,
    settings: Settings,
    everybody: Callers,
    draining: asyncio.Event,
    sharing: tuple[Sharing, str] | None = None,
) -> dict[web.AppKey[Any], Any]:
    """Return what handlers need of one institution, which may share the process with others."""
    registrar = Registrar(database, settings, everybody, sharing)
    return {
        DATABASE: database,
        REGISTRAR: registrar,
        STUDENTS: reader(database, settings, everybody, students.find),
        COURSES: reader(database, settings, everybody, courses.find),
        COURSES_OF_STUDENTS: reader(database, settings, everybody, enrollments.find_courses),
        STUDENTS_OF_COURSES: reader(database, settings, everybody, enrollments.find_students),
        POLLER: Poller(database, draining, interval=settings.poll_interval, max_streams=settings.feed_streams),
        ADMISSION: registrar.admit,
        FIND_MERGED: partial(merge.find_merged, database),
        WORKER: Worker(database, registrar, settings),
    }


def serve_one(
    app: web.Application, settings: Settings, pool: Pool, everybody: Callers, place: tuple[Board, int] | None = None
) -> None:
    """Let the application serve the institution in ``database_schema``."""
    database = Database(settings, pool)
    for key, value in services_of(database, settings, everybody, app[DRAINING]).items():
        app[key] = value
    authenticator = app[AUTHENTICATOR] = Authenticator(database, settings)
    set_up(app, settings, services_of=OnlyInstitution(app), authenticate=authenticator)
    dispatch = Dispatch(
        database,
        settings,
        app[webhooks.SENDER],
        app[DRAINING],
        open=lambda _: Opened(database, app[POLLER], is_shared=True),
        may_deliver=lambda name: not name,
    )
    app[webhooks.NOTE_CHANGE] = dispatch.note_change
    show_metrics(app, settings, lambda: [app], dispatch, look=partial(gauges.of_database, database), place=place)

    async def prepare(stop: threading.Event) -> None:
        if settings.migrate_on_start and settings.owner_url is not None:
            # yoyo is synchronous; in a thread it does not block the health endpoints.
            await asyncio.to_thread(
                migrate,
                settings.owner_url,
                schema=settings.database_schema,
                timeout=settings.migrate_timeout,
                role=settings.service_role,
                stop=stop,
            )
        await set_clock(settings)
        await pool.open()
        await compare_schema(database)
        await database.ping()
        await authenticator.check_start()

    async def ping() -> float | None:
        await database.check_writes()
        return await database.ping()

    readiness: ReadinessCheck = partial(ready, app, ping)
    app[READINESS] = readiness

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        async with running(app, settings, prepare, authenticator) as run:
            run(sweep(app[REGISTRAR], app[BRING_UP], settings.sweep_interval))
            run(look_for_work(app[WORKER], app[BRING_UP], settings.sweep_interval))
            run(after(app[BRING_UP], dispatch.run))
            yield
            app[POLLER].close()
        await app[WORKER].close()
        await dispatch.close()
        await app[webhooks.SENDER].close()
        await app[REGISTRAR].close()
        await pool.close()

    app.cleanup_ctx.append(lifetime)


def serve_many(
    app: web.Application, settings: Settings, pool: Pool, everybody: Callers, place: tuple[Board, int] | None = None
) -> None:
    """Let the application serve the institutions of the registry."""
    registry = app[REGISTRY] = Registry(settings, pool)
    sharing = Sharing(settings.institution_share)
    queue_limit = max(round(settings.queue_limit * settings.institution_share), 1)

    def make(name: str, database: Database, settings: Settings) -> dict[web.AppKey[Any], Any]:
        own = settings.model_copy(update={"queue_limit": queue_limit})
        return services_of(database, own, everybody, app[DRAINING], (sharing, name))

    serving = Institutions(registry, settings, pool, make, sharing)
    authenticator = app[AUTHENTICATOR] = Authenticator(registry.database, settings, serving.database_of)
    set_up(app, settings, services_of=serving, authenticate=authenticator)

    def open_institution(name: str) -> Opened | None:
        found = serving.database_of(name)
        if found is None:
            return None
        return Opened(
            found, Poller(found, app[DRAINING], interval=settings.poll_interval, max_streams=0), is_shared=False
        )

    dispatch = Dispatch(
        registry.database,
        settings,
        app[webhooks.SENDER],
        app[DRAINING],
        open=open_institution,
        may_deliver=serving.is_active,
    )
    app[webhooks.NOTE_CHANGE] = dispatch.note_change
    show_metrics(
        app, settings, serving.opened, dispatch, look=partial(gauges.of_registry, registry.database), place=place
    )

    async def prepare(stop: threading.Event) -> None:
        if settings.migrate_on_start and settings.owner_url is not None:
            await asyncio.to_thread(migrate_registry, settings, stop)
        await set_clock(settings)
        await pool.open()
        await registry.refresh()
        await authenticator.check_start()

    async def ping() -> float | None:
        await registry.refresh()
        await registry.database.check_writes()
        return None

    readiness: ReadinessCheck = partial(ready, app, ping)
    app[READINESS] = readiness

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        async with running(app, settings, prepare, authenticator) as run:
            for work in (registry.keep_fresh, serving.keep, dispatch.run):
                run(after(app[BRING_UP], work))
            if settings.migrate_on_start:
                run(after(app[BRING_UP], registry.migrate_all))
            yield
            registry.stop.set()
        await dispatch.close()
        await app[webhooks.SENDER].close()
        await serving.close()
        await pool.close()

    app.cleanup_ctx.append(lifetime)


@asynccontextmanager
async def running(
    app: web.Application,
    settings: Settings,
    prepare: Callable[[threading.Event], Awaitable[None]],
    authenticator: Authenticator,
) -> AsyncIterator[Callable[[Coroutine[Any, Any, Any]], None]]:
    """Bring the database up in the background; yield a function that runs a coroutine until the service stops."""
    stop = threading.Event()
    tasks: list[asyncio.Task[Any]] = []

    def run(work: Coroutine[Any, Any, Any]) -> None:
        tasks.append(asyncio.create_task(work))

    app[BRING_UP] = asyncio.create_task(bring_up(partial(prepare, stop), settings.retry_ceiling))
    tasks.append(app[BRING_UP])
    for work in authenticator.background:
        run(work())
    run(app[EXPOSITION].keep_published())
    yield run
    await app[EXPOSITION].close()
    stop.set()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def after(ready: asyncio.Task[None], work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Do work once the database is ready."""
    await asyncio.wait([ready])
    await work()


def set_up(app: web.Application, settings: Settings, *, services_of: ServicesOf, authenticate: Authenticate) -> None:
    """Set the application keys that all endpoints need, whatever their handlers need."""
    app[BODY_TIMEOUT] = settings.body_timeout
    app[BODY_MEMBERS] = settings.body_members
    app[BULK_MEMBERS] = settings.bulk_members
    if DRAINING not in app:
        app[DRAINING] = asyncio.Event()
    app[EDGE] = Edge(
        Origins(bound_to=settings.host, hosts=settings.served_hosts, origins=settings.cors_origins),
        Proxies(settings.trusted_proxies),
        authenticate,
        services_of,
        (
            Turnstile(READS_PER_TURN, settings.admission_seconds, settings.write_timeout),
            Turnstile(CHANGES_PER_TURN, settings.admission_seconds, settings.write_timeout),
        ),
    )


async def ready(app: web.Application, ping: Callable[[], Awaitable[float | None]]) -> float | None:
    """Return the age in seconds of the oldest writing transaction, or None if there is none.

    Raises:
        Unavailable: the database has not been brought up yet, does not answer, or refuses changes.
    """
    if not app[BRING_UP].done():
        raise Unavailable("The service is starting: the database has not answered yet.")
    return await ping()


def make_metrics_runner(app: web.Application, settings: Settings) -> Runner:
    """Return a runner that serves the metrics of the application on a port of their own."""
    # Prometheus names the address of each replica, which ALLOWED_HOSTS does not list.
    origins = Origins(bound_to=settings.metrics_host)
    return make_runner(metrics_app(app, origins), settings)


def make_runner(app: web.Application, settings: Settings) -> Runner:
    """Return a runner that serves the application as in production."""
    limits = Limits(
        header_timeout=settings.header_timeout,
        send_timeout=settings.send_timeout,
        peer_connections=settings.peer_connections,
        linger=settings.linger_seconds,
    )
    return Runner(
        app,
        limits,
        access_log=None,
        # service.web.body decompresses only the bodies that an endpoint takes, within the body limit; aiohttp would
        # decompress every body.
        auto_decompress=False,
        keepalive_timeout=settings.keepalive_timeout,
        shutdown_timeout=settings.shutdown_timeout,
    )


async def bring_up(prepare: Callable[[], Awaitable[None]], retry_ceiling: float) -> None:
    """Prepare the database; retry, with growing pauses, while it is unavailable.

    Raises:
        Exception: an error that waiting can't resolve, such as a failed migration.
    """
    pause = 0.1
    while True:
        try:
            await prepare()
        except (DatabaseUnavailable, Unavailable) as error:
            if isinstance(error.__cause__, UnfitDatabase):
                raise error.__cause__ from None
            logger.warning("waiting for the database", extra={"reason": str(error).strip(), "pause": pause})
            await asyncio.sleep(pause)
            pause = min(pause * 2, retry_ceiling)
        else:
            return


async def set_clock(settings: Settings) -> None:
    """Create the test clock, if the settings define one."""
    if settings.test_clock is None:
        return
    assert settings.owner_url is not None
    await asyncio.to_thread(create_test_clock, settings.owner_url)
    logger.warning("the clock is set for tests", extra={"test_clock": settings.test_clock})


async def compare_schema(database: Database) -> None:
    """Compare the shipped migrations with the applied ones, and warn if the schema is newer than this version.

    Raises:
        Unavailable: a migration is missing.
        UnfitDatabase: no released version made the schema.
    """
    ours, applied = shipped(), await database.list_migrations()
    refuse_unknown(applied, ours)
    if missing := [name for name in ours if name not in applied]:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Unavailable(f"The database lacks the migration {missing[0]}{others}: run `python -m service migrate`.")
    if newer := [name for name in applied if name not in ours]:
        logger.warning("the schema is newer than this version of the service", extra={"migrations": newer})


async def sweep(registrar: Registrar, ready: asyncio.Task[None], interval: float) -> None:
    """Run a sweep every ``interval`` seconds, once the database is ready."""
    await asyncio.wait([ready])
    while True:
        await asyncio.sleep(interval)
        try:
            swept = await registrar.sweep()
        except DomainError as error:
            SWEEPS.add("postponed")
            logger.warning("the sweep was postponed", extra={"reason": str(error)})
        except Exception:
            SWEEPS.add("failed")
            logger.exception("the sweep failed")
        else:
            SWEEPS.add("done")
            LAST_SWEEP.note()
            if swept.promoted or swept.ended:
                logger.info("sweep done", extra={"promoted": swept.promoted, "waitlist_places_ended": swept.ended})


async def look_for_work(worker: Worker, ready: asyncio.Task[None], interval: float) -> None:
    """Look for imports and exports of processes that have ended, once the database is ready and then at intervals."""
    await asyncio.wait([ready])
    while True:
        try:
            await worker.look()
        except DomainError as error:
            logger.warning("the look for imports was postponed", extra={"reason": str(error)})
        except Exception:
            logger.exception("the look for imports failed")
        await asyncio.sleep(interval)


def codes() -> dict[str, list[str]]:
    """Return the codes that each enumeration of the API document lists, by the name of the enumeration."""
    fields = [error.code for error in _errors(FieldError)]
    return {
        "ProblemCode": sorted(problem_types()),
        "DetailCode": sorted({*fields, ScopeMissing.code, AlreadyMerged.code, Merged.code, *SENTENCES, *FIELD_CODES}),
    }


def problem_types() -> dict[str, ProblemType]:
    """Return every problem type by code: the domain errors, and the rules, since a rule alone may refuse a request."""
    found = {
        error.code: ProblemType.of(error.code, error.status, error.__doc__ or "", error.title) for error in _errors()
    }
    for rule in (*RULES, *DROP_RULES):
        code = rule.__name__
        if code not in found:
            found[code] = ProblemType.of(code, EnrollmentRefused.status, rule.__doc__ or "")
    return found


def _errors(parent: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    """Yield the errors that have a code; the others are only base classes."""
    for child in parent.__subclasses__():
        if hasattr(child, "code"):
            yield child
        yield from _errors(child)
