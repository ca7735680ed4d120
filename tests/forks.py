"""Start the service as a fork of a process that has imported it, at a fifth or less of the cost of a new interpreter.

The process of a test has its own id, environment, standard streams, signals and exit status, as one of
``asyncio.create_subprocess_exec`` has. What differs: all modules of the service are loaded, whichever command runs.
"""

import asyncio
import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

MAX_REQUEST: Final = 128 * 1024
"""Size of a request; most of it is the environment."""

IMPORT_SECONDS: Final = 90
"""A limit for the first fork, which waits for the imports: a second on an idle machine."""


@dataclass(frozen=True, slots=True)
class Forked:
    """A process of the service, with the interface of ``asyncio.subprocess.Process``."""

    pid: int
    stdout: asyncio.StreamReader | None
    stderr: asyncio.StreamReader | None
    _status: asyncio.Task[bytes]

    @property
    def returncode(self) -> int | None:
        return int(self._status.result()) if self._status.done() else None

    async def wait(self) -> int:
        return int(await asyncio.shield(self._status))

    async def communicate(self) -> tuple[bytes, bytes]:
        assert self.stdout is not None
        assert self.stderr is not None
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err

    def send_signal(self, number: int) -> None:
        # The id of a process that has ended may be that of another one.
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def start(arguments: Sequence[str], environment: Mapping[str, str], terminal: int | None = None) -> Forked:
    """Start the service with pipes for its standard output and error, or on a terminal, in a session of its own."""
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]
    own = {"arguments": arguments, "environment": dict(environment), "ignored": ignored}
    request = json.dumps({**own, "leads": terminal is not None})
    pipes = [os.pipe() for _ in (["stdout", "stderr", "status"] if terminal is None else ["status"])]
    standard = [0] if terminal is None else [terminal] * 3
    try:
        socket.send_fds(_server(), [request.encode()], [*standard, *[theirs for _, theirs in pipes]])
    finally:
        for _, theirs in pipes:
            os.close(theirs)
    *outputs, status = [await _reader(ours) for ours, _ in pipes]
    stdout, stderr = outputs or (None, None)
    async with asyncio.timeout(IMPORT_SECONDS):
        pid = await status.readline()
    assert pid, "the process that forks has ended; its error is on standard error"
    return Forked(int(pid), stdout, stderr, asyncio.create_task(status.read()))


class Pipe(asyncio.StreamReaderProtocol):
    """Closes at the end of file, where uvloop would leave it open."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: Pipe(reader), pipe)
    return reader


@cache
def _server() -> socket.socket:
    """Return a connection to the process that forks, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-W", "error", "-m", "tests.forks", str(theirs.fileno())]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdin=null, stdout=null, pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(connection: socket.socket) -> None:
    """Fork for each request until the other side ends; in a fork, run the service."""
    # Ctrl-C ends the tests and their services. The processes that keep services are reaped by the kernel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST, 4)
        if not request:
            return
        if os.fork() == 0:
            connection.close()
            keep(request, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def keep(request: bytes, descriptors: list[int]) -> None:
    """Fork a process that runs the service, and report its id and its exit status; return in that process only."""
    *standard, status = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status)
        be_service(standard, **json.loads(request))
        return
    for descriptor in standard:
        os.close(descriptor)
    os.write(status, f"{pid}\n".encode())
    _, ended = os.waitpid(pid, 0)
    os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
    os._exit(0)


def be_service(
    standard: list[int], arguments: list[str], environment: dict[str, str], ignored: list[int], *, leads: bool
) -> None:
    """Run the service as ``python -m service`` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if leads:
        os.setsid()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Python looks only as it starts whether it is on a terminal.
        sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    runpy.run_module("service", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import service

    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # A garbage collection in a fork, such as that at its end, would copy all of this memory.
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)
