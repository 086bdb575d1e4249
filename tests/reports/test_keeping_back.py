"""Small counts do not leave, nor what gives them away in the same row."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registration.reports.catalogue import REPORTS
from registration.reports.declared import Report
from registration.reports.small import keep_back


def beside(report: Report, name: str) -> set[str]:
    """Return the parts that nobody is in who is in this one."""
    return {part for each in report.parts if name in each.parts for part in each.parts} - {name}


def most(report: Report, row: dict[str, Any], name: str, else_: int) -> int:
    """Return how much a count can be at most, beside those that the row has already."""
    taken = sum(row.get(part, 0) for part in beside(report, name))
    return int(min((row[whole] for whole in report.wholes(name)), default=else_ + taken) - taken)


@st.composite
def rows(draw, report: Report):
    """Draw a row whose parts fit into their wholes; what is derived is 0.5."""
    row: dict[str, Any] = {}
    for column in report.columns:
        if column.role == "count":
            row[column.name] = draw(st.integers(0, most(report, row, column.name, 60)))
            if column.rests_on is not None and row[column.rests_on] == 0:
                row[column.name] = 0
        else:
            row[column.name] = 0.5 if column.role == "derived" else "north"
    return row


@pytest.mark.parametrize("report", REPORTS.values(), ids=lambda report: report.name)
@given(data=st.data(), threshold=st.integers(1, 20))
def test_what_is_shown_is_of_none_or_of_enough(report: Report, data, threshold: int) -> None:
    row = data.draw(rows(report))
    shown = keep_back(row, report, threshold)

    def told(count: int) -> bool:
        return count == 0 or count >= threshold

    for column in report.columns:
        name = column.name
        if shown[name] is None:
            assert shown["suppressed"]
            continue
        assert shown[name] == row[name]
        if column.role == "count" and column.rests_on is None:
            assert told(row[name])
        if of := report.wholes(name):
            assert any(shown[whole] is not None for whole in of)
            assert all(told(row[whole] - row[name]) for whole in of if shown[whole] is not None)
        if column.rests_on is not None:
            assert shown[column.rests_on] is not None
    for whole, parts in report.parts:
        left = row[whole] - sum(shown[part] or 0 for part in parts)
        assert shown[whole] is None or told(left)
    assert shown["suppressed"] == (None in shown.values())
    assert all(shown[name] == row[name] for name in report.dimensions)


def every_row(report: Report, chosen: set[str], largest: int) -> Iterator[dict[str, int]]:
    """Return every row that there can be of these counts, the others 0."""
    found: list[dict[str, int]] = [{}]
    for column in (c for c in report.columns if c.role == "count"):
        name = column.name
        found = [
            row | {name: number}
            for row in found
            for number in range(most(report, row, name, largest) + 1 if name in chosen else 1)
        ]
    for row in found:
        yield {c.name: row.get(c.name, 0) for c in report.columns}


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("consent-coverage", {"patients", "granted", "refused", "withdrawn"}),
        ("duplicates", {"registered", "confirmed", "records", "recordsInOpenPairs"}),
        ("data-completeness", {"patients", "birthDate", "januaryFirst"}),
        ("registrations", {"registrations", "captured"}),
    ],
)
@pytest.mark.parametrize("threshold", [3, 4, 5])
def test_no_count_that_is_kept_back_follows_from_its_row(
    name: str, chosen: set[str], threshold: int
) -> None:
    report = REPORTS[name]
    answers = defaultdict(list)
    for row in every_row(report, chosen, 3 * threshold):
        told = keep_back(row, report, threshold)
        answers[tuple(told[c] for c in sorted(chosen))].append(row)
    # whoever sees an answer, and knows how it is made, knows of these rows that it is one of them
    for answer, possible in answers.items():
        for count, value in zip(sorted(chosen), answer, strict=True):
            if value is None:
                assert len({row[count] for row in possible}) > 1, (answer, possible)


def test_the_last_part_does_not_follow_from_the_others() -> None:
    consent = REPORTS["consent-coverage"]
    counts = {"patients": 11, "granted": 5, "refused": 5, "withdrawn": 1}
    row = {column.name: 0.5 for column in consent.columns} | counts
    shown = keep_back(row, consent, 5)
    assert [shown[name] for name in counts] == [11, None, 5, None]
    assert [shown[f"{name}Share"] for name in list(counts)[1:]] == [None, 0.5, None]


@pytest.mark.parametrize("report", REPORTS.values(), ids=lambda report: report.name)
@given(data=st.data())
def test_a_threshold_of_one_keeps_nothing_back(report: Report, data) -> None:
    row = data.draw(rows(report))
    assert keep_back(row, report, 1) == row | {"suppressed": False}


@pytest.mark.parametrize("report", REPORTS.values(), ids=lambda report: report.name)
def test_a_declaration_holds_together(report: Report) -> None:
    seen: dict[str, str] = {}
    for column in report.columns:
        assert column.rests_on is None or seen[column.rests_on] == "count"
        # what says something about people says about how many
        assert column.rests_on is not None or column.role != "derived"
        assert column.role == "dimension" or not column.always
        assert column.name not in seen
        seen[column.name] = column.role
    below: set[str] = set()
    for whole, parts in report.parts:
        assert {seen[name] for name in (whole, *parts)} == {"count"}
        # what a count is a part of is looked at first
        assert not set(parts) & below
        below.add(whole)
    assert set(report.chart.by) <= set(report.dimensions)
    assert {c.name for c in report.columns if c.always} <= set(report.chart.by)
    assert {seen[name] for name in report.chart.values} <= {"count", "derived"}
