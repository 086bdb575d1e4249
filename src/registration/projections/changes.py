"""The read model behind ``pull``: every record as it is now, at the position of its last change.

``record`` holds what the wire shows, folded by the same code as a ``GET``. ``scope`` says in
which facility's scope a record is (``''``: in everybody's), or was, and since which position; the
rules are in ``scopes``. ``tie`` says what else a patient was part of: merge decisions about it, and
records that ever held it.

Once a patient is erased, its record and all records about it are kept without what they said, at
the position of that event: so who pulls is told, and nobody is shown anything.

Each event is taken in by itself, also within a batch: so the rows do not depend on how the log was
cut into batches, and a facility that a patient belonged to for a moment is told that it left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from registration.projections import ties
from registration.projections.scopes import EVERYBODY, Place, Places, places_of

NAME = "changes"
VERSION = 3
EVENTS: tuple[type[Event], ...] = tuple(
    kind for kind in ALL if not issubclass(kind, CandidateEvent | ErasureEvent)
)
DDL = (
    ties.DDL
    + """
CREATE TABLE record (
    tenant     text COLLATE "C" NOT NULL,
    id         uuid NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    version    int NOT NULL,
    position   bigint NOT NULL,
    facility   text COLLATE "C" NOT NULL,
    patient_id uuid,
    absorbed   uuid[] NOT NULL,
    body       bytea,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX record_position ON record (tenant, position, id);
CREATE INDEX record_patient ON record (tenant, patient_id, facility) WHERE patient_id IS NOT NULL;
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
)

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
INSERT INTO record (tenant, id, kind, version, position, facility, patient_id, absorbed, body)
SELECT tenant, id, kind, version, position, facility, patient_id, absorbed::uuid[], body
  FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::int4[], %s::int8[], %s::text[], %s::uuid[],
              %s::text[], %s::bytea[])
    AS new (tenant, id, kind, version, position, facility, patient_id, absorbed, body)
    ON CONFLICT (tenant, id) DO UPDATE
   SET version = excluded.version, position = excluded.position, facility = excluded.facility,
       absorbed = excluded.absorbed, body = excluded.body
"""
_ERASE_RECORDS = """
UPDATE record SET position = gone.position, facility = '', absorbed = '{}', body = NULL
  FROM unnest(%s::uuid[], %s::int8[]) AS gone (id, position)
 WHERE record.tenant = %s AND record.id = gone.id
"""
_FORGET_SCOPES = "DELETE FROM scope WHERE tenant = %s AND id = ANY(%s)"
_WRITE_SCOPES = """
INSERT INTO scope (tenant, facility, id, kind, position, present)
SELECT * FROM unnest(%s::text[], %s::text[], %s::uuid[], %s::text[], %s::int8[], %s::bool[])
    ON CONFLICT (tenant, facility, id) DO UPDATE
   SET position = excluded.position, present = excluded.present
"""

Connection = AsyncConnection[TupleRow]
_LAST_ID = UUID(int=2**128 - 1)


@dataclass
class _Batch:
    """What a batch of events of one tenant makes of the records.

    ``kinds`` are those of all that it touches, ``last`` where a record changed last, ``gone``
    where what was about the erased went. The ``blank`` are about somebody who is erased by now,
    even where the event that says so comes later: there is nothing to show of them.
    """

    tenant: str
    known: dict[UUID, Aggregate[Any]]
    blank: set[UUID]
    places: Places
    ties: ties.Ties
    kinds: dict[UUID, str] = field(default_factory=dict)
    last: dict[UUID, int] = field(default_factory=dict)
    gone: dict[UUID, int] = field(default_factory=dict)

    def take_in(self, recorded: RecordedEvent) -> None:
        its_id, position, event = recorded.stream_id, recorded.position, recorded.event
        aggregate = self.known[its_id]
        aggregate.apply(event, Stamp.of(recorded))
        self.last[its_id] = position
        self.kinds[its_id] = KINDS[type(aggregate)]
        place = self.places.setdefault(its_id, Place())
        place.link(its_id, event, self.places)
        if isinstance(event, PatientErased):
            self._erase(its_id, position)
        elif not isinstance(aggregate, Encounter):
            place.changed(position, _facility(aggregate), self.places)
        elif isinstance(event, EncounterOpened):
            # its patient is missing here where that was parked
            patient = self.places.get(event.patient_id, Place())
            place.changed(position, event.facility or patient.own or EVERYBODY, self.places)
            patient.visit(position, place.own or EVERYBODY, self.places)
        else:
            place.changed(position, place.own or EVERYBODY, self.places)

    def _erase(self, patient_id: UUID, position: int) -> None:
        self.places[patient_id].erased(position, self.places)
        about = dict(self.ties.get(patient_id, {}))
        about |= {
            its_id: KINDS[type(aggregate)]
            for its_id, aggregate in self.known.items()
            if patient_id in aggregate.patient_ids and its_id != patient_id
        }
        for its_id in about:
            self.places.setdefault(its_id, Place()).gone(position)
        self.kinds |= about
        self.gone |= dict.fromkeys((patient_id, *about), position)

    async def write(self, connection: Connection) -> None:
        records = [
            (
                self.tenant,
                its_id,
                self.kinds[its_id],
                self.known[its_id].version,
                position,
                self.places[its_id].own,
                getattr(self.known[its_id].state, "patient_id", None),
                f"{{{','.join(map(str, sorted(self.places[its_id].absorbed)))}}}",
                None if its_id in self.blank | self.gone.keys() else body_of(self.known[its_id]),
            )
            for its_id, position in self.last.items()
        ]
        await connection.execute(_WRITE_RECORDS, _columns(records))
        if self.gone:
            erased = (list(self.gone), list(self.gone.values()), self.tenant)
            await connection.execute(_ERASE_RECORDS, erased, prepare=False)
        if anew := [its_id for its_id, place in self.places.items() if place.anew]:
            await connection.execute(_FORGET_SCOPES, (self.tenant, anew), prepare=False)
        scopes = [
            (
                self.tenant,
                facility,
                its_id,
                self.kinds.get(its_id, KINDS[Patient]),  # that of an encounter, or what held one
                position,
                present,
            )
            for its_id, place in self.places.items()
            for facility, (position, present) in place.rows.items()
        ]
        await connection.execute(_WRITE_SCOPES, _columns(scopes))


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in events of one tenant."""
    tied = await ties.take_in(connection, events)
    known, blank = await _earlier(connection, events)
    places = await places_of(connection, events)
    batch = _Batch(events[0].tenant, known, blank, places, tied)
    for recorded in events:
        batch.take_in(recorded)
    await batch.write(connection)


async def _earlier(
    connection: Connection, events: Sequence[RecordedEvent]
) -> tuple[dict[UUID, Aggregate[Any]], set[UUID]]:
    """Return the records that the events are about as they were before, and which are blank."""
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
    begun = {its_id: (history[its_id] or [recorded])[0] for its_id, recorded in first.items()}
    known = {
        its_id: _aggregate_of(recorded.event)(its_id, history[its_id])
        for its_id, recorded in begun.items()
    }
    return known, {its_id for its_id, recorded in begun.items() if recorded.is_about_the_erased}


def _aggregate_of(event: Event) -> type[Aggregate[Any]]:
    return next(made for made in KINDS if isinstance(event, made.EVENTS))


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

    ``facility`` ``None`` is the whole tenant. What left the scope, or was erased, up to
    ``snapshot`` is not told: whoever takes a snapshot never had it.
    """

    tenant: str
    facility: str | None
    kinds: Sequence[str]
    position: int = 0
    after_id: UUID = UUID(int=0)
    snapshot: int = 0
    limit: int = 500


class Change(NamedTuple):
    """A record as it is now (``body``), or that it left the scope (``None``), or was erased."""

    position: int
    id: UUID
    kind: str
    version: int
    body: bytes | None
    erased: bool


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
       found.body, found.erased
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
    SELECT r.position, r.id, r.kind, r.version, r.body, r.body IS NULL AS erased
      FROM changes.record AS r
     WHERE r.tenant = %(tenant)s AND (r.position, r.id) > (%(position)s, %(after_id)s)
       AND r.kind = ANY(%(kinds)s) AND (r.body IS NOT NULL OR r.position > %(snapshot)s)
     ORDER BY r.position, r.id LIMIT %(limit)s
"""
_OF_FACILITY: LiteralString = """
    SELECT f.position, f.id, r.kind, r.version, CASE WHEN f.present THEN r.body END AS body,
           r.body IS NULL AS erased
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
