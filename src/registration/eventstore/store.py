"""The async store: one round trip an append, one a load, both shared by whatever is waiting.

Natural batching: what queued while the last call was in flight goes into the next one. No timers,
so an idle store adds no delay. See ``docs/decisions/0001`` for what the single lock row buys.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from registration.eventstore import database
from registration.eventstore.records import (
    AppendRequest,
    IdentifierConflict,
    KeyReused,
    Loaded,
    Outcome,
    RecordedEvent,
    Stored,
    Verdict,
    VersionConflict,
)

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

MAX_BATCH = 256
"""Requests in one call; past some hundreds a call gains nothing and only delays its first."""

FORGOTTEN_IN_TIME = 0
"""The status of a stored refusal that goes with its time to live; others are kept for good."""

LATEST = 2**31 - 1
"""Stands for the newest version, whichever it is."""

APPEND = """
SELECT * FROM append(%b::text, %b::timestamptz, %b::interval,
  %b::uuid[], %b::uuid[], %b::int4[], %b::uuid[], %b::int4[], %b::bytea[], %b::int4[], %b::int4[],
  %b::uuid[], %b::int4[], %b::text[], %b::bytea[], %b::bytea[], %b::bytea[],
  %b::text[], %b::text[], %b::uuid[], %b::bool[],
  g_stream => %b::uuid[], g_version => %b::int4[], n_key => %b::bytea[])
"""
_LOAD = """
SELECT * FROM load(%b::text[], %b::uuid[], %b::int4[], %b::int4[], %b::uuid[])
"""
_READ_LOG = """
SELECT * FROM readable_event WHERE tenant = %s AND position > %s ORDER BY position LIMIT %s
"""
_KEYS = "SELECT id, wrapped FROM personal_key WHERE tenant = %s AND id = ANY(%s)"
_HEAD = "SELECT position FROM log_head WHERE tenant = %s"


class StoreUnavailableError(Exception):
    """The database did not answer in time, or not at all; whether the request is in is unknown."""


class StoreOverloadedError(Exception):
    """More is waiting than the store will take; nothing was done."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A stream to read (versions ``after`` < v <= ``until``), and a key to look up."""

    tenant: str
    stream_id: UUID | None
    key: UUID | None = None
    after: int = 0
    until: int = LATEST


class Lane(Generic[Request, Answer]):
    """One queue with at most one call in flight; each call takes all that waits, within reason.

    ``exclusive`` names what two requests of one call must not share.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Request]], Awaitable[Sequence[Answer]]],
        exclusive: Callable[[Request], Iterable[Hashable]] | None = None,
    ) -> None:
        self._call = call
        self._exclusive = exclusive
        self._waiting: deque[tuple[Request, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many requests wait for the next call."""
        return len(self._waiting)

    def submit(self, request: Request) -> asyncio.Future[Answer]:
        """Queue a request; the future has its answer, or the error of the call it was in."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._running is None:
            self._running = asyncio.create_task(self._drain())
        return future

    async def idle(self) -> None:
        """Return when nothing is queued or in flight."""
        while self._running is not None:
            await asyncio.wait({self._running})

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                if not await self._send(batch, alone=len(batch) == 1):
                    # one of them is what the database cannot take: the others shall not pay
                    for entry in batch:
                        await self._send([entry], alone=True)
        finally:
            self._running = None

    async def _send(self, batch: list[tuple[Request, asyncio.Future[Answer]]], alone: bool) -> bool:
        try:
            answers = await self._call([request for request, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError("a call answered more or fewer requests than it was given")
        except Exception as error:  # noqa: BLE001  (each waiter of the call gets it)
            if not alone and not isinstance(error, StoreUnavailableError):
                return False
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return True
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
        return True

    def _next_batch(self) -> list[tuple[Request, asyncio.Future[Answer]]]:
        batch: list[tuple[Request, asyncio.Future[Answer]]] = []
        if self._exclusive is None and len(self._waiting) <= MAX_BATCH:
            batch.extend(self._waiting)
            self._waiting.clear()
            return batch
        held: deque[tuple[Request, asyncio.Future[Answer]]] = deque()
        seen: set[Hashable] = set()
        while self._waiting and len(batch) < MAX_BATCH:
            entry = self._waiting.popleft()
            if entry[1].done():  # its caller gave up before it was sent
                continue
            keys = set(self._exclusive(entry[0])) if self._exclusive else set()
            # what was held back keeps its turn: later requests on the same keys wait behind it
            if keys.isdisjoint(seen):
                batch.append(entry)
            else:
                held.append(entry)
            seen |= keys
        self._waiting.extendleft(reversed(held))
        return batch


class EventStore:
    """Append to and read the log of every tenant.

    Raises :class:`StoreUnavailableError` when the database does not answer within ``deadline``
    seconds, and :class:`StoreOverloadedError` when ``queue_limit`` requests of the tenant wait.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl: timedelta,
        deadline: float = 4.0,
        queue_limit: int = 2000,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.ttl = ttl
        self._deadline = deadline
        self._queue_limit = queue_limit
        self._clock = clock
        self._pool = database.pool(url, name="store", size=6)
        self._appends: dict[str, Lane[AppendRequest, Verdict]] = {}
        self._loads = Lane(self._load)
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._reached: dict[str, int] = {}

    async def open(self) -> None:
        """Connect; raises ``PoolTimeout`` when the database is not there."""
        await self._pool.open(wait=True, timeout=10.0)

    async def close(self) -> None:
        """Let what is queued finish, then disconnect."""
        for lane in list(self._appends.values()):
            await lane.idle()
        await self._loads.idle()
        await self._pool.close()

    @property
    def queued(self) -> int:
        """How many appends wait for their call."""
        return sum(len(lane) for lane in self._appends.values())

    def reached(self, tenant: str) -> int | None:
        """Return the last position of the tenant's log that this process has seen, if any."""
        return self._reached.get(tenant)

    async def append(self, tenant: str, request: AppendRequest) -> Verdict:
        """Append one request; returns after its commit is durable."""
        lane = self._appends.get(tenant)
        if lane is None:
            lane = self._appends[tenant] = Lane(
                lambda requests: self._append(tenant, requests), _exclusive
            )
        if len(lane) >= self._queue_limit:
            raise StoreOverloadedError
        return await lane.submit(request)

    async def load(self, request: LoadRequest) -> Loaded:
        """Read a stream and the outcome of a key, as of one snapshot."""
        if len(self._loads) >= self._queue_limit:
            raise StoreOverloadedError
        return await self._loads.submit(request)

    async def read_log(self, tenant: str, after: int, limit: int) -> list[RecordedEvent]:
        """Return up to ``limit`` events with a position greater than ``after``, in order."""

        async def query(connection: AsyncConnection[TupleRow]) -> list[RecordedEvent]:
            cursor = await connection.execute(_READ_LOG, (tenant, after, limit), binary=True)
            return [RecordedEvent(*row) for row in await cursor.fetchall()]

        return await self._with_connection(query)

    async def keys(self, tenant: str, subjects: Collection[UUID]) -> dict[UUID, bytes]:
        """Return the wrapped keys of people, of those who have one."""

        async def query(connection: AsyncConnection[TupleRow]) -> dict[UUID, bytes]:
            cursor = await connection.execute(_KEYS, (tenant, list(subjects)), binary=True)
            return dict(await cursor.fetchall())

        return await self._with_connection(query)

    async def head(self, tenant: str) -> int:
        """Return the last position of the tenant's log; 0 for none."""

        async def query(connection: AsyncConnection[TupleRow]) -> int:
            row = await (await connection.execute(_HEAD, (tenant,))).fetchone()
            return row[0] if row else 0

        return await self._with_connection(query)

    async def forget_refusals(self) -> int:
        """Delete stored refusals whose time to live has passed; returns how many.

        Of those of queued writes, what they hold beyond their code: see ``0003_queued_writes``.
        """

        async def query(connection: AsyncConnection[TupleRow]) -> int:
            cursor = await connection.execute(
                "SELECT forget_refusals(coalesce(%s, clock_timestamp()) - %s)",
                (self._now(), self.ttl),
            )
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

        return await self._with_connection(query)

    def _now(self) -> datetime | None:
        return self._clock() if self._clock else None

    async def _append(self, tenant: str, requests: Sequence[AppendRequest]) -> Sequence[Verdict]:
        arguments = append_arguments(tenant, self._now(), self.ttl, requests)

        async def query(connection: AsyncConnection[TupleRow]) -> list[TupleRow]:
            cursor = await connection.execute(APPEND, arguments, prepare=True, binary=True)
            return await cursor.fetchall()

        rows = await self._with_connection(query)
        for _, position, *_ in rows:
            self._see(tenant, position)
        return [_verdict(row) for row in rows]

    async def _load(self, requests: Sequence[LoadRequest]) -> Sequence[Loaded]:
        arguments = (
            [r.tenant for r in requests],
            [r.stream_id for r in requests],
            [r.after for r in requests],
            [r.until for r in requests],
            [r.key for r in requests],
        )

        async def query(connection: AsyncConnection[TupleRow]) -> list[TupleRow]:
            cursor = await connection.execute(_LOAD, arguments, prepare=True, binary=True)
            return await cursor.fetchall()

        rows = await self._with_connection(query)
        events: list[list[RecordedEvent]] = [[] for _ in requests]
        outcomes: list[Outcome | None] = [None] * len(requests)
        for row in rows:
            i, position, version, topic, data, metadata, at, digest, key, *outcome = row
            request = requests[i - 1]
            if topic is None:
                late = at <= (self._now() or datetime.now(at.tzinfo)) - self.ttl
                fingerprint, status, stream = outcome
                if data is None or not late or status != FORGOTTEN_IN_TIME:
                    outcomes[i - 1] = Outcome(
                        fingerprint, status, stream, version, position, data, at, late, key
                    )
            elif request.stream_id is not None:
                self._see(request.tenant, position)
                events[i - 1].append(
                    RecordedEvent(
                        request.tenant,
                        position,
                        request.stream_id,
                        version,
                        topic,
                        data,
                        metadata,
                        at,
                        digest,
                        key,
                    )
                )
        return [Loaded(e, o) for e, o in zip(events, outcomes, strict=True)]

    def _see(self, tenant: str, position: int) -> None:
        self._reached[tenant] = max(position, self._reached.get(tenant, 0))

    async def _with_connection(
        self, query: Callable[[AsyncConnection[TupleRow]], Awaitable[Result]]
    ) -> Result:
        """Run a query with a deadline that a frozen database cannot stretch.

        Cancelling a psycopg query talks to the server, which may be what hangs: so the call runs
        in a task of its own, and past the deadline it is left to end by itself.
        """

        async def run() -> Result:
            async with self._pool.connection() as connection:
                return await query(connection)

        task = asyncio.ensure_future(run())
        try:
            done, _ = await asyncio.wait({task}, timeout=self._deadline)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not done:
            self._abandon(task)
            raise StoreUnavailableError("deadline")
        try:
            return task.result()
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise StoreUnavailableError(type(error).__name__) from error

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as never retrieved


def append_arguments(
    tenant: str, now: datetime | None, ttl: timedelta, requests: Sequence[AppendRequest]
) -> tuple[object, ...]:
    """Return what ``APPEND`` takes for these requests."""
    events = [event for request in requests for event in request.events]
    claims = [claim for request in requests for claim in request.claims]
    return (
        tenant,
        now,
        ttl,
        [r.key for r in requests],
        [r.fingerprint for r in requests],
        [r.status for r in requests],
        [r.stream_id for r in requests],
        [r.version for r in requests],
        [r.body for r in requests],
        [len(r.events) for r in requests],
        [len(r.claims) for r in requests],
        *_columns(events, 6),
        *_columns(claims, 4),
        [r.guard[0] if r.guard else None for r in requests],
        [r.guard[1] if r.guard else None for r in requests],
        [r.new_key for r in requests],
    )


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> Iterable[list[object]]:
    return map(list, zip(*rows, strict=True)) if rows else ([] for _ in range(width))


def _exclusive(request: AppendRequest) -> Iterable[Hashable]:
    """Name the key, streams and identifiers that no other request of the same call may share."""
    yield request.stream_id
    if request.key is not None:
        yield ("key", request.key)
    for event in request.events:
        yield event.stream_id
    for claim in request.claims:
        yield (claim.system, claim.value)
    if request.guard is not None:
        yield request.guard[0]


def _verdict(row: TupleRow) -> Verdict:
    verdict, position, recorded_at, status, stream_id, version, body, late, holder, key = row
    match verdict:
        case "stored":
            return Stored(position, recorded_at)
        case "replayed":
            return Outcome(None, status, stream_id, version, position, body, recorded_at, late, key)
        case "key_reused":
            return KeyReused()
        case "version_conflict":
            return VersionConflict()
        case _:
            return IdentifierConflict(holder)
