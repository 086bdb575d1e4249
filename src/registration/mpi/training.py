"""Estimating a model from records of which nobody knows who is who.

u comes from pairs taken at random, m from pairs that share a block key, by expectation
maximisation, one kind of key at a time and without the fields that the kind makes agree; what the
kinds find is averaged. This is how Splink trains (Linacre et al., "Splink: Free software for
probabilistic record linkage at scale", IJPDS 7, 2022). Random pairs that are one person after all
are then weighed down, and u is estimated again.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from math import log2, prod
from random import Random

from registration.mpi.blocking import KINDS, kinds_of_keys
from registration.mpi.comparing import ACROSS_SCRIPTS, LEVELS, MISSING
from registration.mpi.guess import M, Odds, U
from registration.mpi.model import (
    WITH_FREQUENCIES,
    FieldModel,
    Level,
    Model,
    Thresholds,
)
from registration.mpi.record import MatchRecord
from registration.mpi.scoring import FIELDS, Scorer

Pair = tuple[MatchRecord, MatchRecord]
Patterns = Counter[tuple[str, ...]]
"""How many pairs have which levels, in the order of FIELDS."""
RANDOM_PAIRS, RANDOM_PAIRS_A_RECORD = 300_000, 100
PAIRS_A_KIND = 60_000
COMMONEST = 500
LEAST_COUNT = 20
"""A value held by fewer records is not listed: it would say little, and could tell who is there."""
ROUNDS, STEPS = 3, 40
GRADES = {"certain": 0.9999, "probable": 0.99, "possible": 0.5}
"""The least probability of each grade, where no truth says better."""
HOUSEHOLD = 6.0
"""Bits that telecom and address may add where given names differ."""
_SEED = 1
LARGEST_BLOCK = 200


def train(
    records: Sequence[MatchRecord],
    name: str,
    *,
    guess: float = 1.0,
    match: float | None = None,
    rarest: float = 0.0,
    told: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Model:
    """Return a model estimated from the records, with thresholds by its own probabilities.

    ``guess`` is how many pairs the guess of how often things differ counts for, ``match`` the
    probability that two records are one person where it is known better than the records show it,
    ``rarest`` the frequency that no name counts as rarer than.
    The same records in the same order give the same model. ``told`` hears of the progress.
    """
    model = _assembled(name, M, U, {}, 1e-4)
    frequencies = value_frequencies(records)
    for field in ("family", "given"):
        if field in frequencies:
            common, otherwise = frequencies[field]
            common = {value: f for value, f in common.items() if f > rarest}
            frequencies[field] = common, max(otherwise, rarest)
    scorer = model.scorer
    count = min(RANDOM_PAIRS, RANDOM_PAIRS_A_RECORD * len(records))
    random = Patterns(_levels(scorer, random_pairs(records, count), told, "random pairs"))
    blocked = {
        kind: Patterns(_levels(scorer, pairs, told, kind))
        for kind, pairs in pairs_by_kind(records, PAIRS_A_KIND).items()
    }
    m, u = M, _estimated_u(random, [1.0] * len(random))
    found = 1e-4
    for _ in range(ROUNDS):
        m = _averaged_m(blocked, m, u, guess)
        weights, found = _unmatched(random, m, u)
        u = _estimated_u(random, weights)
    return _assembled(name, m, u, frequencies, match or found)


def pairs_by_kind(records: Sequence[MatchRecord], most: int) -> dict[str, list[Pair]]:
    """Return at most ``most`` pairs that share a key of each kind, from all its blocks alike."""
    blocks: dict[str, dict[int, list[int]]] = {kind: defaultdict(list) for kind in KINDS}
    for index, record in enumerate(records):
        for kind, key in set(kinds_of_keys(record)):
            blocks[kind][key].append(index)
    found = {}
    for kind, by_key in blocks.items():
        pairs = sorted(
            {
                pair
                for members in by_key.values()
                if 1 < len(members) <= LARGEST_BLOCK
                for pair in combinations(members, 2)
            }
        )
        Random(_SEED).shuffle(pairs)  # noqa: S311  (a sample, no secret)
        found[kind] = [(records[one], records[other]) for one, other in pairs[:most]]
    return found


def random_pairs(records: Sequence[MatchRecord], count: int) -> list[Pair]:
    """Return pairs of different records taken at random."""
    draw = Random(_SEED).random  # noqa: S311  (a sample, no secret)
    size, pairs = len(records), []
    for _ in range(count if size > 1 else 0):
        one, step = int(draw() * size), 1 + int(draw() * (size - 1))
        pairs.append((records[one], records[(one + step) % size]))
    return pairs


def value_frequencies(records: Sequence[MatchRecord]) -> dict[str, tuple[dict[str, float], float]]:
    """Return the frequencies of each field's commonest values, and that of any other."""
    counts: dict[str, Counter[str]] = {field: Counter() for field in WITH_FREQUENCIES}
    for record in records:
        values = {
            "family": {family for family, _ in record.names},
            "given": {given for _, given in record.names},
            "birthDate": {record.birth_date},
            "city": {address[3] for address in record.addresses},
            "postalCode": {address[4] for address in record.addresses},
            "state": {address[5] for address in record.addresses},
        }
        for field, found in values.items():
            counts[field].update(found - {""})
    return {field: _commonest(counted, LEAST_COUNT) for field, counted in counts.items() if counted}


def _commonest(counted: Counter[str], least: int) -> tuple[dict[str, float], float]:
    total = counted.total()
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    common = {value: count for value, count in ordered[:COMMONEST] if count >= least}
    rest, others = total - sum(common.values()), len(counted) - len(common)
    # no listed value is rarer than one that is not
    otherwise = rest / others / total if others else min(common.values()) / total
    return (
        {value: _bounded(count / total) for value, count in common.items()},
        _bounded(otherwise),
    )


def _levels(
    scorer: Scorer, pairs: Sequence[Pair], told: Callable[[str, int, int], None], what: str
) -> Iterator[tuple[str, ...]]:
    """Yield the levels of the pairs of named records; others are compared by rules of their own."""
    for done, (one, other) in enumerate(pairs, start=1):
        if done % 10_000 == 0:
            told(what, done, len(pairs))
        weighed = None if one.unnamed or other.unnamed else scorer.weigh(one, other)
        if weighed is not None:
            yield weighed.levels


def _averaged_m(blocked: dict[str, Patterns], m: Odds, u: Odds, guess: float) -> Odds:
    """Return m as the mean of what the kinds of keys say, each for the fields it leaves free."""
    said: dict[str, list[dict[str, float]]] = defaultdict(list)
    for kind, patterns in blocked.items():
        free = [at for at, field in enumerate(FIELDS) if field not in KINDS[kind]]
        counted: Patterns = Counter()
        for levels, count in patterns.items():
            counted[tuple([levels[at] for at in free])] += count
        fields = [FIELDS[at] for at in free]
        for field, by_level in _expectation_maximisation(counted, fields, m, u).items():
            said[field].append(by_level)
    totals = {
        field: {
            level: sum(by_level.get(level, 0.0) for by_level in said[field])
            for level in LEVELS[field]
        }
        for field in FIELDS
    }
    return {field: _estimated_m(field, totals[field], u, guess) for field in FIELDS}


def _expectation_maximisation(
    patterns: Patterns, fields: Sequence[str], m: Odds, u: Odds
) -> dict[str, dict[str, float]]:
    """Return, by field, how many of the pairs that are matches are expected at each level.

    u stays; m and the share of matches are estimated.
    """
    share = 0.1
    counts: dict[str, dict[str, float]] = {}
    for _ in range(STEPS):
        counts = {field: defaultdict(float) for field in fields}
        matches = 0.0
        for levels, count in patterns.items():
            expected = count * _matching(levels, fields, share, m, u)
            matches += expected
            for field, level in zip(fields, levels, strict=True):
                counts[field][level] += expected
        before, share = share, min(0.999, max(1e-6, matches / max(1, patterns.total())))
        m = {**m, **{field: _estimated_m(field, counts[field], u) for field in fields}}
        if abs(before - share) < 1e-5 * before:
            break
    return counts


def _matching(
    levels: Sequence[str], fields: Sequence[str], share: float, m: Odds, u: Odds
) -> float:
    """Return the probability that a pair with these levels is of one person."""
    known = [
        (field, level) for field, level in zip(fields, levels, strict=True) if level != MISSING
    ]
    one = share * prod([m[field][level] for field, level in known])
    two = (1 - share) * prod([u[field][level] for field, level in known])
    return one / (one + two)


def _unmatched(random: Patterns, m: Odds, u: Odds) -> tuple[list[float], float]:
    """Return how likely each pattern is to be of two persons, and the share of matches."""
    share = 1e-4
    found: list[float] = []
    for _ in range(STEPS):
        found = [_matching(levels, FIELDS, share, m, u) for levels in random]
        matches = sum(p * count for p, count in zip(found, random.values(), strict=True))
        share = min(0.5, max(1e-9, matches / max(1, random.total())))
    return [1 - p for p in found], share


def _estimated_m(
    field: str, counts: dict[str, float], u: Odds, guess: float = 1.0
) -> dict[str, float]:
    """Return m by level. What two scripts have in common is compared with its like alone.

    How often the records of one person are in two scripts depends on the place, not on the person:
    the two levels across scripts get the share of pairs that they have in u.
    """
    across = [level for level in ACROSS_SCRIPTS if level in LEVELS[field]]
    m = _smoothed(counts, M[field], guess)
    if not across:
        return m
    within = _smoothed(
        {level: counts.get(level, 0.0) for level in across},
        {level: M[field][level] * 50 for level in across},
        guess,
    )
    share = sum(u[field][level] for level in across)
    rest = sum(m[level] for level in m if level not in across)
    return {
        level: _bounded(within[level] * share if level in within else p / rest * (1 - share))
        for level, p in m.items()
    }


def _estimated_u(random: Patterns, weights: Sequence[float]) -> Odds:
    """Return u by field and level; the guess, where no random pair of two persons shows a level.

    What never happened among so many pairs may well happen, such as a telephone that two share.
    """
    counts: dict[str, dict[str, float]] = {field: defaultdict(float) for field in FIELDS}
    for (levels, count), weight in zip(random.items(), weights, strict=True):
        for field, level in zip(FIELDS, levels, strict=True):
            counts[field][level] += count * weight
    return {
        field: {
            level: U[field][level] if counts[field][level] < 1 else u
            for level, u in _smoothed(counts[field], U[field]).items()
        }
        for field in FIELDS
    }


def _smoothed(
    counts: dict[str, float], guess: dict[str, float], pairs: float = 1.0
) -> dict[str, float]:
    """Return probabilities by level; the guess counts for as many pairs."""
    total = sum(count for level, count in counts.items() if level != MISSING) + pairs
    return {
        level: _bounded((counts.get(level, 0.0) + pairs * share) / total)
        for level, share in guess.items()
    }


def _bounded(probability: float) -> float:
    """Return a probability that is neither 0 nor 1, with the digits that say something."""
    return float(f"{min(0.9999, max(1e-9, probability)):.4g}")


def _bits(probability: float) -> float:
    return round(log2(probability / (1 - probability)), 3)


def _assembled(
    name: str,
    m: Odds,
    u: Odds,
    frequencies: dict[str, tuple[dict[str, float], float]],
    match: float,
) -> Model:
    fields = {}
    for field, levels in LEVELS.items():
        common, otherwise = frequencies.get(field, ({}, None))
        fields[field] = FieldModel(
            levels={level: Level(m=m[field][level], u=u[field][level]) for level in levels},
            frequencies=common,
            otherwise=otherwise,
        )
    return Model(
        name=name,
        version=1,
        match=_bounded(match),
        household=HOUSEHOLD,
        thresholds=Thresholds(**{grade: _bits(p) for grade, p in GRADES.items()}),
        fields=fields,
    )
