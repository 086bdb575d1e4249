"""Erasing a patient: by two people, for good, and nothing of the person is left anywhere."""

from tests.service import Service, place, problem, succeeded


def test_who_was_erased_answers_410(service: Service) -> None:
    desk = service.desk()
    ada = desk.given_patient()
    officer = service.desk(desk.tenant, role="privacy", sub="officer-1")
    other = service.desk(desk.tenant, role="privacy", sub="officer-2")
    said = {"patientId": ada["id"], "basis": "gdpr-17-1-b", "reason": "Ada Okoro asked for it"}
    erasure = succeeded(officer.post("/v1/erasures", said))
    problem(officer.post(f"/v1/erasures/{erasure['id']}/approval", {}), 403, "FORBIDDEN")
    done = succeeded(other.post(f"/v1/erasures/{erasure['id']}/approval", {}))
    assert done["status"] == "shredded"
    problem(desk.get(place(ada)), 410, "ERASED")
    problem(desk.get(f"{place(ada)}/history"), 410, "ERASED")
