"""Commands that succeed and append nothing: what they show is in the access log, like a read."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.api.given_audit import Audited
from tests.api.given_merges import at, proposal
from tests.service import (
    ADA,
    CARD,
    Desk,
    Service,
    etag,
    new_id,
    picture,
    place,
    problem,
    succeeded,
)
from tests.sync.given import kin, push, queued, registration

Record = dict[str, Any]
GRANTED = {"decision": "granted", "evidence": {"kind": "signature"}}
DEATH = {"deceasedAt": "2024-05-06T07:08:09Z"}
HOUSING = {"schemaVersion": 1, "data": {"rooms": 3}}


@pytest.fixture
def audited(service: Service) -> Audited:
    return Audited.of(service)


@pytest.fixture
def mallory(audited: Audited, service: Service) -> Desk:
    """A colleague of another facility, whom the record does not concern."""
    return service.desk(audited.desk.tenant, role="admin", sub="mallory", facility="south")


def given(desk: Desk) -> Record:
    """Return a patient with one of everything that can be said twice."""
    kin = [{"name": "Obi", "relationship": "brother"}]
    patient = desk.given_patient(identifiers=[{"system": CARD, "value": "1"}], nextOfKin=kin)
    path = place(patient)
    succeeded(desk.put(f"{path}/consents/portrait", GRANTED, If_Match='"0"'))
    succeeded(desk("PUT", f"{path}/portrait", content=picture(), Content_Type="image/png"))
    schema = {"schema": {"type": "object"}}
    succeeded(desk.post("/v1/extension-schemas/housing/versions", schema))
    succeeded(desk.put(f"{path}/extensions/housing", HOUSING, If_Match='"0"'))
    return succeeded(desk.post(f"{path}/death", DEATH, If_Match=etag(patient)))


def _name(desk: Desk, patient: Record) -> httpx.Response:
    said = patient["names"][0]
    path = f"{place(patient)}/names/{said['id']}"
    return desk.put(
        path, {"family": said["family"], "given": said["given"]}, If_Match=etag(patient)
    )


def _again(member: str, collection: str, *left: str) -> Callable[[Desk, Record], httpx.Response]:
    def added(desk: Desk, patient: Record) -> httpx.Response:
        said = {name: value for name, value in patient[member][0].items() if name in left}
        return desk.post(f"{place(patient)}/{collection}", said)

    return added


NOTHING_TO_CHANGE: dict[str, Callable[[Desk, Record], httpx.Response]] = {
    "patient.update_demographics": lambda desk, patient: desk.patch(
        f"{place(patient)}/demographics", {}, If_Match=etag(patient)
    ),
    "patient.replace_name": _name,
    "patient.add_name": _again("names", "names", "id", "use", "family", "given"),
    "patient.add_identifier": _again("identifiers", "identifiers", "id", "system", "value"),
    "patient.add_next_of_kin": _again("nextOfKin", "next-of-kin", "id", "name", "relationship"),
    "patient.set_portrait": lambda desk, patient: desk(
        "PUT", f"{place(patient)}/portrait", content=picture(), Content_Type="image/png"
    ),
    "patient.set_extension": lambda desk, patient: desk.put(
        f"{place(patient)}/extensions/housing", HOUSING, If_Match='"1"'
    ),
    "patient.record_death": lambda desk, patient: desk.post(
        f"{place(patient)}/death", DEATH, If_Match=etag(patient)
    ),
}


@pytest.mark.parametrize("operation", NOTHING_TO_CHANGE)
def test_what_changes_nothing_is_a_read(audited: Audited, mallory: Desk, operation: str) -> None:
    """Given a command that the record leaves nothing to do, then who saw the record is known."""
    patient = given(audited.desk)
    before = audited.desk.topics(patient)

    answer = NOTHING_TO_CHANGE[operation](mallory, patient)

    assert answer.is_success, answer.text
    assert audited.desk.topics(patient) == before
    (read,) = [each for each in audited.who_saw(patient) if each["actor"] == "mallory"]
    assert (read["operation"], read["status"]) == (operation, answer.status_code)
    assert read["requestId"] == answer.headers["x-request-id"]
    assert read["facility"] == "south"


def test_it_says_why_like_a_read(audited: Audited) -> None:
    desk = audited.desk
    patient = desk.given_patient()
    path = f"{place(patient)}/demographics"
    why = {"X-Purpose-Of-Use": "ETREAT", "X-Break-Glass": "unconscious"}
    succeeded(desk.patch(path, {"gender": "female"}, If_Match='"1"', headers=why))
    (read,) = audited.who_saw(patient)
    assert (read["purpose"], read["breakGlass"]) == ("ETREAT", {"reason": "unconscious"})


def test_what_changes_something_is_in_the_log_alone(audited: Audited) -> None:
    desk = audited.desk
    patient = desk.given_patient()
    succeeded(desk.patch(f"{place(patient)}/demographics", {"gender": "other"}, If_Match='"1"'))
    assert audited.who_saw(patient) == []


def test_whoever_may_not_read_learns_that_it_said_so_already(
    audited: Audited, service: Service
) -> None:
    """The answer has the version alone; an unchanged one tells that the guess was right."""
    patient = audited.desk.given_patient()
    writer = service.desk(audited.desk.tenant, scope="patient:write", sub="writer")
    path = f"{place(patient)}/demographics"
    answer = succeeded(writer.patch(path, {"gender": "female"}, If_Match='"1"'))
    assert answer == {"id": patient["id"], "version": 1}
    assert [read["actor"] for read in audited.who_saw(patient)] == ["writer"]


class TestSentAgain:
    """The same request under the same key shows the record once more."""

    def test_a_registration(self, audited: Audited) -> None:
        key = {"Idempotency_Key": "r-1"}
        patient = audited.desk.given_patient(**key)
        again = audited.desk.register(**key)
        assert (again.status_code, again.json()["id"]) == (201, patient["id"])
        reads = [(read["operation"], read["status"]) for read in audited.who_saw(patient)]
        assert reads == [("patient.register", 201)]

    def test_an_encounter(self, audited: Audited) -> None:
        patient = audited.desk.given_patient()
        visit = {"id": str(new_id()), "patientId": patient["id"], "class": "AMB"}
        first, again = (audited.desk.post("/v1/encounters", visit) for _ in range(2))
        assert first.content == again.content
        assert [read["operation"] for read in audited.who_saw(patient)] == ["encounter.open"]

    def test_a_merge_shows_both_records(self, audited: Audited, service: Service) -> None:
        desk = audited.desk
        other = service.desk(desk.tenant, role="admin", sub="clerk-2")
        survivor, retired = desk.given_patient(), desk.given_patient()
        said = proposal(survivor, retired)
        proposed = [desk.post("/v1/mpi/merges", said, Idempotency_Key="m-1") for _ in range(2)]
        merge = succeeded(proposed[1])
        for _ in range(2):
            succeeded(other.post(f"{at(merge)}/approval", {}, Idempotency_Key="m-2"))
        for patient in (survivor, retired):
            reads = [(read["actor"], read["operation"]) for read in audited.who_saw(patient)]
            assert reads == [("clerk-2", "mpi.approve_merge"), ("desk-1", "mpi.propose_merge")]

    def test_a_death_shows_whose_encounters_are_open(self, audited: Audited) -> None:
        """Those of a record that was merged away, too."""
        desk = audited.desk
        other = desk.service.desk(desk.tenant, role="admin", sub="clerk-2")
        survivor, retired = desk.given_patient(), desk.given_patient()
        succeeded(desk.post("/v1/encounters", {"patientId": retired["id"], "class": "AMB"}))
        merge = succeeded(desk.post("/v1/mpi/merges", proposal(survivor, retired)))
        succeeded(other.post(f"{at(merge)}/approval", {}))
        survivor = succeeded(desk.get(place(survivor)))
        said = {"Idempotency_Key": "d-1", "If_Match": etag(survivor)}
        for _ in range(2):
            died = succeeded(desk.post(f"{place(survivor)}/death", DEATH, **said))
            assert [each["patientId"] for each in died["openEncounters"]] == [retired["id"]]
        assert [read["operation"] for read in audited.who_saw(retired)] == ["patient.record_death"]

    def test_an_erasure(self, audited: Audited) -> None:
        patient = audited.desk.given_patient()
        said = {"patientId": patient["id"], "basis": "gdpr-17", "reason": "asked to"}
        for _ in range(2):
            succeeded(audited.desk.post("/v1/erasures", said, Idempotency_Key="e-1"))
        assert [read["operation"] for read in audited.who_saw(patient)] == ["erasure.request"]

    def test_a_schema_shows_nobody(self, audited: Audited) -> None:
        said = {"schema": {"type": "object"}}
        for _ in range(2):
            succeeded(audited.desk.post("/v1/extension-schemas/housing/versions", said))
        assert audited.reads() == []

    def test_a_refusal_is_what_it_was(self, audited: Audited) -> None:
        desk = audited.desk
        patient = desk.given_patient()
        path = f"{place(patient)}/names/{new_id()}/retirement"
        for _ in range(2):
            answer = desk.post(path, {"reason": "a slip"}, If_Match='"1"', Idempotency_Key="n-1")
            problem(answer, 404, "NOT_FOUND")
        assert audited.who_saw(patient) == []


class TestPushed:
    """What a device queued is answered with versions, and with no record."""

    def test_that_nothing_had_to_change_says_what_the_record_holds(self, audited: Audited) -> None:
        desk = audited.desk
        patient = desk.given_patient()
        guess = queued(
            "patient.update_demographics",
            patient["id"],
            {"birthDate": ADA["birthDate"]},
            base_version=1,
        )
        (result,) = push(desk, guess)
        assert (result["status"], result["version"]) == ("applied", 1)
        reads = [(read["operation"], read["status"]) for read in audited.who_saw(patient)]
        assert reads == [("sync.push", 200)]

    def test_what_was_applied_is_in_the_log_and_a_duplicate_tells_nothing_new(
        self, audited: Audited
    ) -> None:
        made = registration()
        added = kin(made["aggregateId"])
        for _ in range(2):
            assert len(push(audited.desk, made, added)) == 2
        assert audited.who_saw({"id": made["aggregateId"]}) == []
