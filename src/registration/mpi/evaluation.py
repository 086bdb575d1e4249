"""How well a matcher does where the truth is known: halves, thresholds, precision and recall.

An entity is a person; records of one entity are true pairs. True pairs that share no block key
count as missed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import combinations
from typing import NamedTuple

from registration.mpi.blocking import block_keys
from registration.mpi.model import Thresholds
from registration.mpi.record import MatchRecord

CERTAIN_PRECISION, POSSIBLE_PRECISION = 0.9999, 0.9


class Labelled(NamedTuple):
    """Records, and whose each is."""

    records: list[MatchRecord]
    entities: list[str]

    @property
    def true_pairs(self) -> int:
        """How many pairs are of one entity."""
        return sum(count * (count - 1) // 2 for count in Counter(self.entities).values())

    def is_true(self, pair: tuple[int, int]) -> bool:
        """Whether a pair of indexes is of one entity."""
        return self.entities[pair[0]] == self.entities[pair[1]]


class Quality(NamedTuple):
    """What a threshold makes of scored pairs."""

    precision: float
    recall: float
    f1: float


def halves(data: Labelled) -> tuple[Labelled, Labelled]:
    """Split by entity into two halves, always the same way: one to choose by, one to measure on."""
    parts = Labelled([], []), Labelled([], [])
    for record, entity in zip(data.records, data.entities, strict=True):
        part = parts[sha256(entity.encode()).digest()[-1] & 1]
        part.records.append(record)
        part.entities.append(entity)
    return parts


def candidate_pairs(records: Sequence[MatchRecord]) -> list[tuple[int, int]]:
    """Return the pairs of indexes that share a block key, the lower index first, in order."""
    blocks: dict[int, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        for key in block_keys(record):
            blocks[key].append(index)
    return sorted({pair for members in blocks.values() for pair in combinations(members, 2)})


def best_threshold(scored: Iterable[tuple[float, bool]], true_pairs: int) -> float:
    """Return the weight from which on taking pairs for true gives the best F1.

    It lies in the middle between the last pair taken and the first one left.
    """
    ordered = sorted(scored, key=lambda pair: -pair[0])
    best, threshold, found = 0.0, ordered[0][0] if ordered else 0.0, 0
    for taken, (weight, true) in enumerate(ordered, start=1):
        found += true
        following = ordered[taken][0] if taken < len(ordered) else weight
        f1 = 2 * found / (taken + true_pairs)
        if (following != weight or taken == len(ordered)) and f1 > best:
            best, threshold = f1, (weight + following) / 2
    return threshold


def quality(scored: Iterable[tuple[float, bool]], true_pairs: int, threshold: float) -> Quality:
    """Return precision, recall and F1 of taking pairs from the threshold on for true."""
    taken = [true for weight, true in scored if weight >= threshold]
    found = sum(taken)
    precision = found / len(taken) if taken else 1.0
    recall = found / true_pairs if true_pairs else 1.0
    total = len(taken) + true_pairs
    return Quality(precision, recall, 2 * found / total if total else 1.0)


def thresholds_by_truth(scored: Sequence[tuple[float, bool]], true_pairs: int) -> Thresholds:
    """Return the thresholds that the truth suggests.

    ``probable`` gives the best F1. From ``certain`` on the precision is 0.9999, or no lower weight
    has a better one; from ``possible`` on it is still 0.9.
    """
    probable = best_threshold(scored, true_pairs)
    certain = _lowest(scored, CERTAIN_PRECISION)
    return Thresholds(
        certain=round(max(certain, probable), 3),
        probable=round(probable, 3),
        possible=round(min(_lowest(scored, POSSIBLE_PRECISION), probable), 3),
    )


def _lowest(scored: Sequence[tuple[float, bool]], precision: float) -> float:
    """Return the lowest weight from which on the precision is reached."""
    ordered = sorted(scored, key=lambda pair: -pair[0])
    found, lowest = 0, ordered[0][0] if ordered else 0.0
    for taken, (weight, true) in enumerate(ordered, start=1):
        found += true
        last = taken == len(ordered) or ordered[taken][0] != weight
        if last and found >= precision * taken:
            lowest = weight
    return lowest
