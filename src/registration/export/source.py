"""The records of a tenant as they were at one moment, streamed from the ``changes`` read model."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import NamedTuple, Self
from uuid import UUID

import orjson
import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from registration.eventstore import database
from registration.export.order import Body, ExportError, Progress
from registration.projections import changes

PATIENCE = 10.0
"""Seconds that a read model may stand still before nobody seems to feed it."""
_FETCH = 2000

# One snapshot for minutes, and each record where an index leads: a sort of them all would first
# write them all to the disk. A program that hangs loses its session after ten minutes.
_OPTIONS = (
    "-c statement_timeout=0 -c idle_in_transaction_session_timeout=600000"
    " -c default_transaction_isolation=repeatable\\ read -c default_transaction_read_only=on"
    " -c enable_sort=off -c max_parallel_workers_per_gather=0"
)
_PLACES = """
SELECT h.position, coalesce(p.position, 0), coalesce(m.version, 0)
  FROM registration.log_head AS h
  LEFT JOIN registration.read_model AS m ON m.name = 'changes'
  LEFT JOIN registration.read_model_position AS p ON p.name = m.name AND p.tenant = h.tenant
 WHERE h.tenant = %s
"""
_STANDING = """
SELECT p.position, e.recorded_at, e.hash, m.rebuilt_at, c.oid::int8,
       (SELECT count(*) FROM registration.dead_letter AS d
         WHERE d.name = m.name AND d.tenant = p.tenant)
  FROM registration.read_model AS m
  JOIN registration.read_model_position AS p ON p.name = m.name AND p.tenant = %s
  JOIN registration.event AS e ON e.tenant = p.tenant AND e.position = p.position
  JOIN pg_namespace AS n ON n.nspname = m.name
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'record'
 WHERE m.name = 'changes'
"""
_TABLE = "SELECT to_regclass('changes.record')::oid::int8"
_RECORDS = """
SELECT position, id, kind, body FROM changes.record
 WHERE tenant = %s AND (position, id) > (%s, %s) AND position <= %s AND kind = ANY(%s)
   AND (body IS NOT NULL OR position > %s)
 ORDER BY position, id
"""
_MARK = "SELECT encode(hash, 'hex') FROM registration.event WHERE tenant = %s AND position = %s"


Place = tuple[int, UUID]
"""Position and id: what comes after it has changed later."""
Rows = psycopg.ServerCursor[TupleRow]


class Record(NamedTuple):
    """A record as it is now, at the position of its last change; no content: it was erased."""

    position: int
    id: UUID
    kind: str
    content: bytes | None

    @property
    def body(self) -> Body | None:
        """What the wire shows; ``None`` of what was erased."""
        if self.content is None:
            return None
        body: Body = orjson.loads(self.content)
        return body


class Standing(NamedTuple):
    """Where the read model stands: at the event that was recorded at ``recorded_at``.

    ``set_aside``: how many streams it could not take in, and parked.
    """

    position: int
    recorded_at: datetime
    mark: str
    made_at: datetime
    table: int
    set_aside: int


class Source:
    """One tenant's records at one moment, in the order of their last changes."""

    def __init__(
        self, connection: Connection[TupleRow], cursor: Rows, tenant: str, standing: Standing
    ) -> None:
        self.standing = standing
        self._connection = connection
        self._cursor = cursor
        self._tenant = tenant

    @classmethod
    @contextmanager
    def opened(
        cls,
        url: str,
        tenant: str,
        place: Place,
        kinds: Sequence[str],
        progress: Progress,
        gone_after: int,
    ) -> Iterator[Self]:
        """Wait until the read model has what the log holds now, then look at both at one moment.

        What comes are the records of the kinds after ``place``; of those that were erased, what
        went after the position ``gone_after``. Writers are not disturbed. Raises
        :class:`ExportError` where the tenant has no log or the read model does not follow,
        ``psycopg.OperationalError`` where the database does not answer.
        """
        _wait(url, tenant, progress)
        with ExitStack() as stack:
            while True:
                parameters = database.parameters("export", _OPTIONS)
                connection = stack.enter_context(psycopg.connect(url, **parameters))
                standing = _standing(connection, tenant)
                cursor = stack.enter_context(connection.cursor("records"))
                cursor.itersize = _FETCH
                bounds = (tenant, *place, standing.position, list(kinds), gone_after)
                cursor.execute(_RECORDS, bounds, binary=True)
                # A rebuild exchanges the tables at any time. Who reads already goes on in the old
                # ones; in new ones, which it came upon just now, this moment would see nothing.
                if connection.execute(_TABLE).fetchone() == (standing.table,):
                    break
                stack.close()
            yield cls(connection, cursor, tenant, standing)

    def __iter__(self) -> Iterator[Record]:
        """Yield the records, a few thousand in memory at once. Once only."""
        return itertools.starmap(Record, self._cursor)

    def mark(self, position: int) -> str | None:
        """Return the hash of the log's event at a position; ``None`` where there is none."""
        row = self._connection.execute(_MARK, (self._tenant, position)).fetchone()
        return row[0] if row else None


def _standing(connection: Connection[TupleRow], tenant: str) -> Standing:
    row = connection.execute(_STANDING, (tenant,)).fetchone()
    if row is None:
        raise ExportError("the read model `changes` is not there; registration rebuild makes it")
    position, recorded_at, mark, *others = row
    return Standing(position, recorded_at, mark.hex(), *others)


def _wait(url: str, tenant: str, progress: Progress) -> None:
    """Return once the read model has what the log holds now; others may write on meanwhile."""
    with psycopg.connect(url, autocommit=True, **database.parameters("export")) as connection:
        target, reached, _ = _places(connection, tenant)
        start = moved = reached
        deadline = time.monotonic() + PATIENCE
        while True:
            _, reached, version = _places(connection, tenant)
            if reached >= target and version == changes.VERSION:
                return
            if reached != moved:
                moved, deadline = reached, time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise _behind(target - reached)
            progress("waiting for the read model", max(0, reached - start), target - start)
            time.sleep(0.05)


def _places(connection: Connection[TupleRow], tenant: str) -> tuple[int, int, int]:
    """Return how far the log is, how far the read model, and of which version that is."""
    row = connection.execute(_PLACES, (tenant,)).fetchone()
    if row is None or row[0] == 0:
        raise ExportError(f"there is no log of a tenant named {tenant}")
    head, reached, version = row
    return head, reached, version


def _behind(events: int) -> ExportError:
    how = f"{events} event(s) behind the log" if events > 0 else "of another version"
    return ExportError(
        f"the read model `changes` is {how} and does not move: run registration serve or"
        " registration project beside this, or registration rebuild changes before it"
    )
