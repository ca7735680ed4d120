"""PgBouncer between the service and its database: session mode works, and transaction mode is refused."""

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pytest_aiohttp import AiohttpClient

from service.api.keys import DATABASE
from service.check import check
from service.settings import Settings
from tests.campus import enroll, new_course, new_student, read, served
from tests.conftest import Server
from tests.test_process import run


@asynccontextmanager
async def pooler(server: Server, folder: Path, port: int, mode: str) -> AsyncIterator[None]:
    """Run PgBouncer on a port of loopback, as in docs/operations.md, for every database of the tests' server."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    host = parse_qs(urlsplit(server.url).query).get("host")
    if program is None or host is None:
        pytest.skip("pgbouncer is not installed, or the server is not the embedded one")
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"""
        [databases]
        * = host={host[0]} port=5432
        [pgbouncer]
        pool_mode = {mode}
        default_pool_size = 20
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = trust
        auth_file = {folder / "users"}
        """.replace("        ", "")
    )
    (folder / "users").write_text('"postgres" ""\n')
    folder.chmod(0o755)
    account = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    process = subprocess.Popen([program, "--quiet", str(config)], user=account, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - uvloop does not change the user
    try:
        for _ in range(1000):
            try:
                await (await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/enrollment")).close()
            except OSError:
                assert process.poll() is None
                await asyncio.sleep(0.01)
            else:
                break
        yield
    finally:
        process.kill()
        process.wait()


def through(port: int, url: str, user: str = "postgres") -> str:
    return f"postgresql://{user}@127.0.0.1:{port}{urlsplit(url).path}"


async def test_pgbouncer_in_session_mode_works_without_further_settings(
    server: Server, empty_database_url: str, data_dir: Path, unused_tcp_port: int, aiohttp_client: AiohttpClient
) -> None:
    data_dir.mkdir()
    async with pooler(server, data_dir, unused_tcp_port, "session"):
        settings = Settings(database_url=through(unused_tcp_port, empty_database_url), port=0)
        client = await served(aiohttp_client, settings)
        course = await new_course(client)
        students = [await new_student(client) for _ in range(4)]
        assert {(await enroll(client, student, course)).status for student in students} == {201}
        assert len((await read(client, f"/courses/{course}/students"))["items"]) == 4

        assert client.app is not None
        async with client.app[DATABASE].reading() as connection:
            assert await connection.fetchval("SHOW statement_timeout") == "5s"
        assert await check(settings) == 0
        await client.close()


async def test_pgbouncer_in_transaction_mode_is_refused(
    server: Server, database_url: str, data_dir: Path, unused_tcp_port: int
) -> None:
    """One connection would set the search path of another, and so read the data of another institution."""
    data_dir.mkdir()
    async with pooler(server, data_dir, unused_tcp_port, "transaction"):
        ended = await run(DATABASE_URL=through(unused_tcp_port, database_url))
    assert ended.status == 1
    assert ended.err.startswith("error: The pooler in front of the database lends a session to several connections")
    assert "set pool_mode = session" in ended.err
