"""The access log: who read what of which patient, recorded beside the requests and not in them.

A request only puts its read into a queue in memory. A task writes the queue every 100 ms, with the
commit on disk before the reads leave the queue.

- A normal stop writes what is queued: nothing is lost.
- A process that is killed loses what it had not written: reads of the last 100 ms, or since the
  database went away. Whoever writes next notes the gap, since the moment before which everything
  was written. How many they were nobody knows: the counts of the next point go with the process.
- Past ``most`` reads (the database is away, or too slow for long) further ones are not recorded.
  They are counted, and the next write says how many of which tenant are missing since when.

Whether a process lives is told by an advisory lock on its number among the writers. A lock counts
only with a holder who may write there: another login of the database can take any number, which
makes nobody alive, and whose number is taken takes the next.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
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
"""Seconds between two signs of life of an idle process, and two looks for others that died."""
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
    """What is written at once; it stays the same however often it is sent.

    With it, all reads before ``until`` are written, or told as lost.
    """

    rows: list[tuple[object, ...]]
    lost: dict[str, _Lost]
    until: datetime


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
        self._until = datetime.now(UTC)
        self._looked = 0.0
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
        if self._owes:
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

    @property
    def _owes(self) -> bool:
        """Whether reads, or how many were lost, would be forgotten with this process."""
        return bool(len(self) or self._lost or (self._batch and self._batch.lost))

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
                await self._show_life(connection, batch.until)
        self._batch = None
        self._until = batch.until
        self._written += len(batch.rows)
        async with self._moved_on:
            self._moved_on.notify_all()
        if time.monotonic() >= self._looked + self._heartbeat:
            await self._note_gaps(connection, older_than=3 * self._heartbeat)

    def _next_batch(self) -> _Batch:
        rows: list[tuple[object, ...]] = []
        lost, self._lost = self._lost, {}
        while self._queue and len(rows) < _BATCH:
            read = self._queue.popleft()
            head = (read.tenant, read.at)
            who = (read.actor, read.client, read.facility, read.operation)
            why = (read.purpose, read.break_glass, read.request_id, read.status)
            rows += [(*head, uuids.uuid7(), *who, its_id, *why) for its_id in read.patient_ids]
        # nothing is noted meanwhile; what comes while the batch is written is later than this
        now = datetime.now(UTC)
        return _Batch(rows, lost, min(now, self._queue[0].at) if self._queue else now)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            connection = self._connection = await database.connect(self._url, name="access log")
            async with connection.transaction():
                # the last connection may hold the lock of its number for some time yet
                entered = await self._enter(connection, self._until)
                await connection.execute(_LEAVE, (self._writer,))
            self._writer = entered
        return self._connection

    async def _show_life(self, connection: Connection, until: datetime) -> None:
        """Say that this process lives, and before when all its reads are written."""
        cursor = await connection.execute(_SEEN, (until, self._writer))
        if cursor.rowcount == 0:  # somebody took it for dead
            self._writer = await self._enter(connection, until)

    async def _enter(self, connection: Connection, until: datetime) -> int:
        """Enter this process among the writers, with the first number whose lock is free."""
        while True:
            cursor = await connection.execute(_ENTER, (until, _LOCKS))
            for number, is_ours in await cursor.fetchall():
                if is_ours:
                    return int(number)
                await connection.execute(_LEAVE, (number,))

    async def _note_gaps(self, connection: Connection, *, older_than: float) -> None:
        """Note what processes left unwritten that ended without a word."""
        self._looked = time.monotonic()
        cursor = await connection.execute(_GONE, (self._writer, older_than, _LOCKS))
        for (since,) in await cursor.fetchall():
            log.warning("access log: a process ended at once; reads since %s may be missing", since)


# Entered and locked in one statement: no other process sees the one without the other.
_ENTER = """
WITH entered AS (INSERT INTO access_log_writer (written_until) VALUES (%s) RETURNING id)
SELECT id, pg_try_advisory_lock(%s, id) FROM entered
"""
_SEEN = """
UPDATE access_log_writer SET seen_at = clock_timestamp(), written_until = %s WHERE id = %s
"""
_LEAVE = "DELETE FROM access_log_writer WHERE id = %s"
_OVERFLOW = """
INSERT INTO access_log_gap (tenant, since, until, reason, lost) VALUES (%s, %s, %s, 'overflow', %s)
"""
# Anybody may hold a lock: it is a sign of life only of a role that may write here, or be this one.
_GONE = """
WITH gone AS (
    DELETE FROM access_log_writer AS writer
     WHERE id <> %s AND seen_at <= clock_timestamp() - make_interval(secs => %s)
       AND NOT EXISTS (
        SELECT FROM pg_locks AS held JOIN pg_stat_activity AS holder USING (pid)
         WHERE held.locktype = 'advisory' AND held.objsubid = 2 AND held.granted
           AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND held.classid::bigint = %s AND held.objid::bigint = writer.id
           AND (has_table_privilege(holder.usesysid, 'access_log_writer', 'INSERT')
                OR pg_has_role(holder.usesysid, current_user, 'MEMBER'))
       )
    RETURNING written_until AS since
)
INSERT INTO access_log_gap (since, until, reason)
SELECT since, greatest(since, clock_timestamp()), 'crash' FROM gone RETURNING since
"""
