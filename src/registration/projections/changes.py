"""The read model behind ``pull``: every record as it is now, at the position of its last change.

``record`` holds what the wire shows, folded by the same code as a ``GET``; no body once somebody
whom it is about was erased. ``pair`` are the two records of a merge decision. ``scope`` says in
which facility's scope a record is (``''``: in everybody's), or was, and since which position; the
rules are in ``scopes``.

Each event is taken in by itself, also within a batch: so the rows do not depend on how the log was
cut into batches, and a facility that a patient belonged to for a moment is told that it left. But
where somebody who was erased belonged by a correction a rebuild cannot know, and need not: after it
everybody pulls from the start.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.encounter import Encounter
from registration.domain.events import EVENTS as ALL
from registration.domain.events import (
    CandidateEvent,
    EncounterOpened,
    ErasureEvent,
    Event,
    PatientErased,
)
from registration.domain.extension_schema import ExtensionSchema
from registration.domain.merge import Merge
from registration.domain.patient_resource import Patient
from registration.eventstore.records import RecordedEvent
from registration.projections.scopes import EVERYBODY, Place, Places, places_of

NAME = "changes"
VERSION = 3
EVENTS: tuple[type[Event], ...] = tuple(
    kind for kind in ALL if not issubclass(kind, CandidateEvent | ErasureEvent)
)
DDL = """
CREATE TABLE record (
    tenant     text COLLATE "C" NOT NULL,
    id         uuid NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    version    int NOT NULL,
    position   bigint NOT NULL,
    facility   text COLLATE "C" NOT NULL,
    patient_id uuid,
    pair       uuid[] NOT NULL,
    absorbed   uuid[] NOT NULL,
    body       bytea,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX record_position ON record (tenant, position, id);
CREATE INDEX record_patient ON record (tenant, patient_id, facility) WHERE patient_id IS NOT NULL;
CREATE INDEX record_survivor ON record (tenant, (pair[1])) WHERE pair <> '{}';
CREATE INDEX record_retired ON record (tenant, (pair[2])) WHERE pair <> '{}';
CREATE TABLE scope (
    tenant   text COLLATE "C" NOT NULL,
    facility text COLLATE "C" NOT NULL,
    id       uuid NOT NULL,
    kind     text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    present  boolean NOT NULL,
    PRIMARY KEY (tenant, facility, id)
);
CREATE INDEX scope_position ON scope (tenant, facility, position, id);
CREATE INDEX scope_record ON scope (tenant, id);
"""

KINDS: dict[type[Aggregate[Any]], str] = {
    Patient: "patient",
    Encounter: "encounter",
    ExtensionSchema: "extension_schema",
    Merge: "merge",
}
"""What the feed calls each aggregate."""

# What came before the batch, of the streams that it goes on with.
_EARLIER = """
SELECT e.*
  FROM unnest(%s::text[], %s::uuid[], %s::int4[]) AS asked (tenant, stream_id, version)
 CROSS JOIN LATERAL (
    SELECT * FROM registration.readable_event AS earlier
     WHERE earlier.tenant = asked.tenant AND earlier.stream_id = asked.stream_id
       AND earlier.version < asked.version OFFSET 0
 ) AS e
 ORDER BY e.tenant, e.stream_id, e.version
"""
_WRITE_RECORDS = """
INSERT INTO record (tenant, id, kind, version, position, facility, patient_id, pair, absorbed, body)
SELECT tenant, id, kind, version, position, facility, patient_id, pair::uuid[], absorbed::uuid[],
       body
  FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::int4[], %s::int8[], %s::text[], %s::uuid[],
              %s::text[], %s::text[], %s::bytea[])
    AS new (tenant, id, kind, version, position, facility, patient_id, pair, absorbed, body)
    ON CONFLICT (tenant, id) DO UPDATE
   SET version = excluded.version, position = excluded.position, facility = excluded.facility,
       absorbed = excluded.absorbed, body = excluded.body
"""
_ABOUT = """
SELECT id FROM record WHERE tenant = %(tenant)s AND patient_id = %(patient)s
 UNION SELECT id FROM record
 WHERE tenant = %(tenant)s AND pair <> '{}' AND pair[1] = %(patient)s
 UNION SELECT id FROM record
 WHERE tenant = %(tenant)s AND pair <> '{}' AND pair[2] = %(patient)s
 UNION SELECT %(patient)s
"""
_ERASE_RECORDS = """
UPDATE record SET position = %s, facility = '', absorbed = '{}', body = NULL
 WHERE tenant = %s AND id = ANY(%s)
"""
_ERASE_SCOPES = """
UPDATE scope SET position = %s, present = false WHERE tenant = %s AND id = ANY(%s) AND present
"""
_WRITE_SCOPES = """
INSERT INTO scope (tenant, facility, id, kind, position, present)
SELECT * FROM unnest(%s::text[], %s::text[], %s::uuid[], %s::text[], %s::int8[], %s::bool[])
    ON CONFLICT (tenant, facility, id) DO UPDATE
   SET position = excluded.position, present = excluded.present
"""

Connection = AsyncConnection[TupleRow]
_LAST_ID = UUID(int=2**128 - 1)


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in events of one tenant."""
    known = await _earlier(connection, events)
    places = await places_of(connection, events)
    last: dict[UUID, int] = {}
    for recorded in events:
        its_id, position = recorded.stream_id, recorded.position
        aggregate = known[its_id]
        aggregate.apply(recorded.event, Stamp.of(recorded))
        last[its_id] = position
        place = places.setdefault(its_id, Place())
        place.link(recorded.event)
        if isinstance(recorded.event, PatientErased):
            pass  # it leaves the scopes that it is in: see _erase
        elif not isinstance(aggregate, Encounter):
            place.changed(position, _facility(aggregate), places)
        elif isinstance(recorded.event, EncounterOpened):
            # its patient is missing here where that was parked
            patient = places.get(recorded.event.patient_id, Place())
            place.changed(position, recorded.event.facility or patient.own or EVERYBODY, places)
            patient.visit(position, place.own or EVERYBODY, places)
        else:
            place.changed(position, place.own or EVERYBODY, places)
    await _write(connection, events[0].tenant, known, last, places)
    for recorded in events:
        if isinstance(recorded.event, PatientErased):
            await _erase(connection, recorded)


async def _erase(connection: Connection, erased: RecordedEvent) -> None:
    """Let go of a patient and of all that is about it; whoever had it is told that it left.

    After the batch: nothing comes about somebody who was erased.
    """
    asked = {"tenant": erased.tenant, "patient": erased.stream_id}
    # planned each time: a plan from when the tables were empty would be kept for good
    cursor = await connection.execute(_ABOUT, asked, prepare=False)
    about = [row[0] for row in await cursor.fetchall()]
    for statement in (_ERASE_RECORDS, _ERASE_SCOPES):
        await connection.execute(statement, (erased.position, erased.tenant, about), prepare=False)


async def _earlier(
    connection: Connection, events: Sequence[RecordedEvent]
) -> dict[UUID, Aggregate[Any]]:
    """Return the records that the events are about, as they were before."""
    first: dict[UUID, RecordedEvent] = {}
    for recorded in events:
        first.setdefault(recorded.stream_id, recorded)
    history: dict[UUID, list[RecordedEvent]] = {its_id: [] for its_id in first}
    older = [recorded for recorded in first.values() if recorded.version > 1]
    if older:
        cursor = await connection.execute(
            _EARLIER,
            (
                [recorded.tenant for recorded in older],
                [recorded.stream_id for recorded in older],
                [recorded.version for recorded in older],
            ),
            binary=True,
        )
        for row in await cursor.fetchall():
            history[row[2]].append(RecordedEvent(*row))
    return {
        its_id: _aggregate_of((history[its_id] or [recorded])[0].event)(its_id, history[its_id])
        for its_id, recorded in first.items()
    }


def _aggregate_of(event: Event) -> type[Aggregate[Any]]:
    return next(made for made in KINDS if isinstance(event, made.EVENTS))


async def _write(
    connection: Connection,
    tenant: str,
    known: dict[UUID, Aggregate[Any]],
    last: dict[UUID, int],
    places: Places,
) -> None:
    records = [
        (
            tenant,
            its_id,
            KINDS[type(known[its_id])],
            known[its_id].version,
            position,
            places[its_id].own,
            getattr(known[its_id].state, "patient_id", None),
            _array(known[its_id].patient_ids if isinstance(known[its_id], Merge) else ()),
            _array(sorted(places[its_id].absorbed)),
            body_of(known[its_id]),
        )
        for its_id, position in last.items()
    ]
    await connection.execute(_WRITE_RECORDS, _columns(records))
    scopes = [
        (
            tenant,
            facility,
            its_id,
            KINDS[type(known[its_id]) if its_id in known else Patient],  # that of an encounter
            position,
            present,
        )
        for its_id, place in places.items()
        for facility, (position, present) in place.rows.items()
    ]
    if scopes:
        await connection.execute(_WRITE_SCOPES, _columns(scopes))


def _array(ids: Iterable[UUID]) -> str:
    """Return ids as the text of an array."""
    return f"{{{','.join(map(str, ids))}}}"


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _facility(aggregate: Aggregate[Any]) -> str:
    return getattr(aggregate.state, "facility", None) or EVERYBODY


def body_of(aggregate: Aggregate[Any]) -> bytes:
    """Return a record as ``pull`` shows it: a schema with all its versions, others as ``GET``."""
    if isinstance(aggregate, ExtensionSchema) and aggregate.state is not None:
        versions = [version.plain() for version in aggregate.state.versions]
        return orjson.dumps({"name": aggregate.state.name, "versions": versions})
    return aggregate.encoded()


class ChangesQuery(NamedTuple):
    """What to list: records after a place in the feed, of kinds, in a facility's scope.

    ``facility`` ``None`` is the whole tenant. What left the scope up to ``snapshot`` is not told:
    whoever takes a snapshot never had it.
    """

    tenant: str
    facility: str | None
    kinds: Sequence[str]
    position: int = 0
    after_id: UUID = UUID(int=0)
    snapshot: int = 0
    limit: int = 500


class Change(NamedTuple):
    """A record as it is now (``body``), or that it left the scope or was erased (``None``)."""

    position: int
    id: UUID
    kind: str
    version: int
    body: bytes | None


class Changes(NamedTuple):
    """A page (``more`` may follow), the place after it, and where the read model stands.

    ``made_at`` is when the tables were built, ``mark_asked`` and ``mark_next`` the hashes of the
    events that the query started and the next one starts after: together they tell whether a
    place is of this log and these tables.
    """

    items: list[Change]
    more: bool
    position: int
    next_position: int
    next_id: UUID
    made_at: datetime
    mark_asked: bytes
    mark_next: bytes


_PAGE: LiteralString = """
SELECT at.position, at.made_at, at.mark, found.position, found.id, found.kind, found.version,
       found.body
  FROM (
    SELECT coalesce((SELECT p.position FROM registration.read_model_position AS p
                      WHERE p.name = 'changes' AND p.tenant = %(tenant)s), 0) AS position,
           (SELECT m.rebuilt_at FROM registration.read_model AS m
             WHERE m.name = 'changes') AS made_at,
           (SELECT e.hash FROM registration.event AS e
             WHERE e.tenant = %(tenant)s AND e.position = %(position)s) AS mark
  ) AS at
  LEFT JOIN LATERAL (
"""
_OF_ALL: LiteralString = """
    SELECT r.position, r.id, r.kind, r.version, r.body FROM changes.record AS r
     WHERE r.tenant = %(tenant)s AND (r.position, r.id) > (%(position)s, %(after_id)s)
       AND r.kind = ANY(%(kinds)s) AND (r.body IS NOT NULL OR r.position > %(snapshot)s)
     ORDER BY r.position, r.id LIMIT %(limit)s
"""
_OF_FACILITY: LiteralString = """
    SELECT f.position, f.id, r.kind, r.version, CASE WHEN f.present THEN r.body END AS body
      FROM (
        SELECT seen.position, seen.id, seen.present
          FROM unnest(ARRAY[%(facility)s, '']) AS wanted (facility)
         CROSS JOIN LATERAL (
            SELECT s.position, s.id, s.present FROM changes.scope AS s
             WHERE s.tenant = %(tenant)s AND s.facility = wanted.facility
               AND (s.position, s.id) > (%(position)s, %(after_id)s) AND s.kind = ANY(%(kinds)s)
               AND (s.present OR (s.position > %(snapshot)s AND NOT EXISTS (
                   SELECT FROM changes.scope AS o
                    WHERE o.tenant = s.tenant AND o.id = s.id
                      AND o.facility IN ('', %(facility)s)
                      AND (o.present OR o.position > s.position))))
             ORDER BY s.position, s.id LIMIT %(limit)s
         ) AS seen
         ORDER BY 1, 2 LIMIT %(limit)s
      ) AS f
      JOIN changes.record AS r ON r.tenant = %(tenant)s AND r.id = f.id
"""
_END: LiteralString = """
  ) AS found ON true
 ORDER BY found.position, found.id
"""


_MARK = "SELECT hash FROM registration.event WHERE tenant = %s AND position = %s"


async def changes(connection: Connection, query: ChangesQuery) -> Changes:
    """Return the next page of the feed, in order, and where that leaves the reader."""
    page = _OF_ALL if query.facility is None else _OF_FACILITY
    # planned each time: a plan from when the tables were empty would be kept for good
    cursor = await connection.execute(
        _PAGE + page + _END, query._asdict(), binary=True, prepare=False
    )
    rows = await cursor.fetchall()
    position, made_at, mark_asked = rows[0][:3]
    items = [Change(*row[3:]) for row in rows if row[3] is not None]
    more = len(items) == query.limit
    next_position, next_id = position, _LAST_ID
    if more:
        next_position, next_id = items[-1].position, items[-1].id
    cursor = await connection.execute(_MARK, (query.tenant, next_position))
    mark = await cursor.fetchone()
    return Changes(
        items,
        more,
        position,
        next_position,
        next_id,
        made_at,
        mark_asked or b"",
        mark[0] if mark else b"",
    )
