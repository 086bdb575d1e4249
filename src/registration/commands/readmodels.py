"""`registration project` and `rebuild`: run the read models, and make them anew."""

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registration.commands import CommandError, app
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    load_settings,
    unlocked_database,
    use_matching_model,
)
from registration.commands.evidence import checkpoint_folder
from registration.commands.progress import progress_bars
from registration.evidence.folder import checkpoint_key
from registration.memory import collect_seldom
from registration.settings import Settings

logger = logging.getLogger(__name__)

_YIELDING = 5
_FAILED = 1
_LEAVING_SECONDS = 10.0


@app.command()
def project(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Keep the read models up to date, in a process of their own, until Ctrl-C or SIGTERM.

    It also lets go of portraits whose retention date or consent has ended, and of reads that the
    access log has kept for REGISTRATION_ACCESS_LOG_DAYS, and signs checkpoints of the log.

    `serve` starts one by itself unless REGISTRATION_PROJECTOR=false. A second one waits and takes
    over when the first ends.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    use_matching_model(settings)
    if until_stdin_closes:
        _stop_when_stdin_closes()
        # Beside a service, commands come first: who waits for a read model says so (minPosition).
        os.nice(_YIELDING)
    collect_seldom()
    key = checkpoint_key(settings.data_dir)
    with unlocked_database(settings) as url:
        try:
            asyncio.run(_run_until_stopped(url, settings, key))
        except ExceptionGroup:  # of `typer.Exit` alone, see `_end_with`
            raise typer.Exit(_FAILED) from None


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
    from registration.projections.rebuild import RebuildError
    from registration.projections.rebuild import rebuild as rebuild_read_models

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    use_matching_model(settings)
    collect_seldom()
    with unlocked_database(settings) as url, progress_bars() as progress:
        try:
            asyncio.run(rebuild_read_models(url, name, progress))
        except RebuildError as error:
            raise CommandError(str(error)) from error
    typer.echo(f"rebuilt {name or 'every read model'}")


async def _run_until_stopped(url: str, settings: Settings, key: Ed25519PrivateKey) -> None:
    """Run until SIGTERM or SIGINT; the batch at hand is finished."""
    from registration import retention
    from registration.evidence import witness
    from registration.projections import runner

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    jobs = {
        "read models": runner.run_forever(url, stop=stop),
        "retention": retention.run_forever(
            url,
            interval=settings.retention_interval,
            stop=stop,
            access_log_days=settings.access_log_days,
        ),
        "checkpoints": witness.run_forever(
            url,
            checkpoint_folder(settings),
            key,
            interval=settings.checkpoint_interval,
            stop=stop,
        ),
    }
    async with asyncio.TaskGroup() as group:
        for name, job in jobs.items():
            group.create_task(_end_with(name, job, stop))


async def _end_with(name: str, job: Awaitable[None], stop: asyncio.Event) -> None:
    """Do a job; should it fail, this process ends, and whoever started it starts another.

    The others are asked to stop before they are cancelled: a cancellation can get lost while a
    connection is made, and then a job that waits for its next turn would keep this process alive,
    doing nothing. Nor is there an end to waiting for a thread that reads a large log.
    """
    try:
        await job
    except Exception as error:  # noqa: BLE001 (its messages can hold rows)
        logger.critical("%s: %s", name, _without_data(error))
        stop.set()
        timer = threading.Timer(_LEAVING_SECONDS, os._exit, [_FAILED])
        timer.daemon = True
        timer.start()
        raise typer.Exit(_FAILED) from None


def _without_data(error: BaseException) -> str:
    """Return what went wrong and where, without messages: those of the database can hold rows."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_without_data(each) for each in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[::-1])
    return f"{type(error).__name__} at {where}"


def _stop_when_stdin_closes() -> None:
    """The parent holds the other end: it closes when the parent ends, by whatever means."""

    def watch() -> None:
        # Not by sys.stdin: its lock would be held at the end of this process, which is fatal then.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-stdin", daemon=True).start()
