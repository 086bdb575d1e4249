"""Small counts do not leave, nor what gives them away in the same row."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registration.reports.catalogue import REPORTS
from registration.reports.counting import keep_back
from registration.reports.declared import Report

COUNTED = [report for report in REPORTS.values() if report.small_counts]


@st.composite
def rows(draw, report: Report):
    """Draw a row whose parts are no larger than their wholes; what is derived is 0.5."""
    row: dict[str, Any] = {}
    for column in report.columns:
        if column.role == "count":
            most = 60 if column.part_of is None else row[column.part_of]
            row[column.name] = draw(st.integers(0, most))
        else:
            row[column.name] = 0.5 if column.role == "derived" else "north"
    return row


@pytest.mark.parametrize("report", COUNTED, ids=lambda report: report.name)
@given(data=st.data(), threshold=st.integers(1, 20))
def test_what_is_shown_is_of_none_or_of_enough(report: Report, data, threshold: int) -> None:
    row = data.draw(rows(report))
    shown = keep_back(row, report.columns, threshold)

    def told(count: int) -> bool:
        return count == 0 or count >= threshold

    for column in report.columns:
        name = column.name
        if shown[name] is None:
            assert shown["suppressed"]
            continue
        assert shown[name] == row[name]
        if column.role == "count":
            assert told(row[name])
        if column.part_of is not None:
            assert shown[column.part_of] is not None
            assert told(row[column.part_of] - row[name])
        if column.rests_on is not None:
            assert shown[column.rests_on] is not None
    assert shown["suppressed"] == (None in shown.values())
    assert all(shown[name] == row[name] for name in report.dimensions)


@pytest.mark.parametrize("report", COUNTED, ids=lambda report: report.name)
@given(data=st.data())
def test_a_threshold_of_one_keeps_nothing_back(report: Report, data) -> None:
    row = data.draw(rows(report))
    assert keep_back(row, report.columns, 1) == row | {"suppressed": False}


@pytest.mark.parametrize("report", REPORTS.values(), ids=lambda report: report.name)
def test_a_declaration_holds_together(report: Report) -> None:
    seen: dict[str, str] = {}
    for column in report.columns:
        for named in (column.part_of, column.rests_on):
            assert named is None or seen[named] == "count"
        # what says something about people says about how many
        assert (column.rests_on is None) == (column.role != "derived")
        assert column.name not in seen
        seen[column.name] = column.role
    assert set(report.chart.by) <= set(report.dimensions)
    assert {seen[name] for name in report.chart.values} <= {"count", "derived"}
