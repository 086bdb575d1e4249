"""Merging two records of one person, and undoing it: a decision of humans, carried out at once.

A decision has a stream of its own: proposed → approved and executed, or rejected; an executed one
can be reversed. What it does to the two patients is stored with it in one transaction. Nothing is
moved or rewritten: the retired record names its survivor, the survivor what it absorbed. So a merge
can be undone on any later day, whatever was recorded meanwhile.

Source: the sync contract, row "MPI merge decisions"; FHIR R4 Patient.link (replaced-by, replaces).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from uuid import UUID

from pydantic import Field

from registration.domain import commands, events
from registration.domain.aggregate import Aggregate, Decided, Recorded, Stamp, changes_of
from registration.domain.context import Context
from registration.domain.errors import DomainError, not_found
from registration.domain.names import clean_text
from registration.domain.obstacles import obstacles
from registration.domain.patient_resource import Patient
from registration.domain.patient_state import Absorbed, PatientState
from registration.domain.resources import Model, Obstacle

MergeStatus = Literal["proposed", "executed", "rejected", "reversed"]


class Party(NamedTuple):
    """A patient that a decision is about, as it is and as it came to be."""

    patient: Patient
    history: Sequence[Recorded]

    @property
    def state(self) -> PatientState:
        """What is known of it."""
        if self.patient.state is None:
            raise ValueError("a patient without history is no party to a merge")
        return self.patient.state


Parties = Mapping[UUID, Party]
"""By id: the patients of a decision, and every record that those were merged into."""


class Said(Model):
    """Who said something about a decision, when and why."""

    by: str
    at: datetime
    reason: str | None = None


class MergeResource(Model):
    """A merge decision at one version.

    The versions are those that were looked at last: by the proposer, then by who approved.
    """

    id: UUID
    version: Annotated[int, Field(ge=1)]
    status: MergeStatus
    survivor_id: UUID
    retired_id: UUID
    survivor_version: int
    retired_version: int
    overridden: tuple[Obstacle, ...]
    override_reason: str | None = None
    proposed: Said
    approved: Said | None = None
    rejected: Said | None = None
    reversed: Said | None = None
    released_by: tuple[UUID, ...]


class MergeState(NamedTuple):
    """All that is known of a merge decision."""

    status: MergeStatus
    survivor_id: UUID
    retired_id: UUID
    survivor_version: int
    retired_version: int
    overridden: tuple[Obstacle, ...]
    override_reason: str | None
    proposed: Said
    approved: Said | None = None
    rejected: Said | None = None
    reversed: Said | None = None
    released_by: tuple[UUID, ...] = ()
    """Once undone: the survivor, and what that had been merged into."""


class Merge(Aggregate[MergeState]):
    """A merge decision folded from its history."""

    KIND = "merge"
    EVENTS = events.MergeEvent
    READ_SCOPE = "mpi:read"
    ABOUT: ClassVar[frozenset[str]] = frozenset({"version"})

    @staticmethod
    def evolve(state: MergeState | None, event: events.MergeEvent, stamp: Stamp) -> MergeState:
        """Return the state after one more event."""
        said = Said.trusted(by=stamp.by, at=stamp.at, reason=getattr(event, "reason", None))
        if isinstance(event, events.MergeProposed):
            return MergeState(
                "proposed",
                event.survivor_id,
                event.retired_id,
                event.survivor_version,
                event.retired_version,
                event.overridden,
                event.override_reason,
                said,
            )
        if state is None:
            raise ValueError(f"a merge decision starts with its proposal, not {event.TOPIC}")
        match event:
            case events.MergeApproved():
                return state._replace(
                    approved=said,
                    survivor_version=event.survivor_version,
                    retired_version=event.retired_version,
                )
            case events.MergeExecuted():
                return state._replace(status="executed")
            case events.MergeRejected():
                return state._replace(status="rejected", rejected=said)
            case events.MergeReversed():
                return state._replace(
                    status="reversed", reversed=said, released_by=event.released_by
                )
        raise ValueError(f"{event.TOPIC} is no event of a merge decision")

    @classmethod
    def from_shown(cls, shown: MergeResource) -> "Merge":
        """Return the decision that the wire shows; nothing of it is lost."""
        merge = cls(shown.id)
        merge.version = shown.version
        merge.state = MergeState(**{name: getattr(shown, name) for name in MergeState._fields})
        return merge

    @property
    def patient_ids(self) -> tuple[UUID, ...]:
        """Both records."""
        return (self.state.survivor_id, self.state.retired_id) if self.state else ()

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v1/mpi/merges/{self.id}"

    def shown(self) -> MergeResource:
        """Return the decision as the wire shows it."""
        if self.state is None:
            raise ValueError("a merge decision without history cannot be shown")
        return MergeResource.trusted(id=self.id, version=self.version, **self.state._asdict())


def parties_of_proposal(_state: None, command: commands.ProposeMerge) -> tuple[UUID, UUID]:
    """Return the patients that a proposal is about."""
    return command.survivor_id, command.retired_id


def parties_of_decision(state: MergeState, _command: Model) -> tuple[UUID, UUID]:
    """Return the patients that a decision is about."""
    return state.survivor_id, state.retired_id


def decide_propose(
    _state: None,
    command: commands.ProposeMerge,
    context: Context,
    parties: Parties,
    _merge_id: UUID,
) -> Decided:
    """Propose to merge two records, as they were at the versions that are stated."""
    if command.survivor_version is None or command.retired_version is None:
        raise DomainError(
            "VERSION_REQUIRED", "State survivorVersion and retiredVersion: both that you have seen."
        )
    survivor, retired = _both(parties, command.survivor_id, command.retired_id)
    _insist_on_versions(
        ("survivor", survivor, command.survivor_version),
        ("retired", retired, command.retired_version),
    )
    against = tuple(obstacles(survivor.state, retired.state, context))
    override = command.override
    if against and override is None:
        raise _not_allowed("Something speaks against it; override needs a reason.", against)
    proposed = events.MergeProposed(
        survivor_id=command.survivor_id,
        retired_id=command.retired_id,
        survivor_version=command.survivor_version,
        retired_version=command.retired_version,
        reason=clean_text(command.reason, "/reason"),
        overridden=against,
        override_reason=override and clean_text(override.reason, "/override/reason"),
    )
    return Decided([proposed])


def decide_approve(
    state: MergeState,
    command: commands.ApproveMerge,
    context: Context,
    parties: Parties,
    merge_id: UUID,
) -> Decided:
    """Agree, and merge. Stored is what the preview shows, or nothing."""
    _require_status(state, "proposed")
    if context.four_eyes and context.actor == state.proposed.by:
        raise DomainError("FORBIDDEN", "Who proposed a merge cannot approve it.")
    survivor, retired = _both(parties, state.survivor_id, state.retired_id)
    _insist_on_versions(
        ("survivor", survivor, command.survivor_version or state.survivor_version),
        ("retired", retired, command.retired_version or state.retired_version),
    )
    against = obstacles(survivor.state, retired.state, context)
    unseen = tuple(each for each in against if each not in state.overridden)
    if unseen:
        raise _not_allowed("Something speaks against it that the proposal did not see.", unseen)
    return merged(merge_id, survivor.patient, retired.patient)


def merged(merge_id: UUID, survivor: Patient, retired: Patient) -> Decided:
    """Return the events that merge two records, as approval stores and the preview shows them."""
    state = retired.state
    if state is None:
        raise ValueError("a patient without history cannot be merged")
    its_own = Absorbed(retired.id, state.names, state.identifiers)
    return Decided(
        [
            events.MergeApproved(
                survivor_version=survivor.version, retired_version=retired.version
            ),
            events.MergeExecuted(survivor_id=survivor.id, retired_id=retired.id),
        ],
        {
            retired.id: [events.PatientMergedAway(merge_id=merge_id, survivor_id=survivor.id)],
            survivor.id: [
                events.PatientAbsorbed(merge_id=merge_id, **each._asdict())
                for each in (its_own, *state.absorbed.values())
            ],
        },
    )


def decide_reject(
    state: MergeState, command: commands.Reason, _context: Context
) -> Sequence[events.Event]:
    """Turn a proposal down, or take one's own back."""
    _require_status(state, "proposed")
    return [events.MergeRejected(reason=clean_text(command.reason, "/reason"))]


def decide_unmerge(
    state: MergeState,
    command: commands.Reason,
    _context: Context,
    parties: Parties,
    merge_id: UUID,
) -> Decided:
    """Undo a merge: both records are again what their own histories say.

    Where the survivor was merged away itself since, the records above it let go of the retired one
    as well.
    """
    _require_status(state, "executed")
    retired = parties[state.retired_id]
    gone = {retired.patient.id, *retired.state.absorbed}
    released: dict[UUID, Sequence[events.Event]] = {}
    above: UUID | None = state.survivor_id
    while above is not None:
        party = parties[above]
        held = tuple(its_id for its_id in party.state.absorbed if its_id in gone)
        released[above] = [events.PatientReleased(merge_id=merge_id, patient_ids=held)]
        above = party.state.merged_into
    undone = events.MergeReversed(
        survivor_id=state.survivor_id,
        retired_id=state.retired_id,
        released_by=tuple(released),
        reason=clean_text(command.reason, "/reason"),
    )
    restored = [events.PatientRestored(merge_id=merge_id)]
    return Decided([undone], {retired.patient.id: restored, **released})


def survivor_of(parties: Parties, patient_id: UUID) -> UUID:
    """Return the record that a patient is found under now: itself, or what it was merged into."""
    while (above := parties[patient_id].state.merged_into) is not None:
        patient_id = above
    return patient_id


def _both(parties: Parties, survivor_id: UUID, retired_id: UUID) -> tuple[Party, Party]:
    """Return both parties. Raises where they are one, none, or merged away already."""
    if survivor_id == retired_id:
        raise _not_allowed("A record cannot be merged into itself.")
    for its_id in (survivor_id, retired_id):
        if its_id not in parties:
            raise not_found("patient")
    if survivor_of(parties, survivor_id) == retired_id:
        raise _not_allowed("The survivor was merged into the other one: this would be a circle.")
    for its_id in (survivor_id, retired_id):
        if parties[its_id].state.merged_into is not None:
            raise merged_away(parties, its_id)
    return parties[survivor_id], parties[retired_id]


def merged_away(parties: Parties, patient_id: UUID) -> DomainError:
    """Build the refusal of a command about a record that was merged away."""
    survivor = parties[survivor_of(parties, patient_id)].patient
    state = parties[patient_id].state
    return DomainError(
        "PATIENT_MERGED",
        "This record was merged into another one.",
        {
            "patientId": str(patient_id),
            "survivorId": str(survivor.id),
            "survivorVersion": survivor.version,
            "mergeId": str(state.merge_id),
        },
    )


class Preview(NamedTuple):
    """What approval would store now, what speaks against it, and what came since the proposal."""

    decided: Decided
    against: tuple[Obstacle, ...]
    moved: Sequence[Mapping[str, Any]]


def preview(state: MergeState, context: Context, parties: Parties, merge_id: UUID) -> Preview:
    """Return what approval stores where it states the versions that are current now.

    Raises ``MERGE_NOT_ALLOWED`` for a decision that does not wait for approval any more, and
    ``PATIENT_MERGED`` where one of the records was merged elsewhere.
    """
    _require_status(state, "proposed")
    survivor, retired = _both(parties, state.survivor_id, state.retired_id)
    return Preview(
        merged(merge_id, survivor.patient, retired.patient),
        tuple(obstacles(survivor.state, retired.state, context)),
        _moved(
            ("survivor", survivor, state.survivor_version),
            ("retired", retired, state.retired_version),
        ),
    )


def _moved(*seen: tuple[str, Party, int]) -> list[dict[str, Any]]:
    """Return what came to each record since somebody looked at it, where something did.

    Any event counts: what is merged is the whole record.
    """
    return [
        {
            "role": role,
            "patientId": str(party.patient.id),
            "expectedVersion": stated,
            "currentVersion": party.patient.version,
            "changes": changes_of(enumerate(party.history[stated:], stated + 1)),
        }
        for role, party, stated in seen
        if party.patient.version != stated
    ]


def _insist_on_versions(*seen: tuple[str, Party, int]) -> None:
    """Raise ``OPTIMISTIC_LOCK_CONFLICT`` where a record is not what somebody looked at."""
    moved = _moved(*seen)
    if not moved:
        return
    first = moved[0]
    raise DomainError(
        "OPTIMISTIC_LOCK_CONFLICT",
        "A record changed since it was looked at; review both and state the new versions.",
        {
            "expectedVersion": first["expectedVersion"],
            "currentVersion": first["currentVersion"],
            "changes": [
                {"patientId": each["patientId"], **change}
                for each in moved
                for change in each["changes"]
            ],
            "fields": [],
            "patients": moved,
        },
    )


def _require_status(state: MergeState, status: MergeStatus) -> None:
    if state.status != status:
        raise DomainError(
            "MERGE_NOT_ALLOWED",
            f"This needs a merge that is {status}; it is {state.status}.",
            {"mergeStatus": state.status},
        )


def _not_allowed(detail: str, against: Sequence[Obstacle] = ()) -> DomainError:
    return DomainError(
        "MERGE_NOT_ALLOWED", detail, {"obstacles": [each.plain() for each in against]}
    )
