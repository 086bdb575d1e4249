"""How far two values of a field agree: levels, from the best to none.

Each function is symmetric. Empty means unknown and is never disagreement: ``missing``.
"""

from functools import cache, lru_cache
from typing import Final

from nicknames import NickNamer
from rapidfuzz.distance import OSA, JaroWinkler

from registration.domain.search_keys import likeness, script, skeletons

EXACT: Final = "exact"
NICKNAME: Final = "nickname"
CLOSE: Final = "close"
SIMILAR: Final = "similar"
PART: Final = "part"
SOUND: Final = "sound"
FOREIGN: Final = "foreign"
SWAPPED: Final = "swapped"
CROSSED: Final = "crossed"
TYPO: Final = "typo"
NEAR: Final = "near"
PARTIAL: Final = "partial"
DIFFERENT: Final = "different"
MISSING: Final = "missing"

LEVELS: Final[dict[str, tuple[str, ...]]] = {
    "family": (EXACT, CLOSE, SWAPPED, CROSSED, PART, SIMILAR, DIFFERENT, SOUND, FOREIGN),
    "given": (EXACT, NICKNAME, CLOSE, SWAPPED, PART, SIMILAR, DIFFERENT, SOUND, FOREIGN),
    "birthDate": (EXACT, SWAPPED, TYPO, NEAR, PARTIAL, DIFFERENT),
    "gender": (EXACT, DIFFERENT),
    "identifier": (EXACT, TYPO, DIFFERENT),
    "telecom": (EXACT, TYPO, DIFFERENT),
    "houseNumber": (EXACT, CLOSE, DIFFERENT),
    "street": (EXACT, CLOSE, SWAPPED, DIFFERENT),
    "place": (EXACT, CLOSE, SWAPPED, DIFFERENT),
    "city": (EXACT, CLOSE, DIFFERENT),
    "postalCode": (EXACT, CLOSE, DIFFERENT),
    "state": (EXACT, CLOSE, DIFFERENT),
}
"""The levels of each field, beside ``missing``. The order of fields is that of a comparison.

``swapped``: both names agree, each with the other one; ``crossed``: one of them does."""

ACROSS_SCRIPTS: Final = (SOUND, FOREIGN)
"""Levels of names in different scripts: alike or not. That the scripts differ says nothing."""

ADDRESS_FIELDS: Final = ("houseNumber", "street", "place", "city", "postalCode", "state")

_CLOSE_WORDS, _SIMILAR_WORDS, _ALIKE_SOUNDS = 0.92, 0.8, 0.7


def name_level(one: str, other: str) -> str:
    """Return the level of two family names."""
    if not one or not other:
        return MISSING
    if one == other:
        return EXACT
    return _unequal_names(one, other) if one < other else _unequal_names(other, one)


def given_level(one: str, other: str) -> str:
    """Return the level of two given names; as :func:`name_level`, and knows nicknames."""
    if not one or not other:
        return MISSING
    if one == other:
        return EXACT
    return _unequal_given(one, other) if one < other else _unequal_given(other, one)


@lru_cache(maxsize=1 << 16)
def _unequal_names(one: str, other: str) -> str:
    if not (one.isascii() and other.isascii()) and script(one) != script(other):
        return _across_scripts(one, other)
    left, right = one.replace(" ", ""), other.replace(" ", "")
    close = JaroWinkler.similarity(left, right)
    if close >= _CLOSE_WORDS or (close >= _AFTER_A_TYPO and _one_typo(left, right)):
        return CLOSE
    if _share_a_word(one, other):
        return PART
    return SIMILAR if close >= _SIMILAR_WORDS else DIFFERENT


_AFTER_A_TYPO = 0.5
"""The least similarity of words of three letters or more that one typo makes one."""


def _one_typo(one: str, other: str) -> bool:
    """Whether one typo makes them one; two letters with one of them wrong are another name."""
    return max(len(one), len(other)) > 2 and OSA.distance(one, other, score_cutoff=1) == 1


def _across_scripts(one: str, other: str) -> str:
    left, right = sounds(one), sounds(other)
    if not left.isdisjoint(right):
        return SOUND
    # what begins otherwise is not alike, and most pairs do
    if not {sound[:1] for sound in left}.isdisjoint([sound[:1] for sound in right]) and (
        likeness(one.replace(" ", ""), other.replace(" ", "")) >= _ALIKE_SOUNDS
    ):
        return SOUND
    # characters have readings that no transliteration knows: a name in kanji, and the same in kana
    return MISSING if "Hani" in {script(one), script(other)} else FOREIGN


@lru_cache(maxsize=60_000)
def sounds(name: str) -> frozenset[str]:
    """Return the skeletons of a folded name: what it has in common with its like in any script."""
    return frozenset(skeletons(name.replace(" ", "")))


def _share_a_word(one: str, other: str) -> bool:
    """Whether they have a word in common, or one is the initial of the other."""
    left, right = one.split(" "), other.split(" ")
    if len(left) > 1 or len(right) > 1:
        return not set(left).isdisjoint(right)
    return 1 in {len(one), len(other)} and one[0] == other[0]


@lru_cache(maxsize=1 << 16)
def _unequal_given(one: str, other: str) -> str:
    if one.isascii() and other.isascii() and _is_nickname(one, other):
        return NICKNAME
    return _unequal_names(one, other)


def _is_nickname(one: str, other: str) -> bool:
    """Whether the first words are short for each other, or for one name: Bill and Will."""
    left, right = one.partition(" ")[0], other.partition(" ")[0]
    if left == right:
        return False
    whole, short = _nicknames()
    return (
        right in whole.get(left, ())
        or left in whole.get(right, ())
        or not short.get(left, frozenset()).isdisjoint(short.get(right, ()))
    )


@cache
def _nicknames() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    namer = NickNamer()
    return namer.nickname_lookup, namer.canonical_lookup


def birth_date_level(one: str, other: str) -> str:
    """Return the level of two birth dates in the form of a record.

    ``typo``: one digit, or two beside each other exchanged. ``near``: two of year, month and day.
    ``partial``: they agree in what is known of both; estimated years agree within two.
    """
    if not one or not other:
        return MISSING
    if len(one) == len(other) == 8 and one[0] != "~" != other[0]:
        return EXACT if one == other else _unequal_days(one, other)
    if "~" in {one[0], other[0]}:
        left, right = one.removeprefix("~")[:4], other.removeprefix("~")[:4]
        return PARTIAL if abs(int(left) - int(right)) <= 2 else DIFFERENT
    known = min(len(one), len(other))
    return PARTIAL if one[:known] == other[:known] else DIFFERENT


def _unequal_days(one: str, other: str) -> str:
    year, month, day = one[:4] == other[:4], one[4:6], one[6:]
    if year and month == other[6:] and day == other[4:6]:
        return SWAPPED
    if OSA.distance(one, other, score_cutoff=1) == 1:
        return TYPO
    if year + (month == other[4:6]) + (day == other[6:]) >= 2:
        return NEAR
    return DIFFERENT


def text_level(one: str, other: str) -> str:
    """Return the level of two texts of an address."""
    if not one or not other:
        return MISSING
    if one == other:
        return EXACT
    return _unequal_texts(one, other) if one < other else _unequal_texts(other, one)


@lru_cache(maxsize=1 << 16)
def _unequal_texts(one: str, other: str) -> str:
    left, right = one.replace(" ", ""), other.replace(" ", "")
    if OSA.distance(left, right, score_cutoff=1) <= 1 and len(left) > 1:
        return CLOSE
    return CLOSE if JaroWinkler.similarity(left, right) >= _CLOSE_WORDS else DIFFERENT


def number_level(one: str, other: str) -> str:
    """Return the level of two house numbers or postal codes: ``close`` is one typo."""
    if not one or not other:
        return MISSING
    if one == other:
        return EXACT
    return CLOSE if OSA.distance(one, other, score_cutoff=1) == 1 else DIFFERENT


def telecom_level(one: list[str], other: list[str]) -> str:
    """Return the level of two lists of telephone numbers and email addresses: the best pair's."""
    if not one or not other:
        return MISSING
    level = DIFFERENT
    for left in one:
        for right in other:
            if left == right:
                return EXACT
            if OSA.distance(left, right, score_cutoff=1) == 1:
                level = TYPO
    return level


def identifier_level(
    one: dict[str, list[str]],
    other: dict[str, list[str]],
    record_numbers: dict[str, list[str]],
    other_record_numbers: dict[str, list[str]],
) -> str:
    """Return the level of the identifiers of two records: the best of any system they share."""
    level = MISSING
    if one and other:
        for system, values in one.items():
            found = other.get(system)
            if found:
                shared = telecom_level(values, found)
                if shared is EXACT:
                    return EXACT
                if level is not TYPO:
                    level = shared
    if record_numbers and other_record_numbers:
        for system, values in record_numbers.items():
            if not set(values).isdisjoint(other_record_numbers.get(system, ())):
                return EXACT
    return level
