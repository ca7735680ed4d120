"""``python -m service keys``: create, list, rotate and revoke API keys.

The keys are those of an institution; without one, those of the only institution, or, if there are many, of the registry.
"""

from datetime import datetime, timedelta

from service.auth import api_keys
from service.database import Database, write_once
from service.registry import registry_database, settings_of, with_registry
from service.settings import Settings
from service.web.auth import Scope
from sql import Connection
from sql.api_keys import ApiKey, list_api_keys


async def create(
    settings: Settings, institution: str | None, name: str, scopes: list[Scope], expires_at: datetime | None
) -> None:
    """Create a key and print its text."""

    async def work(connection: Connection) -> None:
        key, text = await api_keys.create(connection, name, scopes, expires_at, institution)
        _show(key, text)

    await write_once(await _database(settings, institution), work)


async def rotate(settings: Settings, institution: str | None, key_id: int, overlap: timedelta) -> None:
    """Give a key a new secret and print its text."""

    async def work(connection: Connection) -> None:
        key, text = await api_keys.rotate(connection, key_id, overlap, institution)
        _show(key, text)
        print(f"The secret before it is valid until {key.previous_until:%Y-%m-%dT%H:%M:%SZ}.")

    await write_once(await _database(settings, institution), work)


async def revoke(settings: Settings, institution: str | None, key_id: int) -> None:
    """Revoke a key."""

    async def work(connection: Connection) -> None:
        key = await api_keys.revoke(connection, key_id)
        print(
            f"The key {key.id} ({key.name}) is revoked; running services refuse it within {api_keys.FRESH_SECONDS:g} s."
        )

    await write_once(await _database(settings, institution), work)


async def list_all(settings: Settings, institution: str | None) -> None:
    """Print all keys, without their texts."""

    async def work(connection: Connection) -> None:
        last = 0
        print(f"{'id':>6}  {'name':<24} {'state':<9} {'last used':<17} scopes")
        while page := await list_api_keys(connection, last, 500):
            for key in page:
                used = "never" if key.last_used_at is None else f"{key.last_used_at:%Y-%m-%d %H:%MZ}"
                print(f"{key.id:>6}  {key.name:<24} {_state(key):<9} {used:<17} {' '.join(key.scopes)}")
            last = page[-1].id

    await write_once(await _database(settings, institution), work)


async def _database(settings: Settings, institution: str | None) -> Database:
    """Return the database with the keys of an institution, or of the registry.

    Raises:
        InstitutionNotFound: there is none with this name.
        RegistryMissing: the service has only one.
    """
    if institution is None:
        return Database(settings) if settings.registry_schema is None else registry_database(settings)
    found = await with_registry(settings, lambda registry: registry.get(institution))
    return Database(settings_of(found, settings))


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= datetime.now(key.expires_at.tzinfo):
        return "expired"
    return "valid"


def _show(key: ApiKey, text: str) -> None:
    print(
        f"The key {key.id} ({key.name}) has the scopes {', '.join(key.scopes)}. It is shown only now:\n\n    {text}\n"
    )
