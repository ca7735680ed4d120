"""A disk (tmpfs) that fills up under PostgreSQL while callers read and change, and is emptied again."""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp

from tests.trials.harness import Figure, PostgreSQL, Restarted, Skipped, check, folder
from tests.trials.outage import EVERYTHING, REFUSED, SUCCESS, expose

SIZE = 30
UNIT = "seconds"
DISK_MB = 160
OPTIONS = {"max_wal_size": "48MB", "min_wal_size": "48MB"}
"""Little log, so that the tables fill the disk."""
EXPECTED = {
    **dict.fromkeys(EVERYTHING, SUCCESS | REFUSED),
    "live": SUCCESS,
    "change": REFUSED,
    "ready": REFUSED,
}
"""Reads succeed as long as the server can write its log; otherwise it ends, and its supervisor has to start it again."""
FILL_SECONDS = 60.0


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Fill the disk until changes are refused, and give its space back some time later."""
    with folder() as home, disk(home / "postgresql") as data_dir, PostgreSQL(data_dir, OPTIONS).up() as postgresql:
        async with Restarted(postgresql.url, home / "log").up() as service:
            fault = filled(postgresql, service.url)
            figures = await expose("full disk", fault, service, postgresql.url, size, EXPECTED)
        return [
            *figures,
            Figure("full disk: exit status of `python -m service check`", await check(postgresql.url), at_most=0),
        ]


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """Mount a small disk while the context lasts."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=711", "tmpfs", str(folder)], check=False
    )
    if mounted.returncode != 0:
        raise Skipped("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@asynccontextmanager
async def filled(postgresql: PostgreSQL, url: str) -> AsyncIterator[None]:
    """Fill the disk of a server until the service refuses changes."""
    ballast = postgresql.data_dir / "ballast"
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(FILL_SECONDS):
        while await change(session) != 503:
            # What the server freed in the meantime is filled as well.
            with ballast.open("ab", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()
        if not postgresql.is_running():
            await asyncio.to_thread(postgresql.start)


async def change(session: aiohttp.ClientSession) -> int:
    """Make a change and return the status."""
    email = f"{uuid.uuid4().hex}@campus.example"
    body = {"given_name": "Ada" * 50, "family_name": "Trial" * 30, "email": email}
    async with session.post("/students", json=body) as response:
        return response.status
