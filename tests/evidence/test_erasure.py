"""Erasing somebody changes no byte of the log: what was signed and proved of it still holds."""

from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psycopg
import pytest
from tests.canary import CORE, Clinic
from tests.service import Service, as_service, running
from typer.testing import CliRunner

from registration.cli import app
from registration.evidence.folder import CheckpointFolder, checkpoint_key

EXCERPT = Path(__file__).parents[1] / "data" / "febrl4-excerpt.ndjson"


class Log(NamedTuple):
    """A tenant's log of somebody who was signed, proved, and then erased."""

    service: Service
    path: Path
    clinic: Clinic
    patient: dict[str, Any]
    encounter: str
    proof: Path

    def run(self, *arguments: str, database: bool = True, code: int = 0) -> str:
        """Run a command and return what it printed."""
        folder = ["--data-dir", str(self.path)]
        url = ["--database-url", as_service(self.service.database_url)] if database else []
        done = CliRunner().invoke(app, [*arguments, *folder, *url])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    @property
    def signed(self) -> tuple[str, ...]:
        file = CheckpointFolder(self.path / "checkpoints").file(self.clinic.tenant)
        return ("--checkpoint", str(file), "--public-key", str(self.path / "key.pem"))


@pytest.fixture(scope="module")
def log(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A log with a checkpoint of before an erasure."""
    path = tmp_path_factory.mktemp("signed")
    with running(module_database_url, path) as service:
        clinic = Clinic(service)
        patient = clinic.patient(1)
        with psycopg.connect(service.database_url) as connection:
            row = connection.execute(
                "SELECT stream_id::text FROM registration.event WHERE topic = 'encounter.opened'"
            ).fetchone()
        assert row is not None
        made = Log(service, path, clinic, patient, row[0], path / "proof.json")
        checkpoint_key(path)
        (path / "key.pem").write_text(made.run("checkpoint", "key", database=False))
        made.run("checkpoint", "now")
        made.proof.write_text(made.run("proof", "inclusion", "2", "--tenant", clinic.tenant))
        clinic.approves(clinic.requests(patient))
        yield made


def test_the_chain_and_the_checkpoints_of_before_are_whole(log: Log) -> None:
    log.run("checkpoint", "now")
    whole, checkpoints = log.run(
        "verify", *log.signed[:2], "--tenant", log.clinic.tenant
    ).splitlines()
    assert "events, whole, head " in whole
    assert "all 2 checkpoints hold" in checkpoints


def test_a_proof_of_before_holds(log: Log) -> None:
    assert log.run("proof", "check", str(log.proof), *log.signed, database=False)


def test_a_replay_tells_what_is_left(log: Log) -> None:
    for its_id in (log.patient["id"], log.encounter):
        for more in ((), ("--json",)):
            told = log.run("replay", its_id, "--tenant", log.clinic.tenant, *more)
            assert len(told.splitlines()) > 3
            assert CORE not in told.lower()
    told = log.run("replay", log.patient["id"], "--tenant", log.clinic.tenant)
    assert "patient.erased" in told


def test_read_models_are_made_anew(log: Log) -> None:
    assert log.run("rebuild")
    with psycopg.connect(log.service.database_url) as connection:
        found = connection.execute("SELECT name, topic, error FROM registration.dead_letter")
        assert found.fetchall() == []


def test_patients_who_are_imported_are_sealed(log: Log) -> None:
    log.run("import", str(EXCERPT), "--tenant", "imported", code=1)  # some lines are refused
    families = [
        name["family"].encode()
        for line in EXCERPT.read_bytes().splitlines()
        for name in orjson.loads(line).get("name", ())
        if len(name.get("family", "")) > 5
    ]
    with psycopg.connect(log.service.database_url) as connection:
        stored = connection.execute(
            "SELECT data FROM registration.event WHERE tenant = 'imported'"
        ).fetchall()
    assert len(stored) > 10
    assert all(data[:1] == b"\0" for (data,) in stored)
    assert [f for f in families if any(f in data for (data,) in stored)] == []
