"""Counting a report's facts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow, dict_row

from registration.reports.declared import SUPPRESSED, Column, Report
from registration.reports.small import keep_back

Row = dict[str, Any]
Instant = datetime | str
"""Also ``infinity`` and ``-infinity``, as PostgreSQL has them."""

_POSITION: LiteralString = """
SELECT coalesce(min(position), 0)
  FROM unnest(%s::text[]) AS wanted (name)
 CROSS JOIN LATERAL (
    SELECT coalesce(max(p.position), 0) AS position FROM registration.read_model_position AS p
     WHERE p.name = wanted.name AND p.tenant = %s
  ) AS reached
"""


class Asked(NamedTuple):
    """What is asked of a report; the members are the parameters of its source.

    ``by``: the dimensions to group by, beside those that always are. ``threshold``: counts from 1
    to below it are kept back; 1 keeps back nothing.
    """

    tenant: str
    by: tuple[str, ...]
    since: Instant
    until: Instant
    zone: str
    now: datetime
    at: datetime
    flags: Sequence[str]
    threshold: int
    facility: str | None = None


class Counted(NamedTuple):
    """A report's rows, ordered by its dimensions, and up to which position of the log they go."""

    columns: tuple[Column, ...]
    rows: list[Row]
    position: int

    @property
    def suppressed(self) -> bool:
        """Whether anything is kept back."""
        return any(row.get(SUPPRESSED.name) for row in self.rows)


async def count(connection: AsyncConnection[TupleRow], report: Report, asked: Asked) -> Counted:
    """Return what a report says. Rows and position are of one moment of the read models."""
    columns = report.shown(asked.by)
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await connection.execute("SET LOCAL work_mem = '32MB'")  # they sort and join whole tables
        cursor = await connection.execute(_POSITION, (list(report.reads), asked.tenant))
        (position,) = await cursor.fetchone() or (0,)
        async with connection.cursor(row_factory=dict_row) as facts:
            # planned each time: a plan from when the tables were empty would be kept for good
            await facts.execute(_query(report, columns), asked._asdict(), prepare=False)
            rows = [keep_back(row, report, asked.threshold) for row in await facts.fetchall()]
    return Counted(columns, rows, position)


def _query(report: Report, columns: Sequence[Column]) -> sql.Composed:
    """Return the statement that groups the facts; names and expressions are those declared."""
    selected = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(sql.SQL(column.expression), sql.Identifier(column.name))
        for column in columns
    )
    counted = sql.SQL("SELECT {} FROM ({}) AS fact").format(selected, sql.SQL(report.source))
    grouped = [sql.SQL(column.expression) for column in columns if column.role == "dimension"]
    if not grouped:
        return counted
    places = sql.SQL(", ").join(grouped)
    return counted + sql.SQL(" GROUP BY {0} ORDER BY {0}").format(places)
