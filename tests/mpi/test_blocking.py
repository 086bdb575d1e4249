"""Which records come to be compared."""

import pytest
from tests.mpi.given import name, patient

from registration.domain.resources import NameInput
from registration.mpi.blocking import KINDS, block_keys, kinds_of_keys
from registration.mpi.comparing import LEVELS
from registration.mpi.record import MatchRecord

ANN = patient(
    "Smith, Ann",
    born="1956-04-09",
    gender="female",
    number="1234567",
    phone="0170 1234567",
    street="12 High Street",
    city="York",
    code="AB1",
)


def shared(one: MatchRecord, other: MatchRecord) -> set[str]:
    """The kinds of the keys that two records have in common."""
    keys = {key: kind for kind, key in kinds_of_keys(one)}
    return {keys[key] for key in block_keys(other) if key in keys}


def test_a_record_has_a_handful_of_keys_that_fit_a_bigint() -> None:
    keys = block_keys(ANN)
    assert len(keys) == len(set(keys)) == 9
    assert keys == sorted(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert {kind for kind, _ in kinds_of_keys(ANN)} == set(KINDS)
    assert {field for fields in KINDS.values() for field in fields} <= set(LEVELS)


def test_keys_never_change_since_they_are_stored() -> None:
    assert block_keys(patient("Smith, Ann", born="1956-04-09")) == [
        -7094161745747806606,
        -696713642903317945,
    ]


@pytest.mark.parametrize(
    ("other", "kinds"),
    [
        (patient("Ann, Smith", born="1956"), {"names and year"}),
        (patient("Smyth, Anne", born="1956-11-30"), {"names and year"}),
        (patient("Jones, Joan", born="1956-09-04"), {"birth date"}),
        (patient("Jones, Joan", phone="+44 170 1234567"), {"telecom"}),
        (patient("Jones, Joan", number="123-4567"), {"identifier"}),
        (
            patient("Jones, Ann", street="12 Main Road", city="York"),
            {"city, house number and a name"},
        ),
        (patient("Jones, Joan", street="Highstreet", code="AB1"), {"street and postal code"}),
        (patient("Ann Smith", code="ab1"), {"names and postal code"}),
        (patient("Smith, Ann", street="12 Main Road"), {"names and house number"}),
        (patient("Smith, Ann"), set()),
        (patient("Jones, Joan", born="1956-04-10", city="York", gender="female"), set()),
    ],
)
def test_one_agreement_that_is_rare_enough_brings_two_records_together(
    other: MatchRecord, kinds: set[str]
) -> None:
    assert shared(ANN, other) == kinds


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Haddad, Mohammed", "حداد, محمد"),
        ("Иванова, Мария", "Ivanova, Mariya"),
        ("Παπαδόπουλος, Γεώργιος", "Papadopoulos, Georgios"),
        ("王, 小明", "Xiaoming Wang"),
        ("כהן, דוד", "Cohen, David"),
        ("शर्मा, राज", "Sharma, Raj"),
    ],
)
def test_names_meet_in_any_script_and_order(one: str, other: str) -> None:
    assert shared(patient(one, born="1956"), patient(other, born="1956")) == {"names and year"}


def test_an_unknown_day_is_no_block_of_its_own() -> None:
    assert (
        shared(patient("Smith, Ann", born="1956-01-01"), patient("Jones, Joan", born="1956-01-01"))
        == set()
    )


def test_the_anonymous_are_found_by_identifiers_alone() -> None:
    unknown = patient(
        name("Unknown", use="anonymous"), born="1956-04-09", number="7", phone="0170 1234567"
    )
    assert [kind for kind, _ in kinds_of_keys(unknown)] == ["identifier"]


def test_a_newborn_is_found_by_all_but_its_name() -> None:
    baby = patient("Baby of Ann Smith", born="2025-03-09", phone="0170 1234567")
    assert {kind for kind, _ in kinds_of_keys(baby)} == {"birth date", "telecom"}
    named = patient(NameInput(family="Smith", given=("Tom",)), born="2025-03-09")
    assert shared(baby, named) == {"birth date"}
