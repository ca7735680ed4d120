"""One attempt to deliver a message over HTTP."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal, TypeAlias

import aiohttp

from service import __version__
from service.settings import Settings
from service.webhooks.retries import read_retry_after
from service.webhooks.signing import headers_of
from service.webhooks.targets import AddressRefused, UrlRefused, check_url, host_of, make_socket

Failure: TypeAlias = Literal[
    "address_refused", "name_not_found", "not_connected", "certificate_refused", "timed_out", "broken_answer"
]
"""What prevents an answer."""

ANSWER_BYTES: Final = 16_384
"""As much of an answer is read, so that the connection can be used again; a longer answer closes the connection."""

ANSWER_SECONDS: Final = 1.0
"""How long the rest of an answer may take after its headers, which decide."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt: the status of the answer, or else what prevented one."""

    status: int | None
    error: Failure | None
    seconds: float
    retry_after: float | None = None
    """The seconds after which the receiver wants the next attempt."""

    @property
    def delivered(self) -> bool:
        """Whether the receiver has confirmed the message."""
        return self.status is not None and HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class Sender:
    """Sends messages, on connections that are used again: to listed hosts, and to public addresses only."""

    def __init__(self, settings: Settings) -> None:
        self.hosts = frozenset(settings.webhook_hosts)
        self._timeout = settings.webhook_timeout
        self._limit = settings.webhook_deliveries
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """One for listed hosts, and one that makes connections to public addresses only."""

    async def send(self, url: str, secrets: Sequence[str], message_id: str, body: bytes) -> Attempt:
        """Send a message, signed with each secret."""
        began = time.perf_counter()
        status: int | None = None
        error: Failure | None = None
        retry_after = None
        try:
            target = check_url(url, self.hosts)
            headers = {
                "Content-Type": "application/json",
                "User-Agent": f"enrollment-service/{__version__}",
                **headers_of(secrets, message_id, int(time.time()), body),
            }
            session = self._session(is_listed=host_of(target) in self.hosts)
            async with (
                asyncio.timeout(self._timeout),
                session.post(target, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status
                retry_after = read_retry_after(answer.headers.get("Retry-After"))
                if not await _is_short(answer):
                    answer.close()
        except (UrlRefused, aiohttp.InvalidURL):
            error = "address_refused"
        except TimeoutError:
            error = "timed_out"
        except aiohttp.ClientConnectorDNSError:
            error = "name_not_found"
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            error = "certificate_refused"
        except aiohttp.ClientConnectorError as refused:
            error = "address_refused" if isinstance(refused.os_error, AddressRefused) else "not_connected"
        except (aiohttp.ClientError, OSError, ValueError):
            error = "broken_answer"
        return Attempt(status, None if status else error, time.perf_counter() - began, retry_after)

    def _session(self, *, is_listed: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(is_listed)
        if session is None:
            session = self._sessions[is_listed] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit, socket_factory=None if is_listed else make_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return session

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()


async def _is_short(answer: aiohttp.ClientResponse) -> bool:
    """Read an answer; return whether it has ended within its bounds."""
    left = ANSWER_BYTES
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while left > 0:
                chunk = await answer.content.read(left)
                if not chunk:
                    return True
                left -= len(chunk)
    except (TimeoutError, aiohttp.ClientError):
        pass
    return False
