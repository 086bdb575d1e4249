"""The service compares by the model that the settings name, and its queue follows the model."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.service import ADA, Service, new_tenant, running, succeeded
from typer.testing import CliRunner

from registration.cli import app
from registration.mpi.model import Model
from registration.projections import matching_model

TENANT = new_tenant()


@pytest.fixture(autouse=True)
def _the_one_that_ships() -> Iterator[None]:
    yield
    matching_model.use(None)


@pytest.fixture
def hard_to_please(tmp_path: Path) -> Path:
    """A model to which nothing is a possible duplicate."""
    said = orjson.loads(Model.default().dump())
    said["thresholds"] = dict.fromkeys(said["thresholds"], 1000.0)
    path = tmp_path / "model.json"
    path.write_bytes(orjson.dumps(said))
    return path


def queued(service: Service) -> int:
    desk = service.desk(TENANT)
    return len(succeeded(desk.get("/v1/mpi/candidates"))["items"])


def matched(service: Service) -> list[Any]:
    found: list[Any] = succeeded(service.desk(TENANT).post("/v1/mpi/match", ADA))["items"]
    return found


def test_another_model_makes_another_queue(
    database_url: str, tmp_path: Path, hard_to_please: Path
) -> None:
    with running(database_url, tmp_path / "data") as service:
        desk = service.desk(TENANT)
        desk.given_patient()
        position = desk.register().headers["x-log-position"]
        asked = {"minPosition": position}
        assert len(succeeded(desk.get("/v1/mpi/candidates", params=asked))["items"]) == 1
        assert len(matched(service)) > 0
    with running(database_url, tmp_path / "data", mpi_model=hard_to_please) as service:
        until(lambda: queued(service) == 0)
        assert matched(service) == []
    with running(database_url, tmp_path / "data") as service:
        until(lambda: queued(service) == 1)


def until(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_model_that_is_none_is_said_before_anything_starts(tmp_path: Path) -> None:
    environment = {
        "REGISTRATION_MPI_MODEL": str(tmp_path / "none.json"),
        "REGISTRATION_DATA_DIR": str(tmp_path / "data"),
        "REGISTRATION_PORT": "0",
    }
    for command in ("serve", "rebuild", "project"):
        ended = CliRunner().invoke(app, [command], env=environment)
        assert "cannot read the model" in str(ended.exception)
