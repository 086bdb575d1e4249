"""Where the bars of a report's chart are; the template draws them as SVG.

A chart is 320 units wide, so that it is drawn one to one at the width of a phone.
"""

import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from registration.reports.counting import Row
from registration.reports.declared import Column, Report

WIDTH = 320.0
HIGH = 120.0
"""How high the highest upright bar is."""
LINE = 36.0
"""How high a lying bar is, with its label above."""
THICK = 12.0
_TOP = 16.0
_SHARE = "share from 0 to 1"
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z0-9])")


class Bar(NamedTuple):
    """A bar: what it stands for, the figure as text, and its place; ``kept_back``: no figure."""

    label: str
    shown: str
    x: float
    y: float
    width: float
    height: float
    kept_back: bool


class Drawing(NamedTuple):
    """A chart: its bars, how high it is, and what stands at the ends of its axis, if upright."""

    bars: list[Bar]
    height: float
    upright: bool
    most: str = ""
    first: str = ""
    last: str = ""


def words(name: str) -> str:
    """Return the name of a column as words."""
    return _HUMP.sub(" ", name).lower()


def shown(value: Any, column: Column, zone: ZoneInfo) -> str:
    """Return a cell as people read it: an empty one for null, instants in their time zone."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else ""
        case datetime():
            return value.astimezone(zone).strftime("%Y-%m-%d %H:%M")
        case float() if column.unit == _SHARE:
            return f"{100 * value:.1f} %"
        case int() | float():
            return f"{value:,}"
    return str(value)


def drawn(report: Report, rows: Sequence[Row], steps: Sequence[Any], zone: ZoneInfo) -> Drawing:
    """Return the chart of a report's rows.

    ``steps`` are the days or hours of an upright chart: what has no row is shown as none.
    """
    columns = {column.name: column for column in report.columns}
    if report.chart.upright:
        return _upright(report, rows, steps, columns, zone)
    figures = [
        (_label(report, row, name), row[name], columns[name], row.get("suppressed", False))
        for row in rows
        for name in report.chart.values
    ]
    figures = [figure for figure in figures if figure[1] is not None or figure[3]]
    bars = []
    most = max((1 if c.unit == _SHARE else value or 0 for _, value, c, _ in figures), default=0)
    for number, (label, value, column, _) in enumerate(figures):
        length = WIDTH * (value or 0) / (most or 1)
        text = "kept back" if value is None else shown(value, column, zone)
        bars.append(Bar(label, text, 0, number * LINE + _TOP, length, THICK, value is None))
    return Drawing(bars, len(bars) * LINE, upright=False)


def _label(report: Report, row: Row, name: str) -> str:
    said = [str(row[by]) for by in report.chart.by if row[by] is not None]
    if len(report.chart.values) > 1 or not said:
        said.append(words(name))
    return " · ".join(said)


def _upright(
    report: Report,
    rows: Sequence[Row],
    steps: Sequence[Any],
    columns: dict[str, Column],
    zone: ZoneInfo,
) -> Drawing:
    (by,), (name,) = report.chart.by, report.chart.values
    found = {row[by]: row for row in rows}
    most = max((row[name] or 0 for row in rows), default=0)
    wide = WIDTH / max(1, len(steps))
    bars = []
    for number, step in enumerate(steps):
        value = found[step][name] if step in found else 0
        high = HIGH * (value or 0) / (most or 1)
        # what is kept back is a mark of one height, whatever it is
        high = 6.0 if value is None else high
        text = "kept back" if value is None else f"{value:,}"
        place = (number * wide, _TOP + HIGH - high, wide * 0.8, high)
        bars.append(Bar(shown(step, columns[by], zone), text, *place, value is None))
    ends = [shown(step, columns[by], zone) for step in (*steps[:1], *steps[-1:])]
    first, last = ends or ("", "")
    return Drawing(bars, _TOP + HIGH + 18, upright=True, most=f"{most:,}", first=first, last=last)


def steps_of(report: Report, since: date, until: date, now: datetime, zone: ZoneInfo) -> list[Any]:
    """Return the days or hours that an upright chart shows: from ``since`` to ``until`` or now."""
    if report.chart.by == ("day",):
        days = (min(until, now.astimezone(zone).date() + timedelta(days=1)) - since).days
        return [since + timedelta(days=n) for n in range(days)]
    begin, end = (datetime.combine(day, time(), zone).timestamp() for day in (since, until))
    hours = int((min(end - 1, now.timestamp()) - begin) // 3600) + 1
    return [datetime.fromtimestamp(begin + 3600 * n, zone) for n in range(hours)]
