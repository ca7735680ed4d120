"""The measured servers: the service with several settings, the ceiling, and the peers. Each runs in its own process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.settings import Settings

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = Path(__file__).parent / "peers"
ENVIRONMENTS: Final = ROOT / ".bench"
"""The folder where ``make bench`` creates the environments of the peers."""
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """How to start a server.

    The server gets DATABASE_URL, HOST and PORT, and is ready when GET /health/ready returns 200.
    """

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT
    environment: tuple[tuple[str, str], ...] = ()
    peer: bool = False

    def missing(self) -> str | None:
        """Return which file the server needs and does not find, or None."""
        program = Path(self.command[0])
        if program.is_absolute() and not program.exists():
            return f"{program.relative_to(ROOT)} does not exist"
        main = self.folder / self.command[-1]
        if self.peer and not main.exists():
            return f"{main.relative_to(ROOT)} does not exist"
        if self.command[0] == "node" and not (self.folder / "node_modules").exists():
            return f"{(self.folder / 'node_modules').relative_to(ROOT)} does not exist"
        return None


def _python_peer(name: str, folder: str) -> Server:
    python = str(ENVIRONMENTS / folder / "bin" / "python")
    return Server(name, (python, "main.py"), folder=PEERS / folder, peer=True)


def versions_of(servers: Iterable[Server]) -> dict[str, str]:
    """Return the versions of the libraries that the peers use."""
    versions: dict[str, str] = {}
    if any(server.command[0] == "node" for server in servers):
        versions["Node.js"] = _output_of("node", "--version").removeprefix("v")
    for server in servers:
        if server.command[0] == "node":
            for name in json.loads((server.folder / "package.json").read_text())["dependencies"]:
                manifest = server.folder / "node_modules" / name / "package.json"
                versions[name] = json.loads(manifest.read_text())["version"]
        elif server.peer:
            listed = json.loads(_output_of(server.command[0], "-m", "pip", "list", "--format=json"))
            installed = {item["name"].lower(): item["version"] for item in listed}
            for name in ("fastapi", "sqlalchemy", "uvicorn"):
                if name in installed:
                    versions[name] = installed[name]
    return versions


def _output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


SERVICE: Final = (sys.executable, "-m", "service")
OURS: Final = Server("ours", SERVICE)
UNBATCHED: Final = Server("ours, batching off", SERVICE, environment=(("BATCHING", "false"),))
TWO_PROCESSES: Final = Server("ours, 2 processes", (*SERVICE, "--workers", "2"))
NOOP: Final = Server("no-op on the same server", (sys.executable, "-m", "tests.benchmarks.noop"))
SQLALCHEMY: Final = _python_peer("FastAPI + SQLAlchemy", "fastapi_sqlalchemy")
ASYNCPG: Final = _python_peer("FastAPI + asyncpg", "fastapi_asyncpg")
EXPRESS: Final = Server("Express + pg", ("node", "main.js"), folder=PEERS / "express_pg", peer=True)
ALL_PEERS: Final = (SQLALCHEMY, ASYNCPG, EXPRESS)


@dataclass(frozen=True, slots=True)
class Running:
    """A running server."""

    url: str
    pid: int


class ServerFailed(Exception):
    """A server did not start; the message contains its output."""


@contextmanager
def serving(server: Server, database_url: str, log: Path) -> Iterator[Running]:
    """Run a server while the context lasts; standard error goes to ``log``, and standard output is discarded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Settings of the service in the environment of the caller must not affect the benchmark.
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    environment = {
        **inherited,
        "NODE_ENV": "production",
        **dict(server.environment),
        "DATABASE_URL": database_url,
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            server.command,
            cwd=server.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(server, process, url, log)
        yield Running(url, process.pid)
    finally:
        _stop(process)


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(OSError), urllib.request.urlopen(f"{url}/health/ready", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise ServerFailed(f"{server.name} did not start:\n{log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # The session contains only the server and its workers: kill those that have not stopped.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
