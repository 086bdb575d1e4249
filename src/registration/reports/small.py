"""Keeping back what is about too few people, and what it would follow from."""

from collections.abc import Mapping
from typing import Any

from registration.reports.declared import SUPPRESSED, Report


def keep_back(row: Mapping[str, Any], report: Report, threshold: int) -> dict[str, Any]:
    """Return a row without figures about fewer than ``threshold``, but more than none.

    A count goes where it is small, where what is left of its whole would say what is small, and
    where its whole goes, unless it is also a part of one that stays. What rests on a count goes
    with it, and not for being small itself.
    """
    counts = [c.name for c in report.columns if c.role == "count" and c.rests_on is None]
    hidden = {name for name in counts if 0 < row[name] < threshold}
    for whole, parts in report.parts:
        if whole in hidden:
            hidden.update(name for name in parts if hidden.issuperset(report.wholes(name)))
            continue
        # Anybody can subtract what is shown. What is left must be of none or of enough: what is
        # kept back, and those who are in no part (98 of 100 says 2 as well). One more part is
        # enough for that, as what is shown is of so many. None is kept back for being 0, so three
        # parts that are 3 together would be 1 each.
        shown = [name for name in parts if row[name] and name not in hidden]
        left = row[whole] - sum(row[name] for name in shown)
        if 0 < left < max(threshold, len(hidden.intersection(parts)) + 1):
            hidden.add(min(shown, key=lambda name: row[name], default=whole))
    for column in report.columns:  # in their order: what a median rests on may rest on a count too
        if column.rests_on in hidden:
            hidden.add(column.name)
    told = {name: None if name in hidden else value for name, value in row.items()}
    return told | {SUPPRESSED.name: bool(hidden)}
