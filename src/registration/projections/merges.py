"""The read model of merge decisions: one row each, for the list of those that wait for approval.

A decision about somebody who was erased is erased with them: it has no row.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.aggregate import Stamp
from registration.domain.events import EVENTS as ALL
from registration.domain.events import Event, MergeEvent, PatientErased
from registration.domain.merge import Merge, MergeResource
from registration.eventstore.records import RecordedEvent

NAME = "merges"
VERSION = 2
EVENTS: tuple[type[Event], ...] = (
    *(kind for kind in ALL if issubclass(kind, MergeEvent)),
    PatientErased,
)
DDL = """
CREATE TABLE merge (
    tenant      text COLLATE "C" NOT NULL,
    id          uuid NOT NULL,
    status      text COLLATE "C" NOT NULL,
    survivor_id uuid NOT NULL,
    retired_id  uuid NOT NULL,
    proposed_at timestamptz NOT NULL,
    document    text NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX merge_status ON merge (tenant, status, proposed_at, id);
CREATE INDEX merge_survivor ON merge (tenant, survivor_id, proposed_at, id);
CREATE INDEX merge_retired ON merge (tenant, retired_id, proposed_at, id);
"""
_LOAD = """
SELECT m.tenant, m.id, m.document
  FROM unnest(%s::text[], %s::uuid[]) AS asked (tenant, id)
 CROSS JOIN LATERAL (
    SELECT * FROM merge WHERE merge.tenant = asked.tenant AND merge.id = asked.id OFFSET 0
 ) AS m
"""
_WRITE = """
INSERT INTO merge (tenant, id, status, survivor_id, retired_id, proposed_at, document)
VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant, id) DO UPDATE
   SET status = excluded.status, document = excluded.document
"""
_ERASE = "DELETE FROM merge WHERE tenant = %s AND (survivor_id = %s OR retired_id = %s)"

Connection = AsyncConnection[TupleRow]
Place = tuple[datetime, UUID]
"""Where a page ended: when it was proposed, and the id."""


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in what was decided, and then who was erased: nothing is decided about them later."""
    # a blank decision is about somebody whose erasure is still to come, and goes with it
    await _decide(
        connection,
        [
            recorded
            for recorded in events
            if isinstance(recorded.event, MergeEvent) and not recorded.is_about_the_erased
        ],
    )
    for recorded in events:
        if isinstance(recorded.event, PatientErased):
            gone = recorded.stream_id
            # planned each time: a plan from when the table was empty would be kept for good
            await connection.execute(_ERASE, (recorded.tenant, gone, gone), prepare=False)


async def _decide(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Write the rows of what was decided."""
    if not events:
        return
    keys = list(dict.fromkeys((recorded.tenant, recorded.stream_id) for recorded in events))
    cursor = await connection.execute(_LOAD, [list(column) for column in zip(*keys, strict=True)])
    known = {
        (tenant, its_id): Merge.from_shown(MergeResource.model_validate_json(document))
        for tenant, its_id, document in await cursor.fetchall()
    }
    for recorded in events:
        merge = known.setdefault((recorded.tenant, recorded.stream_id), Merge(recorded.stream_id))
        merge.apply(recorded.event, Stamp.of(recorded))
    async with connection.cursor() as cursor:
        await cursor.executemany(_WRITE, [_row(tenant, known[tenant, i]) for tenant, i in keys])


def _row(tenant: str, merge: Merge) -> tuple[Any, ...]:
    shown = merge.shown()
    return (
        tenant,
        shown.id,
        shown.status,
        shown.survivor_id,
        shown.retired_id,
        shown.proposed.at,
        shown.encoded().decode(),
    )


class MergeQuery(NamedTuple):
    """What to list: decisions of a status, or about a patient; all given criteria hold."""

    tenant: str
    status: str | None = None
    patient_id: UUID | None = None
    after: Place | None = None
    limit: int = 50


# One branch for each index: whoever names a patient finds few, others go along the statuses.
_OF_STATUS = """
SELECT found.proposed_at, found.id, found.document
  FROM unnest(%(statuses)s::text[]) AS wanted (status)
 CROSS JOIN LATERAL (
    SELECT proposed_at, id, document FROM merges.merge AS m
     WHERE tenant = %(tenant)s AND m.status = wanted.status
       AND (%(after_id)s::uuid IS NULL OR (proposed_at, id) > (%(after_at)s, %(after_id)s))
     ORDER BY proposed_at, id LIMIT %(limit)s
 ) AS found
 ORDER BY 1, 2 LIMIT %(limit)s
"""
_OF_PATIENT = """
SELECT proposed_at, id, document FROM merges.merge
 WHERE tenant = %(tenant)s AND (survivor_id = %(patient_id)s OR retired_id = %(patient_id)s)
   AND status = ANY(%(statuses)s)
   AND (%(after_id)s::uuid IS NULL OR (proposed_at, id) > (%(after_at)s, %(after_id)s))
 ORDER BY proposed_at, id LIMIT %(limit)s
"""
_STATUSES = ("proposed", "executed", "rejected", "reversed")


async def list_merges(connection: Connection, query: MergeQuery) -> list[TupleRow]:
    """Return (proposed_at, id, document) of decisions, the oldest first."""
    at, its_id = query.after or (None, None)
    cursor = await connection.execute(
        _OF_STATUS if query.patient_id is None else _OF_PATIENT,
        {
            "tenant": query.tenant,
            "statuses": list(_STATUSES if query.status is None else (query.status,)),
            "patient_id": query.patient_id,
            "after_at": at,
            "after_id": its_id,
            "limit": query.limit,
        },
    )
    return await cursor.fetchall()
