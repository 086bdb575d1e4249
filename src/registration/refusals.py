"""How the gate refuses: which refusals it remembers, and what of them a caller may see."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

import orjson

from registration.command import Attempt, Refusal, fingerprint_of
from registration.domain.errors import DomainError
from registration.domain.patient_resource import Patient
from registration.eventstore.records import Outcome
from registration.eventstore.sealing import (
    KEYRING,
    MOST_SUBJECTS,
    NEVER_SEALED,
    Place,
    public_part,
)

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
        "ERASURE_NOT_ALLOWED",
    }
)
"""Refusals that depend on what is stored, and so are worth remembering under a key. The others
depend on the request alone, or are for good (``ERASED``), and come again by themselves."""


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


def require_same_request(attempt: Attempt, outcome: Outcome) -> None:
    """Raise ``IDEMPOTENCY_KEY_REUSED`` where the key's outcome is that of another request."""
    if outcome.fingerprint not in (attempt.fingerprint, _confirmation_of(attempt, outcome)):
        raise Refusal(key_reused(attempt))


def _confirmation_of(attempt: Attempt, outcome: Outcome) -> UUID | None:
    """Return the fingerprint that the direct request had by which a person confirmed a mutation."""
    if not attempt.command.offline or attempt.handler.case is None:
        return None
    direct = attempt.command._replace(version=outcome.version - 1, after=None, supersedes=None)
    return fingerprint_of(direct)


def stored_refusal(outcome: Outcome, attempt: Attempt) -> Refusal:
    """Build the refusal that the first request with this key got.

    What it said of people is gone once one of them was erased.
    """
    body = outcome.body or b"{}"
    text = KEYRING.opened(_place(attempt), body, outcome.body_key)
    stored = orjson.loads(public_part(body) if text is None else text)
    error = DomainError(stored["code"], stored["detail"], stored.get("extra", {}))
    return Refusal(visible(error, attempt), replayed=True)


def sealed_refusal(
    error: DomainError, attempt: Attempt, wrapped: Mapping[UUID, bytes | None]
) -> bytes:
    """Return a refusal as it is stored: what it says of people is sealed to them.

    ``wrapped`` has the key of each of :func:`people_in`; without one of these what it says of them
    is left out, and where they are more than a text can be sealed to.
    """
    told = {"code": error.code, "detail": error.detail}
    if None in wrapped.values() or len(wrapped) > MOST_SUBJECTS:
        return orjson.dumps({**told, "extra": {}})
    held = {
        person: key for person, key in wrapped.items() if key is not None and key != NEVER_SEALED
    }
    if not held:
        return orjson.dumps({**told, "extra": error.extra})
    hidden = orjson.dumps({"extra": error.extra})
    shown = orjson.dumps(told)
    return KEYRING.seal(_place(attempt), shown, hidden, tuple(held), b"".join(held.values()))


def people_in(error: DomainError, attempt: Attempt) -> tuple[UUID, ...]:
    """Return whom a refusal tells something of; empty where it tells ids alone, or nothing.

    All that it names: a merge names two records, and the surviving one shows what it absorbed.
    """
    if error.code in _OF_IDS_ALONE or not error.extra:
        return ()
    own = [attempt.aggregate_id] if attempt.handler.aggregate is Patient else []
    return tuple(dict.fromkeys([*own, *_named_in(error.extra)]))


_NAMES_PEOPLE = frozenset(
    {"patientId", "currentPatientId", "patientIds", "survivorId", "retiredId", "mergedFrom"}
)


def _named_in(told: Any, member: str = "") -> Iterator[UUID]:
    """Yield the patients that a JSON value names; an extension may have members of such names."""
    if isinstance(told, Mapping):
        for name, each in told.items():
            yield from _named_in(each, name)
    elif isinstance(told, list | tuple):
        for each in told:
            yield from _named_in(each, member)
    elif member in _NAMES_PEOPLE:
        with suppress(ValueError):  # then it is no id
            yield UUID(str(told))


_OF_IDS_ALONE = frozenset({"IDENTIFIER_CONFLICT", "ERASED", "ERASURE_NOT_ALLOWED"})


def _place(attempt: Attempt) -> Place:
    """Return where a refusal is bound to: the key that it is remembered under."""
    key = attempt.key or attempt.aggregate_id
    return Place(attempt.context.tenant, key, 0, "outcome")


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
