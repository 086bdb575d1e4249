"""The shapes of answers, as the OpenAPI document declares them."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from registration.domain.resources import (
    Address,
    ContactPoint,
    Gender,
    Identifier,
    Name,
    NextOfKin,
)


class Answer(BaseModel):
    """Camel case on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid")


class DefaultName(Answer):
    """The name to show where nothing else is asked for."""

    name_id: UUID
    script: str
    text: str


class ShownName(Answer):
    """The name to show in one script."""

    name_id: UUID
    text: str


class Display(Answer):
    """Which name to show, and how it is written; by ISO 15924 script."""

    default: DefaultName | None
    by_script: dict[str, ShownName]


class Link(Answer):
    """Another record of the same person (FHIR Patient.link)."""

    type: Literal["replaced-by", "replaces"]
    patient_id: UUID


class PatientResource(Answer):
    """A patient at one version."""

    id: UUID
    version: int = Field(ge=1)
    active: bool
    names: list[Name]
    display: Display
    gender: Gender
    birth_date: str | None = None
    birth_date_estimated: bool
    identifiers: list[Identifier]
    telecom: list[ContactPoint]
    addresses: list[Address]
    next_of_kin: list[NextOfKin]
    marital_status: str | None = None
    preferred_language: str | None = None
    facility: str | None = None
    links: list[Link]
    registered_at: datetime
    last_updated: datetime


class HistoryEvent(Answer):
    """One event of a stream: what happened, when, by whom, and its place in the hash chain."""

    version: int
    position: int
    type: str
    at: datetime
    actor: str
    client: str | None
    client_mutation_id: UUID | None
    data: dict[str, Any]
    hash: str


class History(Answer):
    """A page of a stream's history, oldest first."""

    items: list[HistoryEvent]
    next: str | None


class FoundPatient(Answer):
    """A patient as the search shows it, with how well it fits."""

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


class FoundPatients(Answer):
    """A page of patients, best first."""

    items: list[FoundPatient]
    next: str | None


class Violation(Answer):
    """One place that does not fit: a JSON Pointer (RFC 6901) and a message without the input."""

    path: str
    message: str


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
