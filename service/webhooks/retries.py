"""When a delivery is tried again."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

HOUR: Final = 3600.0

DELAYS: Final = (0.0, 5.0, 300.0, 1800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
"""The pause before each attempt, in seconds, after the attempt before it (Standard Webhooks 1.0.0): 75 hours in all."""

JITTER: Final = 0.1
"""A pause is up to so much longer, so that receivers which failed together are not called together."""

MAX_RETRY_SECONDS: Final = 24 * HOUR
"""The longest pause that a receiver can ask for."""


def pause_after(failures: int, retry_after: float | None = None) -> float | None:
    """Return the seconds until the next attempt after some failures in a row; None after the last attempt.

    ``retry_after`` are the seconds that the receiver asks for: it makes a pause longer, not shorter.
    """
    if failures >= len(DELAYS):
        return None
    pause = DELAYS[failures] * (1 + random.random() * JITTER)  # noqa: S311 - nothing depends on its secrecy
    return max(pause, min(retry_after or 0.0, MAX_RETRY_SECONDS))


def read_retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a header Retry-After, which may be an HTTP date (RFC 9110 section 10.2.3); None without one."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
        return max((at - (now or datetime.now(UTC))).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
