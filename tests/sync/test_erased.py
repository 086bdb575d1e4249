"""Devices and a patient who is erased: each that pulls is told, and what they queued is refused."""

from typing import Any

import pytest
from tests.api.given_reports import until
from tests.erasing import erased
from tests.merging import merged, parted
from tests.service import Desk, succeeded
from tests.sync.given import TABLET, after, correction, kin, outcome, push, queued, registration
from tests.sync.test_pull import Device, encounter, moved

GONE = ("rejected", "ERASED")
CANARY = "Canarias"


@pytest.fixture
def patient(desk: Desk) -> dict[str, Any]:
    """A patient of a facility, with a visit at another one."""
    made = desk.given_patient(names=[{"family": CANARY}], facility="north")
    made["visit"] = encounter(desk, made, facility="south")["id"]
    return made


@pytest.mark.parametrize("facility", ["*", "north", "south"])
def test_who_pulls_is_told_and_a_fresh_snapshot_is_not(
    desk: Desk, patient: dict[str, Any], facility: str
) -> None:
    other = desk.given_patient()
    device = Device(desk, facility=facility)
    device.pull()
    assert {patient["id"], other["id"]} <= device.records.keys()

    erased(desk, patient)
    told = device.pull()
    fresh = Device(desk, facility=facility)

    visit = {("encounter", patient["visit"], True)}
    # north does not have the visit, and is told all the same: where it was is not known any more
    assert set(told) == {("patient", patient["id"], True)} | visit
    assert all(item["erased"] for item in device.seen[-2:])
    assert device.pull() == []
    assert fresh.pull() == [("patient", other["id"], False)]
    assert CANARY not in str(fresh.seen)


def test_a_facility_that_a_patient_had_left_is_told_as_well(
    desk: Desk, patient: dict[str, Any]
) -> None:
    device = Device(desk, facility="east")
    moved(desk, patient, "east")
    device.pull()
    assert patient["id"] in device.records

    erased(desk, patient)
    device.pull()

    assert patient["id"] not in device.records


def test_merge_decisions_and_what_was_merged_go_along(desk: Desk, patient: dict[str, Any]) -> None:
    retired, third = desk.given_patient(), desk.given_patient(facility="west")
    decision = merged(desk, retired, patient)
    parted(desk, merged(desk, third, patient))
    device = Device(desk, facility="*")
    device.pull()
    assert decision["id"] in device.records

    erased(desk, patient)
    device.pull()

    left = {its_id for its_id, body in device.records.items() if "rules" not in body}
    assert left == {third["id"]}


def test_what_was_queued_about_the_erased_is_refused_each_by_itself(
    desk: Desk, patient: dict[str, Any]
) -> None:
    erased(desk, patient)
    first, second = kin(patient["id"]), correction(patient["id"], base_version=1)
    opened = queued("encounter.open", "0190aaaa-0000-7000-8000-000000000001",
                    {"patientId": patient["id"], "class": "AMB"})  # fmt: skip
    built_on = kin(patient["id"], after_mutation=after(first))
    moves = queued("encounter.transition", patient["visit"], {"to": "arrived"}, base_version=1)

    assert outcome(desk, first, second, opened, built_on, moves) == [GONE] * 5
    again = outcome(desk, first, second, opened, built_on, moves)
    assert again == [GONE] * 5  # nothing of it is remembered


def test_an_opening_that_builds_on_what_was_refused_is_refused_so_too(
    desk: Desk, patient: dict[str, Any]
) -> None:
    erased(desk, patient)
    first = kin(patient["id"])
    opened = queued("encounter.open", "0190aaaa-0000-7000-8000-000000000002",
                    {"patientId": patient["id"], "class": "AMB"},
                    after_mutation=after(first))  # fmt: skip

    assert outcome(desk, first, opened) == [GONE, GONE]


def test_a_queue_that_is_sent_again_says_so_of_all_that_is_new(desk: Desk) -> None:
    """Given it went in but the answer was lost, when the patient is erased, then none of it is
    called blocked, or lost."""
    made = registration(names=[{"family": CANARY}])
    own = kin(made["aggregateId"], after_mutation=after(made))
    push(desk, made, own)
    erased(desk, {"id": made["aggregateId"]})
    new = kin(made["aggregateId"], after_mutation=after(own))

    results = push(desk, made, own, new)

    assert [result["status"] for result in results] == ["duplicate", "duplicate", "rejected"]
    assert results[-1]["code"] == "ERASED"
    assert CANARY not in str(results)


def test_an_opening_that_went_in_before_is_a_duplicate(desk: Desk, patient: dict[str, Any]) -> None:
    about = {"patientId": patient["id"], "class": "AMB"}
    opened = queued("encounter.open", "0190aaaa-0000-7000-8000-000000000003", about)
    push(desk, opened)
    erased(desk, patient)

    (result,) = push(desk, opened)

    assert result["status"] == "duplicate"
    assert (result["original"]["status"], result["original"]["code"]) == GONE


def test_a_registration_under_the_id_of_the_erased_blocks_nothing(
    desk: Desk, patient: dict[str, Any]
) -> None:
    erased(desk, patient)
    made = registration(patient["id"])

    assert outcome(desk, made, kin(patient["id"], after_mutation=after(made))) == [GONE, GONE]


def test_the_device_is_known_to_have_been_refused(desk: Desk, patient: dict[str, Any]) -> None:
    erased(desk, patient)
    push(desk, kin(patient["id"]), client=TABLET)
    analyst = desk.service.desk(desk.tenant, role="admin", scope="report:read patient:read")

    def counted() -> list[int]:
        rows = succeeded(analyst.get("/v1/reports/sync-health", params={"by": "code"}))["items"]
        return [row["rejections"] for row in rows if row["code"] == "ERASED"]

    until(lambda: counted() == [1])
