"""The service of a simulation: processes that may be killed, and a clock that may be moved."""

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import psycopg

from registration.api.keys import SCOPES, SigningKey, signing_key
from registration.settings import Settings

_processes = multiprocessing.get_context("forkserver")
_PRELOAD = ["registration.api.app", "registration.projections.runner"]


class World:
    """A running service whose process can be killed, and whose time is the simulation's.

    It serves many simulations, one tenant each; requests that come while it is dead wait in the
    socket, which outlives it.
    """

    def __init__(self, database_url: str, data_dir: Path) -> None:
        """Prepare a service on a migrated database; :meth:`running` starts it."""
        self._settings = Settings(database_url=database_url, data_dir=data_dir)
        self._key = signing_key(data_dir)
        self._ahead = _processes.Value("d", 0.0, lock=False)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._alive, self._watched = _processes.Pipe()
        self._service: BaseProcess | None = None
        self._projector: BaseProcess | None = None
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.line = httpx.HTTPTransport()
        self.database = psycopg.connect(database_url, autocommit=True)

    @property
    def key(self) -> SigningKey:
        """What signs the tokens that the service takes."""
        return self._key

    def now(self) -> datetime:
        """Return the service's time."""
        return datetime.now(UTC) + timedelta(seconds=self._ahead.value)

    def wait(self, duration: timedelta) -> None:
        """Let time pass at once, for everybody."""
        self._ahead.value += duration.total_seconds()

    def begin(self) -> None:
        """Go back to today: what happens in a run does not depend on the runs before it."""
        self._ahead.value = 0.0

    @contextmanager
    def running(self) -> Iterator["World"]:
        """Run the service and its read models."""
        _processes.set_forkserver_preload(_PRELOAD)
        try:
            self.start_service()
            self.start_projector()
            yield self
        finally:
            for process in (self._service, self._projector):
                if process is not None:
                    process.kill()
                    process.join()
            self.line.close()
            self.database.close()
            self._listener.close()
            self._alive.close()

    def start_service(self) -> None:
        """Start the service's process; it serves what waits in the socket meanwhile."""
        self._service = self._started(_serve, self._listener, self._settings, self._ahead)

    def start_projector(self) -> None:
        """Start the read models' process."""
        self._projector = self._started(_project, self._settings)

    def kill_service(self) -> None:
        """Kill -9 the service, whatever it does, and start it again."""
        if self._service is not None:
            self._service.kill()
            self._service.join()
        self.start_service()

    def kill_projector(self) -> None:
        """Kill -9 the read models, and start them again."""
        if self._projector is not None:
            self._projector.kill()
            self._projector.join()
        self.start_projector()

    def settle(self, tenant: str) -> int:
        """Wait until ``pull`` has all of a tenant's log; returns its head."""
        end = time.monotonic() + 30
        while True:
            row = self.database.execute(_STANDS, {"tenant": tenant}).fetchone()
            head, position = row or (0, 0)
            if position >= head:
                return int(head)
            if time.monotonic() > end:
                raise TimeoutError("the read models do not keep up")
            time.sleep(0.005)

    def _started(self, target: Any, *arguments: Any) -> BaseProcess:
        process = _processes.Process(target=target, args=(self._watched, *arguments), daemon=True)
        process.start()
        return process


_STANDS = """
SELECT coalesce((SELECT position FROM registration.log_head WHERE tenant = %(tenant)s), 0),
       coalesce((SELECT position FROM registration.read_model_position
                  WHERE name = 'changes' AND tenant = %(tenant)s), 0)
"""


def _serve(watched: Connection, listener: socket.socket, settings: Settings, ahead: Any) -> None:
    import uvicorn

    from registration.api.app import create_app

    _end_with(watched)
    app = create_app(
        settings,
        clock=lambda: datetime.now(UTC) + timedelta(seconds=ahead.value),
        log=lambda _line: None,
    )
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        date_header=False,  # it would tell the real time
        log_config=None,
        log_level="error",
    )
    uvicorn.Server(config).run(sockets=[listener])


def _project(watched: Connection, settings: Settings) -> None:
    import asyncio

    from registration.master_keys import unlock
    from registration.projections.runner import run_forever

    _end_with(watched)
    unlock(settings, str(settings.database_url))
    asyncio.run(run_forever(str(settings.database_url), poll=0.005))


def _end_with(watched: Connection) -> None:
    """End this process once the simulation is gone, whatever way it went."""

    def watch() -> None:
        try:
            watched.recv()
        except EOFError:
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def token_of(world: World, *, subject: str, tenant: str, facility: str | None = None) -> str:
    """Return a token for whatever a simulation does, good for years of its time."""
    import jwt

    from registration.api.keys import ALGORITHM, AUDIENCE, ISSUER

    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "tenant": tenant,
        "scope": " ".join(SCOPES),
        "exp": int(time.time()) + 10**8,
    }
    if facility is not None:
        claims["facility"] = facility
    return jwt.encode(
        claims, world.key.private, algorithm=ALGORITHM, headers={"kid": world.key.kid}
    )
