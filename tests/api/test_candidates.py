"""Possible duplicates over HTTP: raised, looked at, dismissed, and asked for before registering."""

from typing import Any

import httpx
import pytest
from tests.service import ADA, CARD, Desk, Service, etag, new_id, place, problem, succeeded

CANDIDATES = "/v1/mpi/candidates"
MATCH = "/v1/mpi/match"
PHONE = [{"system": "phone", "value": "+44 20 7946 0123"}]
KNOWN: dict[str, Any] = ADA | {"telecom": PHONE, "facility": "north"}
TYPO: dict[str, Any] = KNOWN | {
    "names": [{"use": "official", "family": "Okorro", "given": ["Ada"]}],
    "facility": "south",
}
"""The same person, with a typing error in the family name."""
SOMEBODY_ELSE: dict[str, Any] = {
    "names": [{"family": "Lindqvist", "given": ["Björn"]}],
    "gender": "male",
    "birthDate": "1951-11-30",
    "telecom": [],
}
REASON = {"reason": "sisters"}
Record = dict[str, Any]


class Queue:
    """The queue as a desk sees it, never behind what the desk did."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.position = "0"

    def did(self, answer: httpx.Response) -> Record:
        """Take in what a command did; returns its answer."""
        self.position = answer.headers["x-log-position"]
        return succeeded(answer)

    def register(self, said: Record, **more: Any) -> Record:
        return self.did(self.desk.post("/v1/patients", said | more))

    def correct(self, patient: Record, **changes: Any) -> Record:
        path = f"{place(patient)}/demographics"
        return self.did(self.desk.patch(path, changes, If_Match=etag(patient)))

    def dismiss(self, candidate: Record, reason: str = "sisters", **more: Any) -> Record:
        return self.did(self.desk.post(dismissal(candidate), {"reason": reason}, **more))

    def asked(self, path: str = CANDIDATES, **params: Any) -> Record:
        asked = {"minPosition": self.position, **params}
        return succeeded(self.desk.get(path, params=asked))

    def items(self, **params: Any) -> list[Record]:
        found: list[Record] = self.asked(**params)["items"]
        return found

    def pairs(self, **params: Any) -> list[set[str]]:
        return [ids_of(item) for item in self.items(**params)]


def ids_of(item: Record) -> set[str]:
    return {each["patientId"] for each in item["patients"]}


def dismissal(candidate: Record) -> str:
    return f"{CANDIDATES}/{candidate['id']}/dismissal"


@pytest.fixture
def queue(desk: Desk) -> Queue:
    return Queue(desk)


@pytest.fixture
def pair(queue: Queue) -> tuple[Record, Record]:
    """Two records of one person."""
    return queue.register(KNOWN), queue.register(TYPO)


@pytest.fixture
def candidate(queue: Queue, pair: tuple[Record, Record]) -> Record:
    (item,) = queue.items()
    return item


class TestRaising:
    def test_two_records_of_one_person_are_one_candidate_with_reasons(
        self, queue: Queue, pair: tuple[Record, Record]
    ) -> None:
        (item,) = queue.items()
        assert [each["patientId"] for each in item["patients"]] == sorted(p["id"] for p in pair)
        assert item["grade"] == "certain"
        assert 0.99 < item["score"] <= 1
        assert item["agreement"].keys() == {"family", "given", "birthDate", "gender", "telecom"}
        assert all(bits > 0 for bits in item["agreement"].values())
        assert item["status"] == "open"
        assert "dismissal" not in item
        shown = {each["patientId"]: each for each in item["patients"]}[pair[1]["id"]]
        assert shown.pop("changedAt")
        assert shown == {
            "patientId": pair[1]["id"],
            "version": 1,
            "currentPatientId": pair[1]["id"],
            "currentVersion": 1,
            "display": pair[1]["display"],
            "birthDate": "1984-03-02",
            "gender": "female",
            "facility": "south",
        }

    def test_two_devices_that_were_offline_make_one_candidate(self, queue: Queue) -> None:
        for device, said in (("tablet-1", KNOWN), ("tablet-2", TYPO)):
            mutation = {
                "clientMutationId": str(new_id()),
                "operation": "patient.register",
                "aggregateId": str(new_id()),
                "payload": said,
            }
            body = {"clientId": device, "mutations": [mutation]}
            for _ in range(2):  # the second time its answer was lost
                queue.did(queue.desk.post("/v1/sync/push", body))
        assert len(queue.items()) == 1

    @pytest.mark.parametrize(
        "names",
        [
            [{"use": "anonymous", "text": "Unknown man, blue coat"}],
            [{"family": "Okoro", "given": ["Baby of Ada"]}],
            [{"family": "Unknown", "given": ["Unknown"]}],
        ],
    )
    def test_two_who_have_no_name_yet_never_are(self, queue: Queue, names: Any) -> None:
        for _ in range(2):
            queue.register(KNOWN | {"names": names})
        assert queue.items() == []

    def test_strangers_are_not(self, queue: Queue) -> None:
        queue.register(KNOWN)
        queue.register(SOMEBODY_ELSE)
        assert queue.items() == []

    def test_a_correction_that_tells_them_apart_takes_it_away(
        self, queue: Queue, pair: tuple[Record, Record]
    ) -> None:
        named = queue.desk.put(
            f"{place(pair[1])}/names/{pair[1]['names'][0]['id']}", SOMEBODY_ELSE["names"][0]
        )
        changes = {name: SOMEBODY_ELSE[name] for name in ("gender", "birthDate", "telecom")}
        queue.correct(queue.did(named), **changes)
        assert queue.items() == []


class TestOne:
    def test_it_shows_both_records_side_by_side_and_how_they_differ(
        self, queue: Queue, candidate: Record
    ) -> None:
        shown = queue.asked(f"{CANDIDATES}/{candidate['id']}")
        records = [succeeded(queue.desk.get(f"/v1/patients/{i}")) for i in ids_in(candidate)]
        assert shown["records"] == records
        left, right = (record["names"][0] for record in records)
        assert [each["path"] for each in shown["differences"]] == ["/names", "/facility"]
        assert shown["differences"][0] == {
            "path": "/names",
            "left": [{name: value for name, value in left.items() if name != "id"}],
            "right": [{name: value for name, value in right.items() if name != "id"}],
        }
        assert {name: shown[name] for name in candidate} == candidate

    def test_every_field_has_a_level_and_what_it_weighs(
        self, queue: Queue, candidate: Record
    ) -> None:
        fields = {
            each.pop("field"): each
            for each in queue.asked(f"{CANDIDATES}/{candidate['id']}")["fields"]
        }
        assert fields["birthDate"] == {
            "level": "exact",
            "weight": candidate["agreement"]["birthDate"],
        }
        assert fields["identifier"] == {"level": "missing", "weight": None}
        weighed = {name: each["weight"] for name, each in fields.items() if each["weight"]}
        assert weighed == candidate["agreement"]

    def test_without_patient_read_the_records_are_left_out(
        self, service: Service, queue: Queue, candidate: Record
    ) -> None:
        reader = service.desk(queue.desk.tenant, scope="mpi:read")
        shown = succeeded(reader.get(f"{CANDIDATES}/{candidate['id']}"))
        assert shown["fields"]
        assert not {"records", "differences"} & shown.keys()

    def test_one_that_is_not_there_is_not_found(self, desk: Desk) -> None:
        for its_id in (new_id(), "nonsense"):
            problem(desk.get(f"{CANDIDATES}/{its_id}"), 404, "NOT_FOUND")


def ids_in(candidate: Record) -> list[str]:
    return [each["patientId"] for each in candidate["patients"]]


class TestDismissing:
    def test_it_leaves_the_queue_and_says_why(self, queue: Queue, candidate: Record) -> None:
        answer = queue.desk.post(dismissal(candidate), REASON)
        assert answer.status_code == 200
        assert "location" not in answer.headers
        made = queue.did(answer)
        assert made.pop("evidence")
        assert made == {
            "id": candidate["id"],
            "version": 1,
            "patientIds": ids_in(candidate),
            "reason": "sisters",
            "dismissedBy": "desk-1",
        }
        assert queue.items() == []
        (dismissed,) = queue.items(status="dismissed")
        assert dismissed["dismissal"].pop("at")
        assert dismissed["dismissal"] == {"reason": "sisters", "by": "desk-1"}

    def test_it_comes_back_only_when_something_else_speaks_for_it(
        self, queue: Queue, pair: tuple[Record, Record], candidate: Record
    ) -> None:
        queue.dismiss(candidate)
        patient = queue.correct(pair[0], maritalStatus="M")
        assert queue.items() == []
        queue.correct(patient, birthDate="1984-02-03")
        (again,) = queue.items()
        assert again["id"] == candidate["id"]
        assert again["raisedAt"] > candidate["raisedAt"]
        assert "dismissal" not in again

    def test_the_same_request_again_has_the_first_answer_whatever_became_of_the_pair(
        self, queue: Queue, pair: tuple[Record, Record], candidate: Record
    ) -> None:
        key = str(new_id())
        first = queue.desk.post(dismissal(candidate), REASON, Idempotency_Key=key)
        patient = queue.correct(pair[0], birthDate="1984-02-03")
        assert queue.items()
        _same(first, queue.desk.post(dismissal(candidate), REASON, Idempotency_Key=key))
        assert queue.items()  # it was not dismissed anew
        queue.correct(patient, birthDate="1951-11-30", gender="male", telecom=[])
        named = f"{place(patient)}/names/{patient['names'][0]['id']}"
        queue.did(queue.desk.put(named, SOMEBODY_ELSE["names"][0]))
        assert queue.items() == queue.items(status="dismissed") == []
        _same(first, queue.desk.post(dismissal(candidate), REASON, Idempotency_Key=key))
        problem(
            queue.desk.post(dismissal(candidate), {"reason": "other"}, Idempotency_Key=key),
            422,
            "IDEMPOTENCY_KEY_REUSED",
        )
        # and a new request finds what is there now
        problem(queue.desk.post(dismissal(candidate), REASON), 404, "NOT_FOUND")
        fresh = queue.desk.post(dismissal(candidate), REASON, Idempotency_Key=str(new_id()))
        problem(fresh, 404, "NOT_FOUND")

    def test_twice_on_the_same_evidence_is_once(self, queue: Queue, candidate: Record) -> None:
        first = queue.dismiss(candidate)
        assert queue.items() == []  # so that the second finds it dismissed
        assert queue.dismiss(candidate, "cousins") == first

    def test_what_is_no_reason_is_refused(self, queue: Queue, candidate: Record) -> None:
        path = dismissal(candidate)
        told = problem(queue.desk.post(path, {}), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in told["errors"]] == ["/reason"]
        problem(queue.desk.post(path, REASON | {"x": 1}), 422, "VALIDATION_FAILED")
        problem(queue.desk.post(path, REASON, params={"a": 1}), 422, "VALIDATION_FAILED")
        twice = b'{"reason":"a","reason":"b"}'
        problem(
            queue.desk("POST", path, content=twice, Content_Type="application/json"),
            400,
            "MALFORMED_REQUEST",
        )
        assert len(queue.items()) == 1

    def test_a_pair_that_is_none_is_not_found(self, desk: Desk) -> None:
        for its_id in (new_id(), "nonsense"):
            answer = desk.post(f"{CANDIDATES}/{its_id}/dismissal", REASON)
            problem(answer, 404, "NOT_FOUND")

    def test_offline_it_is_not_done(self, queue: Queue, candidate: Record) -> None:
        mutation = {
            "clientMutationId": str(new_id()),
            "operation": "mpi.dismiss_candidate",
            "aggregateId": candidate["id"],
            "payload": REASON,
        }
        body = {"clientId": "tablet-1", "mutations": [mutation]}
        (result,) = succeeded(queue.desk.post("/v1/sync/push", body))["results"]
        assert (result["status"], result["code"]) == ("rejected", "OFFLINE_PROHIBITED")


def _same(first: httpx.Response, again: httpx.Response) -> None:
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"


class TestListing:
    @pytest.fixture
    def alikes(self, queue: Queue) -> list[Record]:
        """Three records of one person, and two of somebody else's without much to tell by."""
        made = [queue.register(KNOWN), queue.register(TYPO), queue.register(KNOWN)]
        less = {"names": SOMEBODY_ELSE["names"], "gender": "male", "birthDate": "1951-11-30"}
        return [*made, *(queue.register(less, facility="east") for _ in range(2))]

    def test_the_likeliest_come_first_and_pages_have_each_once(
        self, queue: Queue, alikes: list[Record]
    ) -> None:
        whole = queue.items()
        assert len(whole) == 4
        order = [(-each["score"], each["raisedAt"], each["id"]) for each in whole]
        assert order == sorted(order)
        assert ids_of(whole[-1]) == {each["id"] for each in alikes[3:]}
        seen: list[Record] = []
        cursor: dict[str, Any] = {}
        while True:
            page = queue.asked(limit=1, **cursor)
            seen += page["items"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert seen == whole

    def test_filters_hold_together(self, queue: Queue, alikes: list[Record]) -> None:
        whole = queue.items()
        assert queue.pairs(facility="east") == [{each["id"] for each in alikes[3:]}]
        assert len(queue.pairs(facility="south")) == 2
        assert queue.pairs(facility="west") == []
        assert queue.pairs(facility="south", patientId=alikes[3]["id"]) == []
        for grade in ("certain", "probable", "possible"):
            assert queue.items(grade=grade) == [e for e in whole if e["grade"] == grade]
        least = whole[-2]["score"]
        assert queue.items(minScore=least) == [e for e in whole if e["score"] >= least]

    def test_a_patient_is_found_by_whichever_record(
        self, service: Service, queue: Queue, alikes: list[Record]
    ) -> None:
        one, other, third = alikes[:3]
        merged(service, queue, one, other)
        for patient in (one, other, third):
            assert queue.pairs(patientId=patient["id"]) == [{one["id"], third["id"]}]
        (shown,) = queue.items(status="merged")
        assert {each["currentPatientId"] for each in shown["patients"]} == {one["id"]}
        assert queue.pairs(patientId=str(new_id())) == []

    def test_counts_are_those_of_the_lists(
        self, service: Service, queue: Queue, alikes: list[Record]
    ) -> None:
        merged(service, queue, *alikes[:2])
        queue.dismiss(next(iter(queue.items(facility="east"))))
        for facility in ({}, {"facility": "north"}, {"facility": "east"}):
            told = queue.asked(f"{CANDIDATES}/counts", **facility)
            for status, count in told["status"].items():
                assert count == len(queue.items(status=status, **facility))
            whole = queue.items(**facility)
            for grade, count in told["openGrade"].items():
                assert count == len([each for each in whole if each["grade"] == grade])
            oldest = min((each["raisedAt"] for each in whole), default=None)
            assert told["oldestOpenAt"] == oldest
            assert (told["oldestOpenSeconds"] is None) is (oldest is None)
        assert told["status"] == {"open": 0, "merged": 0, "dismissed": 1}

    def test_nothing_is_counted_where_nothing_is(self, queue: Queue) -> None:
        assert queue.asked(f"{CANDIDATES}/counts") == {
            "status": {"open": 0, "merged": 0, "dismissed": 0},
            "openGrade": {"certain": 0, "probable": 0, "possible": 0},
            "oldestOpenAt": None,
            "oldestOpenSeconds": None,
        }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("status", "closed"),
            ("grade", "sure"),
            ("minScore", "1.5"),
            ("minScore", "nan"),
            ("patientId", "7"),
            ("facility", "a b"),
            ("limit", "201"),
            ("cursor", "AAAA"),
            ("cursor", "W251bGwsIjIwMjYiLCJ4Il0"),
            ("cursor", "WzFlNDAwLDEsMV0"),
            ("minPosition", "-1"),
            ("color", "red"),
        ],
    )
    def test_what_cannot_be_is_refused(self, desk: Desk, name: str, value: str) -> None:
        told = problem(desk.get(CANDIDATES, params={name: value}), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in told["errors"]] == [f"/{name}"]

    def test_it_says_when_it_is_behind(self, desk: Desk) -> None:
        problem(desk.get(CANDIDATES, params={"minPosition": 10}), 503, "READ_MODEL_BEHIND")


def merged(service: Service, queue: Queue, survivor: Record, retired: Record) -> None:
    said = {
        "survivorId": survivor["id"],
        "retiredId": retired["id"],
        "survivorVersion": survivor["version"],
        "retiredVersion": retired["version"],
        "reason": "the same person",
    }
    proposed = queue.did(queue.desk.post("/v1/mpi/merges", said))
    approver = service.desk(queue.desk.tenant, role="mpi", sub="approver")
    queue.did(approver.post(f"/v1/mpi/merges/{proposed['id']}/approval", {}))


class TestMatching:
    def matched(self, queue: Queue, said: Record, **params: Any) -> list[Record]:
        asked = {"minPosition": queue.position, **params}
        items: list[Record] = succeeded(queue.desk.post(MATCH, said, params=asked))["items"]
        return items

    def test_who_may_be_meant_comes_back_with_reasons(self, queue: Queue) -> None:
        known = queue.register(KNOWN)
        queue.register(SOMEBODY_ELSE)
        (item,) = self.matched(queue, TYPO)
        assert item["agreement"].keys() == {"family", "given", "birthDate", "gender", "telecom"}
        assert {name: item[name] for name in item if name not in ("agreement", "score")} == {
            "patientId": known["id"],
            "currentPatientId": known["id"],
            "grade": "certain",
            "display": known["display"],
            "birthDate": "1984-03-02",
            "gender": "female",
        }

    def test_a_whole_registration_may_be_sent_and_nothing_is_stored(self, queue: Queue) -> None:
        known = queue.register(KNOWN)
        kin = [{"name": "Obi", "relationship": "brother"}]
        said = KNOWN | {"id": str(new_id()), "nextOfKin": kin, "maritalStatus": "M"}
        for _ in range(2):
            assert [each["patientId"] for each in self.matched(queue, said)] == [known["id"]]
        assert queue.items() == []

    def test_an_identifier_is_enough(self, queue: Queue) -> None:
        card = [{"system": CARD, "value": "47-11"}]
        known = queue.register(KNOWN, identifiers=card)
        (item,) = self.matched(queue, {"identifiers": [{"system": CARD, "value": "4711"}]})
        assert item["patientId"] == known["id"]

    def test_a_person_comes_once_whichever_record_fits(
        self, service: Service, queue: Queue, pair: tuple[Record, Record]
    ) -> None:
        merged(service, queue, *pair)
        (item,) = self.matched(queue, TYPO)
        assert (item["patientId"], item["currentPatientId"]) == (pair[1]["id"], pair[0]["id"])

    def test_the_best_come_first_and_no_more_than_asked_for(self, queue: Queue) -> None:
        queue.register(TYPO)
        best = queue.register(KNOWN)
        found = self.matched(queue, KNOWN)
        assert len(found) == 2
        assert found[0]["patientId"] == best["id"]
        assert found == sorted(found, key=lambda item: -item["score"])
        assert self.matched(queue, KNOWN, limit=1) == found[:1]

    def test_who_has_no_name_is_nobody(self, queue: Queue) -> None:
        queue.register(KNOWN)
        unknown = KNOWN | {"names": [{"use": "anonymous", "text": "Unknown"}]}
        assert self.matched(queue, unknown) == []

    @pytest.mark.parametrize(
        ("said", "path"),
        [
            ({}, ""),
            ({"gender": "female"}, ""),
            ({"names": [], "facility": "north"}, ""),
            ({"names": [{"family": 1}]}, "/names/0/family"),
            ({"birthDate": "1984-02-30"}, "/birthDate"),
            ({"birthDate": "2984"}, "/birthDate"),
            ({"birthDate": "1984", "shoeSize": 44}, "/shoeSize"),
        ],
    )
    def test_what_cannot_be_is_refused(self, desk: Desk, said: Record, path: str) -> None:
        told = problem(desk.post(MATCH, said), 422, "VALIDATION_FAILED")
        assert [error["path"] for error in told["errors"]] == [path]

    def test_it_reads_its_body_as_commands_do(self, desk: Desk) -> None:
        json = "application/json"
        for content, media_type, refusal in (
            (b"{", json, (400, "MALFORMED_REQUEST")),
            (b'{"birthDate":"1984","birthDate":"1985"}', json, (400, "MALFORMED_REQUEST")),
            (b'{"birthDate":NaN}', json, (422, "VALIDATION_FAILED")),
            (b"[]", json, (422, "VALIDATION_FAILED")),
            (b"{}", "text/plain", (415, "UNSUPPORTED_MEDIA_TYPE")),
            (b" " * 3_000_000, json, (413, "PAYLOAD_TOO_LARGE")),
        ):
            answer = desk("POST", MATCH, content=content, Content_Type=media_type)
            problem(answer, *refusal)
        for limit in ("0", "51", "x"):
            answer = desk.post(MATCH, KNOWN, params={"limit": limit})
            told = problem(answer, 422, "VALIDATION_FAILED")
            assert [error["path"] for error in told["errors"]] == ["/limit"]


class TestBoundaries:
    def test_another_tenants_patients_do_not_exist(
        self, service: Service, queue: Queue, candidate: Record
    ) -> None:
        stranger = Queue(service.desk())
        stranger.register(KNOWN)
        assert stranger.items() == []
        stranger.register(TYPO)
        assert not stranger.pairs()[0] & ids_of(candidate)
        assert len(succeeded(stranger.desk.post(MATCH, KNOWN))["items"]) == 2
        assert stranger.pairs(patientId=ids_in(candidate)[0]) == []
        path = f"{CANDIDATES}/{candidate['id']}"
        problem(stranger.desk.get(path), 404, "NOT_FOUND")
        problem(stranger.desk.post(f"{path}/dismissal", REASON), 404, "NOT_FOUND")
        assert queue.items() == [candidate]

    def test_each_needs_its_scope(self, service: Service, queue: Queue, candidate: Record) -> None:
        others = service.desk(queue.desk.tenant, scope="patient:read patient:write mpi:propose")
        one = f"{CANDIDATES}/{candidate['id']}"
        for answer in (
            others.get(CANDIDATES),
            others.get(f"{CANDIDATES}/counts"),
            others.get(one),
            others.post(MATCH, KNOWN),
        ):
            assert problem(answer, 403, "FORBIDDEN") == {"scope": "mpi:read"}
        reader = service.desk(queue.desk.tenant, scope="mpi:read")
        answer = reader.post(f"{one}/dismissal", REASON)
        assert problem(answer, 403, "FORBIDDEN") == {"scope": "mpi:propose"}

    def test_who_may_decide_but_not_read_gets_a_receipt(
        self, service: Service, queue: Queue, candidate: Record
    ) -> None:
        other = service.desk(queue.desk.tenant, scope="mpi:propose")
        assert succeeded(other.post(dismissal(candidate), REASON)) == {
            "id": candidate["id"],
            "version": 1,
        }
