"""What a hostile reviewer did to a device, and what it must not come to."""

import stat
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.client.given import ADA_OKORO, CHIDI, Site, answer, lost_answer, pulled, seen, told

from registration.client import Client, ReviewError


def corrected_elsewhere(site: Site, patient: UUID, version: int, **patch: Any) -> httpx.Response:
    """Correct a patient directly."""
    path = f"/v1/patients/{patient}/demographics"
    return site.desk(sub="somebody").patch(path, patch, If_Match=f'"{version}"')


@pytest.fixture
def stale(device: Client, site: Site) -> UUID:
    """A patient with a correction here that conflicts with one there."""
    patient = pulled(device, site)
    device.update_demographics(patient, {"birthDate": "1984-03-03"})
    assert corrected_elsewhere(site, patient, 1, birthDate="1985").is_success
    device.sync()
    return patient


def test_nobody_settles_what_another_person_did(device: Client, site: Site, stale: UUID) -> None:
    [item] = device.review()
    device.sign_in(site.token(sub="nurse-9"))

    for settle in (
        lambda: device.resubmit(item),
        lambda: device.discard(item, "not mine"),
        lambda: device.confirm(item),
    ):
        with pytest.raises(ReviewError, match="another person"):
            settle()


def test_what_builds_on_a_change_that_is_sent_again_is_still_told_of_others(
    device: Client, site: Site
) -> None:
    """Given two corrections, and two of others, when the first is settled, the second is shown."""
    patient = pulled(device, site)
    device.update_demographics(patient, {"birthDate": "1984-03-03"})
    device.update_demographics(patient, {"gender": "other"})
    assert corrected_elsewhere(site, patient, 1, birthDate="1985").is_success
    assert corrected_elsewhere(site, patient, 2, gender="male").is_success
    device.sync()
    [first] = device.review()
    device.resubmit(first)
    device.sync()

    [second] = device.review()

    assert [(d.path, d.theirs, d.mine) for d in second.fields] == [("/gender", "male", "other")]
    assert told(device.history()) == [
        ("update_demographics", "discarded"),
        ("update_demographics", "discarded"),
        ("update_demographics", "applied"),
        ("update_demographics", "conflict"),
    ]


@pytest.mark.parametrize("how", ["resubmit", "detach"])
def test_what_is_still_queued_behind_a_conflict_goes_on_without_it(
    device: Client, site: Site, how: str
) -> None:
    patient = pulled(device, site)
    device.update_demographics(patient, {"birthDate": "1984-03-03"})
    assert corrected_elsewhere(site, patient, 1, birthDate="1985").is_success
    device.push()
    [item] = device.review()
    site.network.down = True
    device.pull()
    site.network.down = False
    device.add_next_of_kin(patient, CHIDI)
    device.add_next_of_kin(patient, CHIDI | {"name": "Obi"})
    if how == "resubmit":
        device.resubmit(item)
    else:
        device.discard(item, "no longer", "detach")

    assert device.sync().blocked == 0
    assert device.status().unsent == 0


def test_an_answer_that_was_lost_stays_in_doubt_whatever_comes_next(
    device: Client, site: Site
) -> None:
    """Given a lost answer and then a 429, when the clock jumps, then nothing is sent as another."""
    patient = pulled(device, site)
    device.add_next_of_kin(patient, CHIDI)
    site.network.faults = [lost_answer, *[answer(429, "TOO_MANY_REQUESTS")] * 9]
    device.push()

    [mutation] = [m for m in device.history() if m.operation == "patient.add_next_of_kin"]

    assert mutation.doubtful
    site.network.faults = []
    assert device.sync().duplicates == 1


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"results":[]}', b'{"results'])
def test_an_answer_of_another_shape_is_none(device: Client, site: Site, body: bytes) -> None:
    device.register(ADA_OKORO)

    def stranger(_request: httpx.Request, _send: object) -> httpx.Response:
        return httpx.Response(200, content=body, headers={"content-type": "application/json"})

    site.network.faults = [None, *[stranger] * 9]

    assert device.push().offline
    assert device.status().unsent == 1


def test_the_file_is_its_persons_alone(device: Client, site: Site) -> None:
    device.register(ADA_OKORO)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in site.folder.iterdir()}

    assert set(modes.values()) == {0o600}
    assert any(Path(name).suffix == ".db-wal" for name in modes)


def test_a_refused_move_can_be_sent_again(device: Client, site: Site) -> None:
    """Its instant was the device's, and lies before what somebody else did meanwhile."""
    patient = pulled(device, site)
    visit = device.open_encounter(patient, {"class": "AMB", "status": "arrived"})
    device.sync()
    device.transition(visit.id, "in-progress")
    path = f"/v1/encounters/{visit.id}/transitions"
    seen(device, site.desk().post(path, {"to": "triaged"}, If_Match='"1"'))
    device.sync()
    [item] = device.review()
    device.resubmit(item)

    assert device.sync().applied == 1


@pytest.mark.parametrize("text", ["4711", "baby1", "Baby1 Okoro", "1984"])
def test_a_word_with_digits_may_be_a_number_a_name_or_a_year(device: Client, text: str) -> None:
    made = device.register(
        {
            "names": [{"family": "Okoro", "given": ["Baby1"]}],
            "gender": "female",
            "birthDate": "1984",
            "identifiers": [{"system": "urn:card", "value": "4711"}],
        }
    )

    assert [view.id for view in device.search(text)] == [made.id]


def test_a_registration_in_doubt_is_found(device: Client, site: Site) -> None:
    device.pull()
    made = device.register(ADA_OKORO)
    site.network.faults = [lost_answer] * 9
    device.push()
    site.network.faults = []
    device.pull()

    assert [view.id for view in device.search("okoro")] == [made.id]


def test_a_gateways_clock_is_not_believed(device: Client, site: Site) -> None:
    device.register(ADA_OKORO)
    site.network.faults = [answer(503, "UNAVAILABLE", date="Fri, 01 Jan 2100 00:00:00 GMT")] * 9
    device.push()

    assert device.status().skew is None
