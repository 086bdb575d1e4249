"""A pair of records that may be one person's, as far as somebody decided about it.

That two records look alike is nothing that happened: the read model finds it, and finds it again.
What happened is that a person looked at the pair and found two persons: only that is stored, in a
stream whose id follows from the two patients.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple
from uuid import UUID, uuid5

from pydantic import Field

from registration.domain import commands, events
from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.context import Context
from registration.domain.names import clean_text
from registration.domain.resources import Model

_PAIRS = UUID("0d1f4f6e-7c52-5c3f-9a35-0f7e5a0c8b1d")


def ordered(one: UUID, other: UUID) -> tuple[UUID, UUID]:
    """Return a pair in the order in which it is kept."""
    return (one, other) if one < other else (other, one)


def candidate_id(one: UUID, other: UUID) -> UUID:
    """Return the id of a pair of patients, whichever is named first."""
    return uuid5(_PAIRS, "".join(map(str, ordered(one, other))))


_COMPARED = (
    *("names", "gender", "birthDate", "birthDateEstimated", "deceased", "identifiers", "telecom"),
    *("addresses", "nextOfKin", "maritalStatus", "preferredLanguage", "facility"),
)
"""Members of a patient, by wire name, in the order in which people look at them."""
_NOT_COMPARED = frozenset({"id", "recordedAt", "recordedBy"})


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the members in which two patients differ, both given as plain values of the wire.

    Shape: ``[{"path", "left", "right"}]``, absent members as ``None``. Ids of entries say nothing.
    """
    found = []
    for member in _COMPARED:
        one, other = _bare(left.get(member)), _bare(right.get(member))
        if one != other:
            found.append({"path": f"/{member}", "left": one, "right": other})
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(each) for each in value]
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if name not in _NOT_COMPARED}
    return value


class Dismissal(Model):
    """That a pair was found to be two persons, on what evidence and why."""

    id: UUID
    version: Annotated[int, Field(ge=1)]
    patient_ids: tuple[UUID, UUID]
    evidence: str
    reason: str
    dismissed_by: str


class CandidateState(NamedTuple):
    """The last dismissal of a pair."""

    patient_ids: tuple[UUID, UUID]
    evidence: str
    reason: str
    by: str


class Candidate(Aggregate[CandidateState]):
    """A pair folded from what was decided about it."""

    KIND = "candidate"
    EVENTS = events.CandidateEvent
    READ_SCOPE = "mpi:read"
    ABOUT: ClassVar[frozenset[str]] = frozenset({"version"})

    @staticmethod
    def evolve(
        _state: CandidateState | None, event: events.CandidateDismissed, stamp: Stamp
    ) -> CandidateState:
        """Return the state after one more dismissal."""
        return CandidateState(event.patient_ids, event.evidence, event.reason, stamp.by)

    @property
    def patient_ids(self) -> tuple[UUID, ...]:
        """The pair."""
        return self.state.patient_ids if self.state else ()

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v1/mpi/candidates/{self.id}"

    def shown(self) -> Dismissal:
        """Return the dismissal as the wire shows it."""
        if self.state is None:
            raise ValueError("a pair that nobody decided about cannot be shown")
        patient_ids, evidence, reason, by = self.state
        return Dismissal.trusted(
            id=self.id,
            version=self.version,
            patient_ids=patient_ids,
            evidence=evidence,
            reason=reason,
            dismissed_by=by,
        )


def decide_dismiss(
    state: CandidateState | None, command: commands.DismissCandidate, _context: Context
) -> Sequence[events.Event]:
    """Find a pair to be two persons; once is enough while the evidence is the same."""
    if state is not None and state.evidence == command.evidence:
        return []
    return [
        events.CandidateDismissed(
            patient_ids=command.patient_ids,
            evidence=command.evidence,
            reason=clean_text(command.reason, "/reason"),
        )
    ]
