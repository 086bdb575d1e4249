"""What a report is: where its facts come from, what it groups them by, and what it says of each.

A report is data. The query, the answers in JSON and CSV, the documentation page, the page for
people and the suppression of small counts all read the same declaration.
"""

from collections.abc import Sequence
from typing import Literal, LiteralString, NamedTuple

Type = Literal["string", "date", "instant", "integer", "number", "boolean"]
Role = Literal["dimension", "count", "derived"]


class Column(NamedTuple):
    """A column of a report; ``expression`` is SQL over the report's facts.

    A ``dimension`` groups the facts, a ``count`` counts persons, records or encounters of a group,
    and what is ``derived`` (a share, a median) says something about those that ``rests_on`` counts.
    A count rests on another one where one person may be in it several times: that one counts the
    persons. ``rests_on`` names an earlier column.

    ``always``: a dimension without which one fact would be counted several times; a report is
    grouped by it whatever is asked.
    """

    name: str
    type: Type
    unit: str | None
    definition: str
    expression: LiteralString
    role: Role
    rests_on: str | None = None
    always: bool = False


class Parts(NamedTuple):
    """Counts of a row that are parts of another count of it, its ``whole``.

    Nobody is in two of the ``parts``; there may be others, in none of them. Parts that overlap are
    declared one by one.
    """

    whole: str
    parts: tuple[str, ...]


class Chart(NamedTuple):
    """How a report is drawn: grouped ``by`` these dimensions, one bar for each of ``values``.

    ``upright`` bars stand side by side, for what follows in time; others lie below each other.
    """

    by: tuple[str, ...]
    values: tuple[str, ...]
    upright: bool = False


class Report(NamedTuple):
    """A report. ``source`` is SQL that selects its facts, with these parameters:

    ``tenant``, ``facility`` (or null), ``since`` and ``until`` (instants, perhaps infinite),
    ``zone`` (IANA name), ``now``, ``at`` and ``flags``.

    ``period`` says what ``from`` and ``to`` choose. Without them it is the last ``default_days``
    days, today included; ``None``: all time. ``most_days`` bounds the window. ``takes_at``: whether
    it is about one instant, ``at``.

    ``parts`` say which counts are parts of which: what is kept back must not follow from them. A
    count's own parts come after those that it is a part of.
    """

    name: str
    title: str
    definition: str
    period: str
    source: LiteralString
    columns: tuple[Column, ...]
    chart: Chart
    parts: tuple[Parts, ...] = ()
    reads: tuple[str, ...] = ("analytics",)
    default_days: int | None = None
    most_days: int | None = None
    takes_at: bool = False

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of what it can be grouped by, in the order of its columns."""
        return tuple(c.name for c in self.columns if c.role == "dimension")

    def wholes(self, part: str) -> list[str]:
        """Return the names of the counts that a count is a part of."""
        return [each.whole for each in self.parts if part in each.parts]

    def shown(self, by: Sequence[str]) -> tuple[Column, ...]:
        """Return the columns of an answer that is to be grouped by these dimensions."""
        kept = (c for c in self.columns if c.role != "dimension" or c.always or c.name in by)
        return (*kept, SUPPRESSED)


SUPPRESSED = Column(
    "suppressed",
    "boolean",
    None,
    "whether figures of this row are kept back because they are about too few; those are null",
    "false",
    "derived",
)


def dimension(
    name: str,
    expression: LiteralString,
    definition: str,
    of_type: Type = "string",
    *,
    always: bool = False,
) -> Column:
    """Return what facts are grouped by."""
    return Column(name, of_type, None, definition, expression, "dimension", always=always)


def count(
    name: str,
    unit: str,
    definition: str,
    expression: LiteralString = "count(*)",
    rests_on: str | None = None,
) -> Column:
    """Return a count."""
    return Column(name, "integer", unit, definition, expression, "count", rests_on=rests_on)


def share(
    name: str, definition: str, rests_on: str, part: LiteralString, whole: LiteralString
) -> Column:
    """Return a share from 0 to 1 of one count in another; null of nothing."""
    return Column(
        name,
        "number",
        "share from 0 to 1",
        definition,
        "round((" + part + ")::numeric / nullif(" + whole + ", 0), 4)::float8",
        "derived",
        rests_on=rests_on,
    )


def percentile(
    name: str, unit: str, definition: str, rests_on: str, part: LiteralString, value: LiteralString
) -> Column:
    """Return a percentile (0.5: the median), interpolated, to one digit; null of nothing."""
    return Column(
        name,
        "number",
        unit,
        definition,
        "round((percentile_cont(" + part + ") WITHIN GROUP (ORDER BY " + value + "))::numeric, 1)"
        "::float8",
        "derived",
        rests_on=rests_on,
    )
