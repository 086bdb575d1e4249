"""Which record a patient is found under now: a table for each read model that follows merges.

A row of ``link`` is a record that is merged away now: into which one, and which one that leads to
in the end. So finding out takes one look-up however long the chain is; the work is done when a
merge is stored or undone, which is seldom.

Who is erased is erased with all that was merged into the record, each by an event of its own: so
each link goes with the record that it leads from.

Statements are planned each time: a plan from when the table was empty would be kept for good, and
may take the wrong index.
"""

from collections.abc import Iterable
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.events import Event, PatientErased, PatientMergedAway, PatientRestored

Connection = AsyncConnection[TupleRow]

EVENTS: tuple[type[Event], ...] = (PatientMergedAway, PatientRestored, PatientErased)
"""What changes a link, each in the history of the record that is merged away."""

DDL = """
CREATE TABLE link (
    tenant      text COLLATE "C" NOT NULL,
    patient_id  uuid NOT NULL,
    survivor_id uuid NOT NULL,
    current_id  uuid NOT NULL,
    PRIMARY KEY (tenant, patient_id)
);
CREATE INDEX link_survivor ON link (tenant, survivor_id);
"""
_CURRENT = """
SELECT asked.id, link.current_id
  FROM unnest(%s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT current_id FROM link WHERE tenant = %s AND patient_id = asked.id OFFSET 0
 ) AS link
"""
_BELOW = """
WITH RECURSIVE below (id) AS (
    SELECT %s::uuid
    UNION
    SELECT link.patient_id FROM below CROSS JOIN LATERAL (
        SELECT patient_id FROM link WHERE tenant = %s AND survivor_id = below.id OFFSET 0
    ) AS link
)
SELECT id FROM below
"""
_LINK = """
INSERT INTO link (tenant, patient_id, survivor_id, current_id) VALUES (%s, %s, %s, %s)
"""
_UNLINK = "DELETE FROM link WHERE tenant = %s AND patient_id = %s"
_MOVE = "UPDATE link SET current_id = %s WHERE tenant = %s AND patient_id = ANY(%s)"


async def current_of(
    connection: Connection, tenant: str, patient_ids: Iterable[UUID]
) -> dict[UUID, UUID]:
    """Return under which records patients are found now, of those that were merged away."""
    cursor = await connection.execute(_CURRENT, (list(patient_ids), tenant), prepare=False)
    return dict(await cursor.fetchall())


async def follow(
    connection: Connection, tenant: str, patient_id: UUID, event: Event
) -> tuple[UUID, list[UUID]] | None:
    """Take in a merge, its undoing, or an erasure; other events change no link.

    Returns the record under which a patient, and all that were merged into it, are found from now
    on, and the ids of all these; nothing where none of them is found elsewhere than before.
    """
    if isinstance(event, PatientMergedAway):
        led = await current_of(connection, tenant, [event.survivor_id])
        current = led.get(event.survivor_id, event.survivor_id)
        link = (tenant, patient_id, event.survivor_id, current)
        await connection.execute(_LINK, link)
    elif isinstance(event, PatientRestored):
        current = patient_id
        await connection.execute(_UNLINK, (tenant, patient_id))
    else:
        if isinstance(event, PatientErased):
            await connection.execute(_UNLINK, (tenant, patient_id))
        return None
    cursor = await connection.execute(_BELOW, (patient_id, tenant), prepare=False)
    moved = [row[0] for row in await cursor.fetchall()]
    await connection.execute(_MOVE, (current, tenant, moved), prepare=False)
    return current, moved
