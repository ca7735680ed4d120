"""Which web pages may call the service, and under which host names: protection against pages in a local browser.

These checks do not stop a program, which can send any header. A page in a browser cannot choose these headers.
"""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from multidict import istr

from service.errors import DomainError

SEC_FETCH_SITE: Final = istr("Sec-Fetch-Site")
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
ALLOWED_HEADERS: Final = (
    "Content-Encoding, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-Actor, X-Request-Id"
)
"""Request headers that a page may send in addition to the headers that CORS always allows."""
EXPOSED_HEADERS: Final = "Allow, ETag, Idempotent-Replayed, Link, Location, Retry-After, X-Request-Id"
"""Response headers that a page may read in addition to the headers that CORS always exposes."""
PREFLIGHT_SECONDS: Final = 600
"""How long a browser caches a preflight answer: a change of ``CORS_ORIGINS`` reaches every page within ten minutes."""
MAX_CACHED_HOSTS: Final = 256
"""Maximum number of Host headers whose verdict is cached; callers use only a few."""


class OriginNotAllowed(DomainError):
    """A web page of another origin cannot make changes unless the setting CORS_ORIGINS lists its origin."""

    code, status, title = "origin_not_allowed", 403, "Origin not allowed"

    def __init__(self, origin: str | None) -> None:
        page = f"The web page of {origin}" if origin and origin != "null" else "A web page of another origin"
        super().__init__(f"{page} cannot make changes: add its origin to the setting CORS_ORIGINS to allow it.")


class HostNotAllowed(DomainError):
    """The service does not serve the host that the request names; see the setting ALLOWED_HOSTS."""

    code, status, title = "host_not_allowed", 421, "Host not allowed"

    def __init__(self) -> None:
        super().__init__(
            "The service does not serve the host that the header Host names: "
            "call it as localhost or 127.0.0.1, or add the name to the setting ALLOWED_HOSTS."
        )


class Origins:
    """The origins whose pages may call the service, and the hosts that it serves."""

    def __init__(self, *, bound_to: str, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._hosts = frozenset(hosts)
        self._any_host = not hosts and not is_loopback(bound_to)
        self._origins = frozenset(origins)
        self._serves = lru_cache(maxsize=MAX_CACHED_HOSTS)(self._is_served)

    def check(self, request: web.Request) -> None:
        """Refuse a request of a web page that is not allowed to send it.

        The rules are those of Go's CrossOriginProtection: they use Fetch Metadata
        (https://w3c.github.io/webappsec-fetch-metadata/) and, for browsers without it, the header Origin. A page of the
        same *site* but another origin is refused too: on localhost, all ports are the same site.

        Raises:
            HostNotAllowed: the service does not serve this host. A page can make its own host name resolve to 127.0.0.1
                (DNS rebinding), so that the browser treats the service as part of the page's origin.
            OriginNotAllowed: the request may change data and comes from a page whose origin is not allowed.
        """
        headers = request.headers
        if not self._any_host and not self._serves(headers.get(hdrs.HOST)):
            raise HostNotAllowed
        if request.method in SAFE_METHODS:
            return
        site, origin = headers.get(SEC_FETCH_SITE), headers.get(hdrs.ORIGIN)
        if (site is None and origin is None) or site in {"same-origin", "none"} or origin in self._origins:
            return
        if site is not None or origin is None or origin.partition("://")[2] != headers.get(hdrs.HOST):
            raise OriginNotAllowed(origin)

    def preflight(self, request: web.Request, methods: Collection[str]) -> web.Response | None:
        """Return the answer to a CORS preflight request of an allowed origin; return None for any other request."""
        headers = request.headers
        if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in headers or headers.get(hdrs.ORIGIN) not in self._origins:
            return None
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ALLOWED_HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_SECONDS),
            },
        )

    def add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Let a page of an allowed origin read the response (https://fetch.spec.whatwg.org/#cors-protocol)."""
        if not self._origins:
            return
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self._origins:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS

    def _is_served(self, host: str | None) -> bool:
        # HTTP/1.0 has no Host header; browsers do not use HTTP/1.0.
        if host is None:
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
        except ValueError:
            return False
        return is_loopback(name) or name in self._hosts


def is_loopback(host: str) -> bool:
    """Return whether a host name or address refers to this machine, without a DNS query."""
    # Browsers resolve every name below localhost to loopback themselves (RFC 6761 section 6.3).
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
