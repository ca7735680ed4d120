"""PostgreSQL restarted under load, as for a minor upgrade: a fast stop, and a start two seconds later."""

import asyncio
import signal
import time
from collections.abc import Sequence

from tests.trials.harness import Figure, PostgreSQL, Restarted, folder
from tests.trials.ledger import compare, keeping

SIZE = 5
UNIT = "restarts"
DOWN_SECONDS = 2.0
LOAD_SECONDS = 3.0
ERROR_SECONDS = 5.0
"""Time after the server accepts connections again within which the last error ends."""


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Restart the server several times, and compare what callers were answered with what is there."""
    late: list[float] = []
    with folder() as home, PostgreSQL(home / "postgresql").up() as postgresql:
        async with Restarted(postgresql.url, home / "log").up() as service:
            pid = service.pid
            async with keeping(service.url) as ledger:
                for _ in range(size):
                    await asyncio.sleep(LOAD_SECONDS)
                    await asyncio.to_thread(postgresql.stop, signal.SIGINT)
                    await asyncio.sleep(DOWN_SECONDS)
                    await asyncio.to_thread(postgresql.start)
                    back = time.monotonic()
                    await asyncio.sleep(ERROR_SECONDS)
                    late.append(max((end for _, end, answered in ledger.calls if not answered), default=back) - back)
            figures = await compare(ledger, postgresql.url)
            assert service.pid == pid, "the service was restarted"
    return [
        Figure("last error after the server is back", max(late), "s", at_most=ERROR_SECONDS),
        *figures,
    ]
