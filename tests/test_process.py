"""The program as operators run it: real processes, signals and exit statuses."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from service import __version__
from service.__main__ import parse
from service.check import INVARIANTS, check
from service.database import Database
from service.errors import Unavailable
from service.migrate import shipped
from service.settings import Settings
from sql import Connection
from tests.campus import busy, events, student_fields, until, waiting_writer
from tests.forks import Forked, start
from tests.test_http import receive

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 90
"""A limit for steps that take two seconds on an idle machine, and ten times as long on a busy one."""


@dataclass(slots=True)
class Running:
    """A process of the service, with the lines written so far."""

    process: asyncio.subprocess.Process | Forked
    log: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    url: str = ""

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    async def logged(self, message: str) -> dict[str, Any]:
        """Wait for the first log line with this message, and return it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for line in map(json.loads, self.log):
                    if line["message"] == message:
                        return dict(line)
                assert self.process.returncode is None, self
                await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit status of a command, and its output."""

    status: int
    out: str
    err: str


def environment(**variables: object) -> dict[str, str]:
    return {**os.environ, "PORT": "0", **{name: str(value) for name, value in variables.items()}}


async def launch(
    sources: Path, arguments: Sequence[str], variables: Mapping[str, object], terminal: int | None = None
) -> asyncio.subprocess.Process | Forked:
    """Start the service of a folder with its sources, with pipes for its output or on a terminal."""
    # Coverage measures a new interpreter, not a fork.
    if sources == ROOT and sys.platform == "linux" and "COVERAGE_PROCESS_CONFIG" not in os.environ:
        return await start(arguments, environment(**variables), terminal)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "service", *arguments),
        cwd=sources,
        env=environment(**variables),
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE if terminal is None else terminal,
        stderr=asyncio.subprocess.PIPE if terminal is None else terminal,
        start_new_session=terminal is not None,
    )


async def run(*arguments: str, **variables: object) -> Ended:
    """Run a command of the service to its end."""
    process = await launch(ROOT, arguments, variables)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def serving(*arguments: str, **variables: object) -> AsyncIterator[Running]:
    """Run the service during the block, which begins when the service is ready."""
    async with serving_from(ROOT, *arguments, **variables) as running:
        yield running


@asynccontextmanager
async def serving_from(sources: Path, *arguments: str, **variables: object) -> AsyncIterator[Running]:
    """Run the service of a folder with its sources during the block, which begins when the service is ready."""
    async with _starting(sources, arguments, variables) as running:
        async with asyncio.timeout(PATIENCE_SECONDS), aiohttp.ClientSession() as session:
            while (await session.get(f"{running.url}/health/ready")).status != 200:
                await asyncio.sleep(0.01)
        yield running


@asynccontextmanager
async def starting(*arguments: str, **variables: object) -> AsyncIterator[Running]:
    """Run the service during the block, which begins when the service listens."""
    async with _starting(ROOT, arguments, variables) as running:
        yield running


@asynccontextmanager
async def _starting(sources: Path, arguments: tuple[str, ...], variables: dict[str, object]) -> AsyncIterator[Running]:
    process = await launch(sources, arguments, variables)
    assert process.stdout is not None
    assert process.stderr is not None
    running = Running(process)
    readers = [
        asyncio.create_task(collect(process.stdout, running.log)),
        asyncio.create_task(collect(process.stderr, running.errors)),
    ]
    try:
        running.url = (await running.logged("started"))["url"]
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*readers)


async def collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode().rstrip("\n"))


async def test_the_service_logs_its_address_and_requests_as_json_and_exits_with_0(
    empty_database_url: str,
) -> None:
    async with serving(DATABASE_URL=empty_database_url) as running, aiohttp.ClientSession() as session:
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+", running.url)
        async with session.get(f"{running.url}/courses") as response:
            assert await response.json() == {"items": [], "next": None}
        async with session.get(f"{running.url}/docs") as response:
            assert (response.status, response.content_type) == (200, "text/html")
        async with session.post(
            f"{running.url}/students", json=student_fields(), headers={"X-Request-Id": "r-1"}
        ) as response:
            assert response.status == 201

        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0

    lines = [json.loads(line) for line in running.log]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    [line] = [line for line in lines if line.get("request_id") == "r-1"]
    assert line.items() >= {"method": "POST", "route": "/students", "status": 201, "level": "INFO"}.items()
    assert line["duration_ms"] > 0
    assert {line["level"] for line in lines} == {"INFO"}
    life = [line for line in lines if line["logger"] == "service"]
    assert [line["message"] for line in life] == ["started", "ready", "stopping", "stopped"]
    assert {line["version"] for line in life} == {__version__}
    assert running.errors == []


async def test_a_fault_is_a_problem_for_its_caller_and_is_logged(database_url: str, connection: Connection) -> None:
    await connection.execute("ALTER TABLE students RENAME TO hidden")
    async with serving(DATABASE_URL=database_url) as running, aiohttp.ClientSession() as session:
        for method, path, body in (
            ("GET", "/students/1", None),
            ("POST", "/students", student_fields()),
            ("GET", "/students", None),
        ):
            headers = {"X-Request-Id": f"{method}:{path}"}
            async with session.request(method, running.url + path, json=body, headers=headers) as response:
                assert (response.status, (await response.json())["type"]) == (500, "/problems/internal_error")
                assert response.headers["X-Request-Id"] == f"{method}:{path}"
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0

    assert not any("Logging error" in line for line in running.errors), running.errors
    lines = [json.loads(line) for line in running.log]
    for request_id in ("GET:/students/1", "POST:/students", "GET:/students"):
        fault, request = sorted(
            (line for line in lines if line.get("request_id") == request_id), key=lambda line: str(line["level"])
        )
        assert (fault["level"], fault["logger"]) == ("ERROR", "service.web")
        assert "Traceback" in fault["exc_info"]
        assert (request["logger"], request["status"]) == ("service.access", 500)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_workers_share_a_port_and_a_database(empty_database_url: str) -> None:
    async with serving("--workers", "2", DATABASE_URL=empty_database_url) as running:
        assert len(children_of(running.process.pid)) == 2
        ids: list[int] = []
        while len(ids) < 20:
            # A new connection goes to either process, ready or not.
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{running.url}/students", json=student_fields()) as response,
            ):
                if response.status != 503:
                    ids.append((await response.json())["id"])
        assert ids == list(range(1, 21))

        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    lines = [json.loads(line) for line in running.log]
    assert len([line for line in lines if line.get("route") == "/students" and line["status"] == 201]) == 20


async def test_a_worker_that_dies_ends_all_of_them_and_none_outlives_the_service(database_url: str) -> None:
    async with serving("--workers", "2", DATABASE_URL=database_url) as running:
        workers = children_of(running.process.pid)
        os.kill(workers[0], signal.SIGKILL)
        assert await running.ended() == signal.SIGKILL
        assert not any(is_running(worker) for worker in workers)
    async with serving("--workers", "2", DATABASE_URL=database_url) as running:
        workers = children_of(running.process.pid)
        running.process.kill()
        await running.ended()
        async with asyncio.timeout(10):
            while any(is_running(worker) for worker in workers):
                await asyncio.sleep(0.01)


async def test_workers_do_not_start_on_a_port_in_use(database_url: str) -> None:
    async with serving(DATABASE_URL=database_url) as running:
        port = running.url.rpartition(":")[2]
        ended = await run("serve", "--workers", "2", DATABASE_URL=database_url, PORT=port)
        assert (ended.status, ended.err) == (1, f"error: can't listen on 127.0.0.1:{port}: Address already in use\n")
    for wrong in ("0", "65", "two"):
        ended = await run("serve", "--workers", wrong, DATABASE_URL=database_url)
        assert ended.status == 2
        assert "a number from 1 to 64" in ended.err


async def test_workers_take_over_the_port_of_a_service_that_has_just_ended(database_url: str) -> None:
    async with serving(DATABASE_URL=database_url) as running:
        port = running.url.rpartition(":")[2]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        # The side that closes first, here the service, keeps the port in TIME_WAIT for a minute.
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0

    async with serving("--workers", "2", DATABASE_URL=database_url, PORT=port) as running:
        assert running.url.endswith(f":{port}")


WORKERS = """
import contextlib, os, sys
from service.workers import run_workers

def work(number, alive):
    if number == 0:
        {fault}
    # The other worker serves until a signal stops it.
    os.read(alive, 1)
    return 0

try:
    with contextlib.ExitStack() as stack:
        stack.callback(print, "unwound")
        status = run_workers(2, work)
finally:
    print("ended")
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [("raise OSError('broken')", 1, "OSError: broken"), ("sys.exit(3)", 3, ""), ("raise KeyboardInterrupt", 130, "")],
)
async def test_an_exception_in_a_worker_ends_that_process_and_leaves_the_clean_up_to_its_parent(
    fault: str, status: int, message: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", WORKERS.format(fault=fault)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await process.communicate()

    assert (process.returncode, out.decode().split()) == (status, ["unwound", "ended"]), err.decode()
    assert message in err.decode()
    assert bool(message) == bool(err)


async def test_sighup_ends_the_service_as_sigterm_does_unless_it_is_ignored(database_url: str) -> None:
    for arguments in ((), ("--workers", "2")):
        async with serving(*arguments, DATABASE_URL=database_url) as running:
            running.process.send_signal(signal.SIGHUP)
            assert await running.ended() == 0
        assert running.errors == []
    # nohup ignores SIGHUP in the same way.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with serving(DATABASE_URL=database_url) as running:
            signal.signal(signal.SIGHUP, before)
            running.process.send_signal(signal.SIGHUP)
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended() == 0
            async with asyncio.timeout(10):
                while not any("stopped" in line for line in running.log):
                    await asyncio.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_ctrl_c_ends_the_service_cleanly(database_url: str) -> None:
    async with serving(DATABASE_URL=database_url) as running:
        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 0
    assert "Traceback" not in "\n".join(running.errors)


async def test_sigterm_finishes_requests_in_flight_and_asks_callers_to_close(
    database_url: str, connection: Connection
) -> None:
    async with serving(DATABASE_URL=database_url, DRAIN_SECONDS=0.3) as running, aiohttp.ClientSession() as session:
        async with session.get(f"{running.url}/students") as response:
            assert "Connection" not in response.headers

        async def create() -> tuple[int, str | None]:
            async with session.post(f"{running.url}/students", json=student_fields()) as response:
                return response.status, response.headers.get("Connection")

        async def ready() -> tuple[int, str]:
            async with session.get(f"{running.url}/health/ready") as response:
                return response.status, (await response.json()).get("type", "")

        async with busy(database_url):
            creating = asyncio.create_task(create())
            await waiting_writer(connection)
            running.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while (await ready()) != (503, "/problems/draining"):
                    await asyncio.sleep(0.01)

            async def closed() -> bool:
                try:
                    await ready()
                except aiohttp.ClientConnectionError:
                    return True
                return False

            await until(closed, "the listener to be closed")
            running.process.send_signal(signal.SIGTERM)
            assert not creating.done()

        assert await creating == (201, "close"), "a second signal changes nothing"
        assert await running.ended() == 0
    assert [event["type"] for event in await events(connection)] == ["student.created"]
    assert {json.loads(line)["level"] for line in running.log} == {"INFO"}


async def test_a_request_on_a_kept_connection_is_answered_after_sigterm_with_connection_close(
    database_url: str,
) -> None:
    head = b"GET /courses HTTP/1.1\r\nHost: localhost\r\n\r\n"
    # Longer than the test waits: the service must end as soon as every connection is closed.
    async with serving(DATABASE_URL=database_url, LINGER_SECONDS=60) as running:
        port = int(running.url.rpartition(":")[2])
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(64)]
        for reader, writer in kept:
            writer.write(head)
            status, headers, _ = await receive(reader)
            assert (status, headers.get("connection")) == (200, None)
        running.process.send_signal(signal.SIGTERM)

        async def closed() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return True
            writer.close()
            return False

        await until(closed, "the listener to be closed")
        for _, writer in kept:
            writer.write(head)
        for reader, writer in kept:
            status, headers, _ = await receive(reader)
            assert (status, headers["connection"]) == (200, "close")
            assert await reader.read() == b""
            writer.close()
        assert await running.ended() == 0


async def test_idle_connections_do_not_delay_the_exit(database_url: str) -> None:
    async with serving(DATABASE_URL=database_url) as running, aiohttp.ClientSession() as session:
        async with session.get(f"{running.url}/students"):
            pass
        port = int(running.url.rpartition(":")[2])
        _, silent = await asyncio.open_connection("127.0.0.1", port)

        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        silent.close()
        await silent.wait_closed()


async def test_a_port_in_use_is_reported_clearly(database_url: str) -> None:
    async with serving(DATABASE_URL=database_url) as running:
        port = running.url.rpartition(":")[2]

        ended = await run(DATABASE_URL=database_url, PORT=port)

    assert ended.status == 1
    assert ended.err.startswith(f"error: can't listen on 127.0.0.1:{port}: ")
    assert "address already in use" in ended.err.lower()
    assert "Traceback" not in ended.err


async def test_invalid_settings_are_reported_clearly(database_url: str) -> None:
    ended = await run("check", DATABASE_URL=database_url, PORT="eighty")

    assert ended.status == 1
    assert "port" in ended.err.lower()
    assert "Traceback" not in ended.err


async def test_an_unknown_command_is_reported_clearly() -> None:
    ended = await run("chekc", DATABASE_URL="postgresql://nowhere.invalid/x")

    assert ended.status == 2
    assert "chekc" in ended.err
    assert "Traceback" not in ended.err


async def test_every_command_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def parsed(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            parse(arguments)
        return ended.value.code, capsys.readouterr().out

    version = await run("--version")
    assert (version.status, version.out) == (0, f"enrollment-service {__version__}\n")
    _, overview = parsed("--help")
    for command, says in (
        ("serve", "--workers"),
        ("migrate", "migrations"),
        ("check", "invariant"),
        ("demo", "--size"),
        ("psql", "psql"),
        ("feed", "renew"),
        ("feed renew", "epoch"),
    ):
        status, out = parsed(*command.split(), "--help")
        assert status == 0
        assert f"usage: python -m service {command} " in out
        assert says in out
        assert f"    {command.split()[0]} " in overview
        if command != "serve":
            assert parsed(*command.split(), "--workers", "2")[0] == 2
    assert parsed("feed")[0] == 2


IMPORTS = """
import ast, inspect, os
import aiohttp.web, asyncpg, joserfc.jwt, yoyo
import service.__main__ as program

functions = [node for node in ast.parse(inspect.getsource(program)).body if isinstance(node, ast.FunctionDef)]
inner = [node for function in functions for node in ast.walk(function)]
for line in sorted({ast.unparse(node) for node in inner if isinstance(node, ast.ImportFrom)}):
    if os.fork() == 0:
        exec(line)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), line, flush=True)
"""
"""Each import of a command, in a fork in which no other command has imported anything."""


async def test_each_command_imports_what_it_needs() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", IMPORTS), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    lines = out.decode().splitlines()
    assert {"0 from service.serving import serve", "0 from service.check import check, check_all"} <= set(lines)
    assert [line for line in lines if not line.startswith("0 ")] == []


async def test_a_full_disk_for_the_output_is_an_error_without_a_traceback(database_url: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "service", "migrate"),
            cwd=ROOT,
            env=environment(DATABASE_URL=database_url),
            stdout=full,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            _, err = await process.communicate()
    finally:
        os.close(full)
    assert (process.returncode, err.decode()) == (1, "error: [Errno 28] No space left on device\n")


async def test_migrate_applies_missing_migrations_and_then_nothing(empty_database_url: str) -> None:
    first = await run("migrate", DATABASE_URL=empty_database_url)
    again = await run("migrate", DATABASE_URL=empty_database_url)

    assert (first.status, again.status) == (0, 0)
    names = sorted(path.stem for path in (ROOT / "migrations").glob("*.sql") if "rollback" not in path.name)
    assert [line.removeprefix("applied ") for line in first.out.splitlines() if line.startswith("applied ")] == names
    assert "nothing to do" in again.out


async def test_commands_report_clearly_that_the_database_cannot_be_reached(tmp_path: Path) -> None:
    nowhere = f"postgresql://postgres@/postgres?host={tmp_path}"

    for command in ("migrate", "check", "demo"):
        ended = await run(command, DATABASE_URL=nowhere)
        assert ended.status == 1, command
        assert "can't be reached" in ended.err, command
        assert "Traceback" not in ended.err, command


async def test_a_database_that_is_not_migrated_is_reported_clearly(empty_database_url: str) -> None:
    for command in ("check", "feed renew"):
        ended = await run(*command.split(), DATABASE_URL=empty_database_url)
        assert ended.status == 1
        assert ended.err == "error: The database is not migrated: run `python -m service migrate` first.\n"


async def test_a_service_that_does_not_migrate_names_a_missing_migration_and_waits_for_it(
    database_url: str, empty_database_url: str, connection: Connection
) -> None:
    names = shipped()
    await connection.execute("DELETE FROM _yoyo_migration WHERE migration_id = ANY($1)", names[-2:])
    for url, says in (
        (database_url, f"{names[-2]} and 1 more"),
        (empty_database_url, f"{names[0]} and {len(names) - 1} more"),
    ):
        async with starting(DATABASE_URL=url, MIGRATE_ON_START="false") as running:
            waiting = await running.logged("waiting for the database")
            assert f"The database lacks the migration {says}: run `python -m service migrate`." == waiting["reason"]
            async with aiohttp.ClientSession() as session, session.get(f"{running.url}/health/ready") as response:
                assert response.status == 503
            if url == empty_database_url:
                assert (await run("migrate", DATABASE_URL=url)).status == 0
                await running.logged("ready")


async def test_a_schema_in_the_middle_of_its_migrations_is_waited_for(
    settings: Settings, connection: Connection
) -> None:
    await connection.execute("UPDATE feed SET database_oid = 3")
    await connection.execute("ALTER FUNCTION renew_epoch RENAME TO created_later")
    database = Database(settings)
    await database.open()
    try:
        with pytest.raises(Unavailable, match="not migrated"):
            await database.ping()
        await connection.execute("ALTER FUNCTION created_later RENAME TO renew_epoch")
        await database.ping()
    finally:
        await database.close()


async def test_a_schema_newer_than_the_service_is_logged_as_a_warning(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(
        "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) VALUES ('x', '9999_later', now())"
    )
    for migrates in ("true", "false"):
        async with serving(DATABASE_URL=database_url, MIGRATE_ON_START=migrates) as running:
            warning = await running.logged("the schema is newer than this version of the service")
            assert (warning["level"], warning["migrations"]) == ("WARNING", ["9999_later"])


async def test_a_schema_that_no_release_made_is_refused_by_every_start(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(
        "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) VALUES ('x', '0004_old', now())"
    )
    for migrates in ("true", "false"):
        ended = await run("serve", DATABASE_URL=database_url, MIGRATE_ON_START=migrates)
        assert ended.status == 1
        assert "this version has no migration 0004_old" in ended.err


async def test_a_refused_migration_is_reported_clearly(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("CREATE TABLE courses ()")
    await connection.close()

    for command in ("migrate", "serve"):
        ended = await run(command, DATABASE_URL=empty_database_url)
        assert ended.status == 1, command
        assert "0005_create_courses" in ended.err, command
        assert "Traceback" not in ended.err, command


async def test_the_demo_fills_an_empty_database_once_and_violates_no_invariant(
    empty_database_url: str, settings: Settings
) -> None:
    first = await run("demo", DATABASE_URL=empty_database_url)
    again = await run("demo", DATABASE_URL=empty_database_url)
    checked = await run("check", DATABASE_URL=empty_database_url)

    assert first.status == 0, first.err
    assert "200 students, 30 courses" in first.out
    assert (again.status, again.err) == (
        1,
        "error: the database is not empty; the demo needs an empty database\n",
    )
    assert checked.status == 0
    assert [line for line in checked.out.splitlines() if line.startswith("ok ")] == [
        f"ok    {invariant}" for invariant in INVARIANTS
    ]
    async with serving(DATABASE_URL=empty_database_url) as running, aiohttp.ClientSession() as session:
        async with session.get(f"{running.url}/courses?limit=500") as response:
            courses = (await response.json())["items"]
        async with session.get(f"{running.url}/students?limit=500") as response:
            students = (await response.json())["items"]
    assert (len(courses), len(students)) == (36, 200)
    full = [course for course in courses if course["seats_free"] == 0 and course["capacity"]]
    assert 1 < len(full) < 30
    assert sum(course["seats_taken"] for course in courses) > 500


SEATED = """
INSERT INTO students (id, given_name, family_name, email) VALUES (1, 'A', 'B', 'a@b'), (2, 'C', 'D', 'c@d');
INSERT INTO courses (id, code, title, capacity, seats_taken) VALUES (1, 'C', 'T', 2, 2);
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
VALUES (1, 1, 'enrolled', 4, now(), now()), (2, 1, 'enrolled', 5, now(), now());
INSERT INTO events (position, type, occurred_at, request_id, student_id, course_id, after)
VALUES
    (1, 'student.created', now(), 'r', 1, NULL, '{"fields": [], "version": 1}'),
    (2, 'student.created', now(), 'r', 2, NULL, '{"fields": [], "version": 1}'),
    (3, 'course.created', now(), 'r', NULL, 1, '{"code": "C", "title": "T", "credits": 0, "capacity": 2, "version": 1}'),
    (4, 'enrollment.enrolled', now(), 'r', 1, 1, '{"status": "enrolled"}'),
    (5, 'enrollment.enrolled', now(), 'r', 2, 1, '{"status": "enrolled"}'),
    (6, 'student.created', now(), 'r', 3, NULL, '{"fields": [], "version": 1}');
"""


async def test_check_shows_20_faults_and_counts_the_rest(
    settings: Settings, connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await connection.execute(
        "INSERT INTO students (given_name, family_name, email) SELECT 'A', 'B', 'a@' || n FROM generate_series(1, 23) AS n"
    )

    assert await check(settings) == 1

    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "resource=student" in line]) == 20
    assert "      and 3 more" in lines


async def test_check_exits_with_1_if_any_invariant_is_violated(database_url: str, connection: Connection) -> None:
    await connection.execute(SEATED)
    await connection.execute("UPDATE courses SET seats_taken = 5")

    ended = await run("check", DATABASE_URL=database_url)

    assert ended.status == 1
    assert "FAULT every seat counter equals the number of seated students" in ended.out
