"""The clock of an institution, which ``TEST_CLOCK`` sets for tests.

Statements read the time by ``now()`` and ``clock_timestamp()``. With a test clock, a schema with functions of these names
comes before PostgreSQL's own in the search path, so that no statement has to know of it. Credentials and the registry keep
the clock of the server, by ``statement_timestamp()``.
"""

from typing import Final

from service.settings import Settings

SCHEMA: Final = "enrollment_test_clock"

CREATE: Final = f"""
CREATE SCHEMA {SCHEMA};
GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC;

CREATE FUNCTION {SCHEMA}.set_to(actual timestamptz)
RETURNS timestamptz
LANGUAGE sql
STABLE
BEGIN ATOMIC
    SELECT coalesce(
        nullif(current_setting('{SCHEMA}.instant', true), '')::timestamptz,
        actual + nullif(current_setting('{SCHEMA}.offset', true), '')::interval,
        actual
    );
END;

CREATE FUNCTION {SCHEMA}.now()
RETURNS timestamptz
LANGUAGE sql
STABLE
BEGIN ATOMIC
    SELECT {SCHEMA}.set_to(pg_catalog.now());
END;

CREATE FUNCTION {SCHEMA}.clock_timestamp()
RETURNS timestamptz
LANGUAGE sql
VOLATILE
BEGIN ATOMIC
    SELECT {SCHEMA}.set_to(pg_catalog.clock_timestamp());
END;
"""


def search_path(settings: Settings, schema: str) -> list[str]:
    """Return the schemas in which the statements of a session on ``schema`` find tables and functions."""
    if settings.test_clock is None or schema == settings.registry_schema:
        return [schema]
    return [SCHEMA, "pg_catalog", schema]


def session_settings(settings: Settings) -> dict[str, str]:
    """Return the settings of a session that define its test clock; none without one."""
    if settings.test_clock is None:
        return {}
    name = "offset" if settings.test_clock[0] in "+-" else "instant"
    return {f"{SCHEMA}.{name}": settings.test_clock}
