"""The levels at which two values agree."""

import pytest

from registration.mpi.comparing import (
    LEVELS,
    birth_date_level,
    given_level,
    identifier_level,
    name_level,
    number_level,
    telecom_level,
    text_level,
)
from registration.mpi.guess import M, U


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("smith", "smith", "exact"),
        ("smith", "smiht", "close"),
        ("smith", "smithe", "close"),
        ("vandenberg", "van den berg", "close"),
        ("garcia lopez", "garcia", "part"),
        ("j", "john", "part"),
        ("jonathan", "jonson", "similar"),
        ("smith", "jones", "different"),
        ("li", "lu", "different"),
        ("smith", "", "missing"),
        ("haddad", "حداد", "sound"),
        ("حداد", "хаддад", "sound"),
        ("haddad", "منصور", "foreign"),
        ("千代", "chiyo", "missing"),  # nobody knows by its characters how a name is read
        ("王", "wang", "sound"),
    ],
)
def test_names(one: str, other: str, level: str) -> None:
    assert name_level(one, other) == name_level(other, one) == level


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("bill", "william", "nickname"),
        ("bill", "will", "nickname"),
        ("william john", "bill", "nickname"),
        ("margaret", "peggy", "nickname"),
        ("william", "wiliam", "close"),
        ("anna maria", "maria", "part"),
        ("ann", "", "missing"),
        ("ann", "peter", "different"),
    ],
)
def test_given_names(one: str, other: str, level: str) -> None:
    assert given_level(one, other) == given_level(other, one) == level


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ("19560409", "19560409", "exact"),
        ("19560409", "19560904", "swapped"),
        ("19560409", "19560408", "typo"),
        ("19560409", "19650409", "typo"),
        ("19560409", "19560421", "near"),
        ("19560409", "19330409", "near"),
        ("19560409", "19331230", "different"),
        ("1956", "19560409", "partial"),
        ("195604", "19560409", "partial"),
        ("195605", "19560409", "different"),
        ("1956", "1956", "partial"),
        ("~1956", "19580409", "partial"),
        ("~1956", "19590409", "different"),
        ("~1956", "~1957", "partial"),
        ("", "~1956", "missing"),
    ],
)
def test_birth_dates(one: str, other: str, level: str) -> None:
    assert birth_date_level(one, other) == birth_date_level(other, one) == level


def test_addresses_by_their_parts() -> None:
    assert text_level("high street", "highstreet") == "close"
    assert text_level("high street", "hihg street") == "close"
    assert text_level("high street", "main road") == "different"
    assert text_level("", "main road") == "missing"
    assert [number_level("12", other) for other in ("12", "112", "7", "")] == [
        "exact",
        "close",
        "different",
        "missing",
    ]


def test_of_several_telephone_numbers_the_best_pair_counts() -> None:
    assert telecom_level(["701234567", "a@example.org"], ["a@example.org"]) == "exact"
    assert telecom_level(["701234567"], ["701234576", "555555555"]) == "typo"
    assert telecom_level(["701234567"], ["555555555"]) == "different"
    assert telecom_level([], ["555555555"]) == "missing"


def test_identifiers_are_compared_within_a_system() -> None:
    nobody: dict[str, list[str]] = {}
    passport, tax = {"passport": ["1234567"]}, {"tax": ["1234567"]}
    assert identifier_level(passport, passport | tax, nobody, nobody) == "exact"
    assert identifier_level(passport, {"passport": ["1234576"]}, nobody, nobody) == "typo"
    assert identifier_level(passport, {"passport": ["7654321"]}, nobody, nobody) == "different"
    assert identifier_level(passport, tax, nobody, nobody) == "missing"


def test_that_record_numbers_differ_says_nothing() -> None:
    first, second = {"mrn": ["n12"]}, {"mrn": ["n13"]}
    assert identifier_level({}, {}, first, second) == "missing"
    assert identifier_level({}, {}, first, first) == "exact"


def test_the_guess_that_training_starts_from_is_of_every_level() -> None:
    for odds in (M, U):
        assert {field: set(levels) for field, levels in odds.items()} == {
            field: set(levels) for field, levels in LEVELS.items()
        }
        for levels in odds.values():
            assert sum(levels.values()) == pytest.approx(1)
