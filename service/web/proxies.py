"""The address of a caller, also behind proxies, whose headers are believed only if they are trusted."""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp import web

FORWARDED: Final = "X-Forwarded-For"

MAX_CACHED: Final = 4096
"""Addresses whose headers were read lately: people behind a proxy send several requests."""

MAX_HEADER: Final = 1024
"""Longest X-Forwarded-For that is read: 20 proxies or so. Callers may send more to waste time."""


class Proxies:
    """The proxies in front of the service."""

    def __init__(self, trusted: Collection[IPv4Network | IPv6Network] = ()) -> None:
        self._trusted = tuple(trusted)
        self._find = lru_cache(maxsize=MAX_CACHED)(self._first_untrusted)

    def address_of(self, request: web.BaseRequest) -> str | None:
        """Return the address of the caller; None if the connection has none, or is closed.

        Each proxy appends the address that it sees, so the last one that is not a trusted proxy is the first that
        nobody can invent.
        """
        peer = request.remote
        if not self._trusted or peer is None:
            return peer
        lines = request.headers.getall(FORWARDED, ())
        return self._find(peer, ",".join(lines)[-MAX_HEADER:]) if lines else peer

    def _first_untrusted(self, peer: str, forwarded: str) -> str:
        found = peer
        for text in [peer, *reversed(forwarded.split(","))]:
            address = _address(text.strip())
            if address is None:
                break
            found = str(address)
            if not any(address in network for network in self._trusted):
                break
        return found


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, of which some proxies also send the port; None if the text is no address.

    A zone, as in ``fe80::1%eth0``, may contain any characters, and is not accepted.
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if "%" in text:
        return None
    return getattr(address, "ipv4_mapped", None) or address
