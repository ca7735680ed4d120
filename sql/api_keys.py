"""Statements about API keys: what lets a program call the service. The registry has such a table too, for operators."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sql import Connection


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key. Of its secret only the SHA-256 hash is kept; the previous secret is valid until ``previous_until``."""

    id: int
    name: str
    scopes: list[str]
    secret_hash: bytes
    previous_hash: bytes | None
    previous_until: datetime | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


LIST_API_KEYS: Final = """
SELECT
    id, name, scopes, secret_hash, previous_hash, previous_until, created_at, expires_at, revoked_at, last_used_at
FROM api_keys
WHERE id > $1::bigint
ORDER BY id
LIMIT $2::bigint
"""


async def list_api_keys(connection: Connection, after_id: int, limit: int) -> list[ApiKey]:
    """Read a page of API keys by id, including those that are expired or revoked."""
    return [ApiKey(*row) for row in await connection.fetch(LIST_API_KEYS, after_id, limit)]


CREATE_API_KEY: Final = """
INSERT INTO api_keys (name, scopes, secret_hash, created_at, expires_at)
VALUES ($1::text, $2::text[], $3::bytea, statement_timestamp(), $4::timestamptz)
RETURNING
    id, name, scopes, secret_hash, previous_hash, previous_until, created_at, expires_at, revoked_at, last_used_at
"""


async def create_api_key(
    connection: Connection, name: str, scopes: list[str], secret_hash: bytes, expires_at: datetime | None
) -> ApiKey:
    """Insert an API key.

    Raises:
        UniqueViolationError: another key has this name.
    """
    row = await connection.fetchrow(CREATE_API_KEY, name, scopes, secret_hash, expires_at)
    assert row is not None
    return ApiKey(*row)


ROTATE_API_KEY: Final = """
UPDATE api_keys
SET
    secret_hash = $2::bytea,
    previous_hash = secret_hash,
    previous_until = statement_timestamp() + $3::interval
WHERE id = $1::bigint
RETURNING
    id, name, scopes, secret_hash, previous_hash, previous_until, created_at, expires_at, revoked_at, last_used_at
"""


async def rotate_api_key(connection: Connection, id: int, secret_hash: bytes, overlap: timedelta) -> ApiKey | None:
    """Give a key a new secret; the one before stays valid for ``overlap``. None without such a key."""
    row = await connection.fetchrow(ROTATE_API_KEY, id, secret_hash, overlap)
    return None if row is None else ApiKey(*row)


REVOKE_API_KEY: Final = """
UPDATE api_keys
SET revoked_at = coalesce(revoked_at, $2::timestamptz)
WHERE id = $1::bigint
RETURNING
    id, name, scopes, secret_hash, previous_hash, previous_until, created_at, expires_at, revoked_at, last_used_at
"""


async def revoke_api_key(connection: Connection, id: int, now: datetime) -> ApiKey | None:
    """Revoke a key; to repeat it changes nothing. None without such a key."""
    row = await connection.fetchrow(REVOKE_API_KEY, id, now)
    return None if row is None else ApiKey(*row)


NOTE_USED_API_KEYS: Final = """
UPDATE api_keys
SET last_used_at = statement_timestamp()
WHERE id = ANY($1::bigint[])
"""


async def note_used_api_keys(connection: Connection, ids: list[int]) -> None:
    """Note that keys have been used."""
    await connection.execute(NOTE_USED_API_KEYS, ids)
