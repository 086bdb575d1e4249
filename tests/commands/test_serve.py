"""`serve` as a process, with a small application in the place of the real one."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from registration.commands.child import keep_running
from registration.eventstore.embedded import EmbeddedPostgres

SITE = """
import asyncio, sys, types
app = types.ModuleType("registration.api.app")
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.sleep(float(scope["query_string"] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
app.create_app = lambda: application
sys.modules["registration.api.app"] = app
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="registration-test-") as path:
        (Path(path) / "sitecustomize.py").write_text(SITE)
        yield Path(path)
        # A server that a killed service left behind stops with its next holder.
        with EmbeddedPostgres(Path(path) / "data"):
            pass


class Service:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Service]:
    environment = os.environ | {"PYTHONPATH": str(folder), "REGISTRATION_PROJECTOR": "false"}
    command = [sys.executable, "-m", "registration", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data-dir", str(folder / "data"), *options],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("registration listens on "):
                    break
            assert line.startswith("registration listens on http://127.0.0.1:"), said
            yield Service(process, line.split()[3])
        finally:
            process.terminate()


def run(*arguments: str, folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "registration", *arguments]
    result = subprocess.run(
        [*command, "--data-dir", str(folder / "data")], capture_output=True, text=True, check=False
    )
    return result.returncode, result.stderr


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_the_requests_in_flight_and_stops_its_database(
    folder: Path, stop: signal.Signals
) -> None:
    with serving(folder) as service:
        answers: list[str] = []
        slow = threading.Thread(
            target=lambda: answers.append(httpx.get(f"{service.url}/?1", timeout=5).text)
        )
        slow.start()
        time.sleep(0.3)
        service.process.send_signal(stop)
        slow.join()
        assert answers == ["done"]
        assert service.process.wait(10) == 0
    assert EmbeddedPostgres(folder / "data").pid is None


def test_a_second_one_on_the_same_folder_is_told_about_the_first(folder: Path) -> None:
    with serving(folder) as service:
        code, said = run("serve", "--port", "0", folder=folder)
    assert code == 2
    assert f"process {service.process.pid} already serves the data folder" in said
    assert service.url in said


def test_a_killed_one_leaves_nothing_in_the_way_of_the_next(folder: Path) -> None:
    with serving(folder) as service:
        service.process.kill()
        service.process.wait()
        with serving(folder) as next_one:
            assert httpx.get(next_one.url).text == "done"


def test_a_database_that_dies_comes_back(folder: Path) -> None:
    with serving(folder):
        postgres = EmbeddedPostgres(folder / "data")
        first = postgres.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while postgres.pid in (None, first):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_several_workers_answer_and_die_with_their_supervisor(folder: Path) -> None:
    with serving(folder, "--workers", "2") as service:
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(transport=transport) as client:
            assert client.get(service.url).text == "done"
        workers = psutil.Process(service.process.pid).children(recursive=True)
        service.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []


def test_a_taken_port_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = run("serve", "--port", port, folder=folder)
    expected = f"registration: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert (code, said) == (2, expected)


def test_an_open_address_needs_an_issuer(folder: Path) -> None:
    code, said = run("serve", "--host", "0.0.0.0", folder=folder)
    assert code == 2
    assert "listening on 0.0.0.0 needs jwks_url" in said


def test_an_unreachable_database_is_one_line_without_the_password(folder: Path) -> None:
    url = "postgresql://me:secret@127.0.0.1:1/x"
    code, said = run("serve", "--port", "0", "--database-url", url, folder=folder)
    assert code == 2
    assert said.startswith("registration: cannot reach the database at 127.0.0.1:1: ")
    assert said.count("\n") == 1
    assert "secret" not in said


def test_an_external_schema_that_is_behind_names_its_cure(
    folder: Path, empty_database_url: str
) -> None:
    code, said = run("serve", "--port", "0", "--database-url", empty_database_url, folder=folder)
    assert code == 2
    assert f"registration migrate --database-url {empty_database_url}" in said
    code, _ = run("migrate", "--database-url", empty_database_url, folder=folder)
    assert code == 0
    with serving(folder, "--database-url", empty_database_url) as service:
        assert httpx.get(service.url).text == "done"


def test_the_read_model_process_is_restarted_and_ends_when_told(tmp_path: Path) -> None:
    script = "import sys; open(sys.argv[1], 'a').write('x'); sys.argv[2:] or sys.stdin.read()"
    marks = tmp_path / "marks"
    with keep_running([sys.executable, "-c", script, str(marks), "die"]):
        deadline = time.monotonic() + 10
        while not marks.exists() or len(marks.read_text()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    marks.unlink()
    with keep_running([sys.executable, "-c", script, str(marks)]):
        while not marks.exists():
            time.sleep(0.05)
        started = time.monotonic()
    assert time.monotonic() - started < 5
