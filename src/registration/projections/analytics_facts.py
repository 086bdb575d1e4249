"""What events make of the rows that reports count from; :mod:`analytics` stores the rows."""

from dataclasses import astuple, dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from registration.domain.encounter import TERMINAL
from registration.domain.events import (
    DeathRecorded,
    DeathReversed,
    DemographicsCorrected,
    EncounterOpened,
    IdentifierAdded,
    IdentifierRetired,
    NextOfKinAdded,
    NextOfKinRemoved,
    PatientAbsorbed,
    PatientErased,
    PatientMergedAway,
    PatientRegistered,
    PatientReleased,
    PatientRestored,
)
from registration.eventstore.records import RecordedEvent


def captured_at(recorded: RecordedEvent) -> datetime | None:
    """Return when a device captured what an event tells: the time in its clientMutationId.

    ``None`` where there is none. A device whose clock is ahead captured it when it arrived, at the
    latest. Source: RFC 9562, UUID version 7.
    """
    said = recorded.meta.get("clientMutationId")
    if said is None:
        return None
    arrived = recorded.recorded_at
    milliseconds = min(UUID(said).int >> 80, int(arrived.timestamp() * 1000))
    return min(datetime.fromtimestamp(milliseconds / 1000, UTC), arrived)


@dataclass(slots=True)
class PatientFact:
    """A record, as reports see it; members are the columns of ``patient_fact`` in their order.

    ``absorbed`` holds how many identifiers each record has that was merged into this one: they are
    this person's too.
    """

    tenant: str
    id: UUID
    registered_at: datetime
    captured_at: datetime | None
    registered_facility: str | None
    facility: str | None
    gender: str
    birth_date: str | None = None
    born_on: date | None = None
    birth_estimated: bool = False
    identifiers: int = 0
    absorbed: dict[str, int] = field(default_factory=dict)
    next_of_kin: int = 0
    telecom: int = 0
    deceased_at: datetime | None = None
    merged_at: datetime | None = None
    erased_at: datetime | None = None

    @classmethod
    def registered(cls, recorded: RecordedEvent, event: PatientRegistered) -> "PatientFact":
        """Return the row that a registration makes."""
        made = cls(
            tenant=recorded.tenant,
            id=recorded.stream_id,
            registered_at=recorded.recorded_at,
            captured_at=captured_at(recorded),
            registered_facility=event.facility,
            facility=event.facility,
            gender=event.gender,
            birth_estimated=event.birth_date_estimated,
            identifiers=len(event.identifiers),
            next_of_kin=len(event.next_of_kin),
            telecom=len(event.telecom),
        )
        made._born(event.birth_date)
        return made

    def row(self) -> tuple[Any, ...]:
        """Return the row."""
        return tuple(Jsonb(v) if isinstance(v, dict) else v for v in astuple(self))

    def change(self, recorded: RecordedEvent) -> None:
        """Take in a later event of the record."""
        event = recorded.event
        match event:
            case DemographicsCorrected():
                self._correct(event.changes)
            case IdentifierAdded():
                self.identifiers += 1
            case IdentifierRetired():
                self.identifiers -= 1
            case NextOfKinAdded():
                self.next_of_kin += 1
            case NextOfKinRemoved():
                self.next_of_kin -= 1
            case DeathRecorded():
                self.deceased_at = event.deceased_at
            case DeathReversed():
                self.deceased_at = None
            case PatientErased():
                self._erase(recorded.recorded_at)
            case _:
                self._link(recorded)

    def _erase(self, at: datetime) -> None:
        """Forget the person: what stays is what can be read of the log without a key."""
        self.erased_at = at
        self.facility = self.registered_facility  # later ones were told by corrections
        self.gender = "unknown"
        self._born(None)
        self.birth_estimated = False
        self.identifiers = self.next_of_kin = self.telecom = 0
        self.absorbed = {}
        self.deceased_at = None

    def _link(self, recorded: RecordedEvent) -> None:
        """Take in a merge or its undoing; other events change nothing that reports ask for."""
        event = recorded.event
        match event:
            case PatientMergedAway():
                self.merged_at = recorded.recorded_at
            case PatientRestored():
                self.merged_at = None
            case PatientAbsorbed():
                self.absorbed[str(event.patient_id)] = len(event.identifiers)
            case PatientReleased():
                for each in event.patient_ids:
                    self.absorbed.pop(str(each), None)

    def _correct(self, changes: dict[str, Any]) -> None:
        if "birthDate" in changes:
            self._born(changes["birthDate"])
        if "birthDateEstimated" in changes:
            self.birth_estimated = bool(changes["birthDateEstimated"])
        if "gender" in changes:
            self.gender = changes["gender"]
        if "facility" in changes:
            self.facility = changes["facility"]
        if "telecom" in changes:
            self.telecom = len(changes["telecom"] or ())

    def _born(self, birth_date: str | None) -> None:
        """Take in a birth date; what is known in part counts from its first day."""
        self.birth_date = birth_date
        self.born_on = None
        if birth_date is not None:
            self.born_on = date.fromisoformat(birth_date + "-01-01"[3 * birth_date.count("-") :])


@dataclass(slots=True)
class EncounterFact:
    """An encounter; members are the columns of ``encounter_fact`` in their order."""

    tenant: str
    id: UUID
    patient_id: UUID
    facility: str | None
    encounter_class: str
    post_mortem: bool
    status: str
    planned_start: datetime | None
    arrived_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @classmethod
    def opened(cls, recorded: RecordedEvent, event: EncounterOpened) -> "EncounterFact":
        """Return the row that an opening makes, before it enters its first status."""
        return cls(
            tenant=recorded.tenant,
            id=recorded.stream_id,
            patient_id=event.patient_id,
            facility=event.facility,
            encounter_class=event.encounter_class,
            post_mortem=event.post_mortem,
            status=event.status,
            planned_start=event.planned_start,
        )

    def row(self) -> tuple[Any, ...]:
        """Return the row."""
        return astuple(self)

    def enter(self, status: str, at: datetime) -> None:
        """Take in a status; arrival and start are those of the first time, as on the board."""
        self.status = status
        if status in ("arrived", "in-progress"):
            self.arrived_at = self.arrived_at or at
        if status == "in-progress":
            self.started_at = self.started_at or at
        self.ended_at = at if status in TERMINAL else None
