"""Portraits: kept only with consent, and only for as long as they may be."""

from datetime import timedelta
from typing import Any

import pytest
from tests.domain.given import NOW, STAMP, When, folded, registered, uuid, when
from tests.domain.test_consent import DAY, granted, portrait_set, withdrawn

from registration.domain import events
from registration.domain.consent import PORTRAIT
from registration.domain.contract import Operation
from registration.domain.patient_resource import Patient
from registration.domain.patient_state import PatientState
from registration.domain.portrait import due, ended_above, why_gone

PICTURE: dict[str, Any] = {
    "contentHash": "cd",
    "mediaType": "image/jpeg",
    "width": 3,
    "height": 4,
    "size": 9,
}


def sets(*history: events.Event, **said: Any) -> When:
    return when(registered(), *history, operation=Operation.SET_PORTRAIT, **PICTURE | said)


def removes(*history: events.Event) -> When:
    return when(registered(), *history, operation=Operation.REMOVE_PORTRAIT, reason="asked to")


def removed(cause: events.PortraitCause) -> events.PortraitRemoved:
    return events.PortraitRemoved(portrait_id=uuid(5), cause=cause, reason="asked to")


@pytest.mark.parametrize(
    "history",
    [
        (),
        (granted("research"),),
        (granted(PORTRAIT), withdrawn(PORTRAIT)),
        (granted(PORTRAIT, valid_until=NOW),),
        (granted(PORTRAIT, valid_from=NOW + DAY),),
    ],
    ids=["never asked", "another flag", "withdrawn", "run out", "not yet"],
)
def test_without_consent_in_force_no_picture_is_kept(history: tuple[events.Event, ...]) -> None:
    assert sets(*history).then_refused("CONSENT_REQUIRED").extra == {"flag": PORTRAIT}


def test_a_picture_gets_an_id_and_the_date_that_the_tenants_policy_gives_it() -> None:
    sets(granted(PORTRAIT)).then(
        events.PortraitSet(
            portrait_id=uuid(1000),
            content_hash="cd",
            media_type="image/jpeg",
            width=3,
            height=4,
            size=9,
            retain_until=NOW + timedelta(days=365),
        )
    )


def test_the_same_picture_again_changes_nothing() -> None:
    sets(granted(PORTRAIT), portrait_set(), contentHash="ab").then_nothing()


def test_unless_its_time_had_passed() -> None:
    (event,) = sets(granted(PORTRAIT), portrait_set(NOW), contentHash="ab").decide()
    assert isinstance(event, events.PortraitSet)


@pytest.mark.parametrize(
    ("history", "cause"),
    [
        ((granted(PORTRAIT), portrait_set()), "requested"),
        ((granted(PORTRAIT), portrait_set(NOW)), "retention-passed"),
        ((granted(PORTRAIT, valid_until=NOW), portrait_set()), "consent-ended"),
    ],
)
def test_its_removal_says_why(history: tuple[events.Event, ...], cause: Any) -> None:
    removes(*history).then(removed(cause))


def test_what_never_was_cannot_go() -> None:
    removes(granted(PORTRAIT)).then_refused("NOT_FOUND")


def test_what_has_gone_is_gone() -> None:
    refusal = removes(granted(PORTRAIT), portrait_set(), removed("requested")).then_refused(
        "PORTRAIT_GONE"
    )
    assert refusal.extra == {"cause": "requested"}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ((granted(PORTRAIT),), None),
        ((granted(PORTRAIT), portrait_set()), None),
        ((granted(PORTRAIT), portrait_set(NOW + DAY)), NOW + DAY),
        ((granted(PORTRAIT, valid_until=NOW + DAY), portrait_set(NOW + 2 * DAY)), NOW + DAY),
        (
            (granted(PORTRAIT), withdrawn(PORTRAIT, valid_from=NOW + DAY), portrait_set()),
            NOW + DAY,
        ),
    ],
    ids=["no picture", "for good", "its date", "the consent's end", "a withdrawal to come"],
)
def test_when_it_has_to_go_is_known_beforehand(history: Any, expected: Any) -> None:
    state = folded(Patient, [registered(), *history])
    assert due(state, NOW) == expected
    if expected is not None:
        assert why_gone(state, expected - timedelta(microseconds=1)) is None
        assert why_gone(state, expected) is not None


def said(*decisions: tuple[int, events.Event]) -> PatientState:
    """Return a patient who said things so many days ago."""
    state = Patient.evolve(None, registered(), STAMP)
    for days, event in decisions:
        state = Patient.evolve(state, event, STAMP._replace(at=NOW - days * DAY))
    return state


@pytest.mark.parametrize(
    ("survivor", "goes"),
    [
        (said(), False),
        (said((20, granted(PORTRAIT))), False),
        (said((20, withdrawn(PORTRAIT))), False),
        (said((20, granted(PORTRAIT, valid_until=NOW - 15 * DAY))), False),
        (said((20, granted(PORTRAIT)), (5, withdrawn(PORTRAIT))), True),
        (said((20, granted(PORTRAIT, valid_until=NOW - 5 * DAY))), True),
        (said((20, withdrawn(PORTRAIT)), (5, withdrawn(PORTRAIT))), True),
        (said((5, withdrawn(PORTRAIT))), True),
        (said((5, withdrawn(PORTRAIT)), (4, granted(PORTRAIT))), False),
        (said((5, withdrawn("research"))), False),
    ],
    ids=[
        "nothing said",
        "agrees",
        "withdrawn before",
        "run out before",
        "withdrawn since",
        "run out since",
        "withdrawn again since",
        "said no since",
        "agrees again since",
        "about something else",
    ],
)
def test_what_a_person_ends_on_the_survivor_ends_for_the_merged_record(
    survivor: PatientState, goes: bool
) -> None:
    """Given a merge ten days ago."""
    assert ended_above([(NOW - 10 * DAY, survivor)], NOW) is goes
    assert ended_above([(NOW - 10 * DAY, said()), (NOW - 10 * DAY, survivor)], NOW) is goes


def test_a_record_that_was_merged_into_none_has_nobody_above() -> None:
    assert not ended_above([], NOW)
