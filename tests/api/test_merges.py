"""Merging over HTTP: proposed by one, approved by another, carried out at once, and undone."""

from typing import Any
from uuid import uuid4

import pytest
from tests.api.given_merges import PASSPORT, REASON, Index, Record, at, content, proposal
from tests.service import CARD, Service, new_id, place, problem, succeeded


@pytest.fixture
def index(service: Service) -> Index:
    return Index.of(service)


def test_a_merge_is_proposed_by_one_and_approved_by_another(index: Index) -> None:
    survivor, retired = index.two()
    answer = index.proposes(survivor, retired)
    assert answer.status_code == 201
    merge = answer.json()
    assert answer.headers["location"] == at(merge)
    proposed = merge.pop("proposed")
    assert proposed == {"by": "clerk-1", "at": proposed["at"], **REASON}
    assert merge == {
        "id": merge["id"],
        "version": 1,
        "status": "proposed",
        "survivorId": survivor["id"],
        "retiredId": retired["id"],
        "survivorVersion": 1,
        "retiredVersion": 1,
        "overridden": [],
        "releasedBy": [],
    }
    # nothing happened to the patients yet
    assert index.now(survivor) == survivor
    assert index.now(retired) == retired

    approved = succeeded(index.approves(merge))
    assert (approved["status"], approved["version"]) == ("executed", 3)
    assert approved["approved"]["by"] == "clerk-2"
    assert succeeded(index.clerk.get(at(merge))) == approved


def test_the_retired_record_names_its_survivor_and_the_survivor_what_it_absorbed(
    index: Index,
) -> None:
    survivor, retired = index.two()
    index.merged(survivor, retired)
    after = index.now(retired)
    assert content(after) == content(retired) | {
        "active": False,
        "links": [{"type": "replaced-by", "patientId": survivor["id"]}],
    }
    former = retired["identifiers"][0] | {"use": "old", "mergedFrom": retired["id"]}
    assert content(index.now(survivor)) == content(survivor) | {
        "identifiers": [*survivor["identifiers"], former],
        "links": [{"type": "replaces", "patientId": retired["id"]}],
    }


def test_a_merge_that_is_undone_leaves_both_records_as_they_were(index: Index) -> None:
    survivor, retired = index.two()
    merge = index.merged(survivor, retired)
    undone = index.unmerged(merge)
    assert (undone["status"], undone["toReview"]) == ("reversed", [])
    assert undone["reversed"]["by"] == "clerk-2"
    assert content(index.now(survivor)) == content(survivor)
    assert content(index.now(retired)) == content(retired)
    problem(index.undoes(merge), 409, "MERGE_NOT_ALLOWED")


def test_the_preview_lists_exactly_the_events_that_approval_stores(index: Index) -> None:
    survivor, retired = index.two()
    merge = index.proposed(survivor, retired)
    preview = succeeded(index.clerk.get(f"{at(merge)}/preview"))
    assert (preview["moved"], preview["obstacles"]) == ([], [])
    head = int(index.approves(merge).headers["x-log-position"])
    assert stored_by(index, merge, survivor, retired, up_to=head) == preview["events"]


def stored_by(
    index: Index, merge: Record, survivor: Record, retired: Record, up_to: int
) -> list[Record]:
    """Return the events of the last four positions, as a preview lists them."""
    events = [
        {"position": event["position"], "streamId": record["id"], "version": event["version"]}
        | {"type": event["type"], "data": event["data"]}
        for record, path in (
            (retired, place(retired)),
            (survivor, place(survivor)),
            (merge, at(merge)),
        )
        for event in succeeded(index.clerk.get(f"{path}/history"))["items"]
    ]
    last = sorted(
        (event for event in events if up_to - 4 < event["position"] <= up_to),
        key=lambda event: event["position"],
    )
    assert [event.pop("position") for event in last] == list(range(up_to - 3, up_to + 1))
    return last


@pytest.mark.parametrize("changed", ["survivor", "retired"])
def test_approval_is_refused_when_a_record_changed_and_says_how(index: Index, changed: str) -> None:
    survivor, retired = index.two()
    merge = index.proposed(survivor, retired)
    moved = survivor if changed == "survivor" else retired
    index.desk.given_events(moved, 1)
    refused = problem(index.approves(merge), 412, "OPTIMISTIC_LOCK_CONFLICT")
    (change,) = refused["changes"]
    assert change.pop("at").endswith("Z")
    assert change == {
        "patientId": moved["id"],
        "version": 2,
        "event": "patient.next-of-kin-added",
        "actor": "desk-1",
        "fields": ["/nextOfKin"],
    }
    assert (refused["expectedVersion"], refused["currentVersion"]) == (1, 2)
    assert [each["role"] for each in refused["patients"]] == [changed]
    assert index.now(retired)["active"]

    # who looks at the preview sees the same, and may approve what is there now
    preview = succeeded(index.clerk.get(f"{at(merge)}/preview"))
    assert [each["role"] for each in preview["moved"]] == [changed]
    stated = {name: preview[name] for name in ("survivorVersion", "retiredVersion")}
    approved = succeeded(index.approves(merge, **stated))
    assert {name: approved[name] for name in stated} == stated


def test_the_proposer_cannot_approve(index: Index) -> None:
    merge = index.proposed(*index.two())
    problem(index.clerk("POST", f"{at(merge)}/approval"), 403, "FORBIDDEN")
    problem(index.desk("POST", f"{at(merge)}/approval"), 403, "FORBIDDEN")
    assert succeeded(index.approves(merge))["status"] == "executed"


def test_a_proposal_that_is_turned_down_cannot_be_approved(index: Index) -> None:
    merge = index.proposed(*index.two())
    rejected = succeeded(index.clerk.post(f"{at(merge)}/rejection", {"reason": "father and son"}))
    assert rejected["status"] == "rejected"
    assert rejected["rejected"]["reason"] == "father and son"
    problem(index.approves(merge), 409, "MERGE_NOT_ALLOWED")
    problem(index.undoes(merge), 409, "MERGE_NOT_ALLOWED")


@pytest.mark.parametrize("missing", ["survivorVersion", "retiredVersion"])
def test_a_proposal_states_both_versions(index: Index, missing: str) -> None:
    said = proposal(*index.two())
    del said[missing]
    problem(index.clerk.post("/v1/mpi/merges", said), 428, "VERSION_REQUIRED")


def test_a_stale_proposal_is_refused(index: Index) -> None:
    survivor, retired = index.two()
    index.desk.given_events(retired, 1)
    refused = problem(index.proposes(survivor, retired), 412, "OPTIMISTIC_LOCK_CONFLICT")
    assert [each["patientId"] for each in refused["patients"]] == [retired["id"]]


def test_a_record_is_not_merged_into_itself(index: Index) -> None:
    survivor, _ = index.two()
    problem(index.proposes(survivor, survivor), 409, "MERGE_NOT_ALLOWED")


def test_two_records_are_not_merged_into_each_other(index: Index) -> None:
    survivor, retired = index.two()
    index.merged(survivor, retired)
    both = index.now(retired), index.now(survivor)
    problem(index.proposes(*both), 409, "MERGE_NOT_ALLOWED")
    again = problem(index.proposes(*both[::-1]), 409, "PATIENT_MERGED")
    assert again["survivorId"] == survivor["id"]


def test_a_longer_circle_is_refused(index: Index) -> None:
    a, b, c = (index.patient(number) for number in (1, 2, 3))
    index.merged(b, a)
    index.merged(c, index.now(b))
    problem(index.proposes(index.now(a), index.now(c)), 409, "MERGE_NOT_ALLOWED")
    problem(index.proposes(index.now(b), index.now(c)), 409, "MERGE_NOT_ALLOWED")


def test_what_is_no_patient_here_is_not_found(index: Index, service: Service) -> None:
    survivor, retired = index.two()
    stranger = Index.of(service).patient(1)
    encounter = {"patientId": survivor["id"], "class": "AMB"}
    visit = succeeded(index.desk.post("/v1/encounters", encounter))
    for other in ({"id": str(uuid4()), "version": 1}, stranger, visit):
        problem(index.proposes(survivor, other), 404, "NOT_FOUND")
        problem(index.proposes(other, retired, override=REASON), 404, "NOT_FOUND")


def test_a_living_and_a_deceased_record_need_an_override_with_a_reason(index: Index) -> None:
    survivor, retired = index.two()
    died = {"deceasedAt": "2026-01-01T00:00:00Z"}
    retired = succeeded(index.desk.post(f"{place(retired)}/death", died, If_Match='"1"'))
    refused = problem(index.proposes(survivor, index.now(retired)), 409, "MERGE_NOT_ALLOWED")
    assert refused["obstacles"] == [{"kind": "deceased"}]
    merge = index.merged(survivor, index.now(retired), override={"reason": "death of this record"})
    assert merge["overridden"] == [{"kind": "deceased"}]
    assert merge["overrideReason"] == "death of this record"


def passport(value: str, **more: Any) -> dict[str, Any]:
    return {"identifiers": [{"system": PASSPORT, "value": value, **more}]}


def test_two_passports_of_one_country_need_an_override(index: Index) -> None:
    one, other = index.patient(1, **passport("A1")), index.patient(2, **passport("B2"))
    refused = problem(index.proposes(one, other), 409, "MERGE_NOT_ALLOWED")
    assert refused["obstacles"] == [{"kind": "identifier", "system": PASSPORT}]
    merge = index.merged(one, other, override={"reason": "renewed, both seen"})
    assert merge["overridden"] == [{"kind": "identifier", "system": PASSPORT}]


def test_an_old_or_temporary_number_is_no_obstacle(index: Index) -> None:
    one = index.patient(1, **passport("A1", use="official"))
    other = index.patient(2, **passport("B2", use="temp"))
    assert index.merged(one, other)["overridden"] == []


def test_numbers_of_records_merged_before_count_as_well(index: Index) -> None:
    one, other = index.patient(1), index.patient(2, **passport("A1"))
    index.merged(one, other)
    third = index.patient(3, **passport("B2"))
    problem(index.proposes(index.now(one), third), 409, "MERGE_NOT_ALLOWED")


def test_a_merged_away_record_refuses_commands_and_names_its_survivor(index: Index) -> None:
    survivor, retired = index.two()
    merge = index.merged(survivor, retired)
    index.desk.given_events(survivor, 1)
    said = {"maritalStatus": "M"}
    answer = index.desk.patch(f"{place(retired)}/demographics", said, If_Match='"1"')
    refused = problem(answer, 409, "PATIENT_MERGED")
    assert refused == {
        "patientId": retired["id"],
        "survivorId": survivor["id"],
        "survivorVersion": 3,
        "mergeId": merge["id"],
        "fields": [{"path": "/maritalStatus", "base": None, "theirs": None, "yours": "M"}],
        "current": index.now(survivor),
    }
    kin = {"name": "Obi", "relationship": "brother"}
    problem(index.desk.post(f"{place(retired)}/next-of-kin", kin), 409, "PATIENT_MERGED")
    visit = {"patientId": retired["id"], "class": "AMB"}
    refused = problem(index.desk.post("/v1/encounters", visit), 409, "PATIENT_MERGED")
    assert refused["survivorId"] == survivor["id"]


def test_after_the_unmerge_commands_work_again(index: Index) -> None:
    survivor, retired = index.two()
    index.unmerged(index.merged(survivor, retired))
    index.desk.given_events(retired, 1)
    visit = {"patientId": retired["id"], "class": "AMB"}
    succeeded(index.desk.post("/v1/encounters", visit))


def test_the_survivor_is_named_at_the_end_of_a_chain(index: Index) -> None:
    a, b, c = (index.patient(number) for number in (1, 2, 3))
    index.merged(b, a)
    index.merged(c, index.now(b))
    kin = {"name": "Obi", "relationship": "brother"}
    refused = problem(index.desk.post(f"{place(a)}/next-of-kin", kin), 409, "PATIENT_MERGED")
    assert (refused["survivorId"], refused["survivorVersion"]) == (c["id"], 3)
    shown = index.now(c)
    assert [held.get("mergedFrom") for held in shown["identifiers"]] == [None, b["id"], a["id"]]
    assert [link["patientId"] for link in shown["links"]] == [b["id"], a["id"]]


def test_the_first_link_of_a_chain_can_be_undone_alone(index: Index) -> None:
    a, b, c = (index.patient(number) for number in (1, 2, 3))
    first = index.merged(b, a)
    index.merged(c, index.now(b))
    index.unmerged(first)
    assert content(index.now(a)) == content(a)
    assert [link["patientId"] for link in index.now(c)["links"]] == [b["id"]]
    assert [held.get("mergedFrom") for held in index.now(c)["identifiers"]] == [None, b["id"]]
    assert index.now(b)["links"] == [{"type": "replaced-by", "patientId": c["id"]}]


def test_an_identifier_of_a_merged_record_is_held_by_its_survivor(index: Index) -> None:
    survivor, retired = index.two()
    index.merged(survivor, retired)
    said = {"system": CARD, "value": "card-2"}
    other = index.patient(3)
    for record in (other, survivor):
        answer = index.desk.post(f"{place(record)}/identifiers", said)
        assert problem(answer, 409, "IDENTIFIER_CONFLICT") == {"patientId": survivor["id"]}


def test_a_stale_edit_of_the_survivor_says_that_it_absorbed_another_record(index: Index) -> None:
    survivor, retired = index.two()
    index.merged(survivor, retired)
    edit = {"maritalStatus": "M"}
    answer = index.desk.patch(f"{place(survivor)}/demographics", edit, If_Match='"1"')
    refused = problem(answer, 412, "OPTIMISTIC_LOCK_CONFLICT")
    assert [change["event"] for change in refused["changes"]] == ["patient.absorbed"]


def test_a_next_of_kin_of_the_survivor_never_conflicts(index: Index) -> None:
    survivor, retired = index.two()
    index.merged(survivor, retired)
    kin = {"name": "Obi", "relationship": "brother"}
    succeeded(index.desk.post(f"{place(survivor)}/next-of-kin", kin, If_Match='"1"'))


def test_a_repeated_approval_is_answered_as_the_first_was(index: Index) -> None:
    merge = index.proposed(*index.two())
    answers = [
        index.other_clerk("POST", f"{at(merge)}/approval", Idempotency_Key="once") for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotency-replayed"] == "true"
    problem(index.approves(merge), 409, "MERGE_NOT_ALLOWED")


def test_a_proposal_with_an_id_of_ones_own_is_made_once(index: Index) -> None:
    said = proposal(*index.two()) | {"id": str(new_id())}
    answers = [index.clerk.post("/v1/mpi/merges", said) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


def test_who_waits_for_approval_is_listed(index: Index) -> None:
    a, b, c = (index.patient(number) for number in (1, 2, 3))
    first, second = index.proposed(a, b), index.proposed(b, c)
    answer = index.approves(first)
    position = answer.headers["x-log-position"]

    def listed(**query: Any) -> list[str]:
        asked = query | {"minPosition": position, "limit": 1}
        found: list[str] = []
        while True:
            page = succeeded(index.clerk.get("/v1/mpi/merges", params=asked))
            found += [item["id"] for item in page["items"]]
            if page["next"] is None:
                return found
            asked["cursor"] = page["next"]

    assert listed() == [first["id"], second["id"]]
    assert listed(status="proposed") == [second["id"]]
    assert listed(status="executed", patientId=b["id"]) == [first["id"]]
    assert listed(patientId=c["id"]) == [second["id"]]
    problem(index.clerk.get("/v1/mpi/merges?status=odd"), 422, "VALIDATION_FAILED")
    problem(index.clerk.get("/v1/mpi/merges?cursor=odd"), 422, "VALIDATION_FAILED")


def test_whoever_may_not_look_into_the_index_is_told_so(index: Index, service: Service) -> None:
    merge = index.proposed(*index.two())
    analyst = service.desk(index.desk.tenant, role="analyst")
    for path in ("/v1/mpi/merges", at(merge), f"{at(merge)}/preview", f"{at(merge)}/review"):
        assert problem(analyst.get(path), 403, "FORBIDDEN") == {"scope": "mpi:read"}


def test_another_tenants_merges_do_not_exist(index: Index, service: Service) -> None:
    merge = index.proposed(*index.two())
    stranger = Index.of(service)
    for path in (at(merge), f"{at(merge)}/preview", f"{at(merge)}/history", f"{at(merge)}/review"):
        problem(stranger.clerk.get(path), 404, "NOT_FOUND")
    problem(stranger.approves(merge), 404, "NOT_FOUND")
    assert succeeded(stranger.clerk.get("/v1/mpi/merges"))["items"] == []


def test_a_merge_as_it_stood(index: Index) -> None:
    merge = index.merged(*index.two())
    assert succeeded(index.clerk.get(f"{at(merge)}?version=1"))["status"] == "proposed"
    assert index.clerk.get(at(merge), If_None_Match='"3"').status_code == 304
    topics = [e["type"] for e in succeeded(index.clerk.get(f"{at(merge)}/history"))["items"]]
    assert topics == ["mpi.merge-proposed", "mpi.merge-approved", "mpi.merge-executed"]


def test_a_patient_as_it_stood_before_the_merge(index: Index) -> None:
    survivor, retired = index.two()
    index.merged(survivor, retired)
    assert succeeded(index.desk.get(f"{place(retired)}?version=1")) == retired
    assert succeeded(index.desk.get(f"{place(survivor)}?version=1")) == survivor


def test_who_may_not_read_patients_is_not_told_who_did_what(index: Index, service: Service) -> None:
    survivor, retired = index.two()
    merge = index.proposed(survivor, retired)
    index.desk.given_events(retired, 1)
    approver = service.desk(index.desk.tenant, scope="mpi:read mpi:approve", sub="clerk-3")
    refused = problem(approver("POST", f"{at(merge)}/approval"), 412, "OPTIMISTIC_LOCK_CONFLICT")
    (change,) = refused["changes"]
    assert change == {
        "patientId": retired["id"],
        "version": 2,
        "event": "patient.next-of-kin-added",
        "at": change["at"],
    }
    (moved,) = refused["patients"]
    assert [set(each) for each in moved["changes"]] == [{"version", "event", "at"}]
    assert "desk-1" not in str(refused)
    asked = problem(approver.get(f"{at(merge)}/preview"), 403, "FORBIDDEN")
    assert asked == {"scope": "patient:read"}


def test_an_edit_from_before_a_merge_that_was_undone_is_not_stale(index: Index) -> None:
    """Both records are what they were: nothing came that its author has not seen."""
    survivor, retired = index.two()
    index.unmerged(index.merged(survivor, retired))
    for record in (survivor, retired):
        path = f"{place(record)}/demographics"
        succeeded(index.desk.patch(path, {"maritalStatus": "M"}, If_Match='"1"'))
    again = index.desk.patch(f"{place(retired)}/demographics", {"gender": "other"}, If_Match='"1"')
    told = problem(again, 412, "OPTIMISTIC_LOCK_CONFLICT")
    assert [each["event"] for each in told["changes"]] == ["patient.demographics-corrected"]


def test_an_id_is_written_in_one_way_only(index: Index) -> None:
    merge = index.proposed(*index.two())
    bare = {"id": merge["id"].replace("-", "")}
    for path in (at(bare), f"{at(bare)}/preview", f"{at(bare)}/history", f"{at(bare)}/review"):
        problem(index.clerk.get(path), 404, "NOT_FOUND")
