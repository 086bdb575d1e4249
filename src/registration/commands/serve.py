"""`registration serve`: the HTTP service, with its PostgreSQL and its read models."""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import Annotated, Any

import typer
import uvicorn
from uvicorn.supervisors import Multiprocess

from registration.api.keys import signing_key
from registration.commands import CommandError, app
from registration.commands.child import keep_running
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    load_settings,
    unlocked_database,
    use_matching_model,
)
from registration.eventstore.embedded import serve_lock
from registration.settings import Settings

# Requests in flight get this long to finish once the service is told to stop.
GRACE_SECONDS = 10


@app.command()
def serve(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on. [env: REGISTRATION_HOST] [default: 127.0.0.1]"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port; 0 picks one. [env: REGISTRATION_PORT] [default: 8000]"),
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Answering processes. [env: REGISTRATION_WORKERS] [default: 1]"),
    ] = None,
) -> None:
    """Run the service until Ctrl-C or SIGTERM; requests in flight finish, a second Ctrl-C hurries.

    Without a database URL it starts a PostgreSQL of its own in the data folder and keeps its
    schema up to date. The read models run in a child process (REGISTRATION_PROJECTOR=false to
    run `registration project` yourself). One `serve` a data folder. Exit code 2 when it cannot
    start: the message says why.
    """
    settings = load_settings(
        host=host, port=port, data_dir=data_dir, database_url=database_url, workers=workers
    )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _serve(settings)
    except KeyboardInterrupt:
        # Before it was ready, or again while it stopped: the locks are free, and a server that
        # may still run is joined by the next command.
        typer.echo("registration: interrupted", err=True)


def create_worker_app() -> Any:
    """The application for one of several workers, which ends when its supervisor is gone."""
    from registration.api.app import create_app

    # not os.getppid(): by now that is another one where the supervisor was killed at once
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and supervisor.pid is not None:
        _end_with(supervisor.pid)
    return create_app()


def _serve(settings: Settings) -> None:
    use_matching_model(settings)
    with _bound_socket(settings.host, settings.port) as listener:
        url = _url(listener)
        with (
            serve_lock(settings.data_dir, url),
            unlocked_database(settings, revive=True) as database_url,
        ):
            signing_key(settings.data_dir)
            running = settings.model_copy(update={"database_url": database_url})
            os.environ.update(running.environment())
            with keep_running() if settings.projector else nullcontext():
                _run_http(settings, listener, lambda: _announce(settings, url))


def _run_http(settings: Settings, listener: socket.socket, announce: Callable[[], None]) -> None:
    several = settings.workers > 1
    here = "registration.commands.serve:create_worker_app"
    config = uvicorn.Config(
        here if several else "registration.api.app:create_app",
        factory=True,
        workers=settings.workers,
        http="httptools",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        log_level="warning",  # the application logs its own requests
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    if several:
        announce()
        Multiprocess(config, sockets=[listener]).run()
        return
    try:
        _Server(config, announce).run(sockets=[listener])
    except KeyboardInterrupt:
        return  # uvicorn has stopped gracefully and repeats the signal


class _Server(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._announce()


def _bound_socket(host: str, port: int) -> socket.socket:
    """A socket with the address taken, not listening yet: no request waits for a slow start."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CommandError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(settings: Settings, url: str) -> None:
    where = "an external database" if settings.database_url else f"{settings.data_dir}"
    typer.echo(f"registration listens on {url} (data in {where}; Ctrl-C stops it)", err=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """End this process gracefully once its parent is another one: the real one was killed."""

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
