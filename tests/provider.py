"""An identity provider on loopback: a key set over HTTP, and the access tokens that it signs."""

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc.jwk import ECKey, Key, RSAKey
from joserfc.jws import JWSRegistry

from service.settings import Settings


def encoded(part: bytes) -> str:
    """Encode a part of a token."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


AUDIENCE = "https://enrollment.example"


class Provider:
    """Signs tokens with its newest key, and serves the public half of all of them."""

    def __init__(self) -> None:
        self.keys: list[Key] = [RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})]
        self.fetches = 0
        self.answer: web.Response | None = None
        """What the key set is answered with instead, if anything."""
        self.url = ""

    @property
    def issuer(self) -> str:
        return self.url

    @property
    def keys_url(self) -> str:
        return f"{self.url}/keys"

    def rotate(self, kid: str) -> None:
        """Sign with a new key from now on."""
        self.keys.append(ECKey.generate_key("P-256", {"kid": kid, "use": "sig"}))

    def token(
        self,
        *,
        header: dict[str, Any] | None = None,
        key: Key | None = None,
        without: tuple[str, ...] = (),
        **claims: Any,
    ) -> str:
        """Sign an access token that is valid for five minutes; claims and header parameters as given."""
        key = key or self.keys[-1]
        now = int(time.time())
        payload = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "portal",
            "client_id": "portal",
            "iat": now,
            "exp": now + 300,
            "jti": "t-1",
            "scope": "read",
            **claims,
        }
        for name in without:
            del payload[name]
        algorithm = {"RSA": "RS256", "EC": "ES256", "oct": "HS256", "OKP": "Ed25519"}[key.key_type]
        given = {"alg": algorithm, "typ": "at+jwt", "kid": key.kid or "first", **(header or {})}
        # Signed by hand: the library refuses to make what attackers make.
        text = ".".join(encoded(json.dumps(part).encode()) for part in (given, payload))
        return f"{text}.{encoded(JWSRegistry.algorithms[given['alg']].sign(text.encode(), key))}"

    async def serve(self, request: web.Request) -> web.Response:
        """Answer with the key set."""
        self.fetches += 1
        if self.answer is not None:
            return self.answer
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.keys]})


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Run an identity provider."""
    made = Provider()
    app = web.Application()
    app.router.add_get("/keys", made.serve)
    async with TestServer(app) as server:
        made.url = str(server.make_url("")).rstrip("/")
        yield made


def with_issuer(settings: Settings, issuer: Provider) -> Settings:
    """Return settings with which the service accepts the tokens of a provider."""
    return settings.model_copy(
        update={
            "token_issuer": issuer.issuer,
            "token_audience": AUDIENCE,
            "token_keys_url": issuer.keys_url,
            "token_student_claim": "student_number",
        }
    )
