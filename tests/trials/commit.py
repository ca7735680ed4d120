"""The connection to PostgreSQL cut at random: before a message reaches it, or after its answer, which is lost."""

import asyncio
import random
from collections.abc import Sequence

from tests.trials.harness import Figure, PostgreSQL, Restarted, folder
from tests.trials.ledger import compare, keeping
from tests.wire import Cut, wired

SIZE = 500
UNIT = "cuts"
PAUSE_SECONDS = 0.05
"""The callers are served for this time before the next cut."""
TURNS = 6
"""A batch is at most about as many messages, so that cuts hit each of them."""
CUT_SECONDS = 60.0


async def run(size: int = SIZE) -> Sequence[Figure]:
    """Cut one connection after the other under load, every second time around a COMMIT."""
    choice = random.Random(size)
    with folder() as home, PostgreSQL(home / "postgresql").up() as postgresql:
        async with wired(postgresql.url) as (wire, url), Restarted(url, home / "log").up() as service:
            async with keeping(service.url) as ledger:
                for number in range(size):
                    await asyncio.sleep(PAUSE_SECONDS)
                    answered = choice.random() < 0.5
                    if number % 2:
                        wire.cut = Cut(b"COMMIT", answered=answered)
                    else:
                        wire.cut = Cut(turn=choice.randint(1, TURNS), answered=answered)
                    async with asyncio.timeout(CUT_SECONDS):
                        while wire.cuts <= number:
                            await asyncio.sleep(0.005)
            figures = await compare(ledger, postgresql.url)
    return [Figure("connections cut", wire.cuts, at_least=size), *figures]
