"""Migrations: up and down, with rows, interrupted, and by many processes at once."""

import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from yoyo import get_backend, read_migrations

import service.migrate
from service.fitness import UnfitDatabase
from service.migrate import MIGRATIONS, REGISTRY_MIGRATIONS, DatabaseUnavailable, MigrationFailed, migrate, migrate_to
from tests.conftest import Server, clone

Connection = psycopg.Connection[Any]
Rows = dict[str, list[tuple[Any, ...]]]


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.sql") if not path.stem.endswith(".rollback"))


NAMES = names_in(MIGRATIONS)
FOLDER_OF = {name: folder for folder in (MIGRATIONS, REGISTRY_MIGRATIONS) for name in names_in(folder)}
"""The folder of each migration, of an institution or of the registry."""
each_folder = pytest.mark.parametrize("folder", [MIGRATIONS, REGISTRY_MIGRATIONS], ids=["institution", "registry"])

# The rows to insert after each migration: each table that it creates gets rows, each column that it adds a value.
FILL = {
    "0001_create_feed": "UPDATE feed SET system_identifier = 1, timeline = 2, database_oid = 3",
    "0002_create_events": """
        INSERT INTO events (position, type, occurred_at, actor, on_behalf_of, request_id, reason, student_id, course_id, term_id, before, after)
        VALUES (1, 'student.created', '2026-01-02T03:04:05.678901Z', 'registrar', 'desk', 'a1', 'é "quoted"', 1, NULL, NULL, NULL, '{"version":1}'),
               (2, 'course.created', '2026-01-02T03:04:06Z', NULL, NULL, 'a2', NULL, NULL, 1, NULL, '{"n":[1,2]}', NULL),
               (3, 'term.created', '2026-01-02T03:04:07Z', NULL, NULL, 'a3', NULL, NULL, NULL, 1, NULL, NULL)
    """,
    "0003_create_students": """
        INSERT INTO students (id, external_id, given_name, family_name, email, max_credits, version, created_at, updated_at)
        VALUES (1, 'S-1', 'Zoë', 'O''Brien', 'zoe@example.org', 0.5, 3, '2026-01-01Z', '2026-01-02Z'),
               (2, NULL, '李', '', 'Li.4@Example.org', NULL, 1, '2026-01-01Z', '2026-01-01Z'),
               (9223372036854775807, 'last', 'x', 'y', 'last@example.org', NULL, 1, 'infinity', 'infinity')
    """,
    "0004_create_terms": """
        INSERT INTO terms (id, code, name, starts_on, ends_on, enroll_from, enroll_until, drop_until, withdraw_until, max_credits)
        VALUES (1, '2026F', 'Fall', '2026-09-01', '2026-12-18', '2026-08-01Z', '2026-09-08Z', '2026-09-15Z', '2026-11-01Z', 18.5),
               (2, '2027S', 'Spring', '2027-01-01', '2027-01-01', NULL, NULL, NULL, NULL, NULL)
    """,
    "0005_create_courses": """
        INSERT INTO courses (id, external_id, term_id, code, title, credits, meetings, status, capacity, seats_taken,
               waitlist_capacity, waitlisted, version, created_at, updated_at)
        VALUES (1, 'C-1', 1, 'MATH101', 'Calculus', 4.5, '[{"day":"mon","start":"09:00","end":"10:00"}]', 'cancelled', 30, 2,
                0, 1, 7, '2026-01-01Z', '2026-01-02Z'),
               (2, NULL, NULL, 'MATH101', 'Calculus, again', 0, '[]', 'open', NULL, 0, NULL, 0, 1, '2026-01-01Z', '2026-01-01Z'),
               (3, NULL, NULL, 'ART1', 'Closed', 99, '[]', 'open', 0, 0, NULL, 0, 1, '2026-01-01Z', '2026-01-01Z')
    """,
    "0006_create_requirements": """
        INSERT INTO requirements (course_id, kind, group_number, code) VALUES (1, 'pre', 1, 'X'), (1, 'anti', 2, 'Y')
    """,
    "0007_create_holds": """
        INSERT INTO holds (id, student_id, reason, blocks_enroll, blocks_drop, starts_at, ends_at, created_at)
        VALUES (1, 1, 'fees', true, false, '2026-01-01Z', 'infinity', '2026-01-01Z')
    """,
    "0008_create_overrides": """
        INSERT INTO overrides (id, student_id, course_id, rule, author, reason, expires_at, used_at, created_at)
        VALUES (1, 1, 1, 'hold', 'dean', 'so', '2026-01-03Z', '2026-01-02Z', '2026-01-01Z')
    """,
    "0009_create_student_courses": """
        INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at, passed, grade, override_id,
               swap_drops, blocked_reasons, recheck_at, passed_code)
        VALUES (1, 1, 'enrolled', 1, '2026-01-03Z', '2026-01-03Z', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
               (2, 1, 'completed', 2, '2026-01-03Z', '2026-01-04Z', true, 'A-', 1, '[2]', '[]', '9999-12-31Z', 'MATH100'),
               (2, 2, 'dropped', 3, '2026-01-03Z', '2026-01-05Z', NULL, NULL, NULL, NULL, NULL, NULL, NULL)
    """,
    "0010_create_api_keys": """
        INSERT INTO api_keys (name, scopes, secret_hash, previous_hash, previous_until, created_at, expires_at, revoked_at,
               last_used_at)
        VALUES ('portal', '{read,enroll}', '\\x00ff', '\\x01', '2026-02-01Z', '2026-01-01Z', '2027-01-01Z', '2026-03-01Z',
                '2026-02-28Z'),
               ('é', '{admin}', '\\x02', NULL, NULL, '2026-01-01Z', NULL, NULL, NULL)
    """,
    "0011_create_idempotency_keys": """
        INSERT INTO idempotency_keys (caller, key, fingerprint, student_ids, status, headers, body, created_at)
        VALUES ('portal', 'k-1', '\\x00ff', '1,2', 201, '{"ETag":"\\"1\\""}', '\\x7b7d0a', '2026-01-01Z'),
               ('', '"é', '\\x01', '', 409, '{}', '', '2026-01-01Z')
    """,
    "0022_add_parent_id_to_terms": "UPDATE terms SET parent_id = 1 WHERE id = 2",
    "0033_add_section_to_courses": "UPDATE courses SET section = 'é1' WHERE id = 1",
    "0036_create_equivalences": "INSERT INTO equivalences (id, created_at) VALUES (1, '2026-01-01Z'), (2, 'infinity')",
    "0041_create_grades": "INSERT INTO grades (number, grade, passes) VALUES (1, 'A', true), (2, 'é -', false)",
    "0049_add_in_progress_to_requirements": "UPDATE requirements SET in_progress = true WHERE kind = 'pre'",
    "0051_add_requirement_lost_to_student_courses": "UPDATE student_courses SET requirement_lost = true WHERE course_id = 1",
    "0042_add_min_grade_to_requirements": "UPDATE requirements SET min_grade = 'A' WHERE kind = 'pre'",
    "0037_create_equivalent_codes": """
        INSERT INTO equivalent_codes (equivalence_id, code) VALUES (1, 'MATH101'), (1, 'é'), (2, 'ART1'), (2, 'ART 2')
    """,
    "0015_create_refusals": """
        INSERT INTO refusals (student_id, course_id, action, reasons, actor, on_behalf_of, request_id, occurred_at)
        VALUES (1, 1, 'enroll', '[{"code":"course_full","capacity":1,"seats_taken":1}]', 'portal', 'Adé', 'r-1', '2026-01-01Z'),
               (9, 7, 'swap_drop', '[]', NULL, NULL, 'r-2', '2026-01-02Z')
    """,
    "0024_add_sourced_id_to_students": "UPDATE students SET sourced_id = 'id-' || id",
    "0028_add_preferred_name_to_students": "UPDATE students SET preferred_name = 'Zo' WHERE id = 1",
    "0029_add_groups_to_students": "UPDATE students SET groups = '{major:physics,year:2}' WHERE id = 1",
    "0031_create_instructors": """
        INSERT INTO instructors (id, external_id, sourced_id, given_name, family_name, email, version, created_at, updated_at)
        VALUES (1, 'I-1', 'T:1', 'Emmy', 'Noether', 'Emmy@Example.org', 2, '2026-01-01Z', '2026-01-02Z'),
               (2, NULL, 'T:2', NULL, 'Sukarno', NULL, 1, '2026-01-01Z', '2026-01-01Z')
    """,
    "0032_create_course_instructors": """
        INSERT INTO course_instructors (course_id, instructor_id, teaches, is_primary, updated_at)
        VALUES (1, 1, true, true, '2026-01-01Z'), (1, 2, false, false, '2026-01-02Z')
    """,
    "0039_create_merged_students": """
        INSERT INTO merged_students (student_id, merged_into, external_id, names, merged_at)
        VALUES (8, 1, 'S-8', '["Zoë Ada"]', '2026-01-01Z'), (9, 1, NULL, NULL, '2026-01-02Z')
    """,
    "0045_add_reservations_to_courses": """
        UPDATE courses SET reservations = '[{"group":"é","seats":1,"until":null}]' WHERE id = 1
    """,
    "0046_add_reserved_taken_to_courses": "UPDATE courses SET reserved_taken = '{\"é\":1}' WHERE id = 1",
    "0047_add_reserved_group_to_student_courses": """
        UPDATE student_courses SET reserved_group = 'é' WHERE student_id = 1
    """,
    "0060_create_imports": """
        INSERT INTO imports (id, source, state, format, name, path, options, plan, problem, rows_total, rows_done, actor, runner,
               leased_until, created_at, confirmed_at, updated_at)
        VALUES (1, 'sis', 'done', 'plain', 'é.zip', NULL, '{"strict":false}', '{"counts":{}}', 'threshold: é', 3, 2, 'portal', 'r-1',
                'infinity', '2026-01-01Z', '2026-01-02Z', '2026-01-03Z'),
               (2, 'import', 'queued', NULL, 'x.csv', '/tmp/x', '{}', NULL, NULL, 0, 0, NULL, NULL, NULL, '2026-01-01Z', NULL, '2026-01-01Z')
    """,
    "0061_create_import_rows": """
        INSERT INTO import_rows (import_id, kind, number, key, first_key, second_key, removed, fields, file, line, file_column, action,
               code, detail, row_id, other_id, done)
        VALUES (1, 'student', 1, 'é', NULL, NULL, false, '{"email":"é@x"}', 'students.csv', 2, '', 'add', NULL, NULL, 1, 0, true),
               (1, 'enrollment', 2, E'a\tb', 'a', 'b', true, '{}', 'enrollments.csv', 3, 'status', 'refused', 'x', 'Why.', NULL, NULL, false)
    """,
    "0062_create_source_rows": """
        INSERT INTO source_rows (source, kind, key, row_id, other_id) VALUES ('sis', 'student', 'é', 1, 0), ('sis', 'enrollment', E'a\tb', 1, 2)
    """,
    "0063_create_exports": """
        INSERT INTO exports (id, format, state, after, position, path, size, rows_done, problem, actor, runner, leased_until, created_at,
               updated_at)
        VALUES (1, 'plain', 'done', 7, 9, '/tmp/é.zip', 100, 3, 'é', 'portal', 'r', 'infinity', '2026-01-01Z', '2026-01-02Z'),
               (2, 'ndjson', 'queued', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, '2026-01-01Z', '2026-01-01Z')
    """,
    "0053_create_webhooks": """
        INSERT INTO webhooks (id, url, types, student_id, course_id, term_id, secret, previous_secret, previous_until, epoch, position,
               proof, failures, next_attempt_at, stopped_because, stopped_at, restarts, version, created_at, updated_at)
        VALUES (1, 'https://é.example/', '{term.created}', 1, 1, 1, 'whsec_AA==', 'whsec_AQ==', '2026-01-02Z',
                '00000000-0000-0000-0000-000000000007', 3, 'a3', 2, '2026-01-03Z', 'gone', '2026-01-04Z', 4, 5, '2026-01-01Z', '2026-01-02Z')
    """,
    "0054_create_webhook_attempts": """
        INSERT INTO webhook_attempts (webhook_id, id, position, attempted_at, status, error, milliseconds)
        VALUES (1, 1, 3, '2026-01-02Z', 503, 'timed_out', 20000), (1, 2, NULL, '2026-01-03Z', NULL, NULL, 0)
    """,
    "0055_create_webhook_leases": """
        INSERT INTO webhook_leases (institution, revision, changed_at, holder, expires_at)
        VALUES ('', 4, '2026-01-01Z', '00000000-0000-0000-0000-000000000007', '2026-01-02Z')
    """,
    "0056_create_tombstones": """
        INSERT INTO tombstones (resource, id, sourced_id, deleted_at)
        VALUES ('student', 7, 'é', '2026-01-01Z'), ('course', 7, NULL, '2026-01-02Z')
    """,
    "0001_create_registry": "UPDATE registry SET revision = 7",
    "0002_create_institutions": """
        INSERT INTO institutions (name, schema_name, display_name, time_zone, state, migration, revision, created_at, changed_at, swept_at)
        VALUES ('north', 'institution_north', 'Nördliche', 'Europe/Berlin', 'active', '0010_create_api_keys', 3, '2026-01-01Z', '2026-01-02Z', '2026-01-03Z'),
               ('south', 'public', 'South', 'UTC', 'creating', NULL, 7, '2026-01-01Z', '2026-01-02Z', '2026-01-03Z')
    """,
    "0003_create_api_keys": """
        INSERT INTO api_keys (name, scopes, secret_hash, previous_hash, previous_until, created_at, expires_at, revoked_at,
               last_used_at)
        VALUES ('operator', '{admin}', '\\x00ff', '\\x01', '2026-02-01Z', '2026-01-01Z', '2027-01-01Z', '2026-03-01Z',
                '2026-02-28Z')
    """,
    "0004_create_webhook_leases": """
        INSERT INTO webhook_leases (institution, revision, changed_at, holder, expires_at)
        VALUES ('north', 4, '2026-01-01Z', '00000000-0000-0000-0000-000000000007', '2026-01-02Z')
    """,
}

CATALOG = """
    SELECT 'column', table_name, column_name, concat_ws(' ', row_number() OVER (PARTITION BY table_name ORDER BY ordinal_position), data_type, is_nullable, column_default, identity_generation)
    FROM information_schema.columns WHERE table_schema = current_schema
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = current_schema::regnamespace
    UNION ALL
    SELECT 'relation', relname, relkind::text, concat_ws(' ', reloptions::text, CASE WHEN relkind = 'i' THEN pg_get_indexdef(oid) END)
    FROM pg_class WHERE relnamespace = current_schema::regnamespace
    UNION ALL
    SELECT 'function', proname, prokind::text, prosrc FROM pg_proc WHERE pronamespace = current_schema::regnamespace
    UNION ALL
    SELECT 'type', typname, typtype::text, '' FROM pg_type
    WHERE typnamespace = current_schema::regnamespace AND typtype IN ('d', 'e', 'r')
"""


def catalog(connection: Connection) -> list[tuple[str, ...]]:
    """Return the objects of the schema, without those of yoyo."""
    rows = connection.execute(CATALOG).fetchall()
    return sorted(row for row in rows if "yoyo" not in row[1])


def tables(connection: Connection) -> list[str]:
    return sorted(name for kind, name, relkind, _ in catalog(connection) if kind == "relation" and relkind == "r")


def rows(connection: Connection, columns: dict[str, list[str]] | None = None) -> Rows:
    """Return every row of every table, or only the given columns."""
    wanted = columns_of(connection) if columns is None else columns
    return {
        table: sorted(
            connection.execute(
                sql.SQL("SELECT {} FROM {}").format(
                    sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
                    sql.Identifier(table),
                )
            ).fetchall(),
            key=repr,
        )
        for table, names in wanted.items()
    }


def columns_of(connection: Connection) -> dict[str, list[str]]:
    objects = catalog(connection)
    found: dict[str, list[str]] = {
        name: [] for kind, name, relkind, _ in objects if (kind, relkind) == ("relation", "r")
    }
    for kind, table, name, _ in objects:
        if kind == "column":
            found[table].append(name)
    return found


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def database_url(admin: Connection, database_url: str) -> str:
    """Return the URL of a database of its own; skip the test on Citus, which does not distribute the schema public."""
    return database_url


@pytest.fixture
def migrated(database_url: str) -> Iterator[Connection]:
    """Yield a connection to a database with every migration."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


Upto = Callable[[str | None], Path]


@pytest.fixture
def upto(tmp_path: Path) -> Upto:
    """Return a function that makes a folder with the migrations up to and including a name; None makes an empty one."""

    def make(name: str | None) -> Path:
        folder = tmp_path / f"upto_{name}"
        folder.mkdir()
        for each in names_up_to(name):
            shutil.copy(FOLDER_OF[each] / f"{each}.sql", folder)
            shutil.copy(FOLDER_OF[each] / f"{each}.rollback.sql", folder)
        return folder

    return make


def names_up_to(name: str | None) -> list[str]:
    """Return the migrations up to and including one, in the folder of that one."""
    return [] if name is None else [each for each in names_in(FOLDER_OF[name]) if each <= name]


def previous(name: str) -> str | None:
    before = names_up_to(name)[:-1]
    return before[-1] if before else None


def fill(connection: Connection, upto: str | None, above: str | None = None) -> None:
    """Insert the rows of the migrations up to one, except those up to ``above``."""
    for name in names_up_to(upto)[len(names_up_to(above)) :]:
        connection.execute(FILL.get(name, ""))


class Ladder:
    """A database that climbs the migrations with its rows, so that each of them is applied once for many tests."""

    def __init__(self, server: Server, admin: Connection) -> None:
        self._server, self._admin = server, admin
        self._open = ExitStack()
        self._reached: str | None = None
        self._folder: Path | None = None

    def climb(self, name: str, *, filled: str | None) -> tuple[str, Connection]:
        """Return the URL and a connection of a database with the rows of the migrations up to ``filled``.

        These are migrations of the folder of ``name``. A step down, or one to another folder, begins anew.
        """
        below = names_up_to(self._reached)
        if self._folder != FOLDER_OF[name] or below != names_up_to(filled)[: len(below)]:
            self.close()
            self._folder = FOLDER_OF[name]
            self.url = self._open.enter_context(contextmanager(clone)(self._server, self._admin, "template0"))
            self.database = self._open.enter_context(psycopg.connect(self.url, autocommit=True))
        if filled is not None:
            migrate_to(self.url, filled, migrations=FOLDER_OF[name])
        fill(self.database, filled, above=self._reached)
        self._reached = filled
        return self.url, self.database

    def close(self) -> None:
        """Drop the database."""
        self._open.close()
        self._reached = self._folder = None


@pytest.fixture(scope="module")
def climber(server: Server, admin: Connection) -> Iterator[Ladder]:
    climber = Ladder(server, admin)
    yield climber
    climber.close()


@pytest.fixture
def ladder(climber: Ladder, request: pytest.FixtureRequest) -> Iterator[Ladder]:
    """Yield the ladder of the module; a test that fails leaves none behind."""
    failed = request.session.testsfailed
    yield climber
    if request.session.testsfailed > failed:
        climber.close()


def start(url: str, folder: Path = MIGRATIONS) -> subprocess.Popen[str]:
    program = (
        "import sys; from pathlib import Path; from service.migrate import migrate; "
        "print(*migrate(sys.argv[1], timeout=30.0, migrations=Path(sys.argv[2])))"
    )
    return subprocess.Popen([sys.executable, "-c", program, url, str(folder)], stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def roll_back(url: str, folder: Path = MIGRATIONS, count: int | None = None, schema: str | None = None) -> list[str]:
    """Roll back the newest migrations with yoyo, as an operator would, and return their names, newest first."""
    parts = urlsplit(url)
    query = f"{parts.query}&schema={schema}" if schema else parts.query
    with get_backend(urlunsplit(parts._replace(scheme="postgresql+psycopg", query=query))) as backend:
        undone = list(backend.to_rollback(read_migrations(str(folder))))[:count]
        backend.rollback_migrations(undone)
    return [migration.id for migration in undone]


@each_folder
def test_migrations_are_numbered_without_a_gap_and_each_depends_on_the_one_before(folder: Path) -> None:
    names = names_in(folder)
    assert [int(name.partition("_")[0]) for name in names] == list(range(1, len(names) + 1))
    for name in names[1:]:
        text = (folder / f"{name}.sql").read_text()
        assert text.startswith(f"-- depends: {previous(name)}\n"), name


@pytest.mark.parametrize("name", FOLDER_OF)
def test_every_migration_has_a_rollback_that_does_something(name: str) -> None:
    text = (FOLDER_OF[name] / f"{name}.rollback.sql").read_text()
    assert re.sub(r"--.*", "", text).strip()


@each_folder
def test_every_rollback_has_its_migration(folder: Path) -> None:
    assert {path.name.removesuffix(".rollback.sql") for path in folder.glob("*.rollback.sql")} == set(names_in(folder))


@each_folder
def test_up_down_up_ends_with_the_same_schema(folder: Path, empty_database_url: str, database: Connection) -> None:
    names = names_in(folder)
    assert migrate(empty_database_url, migrations=folder) == names
    up = catalog(database)
    assert roll_back(empty_database_url, folder) == names[::-1]
    assert catalog(database) == []
    assert migrate(empty_database_url, migrations=folder) == names
    assert catalog(database) == up


def test_a_column_with_values_is_not_dropped_by_accident(
    empty_database_url: str, database: Connection, upto: Upto
) -> None:
    folder = upto(NAMES[-1])
    name = f"{len(NAMES) + 1:04}_add_room_to_terms"
    (folder / f"{name}.sql").write_text(f"-- depends: {NAMES[-1]}\n\nALTER TABLE terms ADD COLUMN room text;\n")
    (folder / f"{name}.rollback.sql").write_text("ALTER TABLE terms DROP COLUMN room;\n")
    at = partial(migrate_to, empty_database_url, migrations=folder)
    assert at(NAMES[-1]) == (NAMES, [])
    fill(database, NAMES[-1])
    before = rows(database)
    for value, discard in ((None, False), ("A1", True)):
        assert at(name) == ([name], [])
        database.execute("UPDATE terms SET room = %s", [value])
        if discard:
            with pytest.raises(MigrationFailed, match="public: the column room of terms"):
                at(NAMES[-1])
            assert database.execute("SELECT room FROM terms").fetchone() == ("A1",)
        assert at(NAMES[-1], discard_data=discard) == ([], [name])
        assert rows(database) == before


def test_several_migrations_are_rolled_back_together_or_not_at_all(database_url: str, migrated: Connection) -> None:
    fill(migrated, NAMES[-1])
    before, filled = catalog(migrated), rows(migrated)
    with pytest.raises(MigrationFailed, match="the table students"):
        migrate_to(database_url, NAMES[1])
    assert (catalog(migrated), rows(migrated)) == (before, filled)
    assert migrate_to(database_url, NAMES[1], discard_data=True) == ([], NAMES[:1:-1])
    with pytest.raises(MigrationFailed, match=f"no migration 0099_x; its newest one is {NAMES[-1]}"):
        migrate_to(database_url, "0099_x")


def test_a_schema_that_does_not_exist_is_migrated_up_to_a_name(empty_database_url: str) -> None:
    assert migrate_to(empty_database_url, NAMES[1], schema="nowhere") == (NAMES[:2], [])
    assert migrate_to(empty_database_url, NAMES[1], schema="nowhere") == ([], [])


def test_a_migration_of_a_newer_version_is_only_rolled_back_by_that_version(database_url: str, upto: Upto) -> None:
    with pytest.raises(UnfitDatabase, match="run the command with the version that applied it"):
        migrate_to(database_url, NAMES[0], migrations=upto(NAMES[-2]))


def test_a_second_run_applies_nothing(empty_database_url: str) -> None:
    migrate(empty_database_url)
    assert migrate(empty_database_url) == []


@pytest.mark.parametrize("name", FOLDER_OF)
def test_each_step_over_existing_rows_keeps_every_row_up_and_down(name: str, ladder: Ladder) -> None:
    # In the one folder, whose files are parsed once for all steps.
    below, folder = previous(name), FOLDER_OF[name]
    url, database = ladder.climb(name, filled=below)
    columns_before, catalog_before = columns_of(database), catalog(database)
    rows_before = rows(database, columns_before)

    assert migrate_to(url, name, migrations=folder) == ([name], [])
    catalog_after = catalog(database)
    assert rows(database, columns_before) == rows_before

    if below is None:
        assert roll_back(url, folder, count=1) == [name]
    else:
        assert migrate_to(url, below, migrations=folder) == ([], [name])
    assert catalog(database) == catalog_before
    assert rows(database, columns_before) == rows_before

    assert migrate_to(url, name, migrations=folder) == ([name], [])
    assert catalog(database) == catalog_after

    ladder.climb(name, filled=name)
    for table, columns in columns_of(database).items():
        filled = database.execute(
            sql.SQL("SELECT {} FROM {}").format(
                sql.SQL(", ").join(sql.SQL("count({})").format(sql.Identifier(column)) for column in columns),
                sql.Identifier(table),
            )
        ).fetchone()
        assert filled is not None
        assert all(filled), f"give {table} a value for each column in FILL"


def test_student_courses_is_added_to_existing_students_and_courses(
    empty_database_url: str, database: Connection, upto: Upto
) -> None:
    name = "0009_create_student_courses"
    migrate(empty_database_url, migrations=upto(previous(name)))
    fill(database, previous(name))
    before = rows(database)
    assert len(before["students"]) == len(before["courses"]) == 3

    assert migrate(empty_database_url, migrations=upto(name)) == [name]

    after = rows(database)
    assert after.pop("student_courses") == []
    assert after == before
    key = database.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'student_courses_pkey'"
    ).fetchone()
    assert key == ("PRIMARY KEY (student_id, course_id) INCLUDE (status, passed, joined_position, joined_at, grade)",)
    enroll = (
        "INSERT INTO student_courses (student_id, course_id, status, joined_position, joined_at, updated_at) "
        "VALUES (%s, %s, %s, 1, now(), now())"
    )
    for student_id, course_id in [(1, 1), (1, 2), (2, 1)]:
        database.execute(enroll, [student_id, course_id, "enrolled"])
    for student_id, course_id, status, constraint in [
        (1, 1, "enrolled", "student_courses_pkey"),
        (404, 1, "enrolled", "student_courses_student_id_fkey"),
        (1, 404, "enrolled", "student_courses_course_id_fkey"),
        (2, 2, "expelled", "student_courses_status_check"),
    ]:
        with pytest.raises(psycopg.errors.IntegrityError) as refused:
            database.execute(enroll, [student_id, course_id, status])
        assert refused.value.diag.constraint_name == constraint
    for table in ("students", "courses"):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            database.execute(sql.SQL("DELETE FROM {} WHERE id = 1").format(sql.Identifier(table)))
    assert len(rows(database)["student_courses"]) == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the folder of migrations, to which a test adds one."""
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


def add(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.sql").write_text(f"-- depends: {NAMES[-1]}\n\n{text}")


def test_a_failed_migration_leaves_schema_and_rows_as_they_were(
    database_url: str, migrated: Connection, folder: Path
) -> None:
    fill(migrated, NAMES[-1])
    before = catalog(migrated), rows(migrated)
    add(
        folder,
        "9999_broken",
        "ALTER TABLE students ADD COLUMN nickname text; UPDATE students SET given_name = 'x'; "
        "DELETE FROM student_courses; CREATE TABLE extra (id bigint); ALTER TABLE courses ADD CHECK (capacity > 1000);",
    )

    with pytest.raises(MigrationFailed, match="9999_broken"):
        migrate(database_url, migrations=folder)

    assert (catalog(migrated), rows(migrated)) == before
    add(folder, "9999_broken", "ALTER TABLE students ADD COLUMN nickname text;")
    assert migrate(database_url, migrations=folder) == ["9999_broken"]


def test_the_migrations_before_a_failed_one_stay_applied(empty_database_url: str, folder: Path) -> None:
    add(folder, "9999_broken", "SELECT 1 / 0;")
    with pytest.raises(MigrationFailed):
        migrate(empty_database_url, migrations=folder)
    assert migrate(empty_database_url) == []


def test_a_migration_that_cannot_be_marked_as_applied_is_undone(
    database_url: str, migrated: Connection, folder: Path
) -> None:
    before = catalog(migrated)
    add(
        folder,
        "9999_marked",
        "CREATE TABLE extra (id bigint); ALTER TABLE _yoyo_migration ADD CHECK (false) NOT VALID;",
    )
    with pytest.raises(MigrationFailed):
        migrate(database_url, migrations=folder)
    assert catalog(migrated) == before


def test_many_processes_at_once_apply_each_migration_once(empty_database_url: str, database: Connection) -> None:
    processes = [start(empty_database_url) for _ in range(6)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6
    assert sorted(name for output in outputs for name in output.split()) == NAMES
    applied = database.execute("SELECT migration_id FROM _yoyo_migration ORDER BY migration_id").fetchall()
    assert [name for (name,) in applied] == NAMES


def sleeps(connection: Connection) -> bool:
    return connection.execute(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
    ).fetchone() == (1,)


def test_a_migration_killed_in_the_middle_does_not_block_the_next_start(
    database_url: str, migrated: Connection, folder: Path
) -> None:
    before = catalog(migrated)
    add(folder, "9999_slow", "CREATE TABLE extra (id bigint); SELECT pg_sleep(60);")
    process = start(database_url, folder)
    wait_for(lambda: sleeps(migrated))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)

    started = time.monotonic()
    add(folder, "9999_slow", "CREATE TABLE extra (id bigint);")
    assert migrate(database_url, migrations=folder, timeout=20.0) == ["9999_slow"]

    assert time.monotonic() - started < 10
    assert set(catalog(migrated)) > set(before)


def test_an_index_is_built_concurrently_while_another_process_waits_its_turn(
    database_url: str, migrated: Connection, folder: Path
) -> None:
    (folder / "9999_index.sql").write_text(
        f"-- transactional: false\n-- depends: {NAMES[-1]}\n\n"
        "DROP INDEX CONCURRENTLY IF EXISTS extra_idx;\n"
        "CREATE INDEX CONCURRENTLY extra_idx ON students (given_name);\n"
    )
    # CREATE INDEX CONCURRENTLY waits for every older transaction.
    with psycopg.connect(database_url) as old:
        old.execute("LOCK TABLE students IN ROW EXCLUSIVE MODE")
        processes = [start(database_url, folder) for _ in range(2)]
        wait_for(
            lambda: (
                migrated.execute(
                    "SELECT count(*) FILTER (WHERE query LIKE 'DROP INDEX%%' OR query LIKE 'CREATE INDEX%%') = 1 "
                    "AND count(*) FILTER (WHERE query LIKE '%%pg_try_advisory_lock%%') = 1 FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name = 'enrollment-service migrate'",
                    [],
                ).fetchone()
                == (True,)
            )
        )
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(output.split() for output in outputs) == [[], ["9999_index"]]
    assert migrated.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'extra_idx'::regclass").fetchone() == (
        True,
    )


def test_a_wait_for_another_process_ends_at_its_timeout(database_url: str, migrated: Connection, folder: Path) -> None:
    add(folder, "9999_slow", "SELECT pg_sleep(60);")
    process = start(database_url, folder)
    try:
        wait_for(lambda: sleeps(migrated))
        with pytest.raises(DatabaseUnavailable, match="Another process"):
            migrate(database_url, migrations=folder, timeout=0.3)
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(DatabaseUnavailable, match="stopped"):
            migrate(database_url, migrations=folder, timeout=60.0, stop=stop)
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_a_migration_waits_for_a_reader_no_longer_than_the_lock_timeout(
    database_url: str, migrated: Connection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.migrate, "LOCK_SECONDS", 1)
    before = catalog(migrated)
    add(folder, "9999_wide", "ALTER TABLE students ADD COLUMN nickname text;")
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM students")
        with pytest.raises(DatabaseUnavailable, match="lock"):
            migrate(database_url, migrations=folder)
        assert catalog(migrated) == before
    assert migrate(database_url, migrations=folder) == ["9999_wide"]


def test_a_schema_of_an_unreleased_version_is_refused(database_url: str, migrated: Connection) -> None:
    before = catalog(migrated)
    migrated.execute(
        "INSERT INTO _yoyo_migration (migration_hash, migration_id, applied_at_utc) "
        "VALUES ('0', '0006_place_courses_in_terms', now())"
    )
    with pytest.raises(UnfitDatabase, match=r"0006_place_courses_in_terms.* an empty database .* DATA_DIR"):
        migrate(database_url)
    assert catalog(migrated) == before


def test_a_schema_of_a_newer_version_is_not_refused(database_url: str, migrated: Connection, folder: Path) -> None:
    add(folder, "9999_next", "CREATE TABLE extra (id bigint);")
    migrate(database_url, migrations=folder)
    assert migrate(database_url) == []


def test_a_limit_for_requests_does_not_end_a_migration(database_url: str, migrated: Connection, folder: Path) -> None:
    name = sql.Identifier(migrated.info.dbname)
    migrated.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = '200ms'").format(name))
    add(folder, "9999_slow", "SELECT pg_sleep(0.4);")
    assert migrate(database_url, migrations=folder)[-1] == "9999_slow"


def test_an_account_without_a_name_can_migrate(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert migrate(empty_database_url) == NAMES
    assert migrate(empty_database_url) == []


def test_each_schema_is_migrated_on_its_own(empty_database_url: str, database: Connection) -> None:
    for schema in ("north", "south"):
        assert migrate(empty_database_url, schema=schema) == NAMES
    assert catalog(database) == []
    database.execute("SET search_path TO south")
    assert "student_courses" in tables(database)
    assert roll_back(empty_database_url, schema="north") == NAMES[::-1]
    assert "student_courses" in tables(database)


def test_a_database_that_may_lose_what_it_confirmed_is_refused(empty_database_url: str, database: Connection) -> None:
    name = sql.Identifier(database.info.dbname)
    database.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    with pytest.raises(UnfitDatabase, match="synchronous_commit"):
        migrate(empty_database_url)
    assert catalog(database) == []


def test_a_database_that_is_not_encoded_in_utf_8_is_refused(server: Server, admin: Connection) -> None:
    name = f"{server.run}_ascii"
    admin.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        with pytest.raises(UnfitDatabase, match="UTF8"):
            migrate(server.url_of(name))
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_that_accepts_no_connections_is_not_available(empty_database_url: str, admin: Connection) -> None:
    name = sql.Identifier(urlsplit(empty_database_url).path[1:])
    admin.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(name))
    with pytest.raises(DatabaseUnavailable):
        migrate(empty_database_url)


def test_a_missing_server_is_not_available(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        migrate(f"postgresql://postgres@/enrollment?host={tmp_path}")


def test_a_url_may_contain_characters_that_must_be_quoted(server: Server, admin: Connection) -> None:
    name = f"{server.run}_ü%/ odd?"
    admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    try:
        url = urlunsplit(urlsplit(server.url)._replace(path="/" + quote(name, safe="")))
        assert migrate(url) == NAMES
    finally:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_students_from_before_get_a_sourced_id_each(empty_database_url: str, database: Connection, upto: Upto) -> None:
    migrate(empty_database_url, migrations=upto("0015_create_refusals"))
    fill(database, "0015_create_refusals")
    migrate(empty_database_url, migrations=upto("0024_add_sourced_id_to_students"))
    database.execute("INSERT INTO students (id, given_name, family_name, email) VALUES (11, 'A', 'B', 'c@b.example')")
    migrate(empty_database_url)
    database.execute("INSERT INTO students (id, given_name, family_name, email) VALUES (12, 'A', 'B', 'd@b.example')")

    ids = [row[0] for row in database.execute("SELECT sourced_id FROM students").fetchall()]

    assert len(ids) == len(set(ids)) == 5
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id) for id in ids)
