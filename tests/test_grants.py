"""The role of the service: it has exactly the privileges that the statements need, and is refused everything else."""

import importlib
import inspect
import json
import pkgutil
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pglast.parser import parse_sql_json
from psycopg import sql as quoted

import sql
from service import grants
from service.grants import Privilege
from service.migrate import MigrationFailed, apply_grants, migrate
from service.settings import ServiceRole
from tests.conftest import REGISTRY, Server, clone
from tests.test_migrations import NAMES, Upto, upto

pytestmark = pytest.mark.not_on_citus("the service has no role of its own")

__all__ = ["upto"]

Connection = psycopg.Connection[Any]

FOLDER = Path(inspect.getfile(sql)).parent
STATEMENTS = {
    name: value
    for module in pkgutil.iter_modules([str(FOLDER)])
    for name, value in vars(importlib.import_module(f"sql.{module.name}")).items()
    if name.isupper() and isinstance(value, str)
}


def needs_of(statement: str) -> set[Privilege]:
    """Return the privileges that a statement needs, also on objects of PostgreSQL itself.

    A lock on rows needs UPDATE of any column, which is the privilege LOCK here.
    """
    found, names = set[Privilege](), set[str]()

    def visit(node: Any) -> None:
        if isinstance(node, list):
            for each in node:
                visit(each)
        if not isinstance(node, dict):
            return
        for kind, value in node.items():
            match kind:
                case "CommonTableExpr":
                    names.add(value["ctename"])
                case "RangeVar":
                    found.add(Privilege(value["relname"], "", "SELECT"))
                case "SelectStmt" if "lockingClause" in value:
                    found.update(Privilege(each["RangeVar"]["relname"], "", "LOCK") for each in value["fromClause"])
                case "InsertStmt":
                    table = value["relation"]["relname"]
                    found.add(Privilege(table, "", "INSERT"))
                    conflict = value.get("onConflictClause")
                    # What is returned, or compared with a row that exists, is read.
                    if conflict or "returningList" in value or "returningClause" in value:
                        found.add(Privilege(table, "", "SELECT"))
                    found.update(Privilege(table, name, "UPDATE") for name in targets(conflict or {}))
                case "UpdateStmt":
                    table = value["relation"]["relname"]
                    found.update(Privilege(table, name, "UPDATE") for name in targets(value))
                    found.add(Privilege(table, "", "SELECT"))
                case "DeleteStmt":
                    found.update(Privilege(value["relation"]["relname"], "", each) for each in ("DELETE", "SELECT"))
                case "FuncCall":
                    function = value["funcname"][-1]["String"]["sval"]
                    found.add(Privilege(function, "", "EXECUTE"))
                    if function == "nextval":
                        sequence = value["args"][0]["A_Const"]["sval"]["sval"]
                        found.add(Privilege(sequence, "", "USAGE"))
            visit(value)

    visit(json.loads(parse_sql_json(statement)))
    return {need for need in found if need.object not in names}


def targets(clause: dict[str, Any]) -> list[str]:
    return [each["ResTarget"]["name"] for each in clause.get("targetList", ())]


LOCKABLE = {"idempotency_keys": "created_at"}
"""The columns of which ``grants`` gives UPDATE for the lock alone; ``id`` otherwise."""

SCHEMAS = {"public": grants.INSTITUTION, REGISTRY: grants.REGISTRY}


def catalog(connection: Connection, schema: str) -> set[str]:
    """Return the names of the tables, sequences and functions of a schema."""
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'S') "
        "UNION SELECT proname FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace",
        {"schema": schema},
    ).fetchall()
    return {name for (name,) in rows}


@pytest.fixture
def owner(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_the_privileges_are_exactly_those_that_the_statements_need(owner: Connection) -> None:
    needs = {name: needs_of(statement) for name, statement in STATEMENTS.items()}
    assert len(STATEMENTS) > 100
    assert needs["LOCK_FEED"] == {Privilege("feed", "", "LOCK"), Privilege("feed", "", "SELECT")}

    for schema, privileges in SCHEMAS.items():
        own = catalog(owner, schema)
        found = {need for each in needs.values() for need in each if need.object in own}
        locked = {need for need in found if need.privilege == "LOCK"}
        updated = {need.object for need in found if need.privilege == "UPDATE"}
        found -= locked
        found |= {
            Privilege(need.object, LOCKABLE.get(need.object, "id"), "UPDATE")
            for need in locked
            if need.object not in updated
        }
        assert grants.required(privileges) - found == {Privilege("", "", "USAGE")}
        assert found <= grants.required(privileges)


def test_what_is_granted_is_what_is_required(owner: Connection, server: Server) -> None:
    for schema, privileges in SCHEMAS.items():
        assert grants.held(owner, schema, server.role) == grants.required(privileges)


def test_the_script_can_be_repeated_and_takes_away_what_is_not_required(owner: Connection, server: Server) -> None:
    role = quoted.Identifier(server.role)
    for text in (
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {}",
        "GRANT UPDATE (reason) ON events TO {}",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {}",
        "GRANT ALL ON SCHEMA public TO {}",
    ):
        owner.execute(quoted.SQL(text).format(role))
    assert grants.held(owner, "public", server.role) > grants.required()
    for _ in range(2):
        owner.execute(grants.script("public", server.role))
        assert grants.held(owner, "public", server.role) == grants.required()


def test_names_are_quoted(owner: Connection, empty_database_url: str) -> None:
    name = 'odd "role; --'
    migrate(empty_database_url, schema="north")
    owner.execute(quoted.SQL("CREATE ROLE {}").format(quoted.Identifier(name)))
    try:
        apply_grants(empty_database_url, name, schema="north")
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            assert grants.held(connection, "north", name) == grants.required()
            assert grants.held(connection, "public", name) == set()
            connection.execute(quoted.SQL("DROP OWNED BY {}").format(quoted.Identifier(name)))
    finally:
        owner.execute(quoted.SQL("DROP ROLE {}").format(quoted.Identifier(name)))


@pytest.fixture
def service(service_url: str) -> Iterator[Connection]:
    """Yield a connection with the role of the service."""
    with psycopg.connect(service_url, autocommit=True) as connection:
        yield connection


REFUSED = (
    "CREATE TABLE extra (id bigint)",
    "CREATE SCHEMA extra",
    "CREATE FUNCTION extra() RETURNS bigint LANGUAGE sql RETURN 1",
    "CREATE EXTENSION file_fdw",
    "ALTER TABLE students ADD COLUMN nickname text",
    "ALTER TABLE events DISABLE TRIGGER ALL",
    "ALTER FUNCTION renew_epoch SECURITY INVOKER",
    "CREATE OR REPLACE FUNCTION renew_epoch(a uuid, b uuid, c bigint, d bigint, e bigint) RETURNS uuid LANGUAGE sql RETURN a",
    "CREATE INDEX ON students (given_name)",
    "DROP TABLE students",
    "UPDATE events SET reason = NULL",
    "UPDATE events SET position = position + 1",
    "DELETE FROM events",
    "TRUNCATE events",
    "TRUNCATE students CASCADE",
    "UPDATE feed SET epoch = gen_random_uuid()",
    "DELETE FROM feed",
    "INSERT INTO feed DEFAULT VALUES",
    "DELETE FROM student_courses",
    "DELETE FROM holds",
    "DELETE FROM api_keys",
    "UPDATE idempotency_keys SET body = ''",
    "UPDATE students SET id = 7",
    "UPDATE api_keys SET scopes = '{admin}'",
    "UPDATE student_courses SET student_id = 7",
    "SELECT setval('students_id_seq', 1)",
    "INSERT INTO _yoyo_migration (migration_hash, migration_id) VALUES ('x', 'x')",
    "SELECT migration_hash FROM _yoyo_log",
    "SELECT id FROM north.students",
    "SELECT north.renew_epoch(gen_random_uuid(), gen_random_uuid(), 1, 2, 3)",
    "COPY students TO '/tmp/students'",
    "COPY students FROM '/etc/passwd'",
    "COPY students FROM PROGRAM 'id'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "CREATE ROLE extra",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER SYSTEM SET fsync = off",
    "ALTER DATABASE template1 SET search_path = ''",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' AND pid <> pg_backend_pid()",
    "SELECT pg_switch_wal()",
    "DO 'BEGIN LOCK TABLE events IN ACCESS EXCLUSIVE MODE; END'",
)
"""Statements beyond what the service needs; ``north`` is the schema of another institution."""


@pytest.mark.parametrize("statement", REFUSED)
def test_the_role_of_the_service_is_refused_everything_else(
    statement: str, database_url: str, service: Connection
) -> None:
    if "north" in statement:
        migrate(database_url, schema="north")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(statement)


def test_everybody_else_has_no_function(owner: Connection, server: Server) -> None:
    for name in grants.FUNCTIONS:
        [(is_definer, granted)] = owner.execute(
            "SELECT prosecdef, array(SELECT grantee::regrole::text FROM aclexplode(proacl)) FROM pg_proc "
            "WHERE proname = %s AND pronamespace = 'public'::regnamespace",
            [name],
        ).fetchall()
        assert is_definer
        assert set(granted) == {owner.info.user, server.role}, "not PUBLIC, which is the role 0"


def test_the_search_path_of_a_caller_does_not_redirect_a_function(
    owner: Connection, service: Connection, server: Server
) -> None:
    """A caller who may create tables could otherwise let the owner write to them, with triggers of the caller's."""
    service.execute("CREATE TEMPORARY TABLE feed (LIKE public.feed)")
    service.execute("SET search_path = pg_temp, public")
    [(epoch,)] = owner.execute("SELECT epoch FROM feed").fetchall()
    renew = "SELECT public.renew_epoch(%s, '00000000-0000-0000-0000-000000000001', 1, 2, 3)"
    service.execute(renew, [epoch])
    assert service.execute(renew, [epoch]).fetchone() == (None,), "another epoch has begun"
    assert str(owner.execute("SELECT epoch FROM feed").fetchall()[0][0]).endswith("1")


# The roles of an operator: an owner who is no superuser, and the service.


@pytest.fixture
def roles(server: Server, admin: Connection) -> Iterator[tuple[str, str]]:
    """Yield the URLs of an empty database for its owner, who may not create roles, and for the role of the service."""
    owner = f"{server.run}_{secrets.token_hex(4)}"
    for url in clone(server, admin, "template0"):
        admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD '{server.run}'")
        name = url.partition("?")[0].rpartition("/")[2]
        admin.execute(f"ALTER DATABASE {name} OWNER TO {owner}")
        service = server.as_service(url)
        yield service.replace(f"//{server.role}:", f"//{owner}:"), service
    admin.execute(f"DROP ROLE {owner}")


def test_a_role_without_ddl_starts_if_nothing_is_missing(roles: tuple[str, str], server: Server, upto: Upto) -> None:
    owner_url, service_url = roles
    with pytest.raises(MigrationFailed, match=r"0001_create_feed .* MIGRATION_DATABASE_URL .* migrate"):
        migrate(service_url)

    assert migrate(owner_url, migrations=upto(NAMES[-2]), role=None) == NAMES[:-1]
    with pytest.raises(MigrationFailed, match=r"may not read the schema public.* grants"):
        migrate(service_url)
    assert migrate(owner_url, role=ServiceRole(server.role)) == NAMES[-1:]

    assert migrate(service_url) == []
    assert migrate(service_url, role=ServiceRole(server.role)) == []
    with psycopg.connect(owner_url) as connection:
        assert grants.held(connection, "public", server.role) == grants.required()


def test_a_role_without_ddl_is_told_what_is_missing(roles: tuple[str, str], server: Server, upto: Upto) -> None:
    owner_url, service_url = roles
    migrate(owner_url, migrations=upto(NAMES[-3]))
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute(
            quoted.SQL("GRANT USAGE ON SCHEMA public TO {0}; GRANT SELECT ON _yoyo_migration TO {0}").format(
                quoted.Identifier(server.role)
            )
        )
    with pytest.raises(MigrationFailed, match=f"{NAMES[-2]} .* MIGRATION_DATABASE_URL"):
        migrate(service_url)


def test_grants_follow_a_migration_and_are_restored_without_one(roles: tuple[str, str], server: Server) -> None:
    owner_url, _ = roles
    assert migrate(owner_url, role=ServiceRole(server.role)) == NAMES
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute(quoted.SQL("REVOKE ALL ON events FROM {}").format(quoted.Identifier(server.role)))
        assert migrate(owner_url, role=ServiceRole(server.role)) == []
        assert grants.held(connection, "public", server.role) == grants.required()


def test_a_role_that_the_database_does_not_have_is_not_granted_anything(roles: tuple[str, str]) -> None:
    owner_url, _ = roles
    assert migrate(owner_url, role=ServiceRole("translated_by_a_pooler")) == NAMES
