"""The README's tour does what the README says.

Its ``sh`` blocks run in order, in one shell, against a service of their own. The ``text`` block
that follows one is what it prints: ids, instants and hashes may differ, nothing else.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from registration.cli import app
from registration.settings import Settings

ROOT = Path(__file__).parents[1]
PROGRAM = (sys.executable, "-m", "registration")
START_SECONDS = 60
VARYING = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "INSTANT"),
    (r"\b[0-9a-f]{64}\b|\b[0-9a-f]{16}\b", "HASH"),
)


class Step(NamedTuple):
    """A block of the tour, and what it prints (None where the README does not say)."""

    command: str
    printed: str | None


def tour() -> list[Step]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    steps: list[Step] = []
    for kind, body in blocks:
        if kind == "sh":
            steps.append(Step(body, None))
        elif kind == "text":
            assert steps[-1].printed is None, "an output block follows no sh block"
            steps[-1] = steps[-1]._replace(printed=body)
    return steps


def settled(text: str) -> list[str]:
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return [line.rstrip() for line in text.strip().splitlines()]


@pytest.fixture
def service(tmp_path):
    """The address of a service that was just started, and its environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"REGISTRATION_DATA_DIR": str(tmp_path / "data")}
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", str(port)], env=environment, stdout=out, stderr=out
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield url, environment
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()


def _wait_until_ready(url, process, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if json.load(answer)["status"] == "ok":  # the read model has its leader too
                    return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.1)
    pytest.fail(log.read_text())


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_tour_prints_what_it_says(service, tmp_path):
    url, environment = service
    steps = tour()
    assert len(steps) > 8
    assert sum(step.printed is not None for step in steps) >= len(steps) - 1
    outputs = [tmp_path / f"output-{number}" for number in range(len(steps))]
    script = "set -euo pipefail\n"
    for step, output in zip(steps, outputs, strict=True):
        command = step.command.replace("http://127.0.0.1:8000", url)
        command = command.replace(".venv/bin/registration", " ".join(PROGRAM))
        script += f"{{\n{command}}} >'{output}' 2>'{output.with_suffix('.err')}'\n"

    ran = subprocess.run(
        ["bash", "-c", script], check=False, cwd=ROOT, env=environment, timeout=120
    )

    for step, output in zip(steps, outputs, strict=True):
        assert output.exists(), f"never reached: {step.command}"
        told = output.with_suffix(".err").read_text(encoding="utf-8")
        printed = settled(output.read_text(encoding="utf-8"))
        assert printed == settled(step.printed or ""), f"{step.command}\n{told}"
    assert ran.returncode == 0


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_command_that_the_documents_name_is_there():
    group: Any = typer.main.get_command(app)
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        named = re.findall(r"(?:`|^\$ .*?\b|bin/)registration ([a-z]+)", text, re.MULTILINE)
        assert set(named) <= set(group.commands), document.name


OF_OTHERS = ("test_database_url", "token", "passphrase")
"""What the tests and the desk read, and the service does not."""


def test_every_setting_that_the_documents_name_is_there():
    for document in DOCUMENTS:
        for name in re.findall(r"\bREGISTRATION_([A-Z_]+)\b", document.read_text("utf-8")):
            assert name.lower() in {*Settings.model_fields, *OF_OTHERS}, document.name


def test_every_file_that_the_documents_link_to_is_there():
    for document in DOCUMENTS:
        text = re.sub(
            r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
        )
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
