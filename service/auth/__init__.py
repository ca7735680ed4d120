"""Authentication: find the caller of a request by its API key or its access token."""

import asyncio
import hashlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from service.auth import api_keys
from service.auth.api_keys import ACCESS_PREFIX, PREFIX, TEXT, TOKEN, ApiKeys, Grant
from service.database import Database
from service.errors import ApiKeyNameTaken
from service.settings import Settings
from service.web.auth import ANYONE, Caller, InvalidClient, Scope, Unauthenticated
from sql.merged_students import load_merged_students
from sql.students import find_students_by_external_id

if TYPE_CHECKING:
    from service.auth.tokens import Tokens

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

    Nobody is authenticated while the service is open: with AUTH=off, or, if it serves one institution, on loopback as
    long as there is neither an issuer of tokens nor an API key.
    """

    def __init__(
        self, database: Database, settings: Settings, database_of: Callable[[str], Database | None] | None = None
    ) -> None:
        """``database`` is that of the only institution, or the registry; then ``database_of`` finds an institution's."""
        self._database = database
        self._settings = settings
        self._database_of = database_of
        self._off = settings.auth == "off"
        self._keys = ApiKeys(database)
        self._keys_of: dict[str, ApiKeys] = {}
        self._tokens: Tokens | None = None
        self._may_be_open = settings.token_issuer is None and is_loopback(settings.host) and database_of is None
        self._cache: dict[bytes, tuple[float, Caller]] = {}
        self.background: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """What runs beside the requests, until it is cancelled."""
        if not self._off:
            self.background.append(self._note_use)
        if settings.token_issuer is not None and not self._off:
            # Imported only here: joserfc and cryptography take 10 MB of memory, and a twentieth of the time of a start.
            from service.auth import tokens

            # The settings check that an issuer comes with them.
            assert settings.token_audience is not None
            assert settings.token_keys_url is not None
            provider = tokens.ProviderKeys(settings.token_keys_url)
            self.background.append(provider.keep_fresh)
            self._tokens = tokens.Tokens(
                issuer=settings.token_issuer,
                audience=settings.token_audience,
                keys=provider,
                institution_claim=settings.token_institution_claim if database_of else None,
                student_claim=settings.token_student_claim,
                find_student=self._find_student,
            )

    def __call__(self, headers: Mapping[str, str]) -> Caller | Awaitable[Caller]:
        """Return the caller that the headers of a request name.

        Raises:
            Unauthenticated: there is no valid API key or access token.
            Unavailable: a look-up is needed, and the database or the identity provider does not answer.
        """
        if self._off and self._database_of is not None:
            return replace(ANYONE, institution=headers.get("X-Institution"))
        if self._off or (self._keys.known and self._is_open()):
            return ANYONE
        header = headers.get("Authorization")
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
        if self._database_of is not None:
            logger.info("the registry has no API key: only the command line can manage institutions")
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
        self.forget(None)

    def forget(self, institution: str | None) -> None:
        """Look callers up again: the API keys of an institution, or of the registry, have changed."""
        self._cache.clear()
        keys = self._keys_in(institution)
        if keys is not None:
            keys.forget()

    def _keys_in(self, institution: str | None) -> ApiKeys | None:
        """Return the API keys of an institution, or of the registry; None if there is no such institution."""
        if institution is None:
            return self._keys
        if (keys := self._keys_of.get(institution)) is not None:
            return keys
        database = self._database_of(institution) if self._database_of is not None else None
        if database is None:
            return None
        if len(self._keys_of) >= self._settings.institutions_in_memory:
            del self._keys_of[next(iter(self._keys_of))]
        keys = self._keys_of[institution] = ApiKeys(database, institution)
        return keys

    def drop(self, institution: str) -> None:
        """Forget an institution, whose schema has changed or was dropped."""
        self._cache.clear()
        self._keys_of.pop(institution, None)

    def _is_open(self) -> bool:
        return self._may_be_open and not self._keys.any

    async def _find(self, digest: bytes, credential: str) -> Caller:
        if credential.startswith(PREFIX):
            found = await self._find_key(credential)
        elif credential.startswith(ACCESS_PREFIX):
            found = await self._find_token(credential)
        else:
            found = await self._tokens.find(credential) if self._tokens is not None else None
        if found is None:
            raise Unauthenticated(INVALID)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        caller, seconds = found
        self._cache[digest] = (monotonic() + seconds, caller)
        return caller

    async def _find_key(self, text: str) -> tuple[Caller, float] | None:
        match = TEXT.fullmatch(text)
        keys = self._keys_in(match[1]) if match else None
        if match is None or keys is None:
            return None
        return await keys.find(int(match[2]), match[3])

    async def _find_token(self, text: str) -> tuple[Caller, float] | None:
        match = TOKEN.fullmatch(text)
        keys = self._keys_in(match[2]) if match else None
        return None if match is None or keys is None else await keys.find_token(match)

    async def grant(self, client_id: str, secret: str, scopes: frozenset[Scope] | None) -> Grant:
        """Return an access token for an API key, whose id and secret are those of an OAuth client.

        The id of a key of an institution begins with the name of the institution, as in ``north_7``. The secret may also be
        the whole text of the key. Without ``scopes`` the token has all scopes of the key that tokens may have.

        Raises:
            InvalidClient: there is no such key, or it is expired or revoked.
            Unavailable: the database does not answer.
        """
        name, _, key_id = client_id.rpartition("_")
        match = TEXT.fullmatch(secret) or TEXT.fullmatch(f"{PREFIX}{f'{name}.' if name else ''}{key_id}_{secret}")
        keys = None if match is None or (match[1] or "", match[2]) != (name, key_id) else self._keys_in(match[1])
        if match is None or keys is None:
            raise InvalidClient
        found = await keys.grant(int(match[2]), match[3], scopes, self._settings.oneroster_token_seconds)
        if found is None:
            raise InvalidClient
        return found

    async def _find_student(self, institution: str | None, external_id: str) -> int | None:
        database = self._database
        if institution is not None:
            of = self._database_of(institution) if self._database_of is not None else None
            if of is None:
                return None
            database = of
        async with database.reading() as connection:
            found = await find_students_by_external_id(connection, external_id)
            if found:
                return found[0].id
            # A token of a duplicate keeps naming it, so that its calls say into whom it was merged.
            merged = await load_merged_students(connection, [], [external_id])
        return merged[0].student_id if merged else None

    async def _note_use(self) -> None:
        """Write down once in ``NOTE_SECONDS`` which keys have been used."""
        while True:
            await asyncio.sleep(api_keys.NOTE_SECONDS)
            for keys in [self._keys, *self._keys_of.values()]:
                await keys.note_use()


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a service that listens on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
