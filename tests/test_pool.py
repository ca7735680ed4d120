"""The pool: a connection serves one schema after the other, and never the wrong one."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.errors import Unavailable
from service.pool import Pool
from service.settings import Settings
from sql import Connection
from tests.campus import until

SCHEMAS = [f"school_{number}" for number in range(7)]

pytestmark = pytest.mark.not_on_citus("the tests would share the schemas that they create")


@pytest.fixture
async def schemas(connection: Connection) -> None:
    for name in SCHEMAS:
        await connection.execute(f"CREATE SCHEMA {name}; CREATE TABLE {name}.notes AS SELECT '{name}'::text AS owner")
        await connection.execute(f"GRANT USAGE ON SCHEMA {name} TO PUBLIC; GRANT SELECT ON {name}.notes TO PUBLIC")


@pytest.fixture
async def pool(settings: Settings, schemas: None) -> AsyncIterator[Pool]:
    pool = Pool(settings.model_copy(update={"pool_size": 3, "acquire_timeout": 5.0}))
    await pool.open()
    yield pool
    await pool.close()


async def unprepared(_connection: Connection) -> None:
    """Prepare nothing."""


async def owner_of(pool: Pool, schema: str, *, for_changes: bool = False) -> tuple[str, int]:
    """Return what the table of a schema says, and the process that read it."""
    async with pool.lend(schema, unprepared, for_changes=for_changes) as connection:
        return await connection.fetchval("SELECT owner FROM notes"), connection.get_server_pid()


async def test_a_connection_is_lent_to_the_schema_that_it_served_last(pool: Pool) -> None:
    first = {schema: await owner_of(pool, schema) for schema in SCHEMAS[:3]}
    for schema in [*SCHEMAS[:3], *reversed(SCHEMAS[:3])]:
        assert await owner_of(pool, schema) == first[schema]
    assert len({process for _, process in first.values()}) == 3
    # All connections are idle, and none has served this schema: the one that was idle for longest serves it.
    oldest = first[SCHEMAS[2]][1]
    for schema in (SCHEMAS[2], SCHEMAS[1], SCHEMAS[0]):
        oldest = first[schema][1]
        await owner_of(pool, schema)
    assert await owner_of(pool, SCHEMAS[6]) == (SCHEMAS[6], first[SCHEMAS[2]][1])
    assert oldest == first[SCHEMAS[0]][1]


async def test_another_schema_costs_one_statement_and_its_preparation_happens_once(settings: Settings) -> None:
    pool, prepared = Pool(settings.model_copy(update={"pool_size": 1})), Counter[str]()
    sent: list[str] = []
    await pool.open()

    def note(query: asyncpg.connection.LoggedQuery) -> None:
        sent.append(query.query)

    async def prepare(connection: Connection) -> None:
        prepared[await connection.fetchval("SELECT current_schema()::text")] += 1

    for schema in ("public", "pg_catalog", "public", "pg_catalog"):
        async with pool.lend(schema, prepare) as connection:
            # The first switch is that of a new connection.
            connection.add_query_logger(note)
            assert await connection.fetchval("SELECT current_schema()") == schema
    await asyncio.sleep(0)
    await pool.close()
    assert prepared == {"public": 1, "pg_catalog": 1}
    assert len([query for query in sent if "search_path" in query]) == 3


async def test_no_call_ever_reads_another_schema(pool: Pool) -> None:
    chance = random.Random(7)
    outcomes: Counter[str] = Counter()

    async def caller() -> None:
        for _ in range(60):
            schema, doing = chance.choice(SCHEMAS), chance.random()
            try:
                async with asyncio.timeout(0.001 if doing < 0.2 else None):
                    async with pool.lend(schema, unprepared, for_changes=doing > 0.7) as connection:
                        if doing > 0.9:
                            await connection.execute("BEGIN")
                            await connection.execute("SELECT no_such_column FROM notes")
                        assert await connection.fetchval("SELECT owner FROM notes") == schema
                        outcomes["read"] += 1
            except asyncpg.UndefinedColumnError:
                outcomes["failed"] += 1
            except TimeoutError:
                outcomes["cancelled"] += 1

    await asyncio.gather(*(caller() for _ in range(12)))

    assert outcomes["read"] > 100
    assert outcomes["failed"] > 10
    assert pool.usage()[0] == 0
    assert [lane for lane in pool._lanes.values() if lane.lent] == []
    assert {share._value for share in pool._shares.values()} == {2}


async def test_a_connection_whose_schema_could_not_be_prepared_is_closed(pool: Pool) -> None:
    async def fail(connection: Connection) -> None:
        await connection.execute("BEGIN")
        raise LookupError

    _, process = await owner_of(pool, SCHEMAS[0])
    for _ in range(4):
        with pytest.raises(LookupError):
            async with pool.lend(SCHEMAS[1], fail):
                pass
    assert await owner_of(pool, SCHEMAS[0]) == (SCHEMAS[0], process)
    owner, _ = await owner_of(pool, SCHEMAS[1])
    assert owner == SCHEMAS[1]


async def test_reads_leave_a_connection_to_changes_and_changes_one_to_reads(settings: Settings, schemas: None) -> None:
    pool = Pool(settings.model_copy(update={"pool_size": 2, "acquire_timeout": 0.1}))
    await pool.open()
    for for_changes in (False, True):
        async with pool.lend(SCHEMAS[0], unprepared, for_changes=for_changes):
            assert (await owner_of(pool, SCHEMAS[1], for_changes=not for_changes))[0] == SCHEMAS[1]
            with pytest.raises(Unavailable, match="available in time"):
                await owner_of(pool, SCHEMAS[1], for_changes=for_changes)
        assert (await owner_of(pool, SCHEMAS[2], for_changes=for_changes))[0] == SCHEMAS[2]
    await pool.close()


async def test_calls_that_time_out_together_give_their_connections_back(settings: Settings) -> None:
    pool = Pool(settings.model_copy(update={"pool_size": 4, "command_timeout": 0.3}))
    await pool.open()

    async def sleep(seconds: float) -> None:
        async with pool.lend("public", unprepared) as connection:
            await connection.execute(f"SELECT pg_sleep({seconds})")

    async def nothing_is_lent() -> bool:
        return pool.usage()[0] == 0

    try:
        await asyncio.gather(*(sleep(0.1) for _ in range(3)))
        assert pool.usage() == (0, 3, 0)
        failures = await asyncio.gather(sleep(3), sleep(3), return_exceptions=True)
        assert [str(failure) for failure in failures] == ["The database did not answer in time."] * 2
        await until(nothing_is_lent, "the connections to be given back")
        await sleep(0)  # shows that the database answers again
        await asyncio.gather(*(sleep(0.1) for _ in range(3)))
    finally:
        await pool.close()
