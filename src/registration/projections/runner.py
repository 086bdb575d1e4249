"""Feeds the read models from the log.

**Exactly once.** A batch and the positions it reaches commit in one transaction, so a read model
is never ahead of or behind what it says of itself, whatever dies when.

**One leader.** Whoever holds the session advisory lock of a read model feeds it. The lock belongs
to the very connection that writes: a leader whose connection is gone cannot commit any more, and
the lock is free the moment it is gone. Should two ever believe that they lead (a connection pooler
that shares sessions), the second one's positions do not match and its batch rolls back.

**Together, but alone in trouble.** A process looks at the log once for all the read models that it
leads, and those that stand at the same positions get a batch in one transaction: read, decoded and
committed once. Where that fails, each of them gets the batch in a transaction of its own. Then an
event that cannot be applied parks its stream in that read model, and a read model that is broken
as a whole is left out and tried again; the others notice neither. Of a parked stream a read model
is still told that the patient was erased: what it had taken in before goes then.

**At their own pace.** A read model that takes long over an event (``registry.OWN_PACE``) is fed on
a connection of its own, in smaller batches, so that the others are never behind because of it.

**Rebuild without a gap.** A rebuild reads the log from position 1 into the schema
``<name>_rebuild`` while the live runner goes on with the live schema. When it is nearly level, one
transaction locks the ``read_model`` row, reads the rest, exchanges the schemas by renaming them,
writes the positions that the new tables stand at, and gives the row a new ``rebuilt_at``. The live
runner takes the same row in share mode at the start of each batch and compares ``rebuilt_at``:

- a batch that has the row first commits into the old tables before the exchange; the new tables
  got (or get, under the lock) the same events from the log by themselves;
- a batch that finds the row locked leaves this read model where it is;
- a batch that comes after the exchange finds another ``rebuilt_at``, drops what it had in hand, and
  reads positions and dead letters anew. The events it dropped are either in the new tables or
  after their positions.

So no event is lost and none is applied twice. Readers notice nothing: a query that runs during
the exchange ends on the old tables, which are dropped afterwards.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg

from registration.eventstore import database
from registration.projections.feed import (
    BATCH,
    LEADER,
    WRITER,
    Connection,
    DeadLetter,
    LogGapError,
    Slice,
    Stream,
    SupersededError,
    advance,
    apply_batch,
    apply_singly,
    create_if_missing,
    divide,
    log_heads,
    not_of_an_event,
    park,
    read_slices,
    set_search_path,
    try_lock,
    unwanted,
)
from registration.projections.rebuild import RebuildError, rebuild
from registration.projections.registry import OWN_PACE, READ_MODELS, ReadModel

log = logging.getLogger(__name__)

_STANDBY = 0.5
_QUIET = 5.0
_SELDOM = 2.5
"""After so many quiet seconds the next look comes so many times later."""


async def run_forever(
    url: str,
    *,
    poll: float = 0.02,
    stop: asyncio.Event | None = None,
    models: Sequence[ReadModel] = READ_MODELS,
) -> None:
    """Feed every read model, as leader or in waiting, until ``stop`` is set.

    Creates what is missing, rebuilds what another version of the program made, and gets over a
    database that goes away. An idle leader looks at the log's heads every ``poll`` seconds, and
    after some quiet seconds every 2.5 ``poll``.
    """
    stop = stop or asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for batch, fed in _paces(models):
            tasks.create_task(_Runner(url, fed, poll, stop, tasks, batch).run())


def _paces(models: Sequence[ReadModel]) -> Iterator[tuple[int, list[ReadModel]]]:
    """Yield which read models are fed together, with the most events in a batch of theirs."""
    if together := [model for model in models if model.NAME not in OWN_PACE]:
        yield BATCH, together
    for model in models:
        if model.NAME in OWN_PACE:
            yield OWN_PACE[model.NAME], [model]


@dataclass
class _Led:
    """A read model that this process feeds, and where it stands."""

    model: ReadModel
    unwanted: frozenset[str]
    rebuilt_at: datetime
    positions: dict[str, int]
    parked: set[Stream]

    def told(self, batch: Sequence[Slice]) -> list[Slice]:
        """Return what is for this read model, without slices that hold nothing for it."""
        mine = (
            part._replace(events=[e for e in part.events if e.topic not in self.unwanted])
            for part in batch
        )
        return [part for part in mine if part.events]


class _Runner:
    """Feeds whatever read models it is this process' turn to feed, on one connection."""

    _connection: Connection

    def __init__(
        self,
        url: str,
        models: Sequence[ReadModel],
        poll: float,
        stop: asyncio.Event,
        rebuilds: asyncio.TaskGroup,
        batch: int,
    ) -> None:
        self._url = url
        self._models = models
        self._poll = poll
        self._stop = stop
        self._rebuilds = rebuilds
        self._batch = batch
        self._rebuilding: dict[str, asyncio.Task[None]] = {}
        self._locked: set[str] = set()
        self._led: dict[str, _Led] = {}
        self._next_try = 0.0
        self._fed_at = 0.0
        self._patience = 0.0

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._session()
            except (psycopg.Error, LogGapError) as error:
                # the type only: messages of the database can hold rows
                log.warning("read models: %s; trying again", type(error).__name__)
                self._patience = min(2.0, self._patience * 2 or 0.05)
                await self._pause(self._patience)
        for task in self._rebuilding.values():
            task.cancel()

    async def _session(self) -> None:
        self._locked.clear()
        self._led.clear()
        self._next_try = 0.0
        async with await database.connect(
            self._url, name="read models", options=WRITER
        ) as self._connection:
            while not self._stop.is_set():
                await self._lead_what_is_free()
                more = await self._feed()
                self._patience = 0.0
                if not more:
                    # also after a batch: many small ones cost several times one of their size
                    await self._pause(self._until_next_look())

    def _until_next_look(self) -> float:
        if not self._led:
            return _STANDBY
        is_quiet = asyncio.get_running_loop().time() > self._fed_at + _QUIET
        return self._poll * _SELDOM if is_quiet else self._poll

    async def _lead_what_is_free(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_try:
            return
        self._next_try = now + _STANDBY
        for model in self._models:
            if model.NAME not in self._led and model.NAME not in self._rebuilding:
                with self._trouble_of(model):
                    await self._lead(model)

    async def _lead(self, model: ReadModel) -> None:
        name = model.NAME
        if name not in self._locked and not await try_lock(self._connection, LEADER, name):
            return
        self._locked.add(name)
        if await create_if_missing(self._connection, model) == model.VERSION:
            self._led[name] = await _look(self._connection, model)
        else:
            log.warning("read model %s: made by another version, rebuilding", name)
            self._rebuilding[name] = self._rebuilds.create_task(self._rebuild(model))

    async def _rebuild(self, model: ReadModel) -> None:
        """Make a read model anew while the others are fed."""
        try:
            await rebuild(self._url, models=[model], strict=False)
        except (psycopg.Error, LogGapError, SupersededError, RebuildError) as error:
            _warn(model, error)
        finally:
            del self._rebuilding[model.NAME]

    async def _feed(self) -> bool:
        """Give each read model its next batch; returns whether there is more to come."""
        heads = await log_heads(self._connection)
        more = False
        for group in self._groups():
            read = dict(group[0].positions)
            if slices := divide(heads, read, self._batch):
                others = frozenset.intersection(*(led.unwanted for led in group))
                self._fed_at = asyncio.get_running_loop().time()
                await self._take(group, await read_slices(self._connection, slices, others))
                more = more or any(read.get(tenant, 0) < head for tenant, head in heads.items())
        return more

    def _groups(self) -> list[list[_Led]]:
        """Return the read models by where they stand: nearly always all of them together."""
        groups: list[list[_Led]] = []
        for led in self._led.values():
            for group in groups:
                if group[0].positions == led.positions:
                    group.append(led)
                    break
            else:
                groups.append([led])
        return groups

    async def _take(self, group: Sequence[_Led], batch: Sequence[Slice]) -> None:
        try:
            await self._apply(group, batch)
        except Exception as error:
            if self._connection.closed:
                raise psycopg.OperationalError from error
            for led in group:
                with self._trouble_of(led.model):
                    await self._take_alone(led, batch)

    async def _take_alone(self, led: _Led, batch: Sequence[Slice]) -> None:
        try:
            await self._apply([led], batch)
        except Exception as error:
            if not_of_an_event(error):
                raise
            await self._apply_singly(led, batch)

    async def _apply(self, group: Sequence[_Led], batch: Sequence[Slice]) -> None:
        """Apply a batch and record where that leads to, in one transaction."""
        async with self._connection.transaction():
            group = await self._unlocked(group)
            for led in group:
                if told := led.told(batch):
                    await set_search_path(self._connection, led.model.NAME)
                    await apply_batch(self._connection, led.model, told, led.parked)
            await advance(self._connection, [led.model.NAME for led in group], batch)
        _moved(group, batch)

    async def _apply_singly(self, led: _Led, batch: Sequence[Slice]) -> None:
        """Do the same event by event, and set aside the streams of those that fail."""
        failures: list[DeadLetter] = []
        name = led.model.NAME
        async with self._connection.transaction():
            if not await self._unlocked([led]):
                return
            await set_search_path(self._connection, name)
            await apply_singly(
                self._connection, led.model, led.told(batch), led.parked, failures.append
            )
            await park(self._connection, name, failures)
            await advance(self._connection, [name], batch)
        _moved([led], batch)
        led.parked.update(failure.stream for failure in failures)
        for failure in failures:
            log.error(
                "read model %s: %s at position %d of tenant %s; its stream is parked",
                name,
                failure.error,
                failure.event.position,
                failure.event.tenant,
            )

    async def _unlocked(self, group: Sequence[_Led]) -> list[_Led]:
        """Keep the rows of the read models from being exchanged; leave out those that just are."""
        cursor = await self._connection.execute(
            "SELECT name, rebuilt_at FROM registration.read_model"
            " WHERE name = ANY(%s) FOR SHARE SKIP LOCKED",
            ([led.model.NAME for led in group],),
        )
        found: dict[str, datetime] = dict(await cursor.fetchall())
        ready = [led for led in group if led.model.NAME in found]
        if any(found[led.model.NAME] != led.rebuilt_at for led in ready):
            raise SupersededError
        return ready

    @contextmanager
    def _trouble_of(self, model: ReadModel) -> Iterator[None]:
        """Let go of a read model that fails, for a while, unless the connection itself is gone."""
        try:
            yield
        except SupersededError:
            self._led.pop(model.NAME, None)
            self._next_try = 0.0
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self._led.pop(model.NAME, None)
            _warn(model, error)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


async def _look(connection: Connection, model: ReadModel) -> _Led:
    name = model.NAME
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT version, rebuilt_at FROM registration.read_model WHERE name = %s FOR SHARE",
            (name,),
        )
        row = await cursor.fetchone()
        if row is None or row[0] != model.VERSION:
            raise SupersededError
        cursor = await connection.execute(
            "SELECT tenant, position FROM registration.read_model_position WHERE name = %s",
            (name,),
        )
        positions: dict[str, int] = dict(await cursor.fetchall())
        cursor = await connection.execute(
            "SELECT tenant, stream_id FROM registration.dead_letter WHERE name = %s", (name,)
        )
        parked = {(tenant, stream) for tenant, stream in await cursor.fetchall()}
    return _Led(model, unwanted(model), row[1], positions, parked)


def _moved(group: Sequence[_Led], batch: Sequence[Slice]) -> None:
    for led in group:
        led.positions.update((part.tenant, part.until) for part in batch)


def _warn(model: ReadModel, error: Exception) -> None:
    log.warning("read model %s: %s; trying again", model.NAME, type(error).__name__)
