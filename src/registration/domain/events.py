"""Every event ever stored: the permanent record.

Each class carries a ``TOPIC`` that never changes (it is what the log says, wherever the class
lives), a ``class_version`` with an ``upcast_vN_vN+1`` static method for each older shape, and the
part of the stream that it touches. ``tests/approved`` pins the stored JSON of every version, so
that a change to history fails a test.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from registration.domain.contract import Touch
from registration.domain.resources import (
    Address,
    ContactPoint,
    Decision,
    Evidence,
    Facility,
    Gender,
    Identifier,
    Model,
    Name,
    NextOfKin,
    Obstacle,
)

_MEMBERS = {
    Touch.NAMES: "/names",
    Touch.IDENTIFIERS: "/identifiers",
    Touch.NEXT_OF_KIN: "/nextOfKin",
    Touch.CONSENT: "/consents",
    Touch.PORTRAIT: "/portrait",
    Touch.EXTENSION: "/extensions",
    Touch.VITAL_STATUS: "/deceased",
    Touch.ENCOUNTER: "/status",
}


class Event(Model):
    """Something that happened to one stream."""

    TOPIC: ClassVar[str]
    TOUCHES: ClassVar[frozenset[Touch]]
    class_version: ClassVar[int] = 1

    @property
    def touched_key(self) -> str | None:
        """The entry, flag or instance that the event touches, where the part is held per key."""
        return None

    @property
    def fields(self) -> list[str]:
        """JSON Pointers of the resource's members that the event changes."""
        return [_MEMBERS[part] for part in sorted(self.TOUCHES & _MEMBERS.keys())]


class PatientEvent(Event):
    """Something that happened to a patient."""


class PatientRegistered(PatientEvent):
    """A patient was registered with all that was known then."""

    TOPIC: ClassVar[str] = "patient.registered"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset(
        {Touch.DEMOGRAPHICS, Touch.NAMES, Touch.IDENTIFIERS}
    )

    names: tuple[Name, ...]
    gender: Gender
    birth_date: str | None = None
    birth_date_estimated: bool = False
    identifiers: tuple[Identifier, ...] = ()
    telecom: tuple[ContactPoint, ...] = ()
    addresses: tuple[Address, ...] = ()
    next_of_kin: tuple[NextOfKin, ...] = ()
    facility: Facility | None = None
    marital_status: str | None = None
    preferred_language: str | None = None


class DemographicsCorrected(PatientEvent):
    """Demographic members were given new values; ``None`` takes a member away."""

    TOPIC: ClassVar[str] = "patient.demographics-corrected"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.DEMOGRAPHICS})

    changes: dict[str, Any]
    """By wire name (``birthDate``), the whole new value of each member that changed."""

    @property
    def fields(self) -> list[str]:
        """JSON Pointers of the members that were corrected."""
        return [f"/{name}" for name in self.changes]


class NameAdded(PatientEvent):
    """A further name became known."""

    TOPIC: ClassVar[str] = "patient.name-added"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NAMES})

    name: Name


class NameReplaced(PatientEvent):
    """A name was replaced by another of the same id."""

    TOPIC: ClassVar[str] = "patient.name-replaced"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NAMES})

    name: Name


class NameRetired(PatientEvent):
    """A name is no longer used for this patient."""

    TOPIC: ClassVar[str] = "patient.name-retired"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NAMES})

    name_id: UUID
    reason: str


class IdentifierAdded(PatientEvent):
    """A further identifier became known; (tenant, system, value) is unique among the live ones."""

    TOPIC: ClassVar[str] = "patient.identifier-added"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.IDENTIFIERS})

    identifier: Identifier


class IdentifierRetired(PatientEvent):
    """An identifier is no longer this patient's; its value is free again."""

    TOPIC: ClassVar[str] = "patient.identifier-retired"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.IDENTIFIERS})

    identifier_id: UUID
    reason: str


class NextOfKinAdded(PatientEvent):
    """A next of kin was added."""

    TOPIC: ClassVar[str] = "patient.next-of-kin-added"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NEXT_OF_KIN})

    next_of_kin: NextOfKin

    @property
    def touched_key(self) -> str | None:
        """The id of the entry."""
        return str(self.next_of_kin.id)


class NextOfKinRemoved(PatientEvent):
    """A next of kin was removed, for a reason."""

    TOPIC: ClassVar[str] = "patient.next-of-kin-removed"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.NEXT_OF_KIN})

    next_of_kin_id: UUID
    reason: str

    @property
    def touched_key(self) -> str | None:
        """The id of the entry."""
        return str(self.next_of_kin_id)


class ConsentEvent(PatientEvent):
    """A person said something about a consent flag; kept for good, whatever is said later."""

    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.CONSENT})
    DECISION: ClassVar[Decision]

    flag: str
    policy: str | None = None
    evidence: Evidence
    valid_from: datetime | None = None
    valid_until: datetime | None = None

    @property
    def touched_key(self) -> str | None:
        """The flag."""
        return self.flag


class ConsentGranted(ConsentEvent):
    """Consent was given."""

    TOPIC: ClassVar[str] = "patient.consent-granted"
    DECISION: ClassVar[Decision] = "granted"


class ConsentRefused(ConsentEvent):
    """Consent was asked for and refused."""

    TOPIC: ClassVar[str] = "patient.consent-refused"
    DECISION: ClassVar[Decision] = "refused"


class ConsentWithdrawn(ConsentEvent):
    """Consent that was given earlier was taken back."""

    TOPIC: ClassVar[str] = "patient.consent-withdrawn"
    DECISION: ClassVar[Decision] = "withdrawn"


class PortraitSet(PatientEvent):
    """A portrait was taken in; its bytes are kept elsewhere, under ``portrait_id``."""

    TOPIC: ClassVar[str] = "patient.portrait-set"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.PORTRAIT})

    portrait_id: UUID
    content_hash: str
    media_type: str
    width: int
    height: int
    size: int
    retain_until: datetime | None = None


PortraitCause = Literal["requested", "consent-ended", "retention-passed"]


class PortraitRemoved(PatientEvent):
    """A portrait's bytes are gone for good."""

    TOPIC: ClassVar[str] = "patient.portrait-removed"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.PORTRAIT})

    portrait_id: UUID
    cause: PortraitCause
    reason: str | None = None


class ExtensionSet(PatientEvent):
    """Data under an extension schema was given, whole."""

    TOPIC: ClassVar[str] = "patient.extension-set"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.EXTENSION})

    schema_name: str = Field(alias="schema")
    schema_version: int
    data: Any = None

    @property
    def touched_key(self) -> str | None:
        """The schema."""
        return self.schema_name


class ExtensionRemoved(PatientEvent):
    """The data under an extension schema was taken away."""

    TOPIC: ClassVar[str] = "patient.extension-removed"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.EXTENSION})

    schema_name: str = Field(alias="schema")
    reason: str | None = None

    @property
    def touched_key(self) -> str | None:
        """The schema."""
        return self.schema_name


class DeathRecorded(PatientEvent):
    """The patient died."""

    TOPIC: ClassVar[str] = "patient.death-recorded"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.VITAL_STATUS})

    deceased_at: datetime
    cause: str | None = None
    certificate: str | None = None


class DeathReversed(PatientEvent):
    """A death was recorded by mistake: the patient lives."""

    TOPIC: ClassVar[str] = "patient.death-reversed"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.VITAL_STATUS})

    reason: str


class PatientMergedAway(PatientEvent):
    """The record was merged into another one: it is used no more, and nothing of it is lost."""

    TOPIC: ClassVar[str] = "patient.merged-away"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.MERGE})

    merge_id: UUID
    survivor_id: UUID

    @property
    def fields(self) -> list[str]:
        """The members of the resource that show it."""
        return ["/active", "/links"]


class PatientAbsorbed(PatientEvent):
    """Another record was merged into this one: what it is found by is known here from now on.

    What had been merged into that record before comes by an event of its own: so each event holds
    what is known of one person's record.
    """

    TOPIC: ClassVar[str] = "patient.absorbed"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.MERGE})

    merge_id: UUID
    patient_id: UUID
    names: tuple[Name, ...] = ()
    identifiers: tuple[Identifier, ...] = ()

    @property
    def fields(self) -> list[str]:
        """The members of the resource that show it."""
        return ["/identifiers", "/links"]


class PatientRestored(PatientEvent):
    """The merge that retired this record was undone: it is used again, as it was."""

    TOPIC: ClassVar[str] = "patient.restored"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.MERGE})

    merge_id: UUID

    @property
    def fields(self) -> list[str]:
        """The members of the resource that show it."""
        return ["/active", "/links"]


class PatientReleased(PatientEvent):
    """A merge was undone: these records do not belong to this one any more."""

    TOPIC: ClassVar[str] = "patient.released"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.MERGE})

    merge_id: UUID
    patient_ids: tuple[UUID, ...]

    @property
    def fields(self) -> list[str]:
        """The members of the resource that show it."""
        return ["/identifiers", "/links"]


class PatientErased(PatientEvent):
    """The patient was erased: the key to all that was known of the person is gone.

    Stored in the transaction that deletes it. Nothing comes after this event.
    """

    TOPIC: ClassVar[str] = "patient.erased"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset(
        {Touch.DEMOGRAPHICS, Touch.NAMES, Touch.IDENTIFIERS}
    )

    erasure_id: UUID

    @property
    def fields(self) -> list[str]:
        """No member is left to show it."""
        return []


class MergeEvent(Event):
    """Something that was decided about a merge of two patients."""

    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.MERGE})

    @property
    def fields(self) -> list[str]:
        """The members of the decision that show it."""
        return ["/status"]


class MergeProposed(MergeEvent):
    """Somebody holds two records for the same person's."""

    TOPIC: ClassVar[str] = "mpi.merge-proposed"

    survivor_id: UUID
    retired_id: UUID
    survivor_version: int
    retired_version: int
    reason: str
    overridden: tuple[Obstacle, ...] = ()
    """What speaks against it, and was looked at."""
    override_reason: str | None = None


class MergeApproved(MergeEvent):
    """Somebody looked at both records, as they were at these versions, and agreed."""

    TOPIC: ClassVar[str] = "mpi.merge-approved"

    survivor_version: int
    retired_version: int


class MergeExecuted(MergeEvent):
    """Both records were merged, in the transaction that stored this."""

    TOPIC: ClassVar[str] = "mpi.merge-executed"

    survivor_id: UUID
    retired_id: UUID


class MergeRejected(MergeEvent):
    """Somebody looked at a proposal and did not agree, or took it back."""

    TOPIC: ClassVar[str] = "mpi.merge-rejected"

    reason: str


class MergeReversed(MergeEvent):
    """The merge was undone: the records are two persons' after all.

    ``released_by``: the survivor, and the records that it was merged into since.
    """

    TOPIC: ClassVar[str] = "mpi.merge-reversed"

    survivor_id: UUID
    retired_id: UUID
    released_by: tuple[UUID, ...]
    reason: str


class CandidateEvent(Event):
    """Something that was decided about a pair of records that may be one person's."""

    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.MERGE})

    @property
    def fields(self) -> list[str]:
        """The members of the candidate that show it."""
        return ["/status"]


class CandidateDismissed(CandidateEvent):
    """Somebody looked at a pair and found two persons, on this evidence."""

    TOPIC: ClassVar[str] = "mpi.candidate-dismissed"

    patient_ids: tuple[UUID, UUID]
    evidence: str
    """What was compared with which result, as a digest: where it is another one, the pair counts
    as one that nobody has looked at."""
    reason: str


class ErasureEvent(Event):
    """Something that was decided about a request to erase a patient."""

    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.ERASURE})

    @property
    def fields(self) -> list[str]:
        """The members of the request that show it."""
        return ["/status"]


class ErasureRequested(ErasureEvent):
    """Somebody asked that all that is known of a person be erased."""

    TOPIC: ClassVar[str] = "erasure.requested"

    patient_id: UUID
    patient_ids: tuple[UUID, ...]
    """All records of the person then: the patient, and what had been merged into it."""
    basis: str
    reason: str


class ErasureApproved(ErasureEvent):
    """Somebody else agreed."""

    TOPIC: ClassVar[str] = "erasure.approved"


class ErasureRefused(ErasureEvent):
    """Somebody did not agree, or took the request back."""

    TOPIC: ClassVar[str] = "erasure.refused"

    reason: str


class ErasureShredded(ErasureEvent):
    """The keys of these records were deleted, in the transaction that stored this."""

    TOPIC: ClassVar[str] = "erasure.shredded"

    patient_ids: tuple[UUID, ...]


class EncounterEvent(Event):
    """Something that happened to an encounter."""

    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.ENCOUNTER})

    at: datetime
    """When it happened, which may be before it was recorded."""
    reason: str | None = None


class EncounterOpened(EncounterEvent):
    """An encounter of a patient began, or was planned."""

    TOPIC: ClassVar[str] = "encounter.opened"

    patient_id: UUID
    encounter_class: str = Field(alias="class")
    status: Literal["planned", "arrived", "in-progress"]
    planned_start: datetime | None = None
    facility: Facility | None = None
    post_mortem: bool = False


class EncounterArrived(EncounterEvent):
    """The patient is there."""

    TOPIC: ClassVar[str] = "encounter.arrived"


class EncounterTriaged(EncounterEvent):
    """The urgency was judged."""

    TOPIC: ClassVar[str] = "encounter.triaged"


class EncounterStarted(EncounterEvent):
    """Care began."""

    TOPIC: ClassVar[str] = "encounter.started"


class EncounterLeaveStarted(EncounterEvent):
    """The patient went on leave."""

    TOPIC: ClassVar[str] = "encounter.leave-started"


class EncounterLeaveEnded(EncounterEvent):
    """The patient came back from leave."""

    TOPIC: ClassVar[str] = "encounter.leave-ended"


class EncounterFinished(EncounterEvent):
    """Care ended."""

    TOPIC: ClassVar[str] = "encounter.finished"


class EncounterReopened(EncounterEvent):
    """A finished encounter goes on, for a reason."""

    TOPIC: ClassVar[str] = "encounter.reopened"


class EncounterCancelled(EncounterEvent):
    """It did not come to care."""

    TOPIC: ClassVar[str] = "encounter.cancelled"


class EncounterEnteredInError(EncounterEvent):
    """It should never have been recorded."""

    TOPIC: ClassVar[str] = "encounter.entered-in-error"


class ExtensionSchemaPublished(Event):
    """A version of an extension schema became valid, for good."""

    TOPIC: ClassVar[str] = "extension-schema.published"
    TOUCHES: ClassVar[frozenset[Touch]] = frozenset({Touch.SCHEMA})

    name: str
    title: str | None = None
    compatibility: Literal["backward", "none"]
    definition: dict[str, Any] | bool = Field(alias="schema")


EVENTS: tuple[type[Event], ...] = (
    PatientRegistered,
    DemographicsCorrected,
    NameAdded,
    NameReplaced,
    NameRetired,
    IdentifierAdded,
    IdentifierRetired,
    NextOfKinAdded,
    NextOfKinRemoved,
    ConsentGranted,
    ConsentRefused,
    ConsentWithdrawn,
    PortraitSet,
    PortraitRemoved,
    ExtensionSet,
    ExtensionRemoved,
    DeathRecorded,
    DeathReversed,
    PatientMergedAway,
    PatientAbsorbed,
    PatientRestored,
    PatientReleased,
    PatientErased,
    MergeProposed,
    MergeApproved,
    MergeExecuted,
    MergeRejected,
    MergeReversed,
    CandidateDismissed,
    ErasureRequested,
    ErasureApproved,
    ErasureRefused,
    ErasureShredded,
    EncounterOpened,
    EncounterArrived,
    EncounterTriaged,
    EncounterStarted,
    EncounterLeaveStarted,
    EncounterLeaveEnded,
    EncounterFinished,
    EncounterReopened,
    EncounterCancelled,
    EncounterEnteredInError,
    ExtensionSchemaPublished,
)
"""Every event class that the log may hold; the mapper knows these topics and no other."""
