"""Identifiers: one spelling, and the check digits of the systems that have some."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registration.domain.errors import DomainError
from registration.domain.identifiers import check_systems, confirm_identifier
from registration.domain.resources import Identifier, IdentifierInput

ID = UUID("01890000-0000-7000-8000-000000000001")
CHECKS = [
    "luhn", "verhoeff", "damm", "iso7064.mod_97_10", "iso7064.mod_11_10", "iso7064.mod_11_2",
    "gb.nhs", "nl.bsn", "us.ssn", "se.personnummer", "fr.nir", "in_.aadhaar", "za.idnr",
]  # fmt: skip
SYSTEMS = {f"urn:{name}": name for name in CHECKS}


def confirmed(system: str, value: str) -> Identifier:
    said = IdentifierInput(system=system, value=value, type="MR", use="official")
    return confirm_identifier(said, ID, "/identifiers/0", SYSTEMS)


def refused(system: str, value: str) -> tuple[str, str]:
    with pytest.raises(DomainError) as caught:
        confirmed(system, value)
    (error,) = caught.value.extra["errors"]
    assert len(value) < 4 or value not in f"{error['message']} {caught.value.detail}"
    return caught.value.code, error["path"]


def test_a_system_without_a_check_takes_any_text() -> None:
    assert confirmed("urn:mrn", "  A-1 / 7 ") == Identifier(
        id=ID, system="urn:mrn", value="A-1 / 7", type="MR", use="official"
    )


@pytest.mark.parametrize(
    ("check", "value", "kept"),
    [
        ("luhn", "7894 9", "78949"),
        ("luhn", "7894-9", "78949"),
        ("verhoeff", "1234 0", "12340"),
        ("damm", "572 4", "5724"),
        ("iso7064.mod_97_10", "99991234567890121414 90", "9999123456789012141490"),
        ("iso7064.mod_11_10", "002006673085", "002006673085"),
        ("gb.nhs", "943 476 5919", "9434765919"),
        ("nl.bsn", "1112.22.333", "111222333"),
        ("us.ssn", "536-90-4399", "536904399"),
    ],
)
def test_a_number_that_passes_is_kept_in_its_compact_form(
    check: str, value: str, kept: str
) -> None:
    assert confirmed(f"urn:{check}", value).value == kept


@pytest.mark.parametrize(
    ("check", "value"),
    [
        ("luhn", "78945"),
        ("verhoeff", "12341"),
        ("damm", "5725"),
        ("iso7064.mod_97_10", "9999123456789012141491"),
        ("gb.nhs", "9434765918"),
        ("gb.nhs", "943"),
        ("nl.bsn", "111222334"),
        ("us.ssn", "1112-23333"),
        ("luhn", "not a number"),
        ("luhn", "٧٨٩٤٩"),
        ("luhn", "-"),
    ],
)
def test_a_number_that_fails_is_refused(check: str, value: str) -> None:
    assert refused(f"urn:{check}", value) == ("IDENTIFIER_INVALID", "/identifiers/0/value")


@pytest.mark.parametrize("value", [" ", "A\u202eB", "A\u200bB", "A\x00B", "علی\u200cرضا"])
def test_blank_values_and_invisible_characters_are_refused(value: str) -> None:
    assert refused("urn:mrn", value) == ("VALIDATION_FAILED", "/identifiers/0/value")


def test_an_invisible_character_in_the_system_is_refused() -> None:
    assert refused("urn:\u200bmrn", "1234") == ("VALIDATION_FAILED", "/identifiers/0/system")


def test_a_value_is_kept_in_nfc() -> None:
    assert confirmed("urn:mrn", "E\u0301\u00a07").value == "É 7"


@pytest.mark.parametrize("name", CHECKS)
def test_checks_of_python_stdnum_are_known_at_start_up(name: str) -> None:
    check_systems({"urn:x": name})


@pytest.mark.parametrize(
    "name", ["nonsense", "gb.nonsense", "util", "os", "..os", "gb.nhs.validate", "", "exceptions"]
)
def test_an_unknown_check_is_an_error_at_start_up(name: str) -> None:
    with pytest.raises(ValueError, match="urn:x"):
        check_systems({"urn:x": name})


digits = st.text("0123456789 -.", min_size=1, max_size=24)


@given(st.sampled_from(sorted([*SYSTEMS, "urn:mrn"])), digits | st.text(min_size=1, max_size=12))
def test_confirming_a_confirmed_identifier_changes_nothing(system: str, value: str) -> None:
    try:
        once = confirmed(system, value)
    except DomainError as error:
        if error.code not in {"IDENTIFIER_INVALID", "VALIDATION_FAILED"}:
            raise
        return

    assert confirm_identifier(once, ID, "", SYSTEMS) == once
