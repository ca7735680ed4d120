"""The header Idempotency-Key, by which a repeated POST gets its first answer (draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from multidict import istr

from service.errors import Detail
from service.web.problems import invalid

IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")
IDEMPOTENT_REPLAYED: Final = istr("Idempotent-Replayed")

KEY_PATTERN: Final = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~]{1,255})$'
"""A string in quotes, as RFC 9651 section 3.3.3 defines it, or the same without quotes, spaces and escapes."""

KEY: Final = re.compile(KEY_PATTERN)
ESCAPED: Final = re.compile(r'\\(["\\])')


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key of a request, and a digest of the request that a repeat must have too."""

    text: str
    fingerprint: bytes


def read_key(request: web.Request) -> str | None:
    """Return the idempotency key of a request, without quotes, or None.

    Raises:
        Invalid: the header is not one key of 1 to 255 printable ASCII characters.
    """
    given = request.headers.get(IDEMPOTENCY_KEY)
    if given is None:
        return None
    if not KEY.fullmatch(given) or len(request.headers.getall(IDEMPOTENCY_KEY)) > 1:
        sentence = 'Idempotency-Key must be one key of 1 to 255 printable ASCII characters, such as "8e03978e-40d5".'
        raise invalid([Detail("invalid_idempotency_key", sentence, parameter="Idempotency-Key")])
    return ESCAPED.sub(r"\1", given[1:-1]) if given.startswith('"') else given


def fingerprint_of(request: web.Request, body: bytes) -> bytes:
    """Return a digest of the path, the query and the body of a request."""
    return hashlib.sha256(b"%b\n%b" % (request.raw_path.encode(errors="surrogateescape"), body)).digest()
