"""A change that somebody made at this device, from the moment it is queued to what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from registration.domain.contract import Operation


class State(StrEnum):
    """Where a mutation stands. ``APPLIED`` and ``DISCARDED`` are for good."""

    QUEUED = "queued"
    APPLIED = "applied"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    CONFIRMATION = "confirmation"
    BLOCKED = "blocked"
    DISCARDED = "discarded"


ERASED = "ERASED"
"""The code of a refusal of what was about somebody who was erased."""

IN_REVIEW = (State.CONFLICT, State.REJECTED, State.CONFIRMATION, State.BLOCKED)
"""What waits for a person."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change.

    ``number`` names it on this device for good; ``id`` is its clientMutationId, which changes only
    while the service cannot have it. ``doubtful``: it was sent, and no answer came. ``version`` is
    the service's answer once it is applied, ``position`` how far the log was with the answer,
    whatever that said; ``pulled`` says that a pull brought it. ``own_at``: the device chose the
    instant in the payload; ``uncertain``: it did not know yet how far its clock is off.
    ``changes``: it changed something here. ``problem`` is why the service refused it, ``reason``
    why somebody discarded it.
    """

    number: int
    id: UUID
    subject: str
    operation: Operation
    kind: str
    aggregate_id: UUID
    patient_id: UUID | None
    entry: str | None
    payload: Mapping[str, Any] = field(repr=False)
    base_version: int | None
    after: UUID | None
    supersedes: UUID | None
    made_at: datetime
    facility: str | None
    own_at: bool
    uncertain: bool
    changes: bool
    state: State
    doubtful: bool
    version: int | None
    position: int | None
    pulled: bool
    problem: Mapping[str, Any] | None = field(repr=False)
    reason: str | None = field(repr=False)
    superseded_by: UUID | None
    settled_at: datetime | None

    @property
    def code(self) -> str | None:
        """The code of the refusal."""
        return None if self.problem is None else str(self.problem.get("code", ""))

    @property
    def is_erased(self) -> bool:
        """Whether it was about somebody who was erased: then it says nothing any more."""
        return self.code == ERASED

    def wire(self) -> dict[str, Any]:
        """Return it as a push says it."""
        said: dict[str, Any] = {
            "clientMutationId": str(self.id),
            "operation": self.operation.value,
            "aggregateId": str(self.aggregate_id),
            "entry": self.entry,
            "baseVersion": self.base_version,
            "afterMutation": None if self.after is None else str(self.after),
            "supersedes": None if self.supersedes is None else str(self.supersedes),
        }
        present = {name: value for name, value in said.items() if value is not None}
        return present | {"payload": self.payload}


COLUMNS = (
    "number, id, subject, operation, kind, aggregate_id, patient_id, entry, payload, base_version,"
    " after_id, supersedes, made_at, facility, own_at, uncertain, changes, state, doubtful,"
    " version, position, pulled, problem, reason, superseded_by, settled_at"
)
"""The columns of the table, in the order of the members."""


def from_row(row: tuple[Any, ...]) -> Mutation:
    """Return the mutation of a row with :data:`COLUMNS`."""
    (
        number, its_id, subject, operation, kind, aggregate_id, patient_id, entry, payload,
        base_version, after, supersedes, made_at, facility, own_at, uncertain, changes, state,
        doubtful, version, position, pulled, problem, reason, superseded_by, settled_at,
    ) = row  # fmt: skip
    return Mutation(
        number=number,
        id=UUID(its_id),
        subject=subject,
        operation=Operation(operation),
        kind=kind,
        aggregate_id=UUID(aggregate_id),
        patient_id=_id(patient_id),
        entry=entry,
        payload=orjson.loads(payload),
        base_version=base_version,
        after=_id(after),
        supersedes=_id(supersedes),
        made_at=datetime.fromisoformat(made_at),
        facility=facility,
        own_at=bool(own_at),
        uncertain=bool(uncertain),
        changes=bool(changes),
        state=State(state),
        doubtful=bool(doubtful),
        version=version,
        position=position,
        pulled=bool(pulled),
        problem=None if problem is None else orjson.loads(problem),
        reason=reason,
        superseded_by=_id(superseded_by),
        settled_at=None if settled_at is None else datetime.fromisoformat(settled_at),
    )


def _id(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)
