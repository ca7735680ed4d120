"""Run the event loop of a process, and several worker processes on one port; they share nothing but the database."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, NoReturn

import uvloop

from service.errors import OperatorError

logger = logging.getLogger(__name__)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the stop signals. They include SIGHUP, sent when a terminal closes, unless nohup has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT) if ignored else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class PortTaken(OperatorError):
    """The service can't listen on the address."""


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine to its end and return its exit status."""
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


def reserve_port(host: str, port: int) -> socket.socket:
    """Bind an address for the workers to share, without listening on it; port 0 chooses a free port.

    Raises:
        PortTaken: the address is in use or unavailable.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        # With SO_REUSEPORT, a second service could bind the same address. So bind it first without that option.
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
        shared = socket.socket(family, kind, protocol)
        # The connections of a service that has just stopped hold the address for a minute (TIME_WAIT).
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(address)
    except OSError as error:
        raise PortTaken(f"can't listen on {host}:{port}: {error.strerror}") from error
    return shared


def run_workers(count: int, work: Callable[[int, int], int]) -> int:
    """Fork workers, wait for them, and return 0 or the status of the first worker that failed.

    ``work`` takes the number of the worker, counted from 0, and a file descriptor that reaches its end of file when
    this process ends; it returns an exit status.

    A stop signal is passed on to the workers. If one worker exits, all of them are stopped, so that a supervisor can
    restart the service.
    """
    alive, keeps_alive = os.pipe()
    workers: set[int] = set()
    for number in range(count):
        sys.stdout.flush()
        # Until the new process is in the block that ends it, a signal would unwind it into the code of its parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _be_worker(work, number, alive, keeps_alive)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
        workers.add(pid)
    os.close(alive)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for worker in workers:
            os.kill(worker, signal.SIGTERM)

    for name in stop_signals():
        signal.signal(name, stop)
    failed = 0
    while workers:
        worker, status = os.wait()
        # The embedded server is a child process too.
        if worker not in workers:
            continue
        workers.discard(worker)
        failed = failed or abs(os.waitstatus_to_exitcode(status))
        stop(signal.SIGTERM, None)
    return failed


def _be_worker(work: Callable[[int, int], int], number: int, alive: int, keeps_alive: int) -> NoReturn:
    """Run a worker and end its process without leaving the contexts of its parent, such as the embedded server."""
    status = 1
    try:
        os.close(keeps_alive)
        status = _status_of(work, number, alive)
    finally:
        os._exit(status)


def _status_of(work: Callable[[int, int], int], number: int, alive: int) -> int:
    """Run a worker and return its exit status, even if it raises."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
        status = work(number, alive)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        logger.exception("a worker failed")
        status = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    return status
