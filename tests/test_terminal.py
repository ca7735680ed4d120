"""The program on a terminal: readable lines, the address once it is ready, and progress; only there."""

import asyncio
import json
import os
import pty
import re
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from service import __version__
from tests.forks import Forked
from tests.test_process import PATIENCE_SECONDS, ROOT, launch, run

REQUEST = re.compile(r"^\d\d:\d\d:\d\d INFO    GET /courses 200  [0-9.]+ ms  request_id=\w+$", re.MULTILINE)


@dataclass(slots=True)
class Terminal:
    """A process on a terminal of its own, and the text on the terminal."""

    process: asyncio.subprocess.Process | Forked
    shown: str = ""

    async def shows(self, pattern: str) -> re.Match[str]:
        """Wait until the text on the terminal matches a pattern, and return the match."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := re.search(pattern, self.shown, re.MULTILINE)):
                await asyncio.sleep(0.01)
        return found

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def on_terminal(*arguments: str, **variables: object) -> AsyncIterator[Terminal]:
    """Run the service on a terminal."""
    ours, theirs = pty.openpty()
    process = await launch(ROOT, arguments, variables, terminal=theirs)
    os.close(theirs)
    terminal = Terminal(process)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            terminal.shown += os.read(ours, 65536).decode(errors="replace").replace("\r\n", "\n")
        except OSError:
            # Reading fails when the last process on the terminal has ended.
            loop.remove_reader(ours)

    loop.add_reader(ours, read)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        loop.remove_reader(ours)
        os.close(ours)


async def get(url: str) -> tuple[int, object]:
    """Run a call that the terminal shows."""
    command = shlex.split(url)
    process = await asyncio.create_subprocess_exec(
        *command, "-w", "\n%{http_code}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    body, _, status = out.decode().rpartition("\n")
    return int(status), json.loads(body)


async def test_a_terminal_shows_readable_lines_and_the_address_once_the_service_is_ready(database_url: str) -> None:
    async with on_terminal(DATABASE_URL=database_url) as terminal:
        await terminal.shows("Stop it:  Ctrl-C")
        assert re.search(
            rf"^\d\d:\d\d:\d\d INFO    started  version={__version__}  url=http", terminal.shown, re.MULTILINE
        )
        assert terminal.shown.index("ready") < terminal.shown.index("API page: ")
        call = (await terminal.shows("Try it:   (.*)$"))[1]
        assert await get(call) == (200, {"items": [], "next": None})
        await terminal.shows(REQUEST.pattern)
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 0
        await terminal.shows("INFO    stopped")


async def test_a_terminal_that_is_closed_ends_the_service_and_its_database(data_dir: Path) -> None:
    async with on_terminal("--workers", "2", DATA_DIR=data_dir) as terminal:
        await terminal.shows("Stop it:  Ctrl-C")
        assert (data_dir / "cluster" / "postmaster.pid").exists()
        terminal.process.send_signal(signal.SIGHUP)
        await terminal.ended()
    assert not (data_dir / "cluster" / "postmaster.pid").exists()


@pytest.mark.parametrize(("form", "shows"), [("json", r'^{"time": .*"started"'), ("text", "INFO    started")])
async def test_the_format_of_the_log_can_be_chosen(database_url: str, form: str, shows: str) -> None:
    async with on_terminal(DATABASE_URL=database_url, LOG_FORMAT=form) as terminal:
        await terminal.shows(shows)


async def test_the_level_of_the_log_can_be_chosen(database_url: str) -> None:
    async with on_terminal(DATABASE_URL=database_url, LOG_LEVEL="warning", LOG_FORMAT="json") as terminal:
        await get((await terminal.shows("Try it:   (.*)$"))[1])
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 0
        assert "INFO" not in terminal.shown
    ended = await run("serve", DATABASE_URL=database_url, LOG_LEVEL="loud")
    assert (ended.status, ended.err[:17]) == (1, "error: LOG_LEVEL:")


async def test_the_demo_fills_serves_and_shows_three_calls_that_work_and_serves_the_same_again(
    empty_database_url: str,
) -> None:
    for again in (False, True):
        async with on_terminal("demo", "--serve", DATABASE_URL=empty_database_url) as terminal:
            await terminal.shows("Stop it:  Ctrl-C")
            assert ("a registration day:" in terminal.shown) == (not again)
            # The progress was shown and then cleared.
            assert ("200 changes" in terminal.shown) == (not again)
            calls = re.findall(r"^(?:Try it: )? +(curl .*)$", terminal.shown, re.MULTILINE)
            statuses = [await get(call) for call in calls]
            assert [status for status, _ in statuses][:2] == [200, 200]
            assert len(statuses) == 3
            assert statuses[2][0] in {201, 409}
            terminal.process.send_signal(signal.SIGTERM)
            assert await terminal.ended() == 0


async def test_psql_opens_on_the_running_service_and_on_one_that_does_not_run(data_dir: Path) -> None:
    arguments = ("psql", "--", "--tuples-only", "--no-align", "--command=SELECT count(*) FROM terms")
    assert (await run("migrate", DATA_DIR=data_dir)).status == 0
    alone = await run(*arguments, DATA_DIR=data_dir)
    assert (alone.status, alone.out, alone.err) == (0, "0\n", "")
    async with on_terminal(DATA_DIR=data_dir) as terminal:
        await terminal.shows("Stop it:  Ctrl-C")
        beside = await run(*arguments, DATA_DIR=data_dir)
        assert (beside.status, beside.out, beside.err) == (0, "0\n", "")
        terminal.process.send_signal(signal.SIGTERM)
        assert await terminal.ended() == 0


@pytest.mark.not_on_citus("the schema is not public")
async def test_psql_opens_on_a_database_url_and_returns_its_exit_status(database_url: str) -> None:
    ended = await run("psql", "--", "-At", "-c", "SELECT current_setting('search_path')", DATABASE_URL=database_url)
    assert (ended.status, ended.out) == (0, "public\n")
    assert (await run("psql", "--", "-c", "SELECT 1 FROM nothing", DATABASE_URL=database_url)).status == 1
