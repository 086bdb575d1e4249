"""What is answered about merged records: everything leads to the one that is used now."""

from typing import Any

import pytest
from tests.api.test_encounters import (
    BOARD,
    ENCOUNTERS,
    board,
    dies,
    head,
    ids,
    listed,
    moved,
    opened,
    opens,
    where,
)
from tests.merging import merged, parted
from tests.service import CARD, Desk, Service, new_id, place, problem, succeeded

Patient = dict[str, Any]


@pytest.fixture
def chain(desk: Desk) -> list[Patient]:
    """Three records, the first merged into the second and that into the third."""
    found = [desk.given_patient() for _ in range(3)]
    merged(desk, found[0], found[1])
    merged(desk, found[1], found[2])
    return found


class TestEncounters:
    def test_one_list_whichever_record_of_the_person_is_asked_for(self, desk: Desk) -> None:
        """Given a chain, when each of it is asked for, then all its encounters come."""
        records = [desk.given_patient() for _ in range(3)]
        visits = [opened(desk, record) for record in records]
        opened(desk)
        merged(desk, records[0], records[1])
        merged(desk, records[1], records[2])
        for record in records:
            assert listed(desk, patientId=record["id"]) == ids(*visits)

    def test_they_say_whose_they_were_recorded_as_and_whose_they_are(self, desk: Desk) -> None:
        records = [desk.given_patient() for _ in range(2)]
        before = opened(desk, records[0], status="arrived")
        decision = merged(desk, *records)
        expected = before | {"currentPatientId": records[1]["id"]}

        params = {"minPosition": head(desk)}
        assert succeeded(desk.get(ENCOUNTERS, params=params))["items"] == [expected]
        (on_board,) = succeeded(desk.get(BOARD, params=params))["items"]
        assert expected.items() <= on_board.items()
        assert succeeded(desk.get(where(before))) == expected
        then = moved(desk, before, "triaged")
        assert (then["patientId"], then["currentPatientId"]) == (
            records[0]["id"],
            records[1]["id"],
        )

        parted(desk, decision)
        assert succeeded(desk.get(where(before)))["currentPatientId"] == records[0]["id"]
        assert board(desk)["items"][0]["currentPatientId"] == records[0]["id"]

    def test_as_it_stood_then_it_is_found_where_its_patient_is_now(self, desk: Desk) -> None:
        records = [desk.given_patient() for _ in range(2)]
        visit = moved(desk, opened(desk, records[0]), "arrived")
        merged(desk, *records)
        for asked in ({"version": 1}, {"asOf": visit["openedAt"]}):
            shown = succeeded(desk.get(where(visit), params=asked))
            assert (shown["version"], shown["currentPatientId"]) == (1, records[1]["id"])

    def test_who_has_the_version_is_told_all_the_same_where_its_patient_moved(
        self, desk: Desk
    ) -> None:
        records = [desk.given_patient() for _ in range(2)]
        visit = opened(desk, records[0])
        assert desk.get(where(visit), If_None_Match='"1"').status_code == 304
        decision = merged(desk, *records)
        while_merged = desk.get(where(visit), If_None_Match='"1"')
        parted(desk, decision)
        afterwards = desk.get(where(visit), If_None_Match='"1"')

        assert succeeded(while_merged)["currentPatientId"] == records[1]["id"]
        assert succeeded(afterwards)["currentPatientId"] == records[0]["id"]
        assert while_merged.headers["etag"] == afterwards.headers["etag"] == '"1"'
        assert desk.get(where(opened(desk, records[1])), If_None_Match='"1"').status_code == 304

    def test_the_entity_tag_still_states_the_version(self, desk: Desk) -> None:
        records = [desk.given_patient() for _ in range(2)]
        visit = opened(desk, records[0])
        merged(desk, *records)
        tag = desk.get(where(visit)).headers["etag"]
        said = {"to": "arrived"}
        assert desk.post(f"{where(visit)}/transitions", said, If_Match=tag).is_success

    def test_a_retry_of_an_opening_shows_where_the_patient_is_now(self, desk: Desk) -> None:
        records, key = [desk.given_patient() for _ in range(2)], str(new_id())
        opened(desk, records[0], Idempotency_Key=key)
        merged(desk, *records)
        again = opens(desk, records[0], Idempotency_Key=key)
        assert again.headers["idempotency-replayed"] == "true"
        assert succeeded(again)["currentPatientId"] == records[1]["id"]

    def test_a_death_names_what_is_open_of_the_whole_person(
        self, desk: Desk, chain: list[Patient]
    ) -> None:
        """Given open encounters of a retired record and of the survivor, then both are told."""
        survivor = desk.given_patient()
        visits = [opened(desk, survivor), opened(desk, chain[2])]
        merged(desk, chain[2], survivor)
        now = succeeded(desk.get(place(survivor)))
        told = dies(desk, now)["openEncounters"]
        assert ids(*told) == ids(*visits)
        assert {each["currentPatientId"] for each in told} == {survivor["id"]}

    def test_who_may_not_read_encounters_gets_a_receipt(self, service: Service, desk: Desk) -> None:
        kiosk = service.desk(desk.tenant, scope="encounter:write")
        visit = opened(kiosk, desk.given_patient())
        assert visit.keys() == {"id", "version"}


class TestTheSearch:
    def test_an_identifier_finds_the_survivor(self, desk: Desk) -> None:
        held = {"system": CARD, "value": str(new_id())}
        retired = desk.given_patient(identifiers=[held], names=[{"family": "Abara"}])
        survivor = desk.given_patient()
        decision = merged(desk, retired, survivor)
        asked = {"identifier": f"{CARD}|{held['value']}"}

        (found,) = self.found(desk, asked)
        assert (found["id"], found["identifiers"][-1]["mergedFrom"]) == (
            survivor["id"],
            retired["id"],
        )
        assert found["formerNames"][0]["family"] == "Abara"
        everybody = self.found(desk, asked | {"includeInactive": True})
        assert {each["id"]: each.get("replacedBy") for each in everybody} == {
            retired["id"]: survivor["id"],
            survivor["id"]: None,
        }
        parted(desk, decision)
        assert [each["id"] for each in self.found(desk, asked)] == [retired["id"]]

    def found(self, desk: Desk, asked: dict[str, Any]) -> list[dict[str, Any]]:
        params = asked | {"minPosition": head(desk)}
        items: list[dict[str, Any]] = succeeded(desk.get("/v1/patients", params=params))["items"]
        return items


def test_parts_and_history_of_a_retired_record_stay_its_own(
    desk: Desk, chain: list[Patient]
) -> None:
    retired = chain[0]
    assert succeeded(desk.get(f"{place(retired)}/consents"))["items"] == []
    assert desk.topics(retired) == ["patient.registered", "patient.merged-away"]
    kin = {"name": "Obi", "relationship": "brother"}
    refusal = problem(desk.post(f"{place(retired)}/next-of-kin", kin), 409, "PATIENT_MERGED")
    assert refusal["survivorId"] == chain[2]["id"]
