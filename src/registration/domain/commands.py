"""The payloads of the patient commands: the bodies that the endpoints and ``push`` take."""

from typing import Annotated
from uuid import UUID

from pydantic import Field, model_validator

from registration.domain.resources import (
    Address,
    Code,
    ContactPoint,
    Facility,
    Gender,
    IdentifierInput,
    Language,
    LongText,
    Model,
    NameInput,
    NextOfKinInput,
)

Telecom = Annotated[tuple[ContactPoint, ...], Field(max_length=50)]
Addresses = Annotated[tuple[Address, ...], Field(max_length=20)]
BirthDate = Annotated[
    str, Field(max_length=10, description="FHIR date: YYYY, YYYY-MM or YYYY-MM-DD")
]


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
