"""`registration project` and `rebuild`: run the read models, and make them anew."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, DataDir, database, load_settings
from registration.commands.progress import progress_bar


@app.command()
def project(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Keep the read models up to date, in a process of their own, until Ctrl-C or SIGTERM.

    `serve` starts one by itself unless REGISTRATION_PROJECTOR=false. A second one waits and takes
    over when the first ends.
    """
    from registration.projections.runner import run_forever

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    if until_stdin_closes:
        _stop_when_stdin_closes()
    with database(settings) as url:
        asyncio.run(_until_stopped(run_forever(url, settings)))


@app.command()
def rebuild(
    name: Annotated[
        str | None, typer.Argument(help="The read model to rebuild. [default: all]")
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make read models anew from the log, beside the old ones, and swap them in when complete.

    The service may run meanwhile: it answers from the old ones until then.
    """
    from registration.projections.runner import rebuild as rebuild_read_models

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with database(settings) as url, progress_bar("rebuilding") as progress:
        rebuild_read_models(url, name, progress)
    typer.echo(f"rebuilt {name or 'every read model'}")


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run until SIGTERM or SIGINT, then let the work clean up after itself."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        task.cancel()

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


def _stop_when_stdin_closes() -> None:
    """The parent holds the other end: it closes when the parent ends, by whatever means."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-stdin", daemon=True).start()
