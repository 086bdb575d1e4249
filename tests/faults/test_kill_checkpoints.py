"""The program is killed again and again while it signs: no checkpoint is half, none is wrong."""

import signal
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from tests.faults.program import TENANT, Program, serving
from tests.service import ADA

from registration.eventstore.grants import APP_ROLE
from registration.eventstore.verify import verify_log
from registration.evidence import comparison
from registration.evidence.folder import CheckpointFolder
from registration.evidence.notes import Signed

PATIENCE = 30


def signed(program: Program) -> list[Signed]:
    path = CheckpointFolder(program.data_dir / "checkpoints").file(TENANT)
    return comparison.read(path) if path.exists() else []


def register(program: Program, count: int) -> None:
    with program.client() as client:
        for _ in range(count):
            assert client.post("/v1/patients", json=ADA).status_code == 201


def wait_until_signed(program: Program, size: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (found := signed(program)) or found[-1].checkpoint.size < size:
        assert time.monotonic() < deadline, program.said.decode()
        time.sleep(0.1)


@pytest.mark.slow
def test_checkpoints_of_a_program_that_is_killed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("killed") / "data"
    events = 0
    with serving(Path(folder), CHECKPOINT_INTERVAL="1") as program:
        for _ in range(4):
            register(program, 5)
            events += 5
            wait_until_signed(program, events)
            register(program, 3)
            events += 3
            program.end(signal.SIGKILL)
            program.start()
        register(program, 1)
        wait_until_signed(program, events + 1)
        found = signed(program)
        keys = CheckpointFolder(program.data_dir / "checkpoints").keys()
        assert len(keys) == 1
        url = program.postgres.url_of(APP_ROLE)
        report = verify_log(url, TENANT, sizes=comparison.sizes(found))
        [compared] = comparison.compare(found, keys, report)
        assert report.ok
        assert (compared.failed, compared.held) == (None, len(found))
        sizes = [each.checkpoint.size for each in found]
        assert sizes == sorted(set(sizes))
        with (
            psycopg.connect(url) as connection,
            pytest.raises(InsufficientPrivilege),
        ):
            connection.execute("DELETE FROM registration.event")
        assert b"ERROR" not in program.said
