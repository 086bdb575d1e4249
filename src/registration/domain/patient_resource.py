"""A patient as the wire shows it: ``GET /v1/patients/{id}`` and the answer to each command."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field
from typing_extensions import TypedDict

from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.consent import last_begun
from registration.domain.events import Event, PatientEvent
from registration.domain.names import display
from registration.domain.patient_state import Absorbed, PatientState, evolve
from registration.domain.resources import (
    Address,
    Consent,
    ContactPoint,
    Death,
    ExtensionInstance,
    Gender,
    Identifier,
    Model,
    Name,
    NextOfKin,
    Portrait,
)


class Patient(Aggregate[PatientState]):
    """A patient folded from its history."""

    KIND = "patient"
    EVENTS = PatientEvent
    READ_SCOPE = "patient:read"
    HAS_VALIDITY = True
    ABOUT: ClassVar[frozenset[str]] = frozenset(
        {"version", "registeredAt", "lastUpdated", "display"}
    )

    @staticmethod
    def evolve(state: PatientState | None, event: Event, stamp: Stamp) -> PatientState:
        """Return the state after one more event."""
        return evolve(state, event, stamp)

    @classmethod
    def from_shown(cls, shown: "PatientResource") -> "Patient":
        """Return the patient that the wire shows.

        The wire leaves out what was: earlier decisions about a flag, extensions and entries that
        are gone, the names of merged records. What is decided on this patient knows nothing of
        them.
        """
        patient = cls(shown.id)
        patient.version = shown.version
        patient.created_at, patient.last_updated = shown.registered_at, shown.last_updated
        patient.state = PatientState(
            names=shown.names,
            gender=shown.gender,
            birth_date=shown.birth_date,
            birth_date_estimated=shown.birth_date_estimated,
            identifiers=tuple(held for held in shown.identifiers if held.merged_from is None),
            telecom=shown.telecom,
            addresses=shown.addresses,
            next_of_kin=shown.next_of_kin,
            marital_status=shown.marital_status,
            preferred_language=shown.preferred_language,
            facility=shown.facility,
            consents={said.flag: (said,) for said in shown.consents},
            portrait=shown.portrait,
            extensions={held.schema_name: held for held in shown.extensions},
            extension_versions={held.schema_name: held.version for held in shown.extensions},
            deceased=shown.deceased,
            merged_into=next(
                (link.patient_id for link in shown.links if link.type == "replaced-by"), None
            ),
            absorbed={
                link.patient_id: Absorbed(
                    link.patient_id,
                    (),
                    tuple(
                        held for held in shown.identifiers if held.merged_from == link.patient_id
                    ),
                )
                for link in shown.links
                if link.type == "replaces"
            },
        )
        return patient

    @property
    def patient_ids(self) -> tuple[UUID, ...]:
        """Itself."""
        return (self.id,)

    def held_at(self, moment: datetime) -> "Patient":
        """Return the patient with the death and the consents that held at an instant.

        Nothing else of a patient says since when it holds: it is shown as it is known. Of each
        consent flag the decision recorded last of those that had begun is shown, run out or not.
        """
        held = Patient(self.id)
        held.version = self.version
        held.created_at, held.last_updated = self.created_at, self.last_updated
        state = self.state
        if state is None:
            return held
        begun = {flag: last_begun(said, moment) for flag, said in state.consents.items()}
        died = state.deceased is not None and state.deceased.deceased_at <= moment
        held.state = state._replace(
            consents={flag: (said,) for flag, said in begun.items() if said is not None},
            deceased=state.deceased if died else None,
        )
        return held

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v1/patients/{self.id}"

    def shown(self) -> "PatientResource":
        """Return the patient as the wire shows it."""
        state = self.state
        if state is None:
            raise ValueError("a patient without history has no resource")
        return PatientResource.trusted(
            id=self.id,
            version=self.version,
            active=state.merged_into is None,
            names=state.names,
            display=display(state.names),
            gender=state.gender,
            birth_date=state.birth_date,
            birth_date_estimated=state.birth_date_estimated,
            deceased=state.deceased,
            identifiers=(*state.identifiers, *former_identifiers(state.absorbed.values())),
            telecom=state.telecom,
            addresses=state.addresses,
            next_of_kin=state.next_of_kin,
            marital_status=state.marital_status,
            preferred_language=state.preferred_language,
            facility=state.facility,
            consents=tuple(decisions[-1] for decisions in state.consents.values()),
            portrait=state.portrait,
            extensions=tuple(state.extensions.values()),
            links=_links(state),
            registered_at=self.created_at,
            last_updated=self.last_updated,
        )


def former_identifiers(absorbed: Iterable[Absorbed]) -> tuple[Identifier, ...]:
    """Return the identifiers of merged records, as the surviving one shows them."""
    return tuple(
        held.model_copy(update={"use": "old", "merged_from": retired.patient_id})
        for retired in absorbed
        for held in retired.identifiers
    )


def _links(state: PatientState) -> tuple["Link", ...]:
    links = [Link.trusted(type="replaces", patient_id=its_id) for its_id in state.absorbed]
    if state.merged_into is not None:
        links.append(Link.trusted(type="replaced-by", patient_id=state.merged_into))
    return tuple(links)


def consent_flag(patient: Patient, flag: str) -> Consent | None:
    """Return the last decision about a flag."""
    decisions = patient.state.consents.get(flag) if patient.state else None
    return decisions[-1] if decisions else None


def extension_instance(patient: Patient, name: str) -> ExtensionInstance | None:
    """Return the instance under a schema."""
    return patient.state.extensions.get(name) if patient.state else None


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
    deceased: Death | None = None
    identifiers: tuple[Identifier, ...]
    telecom: tuple[ContactPoint, ...]
    addresses: tuple[Address, ...]
    next_of_kin: tuple[NextOfKin, ...]
    marital_status: str | None = None
    preferred_language: str | None = None
    facility: str | None = None
    consents: Annotated[tuple[Consent, ...], Field(description="the last decision about each flag")]
    portrait: Portrait | None = None
    extensions: tuple[ExtensionInstance, ...]
    links: tuple[Link, ...]
    registered_at: datetime
    last_updated: datetime
