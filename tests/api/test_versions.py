"""Stating the version, and what a stale one collides with (contract, sections 2 and 3)."""

from typing import Any, ClassVar

import httpx
import pytest
from tests.service import ADA, CARD, Desk, Service, etag, place, problem, succeeded

KIN = {"name": "Obi", "relationship": "brother"}
REASON = {"reason": "a mistake"}


def edit(desk: Desk, patient: dict[str, Any], said: Any, version: object, **more: Any):
    return desk.patch(f"{place(patient)}/demographics", said, If_Match=f'"{version}"', **more)


def test_an_edit_with_the_version_seen_goes_through(desk: Desk) -> None:
    patient = desk.given_patient()
    answer = edit(desk, patient, {"gender": "other"}, 1)
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert answer.headers["x-log-position"] == "2"
    assert answer.json() == patient | {
        "gender": "other",
        "version": 2,
        "lastUpdated": answer.json()["lastUpdated"],
    }


def test_an_edit_without_a_version_is_refused(desk: Desk) -> None:
    patient = desk.given_patient()
    answer = desk.patch(f"{place(patient)}/demographics", {"gender": "other"})
    problem(answer, 428, "VERSION_REQUIRED")
    assert desk.topics(patient) == ["patient.registered"]


@pytest.mark.parametrize(
    "stated",
    [
        "*",
        '"1", "2"',
        'W/"1"',
        "1",
        "'1'",
        '"01"',
        '"-1"',
        '"1.0"',
        '"x"',
        '""',
        "",
        '"9999999999"',
        '"١"'.encode(),
    ],
)
def test_anything_but_one_strong_tag_of_a_version_is_refused(desk: Desk, stated) -> None:
    patient = desk.given_patient()
    answer = desk.patch(f"{place(patient)}/demographics", {"gender": "other"}, If_Match=stated)
    problem(answer, 400, "MALFORMED_REQUEST")


def test_two_lines_of_tags_are_refused(desk: Desk) -> None:
    patient = desk.given_patient()
    headers = httpx.Headers(
        [("Authorization", f"Bearer {desk.bearer}"), ("Content-Type", "application/json")]
        + [("If-Match", f'"{version}"') for version in (1, 2)]
    )
    url = f"{place(patient)}/demographics"
    answer = desk.service.http.patch(url, headers=headers, json={"gender": "other"})
    problem(answer, 400, "MALFORMED_REQUEST")


def test_a_conflict_says_all_that_a_person_has_to_review(service: Service) -> None:
    desk = service.desk(sub="desk-1")
    colleague = service.desk(desk.tenant, sub="desk-2")
    patient = desk.given_patient(telecom=[{"system": "phone", "value": "1"}])
    succeeded(edit(colleague, patient, {"gender": "other", "maritalStatus": "M"}, 1))
    desk.given_events(patient, 1)
    now = succeeded(colleague.post(f"{place(patient)}/identifiers", {"system": CARD, "value": "1"}))
    history = desk.history(patient)
    answer = edit(desk, patient, {"gender": "male", "birthDate": "1985", "telecom": None}, 1)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/problems/OPTIMISTIC_LOCK_CONFLICT",
        "title": "The record changed since you saw it",
        "status": 412,
        "detail": "The record changed since the version that you state; "
        "review both and send again.",
        "instance": f"{place(patient)}/demographics",
        "code": "OPTIMISTIC_LOCK_CONFLICT",
        "expectedVersion": 1,
        "currentVersion": 4,
        "changes": [
            {
                "version": 2,
                "event": "patient.demographics-corrected",
                "at": history[1]["at"],
                "actor": "desk-2",
                "fields": ["/gender", "/maritalStatus"],
            },
            {
                "version": 4,
                "event": "patient.identifier-added",
                "at": history[3]["at"],
                "actor": "desk-2",
                "fields": ["/identifiers"],
            },
        ],
        "fields": [
            {"path": "/birthDate", "base": "1984-03-02", "theirs": "1984-03-02", "yours": "1985"},
            {"path": "/gender", "base": "female", "theirs": "other", "yours": "male"},
            {
                "path": "/identifiers",
                "base": [],
                "theirs": now["identifiers"],
                "yours": [],
            },
            {"path": "/maritalStatus", "base": None, "theirs": "M", "yours": None},
            {
                "path": "/telecom",
                "base": patient["telecom"],
                "theirs": patient["telecom"],
                "yours": [],
            },
        ],
        "current": now,
    }
    reviewed = edit(desk, patient, {"gender": "male"}, answer.json()["currentVersion"])
    assert succeeded(reviewed)["gender"] == "male"


def test_who_may_not_read_patients_gets_a_conflict_without_patient_data(service: Service) -> None:
    desk = service.desk()
    blind = service.desk(desk.tenant, scope="patient:write", sub="blind")
    patient = desk.given_patient(telecom=[{"system": "phone", "value": "4711-4711"}])
    succeeded(edit(desk, patient, {"gender": "other"}, 1))
    for _ in range(2):  # the second one is the stored refusal
        answer = edit(blind, patient, {"gender": "male"}, 1, Idempotency_Key="k")
        extra = problem(answer, 412, "OPTIMISTIC_LOCK_CONFLICT")
        at = desk.history(patient)[1]["at"]
        assert extra == {
            "expectedVersion": 1,
            "currentVersion": 2,
            "changes": [{"version": 2, "event": "patient.demographics-corrected", "at": at}],
        }
        assert "4711" not in answer.text


@pytest.mark.parametrize("version", [0, 3, 999999999])
def test_a_version_that_never_was_conflicts(desk: Desk, version) -> None:
    patient = desk.given_events(desk.given_patient(), 1)
    extra = problem(
        edit(desk, patient, {"gender": "male"}, version), 412, "OPTIMISTIC_LOCK_CONFLICT"
    )
    assert extra == {
        "expectedVersion": version,
        "currentVersion": 2,
        "changes": [],
        "fields": [],
        "current": patient,
    }


def test_another_desks_next_of_kin_never_breaks_a_demographics_edit(service: Service) -> None:
    desk = service.desk()
    colleague = service.desk(desk.tenant, sub="desk-2")
    patient = desk.given_patient()
    colleague.given_events(patient, 3)
    answer = edit(desk, patient, {"gender": "other"}, 1)
    assert succeeded(answer)["version"] == 5


def test_adding_a_next_of_kin_conflicts_with_nothing(desk: Desk) -> None:
    patient = desk.given_patient()
    for gender in ("other", "male"):
        patient = succeeded(edit(desk, patient, {"gender": gender}, patient["version"]))
    for stated in ({}, {"If_Match": '"1"'}, {"If_Match": '"2"'}):
        answer = desk.post(f"{place(patient)}/next-of-kin", KIN, **stated)
        assert answer.status_code == 201, answer.text
    assert len(succeeded(desk.get(place(patient)))["nextOfKin"]) == 3


class TestWhatCollides:
    """Each pair of a command and an event that came since."""

    @pytest.fixture
    def patient(self, desk: Desk) -> dict[str, Any]:
        return desk.given_patient(
            names=[{"family": "A"}, {"family": "B"}],
            identifiers=[{"system": CARD, "value": "1"}],
            nextOfKin=[KIN, KIN],
        )

    def commands(self, desk: Desk, patient: dict[str, Any]) -> dict[str, Any]:
        at, names = place(patient), patient["names"]
        number, kin = patient["identifiers"][0], patient["nextOfKin"]
        return {
            "demographics": lambda **h: desk.patch(f"{at}/demographics", {"gender": "other"}, **h),
            "add name": lambda **h: desk.post(f"{at}/names", {"family": "C"}, **h),
            "replace name": lambda **h: desk.put(
                f"{at}/names/{names[0]['id']}", {"family": "D"}, **h
            ),
            "retire name": lambda **h: desk.post(
                f"{at}/names/{names[1]['id']}/retirement", REASON, **h
            ),
            "add identifier": lambda **h: desk.post(
                f"{at}/identifiers", {"system": CARD, "value": "2"}, **h
            ),
            "retire identifier": lambda **h: desk.post(
                f"{at}/identifiers/{number['id']}/retirement", REASON, **h
            ),
            "add kin": lambda **h: desk.post(f"{at}/next-of-kin", KIN, **h),
            "remove kin": lambda **h: desk.post(
                f"{at}/next-of-kin/{kin[0]['id']}/removal", REASON, **h
            ),
            "remove other kin": lambda **h: desk.post(
                f"{at}/next-of-kin/{kin[1]['id']}/removal", REASON, **h
            ),
        }

    NAMES = ("add name", "replace name", "retire name")
    NUMBERS = ("add identifier", "retire identifier")
    COLLIDING: ClassVar[dict[str, tuple[str, ...]]] = {
        "demographics": ("demographics", *NAMES, *NUMBERS),
        **dict.fromkeys(NAMES, NAMES),
        **dict.fromkeys(NUMBERS, NUMBERS),
        "add kin": (),
        "remove kin": ("remove kin",),
        "remove other kin": ("remove other kin",),
    }

    @pytest.mark.parametrize("first", list(COLLIDING))
    @pytest.mark.parametrize("second", list(COLLIDING))
    def test_a_stale_command_conflicts_with_what_touches_the_same(
        self, desk: Desk, patient, first, second
    ) -> None:
        commands = self.commands(desk, patient)
        succeeded(commands[first](If_Match='"1"'))
        answer = commands[second](If_Match='"1"')
        if first in self.COLLIDING[second]:
            problem(answer, 412, "OPTIMISTIC_LOCK_CONFLICT")
        elif first == second == "add identifier":
            problem(answer, 409, "IDENTIFIER_CONFLICT")
        else:
            assert answer.is_success, answer.text

    @pytest.mark.parametrize("first", list(COLLIDING))
    @pytest.mark.parametrize("second", ["replace name", "add name", "add kin"])
    def test_without_a_version_names_and_next_of_kin_never_conflict(
        self, desk: Desk, patient, first, second
    ) -> None:
        commands = self.commands(desk, patient)
        succeeded(commands[first](If_Match='"1"'))
        assert commands[second]().is_success

    def test_removing_a_next_of_kin_needs_a_version(self, desk: Desk, patient) -> None:
        problem(self.commands(desk, patient)["remove kin"](), 428, "VERSION_REQUIRED")


class TestMergePatch:
    def test_what_is_absent_stays_what_is_null_goes_and_lists_are_replaced(
        self, desk: Desk
    ) -> None:
        phone, mail = ({"system": s, "value": "1"} for s in ("phone", "email"))
        patient = desk.given_patient(
            telecom=[phone, mail], maritalStatus="M", facility="north", birthDateEstimated=True
        )
        said = {
            "telecom": [mail],
            "maritalStatus": None,
            "birthDate": None,
            "birthDateEstimated": None,
        }
        now = succeeded(edit(desk, patient, said, 1, content_type="application/merge-patch+json"))
        assert now["telecom"] == [mail]
        assert {"maritalStatus", "birthDate"}.isdisjoint(now)
        assert (now["birthDateEstimated"], now["facility"]) == (False, "north")
        assert desk.history(patient)[1]["data"] == {"changes": said}
        assert succeeded(desk.get(place(patient))) == now

    @pytest.mark.parametrize(
        "said",
        [
            {},
            {"gender": "female"},
            {"birthDate": "1984-03-02"},
            {"telecom": []},
            {"telecom": None},
            {"facility": None},
            {"birthDateEstimated": False},
        ],
    )
    def test_what_changes_nothing_makes_no_event(self, desk: Desk, said) -> None:
        patient = desk.given_patient()
        answer = edit(desk, patient, said, 1)
        assert (answer.status_code, answer.headers["etag"], answer.json()) == (200, '"1"', patient)
        assert desk.topics(patient) == ["patient.registered"]

    def test_only_what_changed_is_recorded(self, desk: Desk) -> None:
        patient = desk.given_patient()
        succeeded(edit(desk, patient, {"gender": "female", "birthDate": "1984"}, 1))
        assert desk.history(patient)[1]["data"] == {"changes": {"birthDate": "1984"}}

    @pytest.mark.parametrize(
        ("said", "path"),
        [
            ({"gender": None}, ""),
            ({"gender": "f"}, "/gender"),
            ({"birthDate": "2999"}, "/birthDate"),
            ({"birthDate": "1984-13"}, "/birthDate"),
            ({"birthDate": None, "birthDateEstimated": True}, "/birthDateEstimated"),
            ({"names": []}, "/names"),
            ({"telecom": [{"system": "phone"}]}, "/telecom/0/value"),
            ([], ""),
        ],
    )
    def test_what_cannot_be_is_refused(self, desk: Desk, said, path) -> None:
        patient = desk.given_patient()
        extra = problem(edit(desk, patient, said, 1), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == [path]
        assert desk.topics(patient) == ["patient.registered"]

    def test_an_estimated_date_that_goes_takes_its_estimate_along(self, desk: Desk) -> None:
        patient = desk.given_patient(birthDateEstimated=True)
        extra = problem(edit(desk, patient, {"birthDate": None}, 1), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in extra["errors"]] == ["/birthDateEstimated"]


class TestNames:
    def test_a_further_name_in_another_script_is_confirmed_with_the_display(
        self, desk: Desk
    ) -> None:
        patient = desk.given_patient()
        answer = desk.post(
            f"{place(patient)}/names", {"use": "usual", "family": "محمد", "given": ["أحمد"]}
        )
        now = answer.json()
        added = now["names"][1]
        assert (answer.status_code, added["script"]) == (201, "Arab")
        assert answer.headers["location"] == f"{place(patient)}/names/{added['id']}"
        assert now["display"] == {
            "default": {"nameId": added["id"], "script": "Arab", "text": "أحمد محمد"},
            "byScript": {
                "Arab": {"nameId": added["id"], "text": "أحمد محمد"},
                "Latn": {"nameId": patient["names"][0]["id"], "text": "Ada Okoro"},
            },
        }
        assert succeeded(desk.get(answer.headers["location"])) == added

    def test_a_name_is_kept_in_nfc(self, desk: Desk) -> None:
        patient = desk.given_patient(names=[{"family": "Mu\u0308ller"}])
        assert patient["names"][0]["family"] == "M\u00fcller"

    @pytest.mark.parametrize(
        ("said", "code", "path"),
        [
            ({"family": "Okoro", "script": "Cyrl"}, "NAME_SCRIPT_MISMATCH", "/script"),
            ({"family": "Ok\u202eoro"}, "VALIDATION_FAILED", "/family"),
            ({"given": ["A\u2066da"]}, "VALIDATION_FAILED", "/given/0"),
            ({"family": "Pаypal"}, "VALIDATION_FAILED", "/family"),
            ({"family": "   "}, "VALIDATION_FAILED", "/family"),
            ({"use": "alias", "family": "A"}, "VALIDATION_FAILED", "/use"),
            ({}, "VALIDATION_FAILED", ""),
        ],
    )
    def test_what_is_no_name_is_refused(self, desk: Desk, said, code, path) -> None:
        patient = desk.given_patient()
        answer = desk.post(f"{place(patient)}/names", said)
        extra = problem(answer, 422, code)
        assert [error["path"] for error in extra["errors"]] == [path]

    def test_a_replaced_name_keeps_its_id(self, desk: Desk) -> None:
        patient = desk.given_patient()
        at = f"{place(patient)}/names/{patient['names'][0]['id']}"
        now = succeeded(desk.put(at, {"family": "Bello", "given": ["Ada"]}))
        assert [(name["id"], name["family"]) for name in now["names"]] == [
            (patient["names"][0]["id"], "Bello")
        ]
        again = desk.put(at, {"family": "Bello", "given": ["Ada"]})
        assert succeeded(again)["version"] == 2
        other = desk.put(at, {"family": "X", "id": patient["id"]})
        assert problem(other, 422, "VALIDATION_FAILED")["errors"][0]["path"] == "/id"

    def test_a_retired_name_is_gone_but_the_last_one_stays(self, desk: Desk) -> None:
        patient = desk.given_patient(names=[{"family": "A"}, {"family": "B"}])
        first, second = (
            f"{place(patient)}/names/{name['id']}/retirement" for name in patient["names"]
        )
        assert [n["family"] for n in succeeded(desk.post(first, REASON))["names"]] == ["B"]
        problem(desk.post(first, REASON), 404, "NOT_FOUND")
        problem(desk.get(first.removesuffix("/retirement")), 404, "NOT_FOUND")
        problem(desk.post(second, REASON), 422, "VALIDATION_FAILED")
        problem(desk.post(second, {}), 422, "VALIDATION_FAILED")

    def test_a_chosen_id_of_a_name_is_idempotent_and_cannot_be_taken(self, desk: Desk) -> None:
        patient = desk.given_patient()
        said = {"id": "0192f0c1-2345-7abc-8def-0123456789ab", "family": "Bello"}
        path = f"{place(patient)}/names"
        first, again = desk.post(path, said), desk.post(path, said)
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.headers["location"] == first.headers["location"]
        assert len(desk.history(patient)) == 2
        problem(desk.post(path, said | {"family": "X"}), 409, "ID_TAKEN")


@pytest.mark.parametrize("what", ["names", "identifiers", "next-of-kin"])
def test_nothing_can_be_added_to_nobody(desk: Desk, what) -> None:
    said: dict[str, Any] = {
        "names": ADA["names"][0],
        "identifiers": {"system": CARD, "value": "1"},
        "next-of-kin": KIN,
    }[what]
    for nobody in ("0192f0c1-2345-7abc-8def-0123456789ab", "7", "null"):
        problem(desk.post(f"/v1/patients/{nobody}/{what}", said), 404, "NOT_FOUND")


def test_an_etag_of_the_answer_is_the_next_if_match(desk: Desk) -> None:
    patient = desk.given_patient()
    for gender in ("male", "other", "unknown"):
        answer = desk.patch(
            f"{place(patient)}/demographics", {"gender": gender}, If_Match=etag(patient)
        )
        patient = succeeded(answer)
        assert answer.headers["etag"] == etag(patient)
