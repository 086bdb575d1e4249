"""A chunk of an export as Parquet: one file of each table, zstd, in row groups.

Needs the extra ``registration[parquet]``. A timestamp is UTC in microseconds.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from registration.export.order import Body
from registration.export.tables import TABLES, Row

EXTENSION = "parquet"
ROWS_A_GROUP = 20_000
"""Of the table that fills first; that many records are in memory at once."""

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_CATEGORY = pa.dictionary(pa.int32(), pa.string())
_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "category": _CATEGORY,
    "int32": pa.int32(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "timestamp": _TIMESTAMP,
}
SCHEMAS = {
    name: pa.schema([(column, _TYPES[kind]) for column, kind in table.columns.items()])
    for name, table in TABLES.items()
} | {"deleted": pa.schema([("id", pa.string()), ("kind", _CATEGORY), ("position", pa.int64())])}


class ParquetChunk:
    """Takes records and writes rows into files that ``open_file`` gives by table."""

    def __init__(self, kinds: Sequence[str], open_file: Callable[[str], BinaryIO]) -> None:
        self.counts: Counter[str] = Counter()
        self._open = open_file
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._rows: dict[str, list[Row]] = {
            name: [] for name, table in TABLES.items() if table.kind in kinds
        }
        self._of = {
            source: [
                (TABLES[name].rows, rows)
                for name, rows in self._rows.items()
                if TABLES[name].source == source
            ]
            for source in ("patient", "encounter")
        }
        self._rows["deleted"] = []

    def add(self, position: int, kind: str, body: Body) -> None:
        """Take in a record, of the read model's kind ``kind``."""
        full = False
        for made, rows in self._of[kind]:
            rows.extend(made(position, body))
            full = full or len(rows) >= ROWS_A_GROUP
        if full:
            self._flush()

    def delete(self, position: int, kind: str, its_id: UUID) -> None:
        """Take in that a record was erased."""
        self._rows["deleted"].append((str(its_id), kind, position))

    def _flush(self) -> None:
        for name, rows in self._rows.items():
            if rows:
                self._writer(name).write_table(table_of(name, rows))
                self.counts[name] += len(rows)
                rows.clear()

    def _writer(self, name: str) -> pq.ParquetWriter:
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(
                self._open(name), SCHEMAS[name], compression="zstd"
            )
        return self._writers[name]

    def close(self) -> None:
        """Hand over what is left to the files."""
        self._flush()
        for writer in self._writers.values():
            writer.close()


def table_of(name: str, rows: Sequence[Row]) -> pa.Table:
    """Return rows of a table as Arrow has it."""
    schema = SCHEMAS[name]
    columns = zip(*rows, strict=True)
    return pa.Table.from_arrays(
        [_array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _array(column: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind == _TIMESTAMP:
        return pa.array(column, pa.string()).cast(_TIMESTAMP)
    if kind == _CATEGORY:
        return pa.array(column, pa.string()).dictionary_encode()
    return pa.array(column, kind)
