"""The command line: serve (the default), migrate, check, demo."""

import argparse
import asyncio
import contextlib
import gc
import logging
import logging.config
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, get_args

import uvloop
from aiohttp import web
from pydantic import ValidationError

from service.app import BRING_UP, create_app, make_runner
from service.check import check
from service.database import Database
from service.demo import fill
from service.demo.campus import Size
from service.embedded import EmbeddedError, embedded_server
from service.errors import DomainError
from service.fitness import UnfitDatabase
from service.migrate import DatabaseUnavailable, MigrationFailed, migrate
from service.settings import Settings
from service.web.endpoint import DRAINING
from service.workers import PortTaken, reserve_port, run_workers
from sql.feed import renew_epoch

logger = logging.getLogger("service")

GC_ALLOCATIONS = 100_000
"""Run the cyclic GC after this many net allocations: about 20 MB, a few times a minute under load."""

MOST_WORKERS = 64
"""Each worker has POOL_SIZE connections; more workers need more than PostgreSQL is usually set up for."""

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
            "datefmt": "%Y-%m-%dT%H:%M:%S%z",
        }
    },
    "handlers": {
        "stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"},
        "requests": {"()": "service.web.access.AccessHandler", "stream": "ext://sys.stdout"},
    },
    "root": {"level": "INFO", "handlers": ["stdout"]},
    "loggers": {
        "yoyo": {"level": "WARNING"},
        "service.access": {"handlers": ["requests"], "propagate": False},
    },
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = {
        "serve": (serve, "serve HTTP until SIGTERM or Ctrl-C (the default)"),
        "migrate": (run_migrations, "bring the database to this version's schema"),
        "check": (run_check, "verify every invariant and report violations"),
        "feed": (run_feed, "feed renew: start a new epoch, which invalidates all cursors"),
        "demo": (run_demo, "fill an empty database with a campus and a registration day"),
    }
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        choices=commands,
        help="; ".join(f"{name}: {text}" for name, (_, text) in commands.items()),
    )
    parser.add_argument("what", nargs="?", choices=["renew"], help="with feed")
    parser.add_argument(
        "--size",
        choices=get_args(Size),
        default="small",
        help="with demo: 200 students and 30 courses, or 20,000 and 800",
    )
    parser.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="with serve: number of processes on one port (Linux)"
    )
    given = parser.parse_args(arguments)
    if (given.command == "feed") != (given.what == "renew"):
        parser.error("usage: python -m service feed renew")
    options: dict[str, dict[str, Any]] = {"demo": {"size": given.size}, "serve": {"workers": given.workers}}
    command: Callable[..., int] = partial(commands[given.command][0], **options.get(given.command, {}))
    logging.config.dictConfig(LOGGING)
    # Skip source location, thread and process: collecting them is half the cost of a record.
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # SIGTERM raises KeyboardInterrupt so that the embedded server is stopped rather than orphaned.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with database(Settings()) as settings:
            return command(settings)
    except (EmbeddedError, DatabaseUnavailable, UnfitDatabase, MigrationFailed, PortTaken) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:
        for item in error.errors():
            name = [str(part).upper() for part in item["loc"][:1]]
            print(": ".join(["error", *name, item["msg"].removeprefix("Value error, ")]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[Settings]:
    """Name a database to work on: that of DATABASE_URL, or else the embedded one, started."""
    if settings.database_url is not None:
        yield settings
        return
    with embedded_server(settings.data_dir) as url:
        yield settings.model_copy(update={"database_url": url})


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MOST_WORKERS}")
    return int(text)


def serve(settings: Settings, workers: int = 1) -> int:
    """Serve until a signal to stop, then finish the requests in flight."""
    if workers == 1:
        return _run(_serve(settings))
    with reserve_port(settings.host, settings.port) as shared:
        _migrate_patiently(settings)
        settings = settings.model_copy(update={"port": shared.getsockname()[1], "migrate_on_start": False})
        return run_workers(workers, lambda number, alive: _run(_serve(settings, greets=number == 0, alive=alive)))


def _migrate_patiently(settings: Settings) -> None:
    """Migrate before there are workers, waiting with growing pauses for a database that is not there yet."""
    pause = 0.1
    while settings.migrate_on_start and settings.database_url is not None:
        try:
            migrate(settings.database_url, schema=settings.database_schema, timeout=settings.migrate_timeout)
        except DatabaseUnavailable as error:
            logger.warning("waiting for the database", extra={"reason": str(error).strip(), "pause": pause})
            time.sleep(pause)
            pause = min(pause * 2, settings.retry_ceiling)
        else:
            return


def run_migrations(settings: Settings) -> int:
    """Apply the migrations that are missing."""
    assert settings.database_url is not None
    applied = migrate(settings.database_url, schema=settings.database_schema, timeout=settings.migrate_timeout)
    print("\n".join(f"applied {name}" for name in applied) or "nothing to do: the schema is up to date")
    return 0


def run_check(settings: Settings) -> int:
    """Verify every invariant; return 1 if one is violated."""
    return _run(check(settings))


def run_demo(settings: Settings, size: Size = "small") -> int:
    """Fill an empty database; 1 where it holds something already, or where the check finds a fault."""
    run_migrations(settings)
    return _run(fill(settings, size))


def run_feed(settings: Settings) -> int:
    """Start a new epoch of the feed."""
    return _run(_renew(settings))


async def _renew(settings: Settings) -> int:
    database = Database(settings)
    await database.open()
    try:
        async with database.writing() as connection:
            epoch = await renew_epoch(connection)
    except DomainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        await database.close()
    print(f"the feed's epoch is now {epoch}: earlier cursors are invalid")
    return 0


def _run(main: Coroutine[Any, Any, int]) -> int:
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


async def _serve(settings: Settings, *, greets: bool = True, alive: int | None = None) -> int:
    """Serve; as a worker, until the descriptor ``alive`` ends."""
    # Freeze startup objects; requests create almost no reference cycles, and looking for them took a tenth of the time.
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if alive is not None:
        loop.add_reader(alive, stop.set)
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    app = create_app(settings)
    runner = make_runner(app, settings)
    await runner.setup()
    try:
        await web.TCPSite(
            runner,
            settings.host,
            settings.port,
            backlog=settings.listen_backlog,
            reuse_port=alive is not None or None,
        ).start()
    except OSError as error:
        await runner.cleanup()
        print(f"error: can't listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return 1
    if greets:
        _greet(settings.host, runner.addresses[0][1])
    stopping = asyncio.create_task(_until(stop))
    await asyncio.wait({stopping, app[BRING_UP]}, return_when=asyncio.FIRST_COMPLETED)
    failure = app[BRING_UP].exception() if app[BRING_UP].done() else None
    if failure is None:
        await stopping
    app[DRAINING].set()
    await asyncio.sleep(settings.drain_seconds)
    await runner.cleanup()
    if failure is not None:
        logger.error("the database can't be used", exc_info=failure)
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


def _greet(host: str, port: int) -> None:
    host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"API page: {url}/docs\nTry it:   curl -s {url}/courses\nStop it:  Ctrl-C", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
