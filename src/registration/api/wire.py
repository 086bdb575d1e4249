"""The shapes of answers, as the OpenAPI document declares them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from registration.domain.patient_resource import Display
from registration.domain.resources import Gender, Identifier, Name


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


class Receipt(Answer):
    """What a caller who may write but not read gets of a command."""

    id: UUID
    version: int


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
