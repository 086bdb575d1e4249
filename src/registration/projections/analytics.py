"""The read model that reports count from: a row a fact, nothing counted beforehand.

``patient_fact``    one row a record: what reports ask of it, never a name, number or address
``encounter_fact``  one row an encounter, ``status_fact`` one for each status that it was in
``consent_fact``    one row a decision about a consent flag
``mutation_fact``   one row a write that a device captured: when it was captured, when it arrived
``merge_fact``      one row a merge that was carried out

Facts are counted when somebody asks: so a correction, a merge, its undoing, a death or a mistake
changes every figure that it should, and none is kept that could be wrong. The views of the same
schema (``analytics_views``) show the facts to BI tools; they are made with the tables, and so a
rebuild, which exchanges whole schemas, exchanges them as well.

Of a patient who is erased the bare record stays, with its encounters: that somebody was registered
when and where, and came. What was known of the person goes, and so do the decisions about consent.
"""

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString, cast
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.candidate import candidate_id
from registration.domain.encounter import TRANSITIONS
from registration.domain.events import EVENTS as ALL
from registration.domain.events import (
    ConsentEvent,
    EncounterEvent,
    EncounterOpened,
    Event,
    MergeExecuted,
    MergeReversed,
    PatientErased,
    PatientEvent,
    PatientRegistered,
)
from registration.eventstore.records import RecordedEvent
from registration.projections.analytics_facts import EncounterFact, PatientFact, captured_at
from registration.projections.analytics_views import VIEWS_DDL, cut

NAME = "analytics"
VERSION = 3
EVENTS: tuple[type[Event], ...] = ALL
_TABLES = """
CREATE TABLE patient_fact (
    tenant              text COLLATE "C" NOT NULL,
    id                  uuid NOT NULL,
    registered_at       timestamptz NOT NULL,
    captured_at         timestamptz,
    registered_facility text COLLATE "C",
    facility            text COLLATE "C",
    gender              text COLLATE "C" NOT NULL,
    birth_date          text COLLATE "C",
    born_on             date,
    birth_estimated     boolean NOT NULL,
    identifiers         int NOT NULL,
    absorbed            jsonb NOT NULL,
    next_of_kin         int NOT NULL,
    telecom             int NOT NULL,
    deceased_at         timestamptz,
    merged_at           timestamptz,
    erased_at           timestamptz,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 90);
CREATE INDEX patient_fact_registered ON patient_fact (tenant, registered_at);
CREATE TABLE encounter_fact (
    tenant        text COLLATE "C" NOT NULL,
    id            uuid NOT NULL,
    patient_id    uuid NOT NULL,
    facility      text COLLATE "C",
    class         text COLLATE "C" NOT NULL,
    post_mortem   boolean NOT NULL,
    status        text COLLATE "C" NOT NULL,
    planned_start timestamptz,
    arrived_at    timestamptz,
    started_at    timestamptz,
    ended_at      timestamptz,
    PRIMARY KEY (tenant, id)
) WITH (fillfactor = 90);
CREATE TABLE status_fact (
    tenant       text COLLATE "C" NOT NULL,
    encounter_id uuid NOT NULL,
    version      int NOT NULL,
    status       text COLLATE "C" NOT NULL,
    since        timestamptz NOT NULL,
    until        timestamptz,
    PRIMARY KEY (tenant, encounter_id, version)
) WITH (fillfactor = 90);
CREATE INDEX status_fact_present ON status_fact USING gist (tstzrange(since, until))
 WHERE status IN ('arrived', 'triaged', 'in-progress', 'onleave');
CREATE TABLE consent_fact (
    tenant      text COLLATE "C" NOT NULL,
    patient_id  uuid NOT NULL,
    flag        text COLLATE "C" NOT NULL,
    version     int NOT NULL,
    decision    text COLLATE "C" NOT NULL,
    begins_at   timestamptz NOT NULL,
    valid_until timestamptz,
    recorded_at timestamptz NOT NULL,
    superseded_at timestamptz,
    PRIMARY KEY (tenant, patient_id, flag, version)
);
CREATE TABLE mutation_fact (
    tenant      text COLLATE "C" NOT NULL,
    id          uuid NOT NULL,
    client      text COLLATE "C",
    facility    text COLLATE "C",
    operation   text COLLATE "C" NOT NULL,
    captured_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX mutation_fact_recorded ON mutation_fact (tenant, recorded_at);
CREATE TABLE merge_fact (
    tenant      text COLLATE "C" NOT NULL,
    id          uuid NOT NULL,
    pair        uuid NOT NULL,
    executed_at timestamptz NOT NULL,
    reversed_at timestamptz,
    PRIMARY KEY (tenant, id)
);
"""
# The view shows minutes, and filters on what it shows.
_MINUTES = f"""
CREATE INDEX mutation_fact_minute ON mutation_fact (tenant, {cut("recorded_at")});
"""
DDL = _TABLES + _MINUTES + VIEWS_DDL

Connection = AsyncConnection[TupleRow]
Recorded = Sequence[RecordedEvent]
Row = tuple[Any, ...]

_STATUS_OF: dict[type[Event], str] = {move.event: move.target for move in TRANSITIONS.values()}


_PATIENTS: LiteralString = """
SELECT f.* FROM unnest(%s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT * FROM patient_fact AS p WHERE p.tenant = %s AND p.id = asked.id OFFSET 0
 ) AS f
"""
_WRITE_PATIENT: LiteralString = """
INSERT INTO patient_fact
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant, id) DO UPDATE
   SET facility = excluded.facility, gender = excluded.gender, birth_date = excluded.birth_date,
       born_on = excluded.born_on, birth_estimated = excluded.birth_estimated,
       identifiers = excluded.identifiers, absorbed = excluded.absorbed,
       next_of_kin = excluded.next_of_kin, telecom = excluded.telecom,
       deceased_at = excluded.deceased_at, merged_at = excluded.merged_at,
       erased_at = excluded.erased_at
"""
_ENCOUNTERS: LiteralString = """
SELECT f.* FROM unnest(%s::uuid[]) AS asked (id)
 CROSS JOIN LATERAL (
    SELECT * FROM encounter_fact AS e WHERE e.tenant = %s AND e.id = asked.id OFFSET 0
 ) AS f
"""
_WRITE_ENCOUNTER: LiteralString = """
INSERT INTO encounter_fact VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (tenant, id) DO UPDATE
   SET status = excluded.status, arrived_at = excluded.arrived_at,
       started_at = excluded.started_at, ended_at = excluded.ended_at
"""
_LEAVE_STATUS: LiteralString = """
UPDATE status_fact SET until = %s WHERE tenant = %s AND encounter_id = %s AND version = %s
"""
_ENTER_STATUS: LiteralString = "INSERT INTO status_fact VALUES (%s, %s, %s, %s, %s, NULL)"
_WRITE_CONSENT: LiteralString = """
INSERT INTO consent_fact VALUES (%s, %s, %s, %s, %s, %s, %s, %s, NULL)
"""
# In force is the last one of those that have begun: so a decision holds until the first moment from
# which any later one does.
_SUPERSEDE_CONSENT: LiteralString = """
UPDATE consent_fact SET superseded_at = least(superseded_at, %s)
 WHERE tenant = %s AND patient_id = %s AND flag = %s AND version < %s
"""
_ERASE_CONSENT: LiteralString = "DELETE FROM consent_fact WHERE tenant = %s AND patient_id = %s"
# A mutation may store several events: the first one in the log tells when it arrived.
_WRITE_MUTATION: LiteralString = """
INSERT INTO mutation_fact VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_WRITE_MERGE: LiteralString = "INSERT INTO merge_fact VALUES (%s, %s, %s, %s, NULL)"
_REVERSE_MERGE: LiteralString = """
UPDATE merge_fact SET reversed_at = %s WHERE tenant = %s AND id = %s
"""


async def apply(connection: Connection, events: Recorded) -> None:
    """Take in events of one tenant."""
    await _patients(connection, [r for r in events if isinstance(r.event, PatientEvent)])
    await _encounters(connection, [r for r in events if isinstance(r.event, EncounterEvent)])
    consents = [row for row in map(_consent, events) if row is not None]
    await _write(connection, _WRITE_CONSENT, consents)
    later = [(row[5], *row[:4]) for row in consents]
    await _write(connection, _SUPERSEDE_CONSENT, later)
    # nothing comes after it: what was said in this batch was said before
    await _write(connection, _ERASE_CONSENT, map(_erasure, events))
    await _write(connection, _WRITE_MUTATION, map(_mutation, events))
    await _write(connection, _WRITE_MERGE, map(_merge, events))
    await _write(connection, _REVERSE_MERGE, map(_reversal, events))


async def _patients(connection: Connection, events: Recorded) -> None:
    if not events:
        return
    tenant = events[0].tenant
    ids = list(dict.fromkeys(recorded.stream_id for recorded in events))
    cursor = await connection.execute(_PATIENTS, (ids, tenant))
    known = {row[1]: PatientFact(*row) for row in await cursor.fetchall()}
    for recorded in events:
        if isinstance(recorded.event, PatientRegistered):
            known[recorded.stream_id] = PatientFact.registered(recorded, recorded.event)
        else:
            known[recorded.stream_id].change(recorded)
    await _write(connection, _WRITE_PATIENT, [known[each].row() for each in ids])


async def _encounters(connection: Connection, events: Recorded) -> None:
    if not events:
        return
    tenant = events[0].tenant
    ids = list(dict.fromkeys(recorded.stream_id for recorded in events))
    cursor = await connection.execute(_ENCOUNTERS, (ids, tenant))
    known = {row[1]: EncounterFact(*row) for row in await cursor.fetchall()}
    steps: list[tuple[Any, ...]] = []
    for recorded in events:
        event, its_id = recorded.event, recorded.stream_id
        if isinstance(event, EncounterOpened):
            known[its_id] = EncounterFact.opened(recorded, event)
            status: str = event.status
        else:
            status = _STATUS_OF[type(event)]
        at = cast(EncounterEvent, event).at
        known[its_id].enter(status, at)
        steps.append((tenant, its_id, recorded.version, status, at))
    await _write(connection, _WRITE_ENCOUNTER, [known[each].row() for each in ids])
    await _write(connection, _ENTER_STATUS, steps)
    await _write(connection, _LEAVE_STATUS, [(at, t, i, v - 1) for t, i, v, _, at in steps])


def _consent(recorded: RecordedEvent) -> Row | None:
    event, at = recorded.event, recorded.recorded_at
    if not isinstance(event, ConsentEvent):
        return None
    return (
        recorded.tenant,
        recorded.stream_id,
        event.flag,
        recorded.version,
        event.DECISION,
        event.valid_from or at,
        event.valid_until,
        at,
    )


def _erasure(recorded: RecordedEvent) -> Row | None:
    if not isinstance(recorded.event, PatientErased):
        return None
    return recorded.tenant, recorded.stream_id


def _mutation(recorded: RecordedEvent) -> Row | None:
    captured, meta = captured_at(recorded), recorded.meta
    if captured is None:
        return None
    return (
        recorded.tenant,
        UUID(meta["clientMutationId"]),
        meta.get("client"),
        meta.get("facility"),
        meta["operation"],
        captured,
        recorded.recorded_at,
    )


def _merge(recorded: RecordedEvent) -> Row | None:
    event = recorded.event
    if not isinstance(event, MergeExecuted):
        return None
    pair = candidate_id(event.survivor_id, event.retired_id)
    return recorded.tenant, recorded.stream_id, pair, recorded.recorded_at


def _reversal(recorded: RecordedEvent) -> Row | None:
    if not isinstance(recorded.event, MergeReversed):
        return None
    return recorded.recorded_at, recorded.tenant, recorded.stream_id


async def _write(
    connection: Connection, statement: LiteralString, rows: Iterable[Row | None]
) -> None:
    present = [row for row in rows if row is not None]
    if present:
        async with connection.cursor() as cursor:
            await cursor.executemany(statement, present)
