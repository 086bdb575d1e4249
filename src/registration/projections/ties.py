"""What else a patient is part of, for the read model ``changes``: a row of ``tie`` each.

An encounter names its patient in its own row; a merge decision is about two. A record that another
one was merged into held it, and does for all that is known here later: once that one is erased,
where it was seen from is no longer known, and what held it has to do without.
"""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.events import MergeProposed, PatientAbsorbed, PatientErased
from registration.eventstore.records import RecordedEvent

Connection = AsyncConnection[TupleRow]

DDL = """
CREATE TABLE tie (
    tenant     text COLLATE "C" NOT NULL,
    patient_id uuid NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    id         uuid NOT NULL,
    PRIMARY KEY (tenant, patient_id, kind, id)
);
"""
_TIE = "INSERT INTO tie VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
_ABOUT = """
SELECT asked.id, about.id, about.kind
  FROM unnest(%s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    (SELECT r.id, r.kind FROM record AS r
      WHERE r.tenant = %s AND r.patient_id = asked.id OFFSET 0)
    UNION ALL
    (SELECT t.id, t.kind FROM tie AS t
      WHERE t.tenant = %s AND t.patient_id = asked.id AND t.kind = 'merge' OFFSET 0)
 ) AS about
"""


Ties = Mapping[UUID, Mapping[UUID, str]]
"""By patient, the other records about it, with their kinds."""


async def take_in(connection: Connection, events: Sequence[RecordedEvent]) -> Ties:
    """Note what a batch ties to patients; returns what is about those whom it erases.

    What is opened in the same batch may be missing there.
    """
    rows = [row for recorded in events for row in _rows(recorded)]
    if rows:
        async with connection.cursor() as cursor:
            await cursor.executemany(_TIE, rows)
    erased = [each.stream_id for each in events if isinstance(each.event, PatientErased)]
    found: dict[UUID, dict[UUID, str]] = {}
    if erased:
        tenant = events[0].tenant
        # planned each time: a plan from when the tables were empty would be kept for good
        about = await connection.execute(_ABOUT, (erased, tenant, tenant), prepare=False)
        for patient_id, its_id, kind in await about.fetchall():
            found.setdefault(patient_id, {})[its_id] = kind
    return found


def _rows(recorded: RecordedEvent) -> Iterable[tuple[str, UUID, str, UUID]]:
    event = recorded.event
    if isinstance(event, PatientAbsorbed):
        return [(recorded.tenant, event.patient_id, "patient", recorded.stream_id)]
    if isinstance(event, MergeProposed):
        patients = (event.survivor_id, event.retired_id)
        return [(recorded.tenant, each, "merge", recorded.stream_id) for each in patients]
    return ()
