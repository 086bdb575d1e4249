"""Where the bytes of portraits are: in a table of their own, never in an event.

A row is written before the event that names it and deleted after the one that removes it
(``docs/decisions/0006``), so a portrait that the log shows is always there, and one that it does
not show is never served.
"""

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

ORPHAN_AGE = timedelta(minutes=10)
"""How old a row must be to be called an orphan: no request waits that long for its event."""

# With the patient's key held: an erasure deletes it first and the pictures then, so that none comes
# in between.
_PUT = """
INSERT INTO registration.portrait_image (tenant, id, patient_id, bytes)
SELECT k.tenant, %s, k.id, %s FROM registration.personal_key k
 WHERE k.tenant = %s AND k.id = %s FOR KEY SHARE
"""
_GET = "SELECT bytes FROM registration.portrait_image WHERE tenant = %s AND id = %s"
_DELETE = "DELETE FROM registration.portrait_image WHERE tenant = %s AND id = ANY(%s)"
_OLD = """
SELECT i.tenant, i.id, i.patient_id FROM registration.portrait_image i
 WHERE i.stored_at < clock_timestamp() - %s
   AND NOT EXISTS (SELECT FROM portraits.portrait p WHERE p.tenant = i.tenant AND p.id = i.id)
 LIMIT 1000
"""


class StoredImage(NamedTuple):
    """A row by its keys."""

    tenant: str
    portrait_id: UUID
    patient_id: UUID


class Portraits:
    """Keeps and gives the bytes."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
        self._pool = pool

    async def put(self, tenant: str, portrait_id: UUID, patient_id: UUID, data: bytes) -> None:
        """Keep the bytes, durably; not of somebody who has been erased."""
        async with self._pool.connection() as connection:
            await connection.execute(_PUT, (portrait_id, data, tenant, patient_id), binary=True)

    async def get(self, tenant: str, portrait_id: UUID) -> bytes | None:
        """Return the bytes; ``None`` where they were removed a moment ago."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_GET, (tenant, portrait_id), binary=True)
            row = await cursor.fetchone()
            return row[0] if row else None

    async def delete(self, tenant: str, *portrait_ids: UUID) -> int:
        """Remove bytes for good; returns how many pictures that were."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_DELETE, (tenant, list(portrait_ids)))
            return cursor.rowcount

    async def unclaimed(self) -> list[StoredImage]:
        """Return old rows that the read model does not show: replaced, removed, or left behind.

        The read model may be behind: the patient's own history has the last word.
        """
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_OLD, (ORPHAN_AGE,))
            return [StoredImage(*row) for row in await cursor.fetchall()]
