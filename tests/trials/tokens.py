"""Wrong credentials, each different, from many callers at the same time."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import aiohttp
from joserfc.jwk import RSAKey

from tests.provider import AUDIENCE, Provider, encoded, provider
from tests.trials.harness import Figure, Service, observer, quiet, running

CALLERS = 16
SECONDS = 5
STALL_MS = 20
"""Longest time for which wrong credentials may delay the other callers, beyond what they wait without an attack."""
CREDENTIAL_MS = 1.0
"""Most processor time for a wrong credential; a request that reaches no handler takes some 0.1 ms of it."""
FOREIGN = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})

ATTACKS: dict[str, Callable[[Provider, int], str]] = {
    "unknown API keys": lambda _, number: f"ek_{number + 1}_{number:048x}",
    "wrong API keys": lambda _, number: f"ek_1_{number:048x}",
    "signed by another key": lambda it, number: it.token(key=FOREIGN, jti=str(number)),
    "expired": lambda it, number: it.token(exp=1, jti=str(number)),
    "unknown key id": lambda it, number: it.token(header={"kid": f"k{number}"}),
    "no signature": lambda _, number: f"{encoded(b'{}')}.{encoded(str(number).encode())}.",
    "7 KB": lambda it, number: it.token(exp=1, padding=f"{number}" + "x" * 5000),
}


async def run() -> Sequence[Figure]:
    """Send each kind of wrong credential while another caller reads."""
    figures: list[Figure] = []
    async with provider() as issuer:
        own = {"token_issuer": issuer.issuer, "token_audience": AUDIENCE, "token_keys_url": issuer.keys_url}
        async with running(**own) as service:
            before = await quiet(service)
            figures.append(Figure("longest wait of the observer, before the attacks", before.longest, "ms"))
            for name, make in ATTACKS.items():
                tokens = [make(issuer, number) for number in range(2_000)]
                used = service.cpu_seconds()
                async with observer(service) as found:
                    sent, wrong = await attack(service, tokens)
                each = (service.cpu_seconds() - used) / sent * 1000
                figures += [
                    Figure(f"{name}: requests", sent / SECONDS, "/s"),
                    Figure(f"{name}: answers other than 401", wrong, at_most=0),
                    Figure(f"{name}: processor time for each", each, "ms", at_most=CREDENTIAL_MS),
                    Figure(
                        f"{name}: longest wait of the observer", found.longest, "ms", at_most=before.longest + STALL_MS
                    ),
                ]
    return figures


async def attack(service: Service, tokens: Sequence[str]) -> tuple[int, int]:
    """Send credentials from many callers; return the number of requests, and of answers other than 401."""
    sent = wrong = 0
    numbers = itertools.cycle(tokens)
    end = time.monotonic() + SECONDS

    async def caller(session: aiohttp.ClientSession) -> None:
        nonlocal sent, wrong
        while time.monotonic() < end:
            headers = {"Authorization": f"Bearer {next(numbers)}"}
            async with session.get("/students", headers=headers) as response:
                wrong += response.status != 401
                sent += 1

    async with aiohttp.ClientSession(service.url) as session:
        await asyncio.gather(*(caller(session) for _ in range(CALLERS)))
    return sent, wrong
