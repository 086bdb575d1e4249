"""Birth dates: what is known of them, and what cannot be."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registration.domain.dates import confirm_birth_date
from registration.domain.errors import DomainError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def refused(said: str, now: datetime = NOW) -> str:
    with pytest.raises(DomainError) as caught:
        confirm_birth_date(said, now, "/here")
    assert caught.value.code == "VALIDATION_FAILED"
    (error,) = caught.value.extra["errors"]
    assert error["path"] == "/here"
    message: str = error["message"]
    assert not said or said not in message
    return message


@pytest.mark.parametrize(
    "said",
    ["1984", "1984-03", "1984-03-02", "2024-02-29", "2000-02-29", "2026", "2026-03", "2026-03-01"],
)
def test_a_year_a_month_or_a_day(said) -> None:
    assert confirm_birth_date(said, NOW) == said


@pytest.mark.parametrize(
    "said",
    [
        "",
        "84",
        "1984-3",
        "1984-03-2",
        "1984-03-02T00:00:00Z",
        "02.03.1984",
        "1984/03/02",
        "1984-03-02 ",
        "-1984",
        "19840302",
        "١٩٨٤",
        "1984\n",
        "1984-03-02-01",
    ],
)
def test_another_spelling_is_refused(said) -> None:
    assert refused(said) == "must be YYYY, YYYY-MM or YYYY-MM-DD"


@pytest.mark.parametrize(
    "said", ["2023-02-29", "1900-02-29", "1984-13", "1984-00", "1984-04-31", "1984-01-00", "0000"]
)
def test_what_the_calendar_does_not_have_is_refused(said) -> None:
    assert refused(said) == "is no day of the calendar"


@pytest.mark.parametrize("said", ["2027", "2026-04", "2026-03-03", "9999-12-31"])
def test_what_has_not_come_anywhere_on_earth_is_refused(said) -> None:
    assert refused(said) == "lies in the future"


def test_a_child_of_today_in_the_far_east_is_not_from_the_future() -> None:
    late = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
    assert confirm_birth_date("2026-03-02", late) == "2026-03-02"
    assert refused("2026-03-02", late - timedelta(seconds=1)) == "lies in the future"
    new_year = datetime(2026, 12, 31, 10, 0, tzinfo=UTC)
    assert confirm_birth_date("2027", new_year) == "2027"


@pytest.mark.parametrize(
    ("said", "fits"),
    [("1876", True), ("1876-03-02", True), ("1875-12-31", False), ("1875", False), ("0001", False)],
)
def test_nobody_is_much_older_than_150_years(said, fits) -> None:
    if fits:
        assert confirm_birth_date(said, NOW) == said
    else:
        assert refused(said) == "lies more than 150 years back"


@given(st.dates(min_value=date(1880, 1, 1), max_value=NOW.date()), st.sampled_from([4, 7, 10]))
def test_every_day_of_a_life_is_taken_as_it_was_said(day, length) -> None:
    said = day.isoformat()[:length]
    assert confirm_birth_date(said, NOW) == said
