"""The real program, killed, interrupted, without room: it goes on to the same files."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.export.given import PER_FILE, TENANT, Export, imported, made, names_in, order_of

from registration.export import folder as folders

PATIENTS = 130
PROGRAM = (sys.executable, "-m", "registration")


@pytest.fixture(scope="module")
def url(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with patients."""
    imported(module_database_url, TENANT, tmp_path_factory.mktemp("imported"), PATIENTS)
    return module_database_url


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
def test_when_the_disk_is_full_it_says_so_and_later_goes_on(
    url: str, tmp_path: Path, form: str
) -> None:
    """The limit of a file's size stands in for the disk's: both are refused by the same call."""
    expected = made(url, tmp_path / "whole", order_of(form))
    path = tmp_path / "export"
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *_command(url, path, form)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert limited.returncode == 2, limited.stderr
    assert limited.stderr.strip() == (f"registration: cannot write into {path}: File too large")
    assert folders.MANIFEST not in names_in(path)
    subprocess.run(_command(url, path, form), check=True, capture_output=True)
    assert Export(path).files() == expected


def _command(url: str, path: Path, form: str = "ndjson") -> list[str]:
    return [
        *(*PROGRAM, "export", "--format", form, "--tenant", TENANT, "--output", str(path)),
        *("--records-per-file", str(PER_FILE), "--database-url", url),
    ]


def test_interrupted_it_says_how_to_go_on(url: str, tmp_path: Path) -> None:
    for attempt in range(10):  # it may be done before it is interrupted
        path = tmp_path / f"export-{attempt}"
        command = [*_command(url, path), "--records-per-file", "1"]
        slowly = ["nice", "-n", "19", *command]  # so that whoever looks at it has time to
        with subprocess.Popen(slowly, stderr=subprocess.PIPE, text=True) as program:
            while program.poll() is None and _reached(path) < 3:
                time.sleep(0.002)
            program.send_signal(signal.SIGINT)
            _, told = program.communicate()
        if program.returncode != 0:
            break
    assert (program.returncode, told.strip()) == (
        2,
        "registration: interrupted; run it again to go on",
    )
    subprocess.run(command, check=True, capture_output=True)
    assert len(Export(path).all("Patient")) == PATIENTS


def test_with_the_embedded_database_and_no_service(tmp_path: Path) -> None:
    data, file = str(tmp_path / "data"), str(tmp_path / "sample.ndjson")
    for arguments in (
        ("sample", "20", "--output", file),
        ("import", file, "--data-dir", data),
        ("rebuild", "changes", "--data-dir", data),
        ("export", "--data-dir", data, "--output", str(tmp_path / "export")),
    ):
        subprocess.run([*PROGRAM, *arguments], check=True, capture_output=True)
    assert len(Export(tmp_path / "export").all("Patient")) == 20


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
def test_killed_over_and_over_it_comes_to_the_same_end(url: str, tmp_path: Path, form: str) -> None:
    """``kill -9`` of the real program, each time that it has come a little further."""
    expected = made(url, tmp_path / "whole", order_of(form, per_file=8))
    path = tmp_path / "export"
    command = _command(url, path, form)
    command[command.index("--records-per-file") + 1] = "8"
    reached, kills = 0, 0
    while True:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as program:
            while program.poll() is None and _reached(path) < reached + 4:
                time.sleep(0.002)
            program.send_signal(signal.SIGKILL)
            code = program.wait()
        if code != -signal.SIGKILL:
            break
        kills += 1
        reached = _reached(path)
    assert code == 0
    assert kills >= 3
    assert Export(path).files() == expected


def _reached(path: Path) -> int:
    """Return how many files of patients are whole."""
    return sum(
        name.lower().startswith("patient.") and not name.endswith(folders.PART)
        for name in names_in(path)
    )
