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
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime

import psycopg

from registration.eventstore import database
from registration.projections.feed import (
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
    heads_ahead,
    not_of_an_event,
    park,
    read_ahead,
    set_search_path,
    try_lock,
)
from registration.projections.rebuild import Rebuild, RebuildError
from registration.projections.registry import READ_MODELS, ReadModel

log = logging.getLogger(__name__)

_STANDBY = 0.5


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
            except SupersededError:
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
            self._url, name=f"read model {name}", options=WRITER
        ) as leader:
            while not await try_lock(leader, LEADER, name):
                await self._pause(_STANDBY)
                if self._stop.is_set():
                    return
            async with await database.connect(self._url, name=f"read model {name}") as reader:
                if await create_if_missing(leader, self._model) != self._model.VERSION:
                    log.warning("read model %s: made by another version, rebuilding", name)
                    await Rebuild(self._model, leader, reader, None, strict=False).run()
                await self._lead(leader, reader)

    async def _lead(self, leader: Connection, reader: Connection) -> None:
        await set_search_path(leader, self._model.NAME)
        await self._look(leader)
        while not self._stop.is_set():
            heads = await heads_ahead(leader, self._model.NAME)
            await self._catch_up(leader, reader, heads)
            self._patience = 0.0
            # also after a catch-up: many small batches cost several times one of their size
            await self._pause(self._poll)

    async def _catch_up(
        self, leader: Connection, reader: Connection, heads: Mapping[str, int]
    ) -> None:
        read = dict(self._positions)

        async def plan() -> list[Slice]:
            return divide(heads, read)

        async with aclosing(read_ahead(reader, self._model, plan)) as batches:
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
                raise SupersededError
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

    async def _take(self, leader: Connection, batch: Sequence[Slice]) -> None:
        """Apply a batch and record where that leads to, in one transaction."""
        try:
            async with leader.transaction():
                await self._fence(leader)
                await apply_batch(leader, self._model, batch, self._parked)
                await advance(leader, self._model.NAME, batch)
        except Exception as error:
            if not_of_an_event(error):
                raise
            await self._take_singly(leader, batch)
        self._positions.update((part.tenant, part.until) for part in batch)
        self._patience = 0.0

    async def _take_singly(self, leader: Connection, batch: Sequence[Slice]) -> None:
        """Do the same event by event, and set aside the streams of those that fail."""
        failures: list[DeadLetter] = []
        async with leader.transaction():
            await self._fence(leader)
            await apply_singly(leader, self._model, batch, self._parked, failures.append)
            await park(leader, self._model.NAME, failures)
            await advance(leader, self._model.NAME, batch)
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
            raise SupersededError

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
