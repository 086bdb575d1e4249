"""A patient as the wire shows it: ``GET /v1/patients/{id}`` and the answer to each command."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from pydantic import Field
from typing_extensions import TypedDict

from registration.domain.events import Event
from registration.domain.names import display
from registration.domain.patient import PatientState, evolve
from registration.domain.resources import (
    Address,
    ContactPoint,
    Gender,
    Identifier,
    Model,
    Name,
    NextOfKin,
)

ABOUT_THE_RECORD = frozenset({"version", "registeredAt", "lastUpdated", "display"})
"""Members that say nothing of their own about the person; a conflict does not compare them."""


class Recorded(Protocol):
    """What this module needs of an event of the log."""

    @property
    def version(self) -> int:
        """Its version in the stream."""

    @property
    def recorded_at(self) -> datetime:
        """When it was stored."""

    @property
    def event(self) -> Event:
        """What happened."""


class Patient:
    """A patient folded from its history: the state, and what the log says about the record."""

    __slots__ = ("id", "last_updated", "registered_at", "state", "version")

    def __init__(self, patient_id: UUID, history: Iterable[Recorded] = ()) -> None:
        self.id = patient_id
        self.version = 0
        self.state: PatientState | None = None
        self.registered_at: datetime | None = None
        self.last_updated: datetime | None = None
        for record in history:
            self.apply(record.event, record.version, record.recorded_at)

    def apply(self, event: Event, version: int, recorded_at: datetime) -> None:
        """Take in one more event of the stream."""
        self.state = evolve(self.state, event)
        self.version = version
        self.last_updated = recorded_at
        if self.registered_at is None:
            self.registered_at = recorded_at

    def resource(self) -> dict[str, Any]:
        """Return the members of the wire's patient as plain values; absent ones are left out."""
        found: dict[str, Any] = self._resource().model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        return found

    def json(self) -> bytes:
        """Return the wire's patient, encoded."""
        return self._resource().encoded()

    def _resource(self) -> "PatientResource":
        if self.state is None:
            raise ValueError("a patient without history has no resource")
        shown = self.state._asdict()
        del shown["gone"]
        return PatientResource.trusted(
            id=self.id,
            version=self.version,
            active=True,
            display=display(self.state.names),
            links=(),
            registered_at=self.registered_at,
            last_updated=self.last_updated,
            **shown,
        )


class DefaultName(TypedDict):
    """The name to show where nothing else is asked for."""

    nameId: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    script: str
    text: str


class ShownName(TypedDict):
    """The name to show in one script."""

    nameId: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    text: str


class Display(TypedDict):
    """Which name to show, and how it is written; ``byScript`` by ISO 15924 code."""

    default: DefaultName | None
    byScript: dict[str, ShownName]


class Link(Model):
    """Another record of the same person (FHIR Patient.link)."""

    type: Literal["replaced-by", "replaces"]
    patient_id: UUID


class PatientResource(Model):
    """A patient at one version."""

    id: UUID
    version: Annotated[int, Field(ge=1)]
    active: bool
    names: tuple[Name, ...]
    display: Display
    gender: Gender
    birth_date: str | None = None
    birth_date_estimated: bool
    identifiers: tuple[Identifier, ...]
    telecom: tuple[ContactPoint, ...]
    addresses: tuple[Address, ...]
    next_of_kin: tuple[NextOfKin, ...]
    marital_status: str | None = None
    preferred_language: str | None = None
    facility: str | None = None
    links: tuple[Link, ...]
    registered_at: datetime
    last_updated: datetime
