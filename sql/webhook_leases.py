"""Statements about the leases with which one process delivers the webhooks of an institution, and another takes over.

The table is in the schema of the only institution, under an empty name, or in that of the registry. The times are those of the
server, whatever clock an institution has.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sql import Connection


@dataclass(frozen=True, slots=True)
class WebhookLease:
    """An institution with webhooks, and the process that delivers them.

    ``is_free`` says that no process does, or that its lease has expired. ``is_settled`` says that no change of a webhook is
    under way: the last one began longer ago than any transaction takes.
    """

    institution: str
    revision: int
    holder: UUID | None
    is_free: bool
    is_settled: bool


NOTE_WEBHOOK_CHANGE: Final = """
INSERT INTO webhook_leases (institution, revision, changed_at)
VALUES ($1::text, 1, statement_timestamp())
ON CONFLICT (institution) DO UPDATE
SET
    revision = webhook_leases.revision + 1,
    changed_at = excluded.changed_at
"""


async def note_webhook_change(connection: Connection, institution: str) -> None:
    """Note that the webhooks of an institution change, so that the process that delivers them looks at them."""
    await connection.execute(NOTE_WEBHOOK_CHANGE, institution)


LIST_WEBHOOK_LEASES: Final = """
SELECT
    institution,
    revision,
    holder,
    coalesce(expires_at < statement_timestamp(), true) AS is_free,
    changed_at < statement_timestamp() - $1::interval AS is_settled
FROM webhook_leases
ORDER BY institution
LIMIT $2::bigint
"""


async def list_webhook_leases(connection: Connection, settling: timedelta, limit: int) -> list[WebhookLease]:
    """Return the institutions with webhooks; ``settling`` is how long a change may take."""
    return [WebhookLease(*row) for row in await connection.fetch(LIST_WEBHOOK_LEASES, settling, limit)]


CLAIM_WEBHOOK_LEASES: Final = """
UPDATE webhook_leases
SET
    holder = $1::uuid,
    expires_at = statement_timestamp() + $2::interval
WHERE institution = ANY($3::text[])
    AND (holder = $1 OR expires_at IS NULL OR expires_at < statement_timestamp())
RETURNING institution
"""


async def claim_webhook_leases(
    connection: Connection, holder: UUID, seconds: timedelta, institutions: list[str]
) -> list[str]:
    """Claim or renew the leases of institutions; return those that the process holds now."""
    rows = await connection.fetch(CLAIM_WEBHOOK_LEASES, holder, seconds, institutions)
    return [row["institution"] for row in rows]


RELEASE_WEBHOOK_LEASES: Final = """
UPDATE webhook_leases
SET
    holder = NULL,
    expires_at = NULL
WHERE holder = $1::uuid
    AND institution = ANY($2::text[])
"""


async def release_webhook_leases(connection: Connection, holder: UUID, institutions: list[str]) -> None:
    """Release leases of a process, so that another one can take over at once."""
    await connection.execute(RELEASE_WEBHOOK_LEASES, holder, institutions)


DELETE_WEBHOOK_LEASE: Final = """
DELETE FROM webhook_leases
WHERE institution = $1::text
    AND holder = $2::uuid
    AND revision = $3::bigint
"""


async def delete_webhook_lease(connection: Connection, institution: str, holder: UUID, revision: int) -> None:
    """Delete the lease of an institution without webhooks, unless one changes."""
    await connection.execute(DELETE_WEBHOOK_LEASE, institution, holder, revision)
