"""`project` as a process, one of whose jobs fails: it ends, soon and in order, to be replaced."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.service import as_service

from registration import retention

FAILING = """
import asyncio, threading, time
from registration import retention
from registration.commands import readmodels
from registration.evidence import witness

async def failing(*_, **__):
    await asyncio.sleep(0.2)
    raise ValueError("Ada Lovelace")

async def deaf(*_, stop, **__):
    while not stop.is_set():
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            pass  # as connecting to a database may

def endless():
    while True:
        time.sleep(0.1)

async def busy(*_, **__):
    await asyncio.to_thread(endless)

witness.run_forever = failing
retention.run_forever = {other}
readmodels._LEAVING_SECONDS = 1

from registration.cli import main
main()
"""


@pytest.mark.parametrize("other", ["deaf", "busy"])
def test_a_job_that_fails_ends_the_process(database_url: str, tmp_path: Path, other: str) -> None:
    options = ("--data-dir", str(tmp_path), "--database-url", as_service(database_url))
    with subprocess.Popen(
        [
            *(sys.executable, "-c", FAILING.format(other=other)),
            *("project", "--until-stdin-closes", *options),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        started = time.monotonic()
        assert process.stderr is not None
        said = process.stderr.read().decode()  # standard input stays open meanwhile
        assert process.wait() == 1, said
    assert time.monotonic() - started < 30
    assert "CRITICAL checkpoints: ValueError at " in said
    assert "Ada" not in said
    assert "Fatal" not in said
    assert "Traceback" not in said


def test_the_retention_job_gets_over_whatever_goes_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop = asyncio.Event()

    async def failing(_: str) -> None:
        if caplog.text:
            stop.set()
        raise ValueError("Ada Lovelace")

    monkeypatch.setattr(retention, "sweep", failing)
    asyncio.run(retention.run_forever("", interval=0.01, stop=stop))
    assert "the retention job failed: ValueError" in caplog.text
    assert "Ada" not in caplog.text
