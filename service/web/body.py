"""Read the body of a request within limits on its time, size, decompressed size and number of members."""

import asyncio
import json
import zlib
from codecs import BOM_UTF8
from typing import Any, Final

from aiohttp import web

from service.errors import Detail
from service.web.problems import (
    BadJson,
    BodyTooLarge,
    BodyTooSlow,
    UnsupportedContentCoding,
    UnsupportedMediaType,
    invalid,
)

BODY_TIMEOUT = web.AppKey("body_timeout", float)
"""Seconds within which a body must arrive."""

BODY_MEMBERS = web.AppKey("body_members", int)
"""Maximum number of members in all objects of a body together."""

BULK_MEMBERS = web.AppKey("bulk_members", int)
"""The same for a body with many resources."""

CODINGS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Supported content codings (RFC 9110 section 8.4.1), each with its windowBits parameter of zlib."""


async def read_json(request: web.Request, media_types: tuple[str, ...], limit: web.AppKey[int]) -> bytes:
    """Return the bytes of a body that is declared as JSON, decompressed and without a byte order mark.

    ``limit`` is the key of the maximum number of members.

    Raises:
        UnsupportedMediaType: the body is declared as another media type or charset.
        UnsupportedContentCoding: the body is compressed with a coding other than gzip and deflate.
        BodyTooSlow, BodyTooLarge: the body exceeds a limit.
        BadJson: the body is incomplete, or its bytes do not match its Content-Encoding.
        Invalid: the body has more members than any valid body.
    """
    # Most callers send exactly this header, which needs no parsing.
    if request.headers.get("Content-Type") != "application/json" and (
        request.content_type not in media_types or (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}
    ):
        raise UnsupportedMediaType(f"Send the body as {media_types[0]} in UTF-8.")
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding != "identity" and coding not in CODINGS:
        raise UnsupportedContentCoding("Send the body uncompressed, or compressed with gzip or deflate.")
    data = await _read(request)
    if coding != "identity":
        data = _decompress(data, coding, request.client_max_size)
    data = data.removeprefix(BOM_UTF8)
    members = request.app[limit]
    # Each member needs a colon, so that the count of colons is an upper bound. Listing an unknown member takes time.
    if len(data) > members and data.count(b":") > members:
        sentence = f"The body must have at most {members:,} members in all its objects."
        raise invalid([Detail("too_many_members", sentence, pointer="#")])
    return data


def check_members(data: bytes, parsed: Any) -> None:
    """Refuse JSON in which an object has a member twice: parsers silently use the last of them.

    ``parsed`` is the model or TypedDict of the body, or None if the body is invalid. Each member has a colon, so a
    flat object with as many colons as members has no duplicates; this check is enough for most bodies.

    Raises:
        BadJson: an object has a member twice.
    """
    members = parsed if parsed is None or isinstance(parsed, dict) else parsed.model_fields_set
    if members is None or data.count(b":") > len(members):
        json.loads(data, object_pairs_hook=_check_names, parse_int=str, parse_float=str)


def _check_names(members: list[tuple[str, object]]) -> None:
    names = set()
    for name, _ in members:
        if name in names:
            raise BadJson(f'The body has the member "{name}" twice in one object: send it once.')
        names.add(name)


async def _read(request: web.Request) -> bytes:
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(request.app[BODY_TIMEOUT]):
            return await request.read()
    except TimeoutError as error:
        raise BodyTooSlow("The body did not arrive in time.") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(request.client_max_size) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        # Without this the server tries to read the rest of the body, and logs an error.
        request.content.feed_eof()
        raise BadJson("The body is incomplete: the connection broke, or its length is wrong.") from error


def _decompress(data: bytes, coding: str, limit: int) -> bytes:
    """Decompress a body; stop as soon as the result exceeds ``limit`` bytes."""
    window = CODINGS[coding]
    if coding == "deflate" and data and data[0] & 0x0F != zlib.DEFLATED:
        # Some callers send deflate without the zlib header around it.
        window = -zlib.MAX_WBITS
    decompressor = zlib.decompressobj(window)
    try:
        decompressed = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise BadJson(f"The body is not valid {coding}, which Content-Encoding declares.") from error
    if len(decompressed) > limit:
        raise _too_large(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise BadJson(f"The body must be one complete {coding} stream, with no bytes after it.")
    return decompressed


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body must not exceed {limit:,} bytes, compressed or not.")
