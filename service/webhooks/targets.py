"""Where deliveries may go: to public addresses over https, and to the hosts that an operator lists (WEBHOOK_HOSTS).

A URL is checked when it is saved, which helps its author. The address is checked when a connection is made to it, which protects
the network of the service: whatever a name resolves to at that moment, a socket is only made for an address that is allowed.
"""

import re
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

from yarl import URL

MAX_URL_CHARACTERS: Final = 2_000
"""What common servers accept in a request line."""

URL_PATTERN: Final = r'^https?://[^\s/?#@\\]+([/?][!-"$-~]*)?$'
"""A host, and printable ASCII without a fragment after it."""

REFUSED_V4: Final = tuple(
    ip_network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
"""Networks that are not public: the special purposes of RFC 6890, the relays of 6to4, multicast and what is reserved."""

PUBLIC_V6: Final = ip_network("2000::/3")
"""The only public addresses of IPv6. Loopback, link-local, unique local, multicast, IPv4-mapped and NAT64 are outside."""

REFUSED_V6: Final = tuple(ip_network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
"""Networks within these that are not public, or lead to any address of IPv4: Teredo, documentation and 6to4."""

NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")
"""A host whose last part is a number: an address of IPv4, perhaps in a form such as 0x7f.1 or 2130706433 (inet_aton)."""


class AddressRefused(OSError):
    """A connection to an address that deliveries may not go to."""

    def __init__(self) -> None:
        # The same text for each address of a name, so that aiohttp raises this error and no summary.
        super().__init__("the address is not public")


class UrlRefused(Exception):
    """A URL that deliveries may not go to; the message says why and what to do."""


def is_public(address: str) -> bool:
    """Return whether deliveries may go to an address."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in REFUSED_V4)
    return parsed in PUBLIC_V6 and not any(parsed in network for network in REFUSED_V6)


def make_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket for an address of ``getaddrinfo``.

    Raises:
        AddressRefused: deliveries may not go there.
    """
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise AddressRefused
    return socket.socket(family, kind, protocol)


def host_of(url: URL) -> str:
    """Return the host of a URL as WEBHOOK_HOSTS lists it."""
    return (url.raw_host or "").lower().removesuffix(".")


def check_url(text: str, hosts: Collection[str]) -> URL:
    """Return a URL to deliver to; ``hosts`` are those that may be private, and may be reached over http.

    Raises:
        UrlRefused: deliveries may not go there.
    """
    try:
        url = URL(text)
        host, port = host_of(url), url.port
    except ValueError:
        host, port = "", None
    if not host or not port or not re.fullmatch(URL_PATTERN, text):
        raise UrlRefused(
            "url must be a URL in ASCII with a host, and without user, password and fragment, such as "
            "https://lms.campus.example/enrollment."
        )
    if host in hosts:
        return url
    if url.scheme != "https":
        raise UrlRefused("url must begin with https://; over http, only the hosts in WEBHOOK_HOSTS can be reached.")
    address = _literal(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and not is_public(str(address))):
        raise UrlRefused(
            "url must lead to a public address: private, loopback, link-local and reserved addresses are refused. An "
            "operator can list the host in WEBHOOK_HOSTS."
        )
    return url


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host is, in whatever form; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    if not NUMBER.fullmatch(host):
        return None
    try:
        return IPv4Address(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        # No name ends with a number (WHATWG URL, "ends in a number"): refuse it as an address that is not public.
        return IPv4Address(0)
