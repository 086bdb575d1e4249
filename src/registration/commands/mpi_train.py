"""What `registration mpi train` does: read, estimate, choose thresholds."""

from collections.abc import Callable
from pathlib import Path

from registration.commands import CommandError
from registration.commands.mpi_data import Unreadable, lines_of, read, truth
from registration.mpi.evaluation import Labelled, candidate_pairs, thresholds_by_truth
from registration.mpi.model import Model
from registration.mpi.training import train

FEWEST_RECORDS = 50


def trained(
    file: Path,
    name: str,
    *,
    guess: float,
    match: float | None,
    rarest: float,
    by_truth: bool,
    told: Callable[[str, int, int], None],
) -> tuple[Model, int]:
    """Return a model of a file's records, and how many lines were left out.

    Raises `CommandError` where the file cannot be read, or holds too few records to learn from.
    """
    data, left_out = Labelled([], []), 0
    labelled = True
    for line in lines_of(file):
        try:
            resource, record = read(line)
        except Unreadable:
            left_out += 1
            continue
        entity = truth(resource)
        labelled = labelled and entity is not None
        data.records.append(record)
        data.entities.append(entity or "")
    if len(data.records) < FEWEST_RECORDS:
        raise CommandError(f"{file} holds {len(data.records)} patients: too few to learn from")
    model = train(data.records, name, guess=guess, match=match, rarest=rarest, told=told)
    if by_truth and labelled and data.true_pairs:
        model = _with_thresholds(model, data)
    return model, left_out


def _with_thresholds(model: Model, data: Labelled) -> Model:
    records = data.records
    scored = [
        (model.weight(records[pair[0]], records[pair[1]]), data.is_true(pair))
        for pair in candidate_pairs(records)
    ]
    thresholds = thresholds_by_truth(scored, data.true_pairs)
    return model.model_copy(update={"thresholds": thresholds})
