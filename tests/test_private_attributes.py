"""The private attributes of libraries that the service uses: each exists, and its library has an upper bound."""

import ast
import importlib
import logging
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web
from asyncpg import Connection
from packaging.requirements import Requirement
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

ROOT = Path(__file__).parent.parent

LIBRARIES: list[tuple[str, type, list[str]]] = [
    ("aiohttp", web.AppRunner, ["_make_server"]),
    ("aiohttp", web.Server, ["_connections", "_kwargs", "_loop"]),
    ("aiohttp", web.Request, ["_prepare_hook"]),
    ("aiohttp", web.RequestHandler, ["_drain_waiter", "_manager", "_request_count"]),
    ("asyncpg", Connection, ["_protocol", "_transport"]),
]
"""Attributes that ``service/web/server.py``, ``service/pool.py`` and ``service/arrays.py`` read or override."""
OVERRIDDEN = [
    "apply_one",
    "connect",
    "get_log_data",
    "init_connection",
    "lock",
    "log_migration",
    "mark_one",
    "transaction",
]
"""Undocumented methods of yoyo's backend that ``service/migrate.py`` overrides or calls."""
STANDARD: list[tuple[ModuleType, str]] = [(logging, "_srcfile")]
"""The logging HOWTO documents it in the section "Optimization"."""
NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}


def private_names(tree: ast.Module) -> Iterator[str]:
    """Yield the private attributes that a module uses without defining them."""
    defined = set(NAMEDTUPLE)
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                defined.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                defined.add(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr) and node.attr not in defined:
            yield node.attr


def test_every_private_attribute_in_use_is_in_the_table() -> None:
    # The interpreter documents os._exit.
    known = {name for _, _, names in LIBRARIES for name in names} | {name for _, name in STANDARD} | {"_exit"}
    used = {
        name
        for folder in ("service", "sql")
        for path in (ROOT / folder).rglob("*.py")
        for name in private_names(ast.parse(path.read_text()))
    }
    # The service overrides this one, so it also defines it.
    assert used | {"_make_server", "_prepare_hook"} == known


@pytest.mark.parametrize(
    "owner, name", [pytest.param(owner, name, id=name) for _, owner, names in LIBRARIES for name in names]
)
async def test_a_private_attribute_of_a_library_exists(owner: type, name: str) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    server = web.Server(handler)
    instances: dict[type, object] = {web.Server: server, web.RequestHandler: server()}
    assert hasattr(instances.get(owner, owner), name)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_undocumented_method_of_yoyo_exists(name: str) -> None:
    assert callable(getattr(PostgresqlPsycopgBackend, name))


@pytest.mark.parametrize("module, name", STANDARD, ids=lambda value: getattr(value, "__name__", value))
def test_a_private_attribute_of_the_standard_library_exists(module: ModuleType, name: str) -> None:
    assert hasattr(importlib.import_module(module.__name__), name)


@pytest.mark.parametrize("library", ["aiohttp", "asyncpg", "yoyo-migrations"])
def test_a_library_with_private_attributes_in_use_has_an_upper_bound(library: str) -> None:
    """The bound is the next release that may rename them: the next minor one, or for yoyo the next major one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [requirement] = [found for text in project["dependencies"] if (found := Requirement(text)).name == library]
    major, minor = map(int, version(library).split(".")[:2])
    following = f"{major + 1}.0" if library == "yoyo-migrations" else f"{major}.{minor + 1}"
    assert version(library) in requirement.specifier
    assert following not in requirement.specifier
