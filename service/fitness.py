"""Check that a database server gives the guarantees that the service depends on."""

from typing import Final

from service.errors import OperatorError
from sql.server import Server

MIN_VERSION: Final = 15
STANDBY: Final = "The database is a standby and accepts no changes: connect to the primary."


class UnfitDatabase(OperatorError):
    """The database can be reached, but the service can't use it; a retry does not help."""


class NotMigrated(UnfitDatabase):
    """The database has no schema of the service."""

    def __init__(self) -> None:
        super().__init__("The database is not migrated: run `python -m service migrate` first.")


def check_fitness(server: Server) -> None:
    """Raise an error if the server could lose a confirmed change or garble a name.

    Raises:
        UnfitDatabase: the server is too old, confirms what it has not written to disk, or its encoding is not UTF-8.
    """
    if server.version < MIN_VERSION:
        raise UnfitDatabase(f"The service needs PostgreSQL {MIN_VERSION} or newer, not PostgreSQL {server.version}.")
    if server.synchronous_commit not in {"on", "remote_apply"}:
        raise UnfitDatabase(
            f"synchronous_commit is {server.synchronous_commit}: an enrollment could be lost after it was confirmed. "
            "Set it to on for this server, database and role."
        )
    for name, value in (("fsync", server.fsync), ("full_page_writes", server.full_page_writes)):
        if value != "on":
            raise UnfitDatabase(
                f"{name} is {value}: a crash of the machine could destroy the database. Set it to on for this server."
            )
    if server.encoding != "UTF8":
        raise UnfitDatabase(f"The encoding of the database is {server.encoding}; the service needs UTF8.")
