"""The payloads of the patient commands: the bodies that the endpoints and ``push`` take."""

import re
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, Field, model_validator

from registration.domain.json_schema import DEEPEST, MOST_BYTES
from registration.domain.resources import (
    Address,
    Code,
    ContactPoint,
    Decision,
    EncounterStatus,
    Evidence,
    Facility,
    Gender,
    IdentifierInput,
    Instant,
    Language,
    LongText,
    Model,
    NameInput,
    NextOfKinInput,
    ShortText,
)

Telecom = Annotated[tuple[ContactPoint, ...], Field(max_length=50)]
Addresses = Annotated[tuple[Address, ...], Field(max_length=20)]
BirthDate = Annotated[
    str, Field(max_length=10, description="FHIR date: YYYY, YYYY-MM or YYYY-MM-DD")
]


KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
"""The form of a consent flag's and an extension schema's name; at most 64 characters."""
LONGEST_NAME = 64


def _bounded(value: Any) -> Any:
    """Return free JSON that the log can hold: at most 64 KiB as compact JSON, and 32 deep."""
    level = [value]
    for _ in range(DEEPEST + 1):
        if not level:
            break
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    else:
        raise ValueError(f"is nested more than {DEEPEST} deep")
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        raise ValueError("holds a number beyond 64 bits") from None
    if size > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES} bytes")
    return value


def _something(value: Any) -> Any:
    if value is None:
        raise ValueError("is null; to have no data, remove the extension")
    return value


FreeJson = Annotated[Any, AfterValidator(_something), AfterValidator(_bounded)]


class RegisterPatient(Model):
    """Register a patient; ``id`` may be chosen by the client (UUIDv7 advised)."""

    id: UUID | None = None
    client_mutation_id: Annotated[UUID | None, Field(description="a UUIDv7")] = None
    names: Annotated[tuple[NameInput, ...], Field(min_length=1, max_length=20)]
    gender: Gender
    birth_date: BirthDate | None = None
    birth_date_estimated: bool = False
    identifiers: Annotated[tuple[IdentifierInput, ...], Field(max_length=50)] = ()
    telecom: Telecom = ()
    addresses: Addresses = ()
    next_of_kin: Annotated[tuple[NextOfKinInput, ...], Field(max_length=50)] = ()
    facility: Facility | None = None
    marital_status: Code | None = None
    preferred_language: Language | None = None


class UpdateDemographics(Model):
    """A JSON Merge Patch (RFC 7396): what is absent stays, what is null goes."""

    gender: Gender | None = None
    birth_date: BirthDate | None = None
    birth_date_estimated: bool | None = None
    telecom: Telecom | None = None
    addresses: Addresses | None = None
    marital_status: Code | None = None
    preferred_language: Language | None = None
    facility: Facility | None = None

    @model_validator(mode="after")
    def _keeps_a_gender(self) -> "UpdateDemographics":
        if "gender" in self.model_fields_set and self.gender is None:
            raise ValueError("gender cannot be removed; say unknown")
        return self


class Reason(Model):
    """Why something is taken away; kept in the history."""

    reason: LongText


class AddName(NameInput):
    """A further name."""


class ReplaceName(NameInput):
    """The new content of a name; its id is the one in the path, and no other may be named."""


class AddIdentifier(IdentifierInput):
    """A further identifier."""


class AddNextOfKin(NextOfKinInput):
    """A further next of kin; never conflicts."""


class SetConsent(Model):
    """What a person said to a consent flag; ``evidence`` says how, and is never left out."""

    decision: Decision
    policy: Annotated[ShortText | None, Field(description="The text that was put to them")] = None
    evidence: Evidence
    valid_from: Annotated[Instant | None, Field(description="From when; now, if absent")] = None
    valid_until: Annotated[Instant | None, Field(description="Until when; for good, if absent")] = (
        None
    )


class SetPortrait(Model):
    """What the server made of the image that was sent."""

    content_hash: str
    media_type: str
    width: int
    height: int
    size: int


class RemovePortrait(Model):
    """Take the portrait away, bytes and all; the reason stays in the history."""

    reason: LongText


class OutlivedPortrait(RemovePortrait):
    """Take away the portrait of a merged record whose person ended the consent on the survivor.

    No body of a request: a duty of the service itself.
    """


class SetExtension(Model):
    """Data under an extension schema, whole: what is not in it is gone."""

    schema_version: Annotated[int, Field(ge=1, le=1_000_000)]
    data: FreeJson


class RemoveExtension(Model):
    """Take the data under an extension schema away."""

    reason: LongText | None = None


class RecordDeath(Model):
    """That the patient died; neither in the future nor before birth."""

    deceased_at: Instant
    cause: LongText | None = None
    certificate: Annotated[ShortText | None, Field(description="Number of the certificate")] = None


class OpenEncounter(Model):
    """An encounter of a patient; ``class`` is an HL7 v3 ActEncounterCode (AMB, EMER, IMP, ...)."""

    id: UUID | None = None
    client_mutation_id: Annotated[UUID | None, Field(description="a UUIDv7")] = None
    patient_id: UUID
    encounter_class: Annotated[
        Literal["AMB", "EMER", "FLD", "HH", "IMP", "ACUTE", "NONAC", "OBSENC", "PRENC", "SS", "VR"],
        Field(alias="class", description="HL7 v3 ActEncounterCode"),
    ]
    status: Literal["planned", "arrived", "in-progress"] = "planned"
    at: Annotated[Instant | None, Field(description="Since when it has this status; now")] = None
    planned_start: Instant | None = None
    facility: Facility | None = None
    reason: LongText | None = None
    post_mortem: bool = False


class TransitionEncounter(Model):
    """The next status of an encounter, as the state machine allows it."""

    to: EncounterStatus
    at: Annotated[Instant | None, Field(description="When it happened; now, if absent")] = None
    reason: LongText | None = None


StatedVersion = Annotated[int, Field(ge=1, lt=2**31)]


class Override(Model):
    """Why two records are merged although something speaks against it."""

    reason: LongText


class ProposeMerge(Model):
    """Two records of one person: which one stays, which one goes, and what was looked at.

    Both versions are needed: a proposal is about two records as somebody saw them.
    """

    id: UUID | None = None
    client_mutation_id: Annotated[UUID | None, Field(description="a UUIDv7")] = None
    survivor_id: UUID
    retired_id: UUID
    survivor_version: StatedVersion | None = None
    retired_version: StatedVersion | None = None
    reason: LongText
    override: Annotated[
        Override | None, Field(description="Needed where something speaks against it")
    ] = None


class ApproveMerge(Model):
    """The versions that were looked at; those of the proposal, if absent."""

    survivor_version: StatedVersion | None = None
    retired_version: StatedVersion | None = None


class RequestErasure(Model):
    """Whom to erase, on what basis, and why."""

    id: UUID | None = None
    client_mutation_id: Annotated[UUID | None, Field(description="a UUIDv7")] = None
    patient_id: UUID
    basis: Annotated[Code, Field(description="What demands it, as a code; kept for good")]
    reason: Annotated[LongText, Field(description="Why; erased with the patient")]


class ApproveErasure(Model):
    """Nothing more to say."""


class DismissCandidate(Model):
    """What the server knows of the pair, and why it is two persons."""

    patient_ids: tuple[UUID, UUID]
    evidence: str
    reason: LongText


class PublishSchema(Model):
    """A new version of an extension schema: JSON Schema 2020-12; it never changes afterwards."""

    schema_: Annotated[dict[str, Any] | bool, AfterValidator(_bounded), Field(alias="schema")]
    title: ShortText | None = None
    compatibility: Annotated[
        Literal["backward", "none"],
        Field(description="backward: what the version before accepted, this one accepts"),
    ] = "backward"
