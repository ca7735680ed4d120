"""The privileges that the role of the service needs, and no others: it can't change the schema or the events."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

WEBHOOK_LEASES: Final[Mapping[str, tuple[str, ...]]] = {
    "SELECT": (),
    "INSERT": (),
    "UPDATE": ("changed_at", "expires_at", "holder", "revision"),
    "DELETE": (),
}

TABLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "_yoyo_migration": {"SELECT": ()},
    "api_keys": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": ("last_used_at", "previous_hash", "previous_until", "revoked_at", "secret_hash"),
    },
    "course_instructors": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": ("is_primary", "teaches", "updated_at"),
    },
    "courses": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": (
            "capacity",
            "code",
            "credits",
            "external_id",
            "meetings",
            "reservations",
            "reserved_taken",
            "section",
            "seats_taken",
            "status",
            "term_id",
            "title",
            "updated_at",
            "version",
            "waitlist_capacity",
            "waitlisted",
        ),
        "DELETE": (),
    },
    "equivalences": {"SELECT": (), "INSERT": (), "DELETE": ()},
    "equivalent_codes": {"SELECT": (), "INSERT": ()},
    "events": {"SELECT": (), "INSERT": ()},
    # PostgreSQL requires UPDATE of any column for a lock on the row; this column can't have another value.
    "feed": {"SELECT": (), "UPDATE": ("id",)},
    "exports": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": ("leased_until", "path", "position", "problem", "rows_done", "runner", "size", "state", "updated_at"),
        "DELETE": (),
    },
    "grades": {"SELECT": (), "INSERT": (), "DELETE": ()},
    "holds": {"SELECT": (), "INSERT": (), "UPDATE": ("ends_at", "reason", "student_id")},
    # As for the feed: the keys to delete are locked first.
    "idempotency_keys": {"SELECT": (), "INSERT": (), "UPDATE": ("created_at",), "DELETE": ()},
    "import_rows": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": ("action", "code", "detail", "done", "other_id", "row_id"),
        "DELETE": (),
    },
    "imports": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": (
            "confirmed_at",
            "format",
            "leased_until",
            "path",
            "plan",
            "problem",
            "rows_done",
            "rows_total",
            "runner",
            "state",
            "updated_at",
        ),
        "DELETE": (),
    },
    "instructors": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": ("email", "external_id", "family_name", "given_name", "updated_at", "version"),
        "DELETE": (),
    },
    "merged_students": {"SELECT": (), "INSERT": (), "UPDATE": ("external_id", "merged_into", "names")},
    "overrides": {"SELECT": (), "INSERT": (), "UPDATE": ("author", "expires_at", "reason", "student_id", "used_at")},
    "refusals": {"SELECT": (), "INSERT": (), "UPDATE": ("student_id",), "DELETE": ()},
    "requirements": {"SELECT": (), "INSERT": (), "DELETE": ()},
    "source_rows": {"SELECT": (), "INSERT": (), "UPDATE": ("other_id", "row_id"), "DELETE": ()},
    "student_courses": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": (
            "blocked_reasons",
            "grade",
            "joined_at",
            "joined_position",
            "override_id",
            "passed",
            "passed_code",
            "requirement_lost",
            "recheck_at",
            "reserved_group",
            "status",
            "swap_drops",
            "updated_at",
        ),
    },
    "students": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": (
            "email",
            "external_id",
            "family_name",
            "given_name",
            "groups",
            "max_credits",
            "preferred_name",
            "sourced_id",
            "updated_at",
            "version",
        ),
        "DELETE": (),
    },
    "terms": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": (
            "code",
            "drop_until",
            "ends_on",
            "enroll_from",
            "enroll_until",
            "max_credits",
            "name",
            "parent_id",
            "starts_on",
            "updated_at",
            "version",
            "withdraw_until",
        ),
        "DELETE": (),
    },
    "tombstones": {"SELECT": (), "INSERT": (), "DELETE": ()},
    "webhook_attempts": {"SELECT": (), "INSERT": (), "DELETE": ()},
    "webhook_leases": WEBHOOK_LEASES,
    "webhooks": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": (
            "course_id",
            "epoch",
            "failures",
            "next_attempt_at",
            "position",
            "previous_secret",
            "previous_until",
            "proof",
            "restarts",
            "secret",
            "stopped_at",
            "stopped_because",
            "student_id",
            "term_id",
            "types",
            "updated_at",
            "url",
            "version",
        ),
        "DELETE": (),
    },
}
"""The privileges on each table; no columns means the whole table. A test compares them with the statements of ``sql/``.

The rows that a deletion takes with it, and the look-ups of foreign keys, need none: PostgreSQL makes them as the owner."""

SEQUENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "courses_id_seq": ("SELECT", "USAGE"),
    "equivalences_id_seq": ("SELECT", "USAGE"),
    "holds_id_seq": ("SELECT", "USAGE"),
    "instructors_id_seq": ("SELECT", "USAGE"),
    "overrides_id_seq": ("SELECT", "USAGE"),
    "students_id_seq": ("SELECT", "USAGE"),
    "terms_id_seq": ("SELECT", "USAGE"),
}
"""The privileges on each sequence: ``check`` reads them too."""

FUNCTIONS: Final = ("delete_merged_enrollments", "redact_events", "renew_epoch")
"""The functions that do with the rights of the owner what the role of the service may not do."""


REGISTRY_TABLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "_yoyo_migration": TABLES["_yoyo_migration"],
    "api_keys": TABLES["api_keys"],
    "institutions": {
        "SELECT": (),
        "INSERT": (),
        "UPDATE": (
            "changed_at",
            "created_at",
            "display_name",
            "migration",
            "revision",
            "schema_name",
            "state",
            "swept_at",
            "time_zone",
        ),
    },
    "registry": {"SELECT": (), "UPDATE": ("revision",)},
    "webhook_leases": WEBHOOK_LEASES,
}
"""The privileges on each table of the registry."""


class Privileges(NamedTuple):
    """The privileges on everything in a schema."""

    tables: Mapping[str, Mapping[str, tuple[str, ...]]]
    sequences: Mapping[str, tuple[str, ...]]
    functions: tuple[str, ...]


INSTITUTION: Final = Privileges(TABLES, SEQUENCES, FUNCTIONS)
REGISTRY: Final = Privileges(REGISTRY_TABLES, {}, ())


class Privilege(NamedTuple):
    """A privilege on an object of a schema; ``column`` is empty for the whole object, ``object`` for the schema."""

    object: str
    column: str
    privilege: str


def required(of: Privileges = INSTITUTION) -> set[Privilege]:
    """Return the privileges that the role of the service needs on a schema and the objects in it."""
    found = {Privilege("", "", "USAGE")}
    for table, privileges in of.tables.items():
        for privilege, columns in privileges.items():
            found |= {Privilege(table, column, privilege) for column in columns or ("",)}
    found |= {Privilege(name, "", privilege) for name, privileges in of.sequences.items() for privilege in privileges}
    return found | {Privilege(name, "", "EXECUTE") for name in of.functions}


def statements(schema: str, role: str, of: Privileges = INSTITUTION) -> Iterator[sql.Composed]:
    """Yield the statements that give a role what it needs in a schema, after they have taken away what it had."""
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    for objects in ("ALL TABLES IN SCHEMA", "ALL SEQUENCES IN SCHEMA", "ALL ROUTINES IN SCHEMA", "SCHEMA"):
        # Without a privilege on a table, its columns have none either (PostgreSQL manual, REVOKE).
        yield sql.SQL("REVOKE ALL ON {objects} {schema} FROM {role}").format(objects=sql.SQL(objects), **names)
    yield sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {role}").format(**names)
    for table, privileges in of.tables.items():
        yield _grant("", table, [_with_columns(*each) for each in privileges.items()], names)
    for sequence, on_sequence in of.sequences.items():
        yield _grant("SEQUENCE ", sequence, [sql.SQL(privilege) for privilege in on_sequence], names)
    for function in of.functions:
        yield _grant("FUNCTION ", function, [sql.SQL("EXECUTE")], names)


def script(schema: str, role: str, of: Privileges = INSTITUTION) -> str:
    """Return the statements as a script, in one transaction."""
    texts = [statement.as_string() for statement in statements(schema, role, of)]
    return "".join([f"{text};\n" for text in ("BEGIN", *texts, "COMMIT")])


def _with_columns(privilege: str, columns: tuple[str, ...]) -> sql.Composable:
    if not columns:
        return sql.SQL(privilege)
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("{} ({})").format(sql.SQL(privilege), listed)


def _grant(kind: str, name: str, privileges: list[sql.Composable], names: Mapping[str, sql.Identifier]) -> sql.Composed:
    return sql.SQL("GRANT {privileges} ON {kind}{schema}.{name} TO {role}").format(
        privileges=sql.SQL(", ").join(privileges), kind=sql.SQL(kind), name=sql.Identifier(name), **names
    )


HELD: Final = """
SELECT '' AS object, '' AS column, acl.privilege_type AS privilege
FROM pg_namespace
CROSS JOIN LATERAL aclexplode(nspacl) AS acl
WHERE nspname = %(schema)s AND acl.grantee = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
UNION ALL
SELECT relname, '', acl.privilege_type
FROM pg_class
CROSS JOIN LATERAL aclexplode(relacl) AS acl
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    AND acl.grantee = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
UNION ALL
SELECT relname, attname, acl.privilege_type
FROM pg_class
INNER JOIN pg_attribute ON attrelid = pg_class.oid
CROSS JOIN LATERAL aclexplode(attacl) AS acl
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    AND acl.grantee = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
UNION ALL
SELECT proname, '', acl.privilege_type
FROM pg_proc
CROSS JOIN LATERAL aclexplode(proacl) AS acl
WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    AND acl.grantee = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
"""


def held(connection: psycopg.Connection[Any], schema: str, role: str) -> set[Privilege]:
    """Return the privileges that were granted to a role on a schema and on the objects in it."""
    rows = connection.execute(HELD, {"schema": schema, "role": role}).fetchall()
    return {Privilege._make(row) for row in rows}


def apply(connection: psycopg.Connection[Any], schema: str, role: str, of: Privileges = INSTITUTION) -> None:
    """Give a role what it needs in a schema, and nothing else, in one transaction."""
    with connection.transaction():
        for statement in statements(schema, role, of):
            connection.execute(statement)
