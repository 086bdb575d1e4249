"""What feeding a read model takes, live or in a rebuild: locks, batches, positions."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Mapping, Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow

from registration.domain.events import EVENTS, PatientErased
from registration.eventstore import database
from registration.eventstore.records import RecordedEvent
from registration.projections.registry import ReadModel

BATCH = 1000
"""Events in one transaction, over all tenants."""

Progress = Callable[[str, int, int], None]
"""Told the read model, how many events are in, and how many there are."""

Connection = AsyncConnection[TupleRow]
Stream = tuple[str, UUID]

LEADER = 0x72656164
REBUILDER = 0x72656275
"""First halves of the advisory locks; the second is the read model's name."""

# What is lost in a crash is the end of a read model together with its position: the log has it.
# A leader that hangs (a stopped process) loses its session, and with it the lock.
WRITER = "-c synchronous_commit=off -c idle_session_timeout=10000"

_EVENTS = """
SELECT * FROM registration.readable_event
 WHERE tenant = %s AND position > %s AND position <= %s AND topic <> ALL(%s)
 ORDER BY position
"""
_COUNT = """
SELECT count(*) FROM registration.event WHERE tenant = %s AND position > %s AND position <= %s
"""
_ADVANCE = """
INSERT INTO registration.read_model_position AS p (name, tenant, position)
SELECT unnest(%s::text[]), %s, %s
    ON CONFLICT (name, tenant) DO UPDATE SET position = excluded.position WHERE p.position = %s
"""
_PARK = """
INSERT INTO registration.dead_letter (name, tenant, stream_id, position, version, topic, error)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""


class LogGapError(Exception):
    """The log lacks an event below its head: it was tampered with, or restored in part."""


class SupersededError(Exception):
    """Somebody else changed the read model: look again at where it stands."""


class Slice(NamedTuple):
    """Events of one tenant, ``after`` < position <= ``until``."""

    tenant: str
    after: int
    until: int
    events: Sequence[RecordedEvent] = ()


class DeadLetter(NamedTuple):
    event: RecordedEvent
    error: str

    @property
    def stream(self) -> Stream:
        return self.event.tenant, self.event.stream_id


async def create_if_missing(connection: Connection, model: ReadModel) -> int:
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
            raise SupersededError
        version, is_new, is_missing = row
        if not (is_new or is_missing):
            return int(version)
        await connection.execute(statement("DROP SCHEMA IF EXISTS {} CASCADE", name))
        await create_schema(connection, name, model.DDL)
        await forget(connection, name)
        await connection.execute(
            "UPDATE registration.read_model SET version = %s, rebuilt_at = clock_timestamp()"
            " WHERE name = %s",
            (model.VERSION, name),
        )
        return model.VERSION


async def create_schema(connection: Connection, schema: str, ddl: str) -> None:
    await connection.execute(statement("CREATE SCHEMA {}", schema))
    await set_search_path(connection, schema)
    await connection.execute(ddl)


async def set_search_path(connection: Connection, schema: str) -> None:
    await connection.execute(statement("SET search_path TO {}, {}", schema, database.SCHEMA))


async def forget(connection: Connection, name: str) -> None:
    await connection.execute(
        "DELETE FROM registration.read_model_position WHERE name = %s", (name,)
    )
    await connection.execute("DELETE FROM registration.dead_letter WHERE name = %s", (name,))


async def log_heads(connection: Connection) -> dict[str, int]:
    """Return how far the log of each tenant is."""
    cursor = await connection.execute("SELECT tenant, position FROM registration.log_head")
    return dict(await cursor.fetchall())


def unwanted(model: ReadModel) -> frozenset[str]:
    """Return the topics that the read model is not told of.

    Not those that no program of this version knows: they are read, and fail where they belong.
    """
    return frozenset(kind.TOPIC for kind in EVENTS if kind not in model.EVENTS)


def divide(heads: Mapping[str, int], read: dict[str, int], most: int = BATCH) -> list[Slice]:
    """Choose the next events to read, ``most`` of them, and move ``read`` on by that.

    Tenants share a batch; those who are nearly level get all of theirs, and one that is far
    behind what they leave.
    """
    gaps = sorted(
        (head - read.get(tenant, 0), tenant)
        for tenant, head in heads.items()
        if head > read.get(tenant, 0)
    )[:most]
    left = most
    slices = []
    for i, (gap, tenant) in enumerate(gaps):
        taken = min(gap, left // (len(gaps) - i))
        after = read.get(tenant, 0)
        slices.append(Slice(tenant, after, after + taken))
        read[tenant] = after + taken
        left -= taken
    return slices


async def read_ahead(
    reader: Connection, model: ReadModel, heads: Mapping[str, int], read: Mapping[str, int]
) -> AsyncGenerator[list[Slice], None]:
    """Yield what is between ``read`` and ``heads``; reads one batch ahead."""
    read = dict(read)
    others = unwanted(model)

    async def fetch() -> list[Slice]:
        return await read_slices(reader, divide(heads, read), others)

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


async def read_slices(
    reader: Connection, slices: Sequence[Slice], others: Iterable[str]
) -> list[Slice]:
    """Return the slices with their events, but for those of the topics ``others``."""
    others = list(others)
    return [await _read(reader, part, others) for part in slices]


async def _read(reader: Connection, part: Slice, others: list[str]) -> Slice:
    where = (part.tenant, part.after, part.until)
    cursor = await reader.execute(_EVENTS, (*where, others), binary=True)
    events = [RecordedEvent(*row) for row in await cursor.fetchall()]
    if len(events) != part.until - part.after:
        # positions are dense: a read model that skipped a hole would be wrong without saying so
        cursor = await reader.execute(_COUNT, where)
        if await cursor.fetchone() != (part.until - part.after,):
            raise LogGapError
    return part._replace(events=events)


async def apply_batch(
    connection: Connection, model: ReadModel, batch: Sequence[Slice], parked: set[Stream]
) -> None:
    for part in batch:
        events = part.events
        if parked:
            events = [e for e in events if not _is_set_aside(e, parked)]
        if events:
            await model.apply(connection, events)


def _is_set_aside(event: RecordedEvent, parked: Container[Stream]) -> bool:
    """Whether an event is of a parked stream, and does not end it.

    What a read model had taken in of somebody before it failed goes when they are erased.
    """
    return (event.tenant, event.stream_id) in parked and event.topic != PatientErased.TOPIC


async def apply_singly(
    connection: Connection,
    model: ReadModel,
    batch: Sequence[Slice],
    parked: set[Stream],
    failed: Callable[[DeadLetter], None],
) -> None:
    """Apply event by event; tell ``failed`` of the first one of each stream that cannot be."""
    # what a read model checks at commit shall fail with the event that is to blame
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    parked = set(parked)
    for event in (event for part in batch for event in part.events):
        stream = (event.tenant, event.stream_id)
        if _is_set_aside(event, parked):
            continue
        try:
            async with connection.transaction():
                await model.apply(connection, [event])
        except Exception as error:
            if not_of_an_event(error):
                raise
            if stream not in parked:
                parked.add(stream)
                failed(DeadLetter(event, type(error).__name__))


def not_of_an_event(error: Exception) -> bool:
    """Whether an error says that the database or the read model as a whole is in trouble.

    ``OperationalError`` covers lost connections, timeouts, locks, serialisation, a full disk.
    """
    return isinstance(
        error,
        psycopg.OperationalError
        | psycopg.InterfaceError
        | UndefinedTable
        | InvalidSchemaName
        | SupersededError,
    )


async def advance(connection: Connection, names: Sequence[str], batch: Sequence[Slice]) -> None:
    """Record that the read models have the batch; all of them must stand where it begins."""
    if not (names and batch):
        return
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _ADVANCE, [(names, part.tenant, part.until, part.after) for part in batch]
        )
        if cursor.rowcount != len(batch) * len(names):
            raise SupersededError


async def park(connection: Connection, name: str, failures: Sequence[DeadLetter]) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _PARK,
            [
                (name, e.tenant, e.stream_id, e.position, e.version, e.topic, error)
                for e, error in failures
            ],
        )


async def try_lock(connection: Connection, kind: int, name: str) -> bool:
    cursor = await connection.execute(
        "SELECT pg_try_advisory_lock(%s::int, %s::int)", (kind, lock_key(name))
    )
    return await cursor.fetchone() == (True,)


async def unlock(connection: Connection, kind: int, name: str) -> None:
    await connection.execute("SELECT pg_advisory_unlock(%s::int, %s::int)", (kind, lock_key(name)))


def lock_key(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def statement(query: LiteralString, *names: str) -> sql.Composed:
    return sql.SQL(query).format(*map(sql.Identifier, names))
