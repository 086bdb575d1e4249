"""Schemathesis against the running service: every phase, every check.

``schemathesis.toml`` beside this file says where less is asked than Schemathesis would, and why.
"""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from tests.service import CARD, Service

from registration.api import reading

HERE = Path(__file__).parent
PROGRAM = Path(sysconfig.get_path("scripts")) / "schemathesis"


@pytest.mark.parametrize(
    ("most_examples", "seed"),
    [
        pytest.param(3, 1, id="quick"),
        *(pytest.param(100, n, id=f"seed-{n}", marks=pytest.mark.slow) for n in (2, 3)),
    ],
)
def test_the_service_does_what_its_document_says(
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_examples: int,
    seed: int,
) -> None:
    # it asks for positions that nobody has reached, over and over
    monkeypatch.setattr(reading, "POSITION_WAIT", 0.05)
    before = len(service.lines)
    desk = service.desk(role="admin")
    desk.given_patient(
        identifiers=[{"system": CARD, "value": "1"}],
        nextOfKin=[{"name": "Obi", "relationship": "brother"}],
    )
    shutil.copy(HERE / "schemathesis.toml", tmp_path)
    run = subprocess.run(
        [
            str(PROGRAM),
            "--no-color",
            "run",
            f"{service.url}/openapi.json",
            *("--header", f"Authorization: Bearer {desk.bearer}"),
            *("--phases", "examples,coverage,fuzzing,stateful"),
            *("--checks", "all"),
            *("--max-examples", str(most_examples)),
            *("--seed", str(seed)),
            "--no-shrink",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert [line for line in service.lines[before:] if b'"fault"' in line] == []
