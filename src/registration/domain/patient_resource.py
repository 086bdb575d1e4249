"""A patient as the wire shows it: ``GET /v1/patients/{id}`` and the answer to each command."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from registration.domain.events import Event
from registration.domain.names import display
from registration.domain.patient import PatientState, evolve
from registration.domain.resources import Model

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
        """Return the members of the wire's patient; absent ones are left out."""
        state = self.state
        if state is None:
            raise ValueError("a patient without history has no resource")
        resource: dict[str, Any] = {
            "id": str(self.id),
            "version": self.version,
            "active": True,
            "names": _plain(state.names),
            "display": display(state.names),
            "gender": state.gender,
            "birthDateEstimated": state.birth_date_estimated,
            "identifiers": _plain(state.identifiers),
            "telecom": _plain(state.telecom),
            "addresses": _plain(state.addresses),
            "nextOfKin": _plain(state.next_of_kin),
            "links": [],
            "registeredAt": _instant(self.registered_at),
            "lastUpdated": _instant(self.last_updated),
        }
        optional = {
            "birthDate": state.birth_date,
            "maritalStatus": state.marital_status,
            "preferredLanguage": state.preferred_language,
            "facility": state.facility,
        }
        resource.update((name, value) for name, value in optional.items() if value is not None)
        return resource


def _plain(parts: Iterable[Model]) -> list[dict[str, Any]]:
    return [
        part.__pydantic_serializer__.to_python(part, mode="json", by_alias=True, exclude_none=True)
        for part in parts
    ]


def _instant(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
