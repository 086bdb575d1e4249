"""Training and measuring, on FEBRL's excerpt and on made-up patients."""

from itertools import islice
from pathlib import Path

import pytest
from tests.mpi.given import patient

from registration.commands.mpi_data import load
from registration.commands.mpi_evaluate import measure
from registration.mpi.evaluation import (
    Labelled,
    best_threshold,
    candidate_pairs,
    halves,
    quality,
    thresholds_by_truth,
)
from registration.mpi.guess import M
from registration.mpi.model import Model
from registration.mpi.record import MatchRecord
from registration.mpi.training import LEAST_COUNT, train, value_frequencies

EXCERPT = Path(__file__).parents[1] / "data" / "febrl4-excerpt.ndjson"


@pytest.fixture(scope="module")
def febrl4() -> Labelled:
    return load("febrl4")[0]


@pytest.fixture(scope="module")
def some(febrl4: Labelled) -> Labelled:
    """A fifth of FEBRL 4: each fifth person, with both records."""
    kept = [at for at, entity in enumerate(febrl4.entities) if entity.endswith(("1", "6"))]
    return Labelled([febrl4.records[at] for at in kept], [febrl4.entities[at] for at in kept])


@pytest.fixture(scope="module")
def few(febrl4: Labelled) -> Labelled:
    """Two hundred people of FEBRL 4, with both records."""
    kept = [at for at, entity in enumerate(febrl4.entities) if int(entity) % 25 == 7]
    return Labelled([febrl4.records[at] for at in kept], [febrl4.entities[at] for at in kept])


@pytest.fixture(scope="module")
def trained(some: Labelled) -> Model:
    return train(some.records, "some")


def test_training_needs_no_labels_and_finds_what_is_telling(trained: Model) -> None:
    weights = {
        field: {name: level.weight for name, level in known.levels.items()}
        for field, known in trained.fields.items()
    }
    assert weights["birthDate"]["exact"] > 10 > weights["state"]["exact"] > 1
    for field in ("family", "given", "birthDate", "identifier", "city", "postalCode"):
        assert weights[field]["exact"] > weights[field]["different"] < -3
    assert weights["family"]["exact"] > weights["family"]["similar"] > -1
    # two thousand records, half of them a second one: one pair in four thousand
    assert 1 / 20_000 < trained.match < 1 / 1_000


def test_training_gives_the_same_model_each_time(few: Labelled) -> None:
    assert train(few.records, "few").dump() == train(few.records, "few").dump()


def test_a_guess_that_counts_for_much_keeps_m_near_it(few: Labelled) -> None:
    by_data, by_guess = train(few.records, "data"), train(few.records, "guess", guess=1e6)
    expected = M["state"]["exact"]
    assert abs(by_guess.fields["state"].levels["exact"].m - expected) < 0.01
    assert abs(by_data.fields["state"].levels["exact"].m - expected) > 0.05


def test_rare_values_are_in_no_model() -> None:
    records = [patient("Smith, Ann")] * LEAST_COUNT + [patient("Featherstone, Zoe")]
    common, otherwise = value_frequencies(records)["family"]
    assert list(common) == ["smith"]
    assert common["smith"] + otherwise == pytest.approx(1, abs=1e-3)


def test_halves_keep_people_whole(some: Labelled) -> None:
    first, second = halves(some)
    assert not set(first.entities) & set(second.entities)
    assert first.true_pairs + second.true_pairs == some.true_pairs
    assert 0.4 < len(first.records) / len(some.records) < 0.6


SCORED = [(9.0, True), (7.0, True), (5.0, False), (3.0, True), (1.0, False), (-1.0, False)]


def test_the_best_threshold_weighs_precision_against_what_is_missed() -> None:
    assert best_threshold(SCORED, 3) == 2.0
    assert quality(SCORED, 3, 2.0) == (0.75, 1.0, 6 / 7)
    # three true pairs that are no candidates are missed at any threshold
    assert quality(SCORED, 6, 2.0).recall == 0.5
    assert best_threshold(SCORED[:2], 2) == 7.0


def test_thresholds_by_truth() -> None:
    found = thresholds_by_truth(SCORED, 3)
    assert (found.certain, found.probable, found.possible) == (7.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("dataset", "least"), [("febrl3", 0.990), ("febrl3-no-ssn", 0.970), ("febrl4", 0.998)]
)
@pytest.mark.slow
def test_febrl_in_full(dataset: str, least: float) -> None:
    data, _ = load(dataset)
    ours, splink = measure(dataset, data, splink=True).results
    assert ours.quality.f1 >= least
    assert ours.quality.f1 >= splink.quality.f1 - 0.0005


def test_a_fifth_of_febrl_4(some: Labelled) -> None:
    measured = measure("some", some, splink=False)
    assert measured.tested.recall >= 0.998
    assert measured.results[0].quality.f1 >= 0.995


def test_the_default_model_on_febrl_3() -> None:
    """FEBRL 3 had no part in the default model."""
    data, _ = load("febrl3")
    records = data.records
    default = Model.default()
    scored = [
        (default.weight(records[one], records[other]), data.is_true((one, other)))
        for one, other in candidate_pairs(records)
    ]
    found = quality(scored, data.true_pairs, default.thresholds.probable)
    assert found.precision >= 0.9999
    assert found.f1 >= 0.99


def test_the_truth_is_no_input_to_matching(some: Labelled) -> None:
    data, left_out = load(str(EXCERPT))
    assert (len(data.records), left_out) == (297, 3)
    assert set(data.entities) > {"1070"}
    assert all(_numbers(record) <= {"urn:example:ssn"} for record in data.records)
    assert all(_numbers(record) <= {"urn:example:ssn"} for record in islice(some.records, 50))


def _numbers(record: MatchRecord) -> set[str]:
    return set(record.identifiers) | set(record.record_numbers)
