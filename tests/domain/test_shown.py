"""What the wire shows folds back: what happens next comes out as it does from the history."""

from typing import Any

from tests.domain.given import STAMP, identifier, kin, name, registered

from registration.domain import events
from registration.domain.aggregate import Aggregate, Stamp
from registration.domain.encounter import Encounter, EncounterResource
from registration.domain.events import Event
from registration.domain.extension_schema import ExtensionSchema, SchemaVersion
from registration.domain.patient_resource import Patient, PatientResource
from registration.domain.resources import Evidence

EVIDENCE = Evidence(kind="verbal")
GRANTED = events.ConsentGranted(flag="research", evidence=EVIDENCE)
REFUSED = events.ConsentRefused(flag="research", evidence=EVIDENCE)
HOUSING = events.ExtensionSet(schema_name="housing", schema_version=1, data={"rooms": 3})
DIED = events.DeathRecorded(deceased_at=STAMP.at)
OPENED = events.EncounterOpened(
    patient_id=name().id, encounter_class="AMB", status="arrived", at=STAMP.at
)
STARTED = events.EncounterStarted(at=STAMP.at)
FINISHED = events.EncounterFinished(at=STAMP.at)


def grown(aggregate: Any, *happened: Event) -> Any:
    for event in happened:
        aggregate.apply(event, Stamp(aggregate.version + 1, STAMP.at, "desk-1"))
    return aggregate


def test_a_patient_folds_back() -> None:
    everything: list[Event] = [
        registered(names=(name(), name(2)), identifiers=(identifier(),), next_of_kin=(kin(),)),
        GRANTED,
        REFUSED,
        HOUSING,
        DIED,
    ]
    patient = grown(Patient(name().id), *everything)
    shown = PatientResource.model_validate_json(patient.encoded())
    again: Aggregate[Any] = Patient.from_shown(shown)
    assert again.plain() == patient.plain()
    further: list[Event] = [GRANTED, HOUSING, events.DeathReversed(reason="a slip")]
    assert grown(again, *further).plain() == grown(patient, *further).plain()


def test_an_encounter_folds_back() -> None:
    encounter = grown(Encounter(name().id), OPENED, STARTED)
    shown = EncounterResource.model_validate_json(encounter.encoded())
    again = Encounter.from_shown(shown)
    assert again.plain() == encounter.plain()
    assert grown(again, FINISHED).plain() == grown(encounter, FINISHED).plain()


def test_a_schema_folds_back() -> None:
    published = [
        events.ExtensionSchemaPublished(
            name="housing", title=title, compatibility="backward", definition=True
        )
        for title in ("Housing", "Homes")
    ]
    schema = grown(ExtensionSchema(name().id), *published)
    versions = [SchemaVersion.model_validate(each.plain()) for each in schema.state.versions]
    again = ExtensionSchema.from_shown("housing", versions)
    assert (again.state, again.version) == (schema.state, 2)
