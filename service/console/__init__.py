"""The console: pages for clerks and support engineers, which call the API from the browser.

They are plain files, without a build step: HTML, CSS and ES modules. Nothing here does what the API can't do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from service.web.endpoint import Call, endpoint
from service.web.problems import NoSuchPath

CONTENT_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Let the pages load and call nothing but this service, and turn no text into HTML or code."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Browsers keep the files and ask whether they have changed, so that a new version never runs beside an old one.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the console."""

    body: bytes
    content_type: str
    etag: str


@cache
def read_files() -> Mapping[str, File]:
    """Return the files of the console by name."""
    found = {}
    for each in (files("service.console") / "files").iterdir():
        body = each.read_bytes()
        content_type = CONTENT_TYPES[each.name.rpartition(".")[2]]
        found[each.name] = File(body, content_type, f'"{blake2b(body, digest_size=12).hexdigest()}"')
    return found


def respond(name: str) -> web.Response:
    """Return a file as a response.

    Raises:
        NoSuchPath: there is no such file.
    """
    file = read_files().get(name)
    if file is None:
        raise NoSuchPath
    headers = {**HEADERS, "ETag": file.etag}
    return web.Response(body=file.body, content_type=file.content_type, charset="utf-8", headers=headers)


@endpoint("GET", "/console", scope="public", needs_database=False, etag=True)
async def show_console(_call: Call) -> web.Response:
    """Show the console."""
    return respond("console.html")


@endpoint("GET", "/console/{name}", scope="public", needs_database=False, etag=True)
async def read_file(_call: Call, name: Annotated[str, Field(description="The name of the file.")]) -> web.Response:
    """Read a file of the console."""
    return respond(name)
