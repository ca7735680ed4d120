"""What a server must guarantee, so that the service can keep its promises."""

from typing import Final

from sql.server import Server

OLDEST: Final = 15
STANDBY: Final = "The database is a standby and takes no changes: connect to the primary."


class UnfitDatabase(Exception):
    """The database can be reached but lacks what the service promises; another try does not help."""


class NotMigrated(UnfitDatabase):
    """The database has no schema of the service."""

    def __init__(self) -> None:
        super().__init__("The database is not migrated: run `python -m service migrate` first.")


def check_fitness(server: Server) -> None:
    """Refuse a server on which a confirmed change can be lost or a name be garbled.

    Raises:
        UnfitDatabase: it is too old, does not write to disk what it confirms, or its encoding is not UTF-8.
    """
    if server.version < OLDEST:
        raise UnfitDatabase(f"The service needs PostgreSQL {OLDEST} or newer; this is PostgreSQL {server.version}.")
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
        raise UnfitDatabase(f"The database's encoding is {server.encoding}; the service needs UTF8.")
