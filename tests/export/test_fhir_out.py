"""What the wire shows, as FHIR R4, and back again through the import's mapping."""

from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.domain.given import NOW, STAMP, context, identifier, kin, name, registered, uuid
from tests.domain.test_patient import _histories
from tests.export.given import Resource, shown, valid

from registration.commands.sample import AS_OF, patients
from registration.domain import events
from registration.domain.commands import RegisterPatient
from registration.domain.encounter import TRANSITIONS, Encounter
from registration.domain.patient import decide_register
from registration.domain.patient_resource import Patient
from registration.domain.resources import (
    Address,
    ContactPoint,
    Evidence,
    Identifier,
    NextOfKin,
)
from registration.export import fhir_out
from registration.fhir import NAME_LANGUAGE, map_patient

WHEN = "2026-03-01T11:00:00Z"
SPOKEN = Evidence(kind="verbal")
NOWHERE = context()._replace(facility=None)


def resources_of(body: Resource) -> list[Resource]:
    """Return everything that a patient's record becomes, as FHIR R4 allows it."""
    made = [fhir_out.patient(body), *fhir_out.related_persons(body), *fhir_out.consents(body)]
    return [valid(resource) for resource in made]


def imported_again(body: Resource) -> Resource:
    """Return a record as it is after its Patient resource was imported."""
    mapped = map_patient(fhir_out.patient(body))
    assert mapped.left_out == set()
    command = RegisterPatient.model_validate_json(orjson.dumps(mapped.said), strict=True)
    # a facility of the importer's own would be filled in
    return shown(Patient(uuid(7)), *decide_register(None, command, NOWHERE))


def without_ids(body: Resource) -> Resource:
    """Return what a registration says of a record: ids, and what is our own account, apart."""
    members = (
        *("names", "gender", "birthDate", "birthDateEstimated", "identifiers", "telecom"),
        *("addresses", "nextOfKin", "maritalStatus", "preferredLanguage", "facility"),
    )
    said = {member: body[member] for member in members if member in body}
    for entries in ("names", "identifiers", "nextOfKin"):
        said[entries] = [{k: v for k, v in each.items() if k != "id"} for each in said[entries]]
    # FHIR knows no address in which nothing is said
    said["addresses"] = [address for address in said["addresses"] if any(address.values())]
    for each in said["nextOfKin"]:
        if not any(each.get("address", {}).values()):
            each.pop("address", None)
    return said


def test_a_patient_with_everything() -> None:
    body = shown(
        Patient(uuid(1)),
        registered(
            names=(
                name(given=("Ada",), prefix=("Dr",), language="yo"),
                name(2, "山田").model_copy(update={"script": "Jpan", "use": "usual"}),
            ),
            birth_date="1984",
            birth_date_estimated=True,
            identifiers=(
                Identifier(id=uuid(10), system="urn:x", value="1", type="MR", use="official"),
                Identifier(id=uuid(11), system="urn:x", value="2", type="OWN"),
            ),
            telecom=(ContactPoint(system="phone", value="1", use="mobile"),),
            addresses=(Address(line=("1 Road",), postal_code="2"), Address()),
            next_of_kin=(
                NextOfKin(
                    id=uuid(20), name="Obi", relationship="brother", address=Address(city="Kano")
                ),
            ),
            marital_status="UNK",
            preferred_language="de-AT",
            facility="north",
        ),
        events.DeathRecorded(deceased_at=NOW),
        events.ExtensionSet(schema_name="housing", schema_version=2, data={"rooms": 3}),
        events.ConsentGranted(
            flag="research", evidence=SPOKEN, valid_from=NOW, valid_until=NOW + timedelta(days=1)
        ),
        events.ConsentRefused(flag="portrait", evidence=SPOKEN, policy="https://x.example/p"),
        events.ConsentGranted(flag="data-sharing", evidence=SPOKEN),
        events.ConsentWithdrawn(flag="data-sharing", evidence=SPOKEN, policy="House rules, 3"),
    )
    patient, related, *consents = resources_of(body)
    terminology = "http://terminology.hl7.org/CodeSystem/"
    script = "urn:registration:name-script"
    language = "http://hl7.org/fhir/StructureDefinition/language"
    assert patient == {
        "resourceType": "Patient",
        "id": str(uuid(1)),
        "meta": {"versionId": "7", "lastUpdated": WHEN},
        "extension": [
            {"url": "urn:registration:extension-schema:housing:2", "valueString": '{"rooms":3}'}
        ],
        "identifier": [
            {
                "use": "official",
                "system": "urn:x",
                "value": "1",
                "type": {"coding": [{"system": f"{terminology}v2-0203", "code": "MR"}]},
            },
            {"system": "urn:x", "value": "2", "type": {"coding": [{"code": "OWN"}]}},
        ],
        "active": True,
        "name": [
            {
                "use": "official",
                "family": "Okoro",
                "given": ["Ada"],
                "prefix": ["Dr"],
                "extension": [
                    {"url": script, "valueCode": "Latn"},
                    {"url": language, "valueCode": "yo"},
                ],
            },
            {
                "use": "usual",
                "family": "山田",
                "extension": [{"url": script, "valueCode": "Jpan"}],
            },
        ],
        "telecom": [{"system": "phone", "value": "1", "use": "mobile"}],
        "gender": "female",
        "birthDate": "1984",
        "_birthDate": {
            "extension": [{"url": "urn:registration:birth-date-estimated", "valueBoolean": True}]
        },
        "deceasedDateTime": "2026-03-01T12:00:00Z",
        "address": [{"line": ["1 Road"], "postalCode": "2"}],
        "maritalStatus": {"coding": [{"system": f"{terminology}v3-NullFlavor", "code": "UNK"}]},
        "contact": [
            {
                "relationship": [{"text": "brother"}],
                "name": {"text": "Obi"},
                "address": {"city": "Kano"},
            }
        ],
        "communication": [
            {
                "language": {"coding": [{"system": "urn:ietf:bcp:47", "code": "de-AT"}]},
                "preferred": True,
            }
        ],
        "managingOrganization": {"reference": "Organization/north"},
    }
    its_id = related.pop("id")
    assert related == {
        "resourceType": "RelatedPerson",
        "meta": {"lastUpdated": WHEN},
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{uuid(20)}"}],
        "patient": {"reference": f"Patient/{uuid(1)}"},
        "relationship": [{"text": "brother"}],
        "name": [{"text": "Obi"}],
        "address": [{"city": "Kano"}],
    }
    assert its_id != str(uuid(20))
    said = {each["category"][1]["coding"][0]["code"]: each for each in consents}
    assert {flag: each["status"] for flag, each in said.items()} == {
        "research": "active",
        "portrait": "rejected",
        "data-sharing": "inactive",
    }
    assert said["research"] | {"id": ""} == {
        "resourceType": "Consent",
        "id": "",
        "meta": {"versionId": "1", "lastUpdated": WHEN},
        "status": "active",
        "scope": {"coding": [{"system": f"{terminology}consentscope", "code": "research"}]},
        "category": [
            {"coding": [{"system": "http://loinc.org", "code": "59284-0"}]},
            {"coding": [{"system": "urn:registration:consent-flag", "code": "research"}]},
        ],
        "patient": {"reference": f"Patient/{uuid(1)}"},
        "dateTime": WHEN,
        "policyRule": {"coding": [{"system": f"{terminology}v3-ActCode", "code": "OPTIN"}]},
        "provision": {"period": {"start": "2026-03-01T12:00:00Z", "end": "2026-03-02T12:00:00Z"}},
    }
    assert said["portrait"]["policy"] == [{"uri": "https://x.example/p"}]
    assert said["data-sharing"]["policyRule"] == {"text": "House rules, 3"}
    assert said["data-sharing"]["meta"]["versionId"] == "2"


def test_next_of_kin_with_one_id_at_two_patients_stay_two() -> None:
    found = [
        fhir_out.related_persons(shown(Patient(uuid(n)), registered(next_of_kin=(kin(),))))[0]
        for n in (1, 2)
    ]
    assert found[0]["id"] != found[1]["id"]
    assert found[0]["identifier"] == found[1]["identifier"]


def test_what_a_consent_is_called_does_not_change_with_what_is_decided() -> None:
    granted = events.ConsentGranted(flag="research", evidence=SPOKEN)
    withdrawn = events.ConsentWithdrawn(flag="research", evidence=SPOKEN)
    (before,) = fhir_out.consents(shown(Patient(uuid(1)), registered(), granted))
    (after,) = fhir_out.consents(shown(Patient(uuid(1)), registered(), granted, withdrawn))
    (other,) = fhir_out.consents(shown(Patient(uuid(2)), registered(), granted))
    assert before["id"] == after["id"] != other["id"]


def test_who_was_merged_away_says_so_and_the_survivor_shows_old_identifiers() -> None:
    gone = shown(
        Patient(uuid(2)),
        registered(identifiers=(identifier(),)),
        events.PatientMergedAway(merge_id=uuid(5), survivor_id=uuid(1)),
    )
    stays = shown(
        Patient(uuid(1)),
        registered(),
        events.PatientAbsorbed(merge_id=uuid(5), patient_id=uuid(2), identifiers=(identifier(),)),
    )
    retired, survivor = valid(fhir_out.patient(gone)), valid(fhir_out.patient(stays))
    assert (retired["active"], retired["link"]) == (
        False,
        [{"other": {"reference": f"Patient/{uuid(1)}"}, "type": "replaced-by"}],
    )
    assert (survivor["active"], survivor["link"]) == (
        True,
        [{"other": {"reference": f"Patient/{uuid(2)}"}, "type": "replaces"}],
    )
    assert survivor["identifier"] == [{"use": "old", **retired["identifier"][0]}]


@pytest.mark.parametrize(
    ("code", "concept"),
    [
        ("M", {"coding": [{"system": fhir_out.MARITAL_STATUS, "code": "M"}]}),
        ("it/is:own", {"text": "it/is:own"}),
    ],
)
def test_a_marital_status_that_fhir_does_not_know_is_text(code: str, concept: Any) -> None:
    made = valid(fhir_out.patient(shown(Patient(uuid(1)), registered(marital_status=code))))
    assert made["maritalStatus"] == concept


def opened(**members: Any) -> events.EncounterOpened:
    """Return how an encounter began."""
    said = {"patient_id": uuid(1), "encounter_class": "AMB", "status": "planned", "at": STAMP.at}
    return events.EncounterOpened(**said | members)


def test_an_encounter_with_everything() -> None:
    body = shown(
        Encounter(uuid(3)),
        opened(planned_start=NOW, facility="north", post_mortem=True, reason="check-up"),
        events.EncounterArrived(at=NOW),
        events.EncounterStarted(at=NOW + timedelta(minutes=5), reason="free"),
        events.EncounterFinished(at=NOW + timedelta(hours=1)),
    )
    assert valid(fhir_out.encounter(body)) == {
        "resourceType": "Encounter",
        "id": str(uuid(3)),
        "meta": {"versionId": "4", "lastUpdated": WHEN},
        "extension": [
            {"url": fhir_out.PLANNED_START, "valueDateTime": "2026-03-01T12:00:00Z"},
            {"url": fhir_out.POST_MORTEM, "valueBoolean": True},
        ],
        "status": "finished",
        "statusHistory": [
            {"status": "planned", "period": {"start": WHEN, "end": "2026-03-01T12:00:00Z"}},
            {
                "status": "arrived",
                "period": {"start": "2026-03-01T12:00:00Z", "end": "2026-03-01T12:05:00Z"},
            },
            {
                "status": "in-progress",
                "period": {"start": "2026-03-01T12:05:00Z", "end": "2026-03-01T13:00:00Z"},
            },
            {"status": "finished", "period": {"start": "2026-03-01T13:00:00Z"}},
        ],
        "class": {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
            "code": "AMB",
        },
        "subject": {"reference": f"Patient/{uuid(1)}"},
        "period": {"start": "2026-03-01T12:00:00Z", "end": "2026-03-01T13:00:00Z"},
        "reasonCode": [{"text": "check-up"}],
        "serviceProvider": {"reference": "Organization/north"},
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=6), st.sampled_from(["planned", "in-progress"]))
def test_every_way_through_the_state_machine_is_a_valid_encounter(picks, status) -> None:
    history: list[events.Event] = [opened(status=status)]
    for pick in picks:
        moves = [move for move in TRANSITIONS.values() if move.source == status]
        if moves:
            move = moves[pick % len(moves)]
            history.append(move.event(at=STAMP.at, reason="a reason"))
            status = move.target
    made = valid(fhir_out.encounter(shown(Encounter(uuid(3)), *history)))
    assert made["status"] == status == made["statusHistory"][-1]["status"]
    assert len(made["statusHistory"]) == len(history)


@settings(max_examples=100, deadline=None)
@given(_histories())
def test_whatever_happened_it_is_valid_and_the_import_reads_it_back(history) -> None:
    body = shown(Patient(uuid(1)), *history)
    resources_of(body)
    assert without_ids(imported_again(body)) == without_ids(body)


def test_sampled_patients_of_many_scripts_are_valid_and_come_back() -> None:
    scripts = set()
    for resource in patients(1500, 5, 0.1, AS_OF.date()):
        command = RegisterPatient.model_validate(map_patient(resource).said)
        body = shown(Patient(uuid(1)), *decide_register(None, command, context()))
        scripts |= {name["script"] for name in body["names"]}
        resources_of(body)
        assert without_ids(imported_again(body)) == without_ids(body)
    assert len(scripts) >= 13


@pytest.mark.parametrize(
    "extension",
    [
        {"url": "urn:other", "valueCode": "fr"},
        {"url": NAME_LANGUAGE, "valueCode": "no language"},
        {"url": NAME_LANGUAGE, "valueString": "fr"},
        {"url": ["fr"]},
        "fr",
    ],
)
def test_a_strange_extension_of_a_name_is_left_out_and_counted(extension: object) -> None:
    known = {"url": NAME_LANGUAGE, "valueCode": "fr-CA"}
    name = {"text": "Ada", "extension": [extension, known]}
    mapped = map_patient({"resourceType": "Patient", "name": [name]})
    assert mapped.said["names"] == [{"text": "Ada", "language": "fr-CA"}]
    assert mapped.left_out == {"name.extension"}
