"""Signatures of Standard Webhooks 1.0.0 (https://www.standardwebhooks.com), with which a receiver verifies a delivery."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sql.webhooks import Webhook

PREFIX: Final = "whsec_"
"""Marks a text as a secret of a webhook, for people and for programs that look for leaked secrets."""

SECRET_BYTES: Final = 32
"""As long as the digest; the standard allows 24 to 64."""


def new_secret() -> str:
    """Make a secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secrets_of(webhook: Webhook) -> list[str]:
    """Return the secrets that sign now: the current one, and during a rotation the one before."""
    secrets = [webhook.secret]
    if webhook.previous_secret and webhook.previous_until and webhook.previous_until > datetime.now(UTC):
        secrets.append(webhook.previous_secret)
    return secrets


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a message, which is sent at ``timestamp``, in seconds."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed).decode()}"


def headers_of(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message with a signature by each secret: receivers need any one of them to be theirs."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join([signature(secret, message_id, timestamp, body) for secret in secrets]),
    }
