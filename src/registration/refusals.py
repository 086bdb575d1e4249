"""How the gate refuses: which refusals it remembers, and what of them a caller may see."""

from typing import Any

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
    # an encounter's refusal shows its patient, and that of a merge both
    about_patients = error.code == "PATIENT_MERGED" or attempt.handler.parties is not None
    needed = Patient.READ_SCOPE if about_patients else attempt.handler.aggregate.READ_SCOPE
    if needed is None or needed in attempt.context.scopes or _PATIENT_DATA.isdisjoint(error.extra):
        return error
    extra = {name: value for name, value in error.extra.items() if name not in _PATIENT_DATA}
    if "changes" in extra:
        extra["changes"] = _bare(extra["changes"])
    if "patients" in extra:
        extra["patients"] = [
            {**each, "changes": _bare(each["changes"])} for each in extra["patients"]
        ]
    return DomainError(error.code, error.detail, extra)


def _bare(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what happened and when, and of two records to which; not who did it, nor what to."""
    kept = ("patientId", "version", "event", "at")
    return [{name: change[name] for name in kept if name in change} for change in changes]
