"""The access tokens of OneRoster: OAuth 2.0 client credentials (RFC 6749 section 4.4)."""

import base64
import binascii
from typing import Final
from urllib.parse import unquote_plus

from aiohttp import hdrs, web

from service.api.keys import AUTHENTICATOR
from service.errors import DomainError
from service.oneroster.objects import Version
from service.web.auth import InvalidClient, Scope
from service.web.body import MAX_FORM_FIELDS, read_form
from service.web.endpoint import Call, endpoint
from service.web.problems import write_json

SCOPE_NAMES: Final[dict[str, Scope]] = {"roster.readonly": "roster", "roster-core.readonly": "roster_core"}
"""The scopes of OneRoster that allow what one of ours does. A token is valid for both versions."""

SCOPE_BASES: Final[dict[Version, str]] = {
    version: f"purl.imsglobal.org/spec/or/{version}/scope/" for version in ("v1p2", "v1p1")
}

SCOPES: Final[dict[str, Scope]] = {
    f"{scheme}://{base}{name}": scope
    for scheme in ("https", "http")
    for base in SCOPE_BASES.values()
    for name, scope in SCOPE_NAMES.items()
}
"""Our scope for each scope that a client may ask for."""


class TokenRefused(DomainError):
    """A request for an access token is refused."""

    status, title = 400, "Token refused"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


async def _create_token(call: Call) -> web.Response:
    """Return an access token for an API key with the scope ``roster`` or ``roster_core``."""
    try:
        form = await read_form(call.request)
    except ValueError as error:
        sentence = f"The body must be a form in UTF-8 with at most {MAX_FORM_FIELDS} fields."
        raise TokenRefused("invalid_request", sentence) from error
    if form.get("grant_type") != "client_credentials":
        code = "unsupported_grant_type" if "grant_type" in form else "invalid_request"
        raise TokenRefused(code, "grant_type must be client_credentials.")
    client_id, secret = _client_of(call.request.headers.get(hdrs.AUTHORIZATION), form)
    requested = form.get("scope", "").split()
    wanted = frozenset(SCOPES[name] for name in requested if name in SCOPES) if requested else None
    grant = await call[AUTHENTICATOR].grant(client_id, secret, wanted)
    if not grant.scopes:
        raise TokenRefused(
            "invalid_scope",
            "The API key has none of the requested scopes: ask for "
            f"https://{SCOPE_BASES['v1p2']}roster.readonly, or for no scope, with a key that has the scope roster.",
        )
    names = requested or [name for name in SCOPES if name.startswith("https:")]
    body = {
        "access_token": grant.token,
        "token_type": "Bearer",
        "expires_in": grant.seconds,
        "scope": " ".join(dict.fromkeys(name for name in names if SCOPES.get(name) in grant.scopes)),
    }
    headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
    return web.Response(body=write_json(body), headers=headers, content_type="application/json")


create_token = endpoint("POST", "/oauth/token", scope="public", within="process", parses=False)(_create_token)


def _client_of(header: str | None, form: dict[str, str]) -> tuple[str, str]:
    """Return the id and the secret of the client, from the header or else from the form.

    Some clients encode them as in a form first (RFC 6749 section 2.3.1), and others don't; neither has a character for
    which that makes a difference.

    Raises:
        InvalidClient: the header is not one of HTTP Basic authentication.
        TokenRefused: there is neither.
    """
    if header is None:
        if "client_id" not in form or "client_secret" not in form:
            raise TokenRefused(
                "invalid_request",
                "Send the id and the secret of the client by HTTP Basic, or as client_id and client_secret.",
            )
        return form["client_id"], form["client_secret"]
    scheme, _, credentials = header.partition(" ")
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if scheme.lower() != "basic" or ":" not in text:
        raise InvalidClient
    client_id, _, secret = text.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)
