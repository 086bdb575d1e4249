"""The tables say what the resources say, in the types that the documents name."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.domain.given import NOW, STAMP, identifier, kin, name, registered, uuid
from tests.export.given import Analyst, imported, shown

from registration.domain import events
from registration.domain.encounter import Encounter
from registration.domain.patient_resource import Patient
from registration.domain.resources import Address, ContactPoint, Evidence
from registration.export import parquet
from registration.export.parquet import ParquetChunk, table_of
from registration.export.tables import TABLES

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"


def row_of(table: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the one row that a record makes in a table, without what is null."""
    (row,) = table_of(table, list(TABLES[table].rows(9, body))).to_pylist()
    return {column: value for column, value in row.items() if value is not None}


def test_a_patient_as_rows() -> None:
    body = shown(
        Patient(uuid(1)),
        registered(
            names=(name(given=("Ada", "Ngozi"), language="yo"),),
            birth_date="1984-03",
            identifiers=(identifier(),),
            telecom=(
                ContactPoint(system="email", value="a@x.example"),
                ContactPoint(system="phone", value="1"),
                ContactPoint(system="phone", value="2"),
            ),
            addresses=(Address(line=("1 Road", "Flat 2"), city="Kano"), Address(city="Jos")),
            next_of_kin=(kin(),),
            facility="north",
        ),
        events.ConsentGranted(flag="research", evidence=Evidence(kind="verbal"), valid_from=NOW),
        events.ExtensionSet(schema_name="housing", schema_version=2, data={"rooms": 3}),
        events.PatientMergedAway(merge_id=uuid(5), survivor_id=uuid(6)),
    )
    of_patient = {"patient_id": str(uuid(1)), "position": 9}
    assert row_of("patient", body) == {
        "id": str(uuid(1)),
        "version": 4,
        "position": 9,
        "active": False,
        "display_name": "Ada Ngozi Okoro",
        "display_script": "Latn",
        "gender": "female",
        "birth_date": "1984-03",
        "birth_year": 1984,
        "birth_date_estimated": False,
        "facility": "north",
        "phone": "1",
        "email": "a@x.example",
        "address_line": "1 Road, Flat 2",
        "city": "Kano",
        "replaced_by": str(uuid(6)),
        "extensions": '{"housing:2":{"rooms":3}}',
        "registered_at": STAMP.at,
        "last_updated": STAMP.at,
    }
    assert row_of("name", body) == {
        "id": str(uuid(1)),
        **of_patient,
        "use": "official",
        "family": "Okoro",
        "given": "Ada Ngozi",
        "script": "Latn",
        "language": "yo",
    }
    assert row_of("identifier", body) == {
        "id": str(uuid(10)),
        **of_patient,
        "system": identifier().system,
        "value": "4711",
    }
    assert row_of("next_of_kin", body) == {
        "id": str(uuid(20)),
        **of_patient,
        "name": "Obi",
        "relationship": "brother",
    }
    consent = row_of("consent", body)
    assert consent.pop("id")
    assert consent == {
        **of_patient,
        "flag": "research",
        "version": 1,
        "decision": "granted",
        "evidence_kind": "verbal",
        "valid_from": NOW,
        "recorded_at": STAMP.at,
    }


def test_an_encounter_as_a_row() -> None:
    body = shown(
        Encounter(uuid(3)),
        events.EncounterOpened(
            patient_id=uuid(1), encounter_class="AMB", status="arrived", at=NOW, reason="check-up"
        ),
        events.EncounterStarted(at=NOW + timedelta(microseconds=5)),
        events.EncounterFinished(at=NOW + timedelta(hours=1)),
    )
    assert row_of("encounter", body) == {
        "id": str(uuid(3)),
        "version": 3,
        "position": 9,
        "patient_id": str(uuid(1)),
        "class": "AMB",
        "status": "finished",
        "period_start": NOW,
        "care_started_at": NOW + timedelta(microseconds=5),
        "period_end": NOW + timedelta(hours=1),
        "post_mortem": False,
        "reason": "check-up",
        "opened_at": STAMP.at,
        "last_updated": STAMP.at,
    }


def test_the_tables_say_what_the_resources_say(database_url: str, tmp_path: Path) -> None:
    imported(database_url, "clinic", tmp_path, 120)
    analyst = Analyst(database_url, "clinic", tmp_path)
    resources = analyst.exports(name="fhir")
    tables = analyst.exports("--format", "parquet", "--records-per-file", "50", name="tables")
    assert {file["url"] for file in tables.manifest["output"]} >= {
        f"patient.{number:03d}.parquet" for number in range(3)
    }
    patients = resources.all("Patient")
    found = {
        table: [
            row
            for file in tables.manifest["output"]
            if file["type"] == table
            for row in pq.read_table(tables.path / file["url"]).to_pylist()
        ]
        for table in ("patient", "name", "identifier", "next_of_kin")
    }
    assert [(row["id"], row.get("birth_date"), row["gender"]) for row in found["patient"]] == [
        (each["id"], each.get("birthDate"), each["gender"]) for each in patients
    ]
    assert [(row["patient_id"], row["system"], row["value"]) for row in found["identifier"]] == [
        (each["id"], held["system"], held["value"])
        for each in patients
        for held in each["identifier"]
    ]
    assert [(row["family"], row["given"]) for row in found["name"]] == [
        (name.get("family"), " ".join(name.get("given", ())) or None)
        for each in patients
        for name in each["name"]
    ]
    assert [row["name"] for row in found["next_of_kin"]] == [
        each["name"][0]["text"] for each in resources.all("RelatedPerson")
    ]
    updated = [datetime.fromisoformat(each["meta"]["lastUpdated"]) for each in patients]
    assert [row["last_updated"] for row in found["patient"]] == updated
    assert {moment.tzinfo for moment in updated} == {UTC}
    assert all(file["type"] in TABLES for file in tables.manifest["output"])


def test_rows_are_written_in_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parquet, "ROWS_A_GROUP", 10)
    with (tmp_path / "patient").open("wb") as patients, (tmp_path / "name").open("wb") as names:
        chunk = ParquetChunk(("patient",), {"patient": patients, "name": names}.__getitem__)
        for number in range(25):
            chunk.add(number, "patient", shown(Patient(uuid(number)), registered()))
        chunk.close()
    file = pq.ParquetFile(tmp_path / "patient")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [10, 10, 5]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.read(["position"])["position"].to_pylist() == list(range(25))
    assert chunk.counts == {"patient": 25, "name": 25}


def test_without_the_extra_it_says_what_to_install(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    message = Analyst(database_url, "clinic", tmp_path).is_refused("--format", "parquet")
    assert message == "Parquet needs the extra: pip install 'registration[parquet]'"


def test_the_documents_show_every_column() -> None:
    text = DOCUMENT.read_text("utf-8")
    for table, made in TABLES.items():
        section = text.split(f"#### {table}\n", 1)[1].split("\n#", 1)[0]
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
        assert dict(rows) == made.columns
