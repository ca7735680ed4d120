"""Entity tags and preconditions, and the tags by which cursors and entity tags of one institution are worthless in another."""

import re
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from aiohttp import web
from pydantic import BaseModel

from service.errors import Detail, PreconditionFailed
from service.web.negotiation import CODED, note_coding, takes_gzip
from service.web.paging import PAGES
from service.web.problems import invalid

ETags: TypeAlias = frozenset[str] | None
"""The versions that a precondition header names; ``*`` is any version. A weak tag of If-Match keeps its form, such as
``W/"3"``. None without the header."""

HEADERS: Final = {"if_match": "If-Match", "if_none_match": "If-None-Match"}
"""The headers of preconditions, by the names of the parameters of handlers."""

ETAG: Final = re.compile(r'(?:W/)?"[!#-~]*"')


def read_etags(request: web.Request, name: str) -> ETags:
    """Read If-Match or If-None-Match: a list of entity tags or ``*`` (RFC 9110 section 13.1).

    If-None-Match compares weakly: a weak tag names the same version as a strong tag. If-Match compares strongly: a weak
    tag keeps its ``W/`` prefix, and therefore equals no version. The tag of a compressed answer names the same version.
    """
    lines = request.headers.getall(HEADERS[name], None)
    if lines is None:
        return None
    text = ", ".join(lines).strip()
    if text == "*":
        return frozenset("*")
    tags = [tag.strip() for tag in text.split(",")]
    if not all(ETAG.fullmatch(tag) for tag in tags):
        sentence = f'{HEADERS[name]} must be a list of entity tags such as "3", or *.'
        raise invalid([Detail("invalid_etag", sentence, parameter=HEADERS[name])])
    if name == "if_none_match":
        tags = [tag.removeprefix("W/") for tag in tags]
    return frozenset(tag if tag.startswith("W/") else tag[1:-1].removesuffix(CODED) for tag in tags)


@lru_cache(maxsize=1024)
def tag_of(institution: str) -> str:
    """Return the tag that cursors and ETags of an institution carry, so that they are worthless in another."""
    return blake2b(institution.encode(), digest_size=4).hexdigest()


def put_on_tags(answer: Any, headers: dict[str, str], tag: str) -> Any:
    """Tag the ETag in ``headers``, and return the answer with its cursor tagged."""
    if "ETag" in headers:
        headers["ETag"] = f'{headers["ETag"][:-1]}.{tag}"'
    if isinstance(answer, PAGES) and answer.next is not None:
        return replace(answer, next=f"{tag}.{answer.next}")
    return answer


def take_off_tags(arguments: dict[str, Any], headers: tuple[str, ...], tag: str) -> None:
    """Take the tags off the cursor and the entity tags of a request; an ETag with another tag equals no version.

    Raises:
        Invalid: the cursor belongs to another institution.
    """
    query = arguments.get("query")
    cursor = getattr(query, "cursor", None)
    if isinstance(query, BaseModel) and cursor is not None:
        own, _, cursor = cursor.partition(".")
        arguments["query"] = query.model_copy(update={"cursor": cursor if own == tag else "another institution's"})
    for name in headers:
        if arguments[name] is not None:
            arguments[name] = frozenset(
                each.removesuffix(f".{tag}")
                if each.endswith(f".{tag}")
                else each
                if each == "*" or each.startswith("W/")
                else f"{each}.{tag}"
                for each in arguments[name]
            )


def conditional(request: web.Request, response: web.Response) -> web.Response:
    """Apply the preconditions of a read to its response (RFC 9110 section 13.2.2)."""
    if "If-Match" not in request.headers and "If-None-Match" not in request.headers:
        return response
    if_match, if_none_match = read_etags(request, "if_match"), read_etags(request, "if_none_match")
    etag = response.headers.get("ETag")
    if if_match is not None:
        # The comparison is strong, and a weak ETag therefore only matches "*".
        strong = {"*"} if etag is None or etag.startswith("W/") else {"*", etag.strip('"')}
        if not if_match & strong:
            has = f"has the ETag {etag}" if etag is not None else "has no ETag"
            raise PreconditionFailed.of_if_match(f"The resource {has}, which If-Match does not name.", if_match)
    found = {"*"} if etag is None else {"*", etag.removeprefix("W/").strip('"')}
    if if_none_match is None or not if_none_match & found:
        return response
    if takes_gzip(request, response):
        note_coding(response)
    kept = {name: response.headers[name] for name in ("ETag", "Vary", "X-Request-Id") if name in response.headers}
    return web.Response(status=304, headers=kept)
