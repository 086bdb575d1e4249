"""Recompute the hash chain of the log from its columns, and name the first link that is broken.

``hash = sha256(previous hash + position + recorded_at + event_digest)``: position as 8 bytes,
``recorded_at`` as PostgreSQL sends it (microseconds since 2000-01-01 UTC, 8 bytes), both
big-endian; the first event follows on ``sha256(b"")``. The head row holds the last event's position
and hash, so a tail that was cut off shows.

What no chain can show by itself is a log that was forged from some event to its end, head row
included: for that, keep the hash of the head (:class:`LogReport` has it) somewhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

import psycopg
from psycopg import Connection, pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow

from registration.eventstore import database
from registration.eventstore.records import event_digest

Progress = Callable[[int, int], None]
"""Told how many events are verified, and how many there are."""

START = sha256(b"").digest()

_REPORT_EVERY = 10_000

# Reading a whole log takes its time, and is one snapshot: the head is that of the last event.
_OPTIONS = (
    "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c default_transaction_isolation=repeatable\\ read -c default_transaction_read_only=on"
)
_HEADS = "SELECT tenant, position, hash, recorded_at FROM log_head ORDER BY tenant"
# Tenants that have events and no head: a walk along the index, since DISTINCT would read all.
_TENANTS = """
WITH RECURSIVE found AS (
    SELECT min(tenant) AS tenant FROM event
    UNION ALL
    SELECT (SELECT min(e.tenant) FROM event e WHERE e.tenant > f.tenant)
      FROM found f WHERE f.tenant IS NOT NULL
)
SELECT tenant FROM found WHERE tenant IS NOT NULL
"""
_LOG = """
COPY (SELECT position, stream_id, version, topic, data, metadata, recorded_at, hash
        FROM event WHERE tenant = %s ORDER BY position)
  TO STDOUT (FORMAT BINARY)
"""
_LOG_TYPES = ["int8", "uuid", "int4", "text", "bytea", "bytea", "timestamptz", "bytea"]
_STREAM_GAP = """
SELECT position, stream_id, version FROM (
    SELECT position, stream_id, version,
           lag(version, 1, 0) OVER stream AS version_before,
           lag(position, 1, 0::bigint) OVER stream AS position_before
      FROM event WHERE tenant = %s
    WINDOW stream AS (PARTITION BY stream_id ORDER BY version)
) AS step
 WHERE version <> version_before + 1 OR position <= position_before
 ORDER BY position LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class BrokenLink:
    """The first thing that is wrong with a tenant's log."""

    tenant: str
    position: int
    stream_id: UUID | None
    version: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class LogReport:
    """One tenant's log: how many of its events are as they were stored, and what is not."""

    tenant: str
    events: int
    head: bytes
    broken: BrokenLink | None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was verified."""

    logs: tuple[LogReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every link of every log holds."""
        return not self.broken

    @property
    def broken(self) -> tuple[BrokenLink, ...]:
        """The first broken link of each log that has one."""
        return tuple(log.broken for log in self.logs if log.broken)

    @property
    def events(self) -> int:
        """How many events hold."""
        return sum(log.events for log in self.logs)


@dataclass(frozen=True, slots=True)
class _Head:
    position: int
    hash: bytes
    recorded_at: bytes


class _AsSent(Loader):
    """Leaves a value as the server sends it, which for an instant is what was hashed."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def verify_log(
    url: str, tenant: str | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Verify one tenant's log, or all of them, as of one moment; writers are not disturbed.

    Raises ``psycopg.Error`` when the log cannot be read.
    """
    with psycopg.connect(url, **database.parameters("verify", _OPTIONS)) as connection:
        connection.adapters.register_loader("timestamptz", _AsSent)
        heads = {
            name: _Head(*row)
            for name, *row in connection.execute(_HEADS, binary=True)
            if tenant in (None, name)
        }
        tenants = {name for (name,) in connection.execute(_TENANTS) if tenant in (None, name)}
        total = sum(head.position for head in heads.values())
        done = 0

        def count(events: int) -> None:
            nonlocal done
            done += events
            if progress:
                progress(done, total)

        return VerifyReport(
            tuple(
                _verify_tenant(connection, name, heads.get(name), count)
                for name in sorted(tenants | heads.keys())
            )
        )


def _verify_tenant(
    connection: Connection[TupleRow], tenant: str, head: _Head | None, count: Callable[[int], None]
) -> LogReport:
    last, broken = _verify_chain(connection, tenant, count)
    broken = broken or _verify_head(tenant, head, last)
    gap = connection.execute(_STREAM_GAP, (tenant,)).fetchone()
    if gap and (broken is None or gap[0] < broken.position):
        position, stream_id, version = gap
        reason = "its version does not follow the one before it"
        broken = BrokenLink(tenant, position, stream_id, version, reason)
    return LogReport(tenant, last.position, last.hash, broken)


def _verify_chain(
    connection: Connection[TupleRow], tenant: str, count: Callable[[int], None]
) -> tuple[_Head, BrokenLink | None]:
    """Follow the chain as far as it holds."""
    position, previous, recorded_at = 0, START, b""
    broken: BrokenLink | None = None
    with connection.cursor() as cursor, cursor.copy(_LOG, (tenant,)) as copy:
        copy.set_types(_LOG_TYPES)
        for found, stream_id, version, topic, data, metadata, at, stored in copy.rows():
            if broken:  # to end a COPY early would end the transaction
                continue
            digest = event_digest(tenant, stream_id, version, topic, metadata, data)
            expected = sha256(previous + found.to_bytes(8, "big", signed=True) + at + digest)
            if found != position + 1:
                reason = f"follows on position {position}: what was between them is gone"
                broken = BrokenLink(tenant, found, stream_id, version, reason)
            elif expected.digest() != stored:
                reason = "is not what its hash was made of"
                broken = BrokenLink(tenant, found, stream_id, version, reason)
            else:
                position, previous, recorded_at = found, stored, at
                if position % _REPORT_EVERY == 0:
                    count(_REPORT_EVERY)
    count(position % _REPORT_EVERY)
    return _Head(position, previous, recorded_at), broken


def _verify_head(tenant: str, head: _Head | None, last: _Head) -> BrokenLink | None:
    if head is None:
        reason = "the log has no head row"
    elif head.position > last.position:
        reason = f"the log was cut off: its head says that it ends at position {head.position}"
        return BrokenLink(tenant, last.position + 1, None, None, reason)
    elif head.position < last.position:
        reason = f"lies beyond the head of the log, which says position {head.position}"
        return BrokenLink(tenant, head.position + 1, None, None, reason)
    elif head.hash != last.hash or (last.position and head.recorded_at != last.recorded_at):
        reason = "the head row is not that of the last event"
    else:
        return None
    return BrokenLink(tenant, last.position, None, None, reason)
