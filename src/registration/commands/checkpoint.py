"""`registration checkpoint`: sign what the log comes to, now; and the key that does."""

import asyncio
from typing import Annotated

import typer

from registration.commands import app
from registration.commands.common import DatabaseUrl, DataDir, database, load_settings
from registration.commands.evidence import checkpoint_folder
from registration.evidence.folder import checkpoint_key
from registration.evidence.notes import pem, verifier_key

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
    from registration.evidence.witness import Witness

    settings = load_settings(data_dir=data_dir, database_url=database_url)
    key, folder = checkpoint_key(settings.data_dir), checkpoint_folder(settings)
    with database(settings) as url:
        found = asyncio.run(Witness(url, folder, key).look())
    if not found:
        typer.echo("nothing signed: there is no log, or another process is at it")
    for tenant, log in found.items():
        if log.broken is not None:
            typer.echo(f"{tenant}: broken at position {log.broken.position}: {log.broken.reason}")
        elif log.unwritten is not None:
            typer.echo(f"{tenant}: not signed: {log.unwritten}")
        else:
            typer.echo(f"{tenant}: {log.verified_to} events, signed in {folder.file(tenant)}")
    if any(log.broken or log.unwritten for log in found.values()):
        raise typer.Exit(1)


@group.command()
def key(
    tenant: Annotated[
        str | None, typer.Option(help="Print it as tools for signed notes take it, for this log.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Print the public key that verifies checkpoints, as PEM; made when missing.

    Keep it where who could change the log cannot change the key.
    """
    settings = load_settings(data_dir=data_dir)
    public = checkpoint_key(settings.data_dir).public_key()
    typer.echo(verifier_key(tenant, public) if tenant else pem(public).decode().rstrip())
