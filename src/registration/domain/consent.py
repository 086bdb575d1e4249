"""Consent flags: a legal record of what a person said, each decision an event of its own.

Nothing is merged and nothing overwritten. A decision holds from its ``validFrom``, or from when it
was recorded; of those that have begun by an instant, the one recorded last holds then.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from registration.domain import commands, events
from registration.domain.context import Context
from registration.domain.dates import utc
from registration.domain.errors import invalid, not_found
from registration.domain.names import clean_text
from registration.domain.patient_state import PatientState
from registration.domain.resources import Consent, Decision, Evidence

PORTRAIT = "portrait"
"""The flag without which no picture of a patient is kept."""
MOST_DECISIONS = 1000
"""Decisions about one flag of one patient; more is a mistake of some program."""

_EVENTS: dict[Decision, type[events.ConsentEvent]] = {
    kind.DECISION: kind
    for kind in (events.ConsentGranted, events.ConsentRefused, events.ConsentWithdrawn)
}


def decide_set_consent(
    state: PatientState, command: commands.SetConsent, context: Context, flag: str
) -> Sequence[events.Event]:
    """Record what the person said; where that ends the consent to a portrait, the portrait goes."""
    if flag not in context.consent_flags:
        raise not_found("consent flag")
    valid_from, valid_until = utc(command.valid_from), utc(command.valid_until)
    if valid_until is not None and valid_until <= (valid_from or context.now):
        raise invalid("/validUntil", "must come after validFrom, which is now where it is absent")
    earlier = state.consents.get(flag, ())
    if len(earlier) >= MOST_DECISIONS:
        raise invalid("", f"a flag has at most {MOST_DECISIONS} decisions")
    said = _EVENTS[command.decision].trusted(
        flag=flag,
        policy=command.policy and clean_text(command.policy, "/policy"),
        evidence=_evidence(command.evidence),
        valid_from=valid_from,
        valid_until=valid_until,
    )
    if flag != PORTRAIT or state.portrait is None:
        return [said]
    # as it will be the moment this is recorded
    begins = valid_from is None or valid_from <= context.now
    granted = said.DECISION == "granted" if begins else is_granted(earlier, context.now)
    if granted:
        return [said]
    removed = events.PortraitRemoved(portrait_id=state.portrait.id, cause="consent-ended")
    return [said, removed]


def in_force(decisions: Sequence[Consent], at: datetime) -> Consent | None:
    """Return the decision that holds at an instant, as is known now; ``None`` where none does."""
    said = last_begun(decisions, at)
    run_out = said is not None and said.valid_until is not None and said.valid_until <= at
    return None if run_out else said


def last_begun(decisions: Sequence[Consent], at: datetime) -> Consent | None:
    """Return the decision recorded last of those that have begun by an instant, run out or not."""
    return next((said for said in reversed(decisions) if _begins(said) <= at), None)


def is_granted(decisions: Sequence[Consent], at: datetime) -> bool:
    """Whether consent is in force at an instant."""
    said = in_force(decisions, at)
    return said is not None and said.decision == "granted"


def granted_until(decisions: Sequence[Consent], now: datetime) -> datetime | None:
    """Return the first instant from ``now`` at which consent is not in force; ``None``: never."""
    return next(
        (
            moment
            for moment in sorted({now, *_turns(decisions)})
            if moment >= now and not is_granted(decisions, moment)
        ),
        None,
    )


def _turns(decisions: Sequence[Consent]) -> Iterator[datetime]:
    for said in decisions:
        yield _begins(said)
        if said.valid_until is not None:
            yield said.valid_until


def _begins(said: Consent) -> datetime:
    return said.valid_from or said.recorded_at


def _evidence(said: Evidence) -> Evidence:
    return Evidence(
        kind=said.kind,
        reference=said.reference and clean_text(said.reference, "/evidence/reference"),
        witness=said.witness and clean_text(said.witness, "/evidence/witness"),
    )
