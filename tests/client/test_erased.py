"""A patient is erased at the service: the device forgets, and who queued something is told."""

import sqlite3
from pathlib import Path
from uuid import UUID

import pytest
from tests.client.given import (
    A_CARD,
    ADA_OKORO,
    ARRIVED,
    CHIDI,
    GRANTED,
    Index,
    Site,
    lost_answer,
    lost_request,
    only,
    pulled,
    shown,
    told,
)
from tests.erasing import erased
from tests.service import succeeded

from registration.client import Client, ReviewError

CANARY = "Canarias"
NAMES = [{"family": CANARY, "given": ["Ada"]}]


@pytest.fixture
def patient(device: Client, site: Site) -> UUID:
    """A patient whom the device knows."""
    return pulled(device, site, names=NAMES)


def erase(site: Site, patient: UUID) -> int:
    return erased(site.desk(), {"id": str(patient)})


def words(path: Path) -> str:
    """Return all that is in a file that nobody has open, as rows and as bytes."""
    with sqlite3.connect(path) as connection:
        rows = [
            str(connection.execute(f"SELECT * FROM {table}").fetchall())
            for table in ("meta", "scope", "record", "mutation", "word")
        ]
    return "".join(rows) + path.read_bytes().decode("latin-1")


def queue(device: Client, patient: UUID) -> None:
    """Queue a change of each kind that there is, and a visit that goes on."""
    device.update_demographics(patient, {"maritalStatus": "M", "addresses": [{"city": CANARY}]})
    device.add_next_of_kin(patient, CHIDI | {"name": CANARY})
    device.add_identifier(patient, A_CARD | {"value": f"{CANARY} 7"})
    device.set_consent(patient, "research", GRANTED)
    visit = device.open_encounter(patient, ARRIVED | {"reason": CANARY})
    device.transition(visit.id, "in-progress", reason=CANARY)


def test_a_pull_takes_the_patient_and_the_encounters_from_the_device(
    device: Client, site: Site, patient: UUID
) -> None:
    visit = device.open_encounter(patient, ARRIVED | {"reason": CANARY})
    device.sync()
    other = pulled(device, site)

    report = device.pull(erase(site, patient))

    assert report.deleted == 2
    assert device.patient(patient) is None
    assert device.encounter(visit.id) is None
    assert device.search(CANARY.lower()) == []
    assert shown(device.patient(other)).id == other
    assert told(device.history()) == [("open", "applied")]
    device.close()
    assert CANARY.lower() not in words(site.folder / "desk-1.db").lower()


def test_what_was_queued_is_refused_when_it_is_pushed_and_forgotten(
    device: Client, site: Site, patient: UUID
) -> None:
    queue(device, patient)
    erase(site, patient)

    report = device.push()

    assert (report.sent, report.waiting) == (6, 0)
    items = device.review()
    assert {(item.kind, item.code, item.fields) for item in items} == {("rejected", "ERASED", ())}
    assert len(items) == 6
    assert device.patient(patient) is None
    assert device.push().sent == 0
    device.close()
    assert CANARY.lower() not in words(site.folder / "desk-1.db").lower()


def test_what_was_queued_is_refused_when_a_pull_tells_first(
    device: Client, site: Site, patient: UUID
) -> None:
    queue(device, patient)
    kept = device.register(ADA_OKORO)

    device.pull(erase(site, patient))

    assert {item.code for item in device.review()} == {"ERASED"}
    assert len(device.review()) == 6
    report = device.push()
    assert (report.sent, report.applied) == (1, 1)
    assert shown(device.patient(kept.id)).pending
    device.close()
    assert CANARY.lower() not in words(site.folder / "desk-1.db").lower()


def test_each_can_be_discarded_and_nothing_else(device: Client, site: Site, patient: UUID) -> None:
    queue(device, patient)
    erase(site, patient)
    device.push()

    with pytest.raises(ReviewError, match="only be discarded"):
        device.resubmit(device.review()[0])
    for item in device.review():
        device.discard(item, "erased")

    assert device.review() == []
    assert {state for _, state in told(device.history())} == {"discarded"}


def test_what_waited_in_the_review_is_forgotten_too(
    device: Client, site: Site, patient: UUID
) -> None:
    device.update_demographics(patient, {"addresses": [{"city": CANARY}]})
    desk = site.desk()
    said = {"addresses": [{"city": f"New {CANARY}"}]}
    desk.patch(f"/v1/patients/{patient}/demographics", said, If_Match='"1"').raise_for_status()
    device.push()
    assert only(device.review()).code == "OPTIMISTIC_LOCK_CONFLICT"

    device.pull(erase(site, patient))

    assert (only(device.review()).kind, only(device.review()).code) == ("rejected", "ERASED")
    device.close()
    assert CANARY.lower() not in words(site.folder / "desk-1.db").lower()


def test_what_a_refusal_about_another_record_showed_of_them_is_forgotten(
    device: Client, site: Site, patient: UUID
) -> None:
    """While two records were merged, a conflict about one showed the identifiers of the other."""
    desk = site.desk()
    card = A_CARD | {"value": f"{CANARY}-7"}
    succeeded(desk.post(f"/v1/patients/{patient}/identifiers", card, If_Match='"1"'))
    other = pulled(device, site)
    device.update_demographics(other, {"maritalStatus": "M"})
    said = {"maritalStatus": "S"}
    succeeded(desk.patch(f"/v1/patients/{other}/demographics", said, If_Match='"1"'))
    merge = Index(site).merge(other, patient)
    device.push()
    assert CANARY in str(only(device.review()).problem)
    Index(site).unmerge(merge)

    device.pull(erase(site, patient))

    item = only(device.review())
    assert (item.kind, item.code) == ("conflict", "OPTIMISTIC_LOCK_CONFLICT")
    assert [(each.path, each.mine, each.theirs) for each in item.fields] == [
        ("/maritalStatus", "M", "S")
    ]
    device.close()
    assert CANARY.lower() not in words(site.folder / "desk-1.db").lower()


def test_what_others_at_the_device_queued_is_forgotten_as_well(
    device: Client, site: Site, patient: UUID
) -> None:
    device.add_next_of_kin(patient, CHIDI | {"name": CANARY})
    device.sign_in(site.token(sub="desk-2", facility="north"))
    device.sync()
    device.pull(erase(site, patient))

    assert told(device.history()) == [("add_next_of_kin", "rejected")]
    device.sign_in(site.token())
    assert only(device.review()).code == "ERASED"
    assert device.patient(patient) is None


def test_a_registration_whose_answer_was_lost_ends_all_the_same(
    device: Client, site: Site, patient: UUID
) -> None:
    """Given it went in and the patient was erased since, when it is sent again, it is refused."""
    made = device.register(ADA_OKORO | {"names": NAMES})
    device.add_next_of_kin(made.id, CHIDI | {"name": CANARY})
    site.network.faults = [lost_answer, *[lost_request] * 4]
    assert device.push().offline
    erase(site, made.id)

    report = device.push()

    assert (report.sent, report.waiting) == (2, 0)
    assert told(device.history()) == [("register", "rejected"), ("add_next_of_kin", "rejected")]
    erase(site, patient)
    device.sync()
    device.pull(erase(site, pulled(device, site)))
    assert device.patient(made.id) is None
    device.close()
    assert CANARY.lower() not in words(site.folder / "desk-1.db").lower()


def test_what_went_in_is_forgotten_with_the_patient(
    device: Client, site: Site, patient: UUID
) -> None:
    queue(device, patient)
    device.push()

    device.pull(erase(site, patient))

    assert {state for _, state in told(device.history())} == {"applied"}
    assert device.review() == []
    device.close()
    assert CANARY.lower() not in words(site.folder / "desk-1.db").lower()
