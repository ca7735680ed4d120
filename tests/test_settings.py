"""Settings: the values refused at the start, and the secrecy of passwords."""

import re

import pytest
from pydantic import ValidationError

from service.settings import Settings, explain
from tests.test_process import run

SECRET = "hunter2secret"


@pytest.mark.parametrize(
    "database_url",
    [
        f"postgresql://user:{SECRET}#x@localhost/db",
        f"postgresql://user:{SECRET}/x@localhost/db",
        f"postgresql://user:12/{SECRET}@localhost/db",
        f"postgresql://user:{SECRET}?x@localhost/db",
        f"postgresql://user:x@{SECRET}@localhost/db",
        f"postgresql://user:[{SECRET}@localhost/db",
        f"postgresql://user:%{SECRET}@localhost/db",
        f"postgresql://user:{SECRET}%zz@localhost/db",
        f"postgresql://user:{SECRET}@localhost:port/db",
        f"postgresql://user:x@localhost:{SECRET}/db",
        f"postgresql://user@localhost/db?pass={SECRET}",
        f"postgresql://user@localhost/db?password={SECRET}&nonsense=1",
        f"postgresql://user:{SECRET} x@localhost/db",
        f"postgresql+asyncpg://user:{SECRET}@localhost/db",
        f"postgres//user:{SECRET}@localhost/db",
        f"mysql://user:{SECRET}@localhost/db",
        f"user:{SECRET}@localhost/db",
        SECRET,
    ],
)
async def test_a_malformed_database_url_is_refused_and_no_part_of_it_is_shown(database_url: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(database_url=database_url)
    assert "postgresql://user:password@host:5432/name" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert SECRET not in repr(raised.value)


async def test_key_value_pairs_as_database_url_are_refused() -> None:
    for command in ("serve", "check", "migrate"):
        ended = await run(command, DATABASE_URL=f"host=localhost user=app password={SECRET} dbname=db")
        assert ended.status == 1
        assert ended.err.startswith("error: DATABASE_URL: key=value pairs are not supported")
        assert SECRET not in ended.err + ended.out


@pytest.mark.parametrize(
    "database_url",
    [
        "postgresql://user:password@host:5432/name",
        "postgres://user:p%40ss%2Fw%23rd@host/name?sslmode=require",
        "postgresql://postgres@/postgres?host=/run/postgresql&port=5432",
        "postgresql://postgres@/postgres?host=/tmp/a@b",
        "postgresql://user@one:5432,two:5433/name?target_session_attrs=primary",
        "postgresql://[2001:db8::1]:5432/name",
        "postgresql:///name",
    ],
)
def test_a_database_url_that_both_drivers_accept_is_accepted(database_url: str) -> None:
    assert Settings(database_url=database_url).database_url == database_url


async def test_no_log_and_no_error_shows_the_password() -> None:
    settings = Settings(database_url=f"postgresql://user:{SECRET}@localhost:1/db")
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    for command in ("check", "migrate", "demo"):
        ended = await run(command, DATABASE_URL=settings.database_url)
        assert (ended.status, "can't be reached" in ended.err) == (1, True)
        assert SECRET not in ended.err + ended.out


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        ("lock_timeout", "statement_timeout"),
        ("statement_timeout", "command_timeout"),
        ("command_timeout", "write_timeout"),
        ("admission_seconds", "write_timeout"),
    ],
)
def test_a_nested_time_limit_must_be_shorter(shorter: str, longer: str) -> None:
    values = {shorter: getattr(Settings(), longer)}
    with pytest.raises(ValidationError, match=f"{shorter.upper()}.* must be below {longer.upper()}"):
        Settings.model_validate(values)


async def test_the_service_names_time_limits_that_do_not_nest_and_does_not_start() -> None:
    ended = await run("serve", STATEMENT_TIMEOUT="9", DATABASE_URL="postgresql://localhost:1/x")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error: STATEMENT_TIMEOUT (9 s) must be below COMMAND_TIMEOUT (7 s)")


WRONG_VALUES = ("x", "-1", "0", "1e999", "99999999999", "1.5", "A b", "http://")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_refused_with_a_sentence_of_our_own(name: str) -> None:
    for value in WRONG_VALUES:
        try:
            Settings(**{name: value})  # type: ignore[arg-type]
        except ValidationError as error:
            for sentence in explain(error):
                assert not re.search(r"Input|should|valid |unable|Value error|[{}]|String", sentence), sentence
                assert sentence.startswith(f"{name.upper()}: ") or "must be below" in sentence, sentence


async def test_a_setting_that_is_refused_ends_the_start_with_one_line_for_it() -> None:
    ended = await run("serve", PORT="99999", POOL_SIZE="0", BATCHING="maybe", STATEMENT_TIMEOUT="soon")
    assert ended.status == 1
    assert ended.err.splitlines() == [
        "error: PORT: must be at most 65535",
        "error: POOL_SIZE: must be above 0",
        "error: STATEMENT_TIMEOUT: must be a number",
        "error: BATCHING: must be true or false",
    ]
