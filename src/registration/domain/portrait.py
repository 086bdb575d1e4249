"""Portraits: kept only while the person consents and the retention date has not passed.

An event holds what a picture is known by, never the picture. ``docs/decisions/0006`` says where
the bytes are.
"""

from collections.abc import Sequence
from datetime import datetime

from registration.domain import commands, events
from registration.domain.consent import PORTRAIT, granted_until, is_granted
from registration.domain.context import Context
from registration.domain.errors import DomainError, not_found
from registration.domain.names import clean_text
from registration.domain.patient_state import PatientState
from registration.domain.resources import Consent


def decide_set_portrait(
    state: PatientState, command: commands.SetPortrait, context: Context
) -> Sequence[events.Event]:
    """Take a picture in, in place of the one before. The same picture again changes nothing."""
    if not is_granted(state.consents.get(PORTRAIT, ()), context.now):
        raise DomainError(
            "CONSENT_REQUIRED",
            "The patient has not consented to a portrait.",
            {"flag": PORTRAIT},
        )
    if (
        state.portrait is not None
        and state.portrait.content_hash == command.content_hash
        and why_gone(state, context.now) is None
    ):
        return []
    keeps = context.portrait_retention
    return [
        events.PortraitSet(
            portrait_id=context.new_id(),
            content_hash=command.content_hash,
            media_type=command.media_type,
            width=command.width,
            height=command.height,
            size=command.size,
            retain_until=None if keeps is None else context.now + keeps,
        )
    ]


def decide_remove_portrait(
    state: PatientState, command: commands.RemovePortrait, context: Context
) -> Sequence[events.Event]:
    """Take the picture away for good, and say why: what asked for it, or what it outlived."""
    if state.portrait is None:
        if state.portrait_gone is not None:
            raise gone(state.portrait_gone)
        raise not_found("portrait")
    asked_for: events.PortraitCause = (
        "consent-ended" if isinstance(command, commands.OutlivedPortrait) else "requested"
    )
    return [
        events.PortraitRemoved(
            portrait_id=state.portrait.id,
            cause=why_gone(state, context.now) or asked_for,
            reason=clean_text(command.reason, "/reason"),
        )
    ]


def why_gone(state: PatientState, at: datetime) -> events.PortraitCause | None:
    """Return why the patient's portrait must not be shown at an instant; ``None``: it may be.

    It is so from the very instant, whenever the bytes are removed.
    """
    if not is_granted(state.consents.get(PORTRAIT, ()), at):
        return "consent-ended"
    if (
        state.portrait is not None
        and state.portrait.retain_until is not None
        and state.portrait.retain_until <= at
    ):
        return "retention-passed"
    return None


def ended_above(above: Sequence[tuple[datetime, PatientState]], now: datetime) -> bool:
    """Whether the person ended the consent on a record that the portrait's was merged into.

    ``above`` are those records, each with the instant since which it stands for this one. What was
    said on one of them before counts for its own portrait alone: it was said of another record.
    """
    return any(_ended(state.consents.get(PORTRAIT, ()), since, now) for since, state in above)


def _ended(decisions: Sequence[Consent], since: datetime, now: datetime) -> bool:
    """Whether consent is not in force, and was at ``since`` or something was said after it."""
    if not decisions or is_granted(decisions, now):
        return False
    return is_granted(decisions, since) or decisions[-1].recorded_at > since


def due(state: PatientState, now: datetime) -> datetime | None:
    """Return when the portrait has to go, as far as is known now; ``None``: not foreseen."""
    if state.portrait is None:
        return None
    ends = (granted_until(state.consents.get(PORTRAIT, ()), now), state.portrait.retain_until)
    return min((end for end in ends if end is not None), default=None)


def gone(cause: str) -> DomainError:
    """Build ``PORTRAIT_GONE``."""
    return DomainError("PORTRAIT_GONE", "The portrait was removed for good.", {"cause": cause})
