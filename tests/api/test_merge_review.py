"""What was recorded on a survivor while it stood for both, once the merge is undone."""

from typing import Any

import pytest
from tests.api.given_merges import Index, Record, at
from tests.service import Desk, Service, new_id, place, problem, succeeded

KIN = {"name": "Obiageli Nwosu", "relationship": "aunt"}
PHONE = [{"system": "phone", "value": "+234 803 555 0199"}]


@pytest.fixture
def index(service: Service) -> Index:
    return Index.of(service)


@pytest.fixture
def south(service: Service, index: Index) -> Desk:
    """Another desk, of the clinic where the retired record was made."""
    return service.desk(index.desk.tenant, sub="desk-2", facility="south")


def entry(item: Record) -> Record:
    """Return what an entry says, without when."""
    return {name: value for name, value in item.items() if name != "at"}


def signs(item: Record) -> dict[str, str]:
    return {evidence["sign"]: evidence["patientId"] for evidence in item["evidence"]}


def test_each_entry_stays_and_says_where_it_may_belong(index: Index, south: Desk) -> None:
    survivor = index.patient(1)
    retired = south.given_patient(facility="south", telecom=PHONE)
    merge = index.merged(survivor, retired)
    succeeded(south.post(f"{place(survivor)}/next-of-kin", KIN))
    visit = {"patientId": survivor["id"], "class": "AMB"}
    encounter = succeeded(index.desk.post("/v1/encounters", visit))

    undone = index.unmerged(merge)
    kin, opened = undone["toReview"]
    assert entry(kin) == {
        "patientId": survivor["id"],
        "version": 3,
        "type": "patient.next-of-kin-added",
        "actor": "desk-2",
        "facility": "south",
        "fields": ["/nextOfKin"],
        "evidence": [
            {"sign": "actor", "patientId": retired["id"], "members": []},
            {"sign": "facility", "patientId": retired["id"], "members": []},
        ],
        "belongsTo": retired["id"],
    }
    assert (opened["encounterId"], opened["belongsTo"]) == (encounter["id"], survivor["id"])
    assert signs(opened) == {"actor": survivor["id"], "facility": survivor["id"]}
    # nothing was moved, and it can be looked up later
    assert index.now(survivor)["nextOfKin"][0]["name"] == KIN["name"]
    assert succeeded(index.clerk.get(f"{at(merge)}/review"))["items"] == undone["toReview"]


def test_the_same_values_are_evidence(index: Index) -> None:
    survivor, retired = index.two(telecom=PHONE)
    merge = index.merged(survivor, retired)
    version = index.now(survivor)["version"]
    patch = {"telecom": PHONE, "maritalStatus": "M"}
    succeeded(index.desk.patch(f"{place(survivor)}/demographics", patch, If_Match=f'"{version}"'))
    (entry,) = index.unmerged(merge)["toReview"]
    assert entry["evidence"] == [
        {
            "sign": "values",
            "patientId": retired["id"],
            "members": ["/changes/telecom/0/system", "/changes/telecom/0/value"],
        }
    ]
    assert entry["belongsTo"] == retired["id"]


def test_what_was_first_sent_to_the_retired_record_says_so(index: Index) -> None:
    """A tablet had queued it for the record that is gone; a person sent it to the survivor."""
    survivor, retired = index.two()
    merge = index.merged(survivor, retired)

    def pushed(patient: Record, mutation: str, **more: Any) -> str:
        said = {
            "clientMutationId": mutation,
            "operation": "patient.add_next_of_kin",
            "aggregateId": patient["id"],
            "payload": KIN,
        } | more
        body = {"clientId": "tablet-7", "mutations": [said]}
        (result,) = succeeded(index.desk.post("/v1/sync/push", body))["results"]
        return str(result["status"])

    first, second = sorted(str(new_id()) for _ in range(2))
    assert pushed(retired, first) == "conflict"
    assert pushed(survivor, second, supersedes=first) == "applied"
    (entry,) = index.unmerged(merge)["toReview"]
    assert signs(entry) == {"sentTo": retired["id"]}
    assert (entry["client"], entry["belongsTo"]) == ("tablet-7", retired["id"])


def test_evidence_on_both_sides_is_no_guess(index: Index, south: Desk) -> None:
    survivor = index.patient(1, telecom=PHONE)
    retired = south.given_patient(facility="south")
    merge = index.merged(survivor, retired)
    kin = KIN | {"telecom": PHONE}
    succeeded(south.post(f"{place(survivor)}/next-of-kin", kin))
    (entry,) = index.unmerged(merge)["toReview"]
    assert signs(entry) == {
        "actor": retired["id"],
        "facility": retired["id"],
        "values": survivor["id"],
    }
    assert "belongsTo" not in entry


def test_what_came_before_the_merge_or_after_the_unmerge_is_not_listed(index: Index) -> None:
    survivor = index.desk.given_events(index.patient(1), 1)
    merge = index.merged(survivor, index.patient(2))
    index.unmerged(merge)
    index.desk.given_events(survivor, 1)
    succeeded(index.desk.post("/v1/encounters", {"patientId": survivor["id"], "class": "AMB"}))
    assert succeeded(index.clerk.get(f"{at(merge)}/review"))["items"] == []


def test_what_was_recorded_further_up_the_chain_is_listed_too(index: Index) -> None:
    a, b, c = (index.patient(number) for number in (1, 2, 3))
    first = index.merged(b, a)
    second = index.merged(c, index.now(b))
    index.desk.given_events(index.now(c), 1)
    index.unmerged(second)
    index.desk.given_events(index.now(b), 1)
    undone = index.unmerged(first)
    # c stood for b and a: what is on c may be any of the three's, and both decisions say so
    assert [item["patientId"] for item in undone["toReview"]] == [c["id"], b["id"]]
    review = succeeded(index.clerk.get(f"{at(second)}/review"))["items"]
    assert [item["patientId"] for item in review] == [c["id"]]

    third = index.merged(index.now(b), index.now(a), reason="the same after all")
    index.merged(index.now(c), index.now(b))
    index.desk.given_events(index.now(c), 2)
    undone = index.unmerged(third)
    assert undone["releasedBy"] == [b["id"], c["id"]]
    assert [item["patientId"] for item in undone["toReview"]] == [c["id"], c["id"]]


def test_what_came_to_the_top_of_a_chain_may_belong_to_its_lowest_record(
    index: Index, south: Desk
) -> None:
    """Given a into b and b into c, when it is undone from the top, then a is named all the same."""
    a, b, c = south.given_patient(facility="south"), index.patient(2), index.patient(3)
    first = index.merged(b, a)
    second = index.merged(c, index.now(b))
    succeeded(south.post(f"{place(c)}/next-of-kin", KIN))

    (at_the_top,) = index.unmerged(second)["toReview"]
    assert (at_the_top["patientId"], at_the_top["belongsTo"]) == (c["id"], b["id"])
    (below,) = index.unmerged(first)["toReview"]
    assert (below["patientId"], below["belongsTo"]) == (c["id"], a["id"])


def test_a_repeated_unmerge_lists_the_same(index: Index) -> None:
    survivor, retired = index.two()
    merge = index.merged(survivor, retired)
    index.desk.given_events(index.now(survivor), 1)
    said = {"reason": "twins after all"}
    answers = [
        index.other_clerk.post(f"{at(merge)}/unmerge", said, Idempotency_Key="once")
        for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert len(answers[0].json()["toReview"]) == 1


def test_encounters_are_listed_to_whoever_may_read_them(index: Index, service: Service) -> None:
    survivor, retired = index.two()
    merge = index.merged(survivor, retired)
    succeeded(index.desk.post("/v1/encounters", {"patientId": survivor["id"], "class": "AMB"}))
    blind = service.desk(index.desk.tenant, scope="mpi:read mpi:approve patient:read", sub="c")
    assert succeeded(blind.post(f"{at(merge)}/unmerge", {"reason": "twins"}))["toReview"] == []
    assert len(succeeded(index.clerk.get(f"{at(merge)}/review"))["items"]) == 1
    unseeing = service.desk(index.desk.tenant, scope="mpi:read mpi:approve", sub="c")
    assert "toReview" not in succeeded(unseeing.get(at(merge)))
    asked = problem(unseeing.get(f"{at(merge)}/review"), 403, "FORBIDDEN")
    assert asked == {"scope": "patient:read"}
    problem(index.clerk.post(f"{at(merge)}/unmerge", {"reason": "twins"}), 409, "MERGE_NOT_ALLOWED")
