"""How the read models are: whether anybody feeds them, and how far each one is."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg_pool import AsyncConnectionPool

from registration.projections.feed import (
    LEADER,
    Connection,
    lock_key,
)
from registration.projections.registry import READ_MODELS, ReadModel

_STATUS = """
SELECT m.name, h.tenant, coalesce(p.position, 0), h.position,
       (SELECT count(*) FROM registration.dead_letter d
         WHERE d.name = m.name AND d.tenant = h.tenant),
       EXISTS (SELECT FROM pg_locks l
                WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND l.classid = %s::oid AND l.objid = m.lock::oid)
  FROM unnest(%s::text[], %s::bigint[]) AS m (name, lock)
  LEFT JOIN registration.log_head h ON true
  LEFT JOIN registration.read_model_position p ON p.name = m.name AND p.tenant = h.tenant
 ORDER BY m.name, h.tenant
"""


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """How far a read model is in one tenant's log."""

    tenant: str
    position: int
    head: int
    dead_letters: int

    @property
    def behind(self) -> int:
        """How many events are still to come."""
        return max(0, self.head - self.position)


@dataclass(frozen=True, slots=True)
class ReadModelStatus:
    """How a read model is: whether anybody feeds it, and how far it is in each tenant's log."""

    name: str
    leader: bool
    tenants: tuple[TenantStatus, ...]

    @property
    def behind(self) -> int:
        """How many events are still to come, of all tenants."""
        return sum(tenant.behind for tenant in self.tenants)

    @property
    def dead_letters(self) -> int:
        """How many streams are parked, of all tenants."""
        return sum(tenant.dead_letters for tenant in self.tenants)


async def status(
    connection: Connection, models: Sequence[ReadModel] = READ_MODELS
) -> list[ReadModelStatus]:
    """Return how each read model is."""
    names = [model.NAME for model in models]
    cursor = await connection.execute(_STATUS, (LEADER, names, list(map(lock_key, names))))
    tenants: dict[str, list[TenantStatus]] = {name: [] for name in names}
    leaders: set[str] = set()
    for name, tenant, position, head, dead_letters, leader in await cursor.fetchall():
        if leader:
            leaders.add(name)
        if tenant is not None:
            tenants[name].append(TenantStatus(tenant, position, head, dead_letters))
    return [ReadModelStatus(name, name in leaders, tuple(tenants[name])) for name in names]


async def wait_for(
    source: Connection | AsyncConnectionPool[Connection],
    name: str,
    tenant: str,
    position: int,
    timeout: float,  # noqa: ASYNC109  (running out of time is an answer here, not an error)
) -> bool:
    """Return whether the read model reached ``position`` within ``timeout`` seconds.

    Looks every 10 ms, and holds no connection of a pool in between.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        if isinstance(source, AsyncConnectionPool):
            async with source.connection() as connection:
                reached = await _position(connection, name, tenant)
        else:
            reached = await _position(source, name, tenant)
        if reached >= position:
            return True
        if loop.time() >= end:
            return False
        await asyncio.sleep(0.01)


async def _position(connection: Connection, name: str, tenant: str) -> int:
    cursor = await connection.execute(
        "SELECT position FROM registration.read_model_position WHERE name = %s AND tenant = %s",
        (name, tenant),
    )
    row = await cursor.fetchone()
    return row[0] if row else 0
