"""Recompute the hash chain of the log from its columns, and name the first link that is broken.

``hash = sha256(previous hash + position + recorded_at + event_digest)``: position as 8 bytes,
``recorded_at`` as PostgreSQL sends it (microseconds since 2000-01-01 UTC, 8 bytes), both
big-endian; the first event follows on ``sha256(b"")``. The head row holds the last event's position
and hash, so a tail that was cut off shows.

What no chain can show by itself is a log that was forged from some event to its end, head row
included. So the same pass makes the Merkle tree over the log, and tells its root wherever somebody
has one to compare it with: see :mod:`registration.evidence`. A leaf is the hash of an event as it
follows from the event's own columns and the hash stored before it, not the hash stored with it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import Connection, pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow

from registration.eventstore import database
from registration.eventstore.merkle import Frontier, leaf_hash
from registration.eventstore.records import event_digest

Progress = Callable[[int, int], None]
"""Told how many events are verified, and how many there are."""

START = sha256(b"").digest()

_REPORT_EVERY = 10_000
_BEFORE_ALL = -(2**63)

# Reading a whole log takes its time, and is one snapshot: the head is that of the last event.
_OPTIONS = (
    "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c default_transaction_isolation=repeatable\\ read -c default_transaction_read_only=on"
)
_HEADS = "SELECT tenant, position, hash, recorded_at FROM log_head WHERE tenant IS NOT NULL"
_HEAD = "SELECT position, hash, recorded_at FROM log_head WHERE tenant = %s"
_HASH_AT = "SELECT hash FROM event WHERE tenant = %s AND position = %s"
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
_STRETCH = """
COPY (SELECT position, stream_id, version, topic, data, metadata, recorded_at, hash
        FROM event WHERE tenant = %s AND position > %s ORDER BY position LIMIT %s)
  TO STDOUT (FORMAT BINARY)
"""
_COLUMNS = ("position", "stream_id", "version", "topic", "data", "metadata", "recorded_at", "hash")
_LOG_TYPES = ["int8", "uuid", "int4", "text", "bytea", "bytea", "timestamptz", "bytea"]
# Who reads as another role than the service may be shown other rows: by policies, by rules, or by a
# view in the table's place.
_NOT_AS_STORED = """
SELECT c.relname,
       CASE WHEN c.relkind NOT IN ('r', 'p') THEN 'is no table'
            WHEN c.relrowsecurity THEN 'has row level security'
            ELSE 'has rules' END
  FROM pg_class c
 WHERE c.oid IN ('event'::regclass, 'log_head'::regclass)
   AND (c.relkind NOT IN ('r', 'p') OR c.relrowsecurity OR c.relhasrules)
 ORDER BY c.relname LIMIT 1
"""
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
# Only an erasure takes somebody's key away, and says so in their stream.
_LOST_KEY = """
SELECT e.position, e.stream_id, e.version FROM event e
 WHERE e.tenant = %s AND e.topic = 'patient.registered' AND sealed_to(e.data, 1) IS NOT NULL
   AND NOT EXISTS (
       SELECT FROM personal_key k WHERE k.tenant = e.tenant AND k.id = sealed_to(e.data, 1))
   AND NOT EXISTS (
       SELECT FROM event g
        WHERE g.tenant = e.tenant AND g.stream_id = e.stream_id AND g.topic = 'patient.erased')
 ORDER BY e.position LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class BrokenLink:
    """The first thing that is wrong with a tenant's log."""

    tenant: str
    position: int
    stream_id: UUID | None
    version: int | None
    reason: str


class Mark(NamedTuple):
    """What a log of so many events comes to: the root of its tree, the hash of its last event."""

    root: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class LogReport:
    """One tenant's log: how many of its events are as they were stored, and what is not.

    ``length`` is how many events there are, broken ones included; ``root`` is over all of them, and
    ``marks`` has what was asked for of the sizes that the log has.
    """

    tenant: str
    events: int
    head: bytes
    broken: BrokenLink | None
    length: int = 0
    root: bytes = START
    marks: Mapping[int, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was verified.

    ``hidden`` says why what was read need not be what others are shown, or what is stored.
    """

    logs: tuple[LogReport, ...]
    hidden: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every link of every log holds."""
        return not self.broken and self.hidden is None

    @property
    def broken(self) -> tuple[BrokenLink, ...]:
        """The first broken link of each log that has one."""
        return tuple(log.broken for log in self.logs if log.broken)

    @property
    def events(self) -> int:
        """How many events hold."""
        return sum(log.events for log in self.logs)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a log: where it ended as far as it holds, and the first link that does not."""

    position: int
    head: bytes
    broken: BrokenLink | None


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
    url: str,
    tenant: str | None = None,
    progress: Progress | None = None,
    sizes: Mapping[str, Collection[int]] | None = None,
) -> VerifyReport:
    """Verify one tenant's log, or all of them, as of one moment; writers are not disturbed.

    ``sizes`` says for which sizes of whose log the report shall have a mark. Raises
    ``psycopg.Error`` when the log cannot be read.
    """
    with _reading(url) as connection:
        heads = {
            name: _Head(*row)
            for name, *row in connection.execute(_HEADS, binary=True)
            if tenant in (None, name)
        }
        tenants = {name for (name,) in connection.execute(_TENANTS) if tenant in (None, name)}
        total = sum(head.position or 0 for head in heads.values())
        done = 0

        def count(events: int) -> None:
            nonlocal done
            done += events
            if progress:
                progress(done, total)

        logs = tuple(
            _verified(connection, name, heads.get(name), count, (sizes or {}).get(name, ()))
            for name in sorted(tenants | heads.keys())
        )
        return VerifyReport(logs, _hidden(connection))


def verify_stretch(
    url: str, tenant: str, after: int, head: bytes | None, limit: int | None = None
) -> Stretch:
    """Verify the events that follow on position ``after``: all of them, or up to ``limit``.

    ``head`` is the hash that the event at ``after`` is known to have; without, the stored one
    counts. Without ``limit`` the head row is held against the last event too. Whether versions
    follow each other is for :func:`verify_log`. Raises ``psycopg.Error``.
    """
    with _reading(url) as connection:
        row = connection.execute(_HASH_AT, (tenant, after), binary=True).fetchone()
        stored = row[0] if row else START if after == 0 else None
        if stored is None or head not in (None, stored):
            reason = (
                "there is no event here any more"
                if row is None
                else "its hash is not the one that it had when it was signed"
            )
            return Stretch(after, head or START, BrokenLink(tenant, after, None, None, reason))
        chain = _Chain(tenant, _Head(after, stored, b""))
        # from the very beginning, so that what stands before the first position shows
        chain.follow(connection, _STRETCH, (tenant, after or _BEFORE_ALL, limit))
        broken = chain.broken
        if limit is None and broken is None:
            row = connection.execute(_HEAD, (tenant,), binary=True).fetchone()
            broken = _verify_head(tenant, _Head(*row) if row else None, chain.last)
        return Stretch(chain.last.position, chain.last.hash, broken)


@contextmanager
def _reading(url: str) -> Iterator[Connection[TupleRow]]:
    with psycopg.connect(url, **database.parameters("verify", _OPTIONS)) as connection:
        connection.adapters.register_loader("timestamptz", _AsSent)
        yield connection


def _hidden(connection: Connection[TupleRow]) -> str | None:
    row = connection.execute(_NOT_AS_STORED).fetchone()
    return (
        f"the relation {row[0]} {row[1]}: what it shows need not be what it holds" if row else None
    )


def _verified(
    connection: Connection[TupleRow],
    tenant: str,
    head: _Head | None,
    count: Callable[[int], None],
    sizes: Collection[int],
) -> LogReport:
    """Verify one log; that it cannot be read, in columns of other types say, hides no other."""
    try:
        with connection.transaction():
            return _verify_tenant(connection, tenant, head, count, sizes)
    except psycopg.OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, the log is not as it was written)
        reason = f"it cannot be read ({type(error).__name__})"
        return LogReport(tenant, 0, START, BrokenLink(tenant, 0, None, None, reason))


def _verify_tenant(
    connection: Connection[TupleRow],
    tenant: str,
    head: _Head | None,
    count: Callable[[int], None],
    sizes: Collection[int],
) -> LogReport:
    chain = _Chain(tenant, _Head(0, START, b""), count, frozenset(sizes))
    chain.follow(connection, _LOG, (tenant,))
    broken = chain.broken or _verify_head(tenant, head, chain.last)
    for query, reason in (
        (_STREAM_GAP, "its version does not follow the one before it"),
        (_LOST_KEY, "the key to it is gone, and nobody was erased"),
    ):
        found = connection.execute(query, (tenant,)).fetchone()
        if found and (broken is None or found[0] < broken.position):
            position, stream_id, version = found
            broken = BrokenLink(tenant, position, stream_id, version, reason)
    tree, last = chain.tree, chain.last
    return LogReport(tenant, last.position, last.hash, broken, tree.size, tree.root(), chain.marks)


class _Chain:
    """Follows a tenant's chain as far as it holds, and its tree to the end."""

    def __init__(
        self,
        tenant: str,
        start: _Head,
        count: Callable[[int], None] = lambda _events: None,
        sizes: frozenset[int] = frozenset(),
    ) -> None:
        self.last = start
        self.broken: BrokenLink | None = None
        self.tree = Frontier()
        self.marks: dict[int, Mark] = {}
        self._tenant = tenant
        self._count = count
        self._sizes = sizes

    def follow(
        self, connection: Connection[TupleRow], query: str, parameters: tuple[object, ...]
    ) -> None:
        tenant, tree = self._tenant, self.tree
        position, previous, recorded_at = self.last.position, self.last.hash, self.last.recorded_at
        before = previous
        with connection.cursor() as cursor, cursor.copy(query.encode(), parameters) as copy:
            copy.set_types(_LOG_TYPES)
            for row in copy.rows():
                found, stream_id, version, topic, data, metadata, at, stored = row
                try:
                    digest = event_digest(tenant, stream_id, version, topic, metadata, data)
                    expected = sha256(
                        before + found.to_bytes(8, "big", signed=True) + at + digest
                    ).digest()
                except (TypeError, AttributeError):  # NULL, which the schema does not allow
                    expected = b""
                    self.broken = self.broken or _null(tenant, position + 1, row)
                before = stored or b""
                tree.append(leaf_hash(expected))
                if tree.size in self._sizes:
                    self.marks[tree.size] = Mark(tree.root(), expected)
                if tree.size % _REPORT_EVERY == 0:
                    self._count(_REPORT_EVERY)
                if self.broken:
                    continue
                if stored is None:
                    self.broken = _null(tenant, position + 1, row)
                elif found != position + 1:
                    reason = f"follows on position {position}: what was between them is gone"
                    self.broken = BrokenLink(tenant, found, stream_id, version, reason)
                elif expected != stored:
                    reason = "is not what its hash was made of"
                    self.broken = BrokenLink(tenant, found, stream_id, version, reason)
                else:
                    position, previous, recorded_at = found, stored, at
        self._count(tree.size % _REPORT_EVERY)
        self.last = _Head(position, previous, recorded_at)


def _null(tenant: str, position: int, row: tuple[Any, ...]) -> BrokenLink:
    """Name an event of which something is NULL, at the position that it would have."""
    missing = ", ".join(name for name, value in zip(_COLUMNS, row, strict=True) if value is None)
    found, stream_id, version = row[:3]
    place = position if found is None else found
    return BrokenLink(tenant, place, stream_id, version, f"has no {missing} any more")


def _verify_head(tenant: str, head: _Head | None, last: _Head) -> BrokenLink | None:
    if head is None:
        if last.position == 0:
            return None  # there is no log at all
        reason = "the log has no head row"
    elif None in (head.position, head.hash, head.recorded_at):
        reason = "a column of the head row is empty"
    elif head.position > last.position:
        reason = f"the log was cut off: its head says that it ends at position {head.position}"
        return BrokenLink(tenant, last.position + 1, None, None, reason)
    elif head.position < last.position:
        reason = f"lies beyond the head of the log, which says position {head.position}"
        return BrokenLink(tenant, head.position + 1, None, None, reason)
    elif head.hash != last.hash or (
        last.position and last.recorded_at and head.recorded_at != last.recorded_at
    ):
        reason = "the head row is not that of the last event"
    else:
        return None
    return BrokenLink(tenant, last.position, None, None, reason)
