"""The compose file: the service starts with them, and it keeps within them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import psycopg
import pytest

from service import grants
from service.__main__ import parse
from service.migrate import MigrationFailed
from service.settings import Settings
from tests.campus import student_fields
from tests.conftest import Server, clone
from tests.test_process import run, serving

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
ROLE = "enrollment_service"


@pytest.fixture
def stack(server: Server, admin: psycopg.Connection[Any]) -> Iterator[dict[str, str]]:
    """Yield the environment of the service in the stack, with its database on the server of the tests."""
    for url in clone(server, admin, "template0"):
        found = dict(re.findall(r"((?:MIGRATION_)?DATABASE_URL): (postgresql://\S+)", COMPOSE))
        assert urlsplit(found["DATABASE_URL"]).username == ROLE
        assert f"POSTGRES_USER: {urlsplit(found['MIGRATION_DATABASE_URL']).username}\n" in COMPOSE
        parts = urlsplit(url)
        service = parts._replace(netloc=f"{ROLE}:it%27s@{parts.netloc.rpartition('@')[2]}")
        try:
            yield {"MIGRATION_DATABASE_URL": url, "DATABASE_URL": urlunsplit(service)}
        finally:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"DROP OWNED BY {ROLE}")
                connection.execute(f"DROP ROLE {ROLE}")


@pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="the server may have a role of this name")
async def test_the_service_starts_with_the_roles_of_the_compose_file(
    stack: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        serving(**stack) as running,
        aiohttp.ClientSession(running.url) as session,
        session.post("/students", json=student_fields()) as answer,
    ):
        assert answer.status == 201
    assert running.errors == []
    with psycopg.connect(stack["MIGRATION_DATABASE_URL"]) as owner:
        assert grants.held(owner, "public", "enrollment_service") == grants.required()
    with psycopg.connect(stack["DATABASE_URL"], autocommit=True) as service:
        for statement in (
            "CREATE TABLE extra (id bigint)",
            "DELETE FROM events",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)

    # A command that needs no more than the service, and one that needs the owner.
    renewed = await run("feed", "renew", DATABASE_URL=stack["DATABASE_URL"])
    assert renewed.status == 0, renewed
    given = parse(["grants", "enrollment_service", "--apply"])
    settings = Settings(database_url=stack["DATABASE_URL"])
    with pytest.raises(MigrationFailed, match="MIGRATION_DATABASE_URL"):
        given.run(settings, given)
    owner_url = {"migration_database_url": stack["MIGRATION_DATABASE_URL"]}
    assert given.run(settings.model_copy(update=owner_url), given) == 0
    capsys.readouterr()
    given = parse(["grants", "enrollment_service"])
    assert given.run(Settings(database_url="postgresql://nobody@127.0.0.1:1/nothing"), given) == 0
    assert capsys.readouterr().out == grants.script("public", "enrollment_service")
