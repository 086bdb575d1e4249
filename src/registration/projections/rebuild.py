"""Builds a read model beside the one in use, and exchanges the two; see the runner for why."""

import logging
from collections.abc import Sequence
from contextlib import aclosing

from psycopg.errors import LockNotAvailable

from registration.eventstore import database
from registration.projections.feed import (
    BATCH,
    REBUILDER,
    WRITER,
    Connection,
    DeadLetter,
    Progress,
    Slice,
    advance,
    apply_batch,
    apply_singly,
    create_if_missing,
    create_schema,
    forget,
    log_heads,
    not_of_an_event,
    park,
    read_ahead,
    set_search_path,
    statement,
    try_lock,
    unlock,
)
from registration.projections.registry import READ_MODELS, ReadModel

log = logging.getLogger(__name__)

_MOST_PASSES = 10


class RebuildError(Exception):
    """The rebuild was given up; the read model is as it was."""


async def rebuild(
    url: str,
    name: str | None = None,
    progress: Progress | None = None,
    *,
    models: Sequence[ReadModel] = READ_MODELS,
    strict: bool = True,
) -> None:
    """Build one read model (or all) anew from the log, and exchange it for the one in use.

    Raises :class:`RebuildError` when a read model has no such name, when an event cannot be
    applied, or when somebody else rebuilds the same one; the tables in use then stay. Unless
    ``strict``, the stream of such an event is parked, as live.
    """
    chosen = [model for model in models if name in (None, model.NAME)]
    if not chosen:
        raise RebuildError(f"there is no read model named {name}")
    for model in chosen:
        async with (
            await database.connect(url, name=f"rebuild {model.NAME}", options=WRITER) as writer,
            await database.connect(url, name=f"rebuild {model.NAME}") as reader,
        ):
            await create_if_missing(writer, model)
            await Rebuild(model, writer, reader, progress, strict=strict).run()


class Rebuild:
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
        self._failures: list[DeadLetter] = []

    async def run(self) -> None:
        if not await try_lock(self._writer, REBUILDER, self._model.NAME):
            raise RebuildError(f"somebody else rebuilds {self._model.NAME}")
        try:
            await self._build()
            await self._swap()
        finally:
            if not self._writer.closed:
                await self._clear()
                await unlock(self._writer, REBUILDER, self._model.NAME)

    async def _build(self) -> None:
        await self._drop(self._shadow)
        async with self._writer.transaction():
            await create_schema(self._writer, self._shadow, self._model.DDL)
        await set_search_path(self._writer, self._shadow)
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
            await self._writer.execute(statement("DROP SCHEMA IF EXISTS {} CASCADE", self._old))
            await self._writer.execute(statement("ALTER SCHEMA {} RENAME TO {}", name, self._old))
            await self._writer.execute(
                statement("ALTER SCHEMA {} RENAME TO {}", self._shadow, name)
            )
            await forget(self._writer, name)
            await advance(
                self._writer, [name], [Slice(t, 0, p) for t, p in self._positions.items()]
            )
            await park(self._writer, name, self._failures)
            await self._writer.execute(
                "UPDATE registration.read_model SET version = %s, rebuilt_at = clock_timestamp()"
                " WHERE name = %s",
                (self._model.VERSION, name),
            )

    async def _catch_up(self) -> int:
        """Read the log up to the heads of now; returns how many events that were."""
        heads = await log_heads(self._reader)
        taken = sum(heads.values()) - sum(self._positions.values())
        async with aclosing(
            read_ahead(self._reader, self._model, heads, self._positions)
        ) as batches:
            async for batch in batches:
                await self._take(batch)
                if self._progress:
                    self._progress(
                        self._model.NAME, sum(self._positions.values()), sum(heads.values())
                    )
        return taken

    async def _take(self, batch: Sequence[Slice]) -> None:
        parked = {failure.stream for failure in self._failures}
        try:
            async with self._writer.transaction():
                await apply_batch(self._writer, self._model, batch, parked)
        except Exception as error:
            if not_of_an_event(error):
                raise
            async with self._writer.transaction():
                await apply_singly(self._writer, self._model, batch, parked, self._failed)
        self._positions.update((part.tenant, part.until) for part in batch)

    def _failed(self, failure: DeadLetter) -> None:
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
        await self._writer.execute(statement("DROP SCHEMA IF EXISTS {} CASCADE", schema))
