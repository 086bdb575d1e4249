"""Estimating a model from records of which nobody knows who is who.

u comes from pairs taken at random, m from pairs that share a block key, by expectation
maximisation, one kind of key at a time and without the fields that the kind makes agree; what the
kinds find is averaged. This is how Splink trains (Linacre et al., "Splink: Free software for
probabilistic record linkage at scale", IJPDS 7, 2022). Random pairs that are one person after all
are then weighed down, and u is estimated again.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from math import prod
from random import Random

from registration.mpi.blocking import KINDS, kinds_of_keys
from registration.mpi.comparing import EXACT, LEVELS, MISSING
from registration.mpi.model import (
    WITH_FREQUENCIES,
    FieldModel,
    Level,
    Model,
    Thresholds,
)
from registration.mpi.record import ANONYMOUS, MatchRecord
from registration.mpi.scoring import FIELDS, Scorer

Patterns = Counter[tuple[str, ...]]
"""How many pairs have which levels, in the order of FIELDS."""
Odds = dict[str, dict[str, float]]
"""A probability by field and level."""

RANDOM_PAIRS = 300_000
PAIRS_A_KIND = 60_000
COMMONEST = 500
LEAST_COUNT = 20
"""A value held by fewer records is not listed: it would say little, and could tell who is there."""
ROUNDS, STEPS = 3, 40
LARGEST_BLOCK = 200

# Where estimation starts, and what a level keeps that no pair shows: a guess, weighing one pair.
_START = {
    "family": {"exact": 0.85, "close": 0.06, "sound": 0.02, "swapped": 0.03, "part": 0.01,
               "similar": 0.01, "different": 0.02},
    "given": {"exact": 0.82, "nickname": 0.02, "close": 0.06, "sound": 0.02, "swapped": 0.03,
              "part": 0.02, "similar": 0.01, "different": 0.02},
    "birthDate": {"exact": 0.88, "swapped": 0.03, "typo": 0.04, "near": 0.02, "partial": 0.01,
                  "different": 0.02},
    "gender": {"exact": 0.98, "different": 0.02},
    "identifier": {"exact": 0.9, "typo": 0.07, "different": 0.03},
    "telecom": {"exact": 0.7, "typo": 0.05, "different": 0.25},
    "houseNumber": {"exact": 0.8, "close": 0.1, "different": 0.1},
    "street": {"exact": 0.75, "close": 0.12, "swapped": 0.03, "different": 0.1},
    "place": {"exact": 0.75, "close": 0.12, "swapped": 0.03, "different": 0.1},
    "city": {"exact": 0.8, "close": 0.1, "different": 0.1},
    "postalCode": {"exact": 0.8, "close": 0.1, "different": 0.1},
    "state": {"exact": 0.85, "close": 0.05, "different": 0.1},
}  # fmt: skip
_START_U = {
    "family": {"exact": 0.002, "close": 0.004, "sound": 0.003, "swapped": 0.001, "part": 0.002,
               "similar": 0.02, "different": 0.968},
    "given": {"exact": 0.004, "nickname": 0.001, "close": 0.004, "sound": 0.003, "swapped": 0.001,
              "part": 0.002, "similar": 0.02, "different": 0.965},
    "birthDate": {"exact": 5e-5, "swapped": 1e-5, "typo": 5e-4, "near": 0.005, "partial": 0.002,
                  "different": 0.992435},
    "gender": {"exact": 0.5, "different": 0.5},
    "identifier": {"exact": 1e-6, "typo": 1e-5, "different": 0.999989},
    "telecom": {"exact": 1e-6, "typo": 1e-5, "different": 0.999989},
    "houseNumber": {"exact": 0.01, "close": 0.1, "different": 0.89},
    "street": {"exact": 0.001, "close": 0.004, "swapped": 1e-5, "different": 0.99499},
    "place": {"exact": 0.001, "close": 0.004, "swapped": 1e-5, "different": 0.99499},
    "city": {"exact": 0.005, "close": 0.005, "different": 0.99},
    "postalCode": {"exact": 0.001, "close": 0.01, "different": 0.989},
    "state": {"exact": 0.2, "close": 0.02, "different": 0.78},
}  # fmt: skip


def train(
    records: Sequence[MatchRecord],
    name: str,
    seed: int = 1,
    told: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Model:
    """Return a model estimated from the records, with thresholds by its own probabilities.

    The same records in the same order give the same model. ``told`` hears of the progress.
    """
    model = _assembled(name, _START, _START_U, {}, 1e-4)
    frequencies = value_frequencies(records)
    scorer = model.scorer
    random = Patterns(
        _levels(scorer, random_pairs(records, RANDOM_PAIRS, seed), told, "random pairs")
    )
    blocked = {
        kind: Patterns(_levels(scorer, pairs, told, kind))
        for kind, pairs in pairs_by_kind(records, PAIRS_A_KIND, seed).items()
    }
    m, u = _START, _estimated_u(random, [1.0] * len(random))
    match = 1e-4
    for _ in range(ROUNDS):
        m = _averaged_m(blocked, m, u)
        weights, match = _unmatched(random, m, u)
        u = _estimated_u(random, weights)
    return _assembled(name, m, u, frequencies, match)


def pairs_by_kind(
    records: Sequence[MatchRecord], most: int, seed: int
) -> dict[str, list[tuple[MatchRecord, MatchRecord]]]:
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
        Random(seed).shuffle(pairs)  # noqa: S311  (a sample, no secret)
        found[kind] = [(records[one], records[other]) for one, other in pairs[:most]]
    return found


def random_pairs(
    records: Sequence[MatchRecord], count: int, seed: int
) -> Iterator[tuple[MatchRecord, MatchRecord]]:
    """Yield pairs of different records taken at random."""
    draw = Random(seed).random  # noqa: S311  (a sample, no secret)
    size = len(records)
    for _ in range(count if size > 1 else 0):
        one, step = int(draw() * size), 1 + int(draw() * (size - 1))
        yield records[one], records[(one + step) % size]


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
    scorer: Scorer,
    pairs: Iterable[tuple[MatchRecord, MatchRecord]],
    told: Callable[[str, int, int], None],
    what: str,
) -> Iterator[tuple[str, ...]]:
    total = len(pairs) if isinstance(pairs, list) else RANDOM_PAIRS
    for done, (one, other) in enumerate(pairs, start=1):
        if done % 10_000 == 0:
            told(what, done, total)
        if ANONYMOUS not in {one.unnamed, other.unnamed}:
            weighed = scorer.weigh(one, other)
            if weighed is not None:
                yield weighed.levels


def _averaged_m(blocked: dict[str, Patterns], m: Odds, u: Odds) -> Odds:
    """Return m as the mean of what the kinds of keys say, each for the fields it leaves free."""
    said: dict[str, list[tuple[float, dict[str, float]]]] = defaultdict(list)
    for kind, patterns in blocked.items():
        free = [at for at, field in enumerate(FIELDS) if field not in KINDS[kind]]
        counted: Patterns = Counter()
        for levels, count in patterns.items():
            counted[tuple([levels[at] for at in free])] += count
        fields = [FIELDS[at] for at in free]
        for field, (matches, by_level) in _expectation_maximisation(counted, fields, m, u).items():
            said[field].append((matches, by_level))
    return {
        field: _smoothed(
            {
                level: sum(by_level.get(level, 0.0) for _, by_level in said[field])
                for level in LEVELS[field]
            },
            _START[field],
        )
        for field in FIELDS
    }


def _expectation_maximisation(
    patterns: Patterns, fields: Sequence[str], m: Odds, u: Odds
) -> dict[str, tuple[float, dict[str, float]]]:
    """Return, by field, how many of the pairs are matches, and of these how many at each level.

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
        m = {**m, **{field: _smoothed(counts[field], _START[field]) for field in fields}}
        if abs(before - share) < 1e-5 * before:
            break
    return {
        field: (sum(by_level.values()), dict(by_level)) for field, by_level in counts.items()
    }


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


def _estimated_u(random: Patterns, weights: Sequence[float]) -> Odds:
    counts: dict[str, dict[str, float]] = {field: defaultdict(float) for field in FIELDS}
    for (levels, count), weight in zip(random.items(), weights, strict=True):
        for field, level in zip(FIELDS, levels, strict=True):
            counts[field][level] += count * weight
    return {field: _smoothed(counts[field], _START_U[field]) for field in FIELDS}


def _smoothed(counts: dict[str, float], guess: dict[str, float]) -> dict[str, float]:
    """Return probabilities by level; the guess counts as much as one pair."""
    total = sum(count for level, count in counts.items() if level != MISSING) + 1.0
    return {
        level: _bounded((counts.get(level, 0.0) + share) / total)
        for level, share in guess.items()
    }


def _bounded(probability: float) -> float:
    """Return a probability that is neither 0 nor 1, with the digits that say something."""
    return float(f"{min(0.9999, max(1e-9, probability)):.4g}")


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
        household=6.0,
        thresholds=Thresholds(certain=10.0, probable=3.0, possible=-3.0),
        fields=fields,
    )
