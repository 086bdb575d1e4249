"""The program itself as a process, with a PostgreSQL of its own: to be killed, frozen, stopped."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.service import new_id

from registration.api.keys import issue_token, signing_key
from registration.eventstore.embedded import EmbeddedPostgres

TENANT = "clinic"
CANARY = "Zebedeequux"
"""A name that must never be seen outside an answer."""


class Program:
    """`registration serve` on one data folder and one port, over as many lives as it takes."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.said = b""
        self._settings = {f"REGISTRATION_{name}": value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self.postgres = EmbeddedPostgres(data_dir)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that serves now."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it, and return when it answers."""
        command = [sys.executable, "-m", "registration", "serve", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--data-dir", str(self.data_dir)],
            env=os.environ | self._settings,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,))
        self._reader.start()
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{self.url}/livez", timeout=1).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, self.said.decode()
            assert time.monotonic() < deadline, self.said.decode()
            time.sleep(0.05)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.said += line

    def end(self, how: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code once it has ended."""
        code = self.process.wait(20)
        assert self._reader is not None
        self._reader.join(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def kill_postgres(self) -> None:
        """Kill the database server as a power cut would; the program starts it again."""
        pid = self.postgres.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    @contextmanager
    def frozen_postgres(self) -> Iterator[None]:
        """Stop all of the database server for a while: it neither answers nor hangs up."""
        pid = self.postgres.pid
        assert pid is not None
        server = psutil.Process(pid)
        server.suspend()
        stopped = [server, *server.children(recursive=True)]
        for process in stopped[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(stopped):
                process.resume()

    def client(self, subject: str | None = None, **settings: Any) -> httpx.Client:
        """Return a client of a registration desk; ``subject`` says whose."""
        token = issue_token(
            signing_key(self.data_dir),
            role="admin",
            token_id=new_id(),
            now=datetime.now(UTC),
            tenant=TENANT,
            subject=subject,
        )
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, **{"timeout": 15.0} | settings)

    def logs(self) -> bytes:
        """Return all that the program and its database wrote about themselves."""
        written = [path.read_bytes() for path in self.data_dir.rglob("*log*") if path.is_file()]
        return b"\n".join([self.said, *written])


@contextmanager
def serving(data_dir: Path, **settings: str) -> Iterator[Program]:
    """Run the program; on leaving nothing of it is left."""
    program = Program(data_dir, **settings)
    program.start()
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.end(signal.SIGTERM)
        # A server that a killed service left behind stops with its next holder.
        with EmbeddedPostgres(data_dir):
            pass


def at_once(count: int, call: Any) -> list[Any]:
    """Return what ``call(0)`` to ``call(count - 1)`` return, all called at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))
