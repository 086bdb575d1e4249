"""The read model behind the filters of ``GET /v1/audit/events``: where in the log to look.

It holds places alone; what an event says is read from the log. ``place`` finds the positions of one
filter in their order: of an actor, a type, both, or a patient. An encounter's events are about its
patient, those of a merge or of a pair that was looked at about both records. Time needs no index:
it is a range of positions.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain.events import EVENTS as ALL
from registration.domain.events import Event
from registration.domain.timeline import patients_of
from registration.eventstore.moments import position_before
from registration.eventstore.records import RecordedEvent

NAME = "audit"
VERSION = 1
EVENTS: tuple[type[Event], ...] = ALL
DDL = """
CREATE TABLE place (
    tenant   text COLLATE "C" NOT NULL,
    filter   text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (tenant, filter, position)
);
"""
_FIRST = """
SELECT e.*
  FROM unnest(%s::uuid[]) AS asked (stream_id)
 CROSS JOIN LATERAL (
    SELECT * FROM registration.readable_event AS first
     WHERE first.tenant = %s AND first.stream_id = asked.stream_id AND first.version = 1 OFFSET 0
 ) AS e
"""
_WRITE = """
INSERT INTO place (tenant, filter, position) SELECT %s, * FROM unnest(%s::text[], %s::int8[])
"""

Connection = AsyncConnection[TupleRow]


async def apply(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Take in events of one tenant."""
    subjects = await subjects_of(connection, events)
    places = [
        (filtered, recorded.position)
        for recorded in events
        for filtered in _filters(recorded, subjects[recorded.stream_id])
    ]
    columns = [list(column) for column in zip(*places, strict=True)]
    await connection.execute(_WRITE, (events[0].tenant, *columns))


def _filters(recorded: RecordedEvent, patient_ids: Sequence[UUID]) -> Iterator[str]:
    actor, kind = recorded.meta["actor"], recorded.topic
    yield _filter(actor=actor)
    yield _filter(kind=kind)
    yield _filter(actor=actor, kind=kind)
    for patient_id in patient_ids:
        yield _filter(patient_id=patient_id)


def _filter(
    *, actor: str | None = None, kind: str | None = None, patient_id: UUID | None = None
) -> str:
    """Return what a filter is filed under; no type of event holds a blank."""
    if patient_id is not None:
        return f"patient {patient_id}"
    if actor is None:
        return f"type {kind}"
    return f"actor {actor}" if kind is None else f"both {kind} {actor}"


async def subjects_of(
    connection: Connection, events: Sequence[RecordedEvent]
) -> dict[UUID, tuple[UUID, ...]]:
    """Return the patients that each stream is about, by the first event of each.

    ``events`` are of one tenant. Those that this program is too old to know are found all the same.
    """
    found: dict[UUID, tuple[UUID, ...]] = {}
    for recorded in events:
        its_id = recorded.stream_id
        if its_id not in found and (of := patients_of(its_id, recorded.known)):
            found[its_id] = of
    missing = {recorded.stream_id for recorded in events} - found.keys()
    if missing:
        cursor = await connection.execute(
            _FIRST, (list(missing), events[0].tenant), binary=True, prepare=False
        )
        for row in await cursor.fetchall():
            first = RecordedEvent(*row)
            found[first.stream_id] = patients_of(first.stream_id, first.known)
    return found


class AuditQuery(NamedTuple):
    """What to list: all given criteria hold; ``after`` < position, ``since`` <= at < ``until``."""

    tenant: str
    after: int = 0
    type: str | None = None
    actor: str | None = None
    patient_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50

    @property
    def filters(self) -> bool:
        """Whether it takes the read model: a range of the log is read from the log itself."""
        return (self.type, self.actor, self.patient_id) != (None, None, None)


class Page(NamedTuple):
    """Events in the order of the log, up to ``position`` if no more follow.

    ``subjects`` are the patients that the stream of each is about.
    """

    events: list[RecordedEvent]
    subjects: dict[UUID, tuple[UUID, ...]]
    position: int


_RANGE = """
SELECT * FROM registration.readable_event AS e
 WHERE e.tenant = %(tenant)s AND e.position > %(low)s AND e.position <= %(high)s
 ORDER BY e.position LIMIT %(limit)s
"""
# A patient has few events: what else is asked for is looked at in each.
_FILTERED = """
SELECT e.*
  FROM (
    SELECT position FROM audit.place
     WHERE tenant = %(tenant)s AND filter = %(filter)s
       AND position > %(low)s AND position <= %(high)s
     ORDER BY position
  ) AS found
 CROSS JOIN LATERAL (
    SELECT * FROM registration.readable_event AS there
     WHERE there.tenant = %(tenant)s AND there.position = found.position OFFSET 0
 ) AS e
 WHERE (%(type)s::text IS NULL OR e.topic = %(type)s)
   AND (%(actor)s::text IS NULL
        OR convert_from(e.metadata, 'UTF8')::json ->> 'actor' = %(actor)s)
 ORDER BY found.position LIMIT %(limit)s
"""
_HEAD = "SELECT position FROM registration.log_head WHERE tenant = %s"
_REACHED = """
SELECT position FROM registration.read_model_position WHERE name = 'audit' AND tenant = %s
"""


async def find_events(connection: Connection, query: AuditQuery) -> Page:
    """Return the next events that meet the query, and how far in the log that is complete."""
    cursor = await connection.execute(_REACHED if query.filters else _HEAD, (query.tenant,))
    reached = await cursor.fetchone()
    low, high = query.after, 2**62
    if query.since is not None:
        low = max(low, await position_before(connection, query.tenant, query.since))
    if query.until is not None:
        high = await position_before(connection, query.tenant, query.until)
    filtered = _filter(actor=query.actor, kind=query.type, patient_id=query.patient_id)
    cursor = await connection.execute(
        _FILTERED if query.filters else _RANGE,
        query._asdict() | {"low": low, "high": high, "filter": filtered},
        binary=True,
        prepare=False,
    )
    events = [RecordedEvent(*row) for row in await cursor.fetchall()]
    subjects = await subjects_of(connection, events) if events else {}
    return Page(events, subjects, reached[0] if reached else 0)
