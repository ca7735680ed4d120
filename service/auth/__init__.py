"""Authentication: find the caller of a request by its API key or its access token."""

import hashlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Final

from service.auth import api_keys
from service.auth.api_keys import PREFIX, ApiKeys
from service.auth.tokens import ProviderKeys, Tokens
from service.database import Database
from service.errors import ApiKeyNameTaken
from service.settings import Settings
from service.web.auth import ANYONE, Caller, Unauthenticated
from sql.students import find_students_by_external_id

logger = logging.getLogger(__name__)

MAX_CREDENTIAL: Final = 8192
"""Longest credential that is looked at; aiohttp limits a header line to about as much."""

MAX_CACHED: Final = 10_000
"""Callers in the cache: about 5 MB. A full cache is emptied, and filled again by the callers that are active."""

NO_CREDENTIAL: Final = "Send an API key or an access token: Authorization: Bearer …"
INVALID: Final = "The API key or access token is not valid. It may be unknown, expired or revoked."


class Unprotected(Exception):
    """The service would serve other machines without authenticating anybody."""


class Authenticator:
    """Finds callers, and caches them for seconds: a busy caller costs one look-up in a dictionary a request.

    Nobody is authenticated while the service is open: with AUTH=off, or on loopback as long as there is neither an
    issuer of tokens nor an API key.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._off = settings.auth == "off"
        self._keys = ApiKeys(database)
        self._tokens: Tokens | None = None
        self._may_be_open = settings.token_issuer is None and is_loopback(settings.host)
        self._cache: dict[bytes, tuple[float, Caller]] = {}
        self.background: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """What runs beside the requests, until it is cancelled."""
        if not self._off:
            self.background.append(self._keys.note_use)
        if settings.token_issuer is not None and not self._off:
            # The settings check that an issuer comes with them.
            assert settings.token_audience is not None
            assert settings.token_keys_url is not None
            provider = ProviderKeys(settings.token_keys_url)
            self.background.append(provider.keep_fresh)
            self._tokens = Tokens(
                issuer=settings.token_issuer,
                audience=settings.token_audience,
                keys=provider,
                student_claim=settings.token_student_claim,
                find_student=self._find_student,
            )

    def __call__(self, header: str | None) -> Caller | Awaitable[Caller]:
        """Return the caller that the value of an Authorization header names.

        Raises:
            Unauthenticated: there is no valid API key or access token.
            Unavailable: a look-up is needed, and the database or the identity provider does not answer.
        """
        if self._off or (self._keys.known and self._is_open()):
            return ANYONE
        if header is None or (self._may_be_open and not self._keys.known):
            return self._look_up(header)
        return self._known(header)

    async def _look_up(self, header: str | None) -> Caller:
        """Return the caller after a look at the keys, which may show that the service is open."""
        if not self._keys.known:
            await self._keys.load()
        if self._is_open():
            return ANYONE
        if header is None:
            raise Unauthenticated(NO_CREDENTIAL, error=None)
        found = self._known(header)
        return found if isinstance(found, Caller) else await found

    def _known(self, header: str) -> Caller | Awaitable[Caller]:
        """Return the caller from the cache, or look it up."""
        scheme, _, credential = header.partition(" ")
        if scheme.lower() != "bearer" or not credential or len(credential) > MAX_CREDENTIAL:
            raise Unauthenticated(NO_CREDENTIAL, error="invalid_request")
        # By digest, so that the time of the look-up says nothing about the credentials in the cache.
        digest = hashlib.sha256(credential.encode(errors="surrogateescape")).digest()
        if (cached := self._cache.get(digest)) is not None and monotonic() < cached[0]:
            return cached[1]
        return self._find(digest, credential)

    async def check_start(self) -> None:
        """Say in the log who may call.

        Raises:
            Unprotected: other machines reach the service, and nobody would be authenticated.
        """
        if self._off:
            logger.warning("AUTH=off: everybody who reaches the service may do anything")
            return
        await self._keys.load()
        if self._tokens is not None or self._keys.any:
            return
        if self._settings.development_key:
            await self._create_development_key()
            return
        if not is_loopback(self._settings.host):
            raise Unprotected(
                f"HOST={self._settings.host} serves other machines, and there is no API key and no TOKEN_ISSUER. "
                "Create a key with `python -m service keys create --name NAME --scope read …`, set TOKEN_ISSUER, "
                "or set AUTH=off to let everybody do anything."
            )
        logger.info("the service is open to every program on this machine until the first API key is created")

    async def _create_development_key(self) -> None:
        try:
            async with self._database.writing() as connection:
                _, text = await api_keys.create(connection, "development", sorted(ANYONE.scopes), None)
        except ApiKeyNameTaken:
            # Another process has created it, and printed it.
            text = ""
        if text:
            print(
                f"The first start created an API key with every scope. It is shown only now:\n\n    {text}\n",
                flush=True,
            )
        self.forget()

    def forget(self) -> None:
        """Look callers up again: the API keys have changed."""
        self._cache.clear()
        self._keys.forget()

    def _is_open(self) -> bool:
        return self._may_be_open and not self._keys.any

    async def _find(self, digest: bytes, credential: str) -> Caller:
        source = self._keys if credential.startswith(PREFIX) else self._tokens
        found = await source.find(credential) if source is not None else None
        if found is None:
            raise Unauthenticated(INVALID)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        caller, seconds = found
        self._cache[digest] = (monotonic() + seconds, caller)
        return caller

    async def _find_student(self, external_id: str) -> int | None:
        async with self._database.reading() as connection:
            found = await find_students_by_external_id(connection, external_id)
        return found[0].id if found else None


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a service that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
