"""Feeds the read models from the log.

**Exactly once.** A batch and the positions it reaches commit in one transaction, so a read model
is never ahead of or behind what it says of itself, whatever dies when.

**One leader.** Whoever holds the session advisory lock of a read model feeds it. The lock belongs
to the very connection that writes: a leader whose connection is gone cannot commit any more, and
the lock is free the moment it is gone. Should two ever believe that they lead (a connection pooler
that shares sessions), the second one's positions do not match and its batch rolls back.

**Rebuild without a gap.** A rebuild reads the log from position 1 into the schema
``<name>_rebuild`` while the live runner goes on with the live schema. When it is nearly level, one
transaction locks the ``read_model`` row, reads the rest, exchanges the schemas by renaming them,
writes the positions that the new tables stand at, and gives the row a new ``rebuilt_at``. The live
runner takes the same row in share mode at the start of each batch and compares ``rebuilt_at``:

- a batch that has the row first commits into the old tables before the exchange; the new tables
  got (or get, under the lock) the same events from the log by themselves;
- a batch that comes second waits for the exchange, finds another ``rebuilt_at``, drops what it had
  in hand, and reads positions and dead letters anew. The events it dropped are either in the new
  tables or after their positions.

So no event is lost and none is applied twice. Readers notice nothing: a query that runs during
the exchange ends on the old tables, which are dropped afterwards.
"""

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.errors import InvalidSchemaName, LockNotAvailable, UndefinedTable
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from registration.eventstore import database
from registration.eventstore.records import RecordedEvent
from registration.projections.registry import READ_MODELS, ReadModel

log = logging.getLogger(__name__)

BATCH = 1000
"""Events in one transaction, over all tenants."""

Progress = Callable[[str, int, int], None]
"""Told the read model, how many events are in, and how many there are."""

Connection = AsyncConnection[TupleRow]
Stream = tuple[str, UUID]

_LEADER = 0x72656164
_REBUILDER = 0x72656275
"""First halves of the advisory locks; the second is the read model's name."""

_STANDBY = 0.5
_MOST_PASSES = 10

# What is lost in a crash is the end of a read model together with its position: the log has it.
# A leader that hangs (a stopped process) loses its session, and with it the lock.
_WRITER = "-c synchronous_commit=off -c idle_session_timeout=10000"

_BEHIND = """
SELECT h.tenant, h.position
  FROM registration.log_head h
  LEFT JOIN registration.read_model_position p ON p.name = %s AND p.tenant = h.tenant
 WHERE h.position > coalesce(p.position, 0)
"""
_EVENTS = """
SELECT tenant, position, stream_id, version, topic, data, metadata, recorded_at, hash
  FROM registration.event WHERE tenant = %s AND position > %s AND position <= %s
 ORDER BY position
"""
_ADVANCE = """
INSERT INTO registration.read_model_position AS p (name, tenant, position) VALUES (%s, %s, %s)
    ON CONFLICT (name, tenant) DO UPDATE SET position = excluded.position WHERE p.position = %s
"""
_PARK = """
INSERT INTO registration.dead_letter (name, tenant, stream_id, position, version, topic, error)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_STATUS = """
SELECT m.name, h.tenant, coalesce(p.position, 0), h.position,
       (SELECT count(*) FROM registration.dead_letter d
         WHERE d.name = m.name AND d.tenant = h.tenant),
       EXISTS (SELECT FROM pg_locks l
                WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND l.classid = %s::oid AND l.objid = m.lock::oid)
  FROM unnest(%s::text[], %s::bigint[]) AS m (name, lock)
  LEFT JOIN registration.log_head h ON true
  LEFT JOIN registration.read_model_position p ON p.name = m.name AND p.tenant = h.tenant
 ORDER BY m.name, h.tenant
"""


class RebuildError(Exception):
    """The rebuild was given up; the read model is as it was."""


class LogGapError(Exception):
    """The log lacks an event below its head: it was tampered with, or restored in part."""


class _SupersededError(Exception):
    """Somebody else changed the read model: look again at where it stands."""


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """How far a read model is in one tenant's log."""

    tenant: str
    position: int
    head: int
    dead_letters: int

    @property
    def behind(self) -> int:
        """How many events are still to come."""
        return max(0, self.head - self.position)


@dataclass(frozen=True, slots=True)
class ReadModelStatus:
    """How a read model is: whether anybody feeds it, and how far it is in each tenant's log."""

    name: str
    leader: bool
    tenants: tuple[TenantStatus, ...]

    @property
    def behind(self) -> int:
        """How many events are still to come, of all tenants."""
        return sum(tenant.behind for tenant in self.tenants)

    @property
    def dead_letters(self) -> int:
        """How many streams are parked, of all tenants."""
        return sum(tenant.dead_letters for tenant in self.tenants)


class _Slice(NamedTuple):
    """Events of one tenant, ``after`` < position <= ``until``."""

    tenant: str
    after: int
    until: int
    events: Sequence[RecordedEvent] = ()


async def run_forever(
    url: str,
    *,
    poll: float = 0.02,
    stop: asyncio.Event | None = None,
    models: Sequence[ReadModel] = READ_MODELS,
) -> None:
    """Feed every read model, as leader or in waiting, until ``stop`` is set.

    Creates what is missing, rebuilds what another version of the program made, and gets over a
    database that goes away. An idle leader looks at the log's heads every ``poll`` seconds.
    """
    stop = stop or asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for model in models:
            group.create_task(_Follower(url, model, poll, stop).run())


async def rebuild(
    url: str,
    name: str | None = None,
    progress: Progress | None = None,
    *,
    models: Sequence[ReadModel] = READ_MODELS,
) -> None:
    """Build one read model (or all) anew from the log, and exchange it for the one in use.

    Raises :class:`RebuildError` when a read model has no such name, when an event cannot be
    applied, or when somebody else rebuilds the same one; the tables in use then stay.
    """
    chosen = [model for model in models if name in (None, model.NAME)]
    if not chosen:
        raise RebuildError(f"there is no read model named {name}")
    for model in chosen:
        async with (
            await database.connect(url, name=f"rebuild {model.NAME}", options=_WRITER) as writer,
            await database.connect(url, name=f"rebuild {model.NAME}") as reader,
        ):
            await _create_if_missing(writer, model)
            await _Rebuild(model, writer, reader, progress, strict=True).run()


async def status(
    connection: Connection, models: Sequence[ReadModel] = READ_MODELS
) -> list[ReadModelStatus]:
    """Return how each read model is."""
    names = [model.NAME for model in models]
    cursor = await connection.execute(_STATUS, (_LEADER, names, list(map(_lock_key, names))))
    tenants: dict[str, list[TenantStatus]] = {name: [] for name in names}
    leaders: set[str] = set()
    for name, tenant, position, head, dead_letters, leader in await cursor.fetchall():
        if leader:
            leaders.add(name)
        if tenant is not None:
            tenants[name].append(TenantStatus(tenant, position, head, dead_letters))
    return [ReadModelStatus(name, name in leaders, tuple(tenants[name])) for name in names]


async def wait_for(
    source: Connection | AsyncConnectionPool[Connection],
    name: str,
    tenant: str,
    position: int,
    timeout: float,  # noqa: ASYNC109  (running out of time is an answer here, not an error)
) -> bool:
    """Return whether the read model reached ``position`` within ``timeout`` seconds.

    Looks every 10 ms, and holds no connection of a pool in between.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        if isinstance(source, AsyncConnectionPool):
            async with source.connection() as connection:
                reached = await _position(connection, name, tenant)
        else:
            reached = await _position(source, name, tenant)
        if reached >= position:
            return True
        if loop.time() >= end:
            return False
        await asyncio.sleep(0.01)


async def _position(connection: Connection, name: str, tenant: str) -> int:
    cursor = await connection.execute(
        "SELECT position FROM registration.read_model_position WHERE name = %s AND tenant = %s",
        (name, tenant),
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


class _Follower:
    """Feeds one read model whenever it is this process' turn."""

    def __init__(self, url: str, model: ReadModel, poll: float, stop: asyncio.Event) -> None:
        self._url = url
        self._model = model
        self._poll = poll
        self._stop = stop
        self._patience = 0.0
        self._rebuilt_at: datetime | None = None
        self._positions: dict[str, int] = {}
        self._parked: set[Stream] = set()

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._session()
            except _SupersededError:
                continue
            except (psycopg.Error, LogGapError, RebuildError) as error:
                # the type only: messages of the database can hold rows
                log.warning(
                    "read model %s: %s; trying again", self._model.NAME, type(error).__name__
                )
                self._patience = min(2.0, self._patience * 2 or 0.05)
                await self._pause(self._patience)

    async def _session(self) -> None:
        name = self._model.NAME
        async with await database.connect(
            self._url, name=f"read model {name}", options=_WRITER
        ) as leader:
            while not await _try_lock(leader, _LEADER, name):
                await self._pause(_STANDBY)
                if self._stop.is_set():
                    return
            async with await database.connect(self._url, name=f"read model {name}") as reader:
                if await _create_if_missing(leader, self._model) != self._model.VERSION:
                    log.warning("read model %s: made by another version, rebuilding", name)
                    await _Rebuild(self._model, leader, reader, None, strict=False).run()
                await self._lead(leader, reader)

    async def _lead(self, leader: Connection, reader: Connection) -> None:
        await _set_search_path(leader, self._model.NAME)
        await self._look(leader)
        while not self._stop.is_set():
            heads = await _heads(leader, self._model.NAME)
            await self._catch_up(leader, reader, heads)
            self._patience = 0.0
            # also after a catch-up: many small batches cost several times one of their size
            await self._pause(self._poll)

    async def _catch_up(
        self, leader: Connection, reader: Connection, heads: Mapping[str, int]
    ) -> None:
        read = dict(self._positions)

        async def plan() -> list[_Slice]:
            return _divide(heads, read)

        async with aclosing(_batches(reader, plan)) as batches:
            async for batch in batches:
                await self._take(leader, batch)
                if self._stop.is_set():
                    return

    async def _look(self, leader: Connection) -> None:
        name = self._model.NAME
        async with leader.transaction():
            cursor = await leader.execute(
                "SELECT version, rebuilt_at FROM registration.read_model WHERE name = %s FOR SHARE",
                (name,),
            )
            row = await cursor.fetchone()
            if row is None or row[0] != self._model.VERSION:
                raise _SupersededError
            self._rebuilt_at = row[1]
            cursor = await leader.execute(
                "SELECT tenant, position FROM registration.read_model_position WHERE name = %s",
                (name,),
            )
            self._positions = dict(await cursor.fetchall())
            cursor = await leader.execute(
                "SELECT tenant, stream_id FROM registration.dead_letter WHERE name = %s", (name,)
            )
            self._parked = {(tenant, stream) for tenant, stream in await cursor.fetchall()}

    async def _take(self, leader: Connection, batch: Sequence[_Slice]) -> None:
        """Apply a batch and record where that leads to, in one transaction."""
        try:
            async with leader.transaction():
                await self._fence(leader)
                await _apply(leader, self._model, batch, self._parked)
                await _advance(leader, self._model.NAME, batch)
        except Exception as error:
            if _not_of_an_event(error):
                raise
            await self._take_singly(leader, batch)
        self._positions.update((part.tenant, part.until) for part in batch)
        self._patience = 0.0

    async def _take_singly(self, leader: Connection, batch: Sequence[_Slice]) -> None:
        """Do the same event by event, and set aside the streams of those that fail."""
        failures: list[_DeadLetter] = []
        async with leader.transaction():
            await self._fence(leader)
            await _apply_singly(leader, self._model, batch, self._parked, failures.append)
            await _park(leader, self._model.NAME, failures)
            await _advance(leader, self._model.NAME, batch)
        self._parked.update(failure.stream for failure in failures)
        for failure in failures:
            log.error(
                "read model %s: %s at position %d of tenant %s; its stream is parked",
                self._model.NAME,
                failure.error,
                failure.event.position,
                failure.event.tenant,
            )

    async def _fence(self, leader: Connection) -> None:
        cursor = await leader.execute(
            "SELECT rebuilt_at FROM registration.read_model WHERE name = %s FOR SHARE",
            (self._model.NAME,),
        )
        if await cursor.fetchone() != (self._rebuilt_at,):
            raise _SupersededError

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


class _DeadLetter(NamedTuple):
    event: RecordedEvent
    error: str

    @property
    def stream(self) -> Stream:
        return self.event.tenant, self.event.stream_id


class _Rebuild:
    """Builds one read model beside the one in use, and exchanges the two.

    ``strict``: an event that fails ends it. Otherwise its stream is parked, as live.
    """

    def __init__(
        self,
        model: ReadModel,
        writer: Connection,
        reader: Connection,
        progress: Progress | None,
        *,
        strict: bool,
    ) -> None:
        self._model = model
        self._shadow = f"{model.NAME}_rebuild"
        self._old = f"{model.NAME}_old"
        self._writer = writer
        self._reader = reader
        self._progress = progress
        self._strict = strict
        self._positions: dict[str, int] = {}
        self._failures: list[_DeadLetter] = []

    async def run(self) -> None:
        if not await _try_lock(self._writer, _REBUILDER, self._model.NAME):
            raise RebuildError(f"somebody else rebuilds {self._model.NAME}")
        try:
            await self._build()
            await self._swap()
        finally:
            if not self._writer.closed:
                await self._clear()
                await _unlock(self._writer, _REBUILDER, self._model.NAME)

    async def _build(self) -> None:
        await self._drop(self._shadow)
        async with self._writer.transaction():
            await _create_schema(self._writer, self._shadow, self._model.DDL)
        await _set_search_path(self._writer, self._shadow)
        # Each pass ends at the heads of its start, so writers cannot keep it going; the last
        # pass, under the lock, is short unless they outrun the rebuild all the time.
        for _ in range(_MOST_PASSES):
            if await self._catch_up() <= BATCH:
                return

    async def _swap(self) -> None:
        name = self._model.NAME
        async with self._writer.transaction():
            await self._writer.execute(
                "SELECT FROM registration.read_model WHERE name = %s FOR UPDATE", (name,)
            )
            await self._catch_up()
            await self._writer.execute(_sql("DROP SCHEMA IF EXISTS {} CASCADE", self._old))
            await self._writer.execute(_sql("ALTER SCHEMA {} RENAME TO {}", name, self._old))
            await self._writer.execute(_sql("ALTER SCHEMA {} RENAME TO {}", self._shadow, name))
            await _forget(self._writer, name)
            await _advance(
                self._writer, name, [_Slice(t, 0, p) for t, p in self._positions.items()]
            )
            await _park(self._writer, name, self._failures)
            await self._writer.execute(
                "UPDATE registration.read_model SET version = %s, rebuilt_at = clock_timestamp()"
                " WHERE name = %s",
                (self._model.VERSION, name),
            )

    async def _catch_up(self) -> int:
        """Read the log up to the heads of now; returns how many events that were."""
        cursor = await self._reader.execute("SELECT tenant, position FROM registration.log_head")
        heads: dict[str, int] = dict(await cursor.fetchall())
        read = dict(self._positions)
        taken = sum(heads.values()) - sum(read.values())

        async def plan() -> list[_Slice]:
            return _divide(heads, read)

        async with aclosing(_batches(self._reader, plan)) as batches:
            async for batch in batches:
                await self._take(batch)
                if self._progress:
                    self._progress(
                        self._model.NAME, sum(self._positions.values()), sum(heads.values())
                    )
        return taken

    async def _take(self, batch: Sequence[_Slice]) -> None:
        parked = {failure.stream for failure in self._failures}
        try:
            async with self._writer.transaction():
                await _apply(self._writer, self._model, batch, parked)
        except Exception as error:
            if _not_of_an_event(error):
                raise
            async with self._writer.transaction():
                await _apply_singly(self._writer, self._model, batch, parked, self._failed)
        self._positions.update((part.tenant, part.until) for part in batch)

    def _failed(self, failure: _DeadLetter) -> None:
        if self._strict:
            raise RebuildError(
                f"read model {self._model.NAME}: {failure.error} at position"
                f" {failure.event.position} of tenant {failure.event.tenant}"
            )
        self._failures.append(failure)

    async def _clear(self) -> None:
        """Drop what is not in use any more; while it is still read, the next rebuild does that."""
        try:
            await self._drop(self._shadow)
            await self._drop(self._old)
        except LockNotAvailable:
            log.warning("read model %s: the old tables are still read", self._model.NAME)

    async def _drop(self, schema: str) -> None:
        await self._writer.execute(_sql("DROP SCHEMA IF EXISTS {} CASCADE", schema))


async def _create_if_missing(connection: Connection, model: ReadModel) -> int:
    """Make the empty read model where there is none; returns the version of what is there."""
    name = model.NAME
    async with connection.transaction():
        # the row first: it is the lock that two who find nothing meet at
        await connection.execute(
            "INSERT INTO registration.read_model (name, version, rebuilt_at)"
            " VALUES (%s, %s, 'epoch') ON CONFLICT DO NOTHING",
            (name, model.VERSION),
        )
        cursor = await connection.execute(
            "SELECT version, rebuilt_at = 'epoch', to_regnamespace(quote_ident(name)) IS NULL"
            " FROM registration.read_model WHERE name = %s FOR UPDATE",
            (name,),
        )
        row = await cursor.fetchone()
        if row is None:
            raise _SupersededError
        version, is_new, is_missing = row
        if not (is_new or is_missing):
            return int(version)
        await connection.execute(_sql("DROP SCHEMA IF EXISTS {} CASCADE", name))
        await _create_schema(connection, name, model.DDL)
        await _forget(connection, name)
        await connection.execute(
            "UPDATE registration.read_model SET version = %s, rebuilt_at = clock_timestamp()"
            " WHERE name = %s",
            (model.VERSION, name),
        )
        return model.VERSION


async def _create_schema(connection: Connection, schema: str, ddl: str) -> None:
    await connection.execute(_sql("CREATE SCHEMA {}", schema))
    await _set_search_path(connection, schema)
    await connection.execute(ddl)


async def _set_search_path(connection: Connection, schema: str) -> None:
    await connection.execute(_sql("SET search_path TO {}, {}", schema, database.SCHEMA))


async def _forget(connection: Connection, name: str) -> None:
    await connection.execute(
        "DELETE FROM registration.read_model_position WHERE name = %s", (name,)
    )
    await connection.execute("DELETE FROM registration.dead_letter WHERE name = %s", (name,))


async def _heads(connection: Connection, name: str) -> dict[str, int]:
    """Return the heads of the logs that the read model is behind of."""
    # Planned each time: a plan from when the tables were empty would be kept for good.
    cursor = await connection.execute(_BEHIND, (name,), prepare=False)
    return dict(await cursor.fetchall())


def _divide(heads: Mapping[str, int], read: dict[str, int]) -> list[_Slice]:
    """Choose what to read next, and move ``read`` on by it.

    Tenants share a batch; those who are nearly level get all of theirs, and one that is far
    behind what they leave.
    """
    gaps = sorted(
        (head - read.get(tenant, 0), tenant)
        for tenant, head in heads.items()
        if head > read.get(tenant, 0)
    )[:BATCH]
    left = BATCH
    slices = []
    for i, (gap, tenant) in enumerate(gaps):
        taken = min(gap, left // (len(gaps) - i))
        after = read.get(tenant, 0)
        slices.append(_Slice(tenant, after, after + taken))
        read[tenant] = after + taken
        left -= taken
    return slices


async def _batches(
    reader: Connection, plan: Callable[[], Awaitable[list[_Slice]]]
) -> AsyncGenerator[list[_Slice], None]:
    """Yield what ``plan`` asks for, until it asks for nothing; reads one batch ahead."""

    async def fetch() -> list[_Slice]:
        return [await _read(reader, part) for part in await plan()]

    ahead = asyncio.create_task(fetch())
    try:
        while batch := await ahead:
            ahead = asyncio.create_task(fetch())
            yield batch
    finally:
        # a read in flight is soon over; to cancel it would cost the connection
        await asyncio.wait({ahead}, timeout=1.0)
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)


async def _read(reader: Connection, part: _Slice) -> _Slice:
    cursor = await reader.execute(_EVENTS, (part.tenant, part.after, part.until), binary=True)
    events = [RecordedEvent(*row) for row in await cursor.fetchall()]
    # positions are dense: a read model that skipped a hole would be wrong without saying so
    if len(events) != part.until - part.after:
        raise LogGapError
    return part._replace(events=events)


async def _apply(
    connection: Connection, model: ReadModel, batch: Sequence[_Slice], parked: set[Stream]
) -> None:
    for part in batch:
        events = part.events
        if parked:
            events = [e for e in events if (e.tenant, e.stream_id) not in parked]
        if events:
            await model.apply(connection, events)


async def _apply_singly(
    connection: Connection,
    model: ReadModel,
    batch: Sequence[_Slice],
    parked: set[Stream],
    failed: Callable[[_DeadLetter], None],
) -> None:
    """Apply event by event; tell ``failed`` of the first one of each stream that cannot be."""
    # what a read model checks at commit shall fail with the event that is to blame
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    parked = set(parked)
    for event in (event for part in batch for event in part.events):
        stream = (event.tenant, event.stream_id)
        if stream in parked:
            continue
        try:
            async with connection.transaction():
                await model.apply(connection, [event])
        except Exception as error:
            if _not_of_an_event(error):
                raise
            parked.add(stream)
            failed(_DeadLetter(event, type(error).__name__))


def _not_of_an_event(error: Exception) -> bool:
    """Whether an error says that the database or the read model as a whole is in trouble.

    ``OperationalError`` covers lost connections, timeouts, locks, serialisation, a full disk.
    """
    return isinstance(
        error,
        psycopg.OperationalError
        | psycopg.InterfaceError
        | UndefinedTable
        | InvalidSchemaName
        | _SupersededError,
    )


async def _advance(connection: Connection, name: str, batch: Sequence[_Slice]) -> None:
    if not batch:
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _ADVANCE, [(name, part.tenant, part.until, part.after) for part in batch]
        )
        if cursor.rowcount != len(batch):
            raise _SupersededError


async def _park(connection: Connection, name: str, failures: Sequence[_DeadLetter]) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _PARK,
            [
                (name, e.tenant, e.stream_id, e.position, e.version, e.topic, error)
                for e, error in failures
            ],
        )


async def _try_lock(connection: Connection, kind: int, name: str) -> bool:
    cursor = await connection.execute(
        "SELECT pg_try_advisory_lock(%s::int, %s::int)", (kind, _lock_key(name))
    )
    return await cursor.fetchone() == (True,)


async def _unlock(connection: Connection, kind: int, name: str) -> None:
    await connection.execute("SELECT pg_advisory_unlock(%s::int, %s::int)", (kind, _lock_key(name)))


def _lock_key(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def _sql(query: LiteralString, *names: str) -> sql.Composed:
    return sql.SQL(query).format(*map(sql.Identifier, names))
