"""Eight writers, slow and rolled-back transactions among them, against a reader at the tail."""

import asyncio
import random

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import TupleRow
from tests.eventstore.given import TENANT, TTL, open_store, registered, request

from registration.eventstore import database
from registration.eventstore.store import APPEND, append_arguments
from registration.eventstore.verify import verify_log

WRITERS = 8
SECONDS = 4.0


async def append(connection: AsyncConnection[TupleRow], count: int) -> list[int]:
    """Append ``count`` streams in the transaction that the connection is in; their positions."""
    requests = [request(registered(), registered()) for _ in range(count)]
    arguments = append_arguments(TENANT, None, TTL, requests)
    cursor = await connection.execute(APPEND, arguments, prepare=True, binary=True)
    rows = await cursor.fetchall()
    assert {row[0] for row in rows} == {"stored"}
    return [position for row in rows for position in (row[1] - 1, row[1])]


class Writer:
    """Commits, dawdles, rolls back, and now and then loses its connection before the commit."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._chance = random.Random(seed)
        self.committed: list[int] = []
        self.undone: list[int] = []
        self.lost = 0

    async def write(self, end: float) -> None:
        while asyncio.get_running_loop().time() < end:
            async with await database.connect(self._url, name="writer") as connection:
                try:
                    await self._write_until_lost(connection, end)
                except OperationalError:
                    self.lost += 1

    async def _write_until_lost(self, connection: AsyncConnection[TupleRow], end: float) -> None:
        while asyncio.get_running_loop().time() < end:
            luck = self._chance.random()
            async with connection.transaction(force_rollback=luck < 0.3):
                positions = await append(connection, self._chance.randint(1, 5))
                if self._chance.random() < 0.1:
                    await asyncio.sleep(self._chance.uniform(0, 0.05))
                if luck > 0.98:
                    await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            (self.undone if luck < 0.3 else self.committed).extend(positions)
            await asyncio.sleep(self._chance.uniform(0, 0.004))


def test_a_reader_at_the_tail_misses_nothing_and_sees_nothing_twice(database_url: str) -> None:
    writers = [Writer(database_url, seed) for seed in range(WRITERS)]
    seen: list[int] = []

    async def scenario() -> None:
        async with open_store(database_url) as store:

            async def follow() -> None:
                while True:
                    cursor = seen[-1] if seen else 0
                    found = [e.position for e in await store.read_log(TENANT, cursor, 50)]
                    seen.extend(found)
                    if not found:
                        if done:
                            return
                        await asyncio.sleep(0.001)

            done = False
            follower = asyncio.create_task(follow())
            end = asyncio.get_running_loop().time() + SECONDS
            await asyncio.gather(*(writer.write(end) for writer in writers))
            done = True
            await follower

    asyncio.run(scenario())
    committed = sorted(position for writer in writers for position in writer.committed)
    assert len(committed) > 500
    assert all(writer.undone for writer in writers)
    assert sum(writer.lost for writer in writers) > 0
    # none missed, none twice, in order; and what was rolled back left no hole
    assert seen == committed == list(range(1, len(committed) + 1))
    assert verify_log(database_url, TENANT).ok
