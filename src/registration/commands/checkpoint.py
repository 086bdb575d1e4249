"""`registration checkpoint`: sign what the log comes to, now; and the key that does."""

import asyncio
from typing import Annotated

import typer

from registration.commands import CommandError, app
from registration.commands.common import (
    DatabaseUrl,
    DataDir,
    Tenant,
    checked_tenant,
    database,
    load_settings,
)
from registration.commands.evidence import checkpoint_folder
from registration.evidence.folder import checkpoint_key
from registration.evidence.notes import pem, verifier_key
from registration.printing import printable
from registration.settings import Settings

group = typer.Typer(
    help="Signed checkpoints of the log, written outside of the database.", no_args_is_help=True
)
app.add_typer(group, name="checkpoint")


@group.command()
def now(data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Verify what is new in every log, and sign a checkpoint of it.

    `serve` and `project` do the same every REGISTRATION_CHECKPOINT_INTERVAL seconds. Exit code 1
    when a log is broken, does not extend its last checkpoint, or could not be signed.
    """
    _look(load_settings(data_dir=data_dir, database_url=database_url))


@group.command()
def accept(
    tenant: Tenant,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Begin a new file of checkpoints for a log whose file is gone: say that this is in order.

    Checkpoints were signed of this log, and its file is not where they were written: it was moved
    away, after a restore or because a key was stolen, or lost. By itself the service takes that for
    tampering, and signs no more. Look first at what the log lacks: from here on the new file is
    what it is compared with. Exit codes as of `now`; 2 while there is a file.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    file = checkpoint_folder(settings).file(tenant)
    if file.exists():
        raise CommandError(
            f"{file} is there: nothing to accept. Move it to where old ones are kept"
        )
    _look(settings, accepted=tenant)


def _look(settings: Settings, accepted: str | None = None) -> None:
    from registration.evidence.witness import Witness

    key, folder = checkpoint_key(settings.data_dir), checkpoint_folder(settings)
    with database(settings) as url:
        witness = Witness(url, folder, key, accepted=[accepted] if accepted else [])
        found = asyncio.run(witness.look())
    if accepted and accepted not in found:
        raise CommandError(
            "nothing accepted: there is no log of this tenant, or another process is just at it: "
            "try again"
        )
    if not found:
        typer.echo("nothing signed: there is no log, or another process is at it")
    for name, log in found.items():
        tenant = printable(name)
        if log.broken is not None:
            typer.echo(f"{tenant}: broken at position {log.broken.position}: {log.broken.reason}")
        elif log.unwritten is not None:
            typer.echo(f"{tenant}: not signed: {log.unwritten}")
        else:
            typer.echo(f"{tenant}: {log.verified_to} events, signed in {folder.file(name)}")
    if any(log.broken or log.unwritten for log in found.values()):
        raise typer.Exit(1)


@group.command()
def key(
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Print it as tools for signed notes take it, for this log.",
            callback=checked_tenant,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Print the public key that verifies checkpoints, as PEM; made when missing.

    Keep it where who could change the log cannot change the key.
    """
    settings = load_settings(data_dir=data_dir)
    public = checkpoint_key(settings.data_dir).public_key()
    typer.echo(verifier_key(tenant, public) if tenant else pem(public).decode().rstrip())
