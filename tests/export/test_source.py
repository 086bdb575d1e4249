"""What an export says of a read model that is not where it should be."""

from pathlib import Path

import psycopg
import pytest
from tests.export.given import Analyst, imported

from registration.export import source

TENANT = "clinic"


@pytest.fixture
def analyst(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Analyst:
    """Somebody who is not patient."""
    monkeypatch.setattr(source, "PATIENCE", 0.2)
    imported(database_url, TENANT, tmp_path, 3)
    return Analyst(database_url, TENANT, tmp_path)


def change(analyst: Analyst, statement: str) -> None:
    with psycopg.connect(analyst.url) as connection:
        connection.execute(statement.encode())


def test_a_read_model_that_nobody_feeds_is_told(analyst: Analyst) -> None:
    change(analyst, "UPDATE registration.read_model_position SET position = 1")
    assert analyst.is_refused().startswith(
        "the read model `changes` is 2 event(s) behind the log and does not move: run registration"
        " serve or registration project beside this, or registration rebuild changes before it"
    )


def test_a_read_model_of_another_version_is_told(analyst: Analyst) -> None:
    change(analyst, "UPDATE registration.read_model SET version = 0 WHERE name = 'changes'")
    assert "`changes` is of another version and does not move" in analyst.is_refused()


def test_a_read_model_that_was_never_made_is_told(analyst: Analyst) -> None:
    change(
        analyst,
        "DROP SCHEMA changes CASCADE;"
        " DELETE FROM registration.read_model_position; DELETE FROM registration.read_model",
    )
    assert "`changes` is 3 event(s) behind the log" in analyst.is_refused()


def test_a_schema_that_was_dropped_is_told(analyst: Analyst) -> None:
    change(analyst, "DROP SCHEMA changes CASCADE")
    assert analyst.is_refused() == (
        "the read model `changes` is not there; registration rebuild makes it"
    )


def test_it_waits_for_a_read_model_that_moves(
    analyst: Analyst, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(analyst, "UPDATE registration.read_model_position SET position = 1")
    monkeypatch.setattr(
        "time.sleep",
        lambda _seconds: change(
            analyst, "UPDATE registration.read_model_position SET position = position + 1"
        ),
    )
    assert len(analyst.exports().all("Patient")) == 3


def test_what_was_set_aside_is_told(analyst: Analyst) -> None:
    change(
        analyst,
        "INSERT INTO registration.dead_letter (name, tenant, stream_id, position, version, topic,"
        " error) VALUES ('changes', 'clinic', gen_random_uuid(), 2, 1, 'x', 'KeyError')",
    )
    result = analyst.tries()
    assert result.exit_code == 0
    assert "1 record(s) are missing or old" in result.stderr
    export = analyst.folder / "export" / "manifest.json"
    assert '"setAside": 1' in export.read_text()
