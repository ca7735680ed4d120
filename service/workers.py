"""Several processes on one port: each serves as one alone would, and they meet in the database."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

logger = logging.getLogger(__name__)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals to stop; SIGHUP, which the end of a terminal sends, is none where nohup has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT) if ignored else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class PortTaken(Exception):
    """The address can't be listened on."""


def reserve_port(host: str, port: int) -> socket.socket:
    """Bind an address for workers to share, and hold it without listening; with port 0 a free one is chosen.

    Raises:
        PortTaken: another program has it, or it is not to be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        # Who is to share an address has to say so, and so would a second service: this one asks alone first.
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
        shared = socket.socket(family, kind, protocol)
        # Connections of a service that has just ended hold the address for a minute (TIME_WAIT).
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(address)
    except OSError as error:
        raise PortTaken(f"can't listen on {host}:{port}: {error.strerror}") from error
    return shared


def run_workers(count: int, work: Callable[[int, int], int]) -> int:
    """Fork workers and wait for them.

    ``work`` gets its number, counted from 0, and a file descriptor that ends with this process; it returns a status.

    A signal to stop is handed on. A worker that ends by itself ends all of them, so that whoever watches this process
    starts all anew. Returns 0, or the status of the first worker that failed.
    """
    alive, keeps_alive = os.pipe()
    workers: set[int] = set()
    for number in range(count):
        sys.stdout.flush()
        # A signal must not unwind the new process before it is in the block that it can't leave.
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
        # The embedded server is a child too.
        if worker not in workers:
            continue
        workers.discard(worker)
        failed = failed or abs(os.waitstatus_to_exitcode(status))
        stop(signal.SIGTERM, None)
    return failed


def _be_worker(work: Callable[[int, int], int], number: int, alive: int, keeps_alive: int) -> NoReturn:
    """Work and end this process; the contexts of its parent, such as the embedded server, are not its to leave."""
    status = 1
    try:
        os.close(keeps_alive)
        status = _status_of(work, number, alive)
    finally:
        os._exit(status)


def _status_of(work: Callable[[int, int], int], number: int, alive: int) -> int:
    """Return the exit status of a worker, whatever it raises."""
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
