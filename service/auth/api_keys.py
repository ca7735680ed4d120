"""API keys: their text, and the keys of the database as a process knows them."""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic, time
from typing import Final, NamedTuple, cast

from service.database import Database
from service.errors import ApiKeyNotFound, ApiKeyRevoked, DomainError
from service.web.auth import Caller, Scope
from sql import Connection
from sql.api_keys import (
    ApiKey,
    create_api_key,
    list_api_keys,
    note_used_api_keys,
    revoke_api_key,
    rotate_api_key,
)

logger = logging.getLogger(__name__)

PREFIX: Final = "ek_"
"""Marks a text as a key of this service, for people and for programs that look for leaked secrets."""

SECRET_BYTES: Final = 24
"""192 bits cannot be guessed, so a fast hash keeps the secret as well as a slow one would."""

TEXT: Final = re.compile(rf"{PREFIX}(?:([a-z][a-z0-9-]*)\.)?([1-9][0-9]{{0,17}})_([0-9a-f]{{{SECRET_BYTES * 2}}})")
"""The institution, if there are many, the id and the secret."""

FRESH_SECONDS: Final = 5.0
"""How long a process relies on the keys that it has loaded: a revoked key is refused after that."""

LOOK_AGAIN_SECONDS: Final = 1.0
"""An unknown key makes a process load the keys again, at most this often: a new key works at once."""

MAX_KEYS: Final = 10_000
"""The most keys that a process loads: 5 MB."""

NOTE_SECONDS: Final = 60.0
"""How often the use of keys is written down."""

NO_HASH: Final = bytes(32)


ACCESS_PREFIX: Final = "er_"
"""Marks a text as an access token of this service."""

TOKEN: Final = re.compile(
    rf"({ACCESS_PREFIX}(?:([a-z][a-z0-9-]*)_)?([1-9][0-9]{{0,17}})_([1-9][0-9]{{0,17}})_([cr]{{1,2}}))_([0-9a-f]{{64}})"
)
"""The claims, which are the institution, if there are many, the id of the key, the Unix time at which the token expires
and its scopes; and their signature. OneRoster allows only letters, digits, hyphens and underscores."""

TOKEN_SCOPES: Final[dict[Scope, str]] = {"roster": "r", "roster_core": "c"}
"""The scopes that an access token may have, each with its letter in the claims."""


class Grant(NamedTuple):
    """An access token and its scopes."""

    token: str
    scopes: frozenset[Scope]
    seconds: int
    """How long the token is valid."""


def new_secret() -> tuple[str, bytes]:
    """Make a secret; return it with its hash."""
    secret = secrets.token_hex(SECRET_BYTES)
    return secret, hash_of(secret)


def hash_of(secret: str) -> bytes:
    """Return the hash of a secret as the database keeps it."""
    return hashlib.sha256(secret.encode()).digest()


def text_of(key_id: int, secret: str, institution: str | None) -> str:
    """Return the text that a caller sends."""
    return f"{PREFIX}{f'{institution}.' if institution else ''}{key_id}_{secret}"


def token_claims(key_id: int, institution: str | None, expires: int, letters: str) -> str:
    """Return the part of an access token that is signed."""
    return f"{ACCESS_PREFIX}{f'{institution}_' if institution else ''}{key_id}_{expires}_{letters}"


def signature_of(claims: str, secret_hash: bytes) -> str:
    """Return the signature of an access token, whose key is the stored hash of the secret of an API key."""
    return hmac.new(secret_hash, claims.encode(), hashlib.sha256).hexdigest()


def scopes_of(key: ApiKey) -> frozenset[Scope]:
    """Return the scopes of a key, with those that they include."""
    return with_included(cast("list[Scope]", key.scopes))


def with_included(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Return scopes with those that they include."""
    given = frozenset(scopes)
    return given | {"roster_core"} if "roster" in given else given


async def create(
    connection: Connection,
    name: str,
    scopes: list[Scope],
    expires_at: datetime | None,
    institution: str | None = None,
) -> tuple[ApiKey, str]:
    """Create a key of an institution; return it with its text, which is nowhere kept.

    The institution is None if the service has only one, and for a key of the registry.
    """
    secret, secret_hash = new_secret()
    key = await create_api_key(connection, name, list(scopes), secret_hash, expires_at)
    return key, text_of(key.id, secret, institution)


async def rotate(
    connection: Connection, key_id: int, overlap: timedelta, institution: str | None = None
) -> tuple[ApiKey, str]:
    """Give a key a new secret; return it with its text. The secret before it stays valid for ``overlap``.

    Raises:
        ApiKeyNotFound, ApiKeyRevoked: there is no such key, or it is revoked.
    """
    secret, secret_hash = new_secret()
    key = await rotate_api_key(connection, key_id, secret_hash, overlap)
    if key is None:
        raise ApiKeyNotFound(key_id)
    if key.revoked_at is not None:
        raise ApiKeyRevoked(key_id)
    return key, text_of(key_id, secret, institution)


async def revoke(connection: Connection, key_id: int) -> ApiKey:
    """Revoke a key; to repeat it changes nothing.

    Raises:
        ApiKeyNotFound: there is no such key.
    """
    key = await revoke_api_key(connection, key_id, datetime.now(UTC))
    if key is None:
        raise ApiKeyNotFound(key_id)
    return key


class ApiKeys:
    """The API keys of one institution, or of the registry.

    A process loads all keys at once, at most once in ``LOOK_AGAIN_SECONDS``. So however many wrong keys arrive, none of
    them costs a statement of its own.
    """

    def __init__(self, database: Database, institution: str | None = None) -> None:
        self._database = database
        self.institution = institution
        self._keys: dict[int, ApiKey] = {}
        self._loaded_at = -FRESH_SECONDS
        self._loading: asyncio.Task[None] | None = None
        self._used: set[int] = set()

    @property
    def known(self) -> bool:
        """Whether the keys were loaded within the last ``FRESH_SECONDS``."""
        return monotonic() - self._loaded_at < FRESH_SECONDS

    @property
    def any(self) -> bool:
        """Whether there is a key; an expired or revoked one counts."""
        return bool(self._keys)

    async def find(self, key_id: int, secret: str) -> tuple[Caller, float] | None:
        """Return the caller that a key stands for, and for how many seconds to rely on that; None if it is not valid.

        Raises:
            Unavailable: the database does not answer, and the keys were never loaded.
        """
        given = hash_of(secret)
        found = await self._match(key_id, lambda stored: hmac.compare_digest(given, stored))
        if found is None:
            return None
        key, _ = found
        return Caller(key.name, scopes_of(key), institution=self.institution), FRESH_SECONDS

    async def grant(self, key_id: int, secret: str, scopes: frozenset[Scope] | None, seconds: int) -> Grant | None:
        """Return an access token for those of the scopes that the key has, or for all; None if the key is not valid.

        No table has the token: it is signed with the stored hash of the secret, so that it ends with the secret.

        Raises:
            Unavailable: as ``find``.
        """
        given = hash_of(secret)
        found = await self._match(key_id, lambda stored: hmac.compare_digest(given, stored))
        if found is None:
            return None
        key, stored = found
        granted = scopes_of(key) & TOKEN_SCOPES.keys() & (TOKEN_SCOPES.keys() if scopes is None else scopes)
        letters = "".join(sorted(TOKEN_SCOPES[scope] for scope in granted))
        claims = token_claims(key_id, self.institution, int(time()) + seconds, letters)
        return Grant(f"{claims}_{signature_of(claims, stored)}", granted, seconds)

    async def find_token(self, match: re.Match[str]) -> tuple[Caller, float] | None:
        """Return the caller that an access token stands for, as ``find`` does for a key; ``match`` is that of ``TOKEN``."""
        claims, _, key_id, expires, letters, signature = match.groups()
        left = int(expires) - time()
        if left <= 0:
            return None
        found = await self._match(
            int(key_id), lambda stored: hmac.compare_digest(signature_of(claims, stored), signature)
        )
        if found is None:
            return None
        key, _ = found
        scopes = scopes_of(key) & with_included([scope for scope, letter in TOKEN_SCOPES.items() if letter in letters])
        return Caller(key.name, scopes, institution=self.institution), min(left, FRESH_SECONDS)

    async def _match(self, key_id: int, matches: Callable[[bytes], bool]) -> tuple[ApiKey, bytes] | None:
        """Return the key with an id and the stored hash that matches; None if the key is not valid.

        Raises:
            Unavailable: as ``find``.
        """
        if not self.known or (key_id not in self._keys and monotonic() - self._loaded_at >= LOOK_AGAIN_SECONDS):
            await self.load()
        key = self._keys.get(key_id)
        now = datetime.now(UTC)
        # Each kind of wrong key takes the same comparisons.
        current = matches(key.secret_hash if key else NO_HASH)
        previous = matches((key.previous_hash if key else None) or NO_HASH)
        if key is None or key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
            return None
        if not current and not (previous and key.previous_until is not None and now < key.previous_until):
            return None
        self._used.add(key_id)
        return key, key.secret_hash if current else key.previous_hash or NO_HASH

    def forget(self) -> None:
        """Load the keys again before the next answer."""
        self._loaded_at = -FRESH_SECONDS

    async def load(self) -> None:
        """Load the keys; callers at the same time share one statement.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        # A caller that disconnects must not cancel the others' load.
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        try:
            async with self._database.reading() as connection:
                keys = await list_api_keys(connection, 0, MAX_KEYS)
            self._keys = {key.id: key for key in keys}
            self._loaded_at = monotonic()
        finally:
            self._loading = None

    async def note_use(self) -> None:
        """Write down which keys have been used since the last time."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            async with self._database.writing() as connection:
                await note_used_api_keys(connection, sorted(used))
        except DomainError as error:
            logger.warning("the use of API keys was not noted", extra={"reason": str(error)})
