"""``python -m service institutions``: create, list, suspend, resume, move and drop institutions."""

import asyncio
from collections.abc import Sequence

from service.errors import InstitutionNotSuspended
from service.migrate import MigrationFailed
from service.registry import SETTLE_SECONDS, WITHOUT_SCHEMA, Registry, is_behind, with_registry
from service.settings import Settings
from service.terminal import show_progress
from sql.registry import Institution


async def create(
    settings: Settings, name: str, display_name: str | None, time_zone: str | None, schema: str | None
) -> None:
    """Create an institution, or continue a creation that was interrupted."""

    async def work(registry: Registry) -> Institution:
        return await registry.create(name, display_name or name, time_zone or settings.time_zone, schema)

    created = await with_registry(settings, work)
    print(
        f"The institution {name} is in the schema {created.schema_name}. Create a key for it:\n\n"
        f"    python -m service keys create --institution {name} --name NAME --scope read …\n"
    )


async def list_all(settings: Settings) -> None:
    """Print all institutions."""

    async def work(registry: Registry) -> None:
        print(f"{'name':<32} {'state':<10} {'migration':<28} {'schema':<40} time zone")
        async for each in registry.walk():
            migration = f"{each.migration or 'none'}{' (behind)' if is_behind(each) else ''}"
            print(f"{each.name:<32} {each.state:<10} {migration:<28} {each.schema_name:<40} {each.time_zone}")

    await with_registry(settings, work)


async def list_schemas(settings: Settings) -> list[str]:
    """Return the schemas of all institutions; read them as the owner, since the service may not have its privileges yet."""

    async def work(registry: Registry) -> list[str]:
        await registry.refresh()
        return [each.schema_name for each in registry.institutions.values() if each.state not in WITHOUT_SCHEMA]

    return await with_registry(settings.model_copy(update={"database_url": settings.owner_url}), work)


async def set_state(settings: Settings, name: str, state: str) -> None:
    """Change the state of an institution."""
    await with_registry(settings, lambda registry: registry.change(name, state=state))
    print(f"The institution {name} is {state}; running services notice within {settings.registry_interval:g} s.")


async def move(settings: Settings, name: str, host: str, port: int) -> None:
    """Move an institution to another node of a Citus, and print when it is there."""
    await with_registry(settings, lambda registry: registry.move(name, host, port))
    print(f"The institution {name} is on {host}:{port}.")


async def drop(settings: Settings, name: str) -> None:
    """Suspend an institution, wait until no process serves it, and delete it with all its data."""

    async def work(registry: Registry) -> None:
        if (await registry.get(name)).state not in {"suspended", "dropping"}:
            await registry.change(name, state="suspended")
        try:
            await registry.drop(name)
        except InstitutionNotSuspended:
            await asyncio.sleep(SETTLE_SECONDS)
            await registry.drop(name)

    await with_registry(settings, work)
    print(f"The institution {name} and its schema are dropped.")


async def migrate_all(settings: Settings) -> None:
    """Migrate the registry and every institution, and print progress on a terminal.

    Raises:
        MigrationFailed: an institution could not be migrated; the log says why.
    """

    def done(institution: Institution, count: int, of: int) -> None:
        show_progress(f"migrated {count} of {of} institutions: {institution.name}")

    failed = await with_registry(settings, lambda registry: registry.migrate_all(done))
    show_progress()
    if failed:
        raise MigrationFailed(f"{failed} institutions could not be migrated; the log says why.")
    print("the registry and every institution are up to date")


async def migrate_all_to(settings: Settings, name: str, *, discard_data: bool) -> None:
    """Make a migration the newest one of every institution, and print what was done.

    Raises: as ``service.migrate.migrate_to``.
    """

    async def work(registry: Registry) -> None:
        async for institution, applied, undone in registry.migrate_to(name, discard_data=discard_data):
            show_migrations(applied, undone, f"institution {institution.name}: ")

    await with_registry(settings, work)


def show_migrations(applied: Sequence[str], undone: Sequence[str], institution: str = "") -> None:
    """Print the names of migrations that were applied or rolled back."""
    for name in undone:
        print(f"{institution}rolled back {name}")
    for name in applied:
        print(f"{institution}applied {name}")
    if not applied and not undone:
        print(f"{institution}nothing to do")
