"""How far ``pull`` gets, for whoever wants to be told: one look at the database serves them all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from registration.domain.errors import DomainError
from registration.projections.changes import NAME

MOST_LISTENERS = 1000
"""Streams of one tenant to one process; each is an open connection."""
_LOOK = 0.1
_AWAY = 1.0

_POSITIONS = """
SELECT tenant, position FROM registration.read_model_position
 WHERE name = %s AND tenant = ANY(%s)
"""


class Positions:
    """Tells listeners how far the feed of their tenant is; looks only while somebody listens."""

    def __init__(self, views: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
        self._views = views
        self._listeners: dict[str, int] = {}
        self._positions: dict[str, int] = {}
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self.closed = False

    def close(self) -> None:
        """Let every listener go; for when the service stops."""
        self.closed = True
        self._wake()

    def admit(self, tenant: str) -> None:
        """Raise ``TOO_MANY_REQUESTS`` where too many listen to the tenant's feed already."""
        if self._listeners.get(tenant, 0) >= MOST_LISTENERS:
            raise DomainError("TOO_MANY_REQUESTS", "Too many streams are open.")

    @asynccontextmanager
    async def listening(self, tenant: str) -> AsyncIterator[None]:
        """Listen to a tenant's feed."""
        self._listeners[tenant] = self._listeners.get(tenant, 0) + 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._listeners[tenant] -= 1
            if not self._listeners[tenant]:
                del self._listeners[tenant]
                self._positions.pop(tenant, None)

    async def after(self, tenant: str, position: int, patience: float) -> int | None:
        """Return the next position that is not ``position``; ``None`` after ``patience`` seconds.

        It is a lower one where the log was restored from a backup.
        """
        try:
            async with asyncio.timeout(patience):
                while not self.closed:
                    news, reached = self._news, self._positions.get(tenant)
                    if reached not in (None, position):
                        return reached
                    await news.wait()
        except TimeoutError:
            pass
        return None

    async def _look(self) -> None:
        try:
            while self._listeners and not self.closed:
                pause = await self._looked()
                await asyncio.sleep(pause)
        finally:
            self._looking = None

    async def _looked(self) -> float:
        """Look once; returns how long to wait before the next look."""
        try:
            async with self._views.connection() as connection:
                cursor = await connection.execute(_POSITIONS, (NAME, list(self._listeners)))
                found: dict[str, int] = dict(await cursor.fetchall())
        except (psycopg.OperationalError, PoolTimeout):
            return _AWAY  # listeners hear of it when they pull
        if found != self._positions:
            self._positions = found
            self._wake()
        return _LOOK

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
