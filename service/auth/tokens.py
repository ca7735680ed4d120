"""Access tokens: signed JWTs of an identity provider (RFC 9068), and its keys (RFC 7517)."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key
from joserfc.jws import JWSRegistry, extract_compact
from joserfc.jwt import JWTClaimsRegistry

from service.errors import Unavailable
from service.web.auth import SCOPES, Caller, Scope

logger = logging.getLogger(__name__)

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Asymmetric ones only: with a shared secret, whoever can check a token can also make one."""

KEY_TYPES: Final = frozenset({"RSA", "EC", "OKP"})

TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
"""RFC 9068 section 4: an ID token of the same provider, for one, is not an access token."""

LEEWAY_SECONDS: Final = 30
"""Clocks of two machines differ by seconds."""

MAX_CACHE_SECONDS: Final = 60.0
"""A verified token is not verified again for this time, or until it expires."""

REFETCH_SECONDS: Final = 60.0
"""An unknown key id makes a process fetch the keys again, at most this often."""

REFRESH_SECONDS: Final = 600.0
"""How often the keys are fetched without a reason: keys that the provider has withdrawn are then forgotten."""

FETCH_SECONDS: Final = 10.0
"""Longest time that the provider may take to answer."""

RETRY_SECONDS: Final = 5.0
"""Pause between attempts while there are no keys at all."""

WAIT_SECONDS: Final = 2.0
"""Longest time that a request waits for the keys to be fetched."""

MAX_KEY_SET_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
MAX_SUBJECT: Final = 200
"""As long as an actor in events may be."""


class UnusableKeySet(Exception):
    """What the provider sent is not a set of keys."""


class ProviderKeys:
    """The public keys of an identity provider, fetched in the background and kept while the provider is down."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, Key] = {}
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._fetched = asyncio.Condition()
        self._asked_at = -REFETCH_SECONDS

    async def get(self, kid: str) -> Key | None:
        """Return the key with an id. An unknown id makes the background task fetch the keys again.

        Raises:
            Unavailable: the keys were never fetched.
        """
        if kid not in self._keys and not self._wanted.is_set() and monotonic() - self._asked_at >= REFETCH_SECONDS:
            self._asked_at = monotonic()
            self._wanted.set()
        if kid not in self._keys and self._wanted.is_set():
            # The provider may have begun to sign with a new key, so callers meanwhile wait for it too.
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS), self._fetched:
                    await self._fetched.wait()
        if not self._keys:
            raise Unavailable("The keys of the identity provider have not been fetched yet.", 5)
        return self._keys.get(kid)

    async def keep_fresh(self) -> None:
        """Fetch the keys now, then every ``REFRESH_SECONDS``, and when an unknown key id asks for it."""
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                self._wanted.set()
                try:
                    self._keys = await self._fetch(session)
                except (aiohttp.ClientError, OSError, TimeoutError, UnusableKeySet) as error:
                    extra = {"error": type(error).__name__, "reason": str(error)}
                    logger.warning("the keys of the identity provider could not be fetched", extra=extra)
                self._wanted.clear()
                async with self._fetched:
                    self._fetched.notify_all()
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_SECONDS if self._keys else RETRY_SECONDS):
                        await self._wanted.wait()

    async def _fetch(self, session: aiohttp.ClientSession) -> dict[str, Key]:
        headers = {"Accept": "application/jwk-set+json, application/json"}
        async with session.get(self._url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise UnusableKeySet(f"the answer has status {response.status}")
            body = await response.content.read(MAX_KEY_SET_BYTES + 1)
            while len(body) <= MAX_KEY_SET_BYTES and (more := await response.content.read(MAX_KEY_SET_BYTES)):
                body += more
        if len(body) > MAX_KEY_SET_BYTES:
            raise UnusableKeySet(f"the answer is larger than {MAX_KEY_SET_BYTES:,} bytes")
        return keys_of(body)


def keys_of(body: bytes) -> dict[str, Key]:
    """Read a set of keys; keep those that can verify a signature.

    Raises:
        UnusableKeySet: it has none, or too many keys.
    """
    try:
        listed = json.loads(body)["keys"]
        assert isinstance(listed, list)
    except (ValueError, TypeError, KeyError, AssertionError, RecursionError) as error:
        raise UnusableKeySet("the answer is not a JSON Web Key Set") from error
    if len(listed) > MAX_KEYS:
        raise UnusableKeySet(f"the set has more than {MAX_KEYS} keys")
    keys: dict[str, Key] = {}
    for each in listed:
        if not isinstance(each, dict) or not isinstance(each.get("kid"), str):
            continue
        if each.get("kty") not in KEY_TYPES or each.get("use", "sig") != "sig":
            continue
        try:
            key = JWKRegistry.import_key(each)
        except (JoseError, ValueError, TypeError):
            # One key of a kind that is not known here must not take the others with it (RFC 7517 section 5).
            continue
        keys[each["kid"]] = key
    if not keys:
        raise UnusableKeySet("the set has no key that verifies a signature of an allowed algorithm")
    return keys


class Tokens:
    """Verifies access tokens of one issuer."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: ProviderKeys,
        institution_claim: str | None,
        student_claim: str | None,
        find_student: Callable[[str | None, str], Awaitable[int | None]],
    ) -> None:
        """``find_student`` returns the id of the student of an institution with an external id.

        The two are the values of ``institution_claim``, which is None if the service has one institution, and
        ``student_claim``.
        """
        self._keys = keys
        self._institution_claim = institution_claim
        self._student_claim = student_claim
        self._find_student = find_student
        # Header parameters that are not known are ignored (RFC 7515 section 4), among them those that name another key.
        self._registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        self._claims = JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
        )

    async def find(self, text: str) -> tuple[Caller, float] | None:
        """Return the caller that a token stands for, and for how many seconds to rely on that; None if it is not valid.

        Raises:
            Unavailable: the keys of the provider, or the database, cannot be reached.
        """
        try:
            header = extract_compact(text.encode()).headers()
        except (JoseError, ValueError, TypeError, RecursionError):
            return None
        kid, type_ = header.get("kid"), header.get("typ")
        if header.get("alg") not in ALGORITHMS or not isinstance(type_, str) or type_.lower() not in TYPES:
            return None
        if not isinstance(kid, str) or (key := await self._keys.get(kid)) is None:
            return None
        try:
            claims = jwt.decode(text, key, registry=self._registry).claims
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError, RecursionError):
            return None
        caller = await self._caller(claims)
        if caller is None:
            return None
        return caller, min(MAX_CACHE_SECONDS, claims["exp"] + LEEWAY_SECONDS - time.time())

    async def _caller(self, claims: dict[str, Any]) -> Caller | None:
        subject, given = claims["sub"], claims.get("scope", "")
        if not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable() or not isinstance(given, str):
            return None
        scopes: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope in given.split())
        institution = None
        if self._institution_claim is not None:
            institution = claims.get(self._institution_claim)
            if not isinstance(institution, str) or not institution:
                return None
        student_id = None
        if "self" in scopes and self._student_claim is not None:
            external_id = claims.get(self._student_claim)
            if isinstance(external_id, str) and external_id:
                student_id = await self._find_student(institution, external_id)
        return Caller(subject, scopes, student_id, institution)
