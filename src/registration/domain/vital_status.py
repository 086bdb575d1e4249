"""Death and its reversal: legal records, each with a version, a reason and a history."""

from collections.abc import Sequence

from registration.domain import commands, events
from registration.domain.context import Context
from registration.domain.dates import confirm_past, is_before_birth
from registration.domain.errors import DomainError, invalid, not_found
from registration.domain.names import clean_text
from registration.domain.patient_state import PatientState


def decide_record_death(
    state: PatientState, command: commands.RecordDeath, context: Context
) -> Sequence[events.Event]:
    """Record that the patient died. What was recorded stands until it is reversed."""
    deceased_at = confirm_past(command.deceased_at, context.now, "/deceasedAt")
    if is_before_birth(deceased_at, state.birth_date):
        raise invalid("/deceasedAt", "lies before the birth")
    event = events.DeathRecorded(
        deceased_at=deceased_at,
        cause=command.cause and clean_text(command.cause, "/cause"),
        certificate=command.certificate and clean_text(command.certificate, "/certificate"),
    )
    known = state.deceased
    if known is None:
        return [event]
    if (known.deceased_at, known.cause, known.certificate) == (
        event.deceased_at,
        event.cause,
        event.certificate,
    ):
        return []
    raise DomainError(
        "PATIENT_DECEASED", "A death is recorded already; to correct it, reverse it first."
    )


def decide_reverse_death(
    state: PatientState, command: commands.Reason, _context: Context
) -> Sequence[events.Event]:
    """Say that a death was recorded by mistake."""
    if state.deceased is None:
        raise not_found("record of a death")
    return [events.DeathReversed(reason=clean_text(command.reason, "/reason"))]
