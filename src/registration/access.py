"""The access log: who read what of which patient, recorded beside the requests and not in them.

A request only puts its read into a queue in memory. A task writes the queue every 100 ms, with the
commit on disk before the reads leave the queue.

- A normal stop writes what is queued: nothing is lost.
- A process that is killed loses what it had not written: reads of the last 100 ms, or since the
  database went away, and at most ``most`` of them. Whoever writes next notes the gap.
- Past ``most`` reads (the database is away, or too slow for long) further ones are not recorded.
  They are counted, and the next write says how many of which tenant are missing since when.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import psycopg
import uuid_utils.compat as uuids
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow

from registration.eventstore import database
from registration.projections.search import copy_rows

log = logging.getLogger(__name__)

INTERVAL = 0.1
"""Seconds for which a read waits for others before it is written."""
HEARTBEAT = 5.0
"""Seconds between two signs of life of a process that has nothing to write."""
STOP_SECONDS = 5.0
"""Seconds that a stopping process tries to write what is queued."""
_BATCH = 500
"""Rows in one COPY: making one of this size holds up other requests for about 2 ms."""
_PATIENCE = 0.5
_LOCKS = 0x61636365

Connection = AsyncConnection[TupleRow]


class Read(NamedTuple):
    """One answer that showed data of patients; ``break_glass`` is the reason given, if any."""

    tenant: str
    at: datetime
    actor: str
    client: str | None
    facility: str | None
    operation: str
    patient_ids: Sequence[str | None]
    purpose: str | None
    break_glass: str | None
    request_id: str
    status: int


@dataclass
class _Lost:
    """Reads of a tenant that there was no room for, not yet told."""

    since: datetime
    until: datetime
    count: int = 0


class _Batch(NamedTuple):
    """What is written at once; it stays the same however often it is sent."""

    rows: list[tuple[object, ...]]
    lost: dict[str, _Lost]


class AccessLog:
    """Takes reads in at once and writes them a moment later; ``lost`` is told how many were not."""

    def __init__(
        self,
        url: str,
        *,
        most: int,
        lost: Callable[[int], None],
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._url = url
        self._most = most
        self._count_lost = lost
        self._heartbeat = heartbeat
        self._queue: deque[Read] = deque()
        self._lost: dict[str, _Lost] = {}
        self._batch: _Batch | None = None
        self._noted = 0
        self._written = 0
        self._moved_on = asyncio.Condition()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._connection: Connection | None = None
        self._writer: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._stuck = False

    def __len__(self) -> int:
        """How many rows wait to be written."""
        return self._noted - self._written

    @property
    def is_stuck(self) -> bool:
        """Whether the last attempt to write failed; reads wait in memory until one does not."""
        return self._stuck

    def note(self, read: Read) -> None:
        """Take in a read; never waits and never fails."""
        count = len(read.patient_ids)
        if len(self) + count > self._most:
            missing = self._lost.setdefault(read.tenant, _Lost(read.at, read.at))
            missing.until = read.at
            missing.count += count
            self._count_lost(count)
        else:
            self._queue.append(read)
            self._noted += count
        self._wake.set()

    async def open(self) -> None:
        """Connect, note what a process before left unwritten, and begin to write."""
        await self._note_gaps(await self._connected(), older_than=0.0)
        self._task = asyncio.create_task(self._run())

    async def flush(self, seconds: float) -> bool:
        """Return whether everything noted so far was written within ``seconds``."""
        wanted = self._noted
        self._hurry.set()
        self._wake.set()
        try:
            async with asyncio.timeout(seconds), self._moved_on:
                await self._moved_on.wait_for(lambda: self._written >= wanted)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Write what is queued, for up to ``STOP_SECONDS``; what is left then is counted lost."""
        self._closing = True
        self._hurry.set()
        self._wake.set()
        if self._task is not None:
            # a frozen database may hold even the cancelling up: the task is left to end by itself
            done, _ = await asyncio.wait({self._task}, timeout=STOP_SECONDS)
            if not done:
                self._task.cancel()
        if len(self):
            # this process' entry among the writers stays: the next one notes the gap
            self._count_lost(len(self))
            log.error("access log: %d reads could not be written before the stop", len(self))
        elif self._connection is not None:
            with suppress(psycopg.Error):
                await self._connection.execute(_LEAVE, (self._writer,))
            await self._connection.close()

    async def _run(self) -> None:
        while not self._closing or self._pending:
            try:
                await self._rest()
                await self._write(await self._connected())
                self._stuck = False
            except psycopg.Error as error:
                self._stuck = True
                # the type only: messages of the database can hold rows
                log.warning("access log: %s; trying again", type(error).__name__)
                if self._connection is not None:
                    await self._connection.close()
                await asyncio.sleep(_PATIENCE)

    @property
    def _pending(self) -> bool:
        return bool(self._batch or self._queue or self._lost)

    async def _rest(self) -> None:
        """Wait for something to write, and a moment longer for more of it."""
        if not self._pending:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._heartbeat)
        if len(self) < _BATCH:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), INTERVAL)
        if not self._closing:
            self._hurry.clear()

    async def _write(self, connection: Connection) -> None:
        """Write the next batch, or the last one again; with nothing to write, show that we live."""
        batch = self._batch = self._batch or self._next_batch()
        # it is in where the connection broke between the commit and its acknowledgement
        with suppress(UniqueViolation):
            async with connection.transaction():
                await copy_rows(connection, "access_log", batch.rows)
                for tenant, lost in batch.lost.items():
                    told = (tenant, lost.since, lost.until, lost.count)
                    await connection.execute(_OVERFLOW, told)
                await self._enter(connection)
        self._batch = None
        self._written += len(batch.rows)
        async with self._moved_on:
            self._moved_on.notify_all()
        if not batch.rows:
            await self._note_gaps(connection, older_than=3 * self._heartbeat)

    def _next_batch(self) -> _Batch:
        batch = _Batch([], self._lost)
        self._lost = {}
        while self._queue and len(batch.rows) < _BATCH:
            read = self._queue.popleft()
            head = (read.tenant, read.at)
            who = (read.actor, read.client, read.facility, read.operation)
            why = (read.purpose, read.break_glass, read.request_id, read.status)
            for patient_id in read.patient_ids:
                batch.rows.append((*head, uuids.uuid7(), *who, patient_id, *why))
        return batch

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await database.connect(self._url, name="access log")
            await self._enter(self._connection)
            await self._connection.execute(_LOCK, (_LOCKS, self._writer))
        return self._connection

    async def _enter(self, connection: Connection) -> None:
        """Say that this process lives; enter it among the writers where it is not there."""
        cursor = await connection.execute(_SEEN, (self._writer,))
        if cursor.rowcount == 0:
            row = await (await connection.execute(_ENTER, (self._most,))).fetchone()
            self._writer = row[0] if row else None
            await connection.execute(_LOCK, (_LOCKS, self._writer))

    async def _note_gaps(self, connection: Connection, *, older_than: float) -> None:
        """Note what processes left unwritten that ended without a word."""
        cursor = await connection.execute(_GONE, (self._writer, older_than, _LOCKS))
        for (most,) in await cursor.fetchall():
            log.warning("access log: a process ended at once; up to %d reads are missing", most)


_ENTER = "INSERT INTO access_log_writer (most) VALUES (%s) RETURNING id"
_SEEN = "UPDATE access_log_writer SET seen_at = clock_timestamp() WHERE id = %s"
_LEAVE = "DELETE FROM access_log_writer WHERE id = %s"
_LOCK = "SELECT pg_advisory_lock(%s, %s)"
_OVERFLOW = """
INSERT INTO access_log_gap (tenant, since, until, reason, lost) VALUES (%s, %s, %s, 'overflow', %s)
"""
# the lock is looked at last, and given back with the transaction
_GONE = """
WITH found AS MATERIALIZED (
    SELECT id FROM access_log_writer
     WHERE id <> %s AND seen_at <= clock_timestamp() - make_interval(secs => %s)
), gone AS (
    DELETE FROM access_log_writer USING found
     WHERE access_log_writer.id = found.id AND pg_try_advisory_xact_lock(%s, found.id)
    RETURNING seen_at, most
)
INSERT INTO access_log_gap (since, until, reason, lost)
SELECT seen_at, clock_timestamp(), 'crash', most FROM gone RETURNING lost
"""
