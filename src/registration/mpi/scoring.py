"""From levels to weights: the inner loop, with everything looked up that can be."""

from collections.abc import Mapping
from typing import NamedTuple

from registration.mpi.comparing import (
    ADDRESS_FIELDS,
    CROSSED,
    DIFFERENT,
    EXACT,
    FOREIGN,
    LEVELS,
    MISSING,
    SWAPPED,
    birth_date_level,
    given_level,
    identifier_level,
    name_level,
    number_level,
    telecom_level,
    text_level,
)
from registration.mpi.record import ANONYMOUS, MatchRecord

FIELDS = tuple(LEVELS)
NamesWeighed = tuple[float, str, str, float, float]
"""The weight of two names, the levels of family and given name, and the weight of each."""

_NO_NAME: NamesWeighed = (0.0, MISSING, MISSING, 0.0, 0.0)
_NO_ADDRESS = (0.0, (MISSING,) * 6, (0.0,) * 6)
_RANKS = {
    "exact": 8,
    "nickname": 6,
    "close": 6,
    "sound": 5,
    "swapped": 5,
    "crossed": 5,
    "part": 4,
    "similar": 2,
    "missing": 1,
    "different": 0,
    "foreign": 0,
}
_AGREEING = frozenset({"exact", "close", "nickname", "sound"})


class Weighed(NamedTuple):
    """The levels and the weights of a pair, both in the order of :data:`FIELDS`."""

    levels: tuple[str, ...]
    weights: tuple[float, ...]
    household: float
    """What is taken off again, zero or less: see :class:`Scorer`."""


class Weights:
    """The weights of one field in bits, by level and, where both are exact, by value.

    Agreement in a common value says less. An inexact agreement never says more than the exact one
    of either value would.
    """

    __slots__ = ("by_level", "by_value", "usual")

    def __init__(self, by_level: Mapping[str, float], by_value: Mapping[str, float]) -> None:
        self.usual = max(0.0, by_level[EXACT])
        self.by_value = {value: max(0.0, weight) for value, weight in by_value.items()}
        bounded = {level: min(weight, self.usual) for level, weight in by_level.items()}
        self.by_level = {**bounded, EXACT: self.usual, MISSING: 0.0}

    def of(self, level: str, one: str, other: str) -> float:
        """Return the weight of a level that two values were found to agree at."""
        by_value = self.by_value
        if level is EXACT:
            return by_value.get(one, self.usual)
        weight = self.by_level[level]
        if weight > 0.0:
            usual = self.usual
            return min(weight, by_value.get(one, usual), by_value.get(other, usual))
        return weight

    def exact(self, value: str) -> float:
        """Return the weight of exact agreement in a value."""
        return self.by_value.get(value, self.usual)


class Scorer:
    """Weighs pairs of records with the weights of a model.

    ``household`` bounds what telecom and address say for a pair whose given names differ: those who
    live together share them all, twins the birth date too.
    """

    def __init__(self, weights: Mapping[str, Weights], household: float) -> None:
        self._weights = dict(weights)
        self._household = household
        self._family, self._given = weights["family"], weights["given"]
        self._birth_date = weights["birthDate"]
        self._gender = weights["gender"].by_level
        self._identifier = weights["identifier"].by_level
        self._telecom = weights["telecom"].by_level
        self._address = tuple([weights[field] for field in ADDRESS_FIELDS])

    def weigh(self, a: MatchRecord, b: MatchRecord) -> Weighed | None:
        """Return the levels and weights of a pair; none where they must not match.

        Two unnamed records, or an anonymous and a named one, match by an equal identifier only.
        """
        identifier = identifier_level(
            a.identifiers, b.identifiers, a.record_numbers, b.record_numbers
        )
        if (a.unnamed or b.unnamed) and (
            ANONYMOUS in {a.unnamed, b.unnamed} or (a.unnamed and b.unnamed)
        ):
            return self._by_identifier(identifier)
        _, family, given, family_weight, given_weight = self._names(a.names, b.names)
        born = birth_date_level(a.birth_date, b.birth_date)
        gender = MISSING
        if a.gender and b.gender:
            gender = EXACT if a.gender == b.gender else DIFFERENT
        telecom = telecom_level(a.telecom, b.telecom)
        telecom_weight = self._telecom[telecom]
        _, address, address_weights = self._addresses(a.addresses, b.addresses)
        household = 0.0
        if (given is DIFFERENT or given is FOREIGN) and identifier is not EXACT:
            shared = max(0.0, telecom_weight) + sum([w for w in address_weights if w > 0.0])
            household = min(0.0, self._household - shared)
        return Weighed(
            (family, given, born, gender, identifier, telecom, *address),
            (
                family_weight,
                given_weight,
                self._birth_date.of(born, a.birth_date, b.birth_date),
                self._gender[gender],
                self._identifier[identifier],
                telecom_weight,
                *address_weights,
            ),
            household,
        )

    def _by_identifier(self, level: str) -> Weighed | None:
        if level is not EXACT:
            return None
        levels = [level if field == "identifier" else MISSING for field in FIELDS]
        weights = [
            self._weights[field].by_level[at] for field, at in zip(FIELDS, levels, strict=True)
        ]
        return Weighed(tuple(levels), tuple(weights), 0.0)

    def _names(self, a: list[list[str]], b: list[list[str]]) -> NamesWeighed:
        """Return the best of all pairs of names: its weight, two levels and their weights.

        How well they agree decides, not what that is worth: a name may be common in one script and
        not listed in the other.
        """
        if len(a) > 1 or len(b) > 1:
            return self._best_names(a, b)
        return self._name_pair(a[0], b[0]) if a and b else _NO_NAME

    def _best_names(self, a: list[list[str]], b: list[list[str]]) -> NamesWeighed:
        """Compare each name with each, but across scripts only where no two are in one script."""
        pairs = [(one, other) for one in a for other in b if _latin(one) == _latin(other)]
        best, highest = _NO_NAME, -1
        for one, other in pairs or [(one, other) for one in a for other in b]:
            found = self._name_pair(one, other)
            rank = _RANKS[found[1]] + _RANKS[found[2]]
            if rank > highest or (rank == highest and found > best):
                best, highest = found, rank
        return best

    def _name_pair(self, one: list[str], other: list[str]) -> NamesWeighed:
        family, given = one
        other_family, other_given = other
        found = self._straight(family, given, other_family, other_given)
        if found[1] not in _AGREEING and found[2] not in _AGREEING:
            crossed = self._crossed(family, given, other_family, other_given)
            if crossed is not None and crossed > found:
                return crossed
        return found

    def _straight(
        self, family: str, given: str, other_family: str, other_given: str
    ) -> NamesWeighed:
        at_family = name_level(family, other_family)
        at_given = given_level(given, other_given)
        family_weight = self._family.of(at_family, family, other_family)
        given_weight = self._given.of(at_given, given, other_given)
        return family_weight + given_weight, at_family, at_given, family_weight, given_weight

    def _crossed(
        self, family: str, given: str, other_family: str, other_given: str
    ) -> NamesWeighed | None:
        """Compare the family name of each with the given name of the other.

        Where only one of the two agrees, the family name counts as crossed, and the given name is
        what the other two are to each other: missing or different.
        """
        one, other = name_level(family, other_given), name_level(given, other_family)
        if one in _AGREEING and other in _AGREEING:
            at_family = at_given = SWAPPED
            family_weight = self._family.of(SWAPPED, family, other_family)
            given_weight = self._given.of(SWAPPED, given, other_given)
        elif one in _AGREEING or other in _AGREEING:
            at_family, at_given = CROSSED, other if one in _AGREEING else one
            if one in _AGREEING:
                bounds = self._family.exact(family), self._given.exact(other_given)
            else:
                bounds = self._given.exact(given), self._family.exact(other_family)
            family_weight = min(self._family.by_level[CROSSED], *bounds)
            given_weight = min(0.0, self._given.by_level[at_given])
        else:
            return None
        return family_weight + given_weight, at_family, at_given, family_weight, given_weight

    def _addresses(
        self, a: list[list[str]], b: list[list[str]]
    ) -> tuple[float, tuple[str, ...], tuple[float, ...]]:
        if not a or not b:
            return _NO_ADDRESS
        if len(a) == len(b) == 1:
            return self._address_pair(a[0], b[0])
        return max(self._address_pair(one, other) for one in a for other in b)

    def _address_pair(
        self, one: list[str], other: list[str]
    ) -> tuple[float, tuple[str, ...], tuple[float, ...]]:
        number, street, place, city, code, state = one
        other_number, other_street, other_place, other_city, other_code, other_state = other
        at_street, at_place = text_level(street, other_street), text_level(place, other_place)
        if at_street is DIFFERENT or at_place is DIFFERENT:
            at_street, at_place = _lines_swapped(one, other, at_street, at_place)
        levels = (
            number_level(number, other_number),
            at_street,
            at_place,
            text_level(city, other_city),
            number_level(code, other_code),
            text_level(state, other_state),
        )
        by = self._address
        weights = (
            by[0].of(levels[0], number, other_number),
            by[1].of(at_street, street, other_street),
            by[2].of(at_place, place, other_place),
            by[3].of(levels[3], city, other_city),
            by[4].of(levels[4], code, other_code),
            by[5].of(levels[5], state, other_state),
        )
        return sum(weights), levels, weights


def _latin(name: list[str]) -> bool:
    return name[0].isascii() and name[1].isascii()


def _lines_swapped(
    one: list[str], other: list[str], at_street: str, at_place: str
) -> tuple[str, str]:
    """Return the levels of street and place where each stands in the other's line."""
    first, second = text_level(one[1], other[2]), text_level(one[2], other[1])
    agreeing = (first in _AGREEING) + (second in _AGREEING)
    if agreeing == 2:
        return SWAPPED, SWAPPED
    if agreeing == 1 and MISSING in {first, second}:
        return SWAPPED, MISSING
    return at_street, at_place
