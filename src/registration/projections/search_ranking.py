"""What a search asks, how a patient meets it, and where that puts the patient among the results.

A query is some words; each may be met by a word of the patient exactly, by a prefix, by a word of
another script that sounds like it, or (``fuzzy``) by a misspelling. The worst of them decides the
*tier*, within it the cost of the resemblance, then the words in code point order, then the id: so
the order is total, and a page goes on exactly where the last one ended. All words have to be met
within one name. The two longest words lead: the place of a patient is the best of those rows of
``name_pair`` that meet these two.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from registration.domain import search_keys
from registration.domain.search_keys import FAMILY, GIVEN

LONGEST_TEXT = 200
"""Of a longer query text the rest is not looked at."""
MOST_WORDS = 8
_MOST_ALIKE = 40
_LEAST_LIKENESS = 0.6


class Place(NamedTuple):
    """Where a row stands in the results; compared member by member."""

    tier: int
    cost: int
    word: str
    role: str
    other: str
    id: UUID


class Tier(NamedTuple):
    score: float
    second_leads: bool = False


EXACT, PREFIX, ALIKE, MISSPELT = range(4)
LITERAL_TIERS, LIKELY_TIERS = range(4), range(4, 10)
"""Tiers of words as they were typed, and those that ask the dictionary what may be meant."""

_TIER_OF_ONE = {EXACT: 0, PREFIX: 3, ALIKE: 4, MISSPELT: 7}
# By how the first and the second leading word are met. Where only one is met by a prefix, the
# other leads, so that the walk is short; where both are, the longer one does (``Asked.of``).
_TIER_OF = {
    (EXACT, EXACT): 0,
    (EXACT, PREFIX): 1,
    (PREFIX, EXACT): 2,
    (PREFIX, PREFIX): 3,
    (EXACT, ALIKE): 4,
    (ALIKE, EXACT): 4,
    (ALIKE, ALIKE): 4,
    (ALIKE, PREFIX): 5,
    (PREFIX, ALIKE): 6,
    (EXACT, MISSPELT): 7,
    (MISSPELT, EXACT): 7,
    (ALIKE, MISSPELT): 7,
    (MISSPELT, ALIKE): 7,
    (MISSPELT, MISSPELT): 7,
    (MISSPELT, PREFIX): 8,
    (PREFIX, MISSPELT): 9,
}
TIERS = (
    Tier(1.0),
    Tier(0.95),
    Tier(0.95, second_leads=True),
    Tier(0.9),
    Tier(0.8),
    Tier(0.75),
    Tier(0.7, second_leads=True),
    Tier(0.6),
    Tier(0.5),
    Tier(0.4, second_leads=True),
)
_SCORE_OF_COST = 0.1 / 4_000
"""Costs of two words stay under 4,000, so a dearer place never scores above the next tier."""


def score(place: Place) -> float:
    return round(TIERS[place.tier].score - place.cost * _SCORE_OF_COST, 3)


@dataclass(frozen=True, slots=True)
class Word:
    """One folded word of a query; ``role`` is empty where any will do."""

    text: str
    role: str
    likes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Words taken for it: (ALIKE or MISSPELT, cost in thousandths)."""

    def meets(self, word: str, roles: str) -> tuple[int, int] | None:
        """Return how a name's word meets this one, and at what cost."""
        if self.role and self.role not in roles:
            return None
        if word == self.text:
            return EXACT, 0
        if word.startswith(self.text):
            return PREFIX, 0
        return self.likes.get(word)


@dataclass(frozen=True, slots=True)
class Asked:
    """The words of a query: the first two lead, the longer one first."""

    words: tuple[Word, ...]

    @classmethod
    def of(cls, name: str | None, family: str | None, given: str | None) -> "Asked | None":
        """Return what is asked; ``None`` where a name is asked for that has no word at all."""
        words: dict[tuple[str, str], None] = {}
        for text, role in ((name, ""), (family, FAMILY), (given, GIVEN)):
            if text is None or not text.strip():
                continue
            folded = search_keys.asked_words(text[:LONGEST_TEXT])
            if not folded:
                return None
            needed = [word for word in folded if word not in search_keys.OPTIONAL] or folded
            words.update(dict.fromkeys((word, role) for word in needed[:MOST_WORDS]))
        ordered = sorted(words, key=lambda word: -len(word[0]))[:MOST_WORDS]
        return cls(tuple(Word(text, role) for text, role in ordered))

    def best(self, names: Iterable[dict[str, Any]], patient_id: UUID) -> Place | None:
        """Return the best place of a patient with these names, ``None`` if they do not meet."""
        if not self.words:
            return Place(0, 0, "", "", "", patient_id)
        return min(
            (place for name in names for place in self._places(name, patient_id)),
            default=None,
        )

    def _places(self, shown: dict[str, Any], patient_id: UUID) -> Iterator[Place]:
        """Yield the places at which one name's rows of ``name_pair`` are met."""
        name = search_keys.Shown(
            shown.get("family"), tuple(shown["given"]), shown.get("text"), shown["script"]
        )
        words = search_keys.words_of(name)
        met = [
            {
                word: meeting
                for word, roles in words
                if (meeting := asked.meets(word, roles)) is not None
            }
            for asked in self.words
        ]
        if not all(met):
            return
        for lead, role, other in search_keys.pairs_of(name):
            for at, asked in enumerate(self.words[:2]):
                if lead not in met[at] or asked.role not in {"", role}:
                    continue
                if len(self.words) == 1:
                    how, cost = met[0][lead]
                    yield Place(_TIER_OF_ONE[how], cost, lead, role, other, patient_id)
                elif other in met[1 - at]:
                    first, second = (lead, other) if at == 0 else (other, lead)
                    (how, cost), (second_how, second_cost) = met[0][first], met[1][second]
                    tier = _TIER_OF[how, second_how]
                    if TIERS[tier].second_leads == bool(at):
                        yield Place(tier, cost + second_cost, lead, role, other, patient_id)


_SPELLINGS = "SELECT key, word FROM search.spelling WHERE tenant = %s AND key = ANY(%s)"


async def with_likes(
    connection: AsyncConnection[TupleRow], tenant: str, asked: Asked, *, fuzzy: bool
) -> Asked:
    """Look up the words that may be meant by each word: of other scripts, and misspellings."""
    foreign = [search_keys.foreign_keys(word.text) for word in asked.words]
    close: list[set[str]] = [set() for _ in asked.words]
    if fuzzy:
        for keys, word in zip(close, asked.words, strict=True):
            keys.update(search_keys.typo_keys(word.text))
            sound = search_keys.sound_key(word.text)
            if sound is not None:
                keys.add(sound)
    every = sorted(set().union(*foreign, *close))
    cursor = await connection.execute(_SPELLINGS, [tenant, every])
    listed: dict[str, list[str]] = {}
    for key, word in await cursor.fetchall():
        listed.setdefault(key, []).append(word)
    words = []
    for word, foreign_keys, close_keys in zip(asked.words, foreign, close, strict=True):
        likes = _misspelt(word.text, {one for key in close_keys for one in listed.get(key, ())})
        likes.update(
            _alike(word.text, {one for key in foreign_keys for one in listed.get(key, ())})
        )
        words.append(replace(word, likes=likes))
    return Asked(tuple(words))


def _alike(asked: str, words: set[str]) -> dict[str, tuple[int, int]]:
    own = search_keys.script(asked)
    costs = [
        (round(1000 * (1 - search_keys.likeness(asked, word))), word)
        for word in words
        if search_keys.script(word) != own
    ]
    near = sorted(one for one in costs if one[0] <= 1000 * (1 - _LEAST_LIKENESS))
    return {word: (ALIKE, cost) for cost, word in near[:_MOST_ALIKE]}


def _misspelt(asked: str, words: set[str]) -> dict[str, tuple[int, int]]:
    costs = [
        (round(1000 * cost), word)
        for word in words
        if not word.startswith(asked)
        if (cost := search_keys.misspelling(asked, word)) is not None
    ]
    return {word: (MISSPELT, cost) for cost, word in sorted(costs)[:_MOST_ALIKE]}
