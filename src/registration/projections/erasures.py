"""The read model of requests to erase a patient, one row each: which wait for approval."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.aggregate import Stamp
from registration.domain.erasure import Erasure, ErasureResource
from registration.domain.events import EVENTS as ALL
from registration.domain.events import ErasureEvent, ErasureShredded, Event
from registration.eventstore.records import RecordedEvent

NAME = "erasures"
VERSION = 1
EVENTS: tuple[type[Event], ...] = tuple(kind for kind in ALL if issubclass(kind, ErasureEvent))
DDL = """
CREATE TABLE erasure (
    tenant       text COLLATE "C" NOT NULL,
    id           uuid NOT NULL,
    status       text COLLATE "C" NOT NULL,
    patient_id   uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    document     text NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX erasure_status ON erasure (tenant, status, requested_at, id);
CREATE INDEX erasure_patient ON erasure (tenant, patient_id, requested_at, id);
"""
_LOAD = """
SELECT e.id, e.document
  FROM unnest(%s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT * FROM erasure WHERE erasure.tenant = %s AND erasure.id = asked.id OFFSET 0
 ) AS e
"""
_OF_PATIENTS = "SELECT id, document FROM erasure WHERE tenant = %s AND patient_id = ANY(%s)"
_WRITE = """
INSERT INTO erasure (tenant, id, status, patient_id, requested_at, document)
VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant, id) DO UPDATE
   SET status = excluded.status, document = excluded.document
"""

Connection = AsyncConnection[TupleRow]
Place = tuple[datetime, UUID]
"""Where a page ended: when it was requested, and the id."""


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in what was decided about requests of one tenant.

    Once a person is erased, so is what all requests said of them: why, and why not.
    """
    tenant = events[0].tenant
    ids = list(dict.fromkeys(recorded.stream_id for recorded in events))
    cursor = await connection.execute(_LOAD, (ids, tenant), prepare=False)
    known = {its_id: _known(document) for its_id, document in await cursor.fetchall()}
    for recorded in events:
        erasure = known.setdefault(recorded.stream_id, Erasure(recorded.stream_id))
        erasure.apply(recorded.event, Stamp.of(recorded))
        if isinstance(recorded.event, ErasureShredded):
            gone = list(recorded.event.patient_ids)
            cursor = await connection.execute(_OF_PATIENTS, (tenant, gone), prepare=False)
            for its_id, document in await cursor.fetchall():
                known.setdefault(its_id, _known(document))
            for its_id, each in known.items():
                if each.state is not None and each.state.patient_id in gone:
                    known[its_id] = each.without_reasons()
    async with connection.cursor() as cursor:
        await cursor.executemany(_WRITE, [_row(tenant, each) for each in known.values()])


def _known(document: str) -> Erasure:
    return Erasure.from_shown(ErasureResource.model_validate_json(document))


def _row(tenant: str, erasure: Erasure) -> tuple[Any, ...]:
    shown = erasure.shown()
    return (
        tenant,
        shown.id,
        shown.status,
        shown.patient_id,
        shown.requested.at,
        shown.encoded().decode(),
    )


class ErasureQuery(NamedTuple):
    """What to list: requests of a status, or about a patient; all given criteria hold."""

    tenant: str
    status: str | None = None
    patient_id: UUID | None = None
    after: Place | None = None
    limit: int = 50


# Erasures are rare: whatever is asked for is few rows of an index.
_LIST = """
SELECT requested_at, id, document FROM erasures.erasure
 WHERE tenant = %(tenant)s AND (%(status)s::text IS NULL OR status = %(status)s)
   AND (%(patient_id)s::uuid IS NULL OR patient_id = %(patient_id)s)
   AND (%(after_id)s::uuid IS NULL OR (requested_at, id) > (%(after_at)s, %(after_id)s))
 ORDER BY requested_at, id LIMIT %(limit)s
"""


async def list_erasures(connection: Connection, query: ErasureQuery) -> list[TupleRow]:
    """Return (requested_at, id, document) of requests, the oldest first."""
    at, its_id = query.after or (None, None)
    cursor = await connection.execute(
        _LIST,
        query._asdict() | {"after_at": at, "after_id": its_id},
        prepare=False,
    )
    return await cursor.fetchall()
