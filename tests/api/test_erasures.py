"""Erasing a patient: by two people, for good. What it leaves is in ``test_erased_everywhere``."""

from dataclasses import dataclass
from typing import Any

import pytest
from tests.api.given_merges import Index
from tests.api.test_auth import OF_A_PATIENT, Request, owned
from tests.erasing import erased
from tests.service import (
    ADA,
    CARD,
    Desk,
    Service,
    etag,
    new_id,
    new_tenant,
    place,
    problem,
    succeeded,
)
from tests.sync.given import push

BASIS = {"basis": "gdpr-17-1-b", "reason": "Ada asked for it"}
STAY = {
    "/v1/patients/{id}/access": "who saw the record goes on to be told",
    "/v1/erasures/{id}": "that somebody was erased, by whom and on what basis",
}
"""Paths with an id that tell of the erased, and why."""
FOUND_NOT_STORED = "/v1/mpi/candidates"
"""A possible duplicate is found, not stored: of the erased there is none."""


@dataclass
class Office:
    """A desk, and two people who erase."""

    desk: Desk
    priya: Desk
    lee: Desk

    def requested(self, patient: dict[str, Any], **said: Any) -> dict[str, Any]:
        answer = self.priya.post("/v1/erasures", {"patientId": patient["id"], **BASIS, **said})
        return succeeded(answer)

    def approves(self, erasure: dict[str, Any], who: Desk | None = None, **more: Any) -> Any:
        return (who or self.lee).post(f"/v1/erasures/{erasure['id']}/approval", {}, **more)

    def refuses(self, erasure: dict[str, Any]) -> Any:
        said = {"reason": "the law demands that it be kept"}
        return self.lee.post(f"/v1/erasures/{erasure['id']}/refusal", said)


@pytest.fixture
def office(service: Service) -> Office:
    tenant = new_tenant()
    return Office(
        service.desk(tenant),
        service.desk(tenant, role="privacy", sub="priya"),
        service.desk(tenant, role="privacy", sub="lee"),
    )


@pytest.fixture
def ada(office: Office) -> dict[str, Any]:
    return office.desk.given_patient()


def test_one_requests_and_another_approves(office: Office, ada: dict[str, Any]) -> None:
    erasure = office.requested(ada)
    assert office.desk.get(place(ada)).is_success

    done = succeeded(office.approves(erasure))

    assert done == {
        "id": erasure["id"],
        "version": 3,
        "status": "shredded",
        "patientId": ada["id"],
        "patientIds": [ada["id"]],
        "basis": BASIS["basis"],
        "requested": {"by": "priya", "at": erasure["requested"]["at"]},
        "approved": {"by": "lee", "at": done["approved"]["at"]},
    }
    assert erasure["requested"]["reason"] == BASIS["reason"]
    problem(office.desk.get(place(ada)), 410, "ERASED")


def test_nobody_approves_what_they_requested(office: Office, ada: dict[str, Any]) -> None:
    erasure = office.requested(ada)
    problem(office.approves(erasure, office.priya), 403, "FORBIDDEN")
    assert office.desk.get(place(ada)).is_success


def test_a_refusal_says_why_and_leaves_the_patient(office: Office, ada: dict[str, Any]) -> None:
    erasure = office.requested(ada)
    refused = succeeded(office.refuses(erasure))
    assert refused["refused"]["reason"] == "the law demands that it be kept"
    told = problem(office.approves(erasure), 409, "ERASURE_NOT_ALLOWED")
    assert told == {"erasureStatus": "refused"}
    assert office.desk.get(place(ada)).is_success


def test_what_was_approved_is_over(office: Office, ada: dict[str, Any]) -> None:
    erasure = office.requested(ada)
    succeeded(office.approves(erasure))
    told = {"erasureStatus": "shredded"}
    assert problem(office.refuses(erasure), 409, "ERASURE_NOT_ALLOWED") == told
    # whose patient is gone is found out first
    problem(office.approves(erasure), 410, "ERASED")
    problem(office.priya.post("/v1/erasures", {"patientId": ada["id"], **BASIS}), 410, "ERASED")


def test_an_approval_that_is_sent_twice_is_answered_twice(
    office: Office, ada: dict[str, Any]
) -> None:
    erasure = office.requested(ada)
    first, again = (office.approves(erasure, Idempotency_Key="k-1") for _ in range(2))
    assert (first.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"


def test_a_patient_whom_there_is_not(office: Office) -> None:
    unknown = {"patientId": str(new_id()), **BASIS}
    problem(office.priya.post("/v1/erasures", unknown), 404, "NOT_FOUND")


def test_the_list_tells_what_waits_and_the_history_who_decided(
    office: Office, ada: dict[str, Any]
) -> None:
    waits, done = office.requested(ada), office.requested(office.desk.given_patient())
    position = office.approves(done).headers["x-log-position"]

    def listed(**asked: Any) -> list[str]:
        found = office.lee.get("/v1/erasures", params={"minPosition": position, **asked})
        return [each["id"] for each in succeeded(found)["items"]]

    assert listed() == [waits["id"], done["id"]]
    assert listed(status="requested") == [waits["id"]]
    assert listed(status="shredded") == [done["id"]]
    assert listed(patientId=ada["id"]) == [waits["id"]]
    history = succeeded(office.lee.get(f"/v1/erasures/{done['id']}/history"))["items"]
    assert [(each["type"], each["actor"]) for each in history] == [
        ("erasure.requested", "priya"),
        ("erasure.approved", "lee"),
        ("erasure.shredded", "lee"),
    ]
    assert "reason" not in history[0]["data"]


class TestMergedRecords:
    """All records of a person are erased together, and only those that were looked at."""

    @pytest.fixture
    def index(self, office: Office) -> Index:
        return Index.of(office.desk.service, office.desk.tenant)

    def test_they_go_together(self, office: Office, index: Index) -> None:
        survivor, retired = index.two()
        index.merged(survivor, retired)
        erasure = office.requested(survivor)
        assert erasure["patientIds"] == [survivor["id"], retired["id"]]
        succeeded(office.approves(erasure))
        for record in (survivor, retired):
            problem(office.desk.get(place(record)), 410, "ERASED")

    def test_a_merged_away_record_names_its_survivor(self, office: Office, index: Index) -> None:
        survivor, retired = index.two()
        index.merged(survivor, retired)
        answer = office.priya.post("/v1/erasures", {"patientId": retired["id"], **BASIS})
        assert problem(answer, 409, "PATIENT_MERGED")["survivorId"] == survivor["id"]

    def test_nobody_is_erased_whom_nobody_looked_at(self, office: Office, index: Index) -> None:
        survivor, retired = index.two()
        erasure = office.requested(survivor)
        index.merged(survivor, retired)
        problem(office.approves(erasure), 409, "ERASURE_NOT_ALLOWED")
        assert office.desk.get(place(survivor)).is_success


@pytest.mark.parametrize("request_", OF_A_PATIENT, ids=str)
def test_whatever_is_about_the_erased_answers_so(service: Service, request_: Request) -> None:
    """Each route with an id, as soon as there is one."""
    desk = service.desk(role="admin")
    record = owned(desk, request_)
    if FOUND_NOT_STORED in request_.path:
        patient_id = record["patients"][0]["patientId"]
    else:
        patient_id = record.get("patientId") or record.get("survivorId") or record["id"]
    position = erased(desk, {"id": patient_id})

    if request_.path.startswith(tuple(STAY)):
        answer = request_.send(desk, record)
        assert answer.status_code == 200 or answer.json()["code"] in (
            "ERASURE_NOT_ALLOWED",
            "ERASED",
        )
    elif FOUND_NOT_STORED in request_.path:
        desk.get("/v1/mpi/candidates", params={"minPosition": position})
        problem(request_.send(desk, record), 404, "NOT_FOUND")
    else:
        assert problem(request_.send(desk, record), 410, "ERASED") == {}


def test_no_version_and_no_instant_brings_anything_back(
    office: Office, ada: dict[str, Any]
) -> None:
    erased(office.desk, ada)
    for query in ("version=1", f"asOf={ada['registeredAt']}", f"validAt={ada['registeredAt']}"):
        problem(office.desk.get(f"{place(ada)}?{query}"), 410, "ERASED")
    known = office.desk.get(place(ada), headers={"If-None-Match": etag(ada)})
    problem(known, 410, "ERASED")


def test_a_registration_that_is_sent_again_says_so_too(office: Office) -> None:
    its_id = str(new_id())
    for headers in ({}, {"Idempotency_Key": "r-1"}):
        said = ADA | {"id": its_id}
        first = office.desk.post("/v1/patients", said, **headers)
        if first.is_success:
            erased(office.desk, first.json())
        again = office.desk.post("/v1/patients", said, **headers)
        assert again.json()["code"] in ("ERASED", "ID_TAKEN")
        assert "Okoro" not in again.text


def test_nothing_new_is_recorded_of_the_erased(office: Office, ada: dict[str, Any]) -> None:
    other = office.desk.given_patient()
    erased(office.desk, ada)
    visit = {"patientId": ada["id"], "class": "AMB"}
    problem(office.desk.post("/v1/encounters", visit), 410, "ERASED")
    merge = {
        "survivorId": other["id"],
        "retiredId": ada["id"],
        "survivorVersion": 1,
        "retiredVersion": 1,
        "reason": "the same",
    }
    problem(office.desk.post("/v1/mpi/merges", merge), 410, "ERASED")


def test_identifiers_of_the_erased_are_free(office: Office) -> None:
    card = {"system": CARD, "value": "A-1"}
    erased(office.desk, office.desk.given_patient(identifiers=[card]))
    assert office.desk.register(identifiers=[card]).status_code == 201


def test_nobody_erases_offline(office: Office, ada: dict[str, Any]) -> None:
    mutation = {
        "clientMutationId": str(new_id()),
        "operation": "erasure.request",
        "aggregateId": str(new_id()),
        "payload": {"patientId": ada["id"], **BASIS},
    }
    admin = office.desk.service.desk(office.desk.tenant, role="admin")
    (result,) = push(admin, mutation)
    assert (result["status"], result["code"]) == ("rejected", "OFFLINE_PROHIBITED")
