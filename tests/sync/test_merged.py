"""A push that was queued before somebody merged the patient meets the merge."""

from typing import Any

import pytest
from tests.merging import merged, parted
from tests.service import Desk, new_id, place, succeeded
from tests.sync.given import GRANTED, after, correction, kin, outcome, push, queued, told


@pytest.fixture
def survivor(desk: Desk) -> dict[str, Any]:
    """The record that stays: born in 1985."""
    return desk.given_patient(birthDate="1985")


@pytest.fixture
def retired(desk: Desk) -> dict[str, Any]:
    """The record that goes: born in March 1984."""
    return desk.given_patient()


def arrival(patient_id: object) -> dict[str, Any]:
    payload = {"patientId": str(patient_id), "class": "AMB", "status": "arrived"}
    return queued("encounter.open", new_id(), payload)


def shown(desk: Desk, patient: dict[str, Any]) -> dict[str, Any]:
    return succeeded(desk.get(place(patient)))


def test_a_queued_edit_of_the_retired_record_is_a_conflict_with_both_sides(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    """Given a queued correction, when the record is merged away, then it names the survivor."""
    queue = [correction(retired["id"], "1984-03-20", base_version=1), kin(retired["id"])]
    merge = merged(desk, retired, survivor)

    edited, added = push(desk, *queue)

    assert told(edited) == told(added) == ("conflict", "PATIENT_MERGED")
    problem = edited["problem"]
    assert {name: problem[name] for name in ("patientId", "survivorId", "survivorVersion")} == {
        "patientId": retired["id"],
        "survivorId": survivor["id"],
        "survivorVersion": 2,
    }
    assert problem["mergeId"] == merge["id"]
    assert problem["fields"] == [
        {"path": "/birthDate", "base": "1984-03-02", "theirs": "1985", "yours": "1984-03-20"}
    ]
    assert problem["current"] == shown(desk, survivor)
    assert [field["path"] for field in added["problem"]["fields"]] == ["/nextOfKin"]
    assert desk.topics(retired) == ["patient.registered", "patient.merged-away"]


def test_a_chain_names_the_last_survivor(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    last = desk.given_patient()
    merged(desk, retired, survivor)
    merged(desk, survivor, last)

    [result] = push(desk, kin(retired["id"]))

    assert result["problem"]["survivorId"] == last["id"]
    assert result["problem"]["survivorVersion"] == shown(desk, last)["version"]


def test_what_builds_on_it_is_blocked_and_other_records_go_on(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    first = kin(retired["id"])
    second = kin(retired["id"], "Obi", after_mutation=after(first))
    other = kin(survivor["id"])
    merged(desk, retired, survivor)

    assert outcome(desk, first, second, other) == [
        ("conflict", "PATIENT_MERGED"),
        ("blocked", "DEPENDENCY_FAILED"),
        ("applied", 3),
    ]


def test_an_encounter_of_the_retired_record_is_not_opened_but_one_that_there_is_goes_on(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    open_one = arrival(retired["id"])
    assert outcome(desk, open_one) == [("applied", 1)]
    merged(desk, retired, survivor)
    moved = queued(
        "encounter.transition", open_one["aggregateId"], {"to": "in-progress"}, base_version=1
    )
    new_one = arrival(retired["id"])
    goes_on = queued(
        "encounter.transition",
        new_one["aggregateId"],
        {"to": "in-progress"},
        after_mutation=after(new_one),
    )

    results = push(desk, moved, new_one, goes_on)

    assert list(map(told, results)) == [
        ("applied", 2),
        ("conflict", "PATIENT_MERGED"),
        ("blocked", "DEPENDENCY_FAILED"),
    ]
    assert results[1]["problem"]["survivorId"] == survivor["id"]
    assert results[1]["problem"]["fields"] == []


def test_a_refused_one_stays_refused_and_a_new_one_works_again_after_the_merge_is_undone(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    """Given a refusal, when the merge is undone, then its id is spent and another one goes in."""
    first = correction(retired["id"], "1984-03-20", base_version=1)
    visit = arrival(retired["id"])
    merge = merged(desk, retired, survivor)
    push(desk, first, visit)
    parted(desk, merge)

    assert outcome(desk, first, visit) == [("duplicate", "conflict", "PATIENT_MERGED")] * 2
    again = correction(retired["id"], "1984-03-20", base_version=3, supersedes=after(first))
    new_visit = queued(
        "encounter.open",
        visit["aggregateId"],
        visit["payload"],
        supersedes=after(visit),
    )
    assert outcome(desk, again, new_visit, kin(retired["id"])) == [
        ("applied", 4),
        ("applied", 1),
        ("applied", 5),
    ]
    assert shown(desk, retired)["birthDate"] == "1984-03-20"
    assert shown(desk, survivor)["birthDate"] == "1985"


def test_it_goes_to_the_survivor_as_a_new_one_on_the_version_that_was_shown(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    """Given that the survivor moved on since, then what the reviewer did not see is a conflict."""
    first = correction(retired["id"], "1984-03-20", base_version=1)
    consent = queued(
        "patient.set_consent", retired["id"], GRANTED, entry="research", base_version=0
    )
    merged(desk, retired, survivor)
    refused, _ = push(desk, first, consent)
    seen = refused["problem"]["survivorVersion"]

    def to_survivor(mutation: dict[str, Any], base: int) -> dict[str, Any]:
        moved = {
            name: mutation[name] for name in ("operation", "payload", "entry") if name in mutation
        }
        made = queued(moved.pop("operation"), survivor["id"], base_version=base, **moved)
        return made | {"supersedes": after(mutation)}

    assert outcome(desk, to_survivor(first, seen), to_survivor(consent, 0)) == [
        ("applied", 3),
        ("applied", 1),
    ]
    assert outcome(desk, to_survivor(first | {"payload": {"birthDate": "1983"}}, seen)) == [
        ("conflict", "OPTIMISTIC_LOCK_CONFLICT")
    ]


def test_what_was_made_on_the_survivor_before_the_merge_is_reviewed_after_it(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    """Given a correction of the record that stays, then its author looks at what it took in."""
    edit = correction(survivor["id"], "1985-06", base_version=1)
    merged(desk, retired, survivor)

    assert outcome(desk, edit, kin(survivor["id"])) == [
        ("conflict", "OPTIMISTIC_LOCK_CONFLICT"),
        ("applied", 3),
    ]


def test_a_lost_answer_from_before_the_merge_is_still_that_answer(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    """Given an applied mutation, when it returns after the merge, then it was applied."""
    mutation = kin(retired["id"])
    visit = arrival(retired["id"])
    push(desk, mutation, visit)
    merged(desk, retired, survivor)

    assert outcome(desk, mutation, visit) == [
        ("duplicate", "applied", 2),
        ("duplicate", "applied", 1),
    ]


def test_who_may_not_read_patients_is_told_the_survivor_and_nothing_of_it(
    desk: Desk, survivor: dict[str, Any], retired: dict[str, Any]
):
    """Given somebody of the encounters alone, when they open one, then no patient is shown."""
    merged(desk, retired, survivor)
    porter = desk.service.desk(desk.tenant, scope="sync encounter:read encounter:write")

    [result] = push(porter, arrival(retired["id"]))

    assert result["problem"].keys() >= {"survivorId", "survivorVersion"}
    assert result["problem"].keys().isdisjoint({"current", "fields"})
