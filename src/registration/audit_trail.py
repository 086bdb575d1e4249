"""The audit trail as auditors are shown it, and whole: what was done and what was seen, by time.

Where reads are missing it says so: without that, a trail would look whole that is not.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import psycopg

from registration.access_query import Accessed, Gap
from registration.domain.timeline import kind_of, patients_of
from registration.eventstore.moments import BEFORE
from registration.eventstore.records import RecordedEvent
from registration.fhir_audit import change_event, gap_event, read_event

_PAGE = 1000
_EVER = datetime(1, 1, 1, tzinfo=UTC)

_EVENTS = """
SELECT e.*, f.topic, f.data, f.key
  FROM (SELECT * FROM registration.readable_event
         WHERE tenant = %(tenant)s AND position > %(after)s
         ORDER BY position LIMIT %(page)s) AS e
 CROSS JOIN LATERAL (
    SELECT topic, data, key FROM registration.readable_event AS first
     WHERE first.tenant = e.tenant AND first.stream_id = e.stream_id AND first.version = 1 OFFSET 0
 ) AS f
 ORDER BY e.position
"""
_READS = """
SELECT at, id, actor, client, facility, operation, patient_id, purpose, break_glass, request_id,
       status
  FROM registration.access_log
 WHERE tenant = %(tenant)s AND (at, id) > (%(at)s, %(id)s)
 ORDER BY at, id LIMIT %(page)s
"""
_GAPS = """
SELECT id, since, until, reason, lost FROM registration.access_log_gap
 WHERE (tenant IS NULL OR tenant = %(tenant)s) AND until >= %(since)s
 ORDER BY since, id
"""


def shown_event(
    recorded: RecordedEvent, patient_ids: Sequence[UUID], *, with_data: bool
) -> dict[str, Any]:
    """Return an event as auditors are shown it; what it says only ``with_data``.

    Of an event about somebody who was erased is left that it happened, and what was public of it.
    """
    meta = recorded.meta
    shown = {
        "position": recorded.position,
        "streamId": recorded.stream_id,
        "kind": _kind(recorded),
        "version": recorded.version,
        "type": recorded.topic,
        "at": recorded.recorded_at,
        "actor": meta["actor"],
        "client": meta.get("client"),
        "facility": meta.get("facility"),
        "operation": meta.get("operation"),
        "clientMutationId": meta.get("clientMutationId"),
        "supersedes": meta.get("supersedes"),
        "fields": _fields(recorded),
        "patientIds": patient_ids,
        "hash": recorded.hash.hex(),
    }
    return shown | {"data": orjson.Fragment(recorded.said)} if with_data else shown


def _fields(recorded: RecordedEvent) -> list[str]:
    """Return what an event changed; nothing of one that nobody knows, or can read any more."""
    if recorded.known is None or recorded.is_about_the_erased:
        return []
    return recorded.known.fields


def _kind(recorded: RecordedEvent) -> str:
    """Return what kind of stream an event is of; one that nobody knows by its topic."""
    if recorded.known is None:
        return recorded.topic.partition(".")[0]
    return kind_of(recorded.known).KIND.replace(" ", "_")


def shown_read(read: Accessed) -> dict[str, Any]:
    """Return a read as auditors are shown it."""
    return {
        "at": read.at,
        "actor": read.actor,
        "client": read.client,
        "facility": read.facility,
        "operation": read.operation,
        "patientId": read.patient_id,
        "purpose": read.purpose,
        "breakGlass": None if read.break_glass is None else {"reason": read.break_glass},
        "requestId": read.request_id,
        "status": read.status,
    }


def shown_gap(gap: Gap) -> dict[str, Any]:
    """Return a gap of the access log as auditors are shown it."""
    return {"since": gap.since, "until": gap.until, "reason": gap.reason, "lost": gap.lost}


class Change(NamedTuple):
    """An event of the log, and the patients that it is about."""

    recorded: RecordedEvent
    patient_ids: tuple[UUID, ...]

    def as_fhir(self) -> dict[str, Any]:
        """Return it as an AuditEvent."""
        return change_event(self.recorded, self.patient_ids)

    def as_json(self) -> dict[str, Any]:
        """Return it as the service shows it."""
        return {"record": "change", **shown_event(self.recorded, self.patient_ids, with_data=False)}


class Read(NamedTuple):
    """An entry of the access log."""

    read: Accessed

    def as_fhir(self) -> dict[str, Any]:
        """Return it as an AuditEvent."""
        return read_event(self.read)

    def as_json(self) -> dict[str, Any]:
        """Return it as the service shows it."""
        return {"record": "read", **shown_read(self.read)}


class Missing(NamedTuple):
    """A gap of the access log."""

    gap: Gap

    def as_fhir(self) -> dict[str, Any]:
        """Return it as an AuditEvent."""
        return gap_event(self.gap)

    def as_json(self) -> dict[str, Any]:
        """Return it as the service shows it."""
        return {"record": "gap", **shown_gap(self.gap)}


Record = Change | Read | Missing


def trail(connection: psycopg.Connection, tenant: str, since: datetime | None) -> Iterator[Record]:
    """Yield every change and every read from an instant on, and where reads are missing, by time.

    A gap stands where it begins; one that began before the instant and reaches into it comes first.
    In one transaction of the caller's, so that all are of one moment.
    """
    start = since or _EVER
    parts = (
        _gaps(connection, tenant, start),
        _changes(connection, tenant, start),
        _reads(connection, tenant, start),
    )
    for _, record in heapq.merge(*parts, key=itemgetter(0)):
        yield record


def _changes(
    connection: psycopg.Connection, tenant: str, since: datetime
) -> Iterator[tuple[datetime, Record]]:
    row = connection.execute(BEFORE, {"tenant": tenant, "at": since}).fetchone()
    after = row[0] if row else 0
    while rows := connection.execute(
        _EVENTS, {"tenant": tenant, "after": after, "page": _PAGE}, binary=True
    ).fetchall():
        for row in rows:
            recorded = RecordedEvent(*row[:10])
            first = replace(recorded, version=1, topic=row[10], data=row[11], key=row[12])
            yield recorded.recorded_at, Change(recorded, patients_of(row[2], first.known))
        after = rows[-1][1]


def _reads(
    connection: psycopg.Connection, tenant: str, since: datetime
) -> Iterator[tuple[datetime, Record]]:
    place = (since, UUID(int=0))
    while rows := connection.execute(
        _READS, {"tenant": tenant, "at": place[0], "id": place[1], "page": _PAGE}
    ).fetchall():
        for row in rows:
            yield row[0], Read(Accessed(*row))
        place = rows[-1][:2]


def _gaps(
    connection: psycopg.Connection, tenant: str, since: datetime
) -> Iterator[tuple[datetime, Record]]:
    for row in connection.execute(_GAPS, {"tenant": tenant, "since": since}):
        gap = Gap(*row)
        yield gap.since, Missing(gap)
