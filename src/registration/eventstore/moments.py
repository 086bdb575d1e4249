"""Which position of a log an instant falls at.

A tenant's log is dense and its times only grow, so halving finds the place with a look at some
twenty events; no index on the time is needed.
"""

from datetime import datetime, timedelta

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

BEFORE = """
WITH RECURSIVE halving (low, high) AS (
    SELECT 0::bigint, coalesce((SELECT h.position FROM registration.log_head AS h
                                 WHERE h.tenant = %(tenant)s), 0) + 1
    UNION ALL
    SELECT CASE WHEN middle.is_before THEN (low + high) / 2 ELSE low END,
           CASE WHEN middle.is_before THEN high ELSE (low + high) / 2 END
      FROM halving CROSS JOIN LATERAL (
        SELECT e.recorded_at < %(at)s AS is_before FROM registration.event AS e
         WHERE e.tenant = %(tenant)s AND e.position = (low + high) / 2 OFFSET 0
      ) AS middle
     WHERE high - low > 1
)
SELECT max(low) FROM halving
"""
"""The position of the last event of ``tenant`` recorded before ``at``; 0 where there is none."""


_TICK = timedelta(microseconds=1)


def just_after(moment: datetime) -> datetime:
    """Return the next instant; of the last one that there is, itself: nothing is recorded then."""
    try:
        return moment + _TICK
    except OverflowError:
        return moment


async def position_before(connection: AsyncConnection[TupleRow], tenant: str, at: datetime) -> int:
    """Return the position of the last event recorded before an instant; 0 where there is none."""
    cursor = await connection.execute(BEFORE, {"tenant": tenant, "at": at})
    row = await cursor.fetchone()
    return row[0] if row else 0
