"""Clients of OneRoster that others have made, or generated from the official document, read everything."""

import asyncio
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.oneroster.operations import OPERATIONS
from tests.conftest import Client
from tests.roster import V1P1, V1P2, new_roster, official_document
from tests.test_oneroster import paths_of


async def test_a_client_generated_from_the_official_document_reads_everything(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = official_document()
    config = tmp_path / "config.yml"
    config.write_text("post_hooks: []\n")
    command: list[str | Path] = [
        *(sys.executable, "-m", "openapi_python_client", "generate", "--path", document, "--config", config),
        *("--output-path", tmp_path / "official_client", "--meta", "none"),
    ]
    await asyncio.to_thread(lambda: subprocess.run(command, check=True, capture_output=True))
    monkeypatch.syspath_prepend(tmp_path)
    roster = await new_roster(client)
    base = f"{str(client.make_url('/'))[:-1]}{V1P2}"

    def read_everything() -> dict[str, Any]:
        made = importlib.import_module("official_client").Client(base_url=base, raise_on_unexpected_status=True)
        modules = {path.stem: path for path in (tmp_path / "official_client" / "api").rglob("*.py")}
        found = {}
        for operation in OPERATIONS:
            module = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation.id).lower()
            name = ".".join(modules[module].relative_to(tmp_path).with_suffix("").parts)
            path = paths_of(roster)[operation.id]
            given = [
                text for text, shape in zip(path.split("/"), operation.path.split("/"), strict=True) if "{" in shape
            ]
            found[operation.id] = importlib.import_module(name).sync_detailed(*given, client=made).parsed.to_dict()
        made.get_httpx_client().close()
        return found

    found = await asyncio.to_thread(read_everything)
    assert found.keys() == {operation.id for operation in OPERATIONS}
    assert all(body[operation.member] for operation in OPERATIONS for body in [found[operation.id]])
    assert len(found["getAllUsers"]["users"]) == 7
    assert found["getUser"]["user"]["sourcedId"] == "teacher-2"


async def test_the_client_of_strongmind_reads_everything_of_1_1(client: Client) -> None:
    package = pytest.importorskip("oneroster_client", reason="needs strongmind-oneroster-client")
    roster = await new_roster(client)

    def read_everything() -> dict[str, Any]:
        settings = package.Configuration()
        settings.host = f"{str(client.make_url('/'))[:-1]}{V1P1}"
        made = package.ApiClient(settings)
        apis = [getattr(package, name)(made) for name in dir(package) if name.endswith("ManagementApi")]
        found = {}
        for operation in OPERATIONS:
            # The client has the names of 1.1: getUsers for getAllUsers.
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation.id.replace("getAll", "get")).lower()
            path = paths_of(roster)[operation.id]
            given = [
                text for text, shape in zip(path.split("/"), operation.path.split("/"), strict=True) if "{" in shape
            ]
            [api] = [each for each in apis if hasattr(each, name)] or [None]
            if api is not None:
                found[operation.id] = getattr(api, name)(*given).to_dict()
        made.rest_client.pool_manager.clear()
        return found

    found = await asyncio.to_thread(read_everything)
    assert len(found) >= 36, {operation.id for operation in OPERATIONS} - found.keys()
    assert len(found["getAllUsers"]["users"]) == 7
    assert found["getUser"]["user"]["role"] == "teacher"
    assert found["getClassesForTeacher"]["classes"][0]["class_code"] == "CS1-A"
