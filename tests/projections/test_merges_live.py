"""Read models that follow merges: fed by the runner they hold what a rebuild makes of the log."""

import asyncio
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from tests.eventstore.given import open_store, stored
from tests.projections.given import TENANT, People, storm

from registration.eventstore import database
from registration.projections import changes, encounters, portraits, rebuild, runner, search
from registration.projections.registry import ReadModel
from registration.projections.status import wait_for

MODELS: tuple[ReadModel, ...] = (search, encounters, portraits, changes)
TABLES = (
    "search.patient",
    "search.name_pair",
    "search.identifier",
    "search.spelling",
    "encounters.encounter",
    "encounters.link",
    "portraits.link",
    "changes.record",
    "changes.scope",
)


async def rows(connection: AsyncConnection[TupleRow]) -> dict[str, list[Any]]:
    found = {}
    for table in TABLES:
        cursor = await connection.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1")
        found[table] = await cursor.fetchall()
    return found


async def feed(url: str, log: People) -> None:
    """Store a log in small pieces under a runner, until that has all of it."""
    stop = asyncio.Event()
    running = asyncio.create_task(runner.run_forever(url, stop=stop, models=MODELS))
    async with open_store(url) as store, await database.connect(url, name="test") as connection:
        for recorded in log.events:
            await stored(
                store,
                recorded.event,
                tenant=TENANT,
                stream=recorded.stream_id,
                version=recorded.version - 1,
            )
        for model in MODELS:
            assert await wait_for(connection, model.NAME, TENANT, len(log.events), 10)
    stop.set()
    await asyncio.wait_for(running, 5)


@pytest.mark.parametrize("seed", range(2))
def test_a_rebuild_gives_the_same_rows(database_url: str, seed: int) -> None:
    log = storm(seed, 60)

    async def scenario() -> None:
        await feed(database_url, log)
        async with await database.connect(database_url, name="test") as connection:
            live = await rows(connection)
            assert all(live.values())
            for model in MODELS:
                await rebuild.rebuild(database_url, model.NAME, models=[model])
            assert await rows(connection) == live

    asyncio.run(scenario())
