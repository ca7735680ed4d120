"""``python -m service reset``: empty the database of an institution between two tests."""

import asyncio

from service.errors import OperatorError
from service.migrate import empty_schema
from service.registry import settings_for
from service.settings import Settings


class ResetForbidden(OperatorError):
    """The settings do not allow to delete all data."""

    def __init__(self) -> None:
        super().__init__(
            "A reset deletes all data of the institution, so it needs ALLOW_RESET=true: set it only where the data are for "
            "tests. Nothing was deleted."
        )


async def reset(settings: Settings, institution: str | None) -> None:
    """Delete all data of an institution except its API keys, and begin a new epoch of its feed.

    Raises:
        ResetForbidden: ``allow_reset`` is not set.
        DomainError: as ``settings_for``.
        DatabaseUnavailable, UnfitDatabase: as ``empty_schema``.
    """
    if not settings.allow_reset:
        raise ResetForbidden
    settings = await settings_for(settings, institution)
    assert settings.owner_url is not None
    await asyncio.to_thread(empty_schema, settings.owner_url, settings.database_schema)
    print(
        f"The schema {settings.database_schema} is empty; its API keys are kept. Ids start at 1 again, and earlier cursors "
        "are invalid."
    )
