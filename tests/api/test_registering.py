"""Registering a patient, with an id of the server's or the client's choosing."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import httpx
import pytest
from tests.service import (
    CARD,
    LUHN,
    MOD_97,
    VERHOEFF,
    Desk,
    Service,
    new_id,
    place,
    problem,
    succeeded,
)


def test_the_answer_is_the_patient_with_its_place_version_and_position(desk: Desk) -> None:
    answer = desk.register(facility="ward-3")
    patient = answer.json()
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["location"] == f"/v1/patients/{patient['id']}"
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["x-log-position"] == "1"
    assert "idempotency-replayed" not in answer.headers
    assert UUID(patient["id"]).version == 7
    name_id = patient["names"][0]["id"]
    assert patient["registeredAt"] == patient["lastUpdated"]
    assert patient.pop("registeredAt").endswith("Z")
    del patient["lastUpdated"]
    assert patient == {
        "id": patient["id"],
        "version": 1,
        "active": True,
        "names": [
            {
                "id": name_id,
                "use": "official",
                "family": "Okoro",
                "given": ["Ada"],
                "prefix": [],
                "suffix": [],
                "script": "Latn",
            }
        ],
        "display": {
            "default": {"nameId": name_id, "script": "Latn", "text": "Ada Okoro"},
            "byScript": {"Latn": {"nameId": name_id, "text": "Ada Okoro"}},
        },
        "gender": "female",
        "birthDate": "1984-03-02",
        "birthDateEstimated": False,
        "identifiers": [],
        "telecom": [],
        "addresses": [],
        "nextOfKin": [],
        "facility": "ward-3",
        "consents": [],
        "extensions": [],
        "links": [],
    }
    shown = desk.get(answer.headers["location"])
    assert (shown.content, shown.headers["etag"]) == (answer.content, '"1"')


def test_everything_that_a_patient_may_have_comes_back_as_it_was_said(desk: Desk) -> None:
    ids = [str(new_id()) for _ in range(4)]
    said = {
        "id": ids[0],
        "names": [
            {
                "id": ids[1],
                "use": "official",
                "family": "محمد",
                "given": ["علي"],
                "prefix": ["د."],
                "suffix": [],
                "script": "Arab",
                "language": "ar",
            }
        ],
        "gender": "male",
        "birthDate": "1990-05",
        "birthDateEstimated": True,
        "identifiers": [
            {"id": ids[2], "system": CARD, "value": "A 1", "type": "MR", "use": "official"}
        ],
        "telecom": [{"system": "phone", "value": "+20 2 555", "use": "mobile"}],
        "addresses": [{"use": "home", "line": ["1 Nile St"], "city": "Cairo", "country": "EG"}],
        "nextOfKin": [
            {
                "id": ids[3],
                "name": "Sara",
                "relationship": "sister",
                "telecom": [{"system": "sms", "value": "1", "use": "home"}],
                "address": {"line": [], "text": "next door"},
            }
        ],
        "maritalStatus": "M",
        "preferredLanguage": "ar-EG",
        "facility": "north",
    }
    patient = succeeded(desk.post("/v1/patients", said))
    assert {name: patient[name] for name in said} == said


def test_the_facility_of_the_token_is_the_patients_unless_the_body_names_one(
    service: Service,
) -> None:
    desk = service.desk(facility="south")
    assert desk.given_patient()["facility"] == "south"
    other = desk.given_patient(facility="east")
    assert other["facility"] == "east"


def test_somebody_whom_nobody_can_name_yet_can_be_registered(desk: Desk) -> None:
    anonymous = {"use": "anonymous", "text": "Man, about 40, red coat"}
    patient = desk.given_patient(names=[anonymous], gender="unknown", birthDate=None)
    assert patient["display"]["default"]["text"] == "Man, about 40, red coat"
    assert "birthDate" not in patient


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"names": []}, "/names"),
        ({"names": [{}]}, "/names/0"),
        ({"names": [{"use": "anonymous", "family": "X"}]}, "/names/0/text"),
        ({"names": [{"family": "Ok\u202eoro"}]}, "/names/0/family"),
        ({"names": [{"given": ["\u200b"]}]}, "/names/0/given/0"),
        ({"gender": None}, "/gender"),
        ({"gender": "f"}, "/gender"),
        ({"birthDate": "1984-02-30"}, "/birthDate"),
        ({"birthDate": "02.03.1984"}, "/birthDate"),
        ({"birthDate": "2999"}, "/birthDate"),
        ({"birthDate": "1850-01-01"}, "/birthDate"),
        ({"birthDate": 1984}, "/birthDate"),
        ({"birthDate": None, "birthDateEstimated": True}, "/birthDateEstimated"),
        ({"birthDateEstimated": "yes"}, "/birthDateEstimated"),
        ({"facility": "a b"}, "/facility"),
        ({"id": "7"}, "/id"),
        ({"clientMutationId": "7"}, "/clientMutationId"),
        ({"nickname": "Ada"}, "/nickname"),
        ({"identifiers": [{"system": CARD, "value": " "}]}, "/identifiers/0/value"),
        ({"identifiers": [{"system": CARD, "value": "1"}] * 2}, "/identifiers"),
        ({"nextOfKin": [{"name": "Obi"}]}, "/nextOfKin/0/relationship"),
        ({"telecom": [{"system": "pigeon", "value": "1"}]}, "/telecom/0/system"),
        ({"a~b/c": 1}, "/a~0b~1c"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(desk: Desk, members, path) -> None:
    extra = problem(desk.register(**members), 422, "VALIDATION_FAILED")
    assert [error["path"] for error in extra["errors"]] == [path]
    assert succeeded(desk.get("/v1/patients"))["items"] == []


def test_every_wrong_place_is_named_at_once(desk: Desk) -> None:
    answer = desk.register(gender="f", facility="", birthDate=1)
    errors = problem(answer, 422, "VALIDATION_FAILED")["errors"]
    assert {error["path"] for error in errors} == {"/gender", "/facility", "/birthDate"}


def test_a_name_in_another_script_than_stated_is_refused(desk: Desk) -> None:
    answer = desk.register(names=[{"family": "Okoro", "script": "Arab"}])
    extra = problem(answer, 422, "NAME_SCRIPT_MISMATCH")
    assert [error["path"] for error in extra["errors"]] == ["/names/0/script"]


@pytest.mark.parametrize(
    ("system", "good", "bad"),
    [
        (LUHN, "79927398713", "79927398710"),
        (VERHOEFF, "2363", "2364"),
        (MOD_97, "9999123456789012141490", "9999123456789012141491"),
    ],
)
def test_check_digits_are_checked_where_a_system_has_them(desk: Desk, system, good, bad) -> None:
    refused = desk.register(identifiers=[{"system": system, "value": bad}])
    extra = problem(refused, 422, "IDENTIFIER_INVALID")
    assert [error["path"] for error in extra["errors"]] == ["/identifiers/0/value"]
    assert bad not in refused.text
    desk.given_patient(identifiers=[{"system": system, "value": good}])


class TestChosenIds:
    def test_the_patient_has_the_id_that_the_client_chose(self, desk: Desk) -> None:
        chosen = str(new_id())
        assert desk.given_patient(id=chosen)["id"] == chosen

    def test_any_kind_of_uuid_will_do(self, desk: Desk) -> None:
        chosen = uuid4()
        assert desk.given_patient(id=str(chosen).upper())["id"] == str(chosen)

    def test_the_same_create_again_needs_no_key(self, desk: Desk) -> None:
        chosen = str(new_id())
        first, again = desk.register(id=chosen), desk.register(id=chosen)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["x-log-position"] == first.headers["x-log-position"]
        assert len(desk.history(first.json())) == 1

    def test_another_patient_with_a_taken_id_is_refused(self, desk: Desk) -> None:
        patient = desk.given_patient()
        for key in ({}, {"Idempotency_Key": "k"}):
            problem(desk.register(id=patient["id"], gender="male", **key), 409, "ID_TAKEN")

    def test_a_colleagues_id_is_taken_even_for_the_same_patient(self, service: Service) -> None:
        desk = service.desk()
        colleague = service.desk(desk.tenant, sub="desk-2")
        patient = desk.given_patient(id=str(new_id()))
        problem(colleague.register(id=patient["id"]), 409, "ID_TAKEN")

    def test_another_tenant_may_have_the_same_id(self, service: Service) -> None:
        chosen = str(new_id())
        for desk in (service.desk(), service.desk()):
            assert desk.given_patient(id=chosen)["version"] == 1

    def test_one_id_for_two_names_is_refused(self, desk: Desk) -> None:
        twice = [{"id": str(new_id()), "family": family} for family in ("A", "B")]
        twice[1]["id"] = twice[0]["id"]
        extra = problem(desk.register(names=twice), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == ["/names"]


class TestIdentifiers:
    def test_a_number_that_somebody_holds_is_refused_naming_the_holder(self, desk: Desk) -> None:
        number = {"system": CARD, "value": "4711"}
        holder = desk.given_patient(identifiers=[number])
        extra = problem(desk.register(identifiers=[number]), 409, "IDENTIFIER_CONFLICT")
        assert extra == {"patientId": holder["id"]}

    def test_who_may_not_read_patients_is_not_told_the_holder(self, service: Service) -> None:
        desk = service.desk()
        number = {"system": CARD, "value": "4711"}
        desk.given_patient(identifiers=[number])
        blind = service.desk(desk.tenant, scope="patient:write")
        for _ in range(2):  # the second one is the stored refusal
            answer = blind.register(identifiers=[number], Idempotency_Key="once")
            assert problem(answer, 409, "IDENTIFIER_CONFLICT") == {}

    def test_another_tenant_may_use_the_same_number(self, service: Service) -> None:
        for desk in (service.desk(), service.desk()):
            desk.given_patient(identifiers=[{"system": CARD, "value": "4711"}])

    def test_two_spellings_of_a_checked_number_are_one(self, desk: Desk) -> None:
        desk.given_patient(identifiers=[{"system": LUHN, "value": "7992 7398 713"}])
        answer = desk.register(identifiers=[{"system": LUHN, "value": "79927398713"}])
        problem(answer, 409, "IDENTIFIER_CONFLICT")

    def test_of_two_desks_with_one_number_at_the_same_instant_one_wins(
        self, service: Service
    ) -> None:
        tenant = service.desk().tenant
        desks = [service.desk(tenant, sub=f"desk-{n}") for n in range(8)]

        def register(desk: Desk, value: str) -> httpx.Response:
            return desk.register(identifiers=[{"system": CARD, "value": value}])

        with ThreadPoolExecutor(len(desks)) as pool:
            for value in ("1", "2", "3"):
                answers = list(pool.map(register, desks, [value] * len(desks)))
                won = [answer for answer in answers if answer.status_code == 201]
                assert len(won) == 1
                winner = won[0].json()["id"]
                for lost in answers:
                    if lost is not won[0]:
                        extra = problem(lost, 409, "IDENTIFIER_CONFLICT")
                        assert extra == {"patientId": winner}
        found = succeeded(desks[0].get("/v1/patients", params={"minPosition": 3}))
        assert len(found["items"]) == 3

    def test_a_retired_number_is_free_and_can_be_taken_again(self, desk: Desk) -> None:
        number = {"system": CARD, "value": "4711"}
        first = desk.given_patient(identifiers=[number])
        path = f"{place(first)}/identifiers/{first['identifiers'][0]['id']}/retirement"
        after = succeeded(desk.post(path, {"reason": "belongs to a twin"}))
        assert (after["identifiers"], after["version"]) == ([], 2)
        assert desk.history(first)[1]["data"]["reason"] == "belongs to a twin"
        second = desk.given_patient(identifiers=[number])
        extra = problem(
            desk.post(f"{place(first)}/identifiers", number), 409, "IDENTIFIER_CONFLICT"
        )
        assert extra == {"patientId": second["id"]}
        problem(desk.post(path, {"reason": "again"}), 404, "NOT_FOUND")

    def test_an_added_number_has_a_place_of_its_own(self, desk: Desk) -> None:
        patient = desk.given_patient()
        answer = desk.post(f"{place(patient)}/identifiers", {"system": CARD, "value": "9"})
        added = answer.json()["identifiers"][0]
        assert (answer.status_code, answer.headers["etag"]) == (201, '"2"')
        assert answer.headers["location"] == f"{place(patient)}/identifiers/{added['id']}"
        assert succeeded(desk.get(answer.headers["location"])) == added


def test_a_body_that_is_registered_twice_without_key_or_id_is_two_patients(desk: Desk) -> None:
    assert desk.given_patient()["id"] != desk.given_patient()["id"]
