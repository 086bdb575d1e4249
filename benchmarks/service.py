"""The service under test: `registration serve` as an operator starts it, its log in a file."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE = 30.0
_LISTENS = re.compile(r"listens on http://([\d.]+):(\d+)")


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs: where, as which process, and a bearer token for a desk."""

    host: str
    port: int
    pid: int
    token: str

    def rss_mb(self) -> float:
        """Return the memory of the worker (with one, the process that was started)."""
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20


PROGRAM = "registration"


def command(*arguments: str, program: str = PROGRAM) -> list[str]:
    """Return the command line of the program."""
    return [sys.executable, "-m", program, *arguments]


def environment(**settings: str) -> dict[str, str]:
    """Return this process' environment with these settings of the service and no others."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRATION_")}
    return ours | settings


@contextmanager
def serving(
    data_dir: Path, tenant: str = "default", *, program: str = PROGRAM, **settings: str
) -> Iterator[Service]:
    """Run the service on a free port for the length of the block, with one worker.

    ``program``: the module that is run; another one than the service's own is a variant of it.
    """
    log = data_dir.parent / f"service-{time.monotonic_ns()}.log"
    env = environment(**settings)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("serve", "--port=0", f"--data-dir={data_dir}", program=program),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
        )
        try:
            host, port = _address(process, log)
            token = subprocess.run(
                command("token", "--role=desk", f"--tenant={tenant}", f"--data-dir={data_dir}"),
                check=True,
                capture_output=True,
                text=True,
                env=env,
            ).stdout.strip()
            yield Service(host, port, process.pid, token)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> tuple[str, int]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        found = _LISTENS.search(log.read_text(errors="replace"))
        if found:
            return found[1], int(found[2])
        time.sleep(0.05)
    raise RuntimeError(f"the service does not start:\n{log.read_text(errors='replace')[-2000:]}")
