"""What is still counted, and what the audit trail says, once a patient was erased."""

import asyncio
import json
from typing import Any

import psycopg
import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from psycopg import sql
from tests.api.given_merges import Index
from tests.api.given_reports import Clinic, table
from tests.erasing import erased
from tests.service import CARD, Service, etag, place, succeeded
from tests.sync.given import GRANTED
from typer.testing import CliRunner

from registration.cli import app
from registration.projections import analytics, changes, encounters
from registration.projections.rebuild import rebuild

MODELS = (changes.NAME, encounters.NAME, analytics.NAME)
CANARY = "Canarias"


@pytest.fixture
def clinic(service: Service) -> Clinic:
    """A clinic with one patient of whom much is known, and another one."""
    clinic = Clinic.of(service)
    known = clinic.patient(
        names=[{"family": CANARY}],
        identifiers=[{"system": CARD, "value": f"{CANARY} 1"}],
        nextOfKin=[{"name": CANARY, "relationship": "aunt"}],
    )
    clinic.patient(gender="male", birthDate=None)
    said = {"gender": "other", "addresses": [{"city": CANARY}], "facility": "south"}
    path = f"{place(known)}/demographics"
    known = succeeded(clinic.north.patch(path, said, If_Match=etag(known)))
    consent = f"{place(known)}/consents/research"
    succeeded(clinic.north.put(consent, GRANTED, If_Match='"0"'))
    visit = {"patientId": known["id"], "class": "AMB", "status": "arrived", "reason": CANARY}
    succeeded(clinic.north.post("/v1/encounters", visit))
    erased(clinic.north, known)
    return clinic


def shares(found: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return table(found, *names)


def test_the_registration_counts_of_nobody_who_is_known(clinic: Clinic) -> None:
    found = clinic.asks(clinic.admin, "registrations", by="facility,gender,ageBand")

    assert shares(found, "facility", "gender", "ageBand", "registrations") == [
        ("north", "male", "unknown", 1),
        ("north", "unknown", "unknown", 1),
    ]


def test_what_is_about_what_is_known_of_persons_leaves_them_out(clinic: Clinic) -> None:
    complete = clinic.asks(clinic.admin, "data-completeness")
    consents = clinic.asks(clinic.admin, "consent-coverage", by="flag")
    index = clinic.asks(clinic.admin, "duplicates")

    assert shares(complete, "facility", "patients", "identifier") == [("north", 1, 0)]
    assert {row[1:] for row in shares(consents, "flag", "patients", "granted")} == {(1, 0)}
    assert shares(index, "registered", "records") == [(2, 1)]


def rows(clinic: Clinic) -> dict[str, list[str]]:
    """Return every row of the tenant in every table of these read models."""
    found = {}
    with psycopg.connect(clinic.service.database_url) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_schema = ANY(%s) AND table_type = 'BASE TABLE'",
            (list(MODELS),),
        ).fetchall()
        for schema, each in tables:
            query = sql.SQL("SELECT * FROM {} WHERE tenant = %s").format(
                sql.Identifier(schema, each)
            )
            cursor = connection.execute(query, (clinic.tenant,))
            found[f"{schema}.{each}"] = sorted(map(str, cursor.fetchall()))
    return found


def test_a_rebuild_makes_the_same_tables_and_nothing_of_the_person_is_in_them(
    clinic: Clinic,
) -> None:
    for path in ("/v1/sync/pull", "/v1/encounters"):
        params = {"minPosition": clinic.head()}
        succeeded(clinic.north.get(path, params=params))
    clinic.asks(clinic.admin, "registrations")
    live = rows(clinic)
    for model in MODELS:
        asyncio.run(rebuild(str(clinic.service.settings.database_url), model))

    assert rows(clinic) == live
    assert live["changes.record"]
    assert CANARY not in str(live)


def test_who_was_there_still_was(clinic: Clinic) -> None:
    facts = """
        SELECT e.status, p.erased FROM analytics.encounter AS e
          JOIN analytics.patient AS p USING (tenant, patient_key) WHERE tenant = %s
    """
    clinic.asks(clinic.admin, "registrations")
    with psycopg.connect(clinic.service.database_url) as connection:
        assert connection.execute(facts, (clinic.tenant,)).fetchall() == [("arrived", True)]


@pytest.mark.parametrize("form", ["ndjson", "fhir"])
def test_the_audit_trail_says_that_it_happened_and_nothing_of_what(
    clinic: Clinic, form: str
) -> None:
    url = ["--database-url", clinic.service.database_url]
    command = ["audit", "export", "--format", form, "--tenant", clinic.tenant, *url]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]

    assert CANARY not in result.output
    if form == "fhir":
        assert all(AuditEvent.model_validate(line) for line in lines)
        return
    changes = [line for line in lines if line["record"] == "change"]
    assert [(line["type"], bool(line["fields"])) for line in changes] == [
        ("patient.registered", False),
        ("patient.registered", True),
        ("patient.demographics-corrected", False),
        ("patient.consent-granted", False),
        ("encounter.opened", False),
        ("erasure.requested", False),
        ("patient.erased", False),
        ("erasure.approved", True),
        ("erasure.shredded", True),
    ]
    assert all(line["actor"] for line in changes)


def test_auditors_see_what_was_public_of_it(clinic: Clinic) -> None:
    auditor = Index.of(clinic.service).desk.service.desk(clinic.tenant, role="auditor")
    events = succeeded(auditor.get("/v1/audit/events", params={"minPosition": clinic.head()}))

    assert CANARY not in str(events)
    first = next(each for each in events["items"] if each["position"] == 1)
    assert (first["fields"], first["data"]) == ([], {"facility": "north"})
