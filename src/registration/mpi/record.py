"""What matching knows of one patient, in the form in which it is compared and stored."""

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import orjson

from registration.domain.names import script_of
from registration.domain.resources import (
    Address,
    ContactPoint,
    IdentifierInput,
    Name,
    NameInput,
)
from registration.domain.search_keys import OPTIONAL, Shown, fold, words_of
from registration.mpi.unnamed import is_newborn, is_stand_in

Value = TypeVar("Value")

NEWBORN, ANONYMOUS = "newborn", "anonymous"

MOST_NAMES, MOST_OTHERS = 6, 8
"""Comparing costs the product of both sides; a record keeps this many names, and of the others."""

_BIRTH_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
_DIGITS = re.compile(r"[^0-9]")
_NOT_A_NUMBER = re.compile(r"[\W_]+")
# HL7 table 0203: numbers that a facility gives, one a registration. That two differ means nothing.
_RECORD_NUMBERS = frozenset({"MR", "MRT", "PI", "PT", "VN", "AN", "ACSN", "PNT", "LR", "U"})
_RECORD_NUMBER_SYSTEM = re.compile(r"(?:^|[:/._-])mrn(?:$|[:/._-])", re.IGNORECASE)
# Words that belong to the next one: Al Khatib is Alkhatib, Abd Allah is Abdallah.
_LEADING = OPTIONAL | {"abd", "abdul", "abdel", "abdal", "عبد"}
# Significant digits of a telephone number; what stands before is a trunk or country code.
_PHONE_DIGITS = 9


class MatchRecord(NamedTuple):
    """One patient, ready to compare. Lists and dicts as JSON has them, so that decoding is cheap.

    What is absent is empty. Do not change one: it may be shared.
    """

    unnamed: str
    """``newborn`` or ``anonymous`` where no name tells who it is; else empty."""
    names: list[list[str]]
    """``[family, given]``, folded words joined by a space; either may be empty."""
    birth_date: str
    """``YYYYMMDD``, ``YYYYMM`` or ``YYYY``; ``~YYYY`` where it is an estimate."""
    gender: str
    """``male`` or ``female``; anything else says nothing and is empty."""
    identifiers: dict[str, list[str]]
    """Values by system: those of which a person has one."""
    record_numbers: dict[str, list[str]]
    """Values by system of numbers given anew at each registration: equal or nothing."""
    telecom: list[str]
    """Email addresses, and the last nine digits of telephone numbers."""
    addresses: list[list[str]]
    """``[house number, street, place, city, postal code, state]``, folded; any may be empty."""


def record_of(
    names: Sequence[Name | NameInput],
    gender: str,
    birth_date: str | None,
    birth_date_estimated: bool,
    identifiers: Sequence[IdentifierInput],
    telecom: Sequence[ContactPoint],
    addresses: Sequence[Address],
) -> MatchRecord:
    """Return what matching knows of a patient. It takes anything: what it cannot read is absent.

    Where one name is a person's own, the others that name nobody ("Baby of X") are left out.
    """
    unnamed, parts = _named(names)
    numbers, record_numbers = _numbers(identifiers)
    return MatchRecord(
        unnamed,
        parts,
        _birth_date(birth_date, estimated=birth_date_estimated),
        gender if gender in {"male", "female"} else "",
        numbers,
        record_numbers,
        _telecom(telecom),
        _unique([_address(address) for address in addresses if address.use != "billing"]),
    )


def encode(record: MatchRecord) -> bytes:
    """Return the record as compact JSON; :func:`decode` gives it back."""
    return orjson.dumps(tuple(record))


def decode(data: bytes) -> MatchRecord:
    """Return the record that :func:`encode` wrote; some 2 µs."""
    return MatchRecord(*orjson.loads(data))


def _named(names: Sequence[Name | NameInput]) -> tuple[str, list[list[str]]]:
    unnamed, parts = ANONYMOUS if names else "", []
    for name in names:
        family, given = _words(name)
        if name.use == "anonymous" or is_stand_in(family, given):
            continue
        if is_newborn(family, given):
            unnamed = NEWBORN
        elif family or given:
            parts.append([_joined(family), _joined(given)])
    return ("", _unique(parts)[:MOST_NAMES]) if parts else (unnamed, [])


def _words(name: Name | NameInput) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the folded words of family and given name; of a name in one text, as is usual there.

    The last word is taken for the family name, in Chinese and Korean writing the first. Where that
    is wrong the two come out swapped, which comparing sees.
    """
    family = fold(name.family) if name.family else ()
    given = tuple([word for part in name.given for word in fold(part)])
    if name.text is None or (family and given):
        return family, given
    if not family and not given:
        words = fold(name.text)
        if len(words) == 1:
            shown = words_of(Shown(None, (), name.text, script_of(name.text)))
            split = tuple([word for word, _ in shown[1:]])
            return (split[:1], split[1:]) if len(split) == 2 else ((), words)
        return words[-1:], words[:-1]
    rest = tuple([word for word in fold(name.text) if word not in (family or given)])
    return (family, rest) if family else (rest, given)


def _joined(words: Sequence[str]) -> str:
    parts, leading = [], ""
    for word in words:
        if word in _LEADING:
            leading += word
        else:
            parts.append(leading + word)
            leading = ""
    return " ".join([*parts, leading] if leading else parts)


def _birth_date(said: str | None, *, estimated: bool) -> str:
    match = _BIRTH_DATE.fullmatch(said or "")
    if match is None:
        return ""
    return "~" + match[1] if estimated else "".join(filter(None, match.groups()))


def _numbers(
    identifiers: Sequence[IdentifierInput],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    numbers: dict[str, list[str]] = {}
    record_numbers: dict[str, list[str]] = {}
    for identifier in identifiers[: 2 * MOST_OTHERS]:
        value = _NOT_A_NUMBER.sub("", identifier.value).casefold()
        once_a_registration = identifier.type in _RECORD_NUMBERS or (
            identifier.type is None and _RECORD_NUMBER_SYSTEM.search(identifier.system)
        )
        values = (record_numbers if once_a_registration else numbers).setdefault(
            identifier.system, []
        )
        if value and value not in values:
            values.append(value)
    return numbers, record_numbers


def _telecom(telecom: Sequence[ContactPoint]) -> list[str]:
    values = []
    for point in telecom:
        if point.system == "email":
            values.append(point.value.strip().casefold())
        elif point.system in {"phone", "sms"}:
            digits = _DIGITS.sub("", point.value)
            if len(digits) >= 6:  # fewer is an extension, or a placeholder
                values.append(digits[-_PHONE_DIGITS:])
    return _unique(values)


def _address(address: Address) -> list[str]:
    lines = [fold(line) for line in address.line]
    if not any(lines) and address.text:
        lines = [fold(address.text)]
    first = lines[0] if lines else ()
    number = next((word for word in first if word[0].isdigit()), "")
    return [
        number,
        " ".join([word for word in first if word != number]),
        " ".join([word for line in lines[1:] for word in line]),
        " ".join(fold(address.city or "")),
        "".join(fold(address.postal_code or "")),
        " ".join(fold(address.state or "")),
    ]


def _unique(values: list[Value]) -> list[Value]:
    """Return each value once, the first of those that matching keeps."""
    unique: list[Value] = []
    for value in values:
        if value not in unique:
            unique.append(value)
    return unique[:MOST_OTHERS]
