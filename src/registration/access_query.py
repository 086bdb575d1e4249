"""Looking into the access log: who read what of which patient, and which reads are missing."""

from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

Connection = AsyncConnection[TupleRow]
Place = tuple[datetime, UUID]
"""Where a page ended: when, and the row's id."""
MOST_GAPS = 100


class AccessQuery(NamedTuple):
    """What to list: all given criteria hold; ``since`` <= at < ``until``."""

    tenant: str
    patient_id: UUID | None = None
    actor: str | None = None
    broken_glass: bool = False
    since: datetime | None = None
    until: datetime | None = None
    after: Place | None = None
    limit: int = 50


class Accessed(NamedTuple):
    """One row of the access log; ``patient_id`` ``None``: the answer showed nobody."""

    at: datetime
    id: UUID
    actor: str
    client: str | None
    facility: str | None
    operation: str
    patient_id: UUID | None
    purpose: str | None
    break_glass: str | None
    request_id: str
    status: int


class Gap(NamedTuple):
    """That reads of a time are missing: ``lost`` of them; after a ``crash`` nobody knows."""

    id: int
    since: datetime
    until: datetime
    reason: str
    lost: int | None


_FIND: LiteralString = """
SELECT at, id, actor, client, facility, operation, patient_id, purpose, break_glass, request_id,
       status
  FROM registration.access_log
 WHERE {}
 ORDER BY at DESC, id DESC LIMIT %(limit)s
"""
_GAPS = """
SELECT id, since, until, reason, lost FROM registration.access_log_gap
 WHERE (tenant IS NULL OR tenant = %(tenant)s)
   AND until >= coalesce(%(since)s::timestamptz, '-infinity')
   AND since < coalesce(%(until)s::timestamptz, 'infinity')
 ORDER BY since DESC, id DESC LIMIT %(most)s
"""


async def find_reads(connection: Connection, query: AccessQuery) -> list[Accessed]:
    """Return reads, the newest first: one walk along the index of the patient, or of the actor."""
    where: list[LiteralString] = ["tenant = %(tenant)s"]
    if query.patient_id is not None:
        where.append("patient_id = %(patient_id)s")
    if query.actor is not None:
        where.append("actor = %(actor)s")
    if query.broken_glass:
        where.append("break_glass IS NOT NULL")
    if query.since is not None:
        where.append("at >= %(since)s")
    if query.until is not None:
        where.append("at < %(until)s")
    if query.after is not None:
        where.append("(at, id) < (%(after_at)s, %(after_id)s)")
    after_at, after_id = query.after or (None, None)
    statement = sql.SQL(_FIND).format(sql.SQL(" AND ").join(map(sql.SQL, where)))
    cursor = await connection.execute(
        statement, query._asdict() | {"after_at": after_at, "after_id": after_id}, prepare=False
    )
    return [Accessed(*row) for row in await cursor.fetchall()]


async def find_gaps(
    connection: Connection, tenant: str, since: datetime | None, until: datetime | None
) -> list[Gap]:
    """Return where reads are missing that would lie in a time, the newest first.

    They are one more than ``MOST_GAPS`` where there are more than that.
    """
    asked = {"tenant": tenant, "since": since, "until": until, "most": MOST_GAPS + 1}
    cursor = await connection.execute(_GAPS, asked)
    return [Gap(*row) for row in await cursor.fetchall()]
