"""`registration audit export`: changes and reads, one a line, by time."""

import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from tests.api.given_audit import Audited
from tests.service import ADA, Service, new_id, place, problem, succeeded
from typer.testing import CliRunner

from registration.cli import app


def exported(service: Service, tenant: str, *arguments: str) -> list[dict[str, Any]]:
    url = ["--database-url", service.database_url]
    command = ["audit", "export", *arguments, "--tenant", tenant, *url]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


@pytest.fixture
def audited(service: Service) -> Audited:
    """A tenant in which something was done and seen."""
    audited = Audited.of(service)
    desk = audited.desk
    mutation = {"id": str(new_id()), "clientMutationId": str(new_id())}
    one = succeeded(desk.post("/v1/patients", ADA | mutation))
    two = desk.given_patient()
    succeeded(desk.get(place(one), X_Purpose_Of_Use="TREAT"))
    succeeded(desk.get(place(two), X_Purpose_Of_Use="ETREAT", X_Break_Glass="unconscious"))
    succeeded(desk.get("/v1/patients", params={"name": "nobody"}))
    opened = {"patientId": one["id"], "class": "AMB", "status": "arrived"}
    encounter = succeeded(desk.post("/v1/encounters", opened))
    path = f"/v1/encounters/{encounter['id']}/transitions"
    succeeded(desk.post(path, {"to": "triaged"}, If_Match='"1"'))
    said = {"survivorId": one["id"], "retiredId": two["id"], "reason": "one"}
    succeeded(desk.post("/v1/mpi/merges", said | {"survivorVersion": 1, "retiredVersion": 1}))
    succeeded(desk.post("/v1/extension-schemas/notes/versions", {"schema": {"type": "object"}}))
    audited.reads()
    until_written(service, audited.desk.tenant, "audit.access")
    return audited


def until_written(service: Service, tenant: str, operation: str) -> None:
    """Wait for the last read that was made: until then an export may or may not hold it."""
    deadline = time.monotonic() + 5
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        while not connection.execute(
            "SELECT FROM registration.access_log WHERE tenant = %s AND operation = %s",
            (tenant, operation),
        ).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_it_holds_what_the_service_shows_by_time_and_without_names(service, audited):
    lines = exported(service, audited.desk.tenant)
    changes = [line for line in lines if line["record"] == "change"]
    reads = [line for line in lines if line["record"] == "read"]
    seen = [{"record": "read", **read} for read in audited.reads()]
    shown = [
        {name: value for name, value in event.items() if name != "data"}
        for event in audited.events()
    ]
    assert [{"record": "change", **event} for event in shown] == changes
    assert [read for read in reads if read["actor"] == "desk-1"] == seen[::-1]
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert "Okoro" not in str(lines)


def test_each_line_is_an_audit_event_of_fhir(service, audited):
    lines = exported(service, audited.desk.tenant, "--format", "fhir")
    assert len(lines) == len(exported(service, audited.desk.tenant))
    for line in lines:
        AuditEvent.model_validate(line)
    assert len({line["id"] for line in lines}) == len(lines)
    assert "Okoro" not in str(lines)


def test_an_audit_event_says_who_did_what_to_whom_and_why(service, audited):
    lines = exported(service, audited.desk.tenant, "--format", "fhir")
    made = next(line for line in lines if line["action"] == "C")
    event = audited.events()[0]
    assert made["recorded"] == event["at"]
    assert [agent["who"]["identifier"]["value"] for agent in made["agent"]] == [
        "desk-1",
        "tablet-7",
    ]
    assert made["source"]["site"] == "north"
    assert made["entity"][0]["what"] == {"reference": f"Patient/{event['streamId']}"}
    told = {each["type"]: each["valueString"] for each in made["entity"][-1]["detail"]}
    assert told == {
        "type": "patient.registered",
        "operation": "patient.register",
        "version": "1",
        "position": "1",
        "hash": event["hash"],
        "clientMutationId": event["clientMutationId"],
    }
    updates = [line for line in lines if line["action"] == "U"]
    references = [each.get("what", {}).get("reference", "") for each in updates[0]["entity"]]
    assert [reference.partition("/")[0] for reference in references] == [
        *("Patient", "Encounter", "")
    ]
    reads = [line for line in lines if "purposeOfEvent" in line]
    purposes = [[each["coding"][0]["code"] for each in line["purposeOfEvent"]] for line in reads]
    assert purposes == [["TREAT"], ["ETREAT", "BTG"]]
    (search,) = [line for line in lines if line["action"] == "E"]
    assert [each["description"] for each in search["entity"]] == ["Request"]


@pytest.fixture
def gapped(service: Service, audited: Audited) -> Iterator[Audited]:
    """The same tenant, of which reads are missing; one gap may be of any tenant."""
    gaps = (
        (audited.desk.tenant, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "overflow", 714),
        (None, "2026-01-03T00:00:00Z", "2026-01-03T00:00:04Z", "crash", None),
        ("somebody-else", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "overflow", 1),
    )
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        for gap in gaps:
            connection.execute(
                "INSERT INTO registration.access_log_gap (tenant, since, until, reason, lost)"
                " VALUES (%s, %s, %s, %s, %s)",
                gap,
            )
        yield audited
        connection.execute("DELETE FROM registration.access_log_gap")


def test_where_reads_are_missing_it_says_so(service, gapped):
    lines = exported(service, gapped.desk.tenant)
    assert lines[:2] == [
        {
            "record": "gap",
            "since": "2026-01-01T00:00:00Z",
            "until": "2026-01-02T00:00:00Z",
            "reason": "overflow",
            "lost": 714,
        },
        {
            "record": "gap",
            "since": "2026-01-03T00:00:00Z",
            "until": "2026-01-03T00:00:04Z",
            "reason": "crash",
            "lost": None,
        },
    ]
    assert {line["record"] for line in lines[2:]} == {"change", "read"}
    for since, count in (("2026-01-01T12:00:00Z", 2), ("2026-01-03T00:00:04Z", 1)):
        later = exported(service, gapped.desk.tenant, "--since", since)
        assert [line["record"] for line in later].count("gap") == count
    assert exported(service, gapped.desk.tenant, "--since", "2100-01-01T00:00:00Z") == []


def test_a_gap_is_an_alert_of_fhir(service, gapped):
    overflow, crash = exported(service, gapped.desk.tenant, "--format", "fhir")[:2]
    for line in (overflow, crash):
        AuditEvent.model_validate(line)
        assert (line["type"]["code"], line["subtype"][0]["code"]) == ("110113", "110133")
        assert (line["action"], line["outcome"]) == ("E", "8")
    assert overflow["id"] != crash["id"]
    assert overflow["period"] == {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}
    assert overflow["outcomeDesc"].endswith(": 714 reads of patient data are missing")
    assert crash["outcomeDesc"].endswith(": an unknown number of reads of patient data are missing")
    assert crash["entity"][0]["detail"] == [{"type": "reason", "valueString": "crash"}]


def test_a_refusal_that_showed_something_ended_as_one(service):
    audited = Audited.of(service)
    patient = audited.desk.given_patient()
    path = f"{place(patient)}/demographics"
    succeeded(audited.desk.patch(path, {"gender": "other"}, If_Match='"1"'))
    stale = audited.desk.patch(path, {"gender": "male"}, If_Match='"1"')
    problem(stale, 412, "OPTIMISTIC_LOCK_CONFLICT")
    audited.reads()
    lines = exported(service, audited.desk.tenant, "--format", "fhir")
    refused = next(line for line in lines if line["id"].startswith("read-"))
    assert refused["entity"][-1]["detail"][-1] == {"type": "status", "valueString": "412"}
    assert refused["outcome"] == "4"
    assert {line["outcome"] for line in lines if line is not refused} == {"0"}


def test_since_leaves_out_what_was_before(service, audited):
    lines = exported(service, audited.desk.tenant)
    for at in (0, 3, len(lines) - 1):
        later = exported(service, audited.desk.tenant, "--since", lines[at]["at"])
        assert later == [line for line in lines if line["at"] >= lines[at]["at"]]
    assert exported(service, audited.desk.tenant, "--since", "2100-01-01T00:00:00Z") == []


def test_a_tenant_has_its_own(service, audited):
    assert exported(service, "nobody-here") == []


def test_pages_of_it_follow_each_other(service, audited, monkeypatch):
    whole = exported(service, audited.desk.tenant)
    monkeypatch.setattr("registration.audit_trail._PAGE", 2)
    assert exported(service, audited.desk.tenant) == whole
