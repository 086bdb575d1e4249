"""Erasing a patient: by two people, for good. What it leaves is in ``test_erased_everywhere``."""

from dataclasses import dataclass
from typing import Any

import pytest
from tests.api.given_merges import Index, proposal
from tests.api.test_auth import OF_A_PATIENT, REQUESTS, Request, owned
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
from tests.sync.given import outcome, queued

from registration.api.app import application
from registration.api.keys import ROLES
from registration.settings import Settings

BASIS = {"basis": "gdpr-17-1-b", "reason": "Ada asked for it"}
STAY = {
    "GET /v1/patients/{id}/access": "who saw the record goes on to be told",
    "GET /v1/erasures/{id}": "that somebody was erased, by whom and on what basis",
    "GET /v1/erasures/{id}/history": "who decided that, and when",
}
"""What with an id tells of the erased, and why."""
OVER = {"POST /v1/erasures/{id}/approval", "POST /v1/erasures/{id}/refusal"}
"""An open request is over once another one erased its patient: there is nothing to decide."""
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
    assert problem(office.approves(erasure), 409, "ERASURE_NOT_ALLOWED") == told
    problem(office.priya.post("/v1/erasures", {"patientId": ada["id"], **BASIS}), 410, "ERASED")


def test_a_request_is_shown_as_it_stood_until_it_is_carried_out(
    office: Office, ada: dict[str, Any]
) -> None:
    """What it read before is not known any more, and is not made up: shredded it never was then."""
    erasure, other = office.requested(ada), office.requested(ada)
    at = erasure["requested"]["at"]
    pasts = [
        f"/v1/erasures/{each['id']}?{query}"
        for each in (erasure, other)
        for query in ("version=1", "asOf=" + each["requested"]["at"].replace("+", "%2B"))
    ]
    for path in pasts:
        assert succeeded(office.lee.get(path))["status"] == "requested"
    succeeded(office.approves(erasure))
    for path in pasts:
        assert problem(office.lee.get(path), 410, "ERASED") == {}
    assert succeeded(office.lee.get(f"/v1/erasures/{erasure['id']}"))["requested"]["at"] == at


def test_another_request_for_the_same_patient_is_over_as_well(
    office: Office, ada: dict[str, Any]
) -> None:
    """Given two requests, when one is approved, then the other waits for nobody."""
    other = office.requested(ada)
    position = office.approves(office.requested(ada)).headers["x-log-position"]

    now = succeeded(office.lee.get(f"/v1/erasures/{other['id']}"))

    assert (now["status"], now["version"], "approved" in now) == ("shredded", 1, False)
    assert "reason" not in now["requested"]
    waiting = {"status": "requested", "minPosition": position}
    assert succeeded(office.lee.get("/v1/erasures", params=waiting))["items"] == []
    listed = succeeded(office.lee.get("/v1/erasures", params={"patientId": ada["id"]}))["items"]
    assert now in listed
    problem(office.approves(other), 409, "ERASURE_NOT_ALLOWED")
    problem(office.refuses(other), 409, "ERASURE_NOT_ALLOWED")


def test_who_requested_it_may_take_it_back_and_request_it_anew(
    office: Office, ada: dict[str, Any]
) -> None:
    erasure = office.requested(ada)
    taken_back = office.priya.post(f"/v1/erasures/{erasure['id']}/refusal", {"reason": "an error"})
    assert succeeded(taken_back)["refused"]["by"] == "priya"
    assert succeeded(office.approves(office.requested(ada)))["status"] == "shredded"


@pytest.mark.parametrize("said", [{"reason": " "}, {"basis": "Ada Okoro, 1984"}, {"basis": ""}])
def test_a_request_says_why_and_on_which_basis(
    office: Office, ada: dict[str, Any], said: dict[str, str]
) -> None:
    answer = office.priya.post("/v1/erasures", {"patientId": ada["id"], **BASIS, **said})
    problem(answer, 422, "VALIDATION_FAILED")


def test_each_step_takes_a_scope_of_its_own(office: Office, ada: dict[str, Any]) -> None:
    """Given somebody who may do all but one thing, then it is that one which is refused."""
    erasure = office.requested(ada)
    path = f"/v1/erasures/{erasure['id']}"
    for scope, method, where, said in (
        ("erasure:request", "POST", "/v1/erasures", {"patientId": ada["id"], **BASIS}),
        ("erasure:approve", "POST", f"{path}/approval", {}),
        ("erasure:approve", "POST", f"{path}/refusal", {"reason": "no"}),
        ("erasure:read", "GET", path, None),
        ("erasure:read", "GET", f"{path}/history", None),
        ("erasure:read", "GET", "/v1/erasures", None),
    ):
        others = " ".join(set(ROLES["admin"]) - {scope})
        somebody = office.desk.service.desk(office.desk.tenant, scope=others, sub="kim")
        answer = somebody(method, where, said=said)
        assert problem(answer, 403, "FORBIDDEN") == {"scope": scope}


def test_another_tenant_erases_nobody_here(
    office: Office, ada: dict[str, Any], service: Service
) -> None:
    stranger = service.desk(role="admin", sub="stranger")
    erasure = office.requested(ada)
    path = f"/v1/erasures/{erasure['id']}"
    problem(stranger.post("/v1/erasures", {"patientId": ada["id"], **BASIS}), 404, "NOT_FOUND")
    problem(stranger.post(f"{path}/approval", {}), 404, "NOT_FOUND")
    problem(stranger.get(path), 404, "NOT_FOUND")
    assert succeeded(stranger.get("/v1/erasures"))["items"] == []
    assert office.desk.get(place(ada)).is_success


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
    first = succeeded(office.lee.get("/v1/erasures", params={"limit": 1}))
    second = succeeded(office.lee.get("/v1/erasures", params={"cursor": first["next"]}))
    assert [each["id"] for each in first["items"] + second["items"]] == listed()
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
        told = problem(office.approves(erasure), 409, "ERASURE_NOT_ALLOWED")
        assert told == {"erasureStatus": "requested"}
        assert office.desk.get(place(survivor)).is_success

    def test_nobody_is_left_out_who_was_separated(self, office: Office, index: Index) -> None:
        survivor, retired = index.two()
        merge = index.merged(survivor, retired)
        erasure = office.requested(survivor)
        index.unmerged(merge)
        problem(office.approves(erasure), 409, "ERASURE_NOT_ALLOWED")
        assert succeeded(office.approves(office.requested(survivor)))["status"] == "shredded"
        assert office.desk.get(place(retired)).is_success

    def test_who_was_merged_away_since_is_erased_with_the_survivor(
        self, office: Office, index: Index
    ) -> None:
        survivor, retired = index.two()
        erasure = office.requested(retired)
        index.merged(survivor, retired)
        told = problem(office.approves(erasure), 409, "PATIENT_MERGED")
        assert told["survivorId"] == survivor["id"]


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
    if FOUND_NOT_STORED in request_.path:
        desk.get("/v1/mpi/candidates", params={"minPosition": position})

    answer = request_.send(desk, record)

    if str(request_) in STAY:
        assert succeeded(answer)
    elif str(request_) in OVER:
        assert problem(answer, 409, "ERASURE_NOT_ALLOWED") == {"erasureStatus": "shredded"}
    elif FOUND_NOT_STORED in request_.path:
        problem(answer, 404, "NOT_FOUND")
    else:
        assert problem(answer, 410, "ERASED") == {}


def test_every_operation_about_somebody_is_among_these_and_declares_it() -> None:
    """So that a new route is left out of the test above by nobody."""
    named = {request.path for request in REQUESTS if "{" in request.path}
    of_nobody = named - {request.path for request in OF_A_PATIENT}
    assert all(path.startswith(("/v1/extension-schemas/", "/v1/reports/")) for path in of_nobody)
    others = {*STAY, *OVER}
    assert others < {str(request) for request in OF_A_PATIENT}
    paths = application(Settings.model_construct()).openapi()["paths"]
    for request in OF_A_PATIENT:
        declared = paths[request.path][request.method.lower()]["responses"]
        assert "410" in declared or str(request) in others or FOUND_NOT_STORED in request.path


def test_no_version_and_no_instant_brings_anything_back(
    office: Office, ada: dict[str, Any]
) -> None:
    erased(office.desk, ada)
    for query in ("version=1", f"asOf={ada['registeredAt']}", f"validAt={ada['registeredAt']}"):
        problem(office.desk.get(f"{place(ada)}?{query}"), 410, "ERASED")
    known = office.desk.get(place(ada), headers={"If-None-Match": etag(ada)})
    problem(known, 410, "ERASED")


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "r-1"}], ids=["its id", "its key"])
def test_a_registration_that_is_sent_again_says_so_too(
    office: Office, headers: dict[str, str]
) -> None:
    said = ADA | {"id": str(new_id())}
    erased(office.desk, succeeded(office.desk.post("/v1/patients", said, **headers)))

    again = office.desk.post("/v1/patients", said, **headers)

    assert problem(again, 410, "ERASED") == {}
    assert again.headers["idempotency-replayed"] == "true"


def test_the_id_of_the_erased_is_given_to_nobody_else(office: Office, ada: dict[str, Any]) -> None:
    erased(office.desk, ada)
    said = ADA | {"id": ada["id"]}
    problem(office.desk.post("/v1/patients", said, Idempotency_Key="new"), 410, "ERASED")


def test_nothing_new_is_recorded_of_the_erased(office: Office, ada: dict[str, Any]) -> None:
    other = office.desk.given_patient()
    erased(office.desk, ada)
    visit = {"patientId": ada["id"], "class": "AMB"}
    problem(office.desk.post("/v1/encounters", visit), 410, "ERASED")
    for survivor, retired in ((other, ada), (ada, other)):
        merge = proposal(survivor, retired)
        problem(office.desk.post("/v1/mpi/merges", merge), 410, "ERASED")


def test_identifiers_of_the_erased_are_free(office: Office) -> None:
    card = {"system": CARD, "value": "A-1"}
    erased(office.desk, office.desk.given_patient(identifiers=[card]))
    assert office.desk.register(identifiers=[card]).status_code == 201


@pytest.mark.parametrize("what", ["request", "approve", "refuse"])
def test_nobody_erases_offline(office: Office, ada: dict[str, Any], what: str) -> None:
    admin = office.desk.service.desk(office.desk.tenant, role="admin")
    waits = office.requested(ada)
    on, said = {
        "request": (new_id(), {"patientId": ada["id"], **BASIS}),
        "approve": (waits["id"], {}),
        "refuse": (waits["id"], {"reason": "changed my mind"}),
    }[what]

    assert outcome(admin, queued(f"erasure.{what}", on, said)) == [
        ("rejected", "OFFLINE_PROHIBITED")
    ]
    assert office.lee.get(f"/v1/erasures/{waits['id']}").json() == waits
