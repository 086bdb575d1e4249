"""Finding patients at the device, in any script, and quickly."""

import time
from typing import Any

import pytest
from tests.client.given import ADA_OKORO, Site, pulled

from registration.client import Client

PEOPLE: dict[str, dict[str, Any]] = {
    "ada": {"names": [{"family": "Okoro", "given": ["Ada"]}], "birthDate": "1984-03-02"},
    "amara": {"names": [{"family": "Okoro", "given": ["Amara"]}], "birthDate": "1990"},
    "jürgen": {"names": [{"family": "Müller", "given": ["Jürgen"]}]},
    "mohammed": {"names": [{"text": "محمد عبد الله"}]},
    "vladimir": {
        "names": [{"family": "Иванов", "given": ["Владимир"]}],
        "identifiers": [{"system": "urn:card", "value": "AB-123 4"}],
    },
}
ASKED = {
    "okoro": ["ada", "amara"],
    "ama oko": ["amara"],
    "ada 1984": ["ada"],
    "1984-03": ["ada"],
    "1990-01": [],
    "muller": ["jürgen"],
    "MULLER jur": ["jürgen"],
    "mohammed": ["mohammed"],
    "Мухаммед": ["mohammed"],
    "vladimir ivanov": ["vladimir"],
    "иванов": ["vladimir"],
    "ab1234": ["vladimir"],
    "ab-123": ["vladimir"],
    "": [],
    "zzz": [],
}


@pytest.mark.parametrize("synchronised", [False, True])
def test_people_are_found_by_what_is_known_of_them(device: Client, synchronised: bool) -> None:
    ids = {device.register(said | {"gender": "other"}).id: who for who, said in PEOPLE.items()}
    if synchronised:
        device.sync()
    found = {text: [ids[view.id] for view in device.search(text)] for text in ASKED}
    assert {text: sorted(who) for text, who in found.items()} == ASKED


def test_who_meets_the_words_exactly_comes_first(device: Client) -> None:
    for family in ("Oko", "Okoro", "Okoronkwo"):
        device.register({"names": [{"family": family}], "gender": "other"})
    names = [view.body["names"][0]["family"] for view in device.search("okoro")]
    assert names == ["Okoro", "Okoronkwo"]


def test_own_changes_count_at_once_and_stand_for_what_was_pulled(
    device: Client, site: Site
) -> None:
    patient = pulled(device, site)
    name = ADA_OKORO["names"][0]
    its_id = device.patient(patient).body["names"][0]["id"]  # type: ignore[union-attr]
    device.replace_name(patient, its_id, name | {"family": "Eze"})
    assert device.search("okoro") == []
    assert [view.id for view in device.search("eze")] == [patient]
    device.sync()
    assert [len(device.search(text)) for text in ("okoro", "eze")] == [0, 1]


@pytest.mark.slow
def test_fifty_thousand_are_searched_in_the_time_of_a_keystroke(device: Client) -> None:
    families = ["Okoro", "Müller", "Иванов", "محمد", "Nguyen", "Garcia", "Sharma"]
    body = device.register(ADA_OKORO).body
    with device._store.transaction():
        for number in range(50_000):
            family = f"{families[number % 7]}{'abcdefghij'[number // 7 % 10]}"
            names = [{**body["names"][0], "family": family, "given": [f"Ada{number % 97}"]}]
            device._index.note_pulled(f"{number:032x}", {**body, "names": names})
    started = time.perf_counter()
    for text in ("okoro", "mul ada12", "ivanov", "1984-03-02 nguyen"):
        device._index.find(text, frozenset())
    assert (time.perf_counter() - started) / 4 < 0.3
