"""The shapes of answers, as the OpenAPI document declares them."""

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from registration.domain.encounter import EncounterResource
from registration.domain.erasure import ErasureResource
from registration.domain.extension_schema import SchemaVersion
from registration.domain.merge import MergeResource
from registration.domain.merge_review import ToReview
from registration.domain.patient_resource import Display, PatientResource
from registration.domain.resources import (
    Consent,
    EncounterStatus,
    ExtensionInstance,
    Gender,
    Identifier,
    Name,
    Obstacle,
)


class Answer(BaseModel):
    """Camel case on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid")


class HistoryEvent(Answer):
    """One event of a stream: what happened, when, by whom, and its place in the hash chain."""

    version: int
    position: int
    type: str
    at: datetime
    actor: str
    client: str | None
    client_mutation_id: UUID | None
    supersedes: Annotated[
        UUID | None, Field(description="the mutation that this one replaced after a review")
    ]
    data: dict[str, Any]
    hash: str


class History(Answer):
    """A page of a stream's history, oldest first."""

    items: list[HistoryEvent]
    next: str | None


class FormerName(Name):
    """A name that only a record has which was merged into the one shown."""

    merged_from: UUID


class FoundPatient(Answer):
    """A patient as the search shows it, with how well it fits.

    ``identifiers`` are the patient's own, then those of the records that were merged into it.
    ``formerNames`` is absent where merges brought no name that it has not itself.
    """

    id: UUID
    version: int
    active: bool
    score: float
    display: Display
    names: list[Name]
    gender: Gender
    birth_date: str | None = None
    identifiers: list[Identifier]
    facility: str | None = None
    former_names: list[FormerName] | None = None
    replaced_by: Annotated[
        UUID | None, Field(description="the record that this one was merged into")
    ] = None


class FoundPatients(Answer):
    """A page of patients, best first."""

    items: list[FoundPatient]
    next: str | None


class ConsentFlag(Answer):
    """A consent flag of this installation."""

    flag: str
    title: str


class ConsentFlags(Answer):
    """All consent flags."""

    items: list[ConsentFlag]
    next: None


class ShownConsent(Consent):
    """A decision about a flag, and whether it is a consent that is in force."""

    title: str
    in_force: bool


class Consents(Answer):
    """The decisions that hold at ``validAt``, of those known at ``asOf`` (null: now)."""

    items: list[ShownConsent]
    as_of: datetime | None
    valid_at: datetime
    next: None


class ConsentHistory(Answer):
    """Every decision about a flag, oldest first."""

    items: list[Consent]
    next: None


class ExtensionList(Answer):
    """All extensions of a patient."""

    items: list[ExtensionInstance]
    next: None


class SchemaSummary(Answer):
    """The newest version of an extension schema."""

    name: str
    version: int
    title: str | None
    published_at: datetime


class SchemaList(Answer):
    """A page of extension schemas, by name."""

    items: list[SchemaSummary]
    next: str | None


class SchemaVersions(Answer):
    """All versions of an extension schema, oldest first."""

    items: list[SchemaVersion]
    next: None


class ShownEncounter(EncounterResource):
    """An encounter, and under which record its patient is found now: another one after a merge."""

    current_patient_id: UUID


class EncounterList(Answer):
    """A page of encounters, the earliest first."""

    items: list[ShownEncounter]
    next: str | None


class BoardEntry(ShownEncounter):
    """An encounter on the board; ``None`` where nobody waited or stayed (yet)."""

    waiting_seconds: int | None
    stay_seconds: int | None


class BoardCount(Answer):
    """How many have a status, and how long they waited."""

    count: int
    longest_wait_seconds: int | None
    median_wait_seconds: int | None


class EncounterBoard(Answer):
    """A day of a facility, or of all: ``counts`` are those of the whole day, on every page."""

    day: date
    time_zone: str
    counts: dict[EncounterStatus, BoardCount]
    items: list[BoardEntry]
    next: str | None


class ErasureList(Answer):
    """A page of requests to erase a patient."""

    items: list[ErasureResource]
    next: str | None


class MergeList(Answer):
    """A page of merge decisions, the oldest first."""

    items: list[MergeResource]
    next: str | None


class PreviewedEvent(Answer):
    """An event that would be stored: on which stream, as which version."""

    stream_id: UUID
    version: int
    type: str
    data: dict[str, Any]


class Changed(Answer):
    """An event that came since somebody looked."""

    version: int
    event: str
    at: datetime
    actor: str
    fields: list[str]


class MovedPatient(Answer):
    """A patient that changed since the proposal, and how."""

    role: Literal["survivor", "retired"]
    patient_id: UUID
    expected_version: int
    current_version: int
    changes: list[Changed]


class MergePreview(Answer):
    """What approval would store, in that order, on the records as they are now."""

    merge_id: UUID
    survivor_version: int
    retired_version: int
    events: list[PreviewedEvent]
    obstacles: list[Obstacle]
    moved: list[MovedPatient]


class Unmerged(MergeResource):
    """A merge that was undone; ``toReview`` is null where that is not known in time."""

    to_review: list[ToReview] | None = None


class ReviewList(Answer):
    """What was recorded on a survivor while it stood for both, the oldest first."""

    items: list[ToReview]
    next: None


class Move(Answer):
    """A legal change of status."""

    source: Annotated[EncounterStatus, Field(alias="from")]
    target: Annotated[EncounterStatus, Field(alias="to")]
    event: str
    needs_reason: bool
    case: str


class StateMachine(Answer):
    """Which status may follow which."""

    statuses: list[EncounterStatus]
    initial: list[EncounterStatus]
    terminal: list[EncounterStatus]
    transitions: list[Move]


class Deceased(PatientResource):
    """A patient whose death was recorded; the open encounters are left to a human.

    ``openEncounters`` is null where they are not known in time, and absent without
    encounter:read.
    """

    open_encounters: list[ShownEncounter] | None = None


class Receipt(Answer):
    """What a caller who may write but not read gets of a command."""

    id: UUID
    version: int


class Violation(Answer):
    """One place that does not fit: a JSON Pointer (RFC 6901) and a message without the input."""

    path: str
    message: str


class Confirmation(Answer):
    """The direct request by which a person does what a mutation asked for."""

    method: str
    href: str
    headers: dict[str, str]
    body: dict[str, Any]


class Original(Answer):
    """What became of a mutation the first time."""

    status: Literal["applied", "conflict", "rejected"]
    version: int | None = None
    code: str | None = None


class MutationResult(Answer):
    """What became of one mutation."""

    client_mutation_id: str
    status: Literal["applied", "duplicate", "conflict", "rejected", "blocked", "retry"]
    aggregate_id: UUID | None
    version: int | None = None
    code: str | None = None
    problem: "ProblemDetails | None" = None
    confirm: Confirmation | None = None
    original: Original | None = None
    replayed: bool | None = None
    retry_after: int | None = None


class PushAnswer(Answer):
    """What became of each mutation, in the order in which they were carried out."""

    client_id: str
    position: int
    results: list[MutationResult]


class PulledRecord(Answer):
    """A record as it is now, or (``deleted``, without a body) that it left the scope."""

    kind: Literal["patient", "encounter", "extension_schema", "merge", "policy"]
    id: UUID
    version: int
    position: int
    deleted: Literal[True] | None = None
    body: dict[str, Any] | None = None


class PullAnswer(Answer):
    """A page of changes; ``position`` is how far the feed stands."""

    items: list[PulledRecord]
    cursor: str
    more: bool
    position: int


class ProblemDetails(BaseModel):
    """RFC 9457 problem details with this service's code; some codes carry further members."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[Violation] | None = None
