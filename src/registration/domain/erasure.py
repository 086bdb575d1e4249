"""Erasing a patient: requested by one person, approved by another, and then done for good.

What is erased is all that is known of a person: the record, and every record that was merged into
it. Approval deletes the keys that what was recorded of them is sealed with, in the transaction that
says so; from then on every record about them answers ``ERASED``. It cannot be undone.

The request itself stays: that somebody was erased when, at whose request, on what basis.

Source: GDPR article 17 (right to erasure); the wire contract, code ``ERASED``.
"""

from collections.abc import Sequence
from copy import copy
from typing import Annotated, ClassVar, Literal, NamedTuple
from uuid import UUID

from pydantic import Field

from registration.domain import commands, events
from registration.domain.aggregate import Aggregate, Decided, Stamp
from registration.domain.context import Context
from registration.domain.errors import DomainError, not_found
from registration.domain.merge import Parties, Said, merged_away, survivor_of
from registration.domain.names import clean_text
from registration.domain.resources import Code, Model

ErasureStatus = Literal["requested", "refused", "shredded"]


class ErasureResource(Model):
    """A request to erase a patient, at one version.

    ``patientIds`` are the records that approval erases: the patient, and what was merged into it.
    The reason is erased with them; the basis stays. ``shredded`` says that the patient is erased:
    by this request (then it is ``approved``), or by another one while this one was open.
    """

    id: UUID
    version: Annotated[int, Field(ge=1)]
    status: ErasureStatus
    patient_id: UUID
    patient_ids: tuple[UUID, ...]
    basis: Code
    requested: Said
    approved: Said | None = None
    refused: Said | None = None


class ErasureState(NamedTuple):
    """All that is known of a request."""

    status: ErasureStatus
    patient_id: UUID
    patient_ids: tuple[UUID, ...]
    basis: str
    requested: Said
    approved: Said | None = None
    refused: Said | None = None


class Erasure(Aggregate[ErasureState]):
    """A request folded from its history."""

    KIND = "erasure"
    EVENTS = events.ErasureEvent
    READ_SCOPE = "erasure:read"
    ABOUT: ClassVar[frozenset[str]] = frozenset({"version"})
    OUTLIVES_ERASURE = True

    @staticmethod
    def evolve(
        state: ErasureState | None, event: events.ErasureEvent, stamp: Stamp
    ) -> ErasureState:
        """Return the state after one more event."""
        reason = getattr(event, "reason", None) or None  # empty: erased
        said = Said.trusted(by=stamp.by, at=stamp.at, reason=reason)
        if isinstance(event, events.ErasureRequested):
            status: ErasureStatus = "requested" if event.reason else "shredded"
            return ErasureState(status, event.patient_id, event.patient_ids, event.basis, said)
        if state is None:
            raise ValueError(f"an erasure starts with its request, not {event.TOPIC}")
        match event:
            case events.ErasureApproved():
                return state._replace(approved=said)
            case events.ErasureShredded():
                return state._replace(
                    status="shredded",
                    patient_ids=event.patient_ids,
                    requested=_bare(state.requested),
                )
            case events.ErasureRefused():
                return state._replace(status="refused", refused=said)
        raise ValueError(f"{event.TOPIC} is no event of an erasure")

    @classmethod
    def from_shown(cls, shown: ErasureResource) -> "Erasure":
        """Return the request that the wire shows; nothing of it is lost."""
        erasure = cls(shown.id)
        erasure.version = shown.version
        erasure.state = ErasureState(
            **{name: getattr(shown, name) for name in ErasureState._fields}
        )
        return erasure

    def without_reasons(self) -> "Erasure":
        """Return the request as it is once its patient was erased, by whichever request.

        Nobody knows why any more, and nothing waits.
        """
        left = copy(self)
        if (state := self.state) is not None:
            left.state = state._replace(
                status="shredded" if state.status == "requested" else state.status,
                requested=_bare(state.requested),
                refused=None if state.refused is None else _bare(state.refused),
            )
        return left

    @property
    def patient_ids(self) -> tuple[UUID, ...]:
        """Who is to be erased."""
        return (self.state.patient_id,) if self.state else ()

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v1/erasures/{self.id}"

    def shown(self) -> ErasureResource:
        """Return the request as the wire shows it."""
        if self.state is None:
            raise ValueError("an erasure without history cannot be shown")
        return ErasureResource.trusted(id=self.id, version=self.version, **self.state._asdict())


def party_of_request(_state: None, command: commands.RequestErasure) -> tuple[UUID]:
    """Return the patient that a request is about."""
    return (command.patient_id,)


def party_of_decision(state: ErasureState, _command: Model) -> tuple[UUID, ...]:
    """Return the patient that a decision is about; none where nothing is left to decide."""
    return (state.patient_id,) if state.status == "requested" else ()


def decide_request(
    _state: None,
    command: commands.RequestErasure,
    _context: Context,
    parties: Parties,
    _erasure_id: UUID,
) -> Decided:
    """Ask for a patient to be erased. A record that was merged away is erased with its survivor."""
    requested = events.ErasureRequested(
        patient_id=command.patient_id,
        patient_ids=_records_of(parties, command.patient_id),
        basis=command.basis,
        reason=clean_text(command.reason, "/reason"),
    )
    return Decided([requested])


def decide_approve(
    state: ErasureState, _command: Model, context: Context, parties: Parties, erasure_id: UUID
) -> Decided:
    """Agree, and erase: the records that the request named, or none."""
    _require_open(state)
    if context.actor == state.requested.by:
        raise DomainError("FORBIDDEN", "Who requested an erasure cannot approve it.")
    if _records_of(parties, state.patient_id) != state.patient_ids:
        raise DomainError(
            "ERASURE_NOT_ALLOWED",
            "Records were merged or separated since the request: refuse it, and request it anew.",
            {"erasureStatus": state.status},
        )
    return Decided(
        [events.ErasureApproved(), events.ErasureShredded(patient_ids=state.patient_ids)],
        {its_id: [events.PatientErased(erasure_id=erasure_id)] for its_id in state.patient_ids},
    )


def decide_refuse(
    state: ErasureState, command: commands.Reason, _context: Context
) -> Sequence[events.Event]:
    """Turn a request down, or take one's own back."""
    _require_open(state)
    return [events.ErasureRefused(reason=clean_text(command.reason, "/reason"))]


def _bare(said: Said) -> Said:
    return Said.trusted(by=said.by, at=said.at)


def _records_of(parties: Parties, patient_id: UUID) -> tuple[UUID, ...]:
    """Return all records of a person. Raises for a patient that is none, or not used any more."""
    if patient_id not in parties:
        raise not_found("patient")
    if survivor_of(parties, patient_id) != patient_id:
        raise merged_away(parties, patient_id)
    return (patient_id, *sorted(parties[patient_id].state.absorbed))


def _require_open(state: ErasureState) -> None:
    if state.status != "requested":
        raise DomainError(
            "ERASURE_NOT_ALLOWED",
            f"This needs a request that is open; it is {state.status}.",
            {"erasureStatus": state.status},
        )
