"""Consent: what was said stays said; what holds at an instant follows from all of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.domain.given import NOW, STAMP, When, folded, registered, uuid, when

from registration.domain import events
from registration.domain.consent import (
    MOST_DECISIONS,
    PORTRAIT,
    granted_until,
    in_force,
    is_granted,
)
from registration.domain.contract import Operation
from registration.domain.patient_resource import Patient
from registration.domain.patient_state import evolve
from registration.domain.resources import Consent, Evidence

EVIDENCE = Evidence(kind="signature", reference="form 7")
SAID = {"kind": "signature", "reference": "form 7"}
DAY = timedelta(days=1)


def granted(flag: str = "research", **members: Any) -> events.ConsentGranted:
    return events.ConsentGranted(flag=flag, evidence=EVIDENCE, **members)


def refused(flag: str = "research", **members: Any) -> events.ConsentRefused:
    return events.ConsentRefused(flag=flag, evidence=EVIDENCE, **members)


def withdrawn(flag: str = "research", **members: Any) -> events.ConsentWithdrawn:
    return events.ConsentWithdrawn(flag=flag, evidence=EVIDENCE, **members)


def portrait_set(retain_until: datetime | None = None) -> events.PortraitSet:
    return events.PortraitSet(
        portrait_id=uuid(5),
        content_hash="ab",
        media_type="image/jpeg",
        width=3,
        height=4,
        size=9,
        retain_until=retain_until,
    )


def says(*history: events.Event, flag: str = "research", **said: Any) -> When:
    said = {"decision": "granted", "evidence": SAID} | said
    return when(registered(), *history, operation=Operation.SET_CONSENT, entry=flag, **said)


def decisions(*said: events.ConsentEvent, times: Sequence[datetime] = ()) -> tuple[Consent, ...]:
    """Return decisions about one flag, recorded at these times or an hour ago."""
    state = folded(Patient, [registered()])
    for event, at in zip(said, times or [STAMP.at] * len(said), strict=True):
        state = evolve(state, event, STAMP._replace(at=at))
    found: tuple[Consent, ...] = state.consents[said[0].flag]
    return found


@pytest.mark.parametrize(
    ("decision", "event"),
    [("granted", granted()), ("refused", refused()), ("withdrawn", withdrawn())],
)
def test_each_decision_is_an_event_of_its_own(decision: str, event: events.Event) -> None:
    says(decision=decision).then(event)


def test_the_same_again_is_said_again() -> None:
    says(granted()).then(granted())


def test_a_flag_that_nobody_set_up_is_no_flag() -> None:
    says(flag="blood-donation").then_refused("NOT_FOUND")


def test_without_evidence_nothing_was_said() -> None:
    with pytest.raises(ValueError, match="evidence"):
        when(
            registered(), operation=Operation.SET_CONSENT, entry="research", decision="granted"
        ).decide()


@pytest.mark.parametrize(
    "said",
    [
        {"validFrom": "2026-04-01T00:00:00Z", "validUntil": "2026-04-01T00:00:00Z"},
        {"validFrom": "2026-04-02T00:00:00Z", "validUntil": "2026-04-01T00:00:00Z"},
        {"validUntil": "2026-03-01T12:00:00Z"},
        {"validUntil": "2026-03-01T13:00:00+02:00"},
    ],
)
def test_it_ends_after_it_begins(said: dict[str, str]) -> None:
    says(**said).then_refused("VALIDATION_FAILED", "/validUntil")


def test_instants_are_kept_in_utc_and_texts_clean() -> None:
    (event,) = says(
        validFrom="2026-03-01T14:00:00+02:00",
        policy="  the  policy ",
        evidence={"kind": "guardian", "witness": " Nurse  Ola "},
    ).decide()
    assert isinstance(event, events.ConsentGranted)
    assert (event.valid_from, event.policy, event.evidence.witness) == (
        NOW,
        "the policy",
        "Nurse Ola",
    )


def test_a_program_gone_wild_is_stopped() -> None:
    says(*[granted()] * MOST_DECISIONS).then_refused("VALIDATION_FAILED", "")


class TestThePortraitFollowsItsConsent:
    removed = events.PortraitRemoved(portrait_id=uuid(5), cause="consent-ended")
    kept = (granted(PORTRAIT), portrait_set())

    @pytest.mark.parametrize("decision", ["refused", "withdrawn"])
    def test_it_goes_with_the_consent(self, decision: str) -> None:
        said = refused(PORTRAIT) if decision == "refused" else withdrawn(PORTRAIT)
        says(*self.kept, flag=PORTRAIT, decision=decision).then(said, self.removed)

    def test_it_stays_when_the_consent_is_given_again(self) -> None:
        says(*self.kept, flag=PORTRAIT).then(granted(PORTRAIT))

    def test_it_stays_until_a_withdrawal_of_tomorrow(self) -> None:
        tomorrow = NOW + DAY
        says(*self.kept, flag=PORTRAIT, decision="withdrawn", validFrom=tomorrow.isoformat()).then(
            withdrawn(PORTRAIT, valid_from=tomorrow)
        )

    def test_another_flag_is_none_of_its_business(self) -> None:
        says(*self.kept, decision="withdrawn").then(withdrawn())

    def test_nothing_to_remove_is_nothing_removed(self) -> None:
        says(granted(PORTRAIT), flag=PORTRAIT, decision="withdrawn").then(withdrawn(PORTRAIT))


class TestWhatHoldsAtAnInstant:
    def test_nothing_was_said(self) -> None:
        assert in_force((), NOW) is None

    def test_a_decision_without_a_beginning_holds_from_when_it_was_recorded(self) -> None:
        said = decisions(granted())
        assert in_force(said, STAMP.at - DAY) is None
        assert in_force(said, STAMP.at) == said[0]

    def test_what_is_to_come_leaves_what_is(self) -> None:
        said = decisions(granted(), refused(valid_from=NOW + DAY))
        assert (in_force(said, NOW), in_force(said, NOW + DAY)) == said

    def test_what_has_run_out_does_not_fall_back_to_what_was_before(self) -> None:
        said = decisions(granted(), granted(valid_until=NOW))
        assert is_granted(said, NOW - timedelta(seconds=1))
        assert not is_granted(said, NOW)

    def test_a_paper_form_entered_late_holds_from_its_date(self) -> None:
        said = decisions(granted(valid_from=NOW - 30 * DAY))
        assert is_granted(said, NOW - 30 * DAY)
        assert not is_granted(said, NOW - 31 * DAY)


_hours = st.one_of(st.none(), st.integers(-50, 50))


@st.composite
def _decisions(draw: st.DrawFn) -> tuple[Consent, ...]:
    said, times = [], []
    for at in sorted(draw(st.lists(st.integers(-50, 0), min_size=1, max_size=6))):
        kind = draw(st.sampled_from([granted, refused, withdrawn]))
        begins, ends = draw(_hours), draw(_hours)
        said.append(
            kind(
                valid_from=None if begins is None else NOW + timedelta(hours=begins),
                valid_until=None if ends is None else NOW + timedelta(hours=ends),
            )
        )
        times.append(NOW + timedelta(hours=at))
    return decisions(*said, times=times)


@settings(max_examples=300, deadline=None)
@given(_decisions(), st.integers(-60, 60))
def test_consent_lasts_exactly_until_it_is_said_to(said: tuple[Consent, ...], start: int) -> None:
    """From the instant asked about on, every hour before the end is granted, and the end is not."""
    now = NOW + timedelta(hours=start)
    end = granted_until(said, now)
    hours = [now + timedelta(hours=n) for n in range(150)]
    granted_hours = [hour for hour in hours if is_granted(said, hour)]
    if end is None:
        assert granted_hours == hours
    else:
        assert not is_granted(said, end)
        assert all(is_granted(said, hour) for hour in hours if hour < end)
