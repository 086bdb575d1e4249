"""How the gate refuses: which refusals it remembers, and what of them a caller may see."""

import orjson

from registration.command import Attempt, Refusal
from registration.domain.errors import DomainError
from registration.domain.patient_resource import Patient
from registration.eventstore.records import Outcome

REMEMBERED = frozenset(
    {
        "NOT_FOUND",
        "ID_TAKEN",
        "IDENTIFIER_CONFLICT",
        "OPTIMISTIC_LOCK_CONFLICT",
        "PATIENT_MERGED",
        "PATIENT_DECEASED",
        "CONSENT_REQUIRED",
        "ENCOUNTER_TRANSITION_NOT_ALLOWED",
        "EXTENSION_INVALID",
        "MERGE_NOT_ALLOWED",
        "PORTRAIT_GONE",
        "ERASED",
    }
)
"""Refusals that depend on what is stored, and so are worth remembering under a key. The others
depend on the request alone, and come again by themselves."""


def id_taken() -> DomainError:
    """Build the refusal of a chosen id that names something else."""
    return DomainError("ID_TAKEN", "The chosen id already names something else.")


def key_reused(attempt: Attempt) -> DomainError:
    """Build the refusal of a key under which another request was carried out."""
    if attempt.command.key is None:  # the key was the id that the client chose
        return id_taken()
    return DomainError(
        "IDEMPOTENCY_KEY_REUSED", "This key belongs to another request; use a new one."
    )


def stored_refusal(outcome: Outcome, attempt: Attempt) -> Refusal:
    """Build the refusal that the first request with this key got."""
    stored = orjson.loads(outcome.body or b"{}")
    error = DomainError(stored["code"], stored["detail"], stored["extra"])
    return Refusal(visible(error, attempt), replayed=True)


_PATIENT_DATA = frozenset({"current", "fields", "patientId"})


def visible(error: DomainError, attempt: Attempt) -> DomainError:
    """Leave out of a refusal what the caller may not read."""
    # an encounter's refusal shows its patient
    about_patient = error.code == "PATIENT_MERGED"
    needed = Patient.READ_SCOPE if about_patient else attempt.handler.aggregate.READ_SCOPE
    if needed is None or needed in attempt.context.scopes or _PATIENT_DATA.isdisjoint(error.extra):
        return error
    extra = {name: value for name, value in error.extra.items() if name not in _PATIENT_DATA}
    if "changes" in extra:
        extra["changes"] = [
            {name: change[name] for name in ("version", "event", "at")}
            for change in extra["changes"]
        ]
    return DomainError(error.code, error.detail, extra)
