"""Choose the form of an answer by what its caller accepts: pages or messages, compressed or not."""

import asyncio
import gzip
from functools import lru_cache
from typing import Final

from aiohttp import hdrs, web

COMPRESSED_BYTES: Final = 1024
"""Answers above this are compressed. A smaller one fits in one packet anyway."""

LEVEL: Final = 1
"""64 KiB of events take 0.2 ms and shrink to a sixth; level 6 takes three times as long for a seventh less."""

BYTES_IN_LOOP: Final = 65536
"""Longer answers are compressed in a thread, so that other requests do not wait for them."""

CODED: Final = "-gzip"
"""The end of the strong ETag of a compressed answer: its bytes differ from those of the plain one (RFC 9110 section 8.8.3.3)."""


@lru_cache(maxsize=256)
def weights(header: str) -> dict[str, float]:
    """Return the weight of each member of Accept or Accept-Encoding, in lower case (RFC 9110 section 12.4.2)."""
    found: dict[str, float] = {}
    for member in header.lower().split(","):
        name, *parameters = [part.strip() for part in member.split(";")]
        weight = "1"
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = value.strip()
        try:
            found[name] = min(max(float(weight), 0.0), 1.0)
        except ValueError:
            found[name] = 0.0
    return found


def prefers_events(accept: str) -> bool:
    """Return whether a caller names Server-Sent Events, and does not prefer JSON."""
    found = weights(accept)
    json = found.get("application/json", found.get("application/*", found.get("*/*", 0.0)))
    events = found.get("text/event-stream", 0.0)
    return events > 0 and events >= json


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a caller accepts gzip, and does not prefer the plain answer."""
    found = weights(accept_encoding)
    gzipped = found.get("gzip", found.get("x-gzip", found.get("*", 0.0)))
    return gzipped > 0 and gzipped >= found.get("identity", 0.0)


def takes_gzip(request: web.Request, response: web.Response) -> bool:
    """Return whether an answer is long enough to be compressed, and its caller accepts it.

    Only compressed answers have ``Vary``: every caller accepts a plain one, which a cache may keep for all.
    """
    accept_encoding = request.headers.get(hdrs.ACCEPT_ENCODING)
    if accept_encoding is None or not isinstance(response.body, bytes) or len(response.body) <= COMPRESSED_BYTES:
        return False
    return hdrs.CONTENT_ENCODING not in response.headers and accepts_gzip(accept_encoding)


def note_coding(response: web.Response) -> None:
    """Set the headers of a compressed answer, which is also what a 304 stands for. A weak ETag is that of both forms."""
    etag = response.headers.get(hdrs.ETAG)
    if etag is not None and not etag.startswith("W/"):
        response.headers[hdrs.ETAG] = f'{etag[:-1]}{CODED}"'
    response.headers.add(hdrs.VARY, hdrs.ACCEPT_ENCODING)


async def compress(request: web.Request, response: web.Response) -> None:
    """Compress an answer if it is long enough and its caller accepts it; a long one in a thread."""
    if not takes_gzip(request, response):
        return
    body = response.body
    assert isinstance(body, bytes)
    note_coding(response)
    response.headers[hdrs.CONTENT_ENCODING] = "gzip"
    if len(body) <= BYTES_IN_LOOP:
        response.body = gzip.compress(body, LEVEL, mtime=0)
    else:
        response.body = await asyncio.to_thread(gzip.compress, body, LEVEL, mtime=0)
