"""What exists in a simulated clinic, and what people say and see of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

FLAGS = ("research", "contact-sms")
CARD = "urn:example:card"
_IDENTITY = (
    "names",
    "gender",
    "birthDate",
    "birthDateEstimated",
    "identifiers",
    "telecom",
    "addresses",
    "maritalStatus",
    "preferredLanguage",
    "facility",
    "deceased",
)


def identity(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a patient that a correction of demographics collides with."""
    return {name: body[name] for name in _IDENTITY if body.get(name) not in (None, [], ())}


def fresh_id(random: Random) -> UUID:
    """Return an id that the seed decides."""
    return UUID(int=random.getrandbits(128), version=4)


def correction(random: Random) -> dict[str, Any]:
    """Return a random correction of demographics."""
    return random.choice(
        (
            {"birthDate": f"19{random.randrange(10, 99)}"},
            {"gender": random.choice(("female", "male", "other"))},
            {"maritalStatus": random.choice(("M", "S", "W"))},
            {"facility": random.choice((None, "north", "south"))},
        )
    )


def consent_of(body: Mapping[str, Any], flag: str) -> Any:
    """Return what tells a flag's last decision from others: the reference of its evidence."""
    for consent in body.get("consents", ()):
        if consent["flag"] == flag:
            return consent["evidence"].get("reference")
    return None


@dataclass(frozen=True)
class Reviewed:
    """That a change was sent again after a review, which showed its author this version."""

    version: int | None


@dataclass
class Known:
    """What exists in the clinic, by the order in which it was made; a trace calls it by that."""

    patients: list[UUID] = field(default_factory=list)
    encounters: list[UUID] = field(default_factory=list)

    def called(self, its_id: UUID) -> str:
        """Return the short name of a record."""
        if its_id in self.patients:
            return f"patient-{self.patients.index(its_id) + 1}"
        return f"encounter-{self.encounters.index(its_id) + 1}"
