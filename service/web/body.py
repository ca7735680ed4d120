"""Read the body of a request within its limits: time, size, size once unpacked, and number of members."""

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
"""Seconds that a body may take to arrive."""

BODY_MEMBERS = web.AppKey("body_members", int)
"""The most members that all objects of a body may have together."""

CODINGS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""The content codings that are unpacked, with what zlib calls their windowBits (RFC 9110 section 8.4.1)."""


async def read_json(request: web.Request, media_types: tuple[str, ...]) -> bytes:
    """Return the bytes of a body that is declared as JSON, unpacked and without a byte order mark.

    Raises:
        UnsupportedMediaType: it is declared as something else, or in another charset.
        UnsupportedContentCoding: it is compressed in another way than with gzip or deflate.
        BodyTooSlow, BodyTooLarge: a limit is exceeded.
        BadJson: it does not arrive whole, or is not in the coding that it names.
        Invalid: it has more members than any valid body.
    """
    # What most callers send needs no parser of media types.
    if request.headers.get("Content-Type") != "application/json" and (
        request.content_type not in media_types or (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}
    ):
        raise UnsupportedMediaType(f"Send the body as {media_types[0]} in UTF-8.")
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding != "identity" and coding not in CODINGS:
        raise UnsupportedContentCoding("Send the body without Content-Encoding, or in gzip or deflate.")
    data = await _read(request)
    if coding != "identity":
        data = _unpack(data, coding, request.client_max_size)
    data = data.removeprefix(BOM_UTF8)
    members = request.app[BODY_MEMBERS]
    # A colon is needed for each member. Each unknown one is an error that takes time to list.
    if len(data) > members and data.count(b":") > members:
        sentence = f"The body must have at most {members:,} members in all its objects."
        raise invalid([Detail("too_many_members", sentence, pointer="#")])
    return data


def check_members(data: bytes, parsed: Any) -> None:
    """Refuse JSON in which an object has a member twice, of which parsers take the last one.

    ``parsed`` is the model or the TypedDict that was made of it, None where it is not of the documented form. As each member has a colon, a flat object
    with no more colons than members has none twice, and most bodies are that.

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
        # Nothing more can be read: without this the server tries, and logs a fault.
        request.content.feed_eof()
        raise BadJson("The body did not arrive whole.") from error


def _unpack(data: bytes, coding: str, limit: int) -> bytes:
    """Unpack up to ``limit`` bytes, whatever follows them."""
    window = CODINGS[coding]
    if coding == "deflate" and data and data[0] & 0x0F != zlib.DEFLATED:
        # Some callers send deflate without the zlib header around it.
        window = -zlib.MAX_WBITS
    unpacker = zlib.decompressobj(window)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise BadJson(f"The body is not encoded in {coding}, as Content-Encoding says.") from error
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise BadJson(f"The body must be one whole {coding} stream and nothing else.")
    return unpacked


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body must not exceed {limit:,} bytes, compressed or not.")
