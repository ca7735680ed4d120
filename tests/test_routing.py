"""What Citus needs to route a statement to the one node that holds an institution: found here by reading the SQL."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pglast
import pytest
from pglast import ast
from pglast.enums import AlterTableType, ConstrType
from pglast.visitors import Visitor

from service.arrays import ARRAYS
from service.database import Database
from service.errors import ApiKeyNameTaken, Unavailable
from service.migrate import MIGRATIONS, REGISTRY_MIGRATIONS, migrate_to
from service.pool import Pool
from service.registrar.changes import Change
from service.settings import Settings
from sql import Connection
from sql.enrollments import ADD_ENROLLMENTS, INSERT_ENROLLMENTS, UPDATE_ENROLLMENTS
from sql.feed import APPEND_EVENTS
from tests.campus import registrar_of
from tests.conftest import REGISTRY, Server
from tests.test_batches import course, drop, enroll, student
from tests.test_migrations import FILL, NAMES
from tests.test_optimistic import statements_of_enroll
from tests.test_sql import STATEMENTS
from tests.volatility import Volatility, tree_of, trees_of_functions

MODIFICATIONS = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
VOLATILE = {"clock_timestamp", "gen_random_uuid", "nextval", "random", "timeofday"}
VOLATILE_PREFIXES = ("pg_control_", "pg_current_wal_")
"""Functions that Citus refuses in an UPDATE or DELETE, and in an INSERT of selected rows."""
TIMES = {"now", "statement_timestamp", "transaction_timestamp"}
"""Functions that Citus refuses in an expression with a column."""

EXCEPTIONS = {
    # ``save`` uses it only where the extension is absent: elsewhere it saves a round trip for each table.
    "INSERT_ENROLLMENTS": {"several modifications"},
}
"""The rules that a statement breaks on purpose, each with its reason."""


def nodes(tree: Any) -> list[ast.Node]:
    """Return all nodes of a parsed statement."""
    found: list[ast.Node] = []

    class Collector(Visitor):
        def visit(self, _ancestors: object, node: ast.Node) -> None:
            found.append(node)

    Collector()(tree)
    return found


def of_type(tree: Any, *types: type[ast.Node]) -> list[Any]:
    return [node for node in nodes(tree) if isinstance(node, types)]


def tables(tree: Any) -> set[str]:
    """Return the tables that a part of a statement reads or modifies, without its common table expressions."""
    inner = {node.ctename for node in of_type(tree, ast.CommonTableExpr)}
    return {node.relname for node in of_type(tree, ast.RangeVar)} - inner


def called(call: Any) -> str:
    """Return the name of the function that a node calls."""
    name: str = call.funcname[-1].sval
    return name


def is_volatile(call: Any) -> bool:
    name = called(call)
    return name in VOLATILE or name.startswith(VOLATILE_PREFIXES)


def has_several_modifications(statement: Any) -> bool:
    """Return whether a statement modifies more than once, or modifies within a query."""
    if isinstance(statement, ast.CreateFunctionStmt):
        # The statements of its body run one after the other.
        return any(has_several_modifications(each) for block in statement.sql_body or () for each in block or ())
    modifications = of_type(statement, *MODIFICATIONS)
    return len(modifications) > 1 or (len(modifications) == 1 and not isinstance(statement, MODIFICATIONS))


def selects_from_no_table(statement: Any) -> bool:
    """Return whether an INSERT selects its rows without any table of the schema, which would name the node."""
    selects = [
        node.selectStmt
        for node in of_type(statement, ast.InsertStmt)
        if node.selectStmt is not None and node.selectStmt.valuesLists is None
    ]
    return any(not tables(select) and not of_type(statement, ast.CommonTableExpr) for select in selects)


def calls_volatile_function(statement: Any) -> bool:
    """Return whether a modification calls a volatile function, except in the list of VALUES of an INSERT."""
    for node in of_type(statement, *MODIFICATIONS):
        has_values = isinstance(node, ast.InsertStmt) and bool(getattr(node.selectStmt, "valuesLists", None))
        if not has_values and any(is_volatile(call) for call in of_type(node, ast.FuncCall)):
            return True
    return False


def joins_volatile_function(statement: Any) -> bool:
    """Return whether a query has a volatile function in FROM beside a table: it would run on the node of the session."""
    if isinstance(statement, MODIFICATIONS):
        return False
    calls = [call for each in of_type(statement, ast.RangeFunction) for call in of_type(each, ast.FuncCall)]
    return bool(tables(statement)) and any(is_volatile(call) for call in calls)


def computes_time_from_column(statement: Any) -> bool:
    """Return whether an UPDATE sets a column to an expression of a column and of the time."""
    return any(
        of_type(target, ast.ColumnRef) and any(called(call) in TIMES for call in of_type(target, ast.FuncCall))
        for node in of_type(statement, ast.UpdateStmt)
        for target in node.targetList
    )


def selects_time(statement: Any) -> bool:
    """Return whether an INSERT of selected rows computes a time: Citus adds a condition without a column then."""
    return any(
        called(call) in TIMES
        for node in of_type(statement, ast.InsertStmt)
        if node.selectStmt is not None and node.selectStmt.valuesLists is None
        for call in of_type(node.selectStmt, ast.FuncCall)
    )


def is_unnest(node: Any) -> bool:
    return isinstance(node, ast.FuncCall) and called(node) == "unnest"


def unnests_within_expression(statement: Any) -> bool:
    """Return whether an INSERT selects an expression of ``unnest``, which the first node tries to compute."""
    return any(
        not is_unnest(target.val) and any(is_unnest(call) for call in of_type(target, ast.FuncCall))
        for node in of_type(statement, ast.InsertStmt)
        for target in getattr(node.selectStmt, "targetList", None) or ()
    )


def has_several_actions(statement: Any) -> bool:
    return isinstance(statement, ast.AlterTableStmt) and len(statement.cmds or ()) > 1


def takes_index_as_key(statement: Any) -> bool:
    return any(
        node.subtype == AlterTableType.AT_AddConstraint
        and node.def_.contype in {ConstrType.CONSTR_PRIMARY, ConstrType.CONSTR_UNIQUE}
        and node.def_.indexname is not None
        for node in of_type(statement, ast.AlterTableCmd)
    )


RULES: dict[str, tuple[Callable[[Any], bool], list[str]]] = {
    "several modifications": (
        has_several_modifications,
        [
            "WITH gone AS (DELETE FROM holds) UPDATE feed SET id = 1",
            "WITH gone AS (DELETE FROM holds RETURNING id) SELECT id FROM gone",
            "CREATE FUNCTION f() LANGUAGE sql BEGIN ATOMIC WITH gone AS (DELETE FROM holds) DELETE FROM overrides; END",
        ],
    ),
    "INSERT without a table to select from": (
        selects_from_no_table,
        ["INSERT INTO holds (id) SELECT unnest($1::bigint[])"],
    ),
    "volatile function": (
        calls_volatile_function,
        [
            "UPDATE feed SET epoch = gen_random_uuid()",
            "UPDATE feed SET id = 1 FROM pg_control_system() AS control WHERE control.system_identifier = 1",
            "UPDATE holds SET ends_at = clock_timestamp()",
            "INSERT INTO holds (created_at) SELECT clock_timestamp() FROM feed",
            "DELETE FROM holds WHERE ends_at < clock_timestamp()",
        ],
    ),
    "volatile function in FROM": (
        joins_volatile_function,
        ["SELECT feed.id FROM feed CROSS JOIN pg_control_system() AS control"],
    ),
    "time from a column": (
        computes_time_from_column,
        ["UPDATE holds SET ends_at = coalesce(ends_at, now())", "UPDATE holds SET ends_at = least(ends_at, now())"],
    ),
    "time among selected rows": (
        selects_time,
        ["INSERT INTO holds (id, created_at) SELECT id, now() FROM students"],
    ),
    "unnest within an expression": (
        unnests_within_expression,
        ["INSERT INTO holds (id) SELECT unnest($1::text[])::bigint FROM feed"],
    ),
    "several actions of ALTER TABLE": (
        has_several_actions,
        ["ALTER TABLE holds ADD COLUMN a bigint, ADD CONSTRAINT holds_a_check CHECK (a > 0)"],
    ),
    "key from an index": (
        takes_index_as_key,
        ["ALTER TABLE holds ADD CONSTRAINT holds_pkey PRIMARY KEY USING INDEX holds_id_idx"],
    ),
}


def findings(text: str) -> set[str]:
    """Return the rules that any of the statements in a text breaks."""
    return {rule for each in pglast.parse_sql(text) for rule, (breaks, _) in RULES.items() if breaks(each.stmt)}


@pytest.mark.parametrize("rule, example", [(rule, example) for rule, (_, bad) in RULES.items() for example in bad])
def test_a_rule_finds_its_example(rule: str, example: str) -> None:
    assert findings(example) == {rule}


@pytest.mark.parametrize(
    "example",
    [
        "INSERT INTO holds (id) SELECT unnest($1::bigint[]) FROM feed",
        "INSERT INTO holds (id, created_at) VALUES ($1, clock_timestamp())",
        "UPDATE holds SET ends_at = coalesce(ends_at, $1)",
        "UPDATE holds SET ends_at = now() + $1::interval",
        "SELECT (pg_control_system()).system_identifier FROM feed",
        "SELECT nextval('holds_id_seq') FROM generate_series(1, $1::bigint)",
        "WITH found AS (SELECT id FROM holds) DELETE FROM holds USING found WHERE holds.id = found.id",
        "ALTER TABLE holds ADD CONSTRAINT holds_pkey PRIMARY KEY (id)",
    ],
)
def test_no_rule_finds_a_statement_that_is_routed(example: str) -> None:
    assert findings(example) == set()


def test_every_statement_can_be_routed() -> None:
    broken = {name: found for name, (statement, _) in STATEMENTS.items() if (found := findings(statement))}

    assert broken == EXCEPTIONS


@pytest.mark.parametrize("path", sorted(MIGRATIONS.rglob("*.sql")), ids=lambda path: path.name)
def test_every_migration_runs_on_citus(path: Path) -> None:
    assert findings(path.read_text()) == set()


SAMPLES = {
    "bool": "true",
    "bytea": "",
    "date": "2030-01-01",
    "float8": "1",
    "int8": "1",
    "interval": "1 day",
    "json": "[]",
    "text": "+0",  # a time zone and a path of JSON
    "timestamptz": "2030-01-01Z",
    "uuid": "00000000-0000-0000-0000-000000000000",
}
"""A value of each type of a parameter."""
NOT_ROUTED = {"FIND_LAGGING_SEQUENCES", "ADD_REFUSALS", "ADD_WEBHOOK_ATTEMPTS"} | EXCEPTIONS.keys()
"""``check`` also reads sequences, which each node has of its own. The ids of refusals and of webhook attempts come from a sequence:
the node of the session computes the rows, and then inserts them on the node that holds the institution."""


async def test_on_citus_a_statement_is_one_task_on_the_node_that_holds_the_institution(
    server: Server, connection: Connection
) -> None:
    if not server.citus:
        pytest.skip("needs a Citus in TEST_DATABASE_URL")
    found: dict[str, str] = {}
    for name, (statement, function) in STATEMENTS.items():
        read = {table for each in pglast.parse_sql(statement) for table in tables(each)}
        if function.__module__ == "sql.registry" or not read - {
            "pg_locks",
            "pg_extension",
            "pg_stat_activity",
            "pg_database",
            "pg_class",
        }:
            continue
        parameters = (await connection.prepare(statement)).get_parameters()
        await connection.execute(f"PREPARE statement AS {statement}")
        values = [
            f"ARRAY['{SAMPLES[each.name[:-2]]}']::{each.name}" if each.kind == "array" else f"'{SAMPLES[each.name]}'"
            for each in parameters
        ]
        given = f"({', '.join(values)})" if values else ""
        try:
            rows = await connection.fetch(f"EXPLAIN EXECUTE statement{given}")
            found[name] = "\n".join(row[0] for row in rows)
        except asyncpg.FeatureNotSupportedError as error:
            found[name] = str(error)
        await connection.execute("DEALLOCATE statement")

    scattered = {
        name
        for name, plan in found.items()
        if not plan.startswith("Custom Scan (Citus Adaptive)")
        or "Task Count: 1\n" not in plan
        or "Distributed Subplan" in plan
        or "Could not get remote plan" in plan
    }
    assert scattered <= NOT_ROUTED, {name: found[name] for name in scattered - NOT_ROUTED}
    assert len(found) > 60


REFUSED = [
    "UPDATE students SET given_name = created_at::text",
    "UPDATE students SET given_name = family_name || updated_at",
    "UPDATE students SET sourced_id = encode(sha256(convert_to(email, 'UTF8')), 'hex')",
    "UPDATE events SET after = to_json(events.occurred_at)",
    "UPDATE holds SET ends_at = starts_at + $1::interval",
    "UPDATE holds SET ends_at = coalesce($1::timestamptz, now())",
    "UPDATE holds SET reason = gen_random_uuid()::text",
    "DELETE FROM holds WHERE ends_at::date < '2030-01-01'",
    "DELETE FROM holds WHERE id = $1::bigint RETURNING ends_at::text",
    """
    INSERT INTO webhook_leases (institution, revision, changed_at) VALUES ('', 1, $1::timestamptz)
    ON CONFLICT (institution) DO UPDATE SET changed_at = now()
    """,
]
ROUTED = [
    "UPDATE students SET given_name = id::text || family_name, updated_at = now()",
    "UPDATE students SET given_name = family_name || id",
    "UPDATE students SET sourced_id = encode(sha256((email || id::text)::bytea), 'hex')",
    "UPDATE events SET after = to_json($1::timestamptz)",
    "UPDATE holds SET ends_at = now() + $1::interval",
    "UPDATE courses SET meetings = (SELECT to_json(max(ends_at)) FROM holds)",
    "DELETE FROM holds WHERE ends_at < now() - $1::interval",
    """
    INSERT INTO webhook_leases (institution, revision, changed_at) VALUES ('', 1, now())
    ON CONFLICT (institution) DO UPDATE SET changed_at = excluded.changed_at
    """,
]


@pytest.mark.parametrize(
    ("statement", "refused"), [*((each, True) for each in REFUSED), *((each, False) for each in ROUTED)]
)
async def test_a_function_that_depends_on_more_than_a_column_is_found_where_citus_refuses_it(
    server: Server, connection: Connection, statement: str, refused: bool
) -> None:
    if not server.citus:
        volatility = await Volatility.read(connection)
        assert volatility.refuses(await tree_of(connection, statement)) == refused
        return
    parameters = (await connection.prepare(statement)).get_parameters()
    await connection.execute(f"PREPARE statement AS {statement}")
    given = f"({', '.join(repr(SAMPLES[each.name]) for each in parameters)})" if parameters else ""
    try:
        await connection.execute(f"EXPLAIN EXECUTE statement{given}")
    except asyncpg.FeatureNotSupportedError:
        assert refused
    else:
        assert not refused


@pytest.mark.not_on_citus("Citus itself says so, and there is no registry")
async def test_no_modification_calls_a_function_that_citus_refuses_there(connection: Connection) -> None:
    volatility = await Volatility.read(connection)
    await connection.execute(f"SET search_path = public, {REGISTRY}")
    trees = await trees_of_functions(connection)
    assert trees
    for name, (statement, _) in STATEMENTS.items():
        if of_type(pglast.parse_sql(statement), *MODIFICATIONS):
            trees[name] = await tree_of(connection, statement)
    for folder, schema in ((MIGRATIONS, "public"), (REGISTRY_MIGRATIONS, REGISTRY)):
        await connection.execute(f"SET search_path = {schema}")
        for path in folder.glob("*.sql"):
            for statement in pglast.split(path.read_text()):
                if isinstance(pglast.parse_sql(statement)[0].stmt, MODIFICATIONS):
                    trees[path.name] = await tree_of(connection, statement)
    assert "0025_update_students.sql" in trees

    assert [name for name, tree in trees.items() if volatility.refuses(tree)] == []


async def test_on_citus_each_migration_is_applied_and_rolled_back_with_rows(
    server: Server, connection: Connection, settings: Settings
) -> None:
    if not server.citus:
        pytest.skip("needs a Citus in TEST_DATABASE_URL")
    schema = settings.database_schema
    await asyncio.to_thread(migrate_to, server.url, NAMES[0], schema=schema, discard_data=True)
    for name in NAMES:
        await asyncio.to_thread(migrate_to, server.url, name, schema=schema)
        await connection.execute(FILL.get(name, "SELECT 1"))
    for name in reversed(NAMES):
        await asyncio.to_thread(migrate_to, server.url, name, schema=schema, discard_data=True)

    assert await connection.fetchval("SELECT count(*) FROM feed") == 1


@pytest.mark.not_on_citus("it has no registry")
async def test_no_statement_makes_the_driver_look_up_types(settings: Settings) -> None:
    database = Database(settings)
    await database.open()
    sent: list[str] = []
    try:
        async with database.reading() as connection:
            connection.add_query_logger(lambda query: sent.append(query.query))
            await connection.execute(f"SET search_path = public, {REGISTRY}")
            for statement, _ in STATEMENTS.values():
                await connection.prepare(statement)
    finally:
        await database.close()

    assert [query for query in sent if "pg_type" in query] == []


async def test_the_driver_registers_array_types_under_the_oids_of_the_server(connection: Connection) -> None:
    rows = await connection.fetch(
        "SELECT typname, oid, typelem FROM pg_type WHERE typname = ANY($1::text[])", list(ARRAYS)
    )

    assert {row[0]: (row[1], row[2]) for row in rows} == ARRAYS


async def test_a_constraint_of_a_shard_has_the_meaning_of_its_table(settings: Settings) -> None:
    pool = Pool(settings)
    error = asyncpg.UniqueViolationError()
    error.constraint_name = "api_keys_name_key_102035"
    assert isinstance(pool.domain_error(error), ApiKeyNameTaken)

    named = asyncpg.UniqueViolationError('duplicate key value violates unique constraint "api_keys_name_key_102035"')
    named.detail = "Key (name)=(students_email_key) already exists."
    assert isinstance(pool.domain_error(named), ApiKeyNameTaken)
    unknown = asyncpg.UniqueViolationError("duplicate key")
    unknown.detail = named.detail
    assert pool.domain_error(unknown) is unknown


@pytest.fixture
async def citus(connection: Connection) -> None:
    """Let the database seem to have the extension, which PostgreSQL itself does not contain."""
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"):
        return
    await connection.execute("SET allow_system_table_mods = on")
    await connection.execute(
        """
        INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
        SELECT 4000000000, 'citus', oid, 'pg_catalog'::regnamespace, false, '0'
        FROM pg_roles
        WHERE rolname = current_user
        """
    )


@pytest.mark.usefixtures("citus")
async def test_on_citus_each_statement_of_a_batch_modifies_one_table(
    settings: Settings, connection: Connection
) -> None:
    one_role = {"database_url": settings.owner_url, "migration_database_url": None}
    async with registrar_of(settings.model_copy(update={**one_role, "pool_size": 1})) as registrar:
        sent: list[str] = []

        async def sent_for(*changes: Change[Any]) -> list[str]:
            sent.clear()
            await registrar.submit_all(changes)
            await asyncio.sleep(0)  # The driver logs a statement in the next turn of the loop.
            return sent

        await registrar.submit_all([*map(student, (1, 2, 3)), course(1, capacity=2)])
        async with registrar._database.reading(for_changes=True) as session:
            session.add_query_logger(lambda query: sent.append(query.query))
        await sent_for(enroll(3, 1))
        assert await sent_for(enroll(1, 1)) == statements_of_enroll(registrar)
        assert {UPDATE_ENROLLMENTS, ADD_ENROLLMENTS, APPEND_EVENTS} < set(await sent_for(drop(1, 1), enroll(2, 1)))
        assert INSERT_ENROLLMENTS not in sent
    rows = await connection.fetch("SELECT student_id, course_id, status FROM student_courses ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [(1, 1, "dropped"), (2, 1, "enrolled"), (3, 1, "enrolled")]
    assert await connection.fetchval("SELECT count(*) = max(position) FROM events")
    assert await connection.fetchval("SELECT seats_taken FROM courses") == 2


@pytest.mark.usefixtures("citus")
@pytest.mark.not_on_citus("its settings have one role")
async def test_on_citus_the_service_refuses_a_role_that_is_not_the_owner(settings: Settings) -> None:
    pool = Pool(settings)
    await pool.open()
    try:
        with pytest.raises(Unavailable, match="the same role"):
            async with Database(settings, pool).reading():
                pass
    finally:
        await pool.close()
