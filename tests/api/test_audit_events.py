"""The log for auditors, over HTTP: each filter finds what happened, all of it, and nothing else."""

from datetime import datetime
from typing import Any

import pytest
from tests.api.given_audit import Audited
from tests.service import ADA, Desk, Service, etag, new_id, problem, succeeded

from registration.domain.events import EVENTS


@pytest.fixture
def audited(service: Service) -> Audited:
    return Audited.of(service)


def encounter(desk: Desk, patient: dict[str, Any]) -> dict[str, Any]:
    return succeeded(desk.post("/v1/encounters", {"patientId": patient["id"], "class": "AMB"}))


def merge(audited: Audited, one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    said = {
        "survivorId": one["id"],
        "retiredId": two["id"],
        "survivorVersion": one["version"],
        "retiredVersion": two["version"],
        "reason": "one person",
    }
    return succeeded(audited.desk.post("/v1/mpi/merges", said))


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_an_event_is_shown_with_who_did_it_how_and_its_place_in_the_chain(audited):
    mutation, its_id = str(new_id()), str(new_id())
    said = ADA | {"id": its_id, "clientMutationId": mutation}
    succeeded(audited.desk.post("/v1/patients", said))
    (history,) = audited.desk.history({"id": its_id})

    (event,) = audited.events(patientId=its_id)

    assert event == {
        "position": 1,
        "streamId": its_id,
        "kind": "patient",
        "version": 1,
        "type": "patient.registered",
        "at": history["at"],
        "actor": "desk-1",
        "client": "tablet-7",
        "facility": "north",
        "operation": "patient.register",
        "clientMutationId": mutation,
        "supersedes": None,
        "fields": ["/identifiers", "/names"],
        "patientIds": [its_id],
        "hash": history["hash"],
        "data": history["data"],
    }


def test_what_an_event_says_is_for_those_who_may_read_patients(audited, service):
    audited.desk.given_patient()
    mere = service.desk(audited.desk.tenant, scope="audit:read")
    (event,) = succeeded(mere.get("/v1/audit/events"))["items"]
    assert "data" not in event
    assert "Okoro" not in str(event)


def test_it_takes_the_scope_and_shows_no_other_tenant(audited, service):
    patient = audited.desk.given_patient()
    refused = problem(service.desk(audited.desk.tenant).get("/v1/audit/events"), 403, "FORBIDDEN")
    assert refused == {"scope": "audit:read"}
    elsewhere = Audited.of(service)
    elsewhere.desk.given_patient()
    for asked in ({}, {"actor": "desk-1"}, {"type": "patient.registered"}):
        (event,) = elsewhere.events(**asked)
        assert event["streamId"] != patient["id"]
    assert elsewhere.events(patientId=patient["id"]) == []


def test_a_patients_encounters_and_merges_are_that_patients(audited):
    desk = audited.desk
    one, two, three = (desk.given_patient() for _ in range(3))
    opened = encounter(desk, one)
    path = f"/v1/encounters/{opened['id']}/transitions"
    succeeded(desk.post(path, {"to": "arrived"}, If_Match=etag(opened)))
    proposed = merge(audited, one, two)
    succeeded(desk.post(f"/v1/mpi/merges/{proposed['id']}/rejection", {"reason": "twins"}))

    found = audited.events(patientId=one["id"])

    assert [(event["kind"], event["type"]) for event in found] == [
        ("patient", "patient.registered"),
        ("encounter", "encounter.opened"),
        ("encounter", "encounter.arrived"),
        ("merge", "mpi.merge-proposed"),
        ("merge", "mpi.merge-rejected"),
    ]
    assert [event["patientIds"] for event in found[1:]] == [[one["id"]]] * 2 + [
        [one["id"], two["id"]]
    ] * 2
    assert types(audited.events(patientId=two["id"])) == [
        *("patient.registered", "mpi.merge-proposed", "mpi.merge-rejected")
    ]
    assert types(audited.events(patientId=three["id"])) == ["patient.registered"]


class TestFilters:
    @pytest.fixture(scope="class")
    @classmethod
    def audited(cls, service: Service) -> Audited:
        """The auditor of a tenant in which two people worked."""
        audited = Audited.of(service)
        colleague = service.desk(audited.desk.tenant, sub="desk 2: Ünal", facility="south")
        for desk in (audited.desk, colleague) * 3:
            patient = desk.given_patient()
            desk.given_events(patient, 2)
            encounter(desk, patient)
        return audited

    @pytest.fixture(scope="class")
    @classmethod
    def log(cls, audited: Audited) -> list[dict[str, Any]]:
        """The log of the tenant, as it is without any filter."""
        return audited.events(limit=200)

    @pytest.mark.parametrize("kind", [None, "patient.registered", "encounter.opened"])
    @pytest.mark.parametrize("actor", [None, "desk-1", "desk 2: Ünal", "nobody"])
    @pytest.mark.parametrize("patient", [None, 0, 4])
    @pytest.mark.parametrize("time", ["ever", "since", "until", "between"])
    def test_all_hold_together(self, audited, log, kind, actor, patient, time):
        chosen = None if patient is None else log[patient * 4]["patientIds"][0]
        since = log[5]["at"] if time in ("since", "between") else None
        until = log[19]["at"] if time in ("until", "between") else None
        asked = {"type": kind, "actor": actor, "patientId": chosen, "from": since, "to": until}
        expected = [
            event
            for event in log
            if (kind is None or event["type"] == kind)
            and (actor is None or event["actor"] == actor)
            and (chosen is None or chosen in event["patientIds"])
            and (since is None or event["at"] >= since)
            and (until is None or event["at"] < until)
        ]
        said = {name: value for name, value in asked.items() if value is not None}
        assert audited.events(limit=200, **said) == expected

    @pytest.mark.parametrize("asked", [{}, {"actor": "desk-1"}, {"type": "patient.registered"}])
    @pytest.mark.parametrize("limit", [1, 2, 5])
    def test_pages_follow_each_other_without_gap_or_repetition(self, audited, log, asked, limit):
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next": 0}
        while page["next"] is not None:
            page = audited.page(limit=limit, after=page["next"], **asked)
            found += page["items"]
        assert found == audited.events(limit=200, **asked)
        assert len(found) > limit


def test_an_answer_says_how_far_it_is_complete(audited):
    for _ in range(3):
        audited.desk.given_patient()
    for asked in ({}, {"actor": "desk-1"}):
        page = audited.page(**asked)
        assert (page["position"], page["next"], len(page["items"])) == (3, None, 3)
    empty = audited.page(actor="nobody")
    assert (empty["position"], empty["items"]) == (3, [])


def test_a_tenant_without_a_log_has_an_empty_one(audited):
    page = succeeded(
        audited.auditor.get("/v1/audit/events", params={"from": "2026-01-01T00:00:00Z"})
    )
    assert page == {"items": [], "next": None, "position": 0}


def test_time_is_that_of_the_log_to_the_microsecond(audited):
    for _ in range(20):
        audited.desk.given_patient()
    log = audited.events()
    for at, event in enumerate(log):
        assert audited.events(**{"from": event["at"]}) == log[at:]
        assert audited.events(to=event["at"]) == log[:at]
    moments = [datetime.fromisoformat(event["at"]) for event in log]
    assert moments == sorted(set(moments))


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"type": "patient.eaten"}, "/type"),
        ({"type": ""}, "/type"),
        ({"patientId": "1"}, "/patientId"),
        ({"actor": "a\0"}, "/actor"),
        ({"actor": "x" * 256}, "/actor"),
        ({"after": -1}, "/after"),
        ({"after": 2**63}, "/after"),
        ({"from": "2026-02-30T00:00:00Z"}, "/from"),
        ({"to": "now"}, "/to"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, "/to"),
        ({"limit": 201}, "/limit"),
        ({"cursor": "x"}, "/cursor"),
    ],
)
def test_what_makes_no_sense_is_refused(audited, asked, where):
    told = problem(audited.auditor.get("/v1/audit/events", params=asked), 422, "VALIDATION_FAILED")
    assert [error["path"] for error in told["errors"]] == [where]


@pytest.mark.parametrize("kind", [event.TOPIC for event in EVENTS])
def test_every_type_of_event_can_be_asked_for(audited, kind):
    assert succeeded(audited.auditor.get("/v1/audit/events", params={"type": kind}))["items"] == []
