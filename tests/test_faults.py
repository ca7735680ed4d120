"""Errors in the log: they say what failed, and never what a caller sent or a row contains."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import asyncpg
import psycopg
import pytest
from pydantic import BaseModel, Field

from service.faults import format_traceback, install_hooks, text_of
from service.logs import DiscreetJsonFormatter, TextFormatter
from service.migrate import MigrationFailed, migrate
from sql import Connection
from tests.test_migrations import add, folder
from tests.test_process import run, serving

__all__ = ["folder"]

CANARY = "canary-4711"

FAULTS = f"""
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.given_name = '{CANARY}-raise' THEN
        RAISE EXCEPTION 'bad student %', NEW.given_name
        USING DETAIL = NEW.family_name, HINT = NEW.email, ERRCODE = '22023';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER refuse BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE students ADD CONSTRAINT surprise_check CHECK (given_name <> '{CANARY}-check');
"""
"""Two faults that the service does not expect: a constraint, whose DETAIL is the row, and an error that quotes it."""


async def caught(work: Callable[[], object]) -> Exception:
    try:
        result = work()
        if hasattr(result, "__await__"):
            await result
    except Exception as error:
        return error
    raise AssertionError("no error")


@pytest.mark.not_on_citus("distributed tables have no triggers")
async def test_an_error_of_the_database_is_logged_without_the_row(connection: Connection) -> None:
    await connection.execute(FAULTS)
    insert = "INSERT INTO students (given_name, family_name, email) VALUES ($1, 'x', $2)"
    row = await caught(lambda: connection.execute(insert, f"{CANARY}-check", CANARY))
    raised = await caught(lambda: connection.execute(insert, f"{CANARY}-raise", CANARY))
    argument = await caught(lambda: connection.execute(insert, 7, CANARY))
    for error in (row, raised):
        assert CANARY in str(error), "the driver's own text has it"
        assert CANARY not in format_traceback(error)
    assert text_of(row) == (
        'new row for relation "students" violates check constraint "surprise_check" '
        "[SQLSTATE 23514, schema public, table students, constraint surprise_check]"
    )
    assert "SQLSTATE 22023" in text_of(raised)
    assert isinstance(argument, asyncpg.DataError)
    assert "7" in str(argument)
    assert text_of(argument).startswith("(")


@pytest.mark.not_on_citus("distributed tables have no triggers")
def test_the_same_for_the_driver_of_the_migrations(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(FAULTS)
        for kind in ("check", "raise"):
            with pytest.raises(psycopg.Error, match=CANARY) as refused:
                connection.execute(
                    "INSERT INTO students (given_name, family_name, email) VALUES (%s, 'x', %s)",
                    [f"{CANARY}-{kind}", CANARY],
                )
            text = format_traceback(refused.value)
            assert CANARY not in text
            assert "students" in text or "SQLSTATE 22023" in text


def test_a_failed_migration_does_not_show_the_rows_that_it_met(empty_database_url: str, folder: Path) -> None:
    add(
        folder,
        "9999_broken",
        "INSERT INTO students (given_name, family_name, email) SELECT 'x', 'y', 'canary-4711' FROM generate_series(1, 2);",
    )
    with pytest.raises(MigrationFailed, match="students_email_key") as failed:
        migrate(empty_database_url, migrations=folder)
    assert CANARY in str(failed.value.__cause__)
    assert CANARY not in str(failed.value)
    assert CANARY not in format_traceback(failed.value)


class Form(BaseModel):
    name: int = Field(le=1)


def test_causes_contexts_notes_and_groups_are_shown_without_their_values() -> None:
    def deepest() -> None:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            error.add_note(f"note {CANARY}")
            raise ValueError(f"not a number: {CANARY}") from error

    def outer() -> None:
        try:
            deepest()
        except ValueError:
            raise LookupError(CANARY)  # noqa: B904 - the test wants the context

    def group() -> None:
        errors: list[Exception] = [TypeError("an int is not callable")]
        for work in (outer, lambda: Form.model_validate({"name": CANARY})):
            try:
                work()
            except (LookupError, ValueError) as error:
                errors.append(error)
        raise ExceptionGroup(f"many {CANARY}", errors)

    with pytest.raises(ExceptionGroup) as raised:
        group()
    shown = format_traceback(raised.value)

    assert CANARY not in shown
    for name in ("KeyError", "ValueError", "LookupError", "ValidationError", "TypeError: an int is not callable"):
        assert name in shown
    assert "was the direct cause of" in shown
    assert "another exception occurred" in shown
    assert "in deepest" in shown


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__context__ = second, first
    assert format_traceback(first).count("ValueError") == 2


@pytest.mark.parametrize("formatter", [TextFormatter(), DiscreetJsonFormatter("%(message)s")])
def test_both_formats_of_the_log_hide_the_values(formatter: logging.Formatter) -> None:
    try:
        raise KeyError(CANARY)
    except KeyError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "unexpected", (), sys.exc_info())
    line = formatter.format(record)
    assert "KeyError" in line
    assert "test_faults.py" in line
    assert CANARY not in line


def test_an_error_that_ends_the_program_is_printed_without_its_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("threading.excepthook", None)
    install_hooks()
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert "KeyError" in shown
    assert CANARY not in shown


async def test_a_fault_of_the_running_service_is_logged_without_what_the_caller_sent(data_dir: Path) -> None:
    """Search every line that the service and its embedded PostgreSQL write."""
    async with serving(DATA_DIR=data_dir, LOG_LEVEL="DEBUG") as running:
        made = await run("psql", "--", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={FAULTS}", DATA_DIR=data_dir)
        assert made.status == 0, made
        async with aiohttp.ClientSession(running.url) as session:
            for kind in ("check", "raise"):
                body = {"given_name": f"{CANARY}-{kind}", "family_name": CANARY, "email": f"{CANARY}@campus.example"}
                headers = {"X-Request-Id": kind, "X-Actor": CANARY}
                async with session.post("/students", json={**body, "external_id": CANARY}, headers=headers) as answer:
                    assert answer.status == 500
                    assert CANARY not in await answer.text()
    output = "\n".join([*running.log, *running.errors])
    written = (data_dir / "postgresql.log").read_text()

    assert "surprise_check" in output
    assert "SQLSTATE 22023" in output
    assert "surprise_check" in written
    assert CANARY not in output
    # The message of an error is all that is left: nothing keeps PostgreSQL from writing that.
    kept = [line for line in written.splitlines() if CANARY in line]
    assert all("bad student" in line for line in kept), kept
