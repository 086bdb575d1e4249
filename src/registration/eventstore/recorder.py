"""One tenant's log as an ``eventsourcing`` recorder, for followers and auditors of that library.

``notification_id`` is the position in the log. Positions are dense and in commit order, so a
follower that asks for what lies beyond the last one that it saw misses nothing.
Inserts go through the same SQL function as the service's own, and so keep the hash chain.

What is sealed is opened on the way out, with the master keys of the process (see ``sealing``); of
somebody who was erased a follower reads blanks, as our own read models do. Inserts are stored as
they are given: whoever writes about people goes through the service.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any, LiteralString
from uuid import UUID

import orjson
import psycopg
from eventsourcing import persistence as library
from eventsourcing.persistence import Notification, StoredEvent
from psycopg import Connection, sql
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from registration.eventstore import database
from registration.eventstore.records import RecordedEvent, event_digest

_INSERT = """
SELECT position FROM append(
  %(tenant)s, NULL, interval '1 day',
  ARRAY[NULL::uuid], ARRAY[NULL::uuid], ARRAY[0], ARRAY[%(stream)s], ARRAY[0],
  ARRAY[NULL::bytea], ARRAY[%(count)s], ARRAY[0],
  %(streams)s::uuid[], %(versions)s::int[], %(topics)s::text[], %(data)s::bytea[],
  %(metadata)s::bytea[], %(digests)s::bytea[],
  '{}', '{}', '{}', '{}', p_any_version => true)
"""
_SELECT: LiteralString = """
SELECT * FROM readable_event
 WHERE tenant = %(tenant)s AND stream_id = %(stream)s
   AND version > %(gt)s AND version <= %(lte)s
 ORDER BY version {order} LIMIT %(limit)s
"""
_NOTIFICATIONS = """
SELECT * FROM readable_event
 WHERE tenant = %(tenant)s AND position >= %(start)s AND position <= %(stop)s
   AND (%(any)s OR topic = ANY(%(topics)s::text[]))
 ORDER BY position LIMIT %(limit)s
"""
_HEAD = "SELECT position FROM log_head WHERE tenant = %s AND position > 0"

_SMALLEST = -(2**31)
_LARGEST_VERSION = 2**31 - 1
_LARGEST_POSITION = 2**63 - 1

_POLL = 0.02
_SECTION = 500

_ERRORS: tuple[tuple[type[psycopg.Error], type[library.PersistenceError]], ...] = (
    (psycopg.IntegrityError, library.IntegrityError),
    (psycopg.OperationalError, library.OperationalError),
    (psycopg.DataError, library.DataError),
    (psycopg.ProgrammingError, library.ProgrammingError),
    (psycopg.NotSupportedError, library.NotSupportedError),
    (psycopg.InternalError, library.InternalError),
    (psycopg.InterfaceError, library.InterfaceError),
    (psycopg.Error, library.DatabaseError),
)


@contextmanager
def _library_errors() -> Iterator[None]:
    # The type only, and no cause: messages of the database can hold rows.
    try:
        yield
    except psycopg.Error as error:
        kind = next(kind for ours, kind in _ERRORS if isinstance(error, ours))
        raise kind(type(error).__name__) from None
    except PoolTimeout as error:
        raise library.OperationalError(type(error).__name__) from None


def pool(url: str, size: int = 4) -> ConnectionPool[Connection[TupleRow]]:
    """Return an open pool for recorders to share; whoever opens it closes it."""
    return ConnectionPool(
        url,
        min_size=1,
        max_size=size,
        name="recorder",
        open=True,
        timeout=5.0,
        kwargs={"autocommit": True, **database.parameters("recorder")},
    )


class StreamRecorder(library.AggregateRecorder):
    """The streams of one tenant."""

    def __init__(self, connections: ConnectionPool[Connection[TupleRow]], tenant: str) -> None:
        self._pool = connections
        self._tenant = tenant

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Sequence[int] | None:
        """Append events, all or none; ``metadata`` goes with each of them.

        Raises ``IntegrityError`` when a version is taken.
        """
        self._insert(stored_events, metadata, kwargs)
        return None

    def _insert(
        self,
        stored_events: Sequence[StoredEvent],
        metadata: Mapping[str, Any] | None,
        unknown: Mapping[str, Any],
    ) -> Sequence[int]:
        if unknown:  # what cannot be kept must not look kept
            raise TypeError(f"unknown arguments: {', '.join(unknown)}")
        if not stored_events:
            return []
        meta = orjson.dumps(metadata or {})
        streams = [_uuid(event.originator_id) for event in stored_events]
        arguments = {
            "tenant": self._tenant,
            "stream": streams[0],
            "count": len(stored_events),
            "streams": streams,
            "versions": [event.originator_version for event in stored_events],
            "topics": [event.topic for event in stored_events],
            "data": [event.state for event in stored_events],
            "metadata": [meta] * len(stored_events),
            "digests": [
                event_digest(
                    self._tenant, stream, event.originator_version, event.topic, meta, event.state
                )
                for stream, event in zip(streams, stored_events, strict=True)
            ],
        }
        ((last,),) = self._query(_INSERT, arguments)
        return range(last - len(stored_events) + 1, last + 1)

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return a stream's events with ``gt`` < version <= ``lte``, in order of version."""
        found = self._events(
            sql.SQL(_SELECT).format(order=sql.SQL("DESC" if desc else "ASC")),
            {
                "tenant": self._tenant,
                "stream": _uuid(originator_id),
                "gt": _SMALLEST if gt is None else gt,
                "lte": _LARGEST_VERSION if lte is None else lte,
                "limit": limit,
            },
        )
        return [StoredEvent(e.stream_id, e.version, e.topic, e.state) for e in found]

    def _events(
        self, query: LiteralString | sql.Composed, arguments: Mapping[str, object]
    ) -> Iterator[RecordedEvent]:
        return (RecordedEvent(*row) for row in self._query(query, arguments))

    def _query(
        self,
        query: LiteralString | sql.Composed,
        arguments: Mapping[str, object] | Sequence[object],
    ) -> list[TupleRow]:
        with _library_errors(), self._pool.connection() as connection:
            return connection.execute(query, arguments, binary=True).fetchall()


class LogRecorder(StreamRecorder, library.ApplicationRecorder):
    """The log of one tenant: its streams, and its events in the order of their commit."""

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Sequence[int]:
        """Append events, all or none, and return their positions.

        Raises ``IntegrityError`` when a version is taken.
        """
        return list(self._insert(stored_events, metadata, kwargs))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return up to ``limit`` events from position ``start`` to ``stop``, in order."""
        first = 0 if start is None else start if inclusive_of_start else start + 1
        found = self._events(
            _NOTIFICATIONS,
            {
                "tenant": self._tenant,
                "start": first,
                "stop": _LARGEST_POSITION if stop is None else stop,
                "any": not topics,
                "topics": list(topics),
                "limit": limit,
            },
        )
        return [Notification(e.stream_id, e.version, e.topic, e.state, e.position) for e in found]

    def max_notification_id(self) -> int | None:
        """Return the last position; ``None`` for an empty log."""
        rows = self._query(_HEAD, (self._tenant,))
        return rows[0][0] if rows else None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> library.Subscription["LogRecorder"]:
        """Return an iterator over the events beyond position ``gt``, which waits for new ones."""
        return LogSubscription(self, gt, topics)


class LogSubscription(library.Subscription[LogRecorder]):
    """Looks at the head of the log every 20 ms; ``stop`` ends it from any thread at once."""

    def __init__(
        self, recorder: LogRecorder, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._stopped = Event()
        self._pending: Iterator[Notification] = iter(())

    def stop(self) -> None:
        """End the iteration."""
        super().stop()
        self._stopped.set()

    def __next__(self) -> Notification:
        """Return the next event; wait for it if need be."""
        while not self._stopped.is_set():
            notification = next(self._pending, None)
            if notification is not None:
                return notification
            if not self._pull():
                self._stopped.wait(_POLL)
        raise StopIteration

    def _pull(self) -> bool:
        """Read on; says whether there was anything to read, wanted topics or not."""
        seen = self._last_notification_id or 0
        head = self._recorder.max_notification_id() or 0
        if head <= seen:
            return False
        found = self._recorder.select_notifications(
            seen, _SECTION, head, self._topics, inclusive_of_start=False
        )
        self._pending = iter(found)
        # a section that is not full went through all there was
        self._last_notification_id = found[-1].id if len(found) == _SECTION else head
        return True


def _uuid(originator_id: UUID | str) -> UUID:
    return originator_id if isinstance(originator_id, UUID) else UUID(originator_id)
