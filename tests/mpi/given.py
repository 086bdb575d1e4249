"""Records to compare, said shortly."""

from typing import Any

from registration.domain.resources import Address, ContactPoint, IdentifierInput, NameInput
from registration.mpi.record import MatchRecord, record_of

NATIONAL = "urn:example:national-id"
MRN = "urn:example:mrn:north"
NOT_ESTIMATED = False


def name(said: str, **more: Any) -> NameInput:
    """``Family, Given Given``, or a text without a comma."""
    family, comma, given = said.partition(", ")
    if not comma:
        return NameInput(text=said, **more)
    return NameInput(family=family or None, given=tuple(given.split()), **more)


def patient(
    *names: str | NameInput,
    born: str | None = None,
    gender: str = "unknown",
    estimated: bool = False,
    number: str | None = None,
    phone: str | None = None,
    mail: str | None = None,
    street: str | None = None,
    city: str | None = None,
    code: str | None = None,
) -> MatchRecord:
    """A record of a patient of whom this is known."""
    telecom = [ContactPoint(system="phone", value=phone)] if phone else []
    telecom += [ContactPoint(system="email", value=mail)] if mail else []
    known = street or city or code
    line = (street,) if street else ()
    return record_of(
        [said if isinstance(said, NameInput) else name(said) for said in names],
        gender,
        born,
        estimated,
        [IdentifierInput(system=NATIONAL, value=number)] if number else [],
        telecom,
        [Address(line=line, city=city, postal_code=code)] if known else [],
    )
