"""Which records are worth comparing: those that share a key.

No key is of a frequent thing alone, so that among a million patients tens share one, not thousands.
Each kind of key survives errors that break the others. Names go in by their skeletons
(:func:`registration.domain.search_keys.skeletons`: consonants, the same in every script), family
and given name in alphabetical order, so that they may be transposed.
"""

from collections.abc import Iterator
from hashlib import blake2b

from registration.mpi.comparing import sounds
from registration.mpi.record import ANONYMOUS, MatchRecord

KINDS = {
    "identifier": ("identifier",),
    "telecom": ("telecom",),
    "birth date": ("birthDate",),
    "names and year": ("family", "given", "birthDate"),
    "names and postal code": ("family", "given", "postalCode"),
    "names and house number": ("family", "given", "houseNumber"),
    "street and postal code": ("street", "postalCode"),
    "city, house number and a name": ("city", "houseNumber", "family", "given"),
}
"""Every kind of key, with the fields that it makes agree."""

_MOST_PAIRS = 6


def block_keys(record: MatchRecord) -> list[int]:
    """Return the signed 64-bit keys of a record; two records that share none are not compared.

    Some six to nine, more for a person with names in several scripts, and for an anonymous one
    those of identifiers only. They are the same in every process, version of Python and machine.
    """
    return sorted({key for _, key in kinds_of_keys(record)})


def kinds_of_keys(record: MatchRecord) -> Iterator[tuple[str, int]]:
    """Yield each key with its kind, one of :data:`KINDS`; a key may come twice."""
    for numbers in (record.identifiers, record.record_numbers):
        for system, values in numbers.items():
            for value in values:
                yield "identifier", _key("i", system, value)
    if record.unnamed == ANONYMOUS:
        return
    for value in record.telecom:
        yield "telecom", _key("t", value)
    day = _day(record.birth_date)
    if day:
        yield "birth date", _key("b", day)
    yield from _with_names(record)


def _with_names(record: MatchRecord) -> Iterator[tuple[str, int]]:
    pairs = _name_pairs(record.names)
    parts = {part for pair in pairs for part in pair if part}
    year = record.birth_date.removeprefix("~")[:4]
    if year:
        for one, other in pairs:
            yield "names and year", _key("y", year, one, other)
    for number, street, _, city, code, _ in record.addresses:
        if street and code:
            yield "street and postal code", _key("s", street.replace(" ", ""), code)
        for one, other in pairs:
            if code:
                yield "names and postal code", _key("p", code, one, other)
            if number and one:
                yield "names and house number", _key("h", number, one, other)
        if number and city:
            town = city.replace(" ", "")
            for part in parts:
                yield "city, house number and a name", _key("c", town, number, part)


def _day(birth_date: str) -> str:
    """Return the day, with month and day in numerical order: they may be swapped.

    The first of January is a block of its own size: it stands for an unknown day.
    """
    if len(birth_date) != 8 or birth_date.endswith("0101"):
        return ""
    month, day = birth_date[4:6], birth_date[6:]
    return birth_date[:4] + min(month, day) + max(month, day)


def _name_pairs(names: list[list[str]]) -> list[tuple[str, str]]:
    """Return the skeletons of family and first given name, each pair in alphabetical order."""
    pairs: dict[tuple[str, str], None] = {}
    for family, given in names:
        if family and given:
            for one in sorted(sounds(family)):
                for other in sorted(sounds(given.partition(" ")[0])):
                    pairs[(one, other) if one < other else (other, one)] = None
        else:
            for one in sorted(sounds(family or given)):
                pairs["", one] = None
    return list(pairs)[:_MOST_PAIRS]


def _key(*parts: str) -> int:
    digest = blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
