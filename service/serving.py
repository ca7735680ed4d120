"""Serve HTTP until a stop signal arrives, in one process or in several."""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from aiohttp import web

from service import __version__
from service.app import BRING_UP, create_app, make_metrics_runner, make_runner
from service.exposition import Board
from service.faults import text_of
from service.migrate import DatabaseUnavailable, migrate
from service.registry import migrate_registry
from service.settings import Settings
from service.traces import TracesUnavailable, export_to
from service.web.endpoint import DRAINING
from service.workers import reserve_port, run, run_workers, stop_signals

logger = logging.getLogger("service")

GC_ALLOCATIONS = 100_000
"""Run the cyclic GC after this many net allocations: about 20 MB, a few times a minute under load."""


def serve(settings: Settings, workers: int = 1, calls: Sequence[str] = ("curl -s {url}/courses",)) -> int:
    """Serve until a stop signal arrives, finish the requests in flight, and return the exit status.

    ``calls`` are examples, with ``{url}`` for the address; a terminal shows them once the service is ready.
    """
    if workers == 1:
        return run(_serve(settings, calls))
    with ExitStack() as stack:
        shared = stack.enter_context(reserve_port(settings.host, settings.port))
        metrics_port = settings.metrics_port
        if metrics_port is not None:
            reserved = stack.enter_context(reserve_port(settings.metrics_host, metrics_port))
            metrics_port = reserved.getsockname()[1]
        _migrate_patiently(settings)
        # With a registry, the workers share the work: the institutions are served while others are migrated.
        own = {
            "port": shared.getsockname()[1],
            "metrics_port": metrics_port,
            "migrate_on_start": settings.migrate_on_start and settings.registry_schema is not None,
        }
        settings = settings.model_copy(update=own)
        board = Board(workers)
        return run_workers(
            workers,
            lambda number, alive: run(
                _serve(settings, calls if number == 0 else (), alive=alive, place=(board, number))
            ),
        )


def _migrate_patiently(settings: Settings) -> None:
    """Migrate before the workers start; retry, with growing pauses, while the database is unavailable."""
    pause = 0.1
    while settings.migrate_on_start and settings.owner_url is not None:
        try:
            if settings.registry_schema is not None:
                migrate_registry(settings)
            else:
                migrate(
                    settings.owner_url,
                    schema=settings.database_schema,
                    timeout=settings.migrate_timeout,
                    role=settings.service_role,
                )
        except DatabaseUnavailable as error:
            logger.warning("waiting for the database", extra={"reason": str(error).strip(), "pause": pause})
            time.sleep(pause)
            pause = min(pause * 2, settings.retry_ceiling)
        else:
            return


async def _serve(
    settings: Settings,
    calls: Sequence[str],
    *,
    alive: int | None = None,
    place: tuple[Board, int] | None = None,
) -> int:
    """Serve until a stop signal arrives, and send traces if they are on; return the exit status."""
    if settings.otlp_endpoint is None:
        return await _serve_requests(settings, calls, alive=alive, place=place)
    try:
        provider = export_to(settings.otlp_endpoint)
    except TracesUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        return await _serve_requests(settings, calls, alive=alive, place=place)
    finally:
        await asyncio.to_thread(provider.shutdown)


async def _serve_requests(
    settings: Settings,
    calls: Sequence[str],
    *,
    alive: int | None,
    place: tuple[Board, int] | None,
) -> int:
    """Serve until a stop signal arrives; a worker also stops at the end of file of the descriptor ``alive``."""
    # Freeze startup objects: requests create almost no reference cycles, and searching them took a tenth of the time.
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)
    gc.enable()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_fault)
    stop = asyncio.Event()
    if alive is not None:
        loop.add_reader(alive, stop.set)
    for name in stop_signals():
        loop.add_signal_handler(name, stop.set)
    app = create_app(settings, place)
    runner = make_runner(app, settings)
    runners = {runner: (settings.host, settings.port)}
    if settings.metrics_port is not None:
        runners[make_metrics_runner(app, settings)] = settings.metrics_host, settings.metrics_port
    try:
        for each, (host, port) in runners.items():
            await each.setup()
            site = web.TCPSite(each, host, port, backlog=settings.listen_backlog, reuse_port=alive is not None or None)
            await site.start()
    except OSError as error:
        await _clean_up(runners)
        print(f"error: can't listen on {host}:{port}: {error.strerror}", file=sys.stderr)
        return 1
    url, *others = [_url(host, each.addresses[0][1]) for each, (host, _) in runners.items()]
    logger.info(
        "started", extra={"version": __version__, "url": url, "metrics": [f"{each}/metrics" for each in others]}
    )
    stopping = asyncio.create_task(_until(stop))
    await asyncio.wait({stopping, app[BRING_UP]}, return_when=asyncio.FIRST_COMPLETED)
    failure = app[BRING_UP].exception() if app[BRING_UP].done() else None
    if failure is None:
        if app[BRING_UP].done():
            logger.info("ready", extra={"url": url})
            _greet(url, calls)
        await stopping
    logger.info("stopping")
    app[DRAINING].set()
    await asyncio.sleep(settings.drain_seconds)
    await _clean_up(runners)
    if failure is not None:
        logger.error("the database can't be used", exc_info=failure)
        print(f"error: {text_of(failure)}", file=sys.stderr)
        return 1
    logger.info("stopped")
    return 0


def _log_fault(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that nobody awaits. The handler of asyncio also logs the task, whose text contains the error."""
    logger.error(context.get("message", "unexpected error in the event loop"), exc_info=context.get("exception"))


async def _clean_up(runners: Iterable[web.AppRunner]) -> None:
    """Stop listening, and finish the requests in flight."""
    await asyncio.gather(*[runner.cleanup() for runner in runners])


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


def _url(host: str, port: int) -> str:
    host = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greet(url: str, calls: Sequence[str]) -> None:
    """Show on a terminal the address of the service and calls to try."""
    if calls and sys.stderr.isatty():
        lines = "\n          ".join(call.replace("{url}", url) for call in calls)
        print(f"\nAPI page: {url}/docs\nTry it:   {lines}\nStop it:  Ctrl-C\n", file=sys.stderr, flush=True)
