"""The generated pages are what the program says, and a stale one is noticed."""

import json
from pathlib import Path

import pytest

from registration import docs
from registration.domain.contract import Operation
from registration.settings import Settings

COMMITTED = Path(__file__).parents[1] / "docs"


@pytest.fixture
def folder(tmp_path):
    assert docs.main(["--folder", str(tmp_path)]) == 0
    return tmp_path


def test_the_pages_in_the_repository_are_fresh():
    assert list(docs.stale(COMMITTED)) == []


def test_fresh_pages_pass(folder, capsys):
    assert docs.main(["--check", "--folder", str(folder)]) == 0
    assert capsys.readouterr().err == ""


def test_check_names_what_is_stale_and_what_mends_it(folder, capsys):
    (folder / "settings.md").write_text("old")
    (folder / "cli.md").unlink()

    assert docs.main(["--check", "--folder", str(folder)]) == 1

    told = capsys.readouterr().err
    assert "cli.md is stale" in told
    assert "settings.md is stale" in told
    assert "problems.md" not in told
    assert "make docs" in told
    assert not (folder / "cli.md").exists()


def test_two_runs_write_the_same(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    docs.write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_pages_say_all_there_is_to_say(folder):
    for operation in Operation:
        assert f"`{operation.value}`" in (folder / "policy-table.md").read_text()
    for name in Settings.model_fields:
        assert f"`REGISTRATION_{name.upper()}`" in (folder / "settings.md").read_text()
    assert json.loads((folder / "openapi.json").read_text())["openapi"].startswith("3.1")
    assert "registration serve [OPTIONS]" in (folder / "cli.md").read_text()


def test_the_environment_does_not_show(folder, monkeypatch):
    monkeypatch.setenv("REGISTRATION_HOST", "0.0.0.0")
    monkeypatch.setenv("COLUMNS", "40")
    assert list(docs.stale(folder)) == []
