"""Which devices push, and what is refused to them: told to the tables that reports read.

A refused mutation leaves no event, and a push of nothing leaves no trace at all. What is told here
is told after the push, and lost if the program dies in between: nothing is decided by it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from registration.domain.context import Context
from registration.sync.push import Result, Status

log = logging.getLogger(__name__)

_REFUSED = (Status.CONFLICT, Status.REJECTED, Status.BLOCKED)
_SEEN = """
INSERT INTO device (tenant, client, facility, last_push_at) VALUES (%s, %s, %s, %s)
    ON CONFLICT (tenant, client) DO UPDATE
   SET facility = excluded.facility,
       last_push_at = greatest(device.last_push_at, excluded.last_push_at)
"""
_COUNT = """
INSERT INTO refused_mutation AS r (tenant, quarter, facility, outcome, code, count)
VALUES (%s, date_bin('15 minutes', %s, 'epoch'), %s, %s, %s, %s)
    ON CONFLICT (tenant, quarter, facility, outcome, code) DO UPDATE
   SET count = r.count + excluded.count
"""


class Devices:
    """Remembers which devices push, beside their pushes: nobody waits for it."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
        self._pool = pool
        self._telling: set[asyncio.Task[None]] = set()

    def pushed(self, context: Context, results: Iterable[Result], now: datetime) -> None:
        """Take in a push of the context's client. A refusal that is told again counts once."""
        refused = Counter(
            (result.status.value, result.error.code)
            for result in results
            if result.status in _REFUSED and result.error is not None
        )
        task = asyncio.create_task(self._tell(context, now, refused))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Wait until all is told; the pool must still be open."""
        await asyncio.gather(*self._telling)

    async def _tell(
        self, context: Context, now: datetime, refused: Counter[tuple[str, str]]
    ) -> None:
        rows = [
            (context.tenant, now, context.facility or "", outcome, code, count)
            # in one order everywhere, so that two pushes cannot wait for each other
            for (outcome, code), count in sorted(refused.items())
        ]
        try:
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute("SET LOCAL synchronous_commit = off")
                await connection.execute(
                    _SEEN, (context.tenant, context.client, context.facility, now)
                )
                async with connection.cursor() as cursor:
                    await cursor.executemany(_COUNT, rows)
        except (psycopg.Error, PoolTimeout) as error:
            # the type only: messages of the database can hold rows
            log.warning(
                "what is known of devices: %s; a push was not counted", type(error).__name__
            )
