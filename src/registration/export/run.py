"""An export from its start, or from where an earlier run was stopped, to its manifest."""

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import UUID

from registration.export.folder import Folder, State
from registration.export.order import Body, Exported, ExportError, Order, Output, Progress
from registration.export.source import Record, Source

_REPORT_EVERY = 1000
_LAST_ID = UUID(int=2**128 - 1)
_LAST_POSITION = 2**63 - 1


class Chunk(Protocol):
    """Takes records and writes them into files that it asks for by type."""

    @property
    def counts(self) -> Counter[str]:
        """How many there are of each type in the files."""

    def add(self, position: int, kind: str, body: Body) -> None:
        """Take in a record, of the read model's kind ``kind``."""

    def delete(self, position: int, kind: str, its_id: UUID) -> None:
        """Take in that a record was erased."""

    def close(self) -> None:
        """Hand over what is left to the files."""


OpenFile = Callable[[str], BinaryIO]
NewChunk = Callable[[Sequence[str], OpenFile], Chunk]


def export(url: str, order: Order, path: Path, progress: Progress) -> Exported:
    """Export into a folder; goes on after the last whole chunk of an earlier run of this order.

    Each record is there as it was when this run began, once. Where it changed between two runs it
    may be there twice: what the later file says holds. Raises :class:`ExportError` where it cannot
    be done, ``psycopg.OperationalError`` where the database is gone; what is in the folder then
    stays, for the next run.
    """
    new_chunk, extension = _form(order.form)
    with Folder.opened(path) as folder:
        begun = folder.state()
        if begun is not None and begun.order != order:
            raise ExportError(
                f"{path} holds another export, which is not whole: {begun.order.said()}; to go on"
                " with that say the same, else name another folder"
            )
        if (whole := folder.whole()) is not None:
            folder.clear()
            return whole
        place = begun.place if begun else (order.since, _LAST_ID)
        kinds = order.read_model_kinds()
        # a first, whole export tells of nothing that went before: nobody has it
        gone_after = order.since or (begun.first_position if begun else _LAST_POSITION)
        with Source.opened(url, order.tenant, place, kinds, progress, gone_after) as source:
            state = _agreed(order, source, begun)
            folder.begin(state)
            for records in _chunks(_told(source, order.since, progress), order.per_file):
                state = _write(folder, state, records, new_chunk, extension)
            standing = source.standing
        whole = Exported(standing.position, standing.recorded_at, state.output, standing.set_aside)
        folder.end(whole, order)
        return whole


def _form(form: str) -> tuple[NewChunk, str]:
    if form == "parquet":
        if importlib.util.find_spec("pyarrow") is None:
            raise ExportError("Parquet needs the extra: pip install 'registration[parquet]'")
        from registration.export.parquet import ParquetChunk

        return ParquetChunk, "parquet"
    from registration.export.ndjson import NdjsonChunk

    return NdjsonChunk, "ndjson"


def _agreed(order: Order, source: Source, begun: State | None) -> State:
    """Return the state to go on from: what an earlier run had must be of this log."""
    now = source.standing
    if order.since > now.position:
        raise ExportError(f"--since {order.since} lies beyond the log, which is at {now.position}")
    if begun is None:
        place = (order.since, _LAST_ID)
        return State(order, now.position, now.mark, now.made_at, place, now.position)
    if (begun.made_at, begun.mark) != (now.made_at, source.mark(begun.position)):
        raise ExportError(
            "the read model was rebuilt, or the log restored, since this export began;"
            " name another folder"
        )
    return begun._replace(position=now.position, mark=now.mark)


def _told(source: Source, since: int, progress: Progress) -> Iterator[Record]:
    """Yield the records, and tell how far in the log they are."""
    until = source.standing.position
    for number, record in enumerate(source):
        if number % _REPORT_EVERY == 0:
            progress("exporting", record.position - since, until - since)
        yield record


def _chunks(records: Iterator[Record], size: int) -> Iterator[Iterator[Record]]:
    """Yield the records in runs of ``size``; each has to be read to its end before the next."""
    while (first := next(records, None)) is not None:
        yield chain([first], islice(records, size - 1))


def _write(
    folder: Folder, state: State, records: Iterator[Record], new_chunk: NewChunk, extension: str
) -> State:
    """Write one chunk; its files and the state that this returns are there together, or not."""
    files: dict[str, tuple[str, BinaryIO]] = {}
    with ExitStack() as stack:

        def open_file(kind: str) -> BinaryIO:
            number = sum(file.type == kind for file in state.output)
            name = f"{kind}.{number:03d}.{extension}"
            file = stack.enter_context(folder.part(name))
            files[kind] = (name, file)
            return file

        chunk = new_chunk(state.order.kinds, open_file)
        place = state.place
        with closing(chunk):
            for record in records:
                if (body := record.body) is None:
                    chunk.delete(record.position, record.kind, record.id)
                else:
                    chunk.add(record.position, record.kind, body)
                place = (record.position, record.id)
        output = [Output(kind, name, chunk.counts[kind]) for kind, (name, _) in files.items()]
        state = state._replace(place=place, output=(*state.output, *output))
        folder.keep(list(files.values()), state)
    return state
