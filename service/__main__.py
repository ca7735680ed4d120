"""The command line: serve (the default), migrate, check, demo."""

import argparse
import asyncio
import contextlib
import logging
import logging.config
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, get_args

import uvloop
from aiohttp import web
from pydantic import ValidationError

from service.app import BRING_UP, create_app, make_runner
from service.campus import Size
from service.check import check
from service.database import Database
from service.demo import fill
from service.embedded import EmbeddedError, embedded_server
from service.errors import DomainError
from service.migrate import DatabaseUnavailable, MigrationFailed, UnfitDatabase, migrate
from service.settings import Settings
from service.web.endpoint import DRAINING
from sql.feed import renew_epoch

logger = logging.getLogger("service")

LOGGING = {
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
        "check": (run_check, "recount every invariant and say what is off"),
        "feed": (run_feed, "feed renew: begin a new epoch, after which readers start anew"),
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
    given = parser.parse_args(arguments)
    if (given.command == "feed") != (given.what == "renew"):
        parser.error("say: python -m service feed renew")
    command = partial(run_demo, size=given.size) if given.command == "demo" else commands[given.command][0]
    logging.config.dictConfig(LOGGING)
    # No line tells the place in the code, the thread or the process: finding them out is half the cost of a record.
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Outside the loop too a SIGTERM unwinds what is under way: the embedded server is stopped, not orphaned.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with database(Settings()) as settings:
            return command(settings)
    except (EmbeddedError, DatabaseUnavailable, UnfitDatabase, MigrationFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:
        for item in error.errors():
            print(f"error: {'_'.join(map(str, item['loc'])).upper()}: {item['msg']}", file=sys.stderr)
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


def serve(settings: Settings) -> int:
    """Serve until a signal says stop, then finish what is in flight."""
    return _run(_serve(settings))


def run_migrations(settings: Settings) -> int:
    """Apply the migrations that are missing."""
    assert settings.database_url is not None
    applied = migrate(settings.database_url, schema=settings.database_schema, timeout=settings.migrate_timeout)
    print("\n".join(f"applied {name}" for name in applied) or "nothing to do: the schema is up to date")
    return 0


def run_check(settings: Settings) -> int:
    """Recount every invariant; 1 where anything is off."""
    return _run(check(settings))


def run_demo(settings: Settings, size: Size = "small") -> int:
    """Fill an empty database; 1 where it holds something already, or where the check finds a fault."""
    run_migrations(settings)
    return _run(fill(settings, size))


def run_feed(settings: Settings) -> int:
    """Begin a new epoch of the feed."""
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
    print(f"the feed's epoch is {epoch} now: cursors made before are refused")
    return 0


def _run(main: Coroutine[Any, Any, int]) -> int:
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    app = create_app(settings)
    runner = make_runner(app, settings)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        await runner.cleanup()
        print(f"error: can't listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return 1
    _greet(settings, runner)
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


def _greet(settings: Settings, runner: web.AppRunner) -> None:
    port = runner.addresses[0][1]
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - compared, not bound
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"API page: {url}/docs\nTry it:   curl -s {url}/courses\nStop it:  Ctrl-C", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
