"""Death and its reversal."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.domain.given import NOW, When, registered, when

from registration.domain import events
from registration.domain.contract import Operation

DIED = events.DeathRecorded(deceased_at=NOW - timedelta(days=1), cause="I21.9")
REVERSED = events.DeathReversed(reason="wrong record")


def dies(*history: events.Event, at: datetime | str = DIED.deceased_at, **said: Any) -> When:
    moment = at if isinstance(at, str) else at.isoformat()
    return when(*history, operation=Operation.RECORD_DEATH, deceasedAt=moment, **said)


def reverses(*history: events.Event) -> When:
    return when(registered(), *history, operation=Operation.REVERSE_DEATH, reason="wrong record")


def test_it_is_recorded_with_cause_and_certificate() -> None:
    dies(registered(), at="2026-02-28T13:00:00+01:00", cause=" I21.9 ", certificate="D-1").then(
        events.DeathRecorded(deceased_at=DIED.deceased_at, cause="I21.9", certificate="D-1")
    )


def test_nobody_dies_in_the_future() -> None:
    late = NOW + timedelta(microseconds=1)
    dies(registered(), at=late).then_refused("VALIDATION_FAILED", "/deceasedAt")
    assert dies(registered(), at=NOW).decide()


@pytest.mark.parametrize(
    ("birth_date", "first_possible"),
    [
        ("2026-02-10", "2026-02-09T10:00:00+00:00"),
        ("2026-02", "2026-01-31T10:00:00+00:00"),
        ("2026", "2025-12-31T10:00:00+00:00"),
    ],
)
def test_nobody_dies_before_birth_wherever_on_earth(birth_date: str, first_possible: str) -> None:
    """A day begins 14 hours earlier in UTC+14 than in UTC."""
    born = registered(birth_date=birth_date)
    moment = datetime.fromisoformat(first_possible)
    dies(born, at=moment - timedelta(seconds=1)).then_refused("VALIDATION_FAILED", "/deceasedAt")
    assert dies(born, at=moment).decide()


def test_without_a_birth_date_any_past_will_do() -> None:
    assert dies(registered(), at="1900-01-01T00:00:00Z").decide()


def test_the_same_again_changes_nothing() -> None:
    dies(registered(), DIED, cause="I21.9").then_nothing()


def test_a_death_is_corrected_by_reversing_it_first() -> None:
    dies(registered(), DIED, cause="I22").then_refused("PATIENT_DECEASED")
    assert dies(registered(), DIED, REVERSED, cause="I22").decide()


def test_a_reversal_keeps_its_reason() -> None:
    reverses(DIED).then(REVERSED)


@pytest.mark.parametrize("history", [(), (DIED, REVERSED)])
def test_who_lives_cannot_be_brought_back(history: tuple[events.Event, ...]) -> None:
    reverses(*history).then_refused("NOT_FOUND")


def test_nobody_is_born_after_their_death() -> None:
    when(
        registered(), DIED, operation=Operation.UPDATE_DEMOGRAPHICS, birthDate="2026-03-02"
    ).then_refused("VALIDATION_FAILED", "/birthDate")
    assert when(
        registered(), DIED, operation=Operation.UPDATE_DEMOGRAPHICS, birthDate="2026-03-01"
    ).decide()
