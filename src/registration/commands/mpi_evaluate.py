"""What `registration mpi evaluate` does: train on one half, measure on the other."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from registration.commands import CommandError
from registration.commands.mpi_splink import Splink
from registration.mpi.evaluation import (
    Labelled,
    Quality,
    best_threshold,
    candidate_pairs,
    halves,
    quality,
)
from registration.mpi.model import NEVER, Model
from registration.mpi.training import train

Told = Callable[[str, int, int], None]
Pair = tuple[int, int]


class Half(NamedTuple):
    """One half of the data with its candidate pairs."""

    data: Labelled
    pairs: list[Pair]
    true_pairs: int

    def scored(self, weights: Iterable[float]) -> list[tuple[float, bool]]:
        """Return each pair's weight, and whether it is true."""
        return [
            (weight, self.data.is_true(pair))
            for weight, pair in zip(weights, self.pairs, strict=True)
        ]

    @property
    def recall(self) -> float:
        """The share of the true pairs that are candidates."""
        return sum(map(self.data.is_true, self.pairs)) / self.true_pairs


class Result(NamedTuple):
    """What a matcher made of the second half."""

    name: str
    threshold: float
    quality: Quality


class Measured(NamedTuple):
    """Everything that `registration mpi evaluate` says."""

    records: int
    tested: Half
    results: list[Result]

    def lines(self) -> list[str]:
        """Return it as text."""
        half = self.tested
        size = len(half.data.records)
        a_record = len(half.pairs) / size
        said = [
            f"{self.records} records, of which {size} test, with {half.true_pairs} true pairs",
            f"{len(half.pairs)} candidates, {a_record:.2f} a record, recall {half.recall:.4f}",
            f"{'':14}precision  recall      F1  threshold",
        ]
        for name, threshold, found in self.results:
            said.append(
                f"{name:14}{found.precision:9.4f}  {found.recall:.4f}  {found.f1:.4f}"
                f"  {threshold:9.2f}"
            )
        return said


def measure(
    name: str,
    data: Labelled,
    *,
    splink: bool,
    model: Model | None = None,
    told: Told = lambda what, done, total: None,
) -> Measured:
    """Train on one half of the people, measure on the other.

    A ``model`` that is given is neither trained nor given another threshold: what it grades
    ``probable`` or better is taken for true.
    """
    training, tested = [_half(part) for part in halves(data)]
    if not training.true_pairs or not tested.true_pairs:
        raise CommandError(f"{name} holds too few lines of the same person to split them")
    results = []
    if model is None:
        trained = train(training.data.records, name, told=told)
        results.append(_result("registration", training, tested, lambda h: _weights(trained, h)))
    else:
        found = quality(
            tested.scored(_weights(model, tested)), tested.true_pairs, model.thresholds.probable
        )
        results.append(Result(model.name, model.thresholds.probable, found))
    if splink:
        told("Splink", 0, 1)
        peer = Splink(training.data.records)
        results.append(_result("splink", training, tested, lambda h: _peer_weights(peer, h)))
    return Measured(len(data.records), tested, results)


def _half(data: Labelled) -> Half:
    return Half(data, candidate_pairs(data.records), data.true_pairs)


def _result(
    name: str, training: Half, tested: Half, weigh: Callable[[Half], Sequence[float]]
) -> Result:
    threshold = best_threshold(training.scored(weigh(training)), training.true_pairs)
    found = quality(tested.scored(weigh(tested)), tested.true_pairs, threshold)
    return Result(name, threshold, found)


def _weights(model: Model, half: Half) -> list[float]:
    records = half.data.records
    return [model.weight(records[one], records[other]) for one, other in half.pairs]


def _peer_weights(peer: Splink, half: Half) -> list[float]:
    weights = peer.weigh(half.data.records, half.pairs)
    return [weights.get(pair, NEVER) for pair in half.pairs]
