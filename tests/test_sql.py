"""Every statement on the migrated schema: it prepares, it matches its function, and it uses the right index."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import psycopg
import pytest

import sql
from service.errors import CONSTRAINTS
from service.settings import Settings
from service.web.paging import SCANNED_ROWS
from sql import Connection
from sql.courses import Course
from sql.enrollments import Enrollment
from sql.feed import Event
from sql.idempotency_keys import delete_idempotency_keys
from sql.server import CONFIGURE, SET_SEARCH_PATH
from sql.students import Student
from tests.campus import opened
from tests.conftest import REGISTRY, Server, clone
from tests.oneroster_plans import Plans

FOLDER = Path(inspect.getfile(sql)).parent
MODULES = [importlib.import_module(f"sql.{module.name}") for module in pkgutil.iter_modules([str(FOLDER)])]
STATEMENTS: dict[str, tuple[str, Callable[..., Awaitable[object]]]] = {
    # This statement also begins the transaction, and such a statement can't be prepared.
    name: (value.removeprefix("\nBEGIN;"), getattr(module, name.lower()))
    for module in MODULES
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str) and hasattr(module, name.lower())
}
each_statement = pytest.mark.parametrize("name", STATEMENTS)

TYPES: dict[type, set[str]] = {
    bool: {"bool"},
    int: {"int8"},
    float: {"float8"},
    str: {"text", "json"},
    date: {"date"},
    datetime: {"timestamptz"},
    UUID: {"uuid"},
    bytes: {"bytea"},
    timedelta: {"interval"},
}
"""The types of the database for each Python type."""

GUARDS = {
    "course_instructors_course_id_fkey",
    "course_instructors_pkey",
    "course_instructors_primary_check",
    "courses_capacity_check",
    "courses_status_check",
    "courses_waitlist_capacity_check",
    "courses_waitlisted_check",
    "api_keys_pkey",
    "api_keys_scopes_check",
    "equivalences_pkey",
    "equivalent_codes_equivalence_id_fkey",
    "grades_pkey",
    "grades_grade_key",
    "equivalent_codes_pkey",
    "holds_blocks_check",
    "exports_pkey",
    "exports_state_check",
    "import_rows_action_check",
    "import_rows_import_id_fkey",
    "import_rows_pkey",
    "imports_pkey",
    "imports_state_check",
    "merged_students_pkey",
    "source_rows_pkey",
    "holds_pkey",
    "holds_student_id_fkey",
    "idempotency_keys_pkey",
    "instructors_name_check",
    "instructors_pkey",
    "overrides_course_id_fkey",
    "overrides_pkey",
    "overrides_student_id_fkey",
    "refusals_action_check",
    "refusals_pkey",
    "requirements_course_id_fkey",
    "requirements_kind_check",
    "requirements_pkey",
    "student_courses_override_id_fkey",
    "students_max_credits_check",
    "students_name_check",
    "terms_dates_check",
    "terms_drop_check",
    "terms_enroll_check",
    "terms_max_credits_check",
    "terms_parent_id_fkey",
    "terms_pkey",
    "courses_credits_check",
    "courses_pkey",
    "courses_seats_taken_check",
    "events_pkey",
    "events_position_check",
    "feed_one_row_check",
    "feed_pkey",
    "institutions_name_key",
    "institutions_pkey",
    "institutions_revision_key",
    "institutions_state_check",
    "registry_one_row_check",
    "registry_pkey",
    "student_courses_pkey",
    "student_courses_status_check",
    "students_pkey",
    "tombstones_pkey",
    "tombstones_resource_check",
    "webhook_attempts_pkey",
    "webhook_attempts_webhook_id_fkey",
    "webhook_leases_pkey",
    "webhooks_pkey",
    "webhooks_stopped_because_check",
}
"""Constraints that only a bug in the service can violate: validation and the lock exclude every other way."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(FOLDER.glob("*.py")):
        yield path, ast.parse(path.read_text())


def without_none(hint: Any) -> Any:
    if get_origin(hint) in {Union, types.UnionType}:
        [hint] = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        [hint] = {type(value) for value in get_args(hint)}
    return hint


def parameters_of(function: Callable[..., object]) -> list[tuple[Any, bool]]:
    """Return the Python type of each parameter of the statement, and whether it is sent as an array."""
    hints = get_type_hints(function, include_extras=True)
    names = list(inspect.signature(function).parameters)
    assert hints[names[0]] == Connection
    expected: list[tuple[Any, bool]] = []
    for hint in (hints[name] for name in names[1:]):
        if (rows := rows_of(hint)) is not None:
            row, sent, _ = rows
            expected += [(without_none(get_type_hints(row)[name]), True) for name in sent]
        else:
            sent_as = without_none(hint)
            [item] = get_args(sent_as) or [None]
            expected.append((sent_as if item is None else without_none(item), item is not None))
    return expected


def rows_of(hint: Any) -> tuple[Any, list[str], list[str]] | None:
    """Return the type of the rows, the fields sent as arrays, and the times sent once; None for other parameters."""
    once: Any = ()
    if get_origin(hint) is Annotated:
        hint, once = get_args(hint)
    row = get_args(hint)[0] if get_origin(hint) is Sequence else None
    names = names_of(row)
    arrays = [name for name in names if name not in once]
    return (row, arrays, [name for name in names if name in once]) if names else None


def names_of(row: Any) -> list[str]:
    """Return the fields of a dataclass or a named tuple, and nothing for any other type."""
    return [field.name for field in fields(row)] if is_dataclass(row) else list(getattr(row, "_fields", ()))


def row_of(function: Callable[..., object]) -> Any:
    """Return the type of the row or the single column that a function returns; NoneType for none."""
    hint = without_none(get_type_hints(function)["return"])
    return get_args(hint)[0] if get_origin(hint) is list else hint


def test_every_statement_has_its_function_and_every_function_its_statement() -> None:
    for path, tree in trees():
        if path.name == "__init__.py":
            assert not re.search(r"\b(SELECT|INSERT|UPDATE|DELETE)\b|async def", path.read_text()), "no place for one"
            continue
        names = {
            node.target.id
            for node in tree.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.isupper()
        }
        functions = {node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
        assert {name.lower() for name in names} == functions, path.name
        assert not any(isinstance(node, ast.Assign) for node in tree.body), f"{path.name}: annotate with Final"
        for node in tree.body:
            if isinstance(node, ast.AsyncFunctionDef):
                used = {item.id for item in ast.walk(node) if isinstance(item, ast.Name) and item.id in names}
                assert used == {node.name.upper()}, f"{path.name}: {node.name} runs {used}"
    assert len(STATEMENTS) > 20


def test_no_statement_is_assembled_from_parts() -> None:
    for path, tree in trees():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.JoinedStr), f"{path.name}:{node.lineno}: an f-string"
            assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod)), (
                f"{path.name}:{node.lineno}: + or %"
            )
            assert not (isinstance(node, ast.Attribute) and node.attr in {"format", "format_map", "replace", "join"}), (
                f"{path.name}:{node.lineno}: .{node.attr}"
            )


def test_sql_imports_nothing_but_the_driver_and_the_standard_library() -> None:
    for path, tree in trees():
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not {module for module in modules if module.partition(".")[0] in {"service", "tests"}}, path.name


@each_statement
def test_a_statement_leaves_nothing_behind_in_the_session(name: str) -> None:
    statement, _ = STATEMENTS[name]

    assert statement.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}
    assert ";" not in statement
    if name in {"SET_SEARCH_PATH", "CONFIGURE"}:
        return  # The pool remembers what it leaves behind.
    if name in {"COMMIT_WITHOUT_WAITING", "USE_CUSTOM_PLANS"}:
        assert "true)" in statement  # for the current transaction only
        return
    left_behind = (
        r"advisory|set_config|setval|\b(LISTEN|NOTIFY|PREPARE|DECLARE|HOLD|TEMP|TEMPORARY|DISCARD|INTO TABLE)\b"
    )
    assert not re.search(left_behind, statement, re.IGNORECASE)


@each_statement
def test_a_statement_names_its_columns(name: str) -> None:
    statement, _ = STATEMENTS[name]

    assert not re.search(r"SELECT\s+\*|\.\*|RETURNING\s+\*|\bpublic\.", statement)


@pytest.mark.not_on_citus("it has no registry")
async def test_the_parameters_and_columns_of_every_statement_match_its_function(connection: Connection) -> None:
    for name, (statement, function) in STATEMENTS.items():
        prepared = await connection.prepare(statement)

        sent = [(parameter.name.removesuffix("[]"), parameter.kind) for parameter in prepared.get_parameters()]
        expected = parameters_of(function)
        assert len(sent) == len(expected), name
        for number, ((type_name, kind), (python_type, many)) in enumerate(zip(sent, expected, strict=True), start=1):
            assert (kind == "array") == many, f"{name} ${number}"
            assert type_name in TYPES[python_type], f"{name} ${number}"

        columns = [(column.name, column.type.name) for column in prepared.get_attributes()]
        row = row_of(function)
        if row is type(None):
            assert columns == [], name
        elif hints := getattr(row, "__annotations__", {}) and get_type_hints(row):
            assert [column for column, _ in columns] == list(hints), name
            for column, type_name in columns:
                hint = without_none(hints[column])
                [item] = get_args(hint) or [None]
                types = TYPES[hint] if item is None else {f"{type}[]" for type in TYPES[item]}
                assert type_name in types, f"{name}: {column}"
        else:
            [(column, type_name)] = columns
            assert type_name in TYPES[row], f"{name}: {column}"


async def test_the_driver_asks_no_abstract_class_about_the_elements_of_an_array(connection: Connection) -> None:
    asked = []

    def note(frame: types.FrameType, kind: str, _: object) -> None:
        if kind == "call" and frame.f_code.co_name == "__instancecheck__":
            asked.append(frame)

    statement = await connection.prepare("SELECT $1::bigint[] AS ids, $2::text[] AS names, $3::json[] AS members")
    for build in (list, tuple):
        sent: tuple[Sequence[object], ...] = (build(range(100)), build(["a", None]), build(["{}"]))
        sys.setprofile(note)
        try:
            row = await statement.fetchrow(*sent)
        finally:
            sys.setprofile(None)
        assert row is not None
        assert [build(column) for column in row] == [*sent]
    assert not asked
    for refused in ("text", 1, {1: 2}):
        with pytest.raises(asyncpg.DataError, match="a sized iterable container expected"):
            await statement.fetch(refused, [], [])


def test_arrays_are_written_in_the_order_of_the_fields() -> None:
    written = []
    for name, (statement, function) in STATEMENTS.items():
        hints = get_type_hints(function, include_extras=True).values()
        rows = [found for hint in hints if (found := rows_of(hint)) is not None]
        if rows:
            listed = re.findall(
                r"(?:INSERT INTO \w+|unnest\([^()]*\)(?: WITH ORDINALITY)?\s+AS \w+) \(([^()]*)\)", statement
            )
            columns = [[column.strip() for column in each.removesuffix(", number").split(",")] for each in listed]
            expected = [arrays + times for _, arrays, times in rows]
            assert columns == expected, name
            numbers = [int(number) for number in re.findall(r"\$([0-9]+)::", statement)]
            assert numbers == list(range(1, len(parameters_of(function)) + 1)), name
            written.append(name)
    assert len(written) >= 5


BESIDE = {"passed_code", "requirement_lost", "reserved_taken"}
"""Columns that are not fields of a row: separate statements write and read them."""


@pytest.mark.parametrize(
    ("table", "row"), [("students", Student), ("courses", Course), ("student_courses", Enrollment), ("events", Event)]
)
async def test_a_field_may_be_none_exactly_if_its_column_may_be_null(
    connection: Connection, table: str, row: type
) -> None:
    rows = await connection.fetch(
        "SELECT column_name, is_nullable FROM information_schema.columns WHERE table_name = $1", table
    )
    nullable = {column: answer == "YES" for column, answer in rows if column not in BESIDE}

    hints = get_type_hints(row)
    assert hints.keys() == nullable.keys()
    assert {name: type(None) in get_args(hint) for name, hint in hints.items()} == nullable


@pytest.mark.not_on_citus("it has no registry")
async def test_every_constraint_is_named_and_maps_to_an_error_or_guards_against_a_bug(
    connection: Connection,
) -> None:
    rows = await connection.fetch(
        """
        SELECT conname
        FROM pg_constraint
        INNER JOIN pg_class ON pg_class.oid = conrelid
        WHERE connamespace IN (current_schema()::regnamespace, 'registry'::regnamespace)
            AND contype <> 'n'
            AND relname NOT LIKE '%yoyo%'
        UNION
        SELECT indexed.relname
        FROM pg_index
        INNER JOIN pg_class ON pg_class.oid = indrelid
        INNER JOIN pg_class AS indexed ON indexed.oid = indexrelid
        WHERE indisunique
            AND pg_class.relnamespace IN (current_schema()::regnamespace, 'registry'::regnamespace)
            AND pg_class.relname NOT LIKE '%yoyo%'
        """
    )
    names = {row[0] for row in rows}

    assert names == GUARDS | CONSTRAINTS.keys()
    assert not GUARDS & CONSTRAINTS.keys()


FILLED = """
INSERT INTO students (external_id, given_name, family_name, email, groups)
SELECT
    'S' || n, 'Ada', 'N' || n, 's' || n || '@campus.example',
    CASE WHEN n % 10 = 7 THEN ARRAY['group:' || n % 200] ELSE '{}' END
FROM generate_series(1, 20000) AS n;
INSERT INTO courses (external_id, code, title, capacity)
SELECT 'C' || n, 'CODE' || n % 1000, 'T', 100 FROM generate_series(1, 10000) AS n;
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
SELECT 1 + n % 20000, 1 + n / 4, CASE n % 5 WHEN 0 THEN 'dropped' ELSE 'enrolled' END, n + 1, now(), now()
FROM generate_series(0, 39999) AS n;
INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at)
SELECT n, 10000, 'waitlisted', 50000 + n, now(), now() FROM generate_series(1, 2000) AS n;
UPDATE student_courses SET recheck_at = CASE WHEN student_id % 100 = 0 THEN now() ELSE '9999-12-31Z' END
WHERE status = 'waitlisted' AND student_id % 2 = 0;
UPDATE student_courses SET requirement_lost = true WHERE status = 'enrolled' AND student_id % 10 = 0;
UPDATE courses SET waitlisted = 2000 WHERE id = 10000;
INSERT INTO events (position, type, occurred_at, request_id, student_id, course_id)
SELECT n, 'enrollment.enrolled', now(), 'r', n, n % 100 FROM generate_series(1, 20000) AS n;
INSERT INTO events (position, type, occurred_at, request_id, course_id)
SELECT n, 'course.updated', now(), 'r', n % 100 FROM generate_series(20001, 22000) AS n;
INSERT INTO terms (code, name, starts_on, ends_on)
SELECT 'T' || n, 'Term', now(), now() FROM generate_series(1, 5000) AS n;
UPDATE courses SET term_id = 1 + id / 11;
INSERT INTO requirements (course_id, kind, group_number, code)
SELECT n, 'pre', 1, 'X' FROM generate_series(1, 10000) AS n;
INSERT INTO equivalences (created_at) SELECT now() FROM generate_series(1, 2000);
INSERT INTO equivalent_codes (equivalence_id, code)
SELECT 1 + n / 2, 'E' || n FROM generate_series(0, 3999) AS n;
INSERT INTO holds (student_id, reason, blocks_enroll, blocks_drop, created_at)
SELECT n, 'fees', true, true, now() FROM generate_series(1, 10000) AS n;
INSERT INTO overrides (student_id, course_id, rule, author, reason, created_at)
SELECT n, n, 'hold', 'dean', 'so', now() FROM generate_series(1, 10000) AS n;
INSERT INTO instructors (external_id, sourced_id, family_name, email)
SELECT 'I' || n, 'I' || n, 'N', 'i' || n || '@campus.example' FROM generate_series(1, 5000) AS n;
INSERT INTO course_instructors (course_id, instructor_id, teaches, is_primary, updated_at)
SELECT 1 + n / 2, 1 + n % 5000, true, n % 2 = 0, now() FROM generate_series(0, 19999) AS n;
INSERT INTO api_keys (name, scopes, secret_hash, created_at)
SELECT 'K' || n, '{read}', '', now() FROM generate_series(1, 5000) AS n;
INSERT INTO institutions (name, schema_name, display_name, time_zone, state, revision, created_at, changed_at, swept_at)
SELECT 'i' || n, 'i' || n, 'I', 'UTC', 'active', n, now(), now(), now() FROM generate_series(1, 5000) AS n;
ANALYZE institutions, registry, api_keys, students, courses, student_courses, events, feed, terms, requirements, holds, overrides,
instructors, course_instructors, equivalences, equivalent_codes;
INSERT INTO imports (source, state, name, options, created_at, updated_at)
SELECT 'S', 'done', 'N', '{}', now(), now() FROM generate_series(1, 5000) AS n;
INSERT INTO import_rows (import_id, kind, number, key, removed, fields, file, line, file_column, action, row_id, other_id)
SELECT
    1 + n % 20, CASE n % 2 WHEN 0 THEN 'student' ELSE 'enrollment' END, n, 'S' || n, false, '{}', 'F', n, '',
    CASE n % 5 WHEN 0 THEN 'refused' ELSE 'add' END, CASE WHEN n % 5 > 0 THEN n END, 0
FROM generate_series(1, 10000) AS n;
INSERT INTO source_rows (source, kind, key, row_id, other_id)
SELECT 'S' || n % 5, CASE n % 2 WHEN 0 THEN 'student' ELSE 'enrollment' END, 'S' || n, n, n % 2
FROM generate_series(1, 10000) AS n;
INSERT INTO exports (format, state, created_at, updated_at)
SELECT 'plain', 'done', now(), now() FROM generate_series(1, 5000) AS n;
ANALYZE imports, import_rows, source_rows, exports;
INSERT INTO merged_students (student_id, merged_into, external_id, names, merged_at)
SELECT 100000 + n, n, 'M' || n, '["Ada"]', now() FROM generate_series(1, 5000) AS n;
"""
"""Enough rows in each table that PostgreSQL prefers an index where one fits."""
BIG_TABLES = {
    *("students", "courses", "student_courses", "events", "requirements", "holds", "overrides", "institutions"),
    *("instructors", "course_instructors", "import_rows", "source_rows"),
}
INDEXES = {
    "ADD_EXPORT": set(),
    "GET_EXPORT": {"exports_pkey"},
    "HAS_EXPORTS_TO_RUN": {"exports_pending_idx"},
    "CLAIM_EXPORT": {"exports_pending_idx", "exports_pkey"},
    "RENEW_EXPORT": {"exports_pending_idx"},
    "FINISH_EXPORT": {"exports_pending_idx"},
    "EXPIRE_EXPORTS": set(),
    "DELETE_EXPORT": {"exports_pkey"},
    "GET_NEWEST_POSITION": {"events_pkey"},
    "LIST_COURSES_TO_EXPORT": {"courses_pkey"},
    "LIST_TEACHINGS_TO_EXPORT": {"course_instructors_pkey", "instructors_pkey"},
    "LIST_ENROLLMENTS_TO_EXPORT": {"student_courses_pkey", "students_pkey"},
    "LOAD_ENROLLMENTS_TO_EXPORT": {"student_courses_pkey", "students_pkey"},
    "LOAD_TEACHINGS_TO_EXPORT": {"course_instructors_pkey", "instructors_pkey"},
    "LIST_CHANGED_ROWS": {"events_pkey"},
    "ADD_IMPORT": set(),
    "GET_IMPORT": {"imports_pkey"},
    "LIST_IMPORTS": {"imports_pkey"},
    "HAS_IMPORTS_TO_RUN": {"imports_pending_idx"},
    "CLAIM_IMPORT": {"imports_pending_idx", "imports_pkey"},
    "RELEASE_IMPORT": {"imports_pkey"},
    "SAVE_IMPORT_PROGRESS": {"imports_pending_idx"},
    "FINISH_IMPORT": {"imports_pending_idx"},
    "CONFIRM_IMPORT": {"imports_pkey"},
    "CANCEL_IMPORT": {"imports_pkey"},
    "ADD_IMPORT_ROWS": set(),
    "DELETE_IMPORT_ROWS": {"import_rows_pkey"},
    "LIST_IMPORT_ROWS": {"import_rows_pkey"},
    "LIST_ROWS_TO_APPLY": {"import_rows_action_idx"},
    "LIST_ROWS_BY_ACTION": {"import_rows_action_idx"},
    "SAVE_PLANNED_ROWS": {"import_rows_pkey"},
    "COUNT_IMPORT_ROWS": {"import_rows_pkey"},
    "COUNT_REFUSED_ROWS": {"import_rows_action_idx"},
    "LIST_LISTED_ENROLLMENTS": {
        "import_rows_key_idx",
        "import_rows_row_id_idx",
        "source_rows_pkey",
        "source_rows_row_id_idx",
        "student_courses_pkey",
    },
    "LIST_LISTED_TEACHINGS": {
        "course_instructors_instructor_id_idx",
        "import_rows_key_idx",
        "import_rows_row_id_idx",
        "source_rows_pkey",
        "source_rows_row_id_idx",
    },
    "COUNT_SOURCE_ROWS": {"source_rows_pkey"},
    "SAVE_SOURCE_ROWS": {"source_rows_pkey"},
    "DELETE_SOURCE_ROWS": {"source_rows_pkey"},
    "DELETE_IMPORT": {"imports_pkey"},
    "ERASE_IMPORT_ROWS": {"import_rows_pkey", "import_rows_row_id_idx"},
    "ERASE_SOURCE_ROWS": {"source_rows_row_id_idx"},
    "GET_MARK": {"events_pkey"},
    "FIND_REPEATED_ROWS": {"import_rows_key_idx"},
    "FIND_STAGED_KEYS": {"import_rows_key_idx"},
    "FIND_INSTRUCTORS_BY_KEY": {
        "instructors_external_id_key",
        "instructors_pkey",
        "instructors_sourced_id_key",
        "source_rows_pkey",
    },
    "FIND_COURSES_BY_KEY": {"courses_external_id_key", "courses_pkey", "source_rows_pkey"},
    "FIND_TERMS_BY_KEY": {"source_rows_pkey", "terms_code_key", "terms_pkey"},
    "FIND_STUDENTS_BY_KEY": {
        "merged_students_external_id_idx",
        "merged_students_pkey",
        "source_rows_pkey",
        "students_external_id_key",
        "students_pkey",
        "students_sourced_id_key",
    },
    "NEXT_REVISION": set(),
    "CREATE_INSTITUTION": {"institutions_name_key"},
    "GET_INSTITUTION": {"institutions_name_key"},
    "SAVE_INSTITUTION": {"institutions_name_key"},
    "LIST_INSTITUTIONS": {"institutions_pkey"},
    "LIST_CHANGED_INSTITUTIONS": {"institutions_revision_key"},
    "CLAIM_SWEEPS": {"institutions_pkey", "institutions_swept_at_idx"},
    "GET_STUDENT": {"students_pkey"},
    "LIST_STUDENTS": {"students_pkey"},
    "FIND_STUDENTS": {"students_pkey", "students_email_key", "students_external_id_key", "students_groups_idx"},
    "SEARCH_STUDENTS": {
        "students_family_name_search_idx",
        "students_given_name_search_idx",
        "students_preferred_name_search_idx",
    },
    "FIND_STUDENTS_BY_EXTERNAL_ID": {"students_external_id_key"},
    "LOAD_STUDENTS": {"students_pkey"},
    "MATCH_STUDENTS": {"students_external_id_key", "students_email_key"},
    "MATCH_STUDENTS_BY_SOURCED_ID": {"students_sourced_id_key"},
    "SAVE_STUDENTS": {"students_pkey"},
    "DELETE_STUDENTS": {"students_pkey"},
    "RESERVE_STUDENT_IDS": set(),
    "GET_INSTRUCTOR": {"instructors_pkey"},
    "LIST_INSTRUCTORS": {"instructors_pkey"},
    "FIND_INSTRUCTORS_BY_EMAIL": {"instructors_email_key"},
    "FIND_INSTRUCTORS_BY_EXTERNAL_ID": {"instructors_external_id_key"},
    "LOAD_INSTRUCTORS": {"instructors_pkey"},
    "MATCH_INSTRUCTORS": {"instructors_external_id_key", "instructors_email_key"},
    "MATCH_INSTRUCTORS_BY_SOURCED_ID": {"instructors_sourced_id_key"},
    "SAVE_INSTRUCTORS": {"instructors_pkey"},
    "DELETE_INSTRUCTORS": {"instructors_pkey"},
    "RESERVE_INSTRUCTOR_IDS": set(),
    "LOAD_COURSE_INSTRUCTORS": {"course_instructors_pkey"},
    "LOAD_INSTRUCTORS_IN_USE": {"course_instructors_instructor_id_idx"},
    "SAVE_COURSE_INSTRUCTORS": {"course_instructors_pkey"},
    "LIST_COURSES_OF_INSTRUCTOR": {"course_instructors_instructor_id_idx"},
    "LIST_COURSES_OF_INSTRUCTOR_IN_TERM": {"course_instructors_instructor_id_idx", "courses_term_id_idx"},
    "LOAD_IDEMPOTENCY_KEYS": {"idempotency_keys_pkey"},
    "ADD_IDEMPOTENCY_KEYS": set(),
    "DELETE_IDEMPOTENCY_KEYS": {"idempotency_keys_created_at_idx"},
    "LOAD_KEPT_STUDENTS": {"students_pkey", "merged_students_pkey"},
    "ADD_REFUSALS": set(),
    "LIST_REFUSALS_OF_STUDENT": {"refusals_student_id_idx"},
    "LIST_REFUSALS_OF_COURSE": {"refusals_course_id_idx"},
    "COUNT_REFUSALS": {"refusals_pkey", "courses_term_id_idx"},
    "DELETE_REFUSALS": {"refusals_pkey"},
    "COMMIT_WITHOUT_WAITING": set(),
    "ERASE_REFUSALS": {"refusals_student_id_idx"},
    "GET_COURSE": {"courses_pkey"},
    "LIST_COURSES": {
        "courses_pkey",
        "courses_external_id_key",
        "courses_code_idx",
        "courses_term_id_idx",
        "course_instructors_instructor_id_idx",
    },
    "SORT_COURSES": {
        "courses_pkey",
        "courses_code_search_idx",
        "courses_title_search_idx",
        "courses_term_id_code_search_idx",
    },
    "FIND_COURSES_BY_EXTERNAL_ID": {"courses_external_id_key"},
    "LOAD_COURSES": {"courses_pkey"},
    "LOAD_RESERVED_SEATS": {"courses_pkey"},
    "SET_RESERVED_SEATS": {"courses_pkey"},
    "MATCH_COURSES": {"courses_external_id_key", "courses_term_id_code_section_key"},
    "LOAD_PROMOTABLE": {
        "courses_waitlisted_idx",
        "overrides_course_id_idx",
        "student_courses_course_id_idx",
        "student_courses_unjudged_idx",
        "terms_pkey",
    },
    "LOAD_WAITLISTED_COURSES": {"courses_waitlisted_idx"},
    "LOAD_UNJUDGED": {"student_courses_unjudged_idx", "student_courses_recheck_at_idx"},
    "LOAD_PLACES": {"student_courses_waitlisted_idx"},
    "LOAD_SWAPS_OF_MEMBERS": {"student_courses_waitlisted_idx", "student_courses_course_id_idx"},
    "COUNT_POSITIONS": {"student_courses_waitlist_idx"},
    "LOAD_OVERRIDE_HOLDERS": {"overrides_course_id_idx"},
    "UNJUDGE_COURSES": {"student_courses_waitlist_idx", "courses_waitlisted_idx", "terms_parent_id_idx"},
    "UNJUDGE_MEMBERS": {
        "courses_term_id_idx",
        "student_courses_course_id_idx",
        "student_courses_waitlisted_idx",
    },
    "UNJUDGE_STUDENTS": {"student_courses_waitlisted_idx"},
    "LOAD_PARTNER_PLACES": {
        *("student_courses_waitlist_idx", "student_courses_waitlisted_idx", "courses_pkey", "overrides_course_id_idx"),
    },
    "UNJUDGE_RESERVED": {"student_courses_waitlist_idx", "student_courses_pkey", "students_pkey"},
    "UNJUDGE_DUE": {"student_courses_recheck_at_idx", "student_courses_pkey"},
    "IS_ANY_DUE": {"student_courses_recheck_at_idx"},
    "LOAD_ENDED": {"courses_waitlisted_idx", "student_courses_waitlist_idx", "terms_pkey"},
    "GET_EQUIVALENCE": {"equivalences_pkey", "equivalent_codes_pkey"},
    "LIST_EQUIVALENCES": {"equivalences_pkey", "equivalent_codes_pkey"},
    "FIND_EQUIVALENCES_BY_CODE": {"equivalences_pkey", "equivalent_codes_pkey", "equivalent_codes_code_key"},
    "RESERVE_EQUIVALENCE_IDS": set(),
    "ADD_EQUIVALENCES": set(),
    "ADD_EQUIVALENT_CODES": set(),
    "ADD_GRADES": set(),
    "DELETE_EQUIVALENCES": {"equivalences_pkey"},
    "UNJUDGE_EQUIVALENT": {
        "requirements_code_idx",
        "courses_waitlisted_idx",
        "courses_pkey",
        "student_courses_waitlist_idx",
        "student_courses_pkey",
    },
    "GET_TERM": {"terms_pkey"},
    "LIST_TERMS": {"terms_pkey"},
    "LOAD_TERMS": {"terms_pkey"},
    "MATCH_TERMS": {"terms_code_key", "terms_parent_id_idx", "terms_pkey"},
    "SUM_UP_COURSES": {"courses_term_id_idx"},
    "LIST_WAITLISTED_COURSES": {"courses_waitlisted_idx"},
    "LOAD_TERMS_IN_USE": {"courses_term_id_idx", "terms_parent_id_idx"},
    "SAVE_TERMS": {"terms_pkey"},
    "DELETE_TERMS": {"terms_pkey"},
    "RESERVE_TERM_IDS": set(),
    "LOAD_REQUIREMENTS": {"requirements_pkey", "requirements_code_idx", "requirements_in_progress_idx"},
    "LOAD_LOST_REQUIREMENTS": {"student_courses_pkey"},
    "LOAD_LOST_OF_COURSES": {"student_courses_requirement_lost_idx"},
    "SET_LOST_REQUIREMENTS": {"student_courses_pkey"},
    "LIST_LOST_OF_COURSE": {"student_courses_requirement_lost_idx", "students_pkey"},
    "FIND_DEPENDENTS": {"requirements_code_idx"},
    "LOAD_MIN_GRADES": {"requirements_min_grade_idx"},
    "LOAD_GRADES": {"grades_pkey"},
    "CLEAR_REQUIREMENTS": {"requirements_pkey"},
    "ADD_REQUIREMENTS": set(),
    "LIST_HOLDS": {"holds_student_id_idx"},
    "LOAD_HOLDS": {"holds_student_id_idx"},
    "FIND_HOLDS": {"holds_pkey"},
    "SAVE_HOLDS": {"holds_pkey"},
    "RESERVE_HOLD_IDS": set(),
    "LIST_OVERRIDES": {"overrides_student_id_idx"},
    "LOAD_OVERRIDES": {"overrides_student_id_idx"},
    "FIND_OVERRIDES": {"overrides_pkey"},
    "SAVE_OVERRIDES": {"overrides_pkey"},
    "RESERVE_OVERRIDE_IDS": set(),
    "LIST_WAITLIST": {"student_courses_waitlist_idx", "students_pkey"},
    "LOAD_ROSTER": {"student_courses_course_id_idx"},
    "LIST_EVENTS": {"events_pkey", "students_pkey", "courses_pkey"},
    "LIST_HISTORY": {
        "events_student_id_course_id_idx",
        "students_pkey",
        "courses_pkey",
        "merged_students_merged_into_idx",
        "merged_students_pkey",
    },
    "LIST_MARKS": {"events_pkey"},
    "LIST_MATCHING_EVENTS": {"events_pkey", "students_pkey", "courses_pkey"},
    "LIST_MATCHING_EVENTS_OF_STUDENT": {
        "events_student_id_course_id_idx",
        "events_pkey",
        "students_pkey",
        "courses_pkey",
    },
    "GET_NOW": set(),
    "LIST_CREDITS_OF_STUDENT": {"student_courses_pkey", "courses_pkey", "terms_pkey"},
    "GET_WRITER_AGE": set(),
    "GET_PID": set(),
    "IS_READ_ONLY": set(),
    "TRY_TO_WRITE": set(),
    "GET_ACTIVITY": {"pg_class_relname_nsp_index"},
    "GET_TOTALS": {"events_pkey", "courses_waitlisted_idx", "student_courses_unjudged_idx"},
    "GET_SWEEP_AGE": {"institutions_swept_at_idx"},
    "RENEW_EPOCH": set(),
    "GET_HOME": set(),
    "GET_SERVER": set(),
    "SAVE_COURSES": {"courses_pkey"},
    "DELETE_COURSES": {"courses_pkey"},
    "RESERVE_COURSE_IDS": set(),
    "LOAD_ENROLLMENTS": {"student_courses_pkey"},
    "LOAD_TRANSCRIPTS": {
        "students_pkey",
        "student_courses_pkey",
        "student_courses_passed_code_idx",
        "holds_student_id_idx",
        "overrides_student_id_idx",
    },
    "LOAD_PASSED_CODES": {"student_courses_passed_code_idx"},
    "KEEP_PASSED_CODES": {"student_courses_course_id_idx"},
    "CLEAR_PASSED_CODES": {"student_courses_pkey"},
    "SET_PASSED_CODES": {"student_courses_pkey"},
    "LOAD_MERGED_STUDENTS": {"merged_students_pkey", "merged_students_external_id_idx"},
    "LOAD_DUPLICATES": {"merged_students_merged_into_idx"},
    "LIST_DUPLICATES": {"merged_students_merged_into_idx"},
    "SAVE_MERGED_STUDENTS": {"merged_students_pkey"},
    "ERASE_MERGED_STUDENTS": {"merged_students_merged_into_idx"},
    "LOAD_ENROLLMENTS_OF_STUDENTS": {"student_courses_pkey"},
    "LOAD_HOLDS_OF_STUDENTS": {"holds_student_id_idx"},
    "LOAD_OVERRIDES_OF_STUDENTS": {"overrides_student_id_idx"},
    "MOVE_HOLDS": {"holds_student_id_idx"},
    "MOVE_OVERRIDES": {"overrides_student_id_idx"},
    "MOVE_REFUSALS": {"refusals_student_id_idx"},
    "DELETE_MERGED_ENROLLMENTS": set(),
    "LOAD_DEFINITIONS": {"courses_pkey"},
    "LOAD_EDITS": {"events_pkey", "events_edits_idx"},
    "LOAD_STUDENTS_IN_USE": {"student_courses_pkey", "merged_students_merged_into_idx"},
    "LOAD_COURSES_IN_USE": {"student_courses_course_id_idx"},
    "INSERT_ENROLLMENTS": {"courses_pkey"},
    "ADD_ENROLLMENTS": set(),
    "SET_SEATS": {"courses_pkey"},
    "UPDATE_ENROLLMENTS": {"student_courses_pkey"},
    "LIST_COURSES_OF_STUDENTS": {
        "student_courses_pkey",
        "courses_pkey",
        "student_courses_waitlist_idx",
        "student_courses_waitlisted_idx",
    },
    "LIST_COURSES_OF_STUDENTS_NOT_WAITING": {
        "student_courses_pkey",
        "courses_pkey",
        "student_courses_waitlisted_idx",
    },
    "LIST_STUDENTS_OF_COURSES": {"student_courses_course_id_idx", "students_pkey"},
    "LIST_ENROLLMENTS": {"student_courses_pkey", "students_pkey", "courses_pkey"},
    "LIST_ENROLLMENTS_OF_COURSES": {
        "courses_pkey",
        "courses_term_id_idx",
        "student_courses_course_id_idx",
        "students_pkey",
    },
    "LOCK_FEED": set(),
    "GET_EPOCH": {"events_pkey"},
    "LOAD_SEATS": {"courses_pkey"},
    "LOAD_OPENING": {
        "students_pkey",
        "student_courses_pkey",
        "student_courses_passed_code_idx",
        "holds_student_id_idx",
        "overrides_student_id_idx",
        "events_pkey",
        "courses_pkey",
    },
    "APPEND_EVENTS": set(),
    "LIST_HELD_ENROLLMENTS": {"student_courses_pkey", "courses_pkey"},
    "LIST_EVENTS_OF_STUDENT": {
        "events_student_id_course_id_idx",
        "events_pkey",
        "students_pkey",
        "courses_pkey",
        "merged_students_merged_into_idx",
    },
    "ERASE_HOLDS": {"holds_student_id_idx"},
    "ERASE_IDEMPOTENCY_KEYS": {"idempotency_keys_student_ids_idx"},
    "ERASE_OVERRIDES": {"overrides_student_id_idx"},
    "REDACT_EVENTS": set(),
    "ADD_TOMBSTONES": set(),
    "ERASE_TOMBSTONES": {"tombstones_pkey"},
    "LOAD_TOMBSTONES": {"tombstones_pkey"},
    "DELETE_TOMBSTONES": {"tombstones_deleted_at_idx", "tombstones_pkey"},
    "LIST_API_KEYS": {"api_keys_pkey"},
    "CREATE_API_KEY": set(),
    "ROTATE_API_KEY": {"api_keys_pkey"},
    "REVOKE_API_KEY": {"api_keys_pkey"},
    "NOTE_USED_API_KEYS": {"api_keys_pkey"},
    "LIST_WEBHOOKS": {"webhooks_pkey"},
    "GET_WEBHOOK": {"webhooks_pkey"},
    "CREATE_WEBHOOK": set(),
    "EDIT_WEBHOOK": {"webhooks_pkey"},
    "ROTATE_WEBHOOK": {"webhooks_pkey"},
    "RESTART_WEBHOOK": {"webhooks_pkey"},
    "DELETE_WEBHOOK": {"webhooks_pkey"},
    "SAVE_PROGRESS": {"webhooks_pkey"},
    "ADD_WEBHOOK_ATTEMPTS": set(),
    "DELETE_WEBHOOK_ATTEMPTS": {"webhook_attempts_pkey"},
    "LIST_WEBHOOK_ATTEMPTS": {"webhook_attempts_pkey"},
    "NOTE_WEBHOOK_CHANGE": {"webhook_leases_pkey"},
    "LIST_WEBHOOK_LEASES": {"webhook_leases_pkey"},
    "CLAIM_WEBHOOK_LEASES": {"webhook_leases_pkey"},
    "RELEASE_WEBHOOK_LEASES": {"webhook_leases_pkey"},
    "DELETE_WEBHOOK_LEASE": {"webhook_leases_pkey"},
}
"""The indexes that the plan of each statement of a request must use. Those of ``check`` read everything on purpose."""


SORTED = {
    "LOAD_PARTNER_PLACES",
    "LOAD_UNJUDGED",
    "LOAD_ENDED",
    "LIST_COURSES_OF_STUDENTS",
    "COUNT_POSITIONS",
    "LOAD_REQUIREMENTS",
    "LIST_EVENTS_OF_STUDENT",
    "LIST_HISTORY",
    "LIST_MATCHING_EVENTS_OF_STUDENT",
    "LIST_COURSES",
    "LIST_ENROLLMENTS_OF_COURSES",
    "LIST_CREDITS_OF_STUDENT",
    "LIST_WAITLISTED_COURSES",
    "COUNT_REFUSALS",
}
"""Statements that sort a few rows: rows that are due, the requested waitlist places, requirements, the events of one
student and their terms, the course with an external id, the enrollments in one course, the courses of a term with a waitlist,
and the counts of refusals."""

WIDE = {"CONFIGURE", "COUNT_WEBHOOKS", "LIST_BLOCKED", "LOAD_EQUIVALENCES", "CLEAR_GRADES", "SET_SEARCH_PATH"}
"""Statements without an index: one reads all blocked students on purpose, for ``check``, one all equivalent codes, which the
catalog remembers, one counts the webhooks, which have a limit, and one deletes all grades; the others read no table."""


PLANNED_PER_CALL = {
    *("USE_CUSTOM_PLANS", "LIST_ROSTER_USERS", "LIST_ROSTER_CLASSES", "LIST_ROSTER_COURSES"),
    *("LIST_ROSTER_ENROLLMENTS", "LIST_ROSTER_SESSIONS"),
}
"""Statements that are planned for the parameters of each call; tests/oneroster_plans.py checks their plans."""


COVERED = {"LOAD_TRANSCRIPTS", "LOAD_OPENING", "LIST_COURSES_OF_STUDENTS"}
"""Statements that read all rows of a student from the index alone, because each row is on a different page."""


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Yield a connection that finds the tables of an institution and those of the registry."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": f"public, {REGISTRY}"})
    yield connection
    await connection.close()


@asynccontextmanager
async def session_of(settings: Settings, database_url: str) -> AsyncIterator[Connection]:
    """Yield a session with the settings of the service, which affect the plans, and the role of the owner."""
    owner = settings.model_copy(update={"database_url": database_url})
    async with opened(owner) as database, database.reading() as connection:
        await connection.execute(f"SET search_path TO public, {REGISTRY}")
        yield connection


@pytest.fixture
async def session(settings: Settings, database_url: str) -> AsyncIterator[Connection]:
    """Yield a session in an empty database."""
    async with session_of(settings, database_url) as session:
        yield session


@pytest.fixture(scope="module")
def filled(server: Server, admin: psycopg.Connection[Any]) -> Iterator[str]:
    """Yield the name of a filled database, of which each test gets a copy: to fill one takes two seconds."""
    for url in clone(server, admin, server.template):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"SET search_path TO public, {REGISTRY}")
            connection.execute(FILLED)
        yield urlsplit(url).path[1:]


@pytest.fixture
async def filled_session(
    settings: Settings, server: Server, admin: psycopg.Connection[Any], filled: str
) -> AsyncIterator[Connection]:
    """Yield a session in a filled database, where a busy machine may need more time than the service has for a statement."""
    with contextmanager(clone)(server, admin, filled) as url:
        async with session_of(settings, url) as session:
            await session.execute("SET statement_timeout = 0")
            yield session


@pytest.mark.not_on_citus("the plans are those of the node that holds the schema")
async def test_every_statement_of_a_request_uses_an_index(filled_session: Connection) -> None:
    session = filled_session
    await session.execute("VACUUM student_courses")
    requested = (
        {name for name in STATEMENTS if not name.startswith("FIND_") or name in INDEXES} - WIDE - PLANNED_PER_CALL
    )
    assert requested == INDEXES.keys()

    for name, indexes in INDEXES.items():
        statement, _ = STATEMENTS[name]
        count = len((await session.prepare(statement)).get_parameters())
        await session.execute(f"PREPARE statement AS {statement}")
        nulls = f"({', '.join(['NULL'] * count)})" if count else ""
        text = await session.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE statement{nulls}")
        await session.execute("DEALLOCATE statement")
        found = list(nodes(json.loads(text)[0]["Plan"]))

        used = {node["Index Name"] for node in found if "Index Name" in node}
        used |= {index for node in found for index in node.get("Conflict Arbiter Indexes", [])}
        if "courses_term_id_code_search_idx" not in indexes:
            # Where only the term matters, the two indexes that begin with it cost the same.
            used = {"courses_term_id_idx" if each == "courses_term_id_code_search_idx" else each for each in used}
        looked_up = {node["Index Name"] for node in found if node["Node Type"] == "Index Scan"}
        assert name not in COVERED or "student_courses_pkey" not in looked_up, (name, text)
        scanned = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
        assert used == indexes, (name, text)
        assert not scanned & BIG_TABLES, (name, text)
        assert name in SORTED or not [node for node in found if node["Node Type"] == "Sort"], (name, text)


def literal(value: object) -> str:
    """Return a value of a parameter as SQL."""
    if value is None:
        return "NULL"
    text = f"{{{','.join(map(str, value))}}}" if isinstance(value, list) else str(value)
    return f"'{text}'"


async def rows_visited(session: Connection, name: str, arguments: Sequence[object]) -> int:
    """Run a statement, and return how many rows of tables and indexes it visited; none may be of a scan of a big table."""
    statement, function = STATEMENTS[name]
    assert len(arguments) == len(inspect.signature(function).parameters) - 1
    literals = ", ".join(map(literal, arguments))
    await session.execute(f"PREPARE statement AS {statement}")
    text = await session.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE statement({literals})")
    await session.execute("DEALLOCATE statement")
    run = [node for node in nodes(json.loads(text)[0]["Plan"]) if node["Actual Loops"] and "Scan" in node["Node Type"]]
    assert not [node for node in run if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG_TABLES], text
    visited = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    of_tables = [node for node in run if "Relation Name" in node]
    return sum(round(node["Actual Loops"] * sum(node.get(each, 0) for each in visited)) for node in of_tables)


def combinations_of(filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each subset of the filters, with None for the others."""
    for chosen in product((False, True), repeat=len(filters)):
        yield {name: value if is_sent else None for (name, value), is_sent in zip(filters.items(), chosen, strict=True)}


@pytest.mark.not_on_citus("the plans are those of the node that holds the schema")
async def test_every_combination_of_filters_visits_few_rows(filled_session: Connection) -> None:
    session = filled_session
    await session.execute("VACUUM student_courses, courses, students")
    limit, scanned = 50, SCANNED_ROWS
    found = {
        "external_id": "S7",
        "email": "s7@campus.example",
        "ids": [*range(1, 101)],
        "text": "n1",
        "group": "group:7",
    }
    for filters in combinations_of(found):
        if filters["external_id"] or filters["email"] or filters["ids"] or filters["group"]:
            visited = await rows_visited(session, "FIND_STUDENTS", [0, limit, *filters.values()])
            assert visited <= 202, filters
    for prefix, after_key in product(("", "ada n1", "n", "x"), ("", "n19999 ada")):
        assert await rows_visited(session, "SEARCH_STUDENTS", [prefix, after_key, 0, limit]) <= 2 * limit, prefix

    # Filters that many courses match, and filters that hardly one does: then the page ends early.
    for status, has_free_seats, text in product(("open", "cancelled", None), (True, False, None), ("t", "no", None)):
        rest: list[object] = [status, has_free_seats, text]
        by = {"external_id": "C7", "ids": [*range(1, 101)], "code": "code7", "term_id": 7, "instructor_id": 7}
        for named in combinations_of(by):
            *firsts, instructor_id = named.values()
            visited = await rows_visited(session, "LIST_COURSES", [0, scanned, limit, *firsts, *rest, instructor_id])
            assert visited <= (3 * scanned if named["ids"] is None else 400), (named, rest)
        for term_id in (7, None):
            arguments: list[object] = ["", 0, scanned, limit, text or "", term_id, status, has_free_seats]
            assert await rows_visited(session, "SORT_COURSES", arguments) <= 6 * scanned, arguments

    for state, since in product((["enrolled"], ["completed"], None), ("2020-01-01Z", "2099-01-01Z", None)):
        for ids in combinations_of({"student_id": 7, "course_id": 7, "term_id": 7}):
            tests: list[object] = [state, since]
            after = [ids["student_id"] or 0, 0]
            visited = await rows_visited(session, "LIST_ENROLLMENTS", [*after, scanned, limit, *ids.values(), *tests])
            assert visited <= 5 * scanned, (ids, tests)
            if ids["course_id"] or ids["term_id"]:
                chosen: list[object] = [
                    ids["course_id"] or 0,
                    0,
                    scanned,
                    limit,
                    ids["course_id"],
                    ids["term_id"],
                    *tests,
                ]
                assert await rows_visited(session, "LIST_ENROLLMENTS_OF_COURSES", chosen) <= 3 * scanned, chosen

    await Plans(session, STATEMENTS, nodes).check()


@pytest.mark.not_on_citus("the plans are those of the node that holds the schema")
async def test_every_combination_of_filters_of_the_feed_visits_few_events(filled_session: Connection) -> None:
    session = filled_session
    await session.execute("VACUUM events, courses, students")
    limit, scanned = 50, 2000
    for after in (0, 10_000, 20_000):
        for chosen in (["course.updated"], ["enrollment.enrolled", "course.updated"], ["term.created"], None):
            for ids in combinations_of({"student_id": 7, "course_id": 7, "term_id": 1}):
                arguments: list[object] = [after, after + scanned, limit, chosen, *ids.values()]
                visited = await rows_visited(session, "LIST_MATCHING_EVENTS", arguments)
                # Each event looks up its course if the term matters; each match looks up its student and course twice.
                assert visited <= scanned * (2 if ids["term_id"] else 1) + 4 * limit, (after, chosen, ids)
                if ids["student_id"]:
                    arguments[1] = 22_000
                    visited = await rows_visited(session, "LIST_MATCHING_EVENTS_OF_STUDENT", arguments)
                    assert visited <= 10, (after, chosen, ids)


@pytest.mark.not_on_citus("the plans are those of the node that holds the schema")
async def test_answers_are_found_by_the_index_after_a_night_that_emptied_their_table(session: Connection) -> None:
    await session.execute(
        """
        INSERT INTO idempotency_keys (caller, key, fingerprint, student_ids, status, headers, body, created_at)
        SELECT '', number::text, '', '', 201, '{}', '', now() - interval '2 days'
        FROM generate_series(1, 1000) AS number
        """
    )
    assert len(await delete_idempotency_keys(session, timedelta(days=1), 2000)) == 1000
    await session.execute("VACUUM (ANALYZE) idempotency_keys")
    assert await session.fetchval("SELECT reltuples FROM pg_class WHERE relname = 'idempotency_keys'") == 0

    await session.execute(f"PREPARE statement AS {STATEMENTS['LOAD_IDEMPOTENCY_KEYS'][0]}")
    text = await session.fetchval("EXPLAIN (FORMAT JSON) EXECUTE statement(NULL, NULL)")
    [scan] = [node for node in nodes(json.loads(text)[0]["Plan"]) if "Relation Name" in node]
    assert (scan["Node Type"], scan.get("Index Name")) == ("Index Scan", "idempotency_keys_pkey"), text
    assert scan["Index Cond"] == "((caller = requested.caller) AND (key = requested.key))"


async def test_statements_without_columns_return_no_rows(connection: Connection) -> None:
    """The driver writes past the end of a row without columns when it frees it."""
    without = [
        name for name, (statement, _) in STATEMENTS.items() if re.match(r"\s*SELECT\s+(FROM|WHERE)\b", statement)
    ]
    # In a query that also begins a transaction, the driver makes no rows.
    assert without == ["LOCK_FEED", "CONFIGURE", "SET_SEARCH_PATH"]

    transaction = connection.transaction()
    await transaction.start()
    assert await connection.fetch(CONFIGURE, ["lock_timeout", "jit"], ["7s", "off"]) == []
    assert await connection.fetchval("SHOW lock_timeout") == "7s"
    assert await connection.fetch(SET_SEARCH_PATH, ["one", "two words"]) == []
    assert await connection.fetchval("SHOW search_path") == 'one, "two words"'
    await transaction.rollback()


@pytest.mark.not_on_citus("INSERT_ENROLLMENTS is not used there")
async def test_no_statement_changes_its_session(connection: Connection) -> None:
    async def session() -> list[tuple[object, ...]]:
        rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name")
        held = await connection.fetch(
            "SELECT locktype FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        temporary = await connection.fetch("SELECT relname FROM pg_class WHERE relpersistence = 't'")
        cursors = await connection.fetch("SELECT name FROM pg_cursors")
        return [tuple(row) for row in (*rows, *held, *temporary, *cursors)]

    statements = [await connection.prepare(statement) for statement, _ in STATEMENTS.values()]
    before = await session()
    for prepared in statements:
        nothing: list[list[object] | None] = [
            [] if parameter.kind == "array" else None for parameter in prepared.get_parameters()
        ]
        if not re.search("generate_series|search_path", prepared.get_query()):
            with suppress(asyncpg.NotNullViolationError):
                await prepared.fetch(*nothing)

    assert await session() == before
    assert not connection.is_in_transaction()
