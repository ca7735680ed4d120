"""Programs of others: linters and generated clients of the API document, and an identity provider."""

import asyncio
import hashlib
import json
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from pytest_aiohttp import AiohttpClient

from service.settings import Settings
from tests.campus import call, problem, served, student_fields
from tests.conftest import Client

FILES: Final = Path(__file__).with_name("clients")
NODE_MODULES: Final = FILES / "node_modules"
TYPES: Final = Path(__file__).parents[1] / ".mypy_cache" / "client"
"""The types of the libraries that the generated client imports."""
LOCKS: Final = (FILES / "package-lock.json", Path(__file__).parents[1] / "requirements" / "dev.txt")
"""The versions of all linters and generators."""
needs_npm = pytest.mark.skipif(not NODE_MODULES.exists(), reason="needs npm: run make clients first")

CALLS: Final = "MATH101 enrolled\nstudent.created 8\nenrollment.enrolled enrolled\nstudent_not_found\n"
"""The output of the first calls, in each language."""


async def run(*command: str | Path, cwd: Path) -> str:
    """Run a program that must succeed, and return its output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, output.decode() + errors.decode()
    return output.decode()


@pytest.fixture
async def document(client: Client, tmp_path: Path) -> Path:
    """Return a file with the API document, in a folder of its own."""
    path = tmp_path / "openapi.json"
    async with client.get("/openapi.json") as response:
        path.write_bytes(await response.read())
    return path


Work = Callable[[Path], Awaitable[object]]


async def once(name: str, sources: Sequence[Path], work: Work, cache: pytest.Cache) -> Path:
    """Do this work in a folder of its own, and return the folder; an earlier run may have done it with the same files.

    Linters and generators take seconds, and depend on these files alone.
    """
    read = hashlib.sha256()
    for path in (Path(__file__), *LOCKS, *sources):
        read.update(hashlib.sha256(path.read_bytes()).digest())
    folder = cache.mkdir(f"clients_{name}")
    if cache.get(f"clients/{name}", None) != read.hexdigest():
        # Work that fails leaves a folder that is not for the files of the last time either.
        cache.set(f"clients/{name}", None)
        shutil.rmtree(folder)
        folder.mkdir()
        await work(folder)
        cache.set(f"clients/{name}", read.hexdigest())
    return folder


@pytest.fixture
def cache(request: pytest.FixtureRequest) -> pytest.Cache:
    assert request.config.cache is not None
    return request.config.cache


async def test_a_python_client_is_typed_and_makes_the_first_calls(
    client: Client, document: Path, cache: pytest.Cache
) -> None:
    async def build(folder: Path) -> None:
        config = folder / "config.json"
        # The generator knows fewer types of files than the document.
        files = dict.fromkeys(("application/zip", "text/csv"), "application/octet-stream")
        config.write_text(json.dumps({"post_hooks": [], "content_type_overrides": files}))
        package = folder / "enrollment_client"
        warnings = await run(
            *(sys.executable, "-m", "openapi_python_client", "generate", "--path", document, "--config", config),
            *("--output-path", package, "--meta", "none", "--fail-on-warning"),
            cwd=folder,
        )
        assert "arning" not in warnings
        shutil.copy(FILES / "first_call.py", folder)
        await run(
            *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", TYPES, package, "first_call.py"),
            cwd=folder,
        )

    folder = await once("python", [document, FILES / "first_call.py"], build, cache)
    assert await run(sys.executable, "first_call.py", str(client.make_url("/")).rstrip("/"), cwd=folder) == CALLS


@needs_npm
@pytest.mark.parametrize(
    ("linter", "options", "config"),
    [
        ("redocly", ["lint", "--config"], "redocly.yaml"),
        ("spectral", ["lint", "-F", "hint", "-r"], "spectral.yaml"),
    ],
)
async def test_a_linter_finds_nothing(
    document: Path, linter: str, options: list[str], config: str, cache: pytest.Cache
) -> None:
    async def lint(_folder: Path) -> None:
        await run(NODE_MODULES / ".bin" / linter, *options, FILES / config, document, cwd=FILES)

    await once(linter, [document, FILES / config], lint, cache)


@needs_npm
async def test_a_typescript_client_is_typed_and_makes_the_first_calls(
    client: Client, document: Path, cache: pytest.Cache
) -> None:
    sources = [FILES / name for name in ("package.json", "tsconfig.json", "first_call.ts")]

    async def build(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        (folder / "node_modules").symlink_to(NODE_MODULES)
        await run(NODE_MODULES / ".bin/openapi-typescript", document, "-o", "schema.ts", cwd=folder)
        await run(NODE_MODULES / ".bin/tsc", "-p", "tsconfig.json", cwd=folder)

    folder = await once("typescript", [document, *sources], build, cache)
    assert await run("node", "first_call.js", str(client.make_url("/")).rstrip("/"), cwd=folder) == CALLS


@needs_npm
async def test_the_tokens_of_an_openid_provider_are_accepted(settings: Settings, aiohttp_client: AiohttpClient) -> None:
    process = await asyncio.create_subprocess_exec(
        *("node", FILES / "identity_provider.mjs"),
        cwd=FILES,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        printed = (await process.stdout.readline()).decode().removeprefix("export ").split()
        own = {name.lower(): value for name, _, value in (each.partition("=") for each in printed)}
        client = await served(aiohttp_client, settings.model_copy(update=own))
        form = {"grant_type": "client_credentials", "client_id": "portal", "client_secret": "secret"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{own['token_issuer']}/token", data={**form, "scope": "read manage"}) as response,
        ):
            token = (await response.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        made = await call(client, "POST", "/students", student_fields(), headers=headers)
        assert made.status == 201
        assert (await call(client, "GET", "/students/1", headers=headers)).body == made.body
        problem(await call(client, "GET", "/events", headers=headers), 403, "scope_missing")
    finally:
        process.kill()
        await process.wait()
