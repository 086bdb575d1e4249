"""`registration verify`: is the log what was written?"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from registration.commands import CommandError, app
from registration.commands.common import DatabaseUrl, DataDir, database, load_settings
from registration.commands.evidence import CheckpointFile, PublicKeys, public_keys
from registration.commands.progress import progress_bars
from registration.eventstore.verify import LogReport
from registration.evidence.comparison import Compared, compare, read, sizes
from registration.evidence.notes import NoteError, Signed


@app.command()
def verify(
    tenant: Annotated[
        str | None, typer.Option(help="Only this tenant's log. [default: every tenant's]")
    ] = None,
    checkpoint: CheckpointFile = None,
    public_key: PublicKeys = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Recompute the hash chain of the log, from its first event to its head.

    With --checkpoint, hold the log against every checkpoint of that file too: its signature, the
    root of the tree over so many events, the hash of the last of them. That shows what the chain
    alone cannot: a log that was written anew to its end, or cut off, head included.

    Exit code 1 when a link is broken, events are missing, the tail was cut or a checkpoint does
    not hold: the first such place of each tenant is named.
    """
    from registration.eventstore.verify import verify_log

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    signed = _read(checkpoint, tenant) if checkpoint else []
    keys = public_keys(settings, public_key) if checkpoint else []
    with database(settings) as url, progress_bars() as progress:
        report = verify_log(url, tenant, partial(progress, "verifying"), sizes(signed))
    if tenant is not None and not report.logs and not signed:
        raise CommandError(f"there is no log of a tenant named {tenant}")
    compared = compare(signed, keys, report)
    for log in report.logs:
        _tell_log(log)
    for found in compared:
        _tell_checkpoints(found)
    if not report.ok or any(found.failed for found in compared):
        raise typer.Exit(1)


def _read(path: Path, tenant: str | None) -> list[Signed]:
    try:
        found = [each for each in read(path) if tenant in (None, each.checkpoint.tenant)]
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except NoteError as error:
        typer.echo(f"{error}")
        raise typer.Exit(1) from error
    if not found:
        raise CommandError(f"{path} holds no checkpoint" + (f" of {tenant}" if tenant else ""))
    return found


def _tell_log(log: LogReport) -> None:
    if log.broken is None:
        typer.echo(f"{log.tenant}: {log.events} events, whole, head {log.head.hex()}")
        return
    broken = log.broken
    where = f" (stream {broken.stream_id}, version {broken.version})"
    place = where if broken.stream_id is not None else ""
    typer.echo(f"{log.tenant}: broken at position {broken.position}{place}: {broken.reason}")


def _tell_checkpoints(found: Compared) -> None:
    failed = found.failed
    if failed is None:
        said = found.last.checkpoint
        typer.echo(
            f"{found.tenant}: all {found.held} checkpoints hold, the last of {said.size} events, "
            f"signed at {said.at.isoformat()}"
        )
        return
    said = failed.signed.checkpoint
    typer.echo(
        f"{found.tenant}: the checkpoint of {said.size} events, signed at {said.at.isoformat()}, "
        f"does not hold: {failed.reason}"
    )
    if failed.after is not None:
        typer.echo(
            f"{found.tenant}: the first event that differs is at one of the positions "
            f"{failed.after + 1} to {failed.until}"
        )
