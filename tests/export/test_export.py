"""`registration export` beside a service that runs: what is in it, whose it is, since when."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.api.given_merges import Index
from tests.export.given import RUN, Analyst, Export, imported, valid
from tests.service import Desk, Service, etag, new_id, picture, place, succeeded

from registration.commands import app
from registration.projections import changes
from registration.projections.rebuild import rebuild

SPOKEN = {"decision": "granted", "evidence": {"kind": "signature"}}


@pytest.fixture
def analyst(service: Service, desk: Desk, tmp_path: Path) -> Analyst:
    """Somebody who exports what the desk registered."""
    return Analyst(service.database_url, desk.tenant, tmp_path)


def given_encounter(desk: Desk, patient: dict[str, Any], *moves: str) -> dict[str, Any]:
    """Return an encounter after changes of its status."""
    said = {"patientId": patient["id"], "class": "AMB", "facility": "north"}
    found = succeeded(desk.post("/v1/encounters", said))
    for move in moves:
        path = f"/v1/encounters/{found['id']}/transitions"
        said = {"to": move, "reason": "a reason"}
        found = succeeded(desk.post(path, said, If_Match=etag(found)))
    return found


def test_what_the_service_holds_is_exported(desk: Desk, analyst: Analyst) -> None:
    patient = desk.given_patient(nextOfKin=[{"name": "Obi", "relationship": "brother"}])
    desk.put(f"{place(patient)}/consents/portrait", SPOKEN, If_Match='"0"')
    desk(
        "PUT",
        f"{place(patient)}/portrait",
        content=picture(),
        content_type="image/png",
    ).raise_for_status()
    visit = given_encounter(desk, patient, "arrived", "entered-in-error")

    export = analyst.exports()

    for resource in export.resources():
        valid(resource)
    assert [file["type"] for file in export.manifest["output"]] == [
        "Patient",
        "RelatedPerson",
        "Consent",
        "Encounter",
    ]
    now = succeeded(desk.get(place(patient)))
    assert export.one("Patient", patient["id"])["meta"] == {
        "versionId": str(now["version"]),
        "lastUpdated": now["lastUpdated"],
    }
    assert export.all("RelatedPerson")[0]["patient"] == {"reference": f"Patient/{patient['id']}"}
    assert export.all("Consent")[0]["status"] == "active"
    assert export.one("Encounter", visit["id"])["status"] == "entered-in-error"
    digest = now["portrait"]["contentHash"].encode()
    assert not any(digest in content or b"photo" in content for content in export.files().values())


def test_the_manifest_is_that_of_fhir_bulk_data(desk: Desk, analyst: Analyst) -> None:
    patient = desk.given_patient()
    export = analyst.exports()
    assert export.manifest == {
        "transactionTime": patient["lastUpdated"].replace("Z", "+00:00"),
        "request": f"registration export --format ndjson --since 0 --tenant {desk.tenant}"
        " --kinds patient,next_of_kin,consent,encounter --records-per-file 100000",
        "requiresAccessToken": False,
        "position": 1,
        "output": [{"type": "Patient", "url": "Patient.000.ndjson", "count": 1}],
        "deleted": [],
        "error": [],
        "extension": {"since": 0, "tenant": desk.tenant, "format": "ndjson", "setAside": 0},
    }
    assert set(export.files()) == {"manifest.json", "Patient.000.ndjson"}
    assert export.modes() == {0o600}
    assert export.path.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_could_look_into_is_closed(
    desk: Desk, analyst: Analyst, tmp_path: Path
) -> None:
    desk.given_patient()
    folder = tmp_path / "export"
    folder.mkdir(mode=0o755)
    analyst.exports()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_since_a_position_only_what_changed(desk: Desk, analyst: Analyst) -> None:
    one, two = desk.given_patient(), desk.given_patient()
    first = analyst.exports(name="first")
    desk.given_events(one, 1)
    second = analyst.exports("--since", first.position, name="second")
    third = analyst.exports("--since", second.position, name="third")
    assert {each["id"] for each in first.all("Patient")} == {one["id"], two["id"]}
    assert [each["id"] for each in second.all("Patient")] == [one["id"]]
    assert [each["name"] for each in second.all("RelatedPerson")] == [[{"text": "Kin 0"}]]
    assert (third.manifest["output"], third.position) == ([], second.position)
    assert third.manifest["transactionTime"] == second.manifest["transactionTime"]


def test_both_records_of_a_merge_and_their_encounters(service: Service, tmp_path: Path) -> None:
    index = Index.of(service)
    survivor, retired = index.two()
    visit = given_encounter(index.desk, retired)
    index.merged(survivor, index.now(retired))
    export = Analyst(service.database_url, index.desk.tenant, tmp_path).exports()
    gone, stays = (export.one("Patient", each["id"]) for each in (retired, survivor))
    assert (gone["active"], stays["active"]) == (False, True)
    assert gone["link"][0]["other"] == {"reference": f"Patient/{survivor['id']}"}
    assert [(each["value"], each["use"]) for each in stays["identifier"]] == [
        ("card-1", "secondary"),
        ("card-2", "old"),
    ]
    assert export.one("Encounter", visit["id"])["subject"] == {
        "reference": f"Patient/{retired['id']}"
    }
    for resource in export.resources():
        valid(resource)


def test_a_tenant_never_gets_what_is_anothers(
    service: Service, desk: Desk, analyst: Analyst
) -> None:
    ours = desk.given_patient()
    other = service.desk()
    others = [other.given_patient(names=[{"family": "Elsewhere"}]) for _ in range(3)]
    given_encounter(other, others[0])
    export = analyst.exports()
    assert [each["id"] for each in export.resources()] == [ours["id"]]
    assert not any(b"Elsewhere" in content for content in export.files().values())


def test_a_schema_of_extensions_is_no_record_and_its_data_is(
    service: Service, desk: Desk, analyst: Analyst
) -> None:
    admin, schema = service.desk(desk.tenant, role="admin"), f"housing-{new_id().hex[:8]}"
    said = {"schema": {"type": "object"}, "compatibility": "none"}
    succeeded(admin.post(f"/v1/extension-schemas/{schema}/versions", said))
    patient = desk.given_patient()
    path = f"{place(patient)}/extensions/{schema}"
    succeeded(desk.put(path, {"schemaVersion": 1, "data": {"rooms": 3}}, If_Match='"0"'))
    (found,) = analyst.exports().resources()
    assert valid(found)["extension"] == [
        {
            "url": f"urn:registration:extension-schema:{schema}:1",
            "valueString": '{"rooms":3}',
        }
    ]


@pytest.mark.parametrize(
    ("kinds", "types"),
    [
        ("encounter", {"Encounter"}),
        ("consent, next_of_kin", {"RelatedPerson"}),
        ("patient", {"Patient"}),
    ],
)
def test_only_the_kinds_that_were_asked_for(
    desk: Desk, analyst: Analyst, kinds: str, types: set[str]
) -> None:
    patient = desk.given_patient(nextOfKin=[{"name": "Obi", "relationship": "brother"}])
    given_encounter(desk, patient)
    export = analyst.exports("--kinds", kinds)
    assert {each["resourceType"] for each in export.resources()} == types
    assert export.manifest["position"] == 2


def test_what_was_imported_and_exported_is_imported_again_as_it_was(
    database_url: str, tmp_path: Path
) -> None:
    imported(database_url, "clinic", tmp_path, 150)
    first = Analyst(database_url, "clinic", tmp_path).exports(name="first")
    again = first.path / "Patient.000.ndjson"
    _import(database_url, again, "copy")
    second = Analyst(database_url, "copy", tmp_path).exports(name="second")
    assert _said(second) == _said(first)
    assert len(_said(first)) == 150


def _import(url: str, file: Path, tenant: str) -> None:
    result = RUN.invoke(app, ["import", str(file), "--database-url", url, "--tenant", tenant])
    assert result.exit_code == 0, result.output
    assert "left out" not in result.output
    asyncio.run(rebuild(url, changes.NAME))


def _said(export: Export) -> list[bytes]:
    """Return what each patient's resource says, without id and account."""
    return sorted(
        orjson.dumps({k: v for k, v in each.items() if k not in ("id", "meta")})
        for each in export.all("Patient")
    )


def test_what_it_says_in_the_end(desk: Desk, analyst: Analyst) -> None:
    patient = desk.given_patient(nextOfKin=[{"name": "Obi", "relationship": "brother"}])
    given_encounter(desk, patient)
    result = analyst.tries()
    assert result.exit_code == 0
    said = result.stdout.replace(str(analyst.folder), "FOLDER")
    assert said.startswith(
        "Patient 1, RelatedPerson 1, Encounter 1 in FOLDER/export, all up to position 2 ("
    )
    assert result.stderr.strip() == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kinds", "patient,portrait"), "--kinds takes some of: patient, next_of_kin"),
        (("--kinds", ""), "--kinds takes some of"),
        (("--tenant", "no tenant"), "--tenant takes letters"),
        (("--tenant", "nobody"), "there is no log of a tenant named nobody"),
        (("--since", "99"), "--since 99 lies beyond the log, which is at 1"),
    ],
)
def test_what_cannot_be_asked_for(
    desk: Desk, analyst: Analyst, options: tuple[str, ...], message: str
) -> None:
    desk.given_patient()
    assert message in analyst.is_refused(*options)
    assert not (analyst.folder / "export" / "manifest.json").exists()
