"""Consent over HTTP: a legal record, flag by flag."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.service import Clock, Desk, Service, etag, new_id, place, problem, succeeded

EVIDENCE = {"kind": "signature", "reference": "form 7"}


def says(
    desk: Desk, patient: dict[str, Any], decision: str, version: int, **more: Any
) -> httpx.Response:
    """Send what the patient said to a flag (``research``, unless another is named)."""
    flag = more.pop("flag", "research")
    headers = {name: more.pop(name) for name in ("Idempotency_Key",) if name in more}
    said = {"decision": decision, "evidence": EVIDENCE} | more
    path = f"{place(patient)}/consents/{flag}"
    return desk.put(path, said, If_Match=f'"{version}"', **headers)


def now() -> str:
    return datetime.now(UTC).isoformat()


def test_the_flags_are_those_of_the_installation(desk: Desk) -> None:
    assert [flag["flag"] for flag in succeeded(desk.get("/v1/consent-flags"))["items"]] == [
        "portrait",
        "data-sharing",
        "research",
        "contact-sms",
        "contact-email",
    ]


def test_a_decision_is_answered_with_who_recorded_it_and_the_flags_own_version(
    desk: Desk,
) -> None:
    patient = desk.given_patient()
    answer = says(desk, patient, "granted", 0, policy="https://clinic.example/research-2")
    said = succeeded(answer)
    recorded_at = said.pop("recordedAt")
    assert recorded_at.endswith("Z")
    assert said == {
        "flag": "research",
        "version": 1,
        "decision": "granted",
        "policy": "https://clinic.example/research-2",
        "evidence": EVIDENCE,
        "recordedBy": "desk-1",
    }
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    shown = desk.get(f"{place(patient)}/consents/research")
    assert shown.headers["etag"] == '"1"'
    assert shown.json() == said | {
        "recordedAt": recorded_at,
        "title": "Use of the record for research",
        "inForce": True,
    }
    assert succeeded(desk.get(place(patient)))["consents"] == [said | {"recordedAt": recorded_at}]


def test_nothing_that_was_said_is_ever_overwritten(desk: Desk) -> None:
    patient = desk.given_patient()
    said = [
        succeeded(says(desk, patient, decision, version))
        for version, decision in enumerate(["granted", "withdrawn", "granted", "refused"])
    ]
    path = f"{place(patient)}/consents/research"
    assert succeeded(desk.get(f"{path}/history"))["items"] == said
    assert succeeded(desk.get(path))["decision"] == "refused"
    assert desk.topics(patient)[1:] == [
        "patient.consent-granted",
        "patient.consent-withdrawn",
        "patient.consent-granted",
        "patient.consent-refused",
    ]


class TestTwoPeople:
    def test_who_set_different_flags_do_not_collide(self, desk: Desk) -> None:
        patient = desk.given_patient()
        for flag in ("research", "contact-sms"):
            assert succeeded(says(desk, patient, "granted", 0, flag=flag))["version"] == 1

    def test_who_set_the_same_flag_do(self, desk: Desk) -> None:
        patient = desk.given_patient()
        first = succeeded(says(desk, patient, "granted", 0))
        told = problem(says(desk, patient, "refused", 0), 412, "OPTIMISTIC_LOCK_CONFLICT")
        (change,) = told.pop("changes")
        assert (change["version"], change["event"], change["actor"], change["fields"]) == (
            1,
            "patient.consent-granted",
            "desk-1",
            ["/consents"],
        )
        assert told == {
            "expectedVersion": 0,
            "currentVersion": 1,
            "fields": [
                {"path": "/decision", "base": None, "theirs": "granted", "yours": "refused"}
            ],
            "current": first,
        }

    def test_at_the_same_instant_one_is_first(self, desk: Desk) -> None:
        patient = desk.given_patient()
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda n: says(desk, patient, ("granted", "refused")[n % 2], 0), range(8))
            )
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
        assert len(desk.topics(patient)) == 2

    def test_an_edit_of_the_person_is_none_of_consents_business(self, desk: Desk) -> None:
        patient = desk.given_patient()
        succeeded(says(desk, patient, "granted", 0))
        path = f"{place(patient)}/demographics"
        edited = succeeded(desk.patch(path, {"gender": "other"}, If_Match=etag(patient)))
        assert succeeded(says(desk, edited, "withdrawn", 1))["version"] == 2


class TestAtAnInstant:
    def at(self, desk: Desk, patient: dict[str, Any], moment: datetime) -> Any:
        path = f"{place(patient)}/consents"
        found = succeeded(desk.get(path, params={"validAt": moment.isoformat()}))["items"]
        return [(said["decision"], said["inForce"]) for said in found]

    def test_it_is_in_force_while_it_is_valid(self, desk: Desk) -> None:
        patient = desk.given_patient()
        start = datetime(2030, 1, 1, tzinfo=UTC)
        end = datetime(2031, 1, 1, tzinfo=UTC)
        said = {"validFrom": start.isoformat(), "validUntil": end.isoformat()}
        succeeded(says(desk, patient, "granted", 0, **said))
        instant = timedelta(microseconds=1)
        assert [
            self.at(desk, patient, t) for t in (start - instant, start, end - instant, end)
        ] == [
            [],
            [("granted", True)],
            [("granted", True)],
            [("granted", False)],
        ]

    def test_a_withdrawal_holds_from_when_it_was_recorded(self, desk: Desk, clock: Clock) -> None:
        patient = desk.given_patient()
        first = succeeded(says(desk, patient, "granted", 0))
        clock.ahead = timedelta(days=1)
        second = succeeded(says(desk, patient, "withdrawn", 1))
        moments = [datetime.fromisoformat(said["recordedAt"]) for said in (first, second)]
        assert [self.at(desk, patient, moment) for moment in moments] == [
            [("granted", True)],
            [("withdrawn", False)],
        ]


def test_a_retry_gets_the_first_answer_even_after_the_flag_moved_on(desk: Desk) -> None:
    patient = desk.given_patient()
    key = str(new_id())
    first = says(desk, patient, "granted", 0, Idempotency_Key=key)
    succeeded(says(desk, patient, "withdrawn", 1))
    again = says(desk, patient, "granted", 0, Idempotency_Key=key)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"decision": "maybe"}, "/decision"),
        ({"evidence": None}, "/evidence"),
        ({"evidence": {}}, "/evidence/kind"),
        ({"evidence": {"kind": "signature", "page": 3}}, "/evidence/page"),
        ({"evidence": {"kind": "signature", "witness": "\u202eola"}}, "/evidence/witness"),
        ({"validFrom": "tomorrow"}, "/validFrom"),
        ({"validFrom": "2026-01-01T00:00:00"}, "/validFrom"),
        ({"validFrom": "0001-01-01T00:00:00+14:00"}, "/validFrom"),
        ({"validUntil": "2020-01-01T00:00:00Z"}, "/validUntil"),
        ({"recordedBy": "somebody else"}, "/recordedBy"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_stored(desk: Desk, said, path) -> None:
    patient = desk.given_patient()
    answer = desk.put(
        f"{place(patient)}/consents/research",
        {"decision": "granted", "evidence": EVIDENCE} | said,
        If_Match='"0"',
    )
    assert [e["path"] for e in problem(answer, 422, "VALIDATION_FAILED")["errors"]] == [path]
    assert desk.topics(patient) == ["patient.registered"]


@pytest.mark.parametrize("flag", ["blood-donation", "Research", "a" * 65, "re search", "-"])
def test_an_unknown_flag_is_refused(desk: Desk, flag: str) -> None:
    patient = desk.given_patient()
    problem(says(desk, patient, "granted", 0, flag=flag), 404, "NOT_FOUND")
    problem(desk.get(f"{place(patient)}/consents/{flag}"), 404, "NOT_FOUND")


def test_flags_come_from_the_settings(database_url: str, tmp_path) -> None:
    from tests.service import running

    with running(database_url, tmp_path, consent_flags={"newsletter": "The newsletter"}) as service:
        desk = service.desk()
        patient = desk.given_patient()
        assert succeeded(says(desk, patient, "granted", 0, flag="newsletter"))["version"] == 1
        problem(says(desk, patient, "granted", 0), 404, "NOT_FOUND")
        assert succeeded(says(desk, patient, "granted", 0, flag="portrait"))["version"] == 1


def test_who_may_write_but_not_read_gets_the_flags_version_alone(service: Service) -> None:
    reader = service.desk()
    patient = reader.given_patient()
    writer = service.desk(reader.tenant, scope="consent:write")
    answer = says(writer, patient, "granted", 0)
    assert answer.json() == {"id": patient["id"], "version": 1}
    told = problem(says(writer, patient, "refused", 0), 412, "OPTIMISTIC_LOCK_CONFLICT")
    assert told.keys() == {"expectedVersion", "currentVersion", "changes"}
