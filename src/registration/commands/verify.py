"""`registration verify`: is the log what was written?"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from registration.commands import CommandError, app
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    checked_tenant,
    database,
    load_settings,
)
from registration.commands.evidence import (
    CheckpointFile,
    PublicKeys,
    checkpoint_folder,
    folder_keys,
    public_keys,
)
from registration.commands.progress import progress_bars
from registration.eventstore.verify import LogReport
from registration.evidence.comparison import Compared, compare, read, sizes
from registration.evidence.folder import CheckpointFolder, FolderError
from registration.evidence.notes import NoteError, Signed
from registration.printing import printable


@app.command()
def verify(
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Only this tenant's log. [default: every tenant's]", callback=checked_tenant
        ),
    ] = None,
    checkpoint: CheckpointFile = None,
    public_key: PublicKeys = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Recompute the hash chain of the log, from its first event to its head.

    Hold the log against every checkpoint of --checkpoint too: its signature, the root of the tree
    over so many events, the hash of the last of them. That shows what the chain alone cannot: a
    log that was written anew to its end, or cut off, head included. Without the option the files
    that the service wrote here are taken, where there are any; the output says so. They are as good
    as this machine: an auditor brings copies.

    Exit code 1 when a link is broken, events are missing, the tail was cut, a checkpoint does not
    hold or cannot be read: the first such place of each tenant is named.
    """
    from registration.eventstore.verify import verify_log

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    folder = checkpoint_folder(settings)
    signed, unreadable = (
        (_read(checkpoint, tenant), []) if checkpoint else _read_own(folder, tenant)
    )
    keys = public_keys(settings, public_key) if checkpoint or public_key else folder_keys(folder)
    with database(settings) as url, progress_bars() as progress:
        report = verify_log(url, tenant, partial(progress, "verifying"), sizes(signed))
    if tenant is not None and not report.logs and not signed and not unreadable:
        raise CommandError(f"there is no log of a tenant named {printable(tenant)}")
    compared = compare(signed, keys, report)
    for log in report.logs:
        _tell_log(log)
    if not report.logs:
        typer.echo("there is no log at all")
    if report.hidden:
        typer.echo(f"this may not be what is stored: {report.hidden}")
    for found in compared:
        _tell_checkpoints(found)
    for line in unreadable:
        typer.echo(line)
    known = {found.tenant for found in compared}
    for log in report.logs:
        if log.length and log.tenant not in known:
            where = f"in {checkpoint}" if checkpoint else "in the data folder's own files"
            typer.echo(f"{printable(log.tenant)}: compared with no checkpoint: none is {where}")
    if not report.ok or unreadable or any(found.failed for found in compared):
        raise typer.Exit(1)


def _read_own(folder: CheckpointFolder, tenant: str | None) -> tuple[list[Signed], list[str]]:
    """Return the checkpoints of the folder, and a line for each file that cannot be read."""
    signed: list[Signed] = []
    unreadable = []
    for each in folder.tenants():
        if tenant in (None, each):
            try:
                signed += folder.all(each)
            except (OSError, FolderError) as error:
                said = error.strerror if isinstance(error, OSError) else error
                unreadable.append(f"{printable(each)}: its checkpoints cannot be read: {said}")
    return signed, unreadable


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
        tenant = printable(log.tenant)
        typer.echo(f"{tenant}: {log.events} events, whole, head {log.head.hex()}")
        return
    broken = log.broken
    where = f" (stream {broken.stream_id}, version {broken.version})"
    place = where if broken.stream_id is not None else ""
    told = f"broken at position {broken.position}{place}: {broken.reason}"
    typer.echo(f"{printable(log.tenant)}: {told}")


def _tell_checkpoints(found: Compared) -> None:
    failed, tenant = found.failed, printable(found.tenant)
    if failed is None:
        said = found.last.checkpoint
        typer.echo(
            f"{tenant}: all {found.held} checkpoints hold, the last of {said.size} events, "
            f"signed at {said.at.isoformat()}"
        )
        return
    said = failed.signed.checkpoint
    typer.echo(
        f"{tenant}: the checkpoint of {said.size} events, signed at {said.at.isoformat()}, "
        f"does not hold: {failed.reason}"
    )
    if failed.after is not None:
        typer.echo(
            f"{tenant}: the first event that differs is at one of the positions "
            f"{failed.after + 1} to {failed.until}"
        )
